"""scripts/gpu_check without a GPU: its limits, kills, table and page; and two parts on the CPU."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def checks(scripts):
    import gpu_checks

    return gpu_checks


@pytest.fixture(scope="module")
def table(scripts):
    import gpu_table

    return gpu_table


@pytest.fixture
def check(table):
    """All parts of a card were run; one row of each kind was measured."""
    readings = {
        "step_0.2M_compiled": table.Reading(0.57, "12 s to plan, prepare and time it"),
        "toy": table.Reading(60.2, "21 of 35 runs", at_least=True),
        "share_124M": table.Reading(43.1, "word " * 40),
        "captured": table.Reading(3e-4, "loss | loss"),
        "dropout": table.Reading(1.0),
        "plan_hours": table.Reading(0.8, at_least=True),
    }
    return table.Check(
        date="2026-01-02 03:04 UTC",
        commit="0123456",
        machine={"name": "NVIDIA H100 80GB HBM3", "driver_version": "580"},
        device="cuda",
        small=False,
        seconds=432.1,
        parts={**dict.fromkeys(table.PARTS, "done"), "side": "stopped after 120 s"},
        readings=readings,
    )


def verdicts(check):
    return {row.key: check.verdict(row) for row in check.rows}


class TestVerdicts:
    def test_goals_are_met_from_the_side_they_are_on(self, check):
        told = verdicts(check)
        assert told["step_0.2M_compiled"] == told["share_124M"] == told["dropout"] == "met"
        assert told["captured"] == "missed"

    def test_what_was_stopped_misses_what_it_has_passed(self, check):
        assert verdicts(check)["toy"] == "missed"
        assert verdicts(check)["plan_hours"] == "?"

    def test_what_was_not_measured_is_neither(self, check):
        assert verdicts(check)["source"] == verdicts(check)["side"] == "?"

    @pytest.mark.parametrize("changes", [{"device": "cpu"}, {"small": True}])
    def test_elsewhere_only_what_holds_anywhere_is_judged(self, check, changes):
        told = verdicts(replace(check, **changes))
        assert told["toy"] == told["share_124M"] == "-"
        assert told["captured"] == "missed"
        assert told["dropout"] == "met"


class TestTable:
    def test_fits_a_terminal(self, check, table):
        lines = table.plain_table(check).split("\n")
        assert max(map(len, lines)) <= table.COLUMNS
        assert sum("word" in line for line in lines) == 3

    def test_says_how_far_a_stopped_part_had_come(self, check, table):
        (line,) = (x for x in table.plain_table(check).split("\n") if x.startswith("toy"))
        assert line.split()[-9:] == ["over", "60.2", "s", "20", "s", "over", "300", "s", "missed"]
        assert "21 of 35 runs" in table.plain_table(check)

    def test_says_why_something_is_missing(self, check, table):
        lines = table.plain_table(check).split("\n")
        (number,) = (i for i, x in enumerate(lines) if x.startswith("48 small runs"))
        assert "not measured" in lines[number]
        assert lines[number + 1].strip() == "stopped after 120 s"

    def test_holds_the_parts_that_were_asked_for(self, check, table):
        some = replace(check, parts={"toy": "done", "exact": "done"})
        assert {row.part for row in some.rows} == {"toy", "exact"}
        assert "124M" not in table.plain_table(some)

    def test_page_has_a_line_and_a_meaning_for_each_row(self, check, table):
        lines = table.page(check).split("\n")
        cells = [line.replace("\\|", "") for line in lines if line.startswith("| ")]
        assert {line.count("|") for line in cells} == {7}
        assert len(cells) == 1 + len(check.rows)
        assert sum(line.startswith("- **") for line in lines) == len(check.rows)
        assert "NVIDIA H100 80GB HBM3; 2026-01-02 03:04 UTC, commit 0123456" in lines[0]

    def test_json_round_trip(self, check, table):
        told = json.loads(json.dumps(check.to_json()))
        again = table.Check.from_json(told)
        assert table.page(again) == table.page(check)
        assert verdicts(again) == verdicts(check)
        assert told["rows"]["toy"]["value"] == 60.2
        with pytest.raises(ValueError, match="schema_version is 7"):
            table.Check.from_json({**told, "schema_version": 7})


def is_running(pid):
    """Whether there is such a process that is no corpse."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


ENDLESS = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("a library prints")
print(json.dumps({"row": "toy", "value": 1.0, "note": str(child.pid), "at_least": True}))
print(json.dumps({"row": "captured", "value": 2e-5}))
time.sleep(60)
"""

FAILING = """
import json
print(json.dumps({"machine": {"name": "a card"}}))
print(json.dumps({"row": "toy", "value": 3.0}), flush=True)
raise RuntimeError("CUDA is gone")
"""


def ended(checks, tmp_path, program, limit):
    return checks.ended_process([sys.executable, "-c", program], limit, tmp_path / "part.log")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
class TestParts:
    def test_over_its_limit_a_part_is_killed_with_its_children(self, checks, table, tmp_path):
        started = time.monotonic()
        part = ended(checks, tmp_path, ENDLESS, 3.0)
        assert 3.0 <= time.monotonic() - started < 10
        assert part.how == "stopped after 3 s"
        assert part.readings["captured"] == table.Reading(2e-5)
        toy = part.readings["toy"]
        assert (toy.value, toy.at_least) == (1.0, True)
        for _ in range(100):
            if not is_running(int(toy.note)):
                break
            time.sleep(0.05)
        assert not is_running(int(toy.note))

    def test_a_part_that_fails_says_why_and_keeps_what_it_had(self, checks, tmp_path):
        part = ended(checks, tmp_path, FAILING, 30.0)
        assert part.how == "failed: RuntimeError: CUDA is gone"
        assert part.readings["toy"].value == 3.0
        assert part.machine == {"name": "a card"}

    def test_runs_in_a_folder_of_its_own_with_this_checkout(self, checks, tmp_path):
        program = (
            "import os, flops_fit; print(os.getcwd(), flops_fit.__file__, flush=True); os.abort()"
        )
        code = f"import sys; sys.stdout = sys.stderr; {program}"
        ended(checks, tmp_path, code, 30.0)
        folder, package = (tmp_path / "part.log").read_text().split()[:2]
        assert not Path(folder).exists()
        assert Path(package).parents[1] == ROOT


def test_parts_that_no_longer_fit_are_left_out(checks, tmp_path, capsys):
    words = ["--device", "cpu", "--only", "steps,toy", "--limit", "0", "--out", str(tmp_path)]
    assert checks.main(words) == 1
    told = json.loads((tmp_path / "gpu_check.json").read_text())
    assert set(told["parts"]) == {"steps", "toy"}
    assert all(how.startswith("left out: 0 s") for how in told["parts"].values())
    assert "left out: 0 s" in capsys.readouterr().out
    assert (tmp_path / "gpu.md").read_text().startswith("# GPU\n\nMeasured by")


def test_every_part_has_a_program_and_limits(checks, table):
    import gpu_parts

    assert set(gpu_parts.PARTS) == {"machine", *table.PARTS} == set(checks.LIMITS)
    assert set(checks.LEAST) == set(table.PARTS)
    assert all(checks.LEAST[part] < checks.LIMITS[part] < checks.LIMIT for part in table.PARTS)


def test_a_part_that_is_not_there_is_refused(checks, capsys):
    with pytest.raises(SystemExit):
        checks.main(["--only", "steps,all"])
    assert "no part 'all': use steps, toy" in capsys.readouterr().err


def test_the_page_keeps_what_is_written_around_its_block(checks, check, table, tmp_path):
    path = tmp_path / "gpu.md"
    checks.write_docs(check, path)
    path.write_text(path.read_text().replace("# GPU\n", "# GPU\n\nWords.\n") + "\nMore.\n")
    checks.write_docs(replace(check, commit="7654321"), path)
    text = path.read_text()
    assert text.startswith("# GPU\n\nWords.\n")
    assert text.endswith("\nMore.\n")
    assert "7654321" in text
    assert "0123456" not in text


def test_known_results_are_shown_again(check, tmp_path):
    """Through the script itself, as it is called."""
    path = tmp_path / "gpu_check.json"
    path.write_text(json.dumps(check.to_json()))
    script = [sys.executable, str(SCRIPTS / "gpu_check"), "--from", str(path)]
    shown = subprocess.run(script, capture_output=True, text=True)
    assert shown.returncode == 1  # goals are missed
    assert "over 60.2 s" in shown.stdout
    assert os.access(SCRIPTS / "gpu_check", os.X_OK)


def test_words_that_name_no_setting_are_left_out():
    import gpu_parts

    assert gpu_parts.known(["nonsense=1", "draws=0", "compile_above=0"]) == [
        "draws=0",
        "compile_above=0",
    ]
    for words in (gpu_parts.EAGER, gpu_parts.ALONE, gpu_parts.COMPILED, gpu_parts.UNCOMPILED):
        assert gpu_parts.known(words)


def test_a_command_that_fails_is_told_by_its_error(tmp_path, monkeypatch):
    import gpu_parts

    stderr = "Traceback:\n  File\ntorch.OutOfMemoryError: CUDA out of memory\nerror: see above\n"
    assert gpu_parts.what_failed(stderr) == "torch.OutOfMemoryError: CUDA out of memory"
    assert gpu_parts.what_failed("warning: a\nerror: no model\n\n") == "error: no model"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="no command 'trian': did you mean 'train'"):
        gpu_parts.program([sys.executable, "-m", "flops_fit", "trian"])


@pytest.mark.slow
def test_steps_and_exactness_are_measured_on_a_cpu(checks, tmp_path):
    words = ["--device", "cpu", "--small", "--only", "steps,exact", "--out", str(tmp_path)]
    assert checks.main(words) == 0
    rows = json.loads((tmp_path / "gpu_check.json").read_text())["rows"]
    for size in ("0.2M", "3.2M", "25M"):
        assert 0.05 < rows[f"step_{size}"]["value"] < 2000
    assert 0.05 < rows["step_mlp"]["value"] < 2000
    assert rows["resumed"]["value"] == rows["captured"]["value"] == 0
    assert rows["uncapturable"]["value"] == rows["dropout"]["value"] == 1
