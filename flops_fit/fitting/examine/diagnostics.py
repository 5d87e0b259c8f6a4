"""What a person should know before trusting a fit: findings in words, with the numbers behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.files import plain


@dataclass(frozen=True)
class Without:
    """Exponent a of N_opt when something is left out; None where a method then refuses."""

    left_out: str
    isoflop_a: float | None
    surface_a: float | None


@dataclass(frozen=True)
class Influence:
    """A single run without which the surface's a moves by more than one standard error."""

    id: str
    surface_a: float
    standard_errors: float


@dataclass(frozen=True)
class DeltaFit:
    """The surface refitted with another Huber threshold."""

    delta: float
    a: float
    alpha: float
    beta: float


@dataclass(frozen=True)
class BackTest:
    """A law fitted without the largest budget, asked for that budget.

    `loss_error` = predicted / measured - 1; `log10_num_params_error` = log10 of N_opt predicted
    over measured, None where the largest budget has no bracketed minimum.
    """

    method: str
    budget: float
    extrapolation: float
    loss_predicted: float
    loss_measured: float
    loss_error: float
    log10_num_params_error: float | None


@dataclass(frozen=True)
class IsoflopBias:
    """What approach 2 gets wrong on this very grid if the fitted surface is the truth.

    Shift of the exponent a, and of log10 N_opt at `budget` FLOPs: positive is too large.
    """

    a: float
    budget: float
    log10_num_params: float


@dataclass(frozen=True)
class CountedBy:
    """What a method says if N counts `counted`: num_params (the law's own) or num_params_total.

    `a` is the exponent of N_opt over the trained budgets, `N_opt` that of the largest, `budget`.
    """

    counted: str
    method: str
    a: float
    budget: float
    N_opt: float


@dataclass(frozen=True)
class NextRuns:
    """Runs that would narrow the prediction at `target` FLOPs, and by how much.

    `narrowing` is the interval of log N_opt expected after them over the one now;
    `num_params_80` the 80% interval of N_opt then, `num_params_80_now` the present one.
    """

    budget: float
    num_params: tuple[float, ...]
    total_flops: float
    target: float
    narrowing: float
    num_params_80: tuple[float, float]
    num_params_80_now: tuple[float, float]


@dataclass(frozen=True)
class Numbers:
    """All that was measured of a fit.

    `reach` is the extrapolation (target / largest trained budget) up to which the 80% interval of
    N_opt stays within a factor of 2 either way, at most 30; None where there are no intervals.
    `noise` is the relative standard deviation of one loss about the surface, robust to outliers,
    `seed_noise` that of repeated seeds; None where there are too few.
    """

    has_intervals: bool
    reach: float | None
    exponents: Mapping[str, float]  # method -> d ln N_opt / d ln C over the trained budgets
    exponents_agree: bool | None  # whether their 95% intervals overlap
    bias_explains: bool | None  # whether they do less the bias of approach 2
    flops_ratio: float  # FLOPs of the predicted optimum by the FLOP rule, over its budget
    without_budget: tuple[Without, ...]
    without_edges: Without
    back_tests: tuple[BackTest, ...]
    isoflop_bias: IsoflopBias | None
    num_draws: Mapping[str, int]  # method -> bootstrap laws behind its intervals
    parameter_counts: tuple[CountedBy, ...]  # with and without embeddings, where both are known
    seed_noise: float | None = None
    noise: float | None = None
    identifiable: bool | None = None
    start_agreement: float | None = None
    promised_decrease: float | None = None
    at_bounds: tuple[str, ...] = ()
    deltas: tuple[DeltaFit, ...] = ()
    influential_runs: tuple[Influence, ...] = ()
    next_runs: tuple[NextRuns, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Numbers:
        lists: dict[str, Any] = {
            "without_budget": Without,
            "influential_runs": Influence,
            "deltas": DeltaFit,
            "back_tests": BackTest,
            "next_runs": _next_runs,
            "parameter_counts": CountedBy,
        }
        values = dict(data)
        for name, kind in lists.items():
            values[name] = tuple(kind(**entry) for entry in data[name])
        values["without_edges"] = Without(**data["without_edges"])
        bias = data["isoflop_bias"]
        values["isoflop_bias"] = None if bias is None else IsoflopBias(**bias)
        values["at_bounds"] = tuple(data["at_bounds"])
        return cls(**values)


@dataclass(frozen=True)
class Diagnostics:
    """A verdict in one line, findings as sentences, and the numbers that both rest on."""

    verdict: str
    findings: tuple[str, ...]
    numbers: Numbers

    def to_json(self) -> dict[str, Any]:
        """All on one level, the words first."""
        return plain({"verdict": self.verdict, "findings": self.findings, **vars(self.numbers)})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Diagnostics:
        numbers = {name: v for name, v in data.items() if name not in ("verdict", "findings")}
        return cls(data["verdict"], tuple(data["findings"]), Numbers.from_json(numbers))


def _next_runs(
    num_params: list[float],
    num_params_80: list[float],
    num_params_80_now: list[float],
    **rest: float,
) -> NextRuns:
    (low, high), (low_now, high_now) = num_params_80, num_params_80_now
    return NextRuns(
        num_params=tuple(num_params),
        num_params_80=(low, high),
        num_params_80_now=(low_now, high_now),
        **rest,
    )
