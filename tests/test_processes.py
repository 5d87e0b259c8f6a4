"""Commands run to their end: log, time limit, stop, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from flops_fit.command import processes
from flops_fit.command.processes import TookTooLong, last_line, lease, run_command
from flops_fit.errors import StudyError

PYTHON = [sys.executable, "-S", "-c"]
SLEEP = "import time; time.sleep(60)"


def never() -> bool:
    return False


@pytest.fixture
def run(tmp_path):
    """Runs Python code as a command in the test's folder."""

    def run(code, timeout_seconds=None, stop_requested=never):
        with lease(tmp_path / "lease") as held:
            words = [*PYTHON, code]
            return run_command(words, tmp_path / "log", held, timeout_seconds, stop_requested)

    return run


def is_alive(pid: int) -> bool:
    """Not gone, and no zombie that its new parent has yet to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def has_text(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


def with_child(pid_file: Path) -> str:
    """Code of a command that leaves its child's pid in a file; both then sleep."""
    child = f"import subprocess, sys; p = subprocess.Popen({[*PYTHON, SLEEP]!r})"
    return f"{child}; open({str(pid_file)!r}, 'w').write(str(p.pid)); {SLEEP}"


def test_the_log_has_all_attempts_and_both_streams(run, tmp_path):
    assert run("import sys; print('first'); 1 / 0") == 1
    assert run("print('second')") == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines if line[0] not in " T"] == [
        "===", "first", "ZeroDivisionError:", "===", "second",
    ]  # fmt: skip
    assert last_line(tmp_path / "log") == "second"


def test_a_silent_command_has_said_nothing_last(run, tmp_path):
    run("print('earlier')")
    run("pass")
    assert last_line(tmp_path / "log") == ""


def test_a_command_that_is_killed_says_by_which_signal(run):
    assert run("import os; os.kill(os.getpid(), 9)") == -9


def test_it_reads_nothing_and_has_no_shell(run, tmp_path):
    assert run("import sys; print(repr(sys.stdin.read()), '$HOME')") == 0
    assert last_line(tmp_path / "log") == "'' $HOME"


def test_the_environment_is_inherited(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    run("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    assert last_line(tmp_path / "log") == "3"


def test_a_time_limit_ends_the_whole_group(run, tmp_path):
    child = tmp_path / "child"
    started = time.monotonic()
    with pytest.raises(TookTooLong, match=r"longer than 0\.5 seconds"):
        run(with_child(child), timeout_seconds=0.5)
    assert time.monotonic() - started < processes.GRACE_SECONDS
    wait_for(lambda: not is_alive(int(child.read_text())))


def test_a_stop_lets_a_command_leave_its_checkpoint(run, tmp_path):
    ready, checkpoint = tmp_path / "ready", tmp_path / "checkpoint"
    code = f"""
import signal, sys, time
def leave(*_):
    open({str(checkpoint)!r}, "w").write("here")
    sys.exit()
signal.signal(signal.SIGTERM, leave)
open({str(ready)!r}, "w").write("now")
time.sleep(60)
"""
    with pytest.raises(KeyboardInterrupt):
        run(code, stop_requested=partial(has_text, ready))
    assert checkpoint.read_text() == "here"


def test_a_command_that_ignores_the_stop_is_killed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    pid = tmp_path / "pid"
    code = f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(pid)!r}, "w").write(str(os.getpid()))
time.sleep(60)
"""
    with pytest.raises(KeyboardInterrupt):
        run(code, stop_requested=partial(has_text, pid))
    assert not is_alive(int(pid.read_text()))


def test_what_a_command_leaves_running_is_killed(run, tmp_path):
    child = tmp_path / "child"
    assert run(with_child(child).removesuffix(SLEEP)) == 0
    wait_for(lambda: not is_alive(int(child.read_text())))


def survivor(folder: Path, code: str) -> int:
    """The pid of a command whose starter was killed; it runs `code`."""
    starter = f"""
from pathlib import Path
from flops_fit.command.processes import lease, run_command
with lease(Path("lease")) as held:
    run_command({[*PYTHON, code]!r}, Path("log"), held, None, lambda: False)
"""
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=folder)
    wait_for(lambda: has_text(folder / "pid"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    return int((folder / "pid").read_text())


WITH_PID = f"import os; open('pid', 'w').write(str(os.getpid())); {SLEEP}"


def test_a_command_that_outlived_its_starter_is_ended_before_the_next(run, tmp_path):
    pid = survivor(tmp_path, WITH_PID)
    assert is_alive(pid)
    assert run(f"import os; assert not os.path.exists('/proc/{pid}/cwd')") == 0
    assert not is_alive(pid)


def test_a_survivor_that_is_in_no_group_of_ours_is_named(run, tmp_path, monkeypatch):
    code = f"""
import os, time
if os.fork():
    while not os.path.exists("pid"):
        time.sleep(0.01)
    os._exit(0)
os.setsid()
{WITH_PID}
"""
    pid = survivor(tmp_path, code)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.1)
    try:
        with pytest.raises(StudyError, match="lease is held by a process that an earlier command"):
            run("pass")
    finally:
        os.kill(pid, signal.SIGKILL)
