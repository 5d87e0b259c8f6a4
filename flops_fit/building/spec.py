"""From a composed config to the objects of a study."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.building.node import FLOPS, SIZE, Node, Part, with_targets
from flops_fit.command import FOR_THE_PLAN, CommandSpec, CommandTrainer
from flops_fit.command.listed_sizes import listed_family
from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError
from flops_fit.learning.schedules import WSD, Schedule
from flops_fit.plan.flops import CountedFlops, FlopCount, FormulaFlops
from flops_fit.plan.rules import Rule
from flops_fit.plan.sweep import DataShape, Sweep
from flops_fit.plan.trunks import SharedTrunks
from flops_fit.signatures import first_name, source_hashes
from flops_fit.store.protocols import MeasuredFamily, Spec
from flops_fit.training.family import SizeSpec, family_without_data
from flops_fit.training.kernels import KernelPlan
from flops_fit.training.spec import StudySpec, default_flops, step_identity, sweep_for

OURS = ("flops_fit.", "torch.")
"""Packages whose code is told by their version."""

GROUPS = ("model", "dataset", "loss", "optimizer", "schedule")


@dataclass(frozen=True)
class ModelFactory:
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
        given = self.part.arguments.keys() - scaled
        left = [p for p in signature.parameters.values() if p.name not in given]
        return signature.replace(parameters=left)


def build_spec(config: Node, origins: Mapping[str, str]) -> Spec:
    """What the config's study is made of: see `build_study` and `build_command_study`."""
    build = build_command_study if config["trainer"] else build_study
    return build(config, origins)


def build_command_study(config: Node, origins: Mapping[str, str]) -> CommandSpec:
    """The study of a command, with the sizes that the trainer's config lists, else the model's.

    Raises `ConfigError`, or `PlanError` for a sweep that can't be.
    """
    node = {k: v for k, v in config["trainer"].items() if k not in FOR_THE_PLAN}
    part = Part("trainer", node, origins.get("trainer", "trainer"))
    trainer = part.build()
    if not isinstance(trainer, CommandTrainer):
        raise ConfigError(f"{part.origin}: {part.target} trains by no command")
    check_without_our_training(config, origins)
    family, sources, notes = command_family(config, origins)
    if config["flops"] == "counted" and not family.declares_flops:
        raise ConfigError(
            "flops=counted: nothing is counted without the training itself: give flops_per_token "
            "in each of trainer.sizes, or the model a method of this name"
        )
    return CommandSpec(
        trainer=trainer,
        family=family,
        data=command_data(config),
        sweep=sweep(config, rules(config, origins), trunks=None),
        flops=flop_count(config["flops"], config) or default_flops(family),
        identity={"trainer": {"_target_": part.target, **trainer.identity}},
        notes=notes,
        settings=config,
        sources=sources,
    )


def check_without_our_training(config: Node, origins: Mapping[str, str]) -> None:
    """Raises `ConfigError` for settings that only our own training loop could follow."""
    recipe = origins.get("recipe", "")
    if recipe.endswith(".yaml"):
        raise ConfigError(
            f"{recipe} would set budgets and batch, which it knows for a model and a dataset only: "
            f"begin {origins['trainer']} with `defaults: [command]`"
        )
    if config["share_trunks"]:
        raise ConfigError("share_trunks=true is for our own training loop: leave it out")


def command_data(config: Node) -> DataShape:
    """What the trainer's config says of the data."""
    tokens_per_sample = config["tokens_per_sample"] or 1
    unique_tokens = config["trainer"].get("unique_tokens")
    unique_samples = None if unique_tokens is None else int(unique_tokens // tokens_per_sample)
    return DataShape(tokens_per_sample, unique_samples)


def command_family(
    config: Node, origins: Mapping[str, str]
) -> tuple[MeasuredFamily, dict[str, str], tuple[str, ...]]:
    """Where a command's sizes come from, with the hashes of a model's code and notes on it."""
    listed = config["trainer"].get("sizes")
    if listed is not None:
        return listed_family(listed, origins.get("trainer", "trainer")), {}, ()
    model = Part("model", config["model"], origins.get("model", "model"))
    model.check_arguments()
    tokens_per_sample = config["tokens_per_sample"] or 1
    family = family_without_data(ModelFactory(model), size_spec(model), tokens_per_sample)
    note = (
        f"num_params are those of {model.target} ({model.origin}), which the command is taken to "
        "train; or list its own in trainer.sizes"
    )
    return family, sources([model]), (note,)


def build_study(config: Node, origins: Mapping[str, str]) -> StudySpec:
    """The objects that the config names.

    `origins` maps each of `GROUPS` to the file chosen for it, for error messages.
    Raises `ConfigError`, or `PlanError` for a sweep that can't be.
    """
    parts = {group: Part(group, config[group], origins.get(group, group)) for group in GROUPS}
    for part in parts.values():
        part.check_arguments()
    dataset = parts["dataset"].build()
    source = as_source(
        dataset,
        held_out=config["held_out"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        tokens_per_sample=config["tokens_per_sample"],
    )
    model = parts["model"]
    schedule = parts["schedule"].build()
    metrics = {
        name: Part(f"metrics.{name}", node, origins.get("metrics", "metrics"))
        for name, node in config["metrics"].items()
    }
    knobs = sweep(config, rules(config, origins), shared_trunks(config, schedule))
    return StudySpec(
        factory=ModelFactory(model),
        size=size_spec(model),
        source=source,
        loss=parts["loss"].build(),
        optimizer=parts["optimizer"].build(),
        schedule=schedule,
        sweep=sweep_for(knobs, source),
        flops=flop_count(config["flops"] or model.node.get(FLOPS), config),
        device=config["device"],
        precision=config["precision"],
        held_out_samples=config["held_out_samples"],
        metrics={name: part.build() for name, part in metrics.items()},
        clip_grad_norm=config["clip_grad_norm"],
        micro_batch_size=config["micro_batch_size"],
        checkpoint_seconds=config["checkpoint_seconds"],
        compile_above=config["compile_above"],
        kernels=kernels(config["kernels"]),
        identity={
            **{group: _described(part) for group, part in parts.items() if group != "dataset"},
            "dataset": {"_target_": parts["dataset"].target, "fingerprint": source.fingerprint},
            **step_identity(
                config["clip_grad_norm"], {name: _described(part) for name, part in metrics.items()}
            ),
        },
        hints={part.group: _hint(part) for part in (*parts.values(), *metrics.values())},
        settings=config,
        sources=sources(parts.values()),
    )


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


def rules(config: Node, origins: Mapping[str, str]) -> dict[str, Rule]:
    """The rules that are configured, under the names that `Sweep` has for them."""
    configured = {
        "learning_rate": ("learning_rate_rule", config["learning_rate_rule"]),
        "batch_tokens": ("batch_rule", config["batch_rule"]),
    }
    return {
        name: Part(group, node, origins.get(group, group)).build()
        for name, (group, node) in configured.items()
        if node
    }


def shared_trunks(config: Node, schedule: Schedule) -> SharedTrunks | None:
    """Raises `ConfigError` for schedules whose runs differ from the start."""
    if not config["share_trunks"]:
        return None
    if not isinstance(schedule, WSD):
        raise ConfigError(
            "share_trunks=true needs runs that differ only in their end: use schedule=wsd"
        )
    return SharedTrunks(schedule.warmup_fraction, schedule.cooldown_fraction)


def sweep(config: Node, rules: Mapping[str, Rule], trunks: SharedTrunks | None) -> Sweep:
    """The knobs of the plan. Raises `PlanError` for values that make no sense."""
    sizes = config["sizes"]
    return Sweep(
        budgets=tuple(config["budgets"]),
        batch_size=config["batch_size"],
        sizes=None if sizes is None else tuple(sizes),
        num_sizes=config["num_sizes"],
        span=config["span"],
        center=_center(config["center"]),
        min_steps=config["min_steps"],
        max_epochs=config["max_epochs"],
        seed=config["seed"],
        data_seed=config["data_seed"],
        seeds=config["seeds"],
        trunks=trunks,
        **rules,
    )


def kernels(value: Any) -> KernelPlan | None:
    """The plan that is configured; None leaves it to a trial. Raises `ConfigError`."""
    if value == "auto":
        return None
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"kernels is {value!r}: use auto, or name them as in "
            "kernels={matmul: default, attention: fused}"
        )
    return KernelPlan.from_json(value)


def _center(value: Any) -> float | None:
    if value in ("auto", None):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"center is {value!r}: use auto, or tokens per parameter such as center=20"
        ) from None


def flop_count(name: str | None, config: Node) -> FlopCount | None:
    """How C is defined; None leaves it to the model."""
    constant = config["flops_per_param_per_token"]
    match name:
        case None if constant == FormulaFlops().constant:
            return None
        case None | "formula":
            return FormulaFlops(constant)
        case "counted":
            return CountedFlops()
    raise ConfigError(f"flops is {name!r}: use formula (C = 6ND) or counted")


def _described(part: Part) -> dict[str, Any]:
    node: dict[str, Any] = with_targets({"_target_": part.target, **part.arguments}, first_name)
    return node


def _hint(part: Part) -> str:
    """Where the part is configured, and its plain values."""
    values = {k: v for k, v in part.arguments.items() if v is not None and not isinstance(v, dict)}
    keys = ", ".join(f"{part.group}.{name}={value}" for name, value in values.items())
    return f"{part.origin}{f' sets {keys}' if keys else ''}"
