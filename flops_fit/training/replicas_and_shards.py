"""A model over the processes of its run: whole in each, or each parameter in parts.

Both are torch's own: `DistributedDataParallel` and `fully_shard`. Gradients are summed, not
averaged: the loss of each process is its share of that of the whole batch already.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from flops_fit.datasets.batches import Content
from flops_fit.training.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.nn.parallel import DistributedDataParallel

LossOf = Callable[[Content, Content], Tensor]
"""(inputs, target) -> the loss of the model's output."""


def placed(
    model: nn.Module, device: torch.device, ranks: Ranks, blocks: Callable[[], list[nn.Module]]
) -> nn.Module:
    """The model on the device; of a sharded one each process's part, gathered block by block."""
    if not ranks.shards:
        return model.to(device)
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = _mesh(device.type, ranks.count)
    for block in (*blocks(), model):  # the model last: it takes what is left
        fully_shard(block, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    assert isinstance(model, FSDPModule)
    # Nobody changes the output of the whole model in place, which torch warns of.
    name = re.escape(type(model).__name__)
    warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \({name}\) returned a view")
    model.set_reduce_scatter_unused_params(True)
    return model


@cache
def _mesh(device: str, count: int) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (count,))


def listed_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in lists, without single layers and those that share
    parameters with others."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return [
        block
        for block in _listed(model)
        if any(block.children()) and all(uses[id(p)] == 1 for p in block.parameters())
    ]


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
        yield from module
        return
    for child in module.children():
        yield from _listed(child)


class _Step(nn.Module):
    """The loss as the output of a module with the model's parameters: one number, whatever the
    model's own output is."""

    def __init__(self, model: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.model = model
        self.loss_of = loss_of

    def forward(self, inputs: Content, target: Content) -> Tensor:
        return self.loss_of(inputs, target)


def replicated(model: nn.Module, loss_of: LossOf, ranks: Ranks) -> DistributedDataParallel | None:
    """What the steps call for their loss, so that gradients are summed over the processes as they
    come; None where there is nothing to sum, or the model does so itself."""
    if ranks.is_alone or ranks.shards:
        return None
    from torch.nn.parallel import DistributedDataParallel

    # Which parameters a step uses may depend on its rows: without the look for unused ones,
    # torch's own would wait for gradients that never come.
    with warnings.catch_warnings():
        # The word in its place, of torch 2.13 on, sends buffers at the start as well, which are
        # the same already.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        replica = DistributedDataParallel(
            _Step(model, loss_of),
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )
    replica.register_comm_hook(None, _summed)
    return replica


def _summed(_, bucket):  # type: ignore[no-untyped-def] # torch reads types, as no strings
    added = dist.all_reduce(bucket.buffer(), async_op=True)
    return added.get_future().then(lambda done: done.value()[0])


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process holds a part; all processes have to ask for it."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def gathered(content: Any, keep: bool) -> Any:
    """Nested containers with all of each sharded tensor, on the CPU; None for these where they are
    not to be kept. All processes have to ask for it."""
    if isinstance(content, Mapping):
        return {key: gathered(value, keep) for key, value in content.items()}
    if isinstance(content, list):
        return [gathered(value, keep) for value in content]
    if isinstance(content, Tensor) and _is_sharded(content):
        full = whole(content)
        return full.cpu() if keep else None
    return content


def sharded_like(content: Any, like: Any) -> Any:
    """What `gathered` gave, with this process's part of each tensor that is sharded in `like`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(content, Mapping) and isinstance(like, Mapping):
        return {key: sharded_like(value, like.get(key)) for key, value in content.items()}
    if isinstance(content, list) and isinstance(like, list):
        return [sharded_like(*pair) for pair in zip(content, like, strict=True)]
    if isinstance(like, DTensor) and isinstance(content, Tensor):
        return distribute_tensor(content, like.device_mesh, like.placements, src_data_rank=None)
    return content


def _is_sharded(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def begin(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Let it make its state, by a step of length 0, so that it can be seen how it is sharded."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
