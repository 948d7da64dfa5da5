"""Reshaping an affine: given exactly where the result is an affine of the reshaped value, by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from folding_draws import Array, examples
from hypothesis import assume, given
from hypothesis import strategies as st

import bnfold.affine as affine_module
from bnfold.affine import LARGEST_EXPANSION, Affine, regroup

Shape = tuple[int, ...]
WHOLE = 24


@st.composite
def factorisations(draw: st.DrawFn, product: int) -> Shape:
    """Dimensions with this product, ones among them."""
    dims: list[int] = []
    while product > 1:
        factor = draw(st.sampled_from([d for d in range(2, product + 1) if product % d == 0]))
        dims.append(factor)
        product //= factor
    for _ in range(draw(st.integers(0, 2))):
        dims.insert(draw(st.integers(0, len(dims))), 1)
    return tuple(dims) or (1,)


@st.composite
def affines(draw: st.DrawFn, shape: Shape) -> Affine:
    """Distinct entries along each dimension that it varies along, so that nothing is constant by accident."""
    varying = [[n if draw(st.booleans()) else 1 for n in shape] for _ in range(2)]
    return Affine(*(np.arange(1.0, math.prod(dims) + 1).reshape(dims) for dims in varying))


def full(affine: Affine, shape: Shape) -> tuple[Array, Array]:
    return np.broadcast_to(affine.scale, shape), np.broadcast_to(affine.shift, shape)


def partitions(groups: object) -> tuple[list[int], list[int]]:
    return [i for ours, _ in groups for i in ours], [j for _, theirs in groups for j in theirs]


@examples(150)
@given(st.data())
def test_with_all_sizes_known_reshape_acts_on_an_affine_as_on_the_value(data: st.DataObject) -> None:
    product = data.draw(st.sampled_from([1, 6, 8, 12, WHOLE]))
    source, target = (data.draw(factorisations(product)) for _ in range(2))
    affine = data.draw(affines(source))
    found = affine.reshaped(source, target)
    assert found is not None
    for ours, theirs in zip(full(affine, source), full(found, target), strict=True):
        assert np.array_equal(ours.reshape(target), theirs)


@examples(100)
@given(st.data())
def test_reshape_varies_along_nothing_that_it_need_not(data: st.DataObject) -> None:
    """So a home sees whether its own axis alone varies."""
    product = data.draw(st.sampled_from([6, 8, 12, WHOLE]))
    source, target = (data.draw(factorisations(product)) for _ in range(2))
    found = data.draw(affines(source)).reshaped(source, target)
    assert found is not None
    for array, size in ((found.scale, target), (found.shift, target)):
        whole = np.broadcast_to(array, size)
        for axis, extent in enumerate(size):
            constant = np.array_equal(whole, np.broadcast_to(whole.take([0], axis), size))
            assert (array.shape[axis] == 1) == (constant or extent == 1)


def blurred(draw: st.DrawFn, shape: Shape, names: dict[int, str]) -> tuple[object, ...]:
    """Some sizes forgotten, some replaced by a symbol (equal sizes, equal symbols)."""
    how = [draw(st.sampled_from(["known", "known", "symbol", "unknown"])) for _ in shape]
    return tuple(
        n if h == "known" or n == 1 else names.setdefault(n, f"d{n}") if h == "symbol" else None
        for n, h in zip(shape, how, strict=True)
    )


@examples(300)
@given(st.data())
def test_with_sizes_forgotten_reshape_gives_the_same_affine_or_none(data: st.DataObject) -> None:
    """Never another one: what is not known must not be guessed."""
    product = data.draw(st.sampled_from([6, 8, 12, WHOLE]))
    source, target = (data.draw(factorisations(product)) for _ in range(2))
    affine, names = data.draw(affines(source)), {}
    seen = [data.draw(st.composite(blurred)(shape, names)) for shape in (source, target)]
    found = affine.reshaped(*seen)
    if found is None:
        assert set(seen[0]) | set(seen[1]) > {n for dims in seen for n in dims if isinstance(n, int)}
        return
    for ours, theirs in zip(full(affine, source), full(found, target), strict=True):
        assert np.array_equal(ours.reshape(target), theirs)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("N", 6, 1, 1), ("N", 6), (1, 6)),
        (("N", 6), ("N", 6, 1, 1), (1, 6, 1, 1)),
        (("N", 6, "H", "W"), ("N", 2, 3, "H", "W"), (1, 2, 3, 1, 1)),
        ((None, 6), (None, 2, 3), (1, 2, 3)),
        (("N", 6, "H", "W"), ("N", 6, None), (1, 6, 1)),
        (("N", 6, 4), ("N", 24), (1, 24)),
        ((2, 6, 4), (12, 4), (12, 1)),
        ((2, 6, None), (12, None), (12, 1)),
    ],
)
def test_channels_are_followed_past_symbols(source: object, target: object, expected: Shape) -> None:
    affine = Affine.per_channel(np.arange(6.0), np.arange(6.0), rank=len(source), axis=1)
    found = affine.reshaped(source, target)
    assert found is not None
    assert found.shape == expected


@pytest.mark.parametrize(
    ("source", "target", "counterexample"),
    [
        (("N", 6), (None,), ((2, 6), (12,))),
        (("N", 6, "H"), ("N", None), ((2, 6, 4), (2, 24))),
        ((None, 6), ("M", 3), ((1, 6), (2, 3))),
        (("N", 6, "L"), ("N", "L", 6), ((1, 6, 2), (1, 2, 6))),
        (("N", 6), (6, "N"), ((2, 6), (6, 2))),
    ],
)
def test_channels_that_mix_with_an_unknown_size_are_refused(
    source: object, target: object, counterexample: tuple[Shape, Shape]
) -> None:
    """The counterexample has the sizes that were not known, and the affine varies along more than one dimension
    there, or along one that the unknown size decides."""
    affine = Affine.per_channel(np.arange(6.0), np.arange(6.0), rank=len(source), axis=1)
    assert affine.reshaped(source, target) is None
    one, another = counterexample
    whole = np.broadcast_to(affine.scale, one).reshape(another)
    fits = [np.array_equal(whole, np.broadcast_to(whole.take([0], axis), another)) for axis in range(len(another))]
    last = np.array_equal(whole, np.broadcast_to(np.arange(6.0).reshape(-1), another)) if another[-1] == 6 else False
    assert not last
    assert sum(not constant for constant in fits) != 1 or another[-1] != 6


def test_a_uniform_affine_passes_every_unknown_size() -> None:
    found = Affine([[2.0, 2.0]][:1], [[3.0, 3.0]][:1]).reshaped((2, 2), (4,))
    assert found is not None
    uniform = Affine([[2.0]], [[3.0]]).reshaped(("N", None), (None, "K", 3))
    assert uniform is not None
    assert uniform.shape == (1, 1, 1)
    assert found.shape == (1,)


@pytest.mark.parametrize(
    ("source", "target"),
    [((2, 6), (5,)), ((0, 6), (0, 2)), ((2, 6), (0,)), (("N", 6), ("N", 5)), ((2, 6, 1), (12,))],
)
def test_what_contradicts_itself_is_refused(source: object, target: object) -> None:
    """No value has both shapes (or none at all), or the affine has another rank than the value."""
    affine = Affine.per_channel(np.arange(6.0), np.arange(6.0), rank=2, axis=1)
    assert affine.reshaped(source, target) is None


def test_an_affine_that_does_not_fit_the_value_is_refused() -> None:
    affine = Affine.per_channel([1.0, 2.0], [0.0, 0.0], rank=2, axis=1)
    with pytest.raises(ValueError, match="could not be broadcast"):
        np.broadcast_to(affine.scale, (3, 4))
    assert affine.reshaped((3, 4), (12,)) is None


def test_an_affine_as_large_as_a_feature_map_is_not_built() -> None:
    side = LARGEST_EXPANSION
    affine = Affine.per_channel([1.0, 2.0], [0.0, 0.0], rank=2, axis=0)
    assert affine.reshaped((2, side), (2 * side,)) is None
    assert affine.reshaped((2, side), (2, side, 1)) is not None


def test_an_affine_may_grow_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affine_module, "LARGEST_EXPANSION", 6)
    affine = Affine.per_channel([1.0, 2.0], [0.0, 0.0], rank=2, axis=0)
    assert affine.reshaped((2, 3), (6,)) is not None
    assert affine.reshaped((2, 4), (8,)) is None


@examples(150)
@given(st.data())
def test_regroup_pairs_all_axes_in_order_and_each_group_has_one_product(data: st.DataObject) -> None:
    product = data.draw(st.sampled_from([1, 6, 8, WHOLE]))
    source, target = (data.draw(factorisations(product)) for _ in range(2))
    groups = regroup(source, target)
    assert groups is not None
    assert partitions(groups) == (list(range(len(source))), list(range(len(target))))
    for ours, theirs in groups:
        assert math.prod(source[i] for i in ours) == math.prod(target[j] for j in theirs)


@examples(150)
@given(st.data())
def test_regroup_with_sizes_forgotten_is_true_of_the_real_sizes(data: st.DataObject) -> None:
    product = data.draw(st.sampled_from([6, 12, WHOLE]))
    source, target = (data.draw(factorisations(product)) for _ in range(2))
    names: dict[int, str] = {}
    seen = [data.draw(st.composite(blurred)(shape, names)) for shape in (source, target)]
    groups = regroup(*seen)
    assert groups is not None
    assert partitions(groups) == (list(range(len(source))), list(range(len(target))))
    for ours, theirs in groups:
        assert math.prod(source[i] for i in ours) == math.prod(target[j] for j in theirs)


@examples(100)
@given(st.data())
def test_regroup_backward_is_regroup_mirrored(data: st.DataObject) -> None:
    product = data.draw(st.sampled_from([6, 12, WHOLE]))
    source, target = (data.draw(factorisations(product)) for _ in range(2))
    assume(1 not in source)
    assume(1 not in target)
    there, back = regroup(source, target), regroup(target, source)
    assert there == tuple((ours, theirs) for theirs, ours in back or ())


@pytest.mark.parametrize(("source", "target"), [((0, 3), (0,)), ((3,), (4,)), ((2, 3), (7,)), (("N", 4), ("N", 3)),
                                                   ((0, "N"), ("M",)), (("M",), ("N", 0))])  # fmt: skip
def test_regroup_knows_no_groups_where_totals_contradict_or_a_size_is_zero(source: object, target: object) -> None:
    assert regroup(source, target) is None
