from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bnfold.equality import measure
from bnfold.equality.measure import describe_constant, distance, number, relative, same_bits

FLOATS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, min_side=0), elements=st.floats(width=32))


@given(FLOATS)
def test_an_array_is_equal_to_itself(values: np.ndarray) -> None:
    apart = distance(values, values.copy())
    assert apart.equal
    assert apart.alike
    assert (apart.difference, apart.largest, apart.ratio(0.0), apart.snr_db()) == (0.0, 0.0, 0.0, math.inf)


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_norms_do_not_overflow(one: float, other: float) -> None:
    apart = distance(np.array([one, one]), np.array([other, other]))
    assert apart.difference == pytest.approx(math.hypot(other - one, other - one), rel=1e-12)
    assert apart.norm == pytest.approx(math.hypot(one, one), rel=1e-12)


@pytest.mark.parametrize("other", [np.nan, np.inf, -np.inf, 1.0])
@pytest.mark.parametrize("one", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_must_be_the_same(one: float, other: float) -> None:
    before, after = np.array([1.0, one, 2.0]), np.array([1.0, other, 2.0])
    apart = distance(before, after)
    same = one == other or (math.isnan(one) and math.isnan(other))
    assert apart.alike == same
    if not same:
        assert apart.index == (1,)
        assert apart.ratio(1e300) == math.inf


def test_a_difference_where_the_original_is_zero_is_infinite() -> None:
    apart = distance(np.zeros(3), np.full(3, 1e-30))
    assert apart.relative() == math.inf
    assert apart.snr_db() == -math.inf


def test_a_negative_zero_is_not_the_same_bits_but_no_difference() -> None:
    apart = distance(np.array([0.0]), np.array([-0.0]))
    assert not apart.equal
    assert apart.alike
    assert apart.ratio(0.0) == 0.0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True, False]), np.array([True, True])),
        (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=object)),
        (np.array([1, 2], np.uint8), np.array([1, 255], np.uint8)),
    ],
)
def test_exact_values_must_be_equal(before: np.ndarray, after: np.ndarray) -> None:
    assert distance(before, before).equal
    apart = distance(before, after)
    assert apart.exact
    assert apart.index == (1,)
    assert apart.ratio(1e9) == math.inf


def test_the_arg_max_agrees_by_row() -> None:
    before = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 4.0], [4.0, 3.0]])
    assert distance(before, before[[0, 1, 2, 2]]).argmax_agreement == 0.75
    assert distance(before[:, :1], before[:, :1]).argmax_agreement is None
    assert distance(before[None], before[None]).argmax_agreement is None  # an image has no classes


def test_constants_are_described() -> None:
    assert describe_constant(np.full(3, 0.5)) == "0.5"
    assert describe_constant(np.full(3, np.nan)) == "not finite"
    assert describe_constant(np.array([1.0, 2.0])) is None
    assert describe_constant(np.array([1.0])) is None


def test_numbers_are_taken_where_there_are_any() -> None:
    assert number(np.array([[1, 2]]), (0, 1)) == 2.0
    assert number(np.array([1 + 2j]), (0,)) == 1.0
    assert math.isnan(number(np.array(["a"], dtype=object), (0,)))


@given(st.data(), st.integers(1, 7))
def test_blocks_of_any_size_give_the_same_figures(data: st.DataObject, size: int) -> None:
    before = data.draw(FLOATS)
    after = data.draw(hnp.arrays(np.float32, before.shape, elements=st.floats(width=32)))
    mostly = data.draw(hnp.arrays(np.bool_, before.shape))
    after[mostly] = before[mostly]
    whole = distance(before, after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_BLOCK", size)
        parts = distance(before, after)
        assert describe_constant(before) == described(before)
    assert (parts.equal, parts.alike, parts.largest) == (whole.equal, whole.alike, whole.largest)
    assert (parts.index, parts.argmax_agreement) == (whole.index, whole.argmax_agreement)
    assert parts.difference == pytest.approx(whole.difference, rel=1e-12)
    assert parts.norm == pytest.approx(whole.norm, rel=1e-12)


def described(values: np.ndarray) -> str | None:
    wide = values.astype(np.float64).reshape(-1)
    if wide.size < 2 or len(set(wide[np.isfinite(wide)])) > 1:
        return None
    if not np.isfinite(wide).any():
        return "not finite"
    return f"{wide[0]:.6g}" if np.isfinite(wide).all() else None


@given(FLOATS, st.integers(0, 3))
def test_the_quick_relative_distance_is_the_distance(before: np.ndarray, seed: int) -> None:
    with np.errstate(all="ignore"):
        after = before * np.random.default_rng(seed).normal(1, 1e-3, before.shape).astype(np.float32)
    assert relative(before, after) == pytest.approx(distance(before, after).relative(), rel=1e-9)


@pytest.mark.parametrize("far", [1e-300, 1e300, math.inf, math.nan])
def test_the_quick_relative_distance_of_extremes(far: float) -> None:
    before, after = np.array([far, 1.0]), np.array([far, 1.5]) * 1.5
    assert relative(before, after) == pytest.approx(distance(before, after).relative(), nan_ok=True)


@given(FLOATS)
def test_bits_are_the_same_or_not(values: np.ndarray) -> None:
    assert same_bits(values, values.copy())
    if values.size:
        other = values.copy()
        other.reshape(-1).view(np.uint8)[-1] ^= 1
        assert not same_bits(values, other)


def test_bits_of_scalars_and_of_what_is_not_contiguous() -> None:
    assert same_bits(np.float32(1) * np.ones(()), np.ones(()))
    assert same_bits(np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy())
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
