"""The sizes that a model states for free dimensions of its inputs: by a weight, by statistics, by what is added.

Free dimensions are symbols, and onnx's shape inference carries them to whatever has them still:

    Conv(x, W): x[1] = W[1]*groups    BatchNormalization(x, g): x[1] = len(g)    MatMul(x, W): x[-1] = W[-2]    ...

each says that two dimensions are one. Those that are one with a number have that size; what has none is for whoever
draws the inputs to choose. Symbols that are one with each other, and with no number, get one size there anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import onnx

from bnfold.equality.nested import graphs_of

Dim = int | str | None
Dims = Sequence[Dim]
Operand = Callable[[int], Dims]
Pairs = Iterator[tuple[Dim, Dim]]

_ROUNDS: Final = 3
"""What one size makes of a Reshape may state the next."""

_MOST_KEPT: Final = 64
"""Elements of a constant that may be a shape, and are shown to inference."""


def name_of(port: onnx.ValueInfoProto, axis: int) -> str:
    """The symbol of a free dimension; one without a name is like no other."""
    return port.type.tensor_type.shape.dim[axis].dim_param or f"{port.name}[{axis}]"


def stated_sizes(
    model: onnx.ModelProto, ports: Sequence[onnx.ValueInfoProto], given: Mapping[str, int]
) -> dict[str, int]:
    """Sizes by symbol (see `name_of`) that the model states, where those in `given` hold; without them."""
    free = {name_of(port, axis) for port in ports for axis in _free(port)} - given.keys()
    if not any(axis or len(port.type.tensor_type.shape.dim) == 1 for port in ports for axis in _free(port)):
        return {}  # a batch is all that is free
    known = dict(given)
    for _ in range(_ROUNDS):
        found = {name: size for name, size in _stated(_shown(model, ports, known)).items() if name in free}
        if found.keys() <= known.keys():
            break
        known = {**found, **known}
    return {name: known[name] for name in free if name in known}


def _free(port: onnx.ValueInfoProto) -> Iterator[int]:
    for axis, dim in enumerate(port.type.tensor_type.shape.dim):
        if not dim.HasField("dim_value") or dim.dim_value < 0:
            yield axis


def _shown(model: onnx.ModelProto, ports: Sequence[onnx.ValueInfoProto], known: Mapping[str, int]) -> onnx.ModelProto:
    """What inference is shown: every free dimension with a symbol or a size, and no large constant's data."""
    graph = onnx.GraphProto(name="shown", node=model.graph.node, output=model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for port in ports:
        graph.input.add().CopyFrom(port)
        for axis in _free(port):
            name, dim = name_of(port, axis), graph.input[-1].type.tensor_type.shape.dim[axis]
            if name in known:
                dim.dim_value = known[name]
            else:
                dim.dim_param = name
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _MOST_KEPT and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=graph
    )


def _stated(shown: onnx.ModelProto) -> dict[str, int]:
    """The size of every symbol that is one with a number."""
    try:
        inferred = onnx.shape_inference.infer_shapes(shown)
    except Exception:  # noqa: BLE001  # without inference, what reads the inputs themselves says something all the same
        inferred = shown
    shapes: dict[str, Dims] = {}
    for graph in graphs_of(inferred):
        shapes.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
        for port in (*graph.input, *graph.output, *graph.value_info):
            if port.type.tensor_type.HasField("shape"):
                shapes.setdefault(port.name, tuple(map(_dim, port.type.tensor_type.shape.dim)))
    sizes: dict[str, int] = {}
    one = _Classes()
    for graph in graphs_of(inferred):
        for node in graph.node:
            for a, b in _pairs(node, shapes):
                one.join(a, b)
    for symbol in one.symbols:
        size = one.size(symbol)
        if size is not None:
            sizes[symbol] = size
    return sizes


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or None


class _Classes:
    """Symbols that are one, each class with the first number that was said of it."""

    def __init__(self) -> None:
        self._leader: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._leader)

    def size(self, symbol: str) -> int | None:
        return self._sizes.get(self._found(symbol))

    def join(self, a: Dim, b: Dim) -> None:
        if isinstance(a, int):
            a, b = b, a
        if not isinstance(a, str) or b is None:
            return
        first = self._found(a)
        if isinstance(b, int):
            self._sizes.setdefault(first, b)
            return
        second = self._found(b)
        if first != second:
            self._leader[second] = first
            if second in self._sizes:
                self._sizes.setdefault(first, self._sizes[second])

    def _found(self, symbol: str) -> str:
        while self._leader.setdefault(symbol, symbol) != symbol:
            symbol = self._leader[symbol]
        return symbol


def _pairs(node: onnx.NodeProto, shapes: Mapping[str, Dims]) -> Pairs:
    """Dimensions of which a node says that they are one."""
    says = _SAYS.get(node.op_type)
    if says is not None and node.domain in ("", "ai.onnx"):
        yield from says(node, lambda place: shapes.get(node.input[place], ()) if place < len(node.input) else ())


def _at(dims: Dims, axis: int) -> Dim:
    return dims[axis] if -len(dims) <= axis < len(dims) else None


def _number(node: onnx.NodeProto, name: str, otherwise: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), otherwise)


def _convolved(data: int, weight: int) -> Callable[[onnx.NodeProto, Operand], Pairs]:
    def says(node: onnx.NodeProto, operand: Operand) -> Pairs:
        each = _at(operand(weight), 1)
        yield _at(operand(data), 1), each * _number(node, "group", 1) if isinstance(each, int) else None

    return says


def _one(data: tuple[int, int], other: tuple[int, int]) -> Callable[[onnx.NodeProto, Operand], Pairs]:
    """An axis of an operand that is an axis of another: each as its place and its axis."""

    def says(_: onnx.NodeProto, operand: Operand) -> Pairs:
        yield _at(operand(data[0]), data[1]), _at(operand(other[0]), other[1])

    return says


def _multiplied(data: int, weight: int) -> Callable[[onnx.NodeProto, Operand], Pairs]:
    def says(_: onnx.NodeProto, operand: Operand) -> Pairs:
        other = operand(weight)
        yield _at(operand(data), -1), _at(other, -2 if len(other) > 1 else -1)

    return says


def _gemm(node: onnx.NodeProto, operand: Operand) -> Pairs:
    ours, theirs = 1 - _number(node, "transA", 0), _number(node, "transB", 0)
    yield _at(operand(0), ours), _at(operand(1), theirs)


def _recurrent(node: onnx.NodeProto, operand: Operand) -> Pairs:
    layout = _number(node, "layout", 0)  # 0: [steps, batch, features] and [directions, batch, hidden]
    yield _at(operand(0), 2), _at(operand(1), 2)
    for state in (5, 6):
        yield _at(operand(state), 2), _at(operand(2), 2)
        yield _at(operand(state), layout), _at(operand(1), 0)
        yield _at(operand(state), 1 - layout), _at(operand(0), 1 - layout)


def _joined(node: onnx.NodeProto, operand: Operand) -> Pairs:
    first = operand(0)
    if not first:
        return
    axis = _number(node, "axis", 1) % len(first)
    for place in range(1, len(node.input)):
        other = operand(place)
        yield from ((a, b) for i, (a, b) in enumerate(zip(first, other, strict=False)) if i != axis)


def _broadcast(node: onnx.NodeProto, operand: Operand) -> Pairs:
    """Aligned at the end; a 1 is repeated, and says nothing."""
    operands = [operand(place) for place in range(len(node.input))]
    for place, ours in enumerate(operands):
        for theirs in operands[place + 1 :]:
            pairs = zip(reversed(ours), reversed(theirs), strict=False)
            yield from ((a, b) for a, b in pairs if 1 not in (a, b))


_SAYS: Final[Mapping[str, Callable[[onnx.NodeProto, Operand], Pairs]]] = {
    "Conv": _convolved(0, 1),
    "ConvInteger": _convolved(0, 1),
    "QLinearConv": _convolved(0, 3),
    "DeformConv": _convolved(0, 1),
    "ConvTranspose": _one((0, 1), (1, 0)),
    "BatchNormalization": _one((0, 1), (1, 0)),
    "InstanceNormalization": _one((0, 1), (1, 0)),
    "MatMul": _multiplied(0, 1),
    "MatMulInteger": _multiplied(0, 1),
    "QLinearMatMul": _multiplied(0, 3),
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Concat": _joined,
    **dict.fromkeys(
        (
            "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Sum", "Mean", "Max", "Min", "PRelu", "Where", "And", "Or",
            "Xor", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "LayerNormalization",
        ),
        _broadcast,
    ),
}  # fmt: skip
