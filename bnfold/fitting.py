"""Whether the parameters of an affine fit the value that it acts on: its number of dimensions, and of channels."""

from __future__ import annotations

from bnfold.affine import Affine
from bnfold.decided import Decided, fed_to
from bnfold.nodes import Value
from bnfold.ops.affine import AffineOp
from bnfold.ops.facts import Facts
from bnfold.ops.linear import ways_of
from bnfold.ops.passing import known_rank, known_size, may_pass
from bnfold.ops.reasons import BROKEN_PARAMETERS, LAYOUT, NO_HOME, Obstacle
from bnfold.ops.standing import lets_none_pass


def meant(facts: Facts, decided: Decided, affine: AffineOp) -> Affine | Obstacle:
    """The affine as one of the values that it acts on, if its parameters fit them."""
    start = fed_to(affine)
    rank = known_rank(facts, decided.root(facts.graph, start))
    if rank is None:
        return _without_rank(facts, start)
    wrong = _wrong_length(facts, decided, affine, rank)
    if wrong is not None:
        return wrong
    detail = f"it gives its input of {rank} dimension(s) further ones"
    return affine.at_rank(rank) or Obstacle(LAYOUT, detail, affine.node)


def _wrong_length(facts: Facts, decided: Decided, affine: AffineOp, rank: int) -> Obstacle | None:
    """Parameters for another number of channels than there are; one channel would broadcast unseen."""
    node, value = affine.node, decided.root(facts.graph, fed_to(affine))
    if affine.axis is None:
        return _enlarging(facts, affine, value, rank)
    if rank < 2:
        return Obstacle(BROKEN_PARAMETERS, f"its input has {rank} dimension(s)", node)
    channels, known = affine.channels, known_size(facts, value, affine.axis)
    if known == channels or (known is None and channels != 1):
        return None
    if known is None:
        return Obstacle(LAYOUT, "it is not known how many channels the input has", node)
    detail = f"the parameters are for {channels} channel(s), the input has {known}"
    return Obstacle(BROKEN_PARAMETERS, detail, node)


def _enlarging(facts: Facts, affine: AffineOp, value: Value, rank: int) -> Obstacle | None:
    """A constant that may give its value larger dimensions: there is no affine before it that does so."""
    written = affine.written
    for axis, size in enumerate(written, start=max(0, rank - len(written))):
        known = known_size(facts, value, axis)
        if size not in {1, known}:
            found = "a size that is not known" if known is None else str(known)
            detail = f"its constant has {size} elements along axis {axis}, its input {found}"
            return Obstacle(LAYOUT, detail, affine.node)
    return None


def _without_rank(facts: Facts, start: Value) -> Obstacle:
    """The obstacle of an input of unknown rank: the nearest one that a search would have met."""
    node = facts.graph.producer(start)
    if node is None:
        return Obstacle(NO_HOME, f"{start.name!r} is no node's output")
    ways = ways_of(facts, node)
    if isinstance(ways, Obstacle):
        return ways
    if ways is None and not may_pass(node):
        return lets_none_pass(node)
    return Obstacle(LAYOUT, f"the rank of {start.name!r} is not known", node)
