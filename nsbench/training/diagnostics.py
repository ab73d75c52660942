"""What a sampler draws, measured beside the training: how often it errs, how hard its draws are, how varied, how useful.

Three times in a run (before the first step, halfway, after the last) the sampler is asked for negatives of the same
training triples, with random numbers of their own, and put back as it was: no result depends on it. Facts of valid and
test, and the complete world of a planted graph, are read here and nowhere else in training.

Figures are means over the negatives that enter the loss (valid, and of weight above zero):

    false_negatives_train, _known, _world   share that are facts: of train, of any split, of the whole world (planted)
    hardness, hardness_now                  share of the candidates that score lower, under the reference or the model now
    active                                  share whose loss has a gradient: sigmoid(logit) above ACTIVE
    margin_gap                              score of the positive minus that of the negative
    type_valid, unseen                      share seen in that place of the relation in train; share never seen in train
    entropy, coverage, distinct             of the drawn entities: entropy / log N, share of N drawn, distinct / draws
    pull_drawn, _generated, _feedback, _AUX norm of the gradient on the model of each part of the loss, over the sum of these
                                            norms, for one batch; where the loss has several parts
    generated_truth                         share of the candidates that score below the replaced entity itself, put in the
                                            form of the generated vectors; where the sampler tells that form
    generated_gradient                      norm of the gradient on the model of the generated negatives' terms, without
                                            their weight in the experiment, over that of the sampled negatives' terms

The reference is the finished uniform run of seed 0 of the same cell: one yardstick for all samplers and times. Candidates
are the entities that do not answer the query in train, so that uniform has hardness 1/2. Generated vectors lie in the
space of the model now, so hardness_now alone is defined for them; such a vector is a false negative if the real entity
nearest to it makes a fact. Their figures carry the prefix "generated_"; what they say of a generator as a whole is judged
in nsbench.training.liveness.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import Dataset, Generated, Negatives, Positives, Sampler, Scoring, TrainGraph, find
from nsbench.training.losses import block_loss
from nsbench.training.repeatable import repeatable
from nsbench.training.seeds import generator
from nsbench.training.trainer import Trainer

PROBED = 2048  # training triples that are asked about, in batches of the protocol's size
RANKED = 512  # of them, whose negatives are ranked among all entities
NEAREST = 128  # of them, whose generated negatives are compared with all entities
CHUNK = 128  # queries ranked at a time
ACTIVE = 0.01  # of the largest gradient that a negative can have


class Diagnosis:
    """Measures one run; made once, `measure` is called at each of the three times."""

    def __init__(self, trainer: Trainer, dataset: Dataset) -> None:
        self.trainer = trainer
        self.graph = graph = trainer.graph
        further = {"known": dataset.known, "world": dataset.world}
        self.facts = {"train": graph.codes} | {
            name: graph.code(*x.to(graph.device).unbind(1)).sort().values for name, x in further.items() if x is not None
        }
        h, r, t = graph.triples.unbind(1)
        n = graph.num_entities
        self.typed = torch.cat([r * n + h, (r + graph.num_relations) * n + t]).unique()  # (relation and place, entity)
        batch = trainer.protocol.batch
        count = batch * -(-min(PROBED, len(graph)) // batch)
        order = torch.randperm(len(graph), generator=generator(0, "probe"))  # the same triples for every run
        self.batches = order.repeat(-(-count // len(order)))[:count].to(graph.device).split(batch)

    def measure(self) -> dict[str, Any]:
        """{"step", "figures", "drawn"}; `drawn` lists what `hardness` will rank: (rows, side, ids, counted) per block."""
        trainer = self.trainer
        scoring = trainer.scoring()
        tally = _Tally(self.graph.num_entities, self.graph.device)
        drawn: list[dict[str, Tensor]] = []
        left = RANKED
        parts = set(trainer.config.aux) | ({"feedback"} if trainer.coupled else set())
        with _restored(trainer):
            rng = generator(0, "diagnostics", trainer.device)
            for i, rows in enumerate(self.batches):
                fixed = torch.full_like(rows, i % 2 == 1, dtype=torch.bool)
                positives = self.graph.positives(rows, fixed if trainer.protocol.sides == "alternate" else None)
                for block in trainer.draw(positives, rng):
                    parts.add("drawn" if block.generated is None else "generated")
                    drawn += self._judge(tally, scoring, positives, block, left)
                left = max(0, left - len(rows))
            pulls = self._pulls(positives, rng) if len(parts) > 1 else {}
        return {"step": trainer.step_count, "figures": tally.figures() | pulls, "drawn": drawn}

    def _pulls(self, positives: Positives, rng: torch.Generator) -> dict[str, float]:
        """Each part of the loss: its share of the sum of their gradients' norms, over all parameters of model and fusion."""
        trainer, sampler = self.trainer, self.trainer.sampler
        assert isinstance(sampler, Sampler)
        blocks = trainer.draw(positives, rng)
        scoring = Scoring(trainer.kge, trainer.fusion, self.graph)
        importance = None if trainer.importance is None else trainer.importance[positives.rows]
        parts: dict[str, list[Tensor]] = defaultdict(list)
        alone: dict[str, list[Tensor]] = defaultdict(list)  # the terms of the negatives alone, all of weight 1
        for block in blocks:
            s_pos, s_neg = scoring.block(positives, block)
            kind = "drawn" if block.generated is None else "generated"
            parts[kind].append(block_loss(s_pos, s_neg, block, trainer.protocol.temperature, importance))
            terms = dataclasses.replace(block, positive="none", coef=1.0)
            alone[kind].append(block_loss(s_pos, s_neg, terms, trainer.protocol.temperature, importance))
            own = sampler.feedback(block, s_pos.detach(), s_neg.detach()) if trainer.coupled else None
            if own is not None:
                parts["feedback"].append(own)
        view = dataclasses.replace(trainer.view, step=trainer.step_count, epoch=trainer.epoch, scoring=scoring, rng=rng)
        for name, weight in trainer.config.aux.items():
            parts[name].append(weight * trainer.auxiliaries[name].loss(positives, view))  # type: ignore[operator]
        model = [p for module in (trainer.kge, trainer.fusion) for p in module.parameters() if p.requires_grad]

        def norm(losses: list[Tensor]) -> float:
            with repeatable(trainer.device):
                gradients = torch.autograd.grad(torch.stack(losses).sum(), model, retain_graph=True, allow_unused=True)
            squares = [g.double().square().sum() for g in gradients if g is not None]
            return torch.stack(squares).sum().sqrt().item() if squares else 0.0

        norms = {name: norm(losses) for name, losses in parts.items()}
        total = sum(norms.values())
        found = {f"pull_{name}": norm / total for name, norm in norms.items()} if total else {}
        if len(alone) > 1 and (sampled := norm(alone["drawn"])):
            found["generated_gradient"] = norm(alone["generated"]) / sampled
        return found

    @torch.no_grad()
    def _judge(self, tally: _Tally, scoring: Scoring, positives: Positives, block: Negatives, ranked: int) -> list[dict]:
        """Add one block to the tally; the ids among its first `ranked` rows are returned for the reference."""
        s_pos, s_neg = scoring.block(positives, block)
        counted = torch.ones_like(s_neg, dtype=torch.bool) if block.valid is None else block.valid
        if block.weight is not None:
            counted = counted & (block.weight > 0)
        side = block.side.expand(s_neg.shape) if block.side.dim() == 2 else block.side.unsqueeze(1).expand(s_neg.shape)
        prefix = "" if block.generated is None else "generated_"
        logit = s_neg if block.margin_shift is None else s_neg + block.margin_shift
        tally.add(f"{prefix}active", logit.sigmoid() > ACTIVE, counted)
        tally.add(f"{prefix}margin_gap", s_pos.unsqueeze(1) - s_neg, counted)

        first = slice(ranked)
        if ranked:
            part = _part(positives, first)
            of = s_neg[first] if block.ids is None else block.ids[first]
            place = percentile(scoring, self.graph, part, block.side[first], of)
            tally.add(f"{prefix}hardness_now", place, counted[first])
            self._truth(tally, scoring, part, block, counted[first])
        if block.generated is not None:
            few = slice(min(ranked, NEAREST))
            ids = nearest(scoring, block.generated, few)
            self._errors(tally, prefix, _part(positives, few), side[few], ids, counted[few])
            return []
        drawn = []
        for ids, here in block.replacements(positives):
            here = here & counted
            self._errors(tally, "", positives, side, ids, here)
            tally.drew(ids, here)
            if ranked:
                drawn.append(
                    {"rows": positives.rows[first], "side": block.side[first], "ids": ids[first], "counted": here[first]}
                )
        return drawn

    def _truth(self, tally: _Tally, scoring: Scoring, positives: Positives, block: Negatives, counted: Tensor) -> None:
        """Where the replaced entities' own vectors stand among the candidates, had they been generated.

        positives: the first b rows of the batch; counted [b, K].
        """
        made, side = block.generated, block.side[: len(positives)]
        if made is None or made.truth is None or made.anchors is not None or side.dim() == 2:
            return  # another kept end makes other queries than the candidates', another side per negative other truths
        mask = None if made.slot_mask is None else made.slot_mask[: len(positives)]
        vectors = made.truth[: len(positives)].unsqueeze(1)  # [b, 1, D] or [b, 1, S, D]
        _, score = scoring.block(positives, Negatives(side, generated=Generated(vectors, mask, joint=made.joint)))  # [b, 1]
        there = counted.any(1, keepdim=True) & score.isfinite()  # no slots, no score; nan would stand above all entities
        tally.add("generated_truth", percentile(scoring, self.graph, positives, side, score), there)

    def _errors(self, tally: _Tally, prefix: str, positives: Positives, side: Tensor, ids: Tensor, counted: Tensor) -> None:
        """ids, side, counted [B, K]: which replacements are facts, fit the relation, occur in train."""
        h = torch.where(side, ids, positives.h.unsqueeze(1))
        r = positives.r.unsqueeze(1)
        t = torch.where(side, positives.t.unsqueeze(1), ids)
        code = self.graph.code(h, r, t)
        for name, facts in self.facts.items():
            tally.add(f"{prefix}false_negatives_{name}", find(facts, code) >= 0, counted)
        place = torch.where(side, r, r + self.graph.num_relations) * self.graph.num_entities + ids
        tally.add(f"{prefix}type_valid", find(self.typed, place) >= 0, counted)
        tally.add(f"{prefix}unseen", self.graph.degree[ids] == 0, counted)

    @torch.no_grad()
    def hardness(self, measured: dict[str, Any], reference: Scoring) -> float | None:
        """Mean percentile of the ids drawn at one time under the reference; None where no ids were drawn."""
        tally = _Tally(self.graph.num_entities, self.graph.device)
        for block in measured["drawn"]:
            block = {name: x.to(self.graph.device) for name, x in block.items()}
            positives = self.graph.positives(block["rows"])
            place = percentile(reference, self.graph, positives, block["side"], block["ids"])
            tally.add("hardness", place, block["counted"])
        return tally.figures().get("hardness")


@contextlib.contextmanager
def _restored(trainer: Trainer) -> Iterator[None]:
    """Whatever the sampler or an auxiliary learns inside is forgotten."""
    before = [(module, copy.deepcopy(module.state_dict())) for module in (trainer.sampler, trainer.auxiliaries)]
    try:
        yield
    finally:
        for module, state in before:
            module.load_state_dict(state)
        trainer.forget_captured()  # their own optimisers' state is in other tensors now
        for module in (trainer.kge, trainer.fusion, trainer.sampler, trainer.auxiliaries):
            module.zero_grad(set_to_none=True)


@torch.no_grad()
def percentile(scoring: Scoring, graph: TrainGraph, positives: Positives, side: Tensor, of: Tensor) -> Tensor:
    """[B, K] share of the candidates of each query that score below `of` [B, K], entities or scores; ties count half.

    Candidates are the entities that do not answer the query in train. side [B] or [B, K]. Entities take their score from
    the candidates' own row: another kernel's rounding would break ties.
    """
    if side.dim() == 2:
        head = torch.ones_like(side[:, 0])
        of_heads, of_tails = (percentile(scoring, graph, positives, end, of) for end in (head, ~head))
        return torch.where(side, of_heads, of_tails)
    key, anchor = positives.key(side), positives.anchor(side)
    places = []
    for part in torch.arange(len(key), device=key.device).split(CHUNK):
        known = graph.answers(key[part])
        every = scoring.all(anchor[part], positives.r[part], side[part])
        own = of[part] if of.is_floating_point() else every.gather(1, of[part])
        every = every.masked_fill_(known, torch.inf).sort(dim=1).values
        count = (graph.num_entities - known.sum(1, keepdim=True)).clamp_(min=1)
        below, upto = torch.searchsorted(every, own), torch.searchsorted(every, own, right=True)
        places.append((below + upto) / (2 * count))
    return torch.cat(places)


@torch.no_grad()
def nearest(scoring: Scoring, generated: Generated, few: slice) -> Tensor:
    """[b, K] the entity nearest to each generated vector of the rows `few`, by the distance over the slots that it has."""
    vectors = generated.vectors[few].float()
    everyone = torch.arange(scoring.entity.shape[0], device=vectors.device)
    if vectors.dim() == 3:
        vectors, table = vectors.unsqueeze(2), scoring.vectors(everyone).unsqueeze(1)
    else:
        table = scoring.slots(everyone)  # [N, S, D]
    mask = torch.ones(vectors.shape[0], vectors.shape[2], device=vectors.device)
    if generated.slot_mask is not None:
        mask = generated.slot_mask[few].to(mask.dtype)
    nearest = []
    for x, m in zip(vectors, mask):  # [K, S, D], one row at a time: [K, N] distances
        weighted = (x.nan_to_num() * m.view(1, -1, 1)).flatten(1)
        norms = (table.square().sum(2) * m).sum(1)
        nearest.append((norms - 2 * weighted @ table.flatten(1).T).argmin(1))
    return torch.stack(nearest) if nearest else torch.zeros(0, vectors.shape[1], dtype=torch.int64, device=vectors.device)


def _part(positives: Positives, rows: slice) -> Positives:
    """Some rows of a batch."""
    side = None if positives.side is None else positives.side[rows]
    return Positives(positives.hrt[rows], positives.rows[rows], positives.key_head[rows], positives.key_tail[rows], side)


class _Tally:
    """Sums on the device; read once."""

    def __init__(self, num_entities: int, device: torch.device) -> None:
        self.sums: dict[str, list[Tensor]] = defaultdict(list)
        self.draws = torch.zeros(num_entities, dtype=torch.int64, device=device)

    def add(self, name: str, values: Tensor, counted: Tensor) -> None:
        """values and counted [B, K]."""
        self.sums[name].append(torch.stack([(values.double() * counted).sum(), counted.sum().double()]))

    def drew(self, ids: Tensor, counted: Tensor) -> None:
        self.draws.index_add_(0, ids.reshape(-1), counted.reshape(-1).long())

    def figures(self) -> dict[str, float]:
        found = {}
        for name, parts in self.sums.items():
            total, count = torch.stack(parts).sum(0).tolist()
            if count:
                found[name] = total / count
        drawn = int(self.draws.sum())
        if drawn:
            share = self.draws[self.draws > 0].double() / drawn
            n = len(self.draws)
            found["entropy"] = -(share * share.log()).sum().item() / math.log(n)
            found["coverage"] = len(share) / n
            found["distinct"] = len(share) / drawn
        return found
