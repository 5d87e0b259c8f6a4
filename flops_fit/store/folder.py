"""The folder of a study: one JSON per run, plans with their answers, locks and pins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from flops_fit.errors import StudyError
from flops_fit.files import (
    check_name,
    clear_way,
    is_inside,
    parsed,
    point_to,
    read_record,
    read_text,
    reading,
    set_aside,
    sweep,
    within,
    write_record,
)
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.ids import digest
from flops_fit.plan.run import Run
from flops_fit.records import of_type
from flops_fit.settings import Kind, SweepSettings, declared
from flops_fit.settings.plain import check_value

PLAN_FILE, PINS_FILE, LATEST = "plan.json", "pinned.json", "latest"

DECIDING = ".deciding.lock"
"""Held while what a study pins is decided."""

LOCK = ".lock"
"""Of a run, in its folder. Where it is a link, what it leads to is nothing that may be opened."""

RUN_FILES = frozenset(
    {"result.json", "metrics.jsonl", "checkpoint.pt", "error.txt", LOCK, "log.txt", ".command"}
)
"""What is written to a run's folder, by us or for a command."""

LOOK_SECONDS = 0.05
"""That a lock is tried for: whoever looks whether it is held, as `status` does, has it for less."""

LONGEST_WRITE = 3600.0
"""Seconds after which a file that another machine may be writing is one that it was writing."""

MOST_THREADS = 4096
"""CPU threads: more are no machine's."""


def has_plan(answer_folder: Path) -> bool:
    """Whether there is a plan, be it readable or not; a table that was fitted has none."""
    return os.path.lexists(answer_folder / PLAN_FILE)


@dataclass(frozen=True)
class StudyFolder:
    """Where the files of a study lie; see docs/study-folder.md."""

    path: Path

    def run_folder(self, run_id: str) -> Path:
        """Raises `StudyError` for an id that is no name, and for a link out of the study."""
        return within(self.path, "runs", check_name(run_id, "id of a run"))

    def plan_folder(self, plan: Plan) -> Path:
        """Raises `StudyError` for a link out of the study."""
        return within(self.path, "plans", digest([e.id for e in plan.experiments]))

    @property
    def has_runs(self) -> bool:
        return any(self.path.glob("runs/*/result.json"))

    def read_run(self, run_id: str) -> Run | None:
        """The run with this id, None where it is missing.

        Raises `StudyError` where its file can't be read.
        """
        path = self._result(run_id)
        try:
            with reading(path, "record of a run"):
                return Run.from_json(read_record(path))
        except FileNotFoundError:
            return None

    def planned_run(self, experiment: Experiment) -> Run | None:
        """The run of a planned experiment, None where it is missing.

        Raises `StudyError` where its file can't be read, or holds another run.
        """
        run = self.read_run(experiment.id)
        difference = run and run.departs_from(experiment)
        if difference:
            raise StudyError(f"{self._result(experiment.id)} holds another run: {difference}")
        return run

    def completed_run(self, experiment: Experiment) -> Run | None:
        """The run of an experiment if it is completed; None where it is not or can't be read."""
        try:
            run = self.planned_run(experiment)
        except StudyError:
            return None
        return run if run and run.is_completed else None

    def write_run(self, run: Run) -> None:
        """Write its result; one that can't be read is set aside."""
        path = self._result(run.id)
        try:
            earlier = self.read_run(run.id)
        except StudyError:
            set_aside(path)
        else:
            if earlier and earlier.id != run.id:
                set_aside(path)
        write_record(path, run.to_json())

    def _result(self, run_id: str) -> Path:
        return within(self.run_folder(run_id), "result.json")

    def lock(self, run_id: str) -> FileLock:
        """Held while a run trains; the operating system frees it when its holder dies."""
        return FileLock(self.room_for(run_id) / LOCK)

    def room_for(self, run_id: str) -> Path:
        """The folder of a run that is to train, made where there is none.

        What stands in its way is set aside with a warning: links out of the study, and folders
        where files should be.
        """
        folder = self.path / "runs" / check_name(run_id, "id of a run")
        for place in (folder.parent, folder):
            leads_out = place.is_symlink() and not is_inside(place, self.path)
            if leads_out or (os.path.lexists(place) and not place.is_dir()):
                clear_way(place)
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            found = [*entries]
        for entry in found:
            is_file = entry.is_file(follow_symlinks=False) or (
                entry.name != LOCK and os.path.isfile(entry)
            )
            is_in_the_way = entry.name in RUN_FILES and not is_file
            if is_in_the_way or (entry.is_symlink() and not is_inside(Path(entry), folder)):
                clear_way(Path(entry))
        return folder

    def taken(self, run_id: str) -> AcquireReturnProxy[FileLock]:
        """Its lock, held until it is released, without what killed writers have left of its files.

        Raises `filelock.Timeout` where another process is at the run.
        """
        held = self.lock(run_id).acquire(timeout=LOOK_SECONDS, poll_interval=LOOK_SECONDS / 5)
        sweep(self.run_folder(run_id))
        return held

    def is_locked(self, run_id: str) -> bool:
        """Whether some process is training this run now."""
        return _is_held(self.lock(run_id))

    def seems_locked(self, run_id: str) -> bool:
        """The same where nothing may be written: by a lock that is there already."""
        path = self.run_folder(run_id) / LOCK
        if path.is_symlink() or not path.is_file():
            return False
        try:
            return _is_held(FileLock(path))
        except OSError:  # not ours to lock
            return False

    def steps_kept(self, run_id: str) -> int | None:
        """Steps behind a run that has not ended, by its newest checkpoint; None without one."""
        folder = self.run_folder(run_id)
        if not (folder / "checkpoint.pt").is_file():
            return None
        try:
            last = read_text(within(folder, "metrics.jsonl")).splitlines()[-1]
            steps: int = of_type(int, parsed(last)["step"], "step")
        except (OSError, ValueError, LookupError, TypeError, StudyError):
            return 0
        return steps

    def write_plan(self, plan: Plan) -> Path:
        """Keep the plan; returns its folder."""
        folder = self.plan_folder(plan)
        write_record(folder / PLAN_FILE, plan.to_json())
        return folder

    def put_in_force(self, plan: Plan) -> None:
        """Make a kept plan the one that fit, predict, report and status are about."""
        point_to(self.path / LATEST, self.plan_folder(plan))

    def latest_plan_folder(self) -> Path:
        """The folder of the plan in force. Raises `StudyError` where there is none in the study."""
        pointer = self.path / LATEST
        target = pointer
        if pointer.is_file():  # where links don't exist
            target = self.path / read_text(pointer).strip()
        if target.is_dir() and is_inside(target, self.path) and target != self.path:
            return target.resolve()
        if os.path.lexists(pointer):
            raise StudyError(
                f"{pointer} points to no plan of this study: run `flops-fit train` again, or "
                "`flops-fit fit` for a table of runs"
            )
        raise StudyError(
            f"{self.path} holds no plan: run `flops-fit train` there first, or name another study"
        )

    def read_plan(self) -> Plan:
        """The plan in force. Raises `StudyError` where there is none that can be read."""
        return self.plan_in(self.latest_plan_folder())

    def plan_in(self, answer_folder: Path) -> Plan:
        """One that was kept. Raises `StudyError` where there is none that can be read."""
        path = within(answer_folder, PLAN_FILE)
        try:
            with reading(path, "plan"):
                return Plan.from_json(read_record(path))
        except FileNotFoundError:
            raise StudyError(
                f"{self.path} has no plan: it was fitted from a table of runs, which `flops-fit "
                "report` shows and `flops-fit fit runs=FILE` fits again; for a sweep of its own "
                "run `flops-fit train`"
            ) from None
        except StudyError as error:
            raise StudyError(f"{error}: run `flops-fit train` again, which writes it") from error

    def runs_of(self, plan: Plan) -> tuple[list[Run], list[str]]:
        """What is on disk of the plan's experiments, in its order, and what can't be read."""
        runs, problems = [], []
        for experiment in plan.experiments:
            try:
                run = self.planned_run(experiment)
            except StudyError as error:
                problems.append(str(error))
            else:
                runs += [run] if run else []
        return runs, problems

    def missing(self, plan: Plan, retry: Iterable[str] = ()) -> list[Experiment]:
        """Experiments still to train, by what is on disk."""
        return missing_beside(self.runs_of(plan)[0], plan, retry)

    def set_aside(self, plan: Plan) -> None:
        """Move what there is of the plan's runs to `superseded`; nothing computed is lost."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        for folder in (self.run_folder(e.id) for e in plan.experiments):
            if folder.exists():
                place = within(self.path, "superseded", stamp)
                place.mkdir(parents=True, exist_ok=True)
                folder.rename(place / folder.name)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Inside, no other process decides what holds for all runs of the study."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / DECIDING
        if os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file()):
            clear_way(lock)
        with FileLock(lock):
            for folder in (self.path, self.path / "trunks", *self.path.glob("plans/*/")):
                if is_inside(folder, self.path):
                    sweep(folder, LONGEST_WRITE)
            yield

    def pinned(self) -> dict[str, Any]:
        """What was decided at the study's first training and holds for all its runs.

        Raises `StudyError` where it can't be read.
        """
        path = within(self.path, PINS_FILE)
        try:
            with reading(path, "record of what the study has pinned"):
                return checked_pins(read_record(path))
        except FileNotFoundError:
            return {}
        except StudyError as error:
            raise StudyError(
                f"{error}: put back a copy of it, or remove it, and the next training decides anew"
            ) from error

    def pin(self, choices: Mapping[str, Any]) -> None:
        """Decide what is not decided yet."""
        decided = self.pinned()
        if not choices.keys() <= decided.keys():
            write_record(self.path / PINS_FILE, {**choices, **decided})


def missing_beside(runs: Iterable[Run], plan: Plan, retry: Iterable[str] = ()) -> list[Experiment]:
    """Experiments still to train where these runs are there."""
    again = set(retry)
    settled = {run.id for run in runs if run.is_settled and run.status not in again}
    return [e for e in plan.experiments if e.id not in settled]


def _is_held(lock: FileLock) -> bool:
    """Whether another process has it now."""
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def checked_pins(pins: dict[str, Any]) -> dict[str, Any]:
    """The pins, each of its setting's type; those of no setting are hashes of source code.

    Raises `StudyError` for anything else.
    """
    settings = {s.name: s for s in declared(SweepSettings) if s.kind is Kind.PINNED}
    for name, value in pins.items():
        if name not in settings:
            of_type(str, value, name)
            continue
        of_type(settings[name].type, value, name)
        check_value(settings[name], value)
    if pins.get("threads", 1) > MOST_THREADS:
        raise StudyError(f"threads is {pins['threads']}: no machine has so many")
    return pins


def as_pinned(settings: SweepSettings, folder: StudyFolder) -> SweepSettings:
    """With what the study has pinned of how many GPUs and threads a run has."""
    pinned = folder.pinned()
    kept = {
        name: pinned[name]
        for name in ("threads", "gpus_per_run", "spread")
        if name in pinned and getattr(settings, name) is None
    }
    return replace(settings, **kept)


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
