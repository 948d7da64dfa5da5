"""Products with a constant that ABSORB an affine: Gemm, MatMul, Einsum.

What none of them has a place for, a shift, becomes an Add behind it; a Gemm has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bnfold.nodes import Node
from bnfold.ops.absorb import Fed, Linear, View
from bnfold.ops.facts import Array, Constant, Facts
from bnfold.ops.home import Home
from bnfold.ops.linear import LINEAR, Ways, bias_of, weight_of, with_fitting_bias
from bnfold.ops.quantized import Dequantized
from bnfold.ops.reasons import AXIS, BIAS, LAYER, NOT_FINITE, Obstacle
from bnfold.ops.table import register


@register("linear", LINEAR, "Gemm")
def gemm(facts: Facts, node: Node) -> Ways:
    """constant B (or constant A, whose rows then own the first axis); any alpha, beta, transA, transB, C or none

    Not: a C that is computed, or of another shape than broadcasts; a C of integers that is multiplied by beta.

    Ahead: constant B or A; a scale and a shift along what is summed over. Not: an affine along the rows of the data; a
    quantised weight.
    """
    factors = node.float_attribute("alpha", 1.0), node.float_attribute("beta", 1.0)
    if not np.all(np.isfinite(factors)):
        return Obstacle(NOT_FINITE, f"alpha is {factors[0]}, beta is {factors[1]}", node)
    operands = [weight_of(facts, node, index, rank=2) for index in (0, 1)]
    right = not isinstance(operands[1], Obstacle)
    weight = operands[1] if right else operands[0]
    if isinstance(weight, Obstacle):
        return operands[1] if isinstance(operands[1], Obstacle) else weight
    bias = bias_of(facts, node)
    if isinstance(bias, Obstacle):
        return bias
    outputs_first = bool(node.int_attribute("transB", 0)) if right else not node.int_attribute("transA", 0)

    def view(array: Array) -> Array:
        rows = array if outputs_first else array.T
        return rows[np.newaxis, :, :, np.newaxis]

    linear = Linear(
        node,
        weight,
        weight_input=1 if right else 0,
        view=view,
        rank=2,
        axes=(1,) if right else (0,),
        weight_axis=0 if outputs_first else 1,
        bias=bias,
        bias_input=2,
        bias_factor=factors[1],
        bias_is_vector=False,
        dropped=frozenset({"beta"}),
        fed=_fed_gemm(node, right=right, alpha=factors[0]),
    )
    if isinstance(bias, Dequantized) and (bias.dims != (linear.channels,) or not right or factors[1] != 1.0):
        return Obstacle(BIAS, "a bias of integers that is not one per output, or is multiplied by beta", node)
    return with_fitting_bias(linear)


def _fed_gemm(node: Node, *, right: bool, alpha: float) -> Fed:
    """The data of a Gemm."""
    if right:
        return Fed(0, axes=(0,) if node.int_attribute("transA", 0) else (1,), view_axis=2, factor=alpha)
    return Fed(1, axes=(1,) if node.int_attribute("transB", 0) else (0,), view_axis=2, factor=alpha)


@register("linear", LINEAR, "MatMul")
def matmul(facts: Facts, node: Node) -> Ways:
    """constant right operand (channels on the last axis) or left one (on the last but one); a shift becomes an Add

    Not: channels on any other axis (axis 1 of three is rows); a weight of one dimension; an Add, which would only be
    replaced by another one.

    Ahead: a constant operand; a scale along what is summed over, and a shift, which becomes an Add, where the constant
    has two dimensions. Not: an affine along the rows of the data; an Add, which would only be replaced by another one;
    a quantised weight.
    """
    ways: list[Home] = []
    obstacles: list[Obstacle] = []
    for index, axis in ((1, -1), (0, -2)):
        weight = weight_of(facts, node, index, rank=None)
        if isinstance(weight, Obstacle):
            obstacles.append(weight)
        elif len(weight.dims) >= 2:
            rank = len(weight.dims)
            why = "each matrix of the batch makes another shift of it"
            axes = (-1,) if index == 1 else (-2,)
            fed = Fed(1 - index, axes, view_axis=rank + 1, sees_all=rank == 2, least_rank=2, why=why)
            ways.append(
                Linear(node, weight, index, _last_axes_view(axis), None, (axis,), rank + axis, least_rank=rank, fed=fed)
            )
        else:
            obstacles.append(Obstacle(AXIS, "a weight of one dimension has no output channels", node))
    return tuple(ways) or obstacles[0]


def _last_axes_view(axis: int) -> View:
    """A (batched) matrix as (1, outputs, the rest...)."""

    def view(array: Array) -> Array:
        return np.moveaxis(array, axis, 0)[np.newaxis, :, np.newaxis]

    return view


@register("linear", LINEAR, "Einsum")
def einsum(facts: Facts, node: Node) -> Ways:
    """a constant operand, along the labels of the output that it alone has; a shift becomes an Add

    Not: a label that stands twice in a term; an affine along one that another operand has too, or that is summed over;
    an Add, which would only be replaced by another one.

    Ahead: a constant operand, along the labels that it shares with the data; a shift where there is one constant and
    one value, what they share is summed over, and all else of the value stays. Not: a label that stands twice in a
    term; an Add, which would only be replaced by another one; a quantised weight.
    """
    terms, output = _labels(node.string_attribute("equation", ""))
    if node.refers_to_attributes or len(terms) != len(node.inputs):
        return Obstacle(LAYER, "its equation does not fit its operands", node)
    ways: list[Home] = []
    obstacles: list[Obstacle] = []
    for index, term in enumerate(terms):
        weight = weight_of(facts, node, index, rank=len(term))
        if isinstance(weight, Obstacle):
            obstacles.append(weight)
        else:
            ways += _Operand(node, tuple(terms), output, index, weight).ways()
    if ways:
        return tuple(ways)
    unowned = Obstacle(AXIS, "no constant operand alone owns a label of the output", node)
    return unowned if len(obstacles) < len(terms) else obstacles[0]


@dataclass(frozen=True, slots=True)
class _Operand:
    """A constant operand of an Einsum, with all terms; "." is an ellipsis."""

    node: Node
    terms: tuple[str, ...]
    output: str
    index: int
    weight: Constant | Dequantized

    @property
    def term(self) -> str:
        """Its own term."""
        return self.terms[self.index]

    def ways(self) -> list[Home]:
        """Along each label that it alone owns, along all of these, and for each value that shares labels with it."""
        others = "".join(self.terms[: self.index] + self.terms[self.index + 1 :])
        owned = [x for x in self.output if self.output.count(x) == 1 and self.has(x) and x not in others]
        fed = [(j, shared) for j in range(len(self.terms)) if (shared := self.shared_with(j)) and j != self.index]
        alone: list[Home] = [self.way([label], None, []) for label in owned] if len(owned) > 1 or not fed else []
        if len(owned) > 1 and not fed:
            return [*alone, self.way(owned, None, [])]
        return alone + [self.way(owned, self.fed(j, owned, shared), shared) for j, shared in fed]

    def has(self, label: str) -> bool:
        """Whether a label stands in its term, and stands there once."""
        return label.isalpha() and self.term.count(label) == 1

    def shared_with(self, other: int) -> list[str]:
        """The labels that it shares with another operand, in the order of that one."""
        theirs = self.terms[other]
        return [label for label in theirs if theirs.count(label) == 1 and self.has(label)]

    def size(self, label: str) -> int:
        """How large a label is in the constant."""
        return self.weight.dims[self.term.index(label)]

    def way(self, owned: list[str], fed: Fed | None, shared: list[str]) -> Linear:
        """The constant as (1, its outputs, what it shares with its data, the rest...)."""
        order = [self.term.index(label) for label in [*owned, *shared]]
        order += [axis for axis in range(len(self.term)) if axis not in order]
        sizes = [self.weight.dims[axis] for axis in order]
        first, second = math.prod(sizes[: len(owned)]), math.prod(sizes[len(owned) : len(owned) + len(shared)])
        form = (1, first, second, *sizes[len(owned) + len(shared) :])

        def view(array: Array) -> Array:
            return array.transpose(order).reshape(form)

        def back(array: Array) -> Array:
            return np.ascontiguousarray(array.reshape(sizes).transpose(np.argsort(order)))

        return Linear(
            self.node,
            self.weight,
            self.index,
            view,
            rank=None if "." in self.output else len(self.output),
            axes=tuple(_axis(self.output, label) for label in owned),
            weight_axis=order[0] if len(owned) == 1 else None,
            least_rank=len(self.output.replace(".", "")),
            fed=fed,
            sizes=tuple(map(self.size, owned)),
            back=back if len(owned) > 1 or len(shared) > 1 else None,
        )

    def fed(self, other: int, owned: list[str], shared: list[str]) -> Fed:
        """Another operand as its data."""
        theirs = self.terms[other]
        return Fed(
            other,
            axes=tuple(_axis(theirs, label) for label in shared),
            view_axis=2,
            sees_all=self.sums_all(theirs, owned, shared),
            sizes=tuple(map(self.size, shared)),
            rank=None if "." in theirs else len(theirs),
            grows=len(self.output) - len(theirs) if "." in theirs and "." in self.output else None,
            why="a shift before it would not be one number for each of its outputs",
        )

    def sums_all(self, theirs: str, owned: list[str], shared: list[str]) -> bool:
        """Whether a shift of the data adds one number to each of the outputs that the constant owns.

        A dimension of 1 may be one that the data enlarge; then more is summed than the constant says.
        """
        alike = all(len(set(term)) == len(term) for term in (self.term, theirs)) and len(self.terms) == 2
        dots = "." not in self.term and ("." in theirs) == ("." in self.output)
        summed = all(label not in self.output and self.size(label) > 1 for label in shared)
        kept = all(label in self.output for label in theirs if label not in shared)
        return alike and dots and summed and kept and all(x in owned for x in self.term if x in self.output)


def _axis(term: str, label: str) -> int:
    """Where a label stands in a term: from the end, where that is behind an ellipsis."""
    place = term.index(label)
    return place - len(term) if "." in term[:place] else place


def _labels(equation: str) -> tuple[list[str], str]:
    """The terms of an equation and its output, with "." for an ellipsis; an output that is not written is implied."""
    left, arrow, right = equation.replace(" ", "").replace("...", ".").partition("->")
    terms = left.split(",")
    if arrow:
        return terms, right
    letters = "".join(terms)
    once = sorted(label for label in set(letters) if letters.count(label) == 1 and label.isalpha())
    return terms, ("." if "." in letters else "") + "".join(once)
