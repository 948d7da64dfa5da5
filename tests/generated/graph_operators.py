"""Operators that may let an affine pass, as random graphs have them; what each lets pass on the way back and ahead.

An operator of several values is made of as many operands, alike in shape; the affine arrives at the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from graph_affines import ANY, POSITIVE, POSITIVE_SCALE, SCALE, SHIFT, UNIFORM, UNIFORM_POSITIVE, Allows
from graph_builder import IMAGE, ROWS, TOKENS, Builder, Flow, Unfit
from onnx import TensorProto

Make = Callable[..., Flow]


@dataclass(frozen=True, slots=True)
class Operator:
    """How one is made, of what kind of value, since and until which opset, and what it lets pass.

    `channels`: how many its value has to have, 0 for any; `even`: whether all other sizes have to be even.
    """

    make: Make
    back: Allows
    ahead: Allows
    operands: int
    kinds: tuple[str, ...]
    opsets: range
    types: tuple[type, ...]
    spatial: tuple[int, ...]
    channels: int
    even: bool


OPERATORS: dict[str, Operator] = {}
EVERY = (np.float32, np.float16, np.float64)
NOT_DOUBLE = (np.float32, np.float16)
LAST_OPSET = 22


def _operator(  # noqa: PLR0913  # the fields of Operator
    *ops: str, back: Allows = ANY, ahead: Allows | None = None, operands: int = 1,
    kinds: tuple[str, ...] = (IMAGE, ROWS, TOKENS), since: int = 7, until: int = LAST_OPSET,
    types: tuple[type, ...] = EVERY, spatial: tuple[int, ...] = (1, 2, 3), channels: int = 0, even: bool = False,
) -> Callable[[Make], Make]:  # fmt: skip
    def decorate(function: Make) -> Make:
        for op in ops:
            span = range(since, until + 1)
            OPERATORS[op] = Operator(
                function, back, ahead or back, operands, kinds, span, types, spatial, channels, even
            )
        return function

    return decorate


def operator(g: Builder, op: str, *operands: Flow) -> Flow:
    """The value of an operator."""
    return OPERATORS[op].make(g, op, *operands)


# --- what changes nothing, or the layout alone ------------------------------------------------------------------------


@_operator("Identity")
def identity(g: Builder, op: str, x: Flow) -> Flow:
    return x.as_(g.node(op, x.name))


@_operator("Dropout", types=NOT_DOUBLE)
def dropout(g: Builder, op: str, x: Flow) -> Flow:
    if g.opset < 12:
        return x.as_(g.node(op, x.name, ratio=0.3))
    more = [g.constant(np.float32(0.3))] if g.chance(0.5) else []
    more += [g.constant(np.array(False))] if more and g.chance(0.5) else []
    return x.as_(g.node(op, x.name, *more))


@_operator("Transpose")
def transpose(g: Builder, op: str, x: Flow) -> Flow:
    order = [0, *(1 + g.rng.permutation(x.rank - 1))] if g.chance(0.8) else list(g.rng.permutation(x.rank))
    perm = [int(i) for i in order]
    return Flow(g.node(op, x.name, perm=perm), tuple(x.shape[i] for i in perm), perm.index(x.axis))


@_operator("Unsqueeze")
def unsqueeze(g: Builder, op: str, x: Flow) -> Flow:
    del op
    if x.rank > 5:
        raise Unfit
    place = g.between(0, x.rank)
    shape = (*x.shape[:place], 1, *x.shape[place:])
    return Flow(g.unsqueezed(x.name, place), shape, x.axis + (place <= x.axis))


@_operator("Squeeze")
def squeeze(g: Builder, op: str, x: Flow) -> Flow:
    """Of an axis that was made before, or of those that pooling left."""
    if x.rank == 4 and g.chance(0.4) and g.form.data is not np.float64 and x.axis == 1:
        return Flow(g.squeezed(g.node("GlobalAveragePool", x.name), 2, 3), x.shape[:2])
    place = g.between(1, x.rank)
    wide = g.unsqueezed(x.name, place)
    if g.opset >= 13 and g.chance(0.15) and 1 not in x.shape:
        return x.as_(g.node(op, wide))
    return x.as_(g.squeezed(wide, place))


@_operator("Reshape")
def reshape(g: Builder, op: str, x: Flow) -> Flow:
    """All places in one, or the channels in groups of which some are shuffled."""
    if x.axis != 1 or x.rank < 3:
        return Flow(g.node(op, x.name, g.integers(*[0] * x.axis, x.channels, 1)), (*x.shape[: x.axis + 1], 1), x.axis)
    if g.chance(0.4) and x.channels % 2 == 0:
        half = x.channels // 2
        parted = g.node(op, x.name, g.integers(0, 2, half, *x.spatial))
        shuffled = g.node("Transpose", parted, perm=[0, 2, 1, *range(3, x.rank + 1)])
        return x.as_(g.node(op, shuffled, g.integers(0, x.channels, *x.spatial)))
    return Flow(g.node(op, x.name, g.integers(0, x.channels, -1)), (*x.shape[:2], int(np.prod(x.spatial))))


@_operator("Flatten", kinds=(IMAGE, ROWS))
def flatten(g: Builder, op: str, x: Flow) -> Flow:
    """With a block of equal scales for each channel, or with one place for each."""
    if x.axis != 1:
        raise Unfit
    if x.rank > 2 and g.form.data is not np.float64 and g.chance(0.7):
        x = x.as_(g.node(str(g.pick("GlobalAveragePool", "GlobalMaxPool")), x.name), *x.shape[:2], *[1] * (x.rank - 2))
    return Flow(g.node(op, x.name, axis=1), (x.shape[0], int(np.prod(x.shape[1:]))))


@_operator("Cast", types=NOT_DOUBLE)
def cast(g: Builder, op: str, x: Flow) -> Flow:
    """To a wider type: the caller comes back from that."""
    to = TensorProto.DOUBLE if g.form.data is np.float32 else TensorProto.FLOAT
    return x.as_(g.node(op, x.name, to=to))


# --- rectifiers, pooling, reductions ----------------------------------------------------------------------------------


@_operator("Relu", "Abs", back=POSITIVE_SCALE)
def rectifier(g: Builder, op: str, x: Flow) -> Flow:
    return x.as_(g.node(op, x.name))


@_operator("LeakyRelu", back=POSITIVE_SCALE, types=NOT_DOUBLE)
def leaky(g: Builder, op: str, x: Flow) -> Flow:
    return x.as_(g.node(op, x.name, alpha=0.2))


@_operator("PRelu", back=POSITIVE_SCALE, types=NOT_DOUBLE)
def parametric(g: Builder, op: str, x: Flow) -> Flow:
    slope = g.rng.uniform(0.05, 0.5, (x.channels, *[1] * (x.rank - 1 - x.axis)))
    return x.as_(g.node(op, x.name, g.floats(slope, "slope")))


@_operator("Clip", back=UNIFORM_POSITIVE, types=NOT_DOUBLE)
def clip(g: Builder, op: str, x: Flow) -> Flow:
    low, high = float(g.pick(0.0, -1.0)), float(g.pick(6.0, 2.0))
    if g.chance(0.15):
        return x.as_(g.node(op, x.name))  # without any bound
    if g.opset < 11:
        said = {"min": low, "max": float(g.pick(high, high, np.finfo(np.float32).max))}
        return x.as_(g.node(op, x.name, **dict([*said.items()][: 1 + g.chance(0.8)])))
    bounds = [g.floats(np.array(value), "bound") for value in (low, high)]
    return x.as_(g.node(op, x.name, *bounds[: 1 + g.chance(0.8)]))


@_operator("AveragePool", kinds=(IMAGE,), types=NOT_DOUBLE)
def average(g: Builder, op: str, x: Flow) -> Flow:
    counted = int(g.chance(0.3))
    if counted and not any(n % 2 for n in x.spatial) and g.chance(0.3):
        two, how = [2] * len(x.spatial), str(g.pick("SAME_UPPER", "SAME_LOWER"))
        made = g.node(op, x.name, kernel_shape=two, strides=two, auto_pad=how, count_include_pad=1)
        return x.as_(made, *x.shape[:2], *(n // 2 for n in x.spatial))
    return _window(g, op, x, count_include_pad=counted)


@_operator("MaxPool", back=POSITIVE, kinds=(IMAGE,), types=NOT_DOUBLE)
def largest(g: Builder, op: str, x: Flow) -> Flow:
    return _window(g, op, x)


@_operator("LpPool", back=POSITIVE_SCALE, kinds=(IMAGE,), types=(np.float32,))
def norms(g: Builder, op: str, x: Flow) -> Flow:
    return _window(g, op, x, p=2)


def _window(g: Builder, op: str, x: Flow, **attributes: object) -> Flow:
    size = int(g.pick(2, 3)) if min(x.spatial) >= 3 else min(2, *x.spatial)
    pads = int(g.chance(0.4)) if size > 1 else 0
    stride = 2 if min(x.spatial) > 4 and g.chance(0.5) else 1
    count = len(x.spatial)
    sizes = [(n + 2 * pads - size) // stride + 1 for n in x.spatial]
    written = {"kernel_shape": [size] * count, "strides": [stride] * count, "pads": [pads] * 2 * count}
    return x.as_(g.node(op, x.name, **written, **attributes), *x.shape[:2], *sizes)


@_operator("GlobalAveragePool", kinds=(IMAGE,), types=NOT_DOUBLE)
def whole_average(g: Builder, op: str, x: Flow) -> Flow:
    return x.as_(g.node(op, x.name), *x.shape[:2], *[1] * len(x.spatial))


@_operator("GlobalMaxPool", back=POSITIVE, kinds=(IMAGE,), types=NOT_DOUBLE)
def whole_largest(g: Builder, op: str, x: Flow) -> Flow:
    return whole_average(g, op, x)


@_operator("GlobalLpPool", back=POSITIVE_SCALE, kinds=(IMAGE,), until=21, types=(np.float32,))
def whole_norm(g: Builder, op: str, x: Flow) -> Flow:
    return x.as_(g.node(op, x.name, p=2), *x.shape[:2], *[1] * len(x.spatial))


@_operator("ReduceMean", "ReduceSum", kinds=(IMAGE, TOKENS))
def mean(g: Builder, op: str, x: Flow) -> Flow:
    axes = [axis for axis in range(1, x.rank) if axis != x.axis]
    if len(axes) > 1 and g.chance(0.4):
        axes = axes[-1:]
    keep = int(g.chance(0.6))
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    made = g.reduced(op, x.name, axes, keepdims=keep)
    if keep:
        return x.as_(made, *kept)
    shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    return Flow(made, shape, x.axis - sum(axis < x.axis for axis in axes))


@_operator("ReduceMax", "ReduceMin", back=POSITIVE, kinds=(IMAGE, TOKENS))
def extremum(g: Builder, op: str, x: Flow) -> Flow:
    return mean(g, op, x)


@_operator("ReduceL1", "ReduceL2", back=POSITIVE_SCALE, kinds=(IMAGE, TOKENS), types=NOT_DOUBLE)
def norm(g: Builder, op: str, x: Flow) -> Flow:
    return mean(g, op, x)


# --- places: padding, resizing, cutting -------------------------------------------------------------------------------


@_operator("Pad", kinds=(IMAGE,), types=NOT_DOUBLE)
def pad(g: Builder, op: str, x: Flow) -> Flow:
    """By the value itself, which lets everything pass, or by zeros; before opset 11 now and then by another number.

    Or less than nothing: then it only cuts.
    """
    mode = str(g.pick("reflect", "edge", "edge", "constant")) if min(x.spatial) > 1 else "edge"
    count = len(x.spatial)
    sizes = [0, 0, *[1] * count] * 2
    shape = [*x.shape[:2], *(n + 2 for n in x.spatial)]
    if mode == "constant" and min(x.spatial) > 3 and g.chance(0.4):
        sizes, shape = [0, 0, *[-1] * count, 0, 0, *[0] * count], [*x.shape[:2], *(n - 1 for n in x.spatial)]
    if g.opset < 11:
        number = {"value": float(g.pick(0.5, -1.0))} if mode == "constant" and g.chance(0.5) else {}
        return x.as_(g.node(op, x.name, mode=mode, pads=sizes, **number), *shape)
    return x.as_(g.node(op, x.name, g.integers(*sizes), mode=mode), *shape)


@_operator("Resize", kinds=(IMAGE,), since=11, types=(np.float32,))
def resize(g: Builder, op: str, x: Flow) -> Flow:
    """By factors or to sizes; nearest or, of two spatial axes, linear."""
    mode = str(g.pick("nearest", "linear")) if len(x.spatial) == 2 else "nearest"
    shape = [*x.shape[:2], *(2 * n for n in x.spatial)]
    none = g.constant(np.zeros(0, np.float32)) if g.opset < 13 else ""
    where = "asymmetric" if mode == "nearest" else str(g.pick("half_pixel", "align_corners"))
    attributes = {"mode": mode, "coordinate_transformation_mode": where}
    if mode == "nearest":
        attributes["nearest_mode"] = "floor"
    factors = g.constant(np.array([1, 1, *[2] * len(x.spatial)], np.float32))
    return x.as_(g.node(op, x.name, none, factors, **attributes), *shape)


@_operator("Upsample", kinds=(IMAGE,), until=9, types=(np.float32,))
def upsample(g: Builder, op: str, x: Flow) -> Flow:
    factors = [1.0, 1.0, *[2.0] * len(x.spatial)]
    shape = [*x.shape[:2], *(2 * n for n in x.spatial)]
    if g.opset < 9:
        return x.as_(g.node(op, x.name, mode="nearest", scales=factors), *shape)
    return x.as_(g.node(op, x.name, g.constant(np.array(factors, np.float32)), mode="nearest"), *shape)


@_operator("Slice")
def slice_(g: Builder, op: str, x: Flow) -> Flow:
    """Of the channels, or of places; forward or backward, every one or every other."""
    axis = x.axis if x.rank == 2 or g.chance(0.5) else next(i for i in range(1, x.rank) if i != x.axis)
    size = x.shape[axis]
    start, step = g.between(0, size // 2), 1
    end = size if g.chance(0.5) else start + max(1, (size - start) // 2)
    if g.opset < 10:
        made = g.node(op, x.name, axes=[axis], starts=[start], ends=[end])
    else:
        step = int(g.pick(1, 1, 2, -1))
        bounds = (end - 1, start - size - 1 if start == 0 else start - 1) if step < 0 else (start, end)
        made = g.node(op, x.name, *[g.integers(i) for i in (bounds[0], bounds[1], axis, step)])
    taken = len(range(start, end, abs(step)))
    return x.as_(made, *(taken if i == axis else n for i, n in enumerate(x.shape)))


@_operator("Gather")
def gather(g: Builder, op: str, x: Flow) -> Flow:
    """Some channels in any order, or one place."""
    if x.rank > 2 and g.chance(0.3):
        axis = next(i for i in range(1, x.rank) if i != x.axis)
        made = g.node(op, x.name, g.constant(np.array(x.shape[axis] - 1, np.int64)), axis=axis)
        return Flow(made, tuple(n for i, n in enumerate(x.shape) if i != axis), x.axis - (axis < x.axis))
    taken = g.rng.permutation(x.channels)[: g.between(1, x.channels)]
    indices = g.constant(taken.astype(np.int64) - (x.channels if g.chance(0.2) else 0))
    return x.as_(g.node(op, x.name, indices, axis=x.axis), *_with_channels(x, taken.size))


def cut(g: Builder, x: Flow, axis: int) -> Flow:
    """A value without the last place along an axis."""
    end = x.shape[axis] - 1
    if g.opset < 10:
        made = g.node("Slice", x.name, axes=[axis], starts=[0], ends=[end])
    else:
        made = g.node("Slice", x.name, *[g.integers(i) for i in (0, end, axis)])
    return x.as_(made, *(end if i == axis else n for i, n in enumerate(x.shape)))


def _with_channels(x: Flow, count: int) -> tuple[int, ...]:
    return tuple(count if i == x.axis else n for i, n in enumerate(x.shape))


@_operator("Split", channels=3)
def split(g: Builder, op: str, x: Flow) -> Flow:
    """One part of the channels; nothing reads the other."""
    first = g.between(1, x.channels - 1)
    sizes = [first, x.channels - first]
    if g.opset < 13:
        made = g.nodes(op, x.name, count=2, axis=x.axis, split=sizes)
    else:
        made = g.nodes(op, x.name, g.integers(*sizes), count=2, axis=x.axis)
    place = g.between(0, 1)
    return x.as_(made[place], *_with_channels(x, sizes[place]))


@_operator("DepthToSpace", ahead=UNIFORM, kinds=(IMAGE,), types=(np.float32,), spatial=(2,), channels=4)
def depth_to_space(g: Builder, op: str, x: Flow) -> Flow:
    attributes = {"mode": g.pick("DCR", "CRD")} if g.opset >= 11 else {}
    shape = x.shape[0], x.channels // 4, *(2 * n for n in x.spatial)
    return x.as_(g.node(op, x.name, blocksize=2, **attributes), *shape)


@_operator(
    "SpaceToDepth", back=UNIFORM, ahead=ANY, kinds=(IMAGE,), types=(np.float32,), spatial=(2,), channels=2, even=True
)
def space_to_depth(g: Builder, op: str, x: Flow) -> Flow:
    shape = x.shape[0], x.channels * 4, *(n // 2 for n in x.spatial)
    return x.as_(g.node(op, x.name, blocksize=2), *shape)


@_operator("Expand", since=8)
def expand(g: Builder, op: str, x: Flow) -> Flow:
    """Along a new axis of size 1, or not at all."""
    wide = unsqueeze(g, "Unsqueeze", x)
    place = next(i for i, n in enumerate(wide.shape) if n == 1 and i != wide.axis)
    shape = tuple(3 if i == place else n for i, n in enumerate(wide.shape))
    target = [3 if i == place else 1 for i in range(wide.rank)]
    return wide.as_(g.node(op, wide.name, g.integers(*target)), *shape)


@_operator("Tile")
def tile(g: Builder, op: str, x: Flow) -> Flow:
    """Places, or now and then the channels themselves."""
    axis = x.axis if g.chance(0.2) else int(g.pick(*(i for i in range(x.rank) if i != x.axis)))
    repeats = [2 if i == axis else 1 for i in range(x.rank)]
    shape = tuple(n * m for n, m in zip(x.shape, repeats, strict=True))
    return x.as_(g.node(op, x.name, g.integers(*repeats)), *shape)


# --- several values ---------------------------------------------------------------------------------------------------


@_operator("Add", "Sub", ahead=SHIFT, operands=2)
def addition(g: Builder, op: str, x: Flow, y: Flow) -> Flow:
    """Of two values, or of one and a constant that differs along every axis."""
    if g.chance(0.3):
        constant = g.floats(g.normal(*x.shape[1:]), "grid")
        return x.as_(g.node(op, x.name, constant))
    return x.as_(g.node(op, x.name, y.name))


@_operator("Mul", "Div", back=SCALE, operands=2)
def product(g: Builder, op: str, x: Flow, y: Flow) -> Flow:
    """By a gate, or by a constant that differs along every axis."""
    if g.chance(0.3):
        return x.as_(g.node(op, x.name, g.floats(g.away(0.5, 1.5, *x.shape[1:]), "factors")))
    gate = g.node("Sigmoid", y.name)
    if op == "Div":
        gate = g.node("Add", gate, g.floats(np.array(0.5), "one"))
    return x.as_(g.node(op, x.name, gate))


@_operator("Sum", ahead=SHIFT, operands=2, since=8)
def total(g: Builder, op: str, x: Flow, y: Flow) -> Flow:
    return x.as_(g.node(op, x.name, y.name))


@_operator("Max", "Min", back=POSITIVE, operands=2, since=12)
def choice(g: Builder, op: str, x: Flow, y: Flow) -> Flow:
    return x.as_(g.node(op, x.name, y.name))


@_operator("Where", operands=2, since=9, types=(np.float32,))
def where(g: Builder, op: str, x: Flow, y: Flow) -> Flow:
    """By places that are constant."""
    mask = g.rng.random(x.shape[1:]) < 0.5
    return x.as_(g.node(op, g.constant(mask, "mask"), x.name, y.name))


@_operator("Concat", operands=2)
def concat(g: Builder, op: str, x: Flow, y: Flow) -> Flow:
    """Mostly along the channels."""
    axis = x.axis if x.rank == 2 or g.chance(0.75) else next(i for i in range(1, x.rank) if i != x.axis)
    shape = tuple(2 * n if i == axis else n for i, n in enumerate(x.shape))
    return x.as_(g.node(op, x.name, y.name, axis=axis), *shape)


@_operator("Neg")
def negation(g: Builder, op: str, x: Flow) -> Flow:
    return x.as_(g.node(op, x.name))


# --- sequences --------------------------------------------------------------------------------------------------------


@_operator("SequenceAt", "SequenceConstruct", "ConcatFromSequence", operands=2, since=11, types=(np.float32,))
def sequence(g: Builder, op: str, x: Flow, y: Flow) -> Flow:
    """Two values in a row, of which one is taken, or both joined, mostly along another axis than the channels."""
    row = g.node("SequenceConstruct", x.name, y.name)
    if op == "ConcatFromSequence" or (op == "SequenceConstruct" and g.chance(0.5)):
        axis = x.axis if x.rank == 2 or g.chance(0.2) else next(i for i in range(1, x.rank) if i != x.axis)
        made = g.node("ConcatFromSequence", row, axis=axis)
        return x.as_(made, *(2 * n if i == axis else n for i, n in enumerate(x.shape)))
    return x.as_(g.node("SequenceAt", row, g.constant(np.array(0, np.int64))))


@_operator("SplitToSequence", back=UNIFORM, since=11, types=(np.float32,), channels=4)
def parts(g: Builder, op: str, x: Flow) -> Flow:
    sizes = [x.channels // 2, x.channels - x.channels // 2]
    row = g.node(op, x.name, g.integers(*sizes), axis=x.axis)
    made = g.node("SequenceAt", row, g.constant(np.array(1, np.int64)))
    return x.as_(made, *_with_channels(x, sizes[1]))
