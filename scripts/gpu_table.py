"""What `gpu_check` measures, against which goals, as a table, a page and JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

SCHEMA_VERSION = 1
COLUMNS = 100
"""Widest line of the table."""

BLOCK = "gpu check"
"""Name of the block of docs/gpu.md that is written here."""


@dataclass(frozen=True)
class Row:
    """One number: `goal` in `unit`, reached from below unless `higher` is better.

    `before` is what was measured at a57f0a5, `stretch` a goal beyond the goal. `anywhere`: it is
    to hold on a CPU and at small sizes as well.
    """

    key: str
    part: str
    label: str
    unit: str
    meaning: str
    goal: float | None = None
    stretch: float | None = None
    before: str = ""
    higher: bool = False
    anywhere: bool = False

    def is_met_by(self, value: float) -> bool:
        assert self.goal is not None
        return value >= self.goal if self.higher else value <= self.goal


@dataclass(frozen=True)
class Reading:
    """What was measured of a row: nothing where `value` is None, and `note` says why.

    `at_least`: the value is what it had come to when it was stopped.
    """

    value: float | None = None
    note: str = ""
    at_least: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)


STEP = (
    "milliseconds of one update in bf16 (vocabulary 256, context 256), by the engine's own timing"
)
SHAPES = {
    "0.2M": ("width 64, depth 4, 16 sequences", 13.1, 0.7),
    "3.2M": ("width 256, depth 4, 32 sequences", 11.2, 1.7),
    "25M": ("width 512, depth 8, 32 sequences", 29.0, 6.5),
}
SHARE = (
    "model FLOPs over the card's bf16 peak, without compiling: 6 for each weight and token, head "
    "included, and 6 depth width context for attention, whose masked products don't count"
)


def _step_rows() -> list[Row]:
    rows = []
    for name, (shape, before, goal) in SHAPES.items():
        size, meaning = f"step of a {name} transformer", f"{shape}: {STEP}"
        plain = Row(f"step_{name}", "steps", size, "ms", meaning, before=f"{before:g} ms")
        compiled = replace(
            plain, key=f"step_{name}_compiled", label=f"{size}, compiled", goal=goal,
            meaning=f"the same with torch.compile: {shape}",
        )  # fmt: skip
        rows += [plain, compiled]
    return rows


ROWS: tuple[Row, ...] = (
    *_step_rows(),
    Row(
        "step_mlp", "steps", "step of a tiny MLP", "ms", before="2.7 ms",
        meaning="three hidden layers of 32, 64 rows, fp32: milliseconds of one update",
    ),
    Row(
        "toy", "toy", "toy sweep, 35 runs", "s", goal=20, before="over 300 s",
        meaning="wall seconds of `flops-fit train model=mlp dataset=toy ladder=true`, start and "
        "law included",
    ),
    Row(
        "source", "source", "python_source sweep, 28 runs", "s", goal=60, before="over 600 s",
        meaning="wall seconds of `flops-fit train model=transformer dataset=python_source`, start "
        "and law included",
    ),
    Row(
        "share_124M", "big", "124M transformer, share of peak", "%", goal=42, stretch=50,
        before="14.8 %", higher=True,
        meaning=f"width 768, depth 12, context 1024, vocabulary 50,304, 32 sequences: {SHARE}. "
        "With attention counted in full, as others do, a thirteenth more (before: 15.9%)",
    ),
    Row(
        "share_50M", "big", "50M transformer, share of peak", "%", goal=38, higher=True,
        meaning="the same for width 512, depth 8",
    ),
    Row(
        "memory_124M", "big", "124M, memory estimated against measured", "%", goal=15,
        meaning="|estimated / measured - 1| of the most that tensors take at once in a step that "
        "runs op by op, which is what `plan` estimates",
    ),
    Row(
        "memory_50M", "big", "50M, memory estimated against measured", "%", goal=15,
        meaning="the same for width 512, depth 8",
    ),
    Row(
        "captured", "exact", "captured against eager, loss", "", goal=1e-4, anywhere=True,
        meaning="relative difference of the held-out losses of one run in fp32, trained both ways",
    ),
    Row(
        "resumed", "exact", "killed and resumed, loss", "", goal=1e-6, anywhere=True,
        meaning="relative difference of the held-out losses of a run that was killed with -9 and "
        "continued, and of the same run undisturbed",
    ),
    Row(
        "uncapturable", "exact", "a model that can't be captured", "yes", goal=1, anywhere=True,
        higher=True,
        meaning="whether a model whose forward pass reads the device is trained, and said to be "
        "eager once, or on a CPU not at all",
    ),
    Row(
        "dropout", "exact", "dropout differs from step to step", "yes", goal=1, anywhere=True,
        higher=True,
        meaning="whether the training loss of equal rows varies where no weight changes",
    ),
    Row(
        "side", "side", "48 small runs, against one by one eager", "times", goal=8, stretch=15,
        before="1", higher=True,
        meaning="seconds of 24 MLPs and 24 transformers, each of 3 sizes and 8 seeds, as they are "
        "trained by default; those of the first seed one by one eagerly, times 8; the quotient",
    ),
    Row(
        "plan_hours", "plan", "plan 'budgets=[1e15,1e16]' says", "h", goal=1, before="72 h",
        meaning="hours that `flops-fit plan model=mlp dataset=toy 'budgets=[1e15,1e16]'` tells",
    ),
    Row(
        "plan_error", "plan", "planned seconds against trained", "%", goal=25,
        meaning="|trained / planned - 1| of the largest sweep that fits, a tenth of these budgets "
        "at most (the note says which)",
    ),
)  # fmt: skip

PARTS = tuple(dict.fromkeys(row.part for row in ROWS))
"""In the order of their importance."""

Verdict = Literal["met", "missed", "-", "?"]


def verdict(row: Row, reading: Reading, *, judged: bool) -> Verdict:
    """`?` where nothing was measured; `-` without a goal, or where it isn't for this machine."""
    if reading.value is None:
        return "?"
    if row.goal is None or not (judged or row.anywhere):
        return "-"
    if reading.at_least:  # it had come so far and was stopped: what it would be is not known
        return "missed" if not row.higher and not row.is_met_by(reading.value) else "?"
    return "met" if row.is_met_by(reading.value) else "missed"


def number(value: float) -> str:
    """With three digits that tell."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def measured(row: Row, reading: Reading) -> str:
    if reading.value is None:
        return "not measured"
    if row.unit == "yes":
        return "yes" if reading.value else "no"
    return f"{'over ' if reading.at_least else ''}{number(reading.value)} {row.unit}".strip()


def goal(row: Row) -> str:
    if row.goal is None:
        return ""
    if row.unit == "yes":
        return "yes"
    further = f" ({number(row.stretch)})" if row.stretch else ""
    return f"{number(row.goal)}{further} {row.unit}".strip()


@dataclass(frozen=True)
class Check:
    """Everything that one call of `gpu_check` found; `parts` holds how each part ended."""

    date: str
    commit: str
    machine: Mapping[str, Any]
    device: str
    small: bool
    seconds: float
    parts: Mapping[str, str]
    readings: Mapping[str, Reading]

    @property
    def is_judged(self) -> bool:
        """Whether the goals are for this machine and these sizes."""
        return self.device.startswith("cuda") and not self.small

    @property
    def rows(self) -> list[Row]:
        """Of the parts that were asked for."""
        return [row for row in ROWS if row.part in self.parts]

    def reading(self, row: Row) -> Reading:
        return self.readings.get(row.key, Reading(note=self.parts[row.part]))

    def verdict(self, row: Row) -> Verdict:
        return verdict(row, self.reading(row), judged=self.is_judged)

    @property
    def missed(self) -> list[Row]:
        return [row for row in self.rows if self.verdict(row) == "missed"]

    def to_json(self) -> dict[str, Any]:
        rows = {
            row.key: {
                **vars(self.reading(row)), "label": row.label, "unit": row.unit, "goal": row.goal,
                "before": row.before, "verdict": self.verdict(row),
            }
            for row in self.rows
        }  # fmt: skip
        named = {k: v for k, v in vars(self).items() if k != "readings"}
        return {"schema_version": SCHEMA_VERSION, **named, "rows": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Check:
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {version}, this script reads {SCHEMA_VERSION}: take the script "
                "of the commit that wrote the file"
            )
        names = ("date", "commit", "machine", "device", "small", "seconds", "parts")
        keys = ("value", "note", "at_least", "detail")
        readings = {key: Reading(**{k: row[k] for k in keys}) for key, row in data["rows"].items()}
        return cls(**{name: data[name] for name in names}, readings=readings)

    @property
    def heading(self) -> str:
        """Where, when and at which commit, in a line."""
        sizes = ", small sizes" if self.small else ""
        where = self.machine.get("name", self.device)
        return f"{where}{sizes}; {self.date}, commit {self.commit}, {self.seconds:.0f} s in all"


def plain_table(check: Check) -> str:
    """For a terminal, at most COLUMNS wide; a note stands below its row."""
    lines = [*textwrap.wrap(check.heading, COLUMNS), ""]
    lines.append(_line("", "measured", "goal", "before", ""))
    for row in check.rows:
        reading = check.reading(row)
        cells = measured(row, reading), goal(row), row.before, check.verdict(row)
        lines.append(_line(row.label, *cells))
        indent = "    "
        lines += textwrap.wrap(
            reading.note, COLUMNS, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(line.rstrip() for line in lines)


def _line(label: str, value: str, wanted: str, before: str, told: str) -> str:
    return f"{label:<42} {value:>16} {wanted:>14} {before:>12}  {told:<6}"


def page(check: Check) -> str:
    """The Markdown of docs/gpu.md that follows its title."""
    lines = [f"Measured by `scripts/gpu_check`: {check.heading}.", ""]
    lines += [f"- {name}: {value}" for name, value in check.machine.items()]
    if not check.is_judged:
        lines += ["", "The goals are for an H100 or H200 at full size: speeds are not judged here."]
    lines += ["", "| | measured | goal | before | | |", "|---|---|---|---|---|---|"]
    for row in check.rows:
        reading = check.reading(row)
        cells = (row.label, measured(row, reading), goal(row), row.before, check.verdict(row))
        lines.append(_markdown_row((*cells, reading.note)))
    lines += ["", "What the rows mean, in their order:", ""]
    lines += [f"- **{row.label}**: {row.meaning}." for row in check.rows]
    lines += ["", "`before` is commit a57f0a5 on an H100. `over`: stopped at that, at its limit."]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
