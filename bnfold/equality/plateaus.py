"""Sums over places of which many are one value: what rounding does to them is one error again and again.

A sum of P terms is rounded P times. Where the terms differ these errors do, too, and leave some sqrt(P)*u*S. Where a
share q of them is one value (a channel whose gamma is 0; what only a bias is seen of behind strides), adding it is
rounded alike each time. onnxruntime adds one after another and is off by up to q*P/4 of u*S then, and the two models
by other amounts: q*P*u*S are allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.measure import is_float
from bnfold.nodes import Node, Value

Array = NDArray[np.generic]

_OF_WINDOWS = frozenset({"AveragePool", "LpPool"})
_OVER_PLACES = _OF_WINDOWS | {
    "GlobalAveragePool", "GlobalLpPool", "ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare",
}  # fmt: skip
_LEAST_SHARE = 1 / 8
_MOST_ROWS = 4096


def like_terms(nodes: Iterable[Node], values_of: Callable[[Sequence[Value]], Mapping[int, Array]]) -> float:
    """How many terms of a sum over places are one value, at most, in the nodes of a region; 0 where they are few.

    `values_of` gives values of the original by id. Raises what that raises.
    """
    sums = [(n, n.input(0), n.output(0)) for n in nodes if n.op in _OVER_PLACES]
    ends = [(node, one, two) for node, one, two in sums if one is not None and two is not None]
    if not ends:
        return 0.0
    values = values_of([value for _, *both in ends for value in both])
    found = [(node, values[one.id], values[two.id]) for node, one, two in ends if {one.id, two.id} <= values.keys()]
    return max((_like(*each) for each in found), default=0.0)


def _like(node: Node, data: Array, result: Array) -> float:
    if not is_float(data) or not data.size or not result.size:
        return 0.0
    terms = math.prod(node.ints_attribute("kernel_shape") or ()) if node.op in _OF_WINDOWS else data.size / result.size
    share = _most_alike(data)
    return share * terms if share >= _LEAST_SHARE else 0.0


def _most_alike(data: Array) -> float:
    """The largest share that one value has of a channel: of all that has one first and second index, or one last."""
    if data.ndim < 2:
        return _share(data)
    maps = data.reshape(math.prod(data.shape[:2]), -1)
    columns = np.moveaxis(data, -1, 0).reshape(data.shape[-1], -1)
    rows = [row for group in (maps, columns) if group.shape[1] > 1 for row in group[:_MOST_ROWS]]
    return max(map(_share, rows), default=0.0)


def _share(row: Array) -> float:
    usual = row[np.isfinite(row)]
    return float(np.unique(usual, return_counts=True)[1].max(initial=0)) / row.size
