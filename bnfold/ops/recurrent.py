"""LSTM, GRU and RNN, which ABSORB an affine of their data: X*W + Wb is all that they make of these.

    i = f(X*W[i]^T + H*R[i]^T + Wb[i] + Rb[i])        and so each gate, in every direction and at every step

With (a, s) before it, W'[d, g, c] = W[d, g, c] * a[c] and Wb'[d, g] = Wb[d, g] + sum over c of W[d, g, c] * s[c]. All
else in these operators acts on that sum or behind it: activations, clip, the order of a GRU's reset, coupled gates,
peepholes, initial states. What lies beyond a sequence's length is read by no step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.affine import Float64
from bnfold.nodes import Node
from bnfold.ops.absorb import Fed, Linear
from bnfold.ops.facts import Array, Facts
from bnfold.ops.linear import GATED, Ways, bias_of, weight_of
from bnfold.ops.quantized import Dequantized
from bnfold.ops.reasons import BIAS, LAYER, QUANTIZED, Obstacle
from bnfold.ops.table import register

GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""How many gates have weights of their own, one below the other."""

DIRECTIONS: Mapping[str, int] = {"forward": 1, "reverse": 1, "bidirectional": 2}
WEIGHT, BIAS_INPUT = 1, 3


@register("feeding", GATED, "LSTM", "GRU", "RNN")
def recurrent(facts: Facts, node: Node) -> Ways:
    """constant W, before it alone: the data are X*W + Wb in every gate, direction and step; B or none, either layout

    Not: an affine of an initial state; a W or B that is computed or quantised, or of another shape than hidden_size,
    gates and directions say.
    """
    weight = weight_of(facts, node, WEIGHT, rank=3)
    if isinstance(weight, Obstacle):
        return weight
    bias = bias_of(facts, node, BIAS_INPUT)
    if isinstance(bias, Obstacle):
        return bias
    if isinstance(weight, Dequantized) or isinstance(bias, Dequantized):
        return Obstacle(QUANTIZED, f"{node.op} has a W or B that is stored as integers", node)
    directions, rows, inputs = weight.dims
    stated = DIRECTIONS.get(node.string_attribute("direction", "forward").lower())
    hidden = node.int_attribute("hidden_size", rows // GATES[node.op])
    if directions != stated or rows != GATES[node.op] * hidden:
        detail = f"a W of the shape {weight.dims} for {stated} direction(s) of {hidden} hidden value(s)"
        return Obstacle(LAYER, detail, node)
    if bias is not None and (bias.dims != (directions, 2 * rows) or bias.dtype != weight.dtype):
        return Obstacle(BIAS, f"a B of the shape {bias.dims} and type {bias.dtype.name}", node)

    def view(array: Array) -> Array:
        return array.reshape(1, directions * rows, inputs, 1)

    def placed(added: Float64) -> Float64:
        """Wb of each direction, with zeros for Rb behind it."""
        each = added.reshape(directions, rows)
        return np.concatenate([each, np.zeros_like(each)], axis=1)

    linear = Linear(
        node,
        weight,
        WEIGHT,
        view,
        rank=3,
        axes=(2,),
        weight_axis=None,
        bias=bias,
        bias_input=BIAS_INPUT,
        fed=Fed(0, axes=(2,), view_axis=2),
        placed=placed,
    )
    return (linear,)
