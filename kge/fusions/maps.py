"""How raw feature vectors become slots of an entity's width: the maps that fusions share, and what goes into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Setting, pooled
from nsbench.errors import Misuse, suggest
from nsbench.kernels.operators import rows
from nsbench.kge.fusions.projection import Projection
from nsbench.registry import option

IMAGES = ("image", "visual", "official:visual")  # what `auto` looks for where a paper has images alone


@dataclass(frozen=True)
class Raw:
    """Options of what goes into a map."""

    phi: str = option("unit", "raw feature vectors: at length 1, or as they are delivered", choices=("unit", "raw"))
    phi_width: int = option(0, "how many principal components of raw feature vectors are kept; 0: all numbers", minimum=0)


class Linear(Projection):
    """W phi + b of pooled vectors phi [N, F], of which the rows of present [N] count; or its tanh."""

    def __init__(self, phi: Tensor, present: Tensor, width: int, bias: bool = True, squashed: bool = False) -> None:
        super().__init__(phi, present, width)
        if not bias:
            self.bias = None  # type: ignore[assignment]
        self.squashed = squashed
        self.register_buffer("phi", phi, persistent=False)  # the dataset has it: not part of the state
        self.register_buffer("present", present, persistent=False)
        self.phi: Tensor
        self.present: Tensor

    def slots(self, structure: Tensor, ids: Tensor | None = None) -> Tensor:
        """[n, D] for the entities ids [n], or for all; structure [n, D] are their structural vectors."""
        slots = self(self.phi if ids is None else rows(self.phi, ids))
        return slots.tanh() if self.squashed else slots


class Instances(Linear):
    """W (sum_i a_i phi_i) + b for tokens phi [N, tokens, F], a = softmax_i <W phi_i, e>, without tokens of zeros.

    <W phi_i, e> = <phi_i, W^T e>: tokens are weighed and added up as they are, and only their sum is mapped.
    """

    def __init__(self, phi: Tensor, present: Tensor, width: int, detached: bool) -> None:
        super().__init__(phi.flatten(0, 1), present.repeat_interleave(phi.shape[1]) & phi.flatten(0, 1).any(1), width)
        self.phi, self.present, self.detached = phi, present, detached

    def slots(self, structure: Tensor, ids: Tensor | None = None) -> Tensor:
        tokens = self.phi if ids is None else rows(self.phi.flatten(1), ids).view(-1, *self.phi.shape[1:])
        structure = structure.detach() if self.detached else structure
        logits = (tokens * (structure @ self.weight).unsqueeze(1)).sum(2)
        there = tokens.any(dim=2)
        share = logits.masked_fill(~there, -1e30).softmax(1) * there
        share = share.detach() if self.detached else share
        return self((share.unsqueeze(2) * tokens).sum(1))


def vectors(setting: Setting, name: str, options: Raw) -> Tensor:
    """[N, F]: the modality's vectors, pooled over tokens, zeros where absent."""
    present = setting.present[name]
    phi = principal(pooled(setting.features[name], present), present, options.phi_width)
    return F.normalize(phi, dim=-1) if options.phi == "unit" else phi


def tokens(setting: Setting, name: str, options: Raw) -> Tensor:
    """As `vectors`, but [N, tokens, F], of a modality of tokens; they keep all their numbers."""
    phi = setting.features[name].masked_fill(~setting.present[name].view(-1, 1, 1), 0.0)
    return F.normalize(phi, dim=-1) if options.phi == "unit" else phi


def joint(setting: Setting, options: Raw) -> tuple[Tensor, Tensor]:
    """[N, sum of F]: all modalities side by side by name, a part that an entity lacks zero; and who has one at least."""
    names = sorted(setting.features)
    parts = torch.cat([vectors(setting, name, options) for name in names], dim=1)
    return parts, torch.stack([setting.present[name] for name in names]).any(0)


def principal(phi: Tensor, present: Tensor, width: int) -> Tensor:
    """phi [N, F] as its first `width` principal components, of the rows of present [N]; zeros elsewhere."""
    if not 0 < width < phi.shape[1]:
        return phi
    centred = (phi - phi[present].mean(0)).masked_fill(~present.unsqueeze(1), 0.0).double()
    return (centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -width:].flip(1)).to(phi.dtype)


def chosen(wanted: str, names: Sequence[str]) -> str | None:
    """The modality that a fusion takes among `names`; None where there are none. Misuse for a name that is not there."""
    if wanted == "auto":
        return next((name for name in (*IMAGES, *names) if name in names), None)
    if wanted not in names:
        have = f"; it has {', '.join(names)}" if names else "; it has none"
        raise Misuse(f"fusion.modality is '{wanted}', which the dataset does not have{suggest(wanted, names) or have}")
    return wanted
