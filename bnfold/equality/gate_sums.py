"""What the gates of an LSTM, GRU or RNN sum, laid open as an output of both models, for sites to be compared there.

    sums = X*W^T + Wb + Rb        for each row of W in each direction

An LSTM has no S, and how far it jitters says little where its gates are saturated. But all that it makes of its data
goes through these sums, which are linear: they have an S, a gain and an offset for each row. A GRU with
linear_before_reset multiplies Rb of its last gate by something, and adds only the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, helper, numpy_helper

from bnfold.equality.pieces import Source
from bnfold.graph import Graph
from bnfold.nodes import Node
from bnfold.shapes import Shapes

_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
_W, _B, _DIMENSIONS = 1, 3, 3
_SUM_BROADCASTS: Final = 8
"""The opset from which on operands of a Sum need not have one shape."""


@dataclass(frozen=True, slots=True)
class Gates:
    """Whose sums a value holds: the node in the rewritten model, and what it puts out. `made_at` makes the value."""

    node: str
    output: str
    made_at: str


def with_gate_sums(before: Source, after: Source) -> tuple[Source, Source, Mapping[str, Gates]]:
    """Both models with the sums as further outputs, and whose each is, by its name.

    Those of nodes that both models have by the name of the same output, with as many rows.
    """
    ours, theirs = dict(_recurrent(before.graph)), dict(_recurrent(after.graph))
    common = [key for key in ours if key in theirs and ours[key].rows == theirs[key].rows]
    names = {key: f"{key[1]} (the sums in its gates)" for key in common}
    taken = before.graph.names | after.graph.names
    common = [key for key in common if not any(name.startswith(names[key]) for name in taken)]
    if not common:
        return before, after, {}
    one = _laid_open(before, {names[key]: ours[key] for key in common})
    other = _laid_open(after, {names[key]: theirs[key] for key in common})
    return one, other, {names[key]: _whose(other.graph, names[key], theirs[key].node, key[1]) for key in common}


def _whose(graph: Graph, name: str, node: Node, output: str) -> Gates:
    made = next(maker for maker in graph.nodes if name in maker.proto.output)
    return Gates(str(node.site), output, str(made.site))


@dataclass(frozen=True, slots=True, eq=False)
class _Recurrent:
    """A node whose sums can be laid open: the shape of its W, and the type of its elements."""

    node: Node
    shape: tuple[int, int, int]
    element_type: int

    @property
    def rows(self) -> tuple[int, int]:
        """Directions, and rows of W in each."""
        return self.shape[:2]

    @property
    def adds_all(self) -> bool:
        """Whether every Rb is a term of the sum."""
        return not self.node.int_attribute("linear_before_reset", 0)


def _recurrent(graph: Graph) -> Iterator[tuple[tuple[str, str], _Recurrent]]:
    nodes = [node for node in graph.nodes_of(graph.scopes[0]) if node.op in _GATES]
    shapes = Shapes(graph) if nodes else None
    for node in nodes:
        output = next((value for value in node.outputs if value is not None), None)
        weight = node.input(_W)
        if shapes is None or output is None or weight is None or node.input(0) is None:
            continue
        dims = tuple(size for size in shapes.shape(weight) or () if isinstance(size, int))
        kind = shapes.element_type(weight)
        if len(dims) == len(shapes.shape(weight) or ()) == _DIMENSIONS and kind:
            yield (node.op, output.name), _Recurrent(node, (dims[0], dims[1], dims[2]), kind)


def _laid_open(source: Source, sums: Mapping[str, _Recurrent]) -> Source:
    """A model with further nodes behind its own, so that these keep their places."""
    proto = onnx.ModelProto()
    proto.CopyFrom(source.file.proto)
    for name, found in sums.items():
        _Sums(proto.graph, name, found).add()
        proto.graph.output.add().name = name
    return Source(Graph.of(replace(source.file, proto=proto)), source.path)


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """The nodes that compute the sums of one node."""

    graph: GraphProto
    name: str
    found: _Recurrent

    def add(self) -> None:
        """Add them; the last one bears the name of the sums."""
        data, weight = (self.found.node.proto.input[index] for index in (0, _W))
        directions, rows = self.found.rows
        whole = self.reshaped(weight, directions * rows, self.found.shape[2])
        columns = self.node("Transpose", [whole])
        bias = self.found.node.input(_B)
        sums = self.node("MatMul", [data, columns])
        if bias is not None:
            sums = self.summed(sums, self.biases(bias.name))
        # The rows on axis 1, where channels are looked for.
        made = helper.make_node("Transpose", [sums], [self.name], perm=[0, 2, 1])
        self.graph.node.append(made)

    def summed(self, sums: str, biases: tuple[str, ...]) -> str:
        """In one sum where that broadcasts, so that S counts each: both were rounded, however much they cancel."""
        if self.found.node.scope.opset >= _SUM_BROADCASTS:
            return self.node("Sum", [sums, *biases])
        return self.node("Add", [sums, self.node("Add", list(biases))])

    def biases(self, bias: str) -> tuple[str, ...]:
        """Wb and those Rb that are added like it."""
        directions, rows = self.found.rows
        parts = [self.reshaped(self.half(bias, first), directions * rows) for first in (0, rows)]
        if not self.found.adds_all:
            parts[1] = self.node("Mul", [parts[1], self.mask()])
        return tuple(parts)

    def half(self, bias: str, first: int) -> str:
        """Wb or Rb of each direction."""
        rows = self.constant(np.arange(first, first + self.found.rows[1]))
        return self.node("Gather", [bias, rows], helper.make_attribute("axis", 1))

    def mask(self) -> str:
        """Ones, and zeros for the last gate."""
        directions, rows = self.found.rows
        added = np.arange(rows) < rows - rows // _GATES[self.found.node.op]
        kind = helper.tensor_dtype_to_np_dtype(self.found.element_type)
        return self.constant(np.tile(added, directions).astype(kind))

    def reshaped(self, name: str, *shape: int) -> str:
        return self.node("Reshape", [name, self.constant(np.array(shape))])

    def constant(self, array: np.ndarray) -> str:
        name = f"{self.name} {len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], *attributes: AttributeProto) -> str:
        name = f"{self.name} {op} {len(self.graph.node)}"
        self.graph.node.append(helper.make_node(op, inputs, [name]))
        self.graph.node[-1].attribute.extend(attributes)
        return name
