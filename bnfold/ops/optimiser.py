"""Where onnxruntime's own optimiser is known to go wrong around a BatchNormalization: only which places to look at.

Two patterns. onnxruntime 1.31 fuses a MatMul and a BatchNormalization through a Transpose or Reshape between them
whenever the sizes happen to agree, whichever axis the channels are on. And 1.31 and 1.32, in training mode with outputs
that nobody reads, make one tensor of parameters that are equal (gamma and variance, beta and mean of a new layer) and
then write the new statistics into it. Most places that look so are computed rightly: run them to know.
"""

from __future__ import annotations

from bnfold.graph import Graph
from bnfold.nodes import Node
from bnfold.ops.affine import FIRST_OPSET_WITH_TRAINING_MODE
from bnfold.ops.facts import Facts
from bnfold.ops.reasons import Obstacle

PRODUCTS = frozenset({"MatMul", "Gemm"})
LAYOUT = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


def product_before(facts: Facts, norm: Node, channels: int) -> tuple[Node, ...] | None:
    """The nodes from a MatMul (or Gemm) by a constant to a BatchNormalization behind layout operators, if its constant
    has as many columns as there are channels; None where there is no such product, or nothing in between.
    """
    chain: list[Node] = [norm]
    value = norm.input(0)
    while value is not None and value.scope is norm.scope:
        node = facts.graph.producer(value)
        if node is None or node.output(0) is not value:
            return None
        chain.insert(0, node)
        if node.op in PRODUCTS:
            return tuple(chain) if len(chain) > 2 and _columns(facts, node) == channels else None
        if node.op not in LAYOUT:
            return None
        value = node.input(0)
    return None


def _columns(facts: Facts, node: Node) -> int | None:
    right = node.input(1)
    found = None if right is None else facts.constant(right)
    return None if found is None or isinstance(found, Obstacle) or len(found.dims) < 2 else found.dims[-1]


def trains_with_unread_outputs(graph: Graph, norm: Node) -> bool:
    """Whether a BatchNormalization is in training mode, of opset 14 or later, with an output that nobody reads."""
    if norm.scope.opset < FIRST_OPSET_WITH_TRAINING_MODE or not norm.int_attribute("training_mode", 0):
        return False
    return any(v is None or not (graph.readers(v) or graph.is_graph_output(v)) for v in norm.outputs[1:])
