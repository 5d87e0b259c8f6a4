"""The run of a study's own model that comes closest to a prediction, told without building it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from flops_fit.command.listed_sizes import listed_family
from flops_fit.errors import PlanError, StudyError
from flops_fit.laws import Array, FlopRule
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Experiment, ModelSize, Plan, Size, SizeValue
from flops_fit.plan.rules import Rules
from flops_fit.plan.sweep import DataShape, Sweep, plan_sweep
from flops_fit.records import of_type
from flops_fit.settings import PlanSettings, SweepSettings

FAR_OFF = 1.25
"""N of the closest size over the optimal N, either way, from which on it is pointed out."""


def optimal_experiment(plan: Plan, prediction: Prediction, rules: Rules) -> Experiment:
    """The closest size at the predicted budget, with its steps, batch and learning rate.

    Its N is that of the plan's sizes, continued where it is none of them. Raises `PlanError` where
    the study could not train it: too few steps, or too little data.
    """
    settings, like = plan.settings, plan.experiments[0]
    family = KnownSizes.of(plan)
    size = family.nearest(prediction.num_params).size
    sweep = Sweep(
        budgets=(prediction.budget,),
        batch_size=like.batch_size,
        sizes=(size.value,),
        min_steps=PlanSettings.min_steps if settings is None else settings.min_steps,
        max_epochs=PlanSettings.max_epochs if settings is None else settings.max_epochs,
        seed=like.seed,
        data_seed=like.data_seed,
        learning_rate=rules.learning_rate,
        batch_tokens=rules.batch_tokens,
    )
    tokens_per_sample = like.batch_tokens / like.batch_size
    unique = None if like.unique_tokens is None else round(like.unique_tokens / tokens_per_sample)
    data = DataShape(tokens_per_sample, unique)
    return plan_sweep(sweep, family, data, PlannedFlops(plan.flop_rule)).experiments[0]


def note_on_size(experiment: Experiment, prediction: Prediction) -> str | None:
    """A sentence where no size comes close to the optimal one."""
    ratio = experiment.num_params / prediction.num_params
    if 1 / FAR_OFF <= ratio <= FAR_OFF:
        return None
    return (
        f"{experiment.size.name} {experiment.size.label} has {ratio:.3g} times the optimal N: the "
        "sizes that the study knows end there; widen the model's range, or list more sizes"
    )


@dataclass(frozen=True)
class PlannedFlops:
    """FLOPs per token by the rule of a plan: the planner's `FlopCount`."""

    flop_rule: FlopRule

    def __call__(self, model: ModelSize) -> float:
        return float(self.flop_rule(model.num_params))

    def rule(self, models: Iterable[ModelSize]) -> FlopRule:
        return self.flop_rule


@dataclass(frozen=True)
class KnownSizes:
    """The planner's `Family` of the sizes that a plan has measured, and those in between.

    `step` is the distance of legal values, from `lowest` to `highest`; None where only the measured
    sizes are known to exist.
    """

    measured: tuple[ModelSize, ...]
    step: int | None = None
    lowest: float = 1
    highest: float = math.inf

    @classmethod
    def of(cls, plan: Plan) -> KnownSizes:
        listed = _listed(plan.settings)
        measured = listed or _planned(plan)
        model = None if plan.settings is None else plan.settings.model
        node = (model or {}).get("size") or {}
        is_range = not listed and node.get("name") and not node.get("values")
        if not is_range or not all(isinstance(m.size.value, int) for m in measured):
            return cls(measured)
        step, lowest, highest = (
            of_type(float | None, node.get(name), f"settings.model.size.{name}") or default
            for name, default in (("multiple_of", 1), ("min", 1), ("max", math.inf))
        )
        if step < 1 or step % 1 or lowest <= 0:
            raise StudyError(f"sizes from {lowest:g} in steps of {step:g} are those of no model")
        return cls(measured, int(step), lowest, highest)

    def nearest(self, num_params: float) -> ModelSize:
        if self.step is None:
            return min(self.measured, key=lambda m: abs(math.log(m.num_params / num_params)))
        value = self._value_below(num_params)
        both = [self.at(v) for v in (value, value + self.step) if v <= self.highest]
        return min(both, key=lambda m: abs(math.log(m.num_params / num_params)))

    def at(self, value: SizeValue) -> ModelSize:
        for model in self.measured:
            if model.size.value == value:
                return model
        if self.step is None or isinstance(value, Mapping):
            raise PlanError(f"nothing is known of the size {value}: plan it first")
        like = self.measured[0].size
        num_params = round(self._num_params(value))
        return ModelSize(Size(like.name, value), num_params, num_params, None)

    def _value_below(self, num_params: float) -> int:
        """The largest legal value with no more than `num_params`, or the smallest of all."""
        assert self.step is not None
        first = math.ceil(self.lowest / self.step)
        last = 2 * first
        while last * self.step < self.highest and self._num_params(last * self.step) < num_params:
            last *= 2
        if math.isfinite(self.highest):
            last = min(last, math.floor(self.highest / self.step))
        while last - first > 1:
            middle = (first + last) // 2
            inside = self._num_params(middle * self.step) <= num_params
            first, last = (middle, last) if inside else (first, middle)
        return (last if self._num_params(last * self.step) <= num_params else first) * self.step

    def _num_params(self, value: float) -> float:
        """N of any value: a quadratic in it, bent to pass through the measured sizes.

        Parameters of a layer grow with its width or with the width squared, and with the number of
        layers, so that beyond the measured sizes the quadratic is exact for nearly all models.
        """
        values, num_params = self._measured_columns
        bends = np.log(num_params / (_powers(values) @ self._quadratic))
        bend = np.interp(np.log(value), np.log(values), bends)
        return float((_powers(np.array([value])) @ self._quadratic)[0] * np.exp(bend))

    @cached_property
    def _quadratic(self) -> Array:
        """Coefficients, none below 0, of least relative error."""
        values, num_params = self._measured_columns
        return _nonnegative(_powers(values) / num_params[:, None], np.ones_like(num_params))

    @cached_property
    def _measured_columns(self) -> tuple[Array, Array]:
        pairs = sorted((float(m.size.value), float(m.num_params)) for m in self.measured)  # type: ignore[arg-type]
        values, num_params = np.array(pairs).T
        return values, num_params


def _planned(plan: Plan) -> tuple[ModelSize, ...]:
    """The different sizes of the plan."""
    found = {
        e.num_params: ModelSize(e.size, e.num_params, e.num_params_total, e.flops_per_token_counted)
        for e in plan.experiments
    }
    return tuple(found.values())


def _listed(settings: SweepSettings | None) -> tuple[ModelSize, ...]:
    """The sizes that a trainer's config lists; none where it has no list."""
    trainer = None if settings is None else settings.trainer
    entries = (trainer or {}).get("sizes")
    return listed_family(entries, "plan.json").sizes if entries else ()


def _nonnegative(columns: Array, right: Array) -> Array:
    """Least squares with no coefficient below 0: the best of those on all subsets of the columns.

    scipy's `nnls` does the same, and takes a third of a second to import.
    """
    found = np.zeros(columns.shape[1])
    for chosen in product((False, True), repeat=columns.shape[1]):
        trial = np.zeros(columns.shape[1])
        if any(chosen):
            trial[list(chosen)] = np.linalg.lstsq(columns[:, chosen], right, rcond=None)[0]
        errors = [np.sum((columns @ c - right) ** 2) for c in (trial, found)]
        if np.all(trial >= 0) and errors[0] < errors[1]:
            found = trial
    return found


def _powers(values: Array) -> Array:
    return np.stack([np.ones_like(values), values, values**2], axis=1)
