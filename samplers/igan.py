"""IGAN (Wang, Li and Pan, AAAI 2018): a network proposes negatives out of all entities, paid for fooling the model.

    p(. | query) = softmax(W2 relu(W1 [e(kept end) : q(relation)] + b1) + b2)    over all N entities
    reward = tanh(s(negative) - s(positive) + margin)    REINFORCE: mean of (reward - b) log p(negative)
e and q are the generator's own; q has a second vector per relation, which serves the queries for a tail. A reward is above
zero exactly where the hinge loss of the pair would be. Generator and model learn in turns, a pass over train each, the
generator first. No code was published; see docs/notes/classic_samplers.md section 6.

Departures. Known training facts have probability 0 (`filtered`): the generator would be paid best for those. A running mean
of the rewards is subtracted (`baseline`). K independent draws per positive where the paper has one. Not stated in the
paper, so chosen: hidden width = embedding width, weight decay 1e-5, learning rate 1e-3, the margin of the reward
(1, whatever the model's). The model keeps the experiment's loss and is not held inside the unit ball.

Variant `paper`: no filter, no baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nsbench.contracts import Negatives, Positives, Sampler, Setting, View
from nsbench.kernels import operators as kernels
from nsbench.kernels.operators import rows
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.parts.reinforce import Advantage, on_side, reinforce_loss


class Generator(nn.Module):
    """Queries to logits over all entities; N d + 2 R d + (2d + 1) d + (d + 1) N parameters."""

    def __init__(self, num_entities: int, num_relations: int, width: int) -> None:
        super().__init__()
        self.num_relations = num_relations
        self.entity = nn.Embedding(num_entities, width)
        self.relation = nn.Embedding(2 * num_relations, width)
        self.hidden = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, num_entities)

    def forward(self, anchor: Tensor, relation: Tensor, side: Tensor) -> Tensor:
        """[B, N] for the kept entity, the relation and the replaced side, [B] each."""
        return self.out(self.hidden_of(anchor, relation, side))

    def hidden_of(self, anchor: Tensor, relation: Tensor, side: Tensor) -> Tensor:
        """[B, d]."""
        directed = relation + self.num_relations * ~side  # the second vectors: the tail is asked for
        x = torch.cat([rows(self.entity.weight, anchor), rows(self.relation.weight, directed)], dim=1)
        return self.hidden(x).relu()


@SAMPLERS.register("igan")
class IGAN(Sampler):
    version = 2
    every_entity = True

    @dataclass(frozen=True)
    class Options:
        width: int = option(100, "embedding and hidden width of the generator", minimum=1, search=(20, 50, 100, 200))
        learning_rate: float = option(1e-3, "the generator's learning rate", minimum=0, search=(5e-5, 1e-4, 1e-3, 1e-2))
        margin: float = option(1.0, "in the reward, tanh(s_neg - s_pos + margin)", minimum=0, search=(0.5, 1.0, 2.0, 4.0))
        l2: float = option(1e-5, "weight decay of the generator", minimum=0)
        baseline: str = option("running", "taken off rewards: their running mean, or nothing", choices=("running", "none"))
        filtered: bool = option(True, "never draw a known training fact")
        turns: str = option(
            "epoch",
            "generator and model learn in turns: passes, steps, or both at every step",
            choices=("epoch", "step", "none"),
        )

    variants = {"paper": {"baseline": "none", "filtered": False}}

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.filtered = options.filtered
        self.generator = Generator(setting.graph.num_entities, setting.graph.num_relations, options.width)
        self.advantage = Advantage(options.baseline)
        self.passes = 0  # begun; view.epoch would skip every other one where a batch holds all of train twice

    def get_extra_state(self) -> dict[str, int]:
        return {"passes": self.passes}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.passes = state["passes"]

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        rate = self.options.learning_rate
        return [{"params": list(self.generator.parameters()), "lr": rate, "weight_decay": self.options.l2}]

    def start_epoch(self, epoch: int) -> None:
        self.passes += 1

    def phase(self, view: View) -> Literal["both", "sampler", "model"]:
        if self.options.turns == "none":
            return "both"
        turn = view.step if self.options.turns == "step" else self.passes - 1
        return "sampler" if turn % 2 == 0 else "model"

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K draws per positive; ids and log_q are [B, K]. log_q carries its graph unless it is the model's turn."""
        side = view.draw_side(positives)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.phase(view) != "model"):
            ids, log_q = on_side(side, lambda end: self._propose(positives, end, view))
        valid = view.graph.drawable(positives.key(side), self.k) if self.filtered else None
        return Negatives(side, ids=ids, log_q=log_q, valid=valid)

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor:
        assert negatives.log_q is not None
        reward = torch.tanh(s_neg - s_pos.view(len(s_neg), -1) + self.options.margin)
        return reinforce_loss(self.advantage(reward, negatives.valid), negatives.log_q, negatives.valid)

    def _propose(self, positives: Positives, side: Tensor, view: View) -> tuple[Tensor, Tensor]:
        u = torch.rand(len(positives), self.k, generator=view.rng, device=view.device, dtype=torch.float64)
        if not kernels.serve(self.generator.out.weight):
            p = self.logits(positives, side, view).softmax(1)
            below = p.detach().cumsum(1, dtype=torch.float64)
            ids = torch.searchsorted(below, u * below[:, -1:], right=True).clamp_(max=p.shape[1] - 1)
            return ids, p.gather(1, ids).log()
        hidden = self.generator.hidden_of(positives.anchor(side), positives.r, side)
        key = positives.key(side)
        if not self.filtered:
            key = torch.full_like(key, view.graph.num_keys)  # of queries that train does not answer
        return kernels.choices(hidden, self.generator.out.weight, self.generator.out.bias, view.graph.answer_lists(key), u)

    def logits(self, positives: Positives, side: Tensor, view: View) -> Tensor:
        """[B, N] for the end that side [B] names; -inf for known answers, unless every entity is one."""
        logits = self.generator(positives.anchor(side), positives.r, side)
        if self.filtered:
            key = positives.key(side)
            known = view.graph.answers(key)
            if view.graph.any_key_full:
                known = known & (view.graph.non_positives.free[key] > 0).unsqueeze(1)
            with torch.no_grad():  # the mask needs no backward pass: where p is 0, so is the softmax's gradient
                logits.masked_fill_(known, -torch.inf)
        return logits
