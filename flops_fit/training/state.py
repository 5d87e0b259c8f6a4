"""All that changes while a run trains, on disk as its checkpoint or as its size's trunk."""

from __future__ import annotations

import os
import random
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.serialization import get_crc32_options, set_crc32_options

from flops_fit.datasets.source import seed_of
from flops_fit.errors import StudyError, StudyWarning
from flops_fit.files import DAMAGE, is_inside, set_aside, size_of, temporary_of
from flops_fit.learning.optimizers import load_state
from flops_fit.plan.experiment import Experiment
from flops_fit.records import of_type, read_list
from flops_fit.training.carried import Carried
from flops_fit.training.compiling import loss_of_model, regions_of
from flops_fit.training.curve import CurvePoint
from flops_fit.training.devices import is_out_of_memory
from flops_fit.training.family import materialized
from flops_fit.training.kernels import DEFAULT
from flops_fit.training.ranks import ALONE, Ranks
from flops_fit.training.recipe import (
    ChoosesAttention,
    Recipe,
    configured_rate,
    param_groups,
    peak_learning_rates,
)
from flops_fit.training.replicas_and_shards import (
    LossOf,
    begin,
    gathered,
    placed,
    replicated,
    sharded_like,
)

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel


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
    carried: Carried  # the model's attributes before the first step
    ranks: Ranks = ALONE  # the processes that train it
    replica: DistributedDataParallel | None = None  # what of the model sums gradients over them
    num_added: int = 0  # losses that are those of the whole batch, and not of this process's rows
    run_id: str = ""
    trunk: str = ""  # empty where it has none
    step: int = 0
    inherited_steps: int = 0  # trained by another run, on the shared trunk
    seconds: float = 0.0  # spent before the last resume
    curve: list[CurvePoint] = field(default_factory=list)
    clipped_norm: Tensor | None = None  # of the last step's gradients, before they were clipped

    @classmethod
    def start(cls, experiment: Experiment, recipe: Recipe) -> TrainingState:
        """As at step 0. Built on the CPU, so that all devices begin from the same numbers."""
        model = recipe.family.build(experiment.size.value)
        model = materialized(model, recipe.family.sample)
        model = placed(model, recipe.device, recipe.ranks, partial(regions_of, model))
        if isinstance(model, ChoosesAttention):
            model.use_attention_kernel((recipe.kernels or DEFAULT).attention)
        optimizer = recipe.optimizer(param_groups(model))
        loss_of = loss_of_model(model, recipe, experiment)
        replica = replicated(model, loss_of, recipe.ranks)
        return cls(
            model=model.train(),
            loss_of=replica or loss_of,
            parameters=list(model.parameters()),
            optimizer=optimizer,
            scaler=GradScaler(recipe.device.type) if recipe.precision == "fp16" else None,
            learning_rate=configured_rate(optimizer, experiment.learning_rate),
            peak_lrs=peak_learning_rates(optimizer, experiment.learning_rate),
            losses=torch.zeros(experiment.num_steps, device=recipe.device),
            carried=Carried.now(model),
            ranks=recipe.ranks,
            replica=replica,
            run_id=experiment.id,
            trunk=experiment.trunk,
        )

    @classmethod
    def resumed(
        cls, experiment: Experiment, recipe: Recipe, checkpoint: Path, trunks: Trunks | None = None
    ) -> TrainingState:
        """As the run's checkpoint left it, else where its trunk branches off, else as at step 0.

        A file that can't be used is set aside with a warning, and the next of these is taken.
        """
        before = GeneratorStates.now()
        ranks = recipe.ranks
        while True:
            state = cls.start(experiment, recipe)
            trunk = trunks.furthest(experiment) if trunks else None
            path = ranks.as_first(checkpoint if os.path.lexists(checkpoint) else trunk)
            if path is None:
                state.draw_apart(experiment)
                return state
            problem = state._tried(path, experiment, is_trunk=path != checkpoint)
            problem = next(filter(None, ranks.of_each(problem)), None)
            if problem is None:
                return state
            if ranks.writes:
                warnings.warn(
                    f"{path} can't be used ({problem}) and was set aside as "
                    f"{set_aside(path).name}: {experiment.id} starts from what there was before",
                    StudyWarning,
                    stacklevel=2,
                )
            before.restore()

    def _tried(self, path: Path, experiment: Experiment, *, is_trunk: bool) -> str | None:
        """Load it; returns why it can't be used, None where all went well."""
        if self.ranks.shards:
            begin(self.optimizer, self.parameters)
        try:
            self._load(path, experiment, is_trunk=is_trunk)
        except DAMAGE as error:
            if is_out_of_memory(error):
                raise
            return str(error) or type(error).__name__
        return None

    def _load(self, path: Path, experiment: Experiment, *, is_trunk: bool) -> None:
        device = torch.device("cpu") if self.ranks.shards else self.losses.device
        saved = read_state(path, device)
        whose = ("trunk", self.trunk) if is_trunk else ("run_id", self.run_id)
        self._check(saved, *whose)
        self._restore(saved, experiment)
        if is_trunk:
            self.inherited_steps, self.seconds = self.step, 0.0

    def _check(self, saved: Mapping[str, Any], key: str, name: str) -> None:
        """Raises `StudyError` for the state of another run, or of none. Earlier versions wrote no
        names."""
        if saved.get(key, name) != name:
            raise StudyError(f"it is of {saved[key]}")
        counts = of_type(tuple[int, int], (saved["inherited_steps"], saved["step"]), "steps")
        if not 0 <= counts[0] <= counts[1] <= len(self.losses):
            raise StudyError(f"it is at step {counts[1]} of {len(self.losses)}")
        if not 0 <= of_type(float, saved["seconds"], "seconds") < inf:
            raise StudyError(f"seconds is {saved['seconds']}")
        if saved["losses"].shape != (counts[1],):
            raise StudyError(f"it has {saved['losses'].shape} losses of {counts[1]} steps")

    def _restore(self, saved: dict[str, Any], experiment: Experiment) -> None:
        of_model, of_optimizer = saved["model"], saved["optimizer"]
        if self.ranks.shards:
            of_model = sharded_like(of_model, self.model.state_dict())
            of_optimizer = sharded_like(of_optimizer, self.optimizer.state_dict())
        self.model.load_state_dict(of_model)
        load_state(self.optimizer, of_optimizer)
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.num_added = self.step
        self.inherited_steps = saved["inherited_steps"]
        self.losses[: self.step] = saved["losses"]
        self.curve = list(read_list(CurvePoint, saved["curve"], "curve"))
        carried = saved.get("carried", ())
        if len(carried) == self.ranks.count:  # by rows of a batch, which others part otherwise
            self.carried.restore(carried[self.ranks.rank], self.losses.device)
        draws = [(saved["rng"], saved["cuda_rng"]), *saved.get("rng_of_others", ())]
        if len(draws) == self.ranks.count or self.ranks.writes:
            cpu, cuda = draws[self.ranks.rank]
            torch.set_rng_state(cpu.cpu())
            if cuda is not None:
                torch.cuda.set_rng_state(cuda.cpu(), self.losses.device)
        else:
            self.draw_apart(experiment)

    def draw_apart(self, experiment: Experiment) -> None:
        """Let each process but the first draw random numbers of its own from here on."""
        if self.ranks.writes:
            return
        seed = seed_of(experiment.seed, self.step, self.ranks.rank)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)

    def add_losses(self) -> None:
        """Over the processes, of the steps since the last time. All are at the same step."""
        self.ranks.add(self.losses[self.num_added : self.step])
        self.num_added = self.step

    def save(self, path: Path, seconds: float) -> None:
        """Write the file whole or not at all; `seconds` were spent on the run so far.

        All processes of the run have to be there, the first one writes.
        """
        content = self._content(seconds)
        if not self.ranks.writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_of(path)
        try:
            with checksums_written():
                torch.save(content, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _content(self, seconds: float) -> dict[str, Any]:
        """What a checkpoint holds: the same whichever processes train the run, so that others can
        go on with it."""
        of_model, of_optimizer = self.model.state_dict(), portable(self.optimizer.state_dict())
        if self.ranks.shards:
            of_model = gathered(of_model, self.ranks.writes)
            of_optimizer = gathered(of_optimizer, self.ranks.writes)
        device = self.losses.device
        cuda_rng = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        (rng, cuda_rng), *others = self.ranks.of_each((torch.get_rng_state(), cuda_rng))
        carried = self.ranks.of_each(self.carried.changed())
        return {
            "run_id": self.run_id,
            "trunk": self.trunk,
            "model": of_model,
            "optimizer": of_optimizer,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "losses": self.losses[: self.step].clone(),
            "step": self.step,
            "inherited_steps": self.inherited_steps,
            "seconds": seconds,
            "curve": [point.to_json() for point in self.curve],
            "rng": rng,
            "cuda_rng": cuda_rng,
            **({"rng_of_others": others} if others else {}),
            **({"carried": carried} if any(carried) else {}),
        }


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """What `TrainingState.save` wrote: tensors and plain values, no byte of which has changed.

    torch writes a CRC-32 of each of them and doesn't look at it again. To do so takes 2 s a GB,
    where loading takes 2.6. Raises one of `DAMAGE`.
    """
    size_of(path)  # a file, then
    with zipfile.ZipFile(path) as members:
        damaged = members.testzip()
    if damaged is not None:
        raise StudyError(f"{damaged} in it is damaged")
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return saved


@contextmanager
def checksums_written() -> Iterator[None]:
    """Whatever a user has set, torch writes the CRC-32 that `read_state` looks at."""
    before = get_crc32_options()
    set_crc32_options(True)
    try:
        yield
    finally:
        set_crc32_options(before)


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
        if state.ranks.as_first(any(step >= state.step for step, _ in states)):
            return
        state.save(self.folder / f"{experiment.trunk}-{state.step}.pt", state.seconds)
        for _, path in states if state.ranks.writes else ():
            path.unlink(missing_ok=True)

    def _states(self, experiment: Experiment) -> list[tuple[int, Path]]:
        """Step -> file, of this trunk. A link out of the folder is none."""
        found = self.folder.glob(f"{experiment.trunk}-*.pt") if experiment.trunk else ()
        named = (
            (path.stem.rpartition("-")[2], path) for path in found if is_inside(path, self.folder)
        )
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
