"""Constants of one graph: evaluated node by node by onnx's reference evaluator, or else not constant.

A constant is an initializer that no caller can replace, or an expression of constants. A dequantised one is never
materialised: what stands behind it is compared as it is stored (quantized.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from bnfold.affine import Dim
from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.graph import Graph
from bnfold.nodes import Node, Value
from bnfold.shapes import Shapes

Float64 = NDArray[np.float64]

_FLOAT_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
FLOATS = frozenset(map(helper.tensor_dtype_to_np_dtype, _FLOAT_TYPES))
"""The types that an affine may be computed in. An integer one rounds, whatever the algebra says."""

_DRAWN = "is drawn at random"
_NOT_EVALUATED = {
    "DequantizeLinear": "is dequantised, and never made a constant of its own",
    "RandomNormal": _DRAWN,
    "RandomUniform": _DRAWN,
    "RandomNormalLike": _DRAWN,
    "RandomUniformLike": _DRAWN,
    "Multinomial": _DRAWN,
    "Bernoulli": _DRAWN,
}


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Sizes along an axis: how much stands before each input, of those that are known, and in all; who is unknown."""

    before: tuple[int, ...]
    total: int
    sizes: tuple[int | None, ...]
    unknown: frozenset[int]

    @classmethod
    def of(cls, sizes: tuple[int | None, ...]) -> SideBySide:
        """From the sizes of all inputs."""
        known = [size or 0 for size in sizes]
        before = tuple(accumulate(known, initial=0))
        return cls(before[:-1], before[-1], sizes, frozenset(i for i, size in enumerate(sizes) if size is None))


class Constants:
    """Constants of one graph, evaluated when first asked for.

    With `assume_inference` a BatchNormalization of before opset 7 is one at inference, whatever its `is_test` says.
    """

    def __init__(self, graph: Graph, *, assume_inference: bool = False) -> None:
        self.graph = graph
        self.assume_inference = assume_inference
        self.shapes = Shapes(graph)
        self._known: dict[int, NDArray[np.generic]] = {}
        self._sizes: dict[int, tuple[int | None, ...] | None] = {}
        self._elements: dict[int, tuple[Dim, ...] | UncertainError] = {}
        self._rows: dict[tuple[int, int, int], SideBySide] = {}

    def array(self, value: Value) -> NDArray[np.generic]:
        """The content of a constant value; raises UncertainError where it is none."""
        pending = [value]
        while pending:
            current = pending[-1]
            missing = [] if current.id in self._known else self._missing(current)
            if missing:
                pending += missing
                continue
            if current.id not in self._known:
                self._known[current.id] = self._computed(current)
            pending.pop()
        return self._known.pop(value.id) if self.graph.initializer(value) is not None else self._known[value.id]

    def floats(self, value: Value) -> NDArray[np.generic]:
        """The content of a constant of a floating-point type."""
        array = self.array(value)
        _check_floats(value, array.dtype)
        return array

    def kind(self, value: Value) -> np.dtype[np.generic]:
        """The floating-point type of a constant; an initializer is not read for that."""
        found = self.graph.initializer(value)
        if found is None or self.graph.is_overridable(value):
            return self.floats(value).dtype
        kind = helper.tensor_dtype_to_np_dtype(found.tensor.data_type)
        _check_floats(value, kind)
        return kind

    def shape(self, value: Value) -> tuple[int, ...] | None:
        """The shape of a constant, or None where the value is none."""
        found = self.graph.initializer(value)
        if found is not None:
            return tuple(found.tensor.dims)
        try:
            return self.array(value).shape
        except UncertainError:
            return None

    def sizes(self, value: Value) -> tuple[int | None, ...] | None:
        """The sizes of any value as far as they are known, or None where not even their number is."""
        if value.id not in self._sizes:
            shape = self.shapes.shape(value)
            known = None if shape is None else tuple(size if isinstance(size, int) else None for size in shape)
            self._sizes[value.id] = known
        return self._sizes[value.id]

    def elements(self, value: Value) -> tuple[Dim, ...]:
        """The integers of a constant, or of an expression of sizes as far as these are known: else symbols, or None.

        Raises UncertainError where not even how many there are is known.
        """
        if value.id not in self._elements:
            try:
                self._elements[value.id] = self._integers(value)
            except UncertainError as error:
                self._elements[value.id] = error
        found = self._elements[value.id]
        if isinstance(found, UncertainError):
            raise UncertainError(str(found))
        return found

    def integers(self, value: Value) -> tuple[int, ...]:
        """The integers of a constant, or of an expression of known sizes; UncertainError where one is not."""
        found = self.elements(value)
        known = tuple(element for element in found if isinstance(element, int))
        if len(known) < len(found):
            raise UncertainError(f"{value.name!r} depends on a size that is not known")
        return known

    def numbers(self, value: Value) -> tuple[float | None, ...]:
        """The numbers of a constant, or of an expression of sizes as far as these are known."""
        found = None if self._is_written(value) else self.shapes.numbers(value)
        if found is not None and None not in found:
            return found
        try:
            return tuple(float(number) for number in self.array(value).reshape(-1))
        except UncertainError:
            if found is None:
                raise
            return found

    def _is_written(self, value: Value) -> bool:
        """Whether a value stands in the file as a constant, and is no result."""
        node = self.graph.producer(value)
        return self.graph.initializer(value) is not None or (node is not None and node.op == "Constant")

    def _integers(self, value: Value) -> tuple[Dim, ...]:
        found = None if self._is_written(value) else self.shapes.elements(value)
        if found is not None and all(isinstance(element, int) for element in found):
            return found
        try:
            array = self.array(value)
        except UncertainError:
            if found is None:
                raise
            return found
        if array.dtype.kind not in "biu":
            raise UncertainError(f"{value.name!r} holds no integers")
        return tuple(int(element) for element in array.reshape(-1))

    def side_by_side(self, node: Node, rank: int, axis: int) -> SideBySide:
        """The inputs of a node of several values, one behind the other along an axis; found out once."""
        key = node.id, rank, axis
        if key not in self._rows:
            found = (None if value is None else self.sizes(value) for value in node.inputs)
            self._rows[key] = SideBySide.of(tuple(None if s is None or len(s) != rank else s[axis] for s in found))
        return self._rows[key]

    def vector(self, value: Value | None) -> Float64:
        """A constant vector in float64."""
        if value is None:
            raise UncertainError("a parameter is missing")
        vector = self.array(value).astype(np.float64)
        if vector.ndim != 1:
            raise UncertainError(f"{value.name!r} is no vector")
        return vector

    def _missing(self, value: Value) -> list[Value]:
        node = self.graph.producer(value)
        if node is None or self.graph.initializer(value) is not None:
            return []
        refusal = _NOT_EVALUATED.get(node.op)
        if refusal is not None:
            raise UncertainError(f"{value.name!r} {refusal}")
        return [v for i, v in enumerate(node.inputs) if v and v.id not in self._known and not _of_type_alone(node, i)]

    def _computed(self, value: Value) -> NDArray[np.generic]:
        initializer, node = self.graph.initializer(value), self.graph.producer(value)
        if self.graph.is_overridable(value):
            raise UncertainError(f"{value.name!r} is only a default, which a caller may replace")
        if initializer is not None:
            return self.graph.model.array(initializer.tensor)
        if node is None:
            raise UncertainError(f"{value.name!r} is not constant")
        literal = node.op == "Constant" and any(a.type == onnx.AttributeProto.TENSOR for a in node.proto.attribute)
        if literal:
            return self.graph.model.array(node.proto.attribute[0].t)
        return self._run(node, value)

    def _run(self, node: Node, value: Value) -> NDArray[np.generic]:
        feeds = {operand.name: self._fed(node, i, operand) for i, operand in enumerate(node.inputs) if operand}
        opsets = [helper.make_opsetid(domain, version) for domain, version in node.scope.opsets.items()]
        infos = [onnx.ValueInfoProto(name=name) for name in feeds]
        graph = helper.make_graph([node.proto], "node", infos, [onnx.ValueInfoProto(name=value.name)])
        try:
            results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run([value.name], feeds)
            return np.asarray(next(iter(results)))
        except Exception as error:  # the evaluator raises anything for what it cannot run
            raise UncertainError(f"{value.name!r} cannot be recomputed: {error}") from error

    def _fed(self, node: Node, index: int, operand: Value) -> NDArray[np.generic]:
        if not _of_type_alone(node, index):
            return self._known[operand.id]
        element = self.shapes.element_type(operand)
        if element is None:
            raise UncertainError(f"the type of {operand.name!r} is not known")
        return np.zeros(0, helper.tensor_dtype_to_np_dtype(element))


def _check_floats(value: Value, kind: np.dtype[np.generic]) -> None:
    if kind not in FLOATS:
        raise DeviationError(f"{value.name!r} is of the type {kind}, in which no affine is exact")


def _of_type_alone(node: Node, index: int) -> bool:
    return node.op == "CastLike" and index == 1


def attribute(node: Node, name: str) -> onnx.AttributeProto | None:
    """An attribute of a node; raises UncertainError where only a caller of the function that holds it knows it."""
    found = next((a for a in node.proto.attribute if a.name == name), None)
    if found is not None and found.ref_attr_name:
        raise UncertainError(f"{name} of {node.site} is a parameter of the function that holds it")
    return found


def int_of(node: Node, name: str, default: int) -> int:
    """An integer attribute."""
    found = attribute(node, name)
    return default if found is None else found.i


def float_of(node: Node, name: str, default: float) -> float:
    """A float attribute."""
    found = attribute(node, name)
    return default if found is None else found.f


def ints_of(node: Node, name: str) -> tuple[int, ...] | None:
    """A list of integers."""
    found = attribute(node, name)
    return None if found is None else tuple(found.ints)


def text_of(node: Node, name: str) -> str:
    """A string attribute, "" where it is absent."""
    found = attribute(node, name)
    return "" if found is None else found.s.decode("utf-8", "replace")


def product(sizes: Iterable[int]) -> int:
    """The number of elements of a shape."""
    return int(np.prod(tuple(sizes), dtype=np.int64))
