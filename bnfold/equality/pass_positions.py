"""Operators on single elements and over positions, written from ONNX's text: what passes them, and what is carried."""

from __future__ import annotations

import numpy as np

from bnfold.affine import Dim
from bnfold.equality.claim import DeviationError, Link, UncertainError
from bnfold.equality.constants import Constants, attribute, float_of, int_of, ints_of, text_of
from bnfold.equality.passing import Carried, Passing, anywhere_along, first_alone
from bnfold.equality.windows import reads_padding
from bnfold.nodes import Node

# Operators on each element.


def elementwise(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Every element by itself."""
    del constants, unknown
    first_alone(link)
    return carried


def cast(constants: Constants, node: Node) -> Passing:
    """Cast: to a float type that holds every value of the one before."""
    value, output = node.input(0), node.output(0)
    if value is None or output is None:
        raise DeviationError(f"{node.site} has no value")
    before, after = constants.shapes.element_type(value), int_of(node, "to", 0)
    if (before, after) not in _WIDER:
        raise DeviationError(f"{node.site} does not only widen")
    return Passing()


_HALF, _BRAIN, _SINGLE, _DOUBLE = 10, 16, 1, 11
_WIDER = frozenset(
    {(_HALF, _SINGLE), (_HALF, _DOUBLE), (_BRAIN, _SINGLE), (_BRAIN, _DOUBLE), (_SINGLE, _DOUBLE)}
    | {(kind, kind) for kind in (_HALF, _BRAIN, _SINGLE, _DOUBLE)}
)


def clip(constants: Constants, node: Node) -> Passing:
    """Clip: all that it is given, where it has no bounds; one that has some is a home of whatever passes it."""
    if node.scope.opset >= 11:
        ends = [_bound(constants, node, index) for index in (1, 2)]
    else:
        data = node.input(0)
        kind = None if data is None else constants.shapes.element_type(data)
        if node.scope.opset < 6 or kind not in {_HALF, _SINGLE}:
            raise UncertainError(f"whether {node.site} bounds its data is not said")
        largest = float(np.finfo(np.float32).max)  # by default, and no finite number lies beyond it
        ends = [float_of(node, name, sign * np.inf) for name, sign in (("min", -1), ("max", 1))]
        ends = [sign * np.inf if end == sign * largest else end for end, sign in zip(ends, (-1, 1), strict=True)]
    if ends != [-np.inf, np.inf]:
        raise DeviationError(f"a claim passes {node.site}, whose bounds stay")
    return Passing()


def _bound(constants: Constants, node: Node, index: int) -> float:
    value = node.input(index)
    if value is None:
        return (-np.inf, np.inf)[index - 1]
    given = constants.floats(value)
    return float(given.reshape(())) if given.size == 1 else np.nan


# Operators over positions.


def pooled(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """Windows over the axes from 2 on: channels stay."""
    del constants, unknown
    first_alone(link)
    return anywhere_along(link, carried, range(2, carried.ndim))


def average_pool(constants: Constants, node: Node) -> Passing:
    """AveragePool: the mean over a window; with count_include_pad, zeros of the padding are in it."""
    counted = int_of(node, "count_include_pad", 0)
    return Passing(shift=not (counted and reads_padding(constants, node, ints_of(node, "kernel_shape") or ())))


def max_pool(constants: Constants, node: Node) -> Passing:
    """MaxPool: the largest of a window; where it is must not be asked for, for a scale of zero makes all alike."""
    del constants
    if any(value is not None for value in node.outputs[1:]):
        raise DeviationError(f"a claim passes {node.site}, which puts out indices too")
    return Passing(negative=False)


def reduced(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """ReduceMean and its kin: the axes go, or become 1."""
    del unknown
    first_alone(link)
    axes = reduced_axes(constants, link.node, carried.ndim)
    parts = anywhere_along(link, carried, axes)
    return parts if int_of(link.node, "keepdims", 1) else tuple(part.squeeze(axes) for part in parts)


def pad(constants: Constants, node: Node) -> Passing:
    """Pad: what is added is copied from the value, or a constant, which has to be zero then; less than none is cut."""
    if text_of(node, "mode") not in {"", "constant"} or not any(map(_may_grow, _padding(constants, node))):
        return Passing()
    operand, old = node.input(2), attribute(node, "value")
    value = old.f if old is not None else 0.0
    if operand is not None:
        given = np.asarray(constants.array(operand), np.float64)
        value = float(given.reshape(())) if given.size == 1 else np.nan
    if value != 0:
        raise DeviationError(f"{node.site} pads with {value:g}")
    return Passing(shift=False)


def _may_grow(amount: Dim) -> bool:
    return not isinstance(amount, int) or amount > 0


def padded(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """Pad: the padded axes grow."""
    del unknown
    first_alone(link)
    pads = _padding(constants, link.node)
    axes = _pad_axes(constants, link.node, carried.ndim)
    if len(pads) != 2 * len(axes):
        raise UncertainError(f"the pads of {link.node.site} do not fit its value")
    grown = [axis for i, axis in enumerate(axes) if pads[i] != 0 or pads[i + len(axes)] != 0]
    return anywhere_along(link, carried, grown)


def _padding(constants: Constants, node: Node) -> tuple[Dim, ...]:
    """By how much an axis grows at its beginning and end; None, or a symbol, where it may."""
    operand = node.input(1)
    if operand is None:
        return ints_of(node, "pads") or ints_of(node, "paddings") or ()
    return constants.elements(operand)


def _pad_axes(constants: Constants, node: Node, rank: int) -> tuple[int, ...]:
    operand = node.input(3)
    if operand is None:
        return tuple(range(rank))
    return tuple(axis % rank for axis in constants.integers(operand))


def resize(constants: Constants, node: Node) -> Passing:
    """Resize: weights of an interpolation sum to one; outside of a cropped image stands a number, zero by default."""
    del constants
    if text_of(node, "coordinate_transformation_mode") != _CROP:
        return Passing()
    if float_of(node, "extrapolation_value", 0.0) != 0:
        raise DeviationError(f"{node.site} crops its value, and outside of it stands a number that is not zero")
    return Passing(shift=False)


_CROP = "tf_crop_and_resize"


def resized(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """Resize and Upsample: along axes whose size stays, nothing moves."""
    del unknown
    first_alone(link)
    node = link.node
    moved = [axis for axis, size in enumerate(carried.shape) if size > 1]
    return anywhere_along(link, carried, [a for a in moved if not _keeps_axis(constants, node, a, carried.ndim)])


def _keeps_axis(constants: Constants, node: Node, axis: int, rank: int) -> bool:
    """Whether an axis is surely not resized: its factor is one, or it is given the size that it has."""
    axes = ints_of(node, "axes")
    places = list(range(rank)) if not axes else [each % rank for each in axes]
    if axis not in places:
        return True
    nearest = text_of(node, "mode") in {"", "nearest"}
    downwards = text_of(node, "nearest_mode") in {"", "round_prefer_floor", "floor"}
    if text_of(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn" and not (nearest and downwards):
        return False  # half a place further, even where the size stays
    if text_of(node, "coordinate_transformation_mode") == _CROP:
        region = node.input(1)
        bounds = () if region is None else tuple(map(float, constants.array(region).reshape(-1)))
        first = places.index(axis)
        if len(bounds) != 2 * len(places) or (bounds[first], bounds[first + len(places)]) != (0.0, 1.0):
            return False  # a part of it, or more
    factors = _factors(constants, node)
    if factors is not None:
        return len(factors) == len(places) and factors[places.index(axis)] == 1
    if text_of(node, "keep_aspect_ratio_policy") not in {"", "stretch"}:
        return False
    value, output = node.input(0), node.output(0)
    before = None if value is None else constants.sizes(value)
    after = None if output is None else constants.sizes(output)
    if before is None or after is None or len(before) != rank or len(after) != rank:
        return False
    return before[axis] is not None and before[axis] == after[axis]


def _factors(constants: Constants, node: Node) -> tuple[float | None, ...] | None:
    """What the sizes are multiplied by, as far as known, where that is given instead of sizes."""
    if node.op == "Upsample" and node.scope.opset < 9:
        old = attribute(node, "scales")
        if old is not None:
            return tuple(old.floats)
        return (1, 1, float_of(node, "height_scale", 0), float_of(node, "width_scale", 0))
    operand = node.input(2 if node.op == "Resize" and node.scope.opset >= 11 else 1)
    if operand is None or constants.shape(operand) == (0,):
        return None
    return constants.numbers(operand)


def reduced_axes(constants: Constants, node: Node, rank: int) -> tuple[int, ...]:
    """The axes over which a reduction goes, all where it names none."""
    operand = node.input(1)
    axes = ints_of(node, "axes")
    if operand is not None:
        axes = constants.integers(operand)
    if not axes:
        if int_of(node, "noop_with_empty_axes", 0):
            raise UncertainError(f"{node.site} reduces nothing")
        return tuple(range(rank))
    if any(not -rank <= axis < rank for axis in axes):
        raise UncertainError(f"the axes of {node.site} do not fit a value of {rank} dimensions")
    return tuple(axis % rank for axis in axes)
