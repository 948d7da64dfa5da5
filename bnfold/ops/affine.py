"""Operators that ARE an affine: one function each, node -> AffineOp or the obstacle that keeps it from being one.

BatchNormalization at inference, per channel of axis 1, all in float64:

    scale = gamma / sqrt(variance + epsilon)        epsilon is float64(float32(attribute))
    shift = beta - mean * scale
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.graph import Graph
from bnfold.nodes import Node
from bnfold.ops.facts import Constant, Facts
from bnfold.ops.reasons import (
    BROKEN_PARAMETERS,
    NOT_CONSTANT,
    NOT_FINITE,
    OLD_VERSION,
    OVERFLOW,
    SPATIAL,
    TRAINING_MODE,
    VARIANCE,
    Obstacle,
    Reason,
)
from bnfold.ops.table import register

FIRST_OPSET = 7
FIRST_OPSET_WITHOUT_SPATIAL = 9
FIRST_OPSET_WITH_TRAINING_MODE = 14
PARAMETERS = ("scale", "B", "mean", "var")


@dataclass(frozen=True, slots=True, eq=False)
class AffineOp:
    """A node that computes output 0 = scale*input 0 + shift, with one scale and shift per channel of `axis`."""

    node: Node
    scale: Float64
    shift: Float64
    axis: int = 1

    @property
    def channels(self) -> int:
        """The number of channels that the parameters are for."""
        return self.scale.size

    def at_rank(self, rank: int) -> Affine:
        """The affine for a value of that rank."""
        return Affine.per_channel(self.scale, self.shift, rank=rank, axis=self.axis)


AFFINE: dict[str, Callable[[Facts, Node], AffineOp | Obstacle]] = {}


def affine_nodes(graph: Graph) -> tuple[Node, ...]:
    """Every node that has to end as a move or a refusal, producers first."""
    return tuple(node for node in graph.producers_first() if node.op in AFFINE)


@register("affine", AFFINE, "BatchNormalization")
def batch_normalization(facts: Facts, node: Node) -> AffineOp | Obstacle:
    """inference mode, opset 7 and later, four constant vectors of one length"""
    obstacle = _mode(node)
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
    if not np.isfinite(epsilon):
        return _no(NOT_FINITE, node, f"epsilon is {epsilon}")
    radicand = variance + epsilon
    if np.any(radicand <= 0):
        channel = int(np.argmin(radicand))
        return _no(VARIANCE, node, f"variance + epsilon is {radicand[channel]:g} in channel {channel}")
    with np.errstate(over="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(radicand)
        shift = beta - mean * scale
    if not np.all(np.isfinite(scale) & np.isfinite(shift)):
        return _no(OVERFLOW, node, "its scale or shift is beyond the largest float64")
    return AffineOp(node, scale, shift)


def _mode(node: Node) -> Obstacle | None:
    """What makes a BatchNormalization something else than a fixed per-channel affine."""
    opset = node.scope.opset
    if node.refers_to_attributes:
        return _no(NOT_CONSTANT, node, "an attribute is a parameter of the function that holds it")
    if opset < FIRST_OPSET:
        return _no(OLD_VERSION, node, f"the model is of opset {opset}")
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
    if len(found.dims) != 1:
        return _no(BROKEN_PARAMETERS, node, f"{role} has {len(found.dims)} dimensions, not 1")
    return _finite(found, node, role)


def _finite(found: Constant, node: Node, role: str) -> Float64 | Obstacle:
    vector = found.array().astype(np.float64)
    if not np.all(np.isfinite(vector)):
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
