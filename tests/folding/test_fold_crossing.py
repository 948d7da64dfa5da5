"""An affine that goes back through the places of others that went forward: what a quantised layer takes is a scale."""

from __future__ import annotations

import numpy as np
import pytest
from folding_support import assert_same_function, bounds_off, fold, inputs, model, norm, weights

import bnfold

FIRST = {
    "a bias of integers": "wd = DequantizeLinear (W8, u) bd = DequantizeLinear (b32, u) h = Conv (x, wd, bd)",
    "Relu": "r = Conv (x, W, b) h = Relu (r)",
}
HELD = {
    "W8": np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1), "b32": np.arange(4, dtype=np.int32),
    "W": weights(4, 4, 1, 1, seed=1), "b": weights(4, seed=2), "V": weights(6, 4, 3, 3, seed=3),
    "c": weights(6, seed=4), "m": np.abs(weights(4, 1, 1, seed=5)), "u": np.float32(0.1),
    **{f"d{i}": weights(4, 1, 1, seed=6 + i) for i in range(3)},
}  # fmt: skip
BEHIND = {
    "shift, scale": "t = Add (h, d0) e = Mul (t, m)",
    "two shifts, scale": "t = Add (h, d0) u2 = Sub (t, d1) e = Mul (u2, m)",
    "scale, shift, scale": "t = Mul (h, m) u2 = Add (t, d0) e = Div (u2, m)",
    "shift, scale, shift, scale": "t = Add (h, d0) u2 = Mul (t, m) v2 = Sub (u2, d1) e = Mul (v2, m)",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("first", ["a bias of integers", "Relu"])
@pytest.mark.parametrize("looked_at", ["", "Shape (t)", "Shape (h)", "Shape (e)"])
def test_a_scale_goes_back_where_a_shift_went_forward(first: str, behind: str, looked_at: str) -> None:
    body = f"{FIRST[first]} {BEHIND[behind]} y = Conv (e, V, c)"
    shape = f"i = {looked_at} k = Cast <to = 1> (i)" if looked_at else "k = Neg (x)"
    before = model(
        f"(float[2,4,5,5] x) => (float[] y, float[] k) {{ {body} {shape} }}",
        **HELD,
    )
    done = fold(before)
    assert {move.is_forward for move in done.plan.moves} == {True, False}
    assert "Mul" not in done.ops
    assert not {"Add", "Sub", "Div"} & set(done.ops)
    assert_same_function(before, done.proto, inputs(before), 36)
    assert fold(done.bytes).bytes == done.bytes
    assert bnfold.fold(before, verify="certificate").verdict.word == "same"


@pytest.mark.parametrize("reads", ["t", "h"])
@pytest.mark.parametrize("first", ["a bias of integers", "Relu"])
def test_a_scale_does_not_go_back_through_what_another_layer_reads(first: str, reads: str) -> None:
    """Both shifts go forward; what they were read by is no longer seen at the second of them, but still counts."""
    before = model(
        f"(float[2,4,5,5] x) => (float[] y, float[] z) {{ {FIRST[first]} t = Add (h, d0) s = Add (t, d1) e = Mul (s, m)"
        f" y = Conv (e, V, c) z = Conv ({reads}, V, c) }}",
        **HELD,
    )
    done = fold(before)
    assert [move.is_forward for move in done.plan.moves] == [True] * len(done.plan.moves)
    assert_same_function(before, done.proto, inputs(before), 36)
    assert bnfold.fold(before, verify="certificate").verdict.word == "same"
    # What going back would have come to: the other layer reads what was multiplied.
    wrong = model(
        f"(float[2,4,5,5] x) => (float[] y, float[] z) {{ {FIRST[first]} t = Add (h, d0) s = Add (t, d1) e = Mul (s, m)"
        f" y = Conv (e, V, c) hm = Mul (h, m) z = Conv (hm, V, c) }}",
        **HELD,
    )
    assert bounds_off(before, wrong, inputs(before), 36) > 100


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("n = BatchNormalization (x, g, be, m, v) t = MatMul (n, K) y = Gemm (t, L)", ["MatMul", "Add", "Gemm"]),
        ("t = MatMul (x, K) n = BatchNormalization (t, g, be, m, v) y = Gemm (n, L)", ["MatMul", "Add", "Gemm"]),
        ("t = MatMul (x, K) n = Add (t, g) y = Gemm (n, L)", ["MatMul", "Add", "Gemm"]),
        ("t = MatMul (x, K) n = Add (t, g) u = Mul (n, v) y = Gemm (u, L)", ["MatMul", "Add", "Gemm"]),
        ("t = Einsum <equation = \"ab,bc->ac\"> (x, K) n = Sub (t, g) y = Gemm (n, L)", ["Einsum", "Sub", "Gemm"]),
        ("t = Relu (x) n = Add (t, g) y = Gemm (n, L)", ["Relu", "Gemm"]),
        ("t = Gemm (x, K) n = Add (t, g) y = Gemm (n, L)", ["Gemm", "Gemm"]),
    ],
)  # fmt: skip
def test_the_add_that_a_product_has_for_a_bias_goes_no_further(body: str, ops: list[str]) -> None:
    """A fold writes such an Add, and the next fold has to leave it."""
    before = model(f"(float[3,4] x) => (float[] y) {{ {body} }}", K=weights(4, 4), L=weights(4, 5), **norm(4))
    done = fold(before)
    assert done.ops == ops
    assert fold(done.bytes).bytes == done.bytes
    assert_same_function(before, done.proto, inputs(before), 16)
