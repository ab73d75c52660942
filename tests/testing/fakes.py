"""One small sampler of each kind that the contract promises room for; registered by the tests alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsbench import contracts
from nsbench.contracts import Auxiliary, Fusion, Need, Negatives, Objective, Positives, Sampler, Setting
from nsbench.contracts.view import View
from nsbench.registry import option


def side_per_row(positives: Positives, view: View) -> Tensor:
    """bool [B], also where the protocol draws one per slot: these samplers compare the candidates of a row."""
    side = view.draw_side(positives)
    return side if side.dim() == 1 else side[:, 0]


def drawn(positives: Positives, view: View, k: int) -> Negatives:
    """k uniform negatives; a protocol that draws a side per slot draws K of them."""
    side = view.draw_side(positives) if k == view.negatives else side_per_row(positives, view)
    key = positives.key(side)
    return Negatives(side, ids=view.graph.draw(key, k, view.rng), valid=view.graph.drawable(key, k))


class Stateless(Sampler):
    """Ids that depend on nothing but the generator."""

    def sample(self, positives: Positives, view: View) -> Negatives:
        return drawn(positives, view, self.k)


class Cache(Sampler):
    """Keeps, for every query, the hardest entities met so far, and draws from them."""

    size = 6

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.register_buffer("cache", torch.zeros(setting.graph.num_keys + 1, self.size, dtype=torch.int64))
        self.cache: Tensor

    def pretrain(self, view: View) -> None:
        keys = torch.arange(len(self.cache), device=view.device)
        self.cache.copy_(view.graph.draw(keys, self.size, view.rng))

    def sample(self, positives: Positives, view: View) -> Negatives:
        side = side_per_row(positives, view)
        key = positives.key(side)
        fresh = view.graph.draw(key, self.size, view.rng)
        candidates = torch.cat([self.cache[key], fresh], dim=1)  # [B, 2 size]
        best = view.score_ids(positives, side, candidates).topk(self.size, dim=1).indices
        self.cache[key] = candidates.gather(1, best)
        slot = torch.randint(self.size, (len(positives), self.k), generator=view.rng, device=view.device)
        return Negatives(side, ids=self.cache[key].gather(1, slot), valid=view.graph.drawable(key, self.k))


class Reinforce(Sampler):
    """Learns one logit per entity from the scores of what it drew."""

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.logits = nn.Parameter(torch.zeros(setting.graph.num_entities))

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": [self.logits], "lr": 10 * learning_rate}]

    def sample(self, positives: Positives, view: View) -> Negatives:
        side = side_per_row(positives, view)
        key = positives.key(side)
        candidates = view.graph.draw(key, 6, view.rng)
        log_p = self.logits[candidates].log_softmax(1)
        chosen = torch.multinomial(log_p.exp(), self.k, replacement=True, generator=view.rng)
        valid = view.graph.drawable(key, self.k)
        return Negatives(side, ids=candidates.gather(1, chosen), log_q=log_p.gather(1, chosen), valid=valid)

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor:
        assert negatives.log_q is not None
        return -(s_neg * negatives.log_q).mean()


class StraightThrough(Sampler):
    """Chooses by Gumbel-argmax; gradients pass through the soft choice, and a contrast on live vectors is added."""

    requires = frozenset({Need.LIVE})
    coupled = True
    candidates = 5
    tau = 0.5

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.logits = nn.Parameter(torch.zeros(setting.graph.num_entities))

    def sample(self, positives: Positives, view: View) -> Negatives:
        side = side_per_row(positives, view)
        key = positives.key(side)
        pool = view.graph.draw(key, self.candidates, view.rng)  # [B, C]
        uniform = torch.rand(len(key), self.k, self.candidates, generator=view.rng, device=view.device)
        noise = -(-uniform.clamp(1e-6, 1 - 1e-6).log()).log()
        soft = ((self.logits[pool].unsqueeze(1) + noise) / self.tau).softmax(2)  # [B, K, C]
        vectors = view.vectors(pool)  # [B, C, D], live
        delta = (soft - soft.detach()) @ vectors.detach()
        tape = {"soft": soft, "vectors": vectors, "anchor": view.vectors(positives.anchor(side))}
        return Negatives(
            side, ids=pool.gather(1, soft.argmax(2)), delta=delta, tape=tape, valid=view.graph.drawable(key, self.k)
        )

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor:
        """Draws anchors away from the pool: the gradient reaches the model's entities and, through soft, the logits."""
        tape = negatives.tape
        likeness = (tape["vectors"] * tape["anchor"].unsqueeze(1)).sum(2)  # [B, C]
        return 0.1 * (tape["soft"].mean(1) * likeness).sum(1).mean()


class Generated(Sampler):
    """Vectors for every slot, from a network that it trains itself, inside sample, with an optimiser of its own."""

    requires = frozenset({Need.FEATURES})

    @dataclass(frozen=True)
    class Options:
        joint: str = option("score", "how slots become one score", choices=("score", "fuse"))
        anchors: bool = option(False, "generate the kept end too")

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.net = nn.Linear(setting.entity_width, setting.entity_width)
        self.own = torch.optim.Adam(self.net.parameters(), lr=1e-3, fused=True)
        self.steps_taken = 0

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return []

    def get_extra_state(self) -> dict[str, Any]:
        return {"own": self.own.state_dict(), "steps_taken": self.steps_taken}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.own.load_state_dict(state["own"])
        self.steps_taken = state["steps_taken"]

    def sample(self, positives: Positives, view: View) -> Negatives:
        side = side_per_row(positives, view)
        truth = view.slots(positives.answer(side))  # [B, S, D]
        noise = torch.randn(truth.shape, generator=view.rng, device=view.device)
        self.own.zero_grad()
        (self.net(truth + noise) - truth).square().mean().backward()
        self.own.step()
        self.steps_taken += 1
        with torch.no_grad():
            shape = (len(side), self.k, *truth.shape[1:])
            blur = torch.randn(shape, generator=view.rng, device=view.device)
            level = torch.arange(1, self.k + 1, device=view.device) / self.k  # [K], the last is the easiest
            vectors = self.net(truth.unsqueeze(1) + level.view(1, -1, 1, 1) * blur)
            kept = view.slots(positives.anchor(side)).unsqueeze(1) + 0.1 * blur
        return Negatives(
            side,
            generated=contracts.Generated(
                vectors=vectors,
                slot_mask=view.slot_mask(positives.answer(side)),
                anchors=kept if self.options.anchors else None,
                joint=self.options.joint,
            ),
            weight=(1 - 0.5 * level).expand(len(side), -1),
            margin_shift=(-0.5 * view.margin * (1 - level)).expand(len(side), -1),
            reduce="weighted",
            positive="per_negative",
        )


class TwoBlocks(Sampler):
    """Uniform negatives, and a second block that counts a quarter and brings no positive term."""

    def sample(self, positives: Positives, view: View) -> list[Negatives]:
        second = drawn(positives, view, self.k + 1)
        second.coef, second.positive = 0.25, "none"
        return [drawn(positives, view, self.k), second]


class Alternating(Reinforce):
    """Learns in even passes, lets the model learn in odd ones."""

    def phase(self, view: View) -> str:  # type: ignore[override]
        return "sampler" if view.epoch % 2 == 0 else "model"


class Memory(Sampler):
    """Counts what happens to it, in numbers that only get_extra_state keeps, and lets them steer its draws."""

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.counts = {"pretrained": 0, "sampled": 0}
        self.epochs: list[int] = []

    def pretrain(self, view: View) -> None:
        self.counts["pretrained"] += 1

    def start_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def get_extra_state(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "epochs": list(self.epochs)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.counts, self.epochs = dict(state["counts"]), list(state["epochs"])

    def sample(self, positives: Positives, view: View) -> Negatives:
        self.counts["sampled"] += 1
        block = drawn(positives, view, self.k)
        block.coef = 1.0 + 0.01 * self.counts["sampled"]
        return block


class OneVsAll(Objective):
    """Cross-entropy of the tail among all entities."""

    def loss(self, positives: Positives, scoring: Any, view: View) -> Tensor:
        side = torch.zeros(len(positives), dtype=torch.bool, device=view.device)
        return nn.functional.cross_entropy(scoring.all(positives.h, positives.r, side), positives.t)


class Shrinking(Auxiliary):
    """Half the squared distance of the batch's heads to a learnt centre."""

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.centre = nn.Parameter(torch.ones(setting.entity_width))

    def loss(self, positives: Positives, view: View) -> Tensor:
        return 0.5 * (view.vectors(positives.h) - self.centre).square().sum(1).mean()


class Slots(Fusion):
    """The structural vector and a projection of each modality; fused by their mean."""

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.names = sorted(setting.features)
        self.features = setting.features
        self.project = nn.ModuleDict(
            {name: nn.Linear(x.shape[-1], setting.entity_width) for name, x in setting.features.items()}
        )
        every = torch.ones(setting.graph.num_entities, dtype=torch.bool, device=setting.graph.device)
        self.mask = torch.stack([every, *(setting.present[name] for name in self.names)], dim=1)  # [N, S]

    def _table(self, entity: Tensor) -> Tensor:
        """[N, S, D]."""
        modal = []
        for name in self.names:
            x = self.features[name]
            modal.append(self.project[name](x if x.dim() == 2 else x.mean(1)))
        return torch.stack([entity, *modal], dim=1)

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        return {"fused": self.fuse(self._table(entity), self.mask)}

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        return self._table(entity)[ids]

    def slot_mask(self, ids: Tensor) -> Tensor:
        return self.mask[ids]

    def fuse(self, slots: Tensor, mask: Tensor) -> Tensor:
        present = mask.unsqueeze(-1).to(slots.dtype)
        return (slots * present).sum(-2) / present.sum(-2)
