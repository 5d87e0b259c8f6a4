"""Runs and the folder that keeps them: one JSON per run, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flops_fit.errors import StudyError
from flops_fit.experiments import SCHEMA_VERSION, Experiment, Plan, Size, check_schema_version
from flops_fit.identity import digest


@dataclass(frozen=True)
class Run:
    """One training run that happened, here or elsewhere. Runs read from a table have no size.

    `loss` is measured at the end on held-out data: nats per token for language models.
    """

    id: str
    status: str  # done, failed, or diverged
    num_params: float
    num_tokens: float  # tokens really trained
    flops: float  # of those tokens, by the study's FLOP rule
    loss: float | None
    budget: float  # FLOPs asked
    size: Size | None = None
    num_params_total: float | None = None
    planned_tokens: float | None = None
    num_steps: int | None = None
    batch_size: int | None = None  # samples
    batch_tokens: int | None = None
    micro_batch_size: int | None = None  # samples in memory at once, where fewer than a batch
    flops_spent: float | None = None  # less than `flops` after a shared trunk
    flops_counted: float | None = None  # of the same tokens, by counting operations
    flops_formula: float | None = None  # and by 6ND
    metrics: Mapping[str, float] = field(default_factory=dict)  # on the same held-out data
    trunk: str | None = None  # runs of one trunk share their training up to the cooldown
    learning_rate: float | None = None  # at the peak
    loss_stderr: float | None = None
    train_loss: float | None = None
    held_out_samples: int | None = None
    unique_tokens: int | None = None
    wall_time_seconds: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    precision: str | None = None
    seed: int | None = None
    data_seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def tokens_per_param(self) -> float:
        return self.num_tokens / self.num_params

    @property
    def is_done(self) -> bool:
        """Trained and measured. A null loss or a zero wall time says that something went wrong."""
        return self.status == "done" and self.loss is not None and self.wall_time_seconds != 0

    @property
    def is_settled(self) -> bool:
        """Nothing to gain from training it again: divergence is a result, failure is not."""
        return self.is_done or self.status == "diverged"

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        check_schema_version(data, "result.json")
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        if values.get("size") is not None:
            values["size"] = Size(**values["size"])
        return cls(**values)


def ended_run(experiment: Experiment, status: str, error: str | None, *, num_steps: int = 0) -> Run:
    """The record of a run that ended after `num_steps`, before anything was measured of it."""
    e = experiment
    num_tokens = num_steps * e.batch_tokens
    return Run(
        id=e.id,
        status=status,
        num_params=e.num_params,
        num_tokens=num_tokens,
        flops=num_tokens * e.flops_per_token,
        flops_formula=num_tokens * e.flops_per_token_formula,
        loss=None,
        budget=e.budget,
        size=e.size,
        num_params_total=e.num_params_total,
        planned_tokens=e.num_tokens,
        num_steps=num_steps,
        batch_size=e.batch_size,
        batch_tokens=e.batch_tokens,
        unique_tokens=e.unique_tokens,
        trunk=e.trunk or None,
        seed=e.seed,
        data_seed=e.data_seed,
        error=error,
    )


@dataclass(frozen=True)
class StudyFolder:
    """Where the files of a study lie; see "The study folder" in README."""

    path: Path

    def run_folder(self, run_id: str) -> Path:
        return self.path / "runs" / run_id

    def plan_folder(self, plan: Plan) -> Path:
        return self.path / "plans" / digest([e.id for e in plan.experiments])

    @property
    def has_runs(self) -> bool:
        return any(self.path.glob("runs/*/result.json"))

    def read_run(self, run_id: str) -> Run | None:
        """The run with this id, None where it is missing.

        Raises `StudyError` where its file can't be read.
        """
        path = self.run_folder(run_id) / "result.json"
        try:
            return Run.from_json(read_json(path))
        except FileNotFoundError:
            return None
        except (TypeError, KeyError, AttributeError) as error:
            raise StudyError(f"{path} is not the record of a run ({error})") from error

    def finished_run(self, run_id: str) -> Run | None:
        """The run with this id if it is done; None where it is not or can't be read."""
        try:
            run = self.read_run(run_id)
        except StudyError:
            return None
        return run if run and run.is_done else None

    def write_run(self, run: Run) -> None:
        write_json(self.run_folder(run.id) / "result.json", run.to_json())

    def lock(self, run_id: str) -> FileLock:
        """Held while a run trains; the operating system frees it when its holder dies."""
        folder = self.run_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock")

    def is_locked(self, run_id: str) -> bool:
        """Whether some process is training this run now."""
        try:
            with self.lock(run_id).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def write_plan(self, plan: Plan) -> Path:
        """Keep the plan; returns its folder."""
        folder = self.plan_folder(plan)
        write_json(folder / "plan.json", plan.to_json())
        return folder

    def put_in_force(self, plan: Plan) -> None:
        """Make a kept plan the one that fit, predict, report and status are about."""
        point_to(self.path / "latest", self.plan_folder(plan))

    def latest_plan_folder(self) -> Path:
        """The folder of the plan in force."""
        pointer = self.path / "latest"
        if pointer.is_dir():
            return pointer.resolve()
        if pointer.is_file():
            return self.path / pointer.read_text(encoding="utf-8").strip()
        raise StudyError(
            f"{self.path} holds no plan: run `flops-fit train` there first, or name another study"
        )

    def read_plan(self) -> Plan:
        """The plan in force. Raises `StudyError` where there is none that can be read."""
        path = self.latest_plan_folder() / "plan.json"
        try:
            return Plan.from_json(read_json(path))
        except FileNotFoundError:
            raise StudyError(
                f"{self.path} has no plan: it was fitted from a table of runs, which `flops-fit "
                "report` shows and `flops-fit fit runs=FILE` fits again; for a sweep of its own "
                "run `flops-fit train`"
            ) from None
        except (TypeError, KeyError, AttributeError) as error:
            raise StudyError(
                f"{path} is not a plan ({error}): run `flops-fit train` again"
            ) from error

    def runs_of(self, plan: Plan) -> tuple[list[Run], list[str]]:
        """What is on disk of the plan's experiments, in its order, and what can't be read."""
        runs, problems = [], []
        for experiment in plan.experiments:
            try:
                run = self.read_run(experiment.id)
            except StudyError as error:
                problems.append(str(error))
            else:
                runs += [run] if run else []
        return runs, problems

    def missing(self, plan: Plan, retry: Iterable[str] = ()) -> list[Experiment]:
        """Experiments still to train: all but those done, or diverged (unless in `retry`)."""
        runs, _ = self.runs_of(plan)
        settled = {run.id for run in runs if run.is_settled and run.status not in set(retry)}
        return [e for e in plan.experiments if e.id not in settled]

    def set_aside(self, plan: Plan) -> None:
        """Move what there is of the plan's runs to `superseded`; nothing computed is lost."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        for folder in (self.run_folder(e.id) for e in plan.experiments):
            if folder.exists():
                (self.path / "superseded" / stamp).mkdir(parents=True, exist_ok=True)
                folder.rename(self.path / "superseded" / stamp / folder.name)

    def pinned(self) -> dict[str, Any]:
        """What was decided at the study's first training and holds for all its runs."""
        path = self.path / "pinned.json"
        return read_json(path) if path.exists() else {}

    def pin(self, choices: Mapping[str, Any]) -> None:
        """Decide what is not decided yet."""
        decided = self.pinned()
        if not choices.keys() <= decided.keys():
            write_json(self.path / "pinned.json", {**choices, **decided})


def latest_study(output_root: Path) -> StudyFolder:
    """The study under `output_root` that was planned or trained last."""
    pointers = list(output_root.glob("*/latest"))
    if not pointers:
        raise StudyError(
            f"no study under {output_root.resolve()}: run `flops-fit train` here first, or say "
            "where it is with output_root=FOLDER study=NAME"
        )
    newest = max(pointers, key=lambda pointer: pointer.lstat().st_mtime_ns)
    return StudyFolder(newest.parent)


def read_json(path: Path) -> Any:
    """Raises `FileNotFoundError`, or `StudyError` where the file holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StudyError(f"{path} is not readable JSON ({error})") from error


def write_json(path: Path, value: Any) -> None:
    """Write the whole file or leave what was there: a reader never sees half of it.

    Raises `StudyError` where the disk is full or the folder can't be written to.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StudyError(
            f"{path} can't be written ({error.strerror}): what was there before is as it was; make "
            "room or mend the permissions, and run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def point_to(pointer: Path, folder: Path) -> None:
    """Make `pointer` a link to `folder`, or where links don't exist a file with its path."""
    target = os.path.relpath(folder, pointer.parent)
    temporary = pointer.with_name(f".{pointer.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target, target_is_directory=True)
    except OSError:
        temporary.write_text(target, encoding="utf-8")
    temporary.replace(pointer)


def finite(value: float) -> float | None:
    """The value for JSON, which knows no NaN: None where it is not finite."""
    return value if math.isfinite(value) else None
