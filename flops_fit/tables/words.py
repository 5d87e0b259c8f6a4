"""What is said of a table that was read: what was assumed, and what its rows may also be."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from flops_fit.plan.run import Run
from flops_fit.tables.cells import FILE, Cells, content
from flops_fit.tables.columns import Named, others_that_may_be
from flops_fit.tables.curves import CurveRow
from flops_fit.tables.units import shown_units

MANY_EPOCHS = 4.0
"""D over unique tokens up to which repeats are nearly as good as new data (Muennighoff et al. 2023,
arXiv 2305.16264)."""

RATES = re.compile(r"(?:^|[\W_])(?:(?:peak|max|base|init)[\W_]?)?(?:lr|learning[\W_]?rate)$", re.I)
"""Headers of learning rates."""

SEEDS = re.compile(r"(?:^|[\W_])(?:seeds?|rep(?:eat|lica)?|trial)(?:$|[\W_\d])", re.IGNORECASE)
"""Headers of what makes runs repeated."""

SHOWN = 3
"""Values of a column."""

STEPS = re.compile(
    r"(?:^|[\W_])(?:global[\W_]?|train(?:ing|er)?[\W_]?)?"
    r"(?:steps?|iter(?:s|ations?)?|iteration_?num|epochs?|updates?)$",
    re.I,
)
"""Headers of how far a run was."""

OTHER_UNITS = {
    "loss_unit=bits_per_byte": re.compile(
        r"(?:^|[\W_])(?:bpb|bits[\W_]per[\W_]byte)(?:$|[\W_])", re.I
    ),
    "loss_unit=bits": re.compile(r"(?:^|[\W_])bits(?![\W_]per[\W_]byte)(?:$|[\W_])", re.I),
}
"""Headers of losses that are not in nats, by the setting that says so."""

PERPLEXITY = re.compile(r"(?:^|[\W_])(?:ppl|perplexity)(?:$|[\W_])", re.I)


OTHER_COUNTS = re.compile(
    r"(?:non|no|without|excl\w*|w/?o)[\W_]*emb|(?:^|[\W_])(?:active|activated)(?:$|[\W_])", re.I
)
"""Headers of a count of parameters without embeddings, or of those that a token uses."""


def notes_on_columns(
    headers: Sequence[str],
    names: Mapping[str, str],
    columns: Mapping[str, Named],
    units: Mapping[str, float],
) -> Iterator[str]:
    """Columns that were guessed and others that may be meant, units that were read from headers."""
    for ours, theirs in names.items():
        others = others_that_may_be(ours, headers, theirs) if ours not in columns else []
        if ours == "num_params" and ours not in columns:
            others += [h for h in headers if OTHER_COUNTS.search(h) and h not in (theirs, *others)]
        if others:
            yield (
                f"{ours} is read from column {theirs!r}, not from {' or '.join(map(repr, others))}:"
                f" columns.{ours} names another"
            )
        elif ours not in columns and theirs != ours:
            yield f"{ours} is read from column {theirs!r}"
        if ours in units and f"{ours}_unit" not in columns:
            word = shown_units(ours).get(units[ours], "")
            yield f"{theirs!r} is in units of {units[ours]:g}{f' ({word})' if word else ''}"


def notes_on_loss(header: str, nats_per_unit: float) -> Iterator[str]:
    """That a loss read in nats is called something else."""
    if PERPLEXITY.search(header) and "(" not in header:
        yield f"the loss is read from {header!r}: of a perplexity say columns.loss='log({header})'"
    for setting, pattern in OTHER_UNITS.items():
        if pattern.search(header) and nats_per_unit == 1:
            yield f"the loss is read in nats from {header!r}: if it is not, say {setting}"


def notes_on_repeats(
    rows: Sequence[CurveRow], runs: Sequence[Run], cells: Cells, measured: Collection[str]
) -> Iterator[str]:
    """What most methods don't know of these runs: repeated data, curves, learning rates."""
    epochs = [run.num_tokens / run.unique_tokens for run in runs if run.unique_tokens]
    if epochs and max(epochs) > MANY_EPOCHS:
        most = max(epochs)
        yield f"runs see their data up to {most:.3g} times: fit=repeated knows what that costs"
    if len(rows) == len(runs):
        yield from _notes_on_groups(rows, cells, measured)


def _notes_on_groups(
    rows: Sequence[CurveRow], cells: Cells, measured: Collection[str]
) -> Iterator[str]:
    """Rows that look like one curve, and rows of one (N, D) that differ in learning rate."""
    curves: dict[tuple[str, float], set[float]] = defaultdict(set)
    same: dict[tuple[float, float], list[int]] = defaultdict(list)
    has_ids = len({row.run.id for row in rows}) < len(rows)
    for row in rows:
        named = row.run.id if has_ids else cells.rows[row.row].get(FILE, "")
        curves[named, row.run.num_params].add(row.run.num_tokens)
        same[row.run.num_params, row.run.num_tokens].append(row.row)
    steps = [header for header in cells.headers if STEPS.search(header)]
    of_files = len({name for name, _ in curves}) > 1
    if steps and (has_ids or of_files) and any(len(tokens) > 1 for tokens in curves.values()):
        what, and_id = ("id", "") if has_ids else ("file", f" columns.id={FILE}")
        yield (
            f"rows of one {what} and size are read as runs of their own: where they are steps of "
            f"one run, say columns.num_steps={steps[0]}{and_id}"
        )
    for header in cells.headers:
        values = [{cells.rows[i].get(header, "") for i in group} for group in same.values()]
        if RATES.search(header) and header not in measured and any(len(v) > 1 for v in values):
            yield (
                f"runs of one N and D differ in {header!r}: select=best_lr takes the best of "
                "each, the default takes them for repeated seeds"
            )
            return
    others = [header for header in cells.headers if header not in measured]
    if parting := _what_parts(others, cells, list(same.values())):
        shown = list(dict.fromkeys(cells.column(parting)))[:SHOWN]
        yield (
            f"runs of one N and D differ in {parting!r} ({', '.join(shown)}): they are taken for "
            "repeated seeds; where= chooses some of them"
        )


def _what_parts(
    headers: Sequence[str], cells: Cells, groups: Sequence[Sequence[int]]
) -> str | None:
    """A column that makes rows of one N and D runs of different kinds: its values come again from
    group to group, and none twice in one."""
    several = [group for group in groups if len(group) > 1]
    for header in headers:
        values = [[content(cells.rows[i].get(header, "")) for i in group] for group in several]
        kinds = {value for group in values for value in group}
        if SEEDS.search(header) or not header or not kinds or len(kinds) > len(several):
            continue
        if len(kinds) > 1 and all(len({*group}) == len(group) for group in values):
            return header
    return None
