"""MMRNS, relation-enhanced negative sampling for multimodal graphs (Xu et al., ACM MM 2022; docs/notes/mmrns.md).

A sampler that learns which entities resemble the replaced one, in what they look like, say and stand for:

    eqs. 1-6   z_m(rho, e), modality m of entity e seen through relation rho: nsbench.samplers.parts.attention
    eq. 7      z_s(rho, e) = e . sigmoid([rho; e] W + b), from the model's own vectors
    eq. 8      s_m(b, c) = cosine of z_m(rho_b, x_b) and z_m(rho_b, c); x_b is the entity that is replaced
    eq. 12     p_b = mean over m of softmax over C (s_m(b, .) / eps), C a tenth of the entities, drawn afresh every step
    eq. 15     eps = eps_0 / (1 + ln step)
    eq. 13     the K negatives: Gumbel draws from p_b without known answers and without replacement. Their softmaxes y carry
               the model's loss back into p, as if a negative were sum_c y_c e_c (`Negatives.delta`)
    eq. 9      w = softmax(alpha f) over the K negatives by the model's scores f, 1/n for all other entities
    eq. 10     l_m(b) = -log( sum over known answers of w e^s / sum over the others of w e^s )
    eqs. 11,14 loss = the model's + beta x the mean of l over components and rows

No z depends on the kept end of a triple, so candidates are seen once through each relation of the batch, not once per row
(docs/notes/mmrns.md 4.4): memory and work fall with rows / relations.

By minimising the model's loss through y the sampler turns to easy negatives, for which `feedback` = -1 is the opposite; what
hardness there is comes from eq. 10 (docs/notes/mmrns.md 1.7).

Any modalities serve, pooled or in tokens; without one, structure decides alone. An entity that lacks a modality has no share
in that component, as answer or as candidate.

Departures from the paper. `recommended` keeps the sampler's gradients off the model's vectors (`detach_kge`): otherwise it
is a regulariser as well, and no table could tell which of the two helps. The mask has probability 0, the paper's almost 0.
The numerator of eq. 10 has at most 16 answers of a row (MKG-W has queries with 3533), the true one among them. At least 2 K
candidates, for graphs of toy size. A row that leaves fewer than K candidates to draw gets invalid negatives. Where the
protocol draws a side per negative, a row takes its first. Pooled features become four learned tokens.

Variants. `paper`: gradients reach the model. `released`, the authors' code: that; 1500 candidates, eps_0 10, beta 0.01; a
hidden layer in eq. 7; constant norms in eq. 8; the anchor's relation-free visual branch not normalised; in eq. 10 weight p/N
for a negative and 1/N for others, known answers only among C, sums over the batch before the logarithm; missing features as
zeros, so that all entities that lack a modality are alike in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nsbench.contracts import Need, Negatives, Positives, Sampler, Setting, View
from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.parts.attention import NEVER, SLOPE, CrossModalAttention, Tokens
from nsbench.samplers.parts.contrast import Answers, Component, Others, Tape, contrast, per_row, pooled, size_of

ALPHA = 0.5  # of eq. 9
WIDTH = 50  # of a token and of z, as released
HIDDEN = 100  # of eq. 7's second layer, as released
DELTA = 1e-10  # keeps eq. 8 finite, as released
TILE = 16  # most rows that share one product with the candidates
VISUAL = ("image", "visual")  # names of the modality that `bare_anchor` is about


@SAMPLERS.register("mmrns")
class MMRNS(Sampler):
    coupled = True
    reads_features = True
    requires = frozenset({Need.ONE_VIEW})

    @dataclass(frozen=True)
    class Options:
        candidates: int = option(0, "N, entities to choose from, drawn per step; 0: a tenth of all", minimum=0)
        exploration: float = option(
            1.0, "eps_0: the larger, the longer draws are nearly uniform", minimum=1e-6, search=(1.0, 3.0, 5.0, 10.0)
        )
        beta: float = option(
            0.005, "weight of the contrastive loss; 0: the ablation w/o CSS", minimum=0, search=(0.003, 0.005, 0.01, 0.1)
        )
        learning_rate: float = option(1e-4, "the sampler's learning rate", minimum=0, search=(5e-5, 1e-4))
        feedback: int = option(1, "the model's loss reaches the sampler with this factor", choices=(1, 0, -1))
        detach_kge: bool = option(True, "the sampler's gradients stop short of the model's vectors")
        attention: bool = option(True, "False: the ablation w/o KCA, a linear map of a modality's tokens")
        relation: bool = option(True, "False: the ablation w/o Rel, no relation in eqs. 4-7")
        pooled_tokens: int = option(4, "learned tokens per pooled modality; 1: no gate can act", minimum=1)
        missing: str = option("mask", "a missing modality has no share, or is a vector of zeros", choices=("mask", "zero"))
        positives: int = option(16, "most answers of a row in eq. 10; 0: those among the candidates", minimum=0)
        weights: str = option("paper", "in the contrast, eq. 9: the paper's, or p/N and 1/N", choices=("paper", "product"))
        pool: str = option("row", "one logarithm per row in eq. 10, or one per batch", choices=("row", "batch"))
        structure_layers: int = option(1, "affine layers of eq. 7", choices=(1, 2))
        constant_norms: bool = option(False, "no gradient through the norms of eq. 8")
        bare_anchor: bool = option(False, "leave out the layer norm of the anchor's relation-free visual branch")

    variants = {
        "paper": {"detach_kge": False},
        "released": {
            "detach_kge": False,
            "candidates": 1500,
            "exploration": 10.0,
            "beta": 0.01,
            "structure_layers": 2,
            "constant_norms": True,
            "bare_anchor": True,
            "weights": "product",
            "pool": "batch",
            "positives": 0,
            "missing": "zero",
        },
    }

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.num_entities = n = setting.graph.num_entities
        self.candidates = min(n, options.candidates or max(-(-n // 10), 2 * self.k))
        if self.candidates < self.k:
            raise Misuse(f"mmrns cannot draw {self.k} of {self.candidates} candidates; raise sampler.candidates")
        shapes = {m: tuple(x.shape[1:]) for m, x in setting.features.items()}
        self.attention = CrossModalAttention(
            shapes,
            setting.relation_width,
            WIDTH,
            WIDTH,
            pooled_tokens=options.pooled_tokens,
            attend=options.attention,
            gated=options.relation,
        )
        self.structure = Structure(
            setting.entity_width, setting.relation_width if options.relation else 0, options.structure_layers
        )
        self.bare = next((m for m in VISUAL if m in shapes), None) if options.bare_anchor else None
        self.answers = Answers(setting.graph)
        for m, x in setting.features.items():
            if options.missing == "mask" and x.dim() == 3:
                # Where all of it is missing the tokens stay: to a partner that is there they are a learned query.
                valid = (x != 0).any(2) | ~setting.present[m].unsqueeze(1)
                self.register_buffer(f"valid_{m}", None if valid.all() else valid, persistent=False)
        for name in ("steps", "entropy", "invalid", "empty"):  # sums over the steps, for `describe`
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.steps: Tensor
        self.entropy: Tensor
        self.invalid: Tensor
        self.empty: Tensor

    @classmethod
    def needs(cls, options: Options) -> frozenset[Need]:
        return cls.requires if options.detach_kge else cls.requires | {Need.LIVE}

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.options.learning_rate}]

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K of the step's candidates per positive: ids, valid [B, K] and delta [B, K, D]."""
        options: Any = self.options
        side = view.draw_side(positives)
        side = side if side.dim() == 1 else side[:, 0]
        key, answer = positives.key(side), positives.answer(side)
        candidates = torch.randperm(self.num_entities, generator=view.rng, device=view.device)[: self.candidates]
        known = view.graph.answers(key).index_select(1, candidates)  # [B, N]
        more = options.positives - 1 if options.beta > 0 and options.positives else 0
        others = self.answers.others(key, answer, more, view.rng)

        ids = torch.cat([candidates, answer, others.entity])
        vectors = view.vectors(ids)  # one lookup: its gradient is as large as the table
        components = self.components(ids, vectors, positives.r, others, view)
        log_p = mixture(components, exploration(options.exploration, view.step))
        index, soft, free = gumbel_draws(log_p.detach(), known, self.k, view.rng)
        self._count(log_p.detach(), free)
        delta = None
        if options.feedback:
            delta = StraightThrough.apply(log_p, soft, vectors[: self.candidates].detach(), options.feedback)
        tape = Tape(components, known, index, others) if options.beta > 0 else None
        return Negatives(side, ids=candidates[index], delta=delta, valid=free, tape=tape)

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor | None:
        """beta times eqs. 10 and 11."""
        if negatives.tape is None:
            return None
        options: Any = self.options
        assert negatives.valid is not None
        p = (ALPHA * s_neg).masked_fill(~negatives.valid, NEVER).softmax(1) * negatives.valid
        unit = 1 / (self.candidates if options.weights == "product" else self.num_entities)
        pairs = contrast(negatives.tape, p * unit if options.weights == "product" else p, unit, options.positives > 0)
        loss, empty = pooled(pairs) if options.pool == "batch" else per_row(pairs)
        self.empty += empty
        return options.beta * loss

    def components(self, ids: Tensor, vectors: Tensor, r: Tensor, others: Others, view: View) -> list[Component]:
        """Eq. 8 for structure and each modality; ids and vectors are of the candidates, the answers, and their others."""
        sizes = [self.candidates, len(r), len(others.entity)]
        groups = Groups(r, view.graph.num_relations)
        rho = view.relations(torch.cat([groups.relation, r]))
        rho_q, rho_b = rho[: len(groups.relation)], rho[len(groups.relation) :]
        rho_o = rho_b.index_select(0, others.row)

        def compared(seen: Tensor, anchor: Tensor, other: Tensor, has: Tensor | None) -> Component:
            """From seen [tiles, N, width], anchor [B, width], other [M, width], and which ids have the modality."""
            near = groups.rows(self._cosine(groups.tiles(anchor), seen))
            own = self._cosine(anchor.unsqueeze(1), anchor.unsqueeze(1)).flatten()
            answered = self._cosine(anchor.index_select(0, others.row).unsqueeze(1), other.unsqueeze(1)).flatten()
            return Component(near, own, answered, *([None] * 3 if has is None else has.split(sizes)))

        candidate, anchor, other = vectors.split(sizes)
        seen = self.structure(candidate.unsqueeze(0), rho_q.index_select(0, groups.of_tile).unsqueeze(1))
        found = [compared(seen, self.structure(anchor, rho_b), self.structure(other, rho_o), None)]

        tokens = {m: self._tokens(m, ids, view) for m in self.attention.names}
        at = [slice(0, sizes[0]), slice(sizes[0], sizes[0] + sizes[1]), slice(sizes[0] + sizes[1], None)]
        of_candidates, of_anchors, of_others = ({m: x[part] for m, x in tokens.items()} for part in at)
        grid = self.attention.grid(of_candidates, rho_q)
        anchors = self.attention.pairs(of_anchors, rho_b, self.bare)
        rest = self.attention.pairs(of_others, rho_o)
        for m in self.attention.names:
            seen = grid[m].index_select(1, groups.of_tile).transpose(0, 1)
            has = view.present[m].index_select(0, ids) if self.options.missing == "mask" else None
            found.append(compared(seen, anchors[m], rest[m], has))
        return found

    def describe(self) -> dict[str, float]:
        """Means over the steps: entropy of p over log N, share of invalid draws, empty sums of eq. 10 per step."""
        steps = self.steps.clamp(min=1)
        return {name: (getattr(self, name) / steps).item() for name in ("entropy", "invalid", "empty")}

    def _tokens(self, m: str, ids: Tensor, view: View) -> Tokens:
        features, present = (table[m].index_select(0, ids) for table in (view.features, view.present))
        valid = getattr(self, f"valid_{m}", None)
        return self.attention.tokens(m, features.float(), present, None if valid is None else valid.index_select(0, ids))

    def _cosine(self, x: Tensor, y: Tensor) -> Tensor:
        """[..., n, m] of x [..., n, width] and y [..., m, width]."""
        norms = x.norm(dim=-1).unsqueeze(-1) * y.norm(dim=-1).unsqueeze(-2) + DELTA
        return x @ y.transpose(-1, -2) / (norms.detach() if self.options.constant_norms else norms)

    def _count(self, log_p: Tensor, free: Tensor) -> None:
        self.steps += 1
        self.entropy += -(log_p.exp() * log_p).sum(1).mean() / math.log(max(log_p.shape[1], 2))
        self.invalid += (~free).double().mean()


class Structure(nn.Module):
    """Eq. 7, and with two layers the released code's version of it."""

    def __init__(self, entity_width: int, relation_width: int, layers: int) -> None:
        super().__init__()
        self.relation_width = relation_width  # 0: no relation
        self.first = nn.Linear(relation_width + entity_width, entity_width if layers == 1 else HIDDEN)
        self.second = nn.Linear(HIDDEN, entity_width) if layers == 2 else None
        for linear in (self.first, self.second):
            if linear is not None:
                nn.init.xavier_normal_(linear.weight)

    def forward(self, e: Tensor, r: Tensor) -> Tensor:
        """[..., D] of e [..., D] and r [..., Dr], broadcast: the first layer meets each of them once, not each pair."""
        with_r, with_e = self.first.weight.split([self.relation_width, e.shape[-1]], dim=1)
        x = F.linear(e, with_e, self.first.bias)
        x = x + (F.linear(r, with_r) if self.relation_width else torch.zeros_like(r[..., :1]))
        if self.second is not None:
            x = self.second(F.leaky_relu(x, SLOPE))
        return e * x.sigmoid()


def exploration(start: float, step: int) -> float:
    """Eq. 15; the paper counts steps from 1."""
    return start / (1 + math.log(step + 1))


def mixture(components: list[Component], eps: float) -> Tensor:
    """Eq. 12: log p [B, N], over the components that a row's true answer has, each over the candidates that have it."""
    parts = []
    kept = torch.zeros_like(components[0].own)
    for c in components:
        logits = c.near / eps
        part = (logits if c.has_candidate is None else logits.masked_fill(~c.has_candidate, NEVER)).log_softmax(1)
        parts.append(part if c.has_anchor is None else part.masked_fill(~c.has_anchor.unsqueeze(1), NEVER))
        kept += 1 if c.has_anchor is None else c.has_anchor
    return torch.stack(parts).logsumexp(0) - kept.log().unsqueeze(1)


@torch.no_grad()
def gumbel_draws(log_p: Tensor, known: Tensor, k: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 13: k columns of log_p [B, N], the softmax [k, B, N] behind each, and whether it was there to be drawn [B, k].

    Every draw has noise of its own, as released; what is known or drawn before is out.
    """
    # Minus the logarithm of -log(1 - u). Uniform numbers are multiples of 2**-24, their smallest stands for half of that;
    # on a CPU they take a seventh of the time of exponential_().
    v = log_p.new_empty(k, *log_p.shape).uniform_(generator=rng)
    v = v.neg_().log1p_().neg_().clamp_min_(2.0**-25).log_().neg_()
    left = log_p.masked_fill(known, NEVER)
    index, free = [], []
    for one in v:
        one += left
        index.append(one.argmax(1, keepdim=True))
        free.append(left.gather(1, index[-1]) > NEVER / 2)
        left.scatter_(1, index[-1], NEVER)
    return torch.cat(index, dim=1), v.softmax(2), torch.cat(free, dim=1)


class StraightThrough(torch.autograd.Function):
    """Zeros [B, K, D] with the gradient of factor x sum_c y_c e_c into the logits of the softmax y."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, soft: Tensor, table: Tensor, factor: float) -> Tensor:
        """log_p [B, N], whose softmaxes with noise are soft [K, B, N]; table [N, D], a constant."""
        ctx.save_for_backward(soft, table)
        ctx.factor = factor
        return log_p.new_zeros(soft.shape[1], soft.shape[0], table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        soft, table = ctx.saved_tensors
        to_log_p = torch.zeros_like(soft[0])
        for y, g in zip(soft, grad.unbind(1)):  # one draw at a time: no second [K, B, N]
            pull = y * (g @ table.T)
            to_log_p += pull - y * pull.sum(1, keepdim=True)
        return ctx.factor * to_log_p, None, None, None


class Groups:
    """The rows of a batch by relation, in tiles of at most TILE rows of one relation, so that a product with what that
    relation sees serves them all; no shape depends on how unevenly relations occur.
    """

    def __init__(self, r: Tensor, num_relations: int) -> None:
        rows = torch.arange(len(r), device=r.device)
        count = torch.zeros(num_relations, dtype=torch.int64, device=r.device).index_add_(0, r, torch.ones_like(r))
        number = (count > 0).cumsum(0)  # [R]
        size = size_of(number[-1], min(num_relations, len(r)))
        slot = (number - 1).where(count > 0, size)  # absent relations share a place beyond the end
        self.relation = r.new_zeros(size + 1).scatter_(0, slot, torch.arange(num_relations, device=r.device))[:size]  # [Q]
        count = r.new_zeros(size + 1).scatter_(0, slot, count)[:size]
        tiles = (count + TILE - 1) // TILE
        end = tiles.cumsum(0)
        self.of_tile = torch.searchsorted(  # which relation of the Q each tile is for
            end, torch.arange(size_of(end[-1], size + (len(r) - size) // TILE), device=r.device), right=True
        ).clamp_(max=size - 1)
        group, order = (number - 1)[r].sort(stable=True)
        rank = rows - (count.cumsum(0) - count)[group]
        self._slot = torch.empty_like(r).scatter_(0, order, (end - tiles)[group] * TILE + rank)
        self._row = r.new_zeros(len(self.of_tile) * TILE).scatter_(0, self._slot, rows)  # 0 where a tile is not full

    def tiles(self, x: Tensor) -> Tensor:
        """x [B, width] -> [tiles, TILE, width]."""
        return x.index_select(0, self._row).view(len(self.of_tile), TILE, x.shape[1])

    def rows(self, x: Tensor) -> Tensor:
        """x [tiles, TILE, N] -> [B, N]."""
        return x.flatten(0, 1).index_select(0, self._slot)
