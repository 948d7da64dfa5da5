"""What stands beside a value in a sum: a convolution of given data, by way of further sums and of what has gone."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.decided import Decided, not_free
from bnfold.nodes import Node, Value
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum, sign_of

MOST_NODES = 64
"""How many nodes are looked at: what hangs on larger trees of sums is no branch of a block."""


@dataclass(frozen=True, slots=True)
class Found:
    """A convolution, the nodes between it and the sum, nearest to that first, and the sign with which it is added."""

    home: Node
    path: tuple[Node, ...]
    sign: float


def convolution_beside(facts: Facts, decided: Decided, joint: Node, index: int, data: Value) -> Found | None:
    """The first layer of these data that a sum adds at one of its inputs, read by it alone all the way."""
    value = joint.inputs[index]
    pending: list[_Step] = [] if value is None else [(value, joint, sign_of(joint, index), ())]
    looked = 0
    while pending and looked < MOST_NODES:
        looked += 1
        found = _step(facts, decided, *pending.pop(), data)
        if isinstance(found, Found):
            return found
        pending += reversed(found)
    return None


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
        operands = enumerate(node.inputs)
        return [(v, node, sign * sign_of(node, i), (*path, node)) for i, v in operands if v is not None]
    own = node.input(0)
    if own is None or node.id in decided.ahead or decided.root(facts.graph, own) is not data:
        return []
    return Found(node, path, sign)
