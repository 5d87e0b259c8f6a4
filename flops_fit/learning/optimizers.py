"""Optimizers beyond torch's own. Those of torch are used as they are, see configs/optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
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
        self._matrices.step()
        self._others.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"matrices": self._matrices.state_dict(), "others": self._others.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._matrices.load_state_dict(state_dict["matrices"])
        self._others.load_state_dict(state_dict["others"])
        self.param_groups = [*self._matrices.param_groups, *self._others.param_groups]
