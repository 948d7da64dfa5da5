"""The inputs on which two models are compared: random ones that exercise a network, or the user's own data.

Three distributions, for one alone is blind somewhere: N(0,1); 4*N(0,1), which reaches the knee of Relu6; U[0,1), what
images look like. Integers must suit their readers: an index stays below the dimension it indexes, a shape is made of
ones, a byte takes all its values. Everything hangs on the seed, the input's name and the batch, on nothing else.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from onnx import TensorProto, helper

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

Distribution = Literal["normal", "wide", "uniform"]

DISTRIBUTIONS: Final[tuple[Distribution, ...]] = ("normal", "wide", "uniform")
_MOST_ELEMENTS: Final = 1 << 28
_SMALL_INTEGERS: Final = 8
# Operators behind which a value is still the same integer, read at the places given.
_CARRIERS: Final = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"})
_INDEXING: Final = frozenset({"Gather", "GatherElements", "ArrayFeatureExtractor"})
# Inputs that hold dims, counts or lengths: by operator, the first such place. Ones suit them all.
_ONES_FROM: Final = {
    "Reshape": 1,
    "Expand": 1,
    "Tile": 1,
    "ConstantOfShape": 0,
    "Resize": 1,
    "Upsample": 1,
    "TopK": 1,
    "OneHot": 1,
    "LSTM": 4,
    "GRU": 4,
    "RNN": 4,
    "Loop": 0,
    "Slice": 2,
}


class CannotFeed(ValueError):
    """An input for which no value can be made up; the sentence says which and why."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Feeds for one run of both models, by input name; `labels` are N integer classes if the data had any.

    `notes` are remarks about the data, such as samples that were left out.
    """

    label: str
    feeds: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def random_batches(
    model: onnx.ModelProto,
    *,
    seed: int,
    dims: Mapping[str, int],
    fills: tuple[int, ...] = (2, 1),
    integers: int = _SMALL_INTEGERS,
) -> tuple[Batch, ...]:
    """Batches of random feeds for the inputs of `model` that are no initializers.

    A symbolic dimension is `dims[name]`, or else the first of `fills` in three batches, one for each distribution,
    and each further one of `fills` in one batch more. Integers of no known meaning stay below `integers`. The first
    batch holds true in every bool input, the second false.

    Raises `CannotFeed` for an input that is no tensor, holds strings, or has no known rank, and `UsageError` for a
    name in `dims` that no input has.
    """
    ports = fed_inputs(model)
    _check_dims(ports, dims)
    readers = _Readers(model)
    free = any(not dim.HasField("dim_value") and dim.dim_param not in dims for port in ports for dim in _dims(port))
    sizes = [(fills[0], distribution) for distribution in DISTRIBUTIONS]
    if free:
        sizes.extend((fill, DISTRIBUTIONS[0]) for fill in fills[1:])
    recipes = tuple(_Recipe(seed, place, *size, integers) for place, size in enumerate(sizes))
    return tuple(
        Batch(
            label=f"{recipe.distribution}, free dimensions {recipe.fill}" if free else recipe.distribution,
            feeds={
                port.name: _random(port, _shape(port, dims, recipe.fill), recipe, readers.use(port.name))
                for port in ports
            },
        )
        for recipe in recipes
    )


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How one random batch is made; `place` is its number."""

    seed: int
    place: int
    fill: int
    distribution: Distribution
    integers: int


def fed_inputs(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, ...]:
    """The graph inputs that a caller must feed: those that no initializer gives a value."""
    given = {tensor.name for tensor in model.graph.initializer}
    given.update(sparse.values.name for sparse in model.graph.sparse_initializer)
    return tuple(port for port in model.graph.input if port.name not in given)


def _check_dims(ports: tuple[onnx.ValueInfoProto, ...], dims: Mapping[str, int]) -> None:
    known = {dim.dim_param for port in ports for dim in _dims(port) if dim.dim_param}
    for name, length in dims.items():
        if name not in known:
            held = ", ".join(map(repr, sorted(known))) or "none"
            raise UsageError(f"no input has a dimension called {name!r}; the symbolic dimensions are: {held}")
        if length < 1:
            raise UsageError(f"the dimension {name!r} cannot be {length}")


def _dims(port: onnx.ValueInfoProto) -> tuple[onnx.TensorShapeProto.Dimension, ...]:
    return tuple(port.type.tensor_type.shape.dim)


def _shape(port: onnx.ValueInfoProto, dims: Mapping[str, int], fill: int) -> tuple[int, ...]:
    if not port.type.HasField("tensor_type"):
        raise CannotFeed(f"input {port.name!r} is no tensor")
    if not port.type.tensor_type.HasField("shape"):
        raise CannotFeed(f"input {port.name!r} declares no rank")
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dims.get(dim.dim_param, fill)
        for dim in _dims(port)
    )
    if math.prod(shape) > _MOST_ELEMENTS:
        raise CannotFeed(f"input {port.name!r} would have {math.prod(shape)} elements")
    return shape


def _random(port: onnx.ValueInfoProto, shape: tuple[int, ...], recipe: _Recipe, use: _Use | None) -> np.ndarray:
    element = port.type.tensor_type.elem_type
    if element == TensorProto.STRING:
        raise CannotFeed(f"input {port.name!r} holds strings")
    if element not in _KNOWN_TYPES:
        raise CannotFeed(f"input {port.name!r} has an element type that cannot be fed")
    dtype = helper.tensor_dtype_to_np_dtype(element)
    random = np.random.default_rng([recipe.seed, zlib.crc32(port.name.encode()), recipe.place])
    if element == TensorProto.BOOL:
        return _bools(random, shape, recipe.place)
    if use is not None and use.ones:
        return np.ones(shape, dtype=dtype)
    if dtype.kind in "iu":
        return _integers(random, shape, dtype, use.below if use is not None else None, recipe.integers)
    return _floats(random, shape, recipe.distribution, complex_=dtype.kind == "c").astype(dtype)


def _bools(random: np.random.Generator, shape: tuple[int, ...], place: int) -> np.ndarray:
    if place < 2:
        return np.full(shape, place == 0)
    return random.integers(0, 2, size=shape).astype(np.bool_)


def _integers(
    random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[np.generic], below: int | None, small: int
) -> np.ndarray:
    if below is not None:
        return random.integers(0, max(below, 1), size=shape).astype(dtype)
    # Small ones are tried last (`integers` is lowered then): a byte that is an index after all.
    if dtype.itemsize == 1 and small == _SMALL_INTEGERS:
        return random.integers(0, 256, size=shape).astype(np.uint8).view(dtype)
    return random.integers(0, small, size=shape).astype(dtype)


def _floats(
    random: np.random.Generator, shape: tuple[int, ...], distribution: Distribution, *, complex_: bool
) -> np.ndarray:
    values = random.random(shape) if distribution == "uniform" else random.standard_normal(shape)
    scaled = values * (4.0 if distribution == "wide" else 1.0)
    return scaled + 1j * random.standard_normal(shape) if complex_ else np.asarray(scaled)


_KNOWN_TYPES: Final = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.UINT8,
        TensorProto.INT8,
        TensorProto.UINT16,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.UINT32,
        TensorProto.UINT64,
        TensorProto.COMPLEX64,
        TensorProto.COMPLEX128,
        TensorProto.BFLOAT16,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
    }
)


@dataclass(frozen=True, slots=True)
class _Use:
    """What the readers of an input make of it: an index below a dimension, or something that ones suit."""

    below: int | None
    ones: bool


class _Readers:
    """Who reads each name, in the main graph and in nested ones (a shadowed name is taken for the outer one)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        self._lengths: dict[str, tuple[int, ...]] = {}
        pending = [model.graph]
        while pending:
            graph = pending.pop()
            self._lengths.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
            for port in (*graph.input, *graph.value_info):
                if port.name not in self._lengths and port.type.tensor_type.HasField("shape"):
                    self._lengths[port.name] = tuple(dim.dim_value or -1 for dim in _dims(port))
            for node in graph.node:
                for place, name in enumerate(node.input):
                    self._readers[name].append((node, place))
                pending.extend(_bodies(node))
                self._lengths.update(_constant_lengths(node))

    def use(self, name: str) -> _Use | None:
        """What is known of an input's readers, through operators that hand its integers on; None if nothing is."""
        below: list[int] = []
        seen: set[str] = set()
        pending = [name]
        ones = False
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            for node, place in self._readers.get(current, ()):
                ones = ones or place >= _ONES_FROM.get(node.op_type, 1 << 30)
                if node.op_type in _CARRIERS and place == 0:
                    pending.extend(node.output)
                if node.op_type in _INDEXING and place == 1:
                    below.extend(self._indexed(node))
        if not below and not ones:
            return None
        return _Use(below=min(below, default=None), ones=ones and not below)

    def _indexed(self, node: onnx.NodeProto) -> Iterator[int]:
        lengths = self._lengths.get(node.input[0])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type == "ArrayFeatureExtractor":
            axis = -1
        if lengths is not None and -len(lengths) <= axis < len(lengths) and lengths[axis] > 0:
            yield lengths[axis]


def _constant_lengths(node: onnx.NodeProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    if node.op_type != "Constant" or not node.output:
        return
    for attribute in node.attribute:
        if attribute.name == "value":
            yield node.output[0], tuple(attribute.t.dims)
        elif attribute.name in {"value_ints", "value_floats"}:
            yield node.output[0], (len(attribute.ints) or len(attribute.floats),)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
