"""Model families that ship with flops-fit: each scaled by one argument."""

from flops_fit.models.gpt import GPT
from flops_fit.models.mlp import MLP
from flops_fit.models.transformer import Transformer
from flops_fit.models.vit import ViT

__all__ = ["GPT", "MLP", "Transformer", "ViT"]
