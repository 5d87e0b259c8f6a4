"""What is to be trained: one experiment, and the plan of a whole sweep, as written to plan.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from flops_fit.errors import StudyError
from flops_fit.files import check_name
from flops_fit.laws import FlopRule
from flops_fit.plan.names import AlsoCalled
from flops_fit.plan.versions import PLAN_VERSIONS
from flops_fit.records import of_type, read_as, read_list
from flops_fit.settings import SweepSettings, plain, stored
from flops_fit.settings.sweep import SizeValue as SizeValue
from flops_fit.shown import short_flops


@dataclass(frozen=True)
class Size:
    """The argument that scales a model family, and its value: a number, or a whole shape."""

    name: str
    value: SizeValue

    @property
    def label(self) -> str:
        if isinstance(self.value, Mapping):
            return " ".join(f"{key}={value}" for key, value in self.value.items())
        return f"{self.value:g}" if isinstance(self.value, float) else str(self.value)


@dataclass(frozen=True)
class ModelSize:
    """One member of a model family as measured. FLOPs are per token, forward and backward."""

    size: Size
    num_params: int
    num_params_total: int
    counted_flops_per_token: float | None


@dataclass(frozen=True)
class Experiment:
    """One planned training run: what will really be done, in whole optimizer steps."""

    budget: float  # FLOPs asked
    size: Size
    num_params: int
    num_params_total: int
    num_steps: int
    batch_size: int  # samples per step
    batch_tokens: int
    flops_per_token: float  # by the plan's FLOP rule
    flops_per_token_counted: float | None
    flops_per_token_formula: float
    unique_tokens: int | None
    seed: int  # of the initial weights
    data_seed: int | None = None  # of the order of the data; None: the same
    learning_rate: float | None = None  # at the peak; None: the optimizer's own
    warmup_steps: int | None = None  # with a shared trunk; else the schedule says in fractions
    cooldown_steps: int | None = None
    id: str = ""
    trunk: str = ""  # the same for runs that differ only from their cooldown on

    experiment_id = AlsoCalled("id")
    compute_budget = AlsoCalled("budget")
    size_param_value = AlsoCalled("size.value")

    @property
    def num_tokens(self) -> int:
        return self.num_steps * self.batch_tokens

    @property
    def flops(self) -> float:
        return self.num_tokens * self.flops_per_token

    @property
    def flops_per_step(self) -> float:
        return self.batch_tokens * self.flops_per_token

    @property
    def order_seed(self) -> int:
        """Seed of the order in which data are drawn."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def branch_step(self) -> int | None:
        """Steps after which a run leaves its shared trunk; None without one."""
        return None if self.cooldown_steps is None else self.num_steps - self.cooldown_steps

    def inherits(self, shorter: Experiment) -> int:
        """Steps it need not train where `shorter`, of the same trunk, has been trained."""
        return min(shorter.branch_step or 0, self.branch_step or 0)

    @property
    def flops_counted(self) -> float | None:
        if self.flops_per_token_counted is None:
            return None
        return self.num_tokens * self.flops_per_token_counted

    @property
    def counted_over_formula(self) -> float | None:
        if self.flops_per_token_counted is None:
            return None
        return self.flops_per_token_counted / self.flops_per_token_formula

    @property
    def tokens_per_param(self) -> float:
        return self.num_tokens / self.num_params

    @property
    def epochs(self) -> float | None:
        return None if self.unique_tokens is None else self.num_tokens / self.unique_tokens


@dataclass(frozen=True, repr=False)
class Plan:
    """The experiments of a sweep, in order of budget and size, and how they came about."""

    experiments: tuple[Experiment, ...]
    flop_rule: FlopRule
    notes: tuple[str, ...] = ()  # sizes dropped and other things worth knowing
    study: str = ""
    settings: SweepSettings | None = None  # with which it was planned

    @property
    def budgets(self) -> tuple[float, ...]:
        return tuple(sorted({e.budget for e in self.experiments}))

    def at_budget(self, budget: float) -> Plan:
        """The part of one budget."""
        mine = tuple(e for e in self.experiments if e.budget == budget)
        return replace(self, experiments=mine)

    @property
    def num_experiments(self) -> int:
        return len(self.experiments)

    @property
    def total_flops(self) -> float:
        return math.fsum(e.flops for e in self.experiments)

    def __len__(self) -> int:
        return self.num_experiments

    def __str__(self) -> str:
        budgets = "1 budget" if len(self.budgets) == 1 else f"{len(self.budgets)} budgets"
        runs = "1 run" if len(self) == 1 else f"{len(self)} runs"
        return f"{runs} at {budgets}, {short_flops(self.total_flops)} FLOPs"

    def __repr__(self) -> str:
        return (
            f"Plan({len(self)} experiments, {len(self.budgets)} budgets, "
            f"total_flops={self.total_flops:.2e})"
        )

    def to_json(self) -> dict[str, Any]:
        settings = {} if self.settings is None else plain(self.settings)
        return {
            "schema_version": PLAN_VERSIONS.current,
            "experiments": [{**vars(e), "size": {**vars(e.size)}} for e in self.experiments],
            "flop_rule": asdict(self.flop_rule),
            "notes": list(self.notes),
            "study": self.study,
            "settings": settings,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Raises `StudyError` for what is no plan, and for names that lead out of the study."""
        data = PLAN_VERSIONS.upgraded(data)
        plan = cls(
            experiments=read_list(Experiment, data.get("experiments"), "experiments"),
            flop_rule=read_as(FlopRule, data.get("flop_rule"), "flop_rule"),
            notes=of_type(tuple[str, ...], data.get("notes"), "notes"),
            study=of_type(str, data.get("study"), "study"),
            settings=stored(SweepSettings, of_type(Mapping, data.get("settings"), "settings")),
        )
        check_study_name(plan.study)
        for experiment in plan.experiments:
            _check_stored(experiment)
        if len({e.id for e in plan.experiments}) < len(plan):
            raise StudyError("two of its experiments have the same id")
        if not plan.experiments:
            raise StudyError("it has no experiments")
        return plan


POSITIVE = (
    "budget", "num_params", "num_steps", "batch_size", "batch_tokens", "flops_per_token",
    "flops_per_token_formula",
)  # fmt: skip
"""What every experiment has more of than nothing."""


def _check_stored(e: Experiment) -> None:
    """Raises `StudyError` for an experiment that no plan of ours has."""
    check_name(e.id, "id of a run")
    if e.trunk:
        check_name(e.trunk, "id of a trunk")
    for name in POSITIVE:
        if not getattr(e, name) > 0:
            raise StudyError(f"{name} of {e.id} is {getattr(e, name)}: expected more than 0")
    if min(e.seed, e.order_seed) < 0:
        raise StudyError(f"a seed of {e.id} is below 0")


def check_study_name(name: str) -> None:
    """Raises `StudyError` for a name that leads out of its folder, or is no one line of text."""
    parts = name.split("/")
    if name and (not name.isprintable() or {"", ".", ".."} & set(parts) or "\\" in name):
        raise StudyError(f"study is {name[:80]!r}: no study has such a name")
