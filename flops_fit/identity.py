"""Ids: a hash of everything that decides a run's result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from flops_fit.planning import SCHEMA_VERSION, Experiment, Plan, short_number


def with_ids(plan: Plan, identity: Mapping[str, Any]) -> Plan:
    """The plan with an id for every experiment; `identity` is all else that decides its result."""
    return replace(
        plan,
        experiments=tuple(replace(e, id=_experiment_id(e, identity)) for e in plan.experiments),
    )


def _experiment_id(experiment: Experiment, identity: Mapping[str, Any]) -> str:
    """A readable prefix and a hash, such as C1e15-N1.2M-0123456789ab."""
    deciding = {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "size": asdict(experiment.size),
        "budget": experiment.budget,
        "num_steps": experiment.num_steps,
        "batch_size": experiment.batch_size,
        "flops_per_token": experiment.flops_per_token,
        "seed": experiment.seed,
    }
    budget = f"{experiment.budget:.6g}".replace("e+", "e")
    return f"C{budget}-N{short_number(experiment.num_params)}-{digest(deciding)}"


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
