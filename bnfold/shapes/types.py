"""onnx's types as dimensions and back, and what of two answers is known of one value.

A dimension is a size, a symbol, or None. Of two answers that both hold, a size says more than a symbol; answers that
contradict each other belong to no model that runs, and nothing is learned from the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnx import TypeProto, helper

from bnfold.affine import Dim
from bnfold.graph import Graph
from bnfold.nodes import Value

Key = tuple[str, str]
"""A scope's path and a name in it."""

Types = Mapping[Key, TypeProto]


def key_of(value: Value) -> Key:
    """Where the type of a value stands."""
    return (value.scope.path, value.name)


def shape_of(graph: Graph, types: Types, value: Value) -> tuple[Dim, ...] | None:
    """The dimensions of a value as far as known; None where not even the rank is."""
    found = graph.initializer(value)
    if found is not None and not graph.is_overridable(value):
        return tuple(found.tensor.dims)
    entry = types.get(key_of(value))
    return None if entry is None else dims_of(entry)


def element_of(graph: Graph, types: Types, value: Value) -> int | None:
    """The TensorProto data type of a value, or None where it is not known."""
    found = graph.initializer(value)
    if found is not None:
        return found.tensor.data_type
    entry = types.get(key_of(value))
    return None if entry is None or not entry.tensor_type.elem_type else int(entry.tensor_type.elem_type)


def dims_of(entry: TypeProto) -> tuple[Dim, ...] | None:
    """The dimensions that a type states; None where it states none."""
    if not entry.tensor_type.HasField("shape"):
        return None
    return tuple(
        int(d.dim_value) if d.HasField("dim_value") else d.dim_param or None for d in entry.tensor_type.shape.dim
    )


def tensor_type(element: int, dims: Iterable[Dim] | None) -> TypeProto:
    """The type of a tensor; `element` 0 leaves it open."""
    return helper.make_tensor_type_proto(element, None if dims is None else list(dims))


def is_lost(entry: TypeProto | None, stated: Callable[[str], bool]) -> bool:
    """Whether a tensor has a dimension that is neither a size nor a symbol which the file itself states."""
    if entry is None or entry.WhichOneof("value") is None:
        return True
    if not entry.HasField("tensor_type"):
        return False
    dims = dims_of(entry)
    return dims is None or any(not isinstance(d, int) and (d is None or not stated(d)) for d in dims)


def learned(old: TypeProto | None, new: TypeProto, stated: Callable[[str], bool]) -> TypeProto | None:
    """What both say together, where that is more than the old one alone; symbols of the new one are all to be meant."""
    dims, before = dims_of(new), None if old is None else dims_of(old)
    element = new.tensor_type.elem_type if old is None else old.tensor_type.elem_type or new.tensor_type.elem_type
    if dims is None or new.tensor_type.elem_type not in {0, element}:
        return None
    if before is None:
        return tensor_type(element, dims)
    if len(before) != len(dims) or any(_contradict(*pair) for pair in zip(before, dims, strict=True)):
        return None
    both = tuple(_better(b, d, stated) for b, d in zip(before, dims, strict=True))
    return None if both == before else tensor_type(element, both)


def _contradict(before: Dim, after: Dim) -> bool:
    return isinstance(before, int) and isinstance(after, int) and before != after


def _better(before: Dim, after: Dim, stated: Callable[[str], bool]) -> Dim:
    if isinstance(before, int) or after is None:
        return before
    if isinstance(after, int) or before is None:
        return after
    return after if stated(after) and not stated(before) else before
