import json
import math
import random
import statistics
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_study import ADAMW, Net, WatchedLoss, outcome, planned, rows, small_sweep
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from flops_fit.datasets import Toy
from flops_fit.datasets.adapters import as_source
from flops_fit.laws import FORWARD_SHARE
from flops_fit.learning.losses import cross_entropy
from flops_fit.learning.optimizers import Muon
from flops_fit.learning.schedules import WSD, Constant, Cosine, Linear
from flops_fit.models import MLP, Transformer
from flops_fit.plan.experiment import Experiment, Size
from flops_fit.plan.rules import PowerRule
from flops_fit.store.protocols import Unwatched
from flops_fit.training.curve import HELD_OUT_POINTS, HELD_OUT_SHARE, CurvePlan
from flops_fit.training.trainer import train

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
EXPERIMENT = Experiment(
    budget=1.0, size=Size("width", 4), num_params=1, num_params_total=1, num_steps=1, batch_size=1,
    batch_tokens=1, flops_per_token=1.0, flops_per_token_counted=None, flops_per_token_formula=1.0,
    unique_tokens=None, seed=0,
)  # fmt: skip
deep_mlp = partial(MLP, in_features=4, depth=3)


def token_source():
    """Sequences of 8 of 8 tokens, each the next one's target."""
    tokens = torch.randint(8, (640, 9), generator=torch.Generator().manual_seed(0))
    return as_source((tokens[:, :-1], tokens[:, 1:]), tokens_per_sample=8)


class CountingNet(Net):
    rows_seen: ClassVar[Counter] = Counter()

    def forward(self, x):
        CountingNet.rows_seen["trained" if self.training else "evaluated"] += len(x)
        return super().forward(x)


class RecordingSGD(torch.optim.SGD):
    """Keeps the learning rates of every step."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.rates = []
        RecordingSGD.latest = self

    def step(self, closure=None):
        self.rates.append([group["lr"] for group in self.param_groups])
        return super().step(closure)


DRAWS = {
    "torch": lambda: torch.rand(()).item(),
    "numpy": np.random.rand,
    "python": random.random,
}


class DrawnNet(Net):
    """Its weights are drawn, and its inputs shifted, by `draw`."""

    def __init__(self, width, draw):
        super().__init__(width, dropout=0.0)
        self.draw = draw
        with torch.no_grad():
            for parameter in self.parameters():
                values = [draw() - 0.5 for _ in range(parameter.numel())]
                parameter.copy_(torch.tensor(values).view_as(parameter))

    def forward(self, x):
        return super().forward(x + 0.1 * self.draw())


class Keep:
    """A factory that keeps the last model it built."""

    def __init__(self, factory):
        self.factory = factory

    def __call__(self, width):
        self.model = self.factory(width=width)
        return self.model


@pytest.fixture
def study(tmp_path):
    """Trains one experiment of the small study, with parts changed; each call in a new folder."""

    def trained(index=0, loss=None, watcher=None, folder="a", **changes):
        plan, recipe = planned(tmp_path / folder, **changes)
        recipe = replace(recipe, loss=loss or recipe.loss)
        watcher = watcher or Unwatched()
        return train(plan.experiments[index], recipe, tmp_path / folder, watcher)

    return trained


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


class TestWhatIsTrained:
    @pytest.mark.parametrize("index", [0, 2, 3])
    @pytest.mark.parametrize("tokens_per_sample", [1, 4])
    def test_the_model_sees_exactly_the_planned_tokens(self, tmp_path, index, tokens_per_sample):
        source = as_source(rows(), tokens_per_sample=tokens_per_sample)
        plan, recipe = planned(tmp_path, factory=CountingNet, source=source)
        experiment = plan.experiments[index]
        CountingNet.rows_seen.clear()
        run = train(experiment, recipe, tmp_path, Unwatched())
        seen = CountingNet.rows_seen
        assert seen["trained"] * tokens_per_sample == experiment.num_tokens == run.num_tokens
        assert seen["evaluated"] >= recipe.held_out_samples == run.held_out_samples
        assert run.planned_tokens == run.num_tokens
        assert run.flops == experiment.flops

    @pytest.mark.parametrize("schedule", [Cosine(), Linear(), WSD(), Constant()])
    @pytest.mark.parametrize("index", [2, 3])
    def test_one_update_for_each_step_on_the_run_s_own_schedule(self, study, schedule, index):
        run = study(index, optimizer=partial(RecordingSGD, lr=0.1), schedule=schedule)
        rates = [rate for (rate,) in RecordingSGD.latest.rates]
        assert len(rates) == run.num_steps
        assert rates[0] > 0
        assert max(rates) == pytest.approx(0.1, rel=0.05)
        end = 0.1 if isinstance(schedule, Constant) else 0.0
        assert rates[-1] == pytest.approx(end, abs=1e-12)

    def test_groups_keep_their_share_of_the_rate_throughout(self, study):
        study(factory=deep_mlp, optimizer=partial(RecordingSGD, lr=0.001))
        ratios = [hidden / first for first, hidden, _ in RecordingSGD.latest.rates[:-1]]
        assert ratios == pytest.approx([8.0] * len(ratios))  # base width 32 over width 4

    def test_is_what_a_plain_loop_does(self, study):
        source = as_source(rows())
        kept = Keep(partial(Net, dropout=0.0))
        run = study(factory=kept, optimizer=SGD, schedule=Constant(0.0), source=source)

        torch.manual_seed(0)
        model = Net(4, dropout=0.0)
        optimizer = SGD(model.parameters())
        batches = source.training_batches(16, seed=0)
        for _ in range(run.num_steps):
            x, y = next(batches)
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        for ours, theirs in zip(kept.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_one_seed_one_result_and_the_callers_random_numbers_stay(self, study):
        state = torch.random.get_rng_state()
        first, again = (study(folder=folder) for folder in ("a", "b"))
        assert outcome(first) == outcome(again)
        assert torch.equal(torch.random.get_rng_state(), state)
        other = study(folder="c", sweep=small_sweep(seed=1))
        assert other.loss != first.loss

    @pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
    def test_what_a_model_draws_follows_from_the_seed_whatever_the_caller_drew(
        self, tmp_path, draw
    ):
        """From each of the three global generators, which go on as if nothing had been drawn."""
        plan, recipe = planned(tmp_path, factory=partial(DrawnNet, draw=draw))
        (first, *_), losses = plan.experiments, []
        for number, experiment in enumerate((first, first, replace(first, seed=1))):
            for start in (torch.manual_seed, np.random.seed, random.seed):
                start(number)
            expected = draw()
            for start in (torch.manual_seed, np.random.seed, random.seed):
                start(number)
            losses.append(train(experiment, recipe, tmp_path / f"{number}", Unwatched()).loss)
            assert draw() == expected
        assert losses[0] == losses[1] != losses[2]

    def test_bf16_is_near_fp32_but_not_the_same(self, study):
        fp32 = study(folder="a", precision="fp32")
        bf16 = study(folder="b", precision="bf16")
        assert bf16.loss != fp32.loss
        assert bf16.loss == pytest.approx(fp32.loss, rel=0.02)
        assert (fp32.precision, bf16.precision) == ("fp32", "bf16")


class TestHeldOutLoss:
    @pytest.mark.parametrize("num_samples", [16, 40, 64])
    def test_is_that_of_an_evaluation_of_ones_own(self, study, num_samples):
        source = as_source(rows())
        kept = Keep(partial(Net, dropout=0.5))
        run = study(factory=kept, source=source, held_out_samples=num_samples)
        x, y = map(torch.cat, zip(*source.held_out_batches(1, num_samples), strict=True))
        with torch.no_grad():
            expected = F.mse_loss(kept.model.eval()(x), y)
        assert run.loss == pytest.approx(expected.item(), rel=1e-5)
        assert run.held_out_samples == num_samples

    def test_standard_error_is_that_of_the_mean_over_batches(self, study):
        source = as_source(rows())
        kept = Keep(Net)
        run = study(factory=kept, source=source, held_out_samples=64)
        with torch.no_grad():
            batches = source.held_out_batches(16, 64)
            losses = [F.mse_loss(kept.model.eval()(x), y).item() for x, y in batches]
        assert run.loss_stderr == pytest.approx(statistics.stdev(losses) / 2, rel=1e-4)

    def test_one_batch_has_no_standard_error(self, study):
        assert study(held_out_samples=16).loss_stderr is None

    def test_a_loss_of_shape_1_is_a_number_too(self, study):
        number = study(folder="a")
        one = study(folder="b", loss=lambda p, t: F.mse_loss(p, t).reshape(1))
        assert outcome(one) == outcome(number)

    def test_is_not_the_training_loss(self, study):
        """Trained on noise, the held-out loss is that of the noise."""
        x, y = rows(64)
        run = study(source=as_source((x, y * 0), held_out=TensorDataset(x, y * 0 + 3)))
        assert run.loss == pytest.approx(9, rel=0.1)
        assert run.train_loss < 1


class TestRecord:
    def test_says_how_and_on_what(self, study):
        run = study(3)
        assert (run.status, run.error) == ("completed", None)
        assert run.is_completed
        assert run.wall_time_seconds > 0
        assert run.tokens_per_second >= run.num_tokens / run.wall_time_seconds
        assert run.peak_memory_bytes > 10**7
        assert run.device.startswith("cpu")
        assert run.versions["torch"] == torch.__version__
        assert run.flops_counted == pytest.approx(run.num_tokens * (4 * 16 + 6 * 4))
        json.dumps(run.to_json(), allow_nan=False)

    @pytest.mark.parametrize(
        ("optimizer", "rule", "expected"),
        [
            (partial(torch.optim.AdamW, lr=0.02), None, 0.02),
            (partial(torch.optim.SGD, lr=0.3, momentum=0.9), None, 0.3),
            (partial(Muon, lr=0.02, adamw_lr=0.01), None, 0.02),
            (partial(torch.optim.AdamW, lr=0.02), PowerRule(0.004), 0.004),
            (partial(Muon, lr=0.02, adamw_lr=0.01), PowerRule(0.004), 0.004),
        ],
        ids=["adamw", "sgd", "muon", "rule", "muon with a rule"],
    )
    def test_the_learning_rate_is_the_one_that_was_configured(
        self, tmp_path, optimizer, rule, expected
    ):
        """And not the scaled one of a group of parameters: embeddings take half of it."""
        plan, recipe = planned(
            tmp_path,
            factory=partial(Transformer, vocab_size=8, context_length=8),
            source=token_source(),
            loss=cross_entropy,
            optimizer=optimizer,
            sweep=small_sweep(budgets=(5e7,), sizes=(8, 32), min_steps=3, learning_rate=rule),
        )
        run = train(plan.experiments[-1], recipe, tmp_path, Unwatched())
        assert run.learning_rate == pytest.approx(expected)

    def test_training_loss_is_the_mean_of_the_last_steps(self, study):
        loss = WatchedLoss()
        run = study(3, loss=loss)
        assert len(loss.values) == run.num_steps > 100
        share = round(run.num_steps / 20)
        assert run.train_loss == pytest.approx(statistics.mean(loss.values[-share:]), rel=1e-5)

    def test_the_curve_covers_every_step_once(self, study, tmp_path):
        loss = WatchedLoss()
        run = study(3, loss=loss)
        curve = metrics(tmp_path / "a")
        steps = [point["step"] for point in curve]
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (1, run.num_steps)
        assert curve[-1]["num_tokens"] == run.num_tokens
        assert curve[-1]["flops"] == pytest.approx(run.flops)
        lengths = [step - before for step, before in zip(steps, [0, *steps], strict=False)]
        total = math.fsum(p["train_loss"] * n for p, n in zip(curve, lengths, strict=True))
        assert total == pytest.approx(math.fsum(loss.values), rel=1e-5)

    def test_the_curve_s_held_out_loss_is_that_of_a_run_that_ended_there(self, tmp_path):
        """With a constant rate a shorter run is the start of a longer one."""
        plan, recipe = planned(tmp_path, schedule=Constant(0.0), sweep=small_sweep(budgets=(4e6,)))
        experiment = plan.experiments[0]
        train(experiment, recipe, tmp_path, Unwatched())
        measured = [point for point in metrics(tmp_path) if point["held_out_loss"] is not None]
        samples = CurvePlan.of(experiment, recipe.held_out_samples).held_out_samples
        assert len(measured) == HELD_OUT_POINTS
        for point in (measured[0], measured[-1]):
            shorter = replace(experiment, num_steps=point["step"])
            on_the_same = replace(recipe, held_out_samples=samples)
            run = train(shorter, on_the_same, tmp_path / str(point["step"]), Unwatched())
            assert run.loss == point["held_out_loss"]

    @given(num_steps=st.integers(1, 10**6), batch_size=st.integers(1, 512))
    def test_the_curve_s_measurements_cost_next_to_nothing(self, num_steps, batch_size):
        experiment = replace(EXPERIMENT, num_steps=num_steps, batch_size=batch_size)
        curve = CurvePlan.of(experiment, 10**9)
        evaluated = len(curve.held_out_steps) * curve.held_out_samples
        assert FORWARD_SHARE * evaluated <= HELD_OUT_SHARE * num_steps * batch_size + 1e-6
        assert curve.held_out_steps <= curve.steps - {num_steps}
        assert {1, num_steps} <= curve.steps

    def test_the_curve_tells_rate_and_gradient_of_its_steps(self, study, tmp_path):
        source = as_source(rows())
        still = partial(Net, dropout=0.0)
        study(3, factory=still, optimizer=partial(RecordingSGD, lr=0.1), source=source)
        curve = metrics(tmp_path / "a")
        rates = [rate for (rate,) in RecordingSGD.latest.rates]
        assert [point["lr"] for point in curve] == [rates[point["step"] - 1] for point in curve]

        torch.manual_seed(0)
        model = Net(4, dropout=0.0)
        x, y = next(source.training_batches(16, seed=0))
        gradients = torch.autograd.grad(F.mse_loss(model(x), y), list(model.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        assert curve[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)

    def test_progress_rises_to_the_run_s_flops(self, study, monkeypatch):
        monkeypatch.setattr("flops_fit.training.progress.PROGRESS_SECONDS", 0.0)
        seen = []
        watcher = Unwatched()
        watcher.progress = lambda experiment, flops: seen.append(flops)
        run = study(watcher=watcher)
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(run.flops)


def stopping(watcher):
    """Asks the watcher for a stop."""

    def act(loss):
        watcher.stop_requested = True
        return loss

    return act


class TestResume:
    @pytest.mark.parametrize(
        "parts",
        [
            {"optimizer": ADAMW},
            {"optimizer": SGD, "schedule": WSD()},
            {"factory": deep_mlp, "optimizer": partial(Muon, lr=0.02)},
            {"source": Toy(dim=4, num_waves=16)},
            {"source": as_source(DataLoader(TensorDataset(*rows()), 16, shuffle=True))},
        ],
        ids=["adamw", "sgd", "muon", "toy", "loader"],
    )
    def test_is_bit_identical_to_a_run_without_a_stop(self, study, tmp_path, parts):
        whole = study(0, folder="whole", **parts)
        step = whole.num_steps * 2 // 3
        watcher = Unwatched()
        with pytest.raises(KeyboardInterrupt):
            study(0, loss=WatchedLoss(step, stopping(watcher)), watcher=watcher, **parts)
        assert metrics(tmp_path / "a")[-1]["step"] <= step
        rest = WatchedLoss()
        assert outcome(study(0, loss=rest, **parts)) == outcome(whole)
        assert len(rest.values) == whole.num_steps - step
        curves = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "a")]
        assert curves[0] == curves[1]

    def test_survives_any_number_of_stops(self, study):
        whole = study(2, folder="whole")
        for _ in range(whole.num_steps - 1):
            watcher = Unwatched(stop_requested=True)
            with pytest.raises(KeyboardInterrupt):
                study(2, watcher=watcher)
        assert outcome(study(2)) == outcome(whole)

    def test_a_killed_run_goes_on_from_its_last_checkpoint(self, study):
        """SystemExit stands for the kill: nothing of ours catches it."""
        whole = study(0, folder="whole", checkpoint_seconds=0.0)

        def die(loss):
            raise SystemExit

        with pytest.raises(SystemExit):
            study(0, loss=WatchedLoss(60, die), checkpoint_seconds=0.0)
        rest = WatchedLoss()
        assert outcome(study(0, loss=rest)) == outcome(whole)
        assert len(rest.values) == whole.num_steps - 59

    def test_the_time_before_each_stop_counts(self, study):
        for step in (40, 30):
            watcher = Unwatched()

            def slow(loss, watcher=watcher):
                time.sleep(0.3)
                return stopping(watcher)(loss)

            with pytest.raises(KeyboardInterrupt):
                study(0, loss=WatchedLoss(step, slow), watcher=watcher)
        run = study(0)
        assert run.wall_time_seconds > 0.6
        assert run.tokens_per_second < run.num_tokens / 0.6


class Stream(IterableDataset):
    def __init__(self, num_rows):
        self.num_rows = num_rows

    def __iter__(self):
        return iter(zip(*rows(self.num_rows), strict=True))


class TestRunsThatGoWrong:
    def test_a_stream_that_ends_early_fails_and_says_how_far_it_came(self, study):
        held_out = TensorDataset(*rows(64, seed=1))
        run = study(0, source=as_source(Stream(500), held_out=held_out, batch_size=16))
        assert (run.status, run.loss) == ("failed", None)
        assert run.error.startswith("the data ended after 496 of 1,328 planned tokens")
        assert (run.num_tokens, run.planned_tokens, run.num_steps) == (496, 1328, 31)

    def test_a_stream_that_is_just_long_enough_does(self, study):
        held_out = TensorDataset(*rows(64, seed=1))
        run = study(0, source=as_source(Stream(1328), held_out=held_out, batch_size=16))
        assert (run.status, run.num_tokens) == ("completed", 1328)

    @pytest.mark.parametrize(
        ("step", "bad"), [(1, math.nan), (7, math.inf), (101, math.nan), (167, math.inf)]
    )
    def test_a_loss_that_is_no_number_is_divergence_with_its_step(self, study, tmp_path, step, bad):
        run = study(3, loss=WatchedLoss(step, lambda loss: loss * bad))
        assert (run.status, run.loss) == ("diverged", None)
        assert run.error == f"the training loss is {bad} at step {step}"
        assert step <= run.num_steps <= 167
        assert run.num_tokens == 16 * run.num_steps
        assert run.is_settled
        json.dumps(run.to_json(), allow_nan=False)
        assert all(point["train_loss"] > 0 for point in metrics(tmp_path / "a"))

    def test_too_high_a_learning_rate_is_divergence(self, study):
        run = study(3, optimizer=partial(torch.optim.SGD, lr=1e4), schedule=Constant(0.0))
        assert run.status == "diverged"

    def test_a_held_out_loss_that_is_no_number_is_divergence(self, study):
        def loss(prediction, target):
            mean = F.mse_loss(prediction, target)
            return mean if torch.is_grad_enabled() else mean * math.nan

        run = study(0, loss=loss)
        assert (run.status, run.loss, run.loss_stderr) == ("diverged", None, None)
        assert run.error == "the held-out loss is nan"

    def test_what_a_user_s_code_raises_is_raised(self, study):
        def fail(loss):
            raise LookupError("no such token")

        with pytest.raises(LookupError, match="no such token"):
            study(0, loss=WatchedLoss(5, fail))
