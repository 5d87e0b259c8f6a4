"""Rows of a table as the training curves of runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Dropped
from flops_fit.plan.run import Run, Status
from flops_fit.tables.cells import Cells, content

FEWEST = 2
"""Rows of a curve, for a column to tell curves apart."""

UNMEASURED = "a row of a curve without a loss"

MOST_COLUMNS = 40
"""Columns that are looked at for what tells curves apart, two at a time."""


@dataclass(frozen=True)
class CurveRow:
    """A checkpoint: the run as it was then, and the row of the table, counted from 0."""

    run: Run
    row: int


@dataclass(frozen=True)
class IdColumns:
    """The columns that make an id. `is_said`: these and no others, as `columns.id=[..]` says."""

    columns: Sequence[str]
    is_said: bool


@dataclass(frozen=True)
class Curves:
    """Runs at the end of their curves, all their checkpoints, and rows that are neither."""

    ends: list[Run]
    checkpoints: list[Run]
    dropped: list[Dropped]


def curves_of(
    rows: Sequence[CurveRow], cells: Cells, measured: Collection[str], ids: IdColumns
) -> Curves:
    """Rows of one id and size are one curve, whatever their order.

    `measured` are the columns that can't tell which run a row is of. Raises `FitError` where rows
    are of several curves: where one step has two losses, where tokens fall as steps grow, or,
    unless it is said what makes an id, where a further column parts them into curves that overlap.
    """
    groups: dict[tuple[str, float], list[CurveRow]] = defaultdict(list)
    for row in rows:
        groups[row.run.id, row.run.num_params].append(row)
    kept: dict[tuple[str, float], list[CurveRow]] = {}
    dropped = []
    for key, group in groups.items():
        with_loss = [row for row in group if _is_measured(row.run)]
        if 0 < len(with_loss) < len(group):
            dropped += [Dropped(r.run.id, UNMEASURED) for r in group if not _is_measured(r.run)]
            groups[key] = with_loss
    apart = _Apart(cells, measured, ids, list(groups.values()))
    for key, group in groups.items():
        if (conflict := _conflict(group)) is not None:
            raise apart.refusal(*conflict)
        unique = {(row.run.num_steps, row.run.loss): row for row in reversed(group)}
        kept[key] = sorted(unique.values(), key=lambda row: row.run.num_steps or 0)
        dropped += [
            Dropped(row.run.id, f"the same step {row.run.num_steps} and loss as another row")
            for row in group
            if unique[row.run.num_steps, row.run.loss] is not row
        ]
    if not ids.is_said:
        apart.check_overlaps()
    twice = Counter(run_id for run_id, _ in kept)
    ends: list[Run] = []
    checkpoints: dict[int, Run] = {}
    for (run_id, size), group in kept.items():
        name = run_id if twice[run_id] == 1 else f"{run_id} N={size:.4g}"
        checkpoints |= {row.row: replace(row.run, id=name) for row in group}
        ends.append(replace(group[-1].run, id=name))
    return Curves(ends, [checkpoints[number] for number in sorted(checkpoints)], dropped)


def _is_measured(run: Run) -> bool:
    """Whether the row has a loss, be it no number. Logs hold others: training losses between
    evaluations, a summary at the end."""
    return run.loss is not None or run.status == Status.DIVERGED


def _conflict(group: Sequence[CurveRow]) -> tuple[CurveRow, CurveRow, str] | None:
    """Two rows that can't be of one curve, and why."""
    ordered = sorted(group, key=lambda row: row.run.num_steps or 0)
    for one, other in pairwise(ordered):
        a, b = one.run, other.run
        if a.num_steps == b.num_steps and (a.loss, a.num_tokens) != (b.loss, b.num_tokens):
            step = "no step" if a.num_steps is None else f"step {a.num_steps}"
            differ = "losses" if a.loss != b.loss else "tokens"
            values = (a.loss, b.loss) if a.loss != b.loss else (a.num_tokens, b.num_tokens)
            shown = [f"{value:.6g}" if value is not None else "none" for value in values]
            return one, other, f"{step} but {differ} {shown[0]} and {shown[1]}"
        if a.num_tokens > b.num_tokens:
            steps = f"steps {a.num_steps} and {b.num_steps}"
            return one, other, f"{steps} but tokens {a.num_tokens:.4g} and then {b.num_tokens:.4g}"
    return None


@dataclass(frozen=True)
class _Apart:
    """Which columns tell curves apart that have one id and size."""

    cells: Cells
    measured: Collection[str]
    ids: IdColumns
    groups: Sequence[Sequence[CurveRow]]

    def refusal(self, one: CurveRow, other: CurveRow, why: str) -> FitError:
        places = " and ".join(self.cells.places[row.row] for row in (one, other))
        run = one.run
        return FitError(
            f"{places} have one id ({run.id}), N = {run.num_params:.4g} and {why}: these are "
            "several curves",
            self._proposal(next(self._telling(), None)),
        )

    def check_overlaps(self) -> None:
        """Raises `FitError` where a column parts a curve into several that overlap in steps."""
        for column in self._columns():
            for group in self.groups:
                parts = self._parts(group, (column,))
                if len(parts) < FEWEST or any(len(part) < FEWEST for part in parts):
                    continue
                spans = sorted(
                    (part[0].run.num_steps or 0, part[-1].run.num_steps or 0)
                    for part in (sorted(p, key=lambda r: r.run.num_steps or 0) for p in parts)
                )
                if any(a[1] > b[0] for a, b in pairwise(spans)):
                    values = list(dict.fromkeys(self._value(row, column) for row in group))
                    raise FitError(
                        f"rows of id {group[0].run.id} and N = {group[0].run.num_params:.4g} are "
                        f"several curves by {column!r} ({', '.join(values[:4])})",
                        f"{self._proposal((column,))}; where they are one curve, "
                        f"columns.id=[{', '.join(self.ids.columns)}]",
                    )

    def _proposal(self, columns: Sequence[str] | None) -> str:
        if columns is None:
            return (
                "no other column tells them apart: add one with each run's name and give it as "
                "columns.id, or leave rows out with where="
            )
        whole = ", ".join([*self.ids.columns, *columns])
        return f"{' and '.join(map(repr, columns))} tells them apart: columns.id=[{whole}]"

    def _columns(self) -> list[str]:
        """Those that may name a run: not read for anything else, with values that come again."""
        found = []
        for header in dict.fromkeys(self.cells.headers):
            if not header or header in self.measured or header in self.ids.columns:
                continue
            values = {self._value(row, header) for group in self.groups for row in group}
            if 1 < len(values) <= sum(map(len, self.groups)) / FEWEST:
                found.append(header)
        return found[:MOST_COLUMNS]

    def _telling(self) -> Iterator[tuple[str, ...]]:
        """Columns, one or two, by whose values every group falls into curves."""
        columns = self._columns()
        for number in (1, 2):
            found = []
            for chosen in combinations(columns, number):
                parts = [part for group in self.groups for part in self._parts(group, chosen)]
                rows = sum(map(len, parts))
                if rows >= FEWEST * len(parts) and not any(_conflict(part) for part in parts):
                    found.append((len(parts), chosen))
            yield from (chosen for _, chosen in sorted(found, key=lambda pair: pair[0]))

    def _parts(self, group: Sequence[CurveRow], columns: Sequence[str]) -> list[list[CurveRow]]:
        parts: dict[tuple[str, ...], list[CurveRow]] = defaultdict(list)
        for row in group:
            parts[tuple(self._value(row, column) for column in columns)].append(row)
        return list(parts.values())

    def _value(self, row: CurveRow, column: str) -> str:
        return content(self.cells.rows[row.row].get(column, ""))
