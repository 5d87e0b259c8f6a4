"""What a user sees of an error: a message for what can be mended, a traceback for the rest."""

from __future__ import annotations

import difflib
import re
import sys
import traceback

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from flops_fit.cli.exit_codes import ERROR
from flops_fit.errors import UserError


def report_failure(error: Exception) -> int:
    """Say what went wrong; returns the exit code."""
    if isinstance(error, OSError) and error.filename and not isinstance(error, UserError):
        say(
            f"error: can't use {error.filename}: {error.strerror}: choose a folder you can write "
            "to with output_root=FOLDER, or mend its permissions"
        )
    elif isinstance(error, UserError | HydraException | OmegaConfBaseException):
        say(f"error: {explained(error)}")
    else:
        traceback.print_exception(error)
        say("error: this is a fault in flops-fit or in a class that the config names, see above")
    return ERROR


def explained(error: BaseException) -> str:
    """The message without Hydra's search path, with its cause and a guess at what was meant."""
    message = str(error).split("\nConfig search path")[0].strip()
    cause = error.__cause__
    if cause is not None and not isinstance(error, UserError) and str(cause) not in message:
        message += f"\n{cause}"
    missing = re.search(r"Could not find '([^']*)'", message)
    if missing:
        wanted = missing[1].rpartition("/")[2]
        options = [line.strip() for line in message.splitlines() if line.startswith("\t")]
        close = difflib.get_close_matches(wanted, options, n=1)
        message += f"\nDid you mean {close[0]!r}?" if close else ""
    return message


def say(text: str) -> None:
    """A line on stderr, without the console, which help and checks of words need not."""
    print(text, file=sys.stderr)
