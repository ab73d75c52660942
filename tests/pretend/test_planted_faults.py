"""The pretended device finds what a GPU would: one fault each in a sampler's step, of which a CPU shows few."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nsbench.config.run import configure
from nsbench.contracts import Negatives, Positives, Sampler
from nsbench.contracts.view import View
from nsbench.registry import SAMPLERS
from nsbench.testing import registered, toy
from nsbench.training.trainer import Trainer


def reads_a_value(ids: Tensor) -> Tensor:
    return ids + 0 * int(ids.max())


def branches_on_a_value(ids: Tensor) -> Tensor:
    return ids if (ids >= 0).all() else ids + 1


def indexes_with_a_mask(ids: Tensor) -> Tensor:
    ids[ids < 0] = 0
    return ids + 0 * ids[ids >= 0].sum()


def repeats_by_values(ids: Tensor) -> Tensor:
    return ids[:, :1] + 0 * ids[:, 0].repeat_interleave(torch.ones_like(ids[:, 0])).unsqueeze(1) + ids - ids[:, :1]


def draws_without_replacement(ids: Tensor) -> Tensor:
    return ids + 0 * torch.multinomial(ids.float() + 1, ids.shape[1])


def adds_numbers_of_the_host(ids: Tensor) -> Tensor:
    return ids + 0 * torch.arange(ids.shape[1])


def stacks_a_number_of_the_host(ids: Tensor) -> Tensor:
    return ids + 0 * torch.stack([ids.sum(), torch.zeros((), dtype=ids.dtype)]).sum()


def draws_on_the_host(ids: Tensor) -> Tensor:
    return ids + 0 * torch.randint(1, ids.shape, generator=torch.Generator()).to(ids.device)


def draws_with_a_generator_of_the_host(ids: Tensor) -> Tensor:
    return ids + torch.randint(1, ids.shape, generator=torch.Generator(), device=ids.device)


def brings_a_list(ids: Tensor) -> Tensor:
    return ids + torch.tensor([0] * ids.shape[1], device=ids.device)


def indexes_from_the_host(ids: Tensor) -> Tensor:
    return ids[torch.arange(len(ids))]


def goes_through_numpy(ids: Tensor) -> Tensor:
    return torch.from_numpy(ids.cpu().numpy()).to(ids.device)


def looks_up_a_table_of_the_host(ids: Tensor) -> Tensor:
    return ids + torch.zeros(40, dtype=torch.int64).index_select(0, ids.view(-1)).view_as(ids)


def makes_a_list(ids: Tensor) -> Tensor:
    return ids + 0 * max(ids.sum(0).tolist())


WAITS, MIXES = "called a synchronizing CUDA operation", "mixes tensors of cuda and of the host|on the same device"
FAULTS = {
    reads_a_value: WAITS,
    branches_on_a_value: WAITS,
    indexes_with_a_mask: WAITS,
    repeats_by_values: WAITS,
    draws_without_replacement: WAITS,
    draws_on_the_host: WAITS,
    brings_a_list: WAITS,
    indexes_from_the_host: WAITS,
    goes_through_numpy: WAITS,
    makes_a_list: WAITS,
    adds_numbers_of_the_host: MIXES,
    stacks_a_number_of_the_host: MIXES,
    looks_up_a_table_of_the_host: MIXES,
    draws_with_a_generator_of_the_host: "a generator of cpu",
}


@pytest.fixture
def steps():
    """`steps(fault)`: three steps with a sampler that has the fault, of which the last two may not wait."""
    settings = ["protocol.width=8", "protocol.batch=16", "protocol.negatives=4"]

    def take(fault) -> None:
        class Faulty(Sampler):
            def sample(self, positives: Positives, view: View) -> Negatives:
                side = view.draw_side(positives)
                ids = view.graph.draw(positives.key(side), self.k, view.rng)
                return Negatives(side, ids=fault(ids))

        with registered(SAMPLERS, "faulty", Faulty):
            trainer = Trainer(configure("faulty", "transe", "planted:small", settings=settings), toy(), "cuda")
        trainer.step()
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(2):
            trainer.step()

    yield take
    torch.cuda.set_sync_debug_mode("default")


def test_a_sampler_without_a_fault_passes(steps) -> None:
    steps(lambda ids: ids)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(steps, fault) -> None:
    with pytest.raises(RuntimeError, match=FAULTS[fault]):
        steps(fault)
