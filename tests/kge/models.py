"""What the tests of single models need: a model with given numbers, and the score of a triple from either side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nsbench.contracts import Scoring, Setting, TrainGraph
from nsbench.options import build_options
from nsbench.registry import FUSIONS, MODELS


def model_of(name, entity=None, relation=None, *, n=9, r=3, width=4, margin=3.0, seed=0, dtype=torch.float64, **options):
    """A model of random numbers of order one, or of those given; float64 unless told otherwise."""
    cls = MODELS.get(name)
    n, r = len(entity) if entity is not None else n, len(relation) if relation is not None else r
    rng = torch.Generator().manual_seed(seed)
    made = cls(n, r, width, margin, build_options(cls.Options, options, "kge"), rng).to(dtype)
    for table, given in ((made.entity, entity), (made.relation, relation)):
        values = (
            torch.randn(table.shape, generator=rng, dtype=dtype) if given is None else torch.as_tensor(given, dtype=dtype)
        )
        table.data = values.clone()
    return made


def graph_of(model, triples=((0, 0, 1),)):
    return TrainGraph(torch.tensor(triples), len(model.entity), len(model.relation))


def scoring_of(model, triples=((0, 0, 1),), absent=None) -> Scoring:
    graph = graph_of(model, triples)
    setting = Setting(graph, 4, 3.0, model.entity.shape[1], model.relation.shape[1], {}, {})
    return Scoring(model, FUSIONS.get("none")(setting, None), graph, absent=absent)


def scores(model, h, r, t, head: bool, **graph) -> Tensor:
    """f(h, r, t) [B] with the head, or the tail, as the candidate."""
    h, r, t = (torch.as_tensor(x).reshape(-1) for x in (h, r, t))
    side = torch.full_like(h, head, dtype=torch.bool)
    kept, candidate = (t, h) if head else (h, t)
    return scoring_of(model, **graph).ids(kept, r, side, candidate.unsqueeze(1)).squeeze(1)


def every_triple(model) -> tuple[Tensor, Tensor, Tensor]:
    """h, r, t of all triples."""
    return tuple(torch.cartesian_prod(*(torch.arange(len(x)) for x in (model.entity, model.relation, model.entity))).T)


def both(model, h, r, t, **graph) -> Tensor:
    """f(h, r, t) [B], after asking from both sides."""
    tail, head = (scores(model, h, r, t, side, **graph) for side in (False, True))
    torch.testing.assert_close(tail, head)
    return tail


class Largest(TorchDispatchMode):
    """The most numbers that an operation of torch made."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made
