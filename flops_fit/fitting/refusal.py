"""What a sweep says that gives no law: why, what each budget shows, and what was looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.files import DAMAGE, plain, read_record, reading, within, write_record
from flops_fit.fitting.contract import FitSettings, Optimum
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.methods import kinds
from flops_fit.fitting.metrics import LOSS, label, measured_by
from flops_fit.fitting.points import Dropped, Points, usable_points
from flops_fit.fitting.selection import EveryRun, Selection
from flops_fit.laws import FlopRule
from flops_fit.plan.run import Run, Status
from flops_fit.plan.versions import FileVersions
from flops_fit.records import of_type, read_list
from flops_fit.shown import short_flops

REFUSAL_FILE = "refusal.json"

REFUSAL_VERSIONS = FileVersions(REFUSAL_FILE)

MOST = 0.5
"""Share of the runs from which on their ends, not the fits, are why there is no law."""

TOO_FAST = "lower the learning rate (optimizer.lr)"

ONE_RUN = "one size at one budget was trained, a law needs several of both"

NEXT_STEPS: Mapping[str, str] = {
    Status.DIVERGED: "lower the learning rate, or leave this budget out",
    Status.FAILED: "mend what failed and run the same command again",
}
"""What to do about a budget of whose runs most ended so."""


FEW = "few"
"""Verdict on a budget of which too little is left for a curve."""


@dataclass(frozen=True)
class LostBudget:
    """A budget of which too little is left: an optimum without numbers."""

    budget: float
    num_sizes: int
    reason: str
    verdict: str = FEW

    @property
    def flops(self) -> float:
        return self.budget

    @property
    def is_bracketed(self) -> bool:
        return False

    @property
    def N_opt(self) -> None:
        return None

    @property
    def D_opt(self) -> None:
        return None

    @property
    def loss(self) -> None:
        return None

    @property
    def curve(self) -> None:
        return None

    def to_json(self) -> dict[str, Any]:
        numbers = dict.fromkeys(("N_opt", "D_opt", "loss", "curve"))
        return {**vars(self), "flops": self.flops, **numbers}


@dataclass(frozen=True)
class Refusal:
    """In place of a law: `reason` is one line, the budgets have their verdicts and sentences.

    `rows_used` are the runs that a fit could use, `statuses` counts all of them by how they ended.
    """

    reason: str
    metric: str = LOSS
    budgets: tuple[Optimum, ...] = ()
    rows_used: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    statuses: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.reason

    @property
    def num_runs(self) -> int:
        return sum(self.statuses.values())

    @property
    def sentences(self) -> list[str]:
        """One for each budget that is of no use."""
        return [
            f"budget {short_flops(b.budget)}, {b.verdict}: {b.reason}"
            for b in self.budgets
            if not b.is_bracketed
        ]

    def to_json(self) -> dict[str, Any]:
        """As docs/law-json.md describes it."""
        return {
            "schema_version": REFUSAL_VERSIONS.current,
            "answer": None,
            "refusal": self.reason,
            "metric": self.metric,
            "budgets": [budget.to_json() for budget in self.budgets],
            "runs": self.num_runs,
            "statuses": dict(self.statuses),
            "rows_used": list(self.rows_used),
            "rows_dropped": [plain(vars(d)) for d in self.dropped],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Refusal:
        """Raises `FitError` for missing keys, `StudyError` for another schema."""
        data = REFUSAL_VERSIONS.upgraded(data)
        try:
            return cls(
                reason=of_type(str, data["refusal"], "refusal"),
                metric=of_type(str, data["metric"], "metric"),
                budgets=_read_optima(data),
                rows_used=of_type(tuple[str, ...], data["rows_used"], "rows_used"),
                dropped=read_list(Dropped, data["rows_dropped"], "rows_dropped"),
                statuses=of_type(Mapping[str, int], data["statuses"], "statuses"),
            )
        except DAMAGE as error:
            raise FitError(f"{REFUSAL_FILE} is incomplete ({error!r})", "fit again") from error

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / REFUSAL_FILE, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> Refusal:
        path = within(folder, REFUSAL_FILE)
        with reading(path, "refusal"):
            return cls.from_json(read_record(path))


def refusal_of(
    runs: Sequence[Run],
    error: FitError,
    *,
    flop_rule: FlopRule,
    answer: FitSettings,
    metric: str = LOSS,
    select: Selection | None = None,
) -> Refusal:
    """Why these runs gave `error` in place of a law, and what each budget shows."""
    statuses = Counter(run.status for run in runs)
    found = error.in_short if is_sweep(runs) else ONE_RUN
    reason = lost_runs(runs) or f"{_no_law(metric)}: {found}"
    try:
        points, unusable = usable_points(measured_by(runs, metric), flop_rule)
        points, unselected = (select or EveryRun())(points)
    except FitError:  # rows that can't be true: the reason names them
        return Refusal(reason, metric, statuses=statuses)
    return Refusal(
        reason=reason,
        metric=metric,
        budgets=every_budget(runs, points, optima_without_law(points, answer)),
        rows_used=points.ids,
        dropped=(*unusable, *unselected),
        statuses=statuses,
    )


def optima_without_law(points: Points, answer: FitSettings) -> Sequence[Optimum]:
    """Each budget's own optimum, by the method that looks at budgets one by one."""
    for kind in kinds():
        if kind.optima is not None and kind.settings is not None:
            settings = answer if kind.takes(answer) else kind.settings()
            return kind.optima(kind.method(settings, points), points, None)
    return ()


def _read_optima(data: Mapping[str, Any]) -> tuple[Optimum, ...]:
    """The optima of a file, by the method that looks at budgets one by one."""
    found = (kind.read_optima(data) for kind in kinds() if kind.read_optima is not None)
    return tuple(next(found, ()))


def is_sweep(runs: Sequence[Run]) -> bool:
    """Whether a law could be asked for: the runs are more than one size at one budget."""
    return len({(run.num_params, run.budget) for run in runs}) > 1


def lost_runs(runs: Sequence[Run]) -> str | None:
    """That most runs came to no loss, and what to do; None where most did."""
    diverged, failed = (
        [run for run in runs if run.status == status] for status in (Status.DIVERGED, Status.FAILED)
    )
    if len(diverged) + len(failed) <= MOST * len(runs):
        return None
    if len(diverged) >= len(failed):
        also = f" and {len(failed)} failed" if failed else ""
        return f"{len(diverged)} of {len(runs)} runs diverged{also}: {TOO_FAST}"
    also = f" and {len(diverged)} diverged" if diverged else ""
    first_lines = Counter((run.error or "no reason given").split("\n")[0] for run in failed)
    (commonest, _), *_ = first_lines.most_common(1)
    return (
        f"{len(failed)} of {len(runs)} runs failed{also}: mend the cause and run the same command "
        f"again ({commonest})"
    )


def every_budget(
    runs: Sequence[Run], points: Points, optima: Sequence[Optimum]
) -> tuple[Optimum, ...]:
    """The optima, and the budgets of which too little is left for one, from small to large."""
    by_budget = {optimum.budget: optimum for optimum in optima}
    found: list[Optimum] = []
    for budget in sorted({run.budget for run in runs}):
        mine = [run for run in runs if run.budget == budget]
        lost = Counter(run.status for run in mine if not run.is_completed)
        optimum = by_budget.get(budget)
        if optimum is None or (optimum.verdict == FEW and lost):
            usable = int((points.budget == budget).sum())
            optimum = LostBudget(budget, usable, _few(usable, len(mine), lost))
        found.append(optimum)
    return tuple(found)


def _few(usable: int, asked: int, lost: Mapping[str, int]) -> str:
    """What is left of a budget, and what became of the others."""
    ends = ", ".join(f"{count} {status}" for status, count in lost.items())
    todo = NEXT_STEPS.get(max(lost, key=lost.__getitem__, default=""), "train more sizes")
    return f"{usable} of {asked} runs can be used{f' ({ends})' if ends else ''}: {todo}"


def _no_law(metric: str) -> str:
    return "no law" if metric == LOSS else f"no law of {label(metric)}"
