"""Right folds that the certificate could not follow until random graphs showed them, and wrong ones beside each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from bnfold.apply import rewrite
from bnfold.equality.certificate import Certificate, certify
from bnfold.graph import Graph
from bnfold.model import read, to_bytes
from bnfold.planning import make_plan
from bnfold.result import claims

RNG = np.random.default_rng(7)
NORM = {
    "g": RNG.uniform(0.5, 2, 4), "be": RNG.uniform(-1, 1, 4), "m": RNG.uniform(-1, 1, 4), "v": RNG.uniform(0.5, 2, 4),
}  # fmt: skip
BN = "BatchNormalization ({x}, g, be, m, v)"


def weights(*dims: int) -> np.ndarray:
    return RNG.uniform(0.25, 1, dims) * RNG.choice([-1, 1], dims)


def _case(text: str, tensors: dict[str, object]) -> tuple[str, dict[str, object]]:
    """A model as text, and its constants."""
    return text, tensors


CASES = {
    "columns of a MatMul that a pool mixes": _case(
        "(float[2,5] x) => (float[] y) { c = MatMul (x, W) r = Reshape (c, i) p = GlobalAveragePool (r) "
        f"f = Flatten (p) y = {BN.format(x='f')} }}",
        {"W": weights(5, 24), "i": [-1, 4, 2, 3], **NORM},
    ),
    "places of a constant that windows mix": _case(
        "(float[1,3,4,4] x) => (float[] y) { c = Conv (x, W) d = Add (c, grid) "
        f"p = AveragePool <kernel_shape = [2,2]> (d) y = {BN.format(x='p')} }}",
        {"W": weights(4, 3, 1, 1), "grid": weights(4, 4, 4), **NORM},
    ),
    "places that two reductions mix one after the other": _case(
        "(float[1,3,4,4] x) => (float[] y) { c = Conv (x, W) d = Add (c, grid) "
        "p = ReduceMean <axes = [3]> (d) q = ReduceSum <keepdims = 0> (p, two) s = Mul (q, k) "
        f"y = {BN.format(x='s')} }}",
        {"W": weights(4, 3, 1, 1), "grid": weights(4, 4, 4), "two": [2, 3], "k": weights(4), **NORM},
    ),
    "a scale past factors that differ everywhere": _case(
        "(float[1,4,3,3] x) => (float[] y) { s = Sigmoid (x) a = Mul (s, k) b = Mul (a, grid) y = Conv (b, W) }",
        {"k": weights(4, 1, 1), "grid": weights(4, 3, 3), "W": weights(2, 4, 2, 2)},
    ),
    "a scale past factors that may enlarge": _case(
        "(float[1,4,H,V] x) => (float[] y) { s = Sigmoid (x) a = Mul (s, k) b = Div (a, grid) y = Conv (b, W) }",
        {"k": weights(4, 1, 1), "grid": weights(4, 3, 3), "W": weights(2, 4, 1, 1)},
    ),
    "shift past a constant that differs everywhere": _case(
        "(float[1,4,3,3] x) => (float[] y) { s = Sigmoid (x) a = Add (s, k) b = Add (a, grid) y = Conv (b, W, B) }",
        {"k": weights(4, 1, 1), "grid": weights(4, 3, 3), "W": weights(2, 4, 2, 2), "B": weights(2)},
    ),
    "shift past a constant that may enlarge": _case(
        "(float[1,4,H,V] x) => (float[] y) { s = Sigmoid (x) a = Sub (s, k) b = Add (grid, a) y = Conv (b, W, B) }",
        {"k": weights(4, 1, 1), "grid": weights(4, 3, 3), "W": weights(2, 4, 1, 1), "B": weights(2)},
    ),
    "a rank that only the Flatten tells": _case(
        f"(float[1,4,1,1] x) => (float[] y) {{ s = Sigmoid (x) f = Flatten (s) n = {BN.format(x='f')} "
        "y = Gemm (n, W) }",
        {"W": weights(4, 3), **NORM},
    ),
    "a rank that MatMul is told by a Flatten": _case(
        f"(float[1,4,1,1] x) => (float[] y) {{ s = Sigmoid (x) f = Flatten (s) n = {BN.format(x='f')} "
        "y = MatMul (n, W) }",
        {"W": weights(4, 3), **NORM},
    ),
    "a rank that only the equation of an Einsum tells": _case(
        f"(float[2,5] x) => (float[] y) {{ c = Einsum <equation = \"bc,oc->bo\"> (x, W) y = {BN.format(x='c')} }}",
        {"W": weights(4, 5), **NORM},
    ),
    "a scale behind a sum of unknown length": _case(
        "(float[N,L,4] x) => (float[] y) { c = MatMul (x, W) r = ReduceSum <keepdims = 0> (c, one) y = Mul (r, k) }",
        {"W": weights(4, 4), "one": [1], "k": weights(4)},
    ),
    "a size that the shape behind it tells": _case(
        "(float[N,5,L] x) => (float[] y) { c = Conv (x, W) r = Reshape (c, i) t = Transpose <perm = [0,2,1,3]> (r) "
        f"q = Reshape (t, j) y = {BN.format(x='q')} }}",
        {"W": weights(4, 5, 1), "i": [0, 2, 2, 7], "j": [0, 4, 7], **NORM},
    ),
    "two sizes whose product the shape behind them tells": _case(
        "(float[N,5,H,L] x) => (float[] y) { c = Conv (x, W) r = Reshape (c, i) t = Transpose <perm = [0,2,1,3,4]> (r) "
        f"q = Reshape (t, j) y = {BN.format(x='q')} }}",
        {"W": weights(4, 5, 1, 1), "i": [0, 2, 2, 3, 3], "j": [0, 4, 3, 3], **NORM},
    ),
}  # fmt: skip


def before(case: str) -> onnx.ModelProto:
    text, tensors = CASES[case]
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> agraph {text}')
    for name, value in tensors.items():
        array = np.asarray(value)
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(kind), name))
    if "rank" in case:
        proto.graph.input[0].type.tensor_type.ClearField("shape")
    return proto


def certificate(original: onnx.ModelProto, wrong: str = "") -> tuple[Certificate, int]:
    """That of the fold, one element of which is off by a thousandth if asked for; and how many affines went."""
    graph = Graph.of(read(original))
    plan = make_plan(graph)
    after = onnx.load_model_from_string(to_bytes(graph.model, rewrite(graph, plan).edits))
    for tensor in after.graph.initializer:
        if wrong and tensor.name == wrong:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[array.size - 1] *= 1.001
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return certify(graph, Graph.of(read(after)), claims(plan)), len(plan.moves)


@pytest.mark.parametrize("case", CASES)
def test_a_right_fold_is_certified(case: str) -> None:
    checked, moves = certificate(before(case))
    assert (checked.failure, checked.uncertain) == (None, None)
    assert moves > 0


@pytest.mark.parametrize("case", CASES)
def test_one_element_that_is_wrong_is_refused(case: str) -> None:
    """The last one: of the last place, or of the last column, that is mixed with others."""
    original = before(case)
    made = {"columns": "W_folded", "places": "grid_folded", "shift": "B_folded"}.get(
        case.split(maxsplit=1)[0], "W_folded"
    )
    checked, _ = certificate(original, made)
    assert checked.failure is not None
