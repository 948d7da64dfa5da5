"""The parameters of an inserted BatchNormalization: scale, B, mean, var, epsilon, in the types that ONNX allows.

    identity     1, 0, 0, 1 and epsilon 0: the factor is 1 and the shift 0, so that every element stays as it is
    preserve     the data's mean and variance, scale = sqrt(var + epsilon), B = mean: the same function
    normalize    1, 0 and the data's mean and variance: another function, of mean 0 and variance 1

onnxruntime computes `factor = scale * (1 / sqrt(var + epsilon))` and `x * factor + (B - mean * factor)`, in float64 for
float64 and in float32 else (measured, bit for bit). Where the factor is exactly 1 and B is mean, x comes out as it went
in; so scale is moved by single units of its type until the factor is 1, which is possible for nearly all variances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import TensorProto, helper

from bnfold.ops.affine import FIRST_OPSET_WITH_TRAINING_MODE
from bnfold.statistics import Moments

Init = Literal["identity", "preserve", "normalize"]

TEXTBOOK_EPSILON = 1e-5
MOST_EPSILON_SHARE = 1e-4
"""How much of a channel's variance epsilon may be, so that the output's variance is 1 up to that."""
MOST_LOST = 0.01
"""How far off a variance may be written: much less than any sample's own error, and more than float16's rounding."""

FIRST_OPSET_WITH_FREE_SCALE = 15
_STEPS = (0, 1, -1, 2, -2, 3, -3, 4, -4)


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Four vectors of one length, in the types in which they are written, and epsilon, a float32.

    `still`: which channels had no variance but what rounding explains.
    """

    scale: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float
    still: np.ndarray

    @property
    def named(self) -> tuple[tuple[str, np.ndarray], ...]:
        """The vectors by PyTorch's names, in ONNX's order."""
        return (
            ("weight", self.scale),
            ("bias", self.bias),
            ("running_mean", self.mean),
            ("running_var", self.variance),
        )

    @property
    def constant(self) -> int:
        """How many channels do not vary."""
        return int(np.count_nonzero(self.still))

    @property
    def exact(self) -> int:
        """In how many channels onnxruntime's factor is exactly 1."""
        return int(np.count_nonzero(factor(self.scale, self.variance, self.epsilon) == 1))


def types(element_type: int, opset: int) -> tuple[np.dtype[np.generic], np.dtype[np.generic]]:
    """The types of scale and B, and of mean and var, for values of an element type: wider ones where ONNX allows.

    Values of 16 bits may have float32 statistics from opset 14 on, and a float32 scale from 15 on.
    """
    own = helper.tensor_dtype_to_np_dtype(element_type)
    wide = np.dtype(np.float32) if own.itemsize < np.dtype(np.float32).itemsize else own
    return (
        wide if opset >= FIRST_OPSET_WITH_FREE_SCALE else own,
        wide if opset >= FIRST_OPSET_WITH_TRAINING_MODE else own,
    )


def identity(channels: int, element_type: int, opset: int, *, epsilon: float = 0.0) -> Parameters:
    """Parameters that change nothing; with an epsilon (for training) the factor is not exactly 1."""
    ours, statistics = types(element_type, opset)
    ones, zeros = np.ones(channels), np.zeros(channels)
    still = zeros > 0
    return Parameters(
        ones.astype(ours), zeros.astype(ours), zeros.astype(statistics), ones.astype(statistics), epsilon, still
    )


def preserving(seen: Moments, element_type: int, opset: int) -> Parameters:
    """The data's statistics, and a scale and B that undo them."""
    ours, statistics = types(element_type, opset)
    mean, variance = _rounded(seen.mean, statistics), _rounded(seen.variance, statistics)
    epsilon = float(np.float32(TEXTBOOK_EPSILON))
    scale = _undoing(variance, epsilon, ours)
    return Parameters(scale, _rounded(mean, ours), mean, variance, epsilon, _still(seen, element_type))


def normalizing(seen: Moments, element_type: int, opset: int, *, training: bool = False) -> Parameters:
    """The data's statistics, applied as the textbook says; in training epsilon is always 1e-5.

    Where epsilon is less than that, what rounding makes of a constant channel would be magnified by it: such a channel
    is divided by as much as with 1e-5.
    """
    ours, statistics = types(element_type, opset)
    epsilon = TEXTBOOK_EPSILON if training else _small_enough(seen, element_type)
    still = _still(seen, element_type)
    variance = np.where(still, np.maximum(seen.variance, TEXTBOOK_EPSILON - epsilon), seen.variance)
    return Parameters(
        np.ones(seen.channels, ours),
        np.zeros(seen.channels, ours),
        _rounded(seen.mean, statistics),
        _rounded(variance, statistics),
        float(np.float32(epsilon)),
        still,
    )


def unfit(seen: Moments, element_type: int, opset: int) -> tuple[np.dtype[np.generic], float | None]:
    """The type that variances are written in, and one that it does not hold to a hundredth, if there is one."""
    dtype = types(element_type, opset)[1]
    off = np.abs(_rounded(seen.variance, dtype).astype(np.float64) - seen.variance) > MOST_LOST * seen.variance
    lost = seen.variance[off & ~_still(seen, element_type)]
    return dtype, float(lost[0]) if lost.size else None


def factor(scale: np.ndarray, variance: np.ndarray, epsilon: float) -> np.ndarray:
    """What onnxruntime multiplies by, in its own arithmetic."""
    working = np.dtype(np.float64 if scale.dtype == np.float64 else np.float32)
    radicand = np.add(variance.astype(working), np.float32(epsilon), dtype=working)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(scale.astype(working) * np.divide(1, np.sqrt(radicand), dtype=working))


def _undoing(variance: np.ndarray, epsilon: float, dtype: np.dtype[np.generic]) -> np.ndarray:
    """sqrt(var + epsilon) in its type, moved by up to four units where that makes the factor exactly 1."""
    best = _rounded(np.sqrt(variance.astype(np.float64) + epsilon), dtype)
    if dtype not in {np.dtype(np.float32), np.dtype(np.float64)}:
        return best
    found = best.copy()
    undecided = np.ones(best.shape, bool)
    for step in _STEPS:
        candidate = best
        for _ in range(abs(step)):
            candidate = np.nextafter(candidate, candidate.dtype.type(np.inf if step > 0 else 0))
        exact = undecided & (factor(candidate, variance, epsilon) == 1)
        found[exact] = candidate[exact]
        undecided &= ~exact
    return found


def _small_enough(seen: Moments, element_type: int) -> float:
    """1e-5, or so much less that it is a small share of every variance that is not zero."""
    varying = seen.variance[~_still(seen, element_type)]
    return min(TEXTBOOK_EPSILON, MOST_EPSILON_SHARE * float(varying.min())) if varying.size else TEXTBOOK_EPSILON


def _still(seen: Moments, element_type: int) -> np.ndarray:
    """Which channels have no more variance than rounding of a constant may show: a unit around the mean."""
    unit = 2.0**-52 if element_type == TensorProto.DOUBLE else 2.0**-23
    return np.asarray(seen.variance <= np.square(unit * np.abs(seen.mean)))


def _rounded(vector: np.ndarray, dtype: np.dtype[np.generic]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(np.asarray(vector, dtype=np.float64).astype(dtype))
