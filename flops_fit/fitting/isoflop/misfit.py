"""Whether a curve misses the losses that it was drawn through, and the rows that it can follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from flops_fit.fitting.isoflop.curves import CurveFamily, IsoflopCurve, size_groups
from flops_fit.fitting.isoflop.optima import ON_EDGE, num_sizes
from flops_fit.fitting.isoflop.scatter import CurveNoise
from flops_fit.fitting.points import Points
from flops_fit.laws import Array
from flops_fit.shown import short_number

BENT = 0.08
"""Share of a budget's range of losses by which a curve may miss them: its own shape allows that.
Parabolas through exact surfaces miss by up to 0.055 (root mean square; alpha 0.6, beta 0.15), those
through the sweeps of Porian et al. 2024 by up to 0.077; a far arm that bends the curve gives 0.09
and more."""

FALSE_ALARM = 1e-3
"""Chance that the noise alone makes the residuals of a budget look too large."""

CLEARLY = 3.0
"""Standard deviations of one loss beyond which noise is no excuse."""

MOST_EXCUSED = 0.02
"""Relative noise of a loss that excuses a minimum below what was measured, and no more: twice what
published sweeps show between seeds. The scatter about other budgets' curves may be their misfit."""

BOTH = 2
"""Sizes beside a minimum that is not one of the sizes itself."""

FEWEST_LEFT = 4
"""Sizes that stay in a curve when far ones are taken out of it."""


@dataclass(frozen=True)
class CurveRows:
    """The rows of one budget that its curve is drawn through.

    `everything` are all its rows, `left_out` the sizes N that the curve could not follow, `missed`
    says what is wrong with a curve that misses its points all the same.
    """

    budget: float
    everything: Points
    group: Points
    left_out: tuple[float, ...] = ()
    missed: str | None = None


def followed(rows: CurveRows, family: CurveFamily, noise: CurveNoise | None) -> CurveRows:
    """The rows without the far sizes that keep the curve off the others.

    As many as it takes, one at a time from the end whose loss leaves the better curve, while
    `FEWEST_LEFT` sizes and one more than the curve has parameters remain. Where no curve passes all
    rows stay, with what is wrong. `noise` is what the other budgets or repeated seeds tell.
    """
    if num_sizes(rows.group) < family.fewest_sizes:
        return rows
    said = what_is_missed(rows.group, family, noise)
    if said is None:
        return rows
    fewest = max(FEWEST_LEFT, family.fewest_sizes, family.parameters + 1)
    group = rows.group
    while num_sizes(group) > fewest and (shorter := _one_size_less(group, family)) is not None:
        group = shorter
        if what_is_missed(group, family, noise) is None and _has_inner_minimum(group, family):
            return replace(rows, group=group, left_out=_sizes_without(rows.group, group))
    return replace(rows, missed=said)


def what_is_missed(group: Points, family: CurveFamily, noise: CurveNoise | None) -> str | None:
    """What the curve through these rows misses and what to do, in words; None for a good curve."""
    curve = family.curve(np.log(group.num_params), group.loss)
    return _sunken(group, curve, noise) or _lack_of_fit(group, curve, family.parameters, noise)


def _lack_of_fit(
    group: Points, curve: IsoflopCurve, parameters: int, noise: CurveNoise | None
) -> str | None:
    """An F test of the residuals, of those that the curve's own shape does not explain."""
    freedom = len(group) - parameters
    residual = curve(group.num_params) - group.loss
    share = np.sqrt(np.mean(residual**2)) / max(float(np.ptp(group.loss)), np.finfo(float).tiny)
    if noise is None or freedom <= 0 or share <= BENT:
        return None
    squares = float(np.sum((residual / group.loss) ** 2))
    from scipy.special import fdtri  # a sixth of a second, for those who only read a law

    limit = float(fdtri(freedom, noise.freedom, 1 - FALSE_ALARM))
    if squares <= limit * freedom * noise.value**2:
        return None
    worst = group.num_params[np.argmax(np.abs(residual / group.loss))]
    return (
        f"the losses lie {np.sqrt(squares / freedom):.2%} off the curve, noise explains "
        f"{noise.value:.2%}: look for runs that went wrong, first at N = {short_number(worst)}, or "
        "train more sizes near the least loss"
    )


def _sunken(group: Points, curve: IsoflopCurve, noise: CurveNoise | None) -> str | None:
    """A minimum below all that was measured, or below the sizes beside it, that the curve misses.

    The residuals of those sizes tell it from a minimum that really lies between two sizes.
    """
    sizes, losses = _size_means(group)
    place, lowest = (float(v) for v in curve.lowest())
    beside = _beside(np.log(sizes), place)
    residual = losses[beside] - curve(sizes[beside])
    relative = MOST_EXCUSED if noise is None else min(noise.value, MOST_EXCUSED)
    allowed = max(CLEARLY * relative * float(losses.min()), BENT * float(np.ptp(losses)))
    missed = residual > allowed / 2
    below_all = losses.min() - lowest > allowed and missed.any()
    below_both = losses[beside].min() - lowest > allowed and missed.sum() == BOTH
    if not (below_all or below_both):
        return None
    measured = " and ".join(
        f"{loss:.4g} at N = {short_number(n)}" for n, loss in _pairs(sizes, losses, beside)
    )
    return (
        f"the curve falls to {lowest:.4g} where {measured} was measured: train sizes between "
        "these, further ones bend the curve, or look for runs that went wrong"
    )


def _pairs(sizes: Array, losses: Array, chosen: Array) -> list[tuple[float, float]]:
    return list(zip(sizes[chosen].tolist(), losses[chosen].tolist(), strict=True))


def _beside(log_n: Array, place: float) -> Array:
    """Numbers of the sizes next to ln N = place on either side; one where it is a size itself."""
    if (at := np.abs(log_n - place)).min() <= ON_EDGE:
        return np.array([int(np.argmin(at))])
    right = int(np.clip(np.searchsorted(log_n, place), 1, len(log_n) - 1))
    return np.array([right - 1, right])


def _size_means(group: Points) -> tuple[Array, Array]:
    """N and mean loss of each size, from small to large."""
    number = size_groups(np.log(group.num_params))
    count = np.bincount(number)
    n, loss = (np.bincount(number, v) / count for v in (group.num_params, group.loss))
    return n, loss


def _one_size_less(group: Points, family: CurveFamily) -> Points | None:
    """Without the smallest or the largest size, whichever leaves the smaller residuals.

    The size of the least loss never ends up outermost. None where neither can go.
    """
    number = size_groups(np.log(group.num_params))
    least = int(np.argmin(_size_means(group)[1]))
    last = int(number.max())
    shorter = [group.where(number != 0)] if least > 1 else []
    shorter += [group.where(number != last)] if least < last - 1 else []
    return min(shorter, key=lambda rows: _mean_square(rows, family), default=None)


def _mean_square(group: Points, family: CurveFamily) -> float:
    """Of the relative residuals about the group's own curve."""
    curve = family.curve(np.log(group.num_params), group.loss)
    return float(np.mean((curve(group.num_params) / group.loss - 1) ** 2))


def _has_inner_minimum(group: Points, family: CurveFamily) -> bool:
    """Whether the curve's minimum is none of its ends."""
    log_n = np.log(group.num_params)
    place, _ = family.curve(log_n, group.loss).lowest()
    return bool(log_n.min() + ON_EDGE < place < log_n.max() - ON_EDGE)


def _sizes_without(all_rows: Points, kept: Points) -> tuple[float, ...]:
    """The sizes that are not among the rows that were kept."""
    out = set(all_rows.num_params.tolist()) - set(kept.num_params.tolist())
    return tuple(sorted(out))
