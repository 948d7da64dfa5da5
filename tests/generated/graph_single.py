"""Blocks that fill one cell of the op table each, where an operator and a layer alone are not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from graph_affines import ANY, SHIFT, UNIFORM, UNIFORM_SHIFT, affine
from graph_blocks import Block, Make, fitting, with_bias
from graph_builder import IMAGE, ROWS, TOKENS, Builder, Flow, Unfit
from graph_layers import convolution, layer, same
from graph_operators import EVERY, LAST_OPSET, NOT_DOUBLE
from onnx import TensorProto

SINGLE_CELLS: dict[str, Block] = {}
SINGLE = (np.float32,)
FIRST_SOFTMAX_OF_ONE_AXIS = 13


def _cell(name: str, *, since: int = 7, types: tuple[type, ...] = EVERY) -> Callable[[Make], Make]:
    def decorate(function: Make) -> Make:
        SINGLE_CELLS[name] = Block(function, range(since, LAST_OPSET + 1), types)
        return function

    return decorate


def _places(g: Builder, x: Flow) -> Flow:
    """A value as an image of more than one place."""
    x = fitting(g, x, (IMAGE,))
    return x if max(x.spatial) > 1 else g.to(IMAGE, g.to(ROWS, x))


# --- mixtures ---------------------------------------------------------------------------------------------------------


@_cell("back MatMul")
def behind_a_mixture(g: Builder, x: Flow) -> Flow:
    """An affine of a product with rows that sum to one."""
    x = fitting(g, x, (TOKENS,))
    return affine(g, _mixed(g, x, same(g, x, g.between(2, 4))))


@_cell("ahead MatMul")
def before_a_mixture(g: Builder, x: Flow) -> Flow:
    x = fitting(g, x, (TOKENS,))
    mixed = _mixed(g, x, affine(g, g.wall(x), scales=True))
    return with_bias(g, mixed) if g.chance(0.5) else layer(g, mixed, sees_all=True)


def _mixed(g: Builder, x: Flow, values: Flow) -> Flow:
    """Tokens, each a mean of all, with weights that other tokens decide."""
    logits = same(g, x, x.shape[1])
    weights = g.node("Softmax", logits.name, axis=2 if g.opset < FIRST_SOFTMAX_OF_ONE_AXIS else -1)
    return values.as_(g.node("MatMul", weights, values.name))


# --- what vanishes ----------------------------------------------------------------------------------------------------


def _vanishing(op: str, types: tuple[type, ...]) -> None:
    @_cell(f"before {op}", types=types)
    def make(g: Builder, x: Flow) -> Flow:
        """A shift that is alike along the axis, or everywhere."""
        x = fitting(g, x, (IMAGE, ROWS, TOKENS))
        axis = next((i for i in range(1, x.rank) if i != x.axis), None)
        if axis is None or (g.opset < FIRST_SOFTMAX_OF_ONE_AXIS and axis < x.axis) or g.chance(0.4):
            shifted, axis = affine(g, g.wall(x), UNIFORM_SHIFT), x.axis
        else:
            shifted = affine(g, g.wall(x), SHIFT)
        return x.as_(g.node(op, shifted.name, axis=axis))


for _op, _types in (("Softmax", EVERY), ("LogSoftmax", (np.float32, np.float64))):
    _vanishing(_op, _types)


@_cell("before InstanceNormalization", types=SINGLE)
def before_instance_normalization(g: Builder, x: Flow) -> Flow:
    """Its epsilon is large beside rounding, which is all that a channel that is alike everywhere would be made of."""
    x = _places(g, x)
    shifted = affine(g, g.wall(x), SHIFT)
    numbers = [g.floats(g.away(0.5, 1.5, x.channels), "s"), g.floats(g.normal(x.channels), "b")]
    return x.as_(g.node("InstanceNormalization", shifted.name, *numbers, epsilon=0.1))


# --- parts ------------------------------------------------------------------------------------------------------------


@_cell("ahead Split")
def before_a_split(g: Builder, x: Flow) -> Flow:
    """Both parts are read by layers."""
    x = same(g, fitting(g, x, (IMAGE, ROWS, TOKENS)), g.between(3, 4))
    first = affine(g, g.wall(x), scales=True)
    sizes = [1, x.channels - 1]
    if g.opset < 13:
        made = g.nodes("Split", first.name, count=2, axis=x.axis, split=sizes)
    else:
        made = g.nodes("Split", first.name, g.integers(*sizes), count=2, axis=x.axis)
    parts = [
        x.as_(name, *(size if i == x.axis else n for i, n in enumerate(x.shape)))
        for name, size in zip(made, sizes, strict=True)
    ]
    one, other = (same(g, part, 2, kernel=1) for part in parts)
    return one.as_(g.node("Add", one.name, other.name))


@_cell("ahead SequenceAt", since=11, types=SINGLE)
def before_one_of_a_sequence(g: Builder, x: Flow) -> Flow:
    x = fitting(g, x, (IMAGE, ROWS, TOKENS))
    row, shape, _ = _cut(g, x)
    return layer(g, x.as_(g.node("SequenceAt", row, g.constant(np.array(1, np.int64))), *shape), sees_all=True)


@_cell("ahead ConcatFromSequence", since=11, types=SINGLE)
def before_a_joined_sequence(g: Builder, x: Flow) -> Flow:
    x = fitting(g, x, (IMAGE, ROWS, TOKENS))
    row, _, axis = _cut(g, x)
    return layer(g, x.as_(g.node("ConcatFromSequence", row, axis=axis)), sees_all=True)


def _cut(g: Builder, x: Flow) -> tuple[str, tuple[int, ...], int]:
    """An affine of a value that is cut in two, along places or, where it is alike, channels; its second part."""
    axis = next((i for i in range(1, x.rank) if i != x.axis and x.shape[i] > 1), x.axis)
    first = affine(g, g.wall(x), UNIFORM if axis == x.axis else ANY, scales=True)
    half = x.shape[axis] // 2
    if not half:
        raise Unfit
    sizes = [half, x.shape[axis] - half]
    row = g.node("SplitToSequence", first.name, g.integers(*sizes), axis=axis)
    return row, tuple(sizes[1] if i == axis else n for i, n in enumerate(x.shape)), axis


# --- others -----------------------------------------------------------------------------------------------------------


@_cell("ahead Cast", types=NOT_DOUBLE)
def before_a_wider_layer(g: Builder, x: Flow) -> Flow:
    """The layer is of a wider type, and what it makes is cast back."""
    half = g.form.data is np.float16
    x = affine(g, g.wall(fitting(g, x, (IMAGE, ROWS) if half else (ROWS, TOKENS))), scales=True)
    wide = x.as_(g.node("Cast", x.name, to=TensorProto.FLOAT if half else TensorProto.DOUBLE))
    outer, kind = g.form, np.float32 if half else np.float64
    g.form = replace(g.form, data=kind, statistics=kind)
    wide = layer(g, wide, sees_all=True)
    g.form = outer
    return wide.as_(g.node("Cast", wide.name, to=g.element))


@_cell("behind Pad", since=11, types=NOT_DOUBLE)
def behind_a_padding(g: Builder, x: Flow) -> Flow:
    """By a number, or by none, which is zero."""
    x = same(g, _places(g, x), g.between(2, 4))
    value = [g.floats(np.array(g.pick(0.5, -1.0)), "value")] if g.chance(0.6) else []
    count = len(x.spatial)
    pads = g.integers(*[0, 0, *[1] * count] * 2)
    padded = x.as_(g.node("Pad", x.name, pads, *value, mode="constant"), *x.shape[:2], *(n + 2 for n in x.spatial))
    return affine(g, padded, UNIFORM)


@_cell("parallel Conv", types=NOT_DOUBLE)
def parallel(g: Builder, x: Flow) -> Flow:
    """Convolutions of the same data side by side, with affines of their own, or one behind their sum."""
    x = _places(g, x)
    group = x.channels if g.chance(0.2) else 1
    out, stride = x.channels if group > 1 else g.between(2, 4), 2 if g.chance(0.2) else 1
    whole: Flow | None = None
    for _ in range(g.between(2, 3)):
        size = int(g.pick(1, 3))
        kernel = (size,) * len(x.spatial)
        one = convolution(g, x, out, kernel=kernel, pads=size // 2, stride=stride, group=group)
        one = affine(g, one) if g.chance(0.6) else one
        pair = [one] if whole is None else [whole, one]
        whole = one if whole is None else one.as_(g.node(str(g.pick("Add", "Add", "Sub")), *(y.name for y in pair)))
    if whole is None:
        raise Unfit
    return affine(g, whole) if g.chance(0.3) else whole
