"""What the tests of shapes and contents ask, and what symbols stand for when a model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from bnfold.affine import Dim
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.nodes import Value
from bnfold.shapes import Shapes
from bnfold.shapes.contents import Contents

SIZES = ({"N": 1, "M": 1}, {"N": 2, "M": 3}, {"N": 3, "M": 2}, {"N": 8, "M": 8}, {"N": 0, "M": 4})
"""What the symbols stand for when a model runs: equal, coinciding with numbers of the model, and none at all."""


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def values_of(proto: onnx.ModelProto) -> tuple[Graph, dict[str, Value]]:
    graph = Graph.of(read(proto))
    return graph, {value.name: value for value in graph.values}


def shape(proto: onnx.ModelProto, name: str) -> tuple[Dim, ...] | None:
    graph, values = values_of(proto)
    return Shapes(graph).shape(values[name])


def numbers(proto: onnx.ModelProto, name: str) -> list[int]:
    """The dimensions that are known as numbers."""
    return [size for size in shape(proto, name) or () if isinstance(size, int)]


def content(proto: onnx.ModelProto, name: str) -> tuple[Dim, ...] | None:
    """The elements of a value as far as known."""
    graph, values = values_of(proto)
    shapes = Shapes(graph)
    contents = Contents(graph, shapes.shape, shapes.element_type)
    found = contents.of(values[name])
    return None if found is None else contents.sizes(found)


def actual(dims: Sequence[Dim], sizes: Mapping[str, int]) -> list[int | None]:
    return [sizes[d] if isinstance(d, str) else d for d in dims]


def agrees(known: Sequence[Dim], sizes: Mapping[str, int], truth: Sequence[int]) -> bool:
    """Whether all that is known is so: other symbols than the model's own are names for what nobody knows."""
    told = [sizes.get(d) if isinstance(d, str) else d for d in known]
    return len(told) == len(truth) and all(t is None or t == a for t, a in zip(told, truth, strict=True))
