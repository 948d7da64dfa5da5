"""Layout operators, which move elements and change none, written from ONNX's text.

Layout is followed by carrying arrays along: an integer array that says, for each element of a value, which cell of
the home it came from. A layout operator moves labels exactly as it moves values. Dimensions of 1 may stand for any
size, and sizes from `unknown` on are taken for dimensions whose size is not known: a mapping that holds whatever the
sizes is found the same with different ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Dim
from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.equality.constants import Constants, int_of, ints_of, product
from bnfold.nodes import Node, Value

Labels = NDArray[np.int64]
Carried = NDArray[np.generic]

LARGEST_LABELS = 1 << 26
_MOVING = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def moves_alone(node: Node) -> bool:
    """Whether what a node puts out is its data in another layout, and nothing else."""
    return node.op in _MOVING


@dataclass(frozen=True, slots=True)
class _Target:
    """The shape that a Reshape is given, which narrows down what the sizes before it may be.

    `kept` has, by places in it, the axis before whose size stands there, whatever that is; `sizes` has a 0 there.
    """

    sizes: tuple[int, ...] = ()
    kept: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, stated: Sequence[Dim], before: Sequence[Dim], *, copies: bool) -> _Target | None:
        """From what is known of it, and of the sizes before; with `copies`, a 0 keeps the size at its place.

        One entry that is not known is what is left. None where more are not.
        """
        kept: dict[int, int] = {}
        for place, size in enumerate(stated):
            axes = [axis for axis, d in enumerate(before) if d == size and axis not in kept.values()]
            if size == 0 and copies:
                kept[place] = place
            elif isinstance(size, str) and axes:
                kept[place] = place if place in axes else axes[0]
        sizes = [0 if i in kept else size if isinstance(size, int) else None for i, size in enumerate(stated)]
        if sizes.count(None) + sizes.count(-1) > 1:
            return None
        return cls(tuple(-1 if size is None else size for size in sizes), kept)

    def keeps(self, axis: int) -> bool:
        """Whether a dimension stands behind it as well."""
        return axis in self.kept.values()

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
    full = _expanded(constants, node, carried, unknown, target=target)
    try:
        sizes = [full.shape[target.kept[i]] if i in target.kept else size for i, size in enumerate(target.sizes)]
        return full.reshape(sizes)
    except (ValueError, IndexError) as error:
        told = f"a shape {list(target.sizes)} that sizes chosen for unknown dimensions do not fit"
        raise UncertainError(told) from error


def _target(constants: Constants, node: Node) -> _Target:
    """The shape that a Reshape is given: what is known of its operand, completed by what is known of its output."""
    value, operand = node.input(0), node.input(1)
    before = None if value is None else constants.shapes.shape(value)
    if before is None:
        raise UncertainError(f"the shape before {node.site} is not known")
    stated = ints_of(node, "shape") if operand is None else _stated(constants, node, operand)
    if not stated:
        raise UncertainError(f"{node.site} has no shape")
    target = _Target.of(stated, before, copies=not int_of(node, "allowzero", 0))
    if target is None:
        raise UncertainError(f"the shape behind {node.site} depends on several sizes that are not known")
    return target


def _stated(constants: Constants, node: Node, operand: Value) -> tuple[Dim, ...]:
    output = node.output(0)
    inferred = (None if output is None else constants.shapes.shape(output)) or ()
    after = [None if size == 0 else size for size in inferred]  # a 0 copies, and this is none that was given
    try:
        stated = constants.elements(operand)
    except UncertainError:
        if not after:
            raise
        return tuple(after)
    if len(after) != len(stated):
        return stated
    return tuple(known if given is None else given for given, known in zip(stated, after, strict=True))


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
        return constants.integers(operand)
    return ints_of(node, "axes") or ()


def _drops(constants: Constants, node: Node) -> bool:
    """Whether a Dropout is in training mode, by the text of each version."""
    if node.scope.opset < 12:
        told = constants.assume_inference or int_of(node, "is_test", 0)
        return node.scope.opset < 7 and not told
    mode = node.input(2)
    return mode is not None and any(constants.integers(mode))
