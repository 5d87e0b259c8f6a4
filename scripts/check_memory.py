"""Estimated memory of training steps against measured: on a CPU by torch's allocator (its profiler
reports every allocation), on CUDA by `max_memory_allocated`. Each case in a process of its own.

    python scripts/check_memory.py                 # prints a table
    python scripts/check_memory.py device=cuda

Ends with exit code 1 where one is further than 15% from the other.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from flops_fit.datasets.adapters import as_source
from flops_fit.learning.losses import cross_entropy
from flops_fit.learning.schedules import Cosine
from flops_fit.models import MLP, Transformer, ViT
from flops_fit.plan.experiment import Experiment, Size
from flops_fit.training.family import ModelFamily, SizeSpec
from flops_fit.training.kernels import KernelPlan
from flops_fit.training.memory import estimated_step_bytes
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import TrainingState, seeded
from flops_fit.training.steps import train_step

TOLERANCE = 0.15
ADAMW = partial(torch.optim.AdamW, lr=1e-3, fused=True)


@dataclass(frozen=True)
class Case:
    name: str
    factory: Any
    width: int
    data: str  # rows, ids or images
    samples: int
    precision: str = "fp32"
    micro_batch_size: int | None = None
    attention: str = "blocks"


def transformer(width: int) -> Any:
    return Transformer(width, vocab_size=4096, context_length=256, depth=4, num_heads=4)


def vit(width: int) -> Any:
    return ViT(width, image_size=32, patch_size=4, channels=3, num_classes=10, depth=4, num_heads=2)


CASES = (
    Case("mlp", partial(MLP, in_features=64), 1024, "rows", 4096),
    Case("mlp, narrow", partial(MLP, in_features=64), 64, "rows", 65536),
    Case("mlp, bf16", partial(MLP, in_features=64), 1024, "rows", 4096, "bf16"),
    Case("transformer", transformer, 256, "ids", 16),
    Case("transformer, fused", transformer, 256, "ids", 16, attention="fused"),
    Case("transformer, in parts", transformer, 256, "ids", 16, micro_batch_size=4),
    Case("transformer, bf16", transformer, 256, "ids", 16, "bf16"),
    Case("transformer, bf16, fused", transformer, 256, "ids", 16, "bf16", attention="fused"),
    Case("vit", vit, 192, "images", 64),
    Case("vit, bf16", vit, 192, "images", 64, "bf16"),
)


def data(kind: str, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    if kind == "rows":
        return torch.randn(samples, 64), torch.randn(samples, 1)
    if kind == "ids":
        ids = torch.randint(0, 4096, (samples, 257))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    return torch.randn(samples, 3, 32, 32), torch.randint(0, 10, (samples,))


def recipe_and_experiment(case: Case, device: str) -> tuple[Recipe, Experiment]:
    content = data(case.data, case.samples)
    tokens = 256 if case.data == "ids" else 1
    loss = F.mse_loss if case.data == "rows" else cross_entropy
    spec = SizeSpec("width", values=(case.width,))
    recipe = Recipe(
        family=ModelFamily(case.factory, spec, content, tokens, loss),
        source=as_source(content, batch_size=1),
        loss=loss,
        optimizer=ADAMW,
        schedule=Cosine(),
        device=torch.device(device),
        precision=case.precision,
        micro_batch_size=case.micro_batch_size,
        kernels=KernelPlan(attention=case.attention),
    )
    measured = recipe.family.at(case.width)
    experiment = Experiment(
        budget=1.0, size=Size("width", case.width), num_params=measured.num_params,
        num_params_total=measured.num_params_total, num_steps=10, batch_size=case.samples,
        batch_tokens=tokens * case.samples, flops_per_token=1.0, flops_per_token_counted=None,
        flops_per_token_formula=1.0, unique_tokens=None, seed=0,
    )  # fmt: skip
    return recipe, experiment


def measured_bytes(case: Case, device: str) -> int:
    """The peak over the second and third step, the batch included."""
    recipe, experiment = recipe_and_experiment(case, device)
    content = data(case.data, case.samples)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with seeded(0), recipe.kernels_in_force():
        if device == "cuda":
            state = TrainingState.start(experiment, recipe)
            for _ in range(3):
                train_step(content, 1.0, recipe, state)
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            batch = tuple(part.clone() for part in content)
            state = TrainingState.start(experiment, recipe)
            for _ in range(2):
                train_step(batch, 1.0, recipe, state)
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def compared(case: Case, device: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    recipe, experiment = recipe_and_experiment(case, device)
    estimate = estimated_step_bytes(experiment, recipe)
    return {"case": case.name, "estimated": estimate, "measured": measured_bytes(case, device)}


def main(device: str = "cpu") -> int:
    context = multiprocessing.get_context("spawn")
    worst = 0.0
    print(f"{'case':<28}{'estimated MB':>14}{'measured MB':>14}{'ratio':>8}")
    for case in CASES:
        with context.Pool(1) as pool:
            row = pool.apply(compared, (case, device))
        ratio = row["estimated"] / row["measured"]
        worst = max(worst, abs(ratio - 1))
        print(
            f"{row['case']:<28}{row['estimated'] / 1e6:>14.1f}{row['measured'] / 1e6:>14.1f}"
            f"{ratio:>8.3f}",
            flush=True,
        )
    print(json.dumps({"worst": round(worst, 3), "device": device}))
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(**dict(word.split("=", 1) for word in sys.argv[1:])))
