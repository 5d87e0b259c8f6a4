"""The folder of a study: one JSON per run, plans with their answers, locks and pins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flops_fit.errors import StudyError
from flops_fit.files import point_to, read_json, write_json
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.ids import digest
from flops_fit.plan.run import Run


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

    def completed_run(self, run_id: str) -> Run | None:
        """The run with this id if it is completed; None where it is not or can't be read."""
        try:
            run = self.read_run(run_id)
        except StudyError:
            return None
        return run if run and run.is_completed else None

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
        """Experiments still to train: all but those completed, or diverged (unless in `retry`)."""
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
