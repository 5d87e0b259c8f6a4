"""The words of a command line as Hydra takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from flops_fit.cli.verbs import Verb
from flops_fit.settings import names_of
from flops_fit.settings.plain import is_tuple

VALUE_FLAGS = frozenset(
    {"--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp", "--cfg", "-c"}
    | {"--package", "-p", "--info", "-i", "--experimental-rerun", "--shell-completion", "-sc"}
)
"""Hydra's flags that take the next word as their value."""

TEXTS = re.compile(r"trainer\.(command|loss_file)")
"""Settings whose braces and blanks are plain text, which Hydra would read as its own."""

TABLE_TEXTS = re.compile(r"columns\.\w+|runs|where")
"""Settings that are plain text outside a multirun, where commas part their variants."""

USER_CONFIGS = "conf"
"""A user's own configs in the working directory, found without being named."""

NUMBERS = re.compile(r"\[?\s*[-+.\d][^a-zA-Z]*([eE][-+\d].*)?\]?")
"""A value of `budget=` that is no option of the group of this name."""


def for_hydra(verb: Verb, words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them: flags first, lists in brackets, the user's configs found."""
    flags, overrides = split_flags(words)
    overrides = [with_quotes(renamed(verb, word), TEXTS) for word in overrides]
    if not {"-m", "--multirun"} & set(flags):
        overrides = [with_quotes(with_brackets(verb, word), TABLE_TEXTS) for word in overrides]
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


def renamed(verb: Verb, word: str) -> str:
    """`budget=1e15`, which to Hydra is a group of configs, as the setting that is meant."""
    name, equals, value = word.partition("=")
    if name != "budget" or not (value == "" or NUMBERS.fullmatch(value)):
        return word
    target = "target" if "target" in names_of(verb.settings, lambda s: True) else "budgets"
    return f"{target}{equals}{value}"


def with_brackets(verb: Verb, word: str) -> str:
    """`budgets=1e15,1e16` as `budgets=[1e15,1e16]`."""
    name, equals, value = word.partition("=")
    lists = names_of(verb.settings, lambda setting: is_tuple(setting.type))
    is_list = name in lists and equals and not value.startswith("[")
    return f"{name}=[{value}]" if is_list else word


def with_quotes(word: str, texts: re.Pattern[str]) -> str:
    """`trainer.command=train {size}` as `trainer.command='train {size}'`, if `texts` names it."""
    name, _, value = word.partition("=")
    is_text = texts.fullmatch(name) and value and value[:1] not in ("'", '"')
    quoted = value.replace("'", "\\'")
    return f"{name}='{quoted}'" if is_text and value != "null" else word
