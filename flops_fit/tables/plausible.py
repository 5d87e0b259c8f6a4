"""What can't be true of a table's sizes, and the units in which it could."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import INCONSISTENT_FLOPS, PLAUSIBLE
from flops_fit.laws import Array
from flops_fit.tables.units import shown_units

HANDFUL = 1_000.0
"""Tokens (samples) below which nothing was trained: a few steps of the smallest batches."""

FEW_TOKENS = 100_000.0
"""Tokens under a batch of a language model: nobody trains more parameters than these."""

TOKENS_PER_PARAM = (2e-3, 5e6)
"""D / N beyond which a unit is wrong: runs of all kinds lie between 0.1 and 100,000."""

CONSTANTS = (0.01, 1e6)
"""FLOPs per parameter and token that can be: 6, less for mixtures of experts counted in full, far
more where weights are used many times in a sample, as those of convolutions."""

PROPOSED_CONSTANTS = (0.1, 1_000.0)
"""Of those the ones that an error proposes."""

USUAL = {"num_params": (1e4, 1e13), "num_tokens": (1e5, 1e15)}
"""Where sizes must come to lie for a unit to be proposed."""

USUAL_TOKENS_PER_PARAM = (0.05, 2e4)

MOST_USUAL = {"num_params": 3e8, "num_tokens": 1e10}
"""Which of two units is proposed: that which comes nearer to sweeps as they are published."""

MANY = 0.5
"""Share of the rows that can't be true from which on it is the unit, not these rows."""

LOGARITHM = re.compile(
    r"(?:^|[\W_])(?P<word>log|ln)[\W_]?(?P<base>10|2|e)?(?=[\W_]|[NDC]$|$)", re.IGNORECASE
)
"""How a header says that it holds logarithms: log10(N), ln_tokens, logC."""

LARGEST_LOGARITHM = 100.0
"""Natural ones of all sizes lie below it."""

BYTES = r"(?:^|[\W_])(?:[kmgt]i?b|[kmgt]?bytes?)[\W_]*$"
TIME_OR_MONEY = r"(?:hours?|hrs?|days?|minutes?|mins?|seconds?|secs?|usd|dollars?|\$|kwh)[\W_]*$"

OTHER_KINDS: Mapping[str, tuple[re.Pattern[str], str, str]] = {
    "flops": (
        re.compile(TIME_OR_MONEY, re.IGNORECASE),
        "a time or a price",
        "`{}` * FLOPS_FOR_EACH",
    ),
    "num_params": (re.compile(BYTES, re.IGNORECASE), "bytes", "`{}` / BYTES_OF_A_PARAMETER"),
    "num_tokens": (re.compile(BYTES, re.IGNORECASE), "bytes", "`{}` / BYTES_OF_A_TOKEN"),
}
"""How headers say that a column is of something else, what that is, and how sizes follow from it:
some unit would always fit."""

SMALL = 10_000.0
"""Parameters below which a model is a toy's, or the count in thousands or millions."""

NO_BUDGET = 5.0
"""A budget that differs from C by this factor is of another column or unit."""


def check_constant(constant: float) -> None:
    """Raises `FitError` for FLOPs per parameter and token that no training spends."""
    low, high = CONSTANTS
    if low <= constant <= high:
        return
    near = _nearest("flops", 6 / constant) if constant > 0 else None
    raise FitError(
        f"flops_per_param_per_token is {constant:g}, training spends about 6",
        f"where C is in another unit, say so: columns.flops_unit={near}"
        if near
        else "give FLOPs that are spent for one parameter and one token",
    )


def check_no_logarithms(headers: Mapping[str, str], given: Mapping[str, Array]) -> None:
    """Raises `FitError` where sizes, by our names, are read from logarithms as their headers say:
    small numbers for which some unit would always fit."""
    for name, values in given.items():
        header = headers[name]
        found = LOGARITHM.search(header)
        if found is None or not len(values) or np.max(values) > LARGEST_LOGARITHM:
            continue
        base = "e" if found["word"].casefold() == "ln" else found["base"]
        powers = {"10": "10 ** `{}`", "2": "2 ** `{}`", "e": "exp(`{}`)"}
        ways = [powers[base.casefold()]] if base else [powers["10"], powers["e"]]
        raise FitError(
            f"{name} is read from {header!r}, {np.min(values):.4g} to {np.max(values):.4g}: "
            "logarithms, by their name",
            "say " + " or ".join(f"columns.{name}='{way.format(header)}'" for way in ways),
        )


def check_kinds(headers: Mapping[str, str]) -> None:
    """Raises `FitError` where a column without a unit says that it is of something else; `headers`
    by our names."""
    for name, (pattern, kind, expression) in OTHER_KINDS.items():
        header = headers.get(name, "")
        if pattern.search(header):
            raise FitError(
                f"{name} is read from {header!r}, by its name {kind}",
                f"say columns.{name}='{expression.format(header)}' with the number that holds for "
                f"your runs; where it is {name} after all, columns.{name}_unit=1",
            )


@dataclass(frozen=True)
class Sizes:
    """What a table gives of N, D and C, each (n,), by our names; two of three, or all.

    `units` are the factors that were multiplied in, `said` names those that a setting gave, which
    are true whatever follows; `constant` is C / (N D). `places` say where the rows are.
    """

    given: Mapping[str, Array]
    units: Mapping[str, float]
    said: frozenset[str]
    constant: float
    places: Sequence[str]

    def all(self, factors: Mapping[str, float] | None = None) -> tuple[Array, Array, Array]:
        """N, D and C, the one that is not given from C = constant N D; with other factors."""
        scaled = {
            name: values * (factors or {}).get(name, 1.0) for name, values in self.given.items()
        }
        n, d, c = (scaled.get(name) for name in ("num_params", "num_tokens", "flops"))
        with np.errstate(all="ignore"):
            if n is None:
                assert c is not None
                assert d is not None
                n = c / (self.constant * d)
            if d is None:
                assert c is not None
                d = c / (self.constant * n)
            if c is None:
                c = self.constant * n * d
        return n, d, c

    @np.errstate(all="ignore")  # of numbers beyond all sizes, which it refuses
    def check(self) -> None:
        """Raises `FitError` where sizes can't be true, with the units that would fit."""
        n, d, c = self.all()
        all_said = self.said.issuperset(self.given)
        reason_against = _out_of_range if all_said else _impossible
        reasons = [reason_against(*row) for row in zip(n, d, c, strict=True)]
        wrong = [i for i, reason in enumerate(reasons) if reason]
        if wrong and len(wrong) >= MANY * len(reasons):
            first = wrong[0]
            raise self._refused(f"{self._row(first)}: {reasons[first]}")
        ratio = float(np.median(c / (self.constant * n * d))) if len(n) else 1.0
        is_off = not 1 / INCONSISTENT_FLOPS < ratio < INCONSISTENT_FLOPS
        if is_off and not all_said and self._proposed():
            raise self._refused(f"C of this table is {ratio:.3g} times {self.constant:g} N D")
        small = self.given.get("num_params")
        if small is not None and "num_params" not in self.said and np.median(small) < SMALL:
            so_small = "where models are so small, say columns.num_params_unit=1"
            refused = self._refused(
                f"models have {small.min():.4g} to {small.max():.4g} parameters"
            )
            raise FitError(refused.reason, f"{refused.next_step}; {so_small}")
        if wrong:
            raise FitError(
                f"{self._row(wrong[0])}: {reasons[wrong[0]]}",
                "correct it, leave it out with where=, write its unit into the cell (70M), or say "
                + " ".join(f"columns.{name}_unit={self._word(name, 1.0)}" for name in self.given)
                + " where every row is as it should be",
            )

    def _row(self, i: int) -> str:
        figures = (f"{name} = {values[i]:.4g}" for name, values in self.given.items())
        return f"{self.places[i]} has {', '.join(figures)}"

    def _refused(self, reason: str) -> FitError:
        proposed = self._proposed()
        if proposed is None:
            return FitError(
                reason,
                "check the units of C, N and D, and name them: "
                + " ".join(f"columns.{name}_unit=..." for name in self.given),
            )
        words = " ".join(f"columns.{name}_unit={word}" for name, word in proposed.items())
        return FitError(reason, f"the units may be others: {words} would fit")

    def _proposed(self) -> dict[str, str] | None:
        """The fewest units that make the table one of usual runs, None where none do."""
        best = min(self._candidates(), default=None, key=lambda found: found[0])
        if best is None or not best[1]:
            return None
        return {name: self._word(name, size) for name, size in best[1].items()}

    def _word(self, name: str, size: float) -> str:
        """The unit that the column then has, the factor it has been read with counted in."""
        return _nearest(name, size * self.units.get(name, 1.0)) or f"{size:g}"

    def _candidates(self) -> Iterator[tuple[tuple[float, float], dict[str, float]]]:
        choices = {
            name: [1.0]
            if name in self.said
            else [f / self.units.get(name, 1.0) for f in shown_units(name)]
            for name in self.given
        }
        for sizes in product(*choices.values()):
            factors = dict(zip(choices, sizes, strict=True))
            n, d, c = (float(np.exp(np.mean(np.log(v)))) for v in self.all(factors))
            if not (_within(n, USUAL["num_params"]) and _within(d, USUAL["num_tokens"])):
                continue
            ratio = c / (self.constant * n * d)
            if (
                _within(d / n, USUAL_TOKENS_PER_PARAM)
                and 1 / INCONSISTENT_FLOPS < ratio < INCONSISTENT_FLOPS
            ):
                changed = {
                    name: size for name, size in factors.items() if not math.isclose(size, 1)
                }
                far = abs(math.log(n / MOST_USUAL["num_params"])) + abs(
                    math.log(d / MOST_USUAL["num_tokens"])
                )
                yield (len(changed), far), changed


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _nearest(name: str, size: float) -> str | None:
    """The unit of this factor, as settings give it; None where none is near."""
    near = min(shown_units(name), key=lambda f: abs(math.log(f / size)))
    return shown_units(name)[near] if abs(math.log(near / size)) < math.log(2) else None


def _out_of_range(n: float, d: float, c: float) -> str | None:
    """Which number can't be that of a run, in whatever company; None where all can."""
    for word, name, value in (("N", "num_params", n), ("D", "num_tokens", d), ("C", "budget", c)):
        low, high = PLAUSIBLE[name]
        if not low <= value <= high:
            return (
                f"{word} would be {value:.3g}, a number between {low:g} and {high:g} was expected"
            )
    return None


def _impossible(n: float, d: float, c: float) -> str | None:
    """Why no run has these N, D and C; None where one may."""
    if (reason := _out_of_range(n, d, c)) is not None:
        return reason
    if d < HANDFUL:
        return f"{d:.3g} tokens would be less than a batch"
    low, high = TOKENS_PER_PARAM
    if not low < d / n < high or (d < FEW_TOKENS and d < n):
        return f"{d:.3g} tokens would train {n:.3g} parameters, {d / n:.2g} each"
    return None


@np.errstate(all="ignore")
def is_inconsistent(budget: Array, flops: Array) -> bool:
    """Whether budgets are of another magnitude than what was spent."""
    ratio = float(np.median(budget / flops))
    return not 1 / NO_BUDGET < ratio < NO_BUDGET
