"""The words of a command line as Hydra takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from flops_fit.cli.groups import USER_CONFIGS, groups_of
from flops_fit.cli.verbs import Verb
from flops_fit.settings import names_of
from flops_fit.settings.plain import is_tuple

VALUE_FLAGS = frozenset(
    {"--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp", "--cfg", "-c"}
    | {"--package", "-p", "--info", "-i", "--experimental-rerun", "--shell-completion", "-sc"}
)
"""Hydra's flags that take the next word as their value."""

TEXTS = re.compile(r"trainer\.(command|loss_file|loss_pattern)")
"""Settings whose braces and blanks are plain text, which Hydra would read as its own."""

TABLE_TEXTS = re.compile(r"columns\.\w+|runs|where|pivot")
"""Settings that are plain text outside a multirun, where commas part their variants."""

NUMBERS = re.compile(r"\[?\s*[-+.\d][^a-zA-Z]*([eE][-+\d].*)?\]?")
"""A value of `budget=` that is no option of the group of this name."""

DASHES = "‐‑‒–—―−"
"""Dashes of typography, which documents and chats put in the place of the one on the keyboard."""

NOTHING = ("", "null")
"""Values by which a group is chosen to have no config."""


def for_hydra(verb: Verb, words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them: flags first, lists in brackets, the user's configs found."""
    flags, overrides = split_flags(words)
    overrides = [with_quotes(with_home(renamed(verb, word)), TEXTS) for word in overrides]
    optional = [group.name for group in groups_of(verb.name).values() if group.is_optional]
    overrides = [without_choice(optional, word) for word in overrides]
    if is_multirun(flags):
        overrides = [with_brackets_each(verb, word) for word in overrides]
    else:
        overrides = [with_quotes(with_brackets(verb, word), TABLE_TEXTS) for word in overrides]
    if user_configs().is_dir() and not value_of_flag(flags, "--config-dir", "-cd"):
        flags += ["--config-dir", USER_CONFIGS]
    return [*flags, *overrides]


def user_configs() -> Path:
    """The folder of configs that is found without being named."""
    return Path(USER_CONFIGS)


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and the rest."""
    flags: list[str] = []
    rest: list[str] = []
    takes_value = False
    for word in words:
        is_flag = word.startswith(("-", *DASHES))
        (flags if is_flag or takes_value else rest).append(word)
        takes_value = word in VALUE_FLAGS
    return flags, rest


def is_multirun(flags: Sequence[str]) -> bool:
    return bool({"-m", "--multirun"} & set(flags))


def value_of_flag(flags: Sequence[str], *names: str) -> str | None:
    """What is given with a flag, as `--flag value` or `--flag=value`."""
    for flag, after in zip(flags, [*flags[1:], ""], strict=False):
        name, equals, value = flag.partition("=")
        if name in names:
            return value if equals else after
    return None


def renamed(verb: Verb, word: str) -> str:
    """`budget=1e15`, which to Hydra is a group of configs, as the setting that is meant."""
    name, equals, value = word.partition("=")
    settings = names_of(verb.settings, lambda setting: True)
    meant = next((setting for setting in ("target", "budgets") if setting in settings), None)
    is_group = "budget" in groups_of(verb.name)
    is_budget = name == "budget" and (not is_group or not value or NUMBERS.fullmatch(value))
    return f"{meant}{equals}{value}" if meant and equals and is_budget else word


def without_choice(optional: Sequence[str], word: str) -> str:
    """`recipe=null`, which Hydra does not take, as `~recipe`, which it does."""
    name, equals, value = word.partition("=")
    return f"~{name}" if equals and value in NOTHING and name in optional else word


def with_brackets(verb: Verb, word: str) -> str:
    """`budgets=1e15,1e16` as `budgets=[1e15,1e16]`."""
    name, equals, value = word.partition("=")
    is_bare = name in lists(verb) and equals and not value.startswith(("[", "null", "${"))
    return f"{name}=[{value}]" if is_bare else word


def with_brackets_each(verb: Verb, word: str) -> str:
    """`budgets=1e15,1e16`, a sweep for each, as `budgets=[1e15],[1e16]`."""
    name, equals, value = word.partition("=")
    if name not in lists(verb) or not equals or "(" in value:
        return word
    values = [v if v.startswith(("[", "null", "${")) else f"[{v}]" for v in split_at_commas(value)]
    return f"{name}={','.join(values)}"


def lists(verb: Verb) -> tuple[str, ...]:
    """Names of the settings whose values are lists."""
    return names_of(verb.settings, lambda setting: is_tuple(setting.type))


def split_at_commas(value: str) -> list[str]:
    """The parts between the commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in value:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def with_home(word: str) -> str:
    """`dataset.path=~/ids.bin` with the folder that ~ stands for, which shells put at the start of
    a word only."""
    name, _, value = word.partition("=")
    return f"{name}={Path(value).expanduser()}" if value.startswith("~/") else word


def with_quotes(word: str, texts: re.Pattern[str]) -> str:
    """`trainer.command=train {size}` as `trainer.command='train {size}'`, if `texts` names it."""
    name, _, value = word.partition("=")
    is_quoted = value[:1] in ("'", '"') and value.find(value[0], 1) == len(value) - 1
    is_text = texts.fullmatch(name) and value and not is_quoted
    quoted = value.replace("'", "\\'")
    return f"{name}='{quoted}'" if is_text and value != "null" else word
