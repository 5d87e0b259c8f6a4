"""Trunks: the constant phase of a size's training, shared by its runs at several budgets.

With warm-up, constant rate and cooldown (`wsd`) two runs of one size differ only from the shorter
one's cooldown on (Hägele et al. 2024, section 4). Each run then begins where the next shorter one
branched off, and a sweep trains little more than its longest run at each size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from flops_fit.errors import PlanError
from flops_fit.plan.experiment import Experiment

Chain = tuple[Experiment, ...]
"""Experiments to train one after the other, shortest first: those of one trunk, or a single one."""


@dataclass(frozen=True)
class SharedTrunks:
    """Warm-up, as a share of a trunk's shortest run, and cooldown, as a share of each run."""

    warmup_fraction: float
    cooldown_fraction: float


def with_phases(experiments: Sequence[Experiment], trunks: SharedTrunks) -> list[Experiment]:
    """The experiments with warm-up and cooldown in steps, so that those of a size share a trunk.

    Raises `PlanError` where batch size or learning rate differ between budgets.
    """
    by_size: dict[tuple[int, int], list[Experiment]] = {}
    for e in experiments:
        by_size.setdefault((e.num_params, e.seed), []).append(e)
    for sharing in by_size.values():
        _check_same_steps(sharing)
    shortest = {key: min(e.num_steps for e in sharing) for key, sharing in by_size.items()}
    return [
        replace(
            e,
            warmup_steps=round(trunks.warmup_fraction * shortest[e.num_params, e.seed]),
            cooldown_steps=round(trunks.cooldown_fraction * e.num_steps),
        )
        for e in experiments
    ]


def chains(experiments: Iterable[Experiment]) -> list[Chain]:
    """The experiments grouped by trunk, each group in the order in which it is to be trained."""
    by_trunk: dict[str, list[Experiment]] = {}
    for e in experiments:
        by_trunk.setdefault(e.trunk or e.id, []).append(e)
    return [tuple(sorted(group, key=lambda e: e.num_steps)) for group in by_trunk.values()]


def steps_to_train(chain: Chain) -> list[tuple[Experiment, int]]:
    """Each experiment of a chain with its steps from where the one before it branched off."""
    inherited = [0, *(longer.inherits(shorter) for shorter, longer in pairwise(chain))]
    return [(e, e.num_steps - steps) for e, steps in zip(chain, inherited, strict=True)]


def flops_to_train(chain: Chain) -> float:
    """What is really spent on a chain from its start."""
    return math.fsum(steps * e.flops_per_step for e, steps in steps_to_train(chain))


def _check_same_steps(experiments: Sequence[Experiment]) -> None:
    for what in ("batch_size", "learning_rate"):
        values = sorted({getattr(e, what) for e in experiments})
        if len(values) > 1:
            raise PlanError(
                f"share_trunks: {what} of {experiments[0].size.label} is {values[0]:g} at one "
                f"budget and {values[-1]:g} at another: use a rule in N only, or "
                "share_trunks=false"
            )
