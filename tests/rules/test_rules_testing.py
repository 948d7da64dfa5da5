"""Student's tail against the integral of its density and against printed tables, and Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnfold.rules.testing import holm, regularised_beta, upper_tail

POINTS, WEIGHTS = np.polynomial.legendre.leggauss(400)


def by_integration(t: float, freedom: float) -> float:
    """P(T > t) by Gauss-Legendre over s from t to infinity, s = t + u/(1-u)."""
    u = (POINTS + 1) / 2
    s = t + u / (1 - u)
    log_density = -(freedom + 1) / 2 * np.log1p(s**2 / freedom)
    constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    return float(np.sum(WEIGHTS / 2 * np.exp(log_density + constant) / (1 - u) ** 2))


@pytest.mark.parametrize("freedom", [3, 7, 31, 127, 359, 2000])
@pytest.mark.parametrize("t", [-3.0, -0.5, 0.0, 0.1, 1.0, 2.5, 4.0, 7.0])
def test_the_tail_is_the_integral_of_the_density(t: float, freedom: int) -> None:
    ours = float(upper_tail(np.array([t]), freedom)[0])
    assert ours == pytest.approx(by_integration(t, freedom), rel=1e-10, abs=1e-17)


@pytest.mark.parametrize(
    ("t", "freedom", "chance"),
    [(12.706204736, 1, 0.025), (4.302652730, 2, 0.025), (2.228138852, 10, 0.025), (2.763769458, 10, 0.01),
     (1.697260887, 30, 0.05), (3.385184867, 30, 0.001), (1.979930405, 120, 0.025)],
)  # fmt: skip
def test_the_tail_at_the_quantiles_of_printed_tables(t: float, freedom: int, chance: float) -> None:
    """The quantiles have ten digits."""
    assert float(upper_tail(np.array([t]), freedom)[0]) == pytest.approx(chance, rel=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.3, 2.0, 50.0, 1e6])
def test_one_and_two_degrees_of_freedom_have_closed_forms(t: float) -> None:
    one, two = (float(upper_tail(np.array([t]), freedom)[0]) for freedom in (1, 2))
    assert one == pytest.approx(math.atan2(1, t) / math.pi, rel=1e-11)
    root = math.sqrt(2 + t * t)
    assert two == pytest.approx(1 / (root * (root + t)), rel=1e-11)


def test_the_ends_of_the_line() -> None:
    found = upper_tail(np.array([np.inf, -np.inf, np.nan, 1e200, -1e200]), 50)
    assert found[:2].tolist() == [0.0, 1.0]
    assert np.isnan(found[2])
    assert found[3:].tolist() == [0.0, 1.0]


def test_the_two_tails_make_one() -> None:
    t = np.linspace(0, 6, 25)
    np.testing.assert_allclose(upper_tail(t, 40) + upper_tail(-t, 40), 1, rtol=1e-14)
    assert np.all(np.diff(upper_tail(t, 40)) < 0)


def test_the_beta_function_is_symmetric_and_knows_its_simple_cases() -> None:
    x = np.linspace(0, 1, 21)
    np.testing.assert_allclose(regularised_beta(1, 1, x, 1 - x), x, atol=1e-15)
    np.testing.assert_allclose(regularised_beta(3, 1, x, 1 - x), x**3, rtol=1e-12)
    np.testing.assert_allclose(regularised_beta(2.5, 4, x, 1 - x), 1 - regularised_beta(4, 2.5, 1 - x, x), rtol=1e-12)


def test_holm_multiplies_by_how_many_are_left_and_never_goes_down() -> None:
    adjusted = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.4, 0.9])).tolist() == [0.8, 0.9]
    assert holm(np.array([0.7, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.zeros(0)).size == 0


def test_holm_rejects_more_than_bonferroni_and_never_less() -> None:
    chances = np.random.default_rng(0).uniform(0, 0.02, 50)
    assert np.all(holm(chances) <= np.minimum(chances * 50, 1))
    assert np.all(holm(chances) >= chances)
