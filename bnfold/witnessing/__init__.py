"""Witnesses of refusals: computed when somebody asks, and never while a fold is planned.

values.py        what a witness is
ways.py          from an affine to the node that is to blame
evaluating.py    a node at its place, evaluated in float64
wrong_folds.py   the refused fold as if it were none, against the original
unfit.py         the number that would not fit its type
plain_facts.py   what needs no number
"""

from __future__ import annotations

import onnx

from bnfold.graph import Graph
from bnfold.moves import Plan, Refusal
from bnfold.nodes import Node
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Facts
from bnfold.witnessing.evaluating import CannotEvaluate
from bnfold.witnessing.plain_facts import plain
from bnfold.witnessing.unfit import unfit
from bnfold.witnessing.values import CLEARLY, Numbers, Witness
from bnfold.witnessing.ways import Reached, Walk
from bnfold.witnessing.wrong_folds import nearest

__all__ = ["CLEARLY", "Numbers", "Witness", "witnesses_of"]

DO_NOT_FIT = frozenset({"overflow", "precision-lost"})


def witnesses_of(graph: Graph, plan: Plan, refusals: tuple[Refusal, ...], seed: int = 0) -> tuple[Witness, ...]:
    """A witness for each of these refusals of a plan; the same seed gives the same witnesses."""
    facts = Facts(graph, assume_inference=plan.assumes_inference)
    return tuple(_witness(facts, refusal, seed) for refusal in refusals)


def _witness(facts: Facts, refusal: Refusal, seed: int) -> Witness:
    affine = affine_of(facts, facts.graph.at(refusal.site))
    blamed = None if refusal.blamed is None else facts.graph.at(refusal.blamed)
    walk = Walk(facts, affine, blamed) if isinstance(affine, AffineOp) and blamed is not None else None
    fact = plain(facts, refusal, walk)
    if fact is not None:
        return fact
    reached = None if walk is None else walk.reached()
    if blamed is not None and not _is_known(blamed):
        return Witness(refusal, "none", "an operator that ONNX does not define", refusal.detail, (str(blamed.site),))
    if reached is None:
        return Witness(refusal, "none", "not shown", f"{refusal.detail}; the way there is not followed")
    try:
        shown = _shown(facts, refusal, reached, seed)
    except CannotEvaluate as error:
        return Witness(refusal, "none", "not shown", f"{refusal.detail}; {error}")
    where = (str(reached.node.site),)
    if shown.bounds_off <= 1:
        sentence = f"{refusal.detail}; on what was drawn the nearest fold stays within its bound"
        return Witness(refusal, "none", "no difference found", sentence, where, shown)
    return Witness(refusal, "numbers", f"{shown.bounds_off:.1e} bounds off", refusal.detail, where, shown)


def _is_known(node: Node) -> bool:
    """Whether ONNX says what an operator computes."""
    return node.op == node.proto.op_type and bool(onnx.defs.has(node.op))


def _shown(facts: Facts, refusal: Refusal, reached: Reached, seed: int) -> Numbers:
    """The numbers of a refusal that only numbers show; raises CannotEvaluate."""
    if refusal.reason.code in DO_NOT_FIT:
        return unfit(facts, reached, seed)
    behind = facts.graph.at(refusal.site).output(0)
    if behind is None:
        raise CannotEvaluate("its output is missing")
    return nearest(facts, reached, behind, seed)
