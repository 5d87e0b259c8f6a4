"""A step's losses and gradients as one flat list of tensor operations, written down once.

Running a model under `vmap` and autograd costs Python time at every operation of every step. The
operations of a step on given shapes are always the same, so they are recorded once (`make_fx`),
those that change nothing are left out, and what remains is called as a plain function.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten

Program = Callable[..., Any]
"""Tensors -> tensors, of the shapes that it was recorded with."""

Node = Any
"""Of a graph; torch's type for a node's arguments has 17 parts."""

VIEWS_AND_ALIASES = {
    aten.alias.default,
    aten.detach.default,
    aten.expand.default,
    aten.lift_fresh_copy.default,
    aten.view.default,
    aten._unsafe_view.default,
}
"""Operations that give back their first argument where they change neither shape nor strides."""

DIRECT: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: torch.add,
    aten.bmm.default: torch.bmm,
    aten.div.Tensor: torch.div,
    aten.mul.Tensor: torch.mul,
    aten.mean.dim: torch.mean,
    aten.relu.default: torch.relu,
    aten.sub.Tensor: torch.sub,
    aten.sum.dim_IntList: torch.sum,
    aten.transpose.int: torch.transpose,
    aten.view.default: Tensor.view,
    aten._unsafe_view.default: Tensor.view,
}
"""The same operations by way of torch's own bindings, where a call takes 1 us less."""


def recorded(function: Program, arguments: Sequence[Tensor]) -> Program:
    """The operations of function(*arguments), to be run on other values of the same shapes.

    `function` may use autograd. Raises what torch raises where a value decides what is computed.
    """
    module = make_fx(function)(*arguments)
    if any(_mutates(node) for node in module.graph.nodes):
        module = make_fx(functionalize(module, remove="mutations"))(*arguments)
    return simplified(module).forward


def simplified(module: fx.GraphModule) -> fx.GraphModule:
    """The same results by fewer operations; the graph must not change any tensor in place."""
    graph = module.graph
    _fold_constants(module)
    while sum(_made_simpler(node) for node in graph.nodes):
        graph.eliminate_dead_code()
    for node in graph.nodes:
        node.target = DIRECT.get(node.target, node.target)
    module.recompile()
    return module


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute what doesn't depend on any argument now, and once: masks, tables of positions."""
    graph = module.graph
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = node.meta["val"] = operator.attrgetter(str(node.target))(module)
        elif node.op == "call_function" and _is_deterministic(node.target):
            inputs = node.all_input_nodes
            if all(input_node in values for input_node in inputs):
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(values.items()):
        is_needed = any(user not in values for user in node.users)
        if node.op == "get_attr" or not is_needed or not isinstance(value, Tensor):
            continue
        name = f"_folded_{number}"
        module.register_buffer(name, value, persistent=False)
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta = node.meta
        node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in values)
    graph.eliminate_dead_code()


def _without_effect(node: Node) -> bool:
    """Leave out views as they were, and products with one."""
    if node.target is aten.mul.Scalar or node.target is aten.div.Scalar:
        unchanged = node.args[1] == 1 and _dtype(node) == _dtype(node.args[0])
    else:
        unchanged = node.target in VIEWS_AND_ALIASES and _layout(node) == _layout(node.args[0])
    return unchanged and _replace(node, node.args[0])


def _transposed_twice(node: Node) -> bool:
    """x.transpose(i, j).transpose(i, j) is x."""
    if not _is_transpose(node):
        return False
    inner = node.args[0]
    is_back = _is_transpose(inner) and set(inner.args[1:]) == set(node.args[1:])
    return is_back and _replace(node, inner.args[0])


def _transposed_product(node: Node) -> bool:
    """(a b)^T is b^T a^T: gradients of weights lie in memory as the weights do."""
    if not _is_transpose(node) or set(node.args[1:]) != {1, 2}:
        return False
    product = node.args[0]
    if product.target is not aten.bmm.default or len(product.users) > 1:
        return False
    graph = node.graph
    with graph.inserting_before(node):
        factors = []
        for factor in reversed(product.args):
            transposed = graph.call_function(aten.transpose.int, (factor, 1, 2))
            transposed.meta["val"] = factor.meta["val"].transpose(1, 2)
            factors.append(transposed)
        swapped = graph.call_function(aten.bmm.default, tuple(factors))
        swapped.meta["val"] = torch.empty_like(
            node.meta["val"], memory_format=torch.contiguous_format
        )
    return _replace(node, swapped)


def _made_simpler(node: Node) -> bool:
    return _without_effect(node) or _transposed_twice(node) or _transposed_product(node)


def _replace(node: Node, other: Node) -> bool:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
    return True


def _is_transpose(node: Node) -> bool:
    return bool(node.target is aten.transpose.int)


def _layout(node: Node) -> tuple[Any, ...]:
    value = node.meta["val"]
    return value.dtype, value.shape, value.stride()


def _dtype(node: Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _is_deterministic(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return target is operator.getitem
    return torch.Tag.nondeterministic_seeded not in target.tags


def _mutates(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
