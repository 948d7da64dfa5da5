"""What is known of a value before anything runs: the constant it is, and its shape.

A constant is an initializer that no caller may replace, or any deterministic expression of constants. Expressions
are evaluated by onnx's own reference evaluator, never by a list of ours; only this is said here of operators: which
ones draw random numbers, which one the evaluator gets wrong, and which inputs are read for shape or type alone.
Where onnx's shape inference loses a rank, the planner asks the weight instead.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper

from bnfold.affine import Dim
from bnfold.graph import Graph
from bnfold.nodes import Node, Reader, Value, nested_graphs
from bnfold.ops.reasons import NOT_CONSTANT, OVERRIDABLE, QUANTIZED, SPARSE, Obstacle, Reason
from bnfold.shapes import Shapes

Array = NDArray[np.generic]
Answer = TypeVar("Answer")

METADATA_INPUTS = frozenset(
    {("Shape", 0), ("Size", 0), ("CastLike", 1), ("EyeLike", 0), ("RandomNormalLike", 0), ("RandomUniformLike", 0)}
)
"""(operator, input) pairs that look at a value's shape or type and never at what it holds."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)
MISCOMPUTED = frozenset({"BatchNormalization"})
"""The reference evaluator takes opset 9 to 13 for training."""

MOST_DIMENSIONS = 64
"""numpy's limit."""

LARGEST_EXPRESSION = 1 << 27
"""Elements of a computed constant: a gigabyte in float64."""

STRETCH = 1 << 18
"""Elements of a constant that are looked at together."""

QUANTIZED_SOURCES = frozenset({"DequantizeLinear"})
TENSOR_ATTRIBUTE = "value"


def cannot_be_evaluated(node: Node) -> bool:
    """Whether onnx's reference evaluator draws random numbers for a node, or gets it wrong."""
    return node.op in RANDOM | MISCOMPUTED


def reads_metadata_alone(reader: Reader) -> bool:
    """Whether a reader looks only at the shape or type of what it reads."""
    return (reader.node.op, reader.index) in METADATA_INPUTS


def max_size(part: NDArray[Any]) -> float:
    """The largest size in an array that is not empty, NaN where it holds one: without a copy of it."""
    most, least = float(np.maximum.reduce(part, axis=None)), float(np.minimum.reduce(part, axis=None))
    return most if most >= -least else -least  # NaN where both are that


@dataclass(frozen=True, slots=True)
class _Leaf:
    """Why an expression is no constant: what it depends on, or a sentence that says all."""

    reason: Reason
    what: str
    node: Node | None
    is_sentence: bool = False

    def obstacle(self, value: Value) -> Obstacle:
        """The same, said of the value that was asked for."""
        depends = f"{value.name!r} depends on {self.what}"
        if self.what.startswith(f"{value.name!r}, which"):
            depends = f"{value.name!r} is not constant"
        return Obstacle(self.reason, self.what if self.is_sentence else depends, self.node)


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A value known before anything runs; `array()` reads or computes it anew, so keep it no longer than needed."""

    value: Value
    dims: tuple[int, ...]
    data_type: int
    _source: TensorProto | Array = field(repr=False)
    _graph: Graph = field(repr=False)
    _largest: list[float] = field(default_factory=list, init=False, repr=False)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of its elements."""
        return helper.tensor_dtype_to_np_dtype(self.data_type)

    def array(self) -> Array:
        """The content, read-only, of shape `dims`."""
        return self._source if isinstance(self._source, np.ndarray) else self._graph.model.array(self._source)

    def in_float64(self) -> Constant:
        """The same numbers in float64, held."""
        return Constant(self.value, self.dims, TensorProto.DOUBLE, self.array().astype(np.float64), self._graph)

    def stretch(self, start: int, count: int) -> Array:
        """`count` elements from number `start` on, as a vector: of a large constant only these are read."""
        if isinstance(self._source, np.ndarray):
            return self._source.reshape(-1)[start : start + count]
        return self._graph.model.stretch(self._source, start, count)

    def largest(self) -> float:
        """The size of its largest element, of a type that counts as a float; NaN where one is that. Remembered."""
        if not self._largest:
            count, most = math.prod(self.dims), 0.0
            for start in range(0, count, STRETCH):
                part = self.stretch(start, min(STRETCH, count - start))
                size = max_size(part)
                most = size if math.isnan(size) else max(most, size)
                if math.isnan(most):
                    break
            self._largest.append(most)
        return self._largest[0]


class Facts:
    """Constants and shapes of one graph, computed on demand and remembered."""

    def __init__(self, graph: Graph, *, assume_inference: bool = False) -> None:
        self.graph = graph
        self.assume_inference = assume_inference
        self.shapes = Shapes(graph)
        self._computed: dict[int, Array | None] = {}
        self._said: dict[tuple[int, object], object] = {}
        self._held: dict[int, Constant | Obstacle | None] = {}
        self._called = _called(graph)

    @cached_property
    def order(self) -> tuple[Node, ...]:
        """All nodes, producers first."""
        return self.graph.producers_first()

    @cached_property
    def place(self) -> dict[int, int]:
        """The place of each node in that order, by its id."""
        return {node.id: i for i, node in enumerate(self.order)}

    def once(self, node: Node, function: Callable[[Facts, Node], Answer]) -> Answer:
        """What a function of the op table says of a node; asked again, the same answer."""
        key = node.id, function
        if key not in self._said:
            self._said[key] = function(self, node)
        return cast("Answer", self._said[key])

    def is_constant(self, value: Value) -> bool:
        """Whether a value is a constant as far as its expression goes: cheap to ask of any value."""
        direct = self._direct(value)
        return isinstance(direct, Constant) or (direct is None and value.id not in self._varying)

    def constant(self, value: Value) -> Constant | Obstacle:
        """The constant a value is, or what keeps it from being one."""
        found = self._direct(value)
        if found is not None:
            return found
        leaf = self._varying.get(value.id)
        if leaf is not None:
            return leaf.obstacle(value)
        array = self._evaluated(value)
        if array is None:
            return Obstacle(NOT_CONSTANT, f"{value.name!r} cannot be computed ahead", self.graph.producer(value))
        return Constant(value, array.shape, helper.np_dtype_to_tensor_dtype(array.dtype), array, self.graph)

    def integers(self, value: Value) -> tuple[int, ...] | None:
        """A list of integers (axes, a shape, a flag), a constant or computed from known sizes; or None."""
        found = self.elements(value)
        known = tuple(element for element in found or () if isinstance(element, int))
        return None if found is None or len(known) < len(found) else known

    def elements(self, value: Value) -> tuple[Dim, ...] | None:
        """The same as far as it is known: elsewhere a symbol, whose size it is, or None. None: not how many there are.

        This is how operators read what says where they act; what they compute with has to be constant.
        """
        constant = self.constant(value)
        if isinstance(constant, Obstacle):
            found = self.shapes.elements(value)
            return None if found is None or len(found) > MOST_DIMENSIONS else found
        if constant.dtype.kind not in "iub" or math.prod(constant.dims) > MOST_DIMENSIONS:
            return None
        return tuple(int(i) for i in constant.array().reshape(-1))

    def numbers(self, value: Value) -> tuple[float | None, ...] | None:
        """Numbers, constant or computed from sizes, None for those that are not known; None: not how many there are."""
        constant = self.constant(value)
        if isinstance(constant, Obstacle):
            return self.shapes.numbers(value)
        return tuple(constant.array().astype(np.float64).reshape(-1).tolist())

    def indices(self, value: Value) -> NDArray[np.int64] | None:
        """Which places an operator takes, a constant or computed from known sizes, in their shape; or None."""
        constant = self.constant(value)
        if isinstance(constant, Constant):
            return constant.array().astype(np.int64)
        found, shape = self.integers(value), self.shape(value)
        sizes = [size for size in shape or () if isinstance(size, int)]
        if found is None or shape is None or len(sizes) < len(shape):
            return None
        return np.array(found, np.int64).reshape(sizes)

    def shape(self, value: Value) -> tuple[Dim, ...] | None:
        """The dimensions as far as known: sizes, symbols, None; or None where not even the rank is known."""
        return self.shapes.shape(value)

    def _direct(self, value: Value) -> Constant | Obstacle | None:
        """The constant that a value is as it stands in the file; None for what would have to be computed."""
        if value.id not in self._held:
            self._held[value.id] = self._looked_up(value)
        return self._held[value.id]

    def _looked_up(self, value: Value) -> Constant | Obstacle | None:
        graph = self.graph
        initializer, node = graph.initializer(value), graph.producer(value)
        if initializer is None and graph.is_sparse(value):
            return Obstacle(SPARSE, f"{value.name!r} is a sparse initializer")
        if initializer is not None and graph.is_overridable(value):
            return Obstacle(OVERRIDABLE, f"{value.name!r} is an initializer and a graph input")
        tensor = initializer.tensor if initializer is not None else None if node is None else _constant_tensor(node)
        if tensor is None:
            return None
        dims = tuple(tensor.dims)
        if len(dims) > MOST_DIMENSIONS:
            return Obstacle(NOT_CONSTANT, f"{value.name!r} has more dimensions than can be computed with", node)
        return Constant(value, dims, tensor.data_type, tensor, graph)

    @cached_property
    def _varying(self) -> Mapping[int, _Leaf]:
        """What each value that is no constant depends on: one pass, producers first."""
        leaves: dict[int, _Leaf] = {}
        for node in self.order:
            leaf = self._leaf(node, leaves)
            if leaf is not None:
                leaves.update((value.id, leaf) for value in node.outputs if value is not None)
        produced = {value.id for node in self.graph.nodes for value in node.outputs if value is not None}
        for value in self.graph.values:
            if value.id not in produced and self._direct(value) is None:
                leaves[value.id] = _Leaf(NOT_CONSTANT, f"{value.name!r}, which is not constant", None)
        return leaves

    def _leaf(self, node: Node, leaves: Mapping[int, _Leaf]) -> _Leaf | None:
        """What keeps the outputs of a node from being constants; None where nothing does."""
        for i, operand in enumerate(node.inputs):
            if operand is None or self._stand_in(node, i) is not None:
                continue
            direct = self._direct(operand)
            if isinstance(direct, Obstacle):
                return _Leaf(direct.reason, direct.detail, direct.node, is_sentence=True)
            if direct is None and operand.id in leaves:
                return leaves[operand.id]
            if direct is None and self.graph.producer(operand) is None:
                return _Leaf(NOT_CONSTANT, f"{operand.name!r}, which is not constant", None)
        runs = self._runs(node)
        if runs & QUANTIZED_SOURCES:
            return _Leaf(QUANTIZED, "a DequantizeLinear", node)
        if runs & (RANDOM | MISCOMPUTED) or node.refers_to_attributes or any(nested_graphs(node.proto)):
            return _Leaf(NOT_CONSTANT, node.op, node)
        computed = (v for v in node.outputs if v is not None and self._direct(v) is None)
        huge = next((v for v in computed if self._is_huge(v)), None)
        return None if huge is None else _Leaf(NOT_CONSTANT, f"{huge.name!r}, too large to compute", node)

    def _is_huge(self, value: Value) -> bool:
        """Whether an expression is known to have more elements than anyone means: a few bytes of file can say 2^40."""
        sizes = [size for size in self.shape(value) or () if isinstance(size, int)]
        return math.prod(sizes) > LARGEST_EXPRESSION

    def _runs(self, node: Node) -> set[str]:
        """The operators that a node comes down to: its own, and those in the functions that it calls."""
        pending, found = [node.op], set[str]()
        while pending:
            op = pending.pop()
            if op not in found:
                found.add(op)
                pending += self._called.get(op, ())
        return found

    def _stand_in(self, node: Node, index: int) -> Array | None:
        """For an input that is read for its shape or type alone: zeros that have them and take no memory."""
        value = node.input(index)
        if value is None or (node.op, index) not in METADATA_INPUTS:
            return None
        direct = self._direct(value)
        if isinstance(direct, Constant):
            return np.broadcast_to(np.zeros((), helper.tensor_dtype_to_np_dtype(direct.data_type)), direct.dims)
        if node.op != "CastLike":
            return None
        element = self.shapes.element_type(value)
        return None if element is None else np.zeros(0, helper.tensor_dtype_to_np_dtype(element))

    def _evaluated(self, value: Value) -> Array | None:
        if value.id not in self._computed:
            self._computed[value.id] = self._evaluate(value)
        return self._computed[value.id]

    def _evaluate(self, value: Value) -> Array | None:
        """Run the expression behind a value in onnx's reference evaluator; None where that cannot compute it."""
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  # slow to import, and few models need it

        nodes, feeds = self._expression(value)
        protos = [_renamed(node, feeds.names[node.id]) for node in nodes]
        graph = helper.make_graph(
            protos,
            "expression",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None) for n, a in feeds],
            [onnx.ValueInfoProto(name=value.name)],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in value.scope.opsets.items()]
        model = helper.make_model(graph, opset_imports=opsets, functions=list(self.graph.model.proto.functions))
        try:
            (result,) = ReferenceEvaluator(model).run([value.name], feeds.arrays)
        except Exception:  # noqa: BLE001  # the evaluator raises anything for what it cannot run: then it is no constant
            return None
        return result if isinstance(result, np.ndarray) else np.asarray(result)

    def _expression(self, value: Value) -> tuple[list[Node], _Feeds]:
        """The nodes behind a constant expression, in order, and what is fed to them."""
        nodes: dict[int, Node] = {}
        feeds = _Feeds()
        pending = [value]
        while pending:
            node = self.graph.producer(pending.pop())
            if node is None or node.id in nodes:
                continue
            nodes[node.id] = node
            for i, operand in enumerate(node.inputs):
                if operand is None:
                    continue
                stand_in = self._stand_in(node, i)
                direct = self._direct(operand)
                if stand_in is not None:
                    feeds.add(node, i, stand_in)
                elif isinstance(direct, Constant):
                    feeds.add(node, i, direct.array())
                else:
                    pending.append(operand)
        return [nodes[i] for i in sorted(nodes)], feeds


def _called(graph: Graph) -> Mapping[str, set[str]]:
    """The operators in the bodies of the model's functions, by what the `op` of a call is."""
    bodies: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.scope.address.function is not None:
            bodies.setdefault(graph.call(node.scope.address.function), set()).add(node.op)
    return bodies


class _Feeds:
    """Arrays for the free inputs of an expression, each under a name of its own per reading node and place."""

    def __init__(self) -> None:
        self.names: dict[int, dict[int, str]] = defaultdict(dict)
        self.arrays: dict[str, Array] = {}

    def add(self, node: Node, index: int, array: Array) -> None:
        name = f"feed {node.id}.{index}"
        self.names[node.id][index] = name
        self.arrays[name] = array

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        return iter(self.arrays.items())


def _renamed(node: Node, names: Mapping[int, str]) -> onnx.NodeProto:
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    for index, name in names.items():
        proto.input[index] = name
    return proto


def _constant_tensor(node: Node) -> TensorProto | None:
    """The tensor that a Constant node holds as such; its other forms are evaluated like any expression."""
    if node.op != "Constant":
        return None
    found = next((a for a in node.proto.attribute if a.name == TENSOR_ATTRIBUTE), None)
    return found.t if found is not None and found.type == AttributeProto.TENSOR and not found.ref_attr_name else None


def constant_node(name: str, array: Array) -> onnx.NodeProto:
    """A Constant node: how a tensor enters a function, which has no initializers."""
    tensor = onnx.numpy_helper.from_array(array)
    return helper.make_node("Constant", [], [name], **{TENSOR_ATTRIBUTE: tensor})
