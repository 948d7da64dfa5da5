"""What an operator lets pass, and what becomes of an array that is carried along with one of its inputs.

An array that is carried holds labels, of which -1 means none, or gains, of which 1 means none. Where an operator treats
positions otherwise than channels, an array that differs between positions is not followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.claim import DeviationError, Link, UncertainError
from bnfold.equality.constants import Constants
from bnfold.nodes import Node, Value

MOST_PARTS = 1 << 10

Carried = NDArray[np.generic]
Joins = Literal["alone", "all", "sum", "one"]


@dataclass(frozen=True, slots=True)
class Passing:
    """What passes an operator: whether a shift does, and whether a scale may be negative.

    With `absolute` it is the size of a scale that stands behind it. `joins`: of its inputs that can bear an affine, one
    alone there is; all must bear theirs; all the scale and one the shift; or any one of them, and no other.
    """

    joins: Joins = "alone"
    shift: bool = True
    negative: bool = True
    absolute: bool = False


Follow = Callable[[Constants, Link, Carried, int], Carried]
FollowApart = Callable[[Constants, Link, Carried, int], tuple[Carried, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """What passes an operator, and how an array goes with one of its inputs: as one array, or taken apart."""

    passing: Callable[[Constants, Node], Passing]
    follow: FollowApart

    @classmethod
    def whole(cls, passing: Callable[[Constants, Node], Passing], follow: Follow) -> Rule:
        """That of an operator behind which one array is enough."""
        return cls(passing, lambda *given: (follow(*given),))


def said(passing: Passing) -> Callable[[Constants, Node], Passing]:
    """A rule that is the same for all nodes of an operator."""

    def of(constants: Constants, node: Node) -> Passing:
        del constants, node
        return passing

    return of


def none_of(carried: Carried) -> int:
    """What stands for no label, or for a gain that is none."""
    return -1 if carried.dtype.kind == "i" else 1


def whole_axis(constants: Constants, value: Value, carried: Carried, axis: int, node: Node) -> Carried:
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


def first_alone(link: Link) -> None:
    """Only input 0 can bear an affine."""
    if link.data != 0:
        raise DeviationError(f"a claim passes input {link.data} of {link.node.site}")


def anywhere_along(link: Link, carried: Carried, axes: range | tuple[int, ...] | list[int]) -> tuple[Carried, ...]:
    """What is carried, with one place along each of these axes, where an operator brings all places together.

    Where it differs along one, it is taken apart: of each place no more is told than that it may be anywhere there.
    """
    parts = [carried]
    for axis in (axis for axis in axes if carried.shape[axis] != 1):
        firsts = [part.take([0], axis) for part in parts]
        if all(np.array_equal(np.broadcast_to(f, part.shape), part) for f, part in zip(firsts, parts, strict=True)):
            parts = firsts
            continue
        if carried.shape[axis] * len(parts) > MOST_PARTS:
            raise UncertainError(f"along axis {axis}, where {link.node.site} acts, are too many places to follow")
        parts = [part.take([place], axis) for part in parts for place in range(carried.shape[axis])]
    return tuple(parts)
