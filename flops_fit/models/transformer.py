"""A small decoder-only transformer for token ids, and the parts that other models have from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flops_fit.models.cpu_kernels import block_attention, cpu_rms_norm
from flops_fit.models.stacking import computed_together, transforms

MLP_RATIO = 4
"""Width of the feed-forward layer over the model's width."""

LONGEST_EXPLICIT_CONTEXT = 2048
"""Tokens up to which attention may be written out on a CPU, where it keeps B H T^2 / 2 numbers of
every layer for the backward pass; the fused kernel keeps none of them."""

ROTARY_BASE = 1000.0
"""Tokens, over 2 pi, that the slowest rotation of queries and keys takes for a turn. Su et al. 2021
take 10,000; contexts here are of hundreds of tokens."""

EMBEDDING_LR_SCALE = 0.5
"""Factor on the learning rate for the embedding, at every width."""

RMS_EPSILON = torch.finfo(torch.float32).eps
"""Added to the mean square, as `F.rms_norm` does for fp32."""


Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every position's angles, (T, 1, 1, head_dim / 2) each."""

Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries, keys, values, all (B, H, T, head_dim), and the scale of q k^T -> (B, H, T, head_dim)."""


class Decoder(nn.Module):
    """What language models share: embedding, blocks, norm and an untied head, without biases.

    `block` makes a layer, which starts as the identity; the head starts at zero, so training starts
    at uniform predictions: ln(vocab_size) nats per token at every size. `base_width` is the width
    at which the learning rate is meant literally, see `param_groups`.
    """

    embedding_lr_scale = EMBEDDING_LR_SCALE

    def __init__(
        self,
        width: int,
        vocab_size: int,
        context_length: int,
        depth: int,
        head_dim: int,
        base_width: int,
        block: Callable[[], Block],
    ) -> None:
        super().__init__()
        self.lr_scale = base_width / width
        self.context_length = context_length
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.head = nn.Linear(width, vocab_size, bias=False)
        nn.init.zeros_(self.head.weight)
        angles = rotary_angles(context_length, head_dim, torch.get_default_device())
        cos, sin = rotation_by(angles)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    cos: Tensor
    sin: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, vocab_size), T up to context_length."""
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(
                f"{length} tokens in a sequence, the model's context_length is "
                f"{self.context_length}: shorten the sequences or raise context_length"
            )
        x = as_stream(self.embedding(tokens))  # (B, T, width)
        rotation = as_stream(self.cos[:length]), as_stream(self.sin[:length])
        for block in self.blocks:
            x = block(x, rotation)
        logits: Tensor = self.head(rms_norm(x))  # (B, T, vocab_size)
        return logits

    def use_attention_kernel(self, name: str) -> None:
        """On a CPU, from now on: `blocks` or `fused`."""
        set_attention(self.blocks, CAUSAL_ATTENTION[name])

    def regions(self) -> Iterable[nn.Module]:
        """The modules that compute alike and hold most of the work: compiled in place, one by one,
        they share one compiled program, which takes as long to make as that of a single layer."""
        return self.blocks

    def matrices(self) -> list[nn.Parameter]:
        """The hidden weight matrices, head left out."""
        return [p for block in self.blocks for p in block.parameters()]

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups with the `lr_scale` by which one Adam learning rate serves all widths.

        Maximal update parametrization (Yang et al. 2022, table 8): hidden matrices and head take
        base_width / width, the embedding `embedding_lr_scale` at every width.
        """
        embedding = [self.embedding.weight]
        return [
            {"params": embedding, "lr_scale": self.embedding_lr_scale, "matrix": False},
            {"params": self.matrices(), "lr_scale": self.lr_scale, "matrix": True},
            {"params": [self.head.weight], "lr_scale": self.lr_scale, "matrix": False},
        ]

    def num_params(self) -> int:
        """N of the law: weights that multiply activations, head included, embeddings not."""
        return sum(p.numel() for p in (*self.matrices(), self.head.weight))


class Transformer(Decoder):
    """Pre-norm decoder: rotary positions, parameter-free RMSNorm, squared ReLU.

    `width` scales the family; `base_width` is the width at which the learning rate is meant
    literally, see `param_groups`. q k^T is scaled by 1 / head_dim, so that it keeps its size as the
    width grows, and by 1 / sqrt(head_dim) at `base_width` (Yang et al. 2022, definition 4.1).
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        context_length: int,
        depth: int = 2,
        num_heads: int = 2,
        base_width: int = 16,
    ) -> None:
        if width % (2 * num_heads):
            raise ValueError(
                f"width {width} can't be shared by {num_heads} heads of an even dimension: "
                f"use multiples of {2 * num_heads}"
            )
        query_scale = math.sqrt(base_width / num_heads) / (width // num_heads)
        super().__init__(
            width,
            vocab_size,
            context_length,
            depth,
            width // num_heads,
            base_width,
            lambda: Block(width, num_heads, query_scale, causal_attention),
        )


class FeedForward(NamedTuple):
    """What a block does at every position: `activation` of one product, then another product."""

    activation: Callable[[Tensor], Tensor]
    """(..., up_features) -> (..., down_features)."""

    up_features: Callable[[int], int]
    down_features: Callable[[int], int]
    """The model's width -> width of the hidden layer before and after the activation."""


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to the residual stream.

    `query_scale` is that of q k^T, `of_heads` what is done to every head of queries and keys before
    they are turned, `residual_scale` the factor on what is added.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        query_scale: float,
        attention: Attention,
        feed_forward: FeedForward | None = None,
        of_heads: Callable[[Tensor], Tensor] | None = None,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        feed_forward = feed_forward or RELU2
        self.num_heads = num_heads
        self.query_scale = query_scale
        self.attention = attention
        self.activation = feed_forward.activation
        self.of_heads = of_heads
        self.residual_scale = residual_scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, feed_forward.up_features(width), bias=False)
        self.down = nn.Linear(feed_forward.down_features(width), width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows of unit length in, zeros out: a fresh block is the identity."""
        for layer in (self.qkv, self.up):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        for layer in (self.attention_out, self.down):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        x = x + self.scaled(self.attention_out(self.attend(rms_norm(x), rotation)))
        hidden = self.activation(self.up(rms_norm(x)))  # (B, T, down_features)
        y: Tensor = x + self.scaled(self.down(hidden))
        return y

    def scaled(self, branch: Tensor) -> Tensor:
        """What is to be added, times `residual_scale`."""
        return branch if self.residual_scale == 1 else branch * self.residual_scale

    def attend(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Multi-head self-attention: (B, T, width) -> (B, T, width)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, H, head_dim)
        qk, v = torch.split(qkv, [2, 1], dim=2)
        if self.of_heads is not None:
            qk = self.of_heads(qk)
        q, k = rotated(qk, rotation).permute(2, 0, 3, 1, 4)  # (B, H, T, head_dim) each
        v = v.squeeze(2).transpose(1, 2)  # (B, H, T, head_dim)
        y = self.attention(q, k, v, self.query_scale)  # (B, H, T, head_dim)
        return y.transpose(1, 2).flatten(2)


def rotation_by(angles: Tensor) -> Rotation:
    """The rotation of positions with the given angles (T, head_dim / 2)."""
    angles = angles[:, None, None]  # (T, 1, 1, head_dim / 2)
    return angles.cos(), angles.sin()


def rotary_angles(length: int, head_dim: int, device: torch.device) -> Tensor:
    """Position times frequency (length, head_dim / 2), frequencies falling from 1 geometrically
    to about 1 / ROTARY_BASE (Su et al. 2021, section 3.2)."""
    powers = torch.arange(0, head_dim, 2, device=device) / head_dim  # (head_dim / 2,)
    return torch.arange(length, device=device)[:, None] * ROTARY_BASE**-powers


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Each pair (x_i, x_{i + head_dim / 2}) turned by its position's angle, in every head of
    queries and keys: (B, T, 2, H, head_dim)."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)  # (B, T, 2, H, head_dim / 2) each
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def in_bf16_on_cuda(x: Tensor) -> bool:
    """Whether products of x are made in bf16 on a CUDA device, by autocast."""
    return (
        x.is_cuda
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
    )


def as_stream(x: Tensor) -> Tensor:
    """x as the residual stream and what meets it are kept: in bf16 where products are, on CUDA.

    Half of the memory traffic between products. fp16 would overflow, and on a CPU it gains nothing.
    """
    return x.bfloat16() if in_bf16_on_cuda(x) else x


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2 in the type of x: autocast would make fp32 of it on CUDA (`pow`)."""
    if in_bf16_on_cuda(x):
        with torch.autocast(x.device.type, enabled=False):
            return x.relu().square()
    return x.relu().square()


RELU2 = FeedForward(squared_relu, lambda width: MLP_RATIO * width, lambda width: MLP_RATIO * width)


def rms_norm(x: Tensor) -> Tensor:
    """x over its root mean square along the last dimension, without parameters, in the type of x.

    Sums are in fp32. Autocast takes part from torch 2.12 on and would make fp32 of the result.
    """
    compiling, around = torch.compiler.is_compiling(), transforms()
    if around.only_vmap:
        return computed_together(rms_norm, x)
    if around.any or (compiling and not x.is_cpu):
        return written_out_rms_norm(x)
    if x.is_cpu and x.dtype == torch.float32 and not compiling:
        return cpu_rms_norm(x)
    if in_bf16_on_cuda(x):
        with torch.autocast(x.device.type, enabled=False):
            return F.rms_norm(x, (x.shape[-1],), eps=RMS_EPSILON)
    return F.rms_norm(x, (x.shape[-1],))


def written_out_rms_norm(x: Tensor) -> Tensor:
    """`rms_norm` in operations that torch.compile makes one kernel of, and that vmap knows."""
    y = x if x.dtype == torch.float64 else x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + RMS_EPSILON)).type_as(x)


def set_attention(blocks: Iterable[nn.Module], attention: Attention) -> None:
    """Let each of the blocks attend so."""
    for block in blocks:
        assert isinstance(block, Block)
        block.attention = attention


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, causal) v, all (B, H, T, head_dim); in blocks on a CPU."""
    if transforms().only_vmap:
        return attention_together(causal_attention, q, k, v, scale)
    if is_short_on_cpu(q) and not (torch.compiler.is_compiling() or transforms().any):
        return block_attention(q, k, v, scale)
    return fused_causal_attention(q, k, v, scale)


def fused_causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`causal_attention` by torch's own kernel.

    Written out on the meta device, where FLOP counters count just what they see, on a CPU under
    transforms that torch's kernel isn't made for, and for torch.compile, which makes its own.
    """
    compiling, around = torch.compiler.is_compiling(), transforms()
    if around.only_vmap:
        return attention_together(fused_causal_attention, q, k, v, scale)
    if q.is_meta or (is_short_on_cpu(q) and compiling) or (q.is_cpu and around.any):
        return written_out_attention(q, k, v, scale)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


CAUSAL_ATTENTION = {"blocks": causal_attention, "fused": fused_causal_attention}


def attention_together(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> Tensor:
    """The attention of models that vmap has stacked, see `computed_together`."""
    return computed_together(lambda q, k, v: attention(q, k, v, scale), q, k, v)


def is_short_on_cpu(q: Tensor) -> bool:
    """Whether attention of these queries (B, H, T, head_dim) may be written out."""
    return q.is_cpu and q.shape[2] <= LONGEST_EXPLICIT_CONTEXT


def written_out_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`causal_attention` with all T^2 products of queries and keys."""
    length = q.shape[2]
    future = torch.full((length, length), -math.inf, dtype=q.dtype, device=q.device).triu_(1)
    scores = (q * scale) @ k.mT + future  # (B, H, T, T)
    return scores.softmax(-1) @ v
