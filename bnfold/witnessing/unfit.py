"""The number that a folded constant would be, exactly, and what its type would make of it: infinity, zero, few bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.ops.absorb import Linear
from bnfold.ops.elementwise import Elementwise
from bnfold.ops.facts import Array, Constant, Facts
from bnfold.ops.linear import ways_of
from bnfold.ops.rounding import HALF_UNITS, rounded
from bnfold.witnessing.evaluating import CannotEvaluate
from bnfold.witnessing.values import Numbers
from bnfold.witnessing.ways import Reached
from bnfold.witnessing.wrong_folds import in_float64


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """A constant of a home: what it is called, what it would be, and in which type."""

    name: str
    exact: Float64
    dtype: np.dtype[np.generic]


def unfit(facts: Facts, reached: Reached, seed: int) -> Numbers:
    """The element that its type holds worst; raises CannotEvaluate where none of the constants is computed here."""
    found = [_worst(written, seed) for written in _constants(facts, reached)]
    if not found:
        raise CannotEvaluate("what it would become is not computed alone")
    return max(found, key=lambda numbers: numbers.bounds_off)


def _worst(written: _Written, seed: int) -> Numbers:
    new = rounded(written.exact, written.dtype).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        bound = HALF_UNITS[written.dtype] * np.abs(written.exact)
        off = np.where(np.isfinite(new), np.abs(new - written.exact) / np.where(bound > 0, bound, 1.0), np.inf)
    # Of several that are infinite, the largest.
    worst = np.lexsort((np.abs(written.exact).reshape(-1), off.reshape(-1)))[-1]
    place = tuple(int(i) for i in np.unravel_index(int(worst), off.shape))
    assumed = f"written as {written.dtype.name}"
    exact, folded = float(written.exact[place]), float(new[place])
    return Numbers(written.name, assumed, place, exact, folded, float(bound[place]), seed)


def _constants(facts: Facts, reached: Reached) -> Iterator[_Written]:
    ways = ways_of(facts, reached.node)
    for way in ways if isinstance(ways, tuple) else ():
        if isinstance(way, Elementwise) and not reached.is_forward:
            exact = way.absorbed(reached.affine)
            yield _Written(f"{way.constant.value.name!r} of {way.node.site}", np.asarray(exact), way.constant.dtype)
        if isinstance(way, Linear) and isinstance(way.weight, Constant) and isinstance(way.bias, Constant | None):
            yield from _of_layer(way, reached)


def _of_layer(way: Linear, reached: Reached) -> Iterator[_Written]:
    wide, after = in_float64(way), reached.affine
    if reached.is_forward:
        if way.fed is None:
            return
        fed = replace(wide, fed=replace(way.fed, sees_all=True)).fed_by(reached.affine, reached.index)
        if not isinstance(fed, Linear):
            return
        wide, after = fed, Affine.identity(fed.output_rank(reached.affine))
    axes = wide.axes_at(after.rank)
    if not all(0 <= axis < after.rank for axis in axes) or not after.varies_only_along(axes):
        return
    for new in wide.furnishing(after).constants:
        exact: Array = new.content()
        yield _Written(f"{new.beside.value.name!r} of {way.node.site}", exact.astype(np.float64), way.weight.dtype)
