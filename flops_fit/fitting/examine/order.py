"""Whether losses follow size and compute at all, by exact permutation tests.

A law through shuffled losses now and then looks as good as a real one: a few rows make a bowl in
every budget by chance. What chance can do is known without any law: if the loss were the same for
all sizes of a budget, its rows might as well have come in any other order. So losses are shuffled
within groups of rows, and each time it is measured which share of their variance within the groups
a simple function explains: over the sizes of a budget a bowl whose place may move with compute,
over the budgets of a size a fall whose slope may change with the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.noise import NORMAL_PER_MEDIAN
from flops_fit.fitting.points import Points
from flops_fit.laws import Array

SHUFFLES, FEWEST_SHUFFLES = 999, 199
"""Of each kind; the fewest for large tables."""

MOST_CELLS = 2e6
"""Rows times shuffles, which take about a second."""

AT_ONCE = 100
"""Shuffles in memory together."""

BY_CHANCE, NEARLY = 0.01, 0.05
"""Share of shuffles with as much order from which, or up to which, order may be chance."""

LEAST_EXPLAINED = 0.4
"""Share of the variance within groups below which losses follow mostly something else, however
clearly they follow this. Public sweeps and simulated ones have 0.64 and more (Porian's fifteen,
`scripts/permuted_tables.py`); shuffled ones that pass the test by chance 0.3 now and then."""

OUTLYING = 1.5
"""Standard deviations, by the median of all, from its group's mean at which a loss counts as so far
off and no farther: one bad run among good ones must not drown their order."""

EQUAL = 1e-9
"""Difference of two shares of explained variance that are one."""

SIZES, COMPUTE, ROWS = "size within a budget", "compute at equal size", "size and tokens"
"""What the losses may not follow."""


@dataclass(frozen=True)
class Order:
    """How much order losses show, and how often shuffled ones show as much.

    `explained` is the share of the variance of ln loss that `over` explains, `by_chance` the share
    of shuffled tables that reach it, `exceeded` the share that has more.
    """

    over: str
    explained: float
    by_chance: float
    exceeded: float

    @property
    def is_clear(self) -> bool:
        """Whether chance can be ruled out, and most of the differences are in order. That losses
        fall with compute at all sizes is believed of few rows too: two budgets have no more than
        2^sizes other orders."""
        rare = self.by_chance <= BY_CHANCE or (self.over == COMPUTE and not self.exceeded)
        return rare and self.explained >= LEAST_EXPLAINED

    @property
    def is_none(self) -> bool:
        """Whether shuffled losses are as good."""
        return not self.is_clear and self.by_chance > NEARLY

    @property
    def doubt(self) -> str:
        if self.by_chance <= BY_CHANCE:
            return (
                f"{1 - self.explained:.0%} of how losses differ does not follow {self.over}: look "
                "for rows that lost their losses, or for what else differs among these runs"
            )
        return (
            f"{self.by_chance:.0%} of tables whose losses were shuffled follow {self.over} as well "
            "as these do: look for rows that lost their losses, or train more sizes"
        )


def orders(points: Points, seed: int = 0) -> tuple[Order, ...]:
    """Over the groups of rows that the table has, over all rows where it has no budgets."""
    found = [
        order(np.log(points.loss), over, group, terms, sign, seed)
        for over, group, terms, sign in _tests(points)
    ]
    return tuple(one for one in found if one is not None)


Test = tuple[str, NDArray[np.int64], Array, float]
"""What it is over; a number for each row, (n,), equal within its groups; the terms of the function,
(n, terms), the last of which may not have the other sign than the float."""


def _tests(points: Points) -> Iterator[Test]:
    log_n, log_c = _standard(np.log(points.num_params)), _standard(np.log(points.flops))
    budgets, budget = np.unique(points.budget, return_inverse=True)
    sizes, size = np.unique(points.num_params, return_inverse=True)
    has_budgets = 2 * len(budgets) <= len(points)
    if has_budgets:
        size_in_budget = _less_group_means(log_n, budget)
        moving = size_in_budget * _group_means(log_c, budget)
        yield SIZES, budget, np.stack([size_in_budget, moving, size_in_budget**2], axis=1), 1.0
    if 2 * len(sizes) > len(points) or not np.any(_less_group_means(log_c, size) ** 2 > EQUAL):
        size = places_in_budget(points, budget)
    if has_budgets or 2 * len(sizes) <= len(points):
        yield COMPUTE, size, np.stack([_group_means(log_n, size) * log_c, log_c], axis=1), -1.0
    if not has_budgets:
        terms = [log_n, log_n**2, log_c**2, log_n * log_c, log_c]
        yield ROWS, np.zeros(len(points), dtype=np.int64), np.stack(terms, axis=1), -1.0


def places_in_budget(points: Points, budget: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each row among the sizes of its budget, (n,), counted from the smallest.

    In place of the size itself where hardly one is trained at two budgets.
    """
    place = np.empty(len(points), dtype=np.int64)
    for number in range(int(budget.max()) + 1):
        rows = np.flatnonzero(budget == number)
        _, place[rows] = np.unique(points.num_params[rows], return_inverse=True)
    return place


def order(
    values: Array, over: str, group: NDArray[np.int64], terms: Array, sign: float, seed: int
) -> Order | None:
    """One test of `values` (n,); None where no two rows of a group differ."""
    values = _less_group_means(_without_outliers(values, group), group)
    explained_by = _Explained.by(_less_group_means(terms, group), sign)
    total = float(values @ values)
    if total <= 0 or explained_by is None:
        return None
    explained = float(explained_by(values[None])[0]) / total
    count = int(np.clip(MOST_CELLS / len(values), FEWEST_SHUFFLES, SHUFFLES))
    others = np.concatenate(
        [explained_by(some) / total for some in _shuffles(values, group, count, seed)]
    )
    reached = int(np.sum(others >= explained - EQUAL))
    exceeded = float(np.mean(others > explained + EQUAL))
    return Order(over, explained, (1 + reached) / (1 + count), exceeded)


def _without_outliers(values: Array, group: NDArray[np.int64]) -> Array:
    """Those far off the median of their group moved to `OUTLYING`; all of them if that is 0."""
    off = np.empty_like(values)
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        off[rows] = values[rows] - np.median(values[rows])
    bound = OUTLYING * NORMAL_PER_MEDIAN * float(np.median(np.abs(off)))
    return np.clip(off, -bound, bound) if bound else off


@dataclass(frozen=True)
class _Explained:
    """Sums of squares of rows of values, (rows, n), that terms explain; without the `last` one
    where its sign would be the wrong one. Both are orthonormal, (n, terms - 1) and (n,)."""

    others: Array
    last: Array

    @classmethod
    def by(cls, terms: Array, sign: float) -> _Explained | None:
        """None where the last term is the same for all rows."""
        basis, spread, _ = np.linalg.svd(terms[:, :-1], full_matrices=False)
        basis = basis[:, spread > EQUAL * max(float(spread.max()), EQUAL)]
        last = terms[:, -1] - basis @ (basis.T @ terms[:, -1])
        length = float(np.linalg.norm(last))
        if length <= EQUAL * max(float(np.linalg.norm(terms[:, -1])), EQUAL):
            return None
        return cls(basis, sign * last / length)

    def __call__(self, rows: Array) -> Array:
        rightly = np.maximum(rows @ self.last, 0.0)
        return np.asarray(np.sum((rows @ self.others) ** 2, axis=1) + rightly**2)


def _standard(values: Array) -> Array:
    return np.asarray((values - values.mean()) / (values.std() or 1.0))


def _group_means(values: Array, group: NDArray[np.int64]) -> Array:
    """Of the group of each row: (n,) or (n, columns)."""
    columns = values.reshape(len(group), -1).T
    count = np.maximum(np.bincount(group), 1)
    means = np.stack([(np.bincount(group, column) / count)[group] for column in columns], axis=1)
    return np.asarray(means.reshape(values.shape))


def _less_group_means(values: Array, group: NDArray[np.int64]) -> Array:
    """(n,) or (n, columns)"""
    return np.asarray(values - _group_means(values, group))


def _shuffles(values: Array, group: NDArray[np.int64], count: int, seed: int) -> Iterator[Array]:
    """(some shuffles, n) at a time, values changing places within their groups."""
    generator = np.random.default_rng(seed)
    rows = np.argsort(group, kind="stable")
    while count > 0:
        drawn = generator.random((min(count, AT_ONCE), len(values))) + group
        shuffled = np.empty_like(drawn)
        shuffled[:, rows] = values[np.argsort(drawn, axis=1)]
        count -= len(drawn)
        yield shuffled
