"""How a home uses its constants: each of these operators is affine in them, and says so by a LinearMap.

    output = factor[0] * (a sum of weights times data) + factor[1] * bias

A grid is a shape that broadcasts against the output; each of its cells is scaled by itself, and each weight serves
the outputs of one cell. Written from ONNX's text.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.equality.constants import Constants, attribute, float_of, int_of, ints_of, product, text_of
from bnfold.equality.layout import Labels
from bnfold.equality.quantized import stored_shape
from bnfold.equality.windows import pads_of, reads_padding
from bnfold.nodes import Node

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DataSide:
    """Where a node reads its data: at which input, on which axes (from the end where negative) its channels lie.

    Several axes, of these `sizes`, ascend and are counted as one, the last one fastest. `channel` broadcasts to the
    weight's shape: the channel of the data that each weight is multiplied by. `sees_all`: whether every output is a sum
    over all taps, so that a shift of the data shifts the outputs alike. `rank` is that of the data, where it is known.
    """

    index: int
    axes: tuple[int, ...]
    channel: Labels
    sizes: tuple[int, ...]
    sees_all: bool = True
    rank: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """A node that is affine in constants: where they stand, and how its outputs lie in them.

    `cell` broadcasts to the weight's shape: the place in the (flattened) grid of the outputs that each weight serves.
    Without a `weight_index` nothing can be scaled, without a `bias_index` nothing be shifted (but by an Add behind).
    """

    grid: Shape
    cell: Labels
    weight_index: int | None = None
    bias_index: int | None = None
    factor: tuple[float, float] = (1.0, 1.0)
    vector_bias: bool = False
    """Whether the bias has one number for each cell, and no other shape."""
    divides: bool = False
    """Whether the data are divided by the weight."""
    data: tuple[DataSide, ...] = ()
    elementwise: bool = False
    """Whether the constant broadcasts against the output, so that one of another shape means the same."""
    bias_cell: Labels | None = None
    """Of a bias that holds more than the cells: the cell that each of its numbers serves, -1 for none. Then the cells
    lie inside the node, before what its output is made by, so that nothing behind it reaches them."""
    common: tuple[int, ...] | None = None
    """Axes along which it subtracts what is common to its data (input 0), so that a shift that is alike there is lost;
    a node of this kind uses no constant, and nothing of it changes."""
    bounds: tuple[int | str, ...] = ()
    """Inputs, or attributes by name, that are numbers beside the data, and bear what these bear (bounds.py)."""

    def data_at(self, index: int) -> DataSide | None:
        """Its data at an input."""
        return next((side for side in self.data if side.index == index), None)


def dims(constants: Constants, node: Node, index: int) -> Shape | None:
    """The shape of a constant input, also of one that is stored quantised; None where it is none."""
    value = node.input(index)
    if value is None:
        return None
    return stored_shape(constants, value) or constants.shape(value)


def aligned(node: Node, index: int, shape: Shape, rank: int) -> Shape:
    """The shape of an operand with as many dimensions as the result has, by the text of each version.

    Below opset 7 only the second operand broadcasts, and only if the node says so; `axis` says where its first
    dimension stands.
    """
    if len(shape) > rank:
        raise DeviationError(f"a constant of the shape {list(shape)} at {node.site} enlarges its value")
    if node.scope.opset >= 7:
        return (1,) * (rank - len(shape)) + shape
    if len(shape) != rank and (index == 0 or not int_of(node, "broadcast", 0)):
        raise DeviationError(f"a constant of the shape {list(shape)} at {node.site} does not broadcast")
    found = attribute(node, "axis")
    axis = rank - len(shape) if found is None or not int_of(node, "broadcast", 0) else found.i
    if axis < 0 or axis + len(shape) > rank:
        raise UncertainError(f"the axis of {node.site} does not fit a value of {rank} dimensions")
    return (1,) * axis + shape + (1,) * (rank - axis - len(shape))


def conv(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Y[n, m] = sum over W[m]: weights [M, C/group, k1, k2, ...], the first axis is the output channel."""
    del rank
    shape = shape_of_weight(constants, node, 1)
    cell = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    group = int_of(node, "group", 1)
    outputs = np.arange(shape[0] if group > 1 else 1)  # in one group all see the same channels
    first = outputs // max(1, shape[0] // group) * shape[1]
    channel = first[:, None] + np.arange(shape[1])[None, :]
    channel = channel.reshape(-1, shape[1], *[1] * (len(shape) - 2))
    data = DataSide(0, (1,), channel, (shape[1] * group,), sees_all=not reads_padding(constants, node, shape[2:]))
    return LinearMap(along(1, shape[0], len(shape)), cell, 1, 2, vector_bias=True, data=(data,))


def is_convolution(node: Node) -> bool:
    """Whether it is a Conv."""
    return node.op == "Conv"


def sees_own_place(node: Node, shape: Shape) -> bool:
    """Whether each output of a Conv lies where its data do, and one tap sees the data of its own place and channel."""
    kernel = shape[2:]
    spread = ints_of(node, "dilations") or (1,) * len(kernel)
    pads = pads_of(node, kernel) if node.op == "Conv" else None
    if pads is None or any(stride != 1 for stride in ints_of(node, "strides") or ()):
        return False
    if shape[0] != shape[1] * int_of(node, "group", 1) or len(spread) != len(kernel):
        return False
    ends = zip(kernel, spread, pads[: len(kernel)], pads[len(kernel) :], strict=True)
    return all(
        step >= 1 and first in range(0, step * size, step) and first + last == step * (size - 1)
        for size, step, first, last in ends
    )


def own_places(node: Node, shape: Shape) -> tuple[Labels, ...]:
    """Where those taps stand in the weight: one index array for each of its axes."""
    kernel = shape[2:]
    spread = ints_of(node, "dilations") or (1,) * len(kernel)
    pads = pads_of(node, kernel)
    if pads is None:
        raise UncertainError(f"the padding of {node.site} is not written down")
    channels = np.arange(shape[0])
    centers = (np.full(shape[0], first // step) for first, step in zip(pads[: len(kernel)], spread, strict=True))
    return (channels, channels % shape[1], *centers)


def conv_transpose(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Weights [C, M/group, k1, k2, ...]: input channel c belongs to group c // (C/group), of M/group outputs."""
    del rank
    shape = shape_of_weight(constants, node, 1)
    group = int_of(node, "group", 1)
    of_group = np.arange(shape[0]) // (shape[0] // group)
    cell = of_group[:, None] * shape[1] + np.arange(shape[1])[None, :]
    cell = cell.reshape(*shape[:2], *[1] * (len(shape) - 2))
    channel = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    data = DataSide(0, (1,), channel, (shape[0],), sees_all=_covers_all(node, shape))
    return LinearMap(along(1, shape[1] * group, len(shape)), cell, 1, 2, vector_bias=True, data=(data,))


def _covers_all(node: Node, shape: Shape) -> bool:
    """Whether every output of a ConvTranspose sees every tap: one step at a time, and what hangs over is cut off."""
    kernel = shape[2:]
    spread = ints_of(node, "dilations") or (1,) * len(kernel)
    pads = ints_of(node, "pads") or (0,) * (2 * len(kernel))
    plain = ints_of(node, "output_shape") is None and (ints_of(node, "kernel_shape") or kernel) == kernel
    single = all(stride == 1 for stride in ints_of(node, "strides") or ()) and not any(
        ints_of(node, "output_padding") or ()
    )
    reach = [(size - 1) * step for size, step in zip(kernel, spread, strict=True)]
    if text_of(node, "auto_pad") in {"VALID", "SAME_UPPER", "SAME_LOWER"}:  # one tap: one place is read for each
        return plain and single and not any(pads) and all(size == 1 for size in kernel)
    plain = plain and text_of(node, "auto_pad") in {"", "NOTSET"}
    return plain and single and all(pad >= needed for pad, needed in zip(pads, (*reach, *reach), strict=True))


def gemm(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Y = alpha*A'*B' + beta*C: column n of B' makes column n of Y, row m of A' makes row m of Y."""
    del rank
    factor = (float_of(node, "alpha", 1.0), float_of(node, "beta", 1.0))
    index, shape = _weight(constants, node)
    if len(shape) != 2:
        raise UncertainError(f"the weight of {node.site} is no matrix")
    axis, swapped = (1, int_of(node, "transB", 0)) if index == 1 else (0, not int_of(node, "transA", 0))
    channels = shape[0] if swapped else shape[1]
    cell = np.arange(channels)[:, None] if swapped else np.arange(channels)[None, :]
    inner = 1 - (0 if swapped else 1)
    channel = np.arange(shape[inner]).reshape((-1, 1) if inner == 0 else (1, -1))
    other = int_of(node, "transA", 0) if index == 1 else int_of(node, "transB", 0)
    summed = (0 if other else 1) if index == 1 else (1 if other else 0)
    data = DataSide(1 - index, (summed,), channel, (shape[inner],))
    return LinearMap(along(axis, channels, 2), cell, index, 2, factor, data=(data,))


def matmul(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Y = A @ B: column n of B[..., K, N] makes column n of Y, row m of A[..., M, K] makes row m of Y."""
    index, shape = _weight(constants, node)
    grid = (*shape[:-2], 1, shape[-1]) if index == 1 else (*shape[:-1], 1)
    if rank is None or len(shape) < 2 or rank < len(grid):
        raise UncertainError(f"{node.site} multiplies a vector, or a value of unknown rank")
    inner = len(shape) - 2 if index == 1 else len(shape) - 1
    form = [1] * len(shape)
    form[inner] = -1
    channel = np.arange(shape[inner]).reshape(form)
    axes = (-1,) if index == 1 else (-2,)
    data = DataSide(1 - index, axes, channel, (shape[inner],), sees_all=len(shape) == 2)
    cell = np.arange(product(grid)).reshape(grid)
    return LinearMap((1,) * (rank - len(grid)) + grid, cell, index, data=(data,))


def normalization(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Y = scale*(X - mean)/sqrt(var + epsilon) + B: linear in scale and B, one number for each channel."""
    (channels,) = shape_of_weight(constants, node, 1)
    if rank is None:
        raise UncertainError(f"the rank of what {node.site} puts out is not known")
    return LinearMap(along(1, channels, rank), np.arange(channels), 1, 2, vector_bias=True)


def product_with_constant(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Mul by a constant: C = A*B."""
    index, grid = _operand(constants, node, rank)
    return LinearMap(grid, np.arange(product(grid)).reshape(grid), weight_index=index, elementwise=True)


def quotient_by_constant(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Div by a constant: C = A/B."""
    index, grid = _operand(constants, node, rank)
    if index != 1:
        raise UncertainError(f"{node.site} divides a constant")
    return LinearMap(grid, np.arange(product(grid)).reshape(grid), weight_index=index, divides=True, elementwise=True)


def sum_with_constant(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Add of a constant: C = A + B."""
    index, grid = _operand(constants, node, rank)
    return LinearMap(grid, np.zeros(1, np.int64), bias_index=index, elementwise=True)


def difference_with_constant(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Sub of a constant, or from one: C = A - B."""
    index, grid = _operand(constants, node, rank)
    factor = (1.0, -1.0 if index == 1 else 1.0)
    return LinearMap(grid, np.zeros(1, np.int64), bias_index=index, factor=factor, elementwise=True)


def along(axis: int, size: int, rank: int) -> Shape:
    """The grid of outputs that differ along one axis."""
    grid = [1] * rank
    grid[axis] = size
    return tuple(grid)


def shape_of_weight(constants: Constants, node: Node, index: int) -> Shape:
    """The shape of a constant input that has to be there."""
    shape = dims(constants, node, index)
    if shape is None:
        raise UncertainError(f"the weight of {node.site} is not constant")
    return shape


def _weight(constants: Constants, node: Node) -> tuple[int, Shape]:
    """The second operand where it is constant, else the first."""
    shape = dims(constants, node, 1)
    return (1, shape) if shape is not None else (0, shape_of_weight(constants, node, 0))


def _operand(constants: Constants, node: Node, rank: int | None) -> tuple[int, Shape]:
    """Which operand of an elementwise operator is constant, and its shape with as many dimensions as the output."""
    index, shape = _weight(constants, node)
    if rank is None:
        raise UncertainError(f"the rank of what {node.site} puts out is not known")
    return index, aligned(node, index, shape, rank)


def softmax(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """exp(x) over its sum along an axis (below opset 13: along all axes from that one on)."""
    del constants
    axis = int_of(node, "axis", -1 if node.scope.opset >= 13 else 1)
    if rank is None:
        return _indifferent(0, ())  # asked again where something arrives, with the rank of that
    if not -rank <= axis < rank:
        raise UncertainError(f"the axis of {node.site} does not fit its data")
    last = axis % rank + 1 if node.scope.opset >= 13 else rank
    return _indifferent(rank, tuple(range(axis % rank, last)))


def instance_normalization(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """x less its mean over all positions, by its deviation there."""
    del constants, node
    return _indifferent(rank or 0, tuple(range(2, rank or 0)))


def _indifferent(rank: int, axes: tuple[int, ...]) -> LinearMap:
    return LinearMap((1,) * rank, np.zeros([1] * rank, np.int64), common=axes)


def clip(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """The lower and the upper bound of all elements: attributes until opset 10, inputs since."""
    del constants
    return _beside(node, rank, (1, 2) if node.scope.opset >= 11 else ("min", "max"))


def pad(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """What stands around the data: an attribute until opset 10, an input since."""
    del constants
    return _beside(node, rank, (2,) if node.scope.opset >= 11 else ("value",))


def rewritable(node: Node) -> frozenset[str]:
    """The attributes that may change in a home of this operator and version; the numbers are checked with it."""
    known, names = _REWRITABLE.get(node.op, (range(0), frozenset()))
    return names if node.scope.opset in known else frozenset()


_REWRITABLE = {
    "Gemm": (range(1, sys.maxsize), frozenset({"beta"})),
    "Clip": (range(6, 11), frozenset({"min", "max"})),
    "Pad": (range(2, 11), frozenset({"value"})),
}
"""In which opsets, and which."""


def _beside(node: Node, rank: int | None, places: tuple[int | str, ...]) -> LinearMap:
    if rank is None:
        raise UncertainError(f"the rank of the data of {node.site} is not known")
    return LinearMap((1,) * rank, np.zeros([1] * rank, np.int64), bounds=places)
