"""The bound of a written number, computed here in fractions: what lies on it passes, what lies beyond does not."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from certificate_pairs import ELEMENTS, rounded

from bnfold.equality import numbers
from bnfold.equality.numbers import PartCheck, WrongNumberError, pieces, share, within
from bnfold.nodes import Site

SITE = Site("", 3, "Conv", "c")
HALF_UNITS = {"float16": Fraction(1, 1 << 11), "bfloat16": Fraction(1, 1 << 8), "float": Fraction(1, 1 << 24),
              "double": Fraction(1, 1 << 53)}  # fmt: skip


def of(value: float, element: str = "float") -> np.ndarray:
    return np.array([value], ELEMENTS[element])


def shared(now: np.ndarray, reference: float, magnitude: float = 0.0, *, terms: int = 1, times: float = 1.0) -> float:
    (found,) = share(now, np.array([reference]), np.array([magnitude]), terms=terms, times=times)
    return float(found)


@pytest.mark.parametrize("element", ["float16", "bfloat16", "float"])
@pytest.mark.parametrize("sign", [1, -1])
def test_half_a_unit_of_the_type_that_is_written_passes_and_more_does_not(element: str, sign: int) -> None:
    unit = float(2 * HALF_UNITS[element])
    for away, expected in ((0.25, 0.5), (0.5, 1.0), (0.75, 1.5), (1.0, 2.0)):
        assert shared(of(sign * 1.5, element), sign * (1.5 + away * unit)) == expected
        assert shared(of(sign * 1.5, element), sign * (1.5 - away * unit)) == expected


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("power", [-3, 0, 5])
def test_the_number_beside_the_right_one_fails_at_a_power_of_two_as_well(element: str, power: int) -> None:
    """Below it the unit is half as large as above it."""
    right = np.nextafter(of(2.0**power, element), of(0, element))
    assert shared(right, float(right[0])) == 0.0
    assert shared(of(2.0**power, element), float(right[0])) == 2.0
    assert shared(-of(2.0**power, element), -float(right[0])) == 2.0


@pytest.mark.parametrize("terms", [1, 3, 40])
@pytest.mark.parametrize("magnitude", [0.5, 4096.0, 2.0**30])
def test_the_arithmetic_may_add_what_its_terms_allow(terms: int, magnitude: float) -> None:
    bound = Fraction(1, 1 << 53) + Fraction(2 * (terms + 10), 1 << 53) * Fraction(magnitude)
    for steps in (1, 7, 1000):
        away = steps * 2.0**-52
        found = shared(of(1 + away, "double"), 1.0, magnitude, terms=terms)
        assert found == pytest.approx(float(Fraction(away) / bound), rel=1e-14)


@pytest.mark.parametrize("times", [0.5, 2.0, -4.0, -0.125])
def test_a_number_that_acts_multiplied_is_measured_as_it_acts(times: float) -> None:
    """beta of a Gemm: what is written is a part or a multiple of what is meant, and so is its unit."""
    unit = 2.0**-23
    assert shared(of(1.5), 1.5 * times, times=times) == 0.0
    assert shared(of(1.5), (1.5 + unit / 4) * times, times=times) == 0.5
    assert shared(of(1.5 + unit), 1.5 * times, times=times) == 2.0


def test_what_is_equal_is_no_deviation_and_what_is_no_number_is_one_without_end() -> None:
    assert shared(of(0), 0.0) == 0.0
    assert shared(of(0, "double"), 0.0, 0.0) == 0.0
    for now, reference in ((np.nan, 1.0), (np.inf, 1.0), (1.0, np.inf), (1.0, np.nan), (np.inf, -np.inf)):
        assert shared(of(now), reference) == np.inf


def test_an_infinity_is_not_the_reference_of_one() -> None:
    assert shared(of(np.inf), np.inf) == np.inf


def test_the_worst_passes_up_to_the_bound_itself() -> None:
    now, reference = np.array([1.0, 2.0]), np.array([1.0, 2.5])
    assert within(np.array([0.25, 1.0]), SITE, "weight", now, reference) == 1.0
    assert within(np.array([0.0, 0.5]), SITE, "weight", now, reference) == 0.5
    assert within(np.zeros(0), SITE, "weight", np.zeros(0), np.zeros(0)) == 0.0
    with pytest.raises(
        WrongNumberError, match=r"^the weight of Conv#3 'c' at \[1\] is 2.0, and should be 2.5$"
    ) as told:
        within(np.array([1.0, np.nextafter(1.0, 2.0)]), SITE, "weight", now, reference)
    assert told.value.site == SITE


@pytest.mark.parametrize(
    ("block", "rows", "expected"), [(6, 5, [2, 2, 1]), (3, 2, [1, 1]), (1, 3, [1, 1, 1]), (9, 0, [])]
)
def test_pieces_are_of_about_a_block_and_leave_nothing_out(
    monkeypatch: pytest.MonkeyPatch, block: int, rows: int, expected: list[int]
) -> None:
    monkeypatch.setattr(numbers, "BLOCK", block)
    found = list(pieces((rows, 3)))
    assert [len(range(rows)[piece]) for piece in found] == expected
    assert [i for piece in found for i in range(rows)[piece]] == list(range(rows))
    assert list(pieces((0, 0))) == []
    assert [len(range(block)[piece]) for piece in pieces((block,))] == [block]


def test_the_number_that_is_wrong_is_named_by_its_place_in_the_whole_constant() -> None:
    now, reference = np.array([[1.0, 1.0], [1.0, 3.0]], np.float32), np.ones((2, 2))
    found = share(now, reference, reference, terms=1)
    with pytest.raises(WrongNumberError, match=r"the weight of Conv#3 'c' at \[7, 1\] is 3.0, and should be 1.0"):
        within(found, SITE, "weight", now, reference, 6)


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_check_says_what_half_a_unit_of_its_type_is(element: str) -> None:
    check = PartCheck.of("bias", ELEMENTS[element], terms=3, numbers=4, worst=0.5)
    assert check.half_unit == float(HALF_UNITS[element])
    assert (check.what, check.type, check.terms, check.numbers, check.worst) == (
        "bias", ELEMENTS[element].name, 3, 4, 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("element", ELEMENTS)
def test_what_is_rounded_once_is_within_half_a_unit(element: str) -> None:
    values = np.random.default_rng(0).standard_normal(4000) * 2.0 ** np.random.default_rng(1).integers(-6, 6, 4000)
    found = share(rounded(values, ELEMENTS[element]), values, np.zeros(4000), terms=1)
    assert np.max(found) <= 1.0
    if element != "double":
        assert np.max(found) > 0.95
