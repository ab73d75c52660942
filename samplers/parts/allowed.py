"""Draws from an allowed set per query (type constraints, neighbourhoods), minus what must not be drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsbench.contracts import NonPositives, TrainGraph


class AllowedSets(NonPositives):
    """Uniform over members[start[key] : start[key] + size[key]], sorted, without the entities removed from the query.

    A query that has nothing left draws from all entities but its training answers: `empty` [keys + 1] tells which. So
    does the key of unseen queries. `start` and `size` are [keys]; `removed`, keys and entities [P] each, may name
    entities outside the set and name one twice. `members` may be int32: sets take most of a sampler's memory.
    """

    def __init__(
        self, graph: TrainGraph, members: Tensor, start: Tensor, size: Tensor, removed: tuple[Tensor, Tensor]
    ) -> None:
        n = graph.num_entities
        pairs = (removed[0] * n + removed[1]).unique()
        key, entity = pairs // n, pairs % n
        rank = _rank(members, start[key], size[key], entity, rounds=int(size.max()).bit_length())
        found = members[(start[key] + rank).clamp(max=len(members) - 1)] == entity
        found &= rank < size[key]
        key, rank = key[found], rank[found]
        self.empty = torch.cat([size <= torch.bincount(key, minlength=len(size)), size.new_ones(1, dtype=torch.bool)])

        # One more set, of all entities, behind the others: draws from it need no second pass.
        inside = ~self.empty[key]
        answered, answer = graph.answered()
        left = self.empty[answered]
        super().__init__(
            key=torch.cat([key[inside], answered[left]]),
            rank=torch.cat([rank[inside], answer[left]]),
            size=torch.where(self.empty, n, torch.cat([size, size.new_zeros(1)])),
            members=torch.cat([members, torch.arange(n, dtype=members.dtype, device=members.device)]),
            start=torch.where(self.empty, len(members), torch.cat([start, start.new_zeros(1)])),
        )

    def describe(self, keys: Tensor) -> dict[str, float]:
        """How many candidates the queries `keys` have left: a sampler with few of them repeats itself."""
        left = torch.where(self.empty, 0, self.free)[keys]
        return {
            "candidates_mean": left.double().mean().item(),
            "candidates_median": left.median().item(),
            "slots_below_64": (left < 64).double().mean().item(),
            "slots_empty": int((left == 0).sum()),
        }


def list_buffers(module: nn.Module, tables: object) -> None:
    """Name the tensors of `tables` as buffers of the module, outside checkpoints, so that its memory can be counted."""
    for name, x in vars(tables).items():
        if isinstance(x, Tensor):
            module.register_buffer(name, x, persistent=False)


def _rank(members: Tensor, start: Tensor, size: Tensor, wanted: Tensor, rounds: int) -> Tensor:
    """[P] how many of members[start : start + size] are smaller than `wanted`; binary searches in step.

    `torch.searchsorted` would want one sorted int64 code per member, twice the memory of the sets themselves.
    """
    low, high = torch.zeros_like(size), size
    for _ in range(rounds):
        middle = (low + high) // 2
        below = (low < high) & (members[(start + middle).clamp(max=len(members) - 1)] < wanted)
        low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
    return low
