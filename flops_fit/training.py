"""Train one planned experiment: exactly its steps, then its loss on held-out data.

This is the only training loop. It knows nothing of plans, studies or configs: it gets an
`Experiment` and the `Recipe` all experiments of a study share, and returns a `Run`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flops_fit.datasets.source import Batch, Source
from flops_fit.devices import device_name, peak_memory_bytes, versions
from flops_fit.experiments import Experiment
from flops_fit.runs import Run, ended_run, finite
from flops_fit.schedules import Schedule, progress_of
from flops_fit.sizing import LossFunction, ModelFamily, materialized

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]

CHECKPOINT_SECONDS = 30.0
"""Between checkpoints of a run; shorter runs write none. Costs under 0.1% of the time."""

PROGRESS_SECONDS = 0.2
"""Between two reports of progress."""

CURVE_POINTS = 50
"""Points of a run's training curve, evenly spaced in the logarithm of steps."""

TRAIN_LOSS_SHARE = 0.05
"""The training loss reported for a run is the mean over this last share of its steps."""

FINITE_CHECK_STEPS = 100
"""Between looks at whether the loss is still finite (each waits for the device)."""


@dataclass(frozen=True)
class Recipe:
    """What all runs of a study share."""

    family: ModelFamily
    source: Source
    loss: LossFunction
    optimizer: OptimizerFactory
    schedule: Schedule
    device: torch.device
    precision: str  # fp32 or bf16
    held_out_samples: int = 0


class Watcher(Protocol):
    """Whoever looks on while runs train, and may ask to stop."""

    stop_requested: bool

    def progress(self, experiment: Experiment, flops: float) -> None:
        """`flops` of this experiment are done."""

    def finished(self, run: Run) -> None:
        """This run has ended and is on disk."""


@dataclass
class Unwatched:
    """Trains in silence."""

    stop_requested: bool = False

    def progress(self, experiment: Experiment, flops: float) -> None:
        pass

    def finished(self, run: Run) -> None:
        pass


@runtime_checkable
class GroupsParams(Protocol):
    """A model that says how its parameters are to be grouped for the optimizer.

    Each group may have an `lr_scale`, so that one learning rate serves all sizes.
    """

    def param_groups(self) -> list[dict[str, Any]]: ...


class Diverged(ArithmeticError):
    """The training loss stopped being finite."""


def train(experiment: Experiment, recipe: Recipe, folder: Path, watcher: Watcher) -> Run:
    """Train the experiment to its planned tokens and measure its held-out loss.

    Continues from `folder`/checkpoint.pt, bit for bit on the CPU. Divergence and a stream that
    ends early are results (`Run.status`); anything a user's code raises is raised.
    Raises `KeyboardInterrupt` after writing a checkpoint when the watcher requests a stop.
    """
    started = time.perf_counter()
    with torch.random.fork_rng():
        state = TrainingState.start(experiment, recipe)
        checkpoint = folder / "checkpoint.pt"
        state.load(checkpoint)
        try:
            _train_steps(experiment, recipe, state, checkpoint, watcher)
        except Diverged as error:
            return _ended(experiment, recipe, state, started, status="diverged", error=str(error))
        finally:
            write_metrics(folder / "metrics.jsonl", state.curve)
        if state.step < experiment.num_steps:
            tokens = state.step * experiment.batch_tokens
            reason = (
                f"the data ended after {tokens:,} of {experiment.num_tokens:,} planned tokens: "
                "bring more data, or lower the budget"
            )
            return _ended(experiment, recipe, state, started, status="failed", error=reason)
        training_seconds = state.seconds + time.perf_counter() - started
        held_out = evaluate(state.model, recipe, experiment.batch_size)
    run = _ended(experiment, recipe, state, started, status="done", error=None)
    if not math.isfinite(held_out.mean):
        return replace(run, status="diverged", error=f"the held-out loss is {held_out.mean}")
    return replace(
        run,
        loss=held_out.mean,
        loss_stderr=held_out.stderr,
        held_out_samples=held_out.num_samples,
        tokens_per_second=experiment.num_tokens / training_seconds,
    )


@dataclass
class TrainingState:
    """All that changes while a run trains; what a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizer
    peak_lrs: list[float]  # of each parameter group
    losses: Tensor  # (num_steps,), training loss of each step, on the device
    step: int = 0
    seconds: float = 0.0  # spent before the last resume
    curve: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, experiment: Experiment, recipe: Recipe) -> TrainingState:
        """As at step 0. Built on the CPU, so that all devices begin from the same numbers."""
        torch.manual_seed(experiment.seed)
        model = recipe.family.build(experiment.size.value)
        model = materialized(model, recipe.family.sample[0]).to(recipe.device)
        optimizer = recipe.optimizer(param_groups(model))
        losses = torch.zeros(experiment.num_steps, device=recipe.device)
        return cls(model.train(), optimizer, peak_learning_rates(optimizer), losses)

    def load(self, path: Path) -> None:
        """Go on from the checkpoint, if there is one. One that can't be used is removed."""
        if not path.exists():
            return
        try:
            self._restore(torch.load(path, map_location=self.losses.device, weights_only=True))
        except Exception:
            path.unlink()
            raise

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.losses[: saved["step"]] = saved["losses"]
        self.step, self.seconds, self.curve = saved["step"], saved["seconds"], saved["curve"]
        torch.set_rng_state(saved["rng"].cpu())

    def save(self, path: Path, seconds: float) -> None:
        """Write the checkpoint whole or not at all; `seconds` were spent on the run so far."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses[: self.step].clone(),
            "step": self.step,
            "seconds": seconds,
            "curve": self.curve,
            "rng": torch.get_rng_state(),
        }
        try:
            torch.save(content, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _train_steps(
    experiment: Experiment, recipe: Recipe, state: TrainingState, checkpoint: Path, watcher: Watcher
) -> None:
    """Advance the state to the experiment's last step, or to the end of the data."""
    started = time.perf_counter()
    report, checkpoint_time = _Every(PROGRESS_SECONDS), _Every(CHECKPOINT_SECONDS)
    curve_steps = _curve_steps(experiment.num_steps)
    batches = recipe.source.training_batches(
        experiment.batch_size, experiment.seed, start_step=state.step
    )
    while state.step < experiment.num_steps:
        batch = next(batches, None)
        if batch is None:
            break
        train_step(batch, experiment, recipe, state)
        if state.step in curve_steps or state.step % FINITE_CHECK_STEPS == 0:
            _check_finite(state)
        if state.step in curve_steps:
            state.curve.append(_curve_point(experiment, recipe, state))
        if report.is_due():
            watcher.progress(experiment, state.step * flops_per_step(experiment))
        if watcher.stop_requested or checkpoint_time.is_due():
            state.save(checkpoint, state.seconds + time.perf_counter() - started)
        if watcher.stop_requested:
            raise KeyboardInterrupt
    _check_finite(state)


def train_step(batch: Batch, experiment: Experiment, recipe: Recipe, state: TrainingState) -> None:
    """One optimizer update."""
    inputs, target = (tensor.to(recipe.device, non_blocking=True) for tensor in batch)
    factor = recipe.schedule(progress_of(state.step, experiment.num_steps))
    for group, peak in zip(state.optimizer.param_groups, state.peak_lrs, strict=True):
        group["lr"] = peak * factor
    with autocast(recipe):
        loss = recipe.loss(state.model(inputs), target)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.losses[state.step] = loss.detach()
    state.step += 1


def param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The optimizer's groups: as the model has it, else all parameters in one."""
    if isinstance(model, GroupsParams):
        return model.param_groups()
    return [{"params": list(model.parameters())}]


def peak_learning_rates(optimizer: Optimizer) -> list[float]:
    """Of each group: its own or the optimizer's rate times the group's `lr_scale`."""
    return [group["lr"] * group.get("lr_scale", 1.0) for group in optimizer.param_groups]


def autocast(recipe: Recipe) -> AbstractContextManager[Any]:
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(recipe.device.type, dtype=torch.bfloat16)


def _check_finite(state: TrainingState) -> None:
    finite = torch.isfinite(state.losses[: state.step])
    if not finite.all():
        step = int(finite.logical_not().nonzero()[0])
        raise Diverged(f"the training loss is {float(state.losses[step])} at step {step + 1}")


def _curve_steps(num_steps: int) -> frozenset[int]:
    """Steps at which the curve has a point: evenly spaced in logs, the last one included."""
    return frozenset(round(num_steps ** (i / CURVE_POINTS)) for i in range(CURVE_POINTS + 1))


def _curve_point(experiment: Experiment, recipe: Recipe, state: TrainingState) -> dict[str, float]:
    """The training loss is the mean since the previous point."""
    since = int(state.curve[-1]["step"]) if state.curve else 0
    return {
        "step": state.step,
        "num_tokens": state.step * experiment.batch_tokens,
        "flops": state.step * flops_per_step(experiment),
        "train_loss": float(state.losses[since : state.step].mean()),
        "lr_factor": recipe.schedule(progress_of(state.step - 1, experiment.num_steps)),
    }


def flops_per_step(experiment: Experiment) -> float:
    return experiment.batch_tokens * experiment.flops_per_token


class _Every:
    """Says when `seconds` have passed since it last said so."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.perf_counter()

    def is_due(self) -> bool:
        now = time.perf_counter()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean over the held-out samples; its standard error from the spread between batches."""

    mean: float
    stderr: float | None
    num_samples: int


def evaluate(model: nn.Module, recipe: Recipe, batch_size: int) -> HeldOutLoss:
    """The loss on the first `recipe.held_out_samples` held-out samples, the same for every run."""
    model.eval()
    losses, weights = [], []
    with torch.inference_mode():
        for batch in recipe.source.held_out_batches(batch_size, recipe.held_out_samples):
            inputs, target = (tensor.to(recipe.device, non_blocking=True) for tensor in batch)
            with autocast(recipe):
                losses.append(recipe.loss(model(inputs), target).reshape(()))
            weights.append(len(inputs))
    values = torch.stack(losses).cpu().double()  # (batches,), not before: mps has no float64
    share = torch.tensor(weights, dtype=torch.double) / sum(weights)
    mean = (share * values).sum()
    return HeldOutLoss(float(mean), _standard_error(values, share, mean), sum(weights))


def _standard_error(values: Tensor, share: Tensor, mean: Tensor) -> float | None:
    """Of a mean with weights `share`; None for a single batch."""
    if len(values) < 2:
        return None
    variance = (share * (values - mean) ** 2).sum() / (1 - (share**2).sum())
    return finite(float((variance * (share**2).sum()).sqrt()))


def _ended(
    experiment: Experiment,
    recipe: Recipe,
    state: TrainingState,
    started: float,
    *,
    status: str,
    error: str | None,
) -> Run:
    """The record of a run that came to an end of its own, without its held-out loss."""
    last = state.losses[: state.step][-max(1, round(TRAIN_LOSS_SHARE * state.step)) :]
    counted = experiment.flops_per_token_counted
    run = ended_run(experiment, status, error, num_steps=state.step)
    return replace(
        run,
        flops_counted=None if counted is None else run.num_tokens * counted,
        train_loss=finite(float(last.mean())) if state.step else None,
        wall_time_seconds=state.seconds + time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(recipe.device),
        device=device_name(recipe.device),
        precision=recipe.precision,
        versions=versions(),
    )


def write_metrics(path: Path, curve: list[dict[str, float]]) -> None:
    """One JSON line per point of the curve."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({k: finite(v) for k, v in point.items()}) for point in curve)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
