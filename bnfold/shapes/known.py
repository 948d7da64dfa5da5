"""The shapes and element types of one graph's values, inferred over the skeleton when first asked for.

The model is never touched: inference runs on copies. Where it fails or loses a shape, less is known, and nothing
is guessed. onnx takes an initializer for a constant even where a caller may replace it, and would read a shape off
the default: so what it is shown holds no such initializer.

onnx's own propagation of integers takes memory and hours for a vector that is merely said to be long (a few bytes of
a file can say 2^40), so contents are followed in contents.py instead. Only what a function does inside nobody else
can follow: a model that has functions is inferred with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property

import onnx

from bnfold.affine import Dim
from bnfold.graph import Graph
from bnfold.nodes import Scope, Value, nested_graphs, value_infos
from bnfold.shapes.contents import Contents
from bnfold.shapes.recovery import recovered
from bnfold.shapes.types import Key, Types, element_of, shape_of

logger = logging.getLogger("bnfold")


class Shapes:
    """Shapes and element types of one graph's values."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def shape(self, value: Value) -> tuple[Dim, ...] | None:
        """The dimensions as far as known: sizes, symbols, None; or None where not even the rank is known."""
        return shape_of(self._graph, self._types, value)

    def element_type(self, value: Value) -> int | None:
        """The TensorProto data type of a value, or None where it is not known."""
        return element_of(self._graph, self._types, value)

    def proven(self, value: Value) -> tuple[Dim, ...] | None:
        """The dimensions that follow from the inputs of the model, whatever else the file notes of its shapes.

        A runtime holds a caller to what the inputs are said to be, and no one to what is noted of values between: tools
        that free an input leave such notes as they were. None in nested graphs and functions.
        """
        return shape_of(self._graph, self._proven, value) if value.scope is self._graph.scopes[0] else None

    @cached_property
    def _proven(self) -> Types:
        proto = onnx.ModelProto()
        proto.CopyFrom(_without_defaults(self._graph.model.proto, self._graph))
        _forget(proto.graph, is_body=False)
        for function in proto.functions:
            del function.value_info[:]
            _forget_bodies(function.node)
        try:
            return _types(self._graph, onnx.shape_inference.infer_shapes(proto, data_prop=bool(proto.functions)))
        except Exception as error:  # noqa: BLE001  # likewise
            logger.info("shape inference failed, no shapes are proven: %s", error)
            return {}

    def elements(self, value: Value) -> tuple[Dim, ...] | None:
        """What an expression of shapes holds, in order: integers, the symbols whose sizes they are, None for the rest.

        None where it holds no integers, or it is not known how many.
        """
        content = self._contents.of(value)
        if content is None or content.numbers.dtype.kind not in "biu":
            return None
        return self._contents.sizes(content)

    def numbers(self, value: Value) -> tuple[float | None, ...] | None:
        """What an expression of shapes holds, in order, as numbers: None for those that are not known.

        None where it is not known how many.
        """
        content = self._contents.of(value)
        if content is None:
            return None
        pairs = zip(content.numbers.reshape(-1), content.marks.reshape(-1), strict=True)
        return tuple(None if mark else float(number) for number, mark in pairs)

    @cached_property
    def _contents(self) -> Contents:
        return Contents(self._graph, self.shape, self.element_type)

    @cached_property
    def _types(self) -> Types:
        proto = self._graph.model.proto
        shown = _without_defaults(proto, self._graph)
        try:
            inferred = onnx.shape_inference.infer_shapes(shown, data_prop=bool(proto.functions))
        except Exception as error:  # noqa: BLE001  # inference is a source of facts, no check: without it less is known
            logger.info("shape inference failed, fewer shapes are known: %s", error)
            return _types(self._graph, proto)
        return recovered(self._graph, _types(self._graph, inferred))


def _types(graph: Graph, model: onnx.ModelProto) -> dict[Key, onnx.TypeProto]:
    """What a copy of the model says of its values."""
    types: dict[Key, onnx.TypeProto] = {}
    for scope in graph.scopes:
        body = _at(model, scope)
        if body is not None:
            types.update({(scope.path, info.name): info.type for info in value_infos(body)})
    return types


def _forget(graph: onnx.GraphProto, *, is_body: bool) -> None:
    """Take away what is noted of shapes, but for the inputs of the model."""
    del graph.value_info[:]
    for entry in (*graph.output, *(graph.input if is_body else ())):
        if entry.type.HasField("tensor_type"):
            entry.type.tensor_type.ClearField("shape")
    _forget_bodies(graph.node)


def _forget_bodies(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for _, _, _, body in nested_graphs(node):
            _forget(body, is_body=True)


def _without_defaults(model: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """The model itself, or a copy without the initializers that a caller may replace."""
    inputs = {entry.name for entry in model.graph.input}
    defaults = [i for i, tensor in enumerate(model.graph.initializer) if tensor.name in inputs]
    if graph.needs_initializer_inputs or not defaults:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index in reversed(defaults):
        del copy.graph.initializer[index]
    return copy


def _at(model: onnx.ModelProto, scope: Scope) -> onnx.GraphProto | None:
    """The same scope in another copy of the model; None for functions, whose types only a call site knows."""
    if scope.address.function is not None:
        return None
    graph = model.graph
    for node, attribute, k in scope.address.nested:
        holder = graph.node[node].attribute[attribute]
        graph = holder.g if k < 0 else holder.graphs[k]
    return graph
