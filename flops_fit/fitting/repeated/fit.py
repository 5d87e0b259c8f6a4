"""The surface of repeated data through runs that tell how many of their tokens are different."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.bootstrap import resample_weights
from flops_fit.fitting.contract import Exponents, Fitted, Mask
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Points, places, usable_points
from flops_fit.fitting.provenance import recorded_settings
from flops_fit.fitting.repeated.law import NUMBERS, RepeatedDraws, RepeatedLaw
from flops_fit.fitting.repeated.surface import RepeatedSurface, log_loss_jacobian
from flops_fit.laws import Array, FlopRule
from flops_fit.plan.run import Run

STARTS = tuple(product((0.2, 0.35, 0.6), (5.0, 50.0), (5.0, 50.0)))
"""alpha = beta, R_D* and R_N* of the starts: published 0.35, 15 and 5."""

FLOOR_SHARE = 0.7
"""E of the starts over the least loss."""

SMALLEST_FLOOR = 1e-4
"""E over the least loss from which downwards it is as good as 0."""

EXPONENTS, REACHES = (0.01, 3.0), (0.1, 1e5)
"""Limits of alpha and beta, and of R_D* and R_N*: 1e5 repeats are more than anyone tried."""

AT_LIMIT = 1e-3
"""Distance in logs below which a number ended at its limit."""

SAME_OPTIMUM = 1e-4
"""Relative difference of penalties below which two starts ended in the same place."""

PERFECT = 1e-20
"""Penalty of one row that is rounding only."""

SMOOTHER, ROUGHLY = 10.0, 1e-3
"""Multiple of `delta`, and how a descent with it ends, by which every descent begins: refits of the
161 public runs then take 13 ms for 20, and more of them reach the best optimum."""

TO_THE_END, REFIT = 1e-10, 1e-7
"""Relative steps and gains at which a fit and a refit end."""

MOST_STEPS = 500
"""Evaluations of one start; 20 to 100 suffice."""

ALPHA, BETA = NUMBERS.index("alpha"), NUMBERS.index("beta")

Rows = NDArray[np.intp]

FEWEST_RUNS = 8
"""Different (N, D) needed: one more than the numbers of the surface."""

FEWEST_REPEATING = 2
"""Runs that must see data again: R_D* is told by nothing else."""

REPEATING = 1.05
"""D over U from which on a run sees data again."""

SPARE_RUNS = 1.5
"""Multiple of the runs needed from which on a resample leaves enough of them."""

MOST_DRAWS = 200
"""Refits of the bootstrap: the 2.5% tail then holds 5."""


@dataclass(frozen=True)
class Table:
    """What the fit looks at: columns (n,)."""

    num_params: Array
    num_tokens: Array
    unique: Array
    loss: Array

    @classmethod
    def of(cls, points: Points) -> Table:
        """Raises `FitError` where rows don't tell their unique tokens."""
        unique = points.unique_tokens
        if unique is None:
            raise FitError(
                f"{points.untold('unique_tokens')} of {len(points)} runs don't say how many of "
                "their tokens are different",
                "name that column with columns.unique_tokens=..., or fit without repeats "
                "(fit=surface)",
            )
        return cls(points.num_params, points.num_tokens, unique, points.loss)

    def rows(self, chosen: Rows) -> Table:
        return Table(*(column[chosen] for column in vars(self).values()))


@dataclass(frozen=True)
class End:
    """Where one start ended: logs of E, alpha, beta, R_D*, R_N*; ln A and ln B."""

    place: Array
    value: float


@dataclass(frozen=True)
class RepeatedFit:
    """Minimises the summed Huber penalty of ln L over the seven numbers of the surface.

    `unique_tokens` are those that the answers count on; None: the most that a run had. `delta` is
    where the penalty turns from squared to absolute. `tied_exponents` sets alpha = beta, as the
    paper does.
    """

    unique_tokens: float | None = None
    delta: float = 1e-3
    tied_exponents: bool = False

    method: ClassVar[str] = "repeated"

    def __post_init__(self) -> None:
        if self.unique_tokens is not None and not self.unique_tokens >= 1:
            raise FitError(
                f"unique_tokens is {self.unique_tokens}",
                "give the number of different tokens, or null for the most that a run had",
            )

    def __call__(self, runs: Sequence[Run], flop_rule: FlopRule | None = None) -> RepeatedLaw:
        points, _ = usable_points(runs, flop_rule or FlopRule.constant())
        return self.law(points)

    def law(self, points: Points) -> RepeatedLaw:
        """The best of all starts. Raises `FitError` where the runs can't determine one."""
        table = Table.of(points)
        check(points, table)
        ends = [self.ended(table, start, TO_THE_END) for start in starts(table)]
        best = min(ends, key=lambda end: end.value)
        same = best.value * (1 + SAME_OPTIMUM) + PERFECT * len(points)
        at_bounds = names_at_bounds(best.place, table)
        check_exponents(at_bounds)
        return RepeatedLaw(
            surface=surface_at(best.place),
            unique_tokens=self.unique_tokens or float(table.unique.max()),
            trained=points.flops_range,
            flop_rule=points.flop_rule,
            delta=self.delta,
            value=best.value,
            start_agreement=float(np.mean([end.value <= same for end in ends])),
            at_bounds=at_bounds,
        )

    def fitted(self, points: Points, draws: int, seed: int) -> Fitted:
        """The law and its bootstrap of at most 200 draws; none where the runs are too few.

        Runs are drawn from all: budgets hold few of them here, over different data.
        """
        law = self.law(points)
        if not draws or len(set(places(points).tolist())) < SPARE_RUNS * FEWEST_RUNS:
            return Fitted(law, None)
        one_stratum = replace(points, budget=np.ones(len(points)))
        weights = resample_weights(one_stratum, min(draws, MOST_DRAWS), seed, FEWEST_RUNS)
        chosen = (np.repeat(np.arange(len(points)), counts) for counts in weights)
        surface = self.refitted(Table.of(points), law, chosen)
        return Fitted(law, RepeatedDraws(surface, law.unique_tokens, law.trained, law.flop_rule))

    def recorded(self) -> dict[str, Any]:
        return recorded_settings(self)

    def refitted(self, table: Table, law: RepeatedLaw, parts: Iterable[Rows]) -> RepeatedSurface:
        """Refits to the rows that each part names, as columns (parts,), started from `law`."""
        start = place_of(law.surface)
        ends = [self.ended(table.rows(part), start, REFIT).place for part in parts]
        return surface_at(np.array(ends).T)

    def ended(self, table: Table, start: Array, tolerance: float) -> End:
        """Where the descent from `start` ends, led through a smoother penalty first."""
        near = self._descended(table, start, SMOOTHER * self.delta, ROUGHLY)
        return self._descended(table, near.place, self.delta, tolerance)

    def _descended(self, table: Table, start: Array, delta: float, tolerance: float) -> End:
        from scipy.optimize import least_squares  # of no use to those who only read a law

        measured, at = np.log(table.loss), (table.num_params, table.num_tokens, table.unique)

        def residuals(moved: Array) -> Array:
            return np.asarray(np.log(surface_at(self.whole @ moved)(*at)) - measured)

        def jacobian(moved: Array) -> Array:
            return np.asarray(log_loss_jacobian(surface_at(self.whole @ moved), *at) @ self.whole)

        low, high = (bound[self.moved] for bound in limits(table))
        found = least_squares(
            residuals,
            np.clip(start[self.moved], low + AT_LIMIT, high - AT_LIMIT),
            jacobian,
            bounds=(low, high),
            loss="huber",
            f_scale=delta,
            ftol=tolerance,
            xtol=tolerance,
            gtol=None,
            max_nfev=MOST_STEPS,
        )
        return End(self.whole @ found.x, float(found.cost))

    @property
    def moved(self) -> Rows:
        """Which entries of a place are free."""
        return np.delete(np.arange(len(NUMBERS)), BETA if self.tied_exponents else [])

    @property
    def whole(self) -> Array:
        """Free entries -> place, as a matrix (7, free)."""
        eye = np.eye(len(NUMBERS))
        if self.tied_exponents:
            eye[BETA] = eye[ALPHA]
        return eye[:, self.moved]


def exponents_of_parts(
    fit: RepeatedFit, points: Points, parts: Sequence[Mask], law: RepeatedLaw
) -> Exponents:
    """The exponent a without some of the rows, refitted from the law of all."""
    table = Table.of(points)
    rows = [np.flatnonzero(part) for part in parts]
    known = [is_determined(table.rows(part)) for part in rows]
    enough = [part for part, is_known in zip(rows, known, strict=True) if is_known]
    if not enough:
        return [None] * len(rows)
    surface = fit.refitted(table, law, enough)
    draws = RepeatedDraws(surface, law.unique_tokens, law.trained, law.flop_rule)
    found = iter(draws.quantities()["a"].tolist())
    return [next(found) if is_known else None for is_known in known]


def starts(table: Table) -> list[Array]:
    """Places where both terms share what the mean loss has above E."""
    floor = FLOOR_SHARE * table.loss.min()
    term = np.log((np.median(table.loss) - floor) / 2)
    centre = np.log(table.num_params).mean(), np.log(table.num_tokens).mean()
    return [
        np.array(
            [
                np.log(floor),
                *(term + exponent * middle for middle in centre),
                *np.log([exponent, exponent, reach, reach_of_size]),
            ]
        )
        for exponent, reach, reach_of_size in STARTS
    ]


def surface_at(place: Array) -> RepeatedSurface:
    """The surface at a place (7,), or those at many (7, m)."""
    log_e, log_a, log_b, *logs = place
    return RepeatedSurface(np.exp(log_e), log_a, log_b, *np.exp(logs))


def place_of(surface: RepeatedSurface) -> Array:
    """The place of one surface."""
    s = surface
    logs = np.log([s.alpha, s.beta, s.R_D_star, s.R_N_star])
    return np.array([np.log(s.E), s.log_A, s.log_B, *logs], dtype=float)


def limits(table: Table) -> tuple[Array, Array]:
    """Least and largest place."""
    least = table.loss.min()
    floor = np.log([SMALLEST_FLOOR * least, least])
    ends = [floor, (-np.inf, np.inf), (-np.inf, np.inf), *[np.log(EXPONENTS)] * 2]
    low, high = np.array([*ends, *[np.log(REACHES)] * 2]).T
    return low, high


def names_at_bounds(place: Array, table: Table) -> tuple[str, ...]:
    """Which numbers ended at a limit."""
    low, high = limits(table)
    ended = (place - low < AT_LIMIT) | (high - place < AT_LIMIT)
    return tuple(name for name, is_there in zip(NUMBERS, ended, strict=True) if is_there)


def is_determined(table: Table) -> bool:
    """Whether rows can tell the surface at all."""
    different = len(set(zip(table.num_params, table.num_tokens, strict=True)))
    return different >= FEWEST_RUNS and num_repeating(table) >= FEWEST_REPEATING


def num_repeating(table: Table) -> int:
    return int(np.sum(table.num_tokens > REPEATING * table.unique))


def check(points: Points, table: Table) -> None:
    """Raise `FitError` where no surface can be told from these points."""
    found = len(set(places(points).tolist()))
    if found < FEWEST_RUNS:
        raise FitError(
            f"{found} different (N, D) for a law of repeated data that needs {FEWEST_RUNS}",
            "train more sizes or budgets",
        )
    if num_repeating(table) < FEWEST_REPEATING:
        raise FitError(
            f"{num_repeating(table)} of {len(points)} runs see data again, "
            f"{FEWEST_REPEATING} are needed",
            "train some over repeated data, or fit without repeats (fit=surface)",
        )
    for letter, values in (("N", table.num_params), ("D", table.num_tokens)):
        if np.ptp(np.log(values)) <= 0:
            raise FitError(
                f"all runs have one {letter}, {values[0]:.4g}", f"train others: no law in {letter}"
            )


def check_exponents(at_bounds: Sequence[str]) -> None:
    """Refuse an optimum that doesn't fall with N, or with D."""
    for letter, name in (("N", "alpha"), ("D", "beta")):
        if name in at_bounds:
            raise FitError(
                f"{name} ended at a limit: these losses show no power law in {letter}",
                f"train over a wider range of {letter}, or look for runs that went wrong",
            )
