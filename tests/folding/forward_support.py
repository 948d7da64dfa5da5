"""Layers that read an affine's output, and what holds of every affine that goes forward into them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from folding_draws import Array, Kind, arrays
from folding_support import HALF_UNIT, Folded, proven
from hypothesis import strategies as st

from bnfold.equality.certificate import certify
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.result import claims, mergings


def forward(before: onnx.ModelProto, feeds: Mapping[str, Array], fan_in: int, *, moves: int = 1) -> Folded:
    """A fold in which every affine goes forward: proven by running, by the certificate, and by folding again."""
    done = proven(before, feeds, fan_in)
    assert [move.is_forward for move in done.plan.moves] == [True] * moves
    certified(before, done)
    return done


def certified(before: onnx.ModelProto, done: Folded) -> None:
    """The certificate of a fold holds."""
    said = claims(done.plan), mergings(done.plan)
    checked = certify(Graph.of(read(before)), Graph.of(read(done.bytes)), *said)
    assert (checked.failure, checked.uncertain) == (None, None)


def rounded_once(new: Array, exact: Array, sizes: Array) -> bool:
    """Whether numbers are float64 sums of terms of these sizes in all, rounded once to their type."""
    error = HALF_UNIT[np.dtype(new.dtype)] * np.abs(exact) + 2.0**-45 * sizes
    least = np.finfo(new.dtype).smallest_subnormal
    return new.shape == exact.shape and bool(np.all(np.abs(new.astype(np.float64) - exact) <= error + least))


@dataclass(slots=True)
class Layer:
    """A layer as text in which `{x}` is its data; `channel` has the channel of the data for each of its weights.

    `cell` has the output for each weight. `sees_all`: whether each output is a sum over all weights of its own.
    """

    text: str
    tensors: dict[str, Array]
    shape: tuple[int, ...]
    axis: int
    channel: Array
    cell: Array
    sees_all: bool
    fan_in: int
    op: str
    factor: float = 1.0
    bias: tuple[Array, ...] = field(default=())

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def weight(self) -> Array:
        return next(iter(self.tensors.values()))

    def exact_weight(self, scale: Array) -> Array:
        """Each weight times the scale of its channel, in float64."""
        return self.weight.astype(np.float64) * np.broadcast_to(scale, (self.channels,))[self.channel]

    def added(self, shift: Array) -> tuple[Array, Array]:
        """What a shift of the data adds to each output, and the sizes of its terms."""
        weight, cell = self.weight.astype(np.float64), np.broadcast_to(self.cell, self.weight.shape)
        terms = weight * np.broadcast_to(shift, (self.channels,))[self.channel] * self.factor
        sums = [np.bincount(cell.ravel(), part.ravel(), int(cell.max()) + 1) for part in (terms, np.abs(terms))]
        return sums[0], sums[1]


def pads_anything(how: str, kernel: list[int], step: list[int], extents: list[int], width: list[int]) -> bool:
    """Whether a window of a Conv without dilations reads something that is not there, place by place."""
    if not how.startswith("SAME"):
        return any(width)
    begins = [range(0, n, s) for n, s in zip(extents, step, strict=True)]  # ceil(n / s) of them
    return any(n < r[-1] + k for n, r, k in zip(extents, begins, kernel, strict=True))


def shape_of(kernel: list[int]) -> st.SearchStrategy[str]:
    """The attribute that says again what the weight says, or nothing."""
    return st.sampled_from(["", f", kernel_shape = {kernel}"])


@st.composite
def convolutions(
    draw: st.DrawFn, kind: Kind, *, like: Layer | None = None, prefix: str = "", pads: bool | None = None
) -> Layer:
    """A Conv of 1 to 3 dimensions in groups, padded in every way there is, or of the data that another one reads."""
    inputs = like.channels if like else draw(st.sampled_from([2, 3, 4, 6]))
    group = draw(st.sampled_from([g for g in (1, 2, 3, 6) if inputs % g == 0]))
    outputs, dims = group * draw(st.integers(1, 3)), len(like.shape) - 2 if like else draw(st.integers(1, 3))
    kernel, spread, step = ([draw(st.integers(1, most)) for _ in range(dims)] for most in (3, 2, 2))
    extents = list(like.shape[2:]) if like else [draw(st.integers(5, 7)) for _ in range(dims)]
    how = draw(st.sampled_from(["", "pads = 0", "VALID", "pads", "SAME_UPPER", "SAME_LOWER"]))
    if pads is False:
        how = draw(st.sampled_from(["", "pads = 0", "VALID"]))
    auto = how in {"VALID", "SAME_UPPER", "SAME_LOWER"}
    if how.startswith("SAME"):
        spread = [1] * dims  # onnxruntime 1.31 and others disagree about SAME with dilations
        step = [draw(st.integers(1, 3)) for _ in range(dims)]
    width = [0] * 2 * dims if how != "pads" else [draw(st.integers(0, 2)) for _ in range(2 * dims)]
    written = f"group = {group}, strides = {step}, dilations = {spread}" + draw(shape_of(kernel))
    written += f', auto_pad = "{how}"' if auto else f", pads = {width}" if how else ""
    weight = draw(arrays((outputs, inputs // group, *kernel), kind.data))
    tensors = {f"{prefix}W": weight}
    if draw(st.booleans()):
        tensors[f"{prefix}b"] = draw(arrays((outputs,), kind.data))
    of_group = np.arange(outputs)[:, None] // (outputs // group) * (inputs // group)
    channel = (of_group + np.arange(inputs // group)).reshape(outputs, -1, *[1] * dims)
    return Layer(
        f"Conv <{written}> ({{x}}, {', '.join(tensors)})", tensors, (2, inputs, *extents), 1,
        channel=np.broadcast_to(channel, weight.shape), cell=np.arange(outputs).reshape(-1, *[1] * (dims + 1)),
        sees_all=not pads_anything(how, kernel, step, extents, width), op="Conv",
        fan_in=math.prod(weight.shape[1:]),
    )  # fmt: skip


@st.composite
def transposed(draw: st.DrawFn, kind: Kind) -> Layer:
    """A ConvTranspose, half of them cut off so far that every output sees every tap."""
    inputs = draw(st.sampled_from([2, 3, 4]))
    group = draw(st.sampled_from([g for g in (1, 2, 3) if inputs % g == 0]))
    each, dims = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel, spread = ([draw(st.integers(1, most)) for _ in range(dims)] for most in (3, 2))
    reach = [(size - 1) * far for size, far in zip(kernel, spread, strict=True)]
    step, pads, more = [1] * dims, reach + reach, [0] * dims
    if draw(st.booleans()):
        step = [draw(st.integers(1, 2)) for _ in range(dims)]
        pads = [draw(st.integers(0, far)) for far in reach + reach]
        more = [draw(st.integers(0, one - 1)) for one in step]
    whole = step == [1] * dims and pads == reach + reach
    written = f"group = {group}, strides = {step}, dilations = {spread}, pads = {pads}" + draw(shape_of(kernel))
    written += f", output_padding = {more}" if any(more) else ""
    weight = draw(arrays((inputs, each, *kernel), kind.data))
    tensors = {"W": weight, **({"b": draw(arrays((each * group,), kind.data))} if draw(st.booleans()) else {})}
    channel = np.arange(inputs).reshape(-1, *[1] * (dims + 1))
    cell = (np.arange(inputs)[:, None] // (inputs // group) * each + np.arange(each)).reshape(inputs, each, *[1] * dims)
    return Layer(
        f"ConvTranspose <{written}> ({{x}}, {', '.join(tensors)})", tensors,
        (2, inputs, *[draw(st.integers(5, 6)) for _ in range(dims)]), 1, op="ConvTranspose",
        channel=np.broadcast_to(channel, weight.shape), cell=cell, sees_all=whole,
        fan_in=inputs // group * math.prod(kernel),
    )  # fmt: skip


@st.composite
def gemms(draw: st.DrawFn, kind: Kind, prefix: str = "", like: Layer | None = None) -> Layer:
    """A Gemm with its constant on either side, transposed or not, alpha, beta, and C of every shape, or none."""
    rows, terms, columns = (draw(st.integers(1, 4)) for _ in range(3))
    right = draw(st.booleans()) if like is None else True
    rows, terms = like.shape if like else (rows, terms)
    trans = [draw(st.integers(0, 1)) * (like is None), draw(st.integers(0, 1))]
    alpha, beta = (draw(st.sampled_from([1.0, 0.5, -2.0])) for _ in range(2))
    shapes = [(rows, terms), (terms, columns)]
    a, b = (shape[::-1] if swap else shape for shape, swap in zip(shapes, trans, strict=True))
    weight = draw(arrays(b if right else a, kind.data))
    tensors, name = {f"{prefix}W": weight}, f"{prefix}C"
    operands = f"{{x}}, {prefix}W" if right else f"{prefix}W, {{x}}"
    none = [None] if kind.opset >= 11 else []
    form = draw(st.sampled_from([*none, (), (1,), (columns,), (1, columns), (rows, 1), (rows, columns), (1, 1)]))
    if form is not None:
        tensors[name] = draw(arrays(form, kind.data))
        operands += f", {name}"
    written = f"alpha = {alpha}, beta = {beta}, transA = {trans[0]}, transB = {trans[1]}"
    inner, outer = (np.arange(weight.shape[0])[:, None], np.arange(weight.shape[1])[None, :])
    own_is_last = bool(trans[1]) if right else not trans[0]  # whether the summed axis is the weight's last
    channel, cell = (outer, inner) if own_is_last else (inner, outer)
    return Layer(
        f"Gemm <{written}> ({operands})", tensors, a if right else b,
        axis=(0 if trans[0] else 1) if right else (1 if trans[1] else 0), op="Gemm",
        channel=np.broadcast_to(channel, weight.shape), cell=cell, sees_all=True, fan_in=terms, factor=alpha,
    )  # fmt: skip


@st.composite
def matmuls(draw: st.DrawFn, kind: Kind) -> Layer:
    """A MatMul with its constant on either side; data of rank 2 to 4, the constant a matrix or a batch of them."""
    rows, terms, columns = (draw(st.integers(1, 4)) for _ in range(3))
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    own = tuple(draw(st.sampled_from([1, d])) for d in batch[draw(st.integers(0, len(batch))) :])
    right = draw(st.booleans())
    weight = draw(arrays((*own, *((terms, columns) if right else (rows, terms))), kind.data))
    shape = (*batch, *((rows, terms) if right else (terms, columns)))
    inner = np.arange(terms)[:, None] if right else np.arange(terms)[None, :]
    cell = np.arange(columns)[None, :] if right else np.arange(rows)[:, None]
    return Layer(
        "MatMul ({x}, W)" if right else "MatMul (W, {x})", {"W": weight}, shape,
        axis=len(shape) - (1 if right else 2), op="MatMul",
        channel=np.broadcast_to(inner, weight.shape), cell=cell, sees_all=not own, fan_in=terms,
    )  # fmt: skip
