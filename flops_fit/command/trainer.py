"""Training by a command of the user's: run once per experiment, its loss read from a file."""

from __future__ import annotations

import math
import platform
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from flops_fit import __version__
from flops_fit.command.processes import TookTooLong, last_line, lease, run_command, said_last
from flops_fit.command.reported import NotReported, Report
from flops_fit.command.templates import (
    filled,
    names_in,
    of_run,
    of_size,
    output_folder,
    placeholders,
)
from flops_fit.errors import ConfigError
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.settings.declaration import Kind, chooses, decides, machine, names_of
from flops_fit.store.protocols import Watcher
from flops_fit.training.curve import CurvePoint, write_curve

TELL_LENGTH = ("num_tokens", "num_steps", "budget", "flops", "run_id")
"""Placeholders of which a command needs one to know how long to train."""

TELL_SIZE = ("num_params", "run_id")
"""Placeholders that tell it the size, beside the size's own."""

LOG, LEASE, CURVE = "log.txt", ".command", "metrics.jsonl"
"""In a run's folder: what the command says, the lock that it holds, its losses along the way."""

LOSS_FILE = "{run_dir}/result.json"

STEP = "step"
"""The group of `loss_pattern` that places a loss on the curve."""


@dataclass(frozen=True)
class CommandData:
    """What a trainer's config tells the planner, and not the trainer."""

    sizes: Sequence[Any] | None = chooses(None, "sizes with the N that you count")
    unique_tokens: float | None = chooses(None, "in the data; null: endless", "tokens")


@dataclass(frozen=True)
class CommandTrainer:
    """The `Trainer` that runs a command, without a shell and in the working directory.

    The command is split like a shell's words before its placeholders are filled in, so that values
    with blanks stay whole. `loss_file` is a JSON object, or JSON lines of which the last with
    `loss_key` counts; `metrics` maps names to further keys in it, and `num_tokens_key` says where
    the tokens really trained stand, if they may differ from the plan's. With `loss_pattern`, a
    regular expression, the loss is its last match in what the command prints, or in `loss_file`
    where another than the usual one is given; keys are then names of its groups, and with a group
    `step`, in updates, all matches are the run's curve.
    """

    command: str = decides(MISSING, "what is run, with placeholders such as {size}")
    loss_file: str = decides(LOSS_FILE, "where the command writes its loss")
    loss_pattern: str | None = decides(None, "regular expression of the loss in its log")
    loss_key: str = decides("loss", "of the loss in it")
    metrics: Mapping[str, str] | None = decides(None, "further numbers in it: name: key")
    num_tokens_key: str | None = decides(None, "tokens really trained, where they may differ")
    timeout_seconds: float | None = machine(None, "of one run", "seconds")

    def __post_init__(self) -> None:
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise ConfigError(
                f"trainer.timeout_seconds is {self.timeout_seconds:g}: it must be above 0, or null"
            )
        if self.loss_pattern is not None:
            self._check_groups(compiled(self.loss_pattern))
        if not {"run_dir", "run_id"} & set(names_in(self.loss_file)):
            raise ConfigError(
                f"trainer.loss_file is {self.loss_file!r} for all runs: put {{run_dir}} or "
                "{run_id} into it"
            )

    @property
    def pins(self) -> dict[str, Any]:
        return {}

    def threads(self, plan: Plan, most: int) -> int:
        return most

    def tuned(self, plan: Plan, threads: int, pinned: Mapping[str, Any]) -> CommandTrainer:
        return self  # how it trains is the command's own affair

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a run's result. Settings that are not used leave ids as they are."""
        names = names_of(type(self), lambda setting: setting.kind is Kind.DECIDES)
        own = {f.name for f in fields(self)}.difference(names_of(type(self), lambda setting: True))
        return {k: v for k, v in vars(self).items() if v and (k in names or k in own)}

    def __call__(self, experiment: Experiment, folder: Path, watcher: Watcher) -> Run:
        started = time.perf_counter()
        log = folder / LOG
        try:
            code, loss_file = self._run(experiment, folder, watcher)
            if code != 0:
                return ended_run(experiment, Status.FAILED, _reason(code, log))
            report = self._report(log, loss_file)
            run = self._measured(experiment, report)
            if curve := self._curve(experiment, report):
                write_curve(folder / CURVE, curve)
        except (TookTooLong, NotReported) as error:
            return ended_run(experiment, Status.FAILED, f"{error}; see {log}")
        seconds = time.perf_counter() - started
        return replace(run, wall_time_seconds=seconds, tokens_per_second=run.num_tokens / seconds)

    def _run(self, experiment: Experiment, folder: Path, watcher: Watcher) -> tuple[int, Path]:
        """The command's exit code, and the file that should hold its loss."""
        values = placeholders(experiment, folder)
        loss_file = Path(filled(self.loss_file, values))
        output_folder(folder).mkdir(exist_ok=True)

        def stop_requested() -> bool:
            watcher.progress(experiment, 0.0)  # how a worker learns that its parent has died
            return watcher.stop_requested

        with lease(folder / LEASE) as held:
            if loss_file.exists():  # an earlier attempt's must not pass for this one's
                loss_file.replace(loss_file.with_name(f"{loss_file.name}.earlier"))
            words = self.words(values)
            code = run_command(words, folder / LOG, held, self.timeout_seconds, stop_requested)
        return code, loss_file

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The command's words with the values in them. Raises `ConfigError`."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ConfigError(f"trainer.command is {self.command!r}: {error}") from error
        if not words:
            raise ConfigError("trainer.command is empty: say what is to be run")
        return [filled(word, values) for word in words]

    def _report(self, log: Path, loss_file: Path) -> Report:
        """What the command has said. Raises `NotReported`."""
        if self.loss_pattern is None:
            return Report.read(loss_file)
        if self.loss_file == LOSS_FILE:
            path, text = log, said_last(log)
        elif loss_file.is_file():
            path, text = loss_file, loss_file.read_text(encoding="utf-8", errors="replace")
        else:
            raise NotReported(f"the command ended well but wrote no {loss_file}")
        return Report.matched(path, text, compiled(self.loss_pattern), self.loss_key)

    def _curve(self, experiment: Experiment, report: Report) -> list[CurvePoint]:
        """The losses that were placed by a step, in order; those before the first update left out.

        Steps may be counted otherwise than ours: more of them than planned are shares of the last.
        """
        e = experiment
        losses = {
            entry[STEP]: entry[self.loss_key]
            for entry in report.entries
            if self.loss_pattern and {STEP, self.loss_key} <= entry.keys() and entry[STEP] > 0
        }
        last = max([e.num_steps, *losses])
        return [
            CurvePoint(
                step=round(step / last * e.num_steps),
                num_tokens=round(step / last * e.num_tokens),
                flops=step / last * e.flops,
                train_loss=math.nan,
                held_out_loss=loss,
                lr=math.nan,
                grad_norm=math.nan,
            )
            for step, loss in sorted(losses.items())
        ]

    def _check_groups(self, pattern: re.Pattern[str]) -> None:
        """Raises `ConfigError` unless the keys are groups of the pattern."""
        names = list(pattern.groupindex)
        if not pattern.groups or (self.loss_key not in names and (names or pattern.groups > 1)):
            raise ConfigError(
                f"trainer.loss_pattern is {pattern.pattern!r}: put the loss in a group, as in "
                f"'val_loss:(\\S+)', or of several name it: '(?P<{self.loss_key}>\\S+)'"
            )
        for key in filter(None, (*(self.metrics or {}).values(), self.num_tokens_key)):
            if key not in names:
                raise ConfigError(
                    f"trainer.loss_pattern has no group {key}, which is to be read by it: write "
                    f"(?P<{key}>\\S+) and (?P<{self.loss_key}>\\S+)"
                )

    def _measured(self, experiment: Experiment, report: Report) -> Run:
        """What the command says came of the experiment. Raises `NotReported`."""
        e = experiment
        loss = report.number(self.loss_key)
        num_tokens = self._num_tokens(e, report)
        counted = e.flops_per_token_counted
        run = replace(
            ended_run(e, Status.COMPLETED, None, num_steps=round(num_tokens / e.batch_tokens)),
            num_tokens=num_tokens,
            flops=num_tokens * e.flops_per_token,
            flops_formula=num_tokens * e.flops_per_token_formula,
            flops_counted=None if counted is None else num_tokens * counted,
            learning_rate=e.learning_rate,
            versions={"flops_fit": __version__, "python": platform.python_version()},
        )
        if not math.isfinite(loss):
            return replace(
                run, status=Status.DIVERGED, error=f"{report.path} says the loss is {loss}"
            )
        metrics = {name: report.number(key) for name, key in (self.metrics or {}).items()}
        return replace(
            run, loss=loss, metrics={k: v for k, v in metrics.items() if math.isfinite(v)}
        )

    def _num_tokens(self, experiment: Experiment, report: Report) -> float:
        if self.num_tokens_key is None:
            return experiment.num_tokens
        num_tokens = report.number(self.num_tokens_key)
        if not 0 < num_tokens < math.inf:
            raise NotReported(f"{report.path} says that {num_tokens:g} tokens were trained")
        return num_tokens

    def check(self, experiments: Sequence[Experiment]) -> None:
        """Raises `ConfigError` for a command that can't be run for each of them."""
        for e in {e.size.label: e for e in experiments}.values():
            values = placeholders(e, Path())
            filled(self.loss_file, values)
            program, *_ = self.words(values)
            if shutil.which(program) is None:
                raise ConfigError(f"trainer.command runs {program!r}: there is no such program")
            clash = of_size(e.size).keys() & of_run(e, Path()).keys()
            if clash:
                raise ConfigError(f"a size can't be called {', '.join(clash)}: use another name")
            self._check_says((*of_size(e.size), *TELL_SIZE), "how large the model is", "{size}")
        self._check_says(TELL_LENGTH, "how long to train", "{num_tokens}")
        if len({e.seed for e in experiments}) > 1:
            self._check_says(("seed", "run_id"), "which of several seeds to take", "{seed}")

    def _check_says(self, names: Iterable[str], what: str, example: str) -> None:
        if not set(names) & set(names_in(self.command)):
            raise ConfigError(
                f"trainer.command is {self.command!r}, which never says {what}: put {example} "
                "into it"
            )


def compiled(pattern: str) -> re.Pattern[str]:
    """Raises `ConfigError` for what is no regular expression."""
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            f"trainer.loss_pattern is {pattern!r}, no regular expression ({error}): write "
            "'val_loss:(\\S+)', say; a bracket that is meant itself takes a backslash"
        ) from error


def _reason(code: int, log: Path) -> str:
    """Why a command failed, with the last it said."""
    how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
    said = last_line(log)
    return f"the command {how}: {said}; see {log}" if said else f"the command {how}, see {log}"


def deciding(node: Mapping[str, Any]) -> dict[str, Any]:
    """What of a trainer's config decides a run's result."""
    free = (
        *names_of(CommandData, lambda setting: True),
        *names_of(CommandTrainer, lambda setting: setting.kind is not Kind.DECIDES),
    )
    return {name: value for name, value in node.items() if name not in free}
