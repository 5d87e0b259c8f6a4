"""JSON on stdout, for programs: one document and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

from flops_fit.errors import CONTROLS


def print_json(value: Any) -> None:
    """One JSON document."""
    out = _DOCUMENTS[-1] if _DOCUMENTS else sys.stdout
    print(json_text(value), file=out, flush=True)


def json_text(value: Any) -> str:
    """Of a value, with nothing in it that a terminal would obey."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    return text.translate({code: f"\\u{code:04x}" for code in CONTROLS if code >= 127})


_DOCUMENTS: list[TextIO] = []
"""Where documents go while stdout is theirs alone: a process has one stdout."""


@contextmanager
def only_documents() -> Iterator[None]:
    """Inside, nothing but `print_json` writes to stdout: what a user's model prints, here, in
    worker processes or past Python, goes to stderr."""
    out, kept = sys.stdout, None
    out.flush()
    with suppress(OSError, ValueError):  # a stdout that is no file
        number = out.fileno()
        kept = os.dup(number)
        os.dup2(sys.stderr.fileno(), number)
        out = open(kept, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    _DOCUMENTS.append(out)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _DOCUMENTS.pop()
        if kept is not None:
            out.flush()
            os.dup2(kept, number)
            os.close(kept)
