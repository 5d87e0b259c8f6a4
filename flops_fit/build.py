"""From a composed config to the objects of a study."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError
from flops_fit.flop_counts import CountedFlops, FlopCount, FormulaFlops
from flops_fit.parts import FLOPS, SIZE, Node, Part
from flops_fit.planning import Sweep
from flops_fit.rules import Rule
from flops_fit.schedules import WSD, Schedule
from flops_fit.signatures import source_hashes
from flops_fit.sizing import SizeSpec
from flops_fit.study import StudySpec, step_identity, sweep_for
from flops_fit.trunks import SharedTrunks

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
        """What is left to be given, as `inspect.signature` shows it."""
        signature = inspect.signature(self.part.callable())
        given = self.part.arguments
        left = [p for p in signature.parameters.values() if p.name not in given]
        return signature.replace(parameters=left)


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
        identity={
            **{group: _described(part) for group, part in parts.items() if group != "dataset"},
            "dataset": {"_target_": parts["dataset"].target, "fingerprint": source.fingerprint},
            **step_identity(
                config["clip_grad_norm"], {name: _described(part) for name, part in metrics.items()}
            ),
        },
        hint=_hint(parts),
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
    groups = {"learning_rate": "learning_rate_rule", "batch_tokens": "batch_rule"}
    return {
        name: Part(group, config[group], origins.get(group, group)).build()
        for name, group in groups.items()
        if config[group]
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
    return {"_target_": part.target, **part.arguments}


def _hint(parts: Mapping[str, Part]) -> str:
    """Where the numbers that must agree are configured."""
    lines = []
    for group in ("model", "dataset"):
        part = parts[group]
        numbers = {k: v for k, v in part.arguments.items() if isinstance(v, int)}
        keys = ", ".join(f"{group}.{name}={value}" for name, value in numbers.items())
        lines.append(f"{part.origin}{f' sets {keys}' if keys else ''}")
    return "\n  " + "\n  ".join(lines)
