"""What a person sees: results on stdout, messages and one progress bar on stderr.

Sentences break at blanks, tables that are wider than the screen are stacked: nothing is cut.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flops_fit.errors import StudyWarning, printable
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.run import Run, Status
from flops_fit.shown import duration, short_flops, short_loss, short_number

PIPED_WIDTH = 160
"""Columns where the output is no terminal and has no width of its own."""

BETWEEN = 2
"""Columns of text between two columns of a table."""

FOLDED = 24
"""Columns of text that a column of sentences needs to be read."""


class Screen(Console):
    """A console on which no text, wherever it comes from, moves the cursor or changes a colour, and
    which leaves it to others what becomes of a reader that has gone."""

    def on_broken_pipe(self) -> None:
        raise

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


@cache
def messages() -> Console:
    """The one console on stderr: two would tear each other's lines."""
    return Screen(stderr=True, markup=False, highlight=False, width=_width(sys.stderr))


@cache
def results() -> Console:
    """The console on stdout, for what was asked for and nothing else; names may have brackets."""
    return Screen(markup=False, highlight=False, width=_width(sys.stdout))


def _width(stream: TextIO) -> int | None:
    """None where the terminal knows it."""
    return None if stream.isatty() else asked_width() or PIPED_WIDTH


def asked_width() -> int | None:
    """What the environment says of a screen that is none."""
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdigit() and int(asked) else None


def say(text: str) -> None:
    """A line for people; square brackets are just brackets."""
    _print(messages(), text)


def say_command(text: str) -> None:
    """A line to be pasted into a shell, which no line break must tear."""
    messages().print(text, soft_wrap=True)


def show(text: str, marker: str = "") -> None:
    """A sentence of the result; below a `marker` such as "- " its further lines are set in."""
    _print(results(), text, marker)


def _print(console: Console, text: str, marker: str = "") -> None:
    """In the lines of the screen; what is piped keeps its own."""
    if not (console.is_terminal or asked_width()):
        console.print(f"{marker}{text}", soft_wrap=True)
        return
    fill = textwrap.TextWrapper(
        console.width,
        subsequent_indent=" " * len(marker),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in f"{marker}{text}".split("\n"):
        console.print(fill.fill(line), soft_wrap=True)


def show_table(table: Table) -> None:
    """A result; where the screen is too narrow, its rows one below the other."""
    console = results()
    console.print()
    if fits(table, console.width):
        if table.title or not all(column.no_wrap for column in table.columns):
            console.print(table)
            return
        head, *lines = plain_lines(table, "-" if console.options.ascii_only else "─")
        console.print(Text(head, "table.header"), soft_wrap=True)
        console.print("\n".join(lines), soft_wrap=True)
        return
    if table.title:
        show(str(table.title))
    for line in records(table):
        console.print(line, soft_wrap=True)


def table_of(*columns: str) -> Table:
    """An empty table of columns that are never cut."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, BETWEEN - 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def plain_lines(table: Table, dash: str) -> list[str]:
    """The lines that rich makes of a table of uncut columns, the first its header, in a fiftieth of
    the time: a plan may have 10,000 runs."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    widths = [max(map(cell_len, cells)) for cells in columns]
    to_left = [column.justify == "left" for column in table.columns]
    rule = dash * (sum(widths) + BETWEEN * (len(widths) - 1))
    gap = " " * BETWEEN
    lines = []
    for row in zip(*columns, strict=True):
        parts = zip(row, widths, to_left, strict=True)
        lines.append(gap.join(_padded(*part) for part in parts))
    ends = [i + 1 for i, row in enumerate(table.rows[:-1]) if row.end_section]
    for place in reversed(ends):
        lines.insert(place + 1, " " * len(rule))
    return [lines[0], rule, *lines[1:]]


def _padded(cell: str, width: int, to_left: bool) -> str:
    blanks = " " * (width - cell_len(cell))
    return cell + blanks if to_left else blanks + cell


def fits(table: Table, width: int) -> bool:
    """Whether nothing is cut where the table stands within `width` columns of text."""
    needed = BETWEEN * (len(table.columns) - 1)
    for column in table.columns:
        cells = [str(column.header), *map(str, column.cells)]
        needed += max(map(cell_len, cells)) if column.no_wrap else FOLDED
    return needed <= width


def records(table: Table) -> Iterator[str]:
    """The rows of a table one below the other: a line for each cell."""
    names = [str(column.header) for column in table.columns]
    column = max(map(len, names)) + 2 * BETWEEN
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for place, (name, cell) in enumerate(zip(names, map(str, row), strict=True)):
            head = " " * BETWEEN + name if place else name
            if cell:
                yield f"{head:<{column}}{cell}"


def warnings_said() -> AbstractContextManager[None]:
    """Inside, a `StudyWarning` is a line like others, each said once."""
    return warnings_told(lambda text: say(f"warning: {text}"))


@contextmanager
def warnings_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Inside, a `StudyWarning` is told, each once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", StudyWarning)
        others = warnings.showwarning

        def show(message: Any, category: Any, *place: Any) -> None:
            if not issubclass(category, StudyWarning):
                others(message, category, *place)
            elif f"{message}" not in said:
                said.add(f"{message}")
                tell(f"{message}")

        warnings.showwarning = show  # type: ignore[assignment]
        yield


SHORTEST_BAR = 8
"""Columns of text of the bar beside the words."""

HEARTBEAT_SECONDS = 60.0
"""Between lines on what is under way, where there is no terminal to draw a bar on."""


@dataclass
class SweepProgress:
    """Watches a sweep: a bar that counts FLOPs with the runs under way, and a line for each run
    that ended.

    `stop_requested` is set by whoever handles signals.
    """

    total_flops: float
    num_runs: int
    has_bar: bool = True  # where there is a terminal; several processes would draw over each other
    stop_requested: bool = False
    ended: int = 0
    elsewhere: int = 0  # ended by other processes
    _done_flops: float = 0.0  # of runs that ended
    _running: dict[str, Underway] = field(default_factory=dict)  # by id
    _started: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)  # when the last line was
    _bar: Progress | None = None
    _task: TaskID | None = None

    def __enter__(self) -> SweepProgress:
        if self.has_bar and self.num_runs and messages().is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None))
            self._bar = Progress(*columns, console=messages(), expand=True)
            self._task = self._bar.add_task(str(self), total=self.total_flops)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        if self.ended:
            runs = "1 run" if self.ended == 1 else f"{self.ended} runs"
            others = f", other processes {self.elsewhere}" if self.elsewhere else ""
            say(f"trained {runs} in {duration(time.monotonic() - self._started)}{others}")

    @property
    def flops(self) -> float:
        """Spent so far."""
        return self._done_flops + sum(run.flops for run in self._running.values())

    def __str__(self) -> str:
        share = self.flops / self.total_flops if self.total_flops else 1.0
        total = short_flops(self.total_flops)
        words = [f"{self.place} runs, {share:.0%} of {total} FLOPs"]
        if 0 < share < 1:
            left = (1 - share) / share * (time.monotonic() - self._started)
            words.append(f"{duration(left)} left")
        return "; ".join(words)

    @property
    def place(self) -> str:
        """Runs that ended, of all."""
        return f"{self.ended + self.elsewhere}/{self.num_runs}"

    def line(self, width: int) -> str:
        """The same with as many of the runs under way as stand in so many columns of text."""
        names = [str(run) for run in self._running.values()]
        for count in range(len(names), 0, -1):
            more = [f"{len(names) - count} more"] if count < len(names) else []
            line = f"{self}; at {', '.join(names[:count] + more)}"
            if len(line) <= width:
                return line
        return str(self)

    def progress(self, experiment: Experiment, flops: float) -> None:
        self._running[experiment.id] = Underway(experiment, flops)
        if self._bar is None and time.monotonic() > self._said + HEARTBEAT_SECONDS:
            say(self.line(PIPED_WIDTH))
            self._said = time.monotonic()
        self._draw()

    def finished(self, run: Run) -> None:
        self._running.pop(run.id, None)
        self._done_flops += run.flops if run.flops_spent is None else run.flops_spent
        self.ended += 1
        say(f"[{self.place}] {run_line(run)}")
        self._said = time.monotonic()
        self._draw()

    def found(self, run: Run) -> None:
        self._running.pop(run.id, None)
        self._done_flops += run.flops
        self.elsewhere += 1
        self._draw()

    def _draw(self) -> None:
        if self._bar and self._task is not None:
            room = messages().width - SHORTEST_BAR
            self._bar.update(self._task, completed=self.flops, description=self.line(room))


@dataclass(frozen=True)
class Underway:
    """A run that is being trained, and the FLOPs spent on it."""

    experiment: Experiment
    flops: float

    def __str__(self) -> str:
        e = self.experiment
        return f"{e.size.name} {e.size.label} {min(1.0, self.flops / e.flops):.0%}"


TELLING_MFU = 0.01
"""Share of a device's peak from which it is worth a word: tiny models wait for memory."""


def run_line(run: Run) -> str:
    """One run in a line."""
    size = f"{run.size.name} {run.size.label}" if run.size else ""
    head = f"{short_flops(run.budget)}  {size:<10}  N {short_number(run.num_params):<5}"
    if run.status != Status.COMPLETED:
        return f"{head}  {run.status}: {run.error}"
    loss = 0.0 if run.loss is None else run.loss
    spread = f" ± {run.loss_stderr:.2g}" if run.loss_stderr else ""
    tokens, seconds = short_number(run.num_tokens), run.wall_time_seconds or 0.0
    used = f"  {run.mfu:.0%} of peak" if run.mfu and run.mfu >= TELLING_MFU else ""
    return f"{head}  D {tokens:<5}  loss {short_loss(loss)}{spread}  {seconds:.1f} s{used}"
