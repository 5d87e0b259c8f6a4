import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import Timeout

from flops_fit.errors import StudyError
from flops_fit.laws import FlopRule
from flops_fit.plan.experiment import Experiment, Plan, Size
from flops_fit.plan.run import Run, ended_run
from flops_fit.store.folder import StudyFolder, latest_study

HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def experiment(name="C1e9-N100-000000000000", **changes):
    planned = Experiment(
        budget=1e9,
        size=Size("width", 8),
        num_params=100,
        num_params_total=120,
        num_steps=50,
        batch_size=4,
        batch_tokens=32,
        flops_per_token=600.0,
        flops_per_token_counted=None,
        flops_per_token_formula=600.0,
        unique_tokens=None,
        seed=0,
        id=name,
    )
    return replace(planned, **changes)


def completed_run(planned=None, **changes):
    run = ended_run(planned or experiment(), "completed", None, num_steps=50)
    return replace(run, **{"loss": 0.5, "wall_time_seconds": 1.0, **changes})


@pytest.fixture
def plan():
    names = [f"C1e9-N100-00000000000{i}" for i in range(4)]
    return Plan(tuple(experiment(name) for name in names), FlopRule.constant())


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "study")


def result_path(folder, run_id):
    return folder.run_folder(run_id) / "result.json"


class TestRun:
    @pytest.mark.parametrize("value", [8, 0.5, {"width": 8, "depth": 2}])
    def test_comes_back_from_disk_as_it_was(self, folder, value):
        planned = experiment(size=Size("width", value), flops_per_token_counted=700.5)
        run = completed_run(planned, loss=0.1 + 0.2, flops_counted=1 / 3, versions={"torch": "2.9"})
        folder.write_run(run)
        assert folder.read_run(run.id) == run

    def test_failed_and_diverged_come_back_too(self, folder):
        for status in ("failed", "diverged"):
            run = ended_run(experiment(), status, "über\nlines", num_steps=3)
            folder.write_run(run)
            assert folder.read_run(run.id) == run

    def test_says_what_was_trained_beside_what_was_planned(self):
        run = ended_run(experiment(), "failed", "stopped", num_steps=20)
        assert (run.num_tokens, run.planned_tokens) == (20 * 32, 50 * 32)
        assert run.flops == 20 * 32 * 600
        assert run.loss is None

    def test_a_finished_one_is_called_completed_in_its_file(self, folder):
        run = completed_run()
        folder.write_run(run)
        assert json.loads(result_path(folder, run.id).read_text())["status"] == "completed"
        assert (run.status, f"{run.status}") == ("completed", "completed")

    def test_the_earlier_word_for_it_is_read(self):
        run = completed_run()
        assert Run.from_json({**run.to_json(), "status": "done"}) == run

    def test_keys_of_later_versions_are_passed_over(self):
        run = completed_run()
        assert Run.from_json({**run.to_json(), "colour": "red"}) == run

    def test_another_schema_version_is_refused(self):
        with pytest.raises(StudyError, match=r"result.json has schema version 99.*reads up to 1"):
            Run.from_json({**completed_run().to_json(), "schema_version": 99})

    @pytest.mark.parametrize(
        ("changes", "is_completed", "is_settled"),
        [
            ({}, True, True),
            ({"loss": None}, False, False),
            ({"wall_time_seconds": 0}, False, False),
            ({"status": "failed"}, False, False),
            ({"status": "diverged", "loss": None}, False, True),
        ],
    )
    def test_is_completed_only_with_a_loss_that_took_time(self, changes, is_completed, is_settled):
        run = completed_run(**changes)
        assert (run.is_completed, run.is_settled) == (is_completed, is_settled)


class TestWhatIsMissing:
    def test_all_of_an_empty_study(self, folder, plan):
        assert folder.missing(plan) == list(plan.experiments)
        assert folder.runs_of(plan) == ([], [])
        assert not folder.has_runs

    def test_all_but_what_is_completed_or_diverged(self, folder, plan):
        first, second, third, fourth = plan.experiments
        folder.write_run(completed_run(first))
        folder.write_run(ended_run(second, "diverged", "loss nan at step 3"))
        folder.write_run(ended_run(third, "failed", "OSError"))
        folder.write_run(completed_run(fourth, loss=None))
        assert folder.missing(plan) == [third, fourth]
        assert folder.missing(plan, retry=["diverged"]) == [second, third, fourth]
        assert [run.id for run in folder.runs_of(plan)[0]] == [e.id for e in plan.experiments]
        assert folder.has_runs

    @pytest.mark.parametrize(
        "content",
        [
            "",
            '{"id": "C1e9',
            "[]",
            "null",
            '"completed"',
            "\x00\x00",
            '{"schema_version": 1}',
            '{"schema_version": 7}',
            '{"schema_version": 1, "id": "a", "size": 3}',
        ],
    )
    def test_an_unreadable_result_is_reported_and_missing(self, folder, plan, content):
        broken, *others = plan.experiments
        for e in others:
            folder.write_run(completed_run(e))
        path = result_path(folder, broken.id)
        path.parent.mkdir(parents=True)
        path.write_text(content)
        with pytest.raises(StudyError):
            folder.read_run(broken.id)
        runs, problems = folder.runs_of(plan)
        assert [run.id for run in runs] == [e.id for e in others]
        assert len(problems) == 1
        assert "result.json" in problems[0]
        assert folder.missing(plan) == [broken]

    def test_bytes_that_are_no_text_are_reported(self, folder, plan):
        path = result_path(folder, plan.experiments[0].id)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\xff\xfe{}")
        _, problems = folder.runs_of(plan)
        assert "is not readable JSON" in problems[0]

    def test_setting_aside_loses_nothing(self, folder, plan):
        for e in plan.experiments[:2]:
            folder.write_run(completed_run(e))
        folder.set_aside(plan)
        assert folder.missing(plan) == list(plan.experiments)
        kept = [json.loads(p.read_text())["id"] for p in folder.path.rglob("result.json")]
        assert sorted(kept) == [e.id for e in plan.experiments[:2]]


class TestWriting:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_what_json_cannot_say_leaves_the_old_file(self, folder, bad):
        good = completed_run()
        folder.write_run(good)
        with pytest.raises(ValueError):
            folder.write_run(replace(good, loss=bad))
        assert folder.read_run(good.id) == good
        assert os.listdir(folder.run_folder(good.id)) == ["result.json"]


class TestPlanInForce:
    def test_is_the_last_one_put_there(self, folder, plan):
        other = Plan(plan.experiments[:2], plan.flop_rule, notes=("smaller",))
        for each in (plan, other):
            folder.write_plan(each)
            folder.put_in_force(each)
            assert folder.read_plan() == each
        assert (folder.path / "latest").is_symlink()
        assert not Path(os.readlink(folder.path / "latest")).is_absolute()

    def test_each_answer_has_a_folder_and_the_same_plan_the_same(self, folder, plan):
        smaller = Plan(plan.experiments[:2], plan.flop_rule)
        assert folder.write_plan(plan) == folder.write_plan(replace(plan, notes=("other",)))
        assert folder.write_plan(plan) != folder.write_plan(smaller)

    def test_a_file_names_it_where_there_are_no_links(self, folder, plan, monkeypatch):
        def no_links(*_, **__):
            raise OSError("symbolic link privilege not held")

        monkeypatch.setattr(Path, "symlink_to", no_links)
        folder.write_plan(plan)
        folder.put_in_force(plan)
        assert (folder.path / "latest").is_file()
        assert folder.read_plan() == plan

    def test_none_is_an_error_that_says_what_to_do(self, folder):
        with pytest.raises(StudyError, match="holds no plan: run `flops-fit train`"):
            folder.read_plan()

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 2}']
    )
    def test_a_broken_plan_is_an_error(self, folder, plan, content):
        (folder.write_plan(plan) / "plan.json").write_text(content)
        folder.put_in_force(plan)
        with pytest.raises(StudyError, match=r"plan\.json"):
            folder.read_plan()

    def test_a_plan_that_is_gone_is_an_error(self, folder, plan):
        (folder.write_plan(plan) / "plan.json").unlink()
        folder.put_in_force(plan)
        with pytest.raises(StudyError, match=r"has no plan"):
            folder.read_plan()

    def test_the_latest_study_is_the_one_planned_last(self, tmp_path, plan):
        with pytest.raises(StudyError, match="no study under"):
            latest_study(tmp_path)
        for name, age in (("first", 20), ("second", 10), ("third", 30)):
            folder = StudyFolder(tmp_path / name)
            folder.write_plan(plan)
            folder.put_in_force(plan)
            moment = 1_700_000_000 - age
            os.utime(folder.path / "latest", (moment, moment), follow_symlinks=False)
        assert latest_study(tmp_path).path.name == "second"


def test_the_first_choice_that_is_pinned_holds(folder):
    assert folder.pinned() == {}
    folder.pin({"precision": "bf16"})
    folder.pin({"precision": "fp32", "held_out_samples": 64})
    assert folder.pinned() == {"precision": "bf16", "held_out_samples": 64}


def test_a_lock_is_one_process_s_and_free_when_that_is_killed(folder):
    lock = folder.lock("some-run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, lock.lock_file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
        holder.kill()
    with lock.acquire(timeout=0):
        assert lock.is_locked
