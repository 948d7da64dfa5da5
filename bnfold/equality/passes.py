"""The operators that an affine can pass, and what passes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bnfold.equality.claim import DeviationError, Link
from bnfold.equality.constants import Constants
from bnfold.equality.pass_joining import chosen, concat, divided, gathered, joined, sliced, split
from bnfold.equality.pass_matrices import is_mixed, multiplied, product
from bnfold.equality.pass_positions import (
    average_pool,
    cast,
    clip,
    elementwise,
    max_pool,
    pad,
    padded,
    pooled,
    reduced,
    reduced_axes,
    resize,
    resized,
)
from bnfold.equality.pass_repeating import (
    cut,
    depth_to_space,
    expanded,
    part_read,
    put_in,
    space_to_depth,
    strung,
    taken_out,
    tiled,
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


def adds_any_number(node: Node) -> bool:
    """Whether it adds up however many values there are."""
    return node.op == "Sum"


def cuts_away(constants: Constants, node: Node) -> bool:
    """Whether what a node leaves out is read by nobody, if nothing else reads its data."""
    return node.op in {"Slice", "Gather"} or part_read(constants, node) is not None


def parts_beside(link: Link) -> tuple[Link, ...]:
    """The ways by the other outputs of a node that gives its data out in parts: an affine of one part is not theirs."""
    if link.node.op != "Split":
        return ()
    others = (k for k, value in enumerate(link.node.outputs) if value is not None and k != link.output)
    return tuple(Link(link.node, link.data, k) for k in others)


def gain_of(constants: Constants, link: Link) -> float:
    """What a shift before the operator is multiplied by behind it; NaN where that is not known, or no one number."""
    node = link.node
    if node.op == "Sub" and link.data == 1:
        return -1.0
    if node.op == "MatMul":
        return 1.0 if is_mixed(constants, link) else math.nan
    if node.op != "ReduceSum":
        return 1.0
    sizes = constants.sizes(link.source)
    if sizes is None:
        return math.nan
    summed = [sizes[axis] for axis in reduced_axes(constants, node, len(sizes))]
    return math.prod(math.nan if size is None else float(size) for size in summed)


_SIGNED = said(Passing(shift=False, negative=False))
_IN_SIZE = said(Passing(shift=False, negative=False, absolute=True))
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu"), Rule.whole(_SIGNED, elementwise)),
    "Abs": Rule.whole(_IN_SIZE, elementwise),
    "Clip": Rule.whole(clip, elementwise),
    "Cast": Rule.whole(cast, elementwise),
    "AveragePool": Rule(average_pool, pooled),
    "GlobalAveragePool": Rule(said(Passing()), pooled),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), Rule(max_pool, pooled)),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), Rule(_IN_SIZE, pooled)),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), Rule(said(Passing()), reduced)),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), Rule(said(Passing(negative=False)), reduced)),
    **dict.fromkeys(("ReduceL1", "ReduceL2"), Rule(_IN_SIZE, reduced)),
    "Pad": Rule(pad, padded),
    **dict.fromkeys(("Resize", "Upsample"), Rule(resize, resized)),
    "Concat": Rule.whole(said(Passing(joins="all")), concat),
    "Split": Rule.whole(said(Passing()), split),
    "Slice": Rule.whole(said(Passing()), sliced),
    "Gather": Rule(said(Passing()), gathered),
    **dict.fromkeys(("Add", "Sub", "Sum"), Rule.whole(said(Passing(joins="sum")), joined)),
    "Mul": Rule.whole(said(Passing(joins="one", shift=False)), joined),
    "Div": Rule.whole(said(Passing(joins="one", shift=False)), divided),
    **dict.fromkeys(("Max", "Min"), Rule.whole(said(Passing(joins="all", negative=False)), joined)),
    "Where": Rule.whole(said(Passing(joins="all")), chosen),
    "Expand": Rule.whole(said(Passing()), expanded),
    "Tile": Rule.whole(said(Passing()), tiled),
    "DepthToSpace": Rule(said(Passing()), depth_to_space),
    "SpaceToDepth": Rule.whole(said(Passing()), space_to_depth),
    "SequenceAt": Rule.whole(said(Passing()), taken_out),
    "SequenceConstruct": Rule.whole(said(Passing(joins="all")), put_in),
    "SplitToSequence": Rule(said(Passing()), cut),
    "ConcatFromSequence": Rule(said(Passing()), strung),
    "MatMul": Rule(product, multiplied),
}
