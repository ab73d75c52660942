"""A knowledge graph with its split and features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """A knowledge graph with its split. Triples are int64 [n, 3] as (h, r, t), on the CPU."""

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    entities: list[str]
    relations: list[str]
    split: str = "released"
    extra_known: Tensor | None = None  # [n, 3] more facts that the filter removes (DB15K: original train and valid)
    features: Mapping[str, Tensor] = field(default_factory=dict)  # modality -> [N, F] or [N, tokens, F], float
    present: Mapping[str, Tensor] = field(default_factory=dict)  # modality -> bool [N], False: the entity has none
    identities: Mapping[str, str] = field(default_factory=dict)  # modality -> what it was made from; else its content counts
    world: Tensor | None = None  # [n, 3] every true fact, where that is known (planted)
    origin: str = ""  # where the triples were read, in words for people: embedded, or from a folder

    @property
    def num_entities(self) -> int:
        return len(self.entities)

    @property
    def num_relations(self) -> int:
        return len(self.relations)

    def untested(self) -> Dataset:
        """The same without its test triples: nothing ranks them, and no filter knows them unless train or valid has them."""
        extra = self.extra_known
        if extra is not None:
            both, places = torch.cat([extra, self.test]).unique(dim=0, return_inverse=True)
            tested = torch.zeros(len(both), dtype=torch.bool)
            tested[places[len(extra) :]] = True
            extra = extra[~tested[places[: len(extra)]]]
        return replace(self, test=self.train[:0], extra_known=extra, world=None)

    @cached_property
    def known(self) -> Tensor:
        """[n, 3] facts that ranking the test triples removes from the candidates: all splits and `extra_known`."""
        parts = [self.train, self.valid, self.test]
        return torch.cat(parts if self.extra_known is None else [*parts, self.extra_known]).unique(dim=0)

    @cached_property
    def known_untested(self) -> Tensor:
        """[n, 3] the same for the validation triples: what is selected by their ranks must not depend on a test fact."""
        return self.untested().known

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sizes and the triples that training, selection, testing and filtering use."""
        sizes = torch.tensor([self.num_entities, self.num_relations])
        return _digest({"sizes": sizes, "train": self.train, "valid": self.valid, "test": self.test, "known": self.known})

    @property
    def modalities(self) -> list[str]:
        return sorted(self.features)

    @cached_property
    def feature_fingerprint(self) -> str:
        """SHA-256 over what the features are; apart, so that rows with and without features share a graph.

        That is what they were made from, and how, where two machines may differ in the last bits; else their content.
        """
        if not self.identities:
            return self.feature_bytes
        known = {m: self.identities.get(m) or self._content([m]) for m in self.modalities}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @cached_property
    def feature_bytes(self) -> str:
        """SHA-256 over features and presence masks as they are on this machine."""
        return self._content(self.modalities) if self.features else ""

    def _content(self, modalities: Sequence[str]) -> str:
        arrays = {f"feature {m}": self.features[m] for m in modalities}
        return _digest(arrays | {f"present {m}": self.present[m] for m in modalities if m in self.present})


def pooled(features: Tensor, present: Tensor) -> Tensor:
    """[N, F] from [N, F] or [N, tokens, F]: the mean of the tokens that are not all zeros; zeros where absent."""
    if features.dim() == 3:
        tokens = features.any(dim=2).sum(1, keepdim=True)
        features = features.sum(1) / tokens.clamp(min=1)
    return features.masked_fill(~present.unsqueeze(1), 0.0)


def _digest(arrays: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.contiguous().numpy().tobytes())
    return digest.hexdigest()


DatasetLoader = Callable[..., Dataset]
"""`load(argument, split=..., features=...)`, registered in DATASETS; `planted:small` calls planted with 'small'."""
