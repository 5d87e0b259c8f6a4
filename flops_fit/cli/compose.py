"""Compose a verb's config with Hydra and call its function with typed settings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from flops_fit.cli.exit_codes import OK, USAGE
from flops_fit.cli.failures import report_composition, report_failure
from flops_fit.cli.groups import Folders, choices_of_hydra, groups_of
from flops_fit.cli.jobs import VARIANTS, exit_codes, job_folder, keep_exit_code, leave_in
from flops_fit.cli.schema import register_schemas
from flops_fit.cli.verbs import Verb
from flops_fit.files import shipped_configs, within
from flops_fit.settings import from_plain

RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:")
"""A call in an interpolation, such as ${oc.env:NAME}."""

WHOLE = re.compile(r"[-+]?\d+")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
"""Text that reads as a number."""


def inside(study: str, name: str) -> str:
    """The name, of a folder in the study's. Raises `StudyError` for a link that leads out."""
    within(Path(study), name)
    return name


OmegaConf.register_new_resolver("inside", inside, replace=True)  # in a launcher's processes too


def run_verb(verb: Verb, words: Sequence[str]) -> int:
    """Run the verb with the words as Hydra takes them, once or for each job of a multirun."""
    register_schemas()
    make_importable(Path.cwd())
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed
    sys.argv = ["flops-fit", *words]
    decorate = hydra.main(
        version_base="1.3", config_path=str(shipped_configs()), config_name=verb.name
    )
    with job_folder() as folder:
        try:
            decorate(Job(verb, folder))()
        except SystemExit as end:  # after --hydra-help, or for flags that argparse refuses
            return USAGE if end.code else OK
        except Exception as error:  # of Hydra itself, before a verb is called
            return report_composition(error)
        if any(folder.glob(VARIANTS)):
            from flops_fit.cli.variants import print_variants  # numpy, which help needs not

            print_variants(folder)
        return max(exit_codes(folder), default=OK)


class Job:
    """What Hydra calls with the composed config; can be sent to another process."""

    def __init__(self, verb: Verb, folder: Path) -> None:
        self.verb = verb
        self.folder = folder
        self.__name__ = verb.name

    def __call__(self, config: Any) -> None:
        from flops_fit.report.screen import warnings_said

        leave_in(self.folder)
        with warnings_said():
            keep_exit_code(self.code(config))

    def code(self, config: Any) -> int:
        """The exit code of the verb."""
        from flops_fit.report.documents import only_documents
        from flops_fit.report.screen import say

        try:
            check_choices(self.verb)
            values = with_own_batch(plain_values(config), choices_of_hydra(), Folders.of_hydra())
            settings: Any = from_plain(self.verb.settings, values)
            if self.verb.builds and find_spec("torch"):
                say(f"{settings.output_root}/{settings.study}: building model and data ..")
            with only_documents() if settings.json else nullcontext():
                return int(self.verb.function()(settings, origins()))
        except Exception as error:  # whatever it is, the user gets a message and an exit code
            return report_failure(error)


def values_of(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """What the verb's settings are made of, from words as Hydra takes them, `study` among them:
    for scripts that need a study's parts and run no verb."""
    register_schemas()
    with hydra.initialize_config_dir(str(shipped_configs()), version_base="1.3"):
        config = hydra.compose(verb, [*words], return_hydra_config=True)
    with open_dict(config):
        hydra_config = config.pop("hydra")
    choices, folders = hydra_config.runtime.choices, Folders.of_hydra(hydra_config)
    return with_own_batch(plain_values(config), choices, folders)


def with_own_batch(
    values: dict[str, Any], choices: Mapping[str, str], folders: Folders
) -> dict[str, Any]:
    """The config without the batch rule of its recipe where a batch_size is asked for."""
    if values.get("batch_size") is None or not values.get("batch_rule"):
        return values
    by_itself = f"{choices.get('recipe')}-{choices.get('batch_rule')}"
    file = folders.file("recipe/batch_rule", by_itself)
    is_recipes = file is not None and OmegaConf.load(file) == values["batch_rule"]
    return {**values, "batch_rule": None} if is_recipes else values


def origins() -> dict[str, str]:
    """The file that was chosen for each config group."""
    choices, folders = choices_of_hydra(), Folders.of_hydra()
    return {group: str(folders.file(group, f"{option}") or f"{group}={option}")
            for group, option in choices.items()}  # fmt: skip


def check_choices(verb: Verb) -> None:
    """Raises `ConfigError` for an option that is not there, which Hydra passes over in optional
    groups. Only the recipe that a pair of model and dataset would have by itself may be missing."""
    choices, folders = choices_of_hydra(), Folders.of_hydra()
    for group in groups_of(verb.name).values():
        option = choices.get(group.name)
        by_itself = re.sub(r"\$\{(\w+)\}", lambda m: str(choices.get(m[1])), group.default or "")
        if group.is_optional and isinstance(option, str) and option not in (by_itself, ""):
            folders.check_option(group.name, option)


def plain_values(config: Any) -> Any:
    """The config as plain values, all interpolations resolved. Raises what OmegaConf raises.

    What a resolver gives as text that reads as a number, such as ${oc.env:LR}, is that number.
    """
    OmegaConf.set_readonly(config, False)
    for node, key, number in list(_numbers(config)):
        OmegaConf.update(node, str(key), number)
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def _numbers(node: Any) -> Iterator[tuple[Any, Any, float]]:
    """(node, key, number) of each value of a resolver that reads as a number."""
    texts: Any = OmegaConf.to_container(node, resolve=False)
    keys = [*texts] if isinstance(texts, dict) else range(len(texts))
    for key in keys:
        if OmegaConf.is_missing(node, key):
            continue
        is_text = OmegaConf.is_interpolation(node, key)
        value = node[key]
        if is_text and RESOLVER.search(texts[key]) and isinstance(value, str):
            if NUMBER.fullmatch(value):
                yield node, key, int(value) if WHOLE.fullmatch(value) else float(value)
        elif not is_text and isinstance(value, ListConfig | DictConfig):
            yield from _numbers(value)


def make_importable(folder: Path) -> None:
    """Let `_target_: my_package.MyModel` find a user's package here, in child processes too.

    A console script, unlike `python -m`, does not have the working directory on its path.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
