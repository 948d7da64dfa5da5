"""How the elements of what an operator gives depend on those it reads, and the evaluator that computes them.

What an operator computes is asked of onnx's reference evaluator. Only this is said of operators here, and an
operator of which nothing is said is not followed:

    MOVING        each element of the output is an element of the data, chosen by the shapes and the other inputs,
                  never by the data
    ELEMENTWISE   each element of the output depends on the elements at its place in the broadcast inputs, alone
    CHOOSING      moving where what it chooses by is known, elementwise in any case
    WHOLE         the output is a function of the inputs, exact in integers

Before opset 7 operators broadcast by attributes of their own, and none is followed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum, auto

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper

from bnfold.affine import Dim
from bnfold.nodes import Node, Value

Array = NDArray[np.generic]

FIRST_OPSET = 7

LARGEST_CONTENT = 1 << 14
"""Elements of an expression that is evaluated: far more than any shape takes, and little to keep of each node."""

EVERY_INPUT = -1


class Kind(Enum):
    """How the elements of the outputs depend on those of the inputs."""

    CONSTANT = auto()
    SHAPE = auto()
    SIZE = auto()
    CAST = auto()
    MOVING = auto()
    CHOOSING = auto()
    ELEMENTWISE = auto()
    WHOLE = auto()


_DATA: Mapping[str, tuple[int, ...]] = {
    "Concat": (EVERY_INPUT,),
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Identity": (0,),
    "Reshape": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}
"""Moving operator -> the inputs that are its data."""

_ELEMENTWISE = (
    "Abs", "Add", "And", "Ceil", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Round", "Sign", "Sqrt", "Sub", "Xor",
)  # fmt: skip
"""Those that are exact: integers, or one correctly rounded operation of IEEE 754."""

_WHOLE = ("ConstantOfShape", "CumSum", "NonZero", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Range")

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(_DATA, Kind.MOVING),
    **dict.fromkeys(_ELEMENTWISE, Kind.ELEMENTWISE),
    **dict.fromkeys(_WHOLE, Kind.WHOLE),
    "Cast": Kind.CAST,
    "Constant": Kind.CONSTANT,
    "Shape": Kind.SHAPE,
    "Size": Kind.SIZE,
    "Where": Kind.CHOOSING,
}

_REPEATED_BY_SIZE: Mapping[str, tuple[int, ...]] = {"Gather": (1,), "GatherElements": (1,), "GatherND": (1,)}
"""Operator -> the inputs whose every element may bring all of the data once more."""

_REPEATED_BY_CONTENT: Mapping[str, tuple[int, ...]] = {"ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,)}
"""Operator -> the inputs whose elements are factors of the output's size."""

_NUMBERED: Mapping[str, tuple[int, int, int]] = {"Range": (0, 1, 2)}
"""Operator -> its inputs that say from which number up to which it goes, and by what step."""

_RESHAPED: Mapping[str, tuple[int, int]] = {"Reshape": (0, 1)}

_SAME_MEANING: Mapping[str, int] = {"Expand": 13, "Reshape": 14}
"""Operator -> the version from which on onnx infers from a shape that is partly known; it means what older ones do."""

NUMBER_TYPES = frozenset(
    {
        TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8,
        TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64, TensorProto.FLOAT, TensorProto.DOUBLE,
    }
)  # fmt: skip
"""The types that numpy computes in as every runtime does; halves are rounded here and there differently."""
_DTYPES = frozenset(helper.tensor_dtype_to_np_dtype(element) for element in NUMBER_TYPES)


class Evaluator:
    """onnx's reference evaluator of single nodes; nodes that differ in names alone share one."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[int, bytes], onnx.reference.ReferenceEvaluator] = {}

    def run(self, node: Node, operands: Sequence[Array | None]) -> list[Array] | None:
        """The outputs of a node, None where the evaluator cannot tell; operands that are absent are None."""
        if any(_tensor_outside(a) for a in node.proto.attribute):
            return None
        feeds = {f"i{i}": operand for i, operand in enumerate(operands) if operand is not None}
        try:
            with np.errstate(all="ignore"):
                results = self._session(node, operands).run(None, feeds)
        except Exception:  # noqa: BLE001  # the evaluator raises anything for what it cannot run: then nothing is known
            return None
        arrays = [np.asarray(result) for result in results]
        return arrays if all(array.dtype in _DTYPES for array in arrays) else None

    def _session(self, node: Node, operands: Sequence[Array | None]) -> onnx.reference.ReferenceEvaluator:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  # slow to import, and few models need it

        plain = onnx.NodeProto()
        plain.op_type = node.proto.op_type
        plain.input.extend("" if operand is None else f"i{i}" for i, operand in enumerate(operands))
        plain.output.extend(f"o{i}" for i in range(len(node.outputs)))
        plain.attribute.extend(node.proto.attribute)
        opset = node.scope.opset
        key = (opset, plain.SerializeToString(deterministic=True))
        if key not in self._sessions:
            inputs = [onnx.ValueInfoProto(name=name) for name in plain.input if name]
            outputs = [onnx.ValueInfoProto(name=name) for name in plain.output]
            graph = helper.make_graph([plain], "expression", inputs, outputs)
            self._sessions[key] = ReferenceEvaluator(
                helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
            )
        return self._sessions[key]


_CHANNELS: Mapping[str, int] = {"BatchNormalization": 1}
"""By operator: the vector of which the data and the output have one channel for each number, or nothing is run."""


def counting_channels(node: Node) -> Value | None:
    """The vector that has as many numbers as the output of a node has channels (axis 1); None for most."""
    index = _CHANNELS.get(node.op)
    return None if index is None else node.input(index)


_CONVOLUTIONS: Mapping[str, int] = {"Conv": 0, "ConvTranspose": 1}
"""By operator: the axis of the weight that counts the output's channels, of each group where it is not the first."""
_LEAST_OF_A_CONVOLUTION = 3


def stated_by_weight(node: Node, weight: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """What the weight of a convolution says of its output, given the dimensions of that: the rank, and the channels."""
    axis = _CONVOLUTIONS.get(node.op)
    if axis is None or len(weight) < _LEAST_OF_A_CONVOLUTION or node.refers_to_attributes:
        return None
    each, groups = weight[axis], node.int_attribute("group", 1) if axis else 1
    return (None, each * groups if isinstance(each, int) else None, *[None] * (len(weight) - 2))


def kind_of(node: Node) -> Kind | None:
    """How the elements of what a node gives depend on what it reads, None where nothing is said of it."""
    return _KINDS.get(node.op) if node.scope.opset >= FIRST_OPSET else None


def written(node: Node) -> TensorProto | None:
    """The tensor that a Constant holds, where it holds one."""
    attribute = node.proto.attribute[0] if len(node.proto.attribute) == 1 else None
    return attribute.t if attribute is not None and attribute.type == AttributeProto.TENSOR else None


def opset_for_inference(node: Node) -> int:
    """The version of ONNX's operators in which inference of a node alone knows most."""
    return max(node.scope.opset, _SAME_MEANING.get(node.op, 0)) if node.scope.opset >= FIRST_OPSET else node.scope.opset


def reshaped(node: Node) -> tuple[Value, Value] | None:
    """What a Reshape reads and the shape that it makes of it, where a 0 in that shape copies."""
    places = _RESHAPED.get(node.op, ())
    values = [value for value in map(node.input, places) if value is not None]
    if len(values) < 2 or node.int_attribute("allowzero", 0):
        return None
    return values[0], values[1]


def data_inputs(node: Node) -> frozenset[int]:
    """The inputs of a moving operator whose elements it moves; none of another operator."""
    listed = _DATA.get(node.op, ())
    return frozenset(range(len(node.inputs))) if EVERY_INPUT in listed else frozenset(listed)


def too_large(node: Node, operands: Sequence[Array | None]) -> bool:
    """Whether the output may have more elements than are evaluated: a few bytes of a file can say 2^40."""
    sizes = [0 if operand is None else operand.size for operand in operands]
    if kind_of(node) in {Kind.CHOOSING, Kind.ELEMENTWISE}:
        return _broadcast_size([operand.shape for operand in operands if operand is not None]) > LARGEST_CONTENT
    numbered = _NUMBERED.get(node.op)
    if numbered is not None:
        return _counted([operands[place] for place in numbered]) > LARGEST_CONTENT
    bound = max(sum(sizes), 1)
    for place in _REPEATED_BY_SIZE.get(node.op, ()):
        bound *= max(sizes[place], 1)
    for place in _REPEATED_BY_CONTENT.get(node.op, ()):
        operand = operands[place]
        bound *= 1 if operand is None else math.prod(max(abs(int(factor)), 1) for factor in operand.reshape(-1))
    return bound > LARGEST_CONTENT


def _counted(operands: Sequence[Array | None]) -> int:
    """How many numbers there are from a first one up to a last one by a step; none where nothing runs."""
    given = [int(operand.reshape(())) for operand in operands if operand is not None and operand.size == 1]
    if len(given) != 3 or not given[2]:
        return 0
    first, last, step = given
    return max(0, -((first - last) // step))


def _broadcast_size(shapes: Sequence[tuple[int, ...]]) -> int:
    """How many elements arrays have when broadcast together; none where they do not broadcast: then nothing runs."""
    try:
        return math.prod(np.broadcast_shapes(*shapes))
    except ValueError:
        return 0


def _tensor_outside(attribute: onnx.AttributeProto) -> bool:
    return attribute.t.data_location == TensorProto.EXTERNAL
