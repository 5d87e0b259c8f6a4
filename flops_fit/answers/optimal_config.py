"""The optimal run as an experiment config: one YAML that `flops-fit train experiment=...` takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flops_fit.building.node import foreign_targets
from flops_fit.files import within, write_bytes
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.rules import Rules, stored_rule
from flops_fit.settings import (
    Kind,
    PartSettings,
    PlaceSettings,
    SweepSettings,
    declared,
    names_of,
    plain,
)
from flops_fit.shown import short_flops, short_number

GROUPS = ("model", "dataset", "loss", "optimizer", "schedule")
"""Choices that the config replaces by the very nodes that the study was trained with, so that it
needs no other file."""

COMPARABLE = names_of(SweepSettings, lambda s: s.kind is Kind.PINNED and s.in_id)
"""Settings that the study's first training decided, without which losses can't be compared."""

KEPT = (*names_of(SweepSettings, lambda s: s.kind is Kind.DECIDES), *COMPARABLE, "kernels")
"""Settings that the optimal run takes over from the study: all that its result depends on."""


@dataclass(frozen=True)
class OptimalConfig:
    """An experiment of the study `study`, to be trained as a study of its own.

    `frozen` is the file of the prediction that the run puts to the test.
    """

    prediction: Prediction
    experiment: Experiment
    plan: Plan
    pinned: Mapping[str, Any]
    frozen: str

    @property
    def name(self) -> str:
        budget = f"{self.prediction.budget:.6g}".replace("e+", "e")
        return f"{self.plan.study}-{budget}"

    @property
    def study(self) -> str:
        return f"{self.plan.study}-optimum"

    def write(self, folder: Path, output_root: str) -> Path:
        """Write it under `folder`, which `command` names; returns its path."""
        path = within(folder, "experiment", *f"{self.name}.yaml".split("/"))
        write_bytes(path, self.text(self.command(folder, output_root)).encode())
        return path

    def command(self, folder: Path, output_root: str) -> str:
        """What trains it, from the folder in which the study was trained."""
        words = ["flops-fit", "train", "--config-dir", str(folder), f"experiment={self.name}"]
        default = PlaceSettings.output_root
        words += [f"output_root={output_root}"] if output_root != default else []
        return shlex.join(words)

    def text(self, command: str) -> str:
        """The file."""
        p = self.prediction
        head = [
            "# @package _global_",
            f"# The best run at {short_flops(p.budget)} FLOPs by the law of {self.plan.study} "
            f"({p.method}): N = {short_number(p.num_params)},",
            f"# D = {short_number(p.num_tokens)}, loss {p.loss:.4f}.",
            f"# {self}.",
            f"#   {command}",
        ]
        node = OmegaConf.create(escaped(self.node()))
        return "\n".join(head) + "\n" + OmegaConf.to_yaml(node)

    @property
    def warnings(self) -> tuple[str, ...]:
        """That training runs code which plan.json names and flops-fit has not brought along."""
        settings = self.plan.settings
        parts = () if settings is None else declared(PartSettings)
        nodes = {part.name: getattr(settings, part.name) for part in parts}
        foreign = sorted(set(foreign_targets(nodes)))
        if settings is not None and settings.trainer:
            foreign.append(f"the command {settings.trainer.get('command')!r}")
        if not foreign:
            return ()
        named = ", ".join(foreign)
        return (f"training it runs {named}, as plan.json says: look first if it is not yours",)

    @property
    def learning_rate(self) -> float | None:
        """At the peak, by the study's rule or its optimizer; None where neither says."""
        settings = self.plan.settings
        optimizer = None if settings is None or settings.trainer else settings.optimizer
        rate = self.experiment.learning_rate or (optimizer or {}).get("lr")
        return rate if isinstance(rate, int | float) else None

    @property
    def can_be_written(self) -> bool:
        """Whether the study was trained from a config, so that a config can say what it is."""
        settings = self.plan.settings
        return settings is not None and bool(settings.model or settings.trainer)

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
        settings, size = self.plan.settings, self.experiment.size.value
        assert settings is not None
        values = plain(settings)
        replaced = [name for name in GROUPS if values[name]]
        kept = {name: values[name] for name in KEPT}
        pinned = {name: self.pinned[name] for name in COMPARABLE if name in self.pinned}
        return {
            "defaults": [{f"override /{name}": None} for name in ("recipe", *replaced)],
            "study": self.study,
            "budgets": [self.prediction.budget],
            "sizes": [size if isinstance(size, int | float) else dict(size)],
            "num_sizes": 1,
            "predicted": self.frozen,
            "min_steps": settings.min_steps,
            "max_epochs": settings.max_epochs,
            "micro_batch_size": settings.micro_batch_size,
            **kept,
            **pinned,
        }


def escaped(value: Any) -> Any:
    """The value with all text as it is: a ${..} in plan.json is no interpolation."""
    match value:
        case str():
            return value.replace("${", "\\${")
        case Mapping():
            return {key: escaped(item) for key, item in value.items()}
        case list() | tuple():
            return [escaped(item) for item in value]
    return value


def rules_of(settings: SweepSettings | None) -> Rules:
    """The rules for batch and learning rate that a study was trained with.

    Raises `StudyError` for rules that are no classes of ours: plan.json runs no code.
    """
    if settings is None:
        return Rules()
    return Rules(
        learning_rate=stored_rule(settings.learning_rate_rule, "learning_rate_rule"),
        batch_tokens=stored_rule(settings.batch_rule, "batch_rule"),
    )
