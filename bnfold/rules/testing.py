"""Probabilities of chance: tails of Student's t in float64, and Holm's correction for many tests at once.

    P(|T| > t) = I_x(v/2, 1/2),   x = v / (v + t^2)

I is the regularised incomplete beta function, here by Lentz's evaluation of its continued fraction on the side where
that converges fast. Holm: the k-th smallest of m probabilities, times m - k + 1, and never less than the one before.
The chance that any of m true hypotheses is rejected at a level is then at most that level, however they depend on each
other.
"""

from __future__ import annotations

import math

import numpy as np

from bnfold.affine import Float64

_MOST_TERMS = 2000
_TINY = 1e-300


def upper_tail(t: Float64, freedom: float) -> Float64:
    """P(T > t) for each t, with `freedom` degrees of freedom (more than 0); relative error about 1e-12.

    0 for +infinity, 1 for -infinity, NaN for NaN.
    """
    size = np.abs(np.asarray(t, dtype=np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.square(size)
        x = freedom / (freedom + square)
        rest = np.where(np.isinf(square), 1.0, square / (freedom + square))
    half = 0.5 * regularised_beta(freedom / 2, 0.5, x, rest)
    return np.where(np.isnan(size), np.nan, np.where(t > 0, half, 1.0 - half))


def regularised_beta(a: float, b: float, x: Float64, rest: Float64) -> Float64:
    """I_x(a, b) for each x from 0 to 1; `rest` is 1 - x, given apart because it may be tiny."""
    direct = x < (a + 1) / (a + b + 2)
    found = np.empty(np.shape(x))
    found[direct] = _by_fraction(a, b, x[direct], rest[direct])
    found[~direct] = 1.0 - _by_fraction(b, a, rest[~direct], x[~direct])
    return found


def _by_fraction(a: float, b: float, x: Float64, rest: Float64) -> Float64:
    """I_x(a, b) = x^a (1-x)^b / (a B(a, b)) / (1 + d1/(1 + d2/(1 + ...)))."""
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    with np.errstate(divide="ignore", under="ignore"):
        factor = np.exp(a * np.log(x) + b * np.log(rest) - log_beta) / a
    c, d = np.ones_like(x), 1.0 / _apart(1.0 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, _MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _apart(1.0 + term * d)
            c = _apart(1.0 + term / c)
            value = value * (d * c)
        if bool(np.all(np.abs(d * c - 1.0) < 1e-15)):
            break
    return np.asarray(factor * value)


def _apart(values: Float64) -> Float64:
    """The values, kept apart from zero, by which they are divided next."""
    return np.where(np.abs(values) < _TINY, _TINY, values)


def holm(chances: Float64) -> Float64:
    """The adjusted probabilities, in the order given: those below a level are the hypotheses to reject at it."""
    count = chances.size
    order = np.argsort(chances, kind="stable")
    stepped = np.maximum.accumulate(chances[order] * (count - np.arange(count)))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
