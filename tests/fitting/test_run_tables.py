import dataclasses
import json
import math
import re

import numpy as np
import pytest
from sweeps import CHINCHILLA, sweep

from flops_fit.errors import UserError
from flops_fit.fitting import fit_runs
from flops_fit.fitting.points import usable_points
from flops_fit.laws import FlopRule
from flops_fit.plan.experiment import Size
from flops_fit.plan.run import Run, Status
from flops_fit.tables import BITS, bits_per_byte, read_table, table_flop_rule, write_runs
from flops_fit.tables.budgets import snapped_budgets

COLUMNS = {"num_params": "N", "num_tokens": "D", "flops": "C", "loss": "loss"}


def file(tmp_path, text, name="runs.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def only(tmp_path, text, columns=None, **options):
    runs = read_table(file(tmp_path, text), columns, **options).runs
    assert len(runs) == 1
    return runs[0]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("N,D,loss\n1e8,2e9,3.5\n", {}),
        ("C,D,loss\n1.2e18,2e9,3.5\n", {}),
        ("N,C,loss\n1e8,1.2e18,3.5\n", {}),
        ("num_params,num_tokens,loss\n1e8,2e9,3.5\n", {}),
        ("\ufeffN,D,loss\n1e8,2e9,3.5\n", {}),
        ("N;D;loss\n1e8;2e9;3,5\n", {}),
        ("N\tD\tloss\n1e8\t2e9\t3.5\n", {}),
        ("params (M),tokens,val\n100M,2B,3.5\n", {"num_params": "params (M)", "loss": "val"}),
        ('N,D,loss\n"100,000,000","2,000,000,000",3.5\n', {}),
        ("größe,Δ,потери\n1e8,2e9,3.5\n", dict(zip(
            ("num_params", "num_tokens", "loss"), ("größe", "Δ", "потери"), strict=True))),
        ('"Name","N","D","summary.val/loss"\n"a, b","1e8","2e9","3.5"\n',
         {"loss": "summary.val/loss"}),
        ("\n\nN , D , loss\r\n 1e8 , 2e9 , 3.5 \r\n\r\n", {}),
        ('{"N": 1e8, "D": 2e9, "loss": 3.5}\n', {}),
        ('[{"N": 100000000, "D": "2e9", "loss": 3.5, "note": null}]', {}),
        ('{"config": {"n": 1e8, "d": 2e9}, "summary": {"loss": 3.5}}\n', {
            "num_params": "config.n", "num_tokens": "config.d", "loss": "summary.loss"}),
    ],
)  # fmt: skip
def test_one_run_in_many_dresses(tmp_path, text, columns):
    run = only(tmp_path, text, columns)
    assert (run.num_params, run.num_tokens, run.loss) == pytest.approx((1e8, 2e9, 3.5))
    assert run.flops == pytest.approx(1.2e18)
    assert run.status == "completed"


def test_utf16_as_spreadsheets_export_it(tmp_path):
    path = file(tmp_path, "N\tD\tloss\n1e8\t2e9\t3.5\n", encoding="utf-16")
    assert read_table(path).runs[0].num_params == 1e8


def test_units_of_loss(tmp_path):
    text = "N,D,loss\n1e8,2e9,1.0\n"
    assert only(tmp_path, text, nats_per_unit=BITS).loss == pytest.approx(math.log(2))
    per_byte = only(tmp_path, text, nats_per_unit=bits_per_byte(4.5))
    assert per_byte.loss == pytest.approx(4.5 * math.log(2))


@pytest.mark.parametrize("unit", [1.0, BITS, bits_per_byte(4.5)])
def test_a_loss_and_its_standard_error_are_read_in_one_unit(tmp_path, unit):
    text = "N,D,loss,loss_stderr,metrics.error_rate\n1e8,2e9,2.0,0.02,0.4\n"
    run = only(tmp_path, text, nats_per_unit=unit)
    assert run.loss == pytest.approx(2.0 * unit)
    assert run.loss_stderr == pytest.approx(0.02 * unit)
    assert run.metrics == {"error_rate": 0.4}


def test_every_column_we_know_reaches_the_run(tmp_path):
    text = (
        "id,N,D,C,loss,budget,status,seed,loss_stderr,num_params_total,num_steps,trunk\n"
        "net,1e8,2e9,1.3e18,3.5,1.2e18,failed,7,0.01,1.5e8,500,t1\n"
    )
    run = only(tmp_path, text)
    assert run == Run(
        "net", "failed", 1e8, 2e9, 1.3e18, 3.5, 1.2e18, num_params_total=1.5e8, seed=7,
        loss_stderr=0.01, num_steps=500, trunk="t1",
    )  # fmt: skip


@pytest.mark.parametrize("text", ["N,D,loss\n1e8,2e9,3\n", "N,C,loss\n1e8,1.6e18,3\n"])
def test_what_is_not_given_follows_from_the_flop_rule_that_is_said(tmp_path, text):
    run = only(tmp_path, text, flops_per_param_per_token=8.0)
    assert (run.num_tokens, run.flops) == pytest.approx((2e9, 1.6e18))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("125M", 1.25e8),
        ("1.3B", 1.3e9),
        ("1.3G", 1.3e9),
        ("70k", 7e4),
        ("2T", 2e12),
        ("~1.4 billion", 1.4e9),
        ("31M params", 3.1e7),
        ("2.1x10^9", 2.1e9),
        ("3 × 10⁸", 3e8),
        ("$1.2 \\times 10^{9}$", 1.2e9),
        ("1 000 000", 1e6),
        ("1_000_000", 1e6),
        ("9e7 ± 1e6", 9e7),
    ],
)  # fmt: skip
def test_counts_are_read_as_people_write_them(tmp_path, cell, value):
    assert only(tmp_path, f"N,D,loss\n{cell},{20 * value},3\n").num_params == pytest.approx(value)


def test_a_training_curve_ends_at_its_last_step_whatever_the_order_of_the_rows(tmp_path):
    text = "id,N,D,num_steps,loss\na,1e8,4e9,40,3.0\na,1e8,1e9,10,3.6\nb,2e8,2e9,20,3.1\n"
    table = read_table(file(tmp_path, text), {"num_steps": "num_steps"})
    assert [(r.id, r.num_steps, r.loss) for r in table.runs] == [("a", 40, 3.0), ("b", 20, 3.1)]
    assert [r.loss for r in table.checkpoints] == [3.0, 3.6, 3.1]


def test_a_loss_that_is_empty_or_not_finite_stays_as_a_run_without_one(tmp_path):
    text = "id,N,D,loss\nfine,1e8,2e9,3\nempty,1e8,2e9,\nnan,1e8,2e9,nan\ninf,1e8,2e9,inf\n"
    runs = read_table(file(tmp_path, text)).runs
    assert [(r.id, r.status, r.loss) for r in runs] == [
        ("fine", "completed", 3.0),
        ("empty", "completed", None),
        ("nan", "diverged", None),
        ("inf", "diverged", None),
    ]


@pytest.mark.parametrize(
    "word", ["completed", "done", "finished", "Finished", " DONE ", "", "SUCCEEDED", "complete"]
)
def test_other_words_for_completed_are_understood(tmp_path, word):
    assert only(tmp_path, f"N,D,loss,status\n1e8,2e9,3,{word}\n").status is Status.COMPLETED


def test_runs_of_another_status_are_left_out_with_its_word(tmp_path):
    rows = [
        f"{word},1e8,{d},3,{word}" for d, word in enumerate(("crashed", "FAILED", "done"), 10**9)
    ]
    runs = read_table(file(tmp_path, "\n".join(["id,N,D,loss,status", *rows]))).runs
    points, dropped = usable_points(runs, FlopRule.constant())
    assert points.ids == ("done",)
    assert {row.id: row.reason for row in dropped} == {
        "crashed": "status is crashed",
        "FAILED": "status is failed",
    }


@pytest.mark.parametrize("header", ["State", "run_status", "state"])
def test_how_runs_ended_is_read_from_the_columns_of_trackers(tmp_path, header):
    text = f"Name,{header},N,D,loss\na,finished,1e8,2e9,3\nb,crashed,1e8,2e9,9\n"
    table = read_table(file(tmp_path, text))
    assert [run.status for run in table.runs] == ["completed", "crashed"]
    assert any(f"status is read from column {header!r}" in note for note in table.notes)


@pytest.mark.parametrize(
    ("header", "values", "says"),
    [
        ("schedule", ("cosine", "wsd"), True),
        ("seed", ("1", "2"), False),
        ("data_seed", ("1", "2"), False),
        ("note", ("good", "good"), False),
        ("host", ("a", "b", "c", "d"), False),
    ],
)
def test_kinds_of_runs_that_would_be_taken_for_seeds_are_said(tmp_path, header, values, says):
    rows = [f"{n},2e9,{3 + 0.1 * j},{values[(i * 2 + j) % len(values)]}"
            for i, n in enumerate(("1e8", "2e8")) for j in range(2)]  # fmt: skip
    notes = read_table(file(tmp_path, "\n".join([f"N,D,loss,{header}", *rows]))).notes
    assert any("differ in 'schedule' (cosine, wsd)" in note for note in notes) == says
    assert any("differ in" in note for note in notes) == says


@pytest.mark.parametrize(
    ("headers", "columns", "said"),
    [
        ("N,D,loss,val_loss", {}, "loss is read from column 'loss', not from 'val_loss'"),
        ("params,tokens,loss,params_non_embedding", {}, "'params', not from 'params_non_emb"),
        ("params,tokens,loss,active_params", {}, "not from 'active_params': columns.num_params"),
        ("N,D,loss,val_loss", {"loss": "loss"}, None),
        ("N,D,loss,id", {}, None),
    ],
)
def test_columns_that_may_be_meant_as_well_are_said(tmp_path, headers, columns, said):
    notes = read_table(file(tmp_path, f"{headers}\n1e8,2e9,3,3.1e7\n"), columns).notes
    assert any("not from" in note for note in notes) == (said is not None)
    assert said is None or any(said in note for note in notes)


@pytest.mark.parametrize(
    ("headers", "row", "columns", "ways"),
    [
        ("log10_N,D,loss", "8.1,2e9,3", {"num_params": "log10_N"}, r"'10 \*\* `log10_N`'"),
        ("N,ln(D),loss", "1e8,21.4,3", {"num_tokens": "ln(D)"}, r"='exp\(`ln\(D\)`\)'"),
        ("N,log C,loss", "1e8,18.1,3", {"flops": "log C"}, r"'10 \*\* `log C`' or .*exp\("),
        ("logN,D,loss", "8.6,2e9,3", {"num_params": "logN"}, "logarithms, by their name"),
    ],
)
def test_logarithms_are_no_sizes(tmp_path, headers, row, columns, ways):
    path = file(tmp_path, f"{headers}\n{row}\n")
    with pytest.raises(UserError, match=ways) as error:
        read_table(path, columns)
    way = re.findall("='(.*?)'", str(error.value))[0]
    ((name, _),) = columns.items()
    assert len(read_table(path, {name: way, f"{name}_unit": "1"}).runs) == 1


@pytest.mark.parametrize(
    ("headers", "columns", "way"),
    [
        ("N,H100-hours,loss", {"flops": "H100-hours"}, "'`H100-hours` * FLOPS_FOR_EACH'"),
        ("N,cost (USD),loss", {"flops": "cost (USD)"}, "a time or a price"),
        ("params (MB),D,loss", {"num_params": "params (MB)"}, "/ BYTES_OF_A_PARAMETER"),
        ("N,text_GB,loss", {"num_tokens": "text_GB"}, "/ BYTES_OF_A_TOKEN"),
    ],
)
def test_hours_and_bytes_are_no_sizes_in_some_unit(tmp_path, headers, columns, way):
    path = file(tmp_path, f"{headers}\n1e8,{'2e18' if 'flops' in columns else '2e9'},3\n")
    with pytest.raises(UserError, match=re.escape(way)):
        read_table(path, columns)
    ((name, header),) = columns.items()
    assert read_table(path, {**columns, f"{name}_unit": "1"}).runs
    assert read_table(path, {name: f"2 * `{header}`"}).runs


def test_rows_without_a_size_are_left_out_aloud(tmp_path):
    table = read_table(file(tmp_path, "N,D,loss\n1e8,2e9,3\n,2e9,3\n1e8,,3\n"))
    assert len(table.runs) == 1
    assert [(row.id, row.reason) for row in table.dropped] == [
        ("row 2", "has no num_params"),
        ("row 3", "has no num_tokens"),
    ]


def test_guessed_columns_are_said_and_named_ones_are_not(tmp_path):
    path = file(tmp_path, "N,D,my loss\n1e8,2e9,3\n")
    notes = read_table(path, {"loss": "my loss", "num_params": "N"}).notes
    assert any("num_tokens is read from column 'D'" in note for note in notes)
    assert not any("my loss" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", {}, "is empty"),
        ("   \n", {}, "is empty"),
        ("N,loss\n1e8,3\n", {}, "gives num_params of num_params, num_tokens and flops"),
        ("N,D\n1e8,2e9\n", {}, "no column for the loss"),
        ("N,D,loss\n", {}, "no rows"),
        ("N,D,loss\n,,3\n,,2\n", {}, "none of the 2 rows.*2 are 'has no num_params and no num"),
        ("N,D,loss\nbig,2e9,3\n", {}, "row 1: num_params is 'big'.*a number"),
        ("N,D,loss\n1e8,-5,3\n", {}, "row 1: num_tokens is '-5'.*between 1 and 1e\\+24"),
        ("N,D,loss\n1e8,inf,3\n", {}, "row 1: num_tokens is 'inf'"),
        ("N,D,loss\n1e8,2e9,low\n", {}, "row 1: loss is 'low'"),
        ("N,D,loss,loss\n1e8,2e9,3,4\n", {}, "2 columns 'loss'"),
        ("N,D,loss\n1e8,2e9,3\n", {"loss": "eval"}, "no column 'eval' for loss.*'N', 'D'"),
        ("N,D,loss\n1e8,2e9,3\n", {"width": "N"}, "columns.width names nothing"),
        ('{"N": 1e8,\n', {}, "not readable JSON"),
        ("[1, 2]", {}, "JSON that is no object"),
        ('N,D,loss\n1e8,2e9,"' + "x" * 1_000_000 + '"\n', {}, "row 1: loss is 'xxx"),
        ("N,D,loss\n1e8,2e9,3\0\n", {}, "binary"),
    ],
)
def test_tables_that_can_not_be_read_say_why(tmp_path, text, columns, message):
    with pytest.raises(UserError, match=message):
        read_table(file(tmp_path, text), columns)


SWEEPS = (
    "N,D,loss,sweep,step,good,day\n1e8,2e9,3,base,7,True,2024-01-31T10:00:00Z\n"
    "2e8,2e9,2.9,wide base,7,FALSE,2024-02-01\n4e8,2e9,2.8,base,,TRUE,2024-12-24 18:00\n"
)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("", [1e8, 2e8, 4e8]),
        ("sweep = base", [1e8, 4e8]),
        ("sweep==wide base", [2e8]),
        ("sweep != base", [2e8]),
        ("step = 7.0", [1e8, 2e8]),
        ("step > 0", [1e8, 2e8]),
        ("step =", [4e8]),
        ("N >= 2e8", [2e8, 4e8]),
        ("N > 2e8", [4e8]),
        ("N <= 2e8", [1e8, 2e8]),
        ("N < 2e8", [1e8]),
        ("N >= 2e8 and loss<2.85", [4e8]),
        ("N <= 200M  and  sweep = base", [1e8]),
        ("good = true", [1e8, 4e8]),
        ("good != true", [2e8]),
        ("day < 2024-02-01", [1e8]),
        ("day >= 2024-02-01 and day != 2024-02-01", [4e8]),
    ],
)
def test_where_chooses_rows_by_columns_of_the_file(tmp_path, where, kept):
    table = read_table(file(tmp_path, SWEEPS), where=where)
    assert [run.num_params for run in table.runs] == kept
    assert len(table.dropped) == 3 - len(kept)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("swep = base", "column 'swep', which .* its columns are 'N', 'D'"),
        ("sweep", "where holds 'sweep': write COLUMN SIGN VALUE"),
        ("step > many", "step > many: > compares with a number"),
        ("sweep = deep", "none of the 3 rows .* 3 are 'not sweep = deep'"),
    ],
)
def test_conditions_that_can_not_be_met_or_read_say_why(tmp_path, where, message):
    with pytest.raises(UserError, match=message):
        read_table(file(tmp_path, SWEEPS), where=where)


def test_a_whole_config_in_a_cell_nobody_asked_for_is_no_trouble(tmp_path):
    text = f'N,D,loss,config\r1e8,2e9,3,"{"x" * 1_000_000}"\r'
    assert only(tmp_path, text).loss == 3


def test_missing_and_undecodable_files_say_so(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="holds no table"):
        read_table(tmp_path)
    with pytest.raises(UserError, match="not UTF-8"):
        read_table(file(tmp_path, "größe,D,loss\n", encoding="latin-1"))


def test_written_runs_are_read_back(tmp_path):
    runs = [
        dataclasses.replace(run, size=Size("width", 64 * (i + 1)), seed=i, loss_stderr=0.01 / 3,
                            num_params_total=run.num_params + i, num_steps=10 + i,
                            trunk=f"trunk {i % 3}", metrics={"error_rate": 1 / (i + 2)})
        for i, run in enumerate(sweep(CHINCHILLA, noise=0.01))
    ]  # fmt: skip
    runs[0] = dataclasses.replace(runs[0], status="diverged", loss=None, id='with, "quotes"')
    write_runs(tmp_path / "new" / "runs.csv", runs)
    table = read_table(tmp_path / "new" / "runs.csv")
    read, notes = table.runs, table.notes
    kept = ("id", "status", "num_params", "num_tokens", "flops", "loss", "budget", "seed",
            "loss_stderr", "num_params_total", "num_steps", "trunk", "metrics")  # fmt: skip
    for run, same in zip(runs, read, strict=True):
        assert [getattr(same, name) for name in kept] == [getattr(run, name) for name in kept]
    assert notes == ()


def test_budgets_are_told_from_noisy_flops():
    planted = np.repeat([1e18, 3e18, 1e19], 7)
    noisy = planted * np.exp(0.03 * np.random.default_rng(0).standard_normal(21))
    np.testing.assert_allclose(snapped_budgets(noisy), planted, rtol=0.05)
    assert len(set(snapped_budgets(noisy))) == 3


def test_a_budget_told_from_flops_is_their_mean_in_logs_and_others_keep_their_own():
    crowd = 1e18 * np.array([0.96, 1.0, 1 / 0.96])
    lone = np.array([5e18, 2e19])
    np.testing.assert_allclose(snapped_budgets(np.concatenate([crowd, lone])), [*[1e18] * 3, *lone])


def test_runs_that_lie_on_no_budget_are_counted_in_a_note(tmp_path):
    rows = [f"{n},{c / 6 / n},3" for c in (1e18, 1e19) for n in (1e8, 2e8, 4e8)]
    rows += ["1e8,1e10,3", "1e8,7e10,3"]
    (note,) = (
        note for note in read_table(file(tmp_path, "\n".join(["N,D,loss", *rows]))).notes
        if note.startswith("no budget column")
    )  # fmt: skip
    assert note.endswith("told from FLOPs are 1e18, 1e19; 2 of the runs lie on none")


def test_a_column_of_our_very_name_goes_before_one_that_is_like_it(tmp_path):
    assert only(tmp_path, "n,N,D,loss\n7,1e8,2e9,3\n").num_params == 1e8
    assert only(tmp_path, "val_loss,loss,N,D\n9,3,1e8,2e9\n").loss == 3


def test_flops_spread_evenly_have_no_budgets():
    even = np.geomspace(1e18, 1e21, 150)
    np.testing.assert_array_equal(snapped_budgets(even), even)


def test_the_fit_of_a_table_without_budgets_is_that_of_the_runs(tmp_path):
    runs = sweep(CHINCHILLA, noise=0.002)
    path = tmp_path / "table.jsonl"
    lines = [{"N": r.num_params, "D": r.num_tokens, "loss": r.loss} for r in runs]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    table = read_table(path)
    read, notes = table.runs, table.notes
    assert any("budgets told from FLOPs are 1e18, 3.16e18" in note for note in notes)
    direct, table = (fit_runs(r, draws=0) for r in (runs, read))
    assert table.of("surface").surface.alpha == pytest.approx(
        direct.of("surface").surface.alpha, rel=1e-6
    )
    assert table.of("isoflop").a == pytest.approx(direct.of("isoflop").a, rel=1e-6)


def counted(num_params, num_tokens, flops):
    return Run("r", "completed", num_params, num_tokens, flops, 3.0, 1e18)


def test_flop_rule_of_a_table_is_told_from_its_columns():
    six = [counted(n, d, 6.0 * n * d) for n in (1e7, 1e8) for d in (1e9, 2e9)]
    assert table_flop_rule(six) == FlopRule.constant()
    eight = [counted(n, d, 8.0 * n * d) for n in (1e7, 1e8) for d in (1e9, 2e9)]
    assert table_flop_rule(eight).flops_per_param_per_token == pytest.approx(8.0)
    uneven = [counted(n, d, k * n * d) for n, k in ((1e7, 9.0), (1e8, 7.0)) for d in (1e9, 2e9)]
    rule = table_flop_rule(uneven)
    assert not rule.is_constant
    np.testing.assert_allclose(rule([1e7, 1e8]), [9e7, 7e8])
    rounded = [counted(n, d, 6.0 * n * d * k) for n, d, k in
               ((1e7, 1e9, 1.2), (1e7, 2e9, 0.8), (1e8, 1e9, 1.0), (1e8, 2e9, 0.9))]  # fmt: skip
    rule = table_flop_rule(rounded)
    assert rule.is_constant
    assert rule.flops_per_param_per_token == pytest.approx(6.0 * 0.95)  # the median of the four


@pytest.mark.parametrize("factor", [10, 0.1])
def test_flops_of_another_magnitude_are_refused_unless_they_are_said_to_be_so(factor):
    runs = [counted(n, d, 6.0 * factor * n * d) for n in (1e7, 1e8) for d in (1e9, 2e9)]
    with pytest.raises(UserError, match=f"{factor} times 6 N D: .*token={6 * factor:g}"):
        table_flop_rule(runs)
    rule = table_flop_rule(runs, 6 * factor)
    assert rule.flops_per_param_per_token == pytest.approx(6 * factor)


@pytest.mark.parametrize(("unique", "says"), [("5e8", False), ("1e8", True)])
def test_a_table_of_repeated_data_is_told_of_the_method_that_knows_them(tmp_path, unique, says):
    path = tmp_path / "runs.csv"
    path.write_text(f"num_params,num_tokens,loss,U\n1e8,2e9,3.5,{unique}\n")
    table = read_table(path, {"unique_tokens": "U"})
    assert table.runs[0].unique_tokens == float(unique)
    assert any("up to 20 times: fit=repeated" in note for note in table.notes) == says
