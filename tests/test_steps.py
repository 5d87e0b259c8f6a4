"""The update itself: accumulation, clipping, precision with a scaler, rules for the rate."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_study import ADAMW, Net, outcome, planned, rows, small_sweep
from torch import nn

from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError
from flops_fit.learning.metrics import accuracy, error_rate
from flops_fit.models import MLP
from flops_fit.plan.rules import PowerRule
from flops_fit.store.protocols import Unwatched
from flops_fit.training.state import TrainingState, seeded
from flops_fit.training.steps import gradient_norm, train_step
from flops_fit.training.trainer import train

STILL = partial(Net, dropout=0.0)  # dropout draws differently for other batch shapes


class Watched(torch.optim.SGD):
    """Notes the gradients' norm and the rate at every update."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
        self.norms, self.rates = [], []
        Watched.latest = self

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.norms.append(float(nn.utils.get_total_norm([p.grad for p in parameters])))
        self.rates.append([group["lr"] for group in self.param_groups])
        return super().step(closure)


def trained(folder, index=0, **changes):
    plan, recipe = planned(folder, **{"factory": STILL, **changes})
    return train(plan.experiments[index], recipe, folder, Unwatched())


class TestAccumulation:
    @pytest.mark.parametrize("size", [1, 5, 8])
    def test_the_micro_batch_does_not_change_the_result(self, tmp_path, size):
        whole = trained(tmp_path / "whole")
        parts = trained(tmp_path / "parts", micro_batch_size=size)
        assert parts.id == whole.id
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
        assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
        assert (whole.micro_batch_size, parts.micro_batch_size) == (None, size)

    def test_gradients_are_those_of_the_whole_batch(self, tmp_path):
        plan, recipe = planned(tmp_path, factory=STILL)
        batch = next(recipe.source.training_batches(16, seed=0))
        gradients = []
        for size in (None, 3):
            with seeded(0):
                state = TrainingState.start(plan.experiments[0], recipe)
            train_step(batch, 1.0, replace(recipe, micro_batch_size=size), state)
            gradients.append([p.grad for p in state.model.parameters()])
        torch.testing.assert_close(*gradients)

    def test_a_micro_batch_as_large_as_the_batch_is_the_batch(self, tmp_path):
        whole = trained(tmp_path / "whole")
        assert outcome(trained(tmp_path / "same", micro_batch_size=16)) == outcome(whole)


class TestClipping:
    def test_no_update_sees_a_longer_gradient(self, tmp_path):
        trained(tmp_path / "free", optimizer=Watched)
        free = Watched.latest.norms
        trained(tmp_path / "clipped", optimizer=Watched, clip_grad_norm=0.2)
        clipped = Watched.latest.norms
        assert max(free) > 0.3
        assert max(clipped) == pytest.approx(0.2, rel=1e-4)
        assert min(clipped) < 0.19  # what is short already stays

    def test_the_curve_shows_the_norm_before_clipping(self, tmp_path):
        plan, recipe = planned(tmp_path, factory=STILL, optimizer=Watched)
        batch = next(recipe.source.training_batches(16, seed=0))
        norms = []
        for clip in (None, 0.01):
            with seeded(0):
                state = TrainingState.start(plan.experiments[0], recipe)
            train_step(batch, 1.0, replace(recipe, clip_grad_norm=clip), state)
            norms.append(float(gradient_norm(state)))
        assert norms[0] == norms[1]
        assert Watched.latest.norms == pytest.approx([0.01], rel=1e-3)

    def test_makes_another_run(self, tmp_path):
        free, _ = planned(tmp_path)
        clipped, _ = planned(tmp_path, identity={"clip_grad_norm": 0.2})
        assert {e.id for e in free.experiments}.isdisjoint(e.id for e in clipped.experiments)


class TestHalfPrecision:
    def test_fp16_with_a_scaler_is_near_fp32(self, tmp_path):
        """On the CPU, which the command line refuses; its autocast and scaler are the same."""
        plan, recipe = planned(tmp_path, factory=STILL)
        half = replace(recipe, precision="fp16")
        runs = [
            train(plan.experiments[0], r, tmp_path / r.precision, Unwatched())
            for r in (recipe, half)
        ]
        assert runs[1].loss != runs[0].loss
        assert runs[1].loss == pytest.approx(runs[0].loss, rel=0.02)

    def test_the_scaler_keeps_small_gradients(self, tmp_path):
        """A loss of 1e-6 times the usual has fp16 gradients of zero, unless they are scaled."""
        plan, recipe = planned(tmp_path, factory=STILL, loss=lambda p, t: 1e-6 * F.mse_loss(p, t))
        half = replace(recipe, precision="fp16")
        batch = next(recipe.source.training_batches(16, seed=0))
        with seeded(0):
            state = TrainingState.start(plan.experiments[0], half)
        train_step(batch, 1.0, half, state)
        assert all(p.grad.abs().max() > 0 for p in state.model.parameters())

    def test_is_refused_off_cuda(self, tmp_path):
        with pytest.raises(ConfigError, match="fp16 is for CUDA, the device is cpu: use bf16"):
            planned(tmp_path, precision="fp16")


class TestRules:
    def test_is_the_power_law_within_its_bounds(self):
        rule = PowerRule(2.0, num_params_exponent=-1.0, num_tokens_exponent=0.5, highest=0.3)
        assert rule(100, 100) == pytest.approx(0.2)
        assert rule(10, 100) == 0.3
        assert PowerRule(1.0, lowest=7.0)(1, 1) == 7.0

    @pytest.mark.parametrize(
        "wrong", [{"coefficient": 0}, {"coefficient": 1, "lowest": 2, "highest": 1}]
    )
    def test_one_that_makes_no_sense_is_refused(self, wrong):
        with pytest.raises(ConfigError, match="a rule"):
            PowerRule(**wrong)

    def test_sets_the_peak_rate_of_each_run_and_keeps_the_groups_ratios(self, tmp_path):
        rule = PowerRule(1.0, num_params_exponent=-0.5)
        sweep = small_sweep(learning_rate=rule)
        for index, width in enumerate((4, 8)):
            factory = partial(MLP, in_features=4, depth=2)
            run = trained(
                tmp_path / str(width), index, factory=factory, sweep=sweep, optimizer=Watched
            )
            first, hidden, _ = map(max, zip(*Watched.latest.rates, strict=True))
            assert run.learning_rate == pytest.approx(run.num_params**-0.5)
            assert first == pytest.approx(run.learning_rate, rel=0.05)
            assert hidden / first == pytest.approx(32 / width)

    def test_sets_the_tokens_of_each_step(self, tmp_path):
        rule = PowerRule(0.5, num_tokens_exponent=0.5)
        source = as_source(rows(), tokens_per_sample=4)
        plan, _ = planned(
            tmp_path, source=source, sweep=small_sweep(batch_tokens=rule, min_steps=1)
        )
        batches = [e.batch_size for e in plan.experiments]
        for e in plan.experiments:
            asked = e.budget / e.flops_per_token
            assert e.batch_size == max(1, round(rule(e.num_params, asked) / 4))
            assert abs(e.flops - e.budget) <= e.flops_per_step / 2
        assert len(set(batches)) > 1
        run = trained(tmp_path, source=source, sweep=small_sweep(batch_tokens=rule, min_steps=1))
        assert run.num_tokens == run.planned_tokens == plan.experiments[0].num_tokens

    def test_every_run_is_measured_on_the_same_data_whatever_its_batch(self, tmp_path):
        sweep = small_sweep(batch_tokens=PowerRule(0.5, num_tokens_exponent=0.5), min_steps=1)
        runs = [trained(tmp_path / str(i), i, sweep=sweep) for i in range(2)]
        assert len({run.batch_size for run in runs}) == 2
        assert len({run.held_out_samples for run in runs}) == 1

    def test_a_rule_for_the_batch_of_a_loader_is_refused(self):
        from torch.utils.data import DataLoader, TensorDataset

        from flops_fit.training.spec import sweep_for

        source = as_source(DataLoader(TensorDataset(*rows()), 16))
        with pytest.raises(ConfigError, match="batches of 16, so no rule can set the batch"):
            sweep_for(small_sweep(batch_tokens=PowerRule(8.0)), source)


class TestMetrics:
    def test_stand_beside_the_loss_as_means_over_the_same_samples(self, tmp_path):
        metrics = {"mse": F.mse_loss, "mae": F.l1_loss, "mean": lambda p, t: float(p.mean())}
        run = trained(tmp_path, metrics=metrics, held_out_samples=40)
        assert set(run.metrics) == {"mse", "mae", "mean"}
        assert run.metrics["mse"] == run.loss
        assert 0 < run.metrics["mae"] < run.loss**0.5

    def test_accuracy_and_its_complement(self):
        logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 2.0], [2.0, 3.0]]])
        target = torch.tensor([[0, 0], [0, 1]])
        assert accuracy(logits, target) == 0.75
        assert error_rate(logits, target) == 0.25

    def test_one_that_is_no_number_is_left_out(self, tmp_path):
        run = trained(tmp_path, metrics={"bad": lambda p, t: float("nan"), "good": F.l1_loss})
        assert set(run.metrics) == {"good"}
        assert run.is_completed


class TestSeeds:
    def test_repeat_each_experiment(self, tmp_path):
        once, _ = planned(tmp_path)
        plan, _ = planned(tmp_path, sweep=small_sweep(seeds=3))
        assert len(plan) == 3 * len(once)
        assert [e.seed for e in plan.experiments[:3]] == [0, 1, 2]
        assert {e.id for e in once.experiments} < {e.id for e in plan.experiments}

    def test_data_and_weights_have_seeds_of_their_own(self, tmp_path):
        losses = {
            (seed, data_seed): trained(
                tmp_path / f"{seed}-{data_seed}",
                sweep=small_sweep(seed=seed, data_seed=data_seed),
                optimizer=ADAMW,
            ).loss
            for seed in (0, 1)
            for data_seed in (None, 0, 1)
        }
        assert losses[0, None] == losses[0, 0]
        assert losses[1, None] == losses[1, 1]
        assert len(set(losses.values())) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
class TestCompiling:
    def test_compiles_the_long_runs_only_and_gives_the_same_law(self, tmp_path):
        plan, recipe = planned(tmp_path, factory=STILL)
        short, long = plan.experiments[0], plan.experiments[3]
        compiling = replace(recipe, compile_above=(short.flops + long.flops) / 2)
        for e, is_compiled in ((short, False), (long, True)):
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            run = train(e, compiling, tmp_path / f"compiled {e.id}", Unwatched())
            assert bool(torch._dynamo.utils.counters["stats"]["unique_graphs"]) is is_compiled
            plain = train(e, recipe, tmp_path / e.id, Unwatched())
            assert run.loss == pytest.approx(plain.loss, rel=1e-4)

    def test_a_resumed_run_is_compiled_as_it_began(self, tmp_path):
        plan, recipe = planned(tmp_path, factory=STILL, compile_above=0.0)
        experiment = plan.experiments[0]
        whole = train(experiment, recipe, tmp_path / "whole", Unwatched())
        watcher = Unwatched(stop_requested=True)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, recipe, tmp_path / "cut", watcher)
        assert outcome(train(experiment, recipe, tmp_path / "cut", Unwatched())) == outcome(whole)
