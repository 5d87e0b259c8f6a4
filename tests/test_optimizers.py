from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from flops_fit.errors import ConfigError
from flops_fit.learning.losses import mse
from flops_fit.learning.optimizers import Muon
from flops_fit.models import MLP

CONFIGS = Path(__file__).parent.parent / "configs" / "optimizer"


def model_with_gradients():
    torch.manual_seed(0)
    model = MLP(8, in_features=4)
    torch.nn.init.normal_(model.output.weight)
    x = torch.randn(32, 4)
    mse(model(x), x[:, :1]).backward()
    return model


def set_rates(optimizer, lr):
    """As the trainer does it at each step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def test_muon_takes_the_steps_that_torch_takes_with_each_part():
    ours, theirs = model_with_gradients(), model_with_gradients()
    optimizer = Muon(
        ours.param_groups(), lr=0.02, weight_decay=0.1, adamw_lr=0.01, adamw_betas=(0.8, 0.9)
    )
    first, hidden, output = theirs.param_groups()
    muon = torch.optim.Muon(hidden["params"], lr=0.02, weight_decay=0.1)
    rates = [{**first, "lr": 0.01}, {**output, "lr": 0.01 * output["lr_scale"]}]
    adamw = torch.optim.AdamW(rates, betas=(0.8, 0.9), weight_decay=0.1)
    for _ in range(3):  # the gradients stay, so that momentum has something to add
        set_rates(optimizer, 0.02)
        optimizer.step()
        muon.step()
        adamw.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_muon_updates_have_a_spectral_norm_that_width_does_not_change():
    norms = []
    for width in (16, 64, 256):
        torch.manual_seed(0)
        model = MLP(width, in_features=4)
        torch.nn.init.normal_(model.output.weight)
        x = torch.randn(32, 4)
        mse(model(x), x[:, :1]).backward()
        optimizer = Muon(model.param_groups(), lr=0.02)
        set_rates(optimizer, 0.02)
        before = model.hidden[1].weight.detach().clone()
        optimizer.step()
        norms.append(torch.linalg.matrix_norm(model.hidden[1].weight - before, 2).item())
    assert norms == pytest.approx([0.02] * 3, rel=0.3)


def test_muon_continues_from_its_state_as_if_never_stopped():
    straight, stopped = model_with_gradients(), model_with_gradients()
    first = Muon(straight.param_groups())
    before_stop = Muon(stopped.param_groups())
    first.step()
    before_stop.step()
    resumed = Muon(stopped.param_groups())
    resumed.load_state_dict(before_stop.state_dict())
    for optimizer in (first, resumed):
        set_rates(optimizer, 0.005)
        optimizer.step()
    for a, b in zip(straight.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_clears_all_gradients_and_runs_closures():
    model = model_with_gradients()
    optimizer = Muon(model.param_groups())
    assert optimizer.step(lambda: 3.5) == 3.5
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_muon_needs_hidden_matrices():
    parameters = MLP(8, in_features=4).parameters()
    with pytest.raises(ConfigError, match=r"matrix=True.*adamw"):
        Muon([{"params": parameters, "lr_scale": 1}])


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_each_shipped_optimizer_lowers_a_loss_at_its_own_rate(name):
    torch.manual_seed(0)
    model, x = MLP(16, in_features=4), torch.randn(64, 4)
    optimizer = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), _convert_="all")(
        model.param_groups()
    )
    rate = optimizer.param_groups[0]["lr"]
    losses = []
    for _ in range(100):
        loss = mse(model(x), x[:, :1] * x[:, 1:2])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        set_rates(optimizer, rate)
        optimizer.step()
    assert losses[-1] < losses[0] / 3
