"""Loggers see what the study's files have, change nothing of it, and never fail a run."""

from __future__ import annotations

import json
import re
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from from_scripts import loaded
from small_study import Net, planned, rows, small_spec, small_sweep

from flops_fit import find_optimal
from flops_fit.cli import main
from flops_fit.errors import ConfigError, StudyWarning
from flops_fit.fitting import SurfaceFit
from flops_fit.report.loggers.package import check_package
from flops_fit.settings import SweepSettings, stored
from flops_fit.store.execution import Inline
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.study.fits import Fitting
from flops_fit.study.logged import LoggedWatcher, opened
from flops_fit.study.sweeps import train_study
from flops_fit.training.spec import torch_trainer

pages = loaded("pages")

PAGE = Path(__file__).parent.parent / "docs/loggers.md"

TRAIN = ["train", "model=mlp", "dataset=toy", "budgets=[1e7,3e7,1e8]", "num_sizes=4", "draws=0"]
TRAIN += ["fit=surface"]
TRAIN += ["min_steps=10", "device=cpu", "study=small", "held_out_samples=64", "json=true"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the logger of the page as the user's own."""
    files = [block for block in pages.blocks(PAGE) if block.title]
    assert len(files) == 2
    for block in files:
        pages.keep_file(block, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def curves(study: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Run -> step -> the numbers of its metrics.jsonl."""
    found = {}
    for path in study.glob("runs/*/metrics.jsonl"):
        points = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = {
            p.pop("step"): {name: value for name, value in p.items() if value is not None}
            for p in points
        }
    return found


def results(study: Path) -> dict[str, dict[str, Any]]:
    paths = study.glob("runs/*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


@pytest.mark.parametrize("workers", [1, 2])
def test_all_points_and_results_are_logged_once_whoever_trains(folder, capsys, workers):
    assert main([*TRAIN, "logger=lines", f"workers={workers}"]) == 0
    study = folder / "outputs/small"
    lines = (study / "log.txt").read_text().splitlines()
    logged: dict[str, dict[int, dict[str, float]]] = {}
    ended = {}
    for line in lines:
        run, what, rest = line.split(" ", 2)
        if what == "begins":
            assert run not in logged
            logged[run] = {}
        elif what == "ends":
            ended[run] = eval(rest)
        elif run != "answer":
            assert int(what) not in logged[run]
            logged[run][int(what)] = eval(rest)
    assert logged == curves(study)
    assert ended.keys() == logged.keys() == results(study).keys()
    for run, result in results(study).items():
        assert ended[run]["final/loss"] == result["loss"]
        assert ended[run]["status"] == "completed"
    law = json.loads(capsys.readouterr().out)
    (answer,) = [line for line in lines if line.startswith("answer ")]
    assert law["diagnostics"]["verdict"] in answer
    answers = [p for p in law["predictions"] if p["method"] == law["answer"]]
    said = [p["num_params"] for p in answers if p["extrapolation"] >= 1]
    assert len(said) == 4
    assert all(repr(num_params) in answer for num_params in said)
    assert "figures/optima.png" in answer


def test_a_study_is_the_same_with_and_without_a_logger(folder, capsys):
    assert main([*TRAIN, "workers=1"]) == 0
    study = folder / "outputs/small"
    shutil.move(study, folder / "without")
    assert main([*TRAIN, "workers=1", "logger=lines"]) == 0
    same = [
        path.relative_to(folder / "without") for path in (folder / "without").rglob("plan.json")
    ]
    for path in [*same, "pinned.json"]:
        assert (study / path).read_bytes() == (folder / "without" / path).read_bytes()
    with_logger, without = results(study), results(folder / "without")
    assert {run: r["loss"] for run, r in with_logger.items()} == {
        run: r["loss"] for run, r in without.items()
    }
    # Nothing is left to train, and the answer is logged all the same.
    (study / "log.txt").unlink()
    assert main([*TRAIN, "workers=1", "logger=lines"]) == 0
    assert [line.split()[0] for line in (study / "log.txt").read_text().splitlines()] == ["answer"]


def test_a_sweep_without_a_law_logs_why(folder, capsys):
    assert main([*TRAIN, "budgets=[1e7]", "workers=1", "logger=lines"]) == 3
    (answer,) = re.findall("^answer .*", (folder / "outputs/small/log.txt").read_text(), re.M)
    assert json.loads(capsys.readouterr().out)["refusal"][:60] in answer
    assert "figures/isoflop.png" in answer


class Failing:
    """Raises at one of its methods, or when it is opened."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.calls: list[str] = []

    def __call__(self, study: Path) -> Failing:
        self.does("open")
        return self

    def does(self, what: str) -> None:
        self.calls.append(what)
        if what == self.at:
            raise OSError(28, "No space left on device")

    def begin(self, run, settings):
        self.does("begin")

    def points(self, run, points):
        self.does("points")

    def end(self, run, result, *, completed):
        self.does("end")

    def answer(self, summary, figures):
        self.does("answer")

    def close(self):
        self.does("close")


@pytest.mark.parametrize("at", ["open", "begin", "points", "end", "answer", "close"])
def test_a_logger_that_fails_is_one_warning_and_no_failed_run(tmp_path, at):
    logger = Failing(at)
    with pytest.warns(StudyWarning, match="the logger failed.*No space left") as warned:
        study = trained(StudyFolder(tmp_path / "study"), logger)
    assert len(warned) == 1
    assert logger.calls[-1] == at
    assert logger.calls.count(at) == 1
    assert all(run.is_completed for run in study.runs)


def trained(folder, logger, **changes):
    how = Fitting(SurfaceFit(), draws=0, seed=0)
    spec = small_spec(**changes)
    settings = stored(SweepSettings, {"study": folder.path.name, "workers": 1})
    return train_study(spec, folder, settings, how, logger=logger, tell=lambda text: None)


def test_a_package_that_is_missing_is_said_before_anything_trains():
    with pytest.raises(ConfigError, match=r"pip install 'flops-fit\[nosuchlogger\]'"):
        check_package("nosuchlogger")


class Kept:
    """Points with the number of runs that had ended when they came."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.ended = 0

    def __call__(self, study):
        return self

    def begin(self, run, settings):
        pass

    def points(self, run, points):
        self.seen += [(run, step, self.ended) for step, _ in points]

    def end(self, run, result, *, completed):
        self.ended += 1

    def answer(self, summary, figures):
        pass

    def close(self):
        pass


def slow_loss(prediction, target):
    time.sleep(0.04)
    return F.mse_loss(prediction, target)


@pytest.mark.slow
def test_points_come_while_the_run_goes_on(tmp_path):
    """Of a run of seven seconds, those of its first half long before its end."""
    folder, kept = StudyFolder(tmp_path), Kept()
    plan, recipe = planned(
        tmp_path, loss=slow_loss, sweep=small_sweep(budgets=(4e5,), sizes=(4,)), together=False
    )
    (experiment,) = plan.experiments
    seen = []

    class Looking(Unwatched):
        def progress(self, experiment, flops):
            seen.append(len(kept.seen))

    with opened(kept, folder) as log:
        watcher = LoggedWatcher(Looking(), log, folder)
        Inline(torch_trainer(recipe, folder), folder)([(experiment,)], watcher)
    curve = curves(tmp_path)[experiment.id]
    assert [step for _, step, _ in kept.seen] == sorted(curve)
    assert max(seen) > len(curve) / 3


def test_from_python_by_name_or_as_an_object(tmp_path):
    kept = Kept()
    sweep = {
        "model_cls": Net,
        "model_size_param": "width",
        "dataset": rows(),
        "loss_fn": F.mse_loss,
        "compute_budgets": [2e5],
        "sizes": [4, 8],
        "batch_size": 16,
        "min_steps": 10,
        "max_epochs": 100,
        "draws": 0,
        "output_dir": tmp_path / "study",
    }
    study = find_optimal(**sweep, logger=kept)
    assert {run for run, _, _ in kept.seen} == {run.id for run in study}
    assert study.plan.settings.logger is None
    find_optimal(**sweep, logger="none")
    with pytest.raises(ConfigError, match="there is no logger 'tensorbord': did you mean"):
        find_optimal(**sweep, logger="tensorbord")


def test_tensorboard_has_the_curves_the_answer_and_the_figures(folder):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*TRAIN, "logger=tensorboard"]) == 0
    study = folder / "outputs/small"
    names = ("train_loss", "held_out_loss", "lr", "grad_norm", "num_tokens", "flops")
    for run, curve in curves(study).items():
        events = EventAccumulator(str(study / "tensorboard" / run)).Reload()
        for name in names:
            wanted = {step: point[name] for step, point in curve.items() if name in point}
            found = {e.step: e.value for e in events.Scalars(name)} if wanted else {}
            assert found == pytest.approx(wanted, rel=1e-6), name
        (final,) = events.Scalars("final/loss")
        assert final.value == pytest.approx(results(study)[run]["loss"], rel=1e-6)
    answer = EventAccumulator(str(study / "tensorboard/answer")).Reload()
    assert {"figures/isoflop", "figures/optima"} <= {*answer.Tags()["images"]}
    (text,) = answer.Tensors("answer/text_summary")
    law = json.loads(next(study.glob("plans/*/law.json")).read_text())
    assert law["diagnostics"]["verdict"] in text.tensor_proto.string_val[0].decode()


def records_of(path: Path) -> Iterator[bytes]:
    """Of a file as LevelDB writes its logs: blocks of parts, each behind a head of 7 bytes."""
    content, block = path.read_bytes(), 32768
    at, whole = 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def test_wandb_offline_has_the_curves_the_answer_and_the_figures(folder, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "data"))
    assert main([*TRAIN, "logger=wandb"]) == 0
    study = folder / "outputs/small"
    logged: dict[str, dict[int, dict[str, float]]] = {}
    summaries: dict[str, dict[str, Any]] = {}
    for path in study.glob("wandb/offline-run-*/*.wandb"):
        points, summary, name = {}, {}, ""
        for data in records_of(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                name = record.run.display_name
            for item in record.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            values = {
                i.key or ".".join(i.nested_key): json.loads(i.value_json)
                for i in record.history.item
            }
            if "train_loss" in values:
                step = values.pop("_step")
                points[step] = {k: v for k, v in values.items() if k[0] != "_"}
        logged[name], summaries[name] = points, summary
    assert logged.pop("answer") == {}
    assert logged == {
        run: {step: pytest.approx(point) for step, point in curve.items()}
        for run, curve in curves(study).items()
    }
    for run, result in results(study).items():
        assert summaries[run]["final/loss"] == pytest.approx(result["loss"])
    law = json.loads(next(study.glob("plans/*/law.json")).read_text())
    assert summaries["answer"]["verdict"] == law["diagnostics"]["verdict"]
    assert len([*study.glob("wandb/offline-run-*/files/media/images/*.png")]) >= 2


def test_mlflow_has_the_curves_the_answer_and_the_figures(folder):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    assert main([*TRAIN, "logger=mlflow"]) == 0
    study = folder / "outputs/small"
    client = MlflowClient(tracking_uri=f"sqlite:///{study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    answer = runs.pop("answer")
    assert runs.keys() == curves(study).keys()
    for run, curve in curves(study).items():
        history = client.get_metric_history(runs[run].info.run_id, "train_loss")
        wanted = {step: point["train_loss"] for step, point in curve.items()}
        assert {m.step: m.value for m in history} == pytest.approx(wanted)
        assert runs[run].data.metrics["final/loss"] == results(study)[run]["loss"]
        assert runs[run].info.status == "FINISHED"
        assert "width" in runs[run].data.params
    law = json.loads(next(study.glob("plans/*/law.json")).read_text())
    assert answer.data.params["verdict"] == law["diagnostics"]["verdict"]
    files = [f.path for f in client.list_artifacts(answer.info.run_id, "figures")]
    assert {"figures/isoflop.png", "figures/optima.png"} <= {*files}
