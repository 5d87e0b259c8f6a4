"""What `bench_engine.py` lets train the same work: our engine, loops by hand, other frameworks.

Each contender trains a `Work` from the same weights on the same batches at the same rates, and
returns the loss of the trained model on the same held-out batch.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import contextlib
import io
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from flops_fit.datasets import Toy
from flops_fit.datasets.adapters import as_source
from flops_fit.datasets.source import Source
from flops_fit.learning.losses import cross_entropy, mse
from flops_fit.learning.schedules import Cosine, progress_of
from flops_fit.models import MLP, Transformer
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.sweep import Sweep
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.family import SizeSpec
from flops_fit.training.kernel_choice import kernels_of_study
from flops_fit.training.kernels import KernelPlan, in_force
from flops_fit.training.recipe import ChoosesAttention, Recipe, param_groups
from flops_fit.training.spec import StudySpec, plan_study
from flops_fit.training.state import seeded
from flops_fit.training.trainer import train

VOCAB_SIZE = 256
TOKEN_SAMPLES = 4096
BUDGET = 1e12  # FLOPs, of the plan that a work is taken from; its steps are set afterwards
BETAS = (0.9, 0.95)
ITEM_STEPS = 100
"""Steps between looks at the loss in the loop of someone who knows that each may wait."""


@dataclass(frozen=True)
class Outcome:
    """What a contender did; `seconds` are CPU seconds of its process, all threads together."""

    seconds: float
    num_steps: int
    num_tokens: int
    loss: float


@dataclass(frozen=True)
class Work:
    """One run: a shape of the transformer, or an MLP where `depth` is 0, for `num_steps`."""

    width: int
    depth: int
    num_heads: int
    context_length: int
    batch_size: int
    num_steps: int
    lr: float

    @property
    def is_text(self) -> bool:
        return self.depth > 0

    @property
    def factory(self) -> Callable[..., nn.Module]:
        if not self.is_text:
            return partial(MLP, in_features=8)
        shape = {"depth": self.depth, "num_heads": self.num_heads}
        return partial(
            Transformer, vocab_size=VOCAB_SIZE, context_length=self.context_length, **shape
        )

    @property
    def source(self) -> Source:
        return tokens_source(self.context_length) if self.is_text else Toy(noise=0.3)

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return cross_entropy if self.is_text else mse

    def planned(self, precision: str = "fp32") -> tuple[Experiment, Recipe]:
        """As a study plans it."""
        spec = StudySpec(
            factory=self.factory,
            size=SizeSpec("width"),
            source=self.source,
            loss=self.loss,
            optimizer=partial(
                torch.optim.AdamW, lr=self.lr, betas=BETAS, weight_decay=0.0, fused=True
            ),
            schedule=Cosine(),
            sweep=Sweep(
                budgets=(BUDGET,),
                batch_size=self.batch_size,
                sizes=(self.width,),
                min_steps=1,
                max_epochs=1e9,
            ),
            identity={},
            device="cpu",
            precision=precision,
            held_out_samples=self.batch_size,
        )
        with tempfile.TemporaryDirectory() as folder:
            plan, recipe = plan_study(spec, StudyFolder(Path(folder)))
        return replace(plan.experiments[0], num_steps=self.num_steps), recipe


def tokens_source(context_length: int) -> Source:
    """A walk through the vocabulary that a model can learn: 8 of 256 tokens may come next."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(8, (TOKEN_SAMPLES, context_length + 1), generator=generator)
    tokens = [torch.randint(VOCAB_SIZE, (TOKEN_SAMPLES,), generator=generator)]
    for i in range(context_length):
        tokens.append((3 * tokens[-1] + steps[:, i]) % VOCAB_SIZE)
    stream = torch.stack(tokens, dim=1)
    pair = stream[:, :-1].contiguous(), stream[:, 1:].contiguous()
    return as_source(pair, tokens_per_sample=context_length)


@dataclass(frozen=True)
class Bench:
    """All of a work that everyone but our engine is given ready-made, outside of the timing."""

    work: Work
    experiment: Experiment
    recipe: Recipe

    @classmethod
    def of(cls, work: Work, precision: str = "fp32") -> Bench:
        return cls(work, *planned(work, precision))

    @cached_property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """In memory, in the order of training."""
        e = self.experiment
        stream = self.recipe.source.training_batches(e.batch_size, e.order_seed)
        return [next(stream) for _ in range(e.num_steps)]

    def model(self) -> nn.Module:
        """Ours, as the engine builds it."""
        with seeded(self.experiment.seed):
            return self.recipe.family.build(self.experiment.size.value)

    def plain_model(self) -> nn.Module:
        """The same network and weights in torch's own functions, and nothing else."""
        ours = self.model()
        if not self.work.is_text:
            return ours
        plain = PlainTransformer(self.work)
        plain.load_state_dict(ours.state_dict())
        return plain

    def optimizer(self, model: nn.Module, **how: bool) -> torch.optim.AdamW:
        """At the rates that the groups of our own model have."""
        ours = self.model()
        names = {p: name for name, p in ours.named_parameters()}
        mine = dict(model.named_parameters())
        groups = [
            {
                "params": [mine[names[p]] for p in group["params"]],
                "lr": self.work.lr * group.get("lr_scale", 1.0),
            }
            for group in param_groups(ours)
        ]
        return torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0, **how)

    def lr_factor(self, step: int) -> float:
        num_steps = self.experiment.num_steps
        return self.recipe.schedule(progress_of(min(step, num_steps - 1), num_steps))

    def held_out_loss(self, model: Callable[[Tensor], Tensor]) -> float:
        (x, y), *_ = self.recipe.source.held_out_batches(self.work.batch_size, self.work.batch_size)
        with torch.inference_mode():
            return float(self.recipe.loss(model(x), y))


class PlainTransformer(nn.Module):
    """`flops_fit.models.Transformer` as one writes it down: torch's attention, torch's RMSNorm."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, work.width)
        self.blocks = nn.ModuleList(PlainBlock(work) for _ in range(work.depth))
        self.head = nn.Linear(work.width, VOCAB_SIZE, bias=False)
        half = work.width // work.num_heads // 2
        angles = torch.arange(work.context_length)[:, None] * 1000.0 ** -(torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(F.rms_norm(x, (x.shape[-1],)))


class PlainBlock(nn.Module):
    def __init__(self, work: Work) -> None:
        super().__init__()
        width = work.width
        self.num_heads = work.num_heads
        self.scale = math.sqrt(16 / work.num_heads) / (width // work.num_heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(F.rms_norm(x, (width,))).view(batch, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True, scale=self.scale)
        x = x + self.attention_out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self.up(F.rms_norm(x, (width,))).relu().square())


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


@contextmanager
def timed() -> Iterator[list[float]]:
    """A list that has the CPU seconds of the block when it has ended."""
    seconds: list[float] = []
    before = time.process_time()
    yield seconds
    seconds.append(time.process_time() - before)


def outcome(bench: Bench, seconds: list[float], loss: float) -> Outcome:
    num_steps = len(bench.batches)
    num_tokens = num_steps * bench.work.batch_size * (bench.work.context_length or 1)
    return Outcome(seconds[0], num_steps, num_tokens, loss)


def engine(work: Work, precision: str) -> Outcome:
    """`flops_fit.training.trainer.train`, from nothing to the record of the run."""
    experiment, recipe = planned(work, precision)
    recipe = replace(recipe, kernels=kernels(work, precision))
    with (
        tempfile.TemporaryDirectory() as folder,
        recipe.kernels_in_force(),
        timed() as seconds,
    ):
        run = train(experiment, recipe, Path(folder), Unwatched())
    return Outcome(seconds[0], run.num_steps, run.num_tokens, run.loss)


def by_hand(work: Work, precision: str) -> Outcome:
    """The engine's inner loop written out: its model, its kernels, nothing of what it records."""
    bench = Bench.of(work, precision)
    batches, autocast = bench.batches, bench.recipe.autocast
    plan = kernels(work, precision)
    with in_force(plan), timed() as seconds:
        model = bench.model()
        if isinstance(model, ChoosesAttention):
            model.use_attention_kernel(plan.attention)
        optimizer = bench.recipe.optimizer(param_groups(model))
        peaks = [group["lr"] * group.get("lr_scale", 1.0) for group in optimizer.param_groups]
        for step, (x, y) in enumerate(batches):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * bench.lr_factor(step)
            with autocast():
                loss = work.loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with autocast():
            loss = bench.held_out_loss(model)
    return outcome(bench, seconds, loss)


def expert(work: Work) -> Outcome:
    """Someone who knows torch: tensors in memory, fused AdamW, no waiting."""
    return plain_loop(work, fused=True)


def plain(work: Work) -> Outcome:
    """The same loop with the optimizer as torch makes it when nothing is said."""
    return plain_loop(work)


def plain_loop(work: Work, **how: bool) -> Outcome:
    bench = Bench.of(work)
    batches = bench.batches
    with timed() as seconds:
        model = bench.plain_model()
        optimizer = bench.optimizer(model, **how)
        scheduler = LambdaLR(optimizer, bench.lr_factor)
        for step, (x, y) in enumerate(batches, start=1):
            loss = work.loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if step % ITEM_STEPS == 0:
                loss.item()
        loss = bench.held_out_loss(model)
    return outcome(bench, seconds, loss)


def accelerate_loop(work: Work) -> Outcome:
    from accelerate import Accelerator

    bench = Bench.of(work)
    loader = batch_loader(bench)
    model = bench.plain_model()
    optimizer = bench.optimizer(model, fused=True)
    with timed() as seconds:
        accelerator = Accelerator(cpu=True)
        scheduler = LambdaLR(optimizer, bench.lr_factor)
        prepared, optimizer, loader, scheduler = accelerator.prepare(
            model, optimizer, loader, scheduler
        )
        for x, y in loader:
            loss = work.loss(prepared(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
        loss = bench.held_out_loss(model)
    return outcome(bench, seconds, loss)


def lightning_trainer(work: Work) -> Outcome:
    import lightning

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    bench = Bench.of(work)
    loader = batch_loader(bench)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = bench.plain_model()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            x, y = batch
            return work.loss(self.model(x), y)

        def configure_optimizers(self) -> dict[str, object]:
            optimizer = bench.optimizer(self.model, fused=True)
            scheduler = LambdaLR(optimizer, bench.lr_factor)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with timed() as seconds:
        trainer.fit(module, loader)
        loss = bench.held_out_loss(module.model)
    return outcome(bench, seconds, loss)


def hf_trainer(work: Work) -> Outcome:
    from transformers import Trainer, TrainingArguments

    bench = Bench.of(work)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = bench.plain_model()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": work.loss(self.model(x), labels)}

    rows = [{"x": x, "labels": y} for xs, ys in bench.batches for x, y in zip(xs, ys, strict=True)]
    model = Model()
    optimizer = bench.optimizer(model.model, fused=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=work.num_steps,
            per_device_train_batch_size=work.batch_size,
            train_sampling_strategy="sequential",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            max_grad_norm=0.0,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            optimizers=(optimizer, LambdaLR(optimizer, bench.lr_factor)),
        )
        with timed() as seconds:
            trainer.train()
            loss = bench.held_out_loss(model.model)
    return outcome(bench, seconds, loss)


def batch_loader(bench: Bench) -> DataLoader[tuple[Tensor, ...]]:
    """The batches in order, gathered row by row as a DataLoader does."""
    x, y = (torch.cat(parts) for parts in zip(*bench.batches, strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=bench.work.batch_size)


@cache
def planned(work: Work, precision: str) -> tuple[Experiment, Recipe]:
    return work.planned(precision)


@cache
def kernels(work: Work, precision: str) -> KernelPlan:
    """As a study of this one run tries them out; outside of the timing."""
    experiment, recipe = planned(work, precision)
    with tempfile.TemporaryDirectory() as folder:
        return kernels_of_study([experiment], recipe, Path(folder) / "kernels.json")
