"""Attention and normalization in as few passes over memory as torch's operations on a CPU allow.

Everywhere else torch's own fused kernels do this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST_BLOCK = 64
"""Queries of a block: shorter ones cost more in starting operations than they save."""

MOST_BLOCKS = 8
"""Of a sequence: 8 blocks compute 9/16 of all products of queries and keys, more save little."""


def block_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, causal) v of tensors (B, H, T, head_dim) on the CPU.

    A block of queries meets only the keys up to its own end, so that up to 7/16 of the products
    are never computed; the probabilities are kept for the backward pass.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    heads = [x.flatten(0, 1) for x in (q, k, v)]  # (B * H, T, head_dim) each
    y: Tensor = _BlockAttention.apply(*heads, scale)
    return y.view_as(q)


def _blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """The queries of each block, and the keys that they may see."""
    size = max(SHORTEST_BLOCK, -(-length // MOST_BLOCKS))
    for start in range(0, length, size):
        end = min(start + size, length)
        yield slice(start, end), slice(0, end)


class _BlockAttention(torch.autograd.Function):
    """Into memory that is there already wherever that can be: new memory costs half the time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        q = q * scale
        y = torch.empty_like(q)
        probabilities = []
        for rows, seen in _blocks(q.shape[1]):
            p = torch.bmm(q[:, rows], k[:, seen].mT)  # (B * H, rows, seen)
            p[:, :, rows] += _future(rows, p)
            torch.softmax(p, -1, out=p)
            torch.bmm(p, v[:, seen], out=y[:, rows])
            probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probabilities = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (rows, seen), p in zip(_blocks(q.shape[1]), probabilities, strict=True):
            dv[:, seen].baddbmm_(p.mT, dy[:, rows])
            ds = torch.bmm(dy[:, rows], v[:, seen].mT)  # (B * H, rows, seen)
            torch.ops.aten._softmax_backward_data.out(ds, p, -1, ds.dtype, grad_input=ds)
            torch.bmm(ds, k[:, seen], out=dq[:, rows])
            dk[:, seen].baddbmm_(ds.mT, q[:, rows])
        return dq.mul_(ctx.scale), dk, dv, None


def _future(rows: slice, like: Tensor) -> Tensor:
    """-inf where a key of the block comes after the query, else 0: (rows, rows)."""
    size = rows.stop - rows.start
    return torch.full((size, size), -math.inf, dtype=like.dtype).triu_(1)


def cpu_rms_norm(x: Tensor) -> Tensor:
    """What `F.rms_norm` computes along the last dimension of fp32 numbers, 2 to 5 times faster.

    Its backward pass is that of weight normalization, which divides rows by their lengths too.
    """
    rows = x.flatten(0, -2)
    y: Tensor = _RMSNorm.apply(rows)
    return y.view_as(x)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        width = rows.shape[-1]
        epsilon = width * torch.finfo(rows.dtype).eps  # that of F.rms_norm, of the sum of squares
        square = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_()  # (rows, 1)
        norm = square.add_(epsilon).sqrt_()
        length = torch.full_like(norm, math.sqrt(width))
        ctx.save_for_backward(rows, length, norm)
        y: Tensor = rows * (length / norm)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        rows, length, norm = ctx.saved_tensors
        backward = torch.ops.aten._weight_norm_interface_backward
        dx: Tensor = backward(dy.contiguous(), rows, length, norm, 0)[0]
        return dx
