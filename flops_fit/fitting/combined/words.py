"""Who answers and why, and where the width of the intervals comes from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flops_fit.files import plain
from flops_fit.fitting.combined.draws import CombinedDraws
from flops_fit.fitting.combined.fit import CombinedFit
from flops_fit.fitting.combined.law import CombinedLaw, Width
from flops_fit.fitting.contract import Examined
from flops_fit.fitting.points import Points
from flops_fit.laws import Array
from flops_fit.records import read_as
from flops_fit.shown import in_a_row, short_flops

WORTH_NAMING = 0.02
"""Weight below which a candidate is not named."""

MISSED = 4.0
"""Squared errors of the back-tests over what published sweeps let expect from which the sweep is
called unlike them: errors twice as large."""

SHOWN_AT = 10.0
"""Multiple of the largest trained compute at which the shares of the width are stated."""

NEXT = 3.0
"""Multiple of the largest trained compute that is proposed to be trained next."""

TAIL_80 = 1.28
"""Standard deviations to either end of a normal's 80% interval."""


@dataclass(frozen=True)
class Shares:
    """Of the variance of ln of a forecast, what comes from where; they sum to 1."""

    noise: float
    methods: float
    distance: float

    @classmethod
    def of(cls, width: Width, spread: float, flops: float) -> Shares:
        """`spread` is the variance among the candidates at `flops`."""
        total = width.variance(flops)
        noise = min(float(np.ravel(width.errors.noise_variance(flops))[0]), total)
        whole = total + spread
        return cls(noise / whole, spread / whole, (total - noise) / whole)

    def __str__(self) -> str:
        return (
            f"{self.noise:.0%} noise, {self.methods:.0%} methods that differ, "
            f"{self.distance:.0%} distance"
        )


@dataclass(frozen=True)
class CombinedNumbers:
    """Where the widths at `budget` FLOPs come from, and how the back-tests went.

    `missed` is the root mean square error of the combination's own `num_tests` back-tests of the
    loss over what was stated for them; None without any.
    """

    budget: float
    of_size: Shares
    of_loss: Shares
    num_tests: int
    missed: float | None

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CombinedNumbers:
        return read_as(cls, data)


def numbers(law: CombinedLaw) -> CombinedNumbers:
    """Of a law, at ten times its largest trained compute."""
    flops = SHOWN_AT * law.trained[1]
    tests = law.loss.tests
    missed = [(test.error / test.stated) ** 2 for test in tests]
    return CombinedNumbers(
        budget=flops,
        of_size=Shares.of(law.size, _spread(law.sizes(flops), law.size_weights), flops),
        of_loss=Shares.of(law.loss, _spread(law.losses(flops), law.loss_weights), flops),
        num_tests=len(tests),
        missed=float(np.sqrt(np.mean(missed))) if missed else None,
    )


def _spread(said: Array, weights: Array) -> float:
    """Variance of ln of what the candidates say, (candidates,)."""
    logs = np.log(said)
    return float(weights @ (logs - weights @ logs) ** 2)


def examined(
    method: CombinedFit, points: Points, law: CombinedLaw | None, draws: CombinedDraws | None
) -> Examined:
    """Weights, tests and widths."""
    if law is None:
        return Examined()
    found = numbers(law)
    return Examined(
        numbers=found,
        findings=(*_test_findings(found), *_width_findings(found)),
        advice=advice(law),
        why=why(law),
        doubt=_doubt(law),
    )


def why(law: CombinedLaw) -> str:
    """Which candidates count, and what the last back-test of them said."""
    weights = {n: max(p.for_size, p.for_loss) for n, p in law.parts.items()}
    named = [name for name, weight in weights.items() if weight >= WORTH_NAMING]
    return f"weighed from {in_a_row(named)}; {_last_test(law)}"


def _last_test(law: CombinedLaw) -> str:
    """What all but the newest runs say of these, forecast over measured."""
    if not law.loss.tests:
        return "too few budgets to back-test, so by how published sweeps go"
    loss = law.loss.tests[-1]
    size = next((test.error for test in law.size.tests[::-1] if test.level == loss.level), None)
    beyond = loss.level * np.exp(loss.distance)
    return (
        f"back-test from {short_flops(loss.level)} to {short_flops(beyond)}: loss "
        f"{np.expm1(loss.error):+.2%}" + ("" if size is None else f", N x{np.exp(size):.2f}")
    )


def _tests(count: int) -> str:
    return f"{count} back-test" + ("" if count == 1 else "s")


def advice(law: CombinedLaw) -> tuple[str, ...]:
    """What the next larger budget would make of the interval of the loss."""
    target, budget = SHOWN_AT * law.trained[1], NEXT * law.trained[1]
    now, then = (_half_width(law, flops) for flops in (target, target / NEXT))
    return (
        f"a budget of {short_flops(budget)} brings the loss at {short_flops(target)} from within "
        f"{now:.1%} to about {then:.1%} (80%)",
    )


def _half_width(law: CombinedLaw, flops: float) -> float:
    """Of the 80% interval of ln loss at `flops`."""
    total = _spread(law.losses(flops), law.loss_weights) + law.loss.variance(flops)
    return TAIL_80 * float(np.sqrt(law.loss.factor * total))


def _test_findings(found: CombinedNumbers) -> list[str]:
    if found.missed is None:
        return []
    return [
        f"{_tests(found.num_tests)} of larger budgets by smaller ones: the loss was off by "
        f"{found.missed:.2f} of its stated deviation"
    ]


def _width_findings(found: CombinedNumbers) -> list[str]:
    return [
        f"what makes the intervals at {short_flops(found.budget)} wide: of the loss "
        f"{found.of_loss}; of N {found.of_size}",
    ]


def _doubt(law: CombinedLaw) -> str | None:
    if law.loss.factor < MISSED:
        return None
    return (
        f"the back-tests on these runs missed {law.loss.factor**0.5:.1f} times as far as on "
        "published sweeps"
    )
