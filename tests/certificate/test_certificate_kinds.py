"""Every kind of fold, from pairs made by hand: the right ones are certified, each spoiled number is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from certificate_folds import array, copied, put
from certificate_kinds import KINDS
from certificate_pairs import ELEMENTS, Draw, Pair, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator


def certified(pair: Pair) -> None:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    assert sum(check.numbers for check in checked.homes) > 0
    assert {check.home for check in checked.homes} == {home for claim in pair.claims for home in claim.homes}


def outputs(model: onnx.ModelProto, random: np.random.Generator) -> list[np.ndarray]:
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = random.integers(-8, 9, shape).astype(np.float32)
    return list(ReferenceEvaluator(model).run(None, feeds))


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_models_of_a_pair_are_one_function(kind: str) -> None:
    """All numbers are such that float32 computes without rounding: the outputs are the same, bit for bit."""
    for seed in range(3):
        pair = KINDS[kind](Draw(seed, exact=True))
        ours, theirs = (outputs(model, np.random.default_rng(seed)) for model in (pair.before, pair.after))
        assert all(np.array_equal(a, b) and np.any(a) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_fold_is_certified(kind: str, element: str) -> None:
    certified(KINDS[kind](Draw(1, element)))
    certified(KINDS[kind](Draw(1, element, exact=True)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(ELEMENTS)), st.integers(0, 1 << 30))
def test_no_right_fold_is_refused(kind: str, element: str, seed: int) -> None:
    certified(KINDS[kind](Draw(seed, element)))


def two_units_off(values: np.ndarray) -> np.ndarray:
    values.flat[-1] = values.flat[-1] + 2 * np.spacing(np.abs(values.flat[-1]))
    return values


def of_the_other_sign(values: np.ndarray) -> np.ndarray:
    return -values


def lost(values: np.ndarray) -> np.ndarray:
    return values * 0


def not_a_number(values: np.ndarray) -> np.ndarray:
    values.flat[0] = np.nan
    return values


def the_other_way_round(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.flip(values))


def one_zeroed(values: np.ndarray) -> np.ndarray:
    values.flat[int(np.argmax(np.abs(wide(values))))] = 0
    return values


SPOILED = (two_units_off, of_the_other_sign, lost, not_a_number, the_other_way_round, one_zeroed)


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_spoiled_constant_is_refused(kind: str, spoil) -> None:
    for element in ("float", "float16", "bfloat16"):
        pair = KINDS[kind](Draw(2, element))
        for name in pair.new:
            right = array(pair.after, name)
            wrong = spoil(right.copy()).astype(right.dtype)
            assert right.tobytes() != wrong.tobytes() or right.size == 1
            if right.tobytes() == wrong.tobytes():
                continue
            checked = pair.certificate(put(copied(pair.after), **{name: wrong}))
            assert checked.failed_site is not None
            assert checked.failed_site in {home for claim in pair.claims for home in claim.homes}


def constants(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("kind", [kind for kind, made in KINDS.items() if "v" in constants(made(Draw()).before)])
@pytest.mark.parametrize("used", [0.0, 2e-5, -1e-5])
def test_another_epsilon_is_refused_in_every_kind(kind: str, used: float) -> None:
    for element in ("float", "double"):
        certified(KINDS[kind](Draw(3, element)))
        assert KINDS[kind](Draw(3, element, used=used)).certificate().failed_site is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_less_than_was_done_is_refused(kind: str) -> None:
    pair = KINDS[kind](Draw(4))
    for left_out in pair.claims:
        assert not pair.certificate(claimed=tuple(claim for claim in pair.claims if claim is not left_out)).holds


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_is_left_as_it_was_is_no_fold(kind: str) -> None:
    pair = KINDS[kind](Draw(5))
    assert not pair.certificate(pair.before).holds
    assert pair.certificate(pair.before, claimed=()).holds
