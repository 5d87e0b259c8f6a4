"""Rows of a table as training curves: one for each run, never several in one without a word."""

import json

import pytest

from flops_fit.errors import UserError
from flops_fit.fitting import EnvelopeFit, fit_runs
from flops_fit.fitting.selection import LowestLoss
from flops_fit.tables import read_table

CURVES = {"num_params": "N", "num_tokens": "D", "num_steps": "step"}

RATES = (1e-3, 1e-2)


def checkpoints(*, jitter=0):
    """Rows (sweep, lr, N, D, step, loss) of 4 budgets, 5 sizes and 2 rates, the second worse."""
    for budget in (1e18, 3e18, 1e19, 3e19):
        for ratio in (0.35, 0.6, 1, 1.7, 2.9):
            n = round(0.09 * budget**0.5 * ratio)
            for lr in RATES:
                for share in (0.25, 0.5, 0.75, 1.0):
                    steps = round(budget / 6 / n * share / 524288) + jitter * (lr == RATES[1])
                    d = steps * 524288
                    loss = 1.7 + 400 / n**0.34 + 1200 / d**0.34 + 0.12 * (1 - share)
                    yield "a", lr, n, d, steps, loss + 0.2 * (lr == RATES[1])


def written(tmp_path, rows, headers="sweep,lr,N,D,step,loss"):
    path = tmp_path / "curves.csv"
    path.write_text("\n".join([headers, *(",".join(map(str, row)) for row in rows)]))
    return path


def test_two_losses_at_one_step_are_two_curves_and_the_column_is_named(tmp_path):
    path = written(tmp_path, checkpoints())
    with pytest.raises(UserError) as error:
        read_table(path, {**CURVES, "id": "sweep"})
    assert "row 1 and" in str(error.value)
    assert "row 5 have one id (a), N = 3.15e+07" in str(error.value)
    assert str(error.value).endswith("'lr' tells them apart: columns.id=[sweep, lr]")


def test_split_curves_give_the_law_of_the_best_rate(tmp_path):
    table = read_table(written(tmp_path, checkpoints()), {**CURVES, "id": "[sweep, lr]"})
    assert (len(table.runs), len(table.checkpoints)) == (40, 160)
    law = fit_runs(table.runs, select=LowestLoss(), draws=0)
    assert law.of("isoflop").a == pytest.approx(0.5, abs=0.01)
    best = [row for row in checkpoints() if row[1] == RATES[0]]
    alone = read_table(written(tmp_path, best), {**CURVES, "id": "sweep"})
    alike = fit_runs(alone.runs, draws=0)
    assert law.predict(1e20).num_params == pytest.approx(alike.predict(1e20).num_params)


def test_an_envelope_has_no_curves_of_runs_that_were_not_selected(tmp_path):
    rows = [(*row[:5], row[5] - 0.5 * (row[1] == RATES[1] and i % 4 == 0))
            for i, row in enumerate(checkpoints())]  # fmt: skip
    table = read_table(written(tmp_path, rows), {**CURVES, "id": "[sweep, lr]"})
    best = [r for r in table.checkpoints if "/0.001" in r.id]
    laws = [
        fit_runs(table.runs, select=LowestLoss(), draws=0, answer=EnvelopeFit(), checkpoints=points)
        for points in (table.checkpoints, best)
    ]
    assert laws[0].of("envelope").a == laws[1].of("envelope").a


def test_curves_that_overlap_by_a_further_column_are_refused_unless_the_id_is_said(tmp_path):
    path = written(tmp_path, checkpoints(jitter=1))
    with pytest.raises(UserError, match=r"several curves by 'lr' \(0.001, 0.01\).*=\[sweep, lr\]"):
        read_table(path, {**CURVES, "id": "sweep"})
    assert len(read_table(path, {**CURVES, "id": ["sweep"]}).runs) == 20


def test_tokens_that_fall_as_steps_grow_are_of_two_curves(tmp_path):
    rows = [("a", 1e-3, 10**8, 4e9, 10, 3.0), ("a", 1e-3, 10**8, 2e9, 20, 3.1)]
    with pytest.raises(UserError, match=r"steps 10 and 20 but tokens 4e.09 and then 2e.09"):
        read_table(written(tmp_path, rows), {**CURVES, "id": "sweep"})


def test_where_no_column_tells_curves_apart_it_is_said(tmp_path):
    rows = [row for _ in range(2) for row in checkpoints()]
    rows = [(*row[:5], row[5] + 0.01 * (i >= len(rows) / 2)) for i, row in enumerate(rows)]
    with pytest.raises(UserError, match="no other column tells them apart"):
        read_table(written(tmp_path, rows), {**CURVES, "id": "sweep"})


def test_two_columns_may_tell_curves_apart_together(tmp_path):
    rows = [(*row, seed) for row in checkpoints() for seed in (1, 2)]
    rows = [(*row[:5], row[5] + row[6] / 100, row[6]) for row in rows]
    path = written(tmp_path, rows, "sweep,lr,N,D,step,loss,seed")
    with pytest.raises(UserError, match=r"'lr' and 'seed'.*columns.id=\[sweep, lr, seed\]"):
        read_table(path, {**CURVES, "id": "sweep"})


def test_the_same_row_twice_is_no_second_curve(tmp_path):
    rows = [("a", 1e-3, 10**8, 2e9, 10, 3.1), ("a", 1e-3, 10**8, 4e9, 20, 3.0)]
    table = read_table(written(tmp_path, [*rows, rows[1]]), {**CURVES, "id": "sweep"})
    assert [run.num_steps for run in table.runs] == [20]
    assert [row.reason for row in table.dropped] == ["the same step 20 and loss as another row"]


def test_rows_without_a_loss_are_neither_ends_nor_other_curves(tmp_path):
    rows = [
        ("a", 1e-3, 10**8, 2e9, 10, ""), ("a", 1e-3, 10**8, 2e9, 10, 3.1),
        ("a", 1e-3, 10**8, 4e9, 20, 3.0), ("a", 1e-3, 10**8, 5e9, 25, ""),
        ("b", 1e-3, 10**8, 2e9, 10, 3.2), ("b", 1e-3, 10**8, 4e9, 20, "nan"),
        ("c", 1e-3, 10**8, 4e9, 20, ""),
    ]  # fmt: skip
    table = read_table(written(tmp_path, rows), {**CURVES, "id": "sweep"})
    assert [(run.id, run.num_steps, run.loss) for run in table.runs] == [
        ("a", 20, 3.0),
        ("b", 20, None),
        ("c", 20, None),
    ]
    assert [run.status for run in table.runs] == ["completed", "diverged", "completed"]
    assert [one.reason for one in table.dropped] == ["a row of a curve without a loss"] * 2


def test_the_states_of_hugging_faces_trainer_are_curves(tmp_path):
    for number, size in enumerate((20, 40)):
        log = []
        for step in (1000, 2000):
            log.append({"step": step, "loss": 3.4, "grad_norm": 1.0, "learning_rate": 1e-3})
            log.append({"step": step, "eval_loss": 4 - step / 1000 - number, "eval_runtime": 2.0})
        log.append({"step": step, "train_loss": 3.9, "train_runtime": 100.0, "total_flos": 1e18})
        folder = tmp_path / f"run{number}-{size}.5M"
        folder.mkdir()
        state = {"best_metric": None, "log_history": log, "max_steps": 2000, "trial_params": None}
        (folder / "trainer_state.json").write_text(json.dumps(state, indent=2))
    columns = {
        "num_params": "regex(file, -([0-9.]+M))", "num_tokens": "step * 524288",
        "loss": "eval_loss", "num_steps": "step", "id": "file",
    }  # fmt: skip
    table = read_table(f"{tmp_path}/*/trainer_state.json", columns)
    assert [(run.num_params, run.num_steps, run.loss) for run in table.runs] == [
        (20.5e6, 2000, 2.0),
        (40.5e6, 2000, 1.0),
    ]
    assert len(table.checkpoints) == 4
    alone = read_table(f"{tmp_path}/*/*.json", {**columns, "num_steps": "", "id": ""})
    assert any("columns.num_steps=step columns.id=file" in note for note in alone.notes)


def test_curves_of_one_id_and_several_sizes_have_ids_of_their_own(tmp_path):
    rows = [row for row in checkpoints() if row[1] == RATES[0]]
    table = read_table(written(tmp_path, rows), {**CURVES, "id": "sweep"})
    assert len({run.id for run in table.runs}) == len(table.runs) == 20
    assert {point.id for point in table.checkpoints} == {run.id for run in table.runs}


def test_steps_read_as_runs_and_rates_read_as_seeds_are_said(tmp_path):
    table = read_table(written(tmp_path, checkpoints()), {"id": "sweep"})
    said = " ".join(table.notes)
    assert "say columns.num_steps=step" in said
    assert "differ in 'lr': select=best_lr" in said
