"""Compose a verb's config with Hydra and call its function with typed settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from flops_fit.cli.exit_codes import OK
from flops_fit.cli.failures import report_failure
from flops_fit.cli.jobs import VARIANTS, exit_codes, job_folder, keep_exit_code
from flops_fit.cli.schema import register_schemas
from flops_fit.cli.verbs import Verb
from flops_fit.files import shipped_configs
from flops_fit.settings import from_plain


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
            decorate(Job(verb))()
        except Exception as error:  # of Hydra itself, before a verb is called
            return report_failure(error)
        if any(folder.glob(VARIANTS)):
            from flops_fit.cli.variants import print_variants  # numpy, which help needs not

            print_variants(folder)
        return max(exit_codes(folder), default=OK)


class Job:
    """What Hydra calls with the composed config; can be sent to another process."""

    def __init__(self, verb: Verb) -> None:
        self.verb = verb
        self.__name__ = verb.name

    def __call__(self, config: Any) -> None:
        try:
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            settings: Any = from_plain(self.verb.settings, values)
            code = self.verb.function()(settings, origins())
        except Exception as error:  # whatever it is, the user gets a message and an exit code
            code = report_failure(error)
        keep_exit_code(code)


def origins() -> dict[str, str]:
    """The file that was chosen for each config group."""
    runtime = HydraConfig.get().runtime
    folders = [Path(s.path) for s in runtime.config_sources if s.schema == "file" and s.path]
    chosen = {}
    for group, option in runtime.choices.items():
        files = [folder / group / f"{option}.yaml" for folder in folders]
        chosen[group] = str(next((f for f in files if f.exists()), f"{group}={option}"))
    return chosen


def make_importable(folder: Path) -> None:
    """Let `_target_: my_package.MyModel` find a user's package here, in child processes too.

    A console script, unlike `python -m`, does not have the working directory on its path.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
