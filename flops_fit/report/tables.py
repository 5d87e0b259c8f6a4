"""Tables for the screen: plans, laws, runs and variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flops_fit.answers.comparison import Comparison, Estimate
from flops_fit.answers.crossing import Crossing
from flops_fit.answers.optima import OptimaComparison, OptimumAt
from flops_fit.answers.verification import Verification
from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.answer import Answer
from flops_fit.fitting.contract import Optimum
from flops_fit.fitting.methods import in_words
from flops_fit.fitting.metrics import LOSS, label
from flops_fit.fitting.points import Dropped
from flops_fit.laws.prediction import FlatBand, Interval, Intervals, OtherSize, Prediction
from flops_fit.plan.experiment import Experiment, Plan, short_number
from flops_fit.plan.run import Run
from flops_fit.report.screen import duration

RELIANCE_WORDS = {"usable": "both", "loss only": "loss", "N only": "N", "unreliable": "neither"}
"""What a table says under "rely on"."""

SHOWN_LEVEL = "95"
"""Percent. The interval that tables show; law.json has the others."""

MOST_REASONS = 4
"""Reasons for leaving runs out that a line names."""


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


def proposal_table(plan: Plan, seconds: Mapping[float, float]) -> Table:
    """A row per budget: its sizes from the smallest to the largest, what they see, and the time."""
    name = plan.experiments[0].size.name
    table = _table("budget", "sizes", name, "N", "D", "steps", "epochs", "time")
    for budget in plan.budgets:
        mine = plan.at_budget(budget).experiments
        first, last = mine[0], mine[-1]
        epochs = max((e.epochs for e in mine if e.epochs is not None), default=None)
        table.add_row(
            f"{budget:.3g}",
            f"{len({e.num_params for e in mine})}",
            f"{first.size.label} - {last.size.label}",
            f"{short_number(first.num_params)} - {short_number(last.num_params)}",
            f"{short_number(last.num_tokens)} - {short_number(first.num_tokens)}",
            f"{last.num_steps:,} - {first.num_steps:,}",
            "" if epochs is None else f"{epochs:.2g}",
            duration(seconds[budget]) if budget in seconds else "",
        )
    return table


def budgets_table(law: ScalingLaw) -> Table:
    """The optimum of each trained budget by its own curve, with its verdict."""
    table = _table("budget", "N_opt", "D_opt", "D/N", label(law.metric), "verdict")
    for b in law.budgets:
        per_param = "" if b.N_opt is None or b.D_opt is None else f"{b.D_opt / b.N_opt:.3g}"
        table.add_row(
            f"{b.budget:.3g}", _count(b.N_opt), _count(b.D_opt), per_param, _loss(b), b.verdict
        )
    return table


def refused_budgets_table(refusal: Refusal) -> Table:
    """Each budget of a sweep without a law, with a sentence on what it shows."""
    table = _table("budget", "N_opt", label(refusal.metric), "verdict")
    table.add_column("why", justify="left", overflow="fold")
    for b in refusal.budgets:
        table.add_row(f"{b.budget:.3g}", _count(b.N_opt), _loss(b), b.verdict, Text(b.reason))
    return table


def answers_table(answers: Iterable[Answer], metric: str = LOSS, width: int | None = None) -> Table:
    """Budget -> what can be relied on, N, D, tokens per parameter, loss with intervals, how far.

    Beyond the trained budgets what the other methods say stands below each answer. Where the screen
    has fewer than so many columns of text, what follows from the rest is left out: no number is
    ever cut short.
    """
    rows = []
    for answer in answers:
        rows.append(_prediction_row(answer.prediction, answer.reliance.value))
        beside = answer.others if answer.extrapolation > 1 else ()
        rows += [_prediction_row(other, "") for other in beside]
    headers = {name: name.removeprefix(OF_SIZE) for name in rows[0]} | {LOSS: label(metric)}
    shown = [name for name in headers if name not in _spared(headers, rows, width)]
    table = _table(*(headers[name] for name in shown))
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return table


OF_SIZE = "N "
"""What the interval of N is called beside that of the loss, in a header without it."""

SPARED = ("D/N", "D", "x top", f"{OF_SIZE}{SHOWN_LEVEL}%")
"""Columns of the answers that a narrow screen goes without, in this order: D follows from N."""

BETWEEN = 3
"""Columns of text between two columns of a table."""


def _spared(
    headers: Mapping[str, str], rows: Sequence[Mapping[str, str]], width: int | None
) -> Sequence[str]:
    """The columns to leave out so that the others fit into `width`; None: of no limit."""
    widths = {n: max(len(h), *(len(row[n]) for row in rows)) for n, h in headers.items()}
    needed = sum(widths.values()) + BETWEEN * len(widths)
    for count, name in enumerate(SPARED):
        if width is None or needed <= width:
            return SPARED[:count]
        needed -= widths[name] + BETWEEN
    return SPARED


def _prediction_row(p: Prediction, reliance: str) -> dict[str, str]:
    level = f"{SHOWN_LEVEL}%"
    return {
        "budget": f"{p.budget:.3g}",
        "by": p.method,
        "rely on": RELIANCE_WORDS.get(reliance, reliance),
        "N": short_number(p.num_params),
        f"{OF_SIZE}{level}": _interval(p, "num_params", short_number),
        "D": short_number(p.num_tokens),
        "D/N": f"{p.tokens_per_param:.3g}",
        LOSS: f"{p.loss:.4f}",
        level: _interval(p, "loss", "{:.4f}".format),
        "x top": f"{p.extrapolation:.3g}",
    }


def answer_words(answer: Answer) -> str:
    """One answer in a line, with its intervals and the word for what can be relied on."""
    p = answer.prediction
    n, d, loss = (
        _shown_bounds(p.intervals.get(name), shown)
        for name, shown in (
            ("num_params", short_number),
            ("num_tokens", short_number),
            ("loss", "{:.4f}".format),
        )
    )
    return (
        f"{p.budget:.3g} FLOPs ({p.extrapolation:.3g} times the largest budget), "
        f"{answer.reliance.value}: N = {short_number(p.num_params)}{n}, "
        f"D = {short_number(p.num_tokens)}{d}, loss {p.loss:.4f}{loss}"
    )


def comparison_table(comparison: Comparison) -> Table:
    """Budget -> both losses with intervals, and how many times the FLOPs of A B needs."""
    letters = {comparison.a.name: "A", comparison.b.name: "B"}
    level = f"{SHOWN_LEVEL}%"
    what = label(comparison.a.metric)
    losses, needs = (f"{what} A", level, f"{what} B", level), ("B needs, x", level, "x top of B")
    table = _table("budget", "x top budget", "trained in", *losses, *needs)
    table.title = ", ".join(f"{letter} = {name}" for name, letter in letters.items())
    table.title_justify = "left"
    for row in comparison.rows:
        table.add_row(
            f"{row.budget:.3g}",
            f"{row.extrapolation:.3g}",
            " and ".join(letters[name] for name in row.trained_in),
            *_estimate(row.loss_a, "{:.4f}".format),
            *_estimate(row.loss_b, "{:.4f}".format),
            *_estimate(row.multiplier, "{:.3g}".format),
            "" if row.multiplier_extrapolation is None else f"{row.multiplier_extrapolation:.3g}",
        )
    return table


def optima_table(comparison: OptimaComparison) -> Table:
    """Budget -> N_opt, tokens per parameter and, where both tell it, the loss of two laws."""
    sides, level = {"A": comparison.a, "B": comparison.b}, f"{SHOWN_LEVEL}%"
    shown = {letter: [level] if side.draws else [] for letter, side in sides.items()}
    with_loss = comparison.rows[0].a.loss is not None
    heads = [
        head
        for letter in sides
        for head in (
            *(f"N {letter}", *shown[letter], f"D {letter}", f"D/N {letter}", *shown[letter]),
            *([f"loss {letter}"] if with_loss else []),
        )
    ]
    table = _table("budget", "trained in", *heads)
    table.title = ", ".join(f"{letter} = {side.name}" for letter, side in sides.items())
    table.title_justify = "left"
    letters = {side.name: letter for letter, side in sides.items()}
    for row in comparison.rows:
        table.add_row(
            f"{row.budget:.3g}",
            " and ".join(letters[name] for name in row.trained_in),
            *_optimum(row.a, bool(shown["A"])),
            *_optimum(row.b, bool(shown["B"])),
        )
    return table


def crossing_line(crossing: Crossing) -> str:
    """Where the two losses are equal, and how many of the draws say so."""
    share = crossing.share_of_draws
    drawn = "" if share is None else f"; {share:.0%} of the draws cross"
    if crossing.flops is None:
        return f"the losses don't cross up to 1000 times the largest budget{drawn}"
    bounds = crossing.intervals.get(SHOWN_LEVEL)
    interval = f" ({SHOWN_LEVEL}%: {_range(bounds, '{:.2g}'.format)})" if bounds else ""
    reach = f"{crossing.extrapolation:.3g} times the smaller top budget"
    return f"the losses cross at {crossing.flops:.3g} FLOPs{interval}, {reach}{drawn}"


def law_lines(law: ScalingLaw) -> list[str]:
    """A line per method: the exponent with its interval, or why there is none."""
    lines = [f"{in_words(m)}: N_opt ~ C^{exponent(law, m)}" for m in law.fits.laws]
    return lines + [f"{in_words(m)}: {reason}" for m, reason in law.refusals.items()]


def left_out_line(dropped: Sequence[Dropped]) -> str:
    """Which runs the fit does not use, and why; law.json lists each."""
    reasons = Counter(one.reason for one in dropped)
    first = {one.reason: one.id for one in reversed(dropped)}
    shown = [
        f"{first[reason]} ({reason})" if count == 1 else f"{count} runs ({reason})"
        for reason, count in reasons.most_common(MOST_REASONS)
    ]
    more = len(reasons) - len(shown)
    return f"left out: {', '.join(shown)}" + (f", and for {more} more reasons" if more else "")


def band_line(band: FlatBand) -> str:
    """How flat the optimum is."""
    ends = "".join(
        f" {word} {short_number(value)}{_shown_bounds(band.intervals.get(name), short_number)}"
        for name, word, value in (("low", "from", band.low), ("high", "to", band.high))
        if 0 < value < inf
    )
    return f"at {band.budget:.3g} FLOPs all sizes{ends} lose less than {band.tolerance:.1%}"


def cost_line(other: OtherSize, budget: float, metric: str = LOSS) -> str:
    """What another size than the optimal one costs, in loss and in compute."""
    shown = {name: other.intervals.get(name) for name in ("excess_loss", "excess_compute")}
    more = _shown_bounds(shown["excess_compute"], "{:.1%}".format)
    cost = (
        "no amount of tokens brings it to the best"
        if other.excess_compute is None
        else f"to reach the best it takes {other.excess_compute:.1%}{more} more FLOPs"
    )
    above = f"{other.excess_loss:.2%}{_shown_bounds(shown['excess_loss'], '{:.2%}'.format)}"
    return (
        f"N = {short_number(other.num_params)} at {budget:.3g} FLOPs: {label(metric)} "
        f"{other.loss:.4f}, {above} above the best; {cost}"
    )


def verification_lines(v: Verification) -> list[str]:
    """Predicted, interval, measured, error."""
    p, spread = v.prediction, f" ± {v.stderr:.2g}" if v.stderr else ""
    interval = _interval(p, "loss", "{:.4f}".format)
    bounds = f"{SHOWN_LEVEL}%: {interval}" if interval else "no interval: the law has no draws"
    inside = {True: ", inside the interval", False: ", outside the interval", None: ""}
    return [
        f"predicted {p.loss:.4f} ({bounds}) at N = {short_number(p.num_params)}, "
        f"{p.budget:.3g} FLOPs, {p.extrapolation:.3g} times the top budget, on {v.frozen.time} "
        f"({v.frozen.reliance})",
        f"measured  {v.measured:.4f}{spread} at N = {short_number(v.num_params)}: "
        f"{v.error:+.2%} off{inside[v.is_inside(SHOWN_LEVEL)]}",
    ]


def exponent(law: ScalingLaw, method: str) -> str:
    """The exponent of N_opt in C by `method`, with its interval."""
    bounds = law.intervals.get(f"{method}.a", {}).get(SHOWN_LEVEL)
    shown = f" ({SHOWN_LEVEL}%: {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
    return f"{law.fits.laws[method].a:.3f}{shown}"


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


def _loss(optimum: Optimum) -> str:
    return "" if optimum.loss is None else f"{optimum.loss:.4f}"


def _count(value: float | None) -> str:
    return "" if value is None else short_number(value)


def _interval(prediction: Prediction, name: str, shown: Callable[[float], str]) -> str:
    bounds = prediction.intervals.get(name, {}).get(SHOWN_LEVEL)
    return _range(bounds, shown) if bounds else ""


def _estimate(estimate: Estimate, shown: Callable[[float], str]) -> tuple[str, str]:
    """The value and its interval."""
    bounds = estimate.intervals.get(SHOWN_LEVEL)
    value = "never" if estimate.value is None else shown(estimate.value)
    return value, _range(bounds, shown) if bounds else ""


def _optimum(at: OptimumAt, with_bounds: bool) -> list[str]:
    """N with its interval, D, D/N with its interval, and the loss where there is one."""
    num_params = _estimate(at.num_params, short_number)
    per_param = _estimate(at.tokens_per_param, "{:.3g}".format)
    bounds = slice(None) if with_bounds else slice(1)
    num_tokens, _ = _estimate(at.num_tokens, short_number)
    loss = [] if at.loss is None else [f"{at.loss:.4f}"]
    return [*num_params[bounds], num_tokens, *per_param[bounds], *loss]


def _shown_bounds(intervals: Intervals | None, shown: Callable[[float], str]) -> str:
    """The interval in brackets, behind a value; nothing without one."""
    bounds = (intervals or {}).get(SHOWN_LEVEL)
    return f" ({SHOWN_LEVEL}%: {_range(bounds, shown)})" if bounds else ""


def _range(bounds: Interval, shown: Callable[[float], str]) -> str:
    """Both ends, an open one in words."""
    low, high = bounds
    if not low > 0:
        return f"below {shown(high)}" if isfinite(high) else "no limit either way"
    return f"{shown(low)} - {shown(high) if isfinite(high) else 'no limit'}"
