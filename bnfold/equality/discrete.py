"""Which outputs lie behind a discrete operator, where a difference within rounding may come out as a whole step.

A discrete operator counts only if what it reads can move by rounding, that is, hangs on a graph input through at least
one operator that computes: `ids == 0` on an integer input, or a comparison of shapes, is exact in both models.
The values of all scopes are the vertices of one graph. An edge leads from each value a node reads to each it writes,
from a loop's results back to its carried inputs, and through a function's body once for all its calls; then two
searches, from the inputs and from the discrete operators, take linear time and err on the side of "discrete".
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DISCRETE: Final = _words(
    """
    QuantizeLinear DynamicQuantizeLinear Round Floor Ceil Sign Mod ArgMax ArgMin Hardmax TopK NonMaxSuppression
    NonZero Unique Compress Equal Greater GreaterOrEqual Less LessOrEqual IsInf IsNaN Not And Or Xor BitShift
    BitwiseAnd BitwiseOr BitwiseXor BitwiseNot OneHot Shrink ThresholdedRelu MaxRoiPool Multinomial Bernoulli
    Binarizer LabelEncoder TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor SVMClassifier LinearClassifier
    """
)
# Operators that move or compare values but never round one: behind them an input is still the same in both models.
_EXACT: Final = _words(
    """
    Identity Cast CastLike Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Gather GatherElements
    GatherND ScatterElements ScatterND Expand Tile Pad Shape Size ConstantOfShape Constant Where Equal Greater
    GreaterOrEqual Less LessOrEqual Not And Or Xor IsInf IsNaN Neg Abs Max Min Clip Relu MaxPool NonZero Unique
    Compress ArgMax ArgMin TopK OneHot SequenceConstruct SequenceAt SequenceInsert SequenceEmpty SplitToSequence
    ConcatFromSequence Optional OptionalGetElement OptionalHasElement SpaceToDepth DepthToSpace ReduceMax ReduceMin
    If Loop Scan Dropout Floor Ceil Round Sign EyeLike Range Trilu ReverseSequence
    """
)
# What the shape alone decides: no value passes.
_SHAPE_ONLY: Final = frozenset({"Shape", "Size", "EyeLike"})
# TensorProto's numbers of the types whose values are few: integers, booleans, strings, 8- and 4-bit floats.
_CONTINUOUS: Final = frozenset({1, 10, 11, 14, 15, 16})

_Value = tuple[int, str]  # a scope's number and a name in it


@dataclass(slots=True)
class _Flow:
    """Who reads what: nodes by number, the values they read and write, their operators."""

    readers: dict[_Value, list[int]] = field(default_factory=lambda: defaultdict(list))
    writes: list[list[_Value]] = field(default_factory=list)
    discrete: list[str] = field(default_factory=list)  # the operator's name, or "" if it is not discrete
    exact: list[bool] = field(default_factory=list)

    def add(self, reads: Iterable[_Value], writes: Iterable[_Value], *, discrete: str = "", exact: bool = True) -> None:
        for value in dict.fromkeys(reads):
            self.readers[value].append(len(self.writes))
        self.writes.append(list(writes))
        self.discrete.append(discrete)
        self.exact.append(exact)


@dataclass(slots=True)
class _Scope:
    """A graph or function body while it is read: the names it defines, and the scopes around it."""

    number: int
    names: set[str]
    outer: tuple[_Scope, ...]

    def find(self, name: str) -> _Value:
        for scope in (self, *self.outer):
            if name in scope.names:
                return scope.number, name
        return self.number, name


def discrete_upstream(model: onnx.ModelProto) -> dict[str, str]:
    """By graph output: the type of a discrete operator that it hangs on, or "" if there is none."""
    flow, main = _flow(model)
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [main.find(port.name) for port in model.graph.input if port.name not in initializers]
    dependent = _reached(flow, inputs)
    inexact = _reached(
        flow,
        [value for node in _readers(flow, dependent) if not flow.exact[node] for value in flow.writes[node]],
    )
    blamed: dict[_Value, str] = {}
    pending = [(value, flow.discrete[node]) for node in _readers(flow, inexact) for value in flow.writes[node]]
    pending = [(value, operator) for value, operator in pending if operator]
    while pending:
        value, operator = pending.pop()
        if value in blamed:
            continue
        blamed[value] = operator
        pending.extend((written, operator) for node in flow.readers.get(value, ()) for written in flow.writes[node])
    return {port.name: blamed.get(main.find(port.name), "") for port in model.graph.output}


def _readers(flow: _Flow, values: set[_Value]) -> list[int]:
    return sorted({node for value in values for node in flow.readers.get(value, ())})


def _reached(flow: _Flow, start: Iterable[_Value]) -> set[_Value]:
    reached: set[_Value] = set()
    pending = list(start)
    while pending:
        value = pending.pop()
        if value in reached:
            continue
        reached.add(value)
        pending.extend(written for node in flow.readers.get(value, ()) for written in flow.writes[node])
    return reached


def _flow(model: onnx.ModelProto) -> tuple[_Flow, _Scope]:
    """All nodes of all scopes, iteratively: a crafted file may nest deeper than Python recurses."""
    flow = _Flow()
    main = _Scope(0, _defined(model.graph), ())
    count = 1
    functions: dict[tuple[str, str], tuple[_Scope, onnx.FunctionProto]] = {}
    pending: list[tuple[_Scope, Iterable[onnx.NodeProto]]] = [(main, model.graph.node)]
    for function in model.functions:
        names = {*function.input, *(name for node in function.node for name in node.output)}
        scope = _Scope(count, names, ())
        count += 1
        functions[function.domain, function.name] = scope, function
        pending.append((scope, function.node))
    while pending:
        scope, nodes = pending.pop()
        for node in nodes:
            called = functions.get((node.domain, node.op_type))
            if called is not None:
                _add_call(flow, scope, node, *called)
                continue
            _add_node(flow, scope, node)
            for body in (graph for attribute in node.attribute for graph in _bodies(attribute)):
                inner = _Scope(count, _defined(body), (scope, *scope.outer))
                count += 1
                _add_body(flow, scope, node, inner, body)
                pending.append((inner, body.node))
    return flow, main


def _add_node(flow: _Flow, scope: _Scope, node: onnx.NodeProto) -> None:
    read = list(node.input[:1]) if node.op_type == "CastLike" else list(node.input)
    if node.op_type in _SHAPE_ONLY:
        read = []
    exact = node.op_type in _EXACT and node.domain in ("", "ai.onnx")
    flow.add(
        (scope.find(name) for name in read if name),
        (scope.find(name) for name in node.output if name),
        discrete=node.op_type if is_discrete(node) else "",
        exact=exact,
    )


def _add_call(flow: _Flow, scope: _Scope, node: onnx.NodeProto, inner: _Scope, function: onnx.FunctionProto) -> None:
    for outside, inside in zip(node.input, function.input, strict=False):
        flow.add([scope.find(outside)], [inner.find(inside)])
    for inside, outside in zip(function.output, node.output, strict=False):
        flow.add([inner.find(inside)], [scope.find(outside)])


def _add_body(flow: _Flow, scope: _Scope, node: onnx.NodeProto, inner: _Scope, body: onnx.GraphProto) -> None:
    """A nested graph: the node's inputs reach its inputs, its outputs the node's outputs and, in a loop, its inputs."""
    outside_in = [scope.find(name) for name in node.input if name]
    outside_out = [scope.find(name) for name in node.output if name]
    inside_in = [inner.find(port.name) for port in body.input]
    inside_out = [inner.find(port.name) for port in body.output]
    flow.add(outside_in, inside_in)
    flow.add(inside_out, [*outside_out, *inside_in])


def is_discrete(node: onnx.NodeProto) -> bool:
    """Whether a node may turn a difference within rounding into a step."""
    if node.op_type in {"Cast", "CastLike"}:
        return node.op_type == "Cast" and _cast_to(node) not in _CONTINUOUS
    if node.op_type == "GridSample":
        return any(attribute.s == b"nearest" for attribute in node.attribute if attribute.name == "mode")
    quantizes = "Quantize" in node.op_type and "Dequantize" not in node.op_type
    return node.op_type in DISCRETE or quantizes or node.op_type.startswith("QLinear")


def coarsest_half_unit(model: onnx.ModelProto) -> float:
    """Half a unit in the last place of the coarsest float type that a model computes in, 2**-53 if none is known.

    Types of inputs, outputs, annotated values, constants, and casts to floats of 16 bits or more, in all scopes.
    """
    types = {_element_type(port.type) for port in (*model.graph.input, *model.graph.output)}
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        for graph in graphs:
            types.update(tensor.data_type for tensor in graph.initializer)
            types.update(_element_type(port.type) for port in graph.value_info)
            nodes.extend(graph.node)
        attributes = [attribute for node in nodes for attribute in node.attribute]
        types.update(attribute.t.data_type for attribute in attributes if attribute.HasField("t"))
        types.update(_cast_to(node) for node in nodes if node.op_type == "Cast")
        graphs = [graph for attribute in attributes for graph in _bodies(attribute)]
        nodes = []
    return max((HALF_UNIT[kind] for kind in types if kind in HALF_UNIT), default=2.0**-53)


HALF_UNIT: Final[Mapping[int, float]] = {1: 2.0**-24, 10: 2.0**-11, 11: 2.0**-53, 16: 2.0**-8}


def _cast_to(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)


def _element_type(kind: onnx.TypeProto) -> int:
    return kind.tensor_type.elem_type if kind.HasField("tensor_type") else 0


def _defined(graph: onnx.GraphProto) -> set[str]:
    return {
        *(port.name for port in graph.input),
        *(tensor.name for tensor in graph.initializer),
        *(tensor.values.name for tensor in graph.sparse_initializer),
        *(name for node in graph.node for name in node.output if name),
    }


def _bodies(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
