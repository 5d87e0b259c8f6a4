"""Several laws as one, each with its weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.files import plain
from flops_fit.fitting.combined.errors import LineErrors, errors_from_json, errors_to_json
from flops_fit.fitting.combined.evidence import Test
from flops_fit.fitting.contract import FittedLaw
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.isoflop.loss_trend import TrendPosterior
from flops_fit.fitting.methods import kind_of
from flops_fit.laws import Array, FlopRule, exponent_between, finite_exp
from flops_fit.laws.prediction import LossLaw, last_where
from flops_fit.records import numbers_in, of_type, read_list

STEP = 0.5
LOG_TOKENS = np.arange(0.0, 70.0, STEP)
"""ln D (to 1e30) at which the tokens to reach a loss are looked for."""


def tokens_to_reach(law: Callable[[float, Array], Array], loss: Array, num_params: float) -> Array:
    """The least D at which `law` of N falls to `loss`, elementwise; inf where it never does.

    Far beyond its optimum a combination need not fall any more: the first crossing counts.
    """

    def is_above(log_d: Array) -> NDArray[np.bool_]:
        with np.errstate(over="ignore"):  # a steep law of few tokens: infinite, and so above
            return np.asarray(law(num_params, np.exp(log_d)) > loss)

    reached = np.full(loss.shape, np.inf)
    for log_d in LOG_TOKENS[::-1]:
        reached = np.where(is_above(np.full(loss.shape, log_d)), reached, log_d)
    within = np.where(np.isfinite(reached), reached, LOG_TOKENS[-1])
    found = last_where(is_above, within - STEP, within)
    return np.where(np.isfinite(reached), finite_exp(found), np.inf)


@dataclass(frozen=True)
class Part:
    """A candidate's law, and what it counts: `for_size` in N, `for_loss` in the loss."""

    kind: str
    law: FittedLaw
    for_size: float
    for_loss: float

    def to_json(self) -> dict[str, Any]:
        weights = {"for_size": self.for_size, "for_loss": self.for_loss}
        return {"kind": self.kind, **weights, "law": self.law.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], rule: FlopRule) -> Part:
        law = kind_of(data["kind"]).read_law({"budgets": [], **data["law"]}, rule)
        return cls(data["kind"], law, **numbers_in(data, "for_size", "for_loss"))


@dataclass(frozen=True)
class Width:
    """What widens an interval: the candidates' spread and `errors`, as variances times `factor`.

    `factor` is what the back-tests `tests` of the combination say of them.
    """

    errors: TrendPosterior | LineErrors
    factor: float
    tests: tuple[Test, ...]

    def variance(self, flops: float) -> float:
        """Of the errors at a budget, before the factor."""
        return float(np.ravel(self.errors.variance(flops))[0])

    def to_json(self) -> dict[str, Any]:
        tests = [plain(vars(test)) for test in self.tests]
        return {"factor": self.factor, "errors": errors_to_json(self.errors), "tests": tests}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Width:
        tests = read_list(Test, data["tests"], "tests")
        factor = of_type(float, data["factor"], "factor")
        return cls(errors_from_json(data["errors"]), factor, tests)


@dataclass(frozen=True)
class CombinedLaw:
    """The weighted geometric mean of laws: N_opt by one set of weights, the loss by another.

    `trained` are the smallest and the largest trained FLOPs. Where one of the laws knows the loss
    of any size, so does this one: theirs is the shape along a budget, the weighted mean the height.
    """

    parts: Mapping[str, Part]
    size: Width
    loss: Width
    trained: tuple[float, float]
    flop_rule: FlopRule

    @property
    def a(self) -> float:
        """Exponent of N_opt over the trained budgets."""
        return float(exponent_between(self, *self.trained))

    @property
    def size_weights(self) -> Array:
        """Of the candidates in N, (candidates,)."""
        return np.array([part.for_size for part in self._all])

    @property
    def loss_weights(self) -> Array:
        """Of the candidates in the loss, (candidates,)."""
        return np.array([part.for_loss for part in self._all])

    def sizes(self, flops: ArrayLike) -> Array:
        """N_opt as each candidate has it, (candidates, ...)."""
        return np.array([part.law.N_opt(flops) for part in self._all])

    def losses(self, flops: ArrayLike) -> Array:
        """The best loss as each candidate has it, (candidates, ...)."""
        return np.array([part.law.loss_opt(flops) for part in self._all])

    def N_opt(self, flops: ArrayLike) -> Array:
        return np.asarray(np.exp(np.tensordot(self.size_weights, np.log(self.sizes(flops)), 1)))

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return np.asarray(np.exp(np.tensordot(self.loss_weights, np.log(self.losses(flops)), 1)))

    @property
    def knows_any_size(self) -> bool:
        """Whether a candidate knows the loss of other sizes than the best."""
        return bool(self._knowing)

    @property
    def _knowing(self) -> list[tuple[float, LossLaw]]:
        """The candidates that do, with their weights in the loss."""
        return [(part.for_loss, part.law) for part in self._all if isinstance(part.law, LossLaw)]

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        """Loss of any size and length. Raises `FitError` where no candidate knows it."""
        knowing = self._knowing
        if not knowing:
            raise FitError(
                "no candidate knows the loss of other sizes than the best",
                "have a loss surface among the candidates",
            )
        if len(knowing) == len(self._all):
            logs = (weight * np.log(law(num_params, num_tokens)) for weight, law in knowing)
            return np.asarray(np.exp(sum(logs)))
        return self._about_the_optimum(knowing, num_params, num_tokens)

    def _about_the_optimum(
        self, knowing: Sequence[tuple[float, LossLaw]], num_params: ArrayLike, num_tokens: ArrayLike
    ) -> Array:
        """The optimum is that of all candidates; those that know any size tell the rise about it,
        each by the ratio of a size to its own optimum."""
        n = np.asarray(num_params, dtype=float)
        flops = self.flop_rule(n) * np.asarray(num_tokens, dtype=float)
        ratio, total = n / self.N_opt(flops), sum(weight for weight, _ in knowing)
        rise = np.zeros(np.broadcast_shapes(ratio.shape, flops.shape))
        for weight, law in knowing:
            moved = ratio * law.N_opt(flops)
            loss = law(moved, self.flop_rule.tokens(flops, moved))
            rise = rise + weight / total * np.log(loss / law.loss_opt(flops))
        return np.asarray(self.loss_opt(flops) * np.exp(rise))

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""
        return tokens_to_reach(self, np.asarray(loss, dtype=float), num_params)

    @property
    def _all(self) -> tuple[Part, ...]:
        return tuple(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """All but the FLOP rule, which stands for itself in law.json."""
        return {
            "a": self.a,
            "parts": {name: part.to_json() for name, part in self.parts.items()},
            "size": self.size.to_json(),
            "loss": self.loss.to_json(),
            "trained": list(self.trained),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], rule: FlopRule) -> CombinedLaw:
        trained = of_type(tuple[float, float], data["trained"], "trained")
        parts = {name: Part.from_json(part, rule) for name, part in data["parts"].items()}
        size, loss = (Width.from_json(data[name]) for name in ("size", "loss"))
        return cls(parts, size, loss, trained, rule)
