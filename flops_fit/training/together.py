"""Runs of one size that train together: one batched step for all, each leaving when it ends."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch, changed, joined_at
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.run import Run, Status
from flops_fit.store.protocols import Watcher
from flops_fit.training.devices import reset_peak_memory
from flops_fit.training.feed import Block, device_data, wait_for_data
from flops_fit.training.flat_parameters import MustTrainAlone
from flops_fit.training.host_state import HostState
from flops_fit.training.program import BlockSteps, WarmUp
from flops_fit.training.progress import (
    PROGRESS_SECONDS,
    Diverged,
    Every,
    Progress,
    next_stop,
)
from flops_fit.training.recipe import Recipe
from flops_fit.training.stackable import why_alone
from flops_fit.training.stacked import Stacked
from flops_fit.training.state import TrainingState, seeded

LARGEST_STEP_FLOPS = {"cpu": 2e7, "cuda": 1e10}
"""FLOPs of one run's step up to which runs gain by training together: beyond that a step is busy
with arithmetic and no longer with starting operations."""

FEWEST_RUNS = {"cpu": 1, "cuda": 2}
"""That gain: on a CPU a step of one run takes 0.6 of its time when it is called as the list of its
operations; on CUDA a graph holds it already."""

FEWEST_ROWS = 2
"""Of a batched step: a run that is alone is stacked with itself. Libraries multiply a single matrix
in another way than several, of which each comes out the same to the last bit however many there
are; so a result doesn't depend on which runs were there."""

Group = tuple[Experiment, ...]
"""Runs of one size and batch size."""


def groups_of(experiments: Sequence[Experiment], recipe: Recipe) -> list[Group]:
    """Those that gain by training together; the others train alone."""
    by_shape: dict[tuple[str, int], list[Experiment]] = {}
    largest = LARGEST_STEP_FLOPS.get(recipe.device.type, 0.0)
    for e in experiments:
        if e.flops_per_step <= largest and not e.trunk:
            by_shape.setdefault((str(e.size.value), e.batch_size), []).append(e)
    fewest = FEWEST_RUNS[recipe.device.type] if by_shape else 0
    return [tuple(group) for group in by_shape.values() if len(group) >= fewest]


def why_apart(experiments: Sequence[Experiment], recipe: Recipe) -> str | None:
    """Why none of these runs should be trained together, or recorded; None where some should.

    Seconds: model, loss and optimizer are tried.
    """
    groups = groups_of(experiments, recipe)
    if not groups:
        return "no runs of one size gain by it"
    with seeded(0):
        model = recipe.family.build(groups[0][0].size.value)
        before = HostState.of([model], recipe.loss)
        reason = why_alone(recipe, groups[0])
        return reason or before.change_to(HostState.of([model], recipe.loss))


class ManyRuns:
    """The members of a group as a `flops_fit.training.program.Job`."""

    def __init__(self, members: Sequence[Progress], recipe: Recipe) -> None:
        self.recipe, self.members = recipe, tuple(members)
        states = [member.state for member in members]
        if len(states) < FEWEST_ROWS:
            states = FEWEST_ROWS * states
        self.num_rows = len(states)
        self.stacked = Stacked(states, recipe)
        self.models = [states[0].model]  # the others are given as numbers to this one
        self.step = states[0].step
        longest = max(member.experiment.num_steps for member in members)
        self.losses = torch.zeros(longest, self.num_rows, device=recipe.device)
        self._factors = [recipe.learning_rate_factor(m.experiment) for m in members]
        self._rates = torch.zeros(self.num_rows, device=recipe.device)
        self._share_data = len({member.experiment.order_seed for member in members}) == 1

    def rates_at(self, step: int) -> list[float]:
        """Of each run, 0 after its end."""
        rates = [
            factor(step) * m.state.learning_rate if step < m.experiment.num_steps else 0.0
            for factor, m in zip(self._factors, self.members, strict=True)
        ]
        return rates * (self.num_rows // len(rates))

    def read_rates_from(self, rates: Tensor) -> None:
        self._rates = rates

    def set_rates(self, rates: Sequence[float]) -> None:
        self._rates = torch.tensor(rates, device=self.recipe.device)

    def update(self, batch: Batch) -> Tensor:
        if self._share_data:
            rows = self.num_rows
            batch = changed(batch, lambda tensor: tensor.expand(rows, *tensor.shape))
        return self.stacked.step(batch, self._rates)

    def blocks(self) -> Iterator[Block]:
        """(steps, B, ...) where all runs have the same data, else (steps, K, B, ...)."""
        batch_size = self.members[0].experiment.batch_size
        data = device_data(self.recipe.source, self.recipe.device)
        seeds = [member.experiment.order_seed for member in self.members]
        feeds = {seed: data.blocks(batch_size, seed, self.step) for seed in dict.fromkeys(seeds)}
        while True:
            of_seed = {seed: next(feed, None) for seed, feed in feeds.items()}
            of_runs = [block for seed in seeds if (block := of_seed[seed]) is not None]
            if len(of_runs) < len(seeds):
                return
            whole = [block.stacked for block in of_runs if block.stacked is not None]
            if len(whole) < len(seeds) or len({block.num_steps for block in of_runs}) > 1:
                raise MustTrainAlone("their batches differ in shape, or their data in length")
            yield Block(of_runs[0].num_steps, self._in_rows(whole))

    def _in_rows(self, blocks: Sequence[Batch]) -> Batch:
        if self._share_data:
            return blocks[0]
        for block in blocks:
            wait_for_data(block, self.recipe.device)
        return joined_at(1, blocks)

    def why_not_captured(self) -> str | None:
        return None

    def forget_gradients(self) -> None:
        """They live in the stack, whose next step overwrites them."""

    def share_losses(self, since: int) -> None:
        """Give each run its losses of the steps from `since` to the last one, and its place."""
        losses = self.losses[since : self.step].cpu()  # asks the device once
        for row, member in enumerate(self.members):
            end = min(self.step, member.experiment.num_steps)
            member.state.losses[since:end] = losses[: end - since, row]
            member.state.step = end
            rates = zip(member.state.optimizer.param_groups, member.state.peak_lrs, strict=True)
            factor = self._factors[row](end - 1) if end else 0.0
            for group, peak in rates:
                group["lr"] = peak * factor


def train_together(
    experiments: Sequence[Experiment],
    recipe: Recipe,
    folders: Mapping[str, Path],
    watcher: Watcher,
) -> Generator[list[Run], None, None]:
    """Train runs of one size in one batched step; yields those that have ended, piece by piece.

    Each run has its own result, curve and checkpoint, as though it had trained alone: within what
    another order of sums changes. Runs that were stopped at different steps go on in groups of
    their own. Raises `KeyboardInterrupt` after writing all checkpoints when a stop is requested.
    """
    reset_peak_memory(recipe.device)
    members = {e.id: _started(e, recipe, folders[e.id], watcher) for e in experiments}
    try:
        by_step: dict[int, list[Progress]] = {}
        for member in members.values():
            by_step.setdefault(member.state.step, []).append(member)
        for group in by_step.values():
            for ended in _advanced(group, recipe, watcher):
                for run in ended:  # its curve is there when it is told of
                    members.pop(run.id).write_curve()
                yield ended
    finally:
        for member in members.values():
            member.write_curve()


def _started(experiment: Experiment, recipe: Recipe, folder: Path, watcher: Watcher) -> Progress:
    started = time.perf_counter()
    with seeded(experiment.seed):
        state = TrainingState.resumed(experiment, recipe, folder / "checkpoint.pt")
    state.losses = state.losses.cpu()  # where they are looked at; the group has its own
    return Progress(experiment, recipe, state, WarmUp(), folder, watcher, None, started)


def _advanced(
    members: list[Progress], recipe: Recipe, watcher: Watcher
) -> Generator[list[Run], None, None]:
    report, save = Every(PROGRESS_SECONDS), Every(recipe.checkpoint_seconds)
    ended = [m for m in members if m.state.step == m.experiment.num_steps]
    yield [m.evaluated() for m in ended]  # stopped between the last step and the result
    members = [m for m in members if m.state.step < m.experiment.num_steps]
    while members:
        runs = ManyRuns(members, recipe)
        steps = BlockSteps(runs, captures=recipe.cuda_graphs and recipe.device.type == "cuda")
        leaving: dict[int, Run] = {}
        while not leaving:
            since = runs.step
            until = next_stop(since, frozenset().union(*(m.stops for m in members)))
            for _ in steps.advance(until):
                yield []
                if report.is_due():
                    for m in members:
                        m.show_curve()
                        watcher.progress(m.experiment, runs.step * m.experiment.flops_per_step)
                if watcher.stop_requested or save.is_due():
                    runs.share_losses(since)
                    _save(runs)
                if watcher.stop_requested:
                    raise KeyboardInterrupt
            runs.share_losses(since)
            if runs.step < until:  # the data have ended
                yield [m.data_ended() for m in members]
                return
            leaving = _looked_at(runs)
        if len(leaving) < len(members):
            _save(runs)  # hands all back, and a kill leaves the group as it will be now
        yield list(leaving.values())
        members = [member for row, member in enumerate(members) if row not in leaving]


def _looked_at(runs: ManyRuns) -> dict[int, Run]:
    """Row -> record of the runs that end here; the others have their curve's next point."""
    ended: dict[int, Run] = {}
    norms = runs.stacked.gradient_norms().cpu()
    for row, member in enumerate(runs.members):
        state, is_last = member.state, member.state.step == member.experiment.num_steps
        if state.step in member.curve.held_out_steps or is_last:
            runs.stacked.hand_back(row)
        state.clipped_norm = norms[row]
        try:
            member.look()
        except Diverged as error:
            ended[row] = member.ended(Status.DIVERGED, str(error))
            continue
        if is_last:
            ended[row] = member.evaluated()
    return ended


def _save(runs: ManyRuns) -> None:
    for row, member in enumerate(runs.members):
        runs.stacked.hand_back(row)
        member.save_checkpoint()
