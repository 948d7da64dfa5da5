"""Clip and Pad: numbers beside a value, which have to bear what the value bears.

    clip(a*x + s, a*lo + s, a*hi + s) = a*clip(x, lo, hi) + s        for a > 0
    pad(a*x + s, a*v + s) = a*pad(x, v) + s

An affine that went back past such a node is one step of its numbers; one that went forward past it, its inverse.
Numbers that are attributes are float32 in the file, and act in the type of the data: there they are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bnfold.equality.ahead import DataStep
from bnfold.equality.claim import DeviationError, Tree, UncertainError
from bnfold.equality.constants import attribute
from bnfold.equality.homes import Home, HomeCheck
from bnfold.equality.linear import rewritable
from bnfold.equality.numbers import PartCheck, WrongNumberError, share, within
from bnfold.equality.reference import is_bounded
from bnfold.equality.references import Side
from bnfold.equality.steps import Step
from bnfold.nodes import Node, Site

_LARGEST = float(np.finfo(np.float32).max)
_NO_BOUND = {"min": -_LARGEST, "max": _LARGEST}
"""What an attribute is that a Clip of opset 6 to 10 has not, by ONNX's text."""

_ACTS_IN = frozenset({TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE})


def steps_in_order(
    trees: Sequence[Tree], node: Node, back: Sequence[Step], ahead: Sequence[DataStep]
) -> Iterator[Step]:
    """All steps of a node's numbers, in the order of the claims."""
    steps, undone = iter(back), iter(ahead)
    for tree in trees:
        if tree.ahead is not None and any(link.node is node for link in tree.ahead.stops):
            yield _inverse(node, next(undone))
        elif any(home is node for chain in tree.chains for home, _ in chain.homes):
            yield next(steps)


def numbers_stay(trees: Sequence[Tree]) -> None:
    """Raise `DeviationError` where a claim passes numbers that bear something of an earlier one, and they do not now.

    Whether they may stay is asked of the original's; so it holds only as long as they are these.
    """
    taken: set[int] = set()
    for tree in trees:
        ahead = tree.ahead
        stops = {chain.links[place].node.id for chain in tree.chains for place in chain.stops}
        passed = [link.node for chain in tree.chains for link in chain.links[:-1]]
        if ahead is not None:
            stops, passed = {link.node.id for link in ahead.stops}, [link.node for link in ahead.passed]
        for node in (node for node in passed if node.id in taken and is_bounded(node) and node.id not in stops):
            raise DeviationError(f"a claim passes {node.site}, whose numbers bear another affine, but not this one")
        taken |= stops


def _inverse(node: Node, step: DataStep) -> Step:
    for part in (step.scale, step.shift):
        if np.any(part != part.reshape(-1)[0]) or not np.all(step.scale):
            raise DeviationError(f"what passes {node.site} differs between channels, or cannot be undone")
    scale, shift, size = (part.reshape(-1)[:1] for part in (step.scale, step.shift, step.magnitude))
    none = np.zeros(1, bool)
    return Step(1 / scale, -shift / scale, size / np.abs(scale), none, step.terms + 2, stops=True, channels=None)


def numbers_checked(home: Home, steps: Sequence[Step]) -> HomeCheck:
    """Each number of a node against what the steps make of the original one."""
    node = home.before.node
    if node.op == "Clip" and any(np.any(step.scale <= 0) for step in steps):
        raise DeviationError(f"a scale passes {node.site} that is not above zero")
    parts = []
    for place in home.before.linear.bounds:
        ours, theirs = (_number(side, place) for side in (home.before, home.after))
        if node.op == "Clip" and ours is None and theirs is None:
            continue
        if (ours is None) != (theirs is None) and (node.op == "Clip" or theirs is None):
            raise WrongNumberError(node.site, f"a number of {node.site} has come or gone")
        zero = np.zeros((), np.float32)
        parts.append(_part(node.site, place, zero if ours is None else ours, zero if theirs is None else theirs, steps))
    return HomeCheck(node.site, len(parts), max((part.worst for part in parts), default=0.0), tuple(parts))


def _number(side: Side, place: int | str) -> NDArray[np.generic] | None:
    """A number of a node; None where a Clip has no such bound, or a Pad says nothing and so pads with zeros."""
    if isinstance(place, str):
        return _attribute(side, place)
    value = side.node.input(place)
    if value is None:
        return None
    found = side.constants.floats(value)
    if found.size != 1:
        raise UncertainError(f"{value.name!r} is no single number")
    return found.reshape(())


def _attribute(side: Side, name: str) -> NDArray[np.generic] | None:
    """A number that is an attribute, in the type of the data.

    A bound that is as large as one that is not there bounds nothing in float16 and float32. In float64 it might, and
    ONNX's text says both that it is the largest number of the type and that it is that of float32.
    """
    node, data = side.node, side.node.input(0)
    kind = None if data is None else side.constants.shapes.element_type(data)
    if name not in rewritable(node) or kind not in _ACTS_IN:
        raise UncertainError(f"{name} of {node.site} is not known in this opset, or for data of this type")
    found = attribute(node, name)
    if found is None and node.op == "Pad":
        return None
    value = _NO_BOUND[name] if found is None else found.f
    if node.op == "Clip" and value == _NO_BOUND[name]:
        if kind == TensorProto.DOUBLE:
            raise UncertainError(f"whether {node.site} without {name} bounds its data is not said")
        return None
    with np.errstate(over="ignore"):
        number = np.asarray(value, helper.tensor_dtype_to_np_dtype(kind))
    if number.astype(np.float64) != value and not np.isnan(value):
        raise UncertainError(f"{name} of {node.site} is {value:g}, which is no {number.dtype}")
    return number


def _part(
    site: Site, place: int | str, original: NDArray[np.generic], now: NDArray[np.generic], steps: Sequence[Step]
) -> PartCheck:
    what = f"input {place}" if isinstance(place, int) else f"attribute {place}"
    terms = 1 + sum(step.terms for step in steps)
    if not np.isfinite(original):
        endless = _endless(original, steps)
        if np.isnan(endless) or now != endless:
            raise WrongNumberError(site, f"the {what} of {site} is {now!s}, and should be {endless!s}")
        return PartCheck.of(what, now.dtype, terms=terms, numbers=1, worst=0.0)
    reference = np.asarray(original, np.float64)
    magnitude = np.abs(reference)
    for step in steps:
        scale, shift, size = (part.reshape(()) for part in (step.scale, step.shift, step.magnitude))
        reference, magnitude = np.asarray(reference * scale + shift), np.asarray(magnitude * np.abs(scale) + size)
    found = share(now.reshape(1), reference.reshape(1), magnitude.reshape(1), terms=terms)
    worst = within(found, site, what, now.reshape(1), reference.reshape(1))
    return PartCheck.of(what, now.dtype, terms=terms, numbers=1, worst=worst)


@np.errstate(invalid="ignore")
def _endless(original: NDArray[np.generic], steps: Sequence[Step]) -> NDArray[np.float64]:
    """What becomes of a number that is infinite: a negative scale turns its sign, and zero leaves none."""
    number = np.asarray(original, np.float64)
    for step in steps:
        number = np.asarray(number * step.scale.reshape(()) + step.shift.reshape(()))
    return number
