"""The affine algebra: composition is composition of functions, and layout acts on an affine as on the value."""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import Array, examples
from hypothesis import given
from hypothesis import strategies as st

from bnfold.affine import Affine


def draw_affine(draw: st.DrawFn, shape: tuple[int, ...]) -> Affine:
    """An affine for values of `shape`: scale and shift each vary along some of its dimensions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dims = [[n if draw(st.booleans()) else 1 for n in shape] for _ in range(2)]
    return Affine(rng.integers(-4, 5, dims[0]), rng.integers(-4, 5, dims[1]))


def value_of(shape: tuple[int, ...]) -> Array:
    """Small integers, so that float64 computes everything below exactly."""
    return np.random.default_rng(len(shape)).integers(-8, 9, shape).astype(np.float64)


def acted(affine: Affine, x: Array) -> Array:
    return affine.scale * x + affine.shift


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


@examples(100)
@given(st.data(), shapes)
def test_composition_is_composition_of_functions(data: st.DataObject, shape: tuple[int, ...]) -> None:
    first, second, third = (data.draw(st.composite(draw_affine)(shape)) for _ in range(3))
    x = value_of(shape)
    assert np.array_equal(acted(second @ first, x), acted(second, acted(first, x)))
    assert third @ second @ first == third @ (second @ first)


@examples(50)
@given(st.integers(0, 2**32 - 1))
def test_composition_is_the_documented_formula_to_the_last_bit(seed: int) -> None:
    a, s, b, t = np.random.default_rng(seed).standard_normal((4, 1, 5))
    both = Affine(b, t) @ Affine(a, s)
    assert both.scale.tobytes() == (b * a).tobytes()
    assert both.shift.tobytes() == (b * s + t).tobytes()


def test_composition_has_an_order() -> None:
    double, increment = Affine([2.0], [0.0]), Affine([1.0], [1.0])
    assert acted(double @ increment, np.array([3.0])) == 8
    assert acted(increment @ double, np.array([3.0])) == 7


@examples(80)
@given(st.data(), shapes)
def test_transpose_acts_on_an_affine_as_on_the_value(data: st.DataObject, shape: tuple[int, ...]) -> None:
    affine, x = data.draw(st.composite(draw_affine)(shape)), value_of(shape)
    perm = data.draw(st.permutations(range(len(shape))))
    assert np.array_equal(acted(affine.transposed(perm), x.transpose(perm)), acted(affine, x).transpose(perm))


@examples(80)
@given(st.data(), shapes)
def test_unsqueeze_and_squeeze_act_on_an_affine_as_on_the_value(data: st.DataObject, shape: tuple[int, ...]) -> None:
    affine, x = data.draw(st.composite(draw_affine)(shape)), value_of(shape)
    rank = len(shape) + 2
    axes = data.draw(st.lists(st.integers(-rank, rank - 1), min_size=2, max_size=2, unique_by=lambda i: i % rank))
    wide = affine.unsqueezed(axes)
    assert np.array_equal(acted(wide, np.expand_dims(x, tuple(axes))), np.expand_dims(acted(affine, x), tuple(axes)))
    assert wide.squeezed(axes) == affine
    assert wide.squeezed(axes).scale.shape == affine.scale.shape


@examples(60)
@given(st.data(), st.integers(1, 5), st.integers(1, 4))
def test_a_per_channel_affine_lies_along_its_axis_and_comes_back(data: st.DataObject, channels: int, rank: int) -> None:
    axis = data.draw(st.integers(0, rank - 1))
    scale, shift = np.arange(1.0, channels + 1), np.arange(channels) - 2.0
    affine = Affine.per_channel(scale, shift, rank=rank, axis=axis)
    assert affine.rank == rank
    assert affine.varies_only_along((axis,))
    assert all(np.array_equal(a, b) for a, b in zip(affine.along((axis,), (channels,)), (scale, shift), strict=True))
    assert all(affine.varies_only_along((other,)) == (channels == 1) for other in range(rank) if other != axis)


def test_an_affine_of_one_channel_spreads_along_any_length() -> None:
    scale, shift = Affine([[2.0]], [[3.0]]).along((1,), (4,))
    assert scale.tolist() == [2.0] * 4
    assert shift.tolist() == [3.0] * 4


def test_along_another_axis_than_its_own_is_an_error() -> None:
    affine = Affine.per_channel([1.0, 2.0], [0.0, 0.0], rank=3, axis=1)
    with pytest.raises(ValueError, match=r"does not vary along \(2,\) alone"):
        affine.along((2,), (2,))


def test_scale_and_shift_of_different_ranks_are_an_error() -> None:
    with pytest.raises(ValueError, match="scale has rank 2, shift has rank 1"):
        Affine([[1.0, 2.0]], [1.0, 2.0])


def test_scale_and_shift_that_do_not_broadcast_are_an_error() -> None:
    with pytest.raises(ValueError, match="shape mismatch"):
        Affine([1.0, 2.0], [1.0, 2.0, 3.0])


def test_composition_of_different_ranks_is_an_error_though_numpy_would_broadcast() -> None:
    """(2,) on (3, 1) would silently put a channel on the wrong axis: both arrays broadcast, and the result is no
    function of either value."""
    vector, column = Affine([1.0, 2.0], [0.0, 0.0]), Affine([[1.0], [2.0], [3.0]], np.zeros((3, 1)))
    assert (vector.scale * column.scale).shape == (3, 2)
    with pytest.raises(ValueError, match="rank"):
        _ = vector @ column


def test_squeezing_an_axis_along_which_it_varies_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot select an axis to squeeze out"):
        Affine.per_channel([1.0, 2.0], [0.0, 0.0], rank=2, axis=1).squeezed([1])


def test_an_affine_cannot_be_changed_nor_does_it_follow_the_array_it_was_made_of() -> None:
    source = np.array([1.0, 2.0])
    affine = Affine(source, source)
    source[:] = 7
    assert affine.scale.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        affine.scale[0] = 3
    with pytest.raises(AttributeError):
        affine.scale = source


@pytest.mark.parametrize("method", [lambda a: a.transposed([1, 0]), lambda a: a.reshaped((2, 3), (3, 2)), lambda a: a])
def test_what_a_layout_gives_is_frozen_too(method: object) -> None:
    found = method(Affine.per_channel([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], rank=2, axis=1))
    with pytest.raises(ValueError, match="read-only"):
        found.shift[...] = 1


def test_equality_is_of_scale_and_of_shift_and_nothing_hashes() -> None:
    ours = Affine([1.0, 2.0], [0.0, 1.0])
    assert ours == Affine(np.array([1, 2]), np.array([0, 1]))
    assert ours != Affine([1.0, 2.0], [0.0, 2.0])
    assert ours != Affine([1.0, 3.0], [0.0, 1.0])
    assert ours != (1.0, 2.0)
    assert (ours == (1.0, 2.0)) is False  # and not None, which is false as well
    with pytest.raises(TypeError):
        hash(ours)


def test_a_shift_of_negative_zero_is_no_shift() -> None:
    assert not Affine([1.0, 1.0], [0.0, -0.0]).has_shift
    assert Affine([1.0, 1.0], [0.0, 1e-300]).has_shift
