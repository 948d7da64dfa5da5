"""Whether a written number is the right one, rounded once.

    |written - reference| <= ulp/2 + 2*(K + 10)*2^-53 * (sum of the absolute terms)

with K the number of terms: half a unit for the rounding, the rest for the float64 arithmetic of both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.constants import Float64, product
from bnfold.nodes import Site

BLOCK = 1 << 20
COMPARED = 1 << 15
"""Numbers that are compared at a time: all that is computed of them stays in the processor's cache."""

BOUND = (
    "|written - reference| <= half a unit in the last place of the number + "
    "2*(terms + 10)*2^-53 * (sum of the absolute terms)"
)
"""The bound in words, for a certificate's file; each `PartCheck` has what differs."""


@dataclass(frozen=True, slots=True)
class PartCheck:
    """One constant of a home against its bound: how many numbers, and the worst share of the bound (at most 1 passes).

    `half_unit` (half a unit in the last place of 1.0, in the `type` that is written) and `terms` (K) make the bound.
    """

    what: str
    type: str
    half_unit: float
    terms: int
    numbers: int
    worst: float

    @classmethod
    def of(cls, what: str, dtype: np.dtype[np.generic], *, terms: int, numbers: int, worst: float) -> PartCheck:
        """A check of numbers that are written in `dtype`."""
        return cls(what, dtype.name, float(_half_ulp(np.ones((), dtype))), terms, numbers, worst)


class WrongNumberError(Exception):
    """A number of a home is not the one that the claims demand; the message says which."""

    def __init__(self, site: Site, sentence: str) -> None:
        super().__init__(sentence)
        self.site = site


def share(
    now: NDArray[np.generic], reference: Float64, magnitude: Float64, *, terms: int, times: float = 1.0
) -> Float64:
    """|times*written - reference| as a share of the bound: at most 1 passes."""
    with np.errstate(all="ignore"):
        right = reference if times == 1.0 else reference / times
        # Of both, for below a power of two the unit is half as large: the number beside the right one would pass.
        half = np.minimum(_half_ulp(right.astype(now.dtype)), _half_ulp(now)) * abs(times)
        bound = half + 2 * (terms + 10) * 2.0**-53 * magnitude
        difference = np.abs(now.astype(np.float64) * times - reference)
        found = np.asarray(difference / bound)
    found[~np.isfinite(found)] = np.inf
    found[difference == 0] = 0.0
    return found


def _half_ulp(array: NDArray[np.generic]) -> Float64:
    return np.asarray(np.spacing(np.abs(array)).astype(np.float64) / 2)


def within(  # noqa: PLR0913, PLR0917  # what was found, and what to say of it
    found: Float64, site: Site, what: str, now: NDArray[np.generic], reference: Float64, first: int = 0
) -> float:
    """The worst share, or the error that names the number; `first` is where a piece begins on the first axis."""
    worst = float(np.max(found, initial=0.0))
    if worst <= 1.0:
        return worst
    index = np.unravel_index(int(np.argmax(found)), found.shape)
    at = [int(i) + (first if axis == 0 else 0) for axis, i in enumerate(index)]
    sentence = f"the {what} of {site} at {at} is {now[index]!s}, and should be {reference[index]!s}"
    raise WrongNumberError(site, sentence)


def pieces(shape: tuple[int, ...], block: int | None = None) -> Iterator[slice]:
    """Slices of the first axis of about BLOCK elements, or `block`: a large weight is never held in float64."""
    step = max(1, (block or BLOCK) // max(1, product(shape[1:])))
    for first in range(0, shape[0], step):
        yield slice(first, first + step)
