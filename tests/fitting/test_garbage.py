"""Tables as nobody should write them. Whatever comes: a law, or an error that a person can mend."""

import codecs
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sweeps import CHINCHILLA, sweep

from flops_fit.errors import UserError
from flops_fit.fitting import CombinedFit, IsoflopFit, SurfaceFit, fit_runs
from flops_fit.laws.prediction import NoSuchRun
from flops_fit.plan.run import Run
from flops_fit.tables import read_table, table_flop_rule

ANYTHING = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.integers(-(10**30), 10**30).map(str),
    st.text(max_size=8),
    st.sampled_from(
        ["", "nan", "inf", "-inf", "-1", "0", "1e400", "1,5", "3B", '"', "None", "1e-9"]
    ),
)

EXTRA = {
    "budget": st.sampled_from(["1e18", "1e19", "1e20"]),
    "seed": st.sampled_from(["0", "1", "2", ""]),
    "id": st.sampled_from(["a", "b", "größe", "名前"]),
    "num_params_total": st.floats(1e6, 1e10).map(repr),
    "num_steps": st.integers(0, 1000).map(str),
    "trunk": st.sampled_from(["", "t1", "t2"]),
    "metrics.error": st.floats(0, 1).map(repr),
}
"""What further columns should hold, by their header; others hold anything."""

ENCODINGS = st.sampled_from(
    [(b"", "utf-8")] * 5
    + [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (b"", "latin-1")]
)


@st.composite
def tables(draw) -> bytes:
    """Rows of a sweep in some of its columns and in others, with some cells and headers wrong."""
    runs = sweep(CHINCHILLA, budgets=(1e18, 1e19, 1e20), noise=0.01, seed=draw(st.integers(0, 99)))
    runs = draw(st.permutations(runs))[: draw(st.integers(0, len(runs)))]
    known = draw(st.sampled_from([("N", "D", "loss"), ("N", "C", "loss"), ("N", "D", "C", "loss")]))
    extra = draw(st.lists(st.sampled_from(sorted(EXTRA)) | st.text(max_size=5), max_size=4))
    headers = draw(st.permutations([*known, *extra]))
    wrong_in_a_hundred = draw(st.sampled_from([0, 0, 0, 1, 10]))
    lines = [headers]
    for run in runs:
        row = {"N": run.num_params, "D": run.num_tokens, "C": run.flops, "loss": run.loss}
        cells = [
            repr(float(row[name])) if name in row else draw(EXTRA.get(name, ANYTHING))
            for name in headers
        ]
        if draw(st.integers(1, 100)) <= wrong_in_a_hundred:
            cells[draw(st.integers(0, len(cells) - 1))] = draw(ANYTHING)
        lines.append(cells if draw(st.integers(0, 50)) else cells[:2])
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    text = "\n".join(delimiter.join(line) for line in lines)
    mark, encoding = draw(ENCODINGS)
    return mark + text.encode(encoding, "replace")


@st.composite
def json_lines(draw) -> bytes:
    """Objects with some of the known keys and any values, nested or not."""
    value = st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=4,
    )
    rows = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "N": st.floats(1e6, 1e10),
                    "D": st.floats(1e8, 1e12),
                    "loss": st.floats(1.5, 4.0),
                },
                optional={
                    "seed": value,
                    "metrics": value,
                    "note": value,
                    "num_params_total": value,
                },
            ),
            max_size=12,
        )
    )
    if rows and draw(st.booleans()):
        wrong = draw(st.sampled_from(["N", "D", "loss", "seed", "metrics", "num_params_total"]))
        rows[-1][wrong] = draw(value)
    return "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")


def try_to_fit(path, data: bytes) -> None:
    """Fails on any exception that is not for users, and on a law that is no valid JSON."""
    path.write_bytes(data)
    try:
        table = read_table(path)
        law = fit_runs(table.runs, flop_rule=table_flop_rule(table.runs), draws=20)
    except UserError:
        return
    json.dumps(law.to_json(), allow_nan=False)
    assert law.predict(1e20).num_params > 0


QUICKLY = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@QUICKLY
@given(tables())
@example(b"N,D,loss\n" + b"\n".join(b"1e-300,1e9,1e-300" for _ in range(9)))
@example("\ufeffgröße;D;loss\n1e8;2e9;3,1\n".encode())
@example(b"N,D,loss,loss\n1e8,2e9,3,4\n")
@example(b"N,D,loss\n" + b"1e8,1e9,3.0\n" * 9)
@example(b"N,D,loss,note\n1e8,1e9,3.0," + b"x" * 1_000_000 + b"\n")
@example(b'N,D,loss\n1e8,1e9,"3.0\n' * 5)
@example(b"\x00\xff\xfe\x00")
@example(b"N,D,loss\r" + b"1e8,1e9,3.0\r" * 3)
@example(b"\n".join([b"N,D,loss", *(f"1e{i},1e{i % 3},{i}".encode() for i in range(1, 12))]))
def test_garbled_tables_end_in_a_law_or_a_clear_error(tmp_path, data):
    try_to_fit(tmp_path / "garbage.csv", data)


@QUICKLY
@given(json_lines())
@example(b"[]")
@example(b"{}")
@example(b"[[[[")
@example(b'{"N": 1e8, "D": 1e9, "loss": {"a": 1}}')
def test_garbled_json_ends_in_a_law_or_a_clear_error(tmp_path, data):
    try_to_fit(tmp_path / "garbage.jsonl", data)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_bytes_of_any_kind_end_in_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "table"
    path.write_bytes(data)
    with pytest.raises(UserError):
        read_table(path)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.floats(1e3, 1e12),
            st.floats(1e3, 1e15),
            st.floats(1e-3, 20.0),
            st.sampled_from([1e15, 1e18, 1e21]),
            st.sampled_from([None, None, "one", "two"]),
        ),
        min_size=6,
        max_size=14,
    ),
    st.sampled_from(
        [
            CombinedFit(),
            SurfaceFit(),
            SurfaceFit(tied_exponents=True),
            SurfaceFit(interaction=True, within=4.0),
            IsoflopFit(),
        ]
    ),
)
def test_any_positive_numbers_end_in_a_law_or_a_clear_error(cells, answer):
    runs = [
        Run(str(i), "completed", n, d, 6 * n * d, loss, budget, trunk=trunk)
        for i, (n, d, loss, budget, trunk) in enumerate(cells)
    ]
    try:
        law = fit_runs(runs, answer=answer, draws=20)
    except UserError:
        return
    json.dumps(law.to_json(), allow_nan=False)
    try:
        assert law.predict(1e21).num_params > 0
    except NoSuchRun:  # a million times beyond
        return
    if law.knows_other_sizes:
        assert law.flat_band(1e21).low <= law.flat_band(1e21).high


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(range(40)), max_size=6), st.data())
def test_some_wrong_rows_in_a_good_sweep_end_in_a_law_or_a_clear_error(rows, data):
    """Numbers that a run can have, but not these."""
    runs = sweep(CHINCHILLA, noise=0.003)
    for row in rows:
        run = runs[row]
        loss = data.draw(st.floats(1e-6, 1e6))
        runs[row] = Run(
            run.id, "completed", run.num_params, run.num_tokens, run.flops, loss, run.budget
        )
    try:
        law = fit_runs(runs, draws=20)
    except UserError:
        return
    json.dumps(law.to_json(), allow_nan=False)
