"""How large the terms are that a value is summed of: S, by which the rounding of any order of summation is bounded.

    S(bound) = |x|        S(constant) = |c|        S(op(...)) = op on the S of its operands, with every sign positive

So S of a sum is the sum of the absolute terms, and rounding moves a value by no more than a small multiple of u*S
(site_figures.py), however much the terms cancel. An operator that no difference grows in (Relu, MaxPool, layout) passes
S on. An operator of which no such rule is known has none here: then what rounding does has to be drawn (sites.py).

S is computed by onnxruntime, in float32, by nodes beside those of the original: a rule adds them to a piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from onnx import AttributeProto, TensorProto, helper

from bnfold.equality.outline import Outline
from bnfold.equality.pieces import Part, Piece
from bnfold.nodes import Node, Value, nested_graphs
from bnfold.shapes import Shapes


class NoMagnitude(Exception):
    """An operator without a rule; the message is its name."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much arithmetic lies between a value and its bounds.

    `terms`: the most that are summed at once. `operators`: how many nodes there are. `depth`: how many of them that
    sum lie behind each other at most. `repeats`: how many elements have what rounding did to one, where a value is
    enlarged on the way, or mixed by another one. `alike`: how many terms of a sum over places are one value.
    """

    terms: int
    operators: int
    depth: int
    repeats: float = 1.0
    alike: float = 0.0


@dataclass(slots=True, eq=False)
class Magnitudes:
    """Adds the nodes that compute S to a piece, for values behind some bounds."""

    outline: Outline
    shapes: Shapes
    part: Part
    done: dict[int, str] = field(default_factory=dict)
    without: dict[int, str] = field(default_factory=dict)

    @property
    def piece(self) -> Piece:
        """The piece that grows."""
        return self.part.piece

    def of(self, nodes: Iterable[Node], targets: Iterable[Value]) -> list[str]:
        """The names of S of each target; `nodes` lie between bounds and targets, in order. Raises NoMagnitude."""
        for node in nodes:
            for index, value in enumerate(node.outputs):
                if value is None or value.id not in self.outline.varying:
                    continue
                try:
                    self.done[value.id] = self._ruled(node, index)
                except NoMagnitude as error:  # it matters only where it is asked for: many nodes compute shapes
                    self.without[value.id] = str(error)
        return [self._found(value) for value in targets]

    def _ruled(self, node: Node, index: int) -> str:
        rule = RULES.get(node.op)
        if rule is None or any(nested_graphs(node.proto)) or (index and node.op not in _SEVERAL_OUTPUTS):
            raise NoMagnitude(node.op)
        return rule(self, node, index)

    def _found(self, value: Value) -> str:
        if value.id in self.without:
            raise NoMagnitude(self.without[value.id])
        return self.done[value.id]

    def size(self, nodes: Iterable[Node], target: Value) -> Size:
        """How much arithmetic makes a value."""
        most, count = 1, 0
        depth: dict[int, int] = {}
        repeats: dict[int, float] = {}
        for node in nodes:
            if not any(v is not None and v.id in self.outline.varying for v in node.outputs):
                continue
            terms = self._terms(node)
            most, count = max(most, terms), count + 1
            behind = max((depth.get(v.id, 0) for v in self.outline.needs[node.id]), default=0)
            depth.update((v.id, behind + (terms > 1)) for v in node.outputs if v is not None)
            alike = [repeats[v.id] * self._enlarged(node, v) for v in self.outline.needs[node.id] if v.id in repeats]
            repeats.update((v.id, max(alike, default=1.0)) for v in node.outputs if v is not None)
        return Size(most, count, depth.get(target.id, 0), repeats.get(target.id, 1.0))

    def _enlarged(self, node: Node, operand: Value) -> float:
        """How often an operand stands in what a node makes of it, as far as sizes are known."""
        if node.op == "MatMul":
            return self._mixed(node, operand)
        output = node.output(0)
        dims = [None if v is None else self.shapes.shape(v) for v in (operand, output)]
        if node.op not in _REPEATING or dims[0] is None or dims[1] is None:
            return 1.0
        before, after = (math.prod(d for d in known if isinstance(d, int)) for known in dims if known is not None)
        return max(1.0, after / before) if before else 1.0

    def _mixed(self, node: Node, operand: Value) -> float:
        """Of two values that are computed, each row of one stands in as many outputs as the other has columns."""
        index = 0 if node.input(0) is operand else 1
        other, axis = node.input(1 - index), -1 if index == 0 else -2
        shape = None if other is None or other.id not in self.outline.varying else self.shapes.shape(other)
        size = None if shape is None or len(shape) < 2 else shape[axis]  # a matrix
        return float(size) if isinstance(size, int) else 1.0

    def _terms(self, node: Node) -> int:
        count = TERMS.get(node.op)
        return 1 if count is None else max(1, count(self, node))

    def operand(self, node: Node, index: int) -> str:
        """S of an operand."""
        value = node.input(index)
        if value is None:
            raise NoMagnitude(f"{node.op} without input {index}")
        if value.id not in self.done and value.id not in self.without:
            self.done[value.id] = self.size_of(self.part.name(value), f"{self.part.prefix}{value.name}")
        return self._found(value)

    def operands(self, node: Node) -> list[str]:
        """S of every operand; absent ones stay so."""
        return ["" if v is None else self.operand(node, i) for i, v in enumerate(node.inputs)]

    def plain(self, node: Node, index: int) -> str:
        """The operand itself."""
        value = node.input(index)
        return "" if value is None else self.part.name(value)

    def size_of(self, name: str, hint: str) -> str:
        """|x| of a value of any type that numbers have, in float32."""
        return self.add("Abs", [self.add("Cast", [name], hint, to=TensorProto.FLOAT)], hint)

    def add(self, op: str, inputs: list[str], hint: str, **attributes: int | TensorProto) -> str:
        """Another node; its output's name is made of a hint."""
        return self.piece.add(op, inputs, f"S{len(self.piece.nodes)} {hint}", **attributes)

    def like(self, node: Node, inputs: list[str], op: str = "", outputs: int = 1, index: int = 0) -> str:
        """A node with the attributes of another one."""
        names = [f"S{len(self.piece.nodes)}.{i} {self.part.prefix}" for i in range(outputs)]
        copy = helper.make_node(op or node.op, inputs, names, domain=node.proto.domain)
        copy.attribute.extend(_positive(a) for a in node.proto.attribute)
        self.piece.nodes.append(copy)
        return names[index]

    def shape(self, node: Node, index: int) -> tuple[int, ...] | None:
        """The shape of an operand, if it is known."""
        value = node.input(index)
        dims = None if value is None else self.shapes.shape(value)
        sizes = None if dims is None else [d for d in dims if isinstance(d, int)]
        return None if dims is None or sizes is None or len(sizes) < len(dims) else tuple(sizes)


Rule = Callable[[Magnitudes, Node, int], str]


def _positive(attribute: AttributeProto) -> AttributeProto:
    if attribute.name not in {"alpha", "beta", "value"} or attribute.type != AttributeProto.FLOAT:
        return attribute
    return helper.make_attribute(attribute.name, abs(attribute.f))


def _multilinear(m: Magnitudes, node: Node, index: int) -> str:
    """A sum of products of operands: the same of their S."""
    del index
    return m.like(node, m.operands(node))


def _sum(m: Magnitudes, node: Node, index: int) -> str:
    """A sum, difference, maximum or minimum of all operands: no more than the sum or maximum of their S."""
    del index
    return m.like(node, m.operands(node), op={"Sub": "Add", "Min": "Max"}.get(node.op, node.op))


def _of_data(m: Magnitudes, node: Node, index: int) -> str:
    """Layout, or a sum or maximum over places: the same of the S of the data; what says how stays as it is."""
    operands = [m.operand(node, 0), *(m.plain(node, i) for i in range(1, len(node.inputs)))]
    op = {"ReduceMin": "ReduceMax"}.get(node.op, node.op)
    return m.like(node, operands, op=op, outputs=len(node.outputs) if node.op in _SEVERAL_OUTPUTS else 1, index=index)


def _pad(m: Magnitudes, node: Node, index: int) -> str:
    """What is put around the data counts with its size."""
    del index
    operands = [m.operand(node, 0), *(m.plain(node, i) for i in range(1, len(node.inputs)))]
    if node.input(2) is not None:
        operands[2] = m.operand(node, 2)
    return m.like(node, operands)


def _chosen(m: Magnitudes, node: Node, index: int) -> str:
    """Where: one of two, by the same condition."""
    del index
    return m.like(node, [m.plain(node, 0), m.operand(node, 1), m.operand(node, 2)])


def _passed(m: Magnitudes, node: Node, index: int) -> str:
    """No difference becomes larger."""
    del index
    return m.operand(node, 0)


def _cast(m: Magnitudes, node: Node, index: int) -> str:
    """A float stays what it is up to rounding; Cast to integers is discrete."""
    del index
    if node.int_attribute("to", 0) not in {1, 10, 11, 16}:
        raise NoMagnitude("Cast to integers")
    return m.operand(node, 0)


def _sloped(m: Magnitudes, node: Node, index: int) -> str:
    """LeakyRelu and PRelu: a slope may be larger than 1."""
    del index
    if node.op == "LeakyRelu":
        steepest = max(1.0, abs(node.float_attribute("alpha", 0.01)))
        return m.operand(node, 0) if steepest == 1.0 else _scaled(m, m.operand(node, 0), steepest)
    data = m.operand(node, 0)
    return m.add("Add", [data, m.add("Mul", [data, m.operand(node, 1)], "slope")], "slope")


def _smooth(slope: float) -> Rule:
    """A function whose slope is nowhere larger: what it makes of a difference, and the rounding of its own value."""

    def rule(m: Magnitudes, node: Node, index: int) -> str:
        own = node.output(index)
        if own is None:
            raise NoMagnitude(node.op)
        steepest = max(slope, abs(node.float_attribute("alpha", slope))) if node.op in {"Elu", "HardSigmoid"} else slope
        moved = _scaled(m, m.operand(node, 0), steepest)
        return m.add("Add", [moved, m.size_of(m.part.name(own), "own")], "smooth")

    return rule


def _scaled(m: Magnitudes, name: str, factor: float) -> str:
    constant = helper.make_tensor("", TensorProto.FLOAT, [], [factor])
    return m.add("Mul", [name, m.add("Constant", [], "factor", value=constant)], "scaled")


def _quotient(m: Magnitudes, node: Node, index: int) -> str:
    """n/d: S(n)/|d| + |n|*S(d)/d**2."""
    del index
    numerator, divisor = (m.size_of(m.plain(node, i), "operand") for i in (0, 1))
    first = m.add("Div", [m.operand(node, 0), divisor], "quotient")
    relative = m.add("Div", [m.operand(node, 1), divisor], "quotient")
    second = m.add("Mul", [m.add("Div", [numerator, divisor], "quotient"), relative], "quotient")
    return m.add("Add", [first, second], "quotient")


def _normalization(m: Magnitudes, node: Node, index: int) -> str:
    """|a| * (S + |mean|) + |beta|, by the operator itself, fed with -|mean|."""
    del index
    if len([v for v in node.outputs if v is not None]) > 1 or node.int_attribute("training_mode", 0):
        raise NoMagnitude("BatchNormalization in training mode")
    data, scale, beta, mean = (m.operand(node, i) for i in range(4))
    variance = m.add("Cast", [m.plain(node, 4)], "variance", to=TensorProto.FLOAT)
    return m.like(node, [data, scale, beta, m.add("Neg", [mean], "mean"), variance])


_REPEATING = frozenset({
    "Resize", "Upsample", "Expand", "Tile", "Gather", "Pad", "Add", "Sub", "Sum", "Mul", "Div", "Max", "Min", "Where",
})  # fmt: skip
_SEVERAL_OUTPUTS = frozenset({"Split"})
_OF_DATA = (
    "Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather GatherElements GatherND Expand Tile DepthToSpace "
    "SpaceToDepth Resize Upsample ReduceSum ReduceMean ReduceMax ReduceMin AveragePool GlobalAveragePool MaxPool "
    "GlobalMaxPool LpPool GlobalLpPool ReduceL1 ReduceL2 Split CumSum Trilu"
)
_SLOPES = {
    "Sigmoid": 0.25, "Tanh": 1.0, "Softplus": 1.0, "Softsign": 1.0, "Elu": 1.0, "Selu": 1.8, "Celu": 1.0, "Gelu": 1.13,
    "Mish": 1.1, "HardSwish": 1.5, "HardSigmoid": 0.2, "Erf": 1.13, "Sin": 1.0, "Cos": 1.0, "Atan": 1.0,
}  # fmt: skip

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Mul"), _multilinear),
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean", "Max", "Min", "Concat"), _sum),
    **dict.fromkeys(_OF_DATA.split(), _of_data),
    **dict.fromkeys(("Identity", "Dropout", "Relu", "Neg", "Abs", "Clip"), _passed),
    **dict.fromkeys(("LeakyRelu", "PRelu"), _sloped),
    **{op: _smooth(slope) for op, slope in _SLOPES.items()},
    "Pad": _pad,
    "Where": _chosen,
    "Cast": _cast,
    "Div": _quotient,
    "BatchNormalization": _normalization,
}


def _of_kernel(m: Magnitudes, node: Node) -> int:
    """Conv: weights [M, C/group, k...]; each output sums all but the first axis."""
    shape = m.shape(node, 1)
    if shape is None:
        raise NoMagnitude("Conv with a weight of unknown shape")
    return math.prod(shape[1:])


def _of_transposed_kernel(m: Magnitudes, node: Node) -> int:
    """ConvTranspose: weights [C, M/group, k...]."""
    shape = m.shape(node, 1)
    if shape is None:
        raise NoMagnitude("ConvTranspose with a weight of unknown shape")
    return shape[0] // max(1, node.int_attribute("group", 1)) * math.prod(shape[2:])


def _of_columns(m: Magnitudes, node: Node) -> int:
    """MatMul and Gemm: what the operands have in common."""
    left, right = m.shape(node, 0), m.shape(node, 1)
    if right is not None and right:
        return right[-1] if node.int_attribute("transB", 0) else right[max(0, len(right) - 2)]
    if left is not None and left:
        return left[0] if node.int_attribute("transA", 0) else left[-1]
    raise NoMagnitude(f"{node.op} of operands of unknown shape")


def _of_equation(m: Magnitudes, node: Node) -> int:
    """Einsum: no more terms than its smallest known operand has elements."""
    sizes = [math.prod(shape) for i in range(len(node.inputs)) for shape in [m.shape(node, i)] if shape is not None]
    if not sizes:
        raise NoMagnitude("Einsum of operands of unknown shape")
    return min(sizes)


def _of_window(m: Magnitudes, node: Node) -> int:
    """A pool, or a sum over places: its window, or all that is known to lie in the value."""
    kernel = node.ints_attribute("kernel_shape")
    if kernel:
        return math.prod(kernel)
    shape = m.shape(node, 0)
    return math.prod(shape[1:]) if shape else 1 << 12


def _of_operands(m: Magnitudes, node: Node) -> int:
    """Add and its like: one for each operand."""
    del m
    return len(node.inputs)


_WINDOWS = "AveragePool GlobalAveragePool ReduceSum ReduceMean LpPool GlobalLpPool ReduceL1 ReduceL2 CumSum"

TERMS: Mapping[str, Callable[[Magnitudes, Node], int]] = {
    "Conv": _of_kernel,
    "ConvTranspose": _of_transposed_kernel,
    "Gemm": _of_columns,
    "MatMul": _of_columns,
    "Einsum": _of_equation,
    **dict.fromkeys(
        ["AveragePool", "GlobalAveragePool", "ReduceSum", "ReduceMean", "LpPool", "GlobalLpPool"], _of_window
    ),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "CumSum"), _of_window),
    **dict.fromkeys(("Sum", "Mean"), _of_operands),
}
