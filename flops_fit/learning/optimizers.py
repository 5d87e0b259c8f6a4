"""Optimizers beyond torch's own. Those of torch are used as they are, see configs/optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from flops_fit.errors import ConfigError


class Muon(Optimizer):
    """Muon for hidden matrices and AdamW for everything else, as one optimizer.

    Groups marked `matrix: True` get momentum that is orthogonalised before it is applied (Jordan
    et al. 2024): an update whose spectral norm is `lr` at every width, which is why their
    `lr_scale`, meant for Adam, is set to 1 here. The other groups go to AdamW at `adamw_lr`, by an
    `lr_scale` of adamw_lr / lr times their own.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adamw_lr: float = 0.01,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        groups = list(groups)
        matrices = [{**g, "lr_scale": 1.0} for g in groups if g.get("matrix")]
        others = [
            {**g, "lr_scale": g.get("lr_scale", 1.0) * adamw_lr / lr}
            for g in groups
            if not g.get("matrix")
        ]
        if not matrices or not others:
            raise ConfigError(
                f"muon got {len(matrices)} groups of hidden matrices and {len(others)} others, it "
                "needs both: mark the hidden 2-D matrices in the model's param_groups() with "
                "matrix=True, or use optimizer=adamw"
            )
        self._matrices = torch.optim.Muon(
            matrices, lr=lr, momentum=momentum, weight_decay=weight_decay
        )
        self._others = AdamW(
            others, lr=lr, betas=adamw_betas, weight_decay=weight_decay, fused=True
        )
        super().__init__([*self._matrices.param_groups, *self._others.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(isinstance(group["lr"], Tensor) for group in self._matrices.param_groups):
            step_by_tensor_rates(self._matrices)
        else:
            self._matrices.step()
        self._others.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"matrices": self._matrices.state_dict(), "others": self._others.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_state(self._matrices, state_dict["matrices"])
        load_state(self._others, state_dict["others"])
        self.param_groups = [*self._matrices.param_groups, *self._others.param_groups]


@torch.no_grad()
def step_by_tensor_rates(muon: torch.optim.Muon) -> None:
    """The update of `torch.optim.Muon` where rates are tensors, which its own `step` reads from
    the device: a CUDA graph can't hold that."""
    from torch.optim._muon import _zeropower_via_newtonschulz as orthogonalized

    for group in muon.param_groups:
        rate, momentum = group["lr"], group["momentum"]
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            state = muon.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            direction = gradient.lerp(average, momentum) if group["nesterov"] else average
            how = (group["ns_coefficients"], group["ns_steps"], group["eps"])
            update = orthogonalized(direction, *how)
            rows, columns = parameter.shape
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.sub_(update.type_as(parameter) * (rate * math.sqrt(max(1, rows / columns))))


def load_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load its tensors; its settings stay, since they follow from recipe and device."""
    if "param_groups" in saved:
        pairs = zip(optimizer.param_groups, saved["param_groups"], strict=True)
        groups = [{**ours, "params": theirs["params"]} for ours, theirs in pairs]
        saved = {**saved, "param_groups": groups}
    optimizer.load_state_dict(saved)
