"""Thousands of tables as nobody should write them: each gives the law that was planted in it, or
one sentence; never a traceback, never another law.

    OMP_NUM_THREADS=1 python scripts/garbage_tables.py [--number 10000] [--seed 0] [--kind KIND]

A sweep of a known surface is written in one of many dresses (delimiters, units, files, curves) or
damaged, and fitted as `flops-fit fit` would. Prints what came of each kind, and every failure with
the seed that makes it again.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.errors import UserError
from flops_fit.fitting import IsoflopFit
from flops_fit.fitting.selection import LowestLoss
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.settings import from_keywords
from flops_fit.settings.answers import TableFitSettings
from flops_fit.study.fits import Fitting, fit_again, table_to_fit

SURFACE = LossSurface(E=1.7, A=400.0, B=1200.0, alpha=0.34, beta=0.34)

BUDGETS = (1e18, 3e18, 1e19, 3e19)

SIZES = (0.3, 0.5, 0.75, 1.0, 1.4, 2.0, 3.3)

NOISE = 0.0005
"""Relative, of the losses: less than between seeds, so that a wrong law is told from noise."""

TARGET = 1e20
"""FLOPs for which the law is asked."""

WRONG = 0.2
"""Relative error of N_opt beyond which a law is another than the planted one; noise gives 5%."""

PF_DAY = 8.64e19

Random = np.random.Generator


class Must(Enum):
    """What has to come of a table."""

    FIT = "the planted law"
    FIT_OR_REFUSE = "the planted law, or one sentence"
    END = "one sentence or any law: nothing was planted"


@dataclass(frozen=True)
class Table:
    """Files by name, and what `fit` is told of them; without files named, of all."""

    files: dict[str, bytes]
    settings: dict[str, Any] = field(default_factory=dict)
    runs: str = ""
    best: bool = False


Rows = list[dict[str, Any]]


def swept(rng: Random) -> Rows:
    runs = simulate_sweep(
        SURFACE, BUDGETS, sizes=SIZES, noise=NOISE, seed=int(rng.integers(1_000_000))
    )
    return [
        {"name": f"isoflop-{run.budget:.0e}-{i}", "N": run.num_params, "D": run.num_tokens,
         "C": run.flops, "loss": run.loss}
        for i, run in enumerate(runs)
    ]  # fmt: skip


def text(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def as_csv(rows: Rows, headers: Sequence[str], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows([text(row[header]) for header in headers] for row in rows)
    return file.getvalue().encode()


def two_of(rng: Random) -> list[str]:
    """Which sizes the table gives."""
    return [["N", "D"], ["N", "C"], ["D", "C"], ["N", "D", "C"]][rng.integers(4)]


def plain(rng: Random) -> tuple[Rows, list[str]]:
    """A sweep, and the headers of its table in some order."""
    rows = swept(rng)
    order = [str(h) for h in rng.permutation([*two_of(rng), "loss", "name"])]
    return [rows[i] for i in rng.permutation(len(rows))], order


# Dresses: the law must come out


def delimited(rng: Random) -> Table:
    rows, headers = plain(rng)
    data = as_csv(rows, headers, str(rng.choice([",", ";", "\t", "|"]))).decode()
    if rng.random() < 0.3:
        data = data.replace("\n", "\r\n")
    if rng.random() < 0.3:
        data = f"our sweep\n\n{data}\n\n"
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    return Table({"runs.csv": data.encode(encoding)})


def decimal_commas(rng: Random) -> Table:
    rows, headers = plain(rng)
    return Table({"runs.csv": as_csv(rows, headers, ";").replace(b".", b",")})


def thousands(rng: Random) -> Table:
    rows, headers = plain(rng)
    mark = str(rng.choice([",", " ", "'", "_"]))
    for row in rows:
        row |= {name: f"{row[name]:,.0f}".replace(",", mark) for name in "NDC"}
    return Table({"runs.csv": as_csv(rows, headers)})


def suffixes(rng: Random) -> Table:
    rows, headers = plain(rng)
    for row in rows:
        row["N"] = f"{row['N'] / 1e6:.8g}" + str(rng.choice(["M", "m", " million", "M params"]))
        row["D"] = f"{row['D'] / 1e9:.8g}" + str(rng.choice(["B", " bn", " billion tokens"]))
        row["C"] = f"{row['C'] / 1e18:.8g}" + str(rng.choice([" EFLOPs", "x10^18", "E18"]))
    return Table({"runs.csv": as_csv(rows, headers)})


UNITS = {
    "N": {"params (M)": 1e6, "params_B": 1e9, "N [millions]": 1e6, "params/1e6": 1e6},
    "D": {"tokens (B)": 1e9, "tokens_M": 1e6, "D in billions": 1e9, "Btokens": 1e9},
    "C": {"compute (PF-days)": PF_DAY, "C (1e18)": 1e18, "EFLOPs": 1e18, "compute_gflops": 1e9},
}


def header_units(rng: Random) -> Table:
    rows, headers = plain(rng)
    for name, units in UNITS.items():
        header = str(rng.choice([*units]))
        for row in rows:
            row[header] = row[name] / units[header]
        headers = [header if h == name else h for h in headers]
    columns = {"flops": "EFLOPs"} if "EFLOPs" in headers else {}
    return Table({"runs.csv": as_csv(rows, headers)}, {"columns": columns})


def packed(rng: Random) -> Table:
    rows, headers = plain(rng)
    data = as_csv(rows, headers)
    pack: Callable[[bytes], bytes] = [gzip.compress, bz2.compress, lzma.compress][rng.integers(3)]
    return Table({str(rng.choice(["runs.csv.gz", "runs.csv", "runs.bin"])): pack(data)})


def parquet(rng: Random) -> Table:
    import pyarrow
    import pyarrow.parquet

    rows, headers = plain(rng)
    sink = io.BytesIO()
    table = pyarrow.Table.from_pylist([{h: row[h] for h in headers} for row in rows])
    pyarrow.parquet.write_table(table, sink)
    return Table({"runs.parquet": sink.getvalue()})


def workbook(rng: Random) -> Table:
    import openpyxl

    rows, headers = plain(rng)
    book = openpyxl.Workbook()
    for line in [headers, *([row[h] for h in headers] for row in rows)]:
        book.active.append(line)
    sink = io.BytesIO()
    book.save(sink)
    return Table({"runs.xlsx": sink.getvalue()})


def json_kinds(rng: Random) -> Table:
    rows, headers = plain(rng)
    records = [{h: row[h] for h in headers} for row in rows]
    whole = [
        "\n".join(map(json.dumps, records)),
        json.dumps(records, indent=2),
        json.dumps({"runs": records}),
        json.dumps({h: [r[h] for r in records] for h in headers}),
        json.dumps([{"config": {"N": r["N"], "D": r["D"]}, "loss": r["loss"]} for r in rows]),
    ]
    choice = int(rng.integers(len(whole)))
    columns = {"num_params": "config.N", "num_tokens": "config.D"} if choice == 4 else {}
    return Table({"runs.json": whole[choice].encode()}, {"columns": columns})


def several_files(rng: Random) -> Table:
    rows, headers = plain(rng)
    files = {
        f"isoflop-{b:.0e}.csv": as_csv([r for r in rows if f"-{b:.0e}-" in r["name"]], headers)
        for b in BUDGETS
    }
    asked = str(rng.choice([".", "*.csv", "[" + ",".join(files) + "]"]))
    columns = {"budget": "regex(file, isoflop-([0-9.e+]+)[.]csv)"} if rng.random() < 0.5 else {}
    return Table(files, {"columns": columns}, asked)


def drawn(rng: Random) -> Table:
    rows, headers = plain(rng)
    mark = str(rng.choice(["", "`", "**"]))
    lines = [f"| {' | '.join(headers)} |", "|" + "---:|" * len(headers)]
    lines += [f"| {' | '.join(mark + text(row[h]) + mark for h in headers)} |" for row in rows]
    return Table({"issue.md": ("What we found:\n\n" + "\n".join(lines) + "\n\nThanks!\n").encode()})


def pivoted(rng: Random) -> Table:
    sizes = [float(f"{n:.3g}") for n in np.geomspace(2e7, 2e9, 9)]
    lines = [["size", *(f"{c:.0e}" for c in BUDGETS)]]
    for n in sizes:
        losses = [float(SURFACE(n, c / 6 / n)) for c in BUDGETS]
        lines.append([f"{n / 1e6:g}M", *(f"{loss:.6f}" for loss in losses)])
    pivot = "num_params,flops"
    if rng.random() < 0.5:
        lines, pivot = [list(line) for line in zip(*lines, strict=True)], "C x N"
    return Table({"runs.csv": "\n".join(map(",".join, lines)).encode()}, {"pivot": pivot})


def computed(rng: Random) -> Table:
    rows, _ = plain(rng)
    for row in rows:
        row |= {"steps": row["D"] / 524288, "ppl": float(np.exp(row["loss"]))}
        row["per step"] = row["C"] / row["steps"]
    columns = {"loss": "log(ppl)", "budget": "regex(isoflop-([0-9.e+]+))"}
    more = [{"num_tokens": "steps * 524288"}, {"flops": "steps * `per step`"}][rng.integers(2)]
    headers = ["name", "N", "steps", "per step", "ppl"]
    return Table({"runs.csv": as_csv(rows, headers)}, {"columns": {**columns, **more}})


def chosen_rows(rng: Random) -> Table:
    rows, headers = plain(rng)
    others = [{**row, "loss": row["loss"] + 1, "group": "other", "lr": 3.0} for row in rows]
    mine = [{**row, "group": "base one", "lr": 1e-3} for row in rows]
    both = [*mine, *others]
    where = [
        "group = base one", "group contains base", "not group = other", "lr in [0.001, 2]",
        "lr < 1 and (group != other or N < 1)", "'base' in group", "1e3 * lr <= 1",
    ]  # fmt: skip
    data = as_csv([both[i] for i in rng.permutation(len(both))], [*headers, "group", "lr"])
    where = [w for w in where if "N" in headers or "N <" not in w]
    return Table({"runs.csv": data}, {"where": str(rng.choice(where))})


def further_columns(rng: Random) -> Table:
    rows, headers = plain(rng)
    extra = {
        "config": lambda: json.dumps({"a": [1, "b,c"], "d": "x" * 500}),
        "=SUM(A1)": lambda: "=cmd|' /C calc'!A0",
        "größe 名前": lambda: "\u202e\U0001f600",
        "": lambda: str(rng.random()),
        "when": lambda: "2026-11-27 12:00",
    }
    for row in rows:
        row |= {name: make() for name, make in extra.items()}
    return Table({"runs.csv": as_csv(rows, [*map(str, rng.permutation([*headers, *extra]))])})


SHARES = (0.2, 0.5, 0.8, 1.0)


def curve_rows(rng: Random, *, rates: Sequence[float] = (1e-3,)) -> Rows:
    """Checkpoints of every run, for each learning rate; all but the first are worse."""
    rows = []
    for row in swept(rng):
        for lr in rates:
            worse = 0.15 * (lr != rates[0])
            for share in SHARES:
                d = row["D"] * share
                early = 0.1 * (1 - share)
                loss = float(SURFACE(row["N"], d)) + early + worse
                rows.append({"sweep": "a", "run": row["name"], "lr": lr, "N": row["N"], "D": d,
                             "step": round(d / 65536), "loss": loss})  # fmt: skip
    return [rows[i] for i in rng.permutation(len(rows))]


CURVES = ["sweep", "run", "lr", "N", "D", "step", "loss"]


def curves(rng: Random) -> Table:
    rates = (1e-3, 1e-2) if rng.random() < 0.5 else (1e-3,)
    ids = "[run, lr]" if len(rates) > 1 else str(rng.choice(["run", "[sweep,run]"]))
    columns = {"id": ids, "num_steps": "step"}
    data = as_csv(curve_rows(rng, rates=rates), CURVES)
    return Table({"runs.csv": data}, {"columns": columns}, best=True)


# Wrong without a word: the law or a refusal


def merged_curves(rng: Random) -> Table:
    rows = curve_rows(rng, rates=[(1e-3, 1e-2), (1e-2, 1e-3)][rng.integers(2)])
    rates = [r["lr"] for r in rows]
    best = min(rates, key=lambda lr: sum(r["loss"] for r in rows if r["lr"] == lr))
    if rng.random() < 0.5:
        rows = [{**r, "step": r["step"] + (r["lr"] != best)} for r in rows]
    ids = str(rng.choice(["sweep", "run"]))
    columns = {"id": ids, "num_steps": "step"}
    return Table({"runs.csv": as_csv(rows, CURVES)}, {"columns": columns}, best=rng.random() < 0.5)


SCALES = {
    "N": (1.0, 1e6, 1e9), "D": (1.0, 1e9, 1e12), "C": (1.0, 1e9, 1e12, 1e15, 1e18, PF_DAY),
}  # fmt: skip


def silent_units(rng: Random) -> Table:
    rows, headers = plain(rng)
    for name, scales in SCALES.items():
        scale = float(rng.choice(scales))
        rows = [{**row, name: row[name] / scale} for row in rows]
    return Table({"runs.csv": as_csv(rows, headers)})


def one_wrong_unit(rng: Random) -> Table:
    rows, headers = plain(rng)
    name = str(rng.choice([h for h in headers if h in "NDC"]))
    i = int(rng.integers(len(rows)))
    rows[i] = {**rows[i], name: rows[i][name] / float(rng.choice([1e6, 1e9, 1e12]))}
    return Table({"runs.csv": as_csv(rows, headers)})


BAD_CELLS = (
    *("", "-1", "0", "nan", "inf", "-inf", "1e400", "1e-300", "n/a", "None", "#DIV/0!", "1,5,3"),
    *("=1+1", "~", "ten", "1e", "--3", "3 4", "\u0663", "9" * 400, "true", "[1]", "1e9e9", "0x10"),
)


def bad_cells(rng: Random) -> Table:
    rows, headers = plain(rng)
    for _ in range(int(rng.integers(1, 4))):
        i = int(rng.integers(len(rows)))
        header = str(rng.choice([h for h in headers if h != "name"]))
        rows[i] = {**rows[i], header: str(rng.choice(BAD_CELLS))}
    return Table({"runs.csv": as_csv(rows, headers)})


def ragged(rng: Random) -> Table:
    rows, headers = plain(rng)
    lines = as_csv(rows, headers).decode().splitlines()
    i = int(rng.integers(len(lines)))
    cells = lines[i].split(",")
    j = int(rng.integers(len(cells)))
    kind = int(rng.integers(4))
    if kind == 0:
        cells.insert(j, "7")
    elif kind == 1:
        del cells[j]
    elif kind == 2:
        cells = [f"{cells[0]},{cells[0]}", *cells[1:]]
    else:
        cells[j] = '"' + cells[j]
    lines[i] = ",".join(cells)
    return Table({"runs.csv": "\n".join(lines).encode()})


def odd_headers(rng: Random) -> Table:
    rows, headers = plain(rng)
    data = as_csv(rows, headers).decode().split("\n", 1)
    names = data[0].split(",")
    i = int(rng.integers(len(names)))
    names[i] = str(rng.choice(["", names[i - 1], "and", "1e18", "file", "loss (bits)", "x" * 5000]))
    columns = {
        {"N": "num_params", "D": "num_tokens", "C": "flops"}[h]: h for h in names if h in "NDC" if h
    }
    return Table({"runs.csv": (",".join(names) + "\n" + data[1]).encode()}, {"columns": columns})


def wrong_words(rng: Random) -> Table:
    """Settings that can't be read."""
    rows, headers = plain(rng)
    broken = "".join(map(str, rng.choice([*"()[]`'\"*+-/^=<>,.%$ andornotNDClog1", "regex("], 12)))
    name = str(rng.choice(["loss", "num_params", "id", "budget", "num_steps", "flops_unit"]))
    columns = {name: broken}
    some = [{"columns": columns}, {"where": broken}, {"pivot": broken}][rng.integers(3)]
    return Table({"runs.csv": as_csv(rows, headers)}, some)


# Nothing that was planted is left


def damaged_bytes(rng: Random) -> Table:
    table = [delimited, packed, json_kinds, drawn, parquet, workbook][rng.integers(6)](rng)
    ((name, data),) = table.files.items()
    bytes_ = bytearray(data)
    if rng.random() < 0.5:
        bytes_ = bytes_[: int(rng.integers(len(bytes_)))]
    else:
        for _ in range(int(rng.integers(1, 30))):
            bytes_[rng.integers(len(bytes_))] = int(rng.integers(256))
    return replace(table, files={name: bytes(bytes_)})


def any_bytes(rng: Random) -> Table:
    marks = [b"", b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"BZh9", b"\x28\xb5\x2f\xfd", b"{", b"[[",
             b"\xff\xfe", b"|-|\n", b"N,D,loss\n", b"---|---\n"]  # fmt: skip
    data = bytes(rng.integers(0, 256, int(rng.integers(0, 300)), dtype=np.uint8))
    return Table({"table": marks[rng.integers(len(marks))] + data})


def deep_json(rng: Random) -> Table:
    depth = int(rng.choice([10, 500, 5000, 100_000]))
    kinds = [
        "[" * depth + "]" * depth,
        '{"a":' * depth + "1" + "}" * depth,
        '{"N": ' + "9" * depth + ', "D": 1, "loss": 1}',
        '{"N": 1e8, "D": 2e9, "loss": {"a": [1, {"b": null}]}}',
        '{"N": "\\ud800", "D": 2e9, "loss": 3}',
        "null", "[]", "[null]", "{}", '{"": {"": {"": 1}}}', "[1, 2]", '{"N": true}',
    ]  # fmt: skip
    return Table({"runs.json": kinds[rng.integers(len(kinds))].encode()})


def permuted(rng: Random) -> Table:
    rows, headers = plain(rng)
    losses = [rows[i]["loss"] for i in rng.permutation(len(rows))]
    rows = [{**row, "loss": loss} for row, loss in zip(rows, losses, strict=True)]
    return Table({"runs.csv": as_csv(rows, headers)})


KINDS: dict[Callable[[Random], Table], Must] = {
    **dict.fromkeys(
        (delimited, decimal_commas, thousands, suffixes, header_units, packed, parquet, workbook,
         json_kinds, several_files, drawn, pivoted, computed, chosen_rows, further_columns, curves),
        Must.FIT,
    ),
    **dict.fromkeys(
        (merged_curves, silent_units, one_wrong_unit, bad_cells, ragged, odd_headers, wrong_words),
        Must.FIT_OR_REFUSE,
    ),
    **dict.fromkeys((damaged_bytes, any_bytes, deep_json, permuted), Must.END),
}  # fmt: skip
"""What is made of a table, and what must come of it."""


def planted_optimum() -> float:
    """N_opt of the surface for the target."""
    return float(SURFACE.N_opt(TARGET, FlopRule.constant()))


def fitted(table: Table, folder: Path) -> float | None:
    """N_opt of the law for the target, None where there is none. Raises what the fit raises."""
    for name, data in table.files.items():
        (folder / name).write_bytes(data)
    names = table.runs or next(iter(table.files))
    asked = "[" + ",".join(str(folder / n) for n in names.strip("[]").split(",")) + "]"
    settings = from_keywords(TableFitSettings, table.settings, {})
    given = table_to_fit(asked, settings, folder / "outputs", None, lambda line: None)
    select = (
        LowestLoss() if table.best else Fitting.__dataclass_fields__["select"].default_factory()
    )
    how = Fitting(answer=IsoflopFit(), draws=0, seed=0, select=select)
    law = fit_again(given, how, lambda line: None).law
    return None if law is None else float(law.predict(TARGET).num_params)


def trouble(kind: Callable[[Random], Table], seed: int) -> tuple[str, str]:
    """What came of a table ("law", "refused", "no law"), and what is wrong with that."""
    table = kind(np.random.default_rng(seed))
    must = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = fitted(table, Path(folder))
        except UserError as error:
            return "refused", f"refused: {error}" if must is Must.FIT else ""
        except Exception:  # whatever it is, it is what this script looks for
            return "traceback", traceback.format_exc()
    if found is None:
        return "no law", "no law" if must is Must.FIT else ""
    off = found / planted_optimum() - 1
    is_wrong = must is not Must.END and not abs(off) < WRONG
    return "law", f"N_opt is off by {off:+.0%}" if is_wrong else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=10_000, help="of tables")
    parser.add_argument("--seed", type=int, default=0, help="of the first table")
    parser.add_argument("--kind", help="only this one")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("error")
    kinds = [kind for kind in KINDS if asked.kind in (None, kind.__name__)]
    came: dict[str, Counter[str]] = {kind.__name__: Counter() for kind in kinds}
    failures = 0
    for seed in range(asked.seed, asked.seed + asked.number):
        kind = kinds[seed % len(kinds)]
        outcome, wrong = trouble(kind, seed)
        came[kind.__name__][outcome] += 1
        if wrong:
            failures += 1
            print(f"--kind {kind.__name__} --seed {seed} --number 1: {wrong}", flush=True)
    for name, outcomes in came.items():
        print(f"{name:<16}", ", ".join(f"{n} {what}" for what, n in outcomes.most_common()))
    print(f"{asked.number} tables, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
