"""A small vision transformer that classifies images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flops_fit.models.stacking import transforms
from flops_fit.models.transformer import (
    Block,
    Rotation,
    as_stream,
    attention_together,
    is_short_on_cpu,
    rms_norm,
    rotary_angles,
    rotation_by,
    set_attention,
)


class ViT(nn.Module):
    """Square images (B, channels, image_size, image_size) in, logits (B, num_classes) out.

    Patches of `patch_size` by `patch_size` pixels are the tokens. The blocks are the
    `Transformer`'s, with attention both ways and rotary positions in two dimensions; the mean over
    patches goes to the head, without a class token (Beyer et al. 2022). No biases. Training starts
    at uniform predictions: ln(num_classes) nats per image at every width. `width` scales the
    family; `base_width` is the width at which the learning rate is meant literally, see
    `param_groups`.
    """

    def __init__(
        self,
        width: int,
        image_size: int,
        patch_size: int,
        channels: int,
        num_classes: int,
        depth: int = 2,
        num_heads: int = 2,
        base_width: int = 16,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"images of {image_size} x {image_size} pixels can't be cut into patches of "
                f"{patch_size} x {patch_size}: use a patch_size that divides {image_size}"
            )
        if width % (2 * num_heads) or width < 4 * num_heads:
            raise ValueError(
                f"width {width} can't be shared by {num_heads} heads of an even dimension, at "
                f"least 4: use multiples of {2 * num_heads} from {4 * num_heads} on"
            )
        self.image_shape = (channels, image_size, image_size)
        self.patch_size = patch_size
        patch_values = channels * patch_size**2
        self.lr_scale = base_width / width
        self.patch_lr_scale = base_width / patch_values
        self.embedding = nn.Linear(patch_values, width, bias=False)
        nn.init.normal_(self.embedding.weight, std=patch_values**-0.5)
        query_scale = math.sqrt(base_width / num_heads) / (width // num_heads)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, query_scale, full_attention) for _ in range(depth)
        )
        self.head = nn.Linear(width, num_classes, bias=False)
        nn.init.zeros_(self.head.weight)
        cos, sin = grid_rotation(image_size // patch_size, width // num_heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    cos: Tensor
    sin: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, image_size, image_size) -> logits (B, num_classes)."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images of shape {tuple(images.shape[1:])}, the model is made for "
                f"{self.image_shape}: set its channels and image_size to those of the data"
            )
        x = as_stream(self.embedding(patches(images, self.patch_size)))  # (B, T, width)
        rotation = as_stream(self.cos), as_stream(self.sin)
        for block in self.blocks:
            x = block(x, rotation)
        logits: Tensor = self.head(rms_norm(x).mean(1))  # (B, num_classes)
        return logits

    def use_attention_kernel(self, name: str) -> None:
        """On a CPU, from now on: `blocks`, here a single one, or `fused`."""
        set_attention(self.blocks, FULL_ATTENTION[name])

    def regions(self) -> Iterable[nn.Module]:
        """The modules that compute alike, see `Transformer.regions`."""
        return self.blocks

    def matrices(self) -> list[nn.Parameter]:
        """The hidden weight matrices, patch embedding and head left out."""
        return [p for block in self.blocks for p in block.parameters()]

    def num_params(self) -> int:
        """N of the law: all weights, patch embedding and head included.

        All multiply activations. The head does so once for an image and the embedding's input
        needs no gradient, so 6 N is above the FLOPs of a token: count them.
        """
        return sum(p.numel() for p in self.parameters())

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups with the `lr_scale` by which one Adam learning rate serves all widths.

        Maximal update parametrization (Yang et al. 2022, table 8): every matrix takes base_width
        over its fan-in, which for the patch embedding is the same at every width.
        """
        embedding = [self.embedding.weight]
        return [
            {"params": embedding, "lr_scale": self.patch_lr_scale, "matrix": False},
            {"params": self.matrices(), "lr_scale": self.lr_scale, "matrix": True},
            {"params": [self.head.weight], "lr_scale": self.lr_scale, "matrix": False},
        ]


def patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, H W / patch_size^2, C patch_size^2), row by row."""
    return F.pixel_unshuffle(images, patch_size).flatten(2).transpose(1, 2)


def grid_rotation(side: int, head_dim: int) -> Rotation:
    """Angles of side x side patches: half of the pairs, or one more, turn with a patch's row, the
    others with its column (Heo et al. 2024, section 3.2).
    """
    column_pairs = head_dim // 4
    row_pairs = head_dim // 2 - column_pairs
    device = torch.get_default_device()
    rows = rotary_angles(side, 2 * row_pairs, device)[:, None].expand(side, side, -1)
    columns = rotary_angles(side, 2 * column_pairs, device)[None].expand(side, side, -1)
    return rotation_by(torch.cat((rows, columns), dim=-1).flatten(0, 1))


def full_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v, all (B, H, T, head_dim); written out on a CPU."""
    if not is_short_on_cpu(q):
        return fused_full_attention(q, k, v, scale)
    return written_out_full_attention(q, k, v, scale)


def fused_full_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`full_attention` by torch's own kernel; written out on meta, for FLOP counters, and on a CPU
    under vmap."""
    around = transforms()
    if around.only_vmap:
        return attention_together(fused_full_attention, q, k, v, scale)
    if q.is_meta or (q.is_cpu and around.any):
        return written_out_full_attention(q, k, v, scale)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


FULL_ATTENTION = {"blocks": full_attention, "fused": fused_full_attention}


def written_out_full_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`full_attention` with all T^2 products of queries and keys."""
    scores = (q * scale) @ k.mT  # (B, H, T, T)
    return scores.softmax(-1) @ v
