"""Ids: a hash of everything that decides a run's result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.versions import ID_VERSION
from flops_fit.shown import short_number


def with_ids(plan: Plan, identity: Mapping[str, Any]) -> Plan:
    """The plan with an id for every experiment; `identity` is all else that decides its result."""
    known = _canonical(identity)
    return replace(plan, experiments=tuple(_with_id(e, known) for e in plan.experiments))


def _with_id(experiment: Experiment, identity: Mapping[str, Any]) -> Experiment:
    """Its id, a readable prefix and a hash such as C1e15-N1.2M-0123456789ab, and its trunk's."""
    e = experiment
    start = {  # what decides the run from its first step on
        "schema_version": ID_VERSION,
        "identity": identity,
        "size": asdict(e.size),
        "batch_size": e.batch_size,
        "flops_per_token": e.flops_per_token,
        "seed": e.seed,
        **_given(data_seed=e.data_seed, learning_rate=e.learning_rate, warmup=e.warmup_steps),
    }
    end = {"budget": e.budget, "num_steps": e.num_steps, **_given(cooldown=e.cooldown_steps)}
    budget = f"{e.budget:.6g}".replace("e+", "e")
    return replace(
        e,
        id=f"C{budget}-N{short_number(e.num_params)}-{digest({**start, **end})}",
        trunk="" if e.cooldown_steps is None else digest(start),
    )


def _given(**settings: float | None) -> dict[str, float]:
    """Those that are set: a setting of a later version leaves older ids as they were."""
    return {name: value for name, value in settings.items() if value is not None}


def digest(value: Any) -> str:
    """Twelve hex digits of the value's JSON; the order of keys doesn't matter, nor 1 or 1.0."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    """The value with whole floats as integers, at any depth."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {key: _canonical(item) for key, item in value.items()}
        case list() | tuple():
            return [_canonical(item) for item in value]
    return value
