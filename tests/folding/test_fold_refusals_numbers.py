"""Numbers that stop a fold: what would be written is not the function, and what is just within the type is."""

from __future__ import annotations

import numpy as np
import pytest
from folding_support import (
    assert_same_function,
    bounds_off,
    cannot_run,
    clearly_wrong,
    folded,
    inputs,
    model,
    naive,
    norm,
    plan_of,
    refusal,
    run,
    weights,
)

GEMM = "({t}[2,3] x) => ({t}[] y) {{ p = Gemm (x, W{c})  y = BatchNormalization (p, g, be, m, v) }}"


def gemm(dtype: type = np.float32, c: bool = False) -> str:
    return GEMM.format(t={np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype], c=", C" * c)


def norm_of(dtype: type = np.float32, **parameters: object) -> dict[str, np.ndarray]:
    """A norm that is the identity but for what is given."""
    plain = {"g": [1.0, 1.0], "be": [0.0, 0.0], "m": [0.0, 0.0], "v": [1.0, 1.0]}
    return {k: np.array(p, dtype) for k, p in {**plain, **parameters}.items()}


# --- overflow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "weight", "gamma", "just_within"),
    [(np.float32, 1e30, 1e10, 3e8), (np.float16, 6e4, 8.0, 1.05), (np.float64, 1e300, 1e10, 1e8)],
)
def test_a_weight_beyond_its_type_is_not_written_as_infinity(
    dtype: type, weight: float, gamma: float, just_within: float
) -> None:
    w = np.full((3, 2), 0.5, dtype)
    w[:, 1] = weight
    before = model(gemm(dtype), W=w, **norm_of(dtype, g=[1.0, gamma]))
    found = refusal(before, "overflow", "Gemm")
    assert "channel 1" in found.detail
    x = {"x": np.array([[weight**-1, 0, 0]] * 2, dtype)}
    assert np.all(np.isfinite(run(before, x)[0]))  # the original is finite there,
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.all(np.isfinite(run(naive(before), x)[0]))  # and what would be written is not
    near_miss = model(gemm(dtype), W=w, **norm_of(dtype, g=[1.0, just_within]))
    assert folded(near_miss).ops == ["Gemm"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bias_beyond_its_type_is_not_written_as_infinity(sign: int) -> None:
    parameters = norm_of(np.float16, m=[0.0, sign * 6e4], g=[1.0, 4.0])
    before = model(gemm(np.float16, c=True), W=weights(3, 2, dtype=np.float16),
                   C=np.array([0, sign * 6e4], np.float16), **parameters)  # fmt: skip
    assert folded(before).ops == ["Gemm"]  # they cancel: a*b - a*mean is small
    alone = model(gemm(np.float16), W=weights(3, 2, dtype=np.float16), **parameters)
    found = refusal(alone, "overflow", "Gemm")
    assert "the bias" in found.detail
    assert float(np.finfo(np.float16).max) < 6e4 * 4


def test_a_shift_beyond_float64_is_refused_without_a_warning() -> None:
    held = norm_of(np.float64, g=[1.0, 1e307], v=[1.0, 0.0], m=[0.0, 1.0])
    before = model(gemm(np.float64), W=weights(3, 2, dtype=np.float64), **held)
    assert refusal(before, "overflow").detail.startswith("its scale or shift")
    with np.errstate(over="ignore"):
        assert np.isinf(np.float64(1e307) / np.sqrt(np.float64(np.float32(1e-5))))


# --- precision ------------------------------------------------------------------------------------------------------


def test_a_half_precision_weight_that_would_become_zero_is_not_written() -> None:
    w = weights(3, 2, dtype=np.float16) * np.float16(1e-4)
    parameters = norm_of(np.float16, g=[1.0, 1e-4])
    before = model(gemm(np.float16), W=w, **parameters)
    found = refusal(before, "precision-lost", "Gemm")
    assert "channel 1" in found.detail
    x = {"x": np.full((2, 3), 3e4, np.float16) * np.array([[1, 2, -1]], np.float16)}
    assert np.any(run(before, x)[0][:, 1])
    assert not np.any(run(naive(before), x)[0][:, 1])  # a whole channel lost
    assert_same_function(wide := model(gemm(), W=w.astype(np.float32), **norm_of(g=[1.0, 1e-4])), folded(wide).proto,
                         inputs(wide), 3)  # fmt: skip


def test_a_half_precision_weight_of_few_bits_is_not_written() -> None:
    w = weights(3, 2, dtype=np.float16) * np.float16(1e-3)
    before = model(gemm(np.float16), W=w, **norm_of(np.float16, g=[1.0, 2e-3]))
    refusal(before, "precision-lost", "Gemm")
    exact = w[:, 1].astype(np.float64) * 2e-3
    rounded = exact.astype(np.float16).astype(np.float64)
    error = np.sqrt(np.mean((rounded - exact) ** 2)) / np.sqrt(np.mean(exact**2))
    assert np.all(rounded != 0)
    assert error > 4 * 2.0**-11


def test_a_norm_is_judged_before_the_one_that_would_undo_it_is_seen() -> None:
    """Both together would be the identity; one pass, producers first, does not look ahead, and loses nothing."""
    text = """(float16[2,3] x) => (float16[] y) { p = Gemm (x, W)  n = BatchNormalization (p, g, be, m, v)
              y = BatchNormalization (n, hg, hbe, hm, hv) }"""
    w = weights(3, 2, dtype=np.float16) * np.float16(1e-4)
    first, second = norm_of(np.float16, g=[1.0, 1e-4]), norm_of(np.float16, g=[1.0, 1e4])
    before = model(text, W=w, **first, **{f"h{k}": p for k, p in second.items()})
    assert [r.reason.code for r in plan_of(before).refusals][:1] == ["precision-lost"]


def test_zero_weights_and_zero_scales_are_exact_in_half_precision() -> None:
    w = weights(3, 2, dtype=np.float16)
    w[:, 0] = 0
    before = model(gemm(np.float16), W=w, **norm_of(np.float16, g=[1.0, 0.0], be=[1.0, 2.0]))
    after = folded(before)
    assert bounds_off(before, after.proto, inputs(before), 3) == 0


# --- not finite -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad"),
    [(n, b) for n in ("g", "be", "m", "v") for b in (np.nan, np.inf, -np.inf) if (n, b) != ("v", np.inf)],
)
def test_a_parameter_that_is_not_finite_is_not_spread_over_a_weight(name: str, bad: float) -> None:
    parameters = norm(2)
    parameters[name][1] = bad
    before = model(gemm(), W=weights(3, 2), **parameters)
    assert "channel 1" in refusal(before, "not-finite").detail
    x = {"x": np.zeros((2, 3), np.float32)}
    ours, theirs = run(before, x)[0], run(naive(before), x)[0]
    assert np.all(np.isfinite(ours[:, 0]))
    assert not (np.all(np.isfinite(ours[:, 1])) and np.all(np.isfinite(theirs[:, 1])))


def test_an_infinite_variance_is_refused_although_its_channel_is_the_constant_beta() -> None:
    """More careful than need be: nobody trained such a layer, and the refusal says where it is."""
    before = model(gemm(), W=weights(3, 2), **norm(2) | {"v": np.float32([1, np.inf])})
    assert "channel 1" in refusal(before, "not-finite").detail
    assert np.all(run(before, inputs(before))[0][:, 1] == norm(2)["be"][1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_not_multiplied(bad: float) -> None:
    w = weights(3, 2)
    w[1, 0] = bad
    before = model(gemm(), W=w, **norm_of(g=[0.0, 1.0]))
    assert "channel 0" in refusal(before, "not-finite", "Gemm").detail
    (y,) = run(before, inputs(before))
    assert not np.all(np.isfinite(y[:, 0]))  # although the scale there is zero


def test_a_bias_that_is_not_finite_is_not_multiplied() -> None:
    before = model(gemm(c=True), W=weights(3, 2), C=np.float32([0, np.inf]), **norm(2))
    assert "bias" in refusal(before, "not-finite", "Gemm").detail
    assert not np.all(np.isfinite(run(before, inputs(before))[0][:, 1]))


@pytest.mark.parametrize(("variance", "epsilon"), [(-1.0, 0.5), (-0.5, 0.5), (0.0, 0.0)])
def test_a_variance_that_leaves_nothing_positive_is_refused(variance: float, epsilon: float) -> None:
    text = gemm().replace("Normalization", f"Normalization <epsilon = {epsilon}>")
    before = model(text, W=weights(3, 2), **norm_of(v=[1.0, variance]))
    assert "channel 1" in refusal(before, "variance-not-positive").detail
    with np.errstate(all="ignore"):
        assert not np.isfinite(1 / np.sqrt(np.float64(variance) + epsilon))
    assert not np.all(np.isfinite(run(before, inputs(before))[0][:, 1]))


@pytest.mark.parametrize(("variance", "epsilon"), [(-0.25, 0.5), (0.0, 1e-5), (1e-30, 1e-5)])
def test_a_variance_that_epsilon_makes_positive_folds(variance: float, epsilon: float) -> None:
    text = gemm().replace("Normalization", f"Normalization <epsilon = {epsilon!r}>".replace("e-05", "e-5"))
    before = model(text, W=weights(3, 2), **norm_of(v=[1.0, variance]))
    assert_same_function(before, folded(before).proto, inputs(before), 3)


def test_an_epsilon_forgotten_would_be_seen_by_the_bound_that_these_tests_use() -> None:
    """The bound is no formality: the smallest usual mistake is far beyond it."""
    before = model(gemm(), W=weights(3, 2), **norm(2))
    forgotten = model(gemm().replace("Normalization", "Normalization <epsilon = 0.0>"), W=weights(3, 2), **norm(2))
    assert bounds_off(before, folded(forgotten).proto, inputs(before), 3) > 1
    one_channel = norm(2) | {"m": norm(2)["m"] * np.float32([1, 1 + 1e-4])}
    assert bounds_off(before, folded(model(gemm(), W=weights(3, 2), **one_channel)).proto, inputs(before), 3) > 1
    assert not clearly_wrong(before, folded(before).proto, inputs(before), 3)
    assert not cannot_run(before)


TWO = """(float[2,3] x) => (float[] y) { p = Gemm (x, W)  n = BatchNormalization <epsilon = 0.0> (p, g, be, m, v)
    y = BatchNormalization <epsilon = 0.0> (n, hg, hbe, hm, hv) }"""


def test_a_second_norm_that_makes_the_shift_of_the_first_overflow_stays() -> None:
    """(p + 1e20) * 1e20 has no bias in fp32; p*1e20 + 1e20 has: it is the composition that is judged, in its order."""
    shifting, scaling = norm_of(be=[1e20, 0.0]), norm_of(g=[1e20, 1.0])
    before = model(TWO, W=np.ones((3, 2), np.float32), **shifting, **{f"h{k}": p for k, p in scaling.items()})
    assert "the bias" in refusal(before, "overflow", "Gemm").detail
    x = {"x": np.float32([[-1e20, 0, 0]] * 2)}
    assert np.all(np.isfinite(run(before, x)[0]))
    assert float(np.finfo(np.float32).max) < 1e20 * 1e20
    near_miss = model(TWO, W=np.ones((3, 2), np.float32), **scaling, **{f"h{k}": p for k, p in shifting.items()})
    assert_same_function(near_miss, folded(near_miss, moves=2).proto, inputs(near_miss), 3)
