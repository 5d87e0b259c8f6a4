"""From the settings of a config, with its nodes of users' classes, to a study's spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flops_fit.building.ingredients import Ingredients, flop_count, study_spec, sweep
from flops_fit.building.node import FLOPS, SIZE, Origins, Part
from flops_fit.command import CommandData, CommandSpec, CommandTrainer
from flops_fit.command.listed_sizes import listed_family
from flops_fit.errors import ConfigError
from flops_fit.plan.rules import Rules
from flops_fit.plan.sweep import DataShape
from flops_fit.settings import MachineSettings, PartSettings, SweepSettings, names_of
from flops_fit.settings.sweep import LogSettings, Node
from flops_fit.signatures import first_name, source_hashes, with_targets
from flops_fit.store.protocols import Executor, Logger, MeasuredFamily, Spec
from flops_fit.training.family import SizeSpec, family_without_data
from flops_fit.training.spec import default_flops

OURS = ("flops_fit.", "torch.")
"""Packages whose code is told by their version."""


@dataclass(frozen=True)
class ConfiguredModel:
    """Builds the configured model for one size, all nested parts anew each time."""

    part: Part

    def __call__(self, **size: Any) -> Any:
        return self.part.instantiate(size)

    def __str__(self) -> str:
        return f"{self.part.origin}: {self.part.target}"

    @property
    def __signature__(self) -> inspect.Signature:
        """What is left to be given, as `inspect.signature` shows it; whole shapes may give anew."""
        signature = inspect.signature(self.part.callable())
        shapes = (self.part.node.get(SIZE) or {}).get("values") or ()
        scaled = {name for shape in shapes if isinstance(shape, Mapping) for name in shape}
        scaled |= {(self.part.node.get(SIZE) or {}).get("name")}
        given = self.part.arguments.keys() - {name.partition(".")[0] for name in scaled if name}
        left = [p for p in signature.parameters.values() if p.name not in given]
        return signature.replace(parameters=left)


def build_spec(settings: SweepSettings, origins: Origins) -> Spec:
    """What the configured study is made of; its plan keeps what decides results, and neither
    logger, executor nor a process's rank.

    Raises `ConfigError`, or `PlanError` for a sweep that can't be.
    """
    of_a_call: dict[str, Any] = {
        "logger": None,
        "executor": None,
        "dry_run": False,
        "rank": None,
        "of": None,
    }
    settings = replace(settings, **of_a_call)
    if settings.trainer is not None:
        return build_command_spec(settings, settings.trainer, origins)
    model = part_of(settings, "model", origins)
    flops = model.node.get(FLOPS) if settings.flops is None else settings.flops
    remade = partial(build_spec, settings, dict(origins))
    spec = study_spec(ingredients(settings, origins), replace(settings, flops=flops), remade)
    return replace(spec, settings=settings)


def logger_of(settings: LogSettings, origins: Origins) -> Logger | None:
    """The logger that is configured. Raises `ConfigError` where its package is not installed."""
    if settings.logger is None:
        return None
    logger: Logger = Part("logger", settings.logger, origins.get("logger", "logger")).build()
    return logger


def executor_of(settings: MachineSettings, origins: Origins) -> Executor | None:
    """What trains in place of this machine. Raises `ConfigError`."""
    if settings.executor is None:
        return None
    executor: Executor = Part(
        "executor", settings.executor, origins.get("executor", "executor")
    ).build()
    return executor


def ingredients(settings: SweepSettings, origins: Origins) -> Ingredients:
    """The objects that the config names."""
    names = ("model", "dataset", "loss", "optimizer", "schedule")
    parts = {name: part_of(settings, name, origins) for name in names}
    for part in parts.values():
        part.check_arguments()
    model = parts["model"]
    metrics = {
        name: Part(f"metrics.{name}", node, origins.get("metrics", "metrics"))
        for name, node in settings.metrics.items()
    }
    return Ingredients(
        factory=ConfiguredModel(model),
        size=size_spec(model),
        dataset=parts["dataset"].build(),
        loss=parts["loss"].build(),
        optimizer=parts["optimizer"].build(),
        schedule=parts["schedule"].build(),
        identity={
            **{name: described(part) for name, part in parts.items()},
            "dataset": first_name(parts["dataset"].target),
            "metrics": {name: described(part) for name, part in metrics.items()},
        },
        metrics={name: part.build() for name, part in metrics.items()},
        rules=rules(settings, origins),
        sources=sources(parts.values()),
        hints={part.group: hint(part) for part in (*parts.values(), *metrics.values())},
    )


def part_of(settings: PartSettings, name: str, origins: Origins) -> Part:
    """The class or function that one of the settings names."""
    return Part(name, getattr(settings, name), origins.get(name, name))


def rules(settings: PartSettings, origins: Origins) -> Rules:
    """The rules that are configured."""
    rate, batch = settings.learning_rate_rule, settings.batch_rule
    return Rules(
        learning_rate=part_of(settings, "learning_rate_rule", origins).build() if rate else None,
        batch_tokens=part_of(settings, "batch_rule", origins).build() if batch else None,
    )


def described(part: Part) -> dict[str, Any]:
    """What an id knows of a part: its first name and its arguments."""
    node: dict[str, Any] = with_targets({"_target_": part.target, **part.arguments}, first_name)
    return node


def sources(parts: Iterable[Part]) -> dict[str, str]:
    """Target -> hash of its code; ours is known by its version."""
    return source_hashes({p.target: p.callable() for p in parts if not p.target.startswith(OURS)})


def size_spec(model: Part) -> SizeSpec:
    """The reserved key `size` of a model's YAML."""
    node = model.node.get(SIZE)
    example = "`size: {name: width, min: 8, max: 4096}`"
    if not isinstance(node, Mapping) or not (node.get("name") or node.get("values")):
        raise ConfigError(
            f"{model.origin}: the model has no size to scale: add the argument that sets it, "
            f"such as {example}"
        )
    values = node.get("values")
    known = {**node, "name": node.get("name") or "shape"}
    if values is not None:
        known["values"] = tuple(values)
    try:
        return SizeSpec(**known)
    except TypeError as error:
        raise ConfigError(
            f"{model.origin}: size is {dict(node)} ({error}): use {example}"
        ) from error


def hint(part: Part) -> str:
    """Where the part is configured, and its plain values."""
    values = {k: v for k, v in part.arguments.items() if v is not None and not isinstance(v, dict)}
    keys = ", ".join(f"{part.group}.{name}={value}" for name, value in values.items())
    return f"{part.origin}{f' sets {keys}' if keys else ''}"


def build_command_spec(settings: SweepSettings, node: Node, origins: Origins) -> CommandSpec:
    """The study of a command, with the sizes that the trainer's config lists, else the model's.

    Raises `ConfigError`, or `PlanError` for a sweep that can't be.
    """
    for_the_plan = names_of(CommandData, lambda setting: True)
    own = {name: value for name, value in node.items() if name not in for_the_plan}
    part = Part("trainer", own, origins.get("trainer", "trainer"))
    trainer = part.build()
    if not isinstance(trainer, CommandTrainer):
        raise ConfigError(f"{part.origin}: {part.target} trains by no command")
    check_without_our_training(settings, origins)
    listed = CommandData(**{name: node[name] for name in for_the_plan if name in node})
    family, code, notes = command_family(settings, listed, origins)
    if settings.flops == "counted" and not family.declares_flops:
        raise ConfigError(
            "flops=counted: nothing is counted without the training itself: give flops_per_token "
            "in each of trainer.sizes, or the model a method of this name"
        )
    return CommandSpec(
        trainer=trainer,
        family=family,
        data=command_data(settings, listed),
        sweep=sweep(settings, rules(settings, origins), trunks=None),
        flops=flop_count(settings) or default_flops(family),
        identity={"trainer": {"_target_": part.target, **trainer.identity}},
        notes=notes,
        settings=settings,
        sources=code,
    )


def check_without_our_training(settings: SweepSettings, origins: Origins) -> None:
    """Raises `ConfigError` for settings that only our own training loop could follow."""
    recipe = origins.get("recipe", "")
    if recipe.endswith(".yaml"):
        raise ConfigError(
            f"{recipe} would set budgets and batch, which it knows for a model and a dataset only: "
            f"begin {origins['trainer']} with `defaults: [command]`"
        )
    if settings.share_trunks:
        raise ConfigError("share_trunks=true is for our own training loop: leave it out")


def command_data(settings: SweepSettings, listed: CommandData) -> DataShape:
    """What the trainer's config says of the data."""
    tokens_per_sample = settings.tokens_per_sample or 1
    unique = listed.unique_tokens
    unique_samples = None if unique is None else int(unique // tokens_per_sample)
    return DataShape(tokens_per_sample, unique_samples)


def command_family(
    settings: SweepSettings, listed: CommandData, origins: Origins
) -> tuple[MeasuredFamily, dict[str, str], tuple[str, ...]]:
    """Where a command's sizes come from, with the hashes of a model's code and notes on it."""
    if listed.sizes is not None:
        return listed_family(listed.sizes, origins.get("trainer", "trainer")), {}, ()
    model = part_of(settings, "model", origins)
    model.check_arguments()
    tokens_per_sample = settings.tokens_per_sample or 1
    family = family_without_data(ConfiguredModel(model), size_spec(model), tokens_per_sample)
    note = (
        f"num_params are those of {model.target} ({model.origin}), which the command is taken to "
        "train; or list its own in trainer.sizes"
    )
    return family, sources([model]), (note,)
