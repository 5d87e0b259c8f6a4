"""The updates of a run as a program that its device carries out: all it reads lies there.

On a CPU each update is called as its batch comes. On CUDA the batches and rates of a hundred
steps are put into static tensors, and one step, from picking its batch to the optimizer's
update, is captured as a graph once and replayed: a launch instead of hundreds, and no wait of
the host within a block. What is computed is `steps.update` in both cases.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from flops_fit.datasets.batches import Batch, changed
from flops_fit.datasets.samples import parts_of
from flops_fit.learning.optimizers import Muon
from flops_fit.plan.experiment import Experiment
from flops_fit.training.compiling import compiles
from flops_fit.training.devices import is_out_of_memory
from flops_fit.training.feed import Block, device_data, wait_for_data
from flops_fit.training.host_state import HostState
from flops_fit.training.leftovers import undisturbed
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import TrainingState
from flops_fit.training.steps import train_step, update

WARM_UP_STEPS = 3
"""Steps that train eagerly before one is captured: the optimizer makes its state in the first,
libraries choose their kernels, torch.compile compiles."""

QUANTUM_SECONDS = 0.05
"""Work that is handed to the device at once, before other runs and the host have their turn."""


class Steps(Protocol):
    """Advances a `TrainingState`."""

    warm_up: WarmUp

    def advance(self, until: int) -> Iterator[None]:
        """To step `until`, or to the end of the data; pauses where others may have their turn."""


@dataclass
class WarmUp:
    """The first steps of this process, where they are slower than those to come: when they began
    and ended, by `time.perf_counter`."""

    num_steps: int = 0
    began: float = field(default_factory=time.perf_counter)
    ended: float = field(default_factory=time.perf_counter)

    def add(self, num_steps: int) -> None:
        """Of slow steps that have just ended."""
        self.num_steps += num_steps
        self.ended = time.perf_counter()


def steps_of(experiment: Experiment, recipe: Recipe, state: TrainingState) -> Steps:
    """How this run is trained on its device, from the state's step on."""
    if recipe.device.type != "cuda":
        return CalledSteps(experiment, recipe, state)
    captures = recipe.cuda_graphs and recipe.ranks.is_alone
    return BlockSteps(OneRun(experiment, recipe, state), captures=captures)


class CalledSteps:
    """One Python call for each update."""

    def __init__(self, experiment: Experiment, recipe: Recipe, state: TrainingState) -> None:
        self.warm_up = WarmUp()
        self._compiles = compiles(recipe, experiment)
        self._recipe, self._state = recipe, state
        self._factor = recipe.learning_rate_factor(experiment)
        self._batches = recipe.source.training_batches(
            experiment.batch_size, experiment.order_seed, start_step=state.step
        )

    def advance(self, until: int) -> Iterator[None]:
        state, recipe = self._state, self._recipe
        while state.step < until:
            batch = next(self._batches, None)
            if batch is None:
                return
            train_step(batch, self._factor(state.step), recipe, state)
            if self._compiles and not self.warm_up.num_steps:
                self.warm_up.add(1)
            yield


class Job(Protocol):
    """What a `BlockSteps` advances: one run, or several in one batched step."""

    recipe: Recipe
    losses: Tensor  # (num_steps, ...) of each step, on the device
    models: list[nn.Module]
    step: int

    def rates_at(self, step: int) -> list[float]:
        """Every rate that an update has."""

    def read_rates_from(self, rates: Tensor) -> None:
        """Let updates read them, in the order of `rates_at`, from this tensor on the device."""

    def set_rates(self, rates: Sequence[float]) -> None:
        """For the next update."""

    def update(self, batch: Batch) -> Tensor:
        """One update; the loss before it, of the shape of one row of `losses`."""

    def blocks(self) -> Iterator[Block]:
        """The batches from the step on."""

    def why_not_captured(self) -> str | None:
        """What keeps the update from being held by a CUDA graph; None where nothing does."""

    def forget_gradients(self) -> None:
        """Of a graph that was not made."""


class OneRun:
    """A run alone."""

    def __init__(self, experiment: Experiment, recipe: Recipe, state: TrainingState) -> None:
        self.recipe, self._state, self._experiment = recipe, state, experiment
        self.losses = state.losses
        self.models = [state.model]
        self._factor = recipe.learning_rate_factor(experiment)

    @property
    def step(self) -> int:
        return self._state.step

    @step.setter
    def step(self, step: int) -> None:
        self._state.step = step

    def rates_at(self, step: int) -> list[float]:
        factor = self._factor(step)
        return [peak * factor for peak in self._state.peak_lrs]

    def read_rates_from(self, rates: Tensor) -> None:
        take_tensor_rates(self._state.optimizer, rates)

    def set_rates(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self._state.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def update(self, batch: Batch) -> Tensor:
        return update(batch, self.recipe, self._state)

    def blocks(self) -> Iterator[Block]:
        data = device_data(self.recipe.source, self.recipe.device)
        return data.blocks(self._experiment.batch_size, self._experiment.order_seed, self.step)

    def why_not_captured(self) -> str | None:
        return why_not_captured(self._state.optimizer)

    def forget_gradients(self) -> None:
        for parameter in self._state.parameters:
            parameter.grad = None
        self._state.clipped_norm = None


class BlockSteps:
    """Updates from static tensors, captured as a CUDA graph where that can be.

    `captures=False` runs the same program eagerly, on any device.
    """

    def __init__(self, job: Job, *, captures: bool) -> None:
        self.warm_up = WarmUp()
        self._job = job
        self._device = job.recipe.device
        self._blocks = job.blocks()
        self._next: Block | None = None
        self._block: Block | None = None
        self._place = 0  # of the next step in the block
        self._static: Batch | None = None  # of the block's batches, (steps, ...)
        num_rates = len(job.rates_at(min(job.step, len(job.losses) - 1)))
        self._rates = torch.zeros(0, num_rates, device=self._device)  # (steps, rates)
        self._rates_now = torch.zeros(1, num_rates, device=self._device)
        self._host_rates: list[list[float]] = []  # the same as numbers
        self._counters = torch.zeros(2, dtype=torch.int64, device=self._device)  # in block, in run
        self._begin, self._end = (
            torch.cuda.Event(enable_timing=True) if self._device.type == "cuda" else None
            for _ in range(2)
        )
        self._quantum = 1
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captures = captures
        if captures and (reason := job.why_not_captured()):
            self._give_up(reason)
        if self._captures:
            job.read_rates_from(self._rates_now[0])

    def advance(self, until: int) -> Iterator[None]:
        job = self._job
        while job.step < until:
            if self._block is None or self._place == self._block.num_steps:
                self._block, self._next = self._next or next(self._blocks, None), None
                if self._block is None:
                    return
                self._load(self._block)
            if self._captures and self._graph is None and self._is_warm and self._block.stacked:
                self._capture()
                self.warm_up.add(0)
            count = min(until - job.step, self._block.num_steps - self._place, self._quantum)
            started = time.perf_counter()
            self._launch(count)
            job.step += count
            if self._place == self._block.num_steps:  # made while the device is busy
                self._next = next(self._blocks, None)
            yield
            self._wait(count, started)

    @property
    def _is_warm(self) -> bool:
        return self.warm_up.num_steps >= WARM_UP_STEPS

    def _launch(self, count: int) -> None:
        """Queue this many steps."""
        assert self._block is not None
        if self._begin is not None:
            self._begin.record()
        for _ in range(count):
            if self._graph is not None and self._block.stacked:
                self._graph.replay()
            elif self._captures and not self._is_warm:
                self._watched_step()
            else:
                self._step()
            self._place += 1
        if self._end is not None:
            self._end.record()

    def _wait(self, count: int, started: float) -> None:
        """Until what was queued is done; the next time as much as QUANTUM_SECONDS hold.

        By the device's own clock, since others have had their turns meanwhile.
        """
        if self._begin is not None and self._end is not None:
            self._end.synchronize()
        seconds = time.perf_counter() - started
        if not self._is_warm:
            self.warm_up.add(count)
            return
        if self._begin is not None and self._end is not None:
            seconds = self._begin.elapsed_time(self._end) / 1000
        ahead = round(count * QUANTUM_SECONDS / max(seconds, 1e-6))
        self._quantum = max(1, min(4 * self._quantum, ahead))

    def _load(self, block: Block) -> None:
        """The block's batches and rates into the tensors that the steps read."""
        self._place = 0
        self._load_rates(block.num_steps)
        self._counters.copy_(torch.tensor([0, self._job.step]))
        if block.stacked is None:
            return
        wait_for_data(block.stacked, self._device)
        if self._static is not None and fits(block.stacked, self._static):
            for ours, theirs in zip(parts_of(self._static), parts_of(block.stacked), strict=True):
                ours[: len(theirs)].copy_(theirs, non_blocking=True)
        else:
            self._static, self._graph = block.stacked, None

    def _load_rates(self, num_steps: int) -> None:
        job = self._job
        steps = range(job.step, min(job.step + num_steps, len(job.losses)))
        self._host_rates = [job.rates_at(step) for step in steps]
        rates = torch.tensor(self._host_rates, dtype=torch.double).to(self._rates.dtype)
        if len(self._rates) < len(rates):
            self._rates, self._graph = torch.zeros_like(self._rates_now).repeat(num_steps, 1), None
        self._rates[: len(rates)].copy_(rates)

    def _step(self) -> None:
        """One update, of what the counters point at: all that a graph holds."""
        assert self._block is not None
        job = self._job
        slot, position = self._counters[:1], self._counters[1:]
        if self._captures:
            torch.index_select(self._rates, 0, slot, out=self._rates_now)
        else:
            job.set_rates(self._host_rates[self._place])
        if self._block.stacked is None:
            batch = self._block.separate[self._place]
        else:
            assert self._static is not None
            batch = changed(self._static, lambda tensor: tensor.index_select(0, slot).squeeze(0))
        loss = job.update(batch).to(job.losses.dtype)
        job.losses.index_copy_(0, position, loss.reshape(1, *job.losses.shape[1:]))
        self._counters.add_(1)

    def _watched_step(self) -> None:
        """One real step, with an eye on what a graph of it could not hold or would not repeat."""
        models, loss = self._job.models, self._job.recipe.loss
        before = HostState.of(models, loss)
        with seen_waits(self._device) as waits:
            self._step()
        reason = before.change_to(HostState.of(models, loss))
        if waits and self.warm_up.num_steps == WARM_UP_STEPS - 1:  # the first ones may
            reason = reason or f"it waits for the device in each step ({waits[0]})"
        if reason is not None:
            self._give_up(reason)

    def _capture(self) -> None:
        """Record one step, which carries out nothing; what can't be recorded goes on eagerly."""
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.disable()  # what is freed while recording may belong to another graph
        problem: Exception | None = None
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                with ExitStack() as kept:  # what is made while recording belongs to the graph
                    for model in self._job.models:
                        kept.enter_context(undisturbed(model))
                    self._step()
            except Exception as error:  # whatever a user's code does that waits for the device
                problem = error
            try:
                graph.capture_end()
            except Exception as error:
                problem = problem or error
        finally:
            if collects:
                gc.enable()
        if problem is None:
            self._graph = graph
            return
        if is_out_of_memory(problem):
            raise problem
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())  # else it believes in the graph
        self._job.forget_gradients()
        self._give_up(str(problem).strip().split("\n")[0])

    def _give_up(self, reason: str) -> None:
        self._captures, self._graph = False, None
        name = type(self._job.models[0]).__name__
        tell_once(f"{name} trains step by step, without a CUDA graph of its step: {reason}")


def why_not_captured(optimizer: Optimizer) -> str | None:
    """What of the optimizer keeps its step from being captured; None where nothing does."""
    if isinstance(optimizer, SGD | Muon):
        return None
    if all("capturable" in group for group in optimizer.param_groups):
        return None
    return f"{type(optimizer).__name__} has no `capturable`, it may wait for the device"


def take_tensor_rates(optimizer: Optimizer, rates: Tensor) -> None:
    """Let the optimizer read each group's rate from its element of `rates` (groups,)."""
    fused = isinstance(optimizer, SGD | Adam)  # AdamW is an Adam
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
        if "capturable" in group:
            group["capturable"] = True
        if fused and group.get("foreach") is None and not group.get("differentiable"):
            group["fused"] = True
    if fused:
        setattr(optimizer, "_step_supports_amp_scaling", True)  # noqa: B010, what fused=True sets
    optimizer._warned_capturable_if_run_uncaptured = True  # the warm-up steps are, on purpose


@contextmanager
def seen_waits(device: torch.device) -> Iterator[list[str]]:
    """Where the host waits for the device inside; a graph can't hold that. Nothing but on CUDA."""
    waits: list[str] = []
    if device.type != "cuda":
        yield waits
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in said:
        if "Synchronization debug mode is a prototype" in str(warning.message):
            continue
        if "synchronizing CUDA operation" in str(warning.message):
            waits.append(f"{Path(warning.filename).name}, line {warning.lineno}")
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def fits(batch: Batch, static: Batch) -> bool:
    """Whether all of the batch can be copied into the static tensors."""
    ours, theirs = parts_of(batch), parts_of(static)
    return len(ours) == len(theirs) and all(
        a.shape[1:] == b.shape[1:] and len(a) <= len(b) and a.dtype == b.dtype
        for a, b in zip(ours, theirs, strict=True)
    )


@cache
def tell_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)
