"""Constants that are stored quantised: y = (q - zero_point) * scale, and only the scale may change.

The products are never made: what is compared is the stored tensor (the same value), the zero points (equal), and the
scales, each at every place of the tensor where it counts. A scale is one number for all (per tensor), one for each
place along an axis, or one for each block of an axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.equality.constants import Constants, Float64, int_of
from bnfold.nodes import Node, Value

Shape = tuple[int, ...]

_LAYOUT_ATTRIBUTES = frozenset({"axis"})


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A dequantised tensor of one model; `scale` and `zero` broadcast against `shape`, that of the tensor."""

    node: Node
    content: Value
    shape: Shape
    scale: NDArray[np.generic]
    zero: Float64

    @classmethod
    def of(cls, constants: Constants, value: Value) -> Quantized | None:
        """What stands behind a value that DequantizeLinear puts out, None behind any other."""
        node = _dequantizer(constants, value)
        if node is None:
            return None
        content, scale, zero = node.input(0), node.input(1), node.input(2)
        shape = stored_shape(constants, value)
        if content is None or scale is None or shape is None:
            raise UncertainError(f"it is not known what {node.site} dequantises")
        stored = constants.floats(scale)
        points = np.zeros((), np.float64) if zero is None else constants.array(zero).astype(np.float64)
        if zero is not None and points.size != stored.size:
            raise DeviationError(f"{node.site} has a scale of {stored.shape} and a zero point of {points.shape}")
        spread = _spread(node, stored, shape)
        return cls(node, content, shape, spread, np.asarray(_spread(node, points, shape), np.float64))


def stored_shape(constants: Constants, value: Value) -> Shape | None:
    """The shape of a dequantised tensor; None where the value is none."""
    node = _dequantizer(constants, value)
    content = None if node is None else node.input(0)
    if content is None:
        return None
    sizes = constants.sizes(content) or (None,)
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else constants.shape(content)


def _dequantizer(constants: Constants, value: Value) -> Node | None:
    if constants.graph.initializer(value) is not None:
        return None
    node = constants.graph.producer(value)
    return node if node is not None and node.op == "DequantizeLinear" else None


def _spread(node: Node, parameter: NDArray[np.generic], shape: Shape) -> NDArray[np.generic]:
    """A scale or a zero point with as many dimensions as the tensor, by the text of each version."""
    if parameter.ndim <= 1 and parameter.size == 1:
        return parameter.reshape([1] * len(shape))
    axis = _axis(node, len(shape))
    if parameter.ndim == 1 and parameter.size == shape[axis]:
        return parameter.reshape([-1 if place == axis else 1 for place in range(len(shape))])
    block = int_of(node, "block_size", 0)
    blocks = tuple(-(-size // block) if block and place == axis else size for place, size in enumerate(shape))
    if not block or parameter.shape != blocks:
        raise DeviationError(f"{node.site} has parameters of {parameter.shape} for a tensor of {shape}")
    return np.take(np.repeat(parameter, block, axis), np.arange(shape[axis]), axis)


def _axis(node: Node, rank: int) -> int:
    """The axis of a scale that is not one number; below opset 13 there is none."""
    axis = int_of(node, "axis", 1)
    if node.scope.opset < 13 or not -rank <= axis < rank:
        raise DeviationError(f"{node.site} has one scale for each place of an axis, and no such axis")
    return axis % rank


def only_scales_differ(before: Quantized, after: Quantized) -> None:
    """Raises DeviationError unless two dequantised tensors are the same but for their scales and where these lie."""
    if before.shape != after.shape or _attributes(before.node) != _attributes(after.node):
        raise DeviationError(f"{after.node.site} dequantises in another way than {before.node.site}")
    ours, theirs = np.broadcast_arrays(before.zero, after.zero)
    if not np.array_equal(ours, theirs) or _lacks_zero(before) != _lacks_zero(after):
        raise DeviationError(f"{after.node.site} has another zero point than {before.node.site}")
    if before.scale.dtype != after.scale.dtype:
        raise DeviationError(f"{after.node.site} has scales of another type than {before.node.site}")


def _lacks_zero(found: Quantized) -> bool:
    """Whether there is a zero point at all, whose type is that of the tensor."""
    return found.node.input(2) is None


def _attributes(node: Node) -> dict[str, bytes]:
    return {a.name: a.SerializeToString() for a in node.proto.attribute if a.name not in _LAYOUT_ATTRIBUTES}
