"""Approach 3: one loss surface through all runs (Hoffmann et al. 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from flops_fit.fitting.bootstrap import resample_weights
from flops_fit.fitting.contract import Fitted
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.noise import FreshNoise, SeedNoise, seed_noise
from flops_fit.fitting.points import Points, blocks, near_best, places, usable_points
from flops_fit.fitting.provenance import recorded_settings
from flops_fit.fitting.surface.draws import SurfaceDraws
from flops_fit.fitting.surface.law import SurfaceLaw
from flops_fit.fitting.surface.objectives import Huber, Objective
from flops_fit.fitting.surface.solver import (
    SHALLOWEST,
    Design,
    Ending,
    Mask,
    Solutions,
    Space,
    Weights,
    objective_values,
    solve,
)
from flops_fit.laws import Array, FlopRule, LossSurface
from flops_fit.plan.run import Run
from flops_fit.shown import short_flops, short_number

GRID_EXPONENTS = np.geomspace(0.03, 3.0, 20)
"""alpha and beta of the starting grid: published fits lie between 0.05 and 1."""

STARTS_PER_SIDE = 4
"""The grid is cut into 4 x 4 blocks; the best point of each is polished as a start of its own."""

TO_THE_END = Ending(tolerance=1e-13, max_steps=400)
"""How the fit itself ends, as deep as double precision goes (objective 1e-8 below is resolved)."""

RESAMPLE_ENDING = Ending(tolerance=1e-8, max_steps=80)
"""How a bootstrap refit ends: an objective within 1e-8 moves alpha by < 1e-3 standard errors."""

MOST_ROWS_TO_SEARCH = 5_000
"""Rows by which neighbourhoods of optima are looked for; all rows then decide where these are."""

SAME_OPTIMUM = 1e-6
"""Relative difference of objectives below which two starts ended in the same place."""

PERFECT = 1e-26
"""Objective of one row that is rounding only: residuals of 1e-13."""

FEWEST_RUNS, FEWEST_RUNS_TIED = 6, 4
"""Distinct (N, D) needed: one more than the 5 numbers of a surface; with alpha = beta as many as
the 4 that are left."""

SPARE_RUNS = 1.5
"""Multiple of the runs needed from which on a resample leaves enough of them: 9 runs, 6 with tied
exponents. Of exactly 6 every resample with 6 different ones is the sample itself."""

FEWEST_TRUNKS = 6
"""Trunks from which on drawing them tells an uncertainty: nominal 90% intervals cover 0.95 of
simulated sweeps with 6, and 0.76 with 4."""

SAME_FLOPS = 1e-9
"""Relative difference of the FLOPs of two rows that is rounding."""

COLLINEAR = 0.02
"""Smallest allowed spread (standard deviation) of ln N, ln D across their common line. A sweep of
three sizes within a factor of 2 at two budgets a factor of 2 apart has 0.3."""


@dataclass(frozen=True)
class SurfaceFit:
    """Approach 3: minimise the summed objective over (E, A, B, alpha, beta), E, A, B >= 0.

    `tied_exponents` sets alpha = beta, for few runs. `asymptote` pins E, in nats per token.
    `interaction` frees kappa, by which larger models make less of the same data. `within`: only the
    sizes within this factor of N from the best of their budget enter, since the form holds near the
    optimum and the far arms of a sweep bend it; None takes all. `dearest`: only this share of the
    runs, those of most compute, enters.
    """

    objective: Objective = Huber()  # noqa: RUF009 (frozen)
    tied_exponents: bool = False
    asymptote: float | None = None
    interaction: bool = False
    within: float | None = None
    dearest: float = 1.0

    method: ClassVar[str] = "surface"

    def __post_init__(self) -> None:
        if self.within is not None and not self.within > 1:
            raise FitError(
                f"within is {self.within}", "give a factor of N above 1, such as 4, or null for all"
            )
        if not 0 < self.dearest <= 1:
            raise FitError(
                f"dearest is {self.dearest}", "give a share of the runs above 0, at most 1"
            )

    def __call__(self, runs: Sequence[Run], flop_rule: FlopRule | None = None) -> SurfaceLaw:
        points, _ = usable_points(runs, flop_rule or FlopRule.constant())
        return self.law(points)

    def law(self, points: Points) -> SurfaceLaw:
        """The best surface through `points`. Raises `FitError` where they can't determine one."""
        points = points.where(self.entering(points))
        self.check(points)
        design = _design(points)
        space = self.space(design)
        ends = self._polished(design, space)
        best = int(np.argmin(ends.values))
        at_bounds = space.names_at_bounds(ends.fits[best])
        _check_terms(at_bounds)
        surface = design.surface(ends.fits[best])
        _check_bend(surface)
        agree = ends.values <= ends.values[best] * (1 + SAME_OPTIMUM) + PERFECT * len(points)
        return SurfaceLaw(
            surface=surface,
            flop_rule=points.flop_rule,
            objective=self.objective,
            value=float(ends.values[best]),
            start_agreement=float(agree.mean()),
            promised_decrease=float(ends.gradients[best]),
            at_bounds=at_bounds,
        )

    def fitted(self, points: Points, draws: int, seed: int) -> Fitted:
        """The law and its bootstrap; without draws where nothing tells how sure it is."""
        law = self.law(points)
        return Fitted(law, self.draws(points, law, draws, seed) if draws else None)

    def recorded(self) -> dict[str, Any]:
        return recorded_settings(self)

    def draws(self, points: Points, law: SurfaceLaw, count: int, seed: int) -> SurfaceDraws | None:
        """Refits to resampled runs, or, where they are too few for that, to seed noise.

        Resampling asks nothing of the noise or of the form of the law, so repeated seeds replace
        it only where there are too few different (N, D) to draw from.
        """
        points = points.where(self.entering(points))
        if self.can_resample(points):
            weights = resample_weights(points, count, seed, self.fewest_runs)
            return self._solved(_design(points), points.flop_rule, law, weights)
        noise = seed_noise(points)
        return None if noise is None else self._noise_draws(points, law, noise, count, seed)

    def refits(self, points: Points, law: SurfaceLaw, weights: Weights) -> SurfaceDraws:
        """Refits under each row of `weights` (draws, n), started from `law`."""
        entering = self.entering(points)
        design = _design(points.where(entering))
        return self._solved(design, points.flop_rule, law, weights[:, entering])

    def _noise_draws(
        self, points: Points, law: SurfaceLaw, noise: SeedNoise, count: int, seed: int
    ) -> SurfaceDraws:
        """Refits to the law's own losses with fresh noise as repeated seeds have it."""
        generator = np.random.default_rng(seed)
        relative = noise.draws(count, generator) * FreshNoise(count, generator).of(points)
        exact = law.surface(points.num_params, points.num_tokens)
        design = replace(_design(points), loss=exact * np.exp(relative.T))
        return self._solved(design, points.flop_rule, law, np.ones((count, len(points))))

    def _solved(
        self, design: Design, rule: FlopRule, law: SurfaceLaw, weights: Weights
    ) -> SurfaceDraws:
        starts = np.tile(design.centred(law.surface), (len(weights), 1))
        space = self.space(design)
        ends = solve(starts, weights, design, self.objective, space, RESAMPLE_ENDING)
        E, log_a, log_b, alpha, beta, kappa = design.uncentred(ends.fits)
        return SurfaceDraws(E, log_a, log_b, alpha, beta, kappa, rule)

    def space(self, design: Design) -> Space:
        space = Space.free(design)
        if self.asymptote is not None:
            space = space.with_asymptote(self.asymptote)
        if self.tied_exponents:
            space = space.with_tied_exponents()
        return space.with_interaction() if self.interaction else space

    def entering(self, points: Points) -> Mask:
        """Which rows decide the surface, (n,)."""
        if not len(points):
            return np.zeros(0, dtype=bool)
        dear = points.flops >= np.quantile(points.flops, 1 - self.dearest) * (1 - SAME_FLOPS)
        return dear if self.within is None else np.asarray(dear & near_best(points, self.within))

    @property
    def fewest_runs(self) -> int:
        """Different (N, D) that this fit needs."""
        fewest = FEWEST_RUNS_TIED if self.tied_exponents else FEWEST_RUNS
        return fewest + int(self.interaction)

    def can_resample(self, points: Points) -> bool:
        """Whether resamples differ enough to tell an uncertainty."""
        num_blocks = len(set(blocks(points).tolist()))
        if num_blocks < min(len(points), FEWEST_TRUNKS):
            return False
        return len(set(places(points).tolist())) >= SPARE_RUNS * self.fewest_runs

    def check(self, points: Points) -> None:
        """Raise `FitError` where no surface can be told from these points."""
        found = len(set(places(points).tolist()))
        if found < self.fewest_runs:
            raise FitError(
                f"{found} different (N, D) for a surface that needs {self.fewest_runs}",
                "train more sizes or budgets"
                + ("" if self.tied_exponents else ", or tie the exponents (alpha = beta)"),
            )
        if np.ptp(points.loss) <= 1e-9 * points.loss.mean():
            raise FitError(
                f"every loss is {points.loss[0]:g}",
                "check the loss column: a law needs losses that differ",
            )
        _check_directions(points)

    def _polished(self, design: Design, space: Space) -> Solutions:
        """The ends of all starts, each led through the smoother objectives first."""
        some = design.sample(MOST_ROWS_TO_SEARCH)
        fits = self._starts(some)
        stages = [*self.objective.smoother, *([self.objective] if some is not design else [])]
        for objective in stages:
            weights = np.ones((len(fits), len(some.loss)))
            fits = solve(fits, weights, some, objective, space, RESAMPLE_ENDING).fits
        weights = np.ones((len(fits), len(design.loss)))
        return solve(fits, weights, design, self.objective, space, TO_THE_END)

    def _starts(self, design: Design) -> Array:
        """The best grid point of each block of the (alpha, beta) grid, E, A, B by least squares."""
        grid = [(alpha, beta) for alpha in GRID_EXPONENTS for beta in GRID_EXPONENTS]
        if self.tied_exponents:
            grid = [(exponent, exponent) for exponent in GRID_EXPONENTS]
        fits = self.space(design).nearest(
            np.array([_projected(design, alpha, beta) for alpha, beta in grid])
        )
        values = objective_values(fits, np.ones((1, len(design.loss))), design, self.objective)
        per_block = len(GRID_EXPONENTS) // STARTS_PER_SIDE
        block = np.arange(len(GRID_EXPONENTS)) // per_block
        blocks = block if self.tied_exponents else np.add.outer(block * 100, block).ravel()
        chosen = [np.flatnonzero(blocks == b)[np.argmin(values[blocks == b])] for b in set(blocks)]
        return fits[chosen]


def log_loss_jacobian(surface: LossSurface, num_params: Array, num_tokens: Array) -> Array:
    """d ln loss / d (E, ln A, ln B, alpha, beta) at each point, and kappa where there is one."""
    capacity = surface.A * num_params**-surface.alpha
    data = surface.B * num_params**surface.kappa * num_tokens**-surface.beta
    columns = [
        np.ones_like(capacity),
        capacity,
        data,
        -np.log(num_params) * capacity,
        -np.log(num_tokens) * data,
    ]
    if surface.kappa:
        columns.append(np.log(num_params) * data)
    return np.asarray(np.column_stack(columns) / (surface.E + capacity + data)[:, None])


def _design(points: Points) -> Design:
    return Design.of(points.num_params, points.num_tokens, points.loss)


def _projected(design: Design, alpha: float, beta: float) -> Array:
    """E, ln A', ln B' >= 0 of least relative squared error for given exponents, by NNLS."""
    from scipy.optimize import nnls  # half of the start-up of all that only reads a law

    columns = np.column_stack(
        [np.ones_like(design.x), np.exp(-alpha * design.x), np.exp(-beta * design.y)]
    )
    (E, A, B), _ = nnls(columns / design.loss[:, None], np.ones_like(design.loss))
    least = np.finfo(float).tiny
    return np.array([E, np.log(max(A, least)), np.log(max(B, least)), alpha, beta])


def _check_terms(at_bounds: Sequence[str]) -> None:
    """Refuse an optimum without a term that falls with N, or with D: it has no best size."""
    for letter, names in (("N", ("A", "alpha")), ("D", ("B", "beta"))):
        if ended := [name for name in names if name in at_bounds]:
            raise FitError(
                f"{' and '.join(ended)} ended at a limit: these losses show no power law in "
                f"{letter}",
                f"train over a wider range of {letter}, or look for runs that went wrong",
            )


def _check_bend(surface: LossSurface) -> None:
    """Refuse a surface on which both terms fall with N along a budget: no size is best."""
    if surface.beta + surface.kappa < SHALLOWEST:
        raise FitError(
            f"kappa = {surface.kappa:.3g} and beta = {surface.beta:.3g}: a larger N is better at "
            "any budget",
            "train larger sizes at each budget, or fit without interaction",
        )


def _check_directions(points: Points) -> None:
    """Refuse rows that lie on one line of (ln N, ln D): alpha and beta can't be told apart."""
    log_n, log_d = np.log(points.num_params), np.log(points.num_tokens)
    if np.std(log_n) < COLLINEAR:
        raise FitError(
            f"all runs have one size, N = {short_number(points.num_params[0])}",
            "train other sizes: alpha and A can't be told from one",
        )
    if np.std(log_d) < COLLINEAR:
        raise FitError(
            f"all runs have one number of tokens, D = {points.num_tokens[0]:.4g}",
            "train other lengths: beta and B can't be told from one",
        )
    centred = np.stack([log_n - log_n.mean(), log_d - log_d.mean()])
    spread = np.linalg.svd(centred, compute_uv=False)
    if spread[1] / np.sqrt(len(log_n)) >= COLLINEAR:
        return
    if np.std(log_d - log_n) < np.std(log_d + log_n):
        ratio = np.exp(np.mean(log_d - log_n))
        raise FitError(
            f"all runs have one ratio of tokens to parameters, {ratio:.3g}",
            "train other ratios: along one, alpha and beta are not identifiable",
        )
    raise FitError(
        f"all runs lie on one budget, {short_flops(np.exp(np.mean(np.log(points.flops))))} FLOPs",
        "train a second budget: no exponent can be told from one",
    )
