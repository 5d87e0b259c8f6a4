"""Runs in one batched step: the same as alone, and why some must stay alone."""

import math
import random
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_study import ADAMW, Net, planned, rows, small_sweep
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flops_fit.datasets.adapters import as_source
from flops_fit.datasets.batches import micro_batches, num_samples, output_of, stacked
from flops_fit.learning.losses import cross_entropy
from flops_fit.learning.optimizers import Muon
from flops_fit.models import MLP
from flops_fit.training.flat_parameters import LINEAR_IN_RATE, MustTrainAlone
from flops_fit.training.flat_program import NotRecordable, recorded
from flops_fit.training.stackable import why_alone
from flops_fit.training.stacked import Stacked
from flops_fit.training.state import TrainingState, seeded

STILL = partial(Net, dropout=0.0)
RATES = (0.003, 0.01, 0.02)
STEPS = 200


def runs(folder, **changes):
    """Three experiments of one size that differ in seeds and rates, and their recipe."""
    sweep = small_sweep(budgets=(1e7,), min_steps=1, max_epochs=1e9)
    plan, recipe = planned(folder, **{"factory": STILL, "sweep": sweep, **changes})
    experiments = [
        replace(plan.experiments[1], seed=seed, learning_rate=rate, num_steps=STEPS)
        for seed, rate in enumerate(RATES)
    ]
    return experiments, recipe


def fresh(experiments, recipe):
    states = []
    for e in experiments:
        with seeded(e.seed):
            states.append(TrainingState.start(e, recipe))
    return states


def streams(experiments, recipe, start_step=0):
    return [
        recipe.source.training_batches(e.batch_size, e.order_seed, start_step) for e in experiments
    ]


def factor(recipe, experiment, step):
    return recipe.learning_rate_factor(experiment)(step)


def train_alone(state, experiment, recipe, num_steps):
    """A plain loop; returns losses and the norms of the gradients, (num_steps,) each."""
    batches = recipe.source.training_batches(
        experiment.batch_size, experiment.order_seed, state.step
    )
    losses, norms = [], []
    for step in range(state.step, state.step + num_steps):
        batch = next(batches)
        for group, peak in zip(state.optimizer.param_groups, state.peak_lrs, strict=True):
            group["lr"] = peak * factor(recipe, experiment, step)
        state.optimizer.zero_grad()
        total = 0.0
        for part in micro_batches(batch, recipe.micro_batch_size):
            with recipe.autocast():
                loss = recipe.loss(output_of(state.model, part[0]), part[1])
            loss = loss * (num_samples(part) / num_samples(batch))
            loss.backward()
            total += float(loss.detach())
        largest = math.inf if recipe.clip_grad_norm is None else recipe.clip_grad_norm
        parameters = [p for p in state.model.parameters() if p.requires_grad]
        norms.append(float(nn.utils.clip_grad_norm_(parameters, largest)))
        state.optimizer.step()
        losses.append(total)
    state.step += num_steps
    return torch.tensor(losses), torch.tensor(norms)


def train_together(together, experiments, recipe, num_steps):
    """Losses and norms (num_steps, K) each."""
    start = together.states[0].step
    batches = streams(experiments, recipe, start)
    losses, norms = [], []
    for step in range(start, start + num_steps):
        rates = torch.tensor([e.learning_rate * factor(recipe, e, step) for e in experiments])
        losses.append(together.step(stacked([next(stream) for stream in batches]), rates).clone())
        norms.append(together.gradient_norms().clone())
    for state in together.states:
        state.step += num_steps
    return torch.stack(losses), torch.stack(norms)


def assert_same_as_alone(folder, num_steps=STEPS, rel=1e-5, **changes):
    """Losses and gradient norms of every step, and the weights at the end."""
    experiments, recipe = runs(folder, **changes)
    together = Stacked(fresh(experiments, recipe), recipe)
    losses, norms = train_together(together, experiments, recipe, num_steps)
    for row, e in enumerate(experiments):
        [state] = fresh([e], recipe)
        alone, alone_norms = train_alone(state, e, recipe, num_steps)
        torch.testing.assert_close(losses[:, row], alone, rtol=rel, atol=0)
        torch.testing.assert_close(norms[:, row], alone_norms, rtol=100 * rel, atol=1e-5)
        together.hand_back(row)
        for mine, theirs in zip(
            together.states[row].model.parameters(), state.model.parameters(), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=100 * rel, atol=100 * rel)


class Attention(nn.Module):
    """A user's: tokens, a causal mask as a buffer, tied embedding, a frozen scale."""

    def __init__(self, width: int, key_bias: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.key_bias = nn.Parameter(torch.zeros(width)) if key_bias else 0.0
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.register_buffer("shift", torch.randn(width))  # of each run its own

    def forward(self, tokens):
        x = self.embedding(tokens)
        q, k, v = self.qkv(self.norm(x) + 0.1 * self.shift).chunk(3, dim=-1)
        k = k + self.key_bias
        length = tokens.shape[1]
        future = torch.full((length, length), -math.inf).triu_(1)
        y = (self.scale * q @ k.mT + future).softmax(-1) @ v
        y = y + F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + y)


class Named(Net):
    def forward(self, left, right):
        return super().forward(torch.cat([left, right], dim=1))


class Grouped(Net):
    """Biases don't decay; the last layer has a scale."""

    def param_groups(self):
        biases = [p for p in self.parameters() if p.ndim == 1]
        first, last = [p for p in self.parameters() if p.ndim == 2]
        return [
            {"params": [first]},
            {"params": biases, "weight_decay": 0.0},
            {"params": [last], "lr_scale": 0.5},
        ]


def tokens():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(11, (640, 9), generator=generator)
    ids[:, 1:] = (3 * ids[:, :-1] + ids[:, 1:] % 2) % 11
    return as_source((ids[:, :-1], ids[:, 1:]), tokens_per_sample=8)


def named_rows():
    x, y = rows()
    return [{"left": a[:1], "right": a[1:], "target": b} for a, b in zip(x, y, strict=True)]


class TestTogetherIsAsAlone:
    @pytest.mark.parametrize(
        ("optimizer", "clip"),
        [
            (partial(torch.optim.AdamW, weight_decay=0.1, fused=True), None),
            (partial(torch.optim.AdamW, weight_decay=0.1), 0.2),
            (partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.01), 0.2),
        ],
    )
    def test_over_200_steps(self, tmp_path, optimizer, clip):
        assert_same_as_alone(tmp_path, optimizer=partial(optimizer, lr=0.01), clip_grad_norm=clip)

    @pytest.mark.parametrize("kind", LINEAR_IN_RATE)
    def test_with_each_optimizer_that_can_be_shared(self, tmp_path, kind):
        """Groups that decay and groups that don't, in flat tensors of their own."""
        assert_same_as_alone(
            tmp_path,
            num_steps=20,
            factory=partial(Grouped, dropout=0.0),
            optimizer=partial(kind, lr=0.01, weight_decay=0.05),
        )

    @pytest.mark.parametrize(
        "optimizer",
        [
            partial(torch.optim.AdamW, amsgrad=True),
            partial(torch.optim.Adam, weight_decay=0.1, fused=True),
            partial(torch.optim.RMSprop, momentum=0.9, centered=True),
            partial(torch.optim.Adagrad, lr_decay=0.01),
        ],
    )
    def test_with_settings_that_keep_more_state(self, tmp_path, optimizer):
        assert_same_as_alone(tmp_path, num_steps=20, optimizer=partial(optimizer, lr=0.01))

    def test_where_a_model_scales_the_rates_of_its_layers(self, tmp_path):
        assert_same_as_alone(tmp_path, num_steps=40, factory=partial(MLP, in_features=4))

    def test_with_attention_tied_weights_and_constants_of_its_own(self, tmp_path):
        assert_same_as_alone(
            tmp_path, num_steps=60, factory=Attention, source=tokens(), loss=cross_entropy
        )

    def test_with_inputs_by_name(self, tmp_path):
        source = as_source(named_rows(), batch_size=16)
        assert_same_as_alone(
            tmp_path, num_steps=20, factory=partial(Named, dropout=0.0), source=source
        )

    def test_in_portions(self, tmp_path):
        assert_same_as_alone(tmp_path, num_steps=40, micro_batch_size=5)

    def test_in_bf16_near_it(self, tmp_path):
        assert_same_as_alone(tmp_path, num_steps=40, precision="bf16", rel=1e-2)

    def test_what_is_not_a_number_stays_in_its_row(self, tmp_path):
        experiments, recipe = runs(tmp_path, clip_grad_norm=1.0)
        together = Stacked(fresh(experiments, recipe), recipe)
        batch = stacked([next(stream) for stream in streams(experiments, recipe)])
        together.step(batch, torch.tensor([0.01, math.nan, 0.01]))
        assert together.step(batch, torch.full((3,), 0.01)).isfinite().tolist() == [1, 0, 1]


class TestLeaving:
    @pytest.mark.parametrize("optimizer", [partial(ADAMW, fused=True), torch.optim.SGD])
    def test_one_goes_on_alone(self, tmp_path, optimizer):
        experiments, recipe = runs(tmp_path, optimizer=partial(optimizer, lr=0.01))
        together = Stacked(fresh(experiments, recipe), recipe)
        train_together(together, experiments, recipe, 20)
        together.hand_back(1)
        losses, _ = train_alone(together.states[1], experiments[1], recipe, 20)
        [state] = fresh([experiments[1]], recipe)
        train_alone(state, experiments[1], recipe, 20)
        torch.testing.assert_close(
            losses, train_alone(state, experiments[1], recipe, 20)[0], rtol=1e-5, atol=0
        )


class TestCheckpoints:
    @pytest.mark.parametrize(
        "optimizer",
        [
            partial(torch.optim.AdamW, fused=True),
            torch.optim.Adagrad,
            torch.optim.SGD,
            partial(torch.optim.SGD, momentum=0.9),
        ],
    )
    def test_have_the_layout_of_a_run_alone(self, tmp_path, optimizer):
        experiments, recipe = runs(tmp_path, optimizer=partial(optimizer, lr=0.01))
        [alone, *_], states = fresh(experiments, recipe), fresh(experiments, recipe)
        together = Stacked(states, recipe)
        train_alone(alone, experiments[0], recipe, 3)
        train_together(together, experiments, recipe, 3)
        together.hand_back(0)
        mine, theirs = states[0].optimizer.state_dict(), alone.optimizer.state_dict()
        assert mine["state"].keys() == theirs["state"].keys()
        for index, of_parameter in theirs["state"].items():
            assert mine["state"][index].keys() == of_parameter.keys()
            for key, value in of_parameter.items():
                torch.testing.assert_close(mine["state"][index][key], value)
        rates = [group.pop("lr") for group in mine["param_groups"]]
        assert len(rates) == len([group.pop("lr") for group in theirs["param_groups"]])
        assert mine["param_groups"] == theirs["param_groups"]

    @pytest.mark.parametrize("optimizer", [partial(ADAMW, fused=True), torch.optim.Adagrad])
    def test_are_read_bit_for_bit(self, tmp_path, optimizer):
        experiments, recipe = runs(tmp_path, optimizer=partial(optimizer, lr=0.01))
        together = Stacked(fresh(experiments, recipe), recipe)
        train_together(together, experiments, recipe, 5)
        for row, state in enumerate(together.states):
            together.hand_back(row)
            state.save(tmp_path / f"{row}.pt", seconds=0.0)
        again = [
            TrainingState.resumed(e, recipe, tmp_path / f"{row}.pt")
            for row, e in enumerate(experiments)
        ]
        resumed = Stacked(again, recipe)
        for _ in range(2):
            for row, (state, read) in enumerate(zip(together.states, again, strict=True)):
                together.hand_back(row)
                resumed.hand_back(row)
                expected, got = state.optimizer.state_dict(), read.optimizer.state_dict()
                assert repr(got["state"]) == repr(expected["state"])
                for one, other in zip(
                    state.model.parameters(), read.model.parameters(), strict=True
                ):
                    assert torch.equal(one, other)
            train_together(together, experiments, recipe, 5)
            train_together(resumed, experiments, recipe, 5)

    def test_a_file_has_one_run_only(self, tmp_path):
        experiments, recipe = runs(tmp_path, optimizer=partial(ADAMW, fused=True))
        [alone, *_], states = fresh(experiments, recipe), fresh(experiments, recipe)
        together = Stacked(states, recipe)
        train_alone(alone, experiments[0], recipe, 2)
        train_together(together, experiments, recipe, 2)
        together.hand_back(0)
        sizes = []
        for name, state in (("alone", alone), ("together", states[0])):
            state.save(tmp_path / name, seconds=0.0)
            sizes.append((tmp_path / name).stat().st_size)
        assert abs(sizes[0] - sizes[1]) < 256

    def test_what_was_trained_since_can_be_forgotten(self, tmp_path):
        experiments, recipe = runs(tmp_path)
        together = Stacked(fresh(experiments, recipe), recipe)
        first, _ = train_together(together, experiments, recipe, 3)
        together.read_states()
        for state in together.states:
            state.step = 0
        again, _ = train_together(together, experiments, recipe, 3)
        assert torch.equal(first, again)


class ReadsNothing(TorchDispatchMode):
    """Fails where a number is read off a tensor, which a device would be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Counted(TorchDispatchMode):
    """Notes the operations that are done."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", [partial(ADAMW, fused=True), torch.optim.SGD])
def test_a_step_reads_nothing_from_the_device(tmp_path, optimizer):
    experiments, recipe = runs(
        tmp_path, optimizer=partial(optimizer, lr=0.01), clip_grad_norm=1.0, micro_batch_size=5
    )
    together = Stacked(fresh(experiments, recipe), recipe)
    batch = stacked([next(stream) for stream in streams(experiments, recipe)])
    together.prepare(batch)
    rates = torch.tensor(RATES)
    with ReadsNothing():
        together.step(batch, rates)


class TestPrograms:
    def test_compute_what_the_function_does_for_other_values(self):
        def function(a, b):
            a = a.detach().requires_grad_()
            mask = torch.ones(3, 3).tril_().log()
            scores = (a @ b.mT + mask).softmax(-1)
            scores = scores * 2
            scores.add_(0.5)
            total = (scores.transpose(1, 2) @ a).square().sum()
            return total.detach(), *torch.autograd.grad(total, [a])

        values = torch.randn(4, 2, 3, 5)
        program = recorded(function, list(values[0][:, None].expand(2, 2, 3, 5)))
        for a, b in pairwise(values):
            torch.testing.assert_close(tuple(program(a, b)), function(a, b))

    def test_see_what_a_standing_tensor_holds_now(self):
        weight = torch.randn(3, 3)

        def function(x):
            trained = weight.detach().requires_grad_()
            loss = (x @ trained.T + trained[0]).square().sum()
            return loss.detach(), *torch.autograd.grad(loss, [trained])

        program = recorded(function, [torch.zeros(2, 3)], [weight])
        for x in torch.randn(2, 2, 3):
            weight.normal_()
            torch.testing.assert_close(program(x), function(x))

    def test_refuse_what_depends_on_values_of_a_standing_tensor(self):
        weight = torch.ones(3)
        with pytest.raises(NotRecordable, match="depends on values of tensors"):
            recorded(lambda x: (x if weight.sum() > 0 else -x,), [torch.ones(3)], [weight])

    def test_leave_out_what_changes_nothing(self):
        """Less than half of what a layer, a scale, a mean square and their gradients take."""
        weight, bias, x = torch.randn(2, 4, 3), torch.randn(2, 4), torch.randn(2, 5, 3)

        def function(weight, bias, x):
            weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
            scale = torch.arange(4).add(1).log()

            def loss(weight, bias, x):
                return (F.linear(x, weight, bias) * scale).square().mean()

            losses = torch.func.vmap(loss)(weight, bias, x)
            return torch.autograd.grad(losses, [weight, bias], torch.ones(2))

        program = recorded(function, [weight, bias, x])
        done = Counted()
        with done:
            results = program(weight, bias, x)
        torch.testing.assert_close(results, function(weight, bias, x))
        assert results[0].is_contiguous()
        assert not {"arange", "add_", "log", "detach", "ones"} & set(done.names)
        assert done.names.count("bmm") == 2
        with Counted() as whole:
            function(weight, bias, x)
        assert len(done.names) < len(whole.names) / 2

    def test_draw_anew_each_time(self):
        program = recorded(lambda x: (x + torch.rand(3),), [torch.zeros(3)])
        assert not torch.equal(program(torch.zeros(3))[0], program(torch.zeros(3))[0])

    def test_refuse_what_depends_on_values(self):
        for function in (
            lambda x: (x if float(x.sum()) > 0 else -x,),
            lambda x: (x[x > 0],),
            lambda x: (x.nonzero(),),
        ):
            with pytest.raises(NotRecordable, match="depends on values of tensors"):
                recorded(function, [torch.ones(3)])

    def test_refuse_constants_that_change(self):
        def function(x):
            constant = torch.zeros(3)
            y = x + constant
            constant.add_(1)
            return (y + constant,)

        with pytest.raises(NotRecordable, match="changed in place"):
            recorded(function, [torch.ones(3)])

    def test_change_tensors_in_place_as_the_function_does(self):
        def function(x):
            same = x * 1
            same.add_(1)
            part = same[1:]
            part.mul_(3)
            sums = torch.ones(2)
            sums.index_add_(0, torch.tensor([0, 1, 0]), x)
            return x + same, x[torch.tensor([2, 0])], sums

        program = recorded(function, [torch.zeros(3)])
        for x in torch.randn(3, 3):
            torch.testing.assert_close(program(x), function(x))


class WithBatchNorm(Net):
    def __init__(self, width):
        super().__init__(width, dropout=0.0)
        self.layers.insert(1, nn.BatchNorm1d(width))


class Acting(Net):
    """Does something to its output, in training."""

    def __init__(self, width, act):
        super().__init__(width, dropout=0.0)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


class Recurrent(Net):
    def __init__(self, width):
        super().__init__(width, dropout=0.0)
        self.memory = nn.GRU(1, width)

    def forward(self, x):
        return super().forward(x) + self.memory(x[:, None, :1])[0].mean(-1)


class Unused(Net):
    def __init__(self, width):
        super().__init__(width, dropout=0.0)
        self.idle = nn.Parameter(torch.zeros(3))


class Half(Net):
    def __init__(self, width):
        super().__init__(width, dropout=0.0)
        self.bfloat16()

    def forward(self, x):
        return super().forward(x.bfloat16()).float()


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x / 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


class MyAdamW(torch.optim.AdamW):
    pass


def acting(act):
    return {"factory": partial(Acting, act=act)}


class TestWhyAlone:
    def test_nothing_keeps_plain_models_alone(self, tmp_path):
        experiments, recipe = runs(tmp_path)
        assert why_alone(recipe, experiments) is None
        assert why_alone(recipe, experiments[:1]) is None

    def test_nor_gradients_that_are_nothing_but_rounding(self, tmp_path):
        """Those of the keys' bias: softmax doesn't see what is the same for all keys."""
        factory = partial(Attention, key_bias=True)
        experiments, recipe = runs(tmp_path, factory=factory, source=tokens(), loss=cross_entropy)
        assert why_alone(recipe, experiments) is None

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"factory": WithBatchNorm}, "its buffer layers.1.running_mean changes as it trains"),
            ({"factory": Net}, "it draws random numbers as it trains, such as dropout's"),
            (acting(lambda x: x * random.random()), "it draws random numbers"),
            (acting(lambda x: x + np.random.rand()), "it draws random numbers"),  # noqa: NPY002
            (
                acting(lambda x: x if x.sum().item() > 0 else 2 * x),
                "what it computes depends on values of tensors",
            ),
            (
                acting(lambda x: x if (x.detach() > 0).any() else 2 * x),
                "what it computes depends on values of tensors",
            ),
            (acting(Halved.apply), "it has a torch.autograd.Function without a rule for vmap"),
            ({"factory": Recurrent}, "torch has no batched rule for aten::gru.input"),
            ({"factory": Unused}, "the loss doesn't depend on its parameter idle"),
            ({"factory": Half}, "parameter layers.0.weight is torch.bfloat16"),
            (
                acting(lambda x: x.renorm(2, 0, 1.0)),
                "torch has no batched rule for aten::renorm",
            ),
            ({"optimizer": partial(MyAdamW, lr=0.01)}, "none of the optimizers"),
            (
                {"optimizer": partial(Muon, lr=0.01), "factory": partial(MLP, in_features=4)},
                "flops_fit.learning.optimizers.Muon is none of the optimizers",
            ),
            ({"optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5)}, "SGD"),
        ],
    )
    def test_says_what_does(self, tmp_path, changes, reason):
        experiments, recipe = runs(tmp_path, **changes)
        assert reason in why_alone(recipe, experiments)

    def test_fp16(self, tmp_path):
        experiments, recipe = runs(tmp_path)
        assert "fp16" in why_alone(replace(recipe, precision="fp16"), experiments)

    def test_different_sizes(self, tmp_path):
        plan, recipe = planned(tmp_path, factory=STILL)
        assert why_alone(recipe, plan.experiments) == "they are of different sizes or batch sizes"

    def test_a_constant_that_changes_with_each_call(self, tmp_path):
        calls = []

        def counting(x):
            calls.append(x)
            return x * len(calls)

        experiments, recipe = runs(tmp_path, **acting(counting))
        assert "together its loss differs from that alone by" in why_alone(recipe, experiments)

    def test_runs_at_different_steps(self, tmp_path):
        experiments, recipe = runs(tmp_path)
        states = fresh(experiments, recipe)
        train_alone(states[1], experiments[1], recipe, 2)
        with pytest.raises(MustTrainAlone, match="at different steps: 0, 2"):
            Stacked(states, recipe)
