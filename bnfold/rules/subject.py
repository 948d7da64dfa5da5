"""What a rule may ask: one BatchNormalization, and the model around it, each computed when it is first asked for.

Parameters are read as they stand in the file: one that a caller may override counts with its default. What depends on
the model's inputs, or on a function's, has no value here, and rules about values say nothing then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from onnx import TensorProto

from bnfold.affine import Float64
from bnfold.graph import Graph
from bnfold.moves import Move, Plan, Refusal
from bnfold.nodes import Node, Site, Value
from bnfold.ops.affine import (
    FIRST_OPSET_WITH_TRAINING_MODE,
    FIRST_OPSET_WITHOUT_SPATIAL,
    FIRST_OPSET_WITHOUT_TEST_FLAG,
    PARAMETERS,
    is_batch_norm,
)
from bnfold.ops.facts import Constant, Facts
from bnfold.ops.taking import Taken
from bnfold.planning import make_plan
from bnfold.statistics import Observed

if TYPE_CHECKING:
    from bnfold.rules.drift import Drift

Mode = Literal["inference", "training", "perhaps", "unknown"]

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
HALF_UNITS: dict[int, float] = {
    TensorProto.DOUBLE: 2.0**-53,
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
}
SINGLE_HALF_UNIT = 2.0**-24


class Values(NamedTuple):
    """The four parameters as float64 vectors of one length."""

    gamma: Float64
    beta: Float64
    mean: Float64
    variance: Float64


class Folding(NamedTuple):
    """The scale and shift that a BatchNormalization is at inference."""

    scale: Float64
    shift: Float64


class Surroundings:
    """One model, and what is asked of it as a whole."""

    def __init__(self, graph: Graph, *, assume_inference: bool = False) -> None:
        self.graph = graph
        self.assume_inference = assume_inference
        self.facts = Facts(graph, assume_inference=assume_inference)
        self._figures: dict[tuple[Site, object], float] = {}

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """Every BatchNormalization: of the main graph, of nested ones, and of functions, in the order of the file."""
        return tuple(Norm(self, node) for node in self.graph.nodes if is_batch_norm(node.op))

    @cached_property
    def plan(self) -> Plan:
        """What `bnfold plan` says."""
        return make_plan(self.graph, assume_inference=self.assume_inference)

    @cached_property
    def decided(self) -> dict[Site, Move | Refusal]:
        """What it says of each node."""
        moves: dict[Site, Move | Refusal] = {move.site: move for move in self.plan.moves}
        return moves | {refusal.site: refusal for refusal in self.plan.refusals}

    @cached_property
    def homes(self) -> dict[Site, Taken]:
        """What each home would take over in all."""
        return self.plan.homes()

    def once(self, site: Site, size: Callable[[Surroundings, Site], float]) -> float:
        """A figure of a node that several BatchNormalizations may ask for."""
        if (site, size) not in self._figures:
            self._figures[site, size] = size(self, site)
        return self._figures[site, size]


class Norm:
    """One BatchNormalization; `observed`, `drift` and `miscomputed` are set where the model was run."""

    def __init__(self, around: Surroundings, node: Node) -> None:
        self.around = around
        self.facts = around.facts
        self.node = node
        self.observed: Observed | None = None
        self.drift: Drift | None = None
        self.miscomputed: str | None = None

    @property
    def site(self) -> Site:
        """Where it stands."""
        return self.node.site

    @property
    def opset(self) -> int:
        """The version of ONNX's operators that it is of."""
        return self.node.scope.opset

    @property
    def data(self) -> Value | None:
        """What it normalises."""
        return self.node.input(0)

    def knows(self, attribute: str) -> bool:
        """Whether an attribute is stated here, and not handed to the function that holds it by its caller."""
        return not any(a.name == attribute and a.ref_attr_name for a in self.node.proto.attribute)

    @property
    def further_outputs(self) -> int:
        """How many outputs there are besides the first."""
        return sum(value is not None for value in self.node.outputs[1:])

    @cached_property
    def mode(self) -> Mode:
        """How the file says that it is to be run; `perhaps` training where only the default of is_test says so."""
        if not (self.knows("training_mode") and self.knows("is_test")):
            return "unknown"
        if self.further_outputs:
            return "training"
        if self.opset >= FIRST_OPSET_WITH_TRAINING_MODE:
            return "training" if self.node.int_attribute("training_mode", 0) else "inference"
        old = self.opset < FIRST_OPSET_WITHOUT_TEST_FLAG
        marked = not old or self.around.assume_inference or self.node.int_attribute("is_test", 0)
        return "inference" if marked else "perhaps"

    @property
    def is_spatial(self) -> bool:
        """Whether its parameters are per channel, as they are from opset 9 on."""
        return self.opset >= FIRST_OPSET_WITHOUT_SPATIAL or bool(self.node.int_attribute("spatial", 1))

    @cached_property
    def epsilon(self) -> float | None:
        """float64(float32(epsilon)); None where a caller states it."""
        return self.node.float_attribute("epsilon", 1e-5) if self.knows("epsilon") else None

    @cached_property
    def constants(self) -> dict[str, Constant]:
        """The parameters that have a value in the file, by ONNX's names for them."""
        found: dict[str, Constant] = {}
        for index, role in enumerate(PARAMETERS, start=1):
            value = self.node.input(index)
            constant = None if value is None else self._constant(value)
            if constant is not None:
                found[role] = constant
        return found

    def _constant(self, value: Value) -> Constant | None:
        """A constant, or the default of one that a caller may override."""
        graph = self.around.graph
        default = graph.initializer(value) if graph.is_overridable(value) else None
        if default is not None:
            tensor = default.tensor
            return Constant(value, tuple(tensor.dims), tensor.data_type, tensor, graph)
        found = self.facts.constant(value)
        return found if isinstance(found, Constant) else None

    @cached_property
    def vectors(self) -> dict[str, Float64]:
        """The parameters that are vectors of floats, in float64."""
        return {
            role: constant.array().astype(np.float64)
            for role, constant in self.constants.items()
            if constant.data_type in FLOATS and len(constant.dims) == 1
        }

    @cached_property
    def values(self) -> Values | None:
        """All four, if they are vectors of one length that is not 0."""
        if len(self.vectors) < len(PARAMETERS) or not self.is_spatial:
            return None
        values = Values(*(self.vectors[role] for role in PARAMETERS))
        return values if len({vector.size for vector in values}) == 1 and values.gamma.size else None

    @cached_property
    def folding(self) -> Folding | None:
        """The affine that they make, where everything in it is finite."""
        if self.values is None or self.epsilon is None:
            return None
        gamma, beta, mean, variance = self.values
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(variance + self.epsilon)
            shift = beta - mean * scale
        return Folding(scale, shift) if bool(np.all(np.isfinite(scale) & np.isfinite(shift))) else None

    @property
    def overridable(self) -> tuple[str, ...]:
        """The names of its parameters that a caller may override."""
        graph = self.around.graph
        values = (self.node.input(index) for index in range(1, 1 + len(PARAMETERS)))
        return tuple(value.name for value in values if value is not None and graph.is_overridable(value))

    @cached_property
    def data_type(self) -> int | None:
        """The type of what it normalises, as a number of TensorProto's; of its scale where the file does not say."""
        found = None if self.data is None else self.facts.shapes.element_type(self.data)
        if found or "scale" not in self.constants:
            return found
        return self.constants["scale"].data_type

    @property
    def half_unit(self) -> float:
        """The largest relative error of one rounding of what it normalises."""
        return HALF_UNITS.get(self.data_type or 0, SINGLE_HALF_UNIT)

    @property
    def decided(self) -> Move | Refusal | None:
        """What fold would do with it; None where a plan does not know it."""
        return self.around.decided.get(self.site)

    @property
    def before(self) -> Node | None:
        """The node whose output it normalises."""
        return None if self.data is None else self.around.graph.producer(self.data)

    @property
    def is_identity(self) -> bool:
        """Whether it computes y = x exactly, as one does that was put in as the identity."""
        if self.values is None or self.epsilon != 0.0:
            return False
        gamma, beta, mean, variance = self.values
        return not (np.any(gamma != 1) or np.any(beta) or np.any(mean) or np.any(variance != 1))


def named(channels: np.ndarray, count: int | None = None) -> str:
    """`channel 3`, or `channels 0, 4 and 5 more of 64`: the places where an array of booleans is true."""
    places = [int(place) for place in np.flatnonzero(channels)]
    few = ", ".join(map(str, places[:FEW]))
    more = f" and {len(places) - FEW} more" if len(places) > FEW else ""
    total = channels.size if count is None else count
    return f"channel{'s' if len(places) > 1 else ''} {few}{more} of {total}"


FEW = 3
"""Channels named in a sentence."""
