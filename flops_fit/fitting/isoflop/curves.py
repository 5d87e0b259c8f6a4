"""The loss curve of one budget over ln N, its minimum, and whether that minimum can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.laws import Array

SAME_SIZE = 1e-3
"""ln N (0.1%) within which models count as one size: no loss tells them apart."""

SKEWNESS = 0.07
"""Standard deviation of beta - alpha that a parabola's interval allows for. Over x = ln N less its
minimum a curve is x^2 + (beta - alpha) x^3 / 3 up to its scale, and the minimum of a parabola
through it lies elsewhere. Fits of Chinchilla's runs have -0.06 to 0.02 (Hoffmann et al. 2022;
Besiroglu et al. 2024), and intervals for such surfaces then cover what they promise
(scripts/fit_coverage.py); those of McLeish et al. 2025 have 0.2 to 0.5: cubics follow these."""

CUBIC = 4
"""Coefficients of a piece, highest power first, as scipy's `PPoly` has them."""


@dataclass(frozen=True)
class IsoflopCurve:
    """Loss over ln N at one budget: cubics in (ln N - left knot) between knots (pieces + 1,).

    `coefficients` is (4, pieces), or (4, pieces, draws) for many curves on the same knots.
    """

    knots: Array
    coefficients: Array

    def __call__(self, num_params: ArrayLike) -> Array:
        """Loss at N, the outermost pieces continuing beyond the knots."""
        log_n = np.log(np.asarray(num_params, dtype=float))
        piece = self._piece(log_n)
        t = log_n - self.knots[piece]
        if self.coefficients.ndim > 2:
            t = t[..., None]
        return _cubic(self.coefficients[:, piece], t)

    def lowest(self) -> tuple[Array, Array]:
        """ln N and loss of the minimum between the outermost knots, ends included.

        Scalars (0-d), or (draws,) for many curves. Exact: ends and stationary points of each piece.
        """
        width = np.diff(self.knots)
        width = width.reshape(-1, *[1] * (self.coefficients.ndim - 2))
        inner = [np.clip(root, 0.0, width) for root in _stationary(self.coefficients)]
        t = np.stack(np.broadcast_arrays(np.zeros_like(width), width, *inner))
        loss = _cubic(self.coefficients[:, None], t)  # (candidates, pieces, ...)
        left = self.knots[:-1].reshape(width.shape)
        places = (left + t).reshape(-1, *t.shape[2:])
        flat = loss.reshape(places.shape)
        best = np.argmin(flat, axis=0)[None]
        return (
            np.take_along_axis(places, best, axis=0)[0],
            np.take_along_axis(flat, best, axis=0)[0],
        )

    def curvature(self) -> Array:
        """Half of d2 loss / d(ln N)2 at the minimum."""
        place, _ = self.lowest()
        piece = int(self._piece(place))
        c3, c2, _, _ = self.coefficients[:, piece]
        return np.asarray(c2 + 3 * c3 * (place - self.knots[piece]))

    def _piece(self, log_n: Array) -> NDArray[np.int64]:
        """The piece that ln N lies on, or is nearest to."""
        last = len(self.knots) - 2
        return np.clip(np.searchsorted(self.knots, log_n, side="right") - 1, 0, last)

    def to_json(self) -> dict[str, Any]:
        return {"log_knots": self.knots.tolist(), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> IsoflopCurve:
        knots, coefficients = (np.array(data[k], float) for k in ("log_knots", "coefficients"))
        if coefficients.shape != (4, len(knots) - 1):
            raise ValueError(f"a curve of {coefficients.shape} over {len(knots)} knots")
        return cls(knots, coefficients)


class CurveFamily(Protocol):
    """A way to draw a curve through the sizes of one budget."""

    fewest_sizes: ClassVar[int]
    parameters: ClassVar[int]
    """Numbers fitted for each curve."""

    unseen_skewness: ClassVar[float]
    """Standard deviation of beta - alpha that curves of this family can't show."""

    @property
    def residual_family(self) -> CurveFamily:
        """The least-squares family whose residuals tell the noise of a loss."""

    def curve(self, log_n: Array, loss: Array) -> IsoflopCurve:
        """Through losses (n,) or many sets of losses (n, draws) at the same ln N (n,)."""


@dataclass(frozen=True)
class Parabola:
    """Least squares of loss on a parabola in ln N (Hoffmann et al. 2022, section 3.2)."""

    fewest_sizes: ClassVar[int] = 3
    parameters: ClassVar[int] = 3
    unseen_skewness: ClassVar[float] = SKEWNESS

    @property
    def residual_family(self) -> CurveFamily:
        return self

    def curve(self, log_n: Array, loss: Array) -> IsoflopCurve:
        return _polynomial(log_n, loss, degree=2)


@dataclass(frozen=True)
class Cubic:
    """Least squares of loss on a cubic in ln N: follows curves that rise faster on one side."""

    fewest_sizes: ClassVar[int] = 5
    parameters: ClassVar[int] = 4
    unseen_skewness: ClassVar[float] = 0.0

    @property
    def residual_family(self) -> CurveFamily:
        return self

    def curve(self, log_n: Array, loss: Array) -> IsoflopCurve:
        return _polynomial(log_n, loss, degree=3)


@dataclass(frozen=True)
class Akima:
    """Akima's interpolation through the mean loss of each size (Porian et al. 2024)."""

    fewest_sizes: ClassVar[int] = 3
    parameters: ClassVar[int] = 3
    unseen_skewness: ClassVar[float] = 0.0

    @property
    def residual_family(self) -> CurveFamily:
        return Cubic()

    def curve(self, log_n: Array, loss: Array) -> IsoflopCurve:
        group = size_groups(log_n)
        rows = [group == g for g in range(group.max() + 1)]
        places = np.array([log_n[r].mean() for r in rows])
        mean = np.stack([loss[r].mean(axis=0) for r in rows])
        from scipy.interpolate import Akima1DInterpolator  # a quarter of a second, rarely asked

        pieces = Akima1DInterpolator(places, mean)
        return IsoflopCurve(pieces.x, pieces.c)


def size_groups(log_n: Array) -> NDArray[np.int64]:
    """A number for each ln N (n,), rising from 0, equal for what is one size."""
    _, group = np.unique(np.round(log_n / SAME_SIZE), return_inverse=True)
    return group.ravel()


def _polynomial(log_n: Array, loss: Array, degree: int) -> IsoflopCurve:
    """Least squares in powers of (ln N - smallest ln N), scaled to the range."""
    left, width = float(log_n.min()), float(np.ptp(log_n))
    powers = np.vander((log_n - left) / width, degree + 1)  # highest first
    scaled = np.linalg.lstsq(powers, loss, rcond=None)[0]
    scale = (width ** np.arange(degree, -1, -1)).reshape(-1, *[1] * (loss.ndim - 1))
    pad = np.zeros((CUBIC - degree - 1, *loss.shape[1:]))
    return IsoflopCurve(
        np.array([left, left + width]), np.concatenate([pad, scaled / scale])[:, None]
    )


def _cubic(coefficients: Array, t: Array) -> Array:
    c3, c2, c1, c0 = coefficients
    value: Array = ((c3 * t + c2) * t + c1) * t + c0
    return value


def _stationary(coefficients: Array) -> tuple[Array, Array]:
    """Both roots t of the derivative of each piece; 0 where there is none."""
    c3, c2, c1, _ = coefficients
    root = np.sqrt(np.maximum(c2**2 - 3 * c3 * c1, 0.0))
    # The form that loses no digits: q has the larger size, the other root follows from the product.
    q = -(c2 + np.copysign(root, c2))
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = q / (3 * c3), c1 / q
    return np.nan_to_num(first, posinf=0, neginf=0), np.nan_to_num(second, posinf=0, neginf=0)
