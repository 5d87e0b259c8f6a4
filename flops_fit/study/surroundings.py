"""What a worker process finds around it: streams, environment, threads, a GPU."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import torch


class Streams:
    """The stdout and stderr of this process, for a worker: those of the process that it is forked
    off may be others by now."""

    def __getstate__(self) -> list[Any]:
        return [DupFd(_opened(number)) for number in (1, 2)]  # while they are sent, and only then

    def __setstate__(self, sent: list[Any]) -> None:
        self._sent = sent

    def take(self) -> None:
        """Write to them from now on."""
        for number, (name, sent) in enumerate(
            zip(("stdout", "stderr"), self._sent, strict=True), start=1
        ):
            theirs = sent.detach()
            if theirs != number:
                os.dup2(theirs, number)
                os.close(theirs)
            stream = getattr(sys, name)
            if stream is None:  # it was closed where this process was forked off
                nowhere = open(number, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115
                setattr(sys, name, nowhere)
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)  # so that a kill loses no line


def _opened(number: int) -> int:
    """A stream that whoever called us has closed leads to nowhere."""
    try:
        os.fstat(number)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    return number


@dataclass(frozen=True)
class Place:
    """What a worker is given of the machine, and all else that it finds around it."""

    environment: Mapping[str, str]
    threads: int
    gpu: int | None  # its number among those of the parent; None: without

    def take(self) -> None:
        """Before anything is done with torch, but for what the user's main module does."""
        os.environ.clear()
        os.environ.update(self.environment)
        torch.set_num_threads(self.threads)
        if self.gpu is not None and torch.cuda.device_count() > 1:
            torch.cuda.set_device(self.gpu)  # CUDA had looked before: all are still there


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """What a child process started inside sees from its first import on."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
