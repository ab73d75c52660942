"""Ranking on a GPU waits as often for one query at a time as for all at once, and for nothing but what it returns."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nsbench.errors import Diverged
from nsbench.kernels import eager
from nsbench.testing import toy
from nsbench.training.evaluation import Ranking
from tests.training.test_capture import trainer_of

DATA = toy()


def ranking(chunk_bytes: int | None = None) -> Ranking:
    return Ranking(DATA.test, DATA.known, DATA.num_entities, DATA.num_relations, "cuda", chunk_bytes)


def waits_of(ranked: Ranking, scoring) -> list[str]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            ranked.ranks(scoring)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [str(warning.message) for warning in heard]


@pytest.mark.parametrize("fusion", ["none", "two_view"])
def test_waits_do_not_grow_with_the_queries(fusion: str) -> None:
    scoring = trainer_of("uniform", "transe", fusion, "").scoring()
    waits = waits_of(ranking(1), scoring)
    assert len(waits) == 3  # whether all is finite, ranks, candidates
    assert len(waits_of(ranking(), scoring)) == 3


def test_a_score_that_is_not_finite_is_found_at_the_end() -> None:
    trainer = trainer_of("uniform", "transe", "none", "")
    with torch.no_grad():
        trainer.kge.entity[3, 0] = torch.nan
    with pytest.raises(Diverged, match="not finite"):
        ranking(1).ranks(trainer.scoring())


def test_what_is_alive_stays_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in memory that is made on the device; the kernels' pieces are a quarter of the budget, as in earnest."""
    n, count, budget = 2000, 600, 1 << 20
    monkeypatch.setattr(eager, "_piece", lambda x, per_row: max(1, budget // 16 // (per_row * x.shape[1])))
    rng = torch.Generator().manual_seed(0)
    triples = torch.stack([torch.randint(m, (count,), generator=rng) for m in (n, 2, n)], dim=1)
    scoring = trainer_of("uniform", "transe", "none", "").scoring()
    scoring.tables = {name: torch.randn(n, 8, generator=rng).to("cuda") for name in scoring.tables}
    ranked = Ranking(triples, triples, n, 2, "cuda", budget)
    with Alive() as alive:
        ranked.ranks(scoring)
    assert budget / 2 < alive.most < 1.25 * budget


class Alive(TorchDispatchMode):
    """The most bytes that were alive at once of all that was made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[int, StorageWeakRef, int]] = []  # address, memory, bytes
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        memories = [x.untyped_storage() for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.is_cuda]
        self.made = [made for made in self.made if not made[1].expired()]
        self.made += [(memory.data_ptr(), StorageWeakRef(memory), memory.nbytes()) for memory in memories]
        self.most = max(self.most, sum({address: size for address, _, size in self.made}.values()))
        return result
