"""The optimal run as an experiment config: one YAML that `flops-fit train experiment=...` takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flops_fit.answers.optimal_run import Rules
from flops_fit.building.node import Part
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Experiment, Plan, short_number

GROUPS = ("model", "dataset", "loss", "optimizer", "schedule")
"""Choices that the config replaces by the very nodes that the study was trained with, so that it
needs no other file."""

LEFT_OUT = frozenset(
    {"budgets", "sizes", "num_sizes", "span", "center", "seeds"}  # what is asked for here
    | {"device", "workers", "threads", "retry", "fail_fast", "checkpoint_seconds"}  # the machine
    | {"fit", "draws", "target", "study", "output_root", "json"}  # the answer
)
"""Settings of a study that its optimal run does not take over."""

DEFAULT_ROOT = "outputs"

PINNED = ("held_out_samples", "precision")
"""What the study's first training decided, without which the losses could not be compared."""


@dataclass(frozen=True)
class OptimalConfig:
    """An experiment of the study `study`, to be trained as a study of its own."""

    prediction: Prediction
    experiment: Experiment
    plan: Plan
    pinned: Mapping[str, Any]

    @property
    def name(self) -> str:
        budget = f"{self.prediction.budget:.6g}".replace("e+", "e")
        return f"{self.plan.study}-{budget}"

    @property
    def study(self) -> str:
        return f"{self.plan.study}-optimum"

    def write(self, folder: Path, output_root: str) -> Path:
        """Write it under `folder`, which `command` names; returns its path."""
        path = folder / "experiment" / f"{self.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(self.command(folder, output_root)), encoding="utf-8")
        return path

    def command(self, folder: Path, output_root: str) -> str:
        """What trains it, from the folder in which the study was trained."""
        words = ["flops-fit", "train", "--config-dir", str(folder), f"experiment={self.name}"]
        words += [f"output_root={output_root}"] if output_root != DEFAULT_ROOT else []
        return shlex.join(words)

    def text(self, command: str) -> str:
        """The file."""
        p = self.prediction
        head = [
            "# @package _global_",
            f"# The best run at {p.budget:.4g} FLOPs by the law of {self.plan.study} ({p.method}): "
            f"N = {short_number(p.num_params)},",
            f"# D = {short_number(p.num_tokens)}, loss {p.loss:.4f}.",
            f"# {self}.",
            f"#   {command}",
        ]
        return "\n".join(head) + "\n" + OmegaConf.to_yaml(OmegaConf.create(self.node()))

    @property
    def learning_rate(self) -> float | None:
        """At the peak, by the study's rule or its optimizer; None where neither says."""
        settings = self.plan.settings
        optimizer = None if settings.get("trainer") else settings.get("optimizer")
        return self.experiment.learning_rate or (optimizer or {}).get("lr")

    def __str__(self) -> str:
        e, rate = self.experiment, self.learning_rate
        return (
            f"closest size: {e.size.name} {e.size.label} (N = {short_number(e.num_params)}), "
            f"{e.num_steps:,} steps of {e.batch_size:,} samples"
            + ("" if rate is None else f", learning rate {rate:.3g}")
        )

    def to_json(self) -> dict[str, Any]:
        e = self.experiment
        return {
            "name": self.name,
            "size": {"name": e.size.name, "value": e.size.value},
            "num_params": e.num_params,
            "num_tokens": e.num_tokens,
            "num_steps": e.num_steps,
            "batch_size": e.batch_size,
            "learning_rate": self.learning_rate,
        }

    def node(self) -> dict[str, Any]:
        """The config as plain values."""
        settings = self.plan.settings
        replaced = [name for name in GROUPS if settings.get(name)]
        kept = {name: value for name, value in settings.items() if name not in LEFT_OUT}
        pinned = {name: self.pinned[name] for name in PINNED if name in self.pinned}
        return {
            "defaults": [{f"override /{name}": None} for name in ("recipe", *replaced)],
            "study": self.study,
            "budgets": [self.prediction.budget],
            "sizes": [self.experiment.size.value],
            "num_sizes": 1,
            **kept,
            **pinned,
        }


def rules_of(settings: Mapping[str, Any]) -> Rules:
    """The rules for batch and learning rate that a study was trained with."""
    return Rules(_built("batch_rule", settings), _built("learning_rate_rule", settings))


def _built(name: str, settings: Mapping[str, Any]) -> Any:
    node = settings.get(name)
    return Part(name, node, "plan.json").build() if node else None
