"""The command line: take the verb off, put Hydra's flags where it wants them, hand over.

Imports nothing before it is needed: help takes a tenth of a second, and torch two.
"""

from __future__ import annotations

import difflib
import io
import os
import signal
import sys
from collections.abc import Sequence

from flops_fit.cli.exit_codes import ERROR, INTERRUPTED, OK, USAGE
from flops_fit.cli.verbs import VERBS, Verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    reopen_closed()
    write_what_can_be_written()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        tell(help_text())
        return OK if words else USAGE
    if words[0] in ("-V", "--version"):
        from flops_fit import __version__

        tell(f"flops-fit {__version__}\n")
        return OK
    if words[0] in ("-sc", "--shell-completion"):
        return complete(words)
    name = verb_in(words)
    if name not in VERBS:
        return unknown_verb(name)
    words.remove(name)
    verb = VERBS[name]
    if {"-h", "--help"} & set(words):
        from flops_fit.cli.help import verb_help

        tell(verb_help(verb))
        return OK
    code = run(verb, words)
    if argv is None and code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a further Ctrl-C finds nothing to tell of
    return code


def reopen_closed() -> None:
    """A stream that whoever called us has closed is written to nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def write_what_can_be_written() -> None:
    """A character that a stream's encoding lacks is a question mark there, no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def tell(text: str) -> None:
    """Help, to whoever is there to read it."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # of `flops-fit --help | head`
        from flops_fit.cli.failures import drop_stdout

        drop_stdout()


def run(verb: Verb, words: Sequence[str]) -> int:
    """Check the words and run the verb with them."""
    from flops_fit.cli.mistakes import UsageError, check_words, unread_configs
    from flops_fit.cli.words import for_hydra
    from flops_fit.errors import UserError, printable

    try:
        os.getcwd()
    except FileNotFoundError:
        print("error: the working directory is gone: go to one that exists", file=sys.stderr)
        return ERROR
    try:
        check_words(verb, words)
    except UserError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else ERROR
    for text in unread_configs(verb, words):
        print(printable(f"warning: {text}"), file=sys.stderr)
    from flops_fit.cli.compose import run_verb

    try:
        return run_verb(verb, for_hydra(verb, words))
    except KeyboardInterrupt:
        print("interrupted; run the same command to continue", file=sys.stderr)
        return INTERRUPTED


def help_text() -> str:
    """What `flops-fit --help` prints."""
    verbs = "\n".join(f"  {verb.name:<9}{verb.about}" for verb in VERBS.values())
    return f"""flops-fit: how large a model, on how many tokens, to what loss, and how sure.

Usage: flops-fit VERB [SETTING=VALUE ...] [FLAGS]

{verbs}

Start here:
  flops-fit train model=mlp dataset=toy
  flops-fit plan 'budgets=[1e15,1e16]'
  flops-fit VERB --help

Shell completion: eval "$(flops-fit -sc install=bash)"
"""


def verb_in(words: Sequence[str]) -> str:
    """The verb among the words, else what stands in its place."""
    plain = [word for word in words if not word.startswith("-")]
    return next((word for word in plain if word in VERBS), plain[0] if plain else words[0])


def unknown_verb(verb: str) -> int:
    close = difflib.get_close_matches(verb.casefold(), VERBS, n=1)
    guess = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(VERBS)}"
    if "=" in verb:
        guess = f"begin with what to do, as in flops-fit train {verb}: one of {', '.join(VERBS)}"
    message = f"error: no command {verb!r}: {guess} (flops-fit --help lists them)"
    print(message, file=sys.stderr)
    return USAGE


def complete(words: Sequence[str]) -> int:
    """Shell completion: Hydra's own, with the verb completed here and cut out of the line."""
    flag, action = words[0], words[1] if len(words) > 1 else "install=bash"
    from flops_fit.cli.help import completed_verbs, without_verb

    verbs = completed_verbs(action)
    if verbs is not None:
        print(verbs)
        return OK
    from flops_fit.cli.compose import run_verb

    verb = VERBS.get(without_verb(), VERBS["train"])
    return run_verb(verb, [flag, action])
