"""Train one planned experiment: exactly its steps, then its loss on held-out data.

This is the only training loop. It knows nothing of plans, studies or configs: it gets an
`Experiment` and the `Recipe` all experiments of a study share, and returns a `Run`.
"""

from __future__ import annotations

import math
import time
import warnings
from bisect import bisect_right
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flops_fit.files import finite, user_cache
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.store.protocols import Watcher
from flops_fit.training.curve import CurvePlan, CurvePoint, write_curve
from flops_fit.training.devices import (
    device_name,
    free_memory,
    is_out_of_memory,
    peak_memory_bytes,
    reset_peak_memory,
    threads_in_use,
    versions,
)
from flops_fit.training.evaluation import evaluate
from flops_fit.training.hardware import peak_flops
from flops_fit.training.kernel_choice import kernels_of_study
from flops_fit.training.kernels import DEFAULT, KernelPlan, keep_freed_memory
from flops_fit.training.program import Steps, steps_of
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import Draws, TrainingState, Trunks
from flops_fit.training.steps import gradient_norm
from flops_fit.training.timing import fastest_threads

PROGRESS_SECONDS = 0.2
"""Between two reports of progress."""

TRAIN_LOSS_SHARE = 0.05
"""The training loss reported for a run is the mean over this last share of its steps."""

LOSS_CHECK_STEPS = 100
"""Between looks at whether the loss still makes sense (each waits for the device)."""

FIRST_STEPS = 10
"""Steps whose mean loss counts as that of an untrained model."""

FEWEST_TELLING = 4
"""Times as many steps as were slowed by compiling tell how fast a run is without."""

SMALL_STEP_FLOPS = 2e11
"""FLOPs of a step below which a GPU has room for other runs beside this one: 0.2 ms at the peak
of an H100, where such a step takes 1.5 ms."""

EXPLODED = 10.0
"""A mean loss over LOSS_CHECK_STEPS beyond this multiple of the untrained model's is divergence."""


class Diverged(ArithmeticError):
    """The training loss stopped being finite, or exploded."""


@dataclass(frozen=True)
class TorchTrainer:
    """The `Trainer` of torch models. Out of memory, a run is tried again in half the portions."""

    recipe: Recipe
    trunks: Trunks

    def __call__(self, experiment: Experiment, folder: Path, watcher: Watcher) -> Run:
        if self.recipe.device.type == "cpu":
            keep_freed_memory()
        with self.recipe.kernels_in_force():
            return self._trained(experiment, folder, watcher)

    def in_turns(
        self, experiment: Experiment, folder: Path, watcher: Watcher
    ) -> TrainingTurns | None:
        """The same for a run that leaves room for others on its device; None where it fills it.

        Out of memory is raised.
        """
        if self.recipe.device.type != "cuda" or experiment.flops_per_step > SMALL_STEP_FLOPS:
            return None
        return TrainingTurns(experiment, self.recipe, folder, watcher, self.trunks)

    @property
    def pins(self) -> dict[str, Any]:
        recipe = self.recipe
        kernels = {} if recipe.kernels is None else {"kernels": recipe.kernels.to_json()}
        decided = {"precision": recipe.precision, "held_out_samples": recipe.held_out_samples}
        return {**decided, **kernels}

    def threads(self, plan: Plan, most: int) -> int:
        return fastest_threads(plan, self.recipe, most)

    def tuned(self, plan: Plan, threads: int, pinned: Mapping[str, Any]) -> TorchTrainer:
        """With the kernels of the study, or if it has none yet the fastest for its plan here."""
        if "kernels" in pinned:
            kernels = KernelPlan.from_json(pinned["kernels"])
        elif self.recipe.kernels is not None:
            return self
        else:
            with threads_in_use(threads):
                cache = user_cache() / "kernels.json"
                kernels = kernels_of_study(plan.experiments, self.recipe, cache)
        return replace(self, recipe=replace(self.recipe, kernels=kernels))

    def _trained(self, experiment: Experiment, folder: Path, watcher: Watcher) -> Run:
        recipe = self.recipe
        portion = min(recipe.micro_batch_size or experiment.batch_size, experiment.batch_size)
        try:
            return train(experiment, recipe, folder, watcher, self.trunks)
        except Exception as error:
            if portion == 1 or not is_out_of_memory(error):
                raise
        free_memory()  # outside of the handler, which keeps the failed step's tensors
        half = math.ceil(portion / 2)
        try:
            smaller = replace(recipe, micro_batch_size=half)
            return train(experiment, smaller, folder, watcher, self.trunks)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(
                f"out of memory with {portion} samples at a time, and again with {half}: set "
                f"micro_batch_size={max(1, half // 2)}, which changes no result, or train smaller "
                "sizes"
            ) from error


def train(
    experiment: Experiment,
    recipe: Recipe,
    folder: Path,
    watcher: Watcher,
    trunks: Trunks | None = None,
) -> Run:
    """Train the experiment to its planned tokens and measure its held-out loss.

    Continues from `folder`/checkpoint.pt, bit for bit on the CPU. Divergence and a stream that
    ends early are results (`Run.status`); anything a user's code raises is raised.
    Raises `KeyboardInterrupt` after writing a checkpoint when the watcher requests a stop.
    """
    return TrainingTurns(experiment, recipe, folder, watcher, trunks).to_the_end()


class TrainingTurns:
    """A run that trains piece by piece, so that others on the same device have turns as well.

    Between two turns the device has something to do. Random numbers and, on CUDA, the stream
    are the run's own.
    """

    def __init__(
        self,
        experiment: Experiment,
        recipe: Recipe,
        folder: Path,
        watcher: Watcher,
        trunks: Trunks | None = None,
    ) -> None:
        self._device = recipe.device
        self._draws = Draws(experiment.seed)
        self._stream = torch.cuda.Stream(recipe.device) if recipe.device.type == "cuda" else None
        self._pieces = _pieces(experiment, recipe, folder, watcher, trunks)

    def take(self) -> Run | None:
        """One turn; the run's record when it was the last one. Raises what `train` raises, and
        `MemoryError` where there is no room for it beside the others."""
        try:
            with self._in_its_own():
                return self._next()
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise

    def to_the_end(self) -> Run:
        """All turns that are left."""
        with self._in_its_own():
            while (run := self._next()) is None:
                pass
        return run

    def _next(self) -> Run | None:
        try:
            next(self._pieces)
        except StopIteration as end:
            run: Run = end.value
            return run
        return None

    @contextmanager
    def _in_its_own(self) -> Iterator[None]:
        with self._draws.in_use(), torch.cuda.stream(self._stream):
            yield

    def drop(self) -> None:
        """Give back what it holds on the device; its checkpoint stays."""
        self._pieces.close()


def _pieces(
    experiment: Experiment,
    recipe: Recipe,
    folder: Path,
    watcher: Watcher,
    trunks: Trunks | None,
) -> Generator[None, None, Run]:
    started = time.perf_counter()
    reset_peak_memory(recipe.device)
    state = TrainingState.start(experiment, recipe)
    trunk = trunks.furthest(experiment) if trunks else None
    state.resume(folder / "checkpoint.pt", trunk)
    steps = steps_of(experiment, recipe, state)
    progress = _Progress(experiment, recipe, state, steps, folder, watcher, trunks, started)
    try:
        yield from progress.train_steps()
    except Diverged as error:
        return progress.ended(Status.DIVERGED, str(error))
    finally:
        progress.write_curve()
    if state.step < experiment.num_steps:
        tokens = state.step * experiment.batch_tokens
        reason = (
            f"the data ended after {tokens:,} of {experiment.num_tokens:,} planned tokens: "
            "bring more data, or lower the budget"
        )
        return progress.ended(Status.FAILED, reason)
    training_seconds = progress.seconds
    batch_size = recipe.micro_batch_size or experiment.batch_size
    held_out = evaluate(state.model, recipe, batch_size, recipe.held_out_samples)
    run = progress.ended(Status.COMPLETED, None)
    if not math.isfinite(held_out.loss):
        return replace(run, status=Status.DIVERGED, error=f"the held-out loss is {held_out.loss}")
    steps_per_second = progress.steps_per_second(training_seconds)
    mfu, mfu_of = share_of_peak(experiment, recipe, steps_per_second)
    return replace(
        run,
        loss=held_out.loss,
        loss_stderr=held_out.stderr,
        held_out_samples=held_out.num_samples,
        metrics={k: v for k, v in held_out.metrics.items() if math.isfinite(v)},
        tokens_per_second=steps_per_second * experiment.batch_tokens,
        mfu=mfu,
        mfu_of=mfu_of,
    )


def share_of_peak(
    experiment: Experiment, recipe: Recipe, steps_per_second: float
) -> tuple[float | None, str | None]:
    """FLOPs a second over the device's peak, and what it is the peak of; None where no one knows.

    The FLOPs are counted operations where they could be counted, else those of the plan: causal
    attention counts as though nothing were masked (Chowdhery et al. 2022, appendix B).
    """
    if recipe.device.type != "cuda":
        return None, None
    products = recipe.precision
    if products == "fp32" and (recipe.kernels or DEFAULT).matmul == "tf32":
        products = "tf32"
    peak = peak_flops(torch.cuda.get_device_name(recipe.device), products)
    if peak is None:
        return None, None
    flops_per_token = experiment.flops_per_token_counted or experiment.flops_per_token
    flops = flops_per_token * experiment.batch_tokens * steps_per_second
    return flops / peak[0], f"{peak[1]}, {peak[0] / 1e12:.0f} TFLOP/s"


@dataclass
class _Progress:
    """One call of `train` on its way through the steps."""

    experiment: Experiment
    recipe: Recipe
    state: TrainingState
    steps: Steps
    folder: Path
    watcher: Watcher
    trunks: Trunks | None
    started: float

    @property
    def seconds(self) -> float:
        """Spent on the run so far, before the last resume too."""
        return self.state.seconds + time.perf_counter() - self.started

    def steps_per_second(self, seconds: float) -> float:
        """Of the steps that this run trained itself, in so many seconds; what compiling took is
        left out, where enough other steps tell."""
        num_steps, slow = self.experiment.num_steps - self.state.inherited_steps, self.steps.warm_up
        if num_steps > FEWEST_TELLING * max(1, slow.num_steps) and seconds > slow.seconds:
            return (num_steps - slow.num_steps) / (seconds - slow.seconds)
        return num_steps / seconds

    def train_steps(self) -> Iterator[None]:
        """Advance the state to the experiment's last step, or to the end of the data."""
        experiment, recipe, state, watcher = self.experiment, self.recipe, self.state, self.watcher
        report, save = _Every(PROGRESS_SECONDS), _Every(recipe.checkpoint_seconds)
        curve = CurvePlan.of(experiment, recipe.held_out_samples)
        stops = sorted({*curve.steps, experiment.branch_step or 0, experiment.num_steps})
        while state.step < experiment.num_steps:
            before = state.step
            next_check = before - before % LOSS_CHECK_STEPS + LOSS_CHECK_STEPS
            until = min(next_check, stops[bisect_right(stops, before)])
            for _ in self.steps.advance(until):
                yield  # before the device is asked for what it may still be at
                if state.step == until:
                    self._look(curve)
                if report.is_due():
                    trained = state.step - state.inherited_steps
                    watcher.progress(experiment, trained * experiment.flops_per_step)
                if watcher.stop_requested or save.is_due():
                    self.save_checkpoint()
                if watcher.stop_requested:
                    raise KeyboardInterrupt
            if state.step < until:
                break
        check_loss(state)

    def _look(self, curve: CurvePlan) -> None:
        """At the losses so far; and what else is due at this step."""
        state = self.state
        if state.step in curve.steps or state.step % LOSS_CHECK_STEPS == 0:
            check_loss(state)
        if state.step in curve.steps:
            state.curve.append(self._curve_point(curve))
        if state.step == self.experiment.branch_step and self.trunks is not None:
            self.trunks.keep(self.experiment, state)

    def save_checkpoint(self) -> None:
        with self._going_on_without("a checkpoint"):
            self.state.save(self.folder / "checkpoint.pt", self.seconds)

    def write_curve(self) -> None:
        with self._going_on_without("its curve"):
            write_curve(self.folder / "metrics.jsonl", self.state.curve)

    @contextmanager
    def _going_on_without(self, what: str) -> Iterator[None]:
        """A full disk doesn't end the run; what it had written before is as it was."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            run, step = self.experiment.id, self.state.step
            warnings.warn(f"{run} goes on without {what} at step {step}: {error}", stacklevel=3)

    def _curve_point(self, curve: CurvePlan) -> CurvePoint:
        experiment, recipe, state = self.experiment, self.recipe, self.state
        since = state.curve[-1].step if state.curve else 0
        held_out_loss = None
        if state.step in curve.held_out_steps:
            batch_size = recipe.micro_batch_size or experiment.batch_size
            samples = curve.held_out_samples
            held_out_loss = evaluate(state.model, recipe, batch_size, samples).loss
        return CurvePoint(
            step=state.step,
            num_tokens=state.step * experiment.batch_tokens,
            flops=state.step * experiment.flops_per_step,
            train_loss=float(state.losses[since : state.step].mean()),
            held_out_loss=held_out_loss,
            lr=float(state.optimizer.param_groups[0]["lr"]),
            grad_norm=float(gradient_norm(state)),
        )

    def ended(self, status: Status, error: str | None) -> Run:
        """The record of a run that came to an end of its own, without its held-out loss."""
        experiment, recipe, state = self.experiment, self.recipe, self.state
        last = state.losses[: state.step][-max(1, round(TRAIN_LOSS_SHARE * state.step)) :]
        counted = experiment.flops_per_token_counted
        run = ended_run(experiment, status, error, num_steps=state.step)
        return replace(
            run,
            flops_spent=(state.step - state.inherited_steps) * experiment.flops_per_step,
            flops_counted=None if counted is None else run.num_tokens * counted,
            train_loss=finite(float(last.mean())) if state.step else None,
            wall_time_seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes(recipe.device),
            learning_rate=state.learning_rate,
            micro_batch_size=recipe.micro_batch_size,
            device=device_name(recipe.device),
            precision=recipe.precision,
            versions=versions(),
        )


def check_loss(state: TrainingState) -> None:
    """Raises `Diverged` where the training loss was not finite, or has exploded."""
    losses = state.losses[: state.step]
    latest = losses[-LOSS_CHECK_STEPS:]
    finite = torch.isfinite(latest)
    if not finite.all():
        index = int(finite.logical_not().nonzero()[0])
        step = max(0, state.step - LOSS_CHECK_STEPS) + index + 1
        raise Diverged(f"the training loss is {float(latest[index])} at step {step}")
    if state.step < LOSS_CHECK_STEPS + FIRST_STEPS:
        return
    first, last = float(losses[:FIRST_STEPS].mean()), float(latest.mean())
    if first > 0 and last > EXPLODED * first:
        raise Diverged(
            f"the training loss rose from {first:.3g} to {last:.3g} by step {state.step}"
        )


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
