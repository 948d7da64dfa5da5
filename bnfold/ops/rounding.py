"""Rounding once: float64 to the nearest number of a narrower type, ties to even.

numpy rounds to float32 and float16 that way. To bfloat16 it goes by way of float32, and so rounds twice: 1 + 2^-8 +
2^-40 becomes 1 and not 1 + 2^-7. The step between is therefore rounded to odd (what was cut off leaves its mark in the
last bit), after which the second rounding is the only one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bnfold.affine import Float64

BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
FLOAT_TYPES = (*(np.dtype(t) for t in (np.float16, np.float32, np.float64)), BFLOAT16)
"""The types of weights that are folded."""

HALF_UNITS = dict(zip(FLOAT_TYPES, (2.0**-11, 2.0**-24, 2.0**-53, 2.0**-8), strict=True))
"""The largest relative error of one rounding."""


MOST_ROUNDING = 4.0
"""Units of rounding, as a root mean square over a channel, beyond which a narrow type has lost the weight."""

LARGEST = dict(
    zip(
        FLOAT_TYPES,
        (65504.0, (2 - 2.0**-23) * 2.0**127, float(np.finfo(np.float64).max), (2 - 2.0**-7) * 2.0**127),
        strict=True,
    )
)
"""The largest finite number."""


def rounded(exact: Float64, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """`exact` in the type `dtype`, rounded once; beyond the largest number of the type it is infinite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        source = _rounded_to_odd(exact) if dtype == BFLOAT16 else exact
        return np.asarray(source.astype(dtype), dtype=dtype)


def _rounded_to_odd(exact: Float64) -> NDArray[np.float32]:
    """The float32 at or next to `exact`: of its two neighbours the one whose last bit is set, where it has two."""
    near = np.asarray(exact, np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.uint32)
    inexact = (back != exact) & np.isfinite(near) & (bits % 2 == 0)
    towards = np.where(exact > back, np.float32(np.inf), np.float32(-np.inf))
    return np.where(inexact, np.nextafter(near, towards), near)


def imprecise(exact: Float64, new: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Per output: a nonzero product became zero, or the rounding is beyond MOST_ROUNDING units."""
    axes = tuple(range(1, exact.ndim))
    error = np.sqrt(np.mean((new.astype(np.float64) - exact) ** 2, axis=axes))
    size = np.sqrt(np.mean(exact**2, axis=axes))
    vanished = np.any((exact != 0) & (new == 0), axis=axes)
    return np.asarray(vanished | (error > MOST_ROUNDING * HALF_UNITS[new.dtype] * size))
