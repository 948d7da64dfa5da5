"""Models, their true folds with the true claims, and ways to spoil a folded model by onnx's own protobuf API.

`Fold.of(model)` folds with bnfold's planner and apply and keeps the claims that they make; `fold.certificate(after)`
lets the certificate judge any other candidate under those same claims. Nothing here is judged by a tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, parser

from bnfold.apply import rewrite
from bnfold.equality.certificate import Certificate, certify
from bnfold.equality.structure import Claim
from bnfold.graph import Graph
from bnfold.model import read, to_bytes
from bnfold.planning import Plan, make_plan
from bnfold.result import claims

EPSILON = 1e-5


def parsed(body: str, *, opset: int = 17, ir: int = 8, further: str = "") -> onnx.ModelProto:
    """A model from ONNX text without its header; `further` are more imports, e.g. `, "local" : 1`."""
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{further}]> g {body}')


def put(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """The model itself, with these initializers added, or replaced where they exist."""
    for name, array in arrays.items():
        tensor = numpy_helper.from_array(array, name)
        found = next((t for t in model.graph.initializer if t.name == name), None)
        if found is None:
            model.graph.initializer.append(tensor)
        else:
            found.CopyFrom(tensor)
    return model


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).copy()


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def parameters(
    random: np.random.Generator, channels: int, suffix: str = "", dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """g, e, m, v: gamma of either sign, beta, mean and variance, none of them trivial."""
    signs = np.where(random.random(channels) < 0.3, -1, 1)
    values = {
        "g": signs * random.uniform(0.5, 2, channels),
        "e": random.standard_normal(channels),
        "m": random.standard_normal(channels),
        "v": random.uniform(0.3, 2, channels),
    }
    return {name + suffix: value.astype(dtype) for name, value in values.items()}


@dataclass(frozen=True)
class Fold:
    """A model, what bnfold makes of it, and what bnfold says it did."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    plan: Plan
    claims: tuple[Claim, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto, *, normalizations_alone: bool = False) -> Fold:
        """With `normalizations_alone` what is written by hand stays, whatever the planner can do with it."""
        graph = Graph.of(read(model))
        plan = make_plan(graph, bn_only=normalizations_alone)
        after = onnx.ModelProto.FromString(to_bytes(graph.model, rewrite(graph, plan).edits))
        return cls(model, after, plan, claims(plan))

    def copy(self) -> onnx.ModelProto:
        """The folded model, to be spoiled."""
        return copied(self.after)

    def certificate(
        self, after: onnx.ModelProto | None = None, *, claimed: tuple[Claim, ...] | None = None
    ) -> Certificate:
        """What the certificate says of a candidate (default: the true fold) under the true claims."""
        graphs = (Graph.of(read(model)) for model in (self.before, self.after if after is None else after))
        return certify(*graphs, self.claims if claimed is None else claimed)
