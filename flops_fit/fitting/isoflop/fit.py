"""Approach 2: the minimum of each budget's curve, and a line through them (Hoffmann 2022, 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from flops_fit.fitting.contract import Fitted
from flops_fit.fitting.errors import FitError, TooFewBracketed
from flops_fit.fitting.isoflop.curves import CurveFamily, Parabola
from flops_fit.fitting.isoflop.draws import IsoflopDraws
from flops_fit.fitting.isoflop.law import IsoflopLaw
from flops_fit.fitting.isoflop.loss_trend import TrendPosterior
from flops_fit.fitting.isoflop.misfit import CurveRows, followed
from flops_fit.fitting.isoflop.optima import (
    FEW,
    MISFIT,
    NEGATIVE,
    OK,
    BudgetOptimum,
    near_minimum,
    num_sizes,
    verdict_on,
)
from flops_fit.fitting.isoflop.scatter import (
    CurveNoise,
    Scatter,
    pooled,
    pooled_without_each,
    scatter_about,
)
from flops_fit.fitting.noise import FreshNoise, seed_noise
from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.provenance import recorded_settings
from flops_fit.laws import Array, FlopRule, PowerLaw, finite_exp
from flops_fit.plan.run import Run
from flops_fit.shown import short_flops, short_number

NEAR = 10.0
"""Factor of N from the minimum within which a curve is drawn and its noise judged."""

REDRAWN = 200
"""Draws from which a standard deviation is told, to 5%."""

STEEPEST_LINE = 3.0
"""Exponent of N_opt in C beyond which a line is no law: D would fall as C^-2."""

FEWEST_BRACKETED = 2
"""Bracketed budgets through which a line can be drawn."""


@dataclass(frozen=True)
class IsoflopFit:
    """Approach 2: a curve per budget, its minimum, a power law through the minima.

    `window`: sizes further than this factor from the minimum stay out of the curve (a parabola
    over a wider range is pulled by its steeper arm: with alpha = 0.465, beta = 0.155 and a range
    of 16 each way log10 N_opt is 0.13 off, with 8 it is 0.06), but at least `fewest_in_window`
    sizes stay in. None takes all.
    `recent`: only the last so many bracketed budgets decide the line and L(C); None takes all.
    `exponent` holds a fixed (0.5, say), so that the line has only its height to find.
    `asymptote` pins the irreducible loss of L(C), in nats per token; None weighs what it may be by
    what published laws have in common and by the optima (see `TrendPosterior`).
    """

    curve: CurveFamily = Parabola()  # noqa: RUF009 (frozen)
    window: float | None = NEAR
    fewest_in_window: int = 5
    asymptote: float | None = None
    recent: int | None = None
    exponent: float | None = None

    method: ClassVar[str] = "isoflop"

    def __post_init__(self) -> None:
        if self.recent is not None and self.recent < FEWEST_BRACKETED:
            raise FitError(
                f"recent is {self.recent}", f"a line needs {FEWEST_BRACKETED} budgets or more"
            )
        if self.exponent is not None and not abs(self.exponent) <= STEEPEST_LINE:
            raise FitError(
                f"exponent is {self.exponent}", "give that of N_opt in C, such as 0.5, or null"
            )

    def __call__(self, runs: Sequence[Run], flop_rule: FlopRule | None = None) -> IsoflopLaw:
        points, _ = usable_points(runs, flop_rule or FlopRule.constant())
        return self.law(points)

    def law(self, points: Points) -> IsoflopLaw:
        """The line through the bracketed minima. Raises `FitError` below two of them."""
        rows = self.curve_rows(points)
        noise = self._noise_of(points, rows)
        optima = tuple(self._optimum(r, noise) for r in rows)
        bracketed = self._deciding(optima)
        if len(bracketed) < FEWEST_BRACKETED:
            raise _too_few_bracketed(optima)
        flops = np.array([o.flops for o in bracketed])
        log_n = np.log(np.array([o.N_opt for o in bracketed], dtype=float))
        log_k, a, b = _line(flops, log_n[:, None], points.flop_rule, self.exponent)
        if abs(a[0]) > STEEPEST_LINE:
            raise FitError(
                f"N_opt would move as C^{a[0]:.3g} from budget to budget",
                "look for budgets or sizes in wrong units, or train budgets further apart",
            )
        line = PowerLaw(float(np.exp(log_k[0])), float(a[0]))
        return IsoflopLaw(
            line=line,
            b=float(b[0]),
            trend=self._trend(bracketed, noise, {r.budget: r.group for r in rows}).trend,
            budgets=optima,
            flop_rule=points.flop_rule,
            noise=noise,
        )

    def fitted(self, points: Points, draws: int, seed: int) -> Fitted:
        """The law and its draws; without draws where nothing tells the noise."""
        law = self.law(points)
        return Fitted(law, self.draws(points, law, draws, seed) if draws else None)

    def recorded(self) -> dict[str, Any]:
        return recorded_settings(self)

    def noise(self, points: Points) -> float | None:
        """Relative noise of a loss: of repeated seeds, else about the curves, else None.

        Curves that miss their points tell no noise, unless all do.
        """
        return self._noise_of(points, self.curve_rows(points))

    def _noise_of(self, points: Points, rows: Sequence[CurveRows]) -> float | None:
        seeds = seed_noise(points)
        if seeds is not None:
            return seeds.value
        good = [self._scatter(r.group) for r in rows if r.missed is None]
        about = pooled(good) or pooled([self._scatter(r.group) for r in rows])
        return None if about is None else about.value

    def optima(self, points: Points, noise: float | None) -> tuple[BudgetOptimum, ...]:
        """Curve, minimum and verdict of every budget, from small to large."""
        return tuple(self._optimum(rows, noise) for rows in self.curve_rows(points))

    def curve_rows(self, points: Points) -> list[CurveRows]:
        """The rows that each budget's curve is drawn through, from small to large budgets.

        Each is held against the noise of repeated seeds, else that of the other budgets.
        """
        rows = [self._in_window(budget, points.at_budget(budget)) for budget in points.budgets]
        if self.window is None:
            return rows
        noises = self._noise_for_each(points, rows)
        return [followed(r, self.curve, n) for r, n in zip(rows, noises, strict=True)]

    def _noise_for_each(self, points: Points, rows: Sequence[CurveRows]) -> list[CurveNoise | None]:
        """What tells the noise of a budget without that budget's own curve."""
        seeds = seed_noise(points)
        if seeds is not None:
            return [CurveNoise(seeds.value, seeds.freedom)] * len(rows)
        return pooled_without_each([self._scatter(r.group) for r in rows])

    def _scatter(self, group: Points) -> Scatter | None:
        if self.window is None or self.window > NEAR:
            group = near_minimum(group, NEAR, self.fewest_in_window)
        return scatter_about(self.curve.residual_family, group)

    def draws(self, points: Points, law: IsoflopLaw, count: int, seed: int) -> IsoflopDraws | None:
        """`count` refits of the bracketed budgets with fresh noise on the fitted curves.

        Noise, not resampled rows: a budget of three sizes has no other resample with a curve. None
        where nothing tells the noise.

        What the runs of a trunk have in common matters only between budgets, within one each size
        has a trunk of its own; how much of the noise that is can't be told from a handful of runs
        (estimates of 0.8 scatter from 0.4 to 1). All of it is taken to be common, and the minima
        of the budgets move together, which widens their line. Each draw has another skewness of
        the true curves, the same at all budgets, where the family of curves can't show any.
        """
        if law.noise is None:
            return None
        generator = np.random.default_rng(seed)
        noise = FreshNoise(count, generator)
        skewness = self.curve.unseen_skewness * generator.standard_normal(count)
        groups = {rows.budget: rows.group for rows in self.curve_rows(points)}
        bracketed = self._deciding(law.budgets)
        log_n, shift = np.empty((2, len(bracketed), count))
        for row, optimum in enumerate(bracketed):
            group = groups[optimum.budget]
            log_n[row], _ = self._redrawn(optimum, group, law.noise * noise.of(group))
            shift[row] = self._shift(optimum, group, skewness)
        flops = np.array([o.flops for o in bracketed])
        measured = np.log(np.array([o.N_opt for o in bracketed], dtype=float))
        scatter = _birge_ratio(flops, measured, log_n)
        widened = measured[:, None] + scatter * (log_n - measured[:, None]) + shift
        log_k, a, b = _line(flops, widened, points.flop_rule, self.exponent)
        trend, departure = self._trend(bracketed, law.noise, groups).draws(count, generator)
        return IsoflopDraws(log_k, a, b, trend, departure, points.flop_rule, scatter)

    def _deciding(self, optima: Sequence[BudgetOptimum]) -> list[BudgetOptimum]:
        """The bracketed optima through which line and trend go."""
        bracketed = [o for o in optima if o.is_bracketed]
        return bracketed if self.recent is None else bracketed[-self.recent :]

    def _trend(
        self,
        bracketed: Sequence[BudgetOptimum],
        noise: float | None,
        groups: Mapping[float, Points],
    ) -> TrendPosterior:
        """What their losses say of L(C); `groups` are the rows of each budget's curve."""
        parameters = self.curve.residual_family.parameters
        per_loss = np.mean([parameters / num_sizes(groups[o.budget]) for o in bracketed])
        return TrendPosterior(
            np.array([o.flops for o in bracketed]),
            np.array([o.loss for o in bracketed], dtype=float),
            self.asymptote,
            (noise or 0.0) * float(np.sqrt(per_loss)),
        )

    def measured(self, points: Points) -> tuple[list[BudgetOptimum], Array]:
        """The bracketed optima, and how far the noise of their losses alone moves them.

        Standard deviations of ln N and ln loss, (optima, 2); zeros where nothing tells the noise.
        """
        rows = self.curve_rows(points)
        noise = self._noise_of(points, rows)
        looked_at = [(r.group, self._optimum(r, noise)) for r in rows]
        bracketed = [(group, optimum) for group, optimum in looked_at if optimum.is_bracketed]
        generator = np.random.default_rng(0)
        found = np.zeros((len(bracketed), 2))
        for row, (group, optimum) in enumerate(bracketed):
            relative = (noise or 0.0) * generator.standard_normal((len(group), REDRAWN))
            log_n, loss = self._redrawn(optimum, group, relative)
            found[row] = log_n.std(), loss.std() / loss.mean()
        return [optimum for _, optimum in bracketed], found

    def errors_of_optima(self, points: Points) -> dict[float, float]:
        """Budget -> standard deviation of ln N of its bracketed optimum by its runs' noise."""
        optima, deviations = self.measured(points)
        return {o.budget: float(d) for o, d in zip(optima, deviations[:, 0], strict=True)}

    def _redrawn(
        self, optimum: BudgetOptimum, group: Points, relative: Array
    ) -> tuple[Array, Array]:
        """ln N and loss of the minima, (draws,), with errors (n, draws) about the fitted curve."""
        assert optimum.curve is not None
        noisy = optimum.curve(group.num_params)[:, None] * np.exp(relative)
        return self.curve.curve(np.log(group.num_params), noisy).lowest()

    def _shift(self, optimum: BudgetOptimum, group: Points, skewness: Array) -> Array:
        """By how much ln N of the minimum is off, (draws,), if the curve is skewed."""
        assert optimum.curve is not None
        log_n = np.log(group.num_params)
        place, _ = optimum.curve.lowest()
        cubic = optimum.curve.curvature() * np.outer((log_n - place) ** 3, skewness / 3)
        skewed = self.curve.curve(log_n, optimum.curve(group.num_params)[:, None] + cubic)
        return np.asarray(skewed.lowest()[0] - place)

    def _in_window(self, budget: float, everything: Points) -> CurveRows:
        if self.window is None:
            return CurveRows(budget, everything, everything)
        near = near_minimum(everything, self.window, self.fewest_in_window)
        return CurveRows(budget, everything, near)

    def _optimum(self, rows: CurveRows, noise: float | None) -> BudgetOptimum:
        budget, group = rows.budget, rows.group
        flops = float(np.exp(np.mean(np.log(group.flops))))
        sizes, needed = num_sizes(rows.everything), self.curve.fewest_sizes
        if num_sizes(group) < needed:
            reason = f"{sizes} sizes, a curve needs {needed}: train more sizes"
            return BudgetOptimum(budget, flops, sizes, FEW, reason)
        curve = self.curve.curve(np.log(group.num_params), group.loss)
        log_n, loss = (float(v) for v in curve.lowest())
        verdict, reason = _believed(rows, log_n, loss, noise)
        num_params = float(np.exp(log_n))
        return BudgetOptimum(
            budget=budget,
            flops=flops,
            num_sizes=sizes,
            verdict=verdict,
            reason=reason,
            N_opt=num_params,
            D_opt=float(group.flop_rule.tokens(flops, num_params)),
            loss=loss,
            curve=curve,
        )


def _believed(rows: CurveRows, log_n: float, loss: float, noise: float | None) -> tuple[str, str]:
    """The verdict on a curve's minimum, and why."""
    verdict, reason = verdict_on(rows.group, rows.everything, log_n, noise)
    if verdict != OK:
        return verdict, reason + _left_out(rows.left_out)
    if loss <= 0:
        fallen = f"the curve falls to a loss of {loss:.3g}: look for runs that went wrong"
        return NEGATIVE, fallen
    if rows.missed is not None:
        return MISFIT, rows.missed
    return OK, reason + _left_out(rows.left_out)


def _left_out(sizes: Sequence[float]) -> str:
    """Which sizes stayed out of a curve that they would bend."""
    if not sizes:
        return ""
    named = " and ".join(map(short_number, sizes))
    stay = "stays" if len(sizes) == 1 else "stay"
    return f"; N = {named} {stay} out of the curve, which would miss the others"


def _line(
    flops: Array, log_n: Array, rule: FlopRule, exponent: float | None
) -> tuple[Array, Array, Array]:
    """ln coefficient and exponent of N_opt, exponent of D_opt, from ln N_opt (budgets, draws)."""
    log_c = np.log(flops)
    if exponent is None:
        a, log_k = np.polyfit(log_c, log_n, 1)
    else:
        a = np.full(log_n.shape[1], exponent)
        log_k = log_n.mean(axis=0) - exponent * log_c.mean()
    on_line = finite_exp(log_k + np.outer(log_c, a))
    b, _ = np.polyfit(log_c, np.log(rule.tokens(flops[:, None], on_line)), 1)
    return log_k, a, b


def _birge_ratio(flops: Array, measured: Array, drawn: Array) -> float:
    """How much more the optima ln N_opt (budgets,) scatter about their line than the draws
    (budgets, draws) about theirs, never below 1."""
    noise = drawn.std(axis=1)[:, None]
    if len(flops) < 3 or not np.all(noise > 0):
        return 1.0
    line = np.vander(np.log(flops / flops[0]), 2)
    off_line = np.eye(len(flops)) - line @ np.linalg.pinv(line)
    squares = np.sum((off_line @ measured / noise.ravel()) ** 2)
    expected = np.sum((off_line @ (drawn - drawn.mean(axis=1, keepdims=True)) / noise) ** 2, axis=0)
    return max(1.0, float(np.sqrt(squares / expected.mean())))


def _too_few_bracketed(optima: Sequence[BudgetOptimum]) -> FitError:
    if not optima:
        return FitError(
            "no two runs share a budget", "name the budget column, or train sizes at equal FLOPs"
        )
    if len(optima) < FEWEST_BRACKETED:
        return FitError(
            f"{len(optima)} budget" + ("" if len(optima) == 1 else "s"),
            "an exponent needs at least two budgets: train another",
        )
    bracketed = sum(o.is_bracketed for o in optima)
    troubles = "; ".join(
        f"{short_flops(o.budget)} FLOPs: {o.verdict}, {o.reason}"
        for o in optima
        if not o.is_bracketed
    )
    return TooFewBracketed(
        f"{bracketed} of {len(optima)} budgets have a bracketed minimum, a line needs "
        f"{FEWEST_BRACKETED}",
        troubles,
    )
