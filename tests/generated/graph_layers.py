"""Layers with constant weights, as random graphs have them: what absorbs an affine behind it or of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from graph_builder import IMAGE, ROWS, TOKENS, Builder, Flow, Unfit

Make = Callable[[Builder, Flow, bool], Flow]


@dataclass(frozen=True, slots=True)
class Layer:
    """How one is made of a value and of whether every output has to see every tap, what it reads, and since when."""

    make: Make
    kinds: tuple[str, ...]
    since: int = 7
    types: tuple[type, ...] = (np.float32, np.float16, np.float64)


LAYERS: dict[str, Layer] = {}
NOT_DOUBLE = (np.float32, np.float16)
SINGLE = (np.float32,)


def _layer(
    op: str, *kinds: str, since: int = 7, types: tuple[type, ...] = (np.float32, np.float16, np.float64)
) -> Callable[[Make], Make]:
    def decorate(function: Make) -> Make:
        LAYERS[op] = Layer(function, kinds, since, types)
        return function

    return decorate


def layer(g: Builder, x: Flow, *, sees_all: bool = False, op: str = "") -> Flow:
    """A value behind one layer: a given one, or any that reads what is there."""
    if op and g.form.data not in LAYERS[op].types:
        raise Unfit  # onnxruntime has no kernel of that type
    if op:
        return LAYERS[op].make(g, x if g.kind(x) in LAYERS[op].kinds else g.to(LAYERS[op].kinds[0], x), sees_all)
    kind = g.kind(x) or g.kind(g.upright(x))
    return LAYERS[str(g.pick(*_usual(g, kind)))].make(g, g.upright(x), sees_all)


def _usual(g: Builder, kind: str) -> list[str]:
    if kind == ROWS:
        return ["Gemm", "Gemm", "MatMul"]
    if kind == TOKENS:
        return ["MatMul", "MatMul"] + ["Einsum"] * (g.opset >= 12)
    if g.form.data is np.float64:
        raise Unfit
    return ["Conv"] * 6 + ["ConvTranspose"]


def same(g: Builder, x: Flow, out: int, *, bias: bool | None = None, kernel: int = 0) -> Flow:
    """A layer that keeps every size but that of the channels."""
    kind = g.kind(x)
    if kind in {ROWS, TOKENS}:
        return _dense(g, x, out, bias=g.chance(0.5) if bias is None else bias)
    if g.form.data is np.float64 or kind != IMAGE:
        raise Unfit
    size = kernel or int(g.pick(1, 3))
    return convolution(g, x, out, kernel=(size,) * len(x.spatial), pads=size // 2, bias=bias)


def _dense(g: Builder, x: Flow, out: int, *, bias: bool) -> Flow:
    made = x.as_(
        g.node("MatMul", x.name, g.floats(g.normal(x.channels, out, fan_in=x.channels), "w")), *x.shape[:-1], out
    )
    return made.as_(g.node("Add", made.name, g.floats(g.normal(out), "b"))) if bias else made


def convolution(  # noqa: PLR0913  # what a convolution is made of
    g: Builder, x: Flow, out: int, *, kernel: tuple[int, ...], pads: int = 0, stride: int = 1, dilation: int = 1,
    group: int = 1, bias: bool | None = None, weight: str = "",
) -> Flow:  # fmt: skip
    """A Conv as asked for; with a bias or without where that is left open."""
    shape = (out, x.channels // group, *kernel)
    fan = int(np.prod(shape[1:]))
    names = [weight or g.floats(g.normal(*shape, fan_in=fan), "w")]
    if g.chance(0.6) if bias is None else bias:
        names.append(g.floats(g.normal(out), "b"))
    count = len(kernel)
    attributes: dict[str, object] = {"kernel_shape": list(kernel)} if g.chance(0.7) else {}
    written = {"pads": (pads, 2 * count, 0), "strides": (stride, count, 1), "dilations": (dilation, count, 1)}
    attributes |= {
        name: [value] * length for name, (value, length, usual) in written.items() if value != usual or g.chance(0.2)
    }
    if group != 1:
        attributes["group"] = group
    sizes = [(n + 2 * pads - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.spatial, kernel, strict=True)]
    if min(sizes) < 1:
        raise Unfit
    return x.as_(g.node("Conv", x.name, *names, **attributes), x.shape[0], out, *sizes)


@_layer("Conv", IMAGE, types=NOT_DOUBLE)
def conv(g: Builder, x: Flow, sees_all: bool) -> Flow:
    """Plain, in groups or depthwise, padded or not, with strides and dilations, or padded on its own."""
    count, smallest = len(x.spatial), min(x.spatial)
    size = int(g.pick(1, 2, 3)) if smallest >= 3 else 1
    group = int(g.pick(*[d for d in (1, 1, 2, 3, x.channels) if x.channels % d == 0]))
    out = group * g.between(1, max(1, 6 // group))
    if (not sees_all or size == 1) and g.chance(0.15):
        made = g.floats(g.normal(out, x.channels // group, *[size] * count, fan_in=size**count * x.channels), "w")
        attributes = {"auto_pad": g.pick("SAME_UPPER", "SAME_LOWER"), "group": group, "kernel_shape": [size] * count}
        return x.as_(g.node("Conv", x.name, made, **attributes), x.shape[0], out, *x.spatial)
    pads = 0 if sees_all else int(g.pick(0, size // 2, 1 if size > 1 else 0))
    dilation = 2 if size > 1 and smallest + 2 * pads > 2 * (size - 1) + 1 and g.chance(0.15) else 1
    stride = 2 if smallest + 2 * pads - dilation * (size - 1) > 3 and g.chance(0.25) else 1
    return convolution(g, x, out, kernel=(size,) * count, pads=pads, stride=stride, dilation=dilation, group=group)


@_layer("ConvTranspose", IMAGE, types=NOT_DOUBLE)
def conv_transpose(g: Builder, x: Flow, sees_all: bool) -> Flow:
    count, size = len(x.spatial), int(g.pick(1, 2, 3))
    group = int(g.pick(*[d for d in (1, 1, 2, x.channels) if x.channels % d == 0]))
    each = g.between(1, max(1, 5 // group))
    weight = g.floats(g.normal(x.channels, each, *[size] * count, fan_in=x.channels // group * size), "w")
    stride = 1 if sees_all or max(x.spatial) > 5 else int(g.pick(1, 2))
    pads = size - 1 if sees_all else g.between(0, (size - 1) // 2)
    sizes = [(n - 1) * stride - 2 * pads + size for n in x.spatial]
    if min(sizes) < 1:
        raise Unfit
    names = [weight, g.floats(g.normal(each * group), "b")] if g.chance(0.5) else [weight]
    made = g.node(
        "ConvTranspose", x.name, *names, strides=[stride] * count, pads=[pads] * 2 * count, group=group,
        **({"kernel_shape": [size] * count} if g.chance(0.5) else {}),
    )  # fmt: skip
    return x.as_(made, x.shape[0], each * group, *sizes)


@_layer("Gemm", ROWS)
def gemm(g: Builder, x: Flow, sees_all: bool) -> Flow:
    """Its constant on the right or, now and then, on the left; factors and C as they may be."""
    del sees_all
    out, swap = g.between(2, 6), bool(g.chance(0.5))
    left = g.chance(0.12)
    weight = g.normal(out, x.channels, fan_in=x.channels)
    names = [x.name, g.floats(weight if swap else weight.T, "w")]
    if left:
        names = [g.floats(weight, "w"), x.name]
    shapes: list[tuple[int, ...]] = [(out, 1), (1,), (1, 1)] if left else [(out,), (1, out), (out,), (1,), ()]
    if g.opset < 11 or g.chance(0.75):
        names.append(g.floats(g.normal(*g.pick(*shapes)), "c"))
    attributes: dict[str, object] = {"transB": 1} if swap or left else {}
    if g.chance(0.2):
        attributes |= {"alpha": float(g.pick(0.5, -1.5)), "beta": float(g.pick(2.0, -0.5))}
    made = g.node("Gemm", *names, **attributes)
    return Flow(made, (out, x.shape[0]), 0) if left else Flow(made, (x.shape[0], out))


@_layer("MatMul", ROWS, TOKENS, IMAGE)
def matmul(g: Builder, x: Flow, sees_all: bool) -> Flow:
    """With the constant on the right; on the left for channels before one more axis."""
    if g.kind(x) == IMAGE:
        if x.rank != 3:
            return matmul(g, g.to(str(g.pick(ROWS, TOKENS)), x), sees_all)
        out = g.between(2, 5)
        weight = g.floats(g.normal(out, x.channels, fan_in=x.channels), "w")
        return x.as_(g.node("MatMul", weight, x.name), x.shape[0], out, x.shape[2])
    return _dense(g, x, g.between(2, 5), bias=not sees_all and g.chance(0.4))


@_layer("Einsum", TOKENS, ROWS, IMAGE, since=12)
def einsum(g: Builder, x: Flow, sees_all: bool) -> Flow:
    del sees_all
    out, letters = g.between(2, 5), "bthw"
    axes = letters[: x.rank - 1]
    before = axes[: x.axis] + "c" + axes[x.axis :]
    weight, term = g.normal(out, x.channels, fan_in=x.channels), "oc"
    if g.chance(0.5):
        weight, term = weight.T, "co"
    equation = f"{before},{term}->{before.replace('c', 'o')}"
    shape = [out if i == x.axis else n for i, n in enumerate(x.shape)]
    return x.as_(g.node("Einsum", x.name, g.floats(weight, "w"), equation=equation), *shape)


@_layer("DequantizeLinear", IMAGE, ROWS, since=10, types=SINGLE)
def of_integers(g: Builder, x: Flow, sees_all: bool) -> Flow:
    """A Conv or a Gemm whose weight is stored as integers, by one scale or by one for each output."""
    image = g.kind(x) == IMAGE
    out, size = g.between(2, 5), int(g.pick(1, 3)) if image and min(x.spatial) > 2 else 1
    shape = (out, x.channels, *[size] * len(x.spatial)) if image else (out, x.channels)
    weight = g.constant(g.rng.integers(-100, 100, shape).astype(np.int8), "q")
    each = g.opset >= 13 and g.chance(0.5)
    scale = g.constant(np.float32(g.rng.uniform(0.004, 0.02, out if each else ())), "s")
    zero = [g.constant(np.zeros(out if each else (), np.int8), "z")] if each or g.chance(0.7) else []
    attributes: dict[str, object] = {"axis": 0} if each else {}
    names = [x.name, g.node("DequantizeLinear", weight, scale, *zero, **attributes)]
    if g.opset < 11 or g.chance(0.6):
        names.append(g.floats(g.normal(out), "b"))
    if not image:
        return Flow(g.node("Gemm", *names, transB=1), (x.shape[0], out))
    pads = 0 if sees_all else size // 2
    sizes = [n + 2 * pads - size + 1 for n in x.spatial]
    made = g.node("Conv", *names, pads=[pads] * 2 * len(sizes), kernel_shape=[size] * len(sizes))
    return x.as_(made, x.shape[0], out, *sizes)


def _recurrent(op: str, gates: int) -> None:
    def make(g: Builder, x: Flow, sees_all: bool) -> Flow:
        """Over the tokens, with the channels last; the sequence comes first."""
        del sees_all
        hidden, both = g.between(2, 3), g.chance(0.3)
        ways = 2 if both else 1
        order = Flow(g.node("Transpose", x.name, perm=[1, 0, 2]), (x.shape[1], x.shape[0], x.channels), 2)
        names = [
            g.floats(g.normal(ways, gates * hidden, x.channels, fan_in=x.channels), "w"),
            g.floats(g.normal(ways, gates * hidden, hidden, fan_in=hidden), "r"),
        ]
        if g.chance(0.6):
            names.append(g.floats(g.normal(ways, 2 * gates * hidden), "b"))
        attributes: dict[str, object] = {"hidden_size": hidden}
        if both:
            attributes["direction"] = "bidirectional"
        made = g.node(op, order.name, *names, **attributes)
        joined = g.node("Transpose", made, perm=[2, 0, 1, 3])
        flat = g.node("Reshape", joined, g.integers(0, 0, ways * hidden))
        return Flow(flat, (x.shape[0], x.shape[1], ways * hidden), 2)

    _layer(op, TOKENS, types=SINGLE)(make)


for _op, _gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    _recurrent(_op, _gates)
