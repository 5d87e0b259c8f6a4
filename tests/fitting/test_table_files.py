"""Tables in the files that people have: packed, many, drawn, by two axes."""

import bz2
import gzip
import json
import lzma
import math
import zipfile
from pathlib import Path

import pytest

from flops_fit.errors import UserError
from flops_fit.tables import name_of, read_table, table_files, write_runs

pytest.importorskip("pyarrow")
pytest.importorskip("openpyxl")

TABLE = "name,N,D,loss\na,1e8,2e9,3.5\nb,2e8,4e9,3.2\n"

RECORDS = [
    {"name": "a", "N": 1e8, "D": 2e9, "loss": 3.5},
    {"name": "b", "N": 2e8, "D": 4e9, "loss": 3.2},
]


LISTS = [list(RECORDS[0]), *(list(record.values()) for record in RECORDS)]


PAPER = r"""
We trained two models, see Table~1 \\
\begin{tabular}{lrrr} \toprule
name & $N$ & $D$ & \textbf{loss} \\ \midrule
a & $10^{8}$ & 2B & 3.5 \\
b & 200M & $4 \times 10^{9}$ & \textbf{3.2} \\[2pt] \bottomrule
\end{tabular}
"""


def as_zip_of_a_mac(path):
    as_zip(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._runs.csv", "what a Mac adds")


def as_zst(path):
    import pyarrow

    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(TABLE.encode())


def as_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("runs.csv", TABLE)


def as_parquet(path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)


def as_workbook(path):
    import openpyxl

    book = openpyxl.Workbook()
    for line in (["Our sweep"], [], *([list(RECORDS[0])] + [list(r.values()) for r in RECORDS])):
        book.active.append(line)
    book.create_sheet("empty")
    book.save(path)


WRITERS = {
    "runs.csv.gz": lambda path: path.write_bytes(gzip.compress(TABLE.encode())),
    "runs.csv.bz2": lambda path: path.write_bytes(bz2.compress(TABLE.encode())),
    "runs.csv.xz": lambda path: path.write_bytes(lzma.compress(TABLE.encode())),
    "runs.csv": lambda path: path.write_bytes(gzip.compress(TABLE.encode())),  # by its bytes
    "runs.csv.zst": as_zst,
    "runs.csv.zip": as_zip,
    "runs.parquet": as_parquet,
    "runs.xlsx": as_workbook,
    "runs.json": lambda path: path.write_text(json.dumps({"runs": RECORDS}, indent=1)),
    "columns.json": lambda path: path.write_text(
        json.dumps({key: [r[key] for r in RECORDS] for key in RECORDS[0]})
    ),
    "frame.json": lambda path: path.write_text(
        json.dumps({key: {str(i): r[key] for i, r in enumerate(RECORDS)} for key in RECORDS[0]})
    ),
    "split.json": lambda path: path.write_text(
        json.dumps({"columns": list(RECORDS[0]), "index": [0, 1], "data": LISTS[1:]})
    ),
    "lists.json": lambda path: path.write_text(json.dumps(LISTS)),
    "inside.json": lambda path: path.write_text(json.dumps({"data": {"runs": RECORDS}})),
    "names.json": lambda path: path.write_text(
        json.dumps({r["name"]: {k: v for k, v in r.items() if k != "name"} for r in RECORDS})
    ),
    "named.json": lambda path: path.write_text(
        json.dumps({key: {r["name"]: r[key] for r in RECORDS} for key in RECORDS[0]})
    ),
    "printed.json": lambda path: path.write_text(
        "\n".join(json.dumps(r, indent=1) for r in RECORDS)
    ),
    "mac.zip": as_zip_of_a_mac,
    "printed.txt": lambda path: path.write_text(
        "  name    N    D  loss\n0    a  1e8  2e9   3.5\n1    b  2e8  4e9   3.2\n"
    ),
    "r.txt": lambda path: path.write_text(
        '"name" "N" "D" "loss"\n"1" "a" 1e8 2e9 3.5\n"2" "b" 2e8 4e9 3.2\n'
    ),
    "groups.csv": lambda path: path.write_text(
        "Model,,Training,\nname,N,D,loss\na,1e8,2e9,3.5\nb,2e8,4e9,3.2\n"
    ),
    "frame.csv": lambda path: path.write_text(
        "model,model,eval,eval\nname,N,D,loss\na,1e8,2e9,3.5\nb,2e8,4e9,3.2\n"
    ),
    "units.csv": lambda path: path.write_text(
        "name,N,D,loss\n,(M),(B),[nats]\na,100,2,3.5\nb,200,4,3.2\n"
    ),
    "across.csv": lambda path: path.write_text("name,a,b\nN,1e8,2e8\nD,2e9,4e9\nloss,3.5,3.2\n"),
    "utf16.csv": lambda path: path.write_bytes(TABLE.encode("utf-16-le")),
    "simple.rst": lambda path: path.write_text(
        "====  ===  ===  ====\nname  N    D    loss\n====  ===  ===  ====\n"
        "a     1e8  2e9  3.5\nb     2e8  4e9  3.2\n====  ===  ===  ====\n"
    ),
    "paper.tex": lambda path: path.write_text(PAPER),
    "blanks.txt": lambda path: path.write_text(TABLE.replace(",", "   ")),
    "savetxt.txt": lambda path: path.write_text(f"# by us\n# {TABLE}"),
    "titled.csv": lambda path: path.write_text(f"Our sweep\n\n{TABLE}"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_one_table_in_many_files(tmp_path, name):
    WRITERS[name](tmp_path / name)
    runs = read_table(tmp_path / name).runs
    assert [(r.id, r.num_params, r.num_tokens, r.loss) for r in runs] == [
        ("a", 1e8, 2e9, 3.5),
        ("b", 2e8, 4e9, 3.2),
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    for budget in ("1e18", "3e18"):
        rows = [f"{n},{float(budget) / 6 / n},{3 + n / 1e9}" for n in (1e8, 2e8)]
        (tmp_path / f"sweeps/isoflop-{budget}.csv").write_text("\n".join(["N,D,loss", *rows]))
    (tmp_path / "sweeps/readme.pdf").write_text("no table")
    return tmp_path


@pytest.mark.parametrize(
    "asked",
    [
        "sweeps", "sweeps/*.csv", "[sweeps/isoflop-1e18.csv, sweeps/isoflop-3e18.csv]",
        "sweeps/isoflop-1e18.csv,sweeps/isoflop-3e18.csv", "**/*3e18.csv,sweeps/isoflop-1e18.csv",
        "~/sweeps", ["sweeps/isoflop-1e18.csv", Path("sweeps/isoflop-3e18.csv")], Path("sweeps"),
    ],
)  # fmt: skip
def test_several_files_are_one_table_with_a_column_for_the_file(folder, monkeypatch, asked):
    monkeypatch.setenv("HOME", str(folder))
    table = read_table(asked, {"budget": "regex(isoflop-([0-9.e+]+)[.]csv)"})
    assert sorted(run.budget for run in table.runs) == [1e18, 1e18, 3e18, 3e18]
    chosen = read_table(asked, where="file contains 3e18")
    assert {round(run.flops / 1e18) for run in chosen.runs} == {3}


def test_files_are_told_apart_by_their_folders_where_names_repeat(tmp_path):
    for name, n in (("one", 1e8), ("two", 2e8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text(f"N,D,loss\n{n},2e9,3\n")
    (run,) = read_table(tmp_path, where="file = two/log.csv").runs
    assert run.num_params == 2e8


def test_studies_are_named_after_files_without_their_endings(folder):
    for asked, name in (
        ("sweeps", "sweeps"),
        ("sweeps/isoflop-1e18.csv", "isoflop-1e18"),
        ("sweeps/*.csv", "isoflop-1e18-and-1-more"),
    ):
        assert name_of(asked, table_files(asked)) == name
    assert name_of("gpt-1.5B.csv.gz", [Path("gpt-1.5B.csv.gz")]) == "gpt-1.5B"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("nothing*.csv", "no file is like nothing"),
        ("empty", "holds no table"),
        ("nothing.csv", "does not exist"),
        ("sweeps/isoflop-1e18.csv,nothing.csv", "nothing.csv does not exist"),
        ("[]", "names no file"),
    ],
)
def test_files_that_are_not_there(folder, asked, message):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        read_table(asked)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(TABLE.encode())[:-9], "can't be unpacked"),
        (b"PAR1 and nothing else", "no readable Parquet"),
        (b"PK\x03\x04 and nothing else", "can't be unpacked"),
        (b"\xd0\xcf\x11\xe0", "old Excel"),
        (b"SQLite format 3\0\x10\0\x80", "binary data"),
        (b"<table><tr><td>N</td></tr></table>", "is HTML or XML"),
        (b"\x28\xb5\x2f\xfd\x00", "can't be unpacked|is empty"),
        (b"N,D,loss\n1,234,567,2e9,3\n", "row 1 has 5 cells under 3 headers"),
        (b'{"N": ' + b"9" * 5000 + b"}", "a number of 5,000 digits"),
        (b'{"N": 1e8, "D": 2e9, "loss": 3, "id": "\\ud800"}', ""),
        (b"| a | b |\n|---|---|\n", "a header and no rows"),
        (b"|N|D|loss|\n|---|---|---|\n|1e8|2e9|3|\n\n|x|y|\n|---|---|\n|1|2|\n", "2 tables with"),
        (b'N,D,loss\n1e8,2e9,"2,807"\n', "loss is '2,807'.*comma"),
    ],
)
def test_damaged_files_say_so(tmp_path, data, message):
    path = tmp_path / "table"
    path.write_bytes(data)
    if message:
        with pytest.raises(UserError, match=message):
            read_table(path)
    else:
        write_runs(tmp_path / "runs.csv", read_table(path).runs)


SIZES = ("| `a1` | **31M** | 5.4B | 3.41 |", "| a\\|2 | 54M | 3.1B | ~~3.36~~ |")


@pytest.mark.parametrize(
    "text",
    [
        "| run | params | tokens | loss |\n|-----|-------:|:---:|-----|\n" + "\n".join(SIZES),
        "We found:\n\n> | run | params | tokens | loss |\n> |---|---|---|---|\n"
        + "\n".join(f"> {row}" for row in SIZES) + "\n\nwhat | do you think?",
        "run | params | tokens | loss\n---|---|---|---\n" + "\n".join(r[1:-1] for r in SIZES),
        "+----+-----+\n| run | params | tokens | loss |\n+====+=====+\n"
        + "\n+----+----+\n".join(SIZES) + "\n+----+----+",
        "┏━━━━━┳━━━━┓\n┃ run ┃ params ┃ tokens ┃ loss ┃\n┡━━━━━╇━━━━┩\n"
        + "\n".join(r.replace(" |", " │").replace("| ", "│ ") for r in SIZES) + "\n└────┘",
    ],
)  # fmt: skip
def test_drawn_tables(tmp_path, text):
    path = tmp_path / "runs.md"
    path.write_text(text, encoding="utf-8")
    runs = read_table(path).runs
    assert [(r.num_params, r.num_tokens, r.loss) for r in runs] == [
        (3.1e7, 5.4e9, 3.41),
        (5.4e7, 3.1e9, 3.36),
    ]
    assert [r.id for r in runs] == ["a1", "a|2"]


PIVOTS = {
    "num_params,flops": "N \\ C,seed,1e18,C = 3e18\n30M,7,3.5,3.3\n60M,7,3.4,-\n",
    "flops x N": "budget,30M,60M params\n1e18,3.5,3.4\n3e18,3.3,\n",
    "[params, tokens]": "size,5.5555555555556B,16.666666667B\n30M,3.5,3.3\n60M,,\n",
}


@pytest.mark.parametrize("pivot", PIVOTS)
def test_a_table_of_losses_by_two_axes(tmp_path, pivot):
    path = tmp_path / "pivot.csv"
    path.write_text(PIVOTS[pivot])
    table = read_table(path, pivot=pivot)
    found = {(r.num_params, round(r.flops / 1e18, 6)): r.loss for r in table.runs}
    assert found[3e7, 1] == 3.5
    assert found[3e7, 3] == 3.3
    if pivot != "[params, tokens]":
        assert found[6e7, 1] == 3.4
        assert found[6e7, 3] is None


@pytest.mark.parametrize(
    ("pivot", "columns", "message"),
    [
        ("", {}, "pivot=num_params,flops"),
        ("rows,columns", {}, "pivot is 'rows,columns'"),
        ("N,params", {}, "pivot is"),
        ("N,C", {"loss": "1e18"}, r"columns\.loss names a column"),
        ("N,C", {"num_params": "size"}, "no column 'size' for num_params"),
    ],
)
def test_pivots_that_can_not_be_read(tmp_path, pivot, columns, message):
    path = tmp_path / "pivot.csv"
    path.write_text(PIVOTS["num_params,flops"])
    with pytest.raises(UserError, match=message):
        read_table(path, columns, pivot=pivot)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("N;D;loss\n99,5;1,5;3,5\n", 99.5e6),
        ("N;D;loss\n99,500;1500;3.5\n", 99.5e9),
        ('N,D,loss\n"99,5","1,5","3,5"\n', 99.5e6),
        ("N;D;loss\n1.099;21,5;3,5\n", 1.099e9),
        ("N;D;loss\n1.099,5;21.000;3\n", 1.0995e9),
        ("N;D;loss\n1.099;21.000;3.5\n", 1.099e6),
    ],
)
def test_commas_are_those_of_decimals_unless_points_are(tmp_path, text, size):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    (run,) = read_table(path, {"num_params_unit": "M", "num_tokens_unit": "B"}).runs
    assert run.num_params == pytest.approx(size)


def test_a_formula_without_its_value_is_shown(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    for line in (["N", "steps", "D", "loss"], [1e8, 1000, "=B2*524288", 3.5]):
        book.active.append(line)
    book.save(tmp_path / "runs.xlsx")
    with pytest.raises(UserError, match=r"row 1: num_tokens is '=B2\*524288': a number"):
        read_table(tmp_path / "runs.xlsx")


def test_one_run_of_two_parts_with_the_same_names_is_one_run(tmp_path):
    path = tmp_path / "run.json"
    parts = {"train": {"loss": 3.1, "tokens": 2e9}, "eval": {"loss": 3.5, "tokens": 1e6}}
    path.write_text(json.dumps({**parts, "params": 1e8}))
    columns = {"num_tokens": "train.tokens", "loss": "eval.loss"}
    (run,) = read_table(path, columns).runs
    assert (run.num_tokens, run.loss) == (2e9, 3.5)


def test_a_first_run_without_numbers_is_no_second_line_of_headers(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(",N,D,loss\nfailed,,,\nb,2e8,4e9,3.2\n")
    (run,) = read_table(path).runs
    assert run.loss == 3.2


def test_where_in_json_lines_it_ends(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"N": 1e8, "D": 2e9, "loss": 3}\n{"N": 1e8, "D":')
    with pytest.raises(UserError, match=r"not readable JSON .*line 2 column 16"):
        read_table(path)


@pytest.mark.parametrize("name", ["=1+cmd|x", "+1", "-x", "@sum(1)", "\ttab", "'=quoted", "plain"])
def test_what_a_spreadsheet_would_run_is_written_as_text_and_read_back(tmp_path, name):
    path = tmp_path / "runs.csv"
    path.write_text(f'id,N,D,loss,trunk\n"{name}",1e8,2e9,3,"{name}"\n')
    (run,) = read_table(path).runs
    (tmp_path / "again").mkdir()
    write_runs(tmp_path / "again/runs.csv", [run])
    cell = (tmp_path / "again/runs.csv").read_text().splitlines()[1].lstrip('"')
    assert cell[0] not in "=+-@\t"
    (again,) = read_table(tmp_path / "again/runs.csv").runs
    assert again.id == run.id
    assert math.isclose(again.loss, 3)
