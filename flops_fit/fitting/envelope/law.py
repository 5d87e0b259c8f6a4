"""The line through the envelope's points as a law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.fitting.points import Points
from flops_fit.laws import Array, FlopRule, PowerLaw
from flops_fit.records import numbers_in, of_type

POINT_KEYS = ("id", "num_params", "num_tokens", "loss")


@dataclass(frozen=True)
class EnvelopeLaw:
    """N_opt and loss as power laws of C through the envelope's points; D_opt by the FLOP rule.

    `points` are the checkpoints on the envelope, `num_final` how many of them end their run: far
    fewer than all means that runs with unfinished schedules decide the law.
    """

    line: PowerLaw
    loss_line: PowerLaw
    points: Points
    num_final: int
    flop_rule: FlopRule

    @property
    def a(self) -> float:
        return self.line.exponent

    def N_opt(self, flops: ArrayLike) -> Array:
        return self.line(flops)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return self.loss_line(flops)

    def to_json(self) -> dict[str, Any]:
        """All but the FLOP rule, which stands for itself in law.json."""
        columns = (self.points.num_params, self.points.num_tokens, self.points.loss)
        rows = zip(self.points.ids, *(column.tolist() for column in columns), strict=True)
        return {
            "a": self.a,
            "N_coefficient": self.line.coefficient,
            "loss_coefficient": self.loss_line.coefficient,
            "loss_exponent": self.loss_line.exponent,
            "num_final": self.num_final,
            "points": [dict(zip(POINT_KEYS, row, strict=True)) for row in rows],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], rule: FlopRule) -> EnvelopeLaw:
        ids, n, d, loss = ([point[key] for point in data["points"]] for key in POINT_KEYS)
        num_params, num_tokens = np.array(n, float), np.array(d, float)
        flops = rule(num_params) * num_tokens
        line = numbers_in(data, "N_coefficient", "a")
        loss_line = numbers_in(data, "loss_coefficient", "loss_exponent")
        return cls(
            line=PowerLaw(*line.values()),
            loss_line=PowerLaw(*loss_line.values()),
            points=Points(tuple(ids), num_params, num_tokens, np.array(loss, float), flops, rule),
            num_final=of_type(int, data["num_final"], "num_final"),
            flop_rule=rule,
        )
