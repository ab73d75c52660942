"""Write docs/combinations.md: which sampler or auxiliary loss works with which model and which fusion.

python tools/combinations.py rewrites the page; a test fails where it is out of date. Nothing is trained: the page says what
the configuration accepts, and tests/test_combinations.py trains what is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nsbench.config.run import configure
from nsbench.errors import Misuse
from nsbench.registry import AUXILIARIES, FUSIONS, MODELS, SAMPLERS, Registry, card

PAGE = Path(__file__).resolve().parent.parent / "docs" / "combinations.md"
HEAD = """# What works with what

Written by `tools/combinations.py` from what the components declare. A sampler (or an auxiliary loss), a model and a fusion
work together where the sampler's cells for both say yes; everything else is refused in one sentence, before any work.
"""
TRY_MODELS, TRY_FUSIONS = ("transe", "complex"), ("none", "two_view", "adamf", "transae")  # that suit whatever the other is


def built_in(registry: Registry) -> list[str]:
    """Names, without what is installed beside nsbench; a sampler that replays a run takes all of that run."""
    names = [name for name in registry.names() if registry.source(name) == "built-in"]
    return [name for name in names if not getattr(registry.get(name), "needs_run", False)]


def refusal(sampler: str, kge: str, fusion: str, *settings: str) -> str:
    """Why the configuration refuses the three; "" where it takes them."""
    try:
        configure(sampler, kge, "mkg_y", fusion=fusion, settings=settings)
    except Misuse as reason:
        return str(reason)
    return ""


def last(refusals: Sequence[str]) -> str:
    """ "" where one of several tries is accepted, else why the last is not."""
    return "" if "" in refusals else refusals[-1]


def table(title: str, rows: Sequence[str], columns: Sequence[str], cells: dict[tuple[str, str], str]) -> str:
    """Markdown: yes, or the number of the reason, which stands below."""
    cells = {(r, c): re.sub(rf"^.*'\w+' (?=needs|makes)|'{c}'", _short, reason) for (r, c), reason in cells.items()}
    reasons = {
        reason: i for i, reason in enumerate(dict.fromkeys(cells[r, c] for r in rows for c in columns if cells[r, c]), 1)
    }
    lines = [f"\n## {title}\n", f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in rows:
        marks = [f"no ({reasons[cells[row, column]]})" if cells[row, column] else "yes" for column in columns]
        lines.append(f"| {row} | {' | '.join(marks)} |")
    return "\n".join([*lines, "", *(f"{i}. {reason}" for reason, i in reasons.items())]) + "\n"


def _short(named: re.Match[str]) -> str:
    """Reasons are told once for all rows and columns: the row's name goes, the column's becomes `it`."""
    return "it" if named[0].startswith("'") else ""


def page() -> str:
    """The whole page as it should be."""
    samplers, auxiliaries = built_in(SAMPLERS), [f"aux.{name}" for name in built_in(AUXILIARIES)]
    models, fusions = built_in(MODELS), built_in(FUSIONS)

    def asked(row: str, kge: str, fusion: str) -> str:
        return refusal("uniform", kge, fusion, f"{row}=1") if row.startswith("aux.") else refusal(row, kge, fusion)

    parts = [HEAD]
    for title, rows in (("Samplers", samplers), ("Auxiliary losses", auxiliaries)):
        by_model = {(r, c): last([asked(r, c, fusion) for fusion in TRY_FUSIONS]) for r in rows for c in models}
        by_fusion = {(r, c): last([asked(r, kge, c) for kge in TRY_MODELS]) for r in rows for c in fusions}
        parts += [
            table(f"{title} and models", rows, models, by_model),
            table(f"{title} and fusions", rows, fusions, by_fusion),
        ]
    listed = [f"| `{name}` | {card(FUSIONS.get(name))} |" for name in fusions]
    return "\n".join([*parts, "## Fusions\n", "| name | what it is |", "|---|---|", *listed]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
