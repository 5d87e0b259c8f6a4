"""Model families that ship with flops-fit: each scaled by its `width`."""

from flops_fit.models.mlp import MLP
from flops_fit.models.transformer import Transformer
from flops_fit.models.vit import ViT

__all__ = ["MLP", "Transformer", "ViT"]
