"""The commands: what each is about and can be told. Imports nothing heavy: help is instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """A command: the function of its name in the module of its name, and its settings."""

    name: str
    about: str
    settings_class: str  # of flops_fit.settings
    builds: bool = False  # model and data, for which torch is loaded: seconds

    @property
    def settings(self) -> Any:
        """The class of what it can be told."""
        return getattr(import_module("flops_fit.settings"), self.settings_class)

    def function(self) -> Callable[[Any, Mapping[str, str]], int]:
        """(settings, config group -> its file) -> exit code."""
        found: Callable[[Any, Mapping[str, str]], int]
        found = getattr(import_module(f"flops_fit.cli.{self.name}"), self.name)
        return found


_ALL = (
    Verb(
        "plan", "which sizes to train on how many tokens, at each budget", "PlanningSettings", True
    ),
    Verb(
        "train", "plan, train what is missing, fit the law, print the answer", "SweepSettings", True
    ),
    Verb("fit", "fit scaling laws to a study's runs, or to any table of runs", "FitSettings"),
    Verb("predict", "best size, tokens and loss at a budget, with intervals", "PredictSettings"),
    Verb(
        "verify",
        "train the best size for a budget: predicted against measured",
        "VerifySettings",
        True,
    ),
    Verb("compare", "two laws: loss at equal compute, compute for equal loss", "CompareSettings"),
    Verb("report", "figures, tables and runs.csv of a study", "ReportSettings"),
    Verb("status", "what of a study is completed, running, failed and missing", "StatusSettings"),
    Verb("cancel", "end the jobs that train a study on a cluster", "CancelSettings"),
)

VERBS: Mapping[str, Verb] = {verb.name: verb for verb in _ALL}
