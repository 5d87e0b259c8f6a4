"""What a person sees while things run: messages and one progress bar, all on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from flops_fit.errors import CONTROLS, StudyWarning, printable
from flops_fit.plan.experiment import Experiment, short_number
from flops_fit.plan.run import Run, Status

PIPED_WIDTH = 160
"""Columns where the output is no terminal and has no width of its own."""


class Screen(Console):
    """A console on which no text, wherever it comes from, moves the cursor or changes a colour."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


@cache
def messages() -> Console:
    """The one console on stderr: two would tear each other's lines."""
    width = None if sys.stderr.isatty() else PIPED_WIDTH
    return Screen(stderr=True, markup=False, highlight=False, width=width)


@cache
def results() -> Console:
    """The console on stdout, for what was asked for and nothing else; names may have brackets."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Screen(markup=False, highlight=False, width=width)


def json_text(value: Any) -> str:
    """One JSON document, in which nothing stands that a terminal would obey."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    return text.translate({code: f"\\u{code:04x}" for code in CONTROLS if code >= 127})


def say(text: str) -> None:
    """A line for people; square brackets are just brackets."""
    messages().print(text, markup=False, soft_wrap=True)


@contextmanager
def warnings_said() -> Iterator[None]:
    """Inside, a `StudyWarning` is a line like others, each said once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", StudyWarning)
        others = warnings.showwarning

        def show(message: Any, category: Any, *place: Any) -> None:
            if not issubclass(category, StudyWarning):
                others(message, category, *place)
            elif f"{message}" not in said:
                said.add(f"{message}")
                say(f"warning: {message}")

        warnings.showwarning = show  # type: ignore[assignment]
        yield


@dataclass
class SweepProgress:
    """Watches a sweep: a bar that counts FLOPs, and a line for each run that ended.

    `stop_requested` is set by whoever handles signals.
    """

    total_flops: float
    num_runs: int
    stop_requested: bool = False
    ended: int = 0
    _done_flops: float = 0.0  # of runs that ended
    _running: dict[str, float] = field(default_factory=dict)  # id -> FLOPs so far
    _bar: Progress | None = None
    _task: TaskID | None = None

    def __enter__(self) -> SweepProgress:
        if messages().is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.percentage:>3.0f}% of FLOPs"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=messages(), speed_estimate_period=300)
            self._task = self._bar.add_task(self._description, total=self.total_flops)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def _description(self) -> str:
        return f"training {self.ended}/{self.num_runs} runs"

    def progress(self, experiment: Experiment, flops: float) -> None:
        self._running[experiment.id] = flops
        self._draw()

    def finished(self, run: Run) -> None:
        self._running.pop(run.id, None)
        self._done_flops += run.flops if run.flops_spent is None else run.flops_spent
        self.ended += 1
        say(f"[{self.ended}/{self.num_runs}] {run_line(run)}")
        self._draw()

    def _draw(self) -> None:
        if self._bar and self._task is not None:
            done = self._done_flops + sum(self._running.values())
            self._bar.update(self._task, completed=done, description=self._description)


TELLING_MFU = 0.01
"""Share of a device's peak from which it is worth a word: tiny models wait for memory."""


def run_line(run: Run) -> str:
    """One run in a line."""
    size = f"{run.size.name} {run.size.label}" if run.size else ""
    head = f"C {run.budget:.3g}  {size:<12} N {short_number(run.num_params):>6}"
    if run.status != Status.COMPLETED:
        return f"{head}  {run.status}: {run.error}"
    spread = f" ± {run.loss_stderr:.2g}" if run.loss_stderr else ""
    tokens, seconds = short_number(run.num_tokens), run.wall_time_seconds or 0.0
    used = f"  {run.mfu:.0%} of peak" if run.mfu and run.mfu >= TELLING_MFU else ""
    return f"{head}  D {tokens:>6}  loss {run.loss:.4f}{spread}  {seconds:.1f} s{used}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    for limit, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.0f} {unit}"
    return f"{max(1, round(seconds))} seconds"
