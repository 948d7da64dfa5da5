"""Operators that let an affine of their output be one of their inputs, written from ONNX's text.

Each says what passes (a shift, or a scale alone; any scale, or one that is nowhere negative), how its inputs are
joined, and what becomes of an array that is carried along with one input: labels, of which -1 means none, or gains, of
which 1 means none. Where an operator treats positions otherwise than channels, an array that differs between positions
is not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.claim import DeviationError, Link, UncertainError
from bnfold.equality.constants import Constants, attribute, int_of, ints_of, text_of
from bnfold.nodes import Node, Value

Carried = NDArray[np.generic]
Joins = Literal["alone", "all", "sum", "one"]


@dataclass(frozen=True, slots=True)
class Passing:
    """What passes an operator: whether a shift does, and whether a scale may be negative.

    `joins`: of its inputs that can bear an affine, one alone there is; all must bear theirs; all the scale and one the
    shift; or any one of them, and no other.
    """

    joins: Joins = "alone"
    shift: bool = True
    negative: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """What passes an operator, and how an array goes with one of its inputs."""

    passing: Callable[[Constants, Node], Passing]
    follow: Callable[[Constants, Link, Carried, int], Carried]


def rule_of(node: Node) -> Rule | None:
    """The rule of an operator, if there is one here."""
    return _RULES.get(node.op)


def gain_of(constants: Constants, link: Link) -> float:
    """What a shift before the operator is multiplied by behind it."""
    node = link.node
    if node.op == "Sub" and link.data == 1:
        return -1.0
    if node.op != "ReduceSum":
        return 1.0
    sizes = constants.sizes(link.source)
    if sizes is None:
        raise UncertainError(f"how many elements {node.site} sums is not known")
    summed = [sizes[axis] for axis in _reduced_axes(constants, node, len(sizes))]
    count = 1.0
    for size in summed:
        if size is None:
            raise UncertainError(f"how many elements {node.site} sums is not known")
        count *= size
    return count


def _said(passing: Passing) -> Callable[[Constants, Node], Passing]:
    def said(constants: Constants, node: Node) -> Passing:
        del constants, node
        return passing

    return said


# Operators on each element.


def elementwise(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Every element by itself."""
    del constants, unknown
    _first_alone(link)
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

# Operators over positions.


def pooled(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Windows over the axes from 2 on: channels stay."""
    del constants, unknown
    _first_alone(link)
    _only_along(link, carried, range(2, carried.ndim))
    return carried


def average_pool(constants: Constants, node: Node) -> Passing:
    """AveragePool: the mean over a window; with count_include_pad, zeros of the padding are in it."""
    del constants
    counted = int_of(node, "count_include_pad", 0)
    return Passing(shift=not (counted and (_pads(node) or int_of(node, "ceil_mode", 0))))


def max_pool(constants: Constants, node: Node) -> Passing:
    """MaxPool: the largest of a window; where it is must not be asked for, for a scale of zero makes all alike."""
    del constants
    if any(value is not None for value in node.outputs[1:]):
        raise DeviationError(f"a claim passes {node.site}, which puts out indices too")
    return Passing(negative=False)


def _pads(node: Node) -> bool:
    automatic = text_of(node, "auto_pad")
    return automatic not in {"", "NOTSET", "VALID"} or any(ints_of(node, "pads") or ())


def reduced(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """ReduceMean and its kin: the axes go, or become 1."""
    del unknown
    _first_alone(link)
    axes = _reduced_axes(constants, link.node, carried.ndim)
    _only_along(link, carried, axes)
    return carried if int_of(link.node, "keepdims", 1) else carried.squeeze(axes)


def _reduced_axes(constants: Constants, node: Node, rank: int) -> tuple[int, ...]:
    operand = node.input(1)
    axes = ints_of(node, "axes")
    if operand is not None:
        axes = tuple(int(axis) for axis in constants.array(operand).reshape(-1))
    if not axes:
        if int_of(node, "noop_with_empty_axes", 0):
            raise UncertainError(f"{node.site} reduces nothing")
        return tuple(range(rank))
    if any(not -rank <= axis < rank for axis in axes):
        raise UncertainError(f"the axes of {node.site} do not fit a value of {rank} dimensions")
    return tuple(axis % rank for axis in axes)


def pad(constants: Constants, node: Node) -> Passing:
    """Pad: what is added is copied from the value, or a constant, which has to be zero then."""
    if text_of(node, "mode") not in {"", "constant"}:
        return Passing()
    operand, old = node.input(2), attribute(node, "value")
    value = old.f if old is not None else 0.0
    if operand is not None:
        value = float(np.asarray(constants.array(operand), np.float64).reshape(-1)[0])
    if value != 0:
        raise DeviationError(f"{node.site} pads with {value:g}")
    return Passing(shift=not any(_padding(constants, node)))


def padded(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Pad: the padded axes grow."""
    del unknown
    _first_alone(link)
    pads = _padding(constants, link.node)
    axes = _pad_axes(constants, link.node, carried.ndim)
    if len(pads) != 2 * len(axes):
        raise UncertainError(f"the pads of {link.node.site} do not fit its value")
    grown = [axis for i, axis in enumerate(axes) if pads[i] or pads[i + len(axes)]]
    _only_along(link, carried, grown)
    return carried


def _padding(constants: Constants, node: Node) -> tuple[int, ...]:
    operand = node.input(1)
    if operand is None:
        return ints_of(node, "pads") or ints_of(node, "paddings") or ()
    return tuple(int(size) for size in constants.array(operand).reshape(-1))


def _pad_axes(constants: Constants, node: Node, rank: int) -> tuple[int, ...]:
    operand = node.input(3)
    if operand is None:
        return tuple(range(rank))
    return tuple(int(axis) % rank for axis in constants.array(operand).reshape(-1))


def resize(constants: Constants, node: Node) -> Passing:
    """Resize: weights of an interpolation sum to one; outside of a cropped image stands another value."""
    del constants
    return Passing(shift=text_of(node, "coordinate_transformation_mode") != "tf_crop_and_resize")


def resized(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Resize and Upsample: along axes whose size stays, nothing moves."""
    del unknown
    _first_alone(link)
    node = link.node
    moved = [axis for axis, size in enumerate(carried.shape) if size > 1]
    if any(not _keeps_axis(constants, node, axis, carried.ndim) for axis in moved):
        raise UncertainError(f"{node.site} resizes an axis along which the affine differs, or may do so")
    return carried


def _keeps_axis(constants: Constants, node: Node, axis: int, rank: int) -> bool:
    """Whether an axis is surely not resized."""
    axes = ints_of(node, "axes")
    place = axis
    if axes is not None:
        normal = [each % rank for each in axes]
        if axis not in normal:
            return True
        place = normal.index(axis)
    value, output = node.input(0), node.output(0)
    for index in (1, 2):  # Upsample has its scales at 1, Resize at 2 (at 1 in opset 10)
        operand = node.input(index)
        if operand is not None and constants.shape(operand) not in {None, (0,)}:
            array = np.asarray(constants.array(operand), np.float64).reshape(-1)
            if array.size > place and (index == 2 or node.input(2) is None):
                return bool(array[place] == 1)
    before = None if value is None else constants.sizes(value)
    after = None if output is None else constants.sizes(output)
    if before is None or after is None or len(before) != rank or len(after) != rank:
        return False
    return before[axis] is not None and before[axis] == after[axis]


# Operators that choose and join.


def concat(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Concat: the inputs side by side along an axis."""
    del unknown
    node = link.node
    axis = int_of(node, "axis", 0 if node.scope.opset >= 4 else 1) % carried.ndim
    parts = [_filled(constants, node, value, carried, axis) for value in node.inputs]
    parts[link.data] = _whole_axis(constants, link.source, carried, axis, node)
    rest = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    shapes = [[*rest[:axis], part.shape[axis], *rest[axis + 1 :]] for part in parts]
    whole: Carried = np.concatenate(
        [np.broadcast_to(part, shape) for part, shape in zip(parts, shapes, strict=True)], axis=axis
    )
    return whole


def _filled(constants: Constants, node: Node, value: Value | None, carried: Carried, axis: int) -> Carried:
    sizes = None if value is None else constants.sizes(value)
    size = None if sizes is None or len(sizes) != carried.ndim else sizes[axis]
    if size is None:
        raise UncertainError(f"the sizes of what {node.site} joins are not known")
    shape = [1] * carried.ndim
    shape[axis] = size
    return np.full(shape, none_of(carried), carried.dtype)


def none_of(carried: Carried) -> int:
    """What stands for no label, or for a gain that is none."""
    return -1 if carried.dtype.kind == "i" else 1


def _whole_axis(constants: Constants, value: Value, carried: Carried, axis: int, node: Node) -> Carried:
    """What is carried, at full size along one axis."""
    sizes = constants.sizes(value)
    size = None if sizes is None or len(sizes) != carried.ndim else sizes[axis]
    if carried.shape[axis] != 1 and size in {None, carried.shape[axis]}:
        return carried
    if size is None or carried.shape[axis] != 1:
        raise UncertainError(f"the size of axis {axis} before {node.site} is not known")
    shape = list(carried.shape)
    shape[axis] = size
    return np.broadcast_to(carried, shape)


def split(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Split: output k is the kth part along an axis."""
    del unknown
    _first_alone(link)
    node = link.node
    axis = int_of(node, "axis", 0) % carried.ndim
    operand = node.input(1)
    parts = ints_of(node, "split") if operand is None else tuple(int(n) for n in constants.array(operand).reshape(-1))
    if not parts and carried.shape[axis] == 1 and constants.sizes(link.source) is None:
        raise UncertainError(f"the parts of {node.site} are not known")
    full = _whole_axis(constants, link.source, carried, axis, node)
    if not parts:
        count = int_of(node, "num_outputs", len(node.outputs))
        size = -(-full.shape[axis] // count)
        parts = tuple(min(size, full.shape[axis] - size * k) for k in range(count))
    first = sum(parts[: link.output])
    part: Carried = full.take(range(first, first + parts[link.output]), axis)
    return part


def sliced(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Slice: starts, ends, axes and steps, as Python's slices but for their ends."""
    del unknown
    _first_alone(link)
    node = link.node
    given = [ints_of(node, name) for name in ("starts", "ends", "axes")]
    if node.scope.opset >= 10:
        given = [_integers(constants, node.input(index)) for index in (1, 2, 3)]
    starts, ends, axes = given
    steps = _integers(constants, node.input(4)) if node.scope.opset >= 10 else None
    if starts is None or ends is None:
        raise UncertainError(f"where {node.site} cuts is not known")
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else steps[i]
        place = axis % carried.ndim
        if carried.shape[place] == 1 and not _is_one(constants, link.source, place):
            continue
        last = None if step < 0 and ends[i] < -(1 << 31) else ends[i]
        index = range(*slice(starts[i], last, step).indices(carried.shape[place]))
        carried = carried.take(index, place)
    return carried


def _is_one(constants: Constants, value: Value, axis: int) -> bool:
    sizes = constants.sizes(value)
    return sizes is not None and axis < len(sizes) and sizes[axis] == 1


def _integers(constants: Constants, value: Value | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(int(n) for n in constants.array(value).reshape(-1))


def gathered(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Gather: entries along an axis, by constant indices where the affine differs along it."""
    del unknown
    _first_alone(link)
    node = link.node
    axis = int_of(node, "axis", 0) % carried.ndim
    operand = node.input(1)
    if operand is None:
        raise DeviationError(f"{node.site} has no indices")
    if carried.shape[axis] == 1 and not _is_one(constants, link.source, axis):
        sizes = constants.sizes(operand)
        if sizes is None:
            raise UncertainError(f"the rank of the indices of {node.site} is not known")
        return carried.reshape((*carried.shape[:axis], *[1] * len(sizes), *carried.shape[axis + 1 :]))
    indices = np.asarray(constants.array(operand), np.int64)
    taken: Carried = carried.take(indices % carried.shape[axis], axis)
    return taken


# Operators of several values.


def joined(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Add, Mul, Max and their kin: operands broadcast as numpy's do (from opset 7 on)."""
    del unknown
    if link.node.scope.opset < 7 and link.node.op != "Sum":
        raise UncertainError(f"{link.node.site} broadcasts by old rules")
    ranks = []
    for value in (value for value in link.node.inputs if value is not None):
        sizes = constants.sizes(value)
        if sizes is None and value is not link.source:
            raise UncertainError(f"the ranks of what {link.node.site} joins are not known")
        ranks.append(carried.ndim if sizes is None else len(sizes))
    return carried.reshape((1,) * (max(ranks) - carried.ndim) + carried.shape)


def chosen(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Where: one of two values, element by element."""
    if link.data == 0:
        raise DeviationError(f"a claim passes the condition of {link.node.site}")
    return joined(constants, link, carried, unknown)


def divided(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Div: the dividend is scaled as the quotient is."""
    if link.data != 0:
        raise DeviationError(f"a claim passes the divisor of {link.node.site}")
    return joined(constants, link, carried, unknown)


def bearing_inputs(node: Node) -> tuple[int, ...]:
    """The inputs of an operator of several values that can bear an affine."""
    given = [index for index, value in enumerate(node.inputs) if value is not None]
    return tuple(index for index in given if node.op != "Where" or index)


def _first_alone(link: Link) -> None:
    if link.data != 0:
        raise DeviationError(f"a claim passes input {link.data} of {link.node.site}")


def _only_along(link: Link, carried: Carried, axes: range | tuple[int, ...] | list[int]) -> None:
    """What is carried must not differ along these axes."""
    if any(carried.shape[axis] != 1 for axis in axes):
        raise UncertainError(f"along the axes on which {link.node.site} acts, the affine differs")


_SIGNED = _said(Passing(shift=False, negative=False))
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Abs"), Rule(_SIGNED, elementwise)),
    "Cast": Rule(cast, elementwise),
    "AveragePool": Rule(average_pool, pooled),
    "GlobalAveragePool": Rule(_said(Passing()), pooled),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), Rule(max_pool, pooled)),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), Rule(_SIGNED, pooled)),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), Rule(_said(Passing()), reduced)),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), Rule(_said(Passing(negative=False)), reduced)),
    **dict.fromkeys(("ReduceL1", "ReduceL2"), Rule(_SIGNED, reduced)),
    "Pad": Rule(pad, padded),
    **dict.fromkeys(("Resize", "Upsample"), Rule(resize, resized)),
    "Concat": Rule(_said(Passing(joins="all")), concat),
    "Split": Rule(_said(Passing()), split),
    "Slice": Rule(_said(Passing()), sliced),
    "Gather": Rule(_said(Passing()), gathered),
    **dict.fromkeys(("Add", "Sub", "Sum"), Rule(_said(Passing(joins="sum")), joined)),
    "Mul": Rule(_said(Passing(joins="one", shift=False)), joined),
    "Div": Rule(_said(Passing(joins="one", shift=False)), divided),
    **dict.fromkeys(("Max", "Min"), Rule(_said(Passing(joins="all", negative=False)), joined)),
    "Where": Rule(_said(Passing(joins="all")), chosen),
}
