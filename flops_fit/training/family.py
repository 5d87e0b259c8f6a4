"""Model families measured without memory: size value -> N and FLOPs per token, and back.

Models are built on torch's meta device, where a tensor has a shape and no storage, so a
candidate of 70 billion parameters costs milliseconds. Models that can't be built there are built
on the CPU, within the memory there is.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from flops_fit.datasets.batches import Batch, num_samples, on_device, output_of
from flops_fit.errors import ConfigError, PlanError
from flops_fit.learning.losses import inputs_for
from flops_fit.plan.experiment import ModelSize, Size, SizeValue
from flops_fit.signatures import check_argument_names, qualified_name
from flops_fit.training.leftovers import nothing_left

LossFunction = Callable[[Any, Any], Tensor]
"""(prediction, target) -> one number, the mean over the batch."""

ModelFactory = Callable[..., nn.Module]

LARGEST_SIZE = 2**24
"""Where the search for a size ends if nobody names a maximum."""

LEGAL_SIZE_SEARCH = 128
"""Neighbours tried when a size can't be built, for families with rules such as "divisible by";
heads of 128 are the widest in common use."""

SIZES_APART = (1, 4, 16, 64)
"""From the smallest size: where a size argument must show an effect."""

BYTES_PER_PARAM = 4
"""A parameter in fp32, as built."""


@dataclass(frozen=True)
class SizeSpec:
    """The argument that scales a model, and the values it may take."""

    name: str
    min: int = 1
    max: int = LARGEST_SIZE
    multiple_of: int = 1
    values: tuple[SizeValue, ...] | None = None  # whole shapes or numbers, instead of a range

    def __post_init__(self) -> None:
        if self.values is not None and not self.values:
            raise ConfigError(f"size {self.name}: values is empty: list the sizes to train")
        if self.multiple_of < 1:
            raise ConfigError(f"size {self.name}: multiple_of is {self.multiple_of}: use 1 or more")
        if self.values is None and (self.min < 1 or self.last_index < 0):
            raise ConfigError(
                f"size {self.name}: no multiple of {self.multiple_of} lies between "
                f"min={self.min} and max={self.max}"
            )

    def value_at(self, index: int) -> int:
        """The `index`-th value of the range, counted from 0."""
        first = math.ceil(self.min / self.multiple_of) * self.multiple_of
        return first + index * self.multiple_of

    @property
    def last_index(self) -> int:
        return (self.max - self.value_at(0)) // self.multiple_of


@runtime_checkable
class CountsParams(Protocol):
    """A model that says itself which of its parameters are the N of the law."""

    num_params: Any  # a method or a property


@runtime_checkable
class CountsFlops(Protocol):
    """A model that says itself what a training token costs, forward and backward."""

    flops_per_token: Any  # a method or a property


class ModelFamily:
    """All sizes of one model: the planner's `Family`.

    `sample` is a batch (input, target) on which FLOPs are counted; each of its samples adds
    `tokens_per_sample` to D; `asked` are sizes that are asked for. Raises `ConfigError` for a
    family that can't be built at all, or whose size argument doesn't scale it.
    """

    def __init__(
        self,
        factory: ModelFactory,
        spec: SizeSpec,
        sample: Batch,
        tokens_per_sample: float,
        loss: LossFunction,
        asked: Sequence[SizeValue] | None = None,
    ) -> None:
        self.factory = factory
        self.spec = spec
        self.sample = sample
        self.tokens_per_sample = tokens_per_sample
        self.loss = loss
        self.asked = asked or ()
        self._counts: dict[str, int | None] = {}
        self._measured: dict[str, ModelSize] = {}
        self._errors: dict[str, Exception] = {}
        self._built_on_cpu = False
        self._check_arguments()
        self._check_that_size_matters()

    def build(self, value: SizeValue) -> nn.Module:
        """The model of this size, on torch's current default device."""
        arguments = value if isinstance(value, Mapping) else {self.spec.name: value}
        return self.factory(**arguments)

    def use_loss(self, loss: LossFunction) -> None:
        """Measure with this one from now on."""
        self.loss = loss
        self._measured.clear()
        vars(self).pop("smallest", None)

    @functools.cached_property
    def smallest(self) -> SizeValue:
        """On which model, data and loss are tried: of sizes at some distance from each other, and
        then of those that are asked for, the smallest that runs on the sample, as far as that can
        be told without numbers."""
        first, *others = sorted(self._values_apart(), key=self._num_params)
        asked = sorted(filter(self._count, self.asked), key=self._num_params)
        return next((value for value in (first, *others, *asked) if self._runs(value)), first)

    def _first(self) -> SizeValue:
        """The smallest that can be built."""
        if self.spec.values is not None:
            return min(self.spec.values, key=self._num_params)
        return self.spec.value_at(self._smallest_index())

    def _runs(self, value: SizeValue) -> bool:
        """Some can be built and not be run: of one channel in groups of eight, heads of width 0."""
        return self.at(value).counted_flops_per_token is not None

    @property
    def declares_flops(self) -> bool:
        """Whether the model says itself what a token costs."""
        return isinstance(self.example(), CountsFlops)

    def example(self) -> nn.Module:
        """The smallest model, to look at: as a rule without numbers."""
        return self._build_to_measure(self._first())

    def at(self, value: SizeValue) -> ModelSize:
        """This size, measured. Raises `ConfigError` where the model can't be built."""
        key = _key(value)
        if key not in self._measured:
            self._measured[key] = self._measure(value)
        return self._measured[key]

    def nearest(self, num_params: float) -> ModelSize:
        """The legal size whose N is closest to `num_params` in ratio."""
        values = self.spec.values or tuple(map(self.spec.value_at, self._bracket(num_params)))
        return self.at(min(values, key=lambda v: abs(math.log(self._num_params(v) / num_params))))

    def _bracket(self, num_params: float) -> list[int]:
        """Indices of the legal sizes just below and just above N (one of them at an end)."""
        low = self._smallest_index()
        above: int | None = None
        end = self.spec.last_index + 1  # no candidate here or beyond
        step = 1
        while above is None and self._may_grow(low):
            candidate = self._legal_from(low + step, end)
            if candidate is None:
                end = min(end, low + step)
                break
            if self._num_params_at(candidate) < num_params:
                low, step = candidate, 2 * step
            else:
                above = end = candidate
        if above is None and not self._may_grow(low):
            return [low]
        while end - low > 1:
            middle = (low + end) // 2
            candidate = self._legal_from(middle, end)
            if candidate is None:
                end = middle
            elif self._num_params_at(candidate) < num_params:
                low = candidate
            else:
                above, end = candidate, middle
        return [low] if above is None else [low, above]

    def _legal_from(self, index: int, end: int) -> int | None:
        """The first index from `index` on, below `end`, whose model can be built."""
        last = min(end, index + LEGAL_SIZE_SEARCH)
        return next((i for i in range(index, last) if self._count(self.spec.value_at(i))), None)

    def _smallest_index(self) -> int:
        index = self._legal_from(0, self.spec.last_index + 1)
        if index is None:
            raise self._cannot_build(self.spec.value_at(0))
        return index

    def _num_params_at(self, index: int) -> int:
        return self._num_params(self.spec.value_at(index))

    def _num_params(self, value: SizeValue) -> int:
        count = self._count(value)
        if count is None:
            raise self._cannot_build(value)
        return count

    def _count(self, value: SizeValue) -> int | None:
        """N of the model with this value; None where it can't be built."""
        key = _key(value)
        if key not in self._counts:
            try:
                self._counts[key] = num_params(self._build_to_measure(value))
            except Exception as error:  # whatever a user's constructor raises for an illegal size
                self._errors[key] = error
                self._counts[key] = None
        return self._counts[key]

    def _build_to_measure(self, value: SizeValue) -> nn.Module:
        """On the meta device, or on the CPU where user code doesn't work there."""
        try:
            with nothing_left(), torch.device("meta"), WithoutNormalDraws():
                model = self.build(value)
        except Exception:
            with torch.random.fork_rng(devices=[]):
                model = self.build(value)
            self._built_on_cpu = True
        return materialized(model, self.sample)

    def _may_grow(self, index: int) -> bool:
        """Whether a model of four times this one's parameters can be built here."""
        needed = 4 * self._num_params_at(index) * BYTES_PER_PARAM
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return not self._built_on_cpu or needed < memory / 2

    def _measure(self, value: SizeValue) -> ModelSize:
        self._num_params(value)  # raises the error to show where it can't be built
        model = self._build_to_measure(value)
        return ModelSize(
            size=Size(self.spec.name, value),
            num_params=num_params(model),
            num_params_total=num_params_total(model),
            counted_flops_per_token=flops_per_token(
                model, self.sample, self.loss, self.tokens_per_sample
            ),
        )

    def _check_arguments(self) -> None:
        """The factory must take the size arguments; said before anything is built."""
        spec = self.spec
        first = spec.values[0] if spec.values else spec.value_at(0)
        names = first.keys() if isinstance(first, Mapping) else [spec.name]
        arguments = [name.partition(".")[0] for name in names]  # config.width is one of config's
        check_argument_names(
            self.factory, arguments, _name_of(self.factory), ", which should set its size"
        )

    def _check_that_size_matters(self) -> None:
        counts = {_key(value): self._num_params(value) for value in self._values_apart()}
        if len(counts) > 1 and len(set(counts.values())) == 1:
            raise PlanError(
                f"size argument {self.spec.name!r} doesn't change the number of parameters: N is "
                f"{next(iter(counts.values())):,} for {', '.join(counts)}; "
                "name the argument that scales the model"
            )

    def _values_apart(self) -> list[SizeValue]:
        """All listed values, or the smallest and legal ones at some distance from it."""
        if self.spec.values is not None:
            return list(self.spec.values)
        smallest = self._smallest_index()
        end = self.spec.last_index + 1
        others = (self._legal_from(smallest + apart, end) for apart in SIZES_APART)
        return [self.spec.value_at(i) for i in (smallest, *others) if i is not None]

    def _cannot_build(self, value: SizeValue) -> ConfigError:
        error = self._errors.get(_key(value))
        if isinstance(error, ConfigError):
            return error
        cause = f": {type(error).__name__}: {error}" if error else ""
        return ConfigError(f"the model can't be built with {self.spec.name}={_key(value)}{cause}")


def family_without_data(
    factory: ModelFactory, spec: SizeSpec, tokens_per_sample: float
) -> ModelFamily:
    """For models that are only to be sized: operations can't be counted without a batch."""
    no_sample = (torch.empty(0), torch.empty(0))
    return ModelFamily(factory, spec, no_sample, tokens_per_sample, nn.functional.mse_loss)


class WithoutNormalDraws(TorchFunctionMode):
    """Leaves out `normal_`, which changes nothing on the meta device and costs a second there:
    torch imports its symbolic shape machinery to do it (torch 2.13)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        drawn: Any = kwargs.get("tensor", args[0] if args else None)  # nn.init names it
        if func in (Tensor.normal_, nn.init.normal_) and drawn.is_meta:
            return drawn
        return func(*args, **kwargs)


def num_params(model: nn.Module) -> int:
    """N of the law: what the model says itself, else all its parameters."""
    if isinstance(model, CountsParams):
        return int(_value_of(model.num_params))
    return num_params_total(model)


def num_params_total(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def flops_per_token(
    model: nn.Module, sample: Batch, loss: LossFunction, tokens_per_sample: float
) -> float | None:
    """FLOPs of one training token: what the model says itself, else counted on the meta device.

    Counted are matrix products, convolutions and attention, forward and backward, a multiply and
    an add as two. None where the model can't run without data or there is nothing to count. The
    model ends up on meta.
    """
    if isinstance(model, CountsFlops):
        return float(_value_of(model.flops_per_token))
    inputs, target = on_device(sample, "meta")
    try:
        with nothing_left(), FlopCounterMode(display=False) as counter:
            given = inputs_for(loss, inputs, target)
            loss(output_of(model.to("meta"), given), target).backward()
    except Exception:  # whatever a user's model does with values that meta tensors don't have
        return None
    flops = float(counter.get_total_flops())
    return flops / (num_samples(sample) * tokens_per_sample) if flops else None


def materialized(model: nn.Module, sample: Batch) -> nn.Module:
    """The model with lazy parameters given their shapes by one forward pass."""
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        device = next(model.parameters()).device
        with torch.no_grad():
            output_of(model, on_device(sample, device)[0])
    return model


def _name_of(factory: ModelFactory) -> str:
    """The name of a class or function, also in a partial; other factories say it by their `str`."""
    target = factory.func if isinstance(factory, functools.partial) else factory
    is_named = inspect.isclass(target) or inspect.isroutine(target)
    return qualified_name(target) if is_named else str(target)


def _value_of(attribute: Any) -> Any:
    return attribute() if callable(attribute) else attribute


def _key(value: SizeValue) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else f"{value}"
