"""Convolutions that were merged: which taps of the one see what those of the other see, and that nothing else did.

At the place p of the output, a tap t of a convolution sees the data at p*stride + t*dilation - pad (zero outside). Two
taps see the same at every place where stride is the same and t1*d1 - pad1 = t2*d2 - pad2; both put out the same
number of places where (pads of both ends) - dilation*(size - 1) is the same. Written from ONNX's text of Conv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnfold.equality.ahead import DataStep
from bnfold.equality.claim import Claim, DeviationError, Merging, Tree, UncertainError
from bnfold.equality.constants import Constants, int_of, ints_of
from bnfold.equality.layout import Labels
from bnfold.equality.linear import is_convolution
from bnfold.equality.passes import summed_sign
from bnfold.equality.reference import linear_map
from bnfold.equality.references import Branch, Reference, Side
from bnfold.equality.steps import Step
from bnfold.equality.trees_beside import merged_trees
from bnfold.equality.windows import pads_of
from bnfold.graph import Graph
from bnfold.nodes import Node


def merging_trees(graph: Graph, mergings: Sequence[Merging], trees: Sequence[Tree]) -> tuple[Tree, ...]:
    """What was merged, as trees, in the order in which the values run through the sums."""
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    nodes = {each: _nodes(graph, each) for each in mergings}
    named = [
        (Claim(each.site, (), (each.home,), joint=(each.joint,)), *nodes[each])
        for each in sorted(mergings, key=lambda one: order[nodes[one][2].id])
    ]
    return tuple(merged_trees(graph, named, trees))


def _nodes(graph: Graph, each: Merging) -> tuple[Node, Node, Node]:
    try:
        site, home, joint = (graph.at(one) for one in (each.site, each.home, each.joint))
    except KeyError as error:
        raise DeviationError(f"what was merged names {error}, which the original has not") from error
    return site, home, joint


def branches_of(
    constants: Constants, trees: Sequence[Tree], steps: Mapping[int, Sequence[Step]], fed: Mapping[int, DataStep | None]
) -> dict[int, tuple[Branch, ...]]:
    """What is merged into each convolution (by node id): all that happened to it before is in it."""
    branches: dict[int, tuple[Branch, ...]] = {}
    for tree in trees:
        if tree.beside is None:
            continue
        node, home = tree.site, tree.beside.home
        shapes = [_weight_shape(constants, each) for each in (home, node)]
        if summed_sign(tree.beside.end) < 0:
            raise DeviationError(f"{tree.beside.end.node.site} takes {home.site} with the other sign")
        sign = summed_sign(tree.beside.joint)
        linear = linear_map(constants, node, None)
        taken = steps.get(node.id, ()), fed.get(node.id), branches.get(node.id, ())
        own = Reference(Side(constants, node, linear), linear.grid, *taken)
        branch = Branch(own, _seen_taps(home, node, *shapes), sign)
        branches[home.id] = (*branches.get(home.id, ()), branch)
    return branches


def grids_of_merged(constants: Constants, trees: Sequence[Tree]) -> dict[int, tuple[int, ...]]:
    """The cells of the convolutions that go."""
    return {tree.site.id: linear_map(constants, tree.site, None).grid for tree in trees}


def _weight_shape(constants: Constants, node: Node) -> tuple[int, ...]:
    value = node.input(1)
    shape = None if value is None else constants.shape(value)
    if not is_convolution(node) or shape is None or node.output(0) is None:
        raise DeviationError(f"{node.site} is no Conv with a constant weight")
    return shape


class _Axis(NamedTuple):
    size: int
    stride: int
    step: int
    first: int
    last: int


def _seen_taps(home: Node, node: Node, ours: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[Labels, ...]:
    """For each axis, the taps of the home that see what the taps of the other convolution see."""
    if ours[:2] != theirs[:2] or len(ours) != len(theirs) or int_of(home, "group", 1) != int_of(node, "group", 1):
        raise DeviationError(f"{node.site} and {home.site} have other channels")
    found = []
    for one, other in zip(_axes(home, ours[2:]), _axes(node, theirs[2:]), strict=True):
        grows = [axis.first + axis.last - axis.step * (axis.size - 1) for axis in (one, other)]
        if one.stride != other.stride or grows[0] != grows[1]:
            raise DeviationError(f"{node.site} and {home.site} may put out different places")
        places = np.arange(other.size) * other.step - other.first + one.first
        taps, rest = np.divmod(places, one.step)
        if np.any(rest) or np.any(taps < 0) or np.any(taps >= one.size):
            raise DeviationError(f"a tap of {node.site} sees what no tap of {home.site} does")
        found.append(taps)
    return tuple(found)


def _axes(node: Node, kernel: tuple[int, ...]) -> list[_Axis]:
    count, pads = len(kernel), pads_of(node, kernel)
    if pads is None:
        raise UncertainError(f"the padding of {node.site} is not written down")
    strides, steps = (ints_of(node, name) or (1,) * count for name in ("strides", "dilations"))
    if len(strides) != count or len(steps) != count or min((*strides, *steps)) < 1:
        raise DeviationError(f"the attributes of {node.site} do not fit its kernel")
    if min(pads) < 0:
        raise UncertainError(f"{node.site} cuts its data")
    return [_Axis(*axis) for axis in zip(kernel, strides, steps, pads[:count], pads[count:], strict=True)]
