"""No sum of floats in whatever order threads come by: what does so by default raises, unless torch was told to sort."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from torch import Tensor

from nsbench.kernels.operators import rows
from nsbench.training import trainer as training
from nsbench.training.repeatable import repeatable
from tests.training.test_capture import trainer_of

IDS = [0, 2, 2, 2]


def added(table: Tensor, ids: Tensor) -> Tensor:
    return table.detach().index_add(0, ids, torch.ones(len(ids), 3, device=table.device))


def gradient_of_rows(table: Tensor, ids: Tensor) -> Tensor:
    return torch.autograd.grad(rows(table, ids).sum(), table)[0]


def gradient_of_index_select(table: Tensor, ids: Tensor) -> Tensor:
    return torch.autograd.grad(table.index_select(0, ids).sum(), table)[0]


def gradient_of_gather(table: Tensor, ids: Tensor) -> Tensor:
    return torch.autograd.grad(table.gather(0, ids.unsqueeze(1)).sum(), table)[0]


SUMS = [added, gradient_of_rows, gradient_of_index_select, gradient_of_gather]


@pytest.mark.parametrize("of", SUMS, ids=lambda of: of.__name__)
def test_sums_in_any_order_are_found(of) -> None:
    table, ids = torch.zeros(4, 3, device="cuda", requires_grad=True), torch.tensor(IDS).to("cuda")
    with pytest.raises(RuntimeError, match="adds in any order"):
        of(table, ids)
    with repeatable(torch.device("cuda")):
        found = of(table, ids)
    assert torch.equal(found[:, 0].cpu(), torch.tensor([1.0, 0, 3, 0]))
    assert torch.get_deterministic_debug_mode() == 0


@pytest.mark.parametrize("case", [("uniform", "none", ""), ("kbgan", "none", "sampler.pretrain_epochs=1")])
def test_the_trainer_needs_to_ask_for_it(case: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, fusion, settings = case
    trainer = trainer_of(sampler, "transe", fusion, settings)
    monkeypatch.setattr(training, "repeatable", lambda device: contextlib.nullcontext())
    with pytest.raises(RuntimeError, match="adds in any order"):
        trainer.step()


def test_integers_may_come_in_any_order() -> None:
    count = torch.zeros(4, dtype=torch.int64, device="cuda")
    count.index_add_(0, torch.tensor(IDS).to("cuda"), torch.ones(4, dtype=torch.int64, device="cuda"))
    assert count.tolist() == [1, 0, 3, 0]


@pytest.mark.filterwarnings("ignore:cumsum_cuda_kernel")
def test_what_torch_cannot_repeat_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch words it on a GPU."""
    trainer = trainer_of("uniform", "transe", "none", "")
    advance = trainer.advance

    def told(positives) -> None:
        words = "cumsum_cuda_kernel does not have a deterministic implementation, but you set"
        warnings.warn(words, UserWarning, stacklevel=1)
        advance(positives)

    monkeypatch.setattr(trainer, "advance", told)
    trainer.step()
    trainer.step()
    assert trainer.how_stepped() == {"steps": "CUDA graphs", "unrepeatable": ["cumsum_cuda_kernel"]}
