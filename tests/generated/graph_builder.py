"""What random graphs are made of: values with their real shapes, constants, nodes, nested graphs, by one seed.

A value is drawn with the shape that it has when it is run, whatever the file says of it; its channels lie along `axis`.
Between two blocks it is an image (N, C, ...), rows (N, C) or tokens (N, T, C).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
IMAGE, ROWS, TOKENS = "image", "rows", "tokens"


class Unfit(Exception):
    """A block that cannot stand here: it is left out."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A value: its name, its shape when it is run, and the axis of its channels."""

    name: str
    shape: tuple[int, ...]
    axis: int = 1

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def as_(self, name: str, *shape: int, axis: int | None = None) -> Flow:
        return Flow(name, shape or self.shape, self.axis if axis is None else axis)


@dataclass(slots=True)
class Scope:
    """A graph or the body of a function in the making; the latter, or an old nested one, holds constants in nodes."""

    is_function: bool = False
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Form:
    """What is drawn once for a graph: types of data and statistics, opset, spatial axes, version of the file."""

    data: type
    statistics: type
    opset: int
    spatial: int
    ir: int


class Builder:
    """One graph in the making. Every block has random numbers of its own, so that it stays as it is without another."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.rng = np.random.default_rng(0)
        self.scope = Scope()
        self.outer: list[Scope] = []
        self.functions: list[onnx.FunctionProto] = []
        self.outputs: list[str] = []
        self.prefix = ""
        self._count = 0
        self._held: dict[tuple[str, tuple[int, ...], str], str] = {}

    def so_far(self) -> tuple[object, ...]:
        """What there is, to come back to."""
        made = self.scope.nodes, self.scope.tensors, self.functions, self.outputs
        return self.form, dict(self._held), *(list(part) for part in made)

    def back_to(self, before: tuple[object, ...]) -> None:
        """Take back all that was made since."""
        self.form, self._held, *made = before
        self.scope, self.outer = (self.outer[0] if self.outer else self.scope), []
        self.scope.nodes, self.scope.tensors, self.functions, self.outputs = made

    @property
    def opset(self) -> int:
        return self.form.opset

    def begin(self, number: int, seed: Sequence[int]) -> None:
        """Another block, whose names and random numbers depend on no other."""
        self.rng, self.prefix, self._count = np.random.default_rng(seed), f"b{number}_", 0

    # --- drawing ----------------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, *choices):  # type: ignore[no-untyped-def]  # any of them
        return choices[int(self.rng.integers(len(choices)))]

    def between(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def normal(self, *shape: int, fan_in: int = 1) -> NDArray[np.float64]:
        return self.rng.standard_normal(shape) / np.sqrt(fan_in)

    def away(self, low: float, high: float, *shape: int, signs: bool = True) -> NDArray[np.float64]:
        """Numbers of a size between two others, of either sign."""
        size = self.rng.uniform(low, high, shape)
        return size * self.rng.choice([-1.0, 1.0], shape) if signs else size

    # --- making -----------------------------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{self.prefix}{stem.lower()}{self._count}"

    def floats(self, array: Array, stem: str = "k") -> str:
        """A constant of the type of the data; now and then one of that role that is there already, or an expression."""
        return self.constant(np.asarray(array).astype(self.form.data), stem, plain=False)

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), "i")

    def constant(self, array: Array, stem: str = "k", *, plain: bool = True) -> str:
        """A constant of its own type, as an initializer, or (not `plain`) now and then in another form."""
        key, form = (stem, array.shape, array.dtype.name), self.rng.random()
        sealed = any(scope.is_function for scope in (self.scope, *self.outer))
        if not plain and form < 0.04 and key in self._held and not sealed:
            return self._held[key]
        name = self.name(stem)
        tensor = numpy_helper.from_array(np.array(array, order="C"), name)
        if self.scope.is_function or (not plain and form > 0.92):
            self.scope.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            return name
        self.scope.tensors.append(tensor)
        if not self.outer:
            self._held[key] = name
        return self.node("Identity", name) if not plain and form > 0.88 else name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """A node of one output."""
        return self.nodes(op, *inputs, count=1, domain=domain, **attributes)[0]

    def nodes(self, op: str, *inputs: str, count: int, domain: str = "", **attributes: object) -> list[str]:
        """A node of several outputs."""
        named = [self.name(op) for _ in range(count)]
        made = helper.make_node(op, list(inputs), named, name=f"n_{named[0]}", domain=domain, **attributes)
        self.scope.nodes.append(made)
        return named

    @contextmanager
    def inside(self, *, function: bool = False) -> Iterator[Scope]:
        """What is made meanwhile stands in another graph, or in the body of a function."""
        self.outer, self.scope = [*self.outer, self.scope], Scope(function or self.form.ir < 4)
        try:
            yield self.scope
        finally:
            *self.outer, self.scope = self.outer

    def graph(self, scope: Scope, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[str]) -> GraphProto:
        """A nested graph; its outputs are of the type of the data, unless told otherwise."""
        return helper.make_graph(
            scope.nodes, self.name("graph"), list(inputs), [self.port(name) for name in outputs], scope.tensors
        )

    def port(
        self, name: str, element: int | None = None, shape: Sequence[int | str] | None = None
    ) -> onnx.ValueInfoProto:
        """A named value of a type; without a shape nothing is said of that."""
        return helper.make_tensor_value_info(name, self.element if element is None else element, shape)

    @property
    def element(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.form.data)))

    # --- layouts ----------------------------------------------------------------------------------------------------

    def upright(self, x: Flow) -> Flow:
        """The same value with its channels on axis 1, or last for tokens."""
        if x.axis == 1 or (x.rank == 3 and x.axis == 2):
            return x
        order = [i for i in range(x.rank) if i != x.axis]
        order.insert(1, x.axis)
        return Flow(self.node("Transpose", x.name, perm=order), tuple(x.shape[i] for i in order))

    def to(self, kind: str, x: Flow) -> Flow:
        """The same value as an image, as rows or as tokens."""
        if kind == self.kind(x):
            return x
        if kind == ROWS:
            return self._rows(x)
        if kind == TOKENS:
            return self._tokens(x)
        return self._image(x)

    def kind(self, x: Flow) -> str:
        if x.rank == 2 and x.axis == 1:
            return ROWS
        if x.rank == 3 and x.axis == 2:
            return TOKENS
        return IMAGE if x.axis == 1 and x.rank == self.form.spatial + 2 else ""

    def _rows(self, x: Flow) -> Flow:
        if x.rank == 3 and x.axis == 2:
            return Flow(
                self.node("Reshape", x.name, self.integers(-1, x.channels)), (x.shape[0] * x.shape[1], x.channels)
            )
        x = self.upright(x)
        if x.rank == 2:
            return x
        pooled = self.reduced("ReduceMean", x.name, range(2, x.rank), keepdims=0)
        return Flow(pooled, x.shape[:2])

    def _tokens(self, x: Flow) -> Flow:
        x = self.upright(x)
        if x.rank == 2:
            return Flow(self.unsqueezed(x.name, 1), (x.shape[0], 1, x.shape[1]), 2)
        flat = self.node("Reshape", x.name, self.integers(0, 0, -1))
        places = int(np.prod(x.spatial))
        return Flow(self.node("Transpose", flat, perm=[0, 2, 1]), (x.shape[0], places, x.channels), 2)

    def _image(self, x: Flow) -> Flow:
        """By a projection: a Gemm or MatMul would not know its size otherwise."""
        if self.form.data is np.float64:
            raise Unfit  # nothing convolves it
        rows, spatial = self._rows(x), self.form.spatial
        side = {1: 6, 2: 3, 3: 2}[spatial]
        count = side**spatial * 3
        weight = self.floats(self.normal(rows.channels, count, fan_in=rows.channels))
        wide = self.node("MatMul", rows.name, weight)
        shape = (3, *[side] * spatial)
        return Flow(self.node("Reshape", wide, self.integers(-1, *shape)), (rows.shape[0], *shape))

    # --- what changed its form between opsets -----------------------------------------------------------------------

    def unsqueezed(self, name: str, *axes: int) -> str:
        return self._with_axes("Unsqueeze", name, axes)

    def squeezed(self, name: str, *axes: int) -> str:
        return self._with_axes("Squeeze", name, axes)

    def _with_axes(self, op: str, name: str, axes: Sequence[int]) -> str:
        if self.opset < 13:
            return self.node(op, name, axes=list(axes))
        return self.node(op, name, self.integers(*axes))

    def reduced(self, op: str, name: str, axes: Sequence[int], keepdims: int) -> str:
        since = 13 if op == "ReduceSum" else 18
        if self.opset < since:
            return self.node(op, name, axes=list(axes), keepdims=keepdims)
        return self.node(op, name, self.integers(*axes), keepdims=keepdims)

    def wall(self, x: Flow) -> Flow:
        """What lets nothing through."""
        return replace(x, name=self.node(self.pick("Sigmoid", "Tanh", "Sigmoid"), x.name))
