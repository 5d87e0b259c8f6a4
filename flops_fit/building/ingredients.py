"""From the objects that a user brings and the settings to a study's spec, for both faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError
from flops_fit.learning.schedules import WSD, Schedule
from flops_fit.plan.flops import CountedFlops, FlopCount, FormulaFlops
from flops_fit.plan.rules import Rules
from flops_fit.plan.sweep import Sweep
from flops_fit.plan.trunks import SharedTrunks
from flops_fit.settings import BATCH_SIZE, Kind, PlanSettings, StepSettings, SweepSettings, names_of
from flops_fit.store.protocols import Spec
from flops_fit.training.family import LossFunction, ModelFactory, SizeSpec
from flops_fit.training.kernels import KernelPlan
from flops_fit.training.recipe import Metric, OptimizerFactory
from flops_fit.training.spec import StudySpec, sweep_for

CHECKED_SAMPLES = 4
"""Of the check before training where a rule says the batch of each run."""


@dataclass(frozen=True)
class Ingredients:
    """The objects that a study is made of, from a config or from Python.

    `identity` says, as plain values, what ids know of each: model, dataset (its name alone), loss,
    optimizer, schedule and metrics. `sources` maps names to hashes of code, `hints` say where each
    is configured, for error messages.
    """

    factory: ModelFactory
    size: SizeSpec
    dataset: Any
    loss: LossFunction
    optimizer: OptimizerFactory
    schedule: Schedule
    identity: Mapping[str, Any]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    sources: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)


def study_spec(
    brought: Ingredients, settings: SweepSettings, remade: Callable[[], Spec] | None = None
) -> StudySpec:
    """The spec of a study. `remade` makes the same in a worker process; None: it is sent there.

    Raises `ConfigError`, or `PlanError` for a sweep that can't be.
    """
    source = as_source(
        brought.dataset,
        held_out=settings.held_out,
        batch_size=batch_size(settings),
        seed=settings.seed,
        tokens_per_sample=settings.tokens_per_sample,
    )
    knobs = sweep(settings, brought.rules, shared_trunks(settings, brought.schedule))
    return StudySpec(
        factory=brought.factory,
        size=brought.size,
        source=source,
        loss=brought.loss,
        optimizer=brought.optimizer,
        schedule=brought.schedule,
        sweep=sweep_for(knobs, source),
        identity=identity(brought.identity, source.fingerprint, settings),
        flops=flop_count(settings),
        device=settings.device,
        precision=settings.precision,
        held_out_samples=settings.held_out_samples,
        metrics=brought.metrics,
        clip_grad_norm=settings.clip_grad_norm,
        micro_batch_size=settings.micro_batch_size,
        checkpoint_seconds=settings.checkpoint_seconds,
        compile_above=settings.compile_above,
        cuda_graphs=settings.cuda_graphs,
        together=settings.together,
        kernels=kernels(settings.kernels),
        hints=brought.hints,
        settings=settings,
        sources=brought.sources,
        remade=remade,
    )


def identity(
    described: Mapping[str, Any], fingerprint: str, settings: SweepSettings
) -> dict[str, Any]:
    """What of objects and settings a run's id knows: nothing of a setting that is not used.

    The data are told by their content; the rest of what decides stands in the experiment.
    """
    by_name = names_of(SweepSettings, lambda s: s.in_id and s.kind is Kind.DECIDES)
    used = {name: described.get(name, getattr(settings, name)) for name in by_name}
    return {
        **{name: value for name, value in described.items() if name not in by_name},
        "dataset": {"_target_": described["dataset"], "fingerprint": fingerprint},
        **{name: value for name, value in used.items() if value},
    }


def batch_size(settings: SweepSettings) -> int:
    """Samples of a step; where a rule says how many, those of the check before training."""
    if settings.batch_size is not None:
        return settings.batch_size
    return CHECKED_SAMPLES if settings.batch_rule else BATCH_SIZE


def sweep(settings: SweepSettings, rules: Rules, trunks: SharedTrunks | None) -> Sweep:
    """The knobs of the plan. Raises `PlanError` for values that make no sense."""
    sizes = settings.sizes
    return Sweep(
        budgets=settings.budgets,
        batch_size=batch_size(settings),
        sizes=None if sizes is None else tuple(sizes),
        num_sizes=settings.num_sizes,
        ladder=settings.ladder,
        span=settings.span,
        center=tokens_per_param(settings.center),
        min_steps=settings.min_steps,
        max_epochs=settings.max_epochs,
        seed=settings.seed,
        data_seed=settings.data_seed,
        seeds=settings.seeds,
        learning_rate=rules.learning_rate,
        batch_tokens=rules.batch_tokens,
        trunks=trunks,
    )


def shared_trunks(settings: StepSettings, schedule: Schedule) -> SharedTrunks | None:
    """Raises `ConfigError` for schedules whose runs differ from the start."""
    if not settings.share_trunks:
        return None
    if not isinstance(schedule, WSD):
        raise ConfigError(
            "share_trunks=true needs runs that differ only in their end: use schedule=wsd"
        )
    return SharedTrunks(schedule.warmup_fraction, schedule.cooldown_fraction)


def flop_count(settings: PlanSettings) -> FlopCount | None:
    """How C is defined; None leaves it to the model."""
    constant = settings.flops_per_param_per_token
    match settings.flops:
        case None if constant == PlanSettings.flops_per_param_per_token:
            return None
        case None | "formula":
            return FormulaFlops(constant)
        case "counted":
            return CountedFlops()
    raise ConfigError(f"flops is {settings.flops!r}: use formula (C = 6ND) or counted")


def kernels(value: Any) -> KernelPlan | None:
    """The plan that is configured; None leaves it to a trial. Raises `ConfigError`."""
    if value == "auto":
        return None
    if isinstance(value, KernelPlan):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"kernels is {value!r}: use auto, or name them as in "
            "kernels={matmul: default, attention: fused}"
        )
    return KernelPlan.from_json(value)


def tokens_per_param(center: Any) -> float | None:
    """D/N at the centre of the grid; None leaves it to the planner. Raises `ConfigError`."""
    if center in ("auto", None):
        return None
    try:
        return float(center)
    except (TypeError, ValueError):
        raise ConfigError(
            f"center is {center!r}: use auto, or tokens per parameter such as center=20"
        ) from None
