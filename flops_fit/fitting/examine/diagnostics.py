"""What a person should know before trusting a fit: findings in words, with the numbers behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flops_fit.files import plain
from flops_fit.fitting.answer import Reach
from flops_fit.fitting.contract import MethodNumbers
from flops_fit.fitting.examine.order import Order
from flops_fit.fitting.methods import kind_of
from flops_fit.records import of_type, read_as


@dataclass(frozen=True)
class Without:
    """Exponent a of N_opt by each method when something is left out; None where it then refuses."""

    left_out: str
    exponents: Mapping[str, float | None]


@dataclass(frozen=True)
class Agreement:
    """Whether the 95% intervals of the exponents of two methods overlap.

    `biased` is the one whose bias on this grid is known if the other is exact; `agree_less_bias`
    whether they overlap less that bias. Both None where neither's is.
    """

    first: str
    second: str
    agree: bool
    biased: str | None = None
    agree_less_bias: bool | None = None

    @property
    def exact(self) -> str | None:
        """The one that is taken for the truth."""
        return {self.first: self.second, self.second: self.first}.get(self.biased or "")


SIZE, LOSS = "num_params", "loss"
"""What two methods may predict differently."""


@dataclass(frozen=True)
class Parting:
    """What two methods predict at `budget` FLOPs, where their 95% intervals don't overlap.

    `quantity` is num_params (of the optimum) or loss (there, nats per token).
    """

    quantity: str
    budget: float
    first: str
    first_value: float
    second: str
    second_value: float


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
class Bias:
    """What a method gets wrong on this very grid if the law by `if_exact` is the truth.

    Shift of the exponent of N_opt over the trained budgets, and of log10 N_opt at `budget` FLOPs:
    positive is too large.
    """

    method: str
    if_exact: str
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
class Numbers:
    """What was measured of all methods alike.

    `reach` is the extrapolation (target / largest trained budget) up to which the 80% interval of
    N_opt stays within a factor of 2 either way, at most 30, `loss_reach` that up to which the 80%
    interval of the loss stays within 3% either way; None where not even at the largest budget, or
    where there are no intervals.
    `seed_noise` is the relative standard deviation of one loss by repeated seeds, None where there
    are too few. Where `orders` or `direction` leave a doubt, both reaches end at the trained
    budgets, and where shuffled losses are as good there are none. `direction` says that N
    or D of the answer would fall with compute, which is no law; None where both rise.
    `partings` are of all pairs of methods with draws, at ten times the largest budget.
    """

    has_intervals: bool
    reach: float | None
    loss_reach: float | None
    exponents: Mapping[str, float]  # method -> d ln N_opt / d ln C over the trained budgets
    agreements: tuple[Agreement, ...]  # of all pairs of methods with draws
    flops_ratio: float  # FLOPs of the predicted optimum by the FLOP rule, over its budget
    without_budget: tuple[Without, ...]
    without_edges: Without
    back_tests: tuple[BackTest, ...]
    biases: tuple[Bias, ...]
    num_draws: Mapping[str, int]  # method -> bootstrap laws behind its intervals
    parameter_counts: tuple[CountedBy, ...]  # with and without embeddings, where both are known
    seed_noise: float | None = None
    orders: tuple[Order, ...] = ()
    direction: str | None = None
    partings: tuple[Parting, ...] = ()

    @property
    def reached(self) -> Reach:
        """How far both numbers of an answer can be relied on."""
        return Reach(self.reach, self.loss_reach, self.has_intervals)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Numbers:
        return read_as(cls, data, "diagnostics")


@dataclass(frozen=True)
class Diagnostics:
    """A verdict in one line, findings as sentences, and the numbers that both rest on.

    `why` says who answers and what that rests on, `advice` what to run next.
    `of_methods` has what was measured of single methods, by method, where there is such.
    """

    verdict: str
    findings: tuple[str, ...]
    numbers: Numbers
    why: str = ""
    advice: tuple[str, ...] = ()
    of_methods: Mapping[str, MethodNumbers] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The words first, then the numbers of all on the same level, then those of single ones."""
        words = {
            "verdict": self.verdict,
            "why": self.why,
            "findings": self.findings,
            "advice": self.advice,
        }
        methods = {method: numbers.to_json() for method, numbers in self.of_methods.items()}
        return plain({**words, **vars(self.numbers), "methods": methods})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Diagnostics:
        others = ("verdict", "why", "findings", "advice", "methods")
        numbers = Numbers.from_json({k: v for k, v in data.items() if k not in others})
        of_methods = {
            method: read(section)
            for method, section in data["methods"].items()
            if (read := kind_of(method).read_numbers) is not None
        }
        return cls(
            verdict=of_type(str, data["verdict"], "verdict"),
            findings=of_type(tuple[str, ...], data["findings"], "findings"),
            numbers=numbers,
            why=of_type(str, data["why"], "why"),
            advice=of_type(tuple[str, ...], data["advice"], "advice"),
            of_methods=of_methods,
        )
