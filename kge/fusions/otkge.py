"""OTKGE (Cao et al., NeurIPS 2022): features are carried into the structural space by optimal transport, and added up.

    e = (1 - sum of shares) s + share sum_m (T_m + Delta_m)^T phi_m       Delta_m is learnt, T_m a transport plan

The released code transports *coordinates*: T_m is the mean, over ten entities, of the plan between the F numbers of phi and
the D numbers of s, each with equal mass, and the same T_m serves all entities. `plan=sorted` is the optimal plan in one
dimension, which matches sorted numbers, times D, so that D T^T phi averages phi's numbers; no gradient goes through it,
and it is made anew every 100 steps. `released` is the code's: entities 0 to 9, kernel exp(-0.1 C) of squared differences,
Sinkhorn, times 300; it is almost constant. `off` has T = 0. None can be called the paper's, which speaks of distributions
of modalities.

OTKGE is `--kge complex --fusion otkge`; its own loss is `--sampler one_vs_all`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Setting
from nsbench.errors import Misuse
from nsbench.kernels.operators import rows
from nsbench.kge.fusions import maps
from nsbench.kge.fusions.mix import Mix, MixOptions
from nsbench.registry import FUSIONS, option

ANCHORS, EVERY = 10, 100
SHARPNESS, SCALE, ITERATIONS = 0.1, 300.0, 1000  # of the released plan


class Transport(maps.Linear):
    """(T + Delta)^T phi: `weight` [D, F] is Delta^T, `plan` [D, F] is T^T."""

    def __init__(self, phi: Tensor, present: Tensor, width: int, kind: str) -> None:
        super().__init__(phi, present, width, bias=False)
        there = present.nonzero().squeeze(1)
        anchors = there[torch.randperm(len(there), device=there.device)[:ANCHORS]]
        self.kind = kind
        self.register_buffer("anchors", torch.arange(min(ANCHORS, len(phi))) if kind == "released" else anchors)
        self.register_buffer("plan", torch.zeros(width, phi.shape[1]))
        self.anchors: Tensor
        self.plan: Tensor
        self.steps = 0

    def slots(self, structure: Tensor, ids: Tensor | None = None) -> Tensor:
        phi = self.phi if ids is None else rows(self.phi, ids)
        return F.linear(phi, self.weight if self.kind == "off" else self.weight + self.plan)

    @torch.no_grad()
    def refresh(self, structure: Tensor) -> None:
        """The plan for the structural table [N, D], where it is time for a new one; called once a step."""
        if self.steps % EVERY == 0 and len(self.anchors):
            made = sorted_plan if self.kind == "sorted" else sinkhorn_plan
            factor = structure.shape[1] if self.kind == "sorted" else SCALE
            plans = [made(self.phi[a], structure[a]) for a in self.anchors]
            self.plan.copy_(torch.stack(plans).mean(0).T * factor)
        self.steps += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)


@FUSIONS.register("otkge")
class OTKGE(Mix):
    version = 1

    @dataclass(frozen=True)
    class Options(MixOptions):
        share: float = option(0.15, "weight of each modality in an entity's vector; structure has the rest", minimum=0)
        plan: str = option("sorted", "how features are carried over", choices=("sorted", "released", "off"))

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.captured = options.plan == "off"  # else steps are counted

    def shares(self, setting: Setting) -> dict[str, float]:
        if len(setting.features) * self.options.share > 1:
            raise Misuse(f"fusion.share {self.options.share:g} of {len(setting.features)} modalities is above 1; lower it")
        return dict.fromkeys(setting.features, self.options.share)

    def made(self, setting: Setting, name: str) -> maps.Linear:
        phi = maps.vectors(setting, name, self.options)
        return Transport(phi, setting.present[name], setting.entity_width, self.options.plan)

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        for layer in self.project:
            if isinstance(layer, Transport) and layer.kind != "off" and torch.is_grad_enabled():
                layer.refresh(entity)
        return super().views(entity)


def sorted_plan(phi: Tensor, s: Tensor) -> Tensor:
    """[F, D]: the optimal transport between the numbers of phi [F] and s [D], mass 1/F and 1/D each: both in order."""
    edges = [torch.arange(len(x) + 1, dtype=x.dtype, device=x.device) / len(x) for x in (phi, s)]
    (low, high), (left, right) = ((edge[:-1], edge[1:]) for edge in edges)
    mass = torch.minimum(high.unsqueeze(1), right) - torch.maximum(low.unsqueeze(1), left)
    return mass.clamp_min(0)[phi.argsort(stable=True).argsort()][:, s.argsort(stable=True).argsort()]


def sinkhorn_plan(phi: Tensor, s: Tensor, sharpness: float = SHARPNESS) -> Tensor:
    """[F, D]: entropic transport with the kernel exp(-sharpness (phi_i - s_j)^2), uniform marginals, in the log domain."""
    kernel = -sharpness * (phi.unsqueeze(1) - s).square()
    u, v = torch.zeros_like(phi), torch.zeros_like(s)
    mass: Any = [-torch.log(torch.tensor(float(len(x)), dtype=x.dtype)) for x in (phi, s)]
    for _ in range(ITERATIONS):
        u = mass[0] - (kernel + v).logsumexp(1)
        new = mass[1] - (kernel + u.unsqueeze(1)).logsumexp(0)
        done, v = (new - v).abs().max() < 1e-6, new
        if done:
            break
    return (kernel + u.unsqueeze(1) + v).exp()
