"""How a home uses its constants: each of these operators is affine in them, and says so by a LinearMap.

    output = factor[0] * (a sum of weights times data) + factor[1] * bias

A grid is a shape that broadcasts against the output; each of its cells is scaled by itself, and each weight serves
the outputs of one cell. Written from ONNX's text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.equality.constants import Constants, attribute, float_of, int_of, ints_of, product, text_of
from bnfold.equality.layout import Labels
from bnfold.equality.quantized import stored_shape
from bnfold.nodes import Node

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DataSide:
    """Where a node reads its data: at which input, on which axis (from the end where negative) its channels lie.

    `channel` broadcasts to the weight's shape: the channel of the data that each weight is multiplied by. `sees_all`:
    whether every output is a sum over all taps, so that a shift of the data shifts the outputs alike.
    """

    index: int
    axis: int
    channel: Labels
    channels: int
    sees_all: bool = True


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
    data: DataSide | None = None
    elementwise: bool = False
    """Whether the constant broadcasts against the output, so that one of another shape means the same."""


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
    shape = _shape_of_weight(constants, node, 1)
    cell = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    group = int_of(node, "group", 1)
    first = np.arange(shape[0]) // max(1, shape[0] // group) * shape[1]
    channel = first[:, None] + np.arange(shape[1])[None, :]
    padded = text_of(node, "auto_pad") not in {"", "NOTSET", "VALID"} or any(ints_of(node, "pads") or ())
    channel = channel.reshape(*shape[:2], *[1] * (len(shape) - 2))
    data = DataSide(0, 1, channel, shape[1] * group, sees_all=not padded)
    return LinearMap(_along(1, shape[0], len(shape)), cell, 1, 2, vector_bias=True, data=data)


def sees_own_place(node: Node, shape: Shape) -> bool:
    """Whether each output of a Conv lies where its data do, and one tap sees the data of its own place and channel."""
    kernel = shape[2:]
    spread = ints_of(node, "dilations") or (1,) * len(kernel)
    pads = ints_of(node, "pads") or (0,) * (2 * len(kernel))
    plain = node.op == "Conv" and text_of(node, "auto_pad") in {"", "NOTSET"} and len(pads) == 2 * len(kernel)
    if not plain or any(stride != 1 for stride in ints_of(node, "strides") or ()):
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
    pads = ints_of(node, "pads") or (0,) * (2 * len(kernel))
    channels = np.arange(shape[0])
    centers = (np.full(shape[0], first // step) for first, step in zip(pads[: len(kernel)], spread, strict=True))
    return (channels, channels % shape[1], *centers)


def conv_transpose(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Weights [C, M/group, k1, k2, ...]: input channel c belongs to group c // (C/group), of M/group outputs."""
    del rank
    shape = _shape_of_weight(constants, node, 1)
    group = int_of(node, "group", 1)
    of_group = np.arange(shape[0]) // (shape[0] // group)
    cell = of_group[:, None] * shape[1] + np.arange(shape[1])[None, :]
    cell = cell.reshape(*shape[:2], *[1] * (len(shape) - 2))
    channel = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    data = DataSide(0, 1, channel, shape[0], sees_all=_covers_all(node, shape))
    return LinearMap(_along(1, shape[1] * group, len(shape)), cell, 1, 2, vector_bias=True, data=data)


def _covers_all(node: Node, shape: Shape) -> bool:
    """Whether every output of a ConvTranspose sees every tap: one step at a time, and what hangs over is cut off."""
    kernel = shape[2:]
    spread = ints_of(node, "dilations") or (1,) * len(kernel)
    pads = ints_of(node, "pads") or (0,) * (2 * len(kernel))
    plain = text_of(node, "auto_pad") in {"", "NOTSET"} and ints_of(node, "output_shape") is None
    single = all(stride == 1 for stride in ints_of(node, "strides") or ()) and not any(
        ints_of(node, "output_padding") or ()
    )
    reach = [(size - 1) * step for size, step in zip(kernel, spread, strict=True)]
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
    along = (0 if other else 1) if index == 1 else (1 if other else 0)
    data = DataSide(1 - index, along, channel, shape[inner])
    return LinearMap(_along(axis, channels, 2), cell, index, 2, factor, data=data)


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
    data = DataSide(1 - index, -1 if index == 1 else -2, channel, shape[inner], sees_all=len(shape) == 2)
    cell = np.arange(product(grid)).reshape(grid)
    return LinearMap((1,) * (rank - len(grid)) + grid, cell, index, data=data)


def einsum(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """A product summed over the labels that the output lacks: a label that one operand alone has is an axis of it."""
    index, shape = _only_constant(constants, node)
    terms, result = _equation(node)
    term = terms[index] if len(terms) == len(node.inputs) else ""
    if rank is None and "." not in result:
        rank = len(result)
    # The dots of an ellipsis are one letter more than once.
    if rank is None or len(term) != len(shape) or len(set(term)) < len(term):
        raise UncertainError(f"the equation of {node.site} is none that the certificate can follow")
    axes = _axes_of_labels(node, result, rank)
    elsewhere = set("".join(terms[:index] + terms[index + 1 :]))
    sizes = {label: size for label, size in zip(term, shape, strict=True) if label in axes and label not in elsewhere}
    grid = [1] * rank
    for label, size in sizes.items():
        grid[axes[label]] = size
    order = sorted(sizes, key=axes.__getitem__)
    cells = np.arange(product(grid)).reshape([sizes[label] for label in order])
    cells = cells.transpose([order.index(label) for label in term if label in sizes])
    return LinearMap(tuple(grid), cells.reshape([sizes.get(label, 1) for label in term]), index)


def normalization(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """Y = scale*(X - mean)/sqrt(var + epsilon) + B: linear in scale and B, one number for each channel."""
    (channels,) = _shape_of_weight(constants, node, 1)
    if rank is None:
        raise UncertainError(f"the rank of what {node.site} puts out is not known")
    return LinearMap(_along(1, channels, rank), np.arange(channels), 1, 2, vector_bias=True)


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


def _along(axis: int, size: int, rank: int) -> Shape:
    grid = [1] * rank
    grid[axis] = size
    return tuple(grid)


def _shape_of_weight(constants: Constants, node: Node, index: int) -> Shape:
    shape = dims(constants, node, index)
    if shape is None:
        raise UncertainError(f"the weight of {node.site} is not constant")
    return shape


def _weight(constants: Constants, node: Node) -> tuple[int, Shape]:
    """The second operand where it is constant, else the first."""
    shape = dims(constants, node, 1)
    return (1, shape) if shape is not None else (0, _shape_of_weight(constants, node, 0))


def _operand(constants: Constants, node: Node, rank: int | None) -> tuple[int, Shape]:
    """Which operand of an elementwise operator is constant, and its shape with as many dimensions as the output."""
    index, shape = _weight(constants, node)
    if rank is None:
        raise UncertainError(f"the rank of what {node.site} puts out is not known")
    return index, aligned(node, index, shape, rank)


def _only_constant(constants: Constants, node: Node) -> tuple[int, Shape]:
    shapes = [dims(constants, node, index) for index in range(len(node.inputs))]
    found = [(index, shape) for index, shape in enumerate(shapes) if shape is not None]
    if len(found) != 1:
        raise UncertainError(f"{node.site} has {len(found)} constant operands, of which one would be the weight")
    return found[0]


def _equation(node: Node) -> tuple[list[str], str]:
    """The terms of an Einsum's equation and its result; without `->` the labels that occur once, sorted."""
    left, arrow, right = text_of(node, "equation").replace(" ", "").partition("->")
    terms = left.split(",")
    if arrow:
        return terms, right
    labels = left.replace(",", "").replace(".", "")
    implied = "".join(sorted(label for label in set(labels) if labels.count(label) == 1))
    return terms, ("..." if "..." in left else "") + implied


def _axes_of_labels(node: Node, result: str, rank: int) -> dict[str, int]:
    """Where each label of an Einsum's result stands; an ellipsis is as long as the rank makes it."""
    first, ellipsis, last = result.partition("...")
    count = len(first) + len(last)
    if len(set(first + last)) < count or count > rank or (not ellipsis and count != rank):
        raise UncertainError(f"the equation of {node.site} does not fit a value of {rank} dimensions")
    return {label: axis for axis, label in enumerate(first)} | {
        label: rank - len(last) + axis for axis, label in enumerate(last)
    }
