"""A training step without its numbers: the bytes that it holds, moves and the FLOPs it computes.

torch's fake tensors have shapes, types and storages of so many bytes, and no memory. A step is run
on them op by op as the real one would be: forward, loss, backward, optimizer. Live storages are
counted as they come and go, so that the peak is that of an eager step, whatever the model keeps.

Other devices than a CPU are pretended on it: the tensors say that they are on no CPU, and what
autocast and fused kernels do differently there is put in the place of what they do here.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from flops_fit.datasets.batches import Batch, changed, loss_of_batch
from flops_fit.training.family import LossFunction
from flops_fit.training.leftovers import nothing_left
from flops_fit.training.recipe import AUTOCAST, ChoosesAttention, OptimizerFactory, param_groups

PARAM_BYTES = 4
"""A parameter in fp32."""

CUBLAS_WORKSPACE = 32 * 2**20
"""Bytes that torch gives to cuBLAS on Hopper and later cards, from its own allocator."""


NEEDS_NUMBERS = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    NotImplementedError,
)
"""What torch raises for operations whose outcome can't be told from shapes and types."""


class Kernel(NamedTuple):
    """One operation: what a device has to compute and to move for it."""

    flops: float  # of products, convolutions and attention; 0 for everything else
    moved_bytes: float  # tensors read and written
    is_half: bool  # its products are of 16 bits


@dataclass(frozen=True)
class DryStep:
    """What a step does. Kernels come with how often they run: `part_kernels` for every micro-batch
    (forward, loss, backward), `update_kernels` once a step (the optimizer)."""

    peak_bytes: int
    kept_bytes: int  # between steps: parameters, buffers, optimizer state
    part_kernels: Mapping[Kernel, int]
    update_kernels: Mapping[Kernel, int]


@dataclass(frozen=True)
class Parts:
    """What a step is made of.

    `batch` gives shapes and types, one micro-batch of them. `accumulates`: gradients of other
    micro-batches are there already. `attention`: of `flops_fit.training.kernels.ATTENTION`.
    """

    build: Callable[[], nn.Module]
    batch: Batch
    loss: LossFunction
    optimizer: OptimizerFactory
    device: str  # its type
    precision: str
    accumulates: bool = False
    attention: str = "blocks"


def dry_step(parts: Parts) -> DryStep:
    """The step of a fresh model, run on fake tensors.

    Raises whatever a model raises that looks at numbers, which aren't there.
    """
    with nothing_left(), no_numbers(parts.device, parts.precision), _Ledger() as ledger:
        model = parts.build().train()
        if isinstance(model, ChoosesAttention):
            model.use_attention_kernel(parts.attention)
        parameters = [p for p in model.parameters() if p.requires_grad]
        batch = changed(parts.batch, _like)
        optimizer = parts.optimizer(param_groups(model))
        for group in optimizer.param_groups:
            group["capturable"] = False  # asks for real GPUs, and changes no shape
        ledger.start()
        _update(parameters, optimizer)
        temporaries = 0 if parts.device == "cpu" else _foreach_bytes(parameters, optimizer)
        update, update_peak = ledger.kernels, ledger.peak + temporaries
        kept = ledger.live
        ledger.start()
        if parts.accumulates:
            _set_gradients(parameters)
        _forward_and_backward(model, batch, parts)
        part, part_peak = ledger.kernels, ledger.peak
    workspace = CUBLAS_WORKSPACE if parts.device == "cuda" else 0
    return DryStep(
        peak_bytes=max(update_peak, part_peak) + workspace,
        kept_bytes=kept,
        part_kernels=part,
        update_kernels=update if parts.device == "cpu" else _as_one(update),
    )


def _forward_and_backward(model: nn.Module, batch: Batch, parts: Parts) -> None:
    inputs, target = batch
    with _autocast(parts):
        loss = loss_of_batch(parts.loss, model, inputs, target)
    loss.backward()


def _update(parameters: list[nn.Parameter], optimizer: Optimizer) -> None:
    """One step, which makes the optimizer's state."""
    _set_gradients(parameters)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None


def _set_gradients(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)


def _foreach_bytes(parameters: list[nn.Parameter], optimizer: Optimizer) -> int:
    """On GPUs torch's optimizers treat all tensors at once, with one copy of them for a while,
    unless they are fused. Fake parameters are treated one by one, whose copies are small."""
    if all(group.get("fused") for group in optimizer.param_groups):
        return 0
    return sum(p.numel() * p.element_size() for p in parameters)


def _as_one(kernels: Mapping[Kernel, int]) -> Mapping[Kernel, int]:
    """GPUs update all tensors in a few launches: so many bytes in one."""
    flops = sum(k.flops * n for k, n in kernels.items())
    moved = sum(k.moved_bytes * n for k, n in kernels.items())
    return {Kernel(flops, moved, any(k.is_half for k in kernels)): 1}


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Without what a logger says: torch's tells whole tracebacks of operations that are refused,
    which whoever asked for them is told as an exception anyway."""
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


@contextmanager
def no_numbers(device: str, precision: str) -> Iterator[None]:
    """Inside, tensors are fake, as on a device of this type and for steps of this precision.

    No operation is run for want of knowing its shape, which would take the memory after all.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of user code, which will say it again when it is run
        stack.enter_context(_unlogged("torch._subclasses.fake_tensor"))
        mode = FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True)
        stack.enter_context(mode)  # tables that a module has kept from before have numbers
        stack.enter_context(_WithoutDraws())
        if device != "cpu":
            stack.enter_context(_Elsewhere(device, AUTOCAST.get(precision)))
        yield


@contextmanager
def _autocast(parts: Parts) -> Iterator[None]:
    """That of the CPU, which does the work; models that ask find that of the device on as well."""
    dtype, device = AUTOCAST.get(parts.precision), parts.device
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        if device == "cpu" or dtype is None:
            yield
            return
        before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        torch.set_autocast_enabled(device, True)
        torch.set_autocast_dtype(device, dtype)
        try:
            yield
        finally:
            torch.set_autocast_enabled(device, before[0])
            torch.set_autocast_dtype(device, before[1])


class _Ledger(TorchDispatchMode):
    """Counts the bytes of live storages and the kernels, from below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.kernels: Counter[Kernel] = Counter()
        self._known: set[int] = set()

    def start(self) -> None:
        """Count kernels and the peak anew."""
        self.peak = self.live
        self.kernels = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        is_new = [self._enter(tensor) for tensor in made]
        if _is_kernel(func, any(is_new)):
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.kernels[_kernel(func, args, kwargs or {}, out, read, made)] += 1
        return out

    def _enter(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage is a new one, which counts from now on."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return False
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, size)
        return True

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


_MADE_WITHOUT_A_KERNEL = ("aten::empty", "aten::new_empty", "aten::detach", "aten::lift")


def _is_kernel(func: Any, is_new: bool) -> bool:
    """Whether an operation starts one: all but views and the making of empty tensors."""
    schema = func._schema
    if schema.name.startswith(_MADE_WITHOUT_A_KERNEL):
        return False
    return is_new or schema.is_mutable


def _kernel(
    func: Any, args: Any, kwargs: dict[str, Any], out: Any, read: list[Tensor], made: list[Tensor]
) -> Kernel:
    counted = flop_registry.get(func._overloadpacket)
    flops = 0.0 if counted is None else float(counted(*args, **kwargs, out_val=out))
    moved = sum(t.numel() * t.element_size() for t in (*read, *made))
    return Kernel(flops, moved, any(t.dtype in AUTOCAST.values() for t in made))


class _WithoutDraws(TorchFunctionMode):
    """Leaves out the drawing of initial weights, which changes no shape and takes the longest."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS:
            return args[0]
        return func(*args, **(kwargs or {}))


_DRAWS = (
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.bernoulli_,
    Tensor.exponential_,
    Tensor.erfinv_,
)


class _Elsewhere(TorchFunctionMode):
    """Lets tensors of a CPU pass for those of another device.

    torch's CPU autocast lowers about what CUDA's does; what CUDA raises to fp32, and fuses, is
    done here.
    """

    def __init__(self, device: str, lower: torch.dtype | None) -> None:
        super().__init__()
        self._device = device
        self._lower = lower

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            asked = getattr(getattr(func, "__self__", None), "__name__", "")
            if asked in ("is_cpu", f"is_{self._device}"):
                return asked != "is_cpu"
            return func(*args, **kwargs)
        args = tuple(map(self._here, args))
        kwargs = {key: self._here(value) for key, value in kwargs.items()}
        fused = _FUSED.get(func)
        if fused is not None:
            return fused(*args, **kwargs)
        if self._lower is not None and name in _RAISED:
            args = tuple(self._raised(value) for value in args)
        return func(*args, **kwargs)

    def _here(self, value: Any) -> Any:
        """A device of this type is the CPU."""
        is_device = isinstance(value, torch.device) and value.type == self._device
        is_name = isinstance(value, str) and value.partition(":")[0] == self._device
        return torch.device("cpu") if is_device or is_name else value

    def _raised(self, value: Any) -> Any:
        is_low = isinstance(value, Tensor) and value.dtype == self._lower
        return value.float() if is_low and torch.is_autocast_enabled("cpu") else value


_RAISED = {
    "exp", "log", "log1p", "log2", "pow", "__pow__", "square", "rsqrt", "reciprocal", "softplus",
    "sum", "cumsum", "prod", "norm", "logsumexp", "layer_norm", "group_norm", "cosine_similarity",
    "l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "kl_div", "nll_loss",
    "binary_cross_entropy_with_logits",
}  # fmt: skip
"""Operations that autocast computes in fp32 on CUDA (torch's notes on autocast); `square` is `pow`
inside, whose fp32 copy of a hidden layer is an eighth of what 124M parameters keep."""


def _softmax(x: Tensor, dim: int | None = None, *_: Any, **options: Any) -> Tensor:
    """Softmax, or its logarithm: on GPUs one kernel, of 16 bits to fp32 under autocast."""
    y: Tensor = _Softmax.apply(x, options.get("dtype"))
    return y


def _cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    y: Tensor = F.nll_loss(_softmax(input), target, weight, *args, **_of_nll(options))
    return y


def _of_nll(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("weight", "ignore_index", "reduction", "size_average", "reduce")
    return {name: options[name] for name in names if name in options}


def _rms_norm(
    x: Tensor, normalized_shape: Any = None, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    y: Tensor = _RMSNorm.apply(x, weight)
    return y


class _Softmax(torch.autograd.Function):
    """Its shapes and memory: keeps what it gives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        if dtype is None:
            dtype = torch.float32 if torch.is_autocast_enabled("cpu") else x.dtype
        y = x.to(dtype, copy=True)
        ctx.save_for_backward(y)
        ctx.dtype = x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return dy * y if ctx.dtype == y.dtype else dy.to(ctx.dtype), None


class _RMSNorm(torch.autograd.Function):
    """Its shapes and memory: keeps its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        y = x.clone()
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return dy * x, None if weight is None else torch.empty_like(weight)


_FUSED: dict[Any, Callable[..., Tensor]] = {
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.log_softmax: _softmax,
    torch.log_softmax: _softmax,
    Tensor.log_softmax: _softmax,
    F.cross_entropy: _cross_entropy,
    F.rms_norm: _rms_norm,
}
