"""Affines as random graphs have them: BatchNormalization with statistics of every kind, and those written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from graph_builder import Array, Builder, Flow, Unfit


@dataclass(frozen=True, slots=True)
class Allows:
    """What an operator lets pass: negative scales, a shift, numbers that differ between channels, a scale at all."""

    negative: bool = True
    shift: bool = True
    differing: bool = True
    scale: bool = True


ANY = Allows()
POSITIVE = Allows(negative=False)
SCALE = Allows(shift=False)
POSITIVE_SCALE = Allows(negative=False, shift=False)
UNIFORM = Allows(differing=False)
SHIFT = Allows(negative=False, scale=False)
UNIFORM_SHIFT = Allows(negative=False, differing=False, scale=False)
UNIFORM_POSITIVE = Allows(negative=False, differing=False)
WRONG_SHARE = 0.1
"""How many affines are of a kind that may not pass: those have to be refused."""

Make = Callable[[Builder, Flow, Allows], Flow]
AFFINES: dict[str, Make] = {}


def _makes(op: str) -> Callable[[Make], Make]:
    def decorate(function: Make) -> Make:
        AFFINES[op] = function
        return function

    return decorate


def affine(g: Builder, x: Flow, allows: Allows = ANY, op: str = "", *, scales: bool = False) -> Flow:
    """A value behind one affine, mostly of a kind that is allowed; of a given operator, or of any that may stand here.

    `scales`: mostly one that does not only shift, for that is no gain where a layer has no bias.
    """
    if not op and g.chance(WRONG_SHARE):
        allows = ANY
    return AFFINES[op or _chosen(g, x, allows, scales=scales and g.chance(0.8))](g, x, allows)


def _chosen(g: Builder, x: Flow, allows: Allows, *, scales: bool) -> str:
    if not allows.scale:
        return str(g.pick("Add", "Add", "Sub"))
    if x.axis == 1 and allows.differing and g.chance(0.65):
        return "BatchNormalization"
    shifts = ["Add", "Sub"] * (allows.shift and not scales)
    return str(g.pick("Mul", "Mul", "Div", *shifts, *["Neg"] * (allows.negative and g.chance(0.3))))


@_makes("BatchNormalization")
def batch_normalization(g: Builder, x: Flow, allows: Allows) -> Flow:
    if x.axis != 1 or x.rank < 2 or not allows.differing:
        raise Unfit
    kind, count = g.form.statistics, x.channels
    gamma, beta = g.away(0.4, 1.6, count, signs=allows.negative and g.chance(0.6)), g.rng.uniform(-1, 1, count)
    mean, variance = g.rng.uniform(-1, 1, count), g.rng.uniform(0.3, 2.5, count)
    one = g.between(0, count - 1)
    if g.chance(0.06):
        gamma[one] = 0
    if g.chance(0.06):
        variance[one] = 1e-3 if kind is np.float16 else 1e-5
        gamma[one] *= np.sqrt(variance[one])
    if g.chance(0.06):
        mean[one] *= 8
    if not allows.shift:
        beta, mean = np.zeros(count), np.zeros(count)
    roles = {"gamma": gamma, "beta": beta, "mean": mean, "var": variance}
    names = [g.constant(array.astype(kind), stem, plain=False) for stem, array in roles.items()]
    if g.chance(0.05):
        names[2] = names[1]  # one tensor in two roles
    attributes = {} if g.chance(0.5) else {"epsilon": float(g.pick(1e-3, 1e-5, 2e-5))}
    return x.as_(g.node("BatchNormalization", x.name, *names, **attributes))


@_makes("Mul")
def multiplication(g: Builder, x: Flow, allows: Allows) -> Flow:
    return _by_hand(g, x, "Mul", g.away(0.5, 1.6, _size(g, x, allows), signs=allows.negative and g.chance(0.5)))


@_makes("Div")
def division(g: Builder, x: Flow, allows: Allows) -> Flow:
    values = g.away(0.5, 1.6, _size(g, x, allows), signs=allows.negative and g.chance(0.5))
    return _by_hand(g, x, "Div", values, swaps=False)


@_makes("Add")
def addition(g: Builder, x: Flow, allows: Allows) -> Flow:
    return _by_hand(g, x, "Add", g.rng.uniform(-1, 1, _size(g, x, allows)))


@_makes("Sub")
def subtraction(g: Builder, x: Flow, allows: Allows) -> Flow:
    """Of the value from the constant, too, which has a negative scale."""
    return _by_hand(g, x, "Sub", g.rng.uniform(-1, 1, _size(g, x, allows)), swaps=allows.negative)


@_makes("Neg")
def negation(g: Builder, x: Flow, allows: Allows) -> Flow:
    if not allows.negative:
        raise Unfit
    return x.as_(g.node("Neg", x.name))


def _size(g: Builder, x: Flow, allows: Allows) -> int:
    return x.channels if allows.differing and g.chance(0.8) else 1


def _by_hand(g: Builder, x: Flow, op: str, values: Array, *, swaps: bool = True) -> Flow:
    """The constant along the channels: as short as it may be, or with a dimension for every axis; or one number."""
    behind = (1,) * (x.rank - 1 - x.axis)
    shape: tuple[int, ...] = (values.size, *behind)
    if g.chance(0.4):
        shape = ((1,) * (x.rank - len(shape))) + shape
    if values.size == 1 and g.chance(0.5):
        shape = ()
    operands = [x.name, g.floats(values.reshape(shape), f"{op}k")]
    if swaps and g.chance(0.3):
        operands.reverse()
    return x.as_(g.node(op, *operands))
