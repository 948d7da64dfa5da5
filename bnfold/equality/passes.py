"""The operators that an affine can pass, and what passes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bnfold.equality.claim import DeviationError, Link
from bnfold.equality.constants import Constants
from bnfold.equality.pass_joining import chosen, concat, divided, gathered, joined, sliced, split
from bnfold.equality.pass_positions import (
    average_pool,
    cast,
    elementwise,
    max_pool,
    pad,
    padded,
    pooled,
    reduced,
    reduced_axes,
    resize,
    resized,
    windowed,
)
from bnfold.equality.passing import Passing, Rule, said
from bnfold.nodes import Node


def rule_of(node: Node) -> Rule | None:
    """The rule of an operator, if there is one here."""
    return _RULES.get(node.op)


def summed_sign(link: Link) -> float:
    """The sign with which a sum of values takes its data."""
    node = link.node
    if node.op not in {"Add", "Sub", "Sum"} or (node.scope.opset < 7 and node.op != "Sum"):
        raise DeviationError(f"{node.site} is no sum of values")
    return -1.0 if node.op == "Sub" and link.data == 1 else 1.0


def cuts_away(node: Node) -> bool:
    """Whether what a node leaves out is read by nobody, if nothing else reads its data."""
    return node.op in {"Slice", "Gather"}


def gain_of(constants: Constants, link: Link) -> float:
    """What a shift before the operator is multiplied by behind it; NaN where that is a size that is not known."""
    node = link.node
    if node.op == "Sub" and link.data == 1:
        return -1.0
    if node.op != "ReduceSum":
        return 1.0
    sizes = constants.sizes(link.source)
    if sizes is None:
        return float("nan")
    summed = [sizes[axis] for axis in reduced_axes(constants, node, len(sizes))]
    return math.prod(float("nan") if size is None else float(size) for size in summed)


_SIGNED = said(Passing(shift=False, negative=False))
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Abs"), Rule(_SIGNED, elementwise)),
    "Cast": Rule(cast, elementwise),
    "AveragePool": Rule(average_pool, pooled, windowed),
    "GlobalAveragePool": Rule(said(Passing()), pooled, windowed),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), Rule(max_pool, pooled, windowed)),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), Rule(_SIGNED, pooled, windowed)),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), Rule(said(Passing()), reduced, reduced_axes)),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), Rule(said(Passing(negative=False)), reduced, reduced_axes)),
    **dict.fromkeys(("ReduceL1", "ReduceL2"), Rule(_SIGNED, reduced, reduced_axes)),
    "Pad": Rule(pad, padded),
    **dict.fromkeys(("Resize", "Upsample"), Rule(resize, resized)),
    "Concat": Rule(said(Passing(joins="all")), concat),
    "Split": Rule(said(Passing()), split),
    "Slice": Rule(said(Passing()), sliced),
    "Gather": Rule(said(Passing()), gathered),
    **dict.fromkeys(("Add", "Sub", "Sum"), Rule(said(Passing(joins="sum")), joined)),
    "Mul": Rule(said(Passing(joins="one", shift=False)), joined),
    "Div": Rule(said(Passing(joins="one", shift=False)), divided),
    **dict.fromkeys(("Max", "Min"), Rule(said(Passing(joins="all", negative=False)), joined)),
    "Where": Rule(said(Passing(joins="all")), chosen),
}
