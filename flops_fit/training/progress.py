"""A run on its way: its losses are watched, its checkpoints and curve written, its record made."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from flops_fit.errors import StudyWarning
from flops_fit.files import finite
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.store.protocols import Watcher
from flops_fit.training.curve import CurvePlan, CurvePoint, write_curve
from flops_fit.training.devices import device_name, peak_memory_bytes, versions
from flops_fit.training.evaluation import evaluate
from flops_fit.training.hardware import peak_flops
from flops_fit.training.kernels import DEFAULT
from flops_fit.training.program import Steps, WarmUp
from flops_fit.training.ranks import Meetings
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import TrainingState, Trunks
from flops_fit.training.steps import gradient_norm

CURVE_SECONDS = 2.0
"""Between writings of a curve while its run goes on."""

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

QUICK_FLOPS = 1e10
MOST_BATCHES = 64
"""Training batches that a GPU evaluates at once for a point of the curve: up to so many FLOPs of
training steps, and so many of them. The final loss is measured on batches as trained, whose spread
tells its error."""

EXPLODED = 10.0
"""A mean loss over LOSS_CHECK_STEPS beyond this multiple of the untrained model's is divergence."""


class Diverged(ArithmeticError):
    """The training loss stopped being finite, or exploded."""


@dataclass
class Progress:
    """One run on its way through the steps: what is noticed, kept and told of it."""

    experiment: Experiment
    recipe: Recipe
    state: TrainingState
    warm_up: WarmUp
    folder: Path
    watcher: Watcher
    trunks: Trunks | None
    started: float
    shown: int = 0  # points of the curve that are on disk
    show: Every = field(default_factory=lambda: Every(CURVE_SECONDS))

    @cached_property
    def curve(self) -> CurvePlan:
        return CurvePlan.of(self.experiment, self.recipe.held_out_samples)

    @cached_property
    def stops(self) -> frozenset[int]:
        """Steps at which it is looked at, beside those of `next_stop`."""
        return self.curve.steps | {self.experiment.branch_step or 0, self.experiment.num_steps}

    @property
    def seconds(self) -> float:
        """Spent on the run so far, before the last resume too."""
        return self.state.seconds + time.perf_counter() - self.started

    def steps_per_second(self) -> float:
        """Of the steps that this run trained itself, before the last resume too.

        Left out is what building the model took here and, where enough other steps tell, compiling
        and capturing.
        """
        state, slow = self.state, self.warm_up
        num_steps = state.step - state.inherited_steps
        seconds = state.seconds + time.perf_counter() - slow.began
        if num_steps > FEWEST_TELLING * slow.num_steps:
            num_steps, seconds = num_steps - slow.num_steps, seconds - (slow.ended - slow.began)
        return num_steps / seconds

    def train_steps(self, steps: Steps) -> Iterator[None]:
        """Advance the state to the experiment's last step, or to the end of the data."""
        experiment, state, watcher = self.experiment, self.state, self.watcher
        report, save = Every(PROGRESS_SECONDS), Every(self.recipe.checkpoint_seconds)
        meetings = Meetings(self.recipe.ranks, state.step)
        while state.step < experiment.num_steps:
            until = meetings.first_of(next_stop(state.step, self.stops))
            for _ in steps.advance(until):
                yield  # before the device is asked for what it may still be at
                if state.step == until:
                    state.add_losses()
                    self.look()
                if report.is_due():
                    self.show_curve()
                    trained = state.step - state.inherited_steps
                    watcher.progress(experiment, trained * experiment.flops_per_step)
                if not meetings.is_at(state.step):
                    continue
                wishes = watcher.stop_requested, watcher.stop_requested or save.is_due()
                stops, saves = meetings.agreed(state.step, wishes)
                if saves:
                    self.save_checkpoint()
                if stops:
                    raise KeyboardInterrupt
            if state.step < until:
                break
        state.add_losses()
        check_loss(state)

    def look(self) -> None:
        """At the losses so far; and what else is due at this step."""
        state = self.state
        if state.step in self.curve.steps or state.step % LOSS_CHECK_STEPS == 0:
            check_loss(state)
        if state.step in self.curve.steps:
            state.curve.append(self._curve_point())
        if state.step == self.experiment.branch_step and self.trunks is not None:
            self.trunks.keep(self.experiment, state)

    def save_checkpoint(self) -> None:
        with self._going_on_without("a checkpoint"):
            self.state.save(self.folder / "checkpoint.pt", self.seconds)
        if self.has_more_to_show:
            self.write_curve()

    def show_curve(self) -> None:
        """What is new of it, every now and then, for whoever looks on."""
        if self.has_more_to_show and self.show.is_due():
            self.write_curve()

    @property
    def has_more_to_show(self) -> bool:
        """Whether the curve has points that are not on disk."""
        return len(self.state.curve) > self.shown

    def write_curve(self) -> None:
        self.shown = len(self.state.curve)
        if not self.recipe.ranks.writes:
            return
        with self._going_on_without("its curve"):
            write_curve(self.folder / "metrics.jsonl", self.state.curve)

    @contextmanager
    def _going_on_without(self, what: str) -> Iterator[None]:
        """A full disk doesn't end the run; what it had written before is as it was."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            run, step = self.experiment.id, self.state.step
            said = f"{run} goes on without {what} at step {step}: {error}"
            warnings.warn(said, StudyWarning, stacklevel=3)

    def _curve_point(self) -> CurvePoint:
        experiment, recipe, state = self.experiment, self.recipe, self.state
        since = state.curve[-1].step if state.curve else 0
        held_out_loss = None
        if state.step in self.curve.held_out_steps:
            batch_size = recipe.micro_batch_size or recipe.ranks.part_of(experiment).batch_size
            if recipe.device.type == "cuda":  # where small batches take as long as larger ones
                batch_size *= max(
                    1, min(MOST_BATCHES, round(QUICK_FLOPS / experiment.flops_per_step))
                )
            samples = self.curve.held_out_samples
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

    def data_ended(self) -> Run:
        """The record of a run whose data were too few."""
        tokens = self.state.step * self.experiment.batch_tokens
        reason = (
            f"the data ended after {tokens:,} of {self.experiment.num_tokens:,} planned tokens: "
            "bring more data, or lower the budget"
        )
        return self.ended(Status.FAILED, reason)

    def evaluated(self) -> Run:
        """The record of a run that has trained all of its steps, with its held-out loss."""
        experiment, recipe = self.experiment, self.recipe
        steps_per_second = self.steps_per_second()
        batch_size = recipe.micro_batch_size or recipe.ranks.part_of(experiment).batch_size
        held_out = evaluate(self.state.model, recipe, batch_size, recipe.held_out_samples)
        run = self.ended(Status.COMPLETED, None)
        if not math.isfinite(held_out.loss):
            reason = f"the held-out loss is {held_out.loss}"
            return replace(run, status=Status.DIVERGED, error=reason)
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
            num_processes=None if recipe.ranks.is_alone else recipe.ranks.count,
            device=device_name(recipe.device),
            precision=recipe.precision,
            versions=versions(),
        )


def next_stop(step: int, stops: Iterable[int]) -> int:
    """The next step after this one that is a stop, or at which losses are checked."""
    check = step - step % LOSS_CHECK_STEPS + LOSS_CHECK_STEPS
    return min(check, min(stop for stop in stops if stop > step))


def check_loss(state: TrainingState) -> None:
    """Raises `Diverged` where the training loss was not finite, or has exploded."""
    latest = state.losses[max(0, state.step - LOSS_CHECK_STEPS) : state.step]
    telling = torch.cat([latest, state.losses[:FIRST_STEPS]]).cpu()  # asks the device once
    latest, first_losses = telling[: len(latest)], telling[len(latest) :]
    finite = torch.isfinite(latest)
    if not finite.all():
        index = int(finite.logical_not().nonzero()[0])
        step = max(0, state.step - LOSS_CHECK_STEPS) + index + 1
        raise Diverged(f"the training loss is {float(latest[index])} at step {step}")
    if state.step < LOSS_CHECK_STEPS + FIRST_STEPS:
        return
    first, last = float(first_losses.mean()), float(latest.mean())
    if first > 0 and last > EXPLODED * first:
        raise Diverged(
            f"the training loss rose from {first:.3g} to {last:.3g} by step {state.step}"
        )


class Every:
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
    flops = flops_per_token * experiment.batch_tokens * steps_per_second / recipe.ranks.count
    return flops / peak[0], f"{peak[1]}, {peak[0] / 1e12:.0f} TFLOP/s"
