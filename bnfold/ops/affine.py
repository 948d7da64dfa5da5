"""Operators that ARE an affine: one function each, node -> AffineOp or the obstacle that keeps it from being one.

BatchNormalization at inference, per channel of axis 1, all in float64:

    scale = gamma / sqrt(variance + epsilon)        epsilon is float64(float32(attribute))
    shift = beta - mean * scale

What is written by hand (a constant Mul, Add, Sub or Div, and Neg) stands in ops/elementwise.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.nodes import Node
from bnfold.ops.facts import Constant, Facts
from bnfold.ops.reasons import (
    BROKEN_PARAMETERS,
    NOT_CONSTANT,
    NOT_FINITE,
    OVERFLOW,
    SPATIAL,
    TEST_FLAG,
    TRAINING_MODE,
    VARIANCE,
    Obstacle,
    Reason,
)
from bnfold.ops.table import register

FIRST_OPSET_WITHOUT_TEST_FLAG = 7
FIRST_OPSET_WITHOUT_SPATIAL = 9
FIRST_OPSET_WITH_TRAINING_MODE = 14
NORMALIZATION = "BatchNormalization"
PARAMETERS = ("scale", "B", "mean", "var")
INTEGERS = "iub"
"""Kinds of numpy types that no parameter has."""


@dataclass(frozen=True, slots=True, eq=False)
class AffineOp:
    """A node that computes output 0 = scale*x + shift of its input x, which is input number `data`.

    Both are vectors along `axis`, or, where that is None, arrays that broadcast against x. `written` is then the shape
    of the constant in the file: one that is the same everywhere may still give x larger dimensions.
    """

    node: Node
    scale: Float64
    shift: Float64
    axis: int | None = 1
    data: int = 0
    written: tuple[int, ...] = ()

    @property
    def channels(self) -> int | None:
        """The number of channels that the parameters must be for; None where they broadcast."""
        return None if self.axis is None else self.scale.size

    def at_rank(self, rank: int) -> Affine | None:
        """The affine for a value of that rank; None where it would give the value another."""
        if self.axis is not None:
            return Affine.per_channel(self.scale, self.shift, rank=rank, axis=self.axis) if self.axis < rank else None
        missing = rank - max(self.scale.ndim, self.shift.ndim)
        if missing < 0:
            return None
        scale, shift = (array.reshape((1,) * (rank - array.ndim) + array.shape) for array in (self.scale, self.shift))
        return Affine(scale, shift)


AFFINE: dict[str, Callable[[Facts, Node], AffineOp | Obstacle | None]] = {}


def affine_of(facts: Facts, node: Node) -> AffineOp | Obstacle | None:
    """The affine that a node is, what keeps it from being one, or None where it is not meant as one."""
    return facts.once(node, AFFINE[node.op]) if node.op in AFFINE else None


def affine_nodes(facts: Facts) -> tuple[Node, ...]:
    """Every node that has to end as a move or a refusal, producers first."""
    return tuple(node for node in facts.order if affine_of(facts, node) is not None)


def is_batch_norm(op: str) -> bool:
    """Whether an operator is a BatchNormalization (and not an affine that is written by hand)."""
    return op == NORMALIZATION


@register("affine", AFFINE, NORMALIZATION)
def batch_normalization(facts: Facts, node: Node) -> AffineOp | Obstacle:
    """at inference, any opset (spatial=0 apart), four constant vectors of one length

    Not: training_mode=1, further outputs, is_test=0 before opset 7 (unless --assume-inference), spatial=0; parameters
    of another length than the channels, with NaN or infinity, or with variance + epsilon <= 0.
    """
    obstacle = _mode(node, assume_inference=facts.assume_inference)
    if obstacle is not None:
        return obstacle
    parameters: list[Float64] = []
    for index, role in enumerate(PARAMETERS, start=1):
        found = _parameter(facts, node, index, role)
        if isinstance(found, Obstacle):
            return found
        parameters.append(found)
    gamma, beta, mean, variance = parameters
    obstacle = _lengths(node, parameters)
    if obstacle is not None:
        return obstacle
    epsilon = node.float_attribute("epsilon", 1e-5)
    if not math.isfinite(epsilon):
        return _no(NOT_FINITE, node, f"epsilon is {epsilon}")
    radicand = variance + epsilon
    if (radicand <= 0).any():
        channel = int(np.argmin(radicand))
        return _no(VARIANCE, node, f"variance + epsilon is {radicand[channel]:g} in channel {channel}")
    with np.errstate(over="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(radicand)
        shift = beta - mean * scale
    if not (np.isfinite(scale) & np.isfinite(shift)).all():
        return _no(OVERFLOW, node, "its scale or shift is beyond the largest float64")
    return AffineOp(node, scale, shift)


def _mode(node: Node, *, assume_inference: bool) -> Obstacle | None:
    """What makes a BatchNormalization something else than a fixed per-channel affine."""
    opset = node.scope.opset
    if node.refers_to_attributes:
        return _no(NOT_CONSTANT, node, "an attribute is a parameter of the function that holds it")
    old = opset < FIRST_OPSET_WITHOUT_TEST_FLAG
    if old and not (assume_inference or node.int_attribute("is_test", 0)):
        return _no(TEST_FLAG, node, f"is_test is 0, in a model of opset {opset}")
    if opset >= FIRST_OPSET_WITH_TRAINING_MODE and node.int_attribute("training_mode", 0):
        return _no(TRAINING_MODE, node, "training_mode is 1")
    if any(value is not None for value in node.outputs[1:]):
        return _no(TRAINING_MODE, node, "it has more than one output")
    if opset < FIRST_OPSET_WITHOUT_SPATIAL and not node.int_attribute("spatial", 1):
        return _no(SPATIAL, node, "spatial is 0")
    if node.input(0) is None or node.output(0) is None:
        return _no(BROKEN_PARAMETERS, node, "its input or output is missing")
    return None


def _parameter(facts: Facts, node: Node, index: int, role: str) -> Float64 | Obstacle:
    """One parameter as a float64 vector."""
    value = node.input(index)
    if value is None:
        return _no(BROKEN_PARAMETERS, node, f"{role} is missing")
    found = facts.constant(value)
    if isinstance(found, Obstacle):
        return Obstacle(found.reason, f"{role}: {found.detail}", found.node or node)
    if found.dtype.kind in INTEGERS:
        return _no(BROKEN_PARAMETERS, node, f"{role} is of the type {found.dtype.name}")
    if len(found.dims) != 1:
        return _no(BROKEN_PARAMETERS, node, f"{role} has {len(found.dims)} dimensions, not 1")
    return _finite(found, node, role)


def _finite(found: Constant, node: Node, role: str) -> Float64 | Obstacle:
    vector = found.array().astype(np.float64)
    if not np.isfinite(vector).all():
        channel = int(np.argmin(np.isfinite(vector)))
        return _no(NOT_FINITE, node, f"{role} is {vector[channel]} in channel {channel}")
    return vector


def _lengths(node: Node, parameters: list[Float64]) -> Obstacle | None:
    lengths = {vector.size for vector in parameters}
    if len(lengths) > 1 or 0 in lengths:
        return _no(BROKEN_PARAMETERS, node, f"the parameters have {sorted(lengths)} elements")
    return None


def _no(reason: Reason, node: Node, detail: str) -> Obstacle:
    return Obstacle(reason, detail, node)
