"""The command line: take the verb off, put Hydra's flags where it wants them, hand over.

Imports neither torch nor hydra before a verb needs them, so that help is instant.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from flops_fit.errors import UserError

VERBS = {
    "plan": "which sizes to train on how many tokens, at each budget",
    "train": "plan, train what is missing, fit the law, print the answer",
    "fit": "fit scaling laws to a study's runs, or to any table of runs",
    "predict": "the best size, tokens and loss at a budget, with intervals",
    "verify": "train the best size for a budget; predicted against measured loss",
    "compare": "two laws side by side: loss and compute for the same loss",
    "report": "figures, tables and runs.csv of a study",
    "status": "what of a study is completed, failed and missing",
}

OK, ERROR, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""

VALUE_FLAGS = frozenset(
    {"--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp", "--cfg", "-c"}
    | {"--package", "-p", "--info", "-i", "--experimental-rerun", "--shell-completion", "-sc"}
)
"""Hydra's flags that take the next word as their value."""

RENAMED = {("predict", "budget"): "budgets", ("verify", "budget"): "target"}
"""Settings called `budget`, which to Hydra is a group of configs, and their names in the config."""

LISTS = frozenset({"budgets", "sizes", "studies"})
"""Settings that may be given as a,b,c outside a multirun."""

TEXTS = re.compile(r"trainer\.(command|loss_file)")
"""Settings whose braces and blanks are plain text, which Hydra would read as its own."""

TABLE_TEXTS = re.compile(r"columns\.\w+|runs|where")
"""Settings that are plain text outside a multirun, where commas part their variants."""

USER_CONFIGS = "conf"
"""A user's own configs in the working directory, found without being named."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return OK if words else USAGE
    if words[0] in ("-V", "--version"):
        from flops_fit import __version__

        print(f"flops-fit {__version__}")
        return OK
    if words[0] in ("-sc", "--shell-completion"):
        return complete(words)
    verb = verb_in(words)
    if verb not in VERBS:
        return unknown_verb(verb)
    words.remove(verb)
    if {"-h", "--help"} & set(words):
        print(verb_help(verb), end="")
        return OK
    try:
        return run_verb(verb, words)
    except KeyboardInterrupt:
        say("interrupted; run the same command to continue")
        return INTERRUPTED


def help_text() -> str:
    verbs = "\n".join(f"  {verb:<9}{about}" for verb, about in VERBS.items())
    return f"""flops-fit: how large a model, on how many tokens, to what loss, and how sure.

Usage: flops-fit VERB [SETTING=VALUE ...] [FLAGS]

{verbs}

Start here:
  flops-fit train model=mlp dataset=toy
  flops-fit plan 'budgets=[1e15,1e16]'
  flops-fit VERB --help

Shell completion: eval "$(flops-fit -sc install=bash)"
"""


def verb_help(verb: str) -> str:
    """The verb's `hydra.help.template`, filled in here: Hydra takes half a second over it."""
    from omegaconf import OmegaConf

    template = OmegaConf.load(config_folder() / f"{verb}.yaml").hydra.help.template
    defaults = OmegaConf.load(config_folder() / "base.yaml").defaults
    chosen = [name for entry in defaults if isinstance(entry, Mapping) for name in entry]
    groups = [name.removeprefix("optional ") for name in chosen if "override" not in name]
    return Template(template).substitute(APP_CONFIG_GROUPS="\n".join(map(options_line, groups)))


def options_line(group: str) -> str:
    """The group's options, shipped and the user's own."""
    paths = [path for folder in config_folders() for path in folder.glob(f"{group}/*.yaml")]
    return f"  {group}: {', '.join(sorted({path.stem for path in paths})) or 'yours'}"


def verb_in(words: Sequence[str]) -> str:
    """The verb among the words, else what stands in its place."""
    plain = [word for word in words if not word.startswith("-")]
    return next((word for word in plain if word in VERBS), plain[0] if plain else words[0])


def unknown_verb(verb: str) -> int:
    close = difflib.get_close_matches(verb, VERBS, n=1)
    guess = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(VERBS)}"
    say(f"error: no command {verb!r}: {guess} (flops-fit --help lists them)")
    return USAGE


def run_verb(verb: str, words: Sequence[str]) -> int:
    """Compose the verb's config with Hydra and call its function with plain values."""
    import hydra
    from omegaconf import OmegaConf

    from flops_fit.cli.schema import register_schemas

    register_schemas()
    make_importable(Path.cwd())
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed
    sys.argv = ["flops-fit", *for_hydra(verb, words)]
    codes: list[int] = []

    def call(config: Any) -> None:
        from flops_fit.cli import verbs

        try:
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            codes.append(getattr(verbs, verb)(values))
        except Exception as error:  # whatever it is, the user gets a message and an exit code
            codes.append(report_error(error))

    decorate = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb)
    try:
        decorate(call)()
    except Exception as error:  # of Hydra itself, before a verb is called
        return report_error(error)
    if len(codes) > 1:
        from flops_fit.cli import verbs

        verbs.print_variants()
    return max(codes, default=OK)


def for_hydra(verb: str, words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them: flags first, lists in brackets, the user's configs found."""
    flags, overrides = split_flags(words)
    overrides = [with_quotes(renamed(verb, word), TEXTS) for word in overrides]
    if not {"-m", "--multirun"} & set(flags):
        overrides = [with_quotes(with_brackets(word), TABLE_TEXTS) for word in overrides]
    if Path(USER_CONFIGS).is_dir() and not {"--config-dir", "-cd"} & set(flags):
        flags += ["--config-dir", USER_CONFIGS]
    return [*flags, *overrides]


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and the rest."""
    flags: list[str] = []
    rest: list[str] = []
    takes_value = False
    for word in words:
        is_flag = word.startswith("-")
        (flags if is_flag or takes_value else rest).append(word)
        takes_value = word in VALUE_FLAGS
    return flags, rest


def renamed(verb: str, word: str) -> str:
    """`budget=1e15` of `predict` as `budgets=1e15`."""
    name, equals, value = word.partition("=")
    return f"{RENAMED.get((verb, name), name)}{equals}{value}"


def with_brackets(word: str) -> str:
    """`budgets=1e15,1e16` as `budgets=[1e15,1e16]`."""
    name, equals, value = word.partition("=")
    is_list = name in LISTS and equals and not value.startswith("[")
    return f"{name}=[{value}]" if is_list else word


def with_quotes(word: str, texts: re.Pattern[str]) -> str:
    """`trainer.command=train {size}` as `trainer.command='train {size}'`, if `texts` names it."""
    name, _, value = word.partition("=")
    is_text = texts.fullmatch(name) and value and value[:1] not in ("'", '"')
    quoted = value.replace("'", "\\'")
    return f"{name}='{quoted}'" if is_text and value != "null" else word


def config_folder() -> Path:
    """The shipped configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_folders() -> tuple[Path, Path]:
    """Where configs are looked for: the shipped ones win."""
    return config_folder(), Path(USER_CONFIGS)


def make_importable(folder: Path) -> None:
    """Let `_target_: my_package.MyModel` find a user's package here, in child processes too.

    A console script, unlike `python -m`, does not have the working directory on its path.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])


def report_error(error: Exception) -> int:
    """Say what went wrong: a message for what a user can mend, a traceback for the rest."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

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


def complete(words: Sequence[str]) -> int:
    """Shell completion: Hydra's own, with the verb completed here and cut out of the line."""
    flag, action = words[0], words[1] if len(words) > 1 else "install=bash"
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.lstrip().partition(" ")
    verb, space, rest = rest.lstrip().partition(" ")
    if action.startswith("query=") and not space:
        print(" ".join(name for name in VERBS if name.startswith(verb)))
        return OK
    os.environ["COMP_LINE"] = f"{program} {rest}"
    return run_verb(verb if verb in VERBS else "train", [flag, action])


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr)
