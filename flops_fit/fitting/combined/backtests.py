"""Rolling back-tests: what methods, fitted to the smaller budgets, say of the larger ones.

For every cut the sweep below it is fitted and what lies above is forecast. Those errors, which grow
with the distance, tell which method to believe on this very sweep, and how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.contract import FittedLaw, Method
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.isoflop import IsoflopFit
from flops_fit.fitting.points import Points
from flops_fit.laws import Array
from flops_fit.laws.prediction import LossLaw

MOST_CUTS = 10
"""Cuts between budgets that are tried: of more the newest."""

ROW_CUTS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the rows, by compute, that are fitted where there are no budgets to cut between."""

FEWEST_BELOW = 2
"""Bracketed budgets below a cut."""

Laws = Mapping[str, FittedLaw]
"""By the names of the candidates; those that refuse are missing."""


@dataclass(frozen=True)
class Targets:
    """What is forecast, (n,) each, by rising compute: FLOPs, ln loss, ln N.

    `level` is what a cut goes by: the budget of an optimum, or the FLOPs of a row. `num_tokens` are
    those of single rows, whose N is given and only their loss is forecast; None for the optima of
    budgets, of which both are. `loss_noise` and `size_noise` are the standard deviations of both
    by the noise of their runs.
    """

    level: Array
    flops: Array
    log_loss: Array
    log_num_params: Array
    loss_noise: Array
    size_noise: Array
    num_tokens: Array | None = None

    @classmethod
    def of_optima(cls, points: Points) -> Targets:
        """Those of each budget's own parabola, where that is bracketed."""
        optima, deviations = IsoflopFit().measured(points)
        found = [(o.budget, o.flops, o.loss or 1.0, o.N_opt or 1.0) for o in optima]
        level, flops, loss, n = np.array(found).reshape(-1, 4).T
        size_noise, loss_noise = deviations.T
        return cls(level, flops, np.log(loss), np.log(n), loss_noise, size_noise)

    @classmethod
    def of_rows(cls, points: Points) -> Targets:
        p = points.rows(np.argsort(points.flops, kind="stable"))
        none, columns = np.zeros(len(p)), (p.flops, p.flops, np.log(p.loss), np.log(p.num_params))
        return cls(*columns, none, none, p.num_tokens)

    def __len__(self) -> int:
        return len(self.level)

    @property
    def are_optima(self) -> bool:
        return self.num_tokens is None

    def cuts(self) -> list[float]:
        """The highest levels that are fitted, rising; something lies above each."""
        if self.are_optima:
            return [float(level) for level in self.level[FEWEST_BELOW - 1 : -1][-MOST_CUTS:]]
        places = (int(share * len(self)) for share in ROW_CUTS)
        found = {float(self.level[place - 1]) for place in places if place}
        return sorted(cut for cut in found if cut < self.level[-1])

    def below(self, points: Points, cut: float) -> NDArray[np.bool_]:
        """Which points are fitted, (rows,)."""
        return (points.budget if self.are_optima else points.flops) <= cut

    def at(self, chosen: NDArray[np.int64]) -> Targets:
        """Those with these numbers."""
        return Targets(
            level=self.level[chosen],
            flops=self.flops[chosen],
            log_loss=self.log_loss[chosen],
            log_num_params=self.log_num_params[chosen],
            loss_noise=self.loss_noise[chosen],
            size_noise=self.size_noise[chosen],
            num_tokens=None if self.num_tokens is None else self.num_tokens[chosen],
        )

    def up_to(self, level: float) -> Targets:
        return self.at(np.flatnonzero(self.level <= level))

    def said_by(self, laws: Laws) -> tuple[Array, Array]:
        """ln loss and ln N of the targets as each law forecasts them, (laws, n)."""
        if self.num_tokens is None:
            log_loss = [np.log(law.loss_opt(self.flops)) for law in laws.values()]
            return np.array(log_loss), np.log([law.N_opt(self.flops) for law in laws.values()])
        n = np.exp(self.log_num_params)
        said = [law(n, self.num_tokens) for law in laws.values() if isinstance(law, LossLaw)]
        return np.log(said), np.tile(self.log_num_params, (len(said), 1))

    def can_test(self, law: FittedLaw) -> bool:
        """Whether a law has an answer for such targets: rows ask for the loss of any size."""
        return self.are_optima or isinstance(law, LossLaw)


@dataclass(frozen=True)
class Cut:
    """What laws of all up to a level forecast of the targets beyond.

    Errors of ln loss and ln N are (laws, n), forecast less measured; `distance` (n,) is ln C of a
    target over that of the newest target below, `targets` and `flops` (n,) are their levels and
    FLOPs.
    """

    level: float
    names: tuple[str, ...]
    targets: Array
    flops: Array
    distance: Array
    loss_errors: Array
    size_errors: Array

    def known_at(self, level: float) -> Cut:
        """Without the targets that had not been measured when the sweep reached `level`."""
        known = self.targets <= level
        return Cut(
            level=self.level,
            names=self.names,
            targets=self.targets[known],
            flops=self.flops[known],
            distance=self.distance[known],
            loss_errors=self.loss_errors[:, known],
            size_errors=self.size_errors[:, known],
        )


def cuts_of(candidates: Mapping[str, Method], points: Points, targets: Targets) -> list[Cut]:
    """Every cut at which some candidate gives a law, rising."""
    levels = targets.cuts()
    parts = [points.where(targets.below(points, level)) for level in levels]
    tested = (_tested(laws_of(candidates, part)[0], targets) for part in parts)
    return [_cut(laws, level, targets) for level, laws in zip(levels, tested, strict=True) if laws]


def _tested(laws: Laws, targets: Targets) -> Laws:
    return {name: law for name, law in laws.items() if targets.can_test(law)}


def laws_of(
    candidates: Mapping[str, Method], points: Points
) -> tuple[Laws, Mapping[str, FitError]]:
    """The candidates' laws of points, and why others give none."""
    found, refusals = {}, {}
    for name, method in candidates.items():
        try:
            found[name] = method.law(points)
        except FitError as error:
            refusals[name] = error
    return found, refusals


def _cut(laws: Laws, level: float, targets: Targets) -> Cut:
    beyond = targets.at(np.flatnonzero(targets.level > level))
    newest = targets.up_to(level).flops.max()
    log_loss, log_n = beyond.said_by(laws)
    return Cut(
        level=level,
        names=tuple(laws),
        targets=beyond.level,
        flops=beyond.flops,
        distance=np.log(beyond.flops / newest),
        loss_errors=log_loss - beyond.log_loss,
        size_errors=log_n - beyond.log_num_params,
    )
