"""Pairs of small models for the comparison site by site: text, and constants of one kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from bnfold.equality.gate_sums import with_gate_sums
from bnfold.equality.inputs import random_batches
from bnfold.equality.pieces import Source
from bnfold.equality.runner import Runner
from bnfold.equality.site_runs import Side
from bnfold.equality.sites import SiteOutcome, compare_sites
from bnfold.graph import Graph
from bnfold.model import read

C = 8
EPSILON = float(np.float32(1e-5))


def norm(seed: int = 0) -> dict[str, np.ndarray]:
    """gamma, beta, mean and var of C channels."""
    random = np.random.default_rng(seed + 100)
    return {
        "g": random.uniform(0.5, 2, C),
        "be": random.standard_normal(C),
        "m": random.standard_normal(C),
        "v": random.uniform(0.5, 2, C),
    }


def affine(given: dict[str, np.ndarray], epsilon: float = EPSILON) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a BatchNormalization."""
    scale = given["g"] / np.sqrt(given["v"] + epsilon)
    return scale, given["be"] - given["m"] * scale


def kernel(seed: int = 0, *shape: int) -> np.ndarray:
    """A weight [C, C, 3, 3], or of another shape."""
    return np.random.default_rng(seed).standard_normal(shape or (C, C, 3, 3)) / 8


def model(text: str, opset: int = 17, dtype: str = "float32", **constants: object) -> onnx.ModelProto:
    """A model of ONNX text without its header; floating-point constants become `dtype`, integers int64."""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    for name, value in constants.items():
        array = np.asarray(value)
        proto.graph.initializer.append(
            numpy_helper.from_array(array.astype(dtype if array.dtype.kind == "f" else "int64"), name)
        )
    return proto


def compared(
    folder: Path, runner: Runner, before: onnx.ModelProto, after: onnx.ModelProto, data: tuple[str, str] = ()
) -> SiteOutcome:
    """What comparing two models site by site shows on one random batch; `data`: where to keep external data."""
    sources = []
    for place, (name, proto) in enumerate((("before", before), ("after", after))):
        path = folder / f"{name}.onnx"
        if data:
            onnx.save(proto, path, save_as_external_data=True, location=data[place], size_threshold=0)
        else:
            onnx.save(proto, path)
        sources.append(Source(Graph.of(read(path)), path))
    sides = [Side.of(source) for source in with_gate_sums(*sources)[:2]]
    batch = random_batches(read(folder / "before.onnx").proto, seed=0, dims={})[0]
    return compare_sites(*sides, (batch,), runner)
