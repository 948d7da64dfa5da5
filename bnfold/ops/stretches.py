"""A weight scaled in parts, in the order of the file, so that none of it has to be held as a whole.

Invariant: the parts cover the array, each lies in one piece, and each number is the product in float64, rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bnfold.affine import Float64
from bnfold.ops.facts import STRETCH, Array
from bnfold.ops.rounding import BFLOAT16, rounded


def stretches(dims: tuple[int, ...], axis: int) -> Iterator[tuple[int, tuple[int, int, int], slice]]:
    """An array cut into parts that lie in one piece each: (number of the first element, shape, slice of `axis`).

    The shape is (before, along, behind) the axis; each part has at most STRETCH elements, and none is left out.
    """
    before, along, behind = math.prod(dims[:axis]), dims[axis], math.prod(dims[axis + 1 :])
    width = min(behind, STRETCH)
    height = min(along, STRETCH // width) if width == behind else 1
    depth = min(before, STRETCH // (width * height)) if height == along else 1
    for i in range(0, before, depth):
        for j in range(0, along, height):
            for k in range(0, behind, width):
                shape = min(depth, before - i), min(height, along - j), min(width, behind - k)
                yield (i * along + j) * behind + k, shape, slice(j, j + height)


def scaled(source: Array, factors: Float64, dtype: np.dtype[np.generic]) -> Array:
    """The product in float64, rounded once: numpy does both a few thousand elements at a time, without a copy."""
    if dtype == BFLOAT16:
        return rounded(np.multiply(source, factors, dtype=np.float64), dtype)
    product = np.empty(source.shape, dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.multiply(source, factors, out=product, dtype=np.float64, casting="unsafe")
    return product
