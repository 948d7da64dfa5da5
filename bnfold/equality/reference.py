"""What each operator means, in float64 and written from ONNX's text: the certificate's own knowledge of operators.

It shares nothing with the op table of the folding side, so that a wrong axis there does not certify itself. Layout
is followed by carrying labels: an integer array that says, for each element of a value, which output channel of
the home it came from. A layout operator moves labels exactly as it moves values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from bnfold.equality.structure import DeviationError
from bnfold.graph import Graph
from bnfold.nodes import Node, Reader, Value
from bnfold.shapes import Shapes

Float64 = NDArray[np.float64]
Labels = NDArray[np.int64]

LARGEST_LABELS = 1 << 26


class UncertainError(Exception):
    """Something that the certificate cannot follow; the message says what, as one sentence."""


class Constants:
    """Constants of one graph, evaluated node by node by onnx's reference evaluator."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes = Shapes(graph)
        self._known: dict[int, NDArray[np.generic]] = {}

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

    def shape(self, value: Value) -> tuple[int, ...] | None:
        """The shape of a constant, or None where the value is none."""
        found = self.graph.initializer(value)
        if found is not None:
            return tuple(found.tensor.dims)
        try:
            return self.array(value).shape
        except UncertainError:
            return None

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
        return [v for i, v in enumerate(node.inputs) if v and v.id not in self._known and not _of_type_alone(node, i)]

    def _computed(self, value: Value) -> NDArray[np.generic]:
        initializer, node = self.graph.initializer(value), self.graph.producer(value)
        if self.graph.is_overridable(value):
            raise UncertainError(f"{value.name!r} is only a default, which a caller may replace")
        if initializer is not None:
            return self.graph.model.array(initializer.tensor)
        if node is None:
            raise UncertainError(f"{value.name!r} is not constant")
        if node.op == "Constant" and node.proto.attribute[0].type == onnx.AttributeProto.TENSOR:
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


def _of_type_alone(node: Node, index: int) -> bool:
    return node.op == "CastLike" and index == 1


@dataclass(frozen=True, slots=True, eq=False)
class Normalization:
    """A BatchNormalization at inference: y = scale*x + shift per channel, and the sizes of the terms in shift."""

    scale: Float64
    shift: Float64
    magnitude: Float64


def batch_normalization(constants: Constants, node: Node) -> Normalization:
    """From the definition: (x - mean)/sqrt(var + epsilon)*gamma + beta."""
    if not is_normalization(node) or _trains(node):
        raise DeviationError(f"{node.site} is no BatchNormalization at inference")
    gamma, beta, mean, var = (constants.vector(node.input(i)) for i in range(1, 5))
    deviation = np.sqrt(var + np.float64(np.float32(_float(node, "epsilon", 1e-5))))
    scale = gamma / deviation
    return Normalization(scale, beta - mean * gamma / deviation, np.abs(beta) + np.abs(mean * gamma / deviation))


def is_normalization(node: Node) -> bool:
    """Whether a node is a BatchNormalization."""
    return node.op == "BatchNormalization"


def _trains(node: Node) -> bool:
    """Whether a BatchNormalization uses the statistics of its batch, by the text of each version."""
    further = any(value is not None for value in node.outputs[1:])
    if node.scope.opset >= 14:
        return further or bool(_int(node, "training_mode", 0))
    return further or node.scope.opset < 7 or (node.scope.opset < 9 and not _int(node, "spatial", 1))


def reads_form_alone(reader: Reader) -> bool:
    """Whether a node looks only at the shape or the type of what it reads."""
    return (reader.node.op, reader.index) in {
        ("Shape", 0),
        ("Size", 0),
        ("CastLike", 1),
        ("EyeLike", 0),
        ("RandomNormalLike", 0),
        ("RandomUniformLike", 0),
    }


@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """A node that is linear in a constant: where its operands stand, and how its outputs lie in them.

    `channel` has the weight's shape (or broadcasts to it): the output channel that each weight serves. `factor` is
    what the weight and the bias act multiplied by (Gemm's alpha and beta). The channels lie along `axis` of `rank`.
    """

    weight_index: int
    channel: Labels
    channels: int
    rank: int
    axis: int
    factor: tuple[float, float] = (1.0, 1.0)
    vector_bias: bool = True


def linear_map(node: Node, dims: Callable[[int], tuple[int, ...] | None]) -> LinearMap:
    """How a Conv, ConvTranspose or Gemm uses its constants; `dims(i)` gives the shape of input i if it is constant."""
    known = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm}
    if node.op not in known:
        raise UncertainError(f"{node.site} is no home that the certificate knows")
    return known[node.op](node, dims)


def _conv(node: Node, dims: Callable[[int], tuple[int, ...] | None]) -> LinearMap:
    """Y[n, m] = sum over W[m]: weights [M, C/group, k1, k2, ...], the first axis is the output channel."""
    shape = _shape_of_weight(node, dims, 1)
    channel = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return LinearMap(1, channel, shape[0], len(shape), axis=1)


def _conv_transpose(node: Node, dims: Callable[[int], tuple[int, ...] | None]) -> LinearMap:
    """Weights [C, M/group, k1, k2, ...]: input channel c belongs to group c // (C/group), of M/group outputs."""
    shape = _shape_of_weight(node, dims, 1)
    group = _int(node, "group", 1)
    of_group = np.arange(shape[0]) // (shape[0] // group)
    channel = of_group[:, None] * shape[1] + np.arange(shape[1])[None, :]
    return LinearMap(1, channel.reshape(*shape[:2], *[1] * (len(shape) - 2)), shape[1] * group, len(shape), axis=1)


def _gemm(node: Node, dims: Callable[[int], tuple[int, ...] | None]) -> LinearMap:
    """Y = alpha*A'*B' + beta*C: column n of B' makes column n of Y, row m of A' makes row m of Y."""
    factor = (_float(node, "alpha", 1.0), _float(node, "beta", 1.0))
    shape = dims(1)
    index, axis, swapped = 1, 1, bool(_int(node, "transB", 0))
    if shape is None:
        shape = _shape_of_weight(node, dims, 0)
        index, axis, swapped = 0, 0, not _int(node, "transA", 0)
    channels = shape[0] if swapped else shape[1]
    channel = np.arange(channels)[:, None] if swapped else np.arange(channels)[None, :]
    return LinearMap(index, channel, channels, 2, axis, factor, vector_bias=False)


def _shape_of_weight(node: Node, dims: Callable[[int], tuple[int, ...] | None], index: int) -> tuple[int, ...]:
    shape = dims(index)
    if shape is None:
        raise UncertainError(f"the weight of {node.site} is not constant")
    return shape


def follow(constants: Constants, node: Node, labels: Labels, unknown: int) -> Labels:
    """The labels of a layout operator's output, given those of its input; dimensions of 1 may stand for any size.

    Sizes from `unknown` on are taken for dimensions whose size is not known: a mapping that holds whatever the sizes
    is found the same with different ones. Raises UncertainError where the operator is none that only moves elements.
    """
    if node.op == "Dropout" and _drops(constants, node):
        raise DeviationError(f"a claim passes {node.site}, which drops elements")
    if node.op in {"Identity", "Dropout", "BatchNormalization"}:
        return labels
    if node.op == "Transpose":
        perm = _ints(node, "perm") or tuple(reversed(range(labels.ndim)))
        return labels.transpose(perm)
    if node.op not in {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}:
        raise UncertainError(f"{node.site} is no layout operator that the certificate knows")
    if node.op == "Unsqueeze":
        return np.expand_dims(labels, _axes(constants, node))
    if node.op == "Squeeze" and _axes(constants, node):
        return labels.squeeze(_axes(constants, node))
    full = _expanded(constants, node, labels, unknown)
    if node.op == "Squeeze":
        return full.squeeze()
    if node.op == "Flatten":
        axis = _int(node, "axis", 1)
        return full.reshape(int(np.prod(full.shape[:axis], dtype=np.int64)), -1)
    operand = node.input(1)
    if operand is None:
        raise UncertainError(f"{node.site} has no shape")
    return _reshaped(
        full, constants.array(operand).astype(np.int64).tolist(), keeps_zero=bool(_int(node, "allowzero", 0))
    )


def _reshaped(labels: Labels, target: Sequence[int], *, keeps_zero: bool) -> Labels:
    sizes = [labels.shape[i] if size == 0 and not keeps_zero else size for i, size in enumerate(target)]
    try:
        return labels.reshape(sizes)
    except ValueError as error:
        raise UncertainError(f"a shape {list(target)} that sizes chosen for unknown dimensions do not fit") from error


def _expanded(constants: Constants, node: Node, labels: Labels, unknown: int) -> Labels:
    """The labels at the full size of the node's input, with `unknown` for what is not known."""
    value = node.input(0)
    shape = None if value is None else constants.shapes.shape(value)
    if shape is None or len(shape) != labels.ndim:
        raise UncertainError(f"the shape before {node.site} is not known")
    sizes = [
        size if isinstance(size, int) else ours if ours > 1 else unknown + axis
        for axis, (size, ours) in enumerate(zip(shape, labels.shape, strict=True))
    ]
    if int(np.prod(sizes, dtype=np.int64)) > LARGEST_LABELS:
        raise UncertainError(f"the value before {node.site} is too large to follow")
    return np.broadcast_to(labels, sizes)


def _axes(constants: Constants, node: Node) -> tuple[int, ...]:
    operand = node.input(1)
    if operand is not None:
        return tuple(constants.array(operand).astype(np.int64).reshape(-1).tolist())
    return _ints(node, "axes") or ()


def _drops(constants: Constants, node: Node) -> bool:
    """Whether a Dropout is in training mode, by the text of each version."""
    if node.scope.opset < 12:
        return node.scope.opset < 7 and not _int(node, "is_test", 0)
    mode = node.input(2)
    return mode is not None and bool(np.any(constants.array(mode)))


def _attribute(node: Node, name: str) -> onnx.AttributeProto | None:
    found = next((a for a in node.proto.attribute if a.name == name), None)
    if found is not None and found.ref_attr_name:
        raise UncertainError(f"{name} of {node.site} is a parameter of the function that holds it")
    return found


def _int(node: Node, name: str, default: int) -> int:
    found = _attribute(node, name)
    return default if found is None else found.i


def _float(node: Node, name: str, default: float) -> float:
    found = _attribute(node, name)
    return default if found is None else found.f


def _ints(node: Node, name: str) -> tuple[int, ...] | None:
    found = _attribute(node, name)
    return None if found is None else tuple(found.ints)
