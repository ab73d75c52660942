"""MMRNS, relation-enhanced negative sampling for multimodal graphs (Xu et al., ACM MM 2022; docs/notes/mmrns.md).

A sampler that learns which entities resemble the replaced one, in what they look like, say and stand for:

    eqs. 1-7   z_m(rho, e), modality m (or structure) of entity e seen through relation rho: nsbench.samplers.parts.attention
    eq. 8      s_m(b, c) = cosine of z_m(rho_b, x_b) and z_m(rho_b, c); x_b is the entity that is replaced
    eq. 12     p_b = mean over m of softmax over C (s_m(b, .) / eps), C a tenth of the entities, drawn afresh every step
    eq. 15     eps = eps_0 / (1 + ln step)
    eq. 13     the K negatives: Gumbel draws from p_b without known answers and without replacement. Their softmaxes y carry
               the model's loss back into p, as if a negative were sum_c y_c e_c (`Negatives.delta`)
    eq. 9      w = softmax(alpha f) over the K negatives by the model's scores f, 1/n for all other entities
    eq. 10     l_m(b) = -log( sum over known answers of w e^s / sum over the others of w e^s )
    eqs. 11,14 loss = the model's + beta x the mean of l over components and rows: nsbench.samplers.parts.contrast

No z depends on the kept end of a triple, so candidates are seen once through each relation of the batch, not once per row
(docs/notes/mmrns.md 4.4): memory and work fall with rows / relations.

By minimising the model's loss through y the sampler turns to easy negatives, for which `feedback` = -1 is the opposite; what
hardness there is comes from eq. 10 (docs/notes/mmrns.md 1.7).

Variants. `paper` has the paper's sizes, and its gradients reach the model. `recommended` keeps the sampler's gradients off
the model's vectors (`detach_kge`). Otherwise the sampler is a regulariser as well, and no table could tell which of the two
helps. `released` is the authors' code (nsbench.samplers.parts.mmrns_released) with its default sizes: 1500 candidates, eps_0
10, beta 0.01, learning rate 1e-3. The command in its README has the same, but a learning rate of 1e-4.

The others are `recommended` with a part left out. The paper's Fig. 6: `wo_kca` (a linear map of the tokens in place of
eqs. 2-6), `wo_css` (no eq. 10), `wo_rel` (no rho in eqs. 4-7). Ours: `structure` compares entities by the model's vectors
alone, `features` by their features alone (in place of an entity that has none all candidates are equally likely; in place of
another, those that have none are never drawn). `untrained` and the other two of that name never learn: the layers of
eqs. 1-7 stay random, and only the model's vectors change.

Departures of `paper` from the paper, which `recommended` shares.

    eq. 1        Features that are one vector per entity become four tokens by a learned map. With one token the layer norm
                 would cancel the relation's gate.
    eqs. 2-4     A single modality is read by itself: cross-modal attention becomes self-attention. Of three or more, each
                 is read by all the others.
    eqs. 5, 7, 9 A replaced head has the same rho as a replaced tail, not that of an inverse relation; f is the score by the
                 model's query for heads.
    eq. 6        A linear map makes of the matrix E the vector that eq. 8 compares. The paper has no such step, its code has.
    eq. 7        With a fusion, e is the fused vector, which holds features too.
    eq. 10       A row has at most 16 known answers, the true one among them; MKG-W has queries with 3533.
    eqs. 10, 12  An entity that lacks a modality has no share in that component, as answer or as candidate. The mean goes
                 over the components that remain. Without any features structure decides alone.
    eq. 12       C holds at most MOST_CANDIDATES entities, because memory grows with it, and at least 2 K, for small graphs.
    eq. 13       The mask is 0, the paper's almost 0. A row that leaves fewer than K candidates gets invalid negatives.
    sides        Where the protocol draws a side per negative, a row takes its first.

The paper leaves open how hard y is, and its temperature: a negative is the drawn entity, y acts in the gradient alone, and
the temperature is 1, all as released.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsbench.contracts import Need, Negatives, Positives, Sampler, Setting, View
from nsbench.errors import Misuse
from nsbench.kernels.operators import distinct
from nsbench.kernels.race import SoftRows, race
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.parts import mmrns_released as released
from nsbench.samplers.parts.attention import NEVER, CrossModalAttention, Structure, Tokens
from nsbench.samplers.parts.contrast import Answers, Component, Others, Tape, contrast, cosine, size_of

ALPHA = 0.5  # of eq. 9
WIDTH = 50  # of a token and of z, as released
MOST_ANSWERS = 16  # of a row in eq. 10
MOST_CANDIDATES = 4096  # unless the option `candidates` says more
TILE = 16  # most rows that share one product with the candidates


@SAMPLERS.register("mmrns")
class MMRNS(Sampler):
    version = 3
    coupled = True
    reads_features = True
    few = True
    requires = frozenset({Need.ONE_VIEW})

    @dataclass(frozen=True)
    class Options:
        candidates: int = option(0, "N, entities to choose from, drawn per step; 0: a tenth of all, at most 4096", minimum=0)
        exploration: float = option(
            1.0, "eps_0: the larger, the longer draws are nearly uniform", minimum=1e-6, search=(1.0, 3.0, 5.0, 10.0)
        )
        beta: float = option(0.005, "weight of the contrastive loss", minimum=0, search=(0.003, 0.005, 0.01, 0.1))
        learning_rate: float = option(1e-4, "the sampler's learning rate", minimum=0, search=(5e-5, 1e-4))
        feedback: int = option(1, "the model's loss reaches the sampler with this factor", choices=(1, 0, -1))
        detach_kge: bool = option(True, "the sampler's gradients stop short of the model's vectors")
        attention: bool = option(True, "False: a linear map of a modality's tokens in place of eqs. 2-6")
        relation: bool = option(True, "False: no relation in eqs. 4-7")
        components: str = option(
            "all", "the similarities of eqs. 10 and 12 that are used", choices=("all", "structure", "features")
        )
        code: str = option(
            "paper", "the paper's equations, or what the authors' code makes of them", choices=("paper", "released")
        )

    variants = {
        "paper": {"detach_kge": False, "candidates": 0, "exploration": 1.0, "beta": 0.005, "learning_rate": 1e-4},
        "released": {
            "code": "released",
            "detach_kge": False,
            "candidates": 1500,
            "exploration": 10.0,
            "beta": 0.01,
            "learning_rate": 1e-3,
        },
        "wo_kca": {"attention": False},
        "wo_css": {"beta": 0.0},
        "wo_rel": {"relation": False},
        "structure": {"components": "structure"},
        "features": {"components": "features"},
        "untrained": {"beta": 0.0, "feedback": 0},
        "structure_untrained": {"components": "structure", "beta": 0.0, "feedback": 0},
        "features_untrained": {"components": "features", "beta": 0.0, "feedback": 0},
    }

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.num_entities = setting.graph.num_entities
        self.candidates = number_of_candidates(options.candidates, self.num_entities, self.k)
        if self.candidates < self.k:
            raise Misuse(f"mmrns cannot draw {self.k} of {self.candidates} candidates; raise sampler.candidates")
        self.released = options.code == "released"
        features = {} if options.components == "structure" else setting.features
        self.attention = CrossModalAttention(
            {m: tuple(x.shape[1:]) for m, x in features.items()},
            setting.relation_width,
            WIDTH,
            WIDTH,
            attend=options.attention,
            gated=options.relation,
        )
        structure = released.HiddenStructure if self.released else Structure
        relation_width = setting.relation_width if options.relation else 0
        used = options.components != "features"
        self.structure = structure(setting.entity_width, relation_width) if used else None
        self.bare = released.bare(features) if self.released else None
        self.cosine = released.cosine if self.released else cosine
        self.contrast = released.contrast if self.released else contrast
        self.answers = Answers(setting.graph)
        for m, x in features.items():
            if x.dim() == 3 and not self.released:
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
        live = set() if options.detach_kge else {Need.LIVE}
        return cls.requires | live | ({Need.FEATURES} if options.components == "features" else set())

    @classmethod
    def reads(cls, options: Options, features: Sequence[str], slots: Sequence[str]) -> tuple[list[str], str]:
        """`structure` stands for the model's vectors; with a fusion they hold features too, whatever `components` says."""
        if options.components == "features":
            return list(features), "features only"
        used = [] if options.components == "structure" else list(features)
        return ["structure", *used], {0: "structure only", 1: "1 modality"}.get(len(used), "")

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.options.learning_rate}]

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K of the step's candidates per positive: ids, valid [B, K] and delta [B, K, D]."""
        options: Any = self.options
        side = view.draw_side(positives)
        side = side if side.dim() == 1 else side[:, 0]
        key, answer = positives.key(side), positives.answer(side)
        candidates = torch.randperm(self.num_entities, generator=view.rng, device=view.device)[: self.candidates]
        known = view.graph.answers(key, candidates)  # [B, N]
        more = MOST_ANSWERS - 1 if options.beta > 0 and not self.released else 0
        others = self.answers.others(key, answer, more, view.rng)

        ids = torch.cat([candidates, answer, others.entity])
        vectors = view.vectors(ids)  # one lookup: its gradient is as large as the table
        components = self.components(ids, vectors, positives.r, others, view)
        log_p = mixture(components, exploration(options.exploration, view.clock))
        draws = race(log_p.detach(), known, self.k, view.rng)
        self._count(log_p.detach(), draws.free)
        delta = None
        if options.feedback:
            delta = SoftRows.apply(log_p, draws, vectors[: self.candidates].detach(), options.feedback)
        tape = Tape(components, known, draws.index, others) if options.beta > 0 else None
        return Negatives(side, ids=candidates[draws.index], delta=delta, valid=draws.free, tape=tape)

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor | None:
        """beta times eqs. 10 and 11."""
        if negatives.tape is None:
            return None
        options: Any = self.options
        assert negatives.valid is not None
        p = (ALPHA * s_neg).masked_fill(~negatives.valid, NEVER).softmax(1) * negatives.valid
        loss, empty = self.contrast(negatives.tape, p, self.num_entities)
        self.empty += empty
        return options.beta * loss

    def components(self, ids: Tensor, vectors: Tensor, r: Tensor, others: Others, view: View) -> list[Component]:
        """Eq. 8 for each component in use; ids and vectors are of the candidates, the answers, and their others."""
        sizes = [self.candidates, len(r), len(others.entity)]
        groups = Groups(r, view.graph.num_relations)
        rho = view.relations(torch.cat([groups.relation, r]))
        rho_q, rho_b = rho[: len(groups.relation)], rho[len(groups.relation) :]
        rho_o = rho_b.index_select(0, others.row)

        def compared(seen: Tensor, anchor: Tensor, other: Tensor, has: Tensor | None) -> Component:
            """From seen [Q, N, width], anchor [B, width], other [M, width], and which ids have the modality."""
            products, norms = groups.products(anchor, seen)
            length, at = anchor.norm(dim=1), others.row
            near = self.cosine(products, length.unsqueeze(1), norms.index_select(0, groups.of_row))
            own = self.cosine(torch.linalg.vecdot(anchor, anchor), length, length)
            answered = torch.linalg.vecdot(anchor.index_select(0, at), other)
            answered = self.cosine(answered, length.index_select(0, at), other.norm(dim=1))
            return Component(near, own, answered, *([None] * 3 if has is None else has.split(sizes)))

        found = []
        if self.structure is not None:
            candidate, anchor, other = vectors.split(sizes)
            seen = self.structure(candidate.unsqueeze(0), rho_q.unsqueeze(1))
            found.append(compared(seen, self.structure(anchor, rho_b), self.structure(other, rho_o), None))

        # On a CPU nobody is projected twice; a GPU must not be asked how many that leaves.
        on_cpu = ids.device.type == "cpu"
        different, place = distinct(ids, self.num_entities) if on_cpu else (ids, torch.arange(len(ids), device=ids.device))
        tokens = {m: self._tokens(m, different, view) for m in self.attention.names}
        of_candidates, of_anchors, of_others = ({m: x.at(at) for m, x in tokens.items()} for at in place.split(sizes))
        grid = self.attention.grid(of_candidates, rho_q)
        anchors = self.attention.pairs(of_anchors, rho_b, self.bare)
        rest = self.attention.pairs(of_others, rho_o)
        for m in self.attention.names:
            has = None if self.released else view.present[m].index_select(0, ids)
            found.append(compared(grid[m].transpose(0, 1), anchors[m], rest[m], has))
        return found

    def describe(self) -> dict[str, float]:
        """Means over the steps: entropy of p over log N, share of invalid draws, empty sums of eq. 10 per step."""
        steps = self.steps.clamp(min=1)
        return {name: (getattr(self, name) / steps).item() for name in ("entropy", "invalid", "empty")}

    def _tokens(self, m: str, ids: Tensor, view: View) -> Tokens:
        features, present = (table[m].index_select(0, ids) for table in (view.features, view.present))
        valid = getattr(self, f"valid_{m}", None)
        return self.attention.tokens(m, features.float(), present, None if valid is None else valid.index_select(0, ids))

    def _count(self, log_p: Tensor, free: Tensor) -> None:
        self.steps += 1
        self.entropy += -(log_p.exp() * log_p).sum(1).mean() / math.log(max(log_p.shape[1], 2))
        self.invalid += (~free).double().mean()


def number_of_candidates(asked: int, entities: int, k: int) -> int:
    """N; asked = 0: a tenth of the entities, at most MOST_CANDIDATES and at least 2 K."""
    return min(entities, asked or max(min(-(-entities // 10), MOST_CANDIDATES), 2 * k))


def exploration(start: float, step: Tensor) -> Tensor:
    """Eq. 15, float64 []; the paper counts steps from 1."""
    return start / (1 + torch.log(step + 1))


def mixture(components: list[Component], eps: Tensor) -> Tensor:
    """Eq. 12: log p [B, N], over the components that a row's true answer has, each over the candidates that have it.

    Uniform for a row whose answer has none, which can only be without structure.
    """
    parts = []
    kept = torch.zeros_like(components[0].own)
    for c in components:
        logits = c.near / eps
        part = (logits if c.has_candidate is None else logits.masked_fill(~c.has_candidate, NEVER)).log_softmax(1)
        parts.append(part if c.has_anchor is None else part.masked_fill(~c.has_anchor.unsqueeze(1), NEVER))
        kept += 1 if c.has_anchor is None else c.has_anchor
    log_p = torch.stack(parts).logsumexp(0) - kept.log().unsqueeze(1)
    return log_p.where(kept.unsqueeze(1) > 0, -math.log(log_p.shape[1]))


class Groups:
    """The rows of a batch by relation, so that products with what a relation sees serve all its rows at once.

    A GPU must not be asked how many rows a relation has: there they go in tiles of at most TILE rows of one relation.
    """

    def __init__(self, r: Tensor, num_relations: int) -> None:
        count = torch.zeros(num_relations, dtype=torch.int64, device=r.device).index_add_(0, r, torch.ones_like(r))
        number = (count > 0).cumsum(0)  # [R]
        size = size_of(number[-1], min(num_relations, len(r)))
        slot = (number - 1).where(count > 0, size)  # absent relations share a place beyond the end
        self.relation = r.new_zeros(size + 1).scatter_(0, slot, torch.arange(num_relations, device=r.device))[:size]  # [Q]
        self.count = r.new_zeros(size + 1).scatter_(0, slot, count)[:size]
        self.of_row = (number - 1)[r]  # [B], of the Q

    def products(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N] of x [B, width] with what each row's relation sees, seen [Q, N, width]; and norms [Q, N] of the latter."""
        if x.device.type == "cpu":
            return _Products.apply(x, seen, self.of_row.sort(stable=True).indices, self.count.tolist())
        return self.products_in_tiles(x, seen)

    def products_in_tiles(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """`products` without asking how many rows a relation has."""
        rows = torch.arange(len(x), device=x.device)
        tiles = (self.count + TILE - 1) // TILE
        end = tiles.cumsum(0)
        of_tile = torch.searchsorted(  # which relation of the Q each tile is for
            end, torch.arange(len(tiles) + (len(x) - len(tiles)) // TILE, device=x.device), right=True
        ).clamp_(max=len(tiles) - 1)
        group, order = self.of_row.sort(stable=True)
        rank = rows - (self.count.cumsum(0) - self.count)[group]
        slot = torch.empty_like(order).scatter_(0, order, (end - tiles)[group] * TILE + rank)
        row = slot.new_zeros(len(of_tile) * TILE).scatter_(0, slot, rows)  # 0 where a tile is not full
        tiled = x.index_select(0, row).view(len(of_tile), TILE, -1) @ seen.index_select(0, of_tile).transpose(1, 2)
        return tiled.flatten(0, 1).index_select(0, slot), seen.norm(dim=2)


class _Products(torch.autograd.Function):
    """`Groups.products`, a relation at a time: what is as large as `seen` is passed over once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: Tensor, order: Tensor, count: list[int]) -> tuple[Tensor, Tensor]:
        """`order` [B] sorts rows by relation, `count` says how many each has."""
        x, norms = x.index_select(0, order), seen.norm(dim=2)
        out = x.new_empty(len(x), seen.shape[1])
        for rows, z, to in zip(x.split(count), seen, out.split(count)):
            torch.mm(rows, z.T, out=to)
        ctx.save_for_backward(x, seen, norms, order)
        ctx.count = count
        return torch.empty_like(out).index_copy_(0, order, out), norms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, to_norms: Tensor) -> tuple[Tensor | None, ...]:
        x, seen, norms, order = ctx.saved_tensors
        pull = (to_norms / norms).masked_fill_(norms == 0, 0).unsqueeze(2)
        to_x, to_seen = torch.empty_like(x), seen.new_empty(seen.shape)
        parts = (y.split(ctx.count) for y in (grad.index_select(0, order), x, to_x))
        for weight, rows, to_rows, z, to_z, factor in zip(*parts, seen, to_seen, pull):
            torch.mm(weight, z, out=to_rows)
            torch.mul(z, factor, out=to_z).addmm_(weight.T, rows)
        return torch.empty_like(x).index_copy_(0, order, to_x), to_seen, None, None
