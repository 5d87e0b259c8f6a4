"""Train one planned experiment: exactly its steps, then its loss on held-out data.

This is the only training loop. It knows nothing of plans, studies or configs: it gets an
`Experiment` and the `Recipe` all experiments of a study share, and returns a `Run`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flops_fit.files import user_cache
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status
from flops_fit.store.protocols import Watcher
from flops_fit.training.devices import (
    free_memory,
    is_out_of_memory,
    reset_peak_memory,
    threads_in_use,
)
from flops_fit.training.kernel_choice import kernels_of_study
from flops_fit.training.kernels import KernelPlan, keep_freed_memory
from flops_fit.training.memory import fitted
from flops_fit.training.program import steps_of
from flops_fit.training.progress import Diverged, Progress
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import Draws, TrainingState, Trunks
from flops_fit.training.timing import SMALL_STEP_FLOPS, fastest_threads
from flops_fit.training.together import Group, groups_of, train_together, why_apart

SURELY_FITS_FLOPS = 1e10
"""FLOPs of a step up to which nobody looks whether its batch fits into memory: a look takes up to
seconds, the step megabytes."""


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

    @property
    def takes_turns(self) -> bool:
        return self.recipe.device.type == "cuda" or self.recipe.together

    def groups(self, experiments: Sequence[Experiment]) -> list[Group]:
        return groups_of(experiments, self.recipe) if self.recipe.together else []

    def in_turns(
        self,
        experiments: Sequence[Experiment],
        folders: Mapping[str, Path],
        watcher: Watcher,
        *,
        together: bool,
    ) -> TrainingTurns | None:
        recipe, first = self.recipe, experiments[0]
        if recipe.device.type == "cpu":
            keep_freed_memory()
        if together:
            pieces = train_together(experiments, recipe, folders, watcher)
            return TrainingTurns(pieces, recipe, None)  # they draw no random numbers
        if recipe.device.type == "cuda" and first.flops_per_step <= SMALL_STEP_FLOPS:
            pieces = pieces_of(first, recipe, folders[first.id], watcher, self.trunks)
            return TrainingTurns(pieces, recipe, first.seed)
        return None

    @property
    def pins(self) -> dict[str, Any]:
        recipe = self.recipe
        kernels = {} if recipe.kernels is None else {"kernels": recipe.kernels.to_json()}
        decided = {"precision": recipe.precision, "held_out_samples": recipe.held_out_samples}
        return {**decided, **kernels, "together": recipe.together}

    def threads(self, plan: Plan, most: int) -> int:
        return fastest_threads(plan, self.recipe, most)

    def tuned(self, plan: Plan, threads: int, pinned: Mapping[str, Any]) -> TorchTrainer:
        """With the kernels of the study, or if it has none yet the fastest for its plan here; and
        with runs of one size together, or alone, as its first training had them."""
        with threads_in_use(threads):
            recipe = replace(self.recipe, kernels=self._kernels(plan, pinned))
            together = recipe.together
            if "together" in pinned or "kernels" in pinned:  # the latter alone by earlier versions
                together = pinned.get("together", False)
            elif together:
                together = why_apart(plan.experiments, recipe) is None
        return replace(self, recipe=replace(recipe, together=together))

    def _kernels(self, plan: Plan, pinned: Mapping[str, Any]) -> KernelPlan:
        if "kernels" in pinned:
            return KernelPlan.from_json(pinned["kernels"])
        cache = user_cache() / "kernels.json"
        return self.recipe.kernels or kernels_of_study(plan.experiments, self.recipe, cache)

    def fitted_to(self, experiment: Experiment) -> Recipe:
        """Its recipe, with portions that there is memory for where the whole batch is too much."""
        if experiment.flops_per_step <= SURELY_FITS_FLOPS:
            return self.recipe
        return fitted(self.recipe, experiment)

    def _trained(self, experiment: Experiment, folder: Path, watcher: Watcher) -> Run:
        recipe = self.fitted_to(experiment)

        def attempt(portion: int | None) -> Run:
            changed = replace(recipe, micro_batch_size=portion)
            return train(experiment, changed, folder, watcher, self.trunks)

        portion = portion_of(experiment, recipe)
        try:
            return attempt(recipe.micro_batch_size)
        except Exception as error:
            if portion == 1 or not is_out_of_memory(error):
                raise
            if recipe.portions.depends is not None:
                raise MemoryError(
                    f"out of memory with {portion} samples at a time, and smaller portions would "
                    f"give another result: {recipe.portions.depends}; set micro_batch_size="
                    f"{math.ceil(portion / 2)}, which makes other runs, or train smaller sizes"
                ) from error
        free_memory()  # outside of the handler, which keeps the failed step's tensors
        return in_halves(portion, attempt)


def portion_of(experiment: Experiment, recipe: Recipe) -> int:
    """Samples that a device is given at once."""
    batch_size = recipe.ranks.part_of(experiment).batch_size
    return min(recipe.micro_batch_size or batch_size, batch_size)


def in_halves(portion: int, attempt: Callable[[int], Run]) -> Run:
    """The run in half the portion that was too much. Raises `MemoryError` where that is too."""
    half = math.ceil(portion / 2)
    try:
        return attempt(half)
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
    pieces = pieces_of(experiment, recipe, folder, watcher, trunks)
    with TrainingTurns(pieces, recipe, experiment.seed).in_its_own():
        return next(run for runs in pieces for run in runs)


class TrainingTurns:
    """Training piece by piece, so that others on the same device have turns as well.

    Between two turns the device has something to do. Random numbers, from `seed` on, and on CUDA
    the stream are its own.
    """

    def __init__(
        self, pieces: Generator[list[Run], None, None], recipe: Recipe, seed: int | None
    ) -> None:
        self._pieces, self._recipe = pieces, recipe
        self._draws = None if seed is None else Draws(seed)
        self._stream = torch.cuda.Stream(recipe.device) if recipe.device.type == "cuda" else None

    def take(self) -> list[Run]:
        """One turn; the records of the runs that ended in it. Raises what `train` raises, and
        `MemoryError` where there is no room beside the others."""
        try:
            with self.in_its_own(), self._recipe.kernels_in_force():
                return next(self._pieces)
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise

    @contextmanager
    def in_its_own(self) -> Iterator[None]:
        draws = nullcontext() if self._draws is None else self._draws.in_use()
        with draws, torch.cuda.stream(self._stream):
            yield

    def drop(self) -> None:
        """Give back what it holds on the device; its checkpoint stays."""
        self._pieces.close()


def pieces_of(
    experiment: Experiment,
    recipe: Recipe,
    folder: Path,
    watcher: Watcher,
    trunks: Trunks | None,
) -> Generator[list[Run], None, None]:
    """Yields after each piece, and at the end the run's record."""
    started = time.perf_counter()
    reset_peak_memory(recipe.device)
    state = TrainingState.resumed(experiment, recipe, folder / "checkpoint.pt", trunks)
    steps = steps_of(experiment, recipe, state)
    progress = Progress(experiment, recipe, state, steps.warm_up, folder, watcher, trunks, started)
    try:
        for _ in progress.train_steps(steps):
            yield []
    except Diverged as error:
        yield [progress.ended(Status.DIVERGED, str(error))]
        return
    finally:
        progress.write_curve()
    complete = state.step == experiment.num_steps
    yield [progress.evaluated() if complete else progress.data_ended()]
