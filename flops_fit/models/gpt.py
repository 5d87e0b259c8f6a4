"""A decoder-only transformer of the shapes that people scale: one dial, its depth."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN
from flops_fit.models.transformer import (
    RELU2,
    Block,
    Decoder,
    FeedForward,
    causal_attention,
    rms_norm,
)

EMBEDDING_LR_SCALE = 8.0
"""Factor on the learning rate for the embedding, at every size: that of `Transformer`, whose rates
are meant literally at a sixteenth of the width."""

GATED_MULTIPLE = 64
"""A gated hidden layer is a multiple of this: what tensor cores work with."""


class GPT(Decoder):
    """`depth` layers of width `width_per_layer` x depth, in heads of `head_dim`.

    Rotary positions, queries and keys that are normalized, `mlp` relu2 (squared ReLU, 4 x width)
    or swiglu (Shazeer 2020, 8/3 x width, about as many weights). `width` sets the width by itself.
    One learning rate serves all sizes, see `param_groups`; it is meant literally at `base_width`.
    What a layer adds is scaled by sqrt(base_depth / depth) (Yang et al. 2023, "Tensor Programs
    VI"), so that a rate holds over depth too: from 2 to 16 layers one was within 0.3% of the best
    loss of each; within 1.6% without a scale, 2.3% with base_depth / depth. Muon's 0.02 is the best
    of 0.01, 0.02, 0.04 at depths 2 to 8, or within 0.1% of it.
    """

    embedding_lr_scale = EMBEDDING_LR_SCALE

    def __init__(
        self,
        depth: int,
        vocab_size: int,
        context_length: int,
        width_per_layer: int = 64,
        head_dim: int = 64,
        mlp: str = "relu2",
        width: int | None = None,
        base_width: int = 256,
        base_depth: int = 4,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}: a GPT needs at least one layer")
        if mlp not in FEED_FORWARD:
            raise ValueError(f"mlp is {mlp!r}: use {' or '.join(FEED_FORWARD)}")
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"head_dim is {head_dim}: rotary positions need an even one from 2 on")
        width = width_per_layer * depth if width is None else width
        if width < head_dim or width % head_dim:
            raise ValueError(
                f"width {width} of depth {depth} can't be cut into heads of {head_dim}: use "
                f"depths that make it a multiple of {head_dim}, or another head_dim"
            )
        super().__init__(
            width,
            vocab_size,
            context_length,
            depth,
            head_dim,
            base_width,
            lambda: Block(
                width,
                width // head_dim,
                head_dim**-0.5,
                causal_attention,
                FEED_FORWARD[mlp],
                rms_norm,
                math.sqrt(base_depth / depth),
            ),
        )
        self.width = width

    def flops_per_token(self) -> float:
        """To train on a token of a sequence of context_length, forward and backward.

        Every weight of N meets every token; all heads of a layer together multiply each query with
        context_length keys, and as many values, of `width` numbers, as if nothing were masked.
        Training does as much for a product of activations as for one with a weight.
        """
        of_attention = 2 * len(self.blocks) * self.context_length * self.width
        return FLOPS_PER_PARAM_PER_TOKEN * (self.num_params() + of_attention)


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) value, of their two halves: (..., 2 hidden) -> (..., hidden)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def gated_features(width: int) -> int:
    """Hidden numbers with which 3 matrices have about the weights of 2 at 4 x width."""
    return GATED_MULTIPLE * max(1, round(8 * width / (3 * GATED_MULTIPLE)))


SWIGLU = FeedForward(swiglu, lambda width: 2 * gated_features(width), gated_features)

FEED_FORWARD = {"relu2": RELU2, "swiglu": SWIGLU}
