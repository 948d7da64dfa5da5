"""The way from an affine that stays to the node that is to blame, and what the affine has become when it comes there.

The walk follows the op table, as a search does, but passes what a search would settle in: an affine on the way is
composed with the one that is carried. So what is compared at the blamed node is the affine there and nothing else:

    y = rest(A(node(x)))     against     rest(node(A'(x)))
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfold.affine import Affine
from bnfold.decided import Decided, fed_to
from bnfold.fitting import meant
from bnfold.forwarding import Forward
from bnfold.nodes import Node, Value
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.ops.forward import forward
from bnfold.ops.passing import Passed, backward
from bnfold.ops.reasons import Obstacle

LONGEST = 512
"""Values looked at before a walk gives up: an obstacle is rarely more than a few nodes away."""


@dataclass(frozen=True, slots=True, eq=False)
class Reached:
    """The blamed node and the affine there: of its output `index`, or, going forward, of its input `index`."""

    node: Node
    affine: Affine
    index: int
    is_forward: bool


@dataclass(slots=True)
class Walk:
    """One walk; `seen` are the values on the way, nearest first."""

    facts: Facts
    affine: AffineOp
    blamed: Node
    seen: list[Value] = field(default_factory=list)

    def reached(self) -> Reached | None:
        """The blamed node, before the affine or else behind it; None where no way leads there."""
        whole = meant(self.facts, Decided(), self.affine)
        if isinstance(whole, Obstacle):
            return None
        return self._before(whole) or self._behind(whole)

    def _before(self, affine: Affine) -> Reached | None:
        pending = [(fed_to(self.affine), affine)]
        while pending and len(self.seen) < LONGEST:
            value, carried = pending.pop()
            self.seen.append(value)
            node = self.facts.graph.producer(value)
            if node is None:
                continue
            output = node.outputs.index(value)
            if node is self.blamed:
                return Reached(node, carried, output, is_forward=False)
            pending += reversed(self._further(node, carried, output))
        return None

    def _further(self, node: Node, carried: Affine, output: int) -> list[tuple[Value, Affine]]:
        """What a walk comes to before a node."""
        other = affine_of(self.facts, node)
        if isinstance(other, AffineOp):
            first = other.at_rank(carried.rank)
            return [] if first is None else [(fed_to(other), carried @ first)]
        passed = backward(self.facts, node, carried, output)
        found: list[tuple[Value, Affine]] = []
        while isinstance(passed, Passed):
            operands = [(node.input(passage.index), passage.affine) for passage in passed.passages]
            found += [(value, before) for value, before in operands if value is not None]
            passed = passed.instead
        return found

    def _behind(self, affine: Affine) -> Reached | None:
        start = self.affine.node.output(0)
        pending = [] if start is None else [(start, affine)]
        search = Forward(self.facts, Decided(), self.affine)
        while pending and len(self.seen) < LONGEST:
            value, carried = pending.pop()
            self.seen.append(value)
            for reader in self.facts.graph.readers(value):
                node = reader.node
                if reads_metadata_alone(reader):
                    continue
                if node is self.blamed:
                    return Reached(node, carried, reader.index, is_forward=True)
                past = search.past_affine(node, reader.index, carried)
                after = forward(self.facts, node, reader.index, carried) if past is None else (past,)
                if isinstance(after, tuple):
                    pending.extend((v, each) for v, each in zip(node.outputs, after, strict=True) if v is not None)
        return None
