"""A row of a table as a run: every column, empty cells, and what is said of cells that are none."""

import pytest

from flops_fit.errors import UserError
from flops_fit.fitting.points import PLAUSIBLE
from flops_fit.tables import BITS, read_table, write_runs

HEADER = (
    "id,status,num_params,num_tokens,flops,loss,budget,num_params_total,loss_stderr,seed,"
    "num_steps,trunk,metrics.mae,metrics.error_rate"
)
FULL = "run a,completed,1e8,2e9,1.3e18,3.5,1.2e18,1.5e8,0.25,3,40,abc,0.5,"


def table(tmp_path, *lines):
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    return path


def test_every_column_has_its_place(tmp_path):
    (run,) = read_table(table(tmp_path, FULL)).runs
    assert (run.id, run.status, run.trunk) == ("run a", "completed", "abc")
    assert (run.num_params, run.num_tokens, run.flops, run.budget) == (1e8, 2e9, 1.3e18, 1.2e18)
    assert (run.loss, run.loss_stderr, run.num_params_total) == (3.5, 0.25, 1.5e8)
    assert (run.seed, run.num_steps) == (3, 40)
    assert run.metrics == {"mae": 0.5}


def test_empty_cells_are_nothing_known(tmp_path):
    (run,) = read_table(table(tmp_path, ",,1e8,2e9,1.3e18,3.5,,,,,,,,")).runs
    assert (run.id, run.status, run.trunk) == ("row 1", "completed", None)
    assert (run.budget, run.num_params_total, run.loss_stderr) == (1.3e18, None, None)
    assert (run.seed, run.num_steps, run.metrics) == (None, None, {})


def test_the_loss_and_its_error_are_in_the_unit_of_the_table(tmp_path):
    (run,) = read_table(table(tmp_path, FULL), nats_per_unit=BITS).runs
    assert (run.loss, run.loss_stderr) == pytest.approx((3.5 * BITS, 0.25 * BITS))
    assert run.metrics == {"mae": 0.5}


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number_is_of_a_run_that_diverged(tmp_path, loss):
    (run,) = read_table(table(tmp_path, FULL.replace("3.5", loss))).runs
    assert (run.status, run.loss) == ("diverged", None)


def test_rows_of_step_0_are_no_runs(tmp_path):
    found = read_table(table(tmp_path, FULL, FULL.replace(",40,", ",0,").replace("run a", "b")))
    assert [run.id for run in found.runs] == ["run a"]
    assert [(d.id, d.reason) for d in found.dropped] == [("b", "is of step 0")]


@pytest.mark.parametrize(
    ("columns", "constant"), [("num_params,num_tokens", 6.0), ("num_params,num_tokens", 8.0),
                              ("num_params,flops", 8.0), ("num_tokens,flops", 8.0)],
)  # fmt: skip
def test_the_third_of_N_D_and_C_follows_from_the_others(tmp_path, columns, constant):
    values = {"num_params": 1e8, "num_tokens": 2e9, "flops": constant * 1e8 * 2e9}
    path = tmp_path / "runs.csv"
    row = ",".join(f"{values[name]:g}" for name in columns.split(","))
    path.write_text(f"{columns},loss\n{row},3.5\n", encoding="utf-8")
    (run,) = read_table(path, flops_per_param_per_token=constant).runs
    found = {name: getattr(run, name) for name in values}
    assert found == pytest.approx(values)
    assert run.budget == run.flops


@pytest.mark.parametrize("name", ["num_params", "num_tokens"])
@pytest.mark.parametrize("end", [0, 1])
def test_sizes_are_believed_up_to_the_ends_of_what_is_plausible(tmp_path, name, end):
    at_the_end = PLAUSIBLE[name][end]
    beyond = at_the_end * (0.99, 1.01)[end]
    cells = {"num_params": "1e8", "num_tokens": "2e9"}
    path = tmp_path / "runs.csv"

    def read(value):
        row = ",".join({**cells, name: repr(value)}.values())
        path.write_text(f"num_params,num_tokens,loss\n{row},3.5\n", encoding="utf-8")
        return read_table(path, {"num_params_unit": "1", "num_tokens_unit": "1"}).runs

    assert getattr(read(at_the_end)[0], name) == at_the_end
    low, high = PLAUSIBLE[name]
    with pytest.raises(UserError, match=rf"row 1:? .*{name}") as error:
        read(beyond)
    assert f"a number between {low:g} and {high:g} was expected" in str(error.value)


def test_a_long_cell_is_shown_in_part_and_the_way_out_named(tmp_path):
    with pytest.raises(UserError) as error:
        read_table(table(tmp_path, FULL, FULL.replace("3.5", "x" * 500)))
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'runs.csv'}, row 2: loss is 'xxx")
    assert "xxx...'" in said
    assert said.count("x") < 100
    assert said.endswith(
        "a number was expected; correct the cell, or name another column with columns.loss=..."
    )


def test_what_is_written_is_read_back_whole(tmp_path):
    (run,) = read_table(table(tmp_path, FULL)).runs
    write_runs(tmp_path / "again.csv", [run])
    (again,) = read_table(tmp_path / "again.csv").runs
    assert again == run
