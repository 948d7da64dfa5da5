"""Two arrays as one output of two models: how far apart, in which units, and where.

With y the original's values and d the difference, both over finite elements and in float64:
ratio = ||d|| / floor, floor = max(4u*||y||, what rounding alone moves). Elements that are NaN or infinite must be so,
with the same sign, in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDING_FLOOR: Final = 4.0
DRAWS: Final = 3
# Elements at a time: of large outputs there is no copy in float64, and a block stays in a processor's cache.
_BLOCK: Final = 1 << 16
_LEAST_SQUARES: Final = 1e-200  # below, squares of small numbers may have vanished
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
    y, z = before.reshape(-1), after.reshape(-1)
    parts = [_part(y[start : start + _BLOCK], z[start : start + _BLOCK]) for start in range(0, y.size, _BLOCK)]
    alike = all(part.strange is None for part in parts)
    worst = _first_worst(parts, alike=alike)
    return Distance(
        equal=all(part.equal for part in parts),
        alike=alike,
        exact=False,
        # The norm of a vector is the norm of its parts' norms.
        difference=_norm(np.array([part.difference for part in parts])),
        norm=_norm(np.array([part.norm for part in parts])),
        largest=max((part.largest for part in parts), default=0.0) if alike else math.inf,
        index=() if worst is None else tuple(map(int, np.unravel_index(worst, before.shape))),
        argmax_agreement=_argmax_agreement(before, after),
    )


def relative(before: np.ndarray, after: np.ndarray) -> float:
    """||d|| / ||y|| of two arrays of one shape and type, as `distance` has it."""
    if not is_float(before) or before.dtype.kind == "c":
        return distance(before, after).relative()
    y, z = before.reshape(-1), after.reshape(-1)
    power = apart = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, y.size, _BLOCK):
            wide = widened(y[start : start + _BLOCK])
            d = widened(z[start : start + _BLOCK]) - wide
            power += float(np.einsum("i,i->", wide, wide))
            apart += float(np.einsum("i,i->", d, d))
    is_usual = all(_LEAST_SQUARES < one < math.inf for one in (power, apart))
    return math.sqrt(apart / power) if is_usual else distance(before, after).relative()


def same_bits(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two arrays of one shape and type hold the same bits."""
    if before.dtype.kind in "OUS":
        return before.tobytes() == after.tobytes()
    one, two = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (before, after))
    blocks = range(0, one.size, _BLOCK)
    return all(one[start : start + _BLOCK].tobytes() == two[start : start + _BLOCK].tobytes() for start in blocks)


@dataclass(frozen=True, slots=True)
class _Part:
    """The figures of one block: `place` is where |d| is largest, `strange` the first place that no floor explains."""

    equal: bool
    difference: float
    norm: float
    largest: float
    place: int
    strange: int | None


def _part(before: np.ndarray, after: np.ndarray) -> _Part:
    y, z = widened(before), widened(after)
    finite = np.isfinite(y) & np.isfinite(z)
    strange = None
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(z - y)
        if not finite.all():
            # Where it is not finite the two must agree: the same infinity, or a NaN on both sides.
            apart = ~finite & ~((y == z) | (np.isnan(y) & np.isnan(z)))
            strange = int(np.argmax(apart)) if apart.any() else None
            y, size = np.where(finite, y, 0.0), np.where(finite, size, 0.0)
    place = int(np.argmax(size))
    equal = before.tobytes() == after.tobytes()
    return _Part(equal, _norm(size), _norm(np.abs(y)), float(size[place]), place, strange)


def _first_worst(parts: Sequence[_Part], *, alike: bool) -> int | None:
    """The flat index of the largest difference, or of the first one that no floor explains."""
    if not alike:
        return next(k * _BLOCK + part.strange for k, part in enumerate(parts) if part.strange is not None)
    largest = max(range(len(parts)), key=lambda k: parts[k].largest, default=None)
    return None if largest is None else largest * _BLOCK + parts[largest].place


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
    flat = values.reshape(-1)
    head = widened(flat[:_BLOCK])
    if np.isfinite(head).any() and not bool((head == head[0]).all()):
        return None
    wide = widened(flat)
    if not np.isfinite(wide).any():
        return "not finite"
    return f"{wide[0]:.6g}" if bool((wide == wide[0]).all()) else None


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


def _argmax_agreement(before: np.ndarray, after: np.ndarray) -> float | None:
    if before.ndim != 2 or before.shape[-1] < 2 or not before.size or before.dtype.kind == "c":
        return None
    # Widened only where numpy has no order for the type.
    y, z = (value if value.dtype.kind == "f" else widened(value) for value in (before, after))
    return float(np.mean(np.argmax(y, axis=-1) == np.argmax(z, axis=-1)))


def _quotient(difference: float, unit: float) -> float:
    if not difference:
        return 0.0
    return difference / unit if unit else math.inf
