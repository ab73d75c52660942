"""What the authors' code of MMRNS does in another way than the paper: `mmrns` with code=released. Registers nothing.

    eq. 1         features that are missing are zeros, so all entities that lack a modality are alike in it: nobody is told
                  who lacks one (no `has_*` in a Component)
    eq. 6         the anchor's relation-free visual branch is not layer-normalised, the candidates' is: `bare`
    eq. 7         a hidden layer: HiddenStructure
    eq. 8         no gradient through the norms: cosine
    eqs. 9 to 11  contrast: a drawn negative weighs p / N, any other candidate 1 / N; answers are those among the candidates;
                  one logarithm for the whole batch

The code is quqxui/MMRNS, as docs/notes/mmrns.md 2.1 to 2.3 read it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsbench.samplers.parts.attention import SLOPE, Structure
from nsbench.samplers.parts.contrast import DELTA, Tape, log_ratio, of_negatives

HIDDEN = 100


def bare(modalities: Collection[str]) -> str | None:
    """The visual modality, as datasets call it; None where there is none."""
    return next((m for m in ("image", "visual", "official:visual") if m in modalities), None)


class HiddenStructure(Structure):
    """Eq. 7 with two affine layers."""

    def __init__(self, entity_width: int, relation_width: int) -> None:
        super().__init__(entity_width, relation_width, HIDDEN)
        self.second = nn.Linear(HIDDEN, entity_width)
        nn.init.xavier_normal_(self.second.weight)

    def logits(self, x: Tensor) -> Tensor:
        return self.second(F.leaky_relu(x, SLOPE))


def cosine(product: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """As nsbench.samplers.parts.contrast has it, but its gradient is not the cosine's."""
    return product / (x * y + DELTA).detach()


def contrast(tape: Tape, p: Tensor, entities: int) -> tuple[Tensor, Tensor]:
    """As nsbench.samplers.parts.contrast has it, but all weights are of the N candidates and sums go over the batch.

    Without any answer among the candidates the code's loss is infinite; here it is 0, and the sum counts as empty.
    """
    unit = 1 / tape.known.shape[1]
    loss, empty = [], []
    for c, negatives in zip(tape.components, of_negatives(tape, p * unit, unit)):
        answer, negative = (unit * (c.near.exp() * tape.known).sum(1)).sum(), negatives.sum()
        there = (answer > 0) & (negative > 0)
        empty.append((~there).double())
        loss.append(log_ratio(answer, negative, there))
    return torch.stack(loss).mean(), torch.stack(empty).mean()
