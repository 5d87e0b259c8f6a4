"""All that changes while a run trains, on disk as its checkpoint or as its size's trunk."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from flops_fit.learning.optimizers import load_state
from flops_fit.plan.experiment import Experiment
from flops_fit.training.compiling import LossOf, loss_of_model
from flops_fit.training.curve import CurvePoint
from flops_fit.training.family import materialized
from flops_fit.training.kernels import DEFAULT
from flops_fit.training.recipe import (
    ChoosesAttention,
    Recipe,
    configured_rate,
    param_groups,
    peak_learning_rates,
)


@dataclass
class TrainingState:
    """What a checkpoint holds; learning rates and the device follow from experiment and recipe."""

    model: nn.Module
    loss_of: LossOf  # by the model, perhaps compiled
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    scaler: GradScaler | None  # of fp16's gradients, which underflow without one
    learning_rate: float  # at the peak, as configured
    peak_lrs: list[float]  # of each parameter group, scaled
    losses: Tensor  # (num_steps,), training loss of each step, on the device
    step: int = 0
    inherited_steps: int = 0  # trained by another run, on the shared trunk
    seconds: float = 0.0  # spent before the last resume
    curve: list[CurvePoint] = field(default_factory=list)
    clipped_norm: Tensor | None = None  # of the last step's gradients, before they were clipped

    @classmethod
    def start(cls, experiment: Experiment, recipe: Recipe) -> TrainingState:
        """As at step 0. Built on the CPU, so that all devices begin from the same numbers."""
        model = recipe.family.build(experiment.size.value)
        model = materialized(model, recipe.family.sample).to(recipe.device)
        if isinstance(model, ChoosesAttention):
            model.use_attention_kernel((recipe.kernels or DEFAULT).attention)
        optimizer = recipe.optimizer(param_groups(model))
        return cls(
            model=model.train(),
            loss_of=loss_of_model(model, recipe, experiment),
            parameters=list(model.parameters()),
            optimizer=optimizer,
            scaler=GradScaler(recipe.device.type) if recipe.precision == "fp16" else None,
            learning_rate=configured_rate(optimizer, experiment.learning_rate),
            peak_lrs=peak_learning_rates(optimizer, experiment.learning_rate),
            losses=torch.zeros(experiment.num_steps, device=recipe.device),
        )

    def resume(self, checkpoint: Path, trunk: Path | None) -> None:
        """Go on from the run's checkpoint, else from the trunk, where there is one of them.

        A file that can't be used is removed.
        """
        if checkpoint.exists():
            self._load(checkpoint)
        elif trunk is not None:
            self._load(trunk)
            self.inherited_steps, self.seconds = self.step, 0.0

    def _load(self, path: Path) -> None:
        try:
            self._restore(torch.load(path, map_location=self.losses.device, weights_only=True))
        except Exception:
            path.unlink()
            raise

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        load_state(self.optimizer, saved["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.inherited_steps = saved["inherited_steps"]
        self.losses[: self.step] = saved["losses"]
        self.curve = [CurvePoint(**point) for point in saved["curve"]]
        torch.set_rng_state(saved["rng"].cpu())
        if saved["cuda_rng"] is not None:
            torch.cuda.set_rng_state(saved["cuda_rng"].cpu(), self.losses.device)

    def save(self, path: Path, seconds: float) -> None:
        """Write the file whole or not at all; `seconds` were spent on the run so far."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        device = self.losses.device
        content = {
            "model": self.model.state_dict(),
            "optimizer": portable(self.optimizer.state_dict()),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "losses": self.losses[: self.step].clone(),
            "step": self.step,
            "inherited_steps": self.inherited_steps,
            "seconds": seconds,
            "curve": [point.to_json() for point in self.curve],
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }
        try:
            torch.save(content, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def portable(state: Any) -> Any:
    """An optimizer's state with the rates of its groups as numbers, on whatever device they are."""
    if isinstance(state, dict):
        return {k: float(v) if k == "lr" else portable(v) for k, v in state.items()}
    return [portable(item) for item in state] if isinstance(state, list) else state


@dataclass(frozen=True)
class Trunks:
    """The folder of the states at which runs of one size branched off, the furthest of each."""

    folder: Path

    def furthest(self, experiment: Experiment) -> Path | None:
        """The last state on the experiment's trunk from which it can begin."""
        states = {step: path for step, path in self._states(experiment) if step > 0}
        usable = [step for step in states if step <= (experiment.branch_step or 0)]
        return states[max(usable)] if usable else None

    def keep(self, experiment: Experiment, state: TrainingState) -> None:
        """Write the state at the experiment's branch; drop those before it."""
        states = self._states(experiment)
        if any(step >= state.step for step, _ in states):
            return
        state.save(self.folder / f"{experiment.trunk}-{state.step}.pt", state.seconds)
        for _, path in states:
            path.unlink(missing_ok=True)

    def _states(self, experiment: Experiment) -> list[tuple[int, Path]]:
        """Step -> file, of this trunk."""
        found = self.folder.glob(f"{experiment.trunk}-*.pt") if experiment.trunk else ()
        named = ((path.stem.rpartition("-")[2], path) for path in found)
        return [(int(step), path) for step, path in named if step.isdecimal()]


class Draws:
    """The random numbers of one run: of torch, numpy and Python, from `seed` on.

    Inside of `in_use` the global generators are the run's, outside the caller's; a run that is
    left and entered again goes on where it was.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inside: GeneratorStates | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        outside = GeneratorStates.now()
        try:
            if self._inside is None:
                torch.manual_seed(self._seed)
                np.random.seed(self._seed % 2**32)  # noqa: NPY002
                random.seed(self._seed)
            else:
                self._inside.restore()
            yield
        finally:
            self._inside = GeneratorStates.now()
            outside.restore()


def seeded(seed: int) -> AbstractContextManager[None]:
    """Random numbers of torch, numpy and Python from `seed`; the caller's go on afterwards."""
    return Draws(seed).in_use()


@dataclass(frozen=True)
class GeneratorStates:
    """Of the global generators."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: Tensor | None  # of the current device

    @classmethod
    def now(cls) -> GeneratorStates:
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        legacy = np.random.get_state()  # noqa: NPY002
        return cls(random.getstate(), legacy, torch.get_rng_state(), cuda)

    def host_difference(self, other: GeneratorStates) -> str | None:
        """The first library whose host generator is not in the same state; None: all are."""
        if self.python != other.python:
            return "Python"
        if not all(np.array_equal(a, b) for a, b in zip(self.numpy, other.numpy, strict=True)):
            return "numpy"
        return None if torch.equal(self.torch, other.torch) else "torch's CPU generator"

    def differs_from(self, other: GeneratorStates) -> bool:
        """Whether something was drawn between the two, on the host or on the device."""
        if self.host_difference(other) is not None:
            return True
        if self.cuda is None or other.cuda is None:
            return self.cuda is not other.cuda
        return not torch.equal(self.cuda, other.cuda)

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
