"""Plan an IsoFLOP sweep: for each budget, which model sizes to train and for how many steps.

Knows nothing of torch: model sizes come measured from a `Family`, so the arithmetic of budgets,
steps and tokens can be read, tested and used on its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from flops_fit.errors import PlanError
from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN, FORWARD_SHARE
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Experiment, ModelSize, Plan, SizeValue
from flops_fit.plan.flops import FlopCount, FormulaFlops
from flops_fit.plan.rules import Rule
from flops_fit.plan.trunks import SharedTrunks, chains, flops_to_train, with_phases
from flops_fit.settings import PlanSettings, StepSettings
from flops_fit.shown import short_flops

COMPUTE_OPTIMAL_TOKENS_PER_PARAM = 20.0
"""Where a grid is centred when nobody knows better (Hoffmann et al. 2022, table 3)."""

COUNTED_WARNING = 1.25
"""Counted and formula FLOPs further apart than this factor are pointed out."""

FEWEST_SIZES = 3
"""Points a parabola needs before its minimum means anything."""

EVALUATION_SHARE = 0.1
"""The final evaluation may cost this share of the cheapest run's training compute."""


class NoSizeLeft(PlanError):
    """A budget at which no size can be trained as asked."""

    def __init__(self, budget: float, reason: str) -> None:
        super().__init__(f"budget {short_flops(budget)} leaves no size to train: {reason}")
        self.budget = budget


class Family(Protocol):
    """A model family that the planner can ask for sizes."""

    def nearest(self, num_params: float) -> ModelSize:
        """The legal size whose N is closest in ratio."""

    def at(self, value: SizeValue) -> ModelSize:
        """The size with this value."""


@dataclass(frozen=True)
class DataShape:
    """What the planner must know of a dataset. `unique_samples` is None where data never ends."""

    tokens_per_sample: float
    unique_samples: int | None


@dataclass(frozen=True)
class Sweep:
    """What to plan. Raises `PlanError` for values that make no sense."""

    budgets: tuple[float, ...]  # FLOPs; none: they are yet to be chosen
    batch_size: int  # samples per step
    sizes: tuple[SizeValue, ...] | None = None
    num_sizes: int = PlanSettings.num_sizes
    span: float = PlanSettings.span  # largest N / centre = centre / smallest N
    center: float | None = None  # tokens per parameter at the centre of the grid
    ladder: bool = PlanSettings.ladder  # sizes are rungs of one ladder for all budgets
    min_steps: int = PlanSettings.min_steps
    max_epochs: float = PlanSettings.max_epochs
    seed: int = StepSettings.seed
    data_seed: int | None = None  # None: as `seed`
    seeds: int = (
        PlanSettings.seeds
    )  # times that each experiment is repeated, with seed, seed + 1 ..
    learning_rate: Rule | None = None  # None: the optimizer's own for all
    batch_tokens: Rule | None = None  # None: batch_size for all
    trunks: SharedTrunks | None = None  # None: every run from its own start

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not math.isfinite(budget) or budget <= 0:
                raise PlanError(
                    f"budget {budget:g} is not a finite positive number of FLOPs: "
                    "give budgets such as budgets=1e15,1e16"
                )
        if len(set(self.budgets)) != len(self.budgets):
            raise PlanError(f"budgets repeat: {list(self.budgets)}: give each once")
        if self.sizes is not None and not self.sizes:
            raise PlanError("sizes is empty: list the sizes to train, or leave it out")
        lowest = {"batch_size": 1, "num_sizes": 1, "min_steps": 1, "seeds": 1, "seed": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise PlanError(f"{name} is {getattr(self, name)}: it must be at least {low}")
        if self.data_seed is not None and self.data_seed < 0:
            raise PlanError(f"data_seed is {self.data_seed}: it must be at least 0")
        if not 1 < self.span < math.inf:
            raise PlanError(
                f"span is {self.span:g}: largest N over centre must be finite and above 1"
            )
        if not 0 < self.max_epochs < math.inf:
            raise PlanError(f"max_epochs is {self.max_epochs:g}: it must be finite and above 0")
        if self.center is not None and not 0 < self.center < math.inf:
            raise PlanError(
                f"center is {self.center:g} tokens per parameter: it must be finite and above 0"
            )


def plan_sweep(
    sweep: Sweep, family: Family, data: DataShape, flops: FlopCount | None = None
) -> Plan:
    """The experiments of `sweep`, with sizes from `family`; they have no ids yet.

    Sizes that can't be trained as asked are left out with a note.
    Raises `NoSizeLeft` where a budget leaves none, and `PlanError` without budgets.
    """
    if not sweep.budgets:
        raise PlanError(
            "no budgets: `flops-fit plan` with the same words proposes some that data and sizes "
            "carry; or give them in FLOPs, such as budgets=1e15,1e16"
        )
    flops = flops or FormulaFlops()
    experiments: list[Experiment] = []
    models: dict[int, ModelSize] = {}
    notes: list[str] = []
    for budget in sorted(sweep.budgets):
        candidates = _models_for(budget, sweep, family, flops)
        planned = [_experiment(budget, m, sweep, data, flops) for m in candidates]
        refused = [e for e in planned if _refusal(e, sweep)]
        kept = [e for e in planned if not _refusal(e, sweep)]
        if not kept:
            raise NoSizeLeft(budget, _first_of([_refusal(e, sweep) or "" for e in refused]))
        notes += _notes_on(budget, sweep, kept, refused)
        experiments += _repeated(kept, sweep)
        models.update((m.num_params, m) for m in candidates)
    if sweep.trunks is not None:
        experiments = with_phases(experiments, sweep.trunks)
    notes += _notes_on_counts(experiments)
    return Plan(tuple(experiments), flops.rule(models.values()), tuple(notes))


def _repeated(experiments: Iterable[Experiment], sweep: Sweep) -> list[Experiment]:
    """Each experiment once for every seed."""
    return [replace(e, seed=e.seed + i) for e in experiments for i in range(sweep.seeds)]


def _models_for(budget: float, sweep: Sweep, family: Family, flops: FlopCount) -> list[ModelSize]:
    if sweep.sizes is not None:
        found = [family.at(value) for value in sweep.sizes]
    else:
        center = center_of(budget, sweep, family, flops)
        found = [family.nearest(num_params) for num_params in _grid(center, sweep)]
    return sorted({m.num_params: m for m in found}.values(), key=lambda m: m.num_params)


def _grid(center: float, sweep: Sweep) -> list[float]:
    """N of the sizes around `center`, evenly spaced in logs over span on both sides.

    Shared trunks, and runs that train together, need the same sizes at several budgets: the rungs
    nearest to the centre of one ladder, which does not depend on the budgets, so that more of them
    can be added later.
    """
    if (sweep.trunks is None and not sweep.ladder) or sweep.num_sizes == 1:
        return [center * ratio for ratio in _ratios(sweep)]
    rung = 2 * math.log(sweep.span) / (sweep.num_sizes - 1)  # in ln N
    middle, half = math.log(center) / rung, (sweep.num_sizes - 1) / 2
    lowest = round(middle - half)
    return [math.exp(rung * (lowest + i)) for i in range(sweep.num_sizes)]


def _ratios(sweep: Sweep) -> list[float]:
    """N over the centre's N, evenly spaced in logs from 1/span to span."""
    if sweep.num_sizes == 1:
        return [1.0]
    last = sweep.num_sizes - 1
    return [sweep.span ** (2 * i / last - 1) for i in range(sweep.num_sizes)]


def center_of(budget: float, sweep: Sweep, family: Family, flops: FlopCount) -> float:
    """N at which the budget buys `center` tokens per parameter: C = flops_per_token(N) center N.

    Found by repetition, since FLOPs per parameter may themselves depend on N, but weakly.
    """
    tokens_per_param = sweep.center or COMPUTE_OPTIMAL_TOKENS_PER_PARAM
    num_params = math.sqrt(budget / (FLOPS_PER_PARAM_PER_TOKEN * tokens_per_param))
    for _ in range(20):
        model = family.nearest(num_params)
        per_param = flops(model) / model.num_params
        previous, num_params = num_params, math.sqrt(budget / (per_param * tokens_per_param))
        if math.isclose(previous, num_params, rel_tol=0.01):
            break
    return num_params


def _experiment(
    budget: float, model: ModelSize, sweep: Sweep, data: DataShape, flops: FlopCount
) -> Experiment:
    per_token = flops(model)
    shape = model.num_params, budget / per_token  # N and D
    batch_size = samples_per_step(
        sweep.batch_size, sweep.batch_tokens, data.tokens_per_sample, *shape
    )
    batch_tokens = round(batch_size * data.tokens_per_sample)
    unique = data.unique_samples
    return Experiment(
        budget=float(budget),
        size=model.size,
        num_params=model.num_params,
        num_params_total=model.num_params_total,
        num_steps=round(budget / (per_token * batch_tokens)),
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        flops_per_token=per_token,
        flops_per_token_counted=model.counted_flops_per_token,
        flops_per_token_formula=FLOPS_PER_PARAM_PER_TOKEN * model.num_params,
        unique_tokens=None if unique is None else round(unique * data.tokens_per_sample),
        seed=sweep.seed,
        data_seed=sweep.data_seed,
        learning_rate=sweep.learning_rate(*shape) if sweep.learning_rate else None,
    )


def samples_per_step(
    batch_size: int,
    rule: Rule | None,
    tokens_per_sample: float,
    num_params: float,
    num_tokens: float,
) -> int:
    """The batch of a run: as set, or whole samples for the tokens that the rule says."""
    if rule is None:
        return batch_size
    return max(1, round(rule(num_params, num_tokens) / tokens_per_sample))


def _refusal(experiment: Experiment, sweep: Sweep) -> str | None:
    """Why this size is not trained, with what to change; None where it is."""
    e = experiment
    if e.num_steps < sweep.min_steps:
        return (
            f"{e.size.name} {e.size.label} gets {e.num_steps:,} steps of {e.batch_tokens:,} "
            f"tokens, fewer than min_steps={sweep.min_steps}: raise the budget or lower batch_size"
        )
    if e.epochs is not None and e.epochs > sweep.max_epochs:
        return (
            f"{e.size.name} {e.size.label} would see its {e.unique_tokens:,} tokens "
            f"{e.epochs:.3g} times, more than max_epochs={sweep.max_epochs:g}: "
            "bring more data, lower the budget or raise max_epochs"
        )
    return None


def _dropped(e: Experiment, sweep: Sweep) -> str:
    """A size that is not trained, and the number that it fails by."""
    if e.num_steps < sweep.min_steps:
        return f"{e.size.name} {e.size.label} (only {e.num_steps:,} steps)"
    return (
        f"{e.size.name} {e.size.label} ({e.epochs or 0.0:.3g} epochs, above {sweep.max_epochs:g})"
    )


def _first_of(reasons: Sequence[str]) -> str:
    more = f" (and {len(reasons) - 1} more sizes)" if len(reasons) > 1 else ""
    return reasons[0] + more


def _notes_on(
    budget: float, sweep: Sweep, kept: Sequence[Experiment], refused: Sequence[Experiment]
) -> list[str]:
    head = f"budget {short_flops(budget)}"
    notes = [f"{head}: dropped {', '.join(_dropped(e, sweep) for e in refused)}"] if refused else []
    asked = sweep.num_sizes if sweep.sizes is None else len(sweep.sizes)
    merged = asked - len(kept) - len(refused)
    if merged > 0:
        sizes = f"{kept[0].size.label} to {kept[-1].size.label}"
        notes.append(
            f"{head}: {asked} sizes asked, {asked - merged} different ones exist around "
            f"its centre ({kept[0].size.name} {sizes}): widen the model's size range, or ask fewer"
        )
    if len(kept) < FEWEST_SIZES and asked > 1:
        notes.append(f"{head} has {len(kept)} sizes: a minimum shows only from {FEWEST_SIZES} on")
    repeated = [e for e in kept if e.epochs is not None and e.epochs > 1]
    if repeated:
        most = max(e.epochs or 0.0 for e in repeated)
        notes.append(
            f"{head}: {len(repeated)} of {len(kept)} sizes repeat the data, up to "
            f"{most:.3g} epochs: their loss is that of repeated tokens"
        )
    return notes


def _notes_on_counts(experiments: Iterable[Experiment]) -> list[str]:
    ratios = [r for e in experiments if (r := e.counted_over_formula) is not None]
    if not ratios or max(*ratios, *(1 / r for r in ratios)) <= COUNTED_WARNING:
        return []
    low, high = f"{min(ratios):.3g}", f"{max(ratios):.3g}"
    times = low if low == high else f"{low} to {high}"
    return [
        f"counted FLOPs are {times} times 6ND: flops=counted plans and fits with the counted "
        "ones, flops=formula with 6ND"
    ]


def held_out_samples(plan: Plan, available: int | None) -> int:
    """Samples to measure every run's final loss on: the same for all of them.

    As many as keep the evaluation within `EVALUATION_SHARE` of the cheapest run's compute,
    whole batches, at least one, and no more than there are.
    """
    batch = max(e.batch_size for e in plan.experiments)
    fewest = min(e.num_steps * e.batch_size for e in plan.experiments) / batch  # steps
    samples = max(1, int(fewest * EVALUATION_SHARE / FORWARD_SHARE)) * batch
    return samples if available is None else min(samples, available)


def note_on_trunks(plan: Plan) -> str:
    """What sharing trunks saves of the plan's compute."""
    groups = chains(plan.experiments)
    spent = math.fsum(map(flops_to_train, groups))
    return (
        f"{len(groups)} trunks for {len(plan)} runs: {short_flops(spent)} FLOPs are trained for "
        f"the {short_flops(plan.total_flops)} that the runs stand for "
        f"({spent / plan.total_flops:.2f} of them)"
    )


def optimum_sweep(sweep: Sweep, prediction: Prediction) -> Sweep:
    """The sweep's one experiment at the predicted optimum."""
    return replace(
        sweep,
        budgets=(prediction.budget,),
        sizes=None,
        num_sizes=1,
        seeds=1,
        center=prediction.tokens_per_param,
    )
