"""What onnx's shape inference knows of a graph's values, inferred over the skeleton when first asked for.

The model is never touched: inference runs on a copy. Where it fails or loses a shape, less is known, and nothing
is guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property

import onnx

from bnfold.affine import Dim
from bnfold.graph import Graph
from bnfold.nodes import Scope, Value, value_infos

logger = logging.getLogger("bnfold")


class Shapes:
    """Shapes and element types of one graph's values."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def shape(self, value: Value) -> tuple[Dim, ...] | None:
        """The dimensions as far as known: sizes, symbols, None; or None where not even the rank is known."""
        found = self._graph.initializer(value)
        if found is not None and not self._graph.is_overridable(value):
            return tuple(found.tensor.dims)
        entry = self._inferred.get((value.scope.path, value.name))
        if entry is None or not entry.tensor_type.HasField("shape"):
            return None
        return tuple(_dim(d) for d in entry.tensor_type.shape.dim)

    def element_type(self, value: Value) -> int | None:
        """The TensorProto data type of a value, or None where it is not known."""
        found = self._graph.initializer(value)
        if found is not None:
            return found.tensor.data_type
        entry = self._inferred.get((value.scope.path, value.name))
        return None if entry is None or not entry.tensor_type.elem_type else int(entry.tensor_type.elem_type)

    @cached_property
    def _inferred(self) -> Mapping[tuple[str, str], onnx.TypeProto]:
        """Types by (scope path, name)."""
        proto = self._graph.model.proto
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except Exception as error:  # noqa: BLE001  # inference is a source of facts, no check: without it less is known
            logger.info("shape inference failed, fewer shapes are known: %s", error)
            inferred = proto
        types: dict[tuple[str, str], onnx.TypeProto] = {}
        for scope in self._graph.scopes:
            body = _at(inferred, scope)
            if body is not None:
                types.update({(scope.path, info.name): info.type for info in value_infos(body)})
        return types


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def _at(model: onnx.ModelProto, scope: Scope) -> onnx.GraphProto | None:
    """The same scope in another copy of the model; None for functions, whose types only a call site knows."""
    if scope.address.function is not None:
        return None
    graph = model.graph
    for node, attribute, k in scope.address.nested:
        holder = graph.node[node].attribute[attribute]
        graph = holder.g if k < 0 else holder.graphs[k]
    return graph
