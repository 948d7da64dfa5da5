"""A weight is rounded once, to nearest and ties to even, whatever its type: against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from folding_draws import examples
from folding_support import fold, model, norm, operands, scale_and_shift, weights
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bnfold.ops.rounding import BFLOAT16, FLOAT_TYPES, HALF_UNITS, rounded

FORMS = {
    np.dtype(np.float16): (11, -24, Fraction(65504)),
    np.dtype(np.float32): (24, -149, Fraction(float(np.finfo(np.float32).max))),
    np.dtype(np.float64): (53, -1074, Fraction(float(np.finfo(np.float64).max))),
    np.dtype(ml_dtypes.bfloat16): (8, -133, Fraction(float(ml_dtypes.finfo(ml_dtypes.bfloat16).max))),
}
"""Bits of the significand, exponent of the smallest number, largest number."""


def nearest(exact: Fraction, dtype: np.dtype[np.generic]) -> float:
    """The nearest number of a type, ties to even, infinite from half a unit beyond the largest; by fractions."""
    bits, smallest, largest = FORMS[dtype]
    if not exact:
        return 0.0
    exponent = math.floor(math.log2(abs(exact))) if abs(exact) >= Fraction(2) ** -1000 else -1074
    exponent += (Fraction(2) ** (exponent + 1) <= abs(exact)) - (Fraction(2) ** exponent > abs(exact))
    unit = Fraction(2) ** max(exponent - bits + 1, smallest)
    near = round(exact / unit) * unit  # Python rounds fractions to nearest, ties to even
    if abs(near) > largest:
        return math.inf if near > 0 else -math.inf
    return float(near)


@st.composite
def hard(draw: st.DrawFn, dtype: np.dtype[np.generic]) -> float:
    """Numbers at, or a hair beside, the middle between two neighbours of a type; of any size; of either sign."""
    bits, smallest, _ = FORMS[dtype]
    significand = draw(st.integers(0, 2 ** (bits + 1)))
    low = {8: smallest, 11: smallest, 24: smallest, 53: smallest}[bits]
    exponent = draw(st.integers(low - 3, min(1023, 2 ** (8 if bits != 11 else 5) - 1) - bits))
    hair = draw(st.sampled_from([0, 0, 2.0**-20, -(2.0**-20), 2.0**-40, -(2.0**-40)]))
    return draw(st.sampled_from([1.0, -1.0])) * math.ldexp(significand + hair, exponent)


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
def test_rounding_is_to_nearest_even_of_every_type(dtype: np.dtype[np.generic]) -> None:
    @examples(300)
    @given(hard(dtype) | st.floats(allow_nan=False, allow_infinity=False))
    @example(1 + 2.0**-8 + 2.0**-40)
    @example(1 + 2.0**-8)
    @example(-(1 + 3 * 2.0**-8 - 2.0**-40))
    @example(float(np.finfo(np.float32).max))
    @example(2.0**-134)
    @example(2.0**-134 * (1 + 2.0**-30))
    @example(-1e-300)
    def check(exact: float) -> None:
        found = float(rounded(np.array([exact]), dtype)[0])
        assert found == nearest(Fraction(exact), dtype)

    check()


def test_numpy_rounds_twice_to_bfloat16_and_bnfold_once() -> None:
    exact = np.array([1 + 2.0**-8 + 2.0**-40])
    assert float(exact.astype(BFLOAT16)[0]) == 1.0
    assert float(rounded(exact, BFLOAT16)[0]) == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
def test_infinity_and_nan_stay_what_they_are_and_half_a_unit_is_the_most(dtype: np.dtype[np.generic]) -> None:
    found = rounded(np.array([np.inf, -np.inf, np.nan]), dtype).astype(np.float64)
    assert found[0] == np.inf
    assert found[1] == -np.inf
    assert np.isnan(found[2])
    exact = np.random.default_rng(0).uniform(1, 2, 4000)
    error = np.abs(rounded(exact, dtype).astype(np.float64) - exact) / exact
    assert np.max(error) <= HALF_UNITS[dtype]
    assert dtype == np.float64 or np.max(error) > HALF_UNITS[dtype] * 0.9


# --- weights of bfloat16, which onnxruntime has no kernels for ------------------------------------------------------


def brain(name: str, array: np.ndarray) -> TensorProto:
    held = array.astype(ml_dtypes.bfloat16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, held.tobytes(), raw=True)


@pytest.mark.parametrize(
    ("line", "dims", "along"),
    [
        ("Conv (x, W)", (4, 3, 1), (4, 1, 1)),
        ("ConvTranspose (x, W)", (3, 4, 1), (1, 4, 1)),
        ("MatMul (W, x)", (4, 3), (4, 1)),
        ('Einsum <equation = "oi,nil->nol"> (W, x)', (4, 3), (4, 1)),
    ],
)
def test_a_bfloat16_weight_is_rounded_once_from_float64(
    line: str, dims: tuple[int, ...], along: tuple[int, ...]
) -> None:
    text = f"(bfloat16[2,3,5] x) => (bfloat16[] y) {{ t = {line}  y = BatchNormalization (t, g, be, m, v) }}"
    held = {k: a.astype(ml_dtypes.bfloat16) for k, a in {"W": weights(*dims), **norm(4)}.items()}
    before = model(text, **{k: brain(k, a) for k, a in held.items()})
    done = fold(before)
    assert done.plan.refusals == ()
    a, s = scale_and_shift({k: v.astype(np.float64) for k, v in held.items()})
    op = line.split(maxsplit=1)[0]
    weight = next(c for c in operands(done.proto, op) if c is not None)
    assert weight.dtype == BFLOAT16
    exact = held["W"].astype(np.float64) * a.reshape(along)
    assert [float(w) for w in weight.reshape(-1)] == [
        nearest(Fraction(e), BFLOAT16) for e in exact.reshape(-1).tolist()
    ]
    bias = operands(done.proto, op)[2] if "Conv" in op else operands(done.proto, "Add")[1]
    assert [float(b) for b in bias.reshape(-1)] == [nearest(Fraction(e), BFLOAT16) for e in s.tolist()]


@examples(60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["Mul", "Add", "Sub", "Div"]))
def test_bfloat16_constants_written_by_hand_are_rounded_once(seed: int, op: str) -> None:
    """Two in a row: the second settles in the first, which Relu keeps from going on."""
    text = f"(bfloat16[2,4] x) => (bfloat16[] y) {{ r = Relu (x)  t = {op} (r, c)  y = {op} (t, e) }}"
    c, e = (weights(4, seed=seed + i).astype(ml_dtypes.bfloat16) for i in range(2))
    done = fold(model(text, c=brain("c", c), e=brain("e", e)))
    assert done.ops == ["Relu", op]
    wide_c, wide_e = ([Fraction(float(v)) for v in array] for array in (c, e))
    pairs = list(zip(wide_c, wide_e, strict=True))
    exact = [x * y if op in {"Mul", "Div"} else x + y for x, y in pairs]
    found = [float(v) for v in operands(done.proto, op)[1]]
    assert found == [nearest(value, BFLOAT16) for value in exact]
