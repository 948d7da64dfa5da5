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
    """What passes an operator, how an array goes with one of its inputs, and along which axes it mixes what it reads.

    `along` takes the number of dimensions; None mixes nothing.
    """

    passing: Callable[[Constants, Node], Passing]
    follow: Callable[[Constants, Link, Carried, int], Carried]
    along: Callable[[Constants, Node, int], tuple[int, ...]] | None = None


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


def only_along(link: Link, carried: Carried, axes: range | tuple[int, ...] | list[int]) -> None:
    """What is carried must not differ along these axes."""
    if any(carried.shape[axis] != 1 for axis in axes):
        raise UncertainError(f"along the axes on which {link.node.site} acts, the affine differs")
