"""Tables for the screen: plans, laws, runs and variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from rich.table import Table
from rich.text import Text

from flops_fit.answers.comparison import Comparison, Estimate
from flops_fit.answers.crossing import Crossing
from flops_fit.answers.optima import OptimaComparison, OptimumAt
from flops_fit.answers.verification import Verification
from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.answer import Answer
from flops_fit.fitting.contract import Optimum
from flops_fit.fitting.metrics import LOSS, label
from flops_fit.laws.prediction import FlatBand, OtherSize
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run
from flops_fit.report.screen import fits, table_of
from flops_fit.report.summary import SHOWN_LEVEL, how_far, in_brackets
from flops_fit.shown import duration, short_flops, short_loss, short_number, span, times

RELIANCE_WORDS = {"usable": "both", "loss only": "loss", "N only": "N", "unreliable": "neither"}
"""What a table says under "rely on"."""

VERDICT_WORDS = {
    "few": "too few sizes for a curve",
    "edge": "least at an outermost size, so the best lies beyond",
    "flat": "no minimum that noise could not make",
    "concave": "the losses bend the wrong way",
    "negative": "the curve falls below zero",
    "misfit": "the losses don't follow a curve",
}
"""What is wrong with a budget of each verdict but ok."""

D, PER_PARAM, RELY_ON, OVER_LARGEST = f"D ({SHOWN_LEVEL}%)", "D/N", "rely on", "x largest"
OF_ALL, OVER_FORMULA = "of all", "C/6ND"
"""Columns that a narrow screen goes without."""

MANY_TIMES = 10.0
"""Share of more FLOPs that is said as a multiple of all."""

BELOW = 0.999
"""Extrapolation up to which a budget is no larger than the largest, but for rounding."""

RELY_ON_MEANS = "rely on: what is sure at 80%, the loss within 3%, N within a factor of 2"
OVER_FORMULA_MEANS = "C/6ND: FLOPs as counted on the model, over 6ND"
"""What columns mean, said below their tables."""


def plan_table(plan: Plan, width: int | None = None) -> Table:
    """A row per experiment; on a screen of fewer columns of text without what follows from it."""
    repeats = any(e.epochs is not None and e.epochs > 1 for e in plan.experiments)
    counts = any(e.counted_over_formula is not None for e in plan.experiments)
    rows, total = [], plan.total_flops
    for e in plan.experiments:
        row = {
            "budget": short_flops(e.budget),
            e.size.name: e.size.label,
            "N": short_number(e.num_params),
            "D": short_number(e.num_tokens),
            "steps": f"{e.num_steps:,}",
            PER_PARAM: short_number(e.tokens_per_param),
            OF_ALL: f"{e.flops / total:.1%}",
        }
        row |= {OVER_FORMULA: _ratio(e)} if counts else {}
        row |= {"epochs": "" if e.epochs is None else f"{e.epochs:.2g}"} if repeats else {}
        rows.append(row)
    table = _sparing(rows, width, (OF_ALL, OVER_FORMULA, PER_PARAM))
    budgets = [*(e.budget for e in plan.experiments), None]
    for line, (budget, after) in zip(table.rows, pairwise(budgets), strict=True):
        line.end_section = budget != after
    return table


def proposal_table(plan: Plan, seconds: Mapping[float, float], width: int | None = None) -> Table:
    """A row per budget: its sizes from the smallest to the largest, what they see, and the time."""
    rows = []
    for budget in plan.budgets:
        mine = plan.at_budget(budget).experiments
        first, last = mine[0], mine[-1]
        epochs = max((e.epochs for e in mine if e.epochs is not None), default=None)
        rows.append(
            {
                "budget": short_flops(budget),
                "sizes": f"{len({e.num_params for e in mine})}",
                first.size.name: f"{first.size.label} - {last.size.label}",
                "N": span(first.num_params, last.num_params),
                "D": span(last.num_tokens, first.num_tokens),
                "steps": f"{last.num_steps:,} - {first.num_steps:,}",
                "epochs": "" if epochs is None else f"{epochs:.2g}",
                "time": duration(seconds[budget]) if budget in seconds else "",
            }
        )
    return _sparing(rows, width, (plan.experiments[0].size.name, "steps"))


def budgets_table(law: ScalingLaw) -> Table:
    """The optimum of each trained budget by its own curve, with its verdict."""
    table = table_of("budget", "N_opt", "D_opt", PER_PARAM, label(law.metric), "curve")
    for b in law.budgets:
        per_param = "" if b.N_opt is None or b.D_opt is None else short_number(b.D_opt / b.N_opt)
        table.add_row(
            short_flops(b.budget), _count(b.N_opt), _count(b.D_opt), per_param, _loss(b), b.verdict
        )
    return table


def verdicts_line(budgets: Iterable[Optimum]) -> str:
    """What the words under `curve` mean, of those that occur."""
    found = dict.fromkeys(b.verdict for b in budgets if not b.is_bracketed)
    said = [f"{name}: {VERDICT_WORDS[name]}" for name in found if name in VERDICT_WORDS]
    return "; ".join(said)


def refused_budgets_table(refusal: Refusal) -> Table:
    """Each budget of a sweep without a law, with a sentence on what it shows."""
    table = table_of("budget", "N_opt", label(refusal.metric), "curve")
    table.add_column("why", justify="left", overflow="fold")
    for b in refusal.budgets:
        table.add_row(short_flops(b.budget), _count(b.N_opt), _loss(b), b.verdict, Text(b.reason))
    return table


def answers_table(answers: Iterable[Answer], metric: str = LOSS, width: int | None = None) -> Table:
    """Budget -> how far it is beyond, N, D, tokens per parameter, loss, with intervals in brackets,
    and what of it can be relied on."""
    rows = [_answer_row(answer, metric) for answer in answers]
    return _sparing(rows, width, (PER_PARAM, D, OVER_LARGEST))


def _answer_row(answer: Answer, metric: str) -> dict[str, str]:
    p = answer.prediction
    size, tokens = (
        short_number(value) + in_brackets(p.intervals.get(name))
        for name, value in (("num_params", p.num_params), ("num_tokens", p.num_tokens))
    )
    return {
        "budget": short_flops(p.budget),
        OVER_LARGEST: times(p.extrapolation) if p.extrapolation > BELOW else "",
        f"N ({SHOWN_LEVEL}%)": size,
        D: tokens,
        PER_PARAM: short_number(p.tokens_per_param),
        f"{label(metric)} ({SHOWN_LEVEL}%)": short_loss(p.loss)
        + in_brackets(p.intervals.get("loss"), short_loss),
        RELY_ON: RELIANCE_WORDS.get(answer.reliance.value, answer.reliance.value),
    }


def _sparing(
    rows: Sequence[Mapping[str, str]], width: int | None, sparable: Sequence[str]
) -> Table:
    """The rows as a table that leaves out as many of the `sparable` columns, the first first, as it
    takes to stand within `width` columns of text (None: of no limit): no number is cut short."""
    for count in range(len(sparable) + 1):
        names = [name for name in rows[0] if name not in sparable[:count]]
        table = table_of(*names)
        for row in rows:
            table.add_row(*(row[name] for name in names))
        if width is None or fits(table, width):
            break
    return table


def comparison_table(comparison: Comparison, width: int | None = None) -> Table:
    """Budget -> both losses with intervals, and how many times the FLOPs of A B needs."""
    what = label(comparison.a.metric)
    over, of_b = "x smaller top", "x top of B"
    letters = {comparison.a.name: "A", comparison.b.name: "B"}
    rows = [
        {
            "budget": short_flops(row.budget),
            over: times(row.extrapolation),
            "trained": " ".join(letters[name] for name in row.trained_in),
            f"{what} A ({SHOWN_LEVEL}%)": _estimate(row.loss_a, short_loss),
            f"{what} B ({SHOWN_LEVEL}%)": _estimate(row.loss_b, short_loss),
            f"B needs ({SHOWN_LEVEL}%)": _estimate(row.multiplier, times),
            of_b: _or_blank(row.multiplier_extrapolation),
        }
        for row in comparison.rows
    ]
    return _titled(_sparing(rows, width, (of_b, over, "trained")), letters)


def optima_table(comparison: OptimaComparison, width: int | None = None) -> Table:
    """Budget -> N_opt, tokens per parameter and, where both tell it, the loss of two laws."""
    letters = {comparison.a.name: "A", comparison.b.name: "B"}
    rows = [
        {
            "budget": short_flops(row.budget),
            "trained": " ".join(letters[name] for name in row.trained_in),
            **_optimum("A", row.a),
            **_optimum("B", row.b),
        }
        for row in comparison.rows
    ]
    return _titled(_sparing(rows, width, ("D A", "D B", "trained")), letters)


def _titled(table: Table, letters: Mapping[str, str]) -> Table:
    """With a line that says which letter is whom."""
    table.title = ", ".join(f"{letter} = {name}" for name, letter in letters.items())
    table.title_justify = "left"
    return table


def _or_blank(factor: float | None) -> str:
    return "" if factor is None else times(factor)


def crossing_line(crossing: Crossing) -> str:
    """Where the two losses are equal, and how many of the draws say so."""
    share = crossing.share_of_draws
    drawn = "" if share is None else f"; {share:.0%} of the draws cross"
    if crossing.flops is None:
        return f"The losses don't cross up to 1,000x the largest budget{drawn}."
    reach = f"{times(crossing.extrapolation or 1.0)} the smaller of the largest budgets"
    where = short_flops(crossing.flops) + in_brackets(crossing.intervals, short_flops)
    return f"The losses cross at {where} FLOPs, {reach}{drawn}."


def band_line(band: FlatBand) -> str:
    """How flat the optimum is."""
    ends = "".join(
        f" {word} {short_number(value)}{in_brackets(band.intervals.get(name))}"
        for name, word, value in (("low", "from", band.low), ("high", "to", band.high))
        if 0 < value < inf
    )
    return (
        f"at {short_flops(band.budget)} FLOPs all sizes{ends} lose less than {band.tolerance:.1%}"
    )


def cost_line(other: OtherSize, budget: float, metric: str = LOSS) -> str:
    """What another size than the optimal one costs, in loss and in compute."""
    loss, compute = (
        in_brackets(other.intervals.get(name), "{:.3g}%".format, 100)
        for name in ("excess_loss", "excess_compute")
    )
    if other.excess_compute is None:
        cost = "no amount of tokens brings it to the best"
    elif other.excess_compute > MANY_TIMES:
        cost = f"to reach the best it takes {times(1 + other.excess_compute)} the FLOPs"
    else:
        cost = f"to reach the best it takes {other.excess_compute:.1%}{compute} more FLOPs"
    return (
        f"N = {short_number(other.num_params)} at {short_flops(budget)} FLOPs: {label(metric)} "
        f"{short_loss(other.loss)}, {other.excess_loss:.2%}{loss} above the best; {cost}"
    )


def verification_lines(v: Verification) -> list[str]:
    """Predicted, interval, measured, error."""
    p, spread = v.prediction, f" ± {v.stderr:.2g}" if v.stderr else ""
    interval = in_brackets(p.intervals.get("loss"), short_loss) or " (no interval: no draws)"
    inside = {
        True: f", inside the {SHOWN_LEVEL}% interval",
        False: f", outside the {SHOWN_LEVEL}% interval",
        None: "",
    }
    return [
        f"Measured {short_loss(v.measured)}{spread} at N = {short_number(v.num_params)}: "
        f"{v.error:+.2%} off{inside[v.is_inside(SHOWN_LEVEL)]}.",
        f"Predicted {short_loss(p.loss)}{interval} for N = {short_number(p.num_params)} at "
        f"{short_flops(p.budget)} FLOPs ({how_far(p)}), on {v.frozen.time} ({v.frozen.reliance}).",
    ]


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
    table = table_of("variant", "runs", "trained now", "best loss", "N_opt ~ C^")
    table.columns[0].justify = "left"
    for v in variants:
        name = " ".join(word for word in v.overrides if word not in shared)
        loss = "" if v.best_loss is None else f"{v.best_loss:.4f}"
        table.add_row(name, str(v.num_runs), str(v.num_trained), loss, v.exponent)
    return table


def runs_table(
    experiments: Iterable[Experiment],
    runs: Mapping[str, Run],
    words: Callable[[Experiment], str],
    size: str,
) -> Table:
    """A row per experiment with what became of it, in `words`."""
    table = table_of("run", "budget", size, "status", "loss", "seconds")
    table.columns[0].justify = "left"
    for e in experiments:
        run = runs.get(e.id)
        loss = short_loss(run.loss) if run and run.loss is not None else ""
        seconds = f"{run.wall_time_seconds:.1f}" if run and run.wall_time_seconds else ""
        table.add_row(e.id, short_flops(e.budget), e.size.label, words(e), loss, seconds)
    return table


def counts_table(
    plan: Plan, runs: Mapping[str, Run], words: Callable[[Experiment], str], kinds: Sequence[str]
) -> Table:
    """A row per budget: how many of its runs became what (`kinds`, by the first of `words`), and
    its least loss."""
    table = table_of("budget", "runs", *kinds, "least loss")
    for budget in plan.budgets:
        experiments = plan.at_budget(budget).experiments
        counts = Counter(words(e).partition(",")[0] for e in experiments)
        found = (runs[e.id].loss for e in experiments if e.id in runs)
        losses = [loss for loss in found if loss is not None]
        table.add_row(
            short_flops(budget),
            f"{len(experiments):,}",
            *(f"{counts[kind]:,}" if counts[kind] else "" for kind in kinds),
            short_loss(min(losses)) if losses else "",
        )
    return table


def _ratio(experiment: Experiment) -> str:
    ratio = experiment.counted_over_formula
    return "" if ratio is None else f"{ratio:.2f}"


def _loss(optimum: Optimum) -> str:
    return "" if optimum.loss is None else short_loss(optimum.loss)


def _count(value: float | None) -> str:
    return "" if value is None else short_number(value)


def _estimate(estimate: Estimate, shown: Callable[[float], str]) -> str:
    """The value with its interval."""
    value = "never" if estimate.value is None else shown(estimate.value)
    return value + in_brackets(estimate.intervals, shown)


def _optimum(letter: str, at: OptimumAt) -> dict[str, str]:
    """N with its interval, D, D/N with its interval, and the loss where there is one."""
    level = f" ({SHOWN_LEVEL}%)" if at.num_params.intervals else ""
    loss = {} if at.loss is None else {f"loss {letter}": short_loss(at.loss)}
    return {
        f"N {letter}{level}": _estimate(at.num_params, short_number),
        f"D {letter}": short_number(at.num_tokens.value or 0.0),
        f"D/N {letter}{level}": _estimate(at.tokens_per_param, short_number),
        **loss,
    }
