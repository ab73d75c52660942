"""KBGAN (Cai and Wang, NAACL 2018): a small second model proposes the negatives and is paid in their plausibility.

For each positive, N_s candidates are uniform; the generator's softmax over its own scores of them, q = softmax(s_G / tau),
draws the negatives. The model learns from those as from any others. The generator then learns by REINFORCE,
    loss_G = - mean (reward - b) log q(chosen),    reward = the model's score of the negative, before its own step,
where b is the mean of recent rewards. The generator is trained beforehand as a model of its own: cross-entropy of the true
entity among N_s - 1 random ones. See docs/notes/classic_samplers.md section 5.

Departures. Candidates leave out known training facts, which the reward would favour above all (`filtered`). Rewards are
divided by their running deviation (`normalise`), because the models' score scales differ widely. K negatives per positive
where the paper has one: K independent draws among max(N_s, K) candidates. Pre-training stops when the loss on a twentieth
of train, held out from it, stalls; the released code asks the validation split every 50 epochs. The model starts from
scratch, as with every other sampler; the released code starts it from a trained one. The side is the protocol's, there
Bernoulli's. The loss is a mean, there a sum; Adam does not mind.

Variants. `paper`: no filter, raw rewards, up to 1000 epochs of pre-training. `released` is that with the previous pass's
mean as baseline and 0 in the first pass.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Negatives, Positives, Sampler, Scoring, Setting, View
from nsbench.kernels.adam import Adam
from nsbench.registry import FUSIONS, MODELS, SAMPLERS, Range, option
from nsbench.samplers.parts.reinforce import Advantage, choose, on_side, reinforce_loss

START = 0.3  # range of the generator's initial values: near 0 a product model hardly moves, and weight decay wins
BATCHES, SMALLEST = 100, 128  # steps per pass of pre-training, as published, unless their batches got too small
HELD_OUT = 20  # one in so many training triples decides when pre-training stops


@SAMPLERS.register("kbgan")
class KBGAN(Sampler):
    @dataclass(frozen=True)
    class Options:
        generator: str = option("distmult", "model of the generator: any model of nsbench list")
        width: int = option(50, "its dimension", minimum=1)
        candidates: int = option(20, "N_s, entities that it chooses among; K where that is more", minimum=2)
        tau: float = option(1.0, "temperature of its softmax", minimum=0.01)
        learning_rate: float = option(1e-3, "the generator's learning rate", minimum=0, search=Range(1e-4, 1e-2))
        l2: float = option(
            1.0, "lambda; its weight decay is lambda over the number of training triples", minimum=0, search=(0.1, 1.0)
        )
        baseline: str = option("running", "mean of recent rewards or of the last pass", choices=("running", "epoch", "none"))
        normalise: bool = option(True, "divide rewards by their running deviation")
        filtered: bool = option(True, "leave known training facts out of the candidates")
        pretrain_epochs: int = option(200, "most passes of pre-training; 0: none", minimum=0)
        patience: int = option(5, "passes without a lower held-out loss before it stops", minimum=1)

    variants = {
        "paper": {"normalise": False, "filtered": False, "pretrain_epochs": 1000},
        "released": {"normalise": False, "filtered": False, "pretrain_epochs": 1000, "baseline": "epoch"},
    }

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        graph, model = setting.graph, MODELS.get(options.generator)
        self.filtered = options.filtered
        self.candidates = max(options.candidates, self.k)
        margin = START * options.width - 2  # moves all scores alike, which a softmax ignores; sets the initial range
        self.generator = model(
            graph.num_entities, graph.num_relations, options.width, margin, model.Options(), torch.default_generator
        )
        self.decay = options.l2 / len(graph)  # on a mean loss; the released code has lambda over batches, on a sum
        self.plain = FUSIONS.get("none")(setting, None)  # the generator has no features
        self.advantage = Advantage(options.baseline, options.normalise)

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        rate = self.options.learning_rate
        return [{"params": list(self.generator.parameters()), "lr": rate, "weight_decay": self.decay}]

    def start_epoch(self, epoch: int) -> None:
        self.advantage.start_pass()

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K of the candidates per positive, by the generator's taste; ids and log_q are [B, K], log_q with its graph."""
        side = view.draw_side(positives)
        ids, log_q = on_side(side, lambda end: self._propose(positives, end, view))
        valid = view.graph.drawable(positives.key(side), self.k) if self.filtered else None
        return Negatives(side, ids=ids, log_q=log_q, valid=valid)

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor:
        assert negatives.log_q is not None
        return reinforce_loss(self.advantage(s_neg, negatives.valid), negatives.log_q, negatives.valid)

    def pretrain(self, view: View) -> None:
        """Train the generator alone, keep its state of the lowest held-out loss, stop when that stalls."""
        adam = Adam(self.param_groups(0.0))
        shuffled = torch.randperm(len(view.graph), generator=view.rng, device=view.device)
        share = len(shuffled) // HELD_OUT
        held_out, rest = self._quiz(shuffled[: max(share, 1)], view), shuffled[share:]
        best, kept, stale = float("inf"), copy.deepcopy(self.generator.state_dict()), 0
        for _ in range(self.options.pretrain_epochs):
            order = torch.randperm(len(rest), generator=view.rng, device=view.device)
            for rows in rest[order].split(max(len(rest) // BATCHES, SMALLEST)):
                self._mistake(*self._quiz(rows, view), view).backward()
                adam.step()
                adam.zero_grad()
            with torch.no_grad():
                loss = self._mistake(*held_out, view).item()
            stale = 0 if loss < best else stale + 1
            if stale == 0:
                best, kept = loss, copy.deepcopy(self.generator.state_dict())
            elif stale == self.options.patience:
                break
        self.generator.load_state_dict(kept)

    def _propose(self, positives: Positives, side: Tensor, view: View) -> tuple[Tensor, Tensor]:
        candidates = self._draw(positives.key(side), self.candidates, view)  # [B, N_s]
        chosen, log_q = choose(self.scores(positives, side, candidates, view) / self.options.tau, self.k, view.rng)
        return candidates.gather(1, chosen), log_q

    def scores(self, positives: Positives, side: Tensor, ids: Tensor, view: View) -> Tensor:
        """s_G [B, M] of ids [B, M] in place of the end that side [B] names."""
        return Scoring(self.generator, self.plain, view.graph).ids(positives.anchor(side), positives.r, side, ids)

    def _draw(self, key: Tensor, count: int, view: View) -> Tensor:
        if self.filtered:
            return view.graph.draw(key, count, view.rng)
        return torch.randint(view.graph.num_entities, (len(key), count), generator=view.rng, device=view.device)

    def _quiz(self, rows: Tensor, view: View) -> tuple[Positives, Tensor, Tensor]:
        """Training triples, a side for each, and candidates [B, N_s] of which the first is the truth."""
        positives = view.graph.positives(rows)
        side = torch.rand(len(rows), generator=view.rng, device=view.device) < 0.5
        wrong = self._draw(positives.key(side), self.options.candidates - 1, view)
        return positives, side, torch.cat([positives.answer(side).unsqueeze(1), wrong], dim=1)

    def _mistake(self, positives: Positives, side: Tensor, candidates: Tensor, view: View) -> Tensor:
        """Mean cross-entropy of the truth among the candidates."""
        scores = self.scores(positives, side, candidates, view)  # without tau, as released
        return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))
