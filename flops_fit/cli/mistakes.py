"""Words of a command line that can't mean what they say: found before Hydra sees them, which would
take some of them in silence and answer others in its own terms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from flops_fit.cli.groups import Folders, Group, groups_of
from flops_fit.cli.verbs import VERBS, Verb
from flops_fit.cli.words import (
    DASHES,
    NOTHING,
    NUMBERS,
    TABLE_TEXTS,
    TEXTS,
    VALUE_FLAGS,
    renamed,
    split_at_commas,
    split_flags,
    user_configs,
    value_of_flag,
)
from flops_fit.errors import ConfigError, UserError
from flops_fit.settings import names_of
from flops_fit.settings.declaration import declared
from flops_fit.signatures import did_you_mean, nearest

FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p"),
    *("--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp"),
    *("--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)
"""Hydra's own."""

OVERRIDE = re.compile(
    r"(?P<sign>\+\+|\+|~)?(?P<key>[^=@]+)(?P<package>@[^=]*)?(=(?P<value>.*))?", re.DOTALL
)
"""A word as Hydra reads it."""

CHOICES = {
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(
        ("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    ),
}
"""What a flag's value may be."""

QUOTES = "“”„‘’«»"
"""Quotes of typography, which shells take for letters."""

TYPED_DASH = re.compile(rf"(^|[\[,(eE])[{DASHES}][\d.]")
"""A dash of typography in the place of a minus."""

THOUSANDS = re.compile(r"\[?\d{1,3}(,000)+\]?")
"""A number with commas, which part a list."""

NO_NAMES = re.compile(r"(null|true|false|[-+]?(nan|inf)|[-+]?[\d.]+(e[-+]?\d+)?)", re.IGNORECASE)
"""What Hydra takes for a value and never for the name of a config."""

NAMES_ELSEWHERE = {
    "learning_rate": "optimizer.lr",
    "max_lr": "optimizer.lr",
    "wd": "optimizer.weight_decay",
    "epochs": "max_epochs",
    "batch": "batch_size",
    "bs": "batch_size",
    "output_dir": "output_root",
    "out": "output_root",
    "name": "study",
    "grad_clip": "clip_grad_norm",
    "max_grad_norm": "clip_grad_norm",
    "gpus": "workers",
    "jobs": "workers",
    "dtype": "precision",
    "bootstrap": "draws",
    "table": "runs",
    "file": "runs",
    "data": "dataset",
}
"""What other tools, and the Python face, call our settings."""

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
"""Of files that may be meant by a word without a name."""


class UsageError(UserError):
    """A word that is neither a setting with its value nor a flag."""


def check_words(verb: Verb, words: Sequence[str]) -> None:
    """Raises `UsageError` or `ConfigError` for the first word that can't mean anything."""
    flags, overrides = split_flags(words)
    known = Known(verb, groups_of(verb.name), folders_of(words))
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if word in flags and word.startswith(("-", *DASHES)):
            known.check_flag(word, after)
    check_blanks(overrides)
    has_other_configs = value_of_flag(flags, "--config-path", "-cp", "--config-name", "-cn")
    if not has_other_configs and not any("hydra.searchpath" in word for word in overrides):
        for word in overrides:
            known.check(renamed(verb, word), overrides)


def folders_of(words: Sequence[str]) -> Folders:
    """Where the configs of a command stand."""
    flags, _ = split_flags(words)
    return Folders.of_user(value_of_flag(flags, "--config-dir", "-cd") or user_configs())


def unread_configs(verb: Verb, words: Sequence[str]) -> list[str]:
    """A warning for each of the user's files that has the name of a shipped one."""
    return folders_of(words).unread(verb.name, [*groups_of(verb.name)])


def check_blanks(words: Sequence[str]) -> None:
    """Raises `UsageError` where the shell has parted at its blanks what is one word."""
    for i, word in enumerate(words):
        before, after = ([*words[:i]][-1:], [*words[i + 1 :]][:1])
        if word.startswith("="):
            raise UsageError(
                f"write {''.join([*before, word, *after])} without blanks around the ="
            )
        if word.endswith("=") and after and "=" not in after[0]:
            raise UsageError(f"write {word}{after[0]} without a blank after the =")
        name, _, value = word.lstrip("+").partition("=")
        if TEXTS.fullmatch(name) or TABLE_TEXTS.fullmatch(name) or value[:1] in ("'", '"'):
            continue
        if (depth := _open_brackets(value)) > 0:
            rest = [*words[i:]]
            ends = [n for n in range(2, len(rest) + 1) if _open_brackets(" ".join(rest[:n])) == 0]
            whole = " ".join(rest[: ends[0]]) if ends else word + "]" * depth
            raise UsageError(
                f"{word} ends inside its brackets, as shells part words at blanks: quote it whole, "
                f"'{whole}'"
            )


def check_typography(word: str) -> None:
    """Raises `UsageError` for characters that look like those that are meant."""
    name, _, value = word.partition("=")
    if TEXTS.fullmatch(name) or TABLE_TEXTS.fullmatch(name):
        return
    if quote := next((c for c in word if c in QUOTES), None):
        raise UsageError(f"{word} holds a quote of typography ({quote}): type ' or \" in its place")
    if TYPED_DASH.search(value):
        raise UsageError(f"{word} holds a dash of typography in the place of a minus: type -")
    if name == "budgets" and THOUSANDS.fullmatch(value):
        number = value.strip("[]").replace(",", "")
        raise UsageError(f"{word}: commas part a list: write budgets={number} or {float(number):g}")


def _open_brackets(text: str) -> int:
    return sum(text.count(c) for c in "[{(") - sum(text.count(c) for c in "]})")


@dataclass(frozen=True)
class Known:
    """What words can name: a verb's settings, its groups and the user's own."""

    verb: Verb
    groups: Mapping[str, Group]
    folders: Folders

    @property
    def settings(self) -> tuple[str, ...]:
        return names_of(self.verb.settings, lambda setting: True)

    @property
    def heads(self) -> list[str]:
        """What may stand before the first dot."""
        return list(dict.fromkeys((*self.settings, *self.groups)))

    @property
    def help(self) -> str:
        return f"flops-fit {self.verb.name} --help lists what there is"

    def check_flag(self, word: str, after: str) -> None:
        """Raises `UsageError` where there is no such flag."""
        name, _, value = word.partition("=")
        if word[0] in DASHES:
            plain = word.lstrip(f"-{DASHES}")
            flag = f"{'-' if len(plain) == 1 else '--'}{plain}"
            raise UsageError(
                f"{word} begins with a dash of typography (U+{ord(word[0]):04X}): write {flag}"
            )
        if name in FLAGS or sum(flag.startswith(name) for flag in FLAGS if name[:2] == "--") == 1:
            self.check_flag_value(name, value or after, is_given="=" in word)
            return
        meant = self.meant(name.lstrip("-").replace("-", "_"))
        if meant and (value or name.startswith("--")):
            given = value or (after if "=" not in after and after[:1] != "-" else "") or "VALUE"
            raise UsageError(f"{name} is no flag: settings are written NAME=VALUE: {meant}={given}")
        guess = did_you_mean(name, FLAGS)
        raise UsageError(f"there is no flag {name}: {guess}{self.help}")

    def check_flag_value(self, name: str, value: str, *, is_given: bool) -> None:
        """Raises `UsageError` for a flag whose value is missing or none of its choices."""
        if name in CHOICES and value not in CHOICES[name] and (value or name in ("--cfg", "-c")):
            raise UsageError(f"{name} {value or 'VALUE'}: give one of {', '.join(CHOICES[name])}")
        if name in VALUE_FLAGS and name not in CHOICES and (not value or value[:1] == "-"):
            raise UsageError(f"{name} takes a value: {name} VALUE")
        if name not in VALUE_FLAGS and name in FLAGS and is_given:
            raise UsageError(f"{name} takes no value: write {name}")

    def check(self, word: str, words: Sequence[str]) -> None:
        """Raises `UsageError` or `ConfigError` where the word means nothing among the words."""
        check_typography(word)
        parts = OVERRIDE.fullmatch(word)
        if parts is None or (parts["value"] is None and parts["sign"] != "~"):
            raise UsageError(self.without_value(word))
        sign, key, value = parts["sign"] or "", parts["key"], parts["value"] or ""
        if key.partition(".")[0].partition("/")[0] == "hydra":
            return
        if self.is_group(key) and not value.startswith("{"):
            self.check_group(sign, key, parts["package"] or "", value)
        elif key.partition(".")[0] not in self.heads:
            if not self.is_variable(key, sign, words):
                raise ConfigError(self.unknown(word, key, value))
        elif key == "study":
            check_study(value)
        else:
            self.check_nested(key, value)

    def is_group(self, key: str) -> bool:
        """Whether Hydra takes the word for a choice among configs."""
        own = any((folder / key).is_dir() for folder in self.folders.paths[1:])
        return key in self.groups or "/" in key or (own and key not in self.settings)

    def check_group(self, sign: str, group: str, package: str, value: str) -> None:
        if not self.folders.has_group(group):
            raise ConfigError(f"there is no config group {group}: {self.help}")
        if sign == "~":
            return
        if group in self.groups and sign and not package:
            raise ConfigError(
                f"write {group}={value} without the {sign}: {group} is chosen already"
            )
        if group not in self.groups and not sign and not package and "/" not in group:
            raise ConfigError(
                f"{group} is a config group of yours, which {self.verb.name} does not begin with: "
                f"add it with +{group}={value}"
            )
        if "(" in value or value.startswith("${"):
            return
        options = split_at_commas(value.removeprefix("[").removesuffix("]"))
        if value.startswith("[") and group in self.groups and not self.takes_several(group):
            each = ",".join(options)
            raise ConfigError(
                f"{group}={value}: there is one {group} in a sweep; -m {group}={each} makes a "
                "sweep for each"
            )
        for option in options:
            self.check_option(group, option.strip(" '\""), is_quoted=option[:1] in ("'", '"'))

    def takes_several(self, group: str) -> bool:
        """Whether configs of this group add to each other, as those of whole experiments do."""
        return group in ("metrics", "experiment", "budget")

    def check_option(self, group: str, option: str, *, is_quoted: bool) -> None:
        must_be = group in self.groups and not self.groups[group].is_optional
        if option in NOTHING and not must_be:
            return
        file = self.folders.file(group, option)
        if option and file and NO_NAMES.fullmatch(option) and not is_quoted:
            raise ConfigError(
                f"{file} has a name that is read as a value: call it my_{option}.yaml, say, and "
                f"choose it with {group}=my_{option}"
            )
        if option in NOTHING:
            options = ", ".join(self.folders.options(group))
            raise ConfigError(f"{group}={option}: there must be one: {options}")
        self.folders.check_option(group, option)

    def is_variable(self, key: str, sign: str, words: Sequence[str]) -> bool:
        """Whether the key is not ours but read in another place, as ${key}."""
        read = f"${{{key.partition('.')[0]}"
        return bool(sign) and any(read in text for text in (*words, *self.folders.texts()))

    def check_nested(self, key: str, value: str) -> None:
        """Raises `ConfigError` for a part that a setting with parts does not have."""
        head, _, name = key.partition(".")
        setting = next((s for s in declared(self.verb.settings) if s.name == head), None)
        if setting is None or not name or not is_dataclass(setting.type):
            return
        names = [field.name for field in fields(setting.type)]
        if name not in names:
            meant = column_called(name) if head == "columns" else nearest(name, names)
            guess = f"did you mean {head}.{meant}={value}? " if meant else ""
            raise ConfigError(f"there is no {key}: {guess}There are {', '.join(names)}")

    def unknown(self, word: str, key: str, value: str) -> str:
        """A sentence on a name that nothing reads."""
        meant = self.meant(key)
        guess = f"did you mean {meant}{f'={value}' if value else ''}? " if meant else ""
        return f"{self.verb.name} has no setting {key!r} ({word}): {guess}{self.help}"

    def meant(self, key: str) -> str | None:
        """The setting or group that may be meant, with what comes after its dot."""
        head, dot, rest = key.partition(".")
        plain = head.casefold().replace("-", "_")
        if plain in self.heads:
            return f"{plain}{dot}{rest}"
        if not dot:
            elsewhere = NAMES_ELSEWHERE.get(plain)
            if elsewhere and elsewhere.partition(".")[0] in self.heads:
                return elsewhere
            inner = self.folders.groups_with_key(
                [group for group in self.groups if group in self.settings], plain
            )
            if inner:
                return f"{inner[0]}.{plain}"
        close = nearest(plain, self.heads)
        return f"{close}{dot}{rest}" if close else None

    def without_value(self, word: str) -> str:
        """A sentence on a word without `=`."""
        verb = self.verb.name
        if word in VERBS:
            return f"{verb} and {word} are two commands: run one after the other"
        if word in self.heads:
            return f"{word} stands without a value: {word}=VALUE ({self.help})"
        guess = self.meant_by_value(word)
        meant = f"did you mean flops-fit {verb} {guess}? " if guess else ""
        return f"{word!r} is no setting with its value: {meant}{self.help}"

    def meant_by_value(self, word: str) -> str | None:
        """NAME=WORD for the setting that such a value is for."""
        if "runs" in self.settings and (word.endswith(TABLES) or Path(word).is_file()):
            return f"runs={word}"
        if NUMBERS.fullmatch(word) and {"budgets", "target"} & set(self.settings):
            return f"budget={word}"
        having = [group for group in self.groups if self.folders.file(group, word)]
        if having:
            return f"{having[0]}={word}"
        if "studies" in self.settings:
            return "studies=ONE,OTHER"
        if "model" not in self.settings and Path("outputs", word).is_dir():
            return f"study={word}"
        return None


def check_study(value: str) -> None:
    """Raises `ConfigError` for a name that is no folder under output_root."""
    name = value.strip("'\"")
    if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(
            f"study={value}: give the name of a folder under output_root, which may itself be "
            "elsewhere: study=first output_root=../sweeps"
        )


def column_called(name: str) -> str | None:
    """Our name of the column that tables call so."""
    from flops_fit.tables.columns import COMMON_NAMES  # numpy comes along

    plain = name.casefold()
    called = {n.casefold(): ours for ours, names in COMMON_NAMES.items() for n in (ours, *names)}
    return called.get(plain) or called.get(nearest(plain, called) or "")
