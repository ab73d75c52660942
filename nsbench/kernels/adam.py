"""Adam (Kingma and Ba, ICLR 2015), by the kernel of torch that updates a tensor in one pass.

torch.optim.Adam(fused=True) gives the same bits, but its first use in a process imports torch's compiler: two seconds, which
every worker would take before its first run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
STATE = ("step", "exp_avg", "exp_avg_sq")  # of a parameter, as torch.optim calls them


class Adam:
    """`groups` are {"params": [...], "lr": rate}, and others of OPTIONS. Parameters without a gradient stay as they are."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        self.param_groups = [{**OPTIONS, **group, "params": list(group["params"])} for group in groups]
        if unknown := {name for group in self.param_groups for name in group} - {"params", *OPTIONS}:
            raise ValueError(f"a group of parameters has the options {', '.join(OPTIONS)}, not '{min(unknown)}'")
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[torch.dtype, list[Tensor]] = {}  # what one call of the kernel takes
            for x in group["params"]:
                if x.grad is not None:
                    alike.setdefault(x.dtype, []).append(x)
            for parameters in alike.values():
                steps, means, squares = zip(*(self._state(x).values() for x in parameters))
                torch._foreach_add_(steps, 1)
                gradients = [x.grad for x in parameters if x.grad is not None]
                torch._fused_adam_(
                    parameters,
                    gradients,
                    list(means),
                    list(squares),
                    [],
                    list(steps),
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                )

    def _state(self, x: Tensor) -> dict[str, Tensor]:
        if x not in self.state:
            step = torch.zeros((), dtype=torch.float32, device=x.device)
            self.state[x] = dict(zip(STATE, (step, torch.zeros_like(x), torch.zeros_like(x))))
        return self.state[x]

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for x in group["params"]:
                x.grad = None

    def _parameters(self) -> list[Tensor]:
        return [x for group in self.param_groups for x in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """The state by the parameters' places, and the learning rates."""
        state = {i: self.state[x] for i, x in enumerate(self._parameters()) if x in self.state}
        return {"state": state, "param_groups": [{"lr": group["lr"]} for group in self.param_groups]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for group, kept in zip(self.param_groups, saved["param_groups"], strict=True):
            group["lr"] = kept["lr"]
        parameters = self._parameters()
        self.state = {
            parameters[i]: {name: state[name].to(parameters[i].device).clone() for name in STATE}
            for i, state in saved["state"].items()
        }
