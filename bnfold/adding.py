"""What an affine that goes may cost: one Add, behind a layer that has no place for a shift, and no more.

A constant Add right behind such a layer is its bias in all but name. It goes into the layer once that gets an Add for
something else; so the shift costs nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnfold.affine import Affine
from bnfold.decided import Arrived, Decided, fed_to, not_free
from bnfold.fitting import meant
from bnfold.nodes import Node
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.ops.reasons import NO_GAIN, Obstacle
from bnfold.ops.taking import Taken, home_with


def costs_an_add(facts: Facts, decided: Decided, comes: AffineOp, node: Node, taken: Taken) -> bool:
    """Whether a node that has taken this over, and needs an Add for what comes now, is to get one more by that."""
    return not _has_add(facts, node, taken) and not _is_followed_by_a_bias(facts, decided, comes, node, taken)


def one_add(arrivals: Iterable[Arrived]) -> Obstacle | None:
    """An affine that goes may be paid for with one Add, and with no more."""
    adding = [each.node for each in arrivals if each.adds]
    return (
        Obstacle(NO_GAIN, f"{len(adding)} layers without a bias would each get an Add", adding[0])
        if adding[1:]
        else None
    )


def is_shift_alone(affine: AffineOp) -> bool:
    """Whether what moves is itself no more than an Add. A Neg is not: a shift it meets on its way is another's."""
    return affine.channels is None and bool(np.all(np.abs(affine.scale) == 1)) and bool(np.any(affine.shift != 0))


def _has_add(facts: Facts, node: Node, taken: Taken) -> bool:
    """Whether what a node has taken over so far puts an Add behind it."""
    if taken.after is None and taken.before is None:
        return False
    found = home_with(facts, node, taken)
    return isinstance(found, tuple) and found[0].needs_add(found[1])


def _is_followed_by_a_bias(facts: Facts, decided: Decided, comes: AffineOp, node: Node, taken: Taken) -> bool:
    """Whether another constant Add is all that reads what a node puts out, and nothing keeps it from going there."""
    output = node.output(0)
    readers = [r for r in (() if output is None else facts.graph.readers(output)) if not reads_metadata_alone(r)]
    found = affine_of(facts, readers[0].node) if len(readers) == 1 else None
    if not isinstance(found, AffineOp) or found.node is comes.node or not is_shift_alone(found):
        return False
    reader = found.node
    stays = any(reader.id in each for each in (decided.kept, decided.staying, decided.gone))
    if (
        stays
        or np.any(found.scale != 1)
        or fed_to(found) is not output
        or not_free(facts.graph, fed_to(found), reader) is not None
    ):
        return False
    shift = meant(facts, decided, found)
    return isinstance(shift, Affine) and isinstance(home_with(facts, node, taken.and_then(shift, None)), tuple)
