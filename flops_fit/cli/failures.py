"""What a user sees of an error: a message for what can be mended, a traceback for the rest."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

from flops_fit.cli.exit_codes import ERROR, OK
from flops_fit.cli.groups import Folders, choices_of_hydra
from flops_fit.cli.mistakes import column_called, folders_of
from flops_fit.cli.verbs import VERBS
from flops_fit.errors import UserError, printable
from flops_fit.settings import Setting, declared
from flops_fit.signatures import did_you_mean, nearest

LONG_NUMBER = re.compile(r"\d{1000}")
WITHOUT_TORCH = (
    "plan, train and verify need torch, which is not installed: pip install torch "
    "(fit, predict, compare, report and status do without)"
)


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What writing to a full disk, a full quota or a terminal that has gone ends in."""


def drop_stdout() -> None:
    """What is left to be written goes nowhere: the flush at the end must not fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_failure(error: Exception) -> int:
    """Say what went wrong; returns the exit code."""
    if isinstance(error, BrokenPipeError):  # of `flops-fit plan --cfg job | head`
        drop_stdout()
        return OK
    if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
        drop_stdout()
        say(f"error: the output can't be written: {error.strerror}")
        return ERROR
    if isinstance(error, OSError) and error.filename and not isinstance(error, UserError):
        say(
            f"error: can't use {error.filename}: {error.strerror}: choose a folder you can write "
            "to with output_root=FOLDER, or mend its permissions"
        )
    elif isinstance(error, UserError | HydraException | OmegaConfBaseException | YAMLError):
        say(f"error: {explained(error)}")
    elif isinstance(error, ModuleNotFoundError) and error.name == "torch":
        say(f"error: {WITHOUT_TORCH}")
    else:
        traceback.print_exception(error)
        say("error: this is a fault in flops-fit or in a class that the config names, see above")
    return ERROR


def report_composition(error: Exception) -> int:
    """Say why Hydra called no verb, or not to its end; returns the exit code.

    Whatever it raises, its own assertions included, comes of what was asked for.
    """
    told = UserError | HydraException | OmegaConfBaseException | YAMLError | BrokenPipeError
    if isinstance(error, told) or (isinstance(error, OSError) and error.filename):
        return report_failure(error)
    if isinstance(error, UnicodeDecodeError):
        say(f"error: {file_holding(error.object)} is no UTF-8 text: save it as UTF-8")
        return ERROR
    if "set_int_max_str_digits" in f"{error}":
        words = [word for word in sys.argv if LONG_NUMBER.search(word)]
        place = words[0].partition("=")[0] if words else "a config"
        say(f"error: {place} holds a number of thousands of digits: write numbers as 1e21")
        return ERROR
    say(f"error: Hydra came to no end: {type(error).__name__}: {error}{_hint(error)}")
    return ERROR


def file_holding(content: bytes) -> str:
    """The user's config in which these bytes stand."""
    folders = folders_of(sys.argv[1:]).paths[1:]
    files = (file for folder in folders for file in sorted(folder.rglob("*.y*ml")))
    return next((f"{file}" for file in files if content in file.read_bytes()), "a config")


def _hint(error: Exception) -> str:
    match error:
        case ValueError() | AssertionError() if "defaults" in str(error) or not str(error):
            return (
                " (a `defaults` list takes names of configs, [group: name, ..]: quote one that "
                "YAML reads as a value, such as on, no or 1e3)"
            )
    return ""


def explained(error: BaseException) -> str:
    """What was got, what was expected and what to do, where Hydra's own words would not say."""
    message = str(error).split("\nConfig search path")[0].strip()
    cause = error.__cause__ or error.__context__
    match error:
        case MarkedYAMLError():
            return yaml_fault(error)
        case OverrideParseException():
            return unreadable(error.override)
        case InterpolationKeyError(full_key=str() as key):
            return not_to_be_read(key, message, error.parent_node)
        case InterpolationToMissingValueError(full_key=str() as key):
            source = message.splitlines()[0].rpartition(": ")[2]
            return f"{source} must be given, {key} is read from it: {source}=VALUE"
        case MissingMandatoryValue(full_key=str() as key):
            return f"{key} must be given: {key}=VALUE"
    match cause if isinstance(error, HydraException) else error:
        case ValidationError(full_key=str() as key, value=value):
            return wrong_type(key, value)
        case (ConfigKeyError() | ConfigAttributeError()) as missing if missing.parent_node:
            return no_such_key(message, missing)
    for pattern, sentence in SENTENCES:
        if found := re.search(pattern, message, re.DOTALL):
            return sentence(found)
    if error.__cause__ and not isinstance(error, UserError) and f"{error.__cause__}" not in message:
        message += f"\n{error.__cause__}"
    return message


def yaml_fault(error: MarkedYAMLError) -> str:
    """Where a file is no YAML, and why."""
    mark = error.problem_mark or error.context_mark
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a config"
    return f"{where}: this is no YAML: {' '.join(filter(None, (error.context, error.problem)))}"


def unreadable(word: str) -> str:
    """A word that Hydra's grammar does not take."""
    name, equals, value = word.partition("=")
    setting = setting_called(name)
    if setting and setting.unit:
        return f"can't read {word}: numbers{of_unit(setting)} are written 1e9, lists [1e9,3e9]"
    quoted = f"\"{name}='{value}'\"" if equals else "NAME=VALUE"
    return (
        f"can't read {word}: brackets come in pairs, commas between values; plain text that has "
        f"any of these takes quotes within quotes: {quoted}"
    )


def of_unit(setting: Setting) -> str:
    return f" of {setting.unit}" if setting.unit else ""


def not_to_be_read(key: str, message: str, node: Any) -> str:
    """A value of the composed config's `node` that is taken from a key which is not there."""
    found = re.search(r"Interpolation key '([^']*)'", message)
    source = found[1] if found else "another key"
    head, _, name = source.partition(".")
    group = key.partition(".")[0]
    choices, ways = choices_of_hydra(), [f"set {key}=VALUE"]
    if group in choices and head in choices and group != head:
        folders = Folders.of_hydra()
        having = [f"{head}={option}" for option in folders.with_key(head, name)]
        keys = node._get_root().get(head) or ()
        fitting = [f"{group}={option}" for option in folders.fed_by(group, head, keys)
                   if option != choices[group]]  # fmt: skip
        for others, one in ((having, group), (fitting, head)):
            if others:
                ways.insert(0, f"with {one}={choices[one]} choose {' or '.join(others)}")
    return f"{key} is read from {source}, which is not there: {', or '.join(ways)}"


def wrong_type(key: str, value: object) -> str:
    """A value that the schema refuses: one of the few that it checks."""
    setting = setting_called(key)
    about = f" ({setting.about})" if setting else ""
    kind = "one name or plain text"
    if setting and setting.type is bool:
        kind = "true or false"
    if setting and is_dataclass(setting.type):
        kind = f"names with values: {key}.{fields(setting.type)[0].name}=VALUE"
    got = "null" if value is None else repr(value)
    return f"{key} is {got}: give {kind}{about}"


def no_such_key(message: str, cause: Any) -> str:
    """A key that is in none of the configs, on the command line or in a file."""
    key, known = str(cause.full_key), [str(name) for name in cause.parent_node]
    is_column = key.startswith("columns.")
    close = column_called(str(cause.key)) if is_column else nearest(str(cause.key), known)
    meant = f"{key.rpartition('.')[0]}.{close}".lstrip(".") if close else ""
    guess = f"did you mean {meant}? " if meant else ""
    if place := re.match("In '([^']*)'", message):
        return f"{place[1]}.yaml sets {key}, which is no setting: {guess}" + (
            "" if guess else "flops-fit VERB --help lists them"
        )
    names = ", ".join(name for name in known if name[:1] != "_") if "." in key else "--help's"
    word = re.search(r"use \+(.*)", message)
    plus = (
        f"; an argument that is in no config takes a plus: +{word[1]}"
        if word and not is_column
        else ""
    )
    return f"there is no {key}: {guess}There are {names}{plus}"


def missing_option(found: re.Match[str]) -> str:
    """Hydra's list of options as a sentence."""
    place, group, option = found["place"], found["group"], found["option"]
    options = [line.strip() for line in found[0].splitlines() if line.startswith("\t")]
    where = "" if place in ("base", *VERBS) else f"{place}.yaml: "
    there_are = f"there are {', '.join(options)}" if options else "there is none"
    return f"{where}{group}={option}: {did_you_mean(option, options)}{there_are}"


def several_values(found: re.Match[str]) -> str:
    name, _, values = found["word"].partition("=")
    as_list = f"; one list takes brackets: '{name}=[{values}]'" if "." in name else ""
    return f"{name} is given several values, {values}: -m makes a sweep for each{as_list}"


def setting_called(name: str) -> Setting | None:
    """The setting of any verb."""
    settings = (s for verb in VERBS.values() for s in declared(verb.settings))
    return next((s for s in settings if s.name == name), None)


SENTENCES = (
    (
        r"resolving interpolation: \"Environment variable '(?P<name>[^']*)' not found\"\n"
        r"\s*full_key: (?P<key>\S*)",
        lambda found: (
            f"{found['key']} is read from the environment variable {found['name']}, which is not "
            f"set: export {found['name']}=VALUE, or set {found['key']}=VALUE"
        ),
    ),
    (
        r"In '(?P<place>[^']*)': Could not find '(?P<group>[^']*)/(?P<option>[^'/]*)'.*",
        missing_option,
    ),
    (r"Ambiguous value for argument '(?P<word>[^\n]*)'\n", several_values),
    (
        r"An item is already at '[^']*'\.\nEither remove \+ prefix: '(?P<word>[^\n]*)'",
        lambda found: f"write {found['word']} without the +: it is in the config already",
    ),
)
"""What Hydra says, and our sentence for it."""


def say(text: str) -> None:
    """A line on stderr, without the console, which help and checks of words need not."""
    print(printable(text), file=sys.stderr)
