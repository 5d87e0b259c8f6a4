"""Run a command to its end, with a log and a time limit, and leave nothing of it behind."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from flops_fit.errors import StudyError

POLL_SECONDS = 0.2
"""Between looks at whether a stop was requested or the time is up."""

GRACE_SECONDS = 10.0
"""A command may take to leave a checkpoint between SIGTERM and SIGKILL. Workers that train in
processes of their own have 20 seconds before they are killed themselves."""

HEADER = "=== flops-fit"
"""Begins the line of a log that says what is run."""

LOG_TAIL_BYTES = 4000
"""Of a log, where its last line is looked for."""


class TookTooLong(Exception):
    """A command was ended at its time limit."""


@contextmanager
def lease(path: Path) -> Iterator[IO[str]]:
    """A locked file, to be handed to `run_command`, which only one command holds at a time.

    A command keeps it locked as long as it lives, even where the process that started it was
    killed. Such a command is ended first. Raises `StudyError` where that is no use.
    """
    with path.open("a+", encoding="utf-8") as held:
        if not _try_lock(held):
            _end_holder(held)
        held.truncate(0)
        yield held


def run_command(
    words: Sequence[str],
    log: Path,
    held: IO[str],
    timeout_seconds: float | None,
    stop_requested: Callable[[], bool],
) -> int:
    """The exit code of the command, run without a shell in a process group of its own.

    Its output is added to `log` under a line that says what is run; it inherits the lock on
    `held`. Whatever is left of its group when it ends is killed. Raises `TookTooLong` after
    `timeout_seconds`, `KeyboardInterrupt` when `stop_requested`; the group gets SIGTERM first.
    """
    with log.open("a", encoding="utf-8") as output:
        one_line = shlex.join(words).replace("\n", "\\n")
        output.write(f"{HEADER} {_now()}: {one_line}\n")
        output.flush()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # else a traceback isn't what it said last
            start_new_session=True,
            pass_fds=[held.fileno()],
        )
        try:
            held.write(str(process.pid))
            held.flush()
            return _exit_code(process, timeout_seconds, stop_requested)
        finally:
            _end(process)


def last_line(log: Path) -> str:
    """What a command said last, without the blanks around it; empty where it said nothing."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return "" if not said or said[-1].startswith(HEADER) else said[-1]


def said_last(log: Path) -> str:
    """All that the command said whose header is the last in the log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    _, _, said = text[max(0, text.rfind(HEADER)) :].partition("\n")
    return said


def _exit_code(
    process: subprocess.Popen[bytes],
    timeout_seconds: float | None,
    stop_requested: Callable[[], bool],
) -> int:
    started = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(POLL_SECONDS)
            if code >= 0:
                return code
            time.sleep(POLL_SECONDS)  # a signal that ended it may ask us to stop, too
            if not stop_requested():
                return code
        if stop_requested():
            raise KeyboardInterrupt
        if timeout_seconds is not None and time.monotonic() - started > timeout_seconds:
            raise TookTooLong(f"the command took longer than {timeout_seconds:g} seconds")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a command that still runs leave, then kill what there is of its group."""
    try:
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
    finally:  # also where a second Ctrl-C ends the wait
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _end_holder(held: IO[str]) -> None:
    """End the group whose number the file holds, and take over its lock."""
    held.seek(0)
    leader = held.read()
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        if leader:
            _signal_group(int(leader), signal_number)
        if _lock_within(held, GRACE_SECONDS):
            return
    raise StudyError(
        f"{held.name} is held by a process that an earlier command left behind: end it, and run "
        "the same command again"
    )


def _lock_within(held: IO[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (has_lock := _try_lock(held)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return has_lock


def _try_lock(held: IO[str]) -> bool:
    """Whether the file is locked by us now."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signal_group(leader: int, signal_number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: the latter for a zombie's group
        os.killpg(leader, signal_number)


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
