"""Models as other people write them, each with data of its kind, for scripts/check_models.py.

None of them knows flops-fit. A function that makes a library's model from one size is what a user
would write in the place of a class; `needed` says what else was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from flops_fit.learning.losses import cross_entropy, own

VOCAB, CONTEXT, SAMPLES, CLASSES = 64, 16, 512, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def token_rows(length: int = CONTEXT + 1) -> Tensor:
    """(SAMPLES, length) ids, each the double of the one before and a little more."""
    rows = [torch.randint(VOCAB, (SAMPLES,), generator=generator())]
    for step in range(length - 1):
        noise = torch.randint(3, (SAMPLES,), generator=generator(step + 1))
        rows.append((2 * rows[-1] + noise) % VOCAB)
    return torch.stack(rows, 1)


def shifted() -> tuple[Tensor, Tensor]:
    rows = token_rows()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def labelled() -> dict[str, Tensor]:
    """As transformers wants them: the model itself moves labels on by one."""
    rows = token_rows()
    return {"input_ids": rows, "labels": rows.clone()}


def sequences() -> dict[str, Tensor]:
    rows = token_rows()
    return {"input_ids": rows, "labels": rows.flip(1).contiguous()}


def images() -> tuple[Tensor, Tensor]:
    labels = torch.arange(SAMPLES) % CLASSES
    patterns = torch.randn(CLASSES, 3, 16, 16, generator=generator())
    noise = torch.randn(SAMPLES, 3, 16, 16, generator=generator(1))
    return patterns[labels] + noise, labels


def bags() -> tuple[Tensor, Tensor]:
    labels = torch.arange(SAMPLES) % CLASSES
    rows = torch.randint(VOCAB // CLASSES, (SAMPLES, CONTEXT), generator=generator())
    return rows + labels[:, None] * (VOCAB // CLASSES), labels


def waves() -> tuple[Tensor, Tensor]:
    x = torch.randn(SAMPLES, 8, generator=generator())
    return x, torch.sin(x.sum(1, keepdim=True))


def graphs() -> dict[str, Tensor]:
    """Graphs of 4 to 10 nodes, padded to 10; the target is the mean of the first feature."""
    nodes = torch.randn(SAMPLES, 10, 8, generator=generator())
    mask = (torch.arange(10) < torch.randint(4, 11, (SAMPLES, 1), generator=generator(1))).float()
    edges = (torch.rand(SAMPLES, 10, 10, generator=generator(2)) < 0.3).float()
    adjacency = edges * mask[:, :, None] * mask[:, None, :]
    target = (nodes[..., 0] * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return {"nodes": nodes, "adjacency": adjacency, "mask": mask, "target": target}


def pairs() -> dict[str, Tensor]:
    x, y = waves()
    return {"left": x[:, :4].contiguous(), "right": x[:, 4:].contiguous(), "target": y}


class CausalAttention(nn.Module):
    def __init__(self, width: int, heads: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        assert width % heads == 0, "width must be a multiple of heads"
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention, self.drop = CausalAttention(width, dropout=dropout), nn.Dropout(dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norms[0](x)))
        return x + self.drop(self.mlp(self.norms[1](x)))


class Decoder(nn.Module):
    """Logits of the next token; what others below change a little."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList([Block(width, dropout) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCAB, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def embedded(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedded(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@dataclass
class GPTConfig:
    n_embd: int = 32
    n_layer: int = 2
    dropout: float = 0.0


class NanoGPT(nn.Module):
    """The interface of nanoGPT's GPT: a config object, and (logits, loss) of forward(idx, targets);
    without targets it gives the last position's logits."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config.n_embd, config.dropout)
        self.decoder.head.weight = self.decoder.tokens.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.decoder(idx)
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def nanogpt(n_embd: int) -> nn.Module:
    return NanoGPT(GPTConfig(n_embd=n_embd))


def gpt2(n_embd: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_embd": n_embd, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, **shape))


def llama(hidden_size: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * hidden_size}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, hidden_size=hidden_size, **shape))


def t5(d_model: int) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"d_kv": d_model // 2, "d_ff": 2 * d_model, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=VOCAB, d_model=d_model, decoder_start_token_id=0, **shape)
    return T5ForConditionalGeneration(config)


def x_transformers(dim: int) -> nn.Module:
    from x_transformers import Decoder as Layers
    from x_transformers import TransformerWrapper

    layers = Layers(dim=dim, depth=2, heads=2, attn_dim_head=dim // 2)
    return TransformerWrapper(num_tokens=VOCAB, max_seq_len=CONTEXT, attn_layers=layers)


def timm_library() -> Any:
    """With operators of torchvision declared where its build is for another torch, with CUDA, than
    is here: importing it asks for their names, and neither model here uses them."""
    try:
        import timm
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        timm_library.kept = library  # type: ignore[attr-defined]
        import timm
    return timm


def timm_vit(embed_dim: int) -> nn.Module:
    shape = {"img_size": 16, "patch_size": 4, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    vit = timm_library().models.VisionTransformer
    return vit(embed_dim=embed_dim, **shape)


def timm_convnext(width: int) -> nn.Module:
    convnext = timm_library().models.ConvNeXt
    shape = {"depths": (1, 1, 1, 1), "dims": (width, width, 2 * width, 2 * width), "patch_size": 1}
    return convnext(num_classes=CLASSES, **shape)


class Lstm(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0])


class StatefulGru(nn.Module):
    """Keeps its last state and begins the next batch of as many rows with it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, VOCAB)
        self.state: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        known = self.state is not None and self.state.shape[1] == len(ids)
        output, state = self.gru(self.embedding(ids), self.state if known else None)
        self.state = state.detach()
        return self.head(output)


class GraphNet(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, nodes: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        degree = adjacency.sum(-1, keepdim=True).clamp(min=1)
        x = F.relu(self.first(nodes))
        x = x + F.relu(self.second(adjacency @ x / degree))
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(pooled)


class MixtureOfExperts(nn.Module):
    """The best of four experts for each token, and a loss that spreads tokens over them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decoder, self.router = Decoder(width), nn.Linear(width, 4)
        self.experts = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.decoder.embedded(ids)
        shares = self.router(x).softmax(-1)  # (B, T, 4)
        weight, chosen = shares.max(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], -2)  # (B, T, 4, width)
        places = chosen[..., None, None].expand(*chosen.shape, 1, x.shape[-1])
        x = x + weight[..., None] * outputs.gather(-2, places).squeeze(-2)
        for block in self.decoder.blocks:
            x = block(x)
        logits = self.decoder.head(self.decoder.norm(x))
        used = F.one_hot(chosen, 4).float().mean((0, 1))
        balance = 4 * (used * shares.mean((0, 1))).sum()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss + 0.01 * balance


class Denoiser(nn.Module):
    """A diffusion step: draws times and noise itself and gives the loss of predicting the noise."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(9, hidden), nn.SiLU(), nn.Linear(hidden, 8))

    def forward(self, x: Tensor) -> Tensor:
        time = torch.rand(len(x), 1, device=x.device)
        noise = torch.randn_like(x)
        noisy = (1 - time).sqrt() * x + time.sqrt() * noise
        return F.mse_loss(self.net(torch.cat([noisy, time], 1)), noise)


class Bag(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(VOCAB, dim), nn.Linear(dim, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


class NormedCnn(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class CachesTables(Decoder):
    """Makes its table of places when it first meets a length, and keeps it."""

    def embedded(self, ids: Tensor) -> Tensor:
        length, width = ids.shape[1], self.tokens.embedding_dim
        if getattr(self, "table", None) is None or len(self.table) < length:
            angles = torch.arange(length)[:, None] / 100 ** (torch.arange(width) / width)
            self.register_buffer("table", angles.sin().to(ids.device), persistent=False)
        return self.tokens(ids) + self.table[:length]


class Tied(Decoder):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.head.weight = self.tokens.weight


class WeightNormed(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            weight_norm(nn.Linear(8, hidden)), nn.Tanh(), weight_norm(nn.Linear(hidden, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Lazy(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(hidden), nn.ReLU(), nn.LazyLinear(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Dropping(Decoder):
    def __init__(self, width: int) -> None:
        super().__init__(width, dropout=0.1)


class Checkpointed(Decoder):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedded(ids)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(self.norm(x))


class GivesDict(Decoder):
    def forward(self, ids: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(ids), "length": torch.tensor(ids.shape[1])}


def loss_of_logits(output: Mapping[str, Tensor], target: Tensor) -> Tensor:
    return cross_entropy(output["logits"], target)


class TwoInputs(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, hidden), nn.Linear(4, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(left) + self.right(right)))


@dataclass(frozen=True)
class Other:
    """A model of others: what makes one size of it, its data, its loss, and what it needed."""

    about: str
    make: Callable[..., nn.Module]
    data: Callable[[], Any]
    loss: Callable[..., Tensor]
    needed: str = ""
    sizes: tuple[int, int] = (16, 32)
    package: str | None = None  # that must be installed
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_name(self) -> str:
        return next(iter(inspect.signature(self.make).parameters))

    @property
    def wrapper_lines(self) -> int:
        """Of the function that makes the model; none where its class is given as it is."""
        if inspect.isclass(self.make):
            return 0
        return len([line for line in inspect.getsource(self.make).splitlines() if line.strip()])


OWN = "`loss=own`"
MODELS = {
    "nanogpt": Other("nanoGPT's interface: (logits, loss)", nanogpt, shifted, own, OWN),
    "gpt2": Other("GPT2LMHeadModel", gpt2, labelled, own, OWN, package="transformers"),
    "llama": Other("LlamaForCausalLM", llama, labelled, own, OWN, package="transformers"),
    "t5": Other("T5ForConditionalGeneration", t5, sequences, own, OWN, package="transformers"),
    "x_transformers": Other(
        "x-transformers' TransformerWrapper", x_transformers, shifted, cross_entropy,
        package="x_transformers",
    ),
    "timm_vit": Other("timm's VisionTransformer", timm_vit, images, cross_entropy, package="timm"),
    "timm_convnext": Other("timm's ConvNeXt", timm_convnext, images, cross_entropy, package="timm",
                           sizes=(8, 16)),
    "lstm": Other("an LSTM", Lstm, shifted, cross_entropy),
    "gru": Other("a GRU that keeps its state", StatefulGru, shifted, cross_entropy),
    "gnn": Other("a GNN on padded graphs", GraphNet, graphs, F.mse_loss,
                 "a dict of tensors with `target`"),
    "moe": Other("experts with an auxiliary loss", MixtureOfExperts, shifted, own, OWN),
    "diffusion": Other("a diffusion step, its own loss", Denoiser, lambda: waves()[0], own, OWN),
    "embedding_bag": Other("EmbeddingBag", Bag, bags, cross_entropy),
    "batch_norm": Other("a CNN with BatchNorm", NormedCnn, images, cross_entropy, sizes=(8, 16)),
    "cache": Other("buffers made in forward", CachesTables, shifted, cross_entropy),
    "tied": Other("tied embeddings", Tied, shifted, cross_entropy),
    "weight_norm": Other("weight norm", WeightNormed, waves, F.mse_loss),
    "lazy": Other("lazy layers", Lazy, waves, F.mse_loss),
    "dropout": Other("dropout", Dropping, shifted, cross_entropy),
    "checkpointing": Other("gradient checkpointing", Checkpointed, shifted, cross_entropy),
    "dict_output": Other("a dict as output", GivesDict, shifted, loss_of_logits,
                         "a loss of two lines that takes the logits out"),
    "two_inputs": Other("two inputs", TwoInputs, pairs, F.mse_loss,
                        "a dict of tensors with `target`"),
}  # fmt: skip
"""By name, in the order of the table."""
