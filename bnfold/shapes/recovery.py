"""Inference again, node by node, where it lost a shape and an integer expression decides it.

onnx's inference of a whole model does not follow every expression from a Shape to the operand of a Reshape, and all
that lies behind such a node is lost with it. So a node whose output has no known shape is inferred once more, alone,
when more is known of what it reads than before: shapes that were recovered on the way, and the contents of its small
integer operands. One pass in the file's order, each node at most once; where nothing is lost, nothing runs.

Invariant: what was known is never replaced by something else, and what a body's inputs are is never inferred here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from bnfold.affine import Dim
from bnfold.graph import Graph
from bnfold.nodes import Node, Scope, Value
from bnfold.shapes.alone import LARGEST_OPERAND, Operand, inferred
from bnfold.shapes.contents import Contents
from bnfold.shapes.operators import Kind, counting_channels, kind_of, stated_by_weight
from bnfold.shapes.types import Key, Types, dims_of, element_of, is_lost, key_of, learned, shape_of, tensor_type

INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})


def recovered(graph: Graph, types: Types) -> Types:
    """The types that inference gave, completed."""
    walk = _Walk(graph, types)
    walk.visit(graph.scopes[0])
    return walk.types


class _Walk:
    """One pass over the nodes, bodies before the nodes that hold them; `types` grows."""

    def __init__(self, graph: Graph, types: Types) -> None:
        self.types = dict(types)
        self._graph = graph
        self._prefix = _unused_prefix(graph)
        self._symbols = _stated_symbols(graph)
        self._learned: set[Key] = set()
        self._contents = Contents(graph, self._shape, self._element_type)
        self._bodies: Mapping[tuple[str, int], list[Scope]] = defaultdict(list)
        for scope in graph.scopes:
            if scope.parent is not None:
                self._bodies[scope.parent.path, scope.address.nested[-1][0]].append(scope)

    def visit(self, scope: Scope) -> None:
        """Every node of a scope and of those nested in it; the nesting of a read model is at most 30 deep."""
        for node in self._graph.nodes_of(scope):
            for body in self._bodies_of(node):
                self.visit(body)
            if any(is_lost(self.types.get(key_of(v)), self._is_stated) for v in node.outputs if v is not None):
                self._infer(node)
                self._read_weight(node)
                self._count_channels(node)

    def _read_weight(self, node: Node) -> None:
        """A convolution's weight has as many dimensions as its output, whatever is known of its data."""
        weight, output = node.input(1), node.output(0)
        dims = None if weight is None else self._shape(weight)
        stated = None if dims is None else stated_by_weight(node, dims)
        if output is not None and stated is not None:
            self._learn(output, tensor_type(0, stated))

    def _count_channels(self, node: Node) -> None:
        """As many channels as a vector has numbers that the node applies to them."""
        vector, output = counting_channels(node), node.output(0)
        if vector is None or output is None:
            return
        dims, numbers = self._shape(output), self._shape(vector)
        if dims is None or len(dims) < 2 or numbers is None or len(numbers) != 1 or not isinstance(numbers[0], int):
            return
        self._learn(output, tensor_type(0, (dims[0], numbers[0], *dims[2:])))

    def _infer(self, node: Node) -> None:
        """Infer a node alone, if there is anything to tell of what it reads that inference did not know."""
        values = {v.name: v for v in (*node.inputs, *self._captured(node)) if v is not None}
        results = [(body.path, output.name) for body in self._bodies_of(node) for output in _outputs(body)]
        computed = [v for v in values.values() if self._is_computed(v)]
        told = {v.name: found for v in computed if (found := self._content(v)) is not None}
        if not told and self._learned.isdisjoint([*map(key_of, values.values()), *results]):
            return
        for v in values.values():
            if v.name not in told:
                told[v.name] = self._content(v) or Operand(v.name, self._type(v))
        for place, answer in inferred(node, self._completed(node), told.values(), self._prefix):
            self._learn(node.outputs[place], answer)

    def _learn(self, value: Value | None, answer: TypeProto) -> None:
        if value is None:
            return
        known = learned(self.types.get(key_of(value)), answer, self._is_stated)
        if known is not None:
            self.types[key_of(value)] = known
            self._learned.add(key_of(value))

    def _content(self, value: Value) -> Operand | None:
        """A value with what is known of its elements; None where that is nothing, or too much to be a shape."""
        shape, element = self._shape(value), self._element_type(value)
        if element is None or not _may_be_small(shape, element):
            return None
        content = self._contents.of(value)
        if content is None or content.numbers.ndim > 1 or content.numbers.size > LARGEST_OPERAND:
            return None
        kind = tensor_type(element, content.numbers.shape)
        if content.is_known:
            return Operand(value.name, kind, content=content.numbers)
        if element != TensorProto.INT64 or content.numbers.ndim != 1:
            return None
        return Operand(value.name, kind, sizes=self._contents.sizes(content))

    def _completed(self, node: Node) -> NodeProto:
        """The node, or a copy whose bodies state the types that were recovered of what they give."""
        bodies = self._bodies_of(node)
        if not bodies:
            return node.proto
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        for body in bodies:
            _, attribute, k = body.address.nested[-1]
            holder = copy.attribute[attribute]
            for output in (holder.g if k < 0 else holder.graphs[k]).output:
                if (body.path, output.name) in self._learned:
                    output.type.CopyFrom(self.types[body.path, output.name])
        return copy

    def _captured(self, node: Node) -> Iterator[Value]:
        """What the bodies of a node read from outside of them."""
        inside = self._bodies_of(node)
        for body in inside:  # grows
            for inner in self._graph.nodes_of(body):
                inside += self._bodies_of(inner)
        paths = {body.path for body in inside}
        for body in inside:
            for inner in self._graph.nodes_of(body):
                yield from (v for v in inner.inputs if v is not None and v.scope.path not in paths)

    def _bodies_of(self, node: Node) -> list[Scope]:
        return list(self._bodies.get((node.scope.path, node.index), ()))

    def _is_computed(self, value: Value) -> bool:
        """Whether a value is the result of an expression; what stands in the file inference has read itself."""
        producer = self._graph.producer(value)
        return producer is not None and kind_of(producer) is not Kind.CONSTANT

    def _is_stated(self, symbol: str) -> bool:
        return symbol in self._symbols

    def _shape(self, value: Value) -> tuple[Dim, ...] | None:
        return shape_of(self._graph, self.types, value)

    def _element_type(self, value: Value) -> int | None:
        return element_of(self._graph, self.types, value)

    def _type(self, value: Value) -> TypeProto:
        """All that is known of what a value is."""
        found = self._graph.initializer(value)
        if found is not None and not self._graph.is_overridable(value):
            return tensor_type(found.tensor.data_type, found.tensor.dims)
        return self.types.get(key_of(value), TypeProto())


def _may_be_small(shape: tuple[Dim, ...] | None, element: int) -> bool:
    """Whether a value may be a scalar or a short list; a float whose shape is not known is taken for data."""
    if shape is None:
        return element in INTEGERS
    return len(shape) <= 1 and math.prod(size for size in shape if isinstance(size, int)) <= LARGEST_OPERAND


def _outputs(body: Scope) -> Iterable[ValueInfoProto]:
    return body.proto.output if isinstance(body.proto, GraphProto) else ()


def _stated_symbols(graph: Graph) -> frozenset[str]:
    """The symbols of the model's inputs. All others are names that onnx or an exporter made up for what it lost."""
    types = [entry.type for entry in graph.model.proto.graph.input]
    return frozenset(d for entry in types for d in dims_of(entry) or () if isinstance(d, str))


def _unused_prefix(graph: Graph) -> str:
    prefix = "sizes of "
    while any(name.startswith(prefix) for name in graph.names):
        prefix += "the "
    return prefix
