"""Rules that ask the plan: what fold would do with a BatchNormalization, and what would come of it."""

from __future__ import annotations

import numpy as np

from bnfold.affine import Affine
from bnfold.moves import Move, Refusal
from bnfold.nodes import Site
from bnfold.ops.facts import Array
from bnfold.ops.home import NewConstant
from bnfold.ops.reasons import OVERFLOW, PRECISION, Obstacle
from bnfold.ops.taking import home_with
from bnfold.rules.rule import rule
from bnfold.rules.subject import Norm, Surroundings

LARGEST_HALF = 65504.0


@rule("BN015", "warning", "folded, its weights leave the range of their type, or of float16")
def beyond_half(norm: Norm) -> str | None:
    """Folding multiplies weights by gamma / sqrt(variance + epsilon). Where the products exceed 65504 they have no
    place in float16, and in a type of 16 bits small ones may be lost. bnfold refuses such a fold in the type of the
    weights; other folders, and those who convert to float16 after folding, write infinity, and the model computes NaN.

    Remedy: keep this layer in float32, or limit its scale (a variance near zero, or a gamma that ran away).
    """
    decided = norm.decided
    if isinstance(decided, Refusal):
        return decided.detail if decided.reason in {OVERFLOW, PRECISION} else None
    for home in () if decided is None else (arrival.home for arrival in decided.arrivals):
        size = norm.around.once(home, _largest)
        if size > LARGEST_HALF:
            return f"folded into {home}, a weight or bias would be {size:.3g}"
    return None


def _largest(around: Surroundings, site: Site) -> float:
    """The largest number in a home once all that settles in it is folded; 0 where it stays far within float16."""
    taken = around.homes[site]
    found = home_with(around.facts, around.graph.at(site), taken)
    if found is None or isinstance(found, Obstacle):
        return 0.0
    home, after = found
    needed = home.furnishing(after)
    constants = (*needed.constants, *(() if needed.added is None else (needed.added,)))
    sizes = [_finite_size(np.asarray(attribute.f)) for attribute in needed.attributes]
    if taken.before is not None:
        return max((*sizes, *(_finite_size(constant.content()) for constant in constants)), default=0.0)
    return max((*sizes, *(_size(constant, after) for constant in constants)), default=0.0)


def _size(constant: NewConstant, after: Affine) -> float:
    """The largest number that a new constant will have, computed only if it may be too large."""
    if constant.replaces:
        before = _finite_size(constant.beside.array())
        if before * _finite_size(after.scale) + _finite_size(after.shift) <= LARGEST_HALF:
            return 0.0
    return _finite_size(constant.content())


def _finite_size(array: Array) -> float:
    """The largest finite number in size, in float64."""
    if not array.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        size = max(abs(float(np.max(array))), abs(float(np.min(array))))
    return size if np.isfinite(size) else LARGEST_HALF


@rule("BN016", "note", "a BatchNormalization is left that could be folded")
def foldable(norm: Norm) -> str | None:
    """At inference this layer is one multiplication and one addition per channel, which the weights before it can take
    over exactly. Until then they are computed for every value, or the runtime's own optimiser has to find the same.

    Remedy: `bnfold fold MODEL -o OUT`.
    """
    decided = norm.decided
    if not isinstance(decided, Move):
        return None
    return f"fold would put it into {' and '.join(str(arrival.home) for arrival in decided.arrivals)}"
