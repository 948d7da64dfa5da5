"""What is said of a node on the way that neither absorbs an affine nor lets one pass: the most specific reason."""

from __future__ import annotations

from bnfold.nodes import CALL, Node
from bnfold.ops.reasons import BLOCKED, FUNCTION, KEPT, ROUNDED, Obstacle

ROUNDING = frozenset(
    {"Ceil", "DequantizeLinear", "DynamicQuantizeLinear", "Floor", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
    | {"Round"}
)


def rounds(node: Node) -> bool:
    """Whether a node rounds, or belongs to a way through integers."""
    return node.op in ROUNDING


def lets_none_pass(node: Node) -> Obstacle:
    """The obstacle of a node that is in no table of operators."""
    if node.op.startswith(CALL):
        return Obstacle(FUNCTION, f"what {node.op} does stands in its body", node)
    if rounds(node):
        return Obstacle(ROUNDED, f"{node.op} lets no affine pass: rounding has happened there", node)
    return Obstacle(BLOCKED, f"{node.op} lets no per-channel affine pass", node)


def was_kept(node: Node, where: str) -> Obstacle:
    """The obstacle of a node, before or behind, that --skip names."""
    return Obstacle(KEPT, f"the {node.op} {where} it was asked to stay as it is", node)
