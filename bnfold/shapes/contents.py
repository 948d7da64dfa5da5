"""What is known of the elements of an integer expression: a number, the size that a symbol stands for, or nothing.

Each element has a mark: 0 where its number is known, k > 0 where it equals the size of symbol k, UNKNOWN otherwise.
Why no element is ever known wrongly, whatever sizes the symbols and the unknown dimensions take:

    Shape         an element is the dimension at its place: the operator is run on an array of shape (1, 2, 3, ...),
                  whose answer says which place that is
    moving        its other inputs known, the operator moves every array in the same way: it moves the numbers, and
                  run on the marks it moves those along with them; numbers that coincide are not confused, for
                  nothing is told by its number
    elementwise   known where all the elements at its place are; what is not known is 1 while the operator runs, and
                  its result is dropped. So a quotient, a remainder, a maximum or a comparison of something unknown
                  is unknown, and so is a sum or a product
    whole         known where every element of every input is
    Cast          a symbol stays one between integers of 32 bits and more (onnx's inference takes sizes to fit, too)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bnfold.affine import Dim
from bnfold.errors import InputRefused
from bnfold.graph import Graph
from bnfold.nodes import Node, Value
from bnfold.shapes.operators import (
    LARGEST_CONTENT,
    NUMBER_TYPES,
    Array,
    Evaluator,
    Kind,
    data_inputs,
    kind_of,
    too_large,
    written,
)

Marks = NDArray[np.int64]

UNKNOWN = -1
HIGHEST_RANK = 20
"""(1, 2, ..., 20) is the largest shape of its kind that an array may have."""

WIDE = frozenset({np.dtype(np.int32), np.dtype(np.int64)})
LARGEST_COUNTED = 1 << 62
"""Beyond it no array can be described, not even one that takes no memory."""

LARGEST_TRUNCATED = 1 << 31
"""From here on what a float becomes as an integer depends on the machine."""


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The numbers of a tensor and their marks, of one shape; the number of what is not known says nothing."""

    numbers: Array
    marks: Marks

    @property
    def is_known(self) -> bool:
        """Whether every element is a known number."""
        return not self.marks.any()


Operands = Sequence[Content | None]


class Contents:
    """Contents of the values of one graph, followed on demand and remembered."""

    def __init__(
        self,
        graph: Graph,
        shape: Callable[[Value], tuple[Dim, ...] | None],
        element_type: Callable[[Value], int | None],
    ) -> None:
        self._graph = graph
        self._shape = shape
        self._element_type = element_type
        self._evaluator = Evaluator()
        self._marks: dict[str, int] = {}
        self._entered: set[int] = set()
        self._found: dict[int, Content | None] = {}

    def of(self, value: Value) -> Content | None:
        """What is known of a value's elements; None where not even how many there are, or where they are too many."""
        pending = [value]
        while pending:
            missing = self._missing(pending[-1])
            if missing:
                pending += missing
                continue
            current = pending.pop()
            if current.id not in self._found:
                self._find(current)
        return self._found[value.id]

    def sizes(self, content: Content) -> tuple[Dim, ...]:
        """The elements, in order, as dimensions: numbers, symbols, None."""
        symbols = list(self._marks)
        pairs = zip(content.numbers.reshape(-1), content.marks.reshape(-1), strict=True)
        return tuple(int(n) if not m else symbols[m - 1] if m > 0 else None for n, m in pairs)

    def _missing(self, value: Value) -> list[Value]:
        """What must be found before a value, asked once: in a cycle, which is no model, nothing is known."""
        node = self._followed(value)
        if node is None or value.id in self._entered or kind_of(node) in {Kind.SHAPE, Kind.SIZE}:
            return []
        self._entered.add(value.id)
        return [operand for operand in node.inputs if operand is not None and operand.id not in self._found]

    def _followed(self, value: Value) -> Node | None:
        node = self._graph.producer(value)
        if node is None or node.scope.address.function is not None or kind_of(node) is None:
            return None
        return node

    def _find(self, value: Value) -> None:
        """Everything that the producer of a value gives, all of its operands found."""
        node = self._followed(value)
        found = None if node is None else self._computed(node)
        outputs = () if node is None or found is None else zip(node.outputs, found, strict=True)
        for output, content in outputs:
            if output is not None:
                self._found[output.id] = content
        if value.id not in self._found:
            self._found[value.id] = self._leaf(value)

    def _leaf(self, value: Value) -> Content | None:
        """An initializer, or as many unknown elements as the value is known to have."""
        initializer = self._graph.initializer(value)
        if initializer is not None and not self._graph.is_overridable(value):
            return self._read(initializer.tensor)
        shape, element = self._shape(value), self._element_type(value)
        dtype = None if element is None else _number_type(element)
        if shape is None or dtype is None or dtype.kind == "f":
            return None
        sizes = [size for size in shape if isinstance(size, int)]
        if len(sizes) < len(shape) or math.prod(sizes) > LARGEST_CONTENT:
            return None
        return Content(np.ones(sizes, dtype), np.full(sizes, UNKNOWN))

    def _read(self, tensor: TensorProto) -> Content | None:
        if _number_type(tensor.data_type) is None or math.prod(tensor.dims) > LARGEST_CONTENT:
            return None
        try:
            array = self._graph.model.array(tensor)
        except InputRefused:  # what cannot be read tells nothing here; whoever needs it for more will say so
            return None
        return _known(array)

    def _computed(self, node: Node) -> list[Content | None] | None:
        kind = kind_of(node)
        if kind is Kind.CONSTANT:
            return self._constant(node)
        if kind in {Kind.SHAPE, Kind.SIZE}:
            return self._counted(node, kind)
        operands = [None if v is None else self._found.get(v.id) for v in node.inputs]
        present = [operand for v, operand in zip(node.inputs, operands, strict=True) if v is not None]
        if not present or any(operand is None for operand in present):
            return None
        if kind is Kind.CAST:
            return self._cast(node, operands)
        if kind is Kind.WHOLE:
            return self._whole(node, operands)
        moved = self._moved(node, operands) if kind is not Kind.ELEMENTWISE else None
        return moved if moved is not None or kind is Kind.MOVING else self._elementwise(node, operands)

    def _constant(self, node: Node) -> list[Content | None] | None:
        tensor = written(node)
        if tensor is not None:
            return [self._read(tensor)]
        return self._run(node, [])

    def _counted(self, node: Node, kind: Kind | None) -> list[Content | None] | None:
        value = node.input(0)
        dims = None if value is None else self._shape(value)
        if dims is None or len(dims) > HIGHEST_RANK:
            return None
        if kind is Kind.SHAPE:
            places = self._evaluator.run(node, [_of_shape(range(1, len(dims) + 1))])
            return None if places is None else [self._of_sizes([dims[int(place) - 1] for place in places[0]])]
        sizes = [size for size in dims if isinstance(size, int)]
        if len(sizes) < len(dims) or math.prod(sizes) >= LARGEST_COUNTED:
            return None
        return self._run(node, [_of_shape(sizes)])

    def _of_sizes(self, dims: Sequence[Dim]) -> Content:
        numbers = np.array([size if isinstance(size, int) else 1 for size in dims], np.int64)
        marks = [0 if isinstance(d, int) else UNKNOWN if d is None else self._mark(d) for d in dims]
        return Content(numbers, np.array(marks, np.int64))

    def _mark(self, symbol: str) -> int:
        return self._marks.setdefault(symbol, len(self._marks) + 1)

    def _run(self, node: Node, operands: Sequence[Array | None]) -> list[Content | None] | None:
        """Of known operands, known results."""
        results = self._evaluator.run(node, operands)
        return None if results is None else [_known(result) for result in results]

    def _whole(self, node: Node, operands: Operands) -> list[Content | None] | None:
        numbers = [None if operand is None else operand.numbers for operand in operands]
        known = all(operand is None or (operand.is_known and _is_integer(operand)) for operand in operands)
        return self._run(node, numbers) if known and not too_large(node, numbers) else None

    def _moved(self, node: Node, operands: Operands) -> list[Content | None] | None:
        data = data_inputs(node)
        numbers = [None if operand is None else operand.numbers for operand in operands]
        steered = all(operand is None or i in data or operand.is_known for i, operand in enumerate(operands))
        if not steered or too_large(node, numbers):
            return None
        results = self._evaluator.run(node, numbers)
        if results is None:
            return None
        if all(operand is None or operand.is_known for operand in operands):
            return [_known(result) for result in results]
        marks = [o if o is None else o.marks if i in data else o.numbers for i, o in enumerate(operands)]
        moved = self._evaluator.run(node, marks)
        if moved is None:
            return None
        return [Content(number, mark.astype(np.int64)) for number, mark in zip(results, moved, strict=True)]

    def _elementwise(self, node: Node, operands: Operands) -> list[Content | None] | None:
        present = [operand for operand in operands if operand is not None]
        if too_large(node, [operand.numbers for operand in present]):
            return None
        results = self._evaluator.run(node, [None if o is None else _filled(o) for o in operands])
        if results is None:
            return None
        shape = results[0].shape
        unknown = np.any([np.broadcast_to(operand.marks != 0, shape) for operand in present], axis=0)
        return [Content(results[0], np.where(unknown, UNKNOWN, 0))]

    def _cast(self, node: Node, operands: Operands) -> list[Content | None] | None:
        source = operands[0]
        results = None if source is None else self._evaluator.run(node, [_filled(source)])
        if source is None or results is None or results[0].shape != source.marks.shape:
            return None
        target = results[0].dtype
        if source.numbers.dtype.kind == "f" and target.kind in "iu" and not _truncates(_filled(source)):
            return None
        if source.numbers.dtype in WIDE and target in WIDE:
            return [Content(results[0], source.marks)]
        return [Content(results[0], np.where(source.marks != 0, UNKNOWN, 0))]


def _known(array: Array) -> Content:
    return Content(array, np.zeros(array.shape, np.int64))


def _filled(content: Content) -> Array:
    """The numbers, and 1 where none is known: not 0, by which nothing is divided."""
    if content.is_known:
        return content.numbers
    return np.where(content.marks == 0, content.numbers, np.ones((), content.numbers.dtype))


def _of_shape(sizes: Sequence[int]) -> Array:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.bool_), tuple(sizes))


def _number_type(element: int) -> np.dtype[np.generic] | None:
    """The dtype of a TensorProto data type, where it is a number to compute with."""
    if element not in NUMBER_TYPES:
        return None
    return helper.tensor_dtype_to_np_dtype(element)


def _is_integer(content: Content) -> bool:
    return content.numbers.dtype.kind in "biu"


def _truncates(array: Array) -> bool:
    """Whether floats become integers in the same way everywhere."""
    return bool(np.all(np.abs(array) < LARGEST_TRUNCATED))  # NaN is below nothing
