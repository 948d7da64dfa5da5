"""Moments against float64 numpy over all the data at once, however they were cut and merged."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.statistics import Moments, Observed, all_merged

CUTS = st.lists(st.integers(0, 40), min_size=1, max_size=8)


@given(cuts=CUTS, seed=st.integers(0, 2**32 - 1), far=st.sampled_from([0.0, 1.0, 1e3, 1e5]))
@settings(deadline=None)
def test_merging_any_parts_gives_the_moments_of_the_whole(cuts: list[int], seed: int, far: float) -> None:
    rows = np.random.default_rng(seed).normal(far, 1.0, (sum(cuts), 3)).astype(np.float32)
    parts = np.split(rows, np.cumsum(cuts)[:-1])
    merged = Moments.none(3)
    for part in parts:
        merged = merged.merged(Moments.of(part))
    assert merged.count == len(rows)
    if not len(rows):
        return
    exact = rows.astype(np.float64)
    mean, variance = exact_moments(exact)
    unit = 2.0**-52 * len(rows)
    assert np.all(np.abs(merged.mean - mean) <= unit * (np.abs(mean) + 1))
    # The conditioning of a variance: one rounding of a value moves it by 2 * |mean| / std.
    slack = unit * (1 + np.abs(mean) / np.sqrt(variance + 1e-30))
    assert np.all(np.abs(merged.variance - variance) <= slack * (variance + unit * np.abs(mean)))


def exact_moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In rational arithmetic, so that no rounding of the test's own is in the way."""
    means, variances = [], []
    for column in rows.T:
        values = [Fraction(float(v)) for v in column]
        mean = sum(values) / len(values)
        means.append(float(mean))
        variances.append(float(sum((v - mean) ** 2 for v in values) / len(values)))
    return np.array(means), np.array(variances)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    """A sum of squares minus a square of the mean would be wrong by a thousand times here, in float32."""
    rows = np.random.default_rng(0).normal(1e5, 1.0, (100_000, 2)).astype(np.float32)
    merged = Moments.none(2)
    for start in range(0, len(rows), 997):
        merged = merged.merged(Moments.of(rows[start : start + 997]))
    truth = rows.astype(np.float64).var(axis=0)
    assert np.all(np.abs(merged.variance / truth - 1) < 1e-11)
    naive = (rows**2).mean(axis=0, dtype=np.float32) - rows.mean(axis=0, dtype=np.float32) ** 2
    assert np.all(np.abs(naive / truth - 1) > 1.0)


def test_averaging_variances_of_uneven_batches_is_another_quantity() -> None:
    random = np.random.default_rng(1)
    batches = [random.normal(shift, 1.0, (size, 1)) for size, shift in ((64, 0.0), (64, 1.0), (7, 4.0))]
    merged = Moments.none(1)
    for batch in batches:
        merged = merged.merged(Moments.of(batch))
    averaged = np.mean([batch.var() for batch in batches])
    assert abs(merged.variance[0] / np.concatenate(batches).var() - 1) < 1e-12
    assert abs(averaged / merged.variance[0] - 1) > 0.3


def test_the_order_of_merging_does_not_matter() -> None:
    random = np.random.default_rng(2)
    a, b = (Moments.of(random.normal(size=(n, 4))) for n in (5, 1000))
    one, other = a.merged(b), b.merged(a)
    np.testing.assert_allclose(one.mean, other.mean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(one.variance, other.variance, rtol=1e-14)


def test_nothing_has_no_variance_and_merges_with_anything() -> None:
    nothing = Moments.none(2)
    assert np.isnan(nothing.variance).all()
    some = Moments.of(np.array([[1.0, 2.0]]))
    assert nothing.merged(some) is some
    assert some.merged(nothing) is some
    assert some.variance.tolist() == [0.0, 0.0]
    assert np.isnan(some.sample_variance).all()


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 channels and of 2"):
        Moments.none(3).merged(Moments.none(2))


def test_a_constant_channel_has_exactly_no_variance() -> None:
    assert Moments.of(np.full((1000, 1), 0.1)).variance[0] <= (2.0**-53 * 0.1) ** 2


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 4, 5), (6, 3, 2, 2, 2), (1, 3, 1, 1)])
def test_samples_and_elements_of_an_array(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(3).normal(2.0, 3.0, shape)
    seen = Observed.of(array)
    others = (0, *range(2, array.ndim))
    np.testing.assert_allclose(seen.elements.mean, array.mean(axis=others), rtol=1e-13)
    np.testing.assert_allclose(seen.elements.variance, array.var(axis=others), rtol=1e-12, atol=1e-28)
    assert seen.elements.count == array.size // 3
    positions = array.reshape(*shape[:2], -1)
    np.testing.assert_allclose(seen.sample_means.mean, positions.mean(axis=(0, 2)), rtol=1e-13)
    np.testing.assert_allclose(seen.sample_means.variance, positions.mean(axis=2).var(axis=0), rtol=1e-12, atol=1e-28)
    np.testing.assert_allclose(seen.sample_variances.mean, positions.var(axis=2).mean(axis=0), rtol=1e-12, atol=1e-28)
    assert seen.sample_means.count == seen.sample_variances.count == shape[0]


def test_channels_may_be_on_another_axis() -> None:
    array = np.random.default_rng(4).normal(size=(4, 7, 3))
    seen = Observed.of(array, axis=2)
    np.testing.assert_allclose(seen.elements.variance, array.var(axis=(0, 1)), rtol=1e-12)


def test_uneven_images_count_by_their_elements() -> None:
    random = np.random.default_rng(5)
    images = [random.normal(i, 1.0, (n, 2, side, side)) for i, (n, side) in enumerate([(3, 4), (5, 2), (1, 9)])]
    seen = all_merged((Observed.of(image) for image in images), 2)
    flat = np.concatenate([image.transpose(0, 2, 3, 1).reshape(-1, 2) for image in images])
    assert seen.elements.count == len(flat) == math.prod((3, 16)) + math.prod((5, 4)) + 81
    np.testing.assert_allclose(seen.elements.mean, flat.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(seen.elements.variance, flat.var(axis=0), rtol=1e-12)


def test_squares_about_a_centre_are_each_samples_own() -> None:
    array = np.random.default_rng(6).normal(3.0, 2.0, (9, 2, 4, 5))
    centre = np.array([2.5, -1.0])
    seen = all_merged((Observed.of(part, centre=centre) for part in (array[:4], array[4:])), 2, centre)
    squares = np.square(array - centre[:, np.newaxis, np.newaxis]).mean(axis=(2, 3))
    np.testing.assert_allclose(seen.sample_squares.mean, squares.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(seen.sample_squares.variance, squares.var(axis=0), rtol=1e-12)
    total = seen.sample_squares.mean - np.square(seen.sample_means.mean - centre)
    np.testing.assert_allclose(total, seen.elements.variance, rtol=1e-12)


def test_what_was_seen_about_other_centres_is_not_merged() -> None:
    with pytest.raises(ValueError, match="two centres"):
        Observed.none(1).merged(Observed.none(1, np.array([1.0])))
