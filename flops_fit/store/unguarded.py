"""Scripts that would start their processes once more in each of these.

A process that Python starts afresh runs the script that started it first, up to what it guards by
`if __name__ == "__main__":`, since classes that are defined there are needed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flops_fit.errors import ConfigError

OURS = "flops-fit"
"""Begins the names of processes that are started here."""

EXIT_CODE = 113
"""Of one of ours whose script is not guarded. No signal or convention has it."""

SAID = (
    "each process that is started begins by running your script, which would start further ones: "
    'put the call under `if __name__ == "__main__":` (classes and functions stay above it), or '
    "leave out workers and gpus_per_run"
)


def check_is_started() -> None:
    """Ends a process of ours whose script calls us while it starts; who has started it says why.

    Raises `ConfigError` in others' processes.
    """
    process = multiprocessing.current_process()
    if not getattr(process, "_inheriting", False):  # by which Python itself knows it
        return
    if process.name.startswith(OURS):
        sys.stdout.flush()
        os._exit(EXIT_CODE)
    raise ConfigError(SAID)


def check_exit_code(code: int | None) -> None:
    """Of a process that has ended. Raises `ConfigError`."""
    if code == EXIT_CODE:
        raise ConfigError(SAID)


@contextmanager
def starting() -> Iterator[None]:
    """Inside a process of ours is started. Raises `ConfigError` where it ends before it was told
    what to do."""
    try:
        yield
    except BrokenPipeError:
        raise ConfigError(f"a process ended as it was started: {SAID}") from None
