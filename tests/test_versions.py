"""Files of earlier versions are read, upgraded in one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flops_fit.errors import StudyError
from flops_fit.fitting.result import LAW_VERSIONS
from flops_fit.plan.experiment import Plan
from flops_fit.plan.run import Run
from flops_fit.plan.versions import PLAN_VERSIONS, RESULT_VERSIONS, FileVersions

STUDIES = Path(__file__).parent / "assets" / "studies"
PLANS = sorted(STUDIES.glob("*/plans/*/plan.json"))


def test_every_step_between_is_taken():
    steps = {
        1: lambda data: {**data, "held_out": data["loss"]},
        2: lambda data: {**data, "twice": 2 * data["held_out"]},
    }
    file = FileVersions("result.json", 3, steps)
    old = {"schema_version": 1, "loss": 2.0}
    assert file.upgraded(old)["twice"] == 4.0
    assert file.upgraded({**old, "schema_version": 2, "held_out": 3.0})["twice"] == 6.0
    assert file.upgraded({**old, "schema_version": 3}) == {**old, "schema_version": 3}


@pytest.mark.parametrize("file", [PLAN_VERSIONS, RESULT_VERSIONS, LAW_VERSIONS])
def test_every_earlier_version_has_its_upgrade(file):
    assert sorted(file.upgrades) == list(range(1, file.current))


@pytest.mark.parametrize("version", [None, 0, 3, "1", 1.5])
def test_a_version_that_is_not_known_is_refused_by_name(version):
    with pytest.raises(StudyError, match=f"law.json has schema version {version}, .* up to 2"):
        LAW_VERSIONS.upgraded({"schema_version": version})


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.parts[-4])
def test_stored_plans_are_read_and_written_again_as_they_were(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    plan = Plan.from_json(stored)
    written = json.loads(json.dumps(plan.to_json()))
    assert written["experiments"] == stored["experiments"]
    assert written["flop_rule"] == stored["flop_rule"]
    kept = {name: value for name, value in stored["settings"].items() if value not in (None, "")}
    assert {name: written["settings"][name] for name in kept} == kept


def test_what_a_later_version_has_added_is_no_obstacle():
    (path, *_) = PLANS
    stored = json.loads(path.read_text(encoding="utf-8"))
    more = [{**e, "of_tomorrow": 1} for e in stored["experiments"]]
    assert Plan.from_json({**stored, "experiments": more}) == Plan.from_json(stored)
    result = json.loads(next(STUDIES.glob("toy/runs/*/result.json")).read_text(encoding="utf-8"))
    assert Run.from_json({**result, "of_tomorrow": 1}) == Run.from_json(result)
