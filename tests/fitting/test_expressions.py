"""Conditions on rows and computed columns: one grammar, nothing executed."""

import math

import pytest

from flops_fit.errors import UserError
from flops_fit.tables import read_table

TABLE = """name,params,steps,lr,ppl,eval/loss,note
base-1e18-a,1e8,4000,0.001,20.0,3.0,one of two
base-1e18-b,2e8,2000,0.01,22.0,3.1,
wide-3e18-a,4e8,3000,0.001,18.0,2.9,x (y)
wide-3e18-b,8e8,1500,n/a,19.0,2.95,"a, b"
"""

TOKENS = {"num_tokens": "steps * 1e6", "loss": "eval/loss"}


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(TABLE, encoding="utf-8")
    return lambda columns=None, **more: read_table(path, {**TOKENS, **(columns or {})}, **more)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("name contains wide", "cd"),
        ("name not contains wide", "ab"),
        ("'wide' in name", "cd"),
        ("lr in [0.001, 3]", "ac"),
        ("lr not in [1e-3]", "bd"),
        ("not lr = 0.001", "bd"),
        ("lr = 0.001 or params = 200M", "abc"),
        ("lr = 0.001 and (params = 1e8 or params > 5e8)", "a"),
        ("lr = 0.001 and params = 1e8 or params > 5e8", "ad"),
        ("not (lr = 0.001 or steps < 2000)", "b"),
        ("params * steps > 1e12", "cd"),
        ("eval/loss < 3", "cd"),
        ("`eval/loss` < 3", "cd"),
        ("log(ppl) < ln(19.5)", "cd"),
        ("steps >= params / 1e5", "ab"),
        ("note = 'a, b'", "d"),
        ("note = x (y)", "c"),
        ("note =", "b"),
        ("note = 'one of two'", "a"),
        ("lr > 0", "abc"),
        ("regex(name, -([ab])$) = a", "ac"),
        ("NOT name CONTAINS wide AND lr = 0.001", "a"),
    ],
)
def test_rows_are_chosen(read, where, kept):
    sizes = {1e8: "a", 2e8: "b", 4e8: "c", 8e8: "d"}
    assert "".join(sizes[run.num_params] for run in read(where=where).runs) == kept


@pytest.mark.parametrize(
    ("columns", "name", "expected"),
    [
        ({"loss": "log(ppl)"}, "loss", [math.log(p) for p in (20, 22, 18, 19)]),
        ({"budget": "6 * params * steps * 1e6"}, "budget", [2.4e18, 2.4e18, 7.2e18, 7.2e18]),
        ({"budget": "regex(base|wide)", "id": "note"}, "budget", None),
        ({"budget": "regex(-([0-9e]+)-)"}, "budget", [1e18, 1e18, 3e18, 3e18]),
        ({"budget": "regex(name, '-([0-9e]+)-')"}, "budget", [1e18, 1e18, 3e18, 3e18]),
        ({"id": "regex(name, ^[a-z]+)"}, "id", ["base", "base", "wide", "wide"]),
        ({"id": "[name, note]"}, "id",
         ["base-1e18-a/one of two", "base-1e18-b/", "wide-3e18-a/x (y)", "wide-3e18-b/a, b"]),
        ({"num_tokens": "2 ** 20 * steps"}, "num_tokens",
         [s * 2.0**20 for s in (4000, 2000, 3000, 1500)]),
        ({"num_tokens": "-(-steps) * max(1e6, 1) + min(0, 5)"}, "num_tokens",
         [4e9, 2e9, 3e9, 1.5e9]),
    ],
)  # fmt: skip
def test_columns_are_computed(read, columns, name, expected):
    if expected is None:
        with pytest.raises(UserError, match=r"budget is 'base'.*number"):
            read(columns)
        return
    found = [getattr(run, name) for run in read(columns).runs]
    assert found == (expected if name == "id" else pytest.approx(expected))


@pytest.mark.parametrize(
    ("columns", "where", "message"),
    [
        ({"loss": "log(pplx)"}, "", r"no column 'pplx' for loss: its columns are 'name'"),
        ({"loss": "log(name)"}, "", r"row 1: loss: 'base-1e18-a' is no number"),
        ({"loss": "log(ppl - 20)"}, "", r"row 1: loss: can't compute with 0"),
        ({"loss": "ppl / (steps - steps)"}, "", "can't compute with 20, 0"),
        ({"loss": "log(ppl"}, "", "lacks a closing bracket"),
        ({"loss": "log(ppl, 2)"}, "", "log has 2 arguments"),
        ({"loss": "ppl > 3"}, "", "is a condition"),
        ({"loss": "__import__('os').system('true')"}, "", "no column '__import__'"),
        ({"loss": "ppl.__class__"}, "", "can't be read|no column"),
        ({"loss": "10 ** 10 ** 10 ** 10"}, "", "can't compute with 10, 1e"),
        ({"loss": "(" * 900 + "ppl" + ")" * 900}, "", "nests too deep"),
        ({"loss": "ppl" + " + ppl" * 900}, "", "has 5403 characters"),
        ({"budget": "regex(-(a)(b))"}, "", "2 groups"),
        ({"budget": "regex([)"}, "", "closing bracket|no regular expression"),
        ({"budget": "regex(*)"}, "", "no regular expression"),
        ({"budget": "regex(isoflop)"}, "", "finds nothing in 'base-1e18-a'"),
        ({"budget": "regex(base-(1e18))"}, "", "row 3: budget: .* finds nothing in"),
        ({"id": "[name, nothing]"}, "", "no column 'nothing' for id"),
        ({"loss": "[ppl, steps]"}, "", "lists are for columns.id"),
        ({}, "name contains", "ends early"),
        ({}, "lr in 3", "write in .a, b. with a list"),
        ({}, "steps > params2", "> compares with a number"),
        ({}, "nam = base", "column 'nam', which"),
        ({}, "note = steps", "may be a text or a column"),
        ({}, "(lr = 1", "closing bracket"),
        ({}, "lr = 1 and", "ends early"),
        ({}, "lr and steps", "no condition"),
        ({}, "lr = 1 and steps", "no condition"),
    ],
)
def test_what_can_not_be_read_says_why(read, columns, where, message):
    with pytest.raises(UserError, match=message):
        read(columns, where=where)


def test_a_cell_that_holds_nothing_gives_nothing(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,steps,loss\n1e8,2000,3\n2e8,,2.9\n", encoding="utf-8")
    table = read_table(path, {"num_tokens": "steps * 1e6"})
    assert [run.num_tokens for run in table.runs] == [2e9]
    assert table.dropped[0].reason == "has no num_tokens"


def test_an_expression_is_in_no_unit_of_its_own(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tok,loss\n1e8,2,3\n", encoding="utf-8")
    assert read_table(path, {"num_tokens": "tok * 1e9"}).runs[0].num_tokens == 2e9


def test_a_column_called_as_a_function_is_a_column(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N,D,log(loss),log\n1e8,2e9,1.2,7\n", encoding="utf-8")
    assert read_table(path, {"loss": "exp(log(loss))"}).runs[0].loss == pytest.approx(math.exp(1.2))
    assert read_table(path, {"loss": "log + 1"}).runs[0].loss == 8
