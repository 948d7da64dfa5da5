"""What each operator means, in float64 and written from ONNX's text: the certificate's own knowledge of operators.

It shares nothing with the op table of the folding side, so that a wrong axis there does not certify itself. An
operator is known as an affine (y = scale*x + shift, what may go), as a home (linear.py), as layout (layout.py) or as a
factor, which an affine passes with its shift divided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bnfold.equality.claim import DeviationError, Link, Part, UncertainError, reads_form_alone
from bnfold.equality.constants import Constants, Float64, float_of, int_of, ints_of
from bnfold.equality.contraction import einsum
from bnfold.equality.gates import recurrent
from bnfold.equality.layout import Carried, dropout, flatten, reshape, same, squeeze, transpose, unsqueeze
from bnfold.equality.linear import (
    LinearMap,
    aligned,
    clip,
    conv,
    conv_transpose,
    difference_with_constant,
    gemm,
    instance_normalization,
    matmul,
    normalization,
    pad,
    product_with_constant,
    quotient_by_constant,
    softmax,
    sum_with_constant,
)
from bnfold.equality.passes import rule_of
from bnfold.equality.passing import Passing
from bnfold.nodes import Node, Value

__all__ = ["Affine", "affine_of", "reads_form_alone"]

_HOMES: Mapping[str, Callable[[Constants, Node, int | None], LinearMap]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": normalization,
    "Mul": product_with_constant,
    "Div": quotient_by_constant,
    "Add": sum_with_constant,
    "Sub": difference_with_constant,
    "LSTM": recurrent,
    "GRU": recurrent,
    "RNN": recurrent,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "InstanceNormalization": instance_normalization,
    "Clip": clip,
    "Pad": pad,
}

_LAYOUT: Mapping[str, Callable[[Constants, Node, Carried, int], Carried]] = {
    "Identity": same,
    "Dropout": dropout,
    "Transpose": transpose,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
}


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """y = scale*x + shift, both broadcasting against x, and the sizes of the terms in shift."""

    scale: Float64
    shift: Float64
    magnitude: Float64


def affine_of(constants: Constants, link: Link, rank: int) -> Affine:
    """What a node does to its data, of which `rank` is the number of dimensions."""
    if is_normalization(link.node):
        return _normalization(constants, link.node, rank)
    if link.node.op == "Neg":
        return _affine(np.full([1] * rank, -1.0), np.zeros([1] * rank))
    constant = _operand(constants, link, rank)
    one, nothing = np.ones([1] * rank), np.zeros([1] * rank)
    if link.node.op == "Mul":
        return _affine(constant, nothing)
    if link.node.op == "Add":
        return _affine(one, constant)
    if link.node.op == "Sub":
        return _affine(one, -constant) if link.data == 0 else _affine(-one, constant)
    if link.node.op != "Div" or link.data != 0:
        raise DeviationError(f"{link.node.site} is no affine")
    if not np.all(constant):
        raise DeviationError(f"{link.node.site} divides by zero")
    return _affine(1.0 / constant, nothing)


def part_of(affine: Affine, part: Part) -> Affine:
    """One half of an affine: its scale alone, or the shift that follows that."""
    if part == "scale":
        return Affine(affine.scale, np.zeros_like(affine.shift), np.zeros_like(affine.magnitude))
    if part == "shift":
        return Affine(np.ones_like(affine.scale), affine.shift, affine.magnitude)
    return affine


def _affine(scale: Float64, shift: Float64) -> Affine:
    return Affine(scale, shift, np.abs(shift))


def _operand(constants: Constants, link: Link, rank: int) -> Float64:
    """The constant operand of an elementwise operator, with as many dimensions as its data."""
    others = [(i, value) for i, value in enumerate(link.node.inputs) if i != link.data]
    if link.node.op not in {"Mul", "Div", "Add", "Sub"} or len(others) != 1 or others[0][1] is None:
        raise DeviationError(f"{link.node.site} is no affine")
    array = constants.floats(others[0][1])
    return array.astype(np.float64).reshape(aligned(link.node, others[0][0], array.shape, rank))


def _normalization(constants: Constants, node: Node, rank: int) -> Affine:
    """From the definition: (x - mean)/sqrt(var + epsilon)*gamma + beta, along axis 1."""
    if trains(constants, node):
        raise DeviationError(f"{node.site} is no BatchNormalization at inference")
    gamma, beta, mean, var = (constants.vector(node.input(i)) for i in range(1, 5))
    if rank < 2 or not gamma.size == beta.size == mean.size == var.size:
        raise DeviationError(f"the parameters of {node.site} are not one number for each channel")
    deviation = np.sqrt(var + np.float64(np.float32(float_of(node, "epsilon", 1e-5))))
    parts = gamma / deviation, beta - mean * gamma / deviation, np.abs(beta) + np.abs(mean * gamma / deviation)
    return Affine(*(part.reshape(1, -1, *[1] * (rank - 2)) for part in parts))


def is_normalization(node: Node) -> bool:
    """Whether a node is a BatchNormalization."""
    return node.op == "BatchNormalization"


def trains(constants: Constants, node: Node) -> bool:
    """Whether a BatchNormalization uses the statistics of its batch, or others than one per channel."""
    further = any(value is not None for value in node.outputs[1:])
    if node.scope.opset >= 14:
        return further or bool(int_of(node, "training_mode", 0))
    if node.scope.opset < 9 and not int_of(node, "spatial", 1):
        return True
    if node.scope.opset < 7 and not constants.assume_inference:
        return further or not int_of(node, "is_test", 0)
    return further


def negates(node: Node) -> bool:
    """Whether it takes its data with the other sign."""
    return node.op == "Neg"


def is_factor(node: Node) -> bool:
    """Whether a node with a constant multiplies its data: an affine passes it, its shift divided."""
    return node.op in {"Mul", "Div", "Neg"}


def is_term(node: Node) -> bool:
    """Whether a node with a constant shifts its data: it takes a whole shift, and the scale passes it."""
    return node.op in {"Add", "Sub"}


def is_bounded(node: Node) -> bool:
    """Whether a node has numbers beside its data, which bear what these bear: it takes an affine over and passes it."""
    return node.op in {"Clip", "Pad"}


def lacks_bias(node: Node) -> bool:
    """Whether a home multiplies by a weight and has no input for a bias: an Add behind it may take that place."""
    return node.op in {"MatMul", "Einsum"}


def permuted_rank(node: Node) -> int | None:
    """How many dimensions the permutation of a Transpose demands of its data."""
    perm = ints_of(node, "perm") if node.op == "Transpose" else None
    return None if perm is None else len(perm)


def stated_rank(constants: Constants, value: Value) -> int | None:
    """How many dimensions a value has by what the nodes say that make it, whatever those read."""
    node = constants.graph.producer(value)
    while node is not None and keeps_rank(node) and permuted_rank(node) is None:
        before = node.input(0)
        node = None if before is None else constants.graph.producer(before)
    if node is None:
        return None
    if node.op in {"Flatten", "Gemm"}:
        return 2
    weight = node.input(1) if node.op in {"Conv", "ConvTranspose"} else None
    shape = None if weight is None else constants.shape(weight)
    return permuted_rank(node) if shape is None else len(shape)


def stated_sizes(constants: Constants, value: Value) -> tuple[int | None, ...] | None:
    """The dimensions of a value by what the node says that makes it, whatever that reads; None without a rank."""
    rank = stated_rank(constants, value)
    if rank is None:
        return None
    node = constants.graph.producer(value)
    weight = None if node is None or node.op not in {"Conv", "ConvTranspose", "Gemm"} else node.input(1)
    shape = None if weight is None else constants.shape(weight)
    if node is None or not shape:
        return (None,) * rank
    if node.op == "ConvTranspose":
        channels = shape[1] * node.int_attribute("group", 1)
    else:
        channels = shape[1] if node.op == "Gemm" and not node.int_attribute("transB", 0) else shape[0]
    return (None, channels, *(None,) * (rank - 2))


def keeps_rank(node: Node) -> bool:
    """Whether a node surely puts out as many dimensions as it reads; a constant may give a value further ones."""
    return node.op in {"Identity", "Dropout", "Transpose", "BatchNormalization"}


def dequantises(node: Node) -> bool:
    """Whether a node makes floats of integers with a scale, which its home may change (quantized.py)."""
    return node.op == "DequantizeLinear"


def linear_map(constants: Constants, node: Node, rank: int | None, weight: int | None = None) -> LinearMap:
    """How a home uses its constants; `rank` is the number of dimensions of its output, where that is known.

    `weight` is the input that is its weight, where several could be.
    """
    if node.op == "Einsum":
        return einsum(constants, node, rank, weight)
    if node.op not in _HOMES:
        raise UncertainError(f"{node.site} is no home that the certificate knows")
    if is_normalization(node) and trains(constants, node):
        raise DeviationError(f"{node.site} is no BatchNormalization at inference")
    return _HOMES[node.op](constants, node, rank)


def rank_behind(constants: Constants, link: Link, rank: int | None = None) -> int | None:
    """How many dimensions a home puts out: as many as its data have (`rank`), if nothing else is known of it.

    Not so for an Einsum, whose equation may say how many.
    """
    output = link.node.output(0)
    sizes = None if output is None else constants.sizes(output)
    if sizes is None and link.node.op == "Einsum":
        return None
    if sizes is None and rank is None:
        sizes = constants.sizes(link.source)
        rank = stated_rank(constants, link.source)
    return rank if sizes is None else len(sizes)


def follow(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """What an operator makes of an array that is carried along with its data: one, or several that share its places.

    See layout.py and passes.py.
    """
    rule = rule_of(link.node)
    if rule is not None:
        return rule.follow(constants, link, carried, unknown)
    if link.node.op not in _LAYOUT or link.data != 0:
        raise UncertainError(f"{link.node.site} is no operator that the certificate follows")
    return (_LAYOUT[link.node.op](constants, link.node, carried, unknown),)


def passing_of(constants: Constants, node: Node) -> Passing:
    """What an operator lets pass: everything, where it only moves elements."""
    rule = rule_of(node)
    return Passing() if rule is None else rule.passing(constants, node)
