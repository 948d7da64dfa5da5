"""What a product of matrices does not let pass: a shift, what is summed over, what a layer adds on the way.

Beside each refusal stands what a fold of it would compute, which is another function, or the nearest case that folds.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import clearly_wrong, constants, fold, inputs, model, norm, refusal, weights

TWO = "(float[2,4,6] x, float[2,6,8] u) => (float[] y) {{ c = Conv (x, W)  p = MatMul (c, u)  {} }}"
ROWS = {"W": weights(8, 4, 1), "k": weights(8, 1), "t": weights(8)}


def rewritten(before: onnx.ModelProto, body: str, **held: np.ndarray) -> onnx.ModelProto:
    """What a fold that should not be would write."""
    head = "(float[2,4,6] x, float[2,6,8] u)" if len(before.graph.input) > 1 else "(float[2,4,6] x)"
    return model(f"{head} => (float[] y) {{ {body} }}", **(constants(before) | held))


def test_a_shift_of_rows() -> None:
    """Each row of the right operand would be counted in."""
    before = model(TWO.format("y = BatchNormalization (p, g, be, m, v)"), **ROWS, **norm(8))
    refusal(before, "not-constant", "MatMul")
    found = {name: array.astype(np.float64) for name, array in norm(8).items()}
    scale = found["g"] / np.sqrt(found["v"] + 1e-5)
    shift = found["be"] - found["m"] * scale
    held = {"W": (ROWS["W"] * scale[:, None, None]).astype(np.float32), "b": shift.astype(np.float32)}
    wrong = rewritten(before, "c = Conv (x, W, b)  y = MatMul (c, u)", **held)
    assert clearly_wrong(before, wrong, inputs(before), 30)


def test_a_scale_of_columns_is_none_of_the_left_operand() -> None:
    before = model(TWO.format("y = Mul (p, t)"), **ROWS)
    refusal(before, "not-constant", "MatMul", op="Mul")
    wrong = rewritten(before, "c = Conv (x, W)  y = MatMul (c, u)", W=ROWS["W"] * ROWS["t"][:, None, None])
    assert clearly_wrong(before, wrong, inputs(before), 30)
    legal = model(TWO.format("y = Mul (p, k)"), **ROWS)
    assert fold(legal).ops == ["Conv", "MatMul"]


def test_a_scale_that_is_the_same_everywhere_stays() -> None:
    """By it runtimes know attention, and a Mul of a few numbers is all that it costs."""
    refusal(model(TWO.format("y = Mul (p, k)"), **(ROWS | {"k": weights(1)})), "not-constant", "MatMul", op="Mul")


def test_an_operand_that_serves_a_whole_batch() -> None:
    """One matrix on the left, several on the right: the left one cannot bear a scale for each of them."""
    text = """(float[4,6] x, float[2,6,8] u) => (float[2,4,8] y) { c = MatMul (V, x)  p = MatMul (c, u)
        y = Mul (p, %s) }"""
    held = {"V": weights(4, 4), "k": weights(2, 1, 1), "t": weights(4, 1)}
    refusal(model(text % "k", **held), "not-constant", "MatMul", op="Mul")
    assert fold(model(text % "t", **held)).ops == ["MatMul", "MatMul"]


def test_a_square() -> None:
    """The value is both operands: it would bear the scale twice."""
    text = "(float[2,4,6] x) => (float[2,6,6] y) { c = Conv (x, W)  p = MatMul (c, c)  y = Mul (p, k) }"
    before = model(text, W=weights(6, 4, 1), k=np.abs(weights(6, 1)))
    refusal(before, "not-constant", "MatMul", op="Mul")
    wrong = rewritten(before, "c = Conv (x, W)  y = MatMul (c, c)", W=scaled(before))
    assert clearly_wrong(before, wrong, inputs(before), 30)


def scaled(before: onnx.ModelProto) -> np.ndarray:
    """The weight of what is multiplied, times the scale."""
    held = constants(before)
    return (held["W"] * held["k"][:, :, None]).astype(np.float32)


@pytest.mark.parametrize(
    "line",
    [
        "p = MatMul (c, V)  q = BatchNormalization (p, g, be, m, v)",
        "n = BatchNormalization (c, g, be, m, v)  p = MatMul (n, V)",
    ],
)
def test_a_layer_that_has_taken_a_shift_over(line: str) -> None:
    """The Add that it gets stands between it and the scale of its rows, which would have to act on that too."""
    last = line.rpartition(" = ")[0][-1]
    text = f"""(float[2,4,6] x) => (float[] y) {{ d = Conv (x, W)  r = Relu (d)  c = Reshape (r, shape)  {line}
        y = Mul ({last}, k) }}"""
    held = {"W": weights(8, 4, 1), "shape": np.array([8, 12]), "V": weights(12, 12), "k": np.abs(weights(8, 1))}
    before = model(text, **held, **norm(12))
    done = fold(before)
    assert "Mul" in done.ops
    assert "BatchNormalization" not in done.ops
    assert fold(done.bytes).bytes == done.bytes, "nor does a second fold"


def test_the_bias_of_a_layer_becomes_none_for_each_row() -> None:
    text = "(float[2,4,6] x) => (float[] y) { c = Conv (x, W)  p = MatMul (c, V)  b = Add (p, t)  y = Mul (b, k) }"
    held = {"W": weights(8, 4, 1), "V": weights(6, 5), "t": weights(5), "k": np.abs(weights(8, 1))}
    refusal(model(text, **held), "axis-not-owned", "MatMul", op="Mul", index=-1)
    assert fold(model(text.replace("Add (p, t)", "Relu (p)"), **held)).ops == ["Conv", "MatMul", "Relu"]
