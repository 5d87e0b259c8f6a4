"""Many weighted surface fits at once: damped Newton steps on a shared design, batched in numpy.

A fit is a row of 6 numbers (E, ln A', ln B', alpha, beta, kappa) of
    u = E + A' exp(-alpha x) + B' exp(kappa x - beta y),    x, y = ln N, ln D less their means,
or of the first 5 where kappa = 0. The means come off because A and alpha of the uncentred surface
are 0.999 correlated. A bootstrap resample is a row of integer weights, so 4,000 of them share x
and y.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.surface.objectives import Objective
from flops_fit.laws import Array, LossSurface

Mask = NDArray[np.bool_]
Weights = NDArray[np.float64] | NDArray[np.uint8]
"""How often each row counts, (B, n)."""

FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-12, 1e10
"""Share of the majorant's curvature added to the Hessian. At `MOST_DAMPING` no step can improve
the objective in double precision: the fit has ended."""

RIDGE = 1e-13
"""Added to the scaled system: a direction that no row informs must not make it singular."""

NO_SCALE = 1e-150
"""Scale of a fit whose rows all weigh nothing: its square is still no zero to divide by."""

CHUNK_VALUES = 20_000
"""Rows times fits handled together: the arrays of a step then stay in a core's cache (2 MB)."""

LAST = 5
"""Place of kappa among the numbers of a fit."""

STEEPEST_BEND = 2.0
"""Bound of kappa either way. Fits of Farseer's runs have 0.1 to 0.15."""

STEEPEST = 12.0
"""Upper bound of alpha and beta. The steepest published optimum is 5 (Gemstones, one width)."""

DEEPEST_FALL = 60.0
"""ln by which a term may fall over the data: beyond it nothing but overflow can follow."""

SHALLOWEST = 1e-4
"""Lower bound of alpha and beta: a term falling by 0.01% per e-fold is a constant."""

LEAST_LOG_TERM = -35.0
"""Lower bound of ln A' and ln B' relative to the loss: below it a term is lost in rounding."""


@dataclass(frozen=True)
class Design:
    """Centred ln N and ln D and the measured loss of the rows, each of shape (n,).

    For fits to different losses on the same rows `loss` is (B, n), a row per fit.
    """

    x: Array
    y: Array
    loss: Array
    mean_log_n: float
    mean_log_d: float

    @classmethod
    def of(cls, num_params: Array, num_tokens: Array, loss: Array) -> Design:
        log_n, log_d = np.log(num_params), np.log(num_tokens)
        mean_n, mean_d = float(log_n.mean()), float(log_d.mean())
        return cls(log_n - mean_n, log_d - mean_d, loss, mean_n, mean_d)

    def sample(self, most: int) -> Design:
        """So many of its rows, always the same; itself where it has no more."""
        if len(self.x) <= most:
            return self
        rows = np.sort(np.random.default_rng(0).permutation(len(self.x))[:most])
        return replace(self, x=self.x[rows], y=self.y[rows], loss=self.loss[..., rows])

    def part(self, fits: NDArray[np.int64] | slice) -> Design:
        """The same for some of the fits."""
        return self if self.loss.ndim == 1 else replace(self, loss=self.loss[fits])

    def centred(self, surface: LossSurface) -> Array:
        """The 6 numbers of an uncentred surface."""
        s = surface
        log_a = np.log(s.A) - s.alpha * self.mean_log_n
        log_b = np.log(s.B) - s.beta * self.mean_log_d + s.kappa * self.mean_log_n
        return np.array([s.E, log_a, log_b, s.alpha, s.beta, s.kappa])

    def surface(self, fit: Array) -> LossSurface:
        """The uncentred surface of one row of numbers."""
        E, log_a, log_b, *exponents = self.uncentred(fit)
        return LossSurface(*map(float, (E, np.exp(log_a), np.exp(log_b), *exponents)))

    def uncentred(self, fits: Array) -> tuple[Array, ...]:
        """E, ln A, ln B, alpha, beta, kappa of fits (..., 5 or 6)."""
        E, log_a, log_b, alpha, beta, *kappa = np.moveaxis(np.asarray(fits), -1, 0)
        bend = kappa[0] if kappa else np.zeros_like(beta)
        log_b = log_b + beta * self.mean_log_d - bend * self.mean_log_n
        return E, log_a + alpha * self.mean_log_n, log_b, alpha, beta, bend


@dataclass(frozen=True)
class Ending:
    """When a fit ends: a step promises less than `tolerance` of the objective, or `max_steps`."""

    tolerance: float
    max_steps: int


@dataclass(frozen=True)
class Space:
    """What a fit may vary: k free numbers between `low` and `high` (k,), sent to the m by `basis`.

    `basis` (m, k) is the identity, or sends one exponent to both alpha and beta; m is 6 where kappa
    is free, else 5.
    """

    basis: Array
    low: Array
    high: Array

    @classmethod
    def free(cls, design: Design) -> Space:
        top = float(np.log(design.loss.max()))
        low = [0.0, top + LEAST_LOG_TERM, top + LEAST_LOG_TERM, SHALLOWEST, SHALLOWEST]
        # No term can exceed the largest loss in the middle of the data, give or take a factor e.
        steepest = [min(STEEPEST, DEEPEST_FALL / np.ptp(v)) for v in (design.x, design.y)]
        high = [float(design.loss.max()), top + 1, top + 1, *steepest]
        return cls(np.eye(5), np.array(low), np.array(high))

    def with_tied_exponents(self) -> Space:
        """alpha = beta."""
        basis = np.delete(self.basis, 4, axis=1)
        basis[4, 3] = 1.0
        return Space(basis, np.delete(self.low, 4), np.delete(self.high, 4))

    def with_interaction(self) -> Space:
        """kappa free."""
        grown = np.eye(len(self.basis) + 1, self.basis.shape[1] + 1)
        grown[:-1, :-1] = self.basis
        grown[-1, -1] = 1.0
        return Space(
            grown, np.append(self.low, -STEEPEST_BEND), np.append(self.high, STEEPEST_BEND)
        )

    def with_asymptote(self, E: float) -> Space:
        """The irreducible loss pinned at E."""
        low, high = self.low.copy(), self.high.copy()
        low[0] = high[0] = E
        return Space(self.basis, low, high)

    def names_at_bounds(self, fit: Array) -> tuple[str, ...]:
        """Which of the fit's numbers ended at a limit that nobody pinned them to."""
        free = self.from_fits(fit[None])[0]
        ends = (self.low < self.high) & ((free <= self.low) | (free >= self.high))
        names = ("E", "A", "B", "alpha", "beta", "kappa")
        return tuple(names[i] for i in np.flatnonzero(self.basis @ ends))

    def nearest(self, fits: Array) -> Array:
        """The fits (B, m) of this space nearest to any fits (B, 5 or 6)."""
        return self.fits(self.from_fits(fits))

    def inside(self, free: Array) -> Array:
        return np.clip(free, self.low, self.high)

    def from_fits(self, fits: Array) -> Array:
        """The free numbers (B, k) nearest to fits (B, 5 or 6); a kappa that fits lack is 0."""
        rows = len(self.basis)
        padded = np.pad(fits[:, :rows], ((0, 0), (0, max(0, rows - fits.shape[1]))))
        return self.inside(padded @ np.linalg.pinv(self.basis).T)

    def fits(self, free: Array) -> Array:
        return free @ self.basis.T

    def blocked(self, free: Array, gradient: Array) -> Mask:
        """Where a number stands at a bound and the descent would leave it."""
        return ((free <= self.low) & (gradient > 0)) | ((free >= self.high) & (gradient < 0))


class Solutions(NamedTuple):
    """B fits: their numbers (B, m), summed objectives (B,), gradients (B,), steps taken (B,).

    A gradient is the decrease that a full Newton step still promises, as a share of the objective.
    """

    fits: Array
    values: Array
    gradients: Array
    steps: Array


def terms(fits: Array, design: Design) -> tuple[Array, Array, Array]:
    """Predicted loss and its terms in N and in D, each (B, n)."""
    capacity = np.exp(fits[:, 1:2] - fits[:, 3:4] * design.x)
    log_data = fits[:, 2:3] - fits[:, 4:5] * design.y
    if fits.shape[1] > LAST:
        log_data = log_data + fits[:, LAST:] * design.x
    data = np.exp(log_data)
    return fits[:, 0:1] + capacity + data, capacity, data


def objective_values(fits: Array, weights: Weights, design: Design, objective: Objective) -> Array:
    """Summed objective of each fit, (B,)."""
    predicted, _, _ = terms(fits, design)
    values = objective.values(predicted, design.loss)
    return np.asarray(np.einsum("bn,bn->b", weights, values))


def solve(
    starts: Array,
    weights: Weights,
    design: Design,
    objective: Objective,
    space: Space,
    ending: Ending,
) -> Solutions:
    """Minimise from each of `starts` (B, 5 or 6) under `weights` (B, n), chunks fitting a cache."""
    size = max(1, CHUNK_VALUES // len(design.x))
    parts = [slice(i, i + size) for i in range(0, len(starts), size)]
    chunks = [
        _solve_chunk(starts[p], weights[p], design.part(p), objective, space, ending) for p in parts
    ]
    return Solutions(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _solve_chunk(
    starts: Array,
    weights: Weights,
    design: Design,
    objective: Objective,
    space: Space,
    ending: Ending,
) -> Solutions:
    free = space.from_fits(starts)
    count = len(free)
    values, promised = np.empty(count), np.full(count, np.inf)
    steps = np.zeros(count, dtype=int)
    damping = np.full(count, FIRST_DAMPING)
    going = np.arange(count)
    for _ in range(ending.max_steps):
        rows = design.part(going)
        model = _local_model(free[going], weights[going], rows, objective, space)
        values[going] = model.value
        trial, promise = _step(free[going], model, damping[going], space)
        reached = objective_values(space.fits(trial), weights[going], rows, objective)
        better = reached < model.value
        gain = (model.value - reached) / np.where(promise > 0, promise, np.inf)
        free[going[better]] = trial[better]
        values[going[better]] = reached[better]
        damping[going] = _next_damping(damping[going], better, gain)
        promised[going] = promise / np.maximum(model.value, np.finfo(float).tiny)
        steps[going] += 1
        ended = (better & (promised[going] < ending.tolerance)) | (damping[going] > MOST_DAMPING)
        going = going[~ended]
        if not going.size:
            break
    return Solutions(space.fits(free), values, promised, steps)


def _step(free: Array, model: _Model, damping: Array, space: Space) -> tuple[Array, Array]:
    """Trial point of a damped Newton step inside the bounds, and the decrease it promises."""
    blocked = space.blocked(free, model.gradient)
    gradient = np.where(blocked, 0.0, model.gradient)
    matrix = model.hessian + damping[:, None, None] * model.majorant
    scale = np.sqrt(np.einsum("bii->bi", model.majorant))
    scale = np.maximum(scale, RIDGE * scale.max(axis=1, keepdims=True)) + NO_SCALE
    matrix /= scale[:, :, None] * scale[:, None, :]
    matrix[blocked] = 0.0
    matrix.swapaxes(1, 2)[blocked] = 0.0
    ridge = RIDGE * (1 + damping[:, None])
    np.einsum("bii->bi", matrix)[...] += np.where(blocked, 1.0, ridge)
    move = _solved(matrix, -gradient / scale) / scale
    trial = space.inside(free + move)
    taken = trial - free
    promise = -np.einsum("bi,bi->b", gradient, taken) - 0.5 * np.einsum(
        "bi,bij,bj->b", taken, model.hessian, taken
    )
    return trial, promise


def _solved(matrices: Array, right: Array) -> Array:
    """x of each matrix x = right; the shortest least-squares one where some matrix is singular."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        return np.asarray((np.linalg.pinv(matrices) @ right[:, :, None])[:, :, 0])


def _next_damping(damping: Array, better: Mask, gain: Array) -> Array:
    """Less after a step that kept its promise, more after one that didn't."""
    kept = np.where(gain > 0.75, damping / 8, np.where(gain < 0.25, damping * 3, damping))
    return np.where(better, np.maximum(kept, LEAST_DAMPING), np.maximum(damping, 1e-4) * 8)


class _Model(NamedTuple):
    """An objective near B fits: value (B,), and by the k free numbers gradient (B, k), Hessian and
    majorant (B, k, k)."""

    value: Array
    gradient: Array
    hessian: Array
    majorant: Array


def _local_model(
    free: Array, weights: Weights, design: Design, objective: Objective, space: Space
) -> _Model:
    predicted, capacity, data = terms(space.fits(free), design)
    value, slope, curvature, majorant = objective.penalty(predicted, design.loss)
    slope = slope * weights
    rows = [np.ones_like(capacity), capacity, data, -design.x * capacity, -design.y * data]
    if len(space.basis) > LAST:
        rows.append(design.x * data)
    jacobian = np.stack(rows, axis=1)  # (B, m, n)
    columns = jacobian.swapaxes(1, 2)
    hessian = (jacobian * (curvature * weights)[:, None]) @ columns
    # Second derivatives of the prediction itself: only within a term, ln A' with alpha.
    _bend(hessian, slope * data, design)
    for log_term, exponent, term, where in ((1, 3, capacity, design.x), (2, 4, data, design.y)):
        pulled = slope * term
        first = pulled @ where
        hessian[:, log_term, log_term] += pulled.sum(axis=1)
        hessian[:, log_term, exponent] -= first
        hessian[:, exponent, log_term] -= first
        hessian[:, exponent, exponent] += pulled @ where**2
    least_majorant = (jacobian * (majorant * weights)[:, None]) @ columns
    basis = space.basis
    return _Model(
        value=np.einsum("bn,bn->b", weights, value),
        gradient=(jacobian @ slope[:, :, None])[:, :, 0] @ basis,
        hessian=basis.T @ hessian @ basis,
        majorant=basis.T @ least_majorant @ basis,
    )


def _bend(hessian: Array, pulled: Array, design: Design) -> None:
    """Adds the second derivatives by kappa to Hessians (B, m, m), where it is free.

    `pulled` (B, n) is the slope of each row's penalty times its term in D.
    """
    if hessian.shape[1] <= LAST:
        return
    by_log_b, by_beta = pulled @ design.x, -(pulled @ (design.x * design.y))
    for other, mixed in ((2, by_log_b), (4, by_beta)):
        hessian[:, LAST, other] += mixed
        hessian[:, other, LAST] += mixed
    hessian[:, LAST, LAST] += pulled @ design.x**2
