"""Budgets that data and sizes carry: a ladder to begin with, and what would work instead.

A budget is carried where its sizes get their steps, see their data no more than `max_epochs` times,
and stand on both sides of where the least loss is expected. Found by planning: budgets of the
series 1, 2, 3, 5, 10 .. are tried from the smallest one that can give its largest size enough steps
upward. Where too few are carried, sizes stand closer together, steps hold fewer samples, and last
the data repeat more often.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from flops_fit.errors import PlanError
from flops_fit.plan.experiment import Plan
from flops_fit.plan.flops import FlopCount
from flops_fit.plan.sweep import (
    COMPUTE_OPTIMAL_TOKENS_PER_PARAM,
    FEWEST_SIZES,
    DataShape,
    Family,
    NoSizeLeft,
    Sweep,
    center_of,
    plan_sweep,
)

SERIES = (1.0, 2.0, 3.0, 5.0)
"""Leading digits of the budgets that are proposed."""

LARGEST_POWER = 40
"""Of ten, in FLOPs: a million times the largest runs there are."""

RUNGS = 5
"""Budgets of a whole ladder, half a decade apart: two decades."""

DECADE = len(SERIES)
"""Steps of the series from a budget to ten times as much."""

FEWEST_RUNGS = 3
"""Budgets from which a law is more than a line through all its optima."""

MOST_SIZES = 5
"""Sizes that a budget should keep at least, two on either side of the expected minimum."""

MOST_TRIED = 6 * DECADE
"""Budgets of the series that are looked at."""

MARGIN = 10.0
"""Factor by which the arithmetic, with the FLOPs of one size for all, may be off."""

SPANS = (8.0, 5.0, 4.0, 3.0)
"""Taken in place of a wider span where data or sizes don't carry that one."""

SMALLEST_BATCH = 8
"""Samples to which steps are cut: the gradient of fewer is mostly noise."""

MOST_EPOCHS = (16.0, 64.0)
"""To which data are repeated where there is no other way; then a law of repeated data comes out."""


@dataclass(frozen=True)
class Bounds:
    """What a whole plan may cost: FLOPs, and all parameters of its largest size."""

    flops: float = math.inf
    params: float = math.inf

    def hold(self, plan: Plan) -> bool:
        largest = max(e.num_params_total for e in plan.experiments)
        return plan.total_flops <= self.flops and largest <= self.params


@dataclass(frozen=True)
class Proposal:
    """A sweep with budgets that are carried, its plan, and what else it changes, setting: value."""

    sweep: Sweep
    plan: Plan
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def budgets(self) -> tuple[float, ...]:
        """FLOPs."""
        return self.sweep.budgets

    @property
    def settings(self) -> dict[str, Any]:
        """All that is to be set, budgets first."""
        return {"budgets": self.budgets, **self.changes}

    @property
    def overrides(self) -> list[str]:
        """The same as words of the command line, each in need of quotes."""
        budgets = ",".join(re.sub(r"e\+0?", "e", f"{budget:g}") for budget in self.budgets)
        return [f"budgets=[{budgets}]", *(f"{k}={v:g}" for k, v in self.changes.items())]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the changes mean."""
        said = {
            "span": "sizes stand closer together, so that all of them get their steps and data",
            "batch_size": "steps of fewer samples, so that small budgets have enough of them",
            "max_epochs": "the data are seen so often that this is a law of repeated data; more "
            "of them would tell more",
        }
        return tuple(f"{name}={self.changes[name]:g}: {said[name]}" for name in self.changes)


def propose(
    sweep: Sweep,
    family: Family,
    data: DataShape,
    flops: FlopCount,
    *,
    bounds: Bounds | None = None,
    may_change_batch: bool = True,
) -> Proposal:
    """The first ladder of a decade or more that is carried, else of as much as there is.

    The knobs of `sweep` stay as they are where they can. Raises `PlanError` where nothing is
    carried within the bounds.
    """
    knobs = replace(sweep, budgets=())
    check_sizes(knobs, family)
    for way, budgets in _all_ladders(knobs, family, data, flops, may_change_batch):
        ladder = replace(way, budgets=budgets)
        plan = plan_sweep(ladder, family, data, flops)
        if bounds is None or bounds.hold(plan):
            return Proposal(ladder, plan, _changes(knobs, way))
    raise PlanError(
        f"no three budgets are carried by {_words(data)} and the sizes of this model, whatever the "
        "batch: bring more data, a wider range of sizes, or smaller ones"
    )


def _all_ladders(
    knobs: Sweep, family: Family, data: DataShape, flops: FlopCount, may_change_batch: bool
) -> Iterator[tuple[Sweep, tuple[float, ...]]]:
    """All that are carried, each with its knobs, the best first: no more epochs than must be, then
    sizes at each budget, then the spread of the budgets, then knobs as they are."""
    asked = knobs.num_sizes if knobs.sizes is None else len(knobs.sizes)
    most = max(FEWEST_SIZES, min(asked, MOST_SIZES))
    less = FEWEST_RUNGS - 1
    found: dict[Sweep, Tried] = {}
    for levels in ([(asked, DECADE), (most, DECADE), (most, less)], [(FEWEST_SIZES, less)]):
        for often in _epochs(knobs):
            ways = [*_ways(replace(knobs, max_epochs=often), may_change_batch)]
            found |= {w: tried(w, family, data, flops) for w in ways if w not in found}
            for level, fewest_steps in levels:
                for way in ways:
                    works = found[way].that_carry(level)
                    yield from ((way, budgets) for budgets in ladders(works, fewest_steps))


def _epochs(knobs: Sweep) -> list[float]:
    """Most epochs as asked, and more."""
    return [knobs.max_epochs, *(often for often in MOST_EPOCHS if often > knobs.max_epochs)]


def check_sizes(sweep: Sweep, family: Family) -> None:
    """Raises `PlanError` where there are too few sizes for any minimum."""
    sizes = sweep.num_sizes if sweep.sizes is None else len(sweep.sizes)
    if sweep.sizes is None:
        smallest = family.nearest(1.0).num_params
        others = {family.nearest(smallest * 4.0**step).num_params for step in range(1, 7)}
        sizes = min(sizes, len({smallest, *others}))
    if sizes < FEWEST_SIZES:
        raise PlanError(
            f"there {'is 1 size' if sizes == 1 else f'are {sizes} sizes'} to train: a minimum "
            f"shows only from {FEWEST_SIZES} on, so widen the model's size range, list more sizes, "
            "or, for a single run, give its budget"
        )


def planned_or_instead(sweep: Sweep, family: Family, data: DataShape, flops: FlopCount) -> Plan:
    """As `plan_sweep`; where a budget leaves no size the error names budgets that would work."""
    try:
        return plan_sweep(sweep, family, data, flops)
    except NoSizeLeft as error:
        instead = _instead(sweep, error.budget, family, data, flops)
        raise PlanError(f"{error}{instead}") from error


def _instead(sweep: Sweep, budget: float, family: Family, data: DataShape, flops: FlopCount) -> str:
    """The nearest budgets that are carried, as they are or with other knobs, as a clause."""
    if sweep.num_sizes == 1 or (sweep.sizes is not None and len(sweep.sizes) < FEWEST_SIZES):
        return ""
    works = tried(sweep, family, data, flops).that_carry(FEWEST_SIZES)
    if works:
        count = len(sweep.budgets)
        near = works[:: max(1, min(2, (len(works) - 1) // max(1, count - 1)))]
        chosen = near[-count:] if budget > works[-1] else near[:count]
        ladder = Proposal(replace(sweep, budgets=tuple(chosen)), Plan((), flops.rule(())))
        return f". What works here: '{ladder.overrides[0]}'"
    try:
        found = propose(sweep, family, data, flops, may_change_batch=sweep.batch_tokens is None)
    except PlanError:
        return ""
    return f". What works here: {' '.join(_quoted(found.overrides))}"


def _quoted(overrides: Sequence[str]) -> list[str]:
    return [f"'{word}'" if "[" in word else word for word in overrides]


def _ways(knobs: Sweep, may_change_batch: bool) -> Iterator[Sweep]:
    """The knobs as they are, and with changes, the mildest first."""
    batches = [knobs.batch_size]
    while may_change_batch and knobs.batch_tokens is None and batches[-1] > SMALLEST_BATCH:
        batches.append(max(SMALLEST_BATCH, batches[-1] // 2))
    spans = [knobs.span, *(s for s in SPANS if s < knobs.span and knobs.sizes is None)]
    for batch in batches:
        for span in spans:
            yield replace(knobs, span=span, batch_size=batch)


def _changes(knobs: Sweep, way: Sweep) -> dict[str, Any]:
    names = ("span", "batch_size", "max_epochs")
    return {n: getattr(way, n) for n in names if getattr(way, n) != getattr(knobs, n)}


def ladders(works: Sequence[float], fewest_steps: int) -> Iterator[tuple[float, ...]]:
    """Rungs among neighbouring budgets that work, over `fewest_steps` of them or more.

    The widest first, up to `RUNGS` rungs half a decade apart; where there is less, closer ones.
    """
    every_other = works[::2]
    for count in range(min(RUNGS, len(every_other)), FEWEST_RUNGS - 1, -1):
        if 2 * (count - 1) >= fewest_steps:
            yield tuple(every_other[:count])
    for count in range(min(RUNGS, len(works)), FEWEST_RUNGS - 1, -1):
        if count - 1 >= fewest_steps:
            yield tuple(works[:count])


@dataclass(frozen=True)
class Tried:
    """Budgets of the series, rising, and what is kept of the sizes of each."""

    budgets: tuple[float, ...]
    kept: tuple[_Kept, ...]

    def that_carry(self, count: int) -> list[float]:
        """The longest stretch of neighbours that keep so many sizes."""
        pairs = zip(self.budgets, self.kept, strict=True)
        return _longest_run([budget for budget, kept in pairs if kept.carries(count)])


def tried(sweep: Sweep, family: Family, data: DataShape, flops: FlopCount) -> Tried:
    """The budgets at which the sweep may be carried, planned one by one."""
    budgets = tuple(islice(_series(*_expected(sweep, family, data, flops)), MOST_TRIED))
    return Tried(budgets, tuple(_kept(b, sweep, family, data, flops) for b in budgets))


@dataclass(frozen=True)
class _Kept:
    """Sizes of a budget that would be trained, and how many of them lie on either side of the
    size that is expected to be best."""

    sizes: int
    below: int
    above: int

    def carries(self, count: int) -> bool:
        """Whether so many sizes are there, and enough of them on both sides."""
        side = 2 if count >= MOST_SIZES else 1
        return self.sizes >= count and min(self.below, self.above) >= side


def _kept(budget: float, sweep: Sweep, family: Family, data: DataShape, flops: FlopCount) -> _Kept:
    one = replace(sweep, budgets=(budget,), seeds=1, trunks=None)
    try:
        experiments = plan_sweep(one, family, data, flops).experiments
    except NoSizeLeft:
        return _Kept(0, 0, 0)
    center = center_of(budget, one, family, flops)
    sizes = [e.num_params for e in experiments]
    return _Kept(
        len(sizes), sum(n < 0.9 * center for n in sizes), sum(n > center / 0.9 for n in sizes)
    )


def _expected(
    sweep: Sweep, family: Family, data: DataShape, flops: FlopCount
) -> tuple[float, float]:
    """FLOPs below and above which nothing is carried, by the arithmetic of C = k N D.

    At D/N = r in the centre C = D^2 k / r = N^2 k r; the largest size sees D / span tokens and the
    smallest D span.
    """
    ratio = sweep.center or COMPUTE_OPTIMAL_TOKENS_PER_PARAM
    if sweep.sizes is None:
        smallest = family.nearest(1.0)
        least, most = smallest.num_params * sweep.span, math.inf
        per_param = flops(smallest) / smallest.num_params
        reach = sweep.span
    else:
        models = sorted((family.at(v) for v in sweep.sizes), key=lambda m: m.num_params)
        least, most = models[0].num_params, models[-1].num_params
        per_param, reach = flops(models[-1]) / models[-1].num_params, 1.0
    tokens = _fewest_tokens(sweep, data, ratio) * reach
    low = max(tokens**2 * per_param / ratio, least**2 * per_param * ratio)
    high = most**2 * per_param * ratio
    if data.unique_samples is not None:
        seen = sweep.max_epochs * data.unique_samples * data.tokens_per_sample / reach
        high = min(high, seen**2 * per_param / ratio)
    return low / MARGIN, high * MARGIN


def _fewest_tokens(sweep: Sweep, data: DataShape, ratio: float) -> float:
    """Of a run with `min_steps` steps, at `ratio` tokens per parameter."""
    tokens = float(sweep.min_steps * sweep.batch_size * data.tokens_per_sample)
    if sweep.batch_tokens is not None:
        for _ in range(20):  # a batch that grows less than the run settles
            tokens = sweep.min_steps * sweep.batch_tokens(tokens / ratio, tokens)
    return tokens


def _series(low: float, high: float) -> Iterator[float]:
    """Budgets of the series from `low` to `high`."""
    for power in range(math.floor(math.log10(low)), LARGEST_POWER):
        budgets = (float(f"{digit:g}e{power}") for digit in SERIES)
        yield from (budget for budget in budgets if low <= budget <= high)


def _longest_run(works: Sequence[float]) -> list[float]:
    """The longest stretch of neighbours in the series; of equal ones the first."""
    best: list[float] = []
    run: list[float] = []
    for budget in works:
        run = [*run, budget] if run and budget / run[-1] < 2.1 else [budget]
        if len(run) > len(best):
            best = run
    return best


def _words(data: DataShape) -> str:
    if data.unique_samples is None:
        return "the data"
    tokens = data.unique_samples * data.tokens_per_sample
    unit = "samples" if data.tokens_per_sample == 1 else "tokens"
    return f"{tokens:,} {unit}"
