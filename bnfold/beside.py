"""What stands in a tree of sums: the values it adds up, and beside one of them a convolution of given data.

Each value of the tree is read by one node of it alone. What has gone stands in nobody's way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from bnfold.decided import Decided, not_free
from bnfold.nodes import Node, Value
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum, sign_of

MOST_NODES = 64
"""How many nodes are looked at: what hangs on larger trees of sums is no branch of a block."""
FIRST_OPSET_OF_SUMS = 8
"""From here on every sum broadcasts its values, so that one of another shape may take the place of a value."""


@dataclass(frozen=True, slots=True)
class Found:
    """A convolution, the nodes between it and the sum, nearest to that first, and the sign with which it is added."""

    home: Node
    path: tuple[Node, ...]
    sign: float


@dataclass(frozen=True, slots=True)
class Summand:
    """A value that a tree of sums adds up: the sum that reads it, and the way from there to the top of the tree.

    `climb` are the nodes behind that sum, nearest first, the top included; none where that sum is the top, which reads
    what comes there at `index`. `sign` is that with which the top adds the value up.
    """

    value: Value
    joint: Node
    lost: int
    climb: tuple[Node, ...]
    top: Node
    index: int
    sign: float


def summands(facts: Facts, decided: Decided, top: Node) -> Iterator[Summand]:
    """Every value that a tree of sums adds up, those that the top itself adds first."""
    pending: deque[tuple[Node, int, tuple[Node, ...], int, float]] = deque()
    pending += ((top, index, (), index, sign_of(top, index)) for index in decided.left_of(top))
    looked = 0
    while pending and looked < MOST_NODES:
        looked += 1
        joint, lost, climb, index, sign = pending.popleft()
        value = joint.inputs[lost]
        if value is None:
            continue
        yield Summand(value, joint, lost, climb, top, index, sign)
        found = _sum_before(facts, decided, value, joint, climb)
        if found is not None:
            node, further = found
            pending += ((node, i, further, index, sign * sign_of(node, i)) for i in decided.left_of(node))


def _sum_before(
    facts: Facts, decided: Decided, value: Value, reader: Node, climb: tuple[Node, ...]
) -> tuple[Node, tuple[Node, ...]] | None:
    """The sum that makes a value, which nobody else sees, not even its shape: that may become another one."""
    climb = (reader, *climb)
    while len(facts.graph.readers(value)) == 1 and not_free(facts.graph, value, reader) is None:
        node = facts.graph.producer(value)
        if node is None or node.id in decided.kept or node.scope.opset < FIRST_OPSET_OF_SUMS:
            return None
        if node.id not in decided.gone:
            is_tree = is_sum(node) and not isinstance(affine_of(facts, node), AffineOp)
            return (node, climb) if is_tree else None
        climb, reader, value = (node, *climb), node, decided.fed[node.id]
    return None


def convolution_beside(facts: Facts, decided: Decided, joint: Node, index: int, data: Value) -> Found | None:
    """The first layer of these data that a sum adds at one of its inputs, read by it alone all the way."""
    return next(convolutions_beside(facts, decided, joint, index, data), None)


def convolutions_beside(facts: Facts, decided: Decided, joint: Node, index: int, data: Value) -> Iterator[Found]:
    """Every layer of these data that a sum adds at one of its inputs, read by it alone all the way."""
    value = joint.inputs[index]
    pending: list[_Step] = [] if value is None else [(value, joint, sign_of(joint, index), ())]
    looked = 0
    while pending and looked < MOST_NODES:
        looked += 1
        found = _step(facts, decided, *pending.pop(), data)
        if isinstance(found, Found):
            yield found
        else:
            pending += reversed(found)


_Step = tuple[Value, Node, float, tuple[Node, ...]]


def _step(  # noqa: PLR0913, PLR0917  # a step by its parts
    facts: Facts, decided: Decided, value: Value, reader: Node, sign: float, path: tuple[Node, ...], data: Value
) -> Found | list[_Step]:
    if not_free(facts.graph, value, reader) is not None:
        return []
    node = facts.graph.producer(value)
    if node is None or node.id in decided.kept or node.output(0) is not value:
        return []
    if node.id in decided.gone:
        before, fed = decided.gone[node.id]
        return [(fed, before, sign, (*path, node))]
    if is_sum(node):
        operands = ((i, node.inputs[i]) for i in decided.left_of(node))
        return [(v, node, sign * sign_of(node, i), (*path, node)) for i, v in operands if v is not None]
    own = node.input(0)
    if own is None or node.id in decided.ahead or decided.root(facts.graph, own) is not data:
        return []
    return Found(node, path, sign)
