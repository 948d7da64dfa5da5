"""Whether copies that lie behind each other along one axis stay apart on their way through a site's nodes.

A rewriting is right for the sizes that a model can have. Sizes that a site is fed, or that are written in it, stay what
they were where the data are repeated, and what is "all that is left" takes up the copies then: [N,C,-1] of three copies
is [N,C,3*L] and not [3*N,C,L]. So nodes get copies only where each value that they make of copies is as many copies,

    shape(value of k copies) = shape(value) but for one axis, which is k times as long

along the axis where they lay in what it is made of. Row-major order then keeps each copy together. A value from which
sizes are computed gets neither copies nor noise: it says how large things are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bnfold.equality.nested import bodies_of
from bnfold.nodes import Node, Value

Dims = tuple[int, ...]

COPIES = 3
"""How many are laid behind each other to find out."""

# What moves no axis and is told no size by a value. Where operands of two forms meet, either all is as it was, or
# onnxruntime refuses, or what comes out has too many elements.
_MOVE_NOTHING = frozenset(
    {
        "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool", "LpPool",
        "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Gemm", "MatMul", "Concat", "Add", "Sub", "Mul", "Div",
        "Sum", "Max", "Min", "Mean", "Pow", "Where", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Clip",
        "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Erf", "Gelu", "Exp", "Log", "Neg",
        "Abs", "Sqrt", "Reciprocal", "Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip
_SIZES = {
    "Reshape": {1}, "Expand": {1}, "ConstantOfShape": {0}, "Tile": {1, 2}, "Slice": {1, 2, 3, 4}, "Split": {1},
    "SplitToSequence": {1}, "Resize": {1, 2, 3}, "Upsample": {1}, "Pad": {1, 3}, "Range": {0, 1, 2}, "TopK": {1},
    "OneHot": {1}, "Squeeze": {1}, "Unsqueeze": {1}, "MaxUnpool": {2}, "CenterCropPad": {1}, "EyeLike": {0},
}  # fmt: skip
_OF_SIZE = frozenset({"Shape", "Size"})


def never_parts(nodes: Iterable[Node]) -> bool:
    """Whether copies stay apart in these nodes whatever sizes there are, along the first axis."""
    return all(node.op in _MOVE_NOTHING for node in nodes)


def sizes_among(nodes: Sequence[Node], bounds: Iterable[Value]) -> set[int]:
    """Which of the values that nodes are fed (by id) sizes are computed from; `nodes` stand in order."""
    wanted: set[int] = set()
    for node in reversed(nodes):
        if node.op in _OF_SIZE:
            continue
        says = _SIZES.get(node.op, set())
        is_wanted = any(value is not None and value.id in wanted for value in node.outputs)
        wanted.update(v.id for i, v in enumerate(node.inputs) if v is not None and (is_wanted or i in says))
    return wanted & {value.id for value in bounds}


def stay_apart(nodes: Iterable[Node], plain: Mapping[int, Dims], copied: Mapping[int, Dims]) -> bool:
    """Whether all that nodes make of copies is copies of what they make of one.

    `plain` and `copied` are the shapes, by id, of what the nodes are fed and of what they make that anything needs.
    """
    axes: dict[int, int] = {}
    for id_, dims in plain.items():
        axis = _longer(dims, copied.get(id_))
        if axis is None:
            return False
        axes[id_] = axis
    return all(_is_along(node, axes, plain) for node in nodes)


def _longer(plain: Dims, copied: Dims | None) -> int | None:
    """The axis along which there are copies, -1 where there are none, None where sizes are any others."""
    if copied is None or len(copied) != len(plain):
        return None
    differing = [axis for axis, (one, many) in enumerate(zip(plain, copied, strict=True)) if one != many]
    if not differing:
        return -1
    axis = differing[0]
    return axis if len(differing) == 1 and copied[axis] == COPIES * plain[axis] else None


def _is_along(node: Node, axes: Mapping[int, int], plain: Mapping[int, Dims]) -> bool:
    """Whether a node leaves copies where they lay, or moves their axis as it says."""
    if any(True for _ in bodies_of(node.proto)):
        return False
    read = [v for v in node.inputs if v is not None and axes.get(v.id, -1) >= 0]
    for value in (v for v in node.outputs if v is not None and v.id in axes):
        axis = axes[value.id]
        if axis < 0 and read and node.op not in _OF_SIZE:
            return False
        if axis >= 0 and not all(_leads(node, axes[v.id], axis, plain[v.id], plain[value.id]) for v in read):
            return False
        if axis > 0 and not read:  # made of sizes: which axis is the batch there is not known
            return False
    return True


def _leads(node: Node, before: int, after: int, read: Dims, made: Dims) -> bool:
    if node.op == "Transpose":
        perm = node.ints_attribute("perm") or tuple(reversed(range(len(read))))
        return perm[after] == before
    return before == after and (before == 0 or len(read) == len(made))
