"""What goes wrong only in large graphs and wide vectors, and in tensors that are no block of memory."""

import pytest
import torch

from nsbench.contracts.graph import NonPositives
from nsbench.kernels.operators import gathered, rows
from nsbench.kge.similarity import L1, L2, Dot, Moduli


def test_every_entity_of_sixty_million_can_be_drawn():
    nothing = torch.zeros(0, dtype=torch.int64)
    pool = NonPositives(nothing, nothing, torch.tensor([2**26]))
    drawn = pool.draw(torch.zeros(1, dtype=torch.int64), 40_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.flatten() % 8, minlength=8)  # single precision reaches multiples of four alone
    assert (counts - 5000).abs().max() < 5 * 5000**0.5
    assert drawn.max() > 0.999 * 2**26


@pytest.mark.parametrize("width", [3, 64, 65, 200])
def test_the_gradient_of_rows_has_every_column(width):
    table = torch.zeros(5, width, requires_grad=True)
    ids, weight = torch.tensor([4, 1, 4]), torch.arange(3.0 * width).view(3, width)
    (rows(table, ids) * weight).sum().backward()
    wanted = torch.zeros(5, width)
    wanted[1], wanted[4] = weight[1], weight[0] + weight[2]
    assert torch.equal(table.grad, wanted)


def test_columns_of_triples_and_sums_without_memory_of_their_own():
    triples = torch.tensor([[1, 9, 3], [3, 9, 3], [0, 9, 1]])
    table = torch.zeros(4, 2, requires_grad=True)
    (rows(table, triples[:, 0]).sum() + 10 * rows(table, triples[:, 2]).sum()).backward()
    assert table.grad.tolist() == [[1.0] * 2, [11.0] * 2, [0.0] * 2, [21.0] * 2]


@pytest.mark.parametrize("similarity", [Dot(), L1(2.0), L2(2.0), Moduli(2.0)], ids=lambda s: s.kind)
@pytest.mark.parametrize("form", ["sum", "transposed"])
def test_gradients_of_gathered_scores_that_come_back_in_strides(similarity, form):
    rng = torch.Generator().manual_seed(0)
    q, table = torch.randn(3, 4, generator=rng), torch.randn(6, 4, generator=rng)
    ids = torch.randint(6, (5, 3), generator=rng).t()  # strided too
    weight = torch.randn(5, 3, generator=rng)
    found, wanted = [], []
    for score, out in ((lambda a, b: gathered(similarity, a, b, ids), found),
                       (lambda a, b: similarity.pairwise(a.unsqueeze(1), b[ids]), wanted)):  # fmt: skip
        a, b = q.clone().requires_grad_(), table.clone().requires_grad_()
        s = score(a, b)
        (s.sum() if form == "sum" else (s.t() * weight).sum()).backward()
        out += [s.detach(), a.grad, b.grad]
    for x, y in zip(found, wanted):
        assert torch.allclose(x, y, atol=1e-5)
