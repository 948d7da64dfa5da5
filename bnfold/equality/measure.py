"""Two arrays as one output of two models: how far apart, in which units, and where.

With y the original's values and d the difference, both over finite elements and in float64:
ratio = ||d|| / floor, floor = max(4u*||y||, what rounding alone moves). Elements that are NaN or infinite must be so,
with the same sign, in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

ROUNDING_FLOOR: Final = 4.0
DRAWS: Final = 3
# Half a unit in the last place, by the name of an output's dtype.
UNITS: Final = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True, slots=True)
class Distance:
    """How far apart two arrays of one shape and type are.

    `difference` and `norm` are the L2 norms of d and y, `largest` is max |d|, `index` where it is. `alike` is False
    when the two differ in a way no floor explains: other NaNs or infinities, or exact values that are not equal.
    """

    equal: bool
    alike: bool
    exact: bool
    difference: float
    norm: float
    largest: float
    index: tuple[int, ...]
    argmax_agreement: float | None

    def relative(self) -> float:
        """||d|| / ||y||, infinite when only the rewritten model's output is not zero."""
        return _quotient(self.difference, self.norm)

    def ratio(self, floor: float) -> float:
        """||d|| in units of `floor`; infinite where no floor explains the difference."""
        return _quotient(self.difference, floor) if self.alike else math.inf

    def snr_db(self) -> float:
        """20*log10(||y|| / ||d||)."""
        if not self.difference:
            return math.inf
        return 20.0 * math.log10(self.norm / self.difference) if self.norm else -math.inf


def is_float(value: np.ndarray) -> bool:
    """Whether an array holds floating-point numbers, complex ones and those of ml_dtypes included."""
    return value.dtype.kind in "fc" or value.dtype.name.startswith(("bfloat", "float8"))


def widened(value: np.ndarray) -> np.ndarray:
    """The values as float64, or as complex128."""
    return value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)


def distance(before: np.ndarray, after: np.ndarray) -> Distance:
    """How far `after` is from `before`; both have the same shape and type."""
    if not is_float(before):
        return _exact_distance(before, after)
    y, z = widened(before), widened(after)
    finite = np.isfinite(y) & np.isfinite(z)
    # Everywhere else the two must agree: the same infinity, or a NaN on both sides.
    with np.errstate(invalid="ignore"):
        strange = ~finite & ~((y == z) | (np.isnan(y) & np.isnan(z)))
        size = np.abs(np.where(finite, z - y, 0.0))
    alike = not strange.any()
    worst = _place(size if alike else strange)
    return Distance(
        equal=_same_bits(before, after),
        alike=alike,
        exact=False,
        difference=_norm(size),
        norm=_norm(np.where(finite, np.abs(y), 0.0)),
        largest=float(size.max(initial=0.0)) if alike else math.inf,
        index=worst,
        argmax_agreement=_argmax_agreement(y, z),
    )


def floor_of(difference: Distance, unit: float, jitter: float | None) -> float:
    """The L2 norm that rounding explains: `unit` is half a unit of the coarsest type, `jitter` the RMS of the draws."""
    return max(ROUNDING_FLOOR * unit * difference.norm, jitter or 0.0)


def number(value: np.ndarray, index: tuple[int, ...]) -> float:
    """The element of an array at `index` as a float; its real part if complex, NaN if it is no number or missing."""
    if not value.size or value.dtype.kind in "OUS":
        return math.nan
    element = widened(value[index])
    return float(element.real)


def describe_constant(values: np.ndarray) -> str | None:
    """What an output is everywhere, if it is the same everywhere and has more than one element; else None."""
    if values.size < 2 or not is_float(values):
        return None
    wide = widened(values)
    if not np.isfinite(wide).any():
        return "not finite"
    first = wide.reshape(-1)[0]
    return f"{first:.6g}" if bool((wide == first).all()) else None


def _exact_distance(before: np.ndarray, after: np.ndarray) -> Distance:
    unequal = np.asarray(before != after)
    differ = bool(unequal.any())
    numeric = before.dtype.kind in "biu"
    size = np.abs(after.astype(np.float64) - before.astype(np.float64)) if numeric else unequal.astype(np.float64)
    return Distance(
        equal=not differ,
        alike=not differ,
        exact=True,
        difference=_norm(size),
        norm=_norm(before.astype(np.float64)) if numeric else math.sqrt(before.size),
        largest=float(size.max(initial=0.0)),
        index=_place(unequal),
        argmax_agreement=None,
    )


def _same_bits(before: np.ndarray, after: np.ndarray) -> bool:
    one, other = np.ascontiguousarray(before), np.ascontiguousarray(after)
    return bool(np.array_equal(one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)))


def _place(size: np.ndarray) -> tuple[int, ...]:
    if not size.size:
        return ()
    return tuple(int(index) for index in np.unravel_index(int(np.argmax(size)), size.shape))


def _norm(values: np.ndarray) -> float:
    """The L2 norm, without overflow for values near the end of float64's range."""
    largest = float(np.abs(values).max(initial=0.0))
    if not largest:
        return 0.0
    return largest * float(np.sqrt(np.square(values / largest).sum()))


def _argmax_agreement(y: np.ndarray, z: np.ndarray) -> float | None:
    if y.ndim != 2 or y.shape[-1] < 2 or not y.size or y.dtype.kind == "c":
        return None
    return float(np.mean(np.argmax(y, axis=-1) == np.argmax(z, axis=-1)))


def _quotient(difference: float, unit: float) -> float:
    if not difference:
        return 0.0
    return difference / unit if unit else math.inf
