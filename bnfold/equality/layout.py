"""Layout operators, which move elements and change none, written from ONNX's text.

Layout is followed by carrying arrays along: an integer array that says, for each element of a value, which cell of
the home it came from. A layout operator moves labels exactly as it moves values. Dimensions of 1 may stand for any
size, and sizes from `unknown` on are taken for dimensions whose size is not known: a mapping that holds whatever the
sizes is found the same with different ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.equality.constants import Constants, int_of, ints_of, product
from bnfold.nodes import Node

Labels = NDArray[np.int64]
Carried = NDArray[np.generic]

LARGEST_LABELS = 1 << 26


@dataclass(frozen=True, slots=True)
class _Target:
    """The shape that a Reshape is given, which narrows down what the sizes before it may be."""

    sizes: tuple[int, ...] = ()
    keeps_zero: bool = True
    """Whether a 0 is a size of none, and keeps no dimension (`allowzero`)."""

    def keeps(self, axis: int) -> bool:
        """Whether a dimension stands behind it as well."""
        return axis < len(self.sizes) and self.sizes[axis] == 0 and not self.keeps_zero

    def chosen(self, open_: Sequence[int], known: int, unknown: int) -> dict[int, int]:
        """Sizes for axes that it does not keep, where the others of these make `known`: such as it allows.

        Where a -1 takes what is left, that is a whole number. Without one their product is told, and one of them takes
        all of it: the first or the last, as `unknown` goes.
        """
        sizes = {axis: unknown + axis for axis in open_}
        stated = product(size for size in self.sizes if size > 0)
        if not self.sizes or not known or not open_:
            return sizes
        one = open_[0 if unknown % 2 == 0 else -1]
        if -1 not in self.sizes:
            return {axis: max(1, stated // known) if axis == one else 1 for axis in open_}
        rest = known * product(size for axis, size in sizes.items() if axis != one)
        return sizes | {one: sizes[one] * (stated // math.gcd(stated, rest))}


_NO_TARGET = _Target()


def same(constants: Constants, node: Node, carried: Carried, unknown: int) -> Carried:
    """Identity: Y = X."""
    del constants, node, unknown
    return carried


def dropout(constants: Constants, node: Node, carried: Carried, unknown: int) -> Carried:
    """Dropout at inference is the identity."""
    del unknown
    if _drops(constants, node):
        raise DeviationError(f"a claim passes {node.site}, which drops elements")
    return carried


def transpose(constants: Constants, node: Node, carried: Carried, unknown: int) -> Carried:
    """Transpose: axis i of the output is axis perm[i] of the input; by default the axes are reversed."""
    del constants, unknown
    perm = ints_of(node, "perm") or tuple(reversed(range(carried.ndim)))
    if sorted(perm) != list(range(carried.ndim)):
        raise UncertainError(f"the permutation of {node.site} does not fit a value of {carried.ndim} dimensions")
    return carried.transpose(perm)


def unsqueeze(constants: Constants, node: Node, carried: Carried, unknown: int) -> Carried:
    """Unsqueeze: `axes` say where dimensions of 1 stand in the output."""
    del unknown
    return np.expand_dims(carried, _axes(constants, node))


def squeeze(constants: Constants, node: Node, carried: Carried, unknown: int) -> Carried:
    """Squeeze: drops dimensions of 1, all of them where `axes` name none."""
    axes = _axes(constants, node)
    if not axes:
        return _expanded(constants, node, carried, unknown).squeeze()
    if any(carried.shape[axis] != 1 for axis in axes):
        raise UncertainError(f"{node.site} drops a dimension that is not 1")
    return carried.squeeze(axes)


def flatten(constants: Constants, node: Node, carried: Carried, unknown: int) -> Carried:
    """Flatten: what stands before `axis` becomes one dimension, what stands behind it another."""
    full = _expanded(constants, node, carried, unknown)
    axis = int_of(node, "axis", 1)
    return full.reshape(product(full.shape[:axis]), -1)


def reshape(constants: Constants, node: Node, carried: Carried, unknown: int) -> Carried:
    """Reshape: the elements in row-major order; 0 keeps a dimension (unless `allowzero`), -1 is what is left."""
    target = _target(constants, node)
    if not target:
        raise UncertainError(f"{node.site} has no shape")
    keeps_zero = bool(int_of(node, "allowzero", 0))
    full = _expanded(constants, node, carried, unknown, target=_Target(tuple(target), keeps_zero))
    return _reshaped(full, target, keeps_zero=keeps_zero)


def _target(constants: Constants, node: Node) -> list[int]:
    """The shape that a Reshape is given; where it is computed from sizes, what is known of its output."""
    operand = node.input(1)
    if operand is None:
        return list(ints_of(node, "shape") or ())  # below opset 5
    try:
        return [int(size) for size in constants.array(operand).astype(np.int64).reshape(-1)]
    except UncertainError:
        output = node.output(0)
        sizes = None if output is None else constants.sizes(output)
        if sizes is None or sizes.count(None) > 1 or 0 in sizes:
            raise
        return [-1 if size is None else size for size in sizes]


def _reshaped(carried: Carried, target: Sequence[int], *, keeps_zero: bool) -> Carried:
    try:
        sizes = [carried.shape[i] if size == 0 and not keeps_zero else size for i, size in enumerate(target)]
        return carried.reshape(sizes)
    except (ValueError, IndexError) as error:
        raise UncertainError(f"a shape {list(target)} that sizes chosen for unknown dimensions do not fit") from error


def _expanded(
    constants: Constants, node: Node, carried: Carried, unknown: int, *, target: _Target = _NO_TARGET
) -> Carried:
    """What is carried at the full size of the node's input, with `unknown` for what is not known.

    The sizes that a target allows, if one is given.
    """
    value = node.input(0)
    shape = None if value is None else constants.sizes(value)
    if shape is None or len(shape) != carried.ndim:
        raise UncertainError(f"the shape before {node.site} is not known")
    sizes = [ours if size is None and ours > 1 else size for size, ours in zip(shape, carried.shape, strict=True)]
    changing = {axis: size for axis, size in enumerate(sizes) if not target.keeps(axis)}
    rest = product(size for size in changing.values() if size is not None)
    open_ = target.chosen([axis for axis, size in changing.items() if size is None], rest, unknown)
    chosen = [open_.get(axis, unknown + axis) if size is None else size for axis, size in enumerate(sizes)]
    if product(chosen) > LARGEST_LABELS:
        raise UncertainError(f"the value before {node.site} is too large to follow")
    if any(ours not in {1, size} for ours, size in zip(carried.shape, chosen, strict=True)):
        raise UncertainError(f"the shape before {node.site} is not what its producers make it")
    return np.broadcast_to(carried, chosen)


def _axes(constants: Constants, node: Node) -> tuple[int, ...]:
    operand = node.input(1)
    if operand is not None:
        return tuple(constants.array(operand).astype(np.int64).reshape(-1).tolist())
    return ints_of(node, "axes") or ()


def _drops(constants: Constants, node: Node) -> bool:
    """Whether a Dropout is in training mode, by the text of each version."""
    if node.scope.opset < 12:
        told = constants.assume_inference or int_of(node, "is_test", 0)
        return node.scope.opset < 7 and not told
    mode = node.input(2)
    return mode is not None and bool(np.any(constants.array(mode)))
