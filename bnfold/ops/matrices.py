"""A product of matrices lets a scale PASS to one of them: that of rows to the left, that of columns to the right one.

    a[i] * sum over k of A[i, k]*B[k, j] = sum over k of (a[i]*A[i, k]) * B[k, j]
    b[j] * sum over k of A[i, k]*B[k, j] = sum over k of A[i, k] * (b[j]*B[k, j])

What differs along the other axes, of a batch, passes to either. A shift passes only where it meets rows that sum to one
(ops/attending.py). A constant takes over what it can (ops/products.py), and only the rest passes it. A scale that is
the same everywhere does not go back from a product of two values: by it runtimes know attention.
"""

from __future__ import annotations

from bnfold.affine import Affine
from bnfold.nodes import Node
from bnfold.ops.absorb import Linear
from bnfold.ops.attending import is_mixture, mixture
from bnfold.ops.facts import Facts
from bnfold.ops.forward import AHEAD, ahead
from bnfold.ops.joining import aligned
from bnfold.ops.linear import home_for, ways_of
from bnfold.ops.passing import PASSING, Passage, Passed, known_rank
from bnfold.ops.reasons import LAYOUT, Obstacle
from bnfold.ops.table import register

__all__ = ["AHEAD"]

SUMMED = (-1, -2)
"""By operand, the axis that is summed over: the columns of the left one, the rows of the right one."""


@register("passing", PASSING, "MatMul")
def product(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle | None:
    """a scale that differs along anything but the columns to the left value, along anything but the rows to the right
    one; of a Softmax over the last axis and a value: everything to the value, where it is alike along its rows

    Not: a shift, where rows do not surely sum to one (the Softmax, or what it made, in another layout of the other
    axes), or where it differs along the rows that are mixed; a value that is smaller than the product where the scale
    differs; a scale that is the same everywhere.
    """
    mixed = mixture(facts, node, affine)
    if mixed is not None or affine.has_shift or all(size == 1 for size in affine.shape):
        return mixed
    ways = ways_of(facts, node)
    weights = {way.weight_input for way in ways if isinstance(way, Linear)} if isinstance(ways, tuple) else set()
    found = home_for(facts, node, affine)
    own = found if isinstance(found, Obstacle) else None
    passed: Passed | None = None
    for index in (1, 0):
        value = node.input(index)
        if value is None or index in weights or not _may_cross(facts, node, index, affine):
            continue
        before = aligned(facts, value, affine)
        if before is not None:
            passed = Passed((Passage(index, before),), instead=passed, own=own)
    return passed


@ahead("MatMul")
def _ahead(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle | None:
    """a scale that is alike along what is summed over; of a value whose rows are mixed by rows that sum to one (a
    Softmax): everything that is alike for all rows

    Not: an affine that differs along what is summed over; a value that is enlarged where it differs.
    """
    is_mixed = index == 1 and is_mixture(facts, node)
    if affine.has_shift and not is_mixed:
        return None  # what keeps a constant from taking it over says more
    value, ranks = node.input(index), _ranks(facts, node)
    if value is None or ranks is None or not _may_cross(facts, node, index, affine):
        told = f"{node.op} sums over an axis along which the affine differs"
        return Obstacle(LAYOUT, told, node) if is_mixed else None
    after = affine.unsqueezed(range(max(ranks) - affine.rank))
    return after if aligned(facts, value, after) else Obstacle(LAYOUT, f"{node.op} may enlarge the value", node)


def _may_cross(facts: Facts, node: Node, index: int, affine: Affine) -> bool:
    """Whether an affine of one operand, or of the product, is alike along what that operand sums over."""
    return _ranks(facts, node) is not None and affine.rank >= 2 and affine.shape[SUMMED[index]] == 1


def _ranks(facts: Facts, node: Node) -> tuple[int, ...] | None:
    """How many dimensions both operands have: two at least, for a vector is a row here, and a column there."""
    ranks = tuple(None if value is None else known_rank(facts, value) for value in node.inputs)
    known = tuple(rank for rank in ranks if rank is not None and rank >= 2)
    return known if len(known) == 2 else None  # operands
