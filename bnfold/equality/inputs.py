"""The inputs on which two models are compared: random ones that exercise a network, or the user's own data.

Three distributions, for one alone is blind somewhere: N(0,1); 4*N(0,1), which reaches the knee of Relu6; U[0,1), what
images look like. Numbers must suit their readers (readers.py): an index stays below the dimension it indexes, a shape
is the declared one, a divisor is not zero; a byte takes all its values. Everything hangs on the seed, the input's name
and the batch, on nothing else.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from onnx import TensorProto, helper

from bnfold.equality.readers import Readers, Use
from bnfold.equality.stated_sizes import name_of, stated_sizes
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

Distribution = Literal["normal", "wide", "uniform"]

DISTRIBUTIONS: Final[tuple[Distribution, ...]] = ("normal", "wide", "uniform")
# Sizes of dimensions that are free and stated nowhere: 1 and 2 first; the others, in order, only while onnxruntime
# accepts none. The last ones are usual sizes of images.
FILLS: Final = ((2, 1), (8,), (16,), (32,), (64,), (224,), (28,), (96,), (128,), (256,), (299,))
_MOST_ELEMENTS: Final = 1 << 28
_MANY: Final = 8  # from here on images are few
_FEW_IMAGES: Final = 2
_RANK_OF_IMAGES: Final = 4
_FEW_NAMES: Final = 4  # in a sentence
_SMALL_INTEGERS: Final = 8
_FARTHEST: Final = (1 << 31) - 1  # where a Slice may end, whatever is sliced
# What a caller may feed by numpy; others (strings, sequences, 4 bits) come from the user's data or not at all.
FED_TYPES: Final = frozenset(
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


class CannotFeed(ValueError):
    """An input for which no value can be made up; the sentence says which and why."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Feeds for one run of both models, by input name; `labels` are N integer classes if the data had any.

    `notes` are remarks about the data, such as samples that were left out. `shipped` are outputs that came with the
    data, by output name.
    """

    label: str
    feeds: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    shipped: Mapping[str, np.ndarray] | None = None


def random_batches(
    model: onnx.ModelProto,
    *,
    seed: int,
    dims: Mapping[str, int],
    fills: tuple[int, ...] = (2, 1),
    integers: int = _SMALL_INTEGERS,
) -> tuple[Batch, ...]:
    """Batches of random feeds for the inputs of `model` that are no initializers.

    A symbolic dimension is `dims[name]`, or else what the model states of it, or else the first of `fills` in three
    batches, one for each distribution, and each further one of `fills` in one batch more. Integers of no known meaning
    stay below `integers`; if that is 1, those of a known meaning are the least that they may be. The first batch holds
    true in every bool input, the second false. A model that is fed nothing gets one empty batch.

    Raises `CannotFeed` for an input that is no tensor, holds strings, or has no known rank, and `UsageError` for a
    name in `dims` that no input has.
    """
    ports = fed_inputs(model)
    check_dims(model, dims)
    if not ports:
        return (Batch(label="no inputs", feeds={}),)
    readers = Readers(model)
    known = {**stated_sizes(model, ports, dims), **dims}
    free = any(name not in known for name in free_dims(model))
    sizes = [(fills[0], distribution) for distribution in DISTRIBUTIONS]
    if free:
        sizes.extend((fill, DISTRIBUTIONS[0]) for fill in fills[1:])
    recipes = tuple(_Recipe(seed, place, *size, integers) for place, size in enumerate(sizes))
    return tuple(
        Batch(
            label=f"{recipe.distribution}, free dimensions {recipe.fill}" if free else recipe.distribution,
            feeds=_drawn(ports, known, recipe, readers),
        )
        for recipe in recipes
    )


def free_dims(model: onnx.ModelProto) -> tuple[str, ...]:
    """The dimensions of inputs that the model gives no length, by name; `x[1]` is one of x that has none."""
    found = ((port, axis) for port in fed_inputs(model) for axis, dim in enumerate(_dims(port)) if not _is_fixed(dim))
    return tuple(dict.fromkeys(name_of(port, axis) for port, axis in found))


def has_free_dims(model: onnx.ModelProto, dims: Mapping[str, int]) -> bool:
    """Whether an input has a dimension that neither the model nor `dims` gives a length."""
    return any(name not in dims for name in free_dims(model))


def advised(model: onnx.ModelProto, dims: Mapping[str, int]) -> str:
    """What a user can do where sizes were guessed and none fits; begins with a space, empty where none was."""
    ports = fed_inputs(model)
    known = {**stated_sizes(model, ports, dims), **dims}
    guessed = [name for name in free_dims(model) if name not in known]
    if not guessed:
        return ""
    names = ", ".join(guessed[:_FEW_NAMES]) + (" and others" if len(guessed) > _FEW_NAMES else "")
    return f" (the size of {names} was guessed; --dim {guessed[0]}=SIZE, in Python dims=, gives one)"


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


def _drawn(
    ports: tuple[onnx.ValueInfoProto, ...], dims: Mapping[str, int], recipe: _Recipe, readers: Readers
) -> dict[str, np.ndarray]:
    lengths = dict(dims)
    for port in ports:
        for axis, dim in enumerate(_dims(port)):
            if not _is_fixed(dim):
                lengths.setdefault(name_of(port, axis), _length(port, axis, recipe.fill))
    return {port.name: _random(port, _shape(port, lengths), recipe, readers.use(port.name, lengths)) for port in ports}


def _length(port: onnx.ValueInfoProto, axis: int, fill: int) -> int:
    """The length of a dimension of which nothing is known: images are large, or many, and not both."""
    is_batch = axis == 0 and len(_dims(port)) >= _RANK_OF_IMAGES
    return min(fill, _FEW_IMAGES) if is_batch and fill > _MANY else fill


def _is_fixed(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return bool(dim.HasField("dim_value") and dim.dim_value >= 0)


def check_dims(model: onnx.ModelProto, dims: Mapping[str, int]) -> None:
    """Raise `UsageError` for a dimension that no input has, or that cannot be so long."""
    ports = fed_inputs(model)
    known = {*free_dims(model), *(dim.dim_param for port in ports for dim in _dims(port) if dim.dim_param)}
    for name, length in dims.items():
        if name not in known:
            held = ", ".join(map(repr, sorted(known))) or "none"
            raise UsageError(f"no input has a dimension called {name!r}; the symbolic dimensions are: {held}")
        if length < 1:
            raise UsageError(f"the dimension {name!r} cannot be {length}")


def _dims(port: onnx.ValueInfoProto) -> tuple[onnx.TensorShapeProto.Dimension, ...]:
    return tuple(port.type.tensor_type.shape.dim)


def _shape(port: onnx.ValueInfoProto, lengths: Mapping[str, int]) -> tuple[int, ...]:
    if not port.type.HasField("tensor_type"):
        raise CannotFeed(f"input {port.name!r} is no tensor")
    if not port.type.tensor_type.HasField("shape"):
        raise CannotFeed(f"input {port.name!r} declares no rank")
    shape = tuple(
        dim.dim_value if _is_fixed(dim) else lengths[name_of(port, axis)] for axis, dim in enumerate(_dims(port))
    )
    if math.prod(shape) > _MOST_ELEMENTS:
        raise CannotFeed(f"input {port.name!r} would have {math.prod(shape)} elements, {list(shape)}")
    return shape


def _random(port: onnx.ValueInfoProto, shape: tuple[int, ...], recipe: _Recipe, use: Use | None) -> np.ndarray:
    element = port.type.tensor_type.elem_type
    if element == TensorProto.STRING:
        raise CannotFeed(f"input {port.name!r} holds strings")
    if element not in FED_TYPES:
        raise CannotFeed(f"input {port.name!r} has an element type that cannot be fed")
    dtype = helper.tensor_dtype_to_np_dtype(element)
    random = np.random.default_rng([recipe.seed, zlib.crc32(port.name.encode()), recipe.place])
    if use is not None and _applies(use, dtype):
        return _meant(random, shape, use, least=recipe.integers == 1).astype(dtype)
    if element == TensorProto.BOOL:
        return _bools(random, shape, recipe.place)
    if dtype.kind in "iu":
        return _integers(random, shape, dtype, recipe.integers)
    drawn = _floats(random, shape, recipe.distribution, complex_=dtype.kind == "c").astype(dtype)
    return np.abs(drawn) if use is not None and use.kind == "spread" else drawn  # no variance is negative


def _applies(use: Use, dtype: np.dtype[np.generic]) -> bool:
    """Whether a meaning is one for values of this type: a bool is no length, and a float divisor need not be whole."""
    if dtype.kind == "b":
        return use.kind == "zeros"
    return {"positive": dtype.kind in "iu", "spread": False}.get(use.kind, True)


def _meant(random: np.random.Generator, shape: tuple[int, ...], use: Use, *, least: bool) -> np.ndarray:
    """Numbers that suit what is made of them; `least`: the smallest of their kind."""
    count = math.prod(shape)
    longest = max(use.numbers, default=1)
    if use.kind == "index":
        return random.integers(0, max(longest, 1), size=shape)
    if use.kind == "positive":
        return random.integers(1, _SMALL_INTEGERS, size=shape)
    if use.kind == "lengths":
        drawn = random.integers(1, longest + 1, size=shape)
        drawn.reshape(-1)[:1] = longest  # no step of the longest is left out
        return drawn
    if use.kind == "ends" and not least:
        return np.full(shape, _FARTHEST, dtype=np.int64)
    if use.kind == "count" and not least:
        return np.full(shape, 2)
    return np.resize(_vector(use, count), shape)


def _vector(use: Use, count: int) -> np.ndarray:
    """`count` numbers that belong together."""
    if use.kind == "zeros":
        return np.zeros(max(count, 1), dtype=np.int64)
    if use.kind == "axes":
        return np.array((*use.numbers, *range(len(use.numbers), count)), dtype=np.int64)
    if use.kind == "dims" and len(use.numbers) in (0, count):
        return np.array(use.numbers or (-1, *(1,) * (count - 1)), dtype=np.int64)
    if use.kind == "parts" and count:
        length = max(use.numbers, default=count)
        return np.array([length // count + (place < length % count) for place in range(count)], dtype=np.int64)
    return np.ones(max(count, 1), dtype=np.int64)


def _bools(random: np.random.Generator, shape: tuple[int, ...], place: int) -> np.ndarray:
    if place < 2:
        return np.full(shape, place == 0)
    return random.integers(0, 2, size=shape).astype(np.bool_)


def _integers(
    random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[np.generic], small: int
) -> np.ndarray:
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
