"""Blocks of random graphs: one for each operator and direction in which an affine may go, and the patterns of networks.

    back OP      a layer, OP, an affine behind it        ahead OP     an affine of a value without home, OP, a layer
    behind OP    OP, an affine behind it                 before OP    an affine of a value without home, OP

A block takes a value and gives one; what it draws depends on no other block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from graph_affines import AFFINES, ANY, SCALE, Allows, affine
from graph_builder import IMAGE, ROWS, TOKENS, Builder, Flow, Unfit
from graph_cells import AHEAD_OF, BACK, BEFORE, BEHIND, BESIDE, IS, MERGES, Cell
from graph_layers import LAYERS, layer, same
from graph_operators import EVERY, LAST_OPSET, OPERATORS, Operator, cut, operator

Make = Callable[[Builder, Flow], Flow]
FIRST_OPSET = 7
ALIKE = {"Add": 0.4, "Sub": 0.4, "Sum": 0.4, "Concat": 0.4, "Max": 0.9, "Min": 0.9, "Where": 0.9}
"""How often all values that an operator joins bear the same affine, where that goes ahead."""


@dataclass(frozen=True, slots=True)
class Block:
    """How one is made, and in which opsets and of which types it may stand."""

    make: Make
    opsets: range
    types: tuple[type, ...]
    spatial: tuple[int, ...] = (1, 2, 3)


def blocks() -> dict[str, Block]:
    """Every block of one operator and one direction, by name."""
    made: dict[str, Block] = {}
    for op, known in OPERATORS.items():
        made[f"back {op}"] = Block(_back(op), known.opsets, known.types, known.spatial)
        made[f"ahead {op}"] = Block(_ahead(op), known.opsets, known.types, known.spatial)
    for op, of in LAYERS.items():
        opsets = range(of.since, LAST_OPSET + 1)
        made[f"behind {op}"] = Block(_behind(op), opsets, of.types)
        made[f"before {op}"] = Block(_before(op), opsets, of.types)
    every = range(FIRST_OPSET, LAST_OPSET + 1)
    for op in AFFINES:
        made[f"affine {op}"] = Block(_affine(op), every, EVERY)
        made[f"into {op}"] = Block(_into(op), every, EVERY)
        made[f"past {op}"] = Block(_past(op), every, EVERY)
    return made


WAYS = {
    "back": BACK,
    "ahead": AHEAD_OF,
    "past": AHEAD_OF,
    "behind": BEHIND,
    "before": BEFORE,
    "into": BEHIND,
    "affine": IS,
    "beside": BESIDE,
    "parallel": MERGES,
}


def fills(name: str) -> Cell:
    """The cell that a block is there to fill."""
    kind, _, op = name.partition(" ")
    return Cell(op, WAYS.get(kind, ""))


def fitting(g: Builder, x: Flow, kinds: tuple[str, ...]) -> Flow:
    """A value as one of these kinds: as it is, if it is one."""
    return x if g.kind(x) in kinds else g.to(str(g.pick(*kinds)), x)


def _back(op: str) -> Make:
    known = OPERATORS[op]

    def make(g: Builder, x: Flow) -> Flow:
        made = _operands(g, _read(g, x, known), known)
        if g.kind(made[0]) not in known.kinds:
            raise Unfit
        if op == "Neg":
            return _back_through_negation(g, made[0])
        y = operator(g, op, *made)
        if op == "Cast":
            return _in_wider_type(g, y)
        y = affine(g, y, known.back)
        return g.wall(y) if g.chance(0.3) else y

    return make


def _read(g: Builder, x: Flow, known: Operator) -> Flow:
    """A value of the kind that an operator reads."""
    x = fitting(g, x, known.kinds)
    if not known.even or not any(n % 2 for n in x.spatial):
        return x
    x = x if min(x.spatial) > 1 else g.to(IMAGE, g.to(ROWS, x))
    for axis in (axis for axis in range(2, x.rank) if x.shape[axis] % 2):
        x = cut(g, x, axis)
    return x


def _operands(g: Builder, x: Flow, known: Operator) -> list[Flow]:
    """What layers make of one value, alike in shape where there are several."""
    if known.operands == 1 and not known.channels:
        return [layer(g, x)]
    out = known.channels or g.between(2, 5)
    made = [same(g, x, out) for _ in range(known.operands)]
    return [affine(g, y) if g.chance(0.15) else y for y in made] if known.operands > 1 else made


def _back_through_negation(g: Builder, x: Flow) -> Flow:
    """It would go itself, were it not between what takes no negative scale and what takes nothing."""
    y = operator(g, str(g.pick("Relu", "Abs")), x)
    y = affine(g, operator(g, "Neg", y), Allows(negative=False, shift=False))
    return g.wall(y)


def _in_wider_type(g: Builder, y: Flow) -> Flow:
    """An affine of a value in a wider type, which is then cast back."""
    narrow, g.form = g.form, _widened(g)
    y = affine(g, y)
    g.form = narrow
    return y.as_(g.node("Cast", y.name, to=g.element))


def _widened(g: Builder):  # type: ignore[no-untyped-def]  # a Form
    wider = np.float64 if g.form.data is np.float32 else np.float32
    return replace(g.form, data=wider, statistics=wider)


def _ahead(op: str) -> Make:
    known = OPERATORS[op]

    def make(g: Builder, x: Flow) -> Flow:
        x = _read(g, x, known)
        x = same(g, x, known.channels) if known.channels else x
        alike = op in ALIKE and g.chance(ALIKE[op])
        first = affine(g, g.wall(x), known.back if alike else known.ahead, scales=True)
        others = (_as_it_is(g, first) if alike else g.wall(x) for _ in range(known.operands - 1))
        y = operator(g, op, first, *others)
        if op == "Cast":
            y = y.as_(g.node("Cast", y.name, to=g.element))
        if not known.ahead.scale and not alike:
            return with_bias(g, _upright(g, y))
        return layer(g, _upright(g, y), sees_all=True)

    return make


def _as_it_is(g: Builder, x: Flow) -> Flow:
    """A value by another way, where it bears what it bore."""
    if g.kind(x) != IMAGE or g.form.data is np.float64 or g.chance(0.5):
        return x if g.chance(0.3) else x.as_(g.node("Identity", x.name))
    spatial = x.rank - 2
    return x.as_(g.node("AveragePool", x.name, kernel_shape=[3] * spatial, pads=[1] * (2 * spatial)))


def with_bias(g: Builder, x: Flow) -> Flow:
    """A layer that takes over a shift alone, too, if it has a bias."""
    x = g.to(ROWS, x) if g.kind(x) == TOKENS else x
    return layer(g, x, sees_all=True, op="Conv" if g.kind(x) == IMAGE else "Gemm")


def _upright(g: Builder, x: Flow) -> Flow:
    """A value of any layout as one that a layer reads."""
    return x if g.kind(x) else g.to(TOKENS, x)


def _behind(op: str) -> Make:
    def make(g: Builder, x: Flow) -> Flow:
        x = fitting(g, x, LAYERS[op].kinds)
        return affine(g, layer(g, x, op=op))

    return make


def _before(op: str) -> Make:
    def make(g: Builder, x: Flow) -> Flow:
        x = fitting(g, x, LAYERS[op].kinds)
        return layer(g, affine(g, g.wall(x), scales=True), sees_all=not g.chance(0.1), op=op)

    return make


def _kinds(op: str) -> tuple[str, ...]:
    """Where an affine of that operator may stand: the channels of a BatchNormalization lie on axis 1."""
    return (IMAGE, ROWS) if op == "BatchNormalization" else (IMAGE, ROWS, TOKENS)


def _affine(op: str) -> Make:
    def make(g: Builder, x: Flow) -> Flow:
        return affine(g, layer(g, fitting(g, x, _kinds(op))), op=op)

    return make


def _into(op: str) -> Make:
    """Between what takes nothing: the first stays, and takes over the second."""

    def make(g: Builder, x: Flow) -> Flow:
        x = fitting(g, x, _kinds(op))
        first = affine(g, g.wall(x), op=op)
        if op in {"Mul", "Div"}:
            second = affine(g, first, SCALE)
        else:
            second = affine(g, first, op=str(g.pick("Add", "Sub"))) if op in {"Add", "Sub"} else affine(g, first)
        return g.wall(second)

    return make


def _past(op: str) -> Make:
    """An affine that goes forward past another one."""

    def make(g: Builder, x: Flow) -> Flow:
        x = fitting(g, x, _kinds(op))
        return layer(g, affine(g, affine(g, g.wall(x), ANY, scales=True), op=op), sees_all=True)

    return make
