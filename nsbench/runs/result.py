"""A finished run, as Python has it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Result:
    """A finished run: `test`, `valid` and `ranks()`, and everything else in `record`."""

    folder: Path
    record: dict[str, Any]  # result.json

    @property
    def test(self) -> dict[str, float]:
        """mrr, mr, hits@1, hits@3, hits@10 and more, as fractions."""
        return self.record["test"]

    @property
    def valid(self) -> dict[str, float]:
        """The same of the validation triples, by which the model was selected."""
        return self.record["valid"]

    @property
    def dead(self) -> list[str]:
        """Why its generator counts as dead (nsbench.training.liveness); empty where it is alive, or there is none."""
        return self.record.get("dead", [])

    def ranks(self) -> dict[str, np.ndarray]:
        """`ranks` [T, 2, 2], `candidates` [T, 2] and `triples` [T, 3] of the test split."""
        with np.load(self.folder / "ranks.npz") as arrays:
            return dict(arrays)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {text}" for name, text in self._figures().items())
        return f"Result({figures}; {self.folder})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        names = "".join(f"<th>{name}</th>" for name in self._figures())
        texts = "".join(f"<td>{text}</td>" for text in self._figures().values())
        return f"<table><tr>{names}</tr><tr>{texts}</tr></table><code>{html.escape(str(self.folder))}</code>"

    def _figures(self) -> dict[str, str]:
        shown = {name.upper(): f"{100 * self.test[name]:.2f}" for name in ("mrr", "hits@1", "hits@3", "hits@10")}
        return shown | {"MR": f"{self.test['mr']:.0f}"}
