"""Tables in millions, GFLOPs and PF-days: read as they say, refused where nothing says."""

import math

import pytest

from flops_fit.errors import UserError
from flops_fit.tables import read_table
from flops_fit.tables.units import factor, header_unit

PF_DAY = 8.64e19

BUDGETS = (1e19, 3e19, 1e20, 3e20)


def sweep_of_others():
    """(N, D, C, loss) of a surface with alpha = beta."""
    for budget in BUDGETS:
        for ratio in (0.35, 0.6, 1, 1.7, 2.9):
            n = 0.09 * budget**0.5 * ratio
            d = budget / 6 / n
            yield n, d, budget, 1.7 + 400 / n**0.34 + 1200 / d**0.34


def written(tmp_path, headers, **scales):
    """The sweep under these headers, `N=...` and so on, each divided by its scale."""
    rows = [",".join([*headers.values(), "loss"])]
    for n, d, c, loss in sweep_of_others():
        values = {"N": n, "D": d, "C": c}
        rows.append(
            ",".join([*(f"{values[k] / scales.get(k, 1):.9g}" for k in headers), f"{loss}"])
        )
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def check_sizes(runs):
    for run, (n, d, c, _) in zip(runs, sweep_of_others(), strict=True):
        assert (run.num_params, run.num_tokens, run.flops) == pytest.approx((n, d, c), rel=1e-6)


@pytest.mark.parametrize(
    ("headers", "scales"),
    [
        ({"N": "params (M)", "D": "tokens (B)"}, {"N": 1e6, "D": 1e9}),
        ({"N": "params_M", "D": "tokens_B"}, {"N": 1e6, "D": 1e9}),
        ({"N": "N [millions]", "D": "D (billions of tokens)"}, {"N": 1e6, "D": 1e9}),
        ({"N": "paramsM", "D": "tokensB"}, {"N": 1e6, "D": 1e9}),
        ({"N": "MParams", "D": "Btokens"}, {"N": 1e6, "D": 1e9}),
        ({"N": "params/1e6", "D": "tokens/1e12"}, {"N": 1e6, "D": 1e12}),
        ({"N": "params in billions", "C": "compute (PF-days)"}, {"N": 1e9, "C": PF_DAY}),
        ({"N": "N", "C": "FLOPs (1e18)"}, {"C": 1e18}),
        ({"N": "N", "C": "compute_pflop_s_days"}, {"C": PF_DAY}),
        ({"D": "D", "C": "C in EFLOPs"}, {"C": 1e18}),
    ],
)
def test_units_of_headers_are_read_and_said(tmp_path, headers, scales):
    table = read_table(written(tmp_path, headers, **scales))
    check_sizes(table.runs)
    for letter, scale in scales.items():
        assert f"{headers[letter]!r} is in units of {scale:g}" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("scales", "units"),
    [
        ({"N": 1e6, "D": 1e9}, {"num_params_unit": "M", "num_tokens_unit": "B"}),
        ({"D": 1e9}, {"num_tokens_unit": "B"}),
        ({"N": 1e6}, {"num_params_unit": "M"}),
        ({"N": 1e9, "D": 1e9}, {"num_params_unit": "B", "num_tokens_unit": "B"}),
        ({"N": 1e9, "D": 1e12}, {"num_params_unit": "B", "num_tokens_unit": "T"}),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_units_that_fit(tmp_path, scales, units):
    path = written(tmp_path, {"N": "N", "D": "D"}, **scales)
    with pytest.raises(UserError) as error:
        read_table(path)
    words = " ".join(f"columns.{name}={unit}" for name, unit in units.items())
    assert f"{words} would fit" in str(error.value)
    check_sizes(read_table(path, units).runs)


@pytest.mark.parametrize("given", [("N", "C"), ("D", "C"), ("N", "D", "C")])
@pytest.mark.parametrize(
    ("scale", "unit"),
    [(1e9, "gflops"), (1e12, "tflops"), (1e15, "pflops"), (1e18, "eflops"), (PF_DAY, "pf-days")],
)
def test_compute_off_by_its_unit_is_refused_with_that_unit(tmp_path, given, scale, unit):
    path = written(tmp_path, {name: name for name in given}, C=scale)
    with pytest.raises(UserError, match=rf"columns.flops_unit={unit} would fit") as error:
        read_table(path)
    assert "flops_per_param_per_token" not in str(error.value)
    check_sizes(read_table(path, {"flops_unit": unit}).runs)


def test_a_constant_that_stands_for_a_unit_is_refused(tmp_path):
    path = written(tmp_path, {"N": "N", "D": "D", "C": "C"}, C=1e9)
    with pytest.raises(UserError, match=r"columns\.flops_unit=gflops"):
        read_table(path, flops_per_param_per_token=6e-9)


def test_a_unit_in_a_cell_goes_before_that_of_the_header(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params (M),tokens (B),loss\n70,1.4,3.5\n1.4B,28B,3\n", encoding="utf-8")
    runs = read_table(path).runs
    assert [(r.num_params, r.num_tokens) for r in runs] == [(7e7, 1.4e9), (1.4e9, 2.8e10)]


def test_a_header_that_tells_a_wrong_unit_is_refused_with_the_right_one(tmp_path):
    path = written(tmp_path, {"N": "params (M)", "D": "tokens"})
    with pytest.raises(UserError, match=r"columns.num_params_unit=1 would fit"):
        read_table(path)
    check_sizes(read_table(path, {"num_params_unit": "1"}).runs)


def test_one_row_in_another_unit_is_refused_by_its_number(tmp_path):
    path = written(tmp_path, {"N": "N", "D": "D"})
    path.write_text(path.read_text() + "\n70,1.4e9,3.1", encoding="utf-8")
    with pytest.raises(UserError, match=r"row 21 has num_params = 70.*70M"):
        read_table(path)


def test_what_is_said_to_be_so_is_believed(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N,D,loss\n20,500,3.5\n", encoding="utf-8")
    with pytest.raises(UserError, match="less than a batch"):
        read_table(path)
    said = {"num_params_unit": "1", "num_tokens_unit": "1"}
    assert read_table(path, said).runs[0].num_tokens == 500


def test_budgets_of_another_magnitude_are_not_believed(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N,D,loss,budget\n1e8,2e9,3.5,1\n2e8,4e9,3.2,2\n", encoding="utf-8")
    table = read_table(path)
    assert [run.budget for run in table.runs] == [run.flops for run in table.runs]
    assert any("it is not read for the budget" in note for note in table.notes)
    with pytest.raises(UserError, match=r"columns\.budget_unit"):
        read_table(path, {"budget": "budget"})
    exact = read_table(path, {"budget": "budget", "budget_unit": "1.2e18"})
    assert [run.budget for run in exact.runs] == [1.2e18, 2.4e18]


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("flops", "PF-days", PF_DAY),
        ("flops", "petaflop/s-days", PF_DAY),
        ("flops", "TFLOP-hours", 3.6e15),
        ("flops", "ZFLOPs", 1e21),
        ("flops", "GFLOP/s", None),
        ("num_tokens", "billion tokens", 1e9),
        ("num_tokens", "Mtok", 1e6),
        ("num_params", "thousands", 1e3),
        ("num_params", "10^6", 1e6),
        ("num_params", "furlongs", None),
    ],
)
def test_units_by_their_names(name, unit, expected):
    found = factor(name, unit)
    assert found == expected or math.isclose(found, expected)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("num_params", "params (non-embedding)"),
        ("num_params", "params (2)"),
        ("num_params", "n_params"),
        ("num_tokens", "throughput/total_tokens"),
        ("num_tokens", "tokens per batch"),
        ("flops", "total_flops"),
        ("flops", "gflops_per_token"),
        ("num_params", "moe_e8"),
    ],
)
def test_headers_without_a_unit(name, header):
    assert header_unit(name, header) is None


def test_a_column_of_another_unit_than_any_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"num_params_unit is 'inches', no unit of num_params"):
        read_table(written(tmp_path, {"N": "N", "D": "D"}), {"num_params_unit": "inches"})


def test_models_of_a_hundred_parameters_are_asked_about_unless_they_are_ours(tmp_path):
    path = written(tmp_path, {"N": "N", "C": "C"}, N=1e6, C=1e9)
    with pytest.raises(UserError, match=r"num_params_unit=M columns.flops_unit=gflops would fit"):
        read_table(path)
    check_sizes(read_table(path, {"num_params_unit": "M", "flops_unit": "gflops"}).runs)
    path.write_text("N,D,loss,size_name\n99,20000,3.5,width\n", encoding="utf-8")
    assert read_table(path).runs[0].num_params == 99


@pytest.mark.parametrize("number", ["1e-320", "1e-200", "1e300"])
@pytest.mark.parametrize("rows", [1, 6])
def test_numbers_beyond_all_sizes_are_refused_without_a_word_of_numpys(tmp_path, number, rows):
    lines = ["N,D,C,loss"]
    for i in range(6):
        n = number if i < rows else f"{2**i}e7"
        lines.append(f"{n},{2 ** (6 - i)}e8,{6 * 2**6 * 1e15},{3 - 0.1 * i}")
    (tmp_path / "runs.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"row 1.*(num_params|N would be)"):
        read_table(tmp_path / "runs.csv")
