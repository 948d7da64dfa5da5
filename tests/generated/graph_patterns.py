"""Patterns of real networks: residual blocks, joined branches, shared weights, gates, nested graphs, functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from graph_affines import ANY, POSITIVE_SCALE, SCALE, affine, batch_normalization
from graph_blocks import Block, Make, fitting
from graph_builder import IMAGE, ROWS, TOKENS, Builder, Flow, Unfit
from graph_layers import convolution, layer, same
from graph_operators import EVERY, LAST_OPSET, NOT_DOUBLE, operator
from onnx import TensorProto, helper

PATTERNS: dict[str, Block] = {}
SINGLE = (np.float32,)


def pattern(
    name: str, *, since: int = 7, types: tuple[type, ...] = NOT_DOUBLE, until: int = LAST_OPSET
) -> Callable[[Make], Make]:
    """A decorator that names a block, and says where it may stand."""

    def decorate(function: Make) -> Make:
        PATTERNS[name] = Block(function, range(since, until + 1), types)
        return function

    return decorate


def norm(g: Builder, x: Flow) -> Flow:
    return batch_normalization(g, x, ANY)


def relu(g: Builder, x: Flow) -> Flow:
    return operator(g, str(g.pick("Relu", "Relu", "LeakyRelu")), x)


def added(g: Builder, x: Flow, y: Flow, op: str = "Add") -> Flow:
    pair = (x, y) if g.chance(0.5) or op == "Sub" else (y, x)
    return x.as_(g.node(op, pair[0].name, pair[1].name))


def image(g: Builder, x: Flow) -> Flow:
    """A value as an image of more than one place."""
    x = fitting(g, x, (IMAGE,))
    return x if max(x.spatial) > 1 else g.to(IMAGE, g.to(ROWS, x))


# --- joined branches --------------------------------------------------------------------------------------------------


@pattern("residual")
def residual(g: Builder, x: Flow) -> Flow:
    """With the identity or a projection beside it, the affine before or behind the sum."""
    x = image(g, x)
    inside = norm(g, same(g, relu(g, norm(g, same(g, x, g.between(2, 4)))), x.channels))
    beside = norm(g, same(g, x, x.channels, kernel=1)) if g.chance(0.5) else x
    return relu(g, added(g, inside, beside))


@pattern("preactivated")
def preactivated(g: Builder, x: Flow) -> Flow:
    x = image(g, x)
    inside = same(g, relu(g, norm(g, x)), x.channels)
    inside = same(g, relu(g, norm(g, inside)), x.channels)
    return added(g, inside, x)


@pattern("behind a sum", types=EVERY)
def behind_a_sum(g: Builder, x: Flow) -> Flow:
    """An affine behind a sum of two or three layers, one of which may have no home."""
    x = fitting(g, x, (IMAGE, ROWS, TOKENS))
    out = g.between(2, 4)
    made = [same(g, x, out) for _ in range(g.between(2, 3))]
    if g.chance(0.2):
        made[-1] = g.wall(made[-1])
    whole = made[0]
    for one in made[1:]:
        whole = added(g, whole, one, str(g.pick("Add", "Add", "Sub")))
    return affine(g, whole)


@pattern("dense")
def dense(g: Builder, x: Flow) -> Flow:
    x = image(g, x)
    for _ in range(g.between(1, 2)):
        inside = same(g, relu(g, norm(g, x)), 2)
        made = g.node("Concat", x.name, inside.name, axis=1)
        x = x.as_(made, x.shape[0], x.channels + 2, *x.spatial)
    return x


@pattern("branches")
def branches(g: Builder, x: Flow) -> Flow:
    """Side by side, normalised one by one or all at once."""
    x = image(g, x)
    sizes = [g.between(1, 3) for _ in range(g.between(2, 3))]
    made = [same(g, x, size) for size in sizes]
    made = [norm(g, one) if g.chance(0.4) else one for one in made]
    joined = g.node("Concat", *[one.name for one in made], axis=1)
    return norm(g, x.as_(joined, x.shape[0], sum(sizes), *x.spatial))


@pattern("beside Conv")
def beside(g: Builder, x: Flow) -> Flow:
    """The identity branch of RepVGG, as a BatchNormalization of what the convolution reads."""
    x = image(g, x)
    if g.chance(0.5):
        x = g.wall(x)
    group = x.channels if g.chance(0.3) else 1
    size = int(g.pick(1, 3))
    first = convolution(
        g, x, x.channels, kernel=(size,) * len(x.spatial), pads=size // 2, group=group,
        bias=None,
    )  # fmt: skip
    if g.chance(0.7):
        first = norm(g, first)
    identity = norm(g, x) if g.chance(0.7) else affine(g, x)
    if g.chance(0.2):
        return x.as_(g.node("Sub", first.name, identity.name))
    if g.opset >= 8 and g.chance(0.3):
        further = norm(g, same(g, x, x.channels, kernel=1)) if g.chance(0.5) else relu(g, x)
        names = [first.name, identity.name, further.name]
        return x.as_(g.node("Sum", *(names if g.chance(0.5) else names[::-1])))
    if g.chance(0.2):
        identity = added(g, identity, relu(g, x))
    whole = added(g, first, identity)
    if g.chance(0.4):
        whole = added(g, norm(g, same(g, x, x.channels, kernel=1)), whole)
    return relu(g, whole) if g.chance(0.6) else whole


@pattern("behind a residual sum")
def behind_a_residual_sum(g: Builder, x: Flow) -> Flow:
    """RepViT: an affine behind conv(x) + x."""
    x = image(g, x)
    return norm(g, added(g, same(g, x, x.channels, kernel=3), x))


@pattern("mixer")
def mixer(g: Builder, x: Flow) -> Flow:
    """ConvMixer: the affine stands behind the activation."""
    x = image(g, x)
    inside = convolution(g, x, x.channels, kernel=(3,) * len(x.spatial), pads=1, group=x.channels)
    inside = batch_normalization(g, relu(g, inside), POSITIVE_SCALE if g.chance(0.4) else ANY)
    return norm(g, relu(g, convolution(g, added(g, inside, x), g.between(2, 4), kernel=(1,) * len(x.spatial))))


@pattern("parted and joined")
def parted(g: Builder, x: Flow) -> Flow:
    """One part goes through a layer, the other beside it, and a shuffle mixes them."""
    x = same(g, image(g, x), 4)
    count = [2, 2]
    more = [g.integers(*count)] if g.opset >= 13 else []
    attributes: dict[str, object] = {} if more else {"split": count}
    first, second = g.nodes("Split", x.name, *more, count=2, axis=1, **attributes)
    half = (x.shape[0], 2, *x.spatial)
    inside = norm(g, same(g, Flow(first, half), 2))
    whole = x.as_(g.node("Concat", inside.name, second, axis=1))
    return norm(g, operator(g, "Reshape", whole)) if g.chance(0.5) else norm(g, whole)


# --- what is shared, what is read by several --------------------------------------------------------------------------


@pattern("shared weight")
def shared_weight(g: Builder, x: Flow) -> Flow:
    """One weight in two layers, with affines of their own behind them."""
    x = image(g, x)
    weight = g.floats(g.normal(x.channels, x.channels, *[1] * len(x.spatial), fan_in=x.channels), "shared")
    for _ in range(2):
        x = convolution(g, x, x.channels, kernel=(1,) * len(x.spatial), weight=weight)
        x = norm(g, x) if g.chance(0.8) else relu(g, x)
    return x


@pattern("shared norm")
def shared_norm(g: Builder, x: Flow) -> Flow:
    """One set of parameters for two values; its shift may be the bias of the layer as well."""
    x = image(g, x)
    out = g.between(2, 3)
    names = [
        g.constant(array.astype(g.form.data), "both")
        for array in (g.away(0.5, 1.5, out), g.normal(out), g.normal(out), g.rng.uniform(0.5, 2, out))
    ]
    made = []
    for _ in range(2):
        weight = g.floats(g.normal(out, x.channels, *[1] * len(x.spatial), fan_in=x.channels), "w")
        bias = [names[1]] if g.chance(0.5) else []
        convolved = g.node("Conv", x.name, weight, *bias)
        made.append(g.node("BatchNormalization", convolved, *names))
    return x.as_(g.node("Add", *made), x.shape[0], out, *x.spatial)


@pattern("several readers", types=EVERY)
def several_readers(g: Builder, x: Flow) -> Flow:
    """An affine of a value without home, which several layers read; now and then one that cannot take it over."""
    x = fitting(g, x, (IMAGE, ROWS, TOKENS))
    x = affine(g, g.wall(x))
    out = g.between(2, 4)
    readers = [same(g, x, out, kernel=1) for _ in range(g.between(2, 3))]
    if g.chance(0.2):
        readers[-1] = g.wall(readers[-1].as_(x.name)) if x.channels == out else readers[-1]
    whole = readers[0]
    for one in readers[1:]:
        whole = added(g, whole, one)
    return whole


@pattern("read besides", types=EVERY)
def read_besides(g: Builder, x: Flow) -> Flow:
    """What an affine acts on is read by something else too, or is an output; readers of its shape do not count."""
    x = layer(g, fitting(g, x, (IMAGE, ROWS, TOKENS)))
    x = x if g.kind(x) else g.to(TOKENS, x)
    y = affine(g, x)
    how = g.pick("other", "output", "shape", "size")
    if how == "output" and not g.outer:
        g.outputs.append(x.name)
    elif how == "shape":
        zero = g.node("Cast", g.node("Mul", g.node("Size", x.name), g.integers(0)), to=g.element)
        y = y.as_(g.node("Add", y.name, zero))
    elif how == "other":
        y = added(g, y, g.wall(x))
    return y


# --- gates, attention, quantisation -----------------------------------------------------------------------------------


@pattern("gate")
def gate(g: Builder, x: Flow) -> Flow:
    """Squeeze and excite, with an affine before, inside, or behind it; or a product of matrices in its place."""
    if g.chance(0.3):
        return _product(g, x)
    x = norm(g, same(g, image(g, x), g.between(2, 4)))
    pooled = operator(g, str(g.pick("GlobalAveragePool", "ReduceMean")), x)
    pooled = (
        pooled
        if pooled.rank == x.rank
        else x.as_(g.node("GlobalAveragePool", x.name), *x.shape[:2], *[1] * len(x.spatial))
    )
    inside = same(g, relu(g, norm(g, same(g, pooled, 2, kernel=1))), x.channels, kernel=1)
    whole = x.as_(g.node("Mul", x.name, g.wall(inside).name))
    return affine(g, same(g, whole, g.between(2, 4), kernel=1)) if g.chance(0.5) else affine(g, whole)


@pattern("attention", types=EVERY)
def attention(g: Builder, x: Flow) -> Flow:
    """Softmax(q k) v, with affines of q, k, v and of what comes out."""
    x = fitting(g, x, (TOKENS,))
    size = g.between(2, 3)
    q, k, v = (affine(g, same(g, x, size)) if g.chance(0.5) else same(g, x, size) for _ in range(3))
    across = g.node("Transpose", k.name, perm=[0, 2, 1])
    weights = g.node("Softmax", g.node("MatMul", q.name, across), axis=2 if g.opset < 13 else -1)
    mixed = affine(g, v.as_(g.node("MatMul", weights, v.name)))
    return affine(g, same(g, mixed, x.channels)) if g.chance(0.5) else mixed


def _product(g: Builder, x: Flow) -> Flow:
    """The places of one image by those of another, or by a constant; scales of either, and of rows and columns."""
    x = image(g, x)
    left, count = same(g, x, g.between(2, 4)), int(np.prod(x.spatial))
    rows = _flat(g, affine(g, left, SCALE) if g.chance(0.5) else left)
    if g.chance(0.4):
        columns = g.between(2, 4)
        right = g.floats(g.normal(count, columns, fan_in=count), "w")
    else:
        other = same(g, x, g.between(2, 4))
        turned = _flat(g, affine(g, other, SCALE) if g.chance(0.3) else other)
        columns, right = other.channels, g.node("Transpose", turned.name, perm=[0, 2, 1])
    made = Flow(g.node("MatMul", rows.name, right), (x.shape[0], left.channels, columns))
    made = affine(g, made, SCALE) if g.chance(0.6) else made
    made = made.as_(made.name, axis=2)
    return affine(g, made) if g.chance(0.4) else made


def _flat(g: Builder, x: Flow) -> Flow:
    """An image whose places lie along one axis."""
    flat = g.node("Reshape", x.name, g.integers(0, 0, -1))
    return Flow(flat, (x.shape[0], x.channels, int(np.prod(x.spatial))))


@pattern("quantised activations", since=10, types=SINGLE)
def quantised(g: Builder, x: Flow) -> Flow:
    """An affine before, behind, and between the steps."""
    x = image(g, x)
    step, zero = g.constant(np.array(0.05, np.float32), "step"), g.constant(np.array(0, np.int8), "zero")
    inside = norm(g, same(g, x, g.between(2, 3)))
    back = g.node("DequantizeLinear", g.node("QuantizeLinear", inside.name, step, zero), step, zero)
    return norm(g, layer(g, inside.as_(back), op="DequantizeLinear"))


@pattern("narrow weights", since=15, types=(np.float16,))
def narrow(g: Builder, x: Flow) -> Flow:
    """A layer in half precision, whose affine is computed in single precision."""
    made = same(g, image(g, x), g.between(2, 4))
    wide = made.as_(g.node("Cast", made.name, to=TensorProto.FLOAT))
    outer, g.form = g.form, replace(g.form, data=np.float32, statistics=np.float32)
    wide = relu(g, norm(g, wide))
    g.form = outer
    return wide.as_(g.node("Cast", wide.name, to=g.element))


@pattern("pooled away")
def pooled_away(g: Builder, x: Flow) -> Flow:
    """The end of a classifier: pooling, Flatten, an affine and a Gemm."""
    x = image(g, x)
    pooled = g.node("GlobalAveragePool", x.name)
    rows = Flow(g.node("Flatten", pooled, axis=1), x.shape[:2])
    return affine(g, layer(g, affine(g, rows), op="Gemm"))


@pattern("negative between pool and padding")
def negative_between(g: Builder, x: Flow) -> Flow:
    """The Add goes back, past a Mul that stays; and only then the Mul can go forward."""
    x = operator(g, "MaxPool", same(g, image(g, x), g.between(2, 3)))
    x = affine(g, affine(g, x, op="Mul"), op="Add")
    return same(g, x, g.between(2, 3), kernel=3 if min(x.spatial) > 1 else 1)


# --- other graphs -----------------------------------------------------------------------------------------------------


@pattern("If")
def conditional(g: Builder, x: Flow) -> Flow:
    """A branch with layers and affines of its own, or with an affine of what stands outside."""
    x = fitting(g, x, (IMAGE, ROWS, TOKENS))
    x = layer(g, x) if g.chance(0.5) else x
    x = x if g.kind(x) else g.to(TOKENS, x)
    flag, out = _flag(g, x), x.channels
    made = []
    for _ in range(2):
        with g.inside() as scope:
            y = affine(g, same(g, x, out)) if g.chance(0.7) else affine(g, x)
            made.append(g.graph(scope, [], [g.node("Identity", y.name)]))
    y = x.as_(g.node("If", flag, then_branch=made[0], else_branch=made[1]))
    return affine(g, y) if g.chance(0.3) else y


def _flag(g: Builder, x: Flow) -> str:
    """Whether the mean is positive."""
    mean = g.node("ReduceMean", x.name, keepdims=0)
    zero = g.constant(np.array(0, g.form.data), "zero")
    if g.opset < 9 and g.form.data is not np.float32:
        raise Unfit
    return g.node("Greater", mean, zero)


@pattern("Loop", since=11)
def loop(g: Builder, x: Flow) -> Flow:
    """Two rounds of a layer with its affine."""
    x = fitting(g, x, (IMAGE, ROWS))
    count, on = g.constant(np.array(2, np.int64), "count"), g.constant(np.array(True), "on")
    with g.inside() as scope:
        names = [g.name("round"), g.name("go"), g.name("state")]
        inputs = [
            g.port(names[0], TensorProto.INT64, []), g.port(names[1], TensorProto.BOOL, []), g.port(names[2]),
        ]  # fmt: skip
        y = affine(g, same(g, x.as_(names[2]), x.channels))
        y = y.as_(g.node("Tanh", y.name))
        again = g.node("Identity", names[1])
        body = g.graph(scope, inputs, [again, y.name])
        body.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    return x.as_(g.node("Loop", count, on, x.name, body=body))


@pattern("function", since=13)
def function(g: Builder, x: Flow) -> Flow:
    """A function of the model's own, called once or twice, with a layer and its affine in it."""
    x = fitting(g, x, (IMAGE, ROWS))
    name, given = g.name("Made"), g.name("given")
    with g.inside(function=True) as scope:
        y = affine(g, same(g, x.as_(given), x.channels))
        y = y.as_(g.node("Relu", y.name))
        opsets = [helper.make_opsetid("", g.opset)]
        body = helper.make_function("local", name, [given], [y.name], scope.nodes, opsets)
    g.functions.append(body)
    for _ in range(g.between(1, 2)):
        x = x.as_(g.node(name, x.name, domain="local"))
    return affine(g, x) if g.chance(0.5) else x
