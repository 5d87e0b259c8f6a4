"""Tables for the screen: plans, laws, runs and variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flops_fit.fitting import ScalingLaw
from flops_fit.planning import Experiment, Plan, short_number
from flops_fit.prediction import OtherSize, Prediction
from flops_fit.runs import Run

SHOWN_LEVEL = "95"
"""Percent. The interval that tables show; law.json has the others."""


def plan_table(plan: Plan) -> Table:
    """A row per experiment."""
    repeats = any(e.epochs is not None and e.epochs > 1 for e in plan.experiments)
    counts = any(e.counted_over_formula is not None for e in plan.experiments)
    size = plan.experiments[0].size.name
    table = _table("budget", size, "N", "D", "steps", "D/N", "FLOPs")
    if counts:
        table.add_column("counted/6ND", justify="right")
    if repeats:
        table.add_column("epochs", justify="right")
    for e in plan.experiments:
        row = [
            f"{e.budget:.3g}",
            e.size.label,
            short_number(e.num_params),
            short_number(e.num_tokens),
            f"{e.num_steps:,}",
            f"{e.tokens_per_param:.3g}",
            f"{e.flops / plan.total_flops:.1%}",
        ]
        row += [_ratio(e)] if counts else []
        row += ["" if e.epochs is None else f"{e.epochs:.2g}"] if repeats else []
        table.add_row(*row, end_section=_ends_budget(e, plan))
    return table


def budgets_table(law: ScalingLaw) -> Table:
    """The optimum of each trained budget by its own curve, with its verdict."""
    table = _table("budget", "N_opt", "D_opt", "D/N", "loss", "verdict")
    for b in law.budgets:
        table.add_row(
            f"{b.budget:.3g}",
            _count(b.N_opt),
            _count(b.D_opt),
            "" if b.N_opt is None or b.D_opt is None else f"{b.D_opt / b.N_opt:.3g}",
            "" if b.loss is None else f"{b.loss:.4f}",
            b.verdict,
        )
    return table


def predictions_table(predictions: Iterable[Prediction]) -> Table:
    """Budget -> N, D, tokens per parameter, loss with intervals, and how far it reaches."""
    level = f"{SHOWN_LEVEL}%"
    table = _table("budget", "by", "N", level, "D", level, "D/N", "loss", level, "x top budget")
    for p in predictions:
        table.add_row(
            f"{p.budget:.3g}",
            p.method,
            short_number(p.num_params),
            _interval(p, "num_params", short_number),
            short_number(p.num_tokens),
            _interval(p, "num_tokens", short_number),
            f"{p.tokens_per_param:.3g}",
            f"{p.loss:.4f}",
            _interval(p, "loss", "{:.4f}".format),
            f"{p.extrapolation:.3g}",
        )
    return table


METHODS = {"isoflop": "approach 2, IsoFLOP curves", "surface": "approach 3, loss surface"}


def law_lines(law: ScalingLaw) -> list[str]:
    """A line per method: the exponent with its interval, or why there is none."""
    lines = [f"{METHODS[method]}: N_opt ~ C^{exponent(law, method)}" for method in exponents(law)]
    return lines + [f"{METHODS[method]}: {reason}" for method, reason in law.refusals.items()]


def cost_line(other: OtherSize, budget: float) -> str:
    """What another size than the optimal one costs, in loss and in compute."""
    cost = (
        "no amount of tokens brings it to the best loss"
        if other.excess_compute is None
        else f"to reach the best loss it takes {other.excess_compute:.1%} more FLOPs"
    )
    return (
        f"N = {short_number(other.num_params)} at {budget:.3g} FLOPs: loss {other.loss:.4f}, "
        f"{other.excess_loss:.2%} above the best; {cost}"
    )


def exponents(law: ScalingLaw) -> dict[str, float]:
    """Of N_opt in C, by the methods that found one."""
    found = {}
    if law.isoflop is not None:
        found["isoflop"] = law.isoflop.a
    if law.surface is not None:
        found["surface"] = law.surface.surface.a
    return found


def exponent(law: ScalingLaw, method: str) -> str:
    """Of N_opt in C by `method`, with its interval."""
    bounds = law.intervals.get(f"{method}.a", {}).get(SHOWN_LEVEL)
    shown = f" ({SHOWN_LEVEL}%: {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
    return f"{exponents(law)[method]:.3f}{shown}"


@dataclass(frozen=True)
class Variant:
    """One job of a multirun and what came of it."""

    overrides: Sequence[str]
    num_trained: int
    num_runs: int
    best_loss: float | None
    exponent: str


def variants_table(variants: Sequence[Variant]) -> Table:
    """A row per job of a multirun; named by the overrides that not all of them share."""
    shared = set.intersection(*(set(v.overrides) for v in variants))
    table = _table("variant", "runs", "trained now", "best loss", "N_opt ~ C^")
    table.columns[0].justify = "left"
    for v in variants:
        name = " ".join(word for word in v.overrides if word not in shared)
        loss = "" if v.best_loss is None else f"{v.best_loss:.4f}"
        table.add_row(name, str(v.num_runs), str(v.num_trained), loss, v.exponent)
    return table


def runs_table(plan: Plan, runs: Mapping[str, Run]) -> Table:
    """A row per experiment with what became of it."""
    table = _table("run", "budget", plan.experiments[0].size.name, "status", "loss", "seconds")
    table.columns[0].justify = "left"
    for e in plan.experiments:
        run = runs.get(e.id)
        loss = f"{run.loss:.4f}" if run and run.loss is not None else ""
        seconds = f"{run.wall_time_seconds:.1f}" if run and run.wall_time_seconds else ""
        status = run.status if run else "missing"
        table.add_row(e.id, f"{e.budget:.3g}", e.size.label, status, loss, seconds)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _ratio(experiment: Experiment) -> str:
    ratio = experiment.counted_over_formula
    return "" if ratio is None else f"{ratio:.2f}"


def _ends_budget(experiment: Experiment, plan: Plan) -> bool:
    """Whether the next row belongs to another budget."""
    same = [e for e in plan.experiments if e.budget == experiment.budget]
    return same[-1] is experiment


def _count(value: float | None) -> str:
    return "" if value is None else short_number(value)


def _interval(prediction: Prediction, name: str, shown: Callable[[float], str]) -> str:
    bounds = prediction.intervals.get(name, {}).get(SHOWN_LEVEL)
    return f"{shown(bounds[0])} - {shown(bounds[1])}" if bounds else ""
