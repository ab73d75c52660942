"""AdaMF, adaptive multimodal fusion (Zhang et al., LREC-COLING 2024): an entity is an attention-weighted sum of its slots.

    slot 0      e_0 = the structural vector
    slot m > 0  e_m = W_m phi_m + b_m            phi_m: the raw feature vector
    weights     alpha = softmax_m(q . tanh(e_m)) over the slots that the entity has
    fused       e* = sum_m alpha_m e_m

One q serves all slots, and relations have no part in it (docs/notes/dhns.md 6.1). Slots follow the modalities' names in
alphabetical order. An entity without features, or a dataset without modalities, is its structural vector.

Token-level features become one phi_m before anything is learnt: the mean of the entity's tokens that are not all zeros.
Projections learn more slowly than the table (nsbench.kge.fusions.projection, and SLOWER); the papers have one rate for all.
The released code has no masks (a missing feature is whatever its file holds) and trains phi_m: `features=train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nsbench.contracts import Fusion, Need, Setting, pooled
from nsbench.kernels.operators import rows
from nsbench.kge.fusions.projection import Projection
from nsbench.registry import FUSIONS, option

# The entities' steps through a projection point the same way, those of the table's rows each their own. At equal rates the
# features take nearly all the weight before the structure has learnt; DistMult then ranks by chance (docs/features.md 2).
SLOWER = 10


@FUSIONS.register("adamf")
class AdaMF(Fusion):
    version = 3
    provides = frozenset({Need.SLOTS})

    @dataclass(frozen=True)
    class Options:
        features: str = option(
            "freeze",
            "freeze: raw feature vectors are constants; train: they are parameters, [N, F] more per modality (the "
            "released code)",
            choices=("freeze", "train"),
        )

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.modalities = sorted(setting.features)
        self.project = nn.ModuleList()
        for name in self.modalities:
            phi = pooled(setting.features[name], setting.present[name])
            if options.features == "train":
                self.register_parameter(f"phi_{name}", nn.Parameter(phi))
            else:  # the dataset has them: not part of the state
                self.register_buffer(f"phi_{name}", phi, persistent=False)
            self.project.append(Projection(phi, setting.present[name], setting.entity_width))
        bound = setting.entity_width**-0.5  # as torch's linear layers
        self.q = nn.Parameter(torch.empty(setting.entity_width).uniform_(-bound, bound))
        structure = torch.ones(setting.graph.num_entities, dtype=torch.bool, device=setting.graph.device)
        present = [setting.present[name] for name in self.modalities]
        self.register_buffer("mask", torch.stack([structure, *present], dim=1), persistent=False)  # [N, S]
        self.mask: Tensor

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        rest = [parameter for name, parameter in self.named_parameters() if not name.startswith("project.")]
        projections = [layer for layer in self.project if isinstance(layer, Projection)]
        return [{"params": rest, "lr": learning_rate}, *(layer.param_group(learning_rate / SLOWER) for layer in projections)]

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """The fused table [N, D]."""
        if not self.modalities:
            return {"fused": entity}
        phi = [getattr(self, f"phi_{name}") for name in self.modalities]
        return {"fused": _Attention.apply(self.q, self.mask, entity, *self._projected(phi))}

    def some(self, entity: Tensor, ids: Tensor) -> Tensor:
        """Rows of the fused table, [n, D] for ids [n]."""
        if not self.modalities:
            return rows(entity, ids)
        phi = [rows(getattr(self, f"phi_{name}"), ids) for name in self.modalities]
        return _Attention.apply(self.q, rows(self.mask, ids), rows(entity, ids), *self._projected(phi))

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        """[..., S, D] for ids [...]: only the rows asked for are projected. A missing modality's slot holds its bias b_m."""
        flat = ids.reshape(-1)
        phi = [rows(getattr(self, f"phi_{name}"), flat) for name in self.modalities]
        slots = torch.stack([rows(entity, flat), *self._projected(phi)], dim=1)
        return slots.view(*ids.shape, *slots.shape[1:])

    def slot_mask(self, ids: Tensor) -> Tensor:
        """bool [..., S]."""
        return rows(self.mask, ids)

    def fuse(self, slots: Tensor, mask: Tensor) -> Tensor:
        """[..., S, D] and bool [..., S] -> [..., D]; whatever slots outside of the mask hold, NaN even, has no effect."""
        flat = slots.masked_fill(~mask.unsqueeze(-1), 0.0).reshape(-1, *slots.shape[-2:])
        return _Attention.apply(self.q, mask.reshape(-1, mask.shape[-1]), *flat.unbind(1)).view(*mask.shape[:-1], -1)

    def _projected(self, phi: list[Tensor]) -> list[Tensor]:
        """[n, D] for each modality's raw vectors [n, F]."""
        return [project(x) for project, x in zip(self.project, phi)]


class _Attention(torch.autograd.Function):
    """e* [n, D] from q [D], mask bool [n, S] and the slots, S times [n, D], finite. Slot 0 is in every mask.

    Written out because autograd takes a quarter longer for it at [15000, 200], and this is done for the whole table.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, mask: Tensor, *slots: Tensor) -> Tensor:
        squashed = [_tanh(e) for e in slots]
        logits = torch.stack([x @ q for x in squashed], dim=1)
        alpha = logits.masked_fill_(~mask, -torch.inf).softmax(1)
        ctx.save_for_backward(q, alpha, *slots, *squashed)
        out = slots[0] * alpha[:, :1]
        for m, e in enumerate(slots[1:], start=1):
            out.addcmul_(e, alpha[:, m : m + 1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, alpha, *saved = ctx.saved_tensors
        slots, squashed = saved[: alpha.shape[1]], saved[alpha.shape[1] :]
        to_alpha = torch.stack([torch.linalg.vecdot(grad, e) for e in slots], dim=1)
        to_logits = alpha * (to_alpha - (alpha * to_alpha).sum(1, keepdim=True))
        to_q = torch.zeros_like(q)
        to_slots: list[Tensor | None] = [None] * len(squashed)
        for m, x in enumerate(squashed):
            to_q.addmv_(x.T, to_logits[:, m])
            if ctx.needs_input_grad[2 + m]:  # not those of generated vectors
                slope = torch.mul(x, x).neg_().add_(1).mul_(q)  # of q . tanh
                to_slots[m] = slope.mul_(to_logits[:, m : m + 1]).addcmul_(grad, alpha[:, m : m + 1])
        return to_q, None, *to_slots


def _tanh(x: Tensor) -> Tensor:
    """Up to rounding; torch's own takes twice as long on a CPU."""
    return (x * 2).sigmoid_().mul_(2).sub_(1)
