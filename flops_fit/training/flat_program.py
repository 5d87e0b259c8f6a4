"""A step's losses and gradients as one flat list of tensor operations, written down once.

Running a model under `vmap` and autograd costs Python time at every operation of every step. The
operations of a step on given shapes are always the same, so they are recorded once, those that
change nothing are left out, and what remains is called as a plain function.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten

Program = Callable[..., Any]
"""Tensors -> tensors, of the shapes that it was recorded with."""

Node = Any
"""Of a graph; torch's type for a node's arguments has 17 parts."""

VIEWS_AND_ALIASES = {
    aten.alias.default,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.view.default,
    aten._unsafe_view.default,
}
"""Operations that give back their first argument where they change neither shape nor strides."""

DIRECT: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: torch.add,
    aten.bmm.default: torch.bmm,
    aten.div.Tensor: torch.div,
    aten.mean.dim: torch.mean,
    aten.mul.Tensor: torch.mul,
    aten.relu.default: torch.relu,
    aten.sub.Tensor: torch.sub,
    aten.sum.dim_IntList: torch.sum,
    aten.transpose.int: torch.transpose,
    aten.view.default: Tensor.view,
    aten._unsafe_view.default: Tensor.view,
}
"""The same operations by way of torch's own bindings, where a call takes 1 us less."""


class NotRecordable(RuntimeError):
    """What a function computes can't be written down as a list of operations."""


def recorded(function: Program, arguments: Sequence[Tensor]) -> Program:
    """The operations of function(*arguments), to be run on other values of the same shapes.

    `function` may use autograd. What doesn't depend on the arguments is computed here and now, and
    kept. Raises `NotRecordable` where a value decides what is computed.
    """
    recorder = _Recorder(arguments)
    with recorder:
        results = function(*arguments)
    return recorder.program(results)


@dataclass(frozen=True)
class _Layout:
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        return cls(tensor.dtype, tuple(tensor.shape), tensor.stride())

    def transposed(self, i: int, j: int) -> _Layout:
        shape, stride = list(self.shape), list(self.stride)
        shape[i], shape[j] = shape[j], shape[i]
        stride[i], stride[j] = stride[j], stride[i]
        return _Layout(self.dtype, tuple(shape), tuple(stride))


class _Recorder(TorchDispatchMode):
    """Writes down all operations on tensors that depend on the arguments."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.changes_tensors = False  # other than constants
        self._nodes: dict[int, Node] = {}  # by the tensor's id
        self._storages: dict[int, list[Tensor]] = {}  # by address
        self._known: list[Tensor] = []  # held, so that no id or address occurs twice
        self._constant_nodes: dict[int, Node] = {}
        self._constants: dict[str, tuple[Tensor, int]] = {}  # with its version when it was used
        for number, tensor in enumerate(arguments):
            self._add(tensor, self.graph.placeholder(f"x{number}"))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        depends = any(self._node(tensor) is not None for tensor in tensors)
        if depends and _reads_values(func, tensors):
            raise NotRecordable("what is computed depends on values of tensors (.item(), if)")
        if depends and func._schema.is_mutable:
            self.changes_tensors = True
            self._add_what_changes(func, args)
        results = func(*args, **kwargs)
        if depends or torch.Tag.nondeterministic_seeded in func.tags:
            to_nodes = tree_map_only(Tensor, self._node_or_constant, (args, kwargs))
            self._add_all(results, self.graph.call_function(func, *to_nodes))
        return results

    def program(self, results: Any) -> Program:
        """What was recorded, from the arguments to these results."""
        self.graph.output(tree_map_only(Tensor, self._node_or_constant, results))
        constants = {name: tensor.detach() for name, (tensor, _) in self._constants.items()}
        if any(tensor._version != version for tensor, version in self._constants.values()):
            raise NotRecordable("a constant is changed in place after its first use")
        if not self.changes_tensors:
            _simplify(self.graph)
        return fx.GraphModule(constants, self.graph).forward

    def _add_what_changes(self, func: Any, args: Sequence[Any]) -> None:
        """A constant that an operation writes to begins anew in every run of the program."""
        for declared, value in zip(func._schema.arguments, args, strict=False):
            is_written = declared.alias_info is not None and declared.alias_info.is_write
            if is_written and isinstance(value, Tensor) and self._node(value) is None:
                before = self._node_or_constant(value.clone())
                self._add(value, self.graph.call_function(aten.clone.default, (before,)))

    def _add_all(self, results: Any, node: Node) -> None:
        if isinstance(results, Tensor):
            self._add(results, node)
        elif isinstance(results, tuple | list):
            for index, result in enumerate(results):
                if isinstance(result, Tensor):
                    self._add(result, self.graph.call_function(operator.getitem, (node, index)))

    def _add(self, tensor: Tensor, node: Node) -> None:
        node.meta["layout"] = _Layout.of(tensor)
        self._nodes[id(tensor)] = node
        self._known.append(tensor)
        if tensor.numel():
            address = tensor.untyped_storage().data_ptr()
            self._storages.setdefault(address, []).append(tensor)

    def _node(self, tensor: Tensor) -> Node | None:
        """Of a tensor that depends on the arguments; autograd has other objects for some."""
        if id(tensor) in self._nodes:
            return self._nodes[id(tensor)]
        if not tensor.numel():
            return None
        relatives = self._storages.get(tensor.untyped_storage().data_ptr())
        if relatives is None:
            return None
        offset, layout = tensor.storage_offset(), _Layout.of(tensor)
        for relative in relatives:
            if relative.storage_offset() == offset and _Layout.of(relative) == layout:
                return self._nodes[id(relative)]
        raise NotRecordable("a tensor is a view of another by a way that torch doesn't tell")

    def _node_or_constant(self, tensor: Tensor) -> Node:
        node = self._node(tensor) or self._constant_nodes.get(id(tensor))
        if node is None:
            name = f"constant{len(self._constants)}"
            node = self.graph.create_node("get_attr", name)
            node.meta["layout"] = _Layout.of(tensor)
            self._constants[name] = (tensor, tensor._version)
            self._constant_nodes[id(tensor)] = node
        return node


def _reads_values(func: Any, tensors: Sequence[Tensor]) -> bool:
    """Whether Python code, or a shape, may depend on values of these tensors."""
    if func is aten.index.Tensor:  # by numbers, or by a mask
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])
    tags = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return any(tag in func.tags for tag in tags)


def _simplify(graph: fx.Graph) -> None:
    """The same results by fewer operations, in a graph that changes no tensor in place."""
    graph.eliminate_dead_code()
    while sum(_made_simpler(node) for node in graph.nodes):
        graph.eliminate_dead_code()
    for node in graph.nodes:
        node.target = DIRECT.get(node.target, node.target)


def _made_simpler(node: Node) -> bool:
    return _without_effect(node) or _transposed_twice(node) or _transposed_product(node)


def _without_effect(node: Node) -> bool:
    """Leave out views as they were, and products with one."""
    if node.target is aten.mul.Scalar or node.target is aten.div.Scalar:
        unchanged = node.args[1] == 1 and _layout(node).dtype == _layout(node.args[0]).dtype
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
            transposed.meta["layout"] = _layout(factor).transposed(1, 2)
            factors.append(transposed)
        swapped = graph.call_function(aten.bmm.default, tuple(factors))
    dtype, (runs, height, width) = _layout(node).dtype, _layout(node).shape
    swapped.meta["layout"] = _Layout(dtype, (runs, height, width), (height * width, width, 1))
    return _replace(node, swapped)


def _replace(node: Node, other: Node) -> bool:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
    return True


def _is_transpose(node: Node) -> bool:
    return bool(node.target is aten.transpose.int)


def _layout(node: Node) -> _Layout:
    layout: _Layout = node.meta["layout"]
    return layout
