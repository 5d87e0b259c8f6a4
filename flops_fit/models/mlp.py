"""A multilayer perceptron: the smallest model family that obeys a scaling law."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MLP(nn.Module):
    """`depth` hidden ReLU layers of `width` units and a linear output that starts at zero.

    `width` scales the family; `base_width` is the width at which the learning rate is meant
    literally, see `param_groups`.
    """

    def __init__(
        self,
        width: int,
        in_features: int,
        out_features: int = 1,
        depth: int = 3,
        base_width: int = 32,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth is {depth}: an MLP needs at least one hidden layer")
        self.lr_scale = base_width / width
        self.first = he_linear(in_features, width)
        self.hidden = nn.Sequential(
            *(layer for _ in range(depth - 1) for layer in (nn.ReLU(), he_linear(width, width)))
        )
        self.output = nn.Linear(width, out_features)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        hidden: Tensor = self.hidden(self.first(x)).relu()  # (B, width)
        prediction: Tensor = self.output(hidden)
        return prediction

    def num_params(self) -> int:
        """N of the law: all weights and biases."""
        return sum(p.numel() for p in self.parameters())

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups with the `lr_scale` by which one Adam learning rate serves all widths.

        Maximal update parametrization (Yang et al. 2022, table 8): matrices with a fan-in of
        `width` take base_width / width, everything else 1. `matrix` marks those between two
        hidden layers.
        """
        hidden = [p for p in self.hidden.parameters() if p.ndim == 2]
        biases = [p for p in self.parameters() if p.ndim == 1]
        groups = [
            {"params": [self.first.weight, *biases], "lr_scale": 1.0, "matrix": False},
            {"params": hidden, "lr_scale": self.lr_scale, "matrix": True},
            {"params": [self.output.weight], "lr_scale": self.lr_scale, "matrix": False},
        ]
        return [group for group in groups if group["params"]]


def he_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A layer that keeps ReLU activations at one size (He et al. 2015), biases at zero."""
    layer = nn.Linear(fan_in, fan_out)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
