"""Kernels: choices that make a training step faster and leave what it computes as it is.

A `KernelPlan` names them, `in_force` multiplies by it, `plans_for` lists those that a device and a
precision offer. Which one is fastest depends on the machine: see
`flops_fit.training.kernel_choice`.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from flops_fit.errors import ConfigError

MATMUL = {
    "default": {},
    "onednn": {"mkldnn.matmul": "bf16"},
    "tf32": {"cuda.matmul": "tf32", "cudnn.conv": "tf32"},
}
"""Way of multiplying fp32 matrices -> `fp32_precision` of the parts of torch.backends.

onednn: on a CPU torch gives fp32 products to its BLAS (MKL, which knows AMD's processors badly)
unless it may round to bf16, and then to oneDNN, which rounds only where the processor has matrix
units for bf16 (AMX): `product_error` tells. tf32: on CUDA, 10 bits of mantissa instead of 23.
"""

ATTENTION = ("blocks", "fused")
"""Ways of attention on a CPU, of the models that have both (`ChoosesAttention`): written out, in
blocks of queries where it is causal, or torch's fused kernel. Elsewhere it is always the fused."""

PRODUCT_SIZE = 256
"""Rows and columns of the matrices whose product tells a kernel's accuracy."""

EXACT_ERROR = 1e-6
"""Largest relative error of an fp32 product (`product_error`): 2e-7 to 3e-7 were measured where
nothing is rounded, rounding the factors costs 2e-4 (tf32) to 2e-3 (bf16)."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEPT_BYTES = 2**30
"""Freed memory that stays with the process, in all and as one piece."""


@dataclass(frozen=True)
class KernelPlan:
    """One of `MATMUL` and one of `ATTENTION`. Raises `ConfigError` for others."""

    matmul: str = "default"
    attention: str = "blocks"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("matmul", self.matmul, MATMUL),
            ("attention", self.attention, ATTENTION),
        ):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}: use one of {', '.join(known)}")

    def to_json(self) -> dict[str, str]:
        return {"matmul": self.matmul, "attention": self.attention}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KernelPlan:
        """Raises `ConfigError` for anything that `to_json` doesn't give."""
        try:
            return cls(**data)
        except TypeError as error:
            raise ConfigError(f"{data!r} is no plan of kernels: {error}") from error


DEFAULT = KernelPlan()


@contextmanager
def in_force(plan: KernelPlan) -> Iterator[None]:
    """Multiply fp32 matrices by the plan, in this process, until the end.

    `default` products are those that torch has been set to, by whomever.
    """
    with ExitStack() as stack:
        for name, precision in MATMUL[plan.matmul].items():
            stack.enter_context(_fp32_precision(name, precision))
        yield


@contextmanager
def _fp32_precision(name: str, precision: str) -> Iterator[None]:
    switch = attrgetter(name)(torch.backends)
    before = switch.fp32_precision
    switch.fp32_precision = precision
    try:
        yield
    finally:
        switch.fp32_precision = before


def plans_for(device: torch.device, precision: str) -> tuple[KernelPlan, ...]:
    """Plans that may be fastest there, none less exact than what torch has been set to.

    The first is for where nothing is tried.
    """
    if device.type != "cpu":
        return (KernelPlan(attention="fused"),)
    plans = [DEFAULT, KernelPlan(attention="fused")]
    if precision == "fp32":  # the fused kernel's many small products are no match for oneDNN
        plans.append(KernelPlan("onednn"))
    allowed = max(EXACT_ERROR, product_error(DEFAULT))
    return tuple(plan for plan in plans if product_error(plan) <= allowed)


def product_error(plan: KernelPlan, device: torch.device | str = "cpu") -> float:
    """The error of one fp32 product of normal matrices: its norm over that of the product."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, PRODUCT_SIZE, PRODUCT_SIZE, generator=generator)
    exact = a.double() @ b.double()
    with in_force(plan):
        product = a.to(device) @ b.to(device)
    return float((product.cpu().double() - exact).norm() / exact.norm())


def keep_freed_memory() -> None:
    """Let this process keep memory that tensors gave back, for the next step's tensors.

    Otherwise glibc returns much of it after each step, and every page that is touched again costs
    a page fault. Nothing happens with other C libraries.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        libc.mallopt(threshold, KEPT_BYTES)
