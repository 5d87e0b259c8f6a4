"""Which part of the losses an axis shows, and what lies beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval

LOG_FROM = 3.0
"""Largest over smallest number from which an axis is logarithmic."""

MOST = 0.9
"""Share of the numbers that always shows."""

ROOM = 1.5
"""What lies beyond the share of `MOST` by this multiple of its range, and further, is clipped."""

MARGIN = 0.06
"""Of the range, on both sides."""


@dataclass(frozen=True)
class Frame:
    """The limits of an axis, whether it is logarithmic, and how many numbers lie above it."""

    limits: Interval
    is_log: bool
    num_above: int
    highest: float

    @property
    def notes(self) -> tuple[str, ...]:
        """That something lies above, where it does."""
        if not self.num_above:
            return ()
        runs = f"{self.num_above} runs lie" if self.num_above > 1 else "1 run lies"
        return (f"{runs} above, up to {self.highest:.3g}: triangles at the edge",)


def frame(values: Array, *, keep: Array | None = None) -> Frame:
    """Limits within which most of `values` (n,) show, in logs where their range asks for it.

    A size that failed to learn would flatten all others to a line: what lies far above is clipped,
    but never what is in `keep`.
    """
    known = values[np.isfinite(values)]
    is_log = bool(known.min() > 0 and np.quantile(known, MOST) > LOG_FROM * known.min())
    if not is_log:
        return linear_frame(values, keep=keep)
    inner = linear_frame(np.log(known), keep=None if keep is None else np.log(keep[keep > 0]))
    low, high = inner.limits
    limits = float(np.exp(low)), float(np.exp(high))
    return Frame(limits, True, inner.num_above, float(known.max()))


def linear_frame(values: Array, *, keep: Array | None = None) -> Frame:
    """The same on an axis that is not logarithmic."""
    known = values[np.isfinite(values)]
    low, most = float(known.min()), float(np.quantile(known, MOST))
    kept = low if keep is None else float(np.max(keep, initial=low, where=np.isfinite(keep)))
    above = known > max(most + ROOM * (most - low), kept)
    top = max(float(known[~above].max()), kept)
    room = MARGIN * (top - low) or 0.1 * abs(low) or 1.0
    return Frame((low - room, top + room), False, int(above.sum()), float(known.max()))
