"""Several processes at one study, on one machine or many: who is at it, and whether locks lock.

All that keeps two of them from training one run twice is the lock on its folder. Not every file
system has such locks (object stores that are mounted), and some have them for one host only (NFS
with `nolock`), so both are looked for before anything trains.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from flops_fit.errors import StudyError
from flops_fit.files import folder_to_write, read_json, write_json

PROCESSES = ".processes"
"""Folder in a study's: a file for each process that shares it, with a lock beside."""

BEAT_SECONDS = 2.0
"""Between signs of life."""

PATIENCE_SECONDS = 3 * BEAT_SECONDS
"""Without a sign of life after which a process counts as gone."""

NEEDED = (
    "processes that share a study need a file system with locks that all of them see: a local "
    "disk, NFS 4 (or 3 with lockd), Lustre mounted with flock, GPFS; see docs/fleet.md"
)

TRY_LOCK = "import filelock, sys; filelock.FileLock(sys.argv[1]).acquire(timeout=0)"


def check_file_system(folder: Path) -> None:
    """Raises `StudyError` where a lock in the folder can be had twice, or can't be had at all."""
    folder.mkdir(parents=True, exist_ok=True)
    kept_here = _locks_of_one_host(folder)
    if kept_here:
        raise StudyError(
            f"{folder} is mounted with {kept_here}, so locks hold on one host: {NEEDED}"
        )
    path = folder / f".probe-{_this_process()}.lock"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # that it does without flock
            with FileLock(path):
                has_it_too = _can_be_had(path)
    except (NotImplementedError, OSError, UserWarning) as error:
        raise StudyError(f"{folder} has no locks ({error}): {NEEDED}") from error
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    if has_it_too:
        raise StudyError(f"two processes can hold one lock in {folder}: {NEEDED}")


def _can_be_had(path: Path) -> bool:
    """Whether another process can lock it now."""
    another = [sys.executable, "-c", TRY_LOCK, str(path)]
    return subprocess.run(another, capture_output=True, check=False).returncode == 0


def _locks_of_one_host(folder: Path, mounts: str | None = None) -> str:
    """The option of the folder's NFS mount that keeps locks on this host; empty without one."""
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:  # no Linux: the other checks have to do
            return ""
    place, found = os.path.realpath(folder), ("", "", "")
    for line in mounts.splitlines():
        _, at, kind, options, *_ = [*line.split(" "), "", "", ""]
        at = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), at)
        is_above = Path(place).is_relative_to(at) if at else False
        if is_above and len(at) >= len(found[0]):  # of one place the last mount is seen
            found = (at, kind, options)
    _, kind, options = found
    if not kind.startswith("nfs"):
        return ""
    ours = {"nolock", "local_lock=all", "local_lock=flock"}
    return next((option for option in options.split(",") if option in ours), "")


@contextmanager
def present(folder: Path) -> Iterator[None]:
    """Inside, other processes can see that this one is at the study.

    Raises `StudyError` where one that lives does not keep us from taking its lock.
    """
    room = folder_to_write(folder, PROCESSES)
    own = room / f"{_this_process()}.json"
    gone = threading.Event()
    with FileLock(own.with_suffix(".lock")):
        write_json(own, {"beat": 0})
        threading.Thread(target=_beat, args=(own, gone), daemon=True).start()
        try:
            for other in sorted(room.glob("*.json")):
                if other != own:
                    _check_lock_of(other, own)
            yield
        finally:
            gone.set()
            with suppress(OSError):
                own.unlink()
                own.with_suffix(".lock").unlink()


def _beat(own: Path, gone: threading.Event) -> None:
    beat = 0
    while not gone.wait(BEAT_SECONDS):
        beat += 1
        with suppress(StudyError):  # a full disk: the runs will say so
            write_json(own, {"beat": beat})
        if gone.is_set():
            own.unlink(missing_ok=True)


def _check_lock_of(other: Path, own: Path) -> None:
    """Raises `StudyError` where a process shows signs of life while we hold its lock; what one that
    died has left is removed. What is no lock of ours to take is let be."""
    lock = other.with_suffix(".lock")
    if lock.is_symlink():
        return
    try:
        with FileLock(lock).acquire(timeout=0):
            if _is_alive(other, own):
                raise StudyError(
                    f"process {other.stem} is at this study and does not keep this one "
                    f"({own.stem}) from locking what it has locked: {NEEDED}"
                )
            other.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
    except (Timeout, OSError):
        return


def _is_alive(other: Path, own: Path) -> bool:
    """Whether its beat goes on. Ages are told by our own file, since hosts differ in their time."""
    first = _beat_of(other)
    with suppress(FileNotFoundError):
        if own.stat().st_mtime - other.stat().st_mtime > 2 * PATIENCE_SECONDS:
            return False
    until = time.monotonic() + PATIENCE_SECONDS
    while first is not None and time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 10)
        now = _beat_of(other)
        if now is None:  # it has just ended
            return False
        if now != first:
            return True
    return False


def _beat_of(other: Path) -> object:
    try:
        return read_json(other)
    except (FileNotFoundError, StudyError):
        return None


def _this_process() -> str:
    """A name for a file of its own: containers may have one host name, and the same numbers."""
    host = re.sub(r"[^\w-]", "-", socket.gethostname())
    return f"{host[:60]}-{os.getpid()}-{secrets.token_hex(3)}"
