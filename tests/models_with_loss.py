"""Models that make their loss themselves, in the ways that people's do."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flops_fit.models import MLP

VOCAB = 16


class MLPWithLoss(MLP):
    def forward(self, x, y=None):
        prediction = super().forward(x)
        return prediction, None if y is None else F.mse_loss(prediction, y)


@dataclass
class GPTConfig:
    block_size: int = 8
    vocab_size: int = VOCAB
    n_layer: int = 1
    n_embd: int = 8


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.n_embd
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = self.mixed(self.norms[0](x)).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """A decoder with nanoGPT's interface: a config, and (logits, loss) of ids and targets."""

    def __init__(self, config):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.places = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, idx, targets=None):
        x = self.tokens(idx) + self.places(torch.arange(idx.shape[1], device=idx.device))
        logits = self.head(self.blocks(x))
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


class LossFirst(GPT):
    def forward(self, idx, y):
        return super().forward(idx, y)[::-1]


class OnlyLoss(GPT):
    def forward(self, idx, target):
        return super().forward(idx, target)[1]


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class ObjectWithLoss(GPT):
    def forward(self, input_ids, labels=None):
        return Output(*super().forward(input_ids, labels))


class DictWithLoss(GPT):
    def forward(self, input_ids, labels=None):
        logits, loss = super().forward(input_ids, labels)
        return {"logits": logits} if labels is None else {"loss": loss, "logits": logits}


class Shifting(GPT):
    """Compares each output with the label after it, as language models of transformers do."""

    def forward(self, input_ids, labels=None):
        logits = super().forward(input_ids, input_ids)[0]
        if labels is None:
            return {"logits": logits}
        ahead = labels[:, 1:].flatten()
        return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), ahead), "logits": logits}


def tokens(num_rows=600, length=9):
    """Counting sequences modulo VOCAB, (num_rows, length)."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, VOCAB, (num_rows, 1), generator=generator)
    pace = torch.randint(1, 4, (num_rows, 1), generator=generator)
    return (start + pace * torch.arange(length)) % VOCAB


def pairs():
    ids = tokens()
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
