"""Small models with one BatchNormalization `y = f(x, g, b, m, v)` each, and what the rules say of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

import bnfold

Array = NDArray[np.generic]

CONV = "(float[N,3,6,6] x) => (float[N,4,6,6] y) { c = Conv (x, W)  y = BatchNormalization (c, g, b, m, v) }"
ALONE = "(float[N,4,6,6] x) => (float[N,4,6,6] y) { y = BatchNormalization (x, g, b, m, v) }"


def model(text: str, *, opset: int = 17, ir: int = 8, **tensors: Array) -> onnx.ModelProto:
    """A model from ONNX text without its header; arrays become initializers."""
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> agraph {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    return proto


def sound(channels: int = 4, dtype: type = np.float32, **changes: object) -> dict[str, Array]:
    """The parameters of a healthy layer; `changes` replace one of g, b, m, v, in one channel if they are a pair."""
    random = np.random.default_rng(7)
    arrays = {
        "g": random.uniform(0.5, 2, channels),
        "b": random.uniform(-1, 1, channels),
        "m": random.uniform(-1, 1, channels),
        "v": random.uniform(0.5, 2, channels),
    }
    for name, change in changes.items():
        if isinstance(change, tuple):
            arrays[name][change[0]] = change[1]
        else:
            arrays[name] = np.broadcast_to(np.asarray(change, np.float64), (channels,)).copy()
    return {name: array.astype(dtype) for name, array in arrays.items()}


def kernel(*dims: int, size: float = 1.0, dtype: type = np.float32) -> Array:
    """Weights between a quarter of `size` and `size`, of either sign."""
    random = np.random.default_rng(1)
    return (size * random.uniform(0.25, 1, dims) * random.choice([-1, 1], dims)).astype(dtype)


W = kernel(4, 3, 1, 1)


def codes(proto: onnx.ModelProto | bytes, **options: object) -> list[str]:
    """The codes found, without that of a layer that could be folded, which nearly every model here has."""
    return [finding.code for finding in bnfold.validate(proto, **{"ignore": ["BN016"], **options})]


def only(
    proto: onnx.ModelProto, code: str, *words: str, others: Sequence[str] = (), **options: object
) -> bnfold.Finding:
    """The one finding with this code; beside it there are only `others`. Its sentence has all the words."""
    found = bnfold.validate(proto, ignore=["BN016"] if code != "BN016" else [], **options)
    (finding,) = [one for one in found if one.code == code]
    assert {one.code for one in found} - {code} <= set(others), found
    rule = bnfold.explain(code)
    assert isinstance(rule, bnfold.Rule)
    assert (finding.severity, finding.remedy) == (rule.severity, rule.remedy)
    for word in words:
        assert word in finding.sentence, finding.sentence
    return finding
