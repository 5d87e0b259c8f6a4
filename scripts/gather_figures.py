"""Gathers what other scripts measured: docs/how-we-know.md, and blocks of README and other pages.

    python scripts/gather_figures.py [--check]

Every number is read from the page that its own script wrote, so that none is typed twice. With
--check says whether all is as it should be, and writes nothing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from marked_block import block, write_block

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGE = DOCS / "how-we-know.md"

Row = list[str]
"""Cells of a table, by their place: some tables have two columns of one name."""

TEXT = """<!-- made by scripts/gather_figures.py -->
# How we know

A law that sounds sure proves nothing. What was measured, by which script, in short; each heading
links to the page that has it whole.

## Forecasts, held against what was measured later

[Fifteen public sweeps](forecasts.md#public-sweeps), every cut with four budgets or more below it,
every later optimum, by `scripts/forecast_bench.py`. The default answer (`fit=auto`):

{forecasts}

The least loss of a budget that the sweep did not see, and the size that reached it. An 80% interval
should hold 0.80 of them.

## Intervals, held against planted laws

[{coverage_seeds} simulated sweeps](fitting.md#how-often-the-intervals-hold), by
`scripts/fit_coverage.py`: how often a nominal 90% interval held the planted value.

{coverage}

## The shipped sweeps, verified

[Trained as a user would](sweeps.md), by `scripts/check_sweeps.py`, then tested by a run beyond the
largest budget:

{sweeps}

## Fits, beside other tools

[The same rows and the same objective](compare-fits.md), by `scripts/compare_fits.py`:

{tools}

`above`: how far above the least objective that any of them found.

## Speed

[On one thread of a CPU](performance.md), by `scripts/bench_engine.py`, against an expert's plain
PyTorch loop that reaches the same loss; and [on a GPU](gpu.md), by `scripts/gpu_check`:

{speed}

{gpu}

## Reliability

- [Tests](testing.md) run through {coverage_share} of the lines and branches of the package, and
  notice {mutation_share} of the faults that are planted in it ({mutation_number} of them).
- [What a study's files hold is data](trust.md): {corruptions} ways of spoiling a small study over
  all commands, by `scripts/corrupt_store.py`, run no code, write nowhere else and give no other
  answer without a word.
- [{num_models} models of others](models-of-others.md) are planned, trained, stopped by Ctrl-C and
  continued, by `scripts/check_models.py`; {equal} of them to the last bit.
- [One learning rate for all sizes](width-scaling.md): {rates}, by `scripts/check_width_scaling.py`.
- What [forecasts](forecasts.md) does not show, because no public data do: budgets more than 40
  times beyond, and tasks other than language.
"""


GPU_ROWS = ("toy sweep", "python_source sweep", "124M transformer", "50M transformer")

TIMES = """| what | on a CPU | on a GPU |
|---|---|---|
| a law of your own table: `fit runs=mine.csv` | seconds, [measured]({docs}fitting.md#figures) | |
| `train model=mlp dataset=toy`, 35 runs | {toy_cpu} on 2 cores | {toy_gpu} |
| `train model=transformer dataset=python_source`, 28 runs | {text_cpu} on 2 cores | {text_gpu} |
| the same command again | {again} | |
"""


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def table(page: str, after: str = "") -> list[Row]:
    """The first table of a page, or the first one behind some words, without its head."""
    text = text_of(page)
    if after not in text:
        raise ValueError(f"{page} has no {after!r}")
    lines = text[text.index(after) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines[start + 2 : end]]


def markdown(head: str, rows: list[Row]) -> str:
    cells = [head.split(" | ")]
    cells += [["---"] * len(cells[0]), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def found(pattern: str, page: str) -> str:
    """What the pattern's group holds in a page. Raises `ValueError` where it is not there."""
    match = re.search(pattern, text_of(page), re.DOTALL)
    if match is None:
        raise ValueError(f"{page} has no {pattern}")
    return " ".join(match[1].split())


def factor(decades: str) -> str:
    return f"x{10 ** float(decades):.2f}"


def of_the_answer() -> list[Row]:
    """Forecasts of the default answer, by distance."""
    return [row for row in table("forecasts.md", "<!-- public -->") if row[0] == "auto"]


def forecasts() -> str:
    rows = [[r[1], r[2], r[3], r[4], r[5], factor(r[8]), r[10]] for r in of_the_answer()]
    head = "times beyond | forecasts | loss off by, median | 90% under | loss inside 80% | N off by"
    return markdown(f"{head}, median | N inside 80%", rows)


def distances() -> str:
    rows = [[r[1], r[3], r[4], factor(r[8]), factor(r[9])] for r in of_the_answer()]
    head = "times beyond the largest budget | loss off by | 90% under | N off by | 90% under"
    return markdown(head, rows)


def coverage() -> str:
    rows = [row[:2] for row in table("fitting.md", "## How often the intervals hold")]
    return markdown("method and quantity | held", rows)


def sweeps() -> str:
    rows = []
    for section in text_of("sweeps.md").split("\n## ")[1:]:
        name = section.partition("\n")[0].removeprefix("flops-fit train ")
        for line in re.findall(r"^- at (.*)$", section, re.MULTILINE):
            where, _, rest = line.partition(": predicted ")
            predicted, _, trained = rest.partition("; trained ")
            measured, _, off = trained.rpartition(": ")
            rows.append([f"`{name}`", where, predicted, measured, off.removesuffix(" off")])
    return markdown("sweep | at | predicted | trained | off by", rows)


def tools() -> str:
    return markdown(
        "rows | tool | above | seconds",
        [[r[0], r[1], r[4], r[6]] for r in table("compare-fits.md")],
    )


def speed() -> str:
    rows = [row[:3] for row in table("performance.md")]
    return markdown("ratio, one thread of a CPU | measured | aimed at", rows)


def gpu() -> str:
    rows = [[r[0], r[1]] for r in table("gpu.md", "| measured |") if r[0].startswith(GPU_ROWS)]
    return markdown("one GPU | measured", rows)


def page() -> str:
    mutation = table("testing.md", "<!-- mutation -->")[-1]
    models = table("models-of-others.md")
    return TEXT.format(
        forecasts=forecasts(),
        coverage_seeds=found(r"Share of (\d+) simulated sweeps", "fitting.md"),
        coverage=coverage(),
        sweeps=sweeps(),
        tools=tools(),
        speed=speed(),
        gpu=gpu(),
        coverage_share=table("testing.md", "<!-- coverage -->")[-1][-1],
        mutation_share=mutation[3],
        mutation_number=mutation[1],
        corruptions=found(r"spoils a small study in ([\d,]+) ways", "trust.md"),
        num_models=len(models),
        equal=sum(row[-1] == "equal" for row in models),
        rates=rates(),
    )


def rates() -> str:
    """Of each pair how far the worst size is off at the rate that suits them best."""
    found = []
    for section in text_of("width-scaling.md").split("\n## ")[1:]:
        pair = " ".join(section.split()[:2])
        share = re.search(r"ends within (\S+%) of its best", section)
        found += [f"{share[1]} for `{pair}`"] if share else []
    return f"at one rate every size ends within {', '.join(found)} of its best"


def times(docs: str) -> str:
    """What takes how long; `docs` leads from the page to the others."""
    first = [
        found(rf"model={m} .*?first call (\d+) s", "sweeps.md") for m in ("mlp", "transformer")
    ]
    cards = {row[0].split(",")[0]: row[1] for row in table("gpu.md", "| measured |")}
    return TIMES.format(
        docs=docs,
        toy_cpu=f"[{int(first[0]) / 60:.1f} minutes]({docs}sweeps.md)",
        text_cpu=f"[{int(first[1]) / 60:.1f} minutes]({docs}sweeps.md)",
        again=f"[{found(r'second call ([0-9.]+) s', 'sweeps.md')} s]({docs}sweeps.md)",
        toy_gpu=f"[{cards['toy sweep']}]({docs}gpu.md)",
        text_gpu=f"[{cards['python_source sweep']}]({docs}gpu.md)",
    )


BLOCKS = (
    (DOCS / "choosing-budgets.md", "figures: distances", distances),
    (ROOT / "README.md", "figures: times", lambda: times("docs/")),
)


def main() -> int:
    stale = [path for path, name, made in BLOCKS if block(path, name).strip() != made().strip()]
    if not PAGE.exists() or text_of(PAGE.name) != page():
        stale.append(PAGE)
    if "--check" in sys.argv:
        print("\n".join(f"{path} is not of today's figures" for path in stale))
        return 1 if stale else 0
    PAGE.write_text(page(), encoding="utf-8")
    for path, name, made in BLOCKS:
        write_block(path, name, made())
    return 0


if __name__ == "__main__":
    sys.exit(main())
