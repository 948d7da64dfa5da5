"""Wrong folds: the kinds of error that tools make, each drawn until a check of the site could see it.

A fault replaces a layer's folded constants. It counts only if it shows on the probe, in float64 and free of rounding,
at the value that both models name. With d the difference there, y the original's value, u half a unit, K the fan-in and
S = |a| * (|W| * |x| + |b| + |mean|) + |beta|, at least one channel has

    gain     |cov(d, y) / var(y)| >= 16u * (1 + S / (128 std(y))),   where std(y) > 64u * S
    offset   |mean(d)|            >= 16u * S
    or at a single element |d|    >= 2 * (4*sqrt(K) + 8) * u * S

Four times what a correct fold may show in gain and offset, twice in the element. The second term of the gain is what
the noise of the original hides: six standard errors over a thousand values at a noise of 0.4u*S are 0.08u*S / std(y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx
from correct import Constants, Names, right
from exact import Array, per_channel, result
from layers import Layer, Net, sizes

Fault = Callable[[Layer, np.random.Generator], Constants | None]

BARRIERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "QuantizeLinear"}
NOTICEABLE = 0.2


def with_scale(layer: Layer, scale: Array) -> Constants:
    """The fold with another scale in all its places."""
    return Constants(layer.rows * scale[:, None], (layer.offset - layer.mean) * scale + layer.beta)


def epsilon_forgotten(layer: Layer, _: np.random.Generator) -> Constants | None:
    return with_scale(layer, layer.gamma / np.sqrt(layer.var))


def epsilon_doubled(layer: Layer, _: np.random.Generator) -> Constants | None:
    return with_scale(layer, layer.gamma / np.sqrt(layer.var + 2 * layer.epsilon))


def epsilon_negated(layer: Layer, _: np.random.Generator) -> Constants | None:
    if layer.var.min() <= 2 * layer.epsilon:
        return None
    return with_scale(layer, layer.gamma / np.sqrt(layer.var - layer.epsilon))


def epsilon_outside(layer: Layer, _: np.random.Generator) -> Constants | None:
    return with_scale(layer, layer.gamma / (np.sqrt(layer.var) + layer.epsilon))


def swapped(values: Array, scale: Array, rng: np.random.Generator) -> Array | None:
    """Two entries exchanged that differ noticeably, or None."""
    first, second = rng.choice(len(values), 2, replace=False)
    if abs(values[first] - values[second]) <= NOTICEABLE * max(scale[first], scale[second]):
        return None
    order = np.arange(len(values))
    order[[first, second]] = second, first
    return values[order]


def gamma_swapped(layer: Layer, rng: np.random.Generator) -> Constants | None:
    gamma = swapped(layer.gamma, np.abs(layer.gamma), rng)
    return None if gamma is None else right(replace(layer, gamma=gamma))


def mean_swapped(layer: Layer, rng: np.random.Generator) -> Constants | None:
    mean = swapped(layer.mean, np.sqrt(layer.var), rng)
    return None if mean is None else right(replace(layer, mean=mean))


def mean_negated(layer: Layer, _: np.random.Generator) -> Constants | None:
    return right(replace(layer, mean=-layer.mean))


def beta_lost(layer: Layer, _: np.random.Generator) -> Constants | None:
    return right(replace(layer, beta=np.zeros_like(layer.beta)))


def bias_lost(layer: Layer, _: np.random.Generator) -> Constants | None:
    return None if layer.bias is None else right(replace(layer, bias=None))


def bias_not_scaled(layer: Layer, _: np.random.Generator) -> Constants | None:
    if layer.bias is None:
        return None
    return replace(right(layer), bias=layer.bias - layer.mean * layer.scale + layer.beta)


def weight_zeroed(layer: Layer, rng: np.random.Generator) -> Constants | None:
    """One weight of at least the median size of its filter."""
    rows = right(layer).rows.copy()
    size = np.abs(rows)
    candidates = np.argwhere((size >= np.median(size, axis=1, keepdims=True)) & (size > 0))
    if not len(candidates):
        return None
    rows[tuple(rng.choice(candidates))] = 0
    return replace(right(layer), rows=rows)


def channel_off(layer: Layer, rng: np.random.Generator) -> Constants | None:
    rows = right(layer).rows.copy()
    rows[rng.integers(len(rows))] *= 1 + 1e-4
    return replace(right(layer), rows=rows)


def groups_mixed(layer: Layer, rng: np.random.Generator) -> Constants | None:
    """Each group's weights take the scale of the next group, or all of them that of the first."""
    if layer.group == 1:
        return None
    grouped = layer.scale.reshape(layer.group, -1)
    mixed = np.roll(grouped, 1, axis=0) if rng.random() < 0.5 else np.broadcast_to(grouped[0], grouped.shape)
    return replace(right(layer), rows=layer.rows * mixed.reshape(-1, 1))


def wrong_axis(layer: Layer, _: np.random.Generator) -> Constants | None:
    """The scale along the input channels, where there are as many of them."""
    outs = len(layer.rows)
    fan = _channels_in(layer)
    if fan != outs:
        return None
    inner = (layer.group, outs // layer.group, fan // layer.group, -1)
    scaled = layer.rows.reshape(inner) * layer.scale.reshape(layer.group, 1, -1, 1)
    return replace(right(layer), rows=scaled.reshape(outs, -1))


def rounded_to_half(layer: Layer, _: np.random.Generator) -> Constants | None:
    with np.errstate(over="ignore"):
        rows = right(layer).rows.astype(np.float16).astype(np.float64)
    return replace(right(layer), rows=rows) if np.isfinite(rows).all() else None


KINDS: dict[str, Fault] = {
    "epsilon forgotten": epsilon_forgotten,
    "epsilon doubled": epsilon_doubled,
    "epsilon with the wrong sign": epsilon_negated,
    "epsilon outside the root": epsilon_outside,
    "two channels swapped in gamma": gamma_swapped,
    "two channels swapped in mean": mean_swapped,
    "mean with the wrong sign": mean_negated,
    "beta lost": beta_lost,
    "bias lost": bias_lost,
    "bias not scaled": bias_not_scaled,
    "one weight zeroed": weight_zeroed,
    "one channel off by 1e-4": channel_off,
    "groups mixed": groups_mixed,
    "wrong axis": wrong_axis,
    "weights rounded to fp16": rounded_to_half,
}
FLOAT32_ALONE = {"one channel off by 1e-4", "weights rounded to fp16"}
GROUPED = {"grouped", "depthwise", "transpose"}
WHOLE = {"conv", "conv1d", "conv3d", "transpose", "gemm", "gemm batch 1", "matmul", "quantised"}


def applies(kind: str, family: str) -> bool:
    """Whether networks of the family have what this kind of fault needs."""
    return family in {"groups mixed": GROUPED, "wrong axis": WHOLE}.get(kind, {family})


def placed(net: Net, kind: str, *, everywhere: bool, names: Names, rng: np.random.Generator) -> dict[str, Constants]:
    """The wrong constants by the norm's name, of one layer or of all that can have them; empty if none would show."""
    wrong: dict[str, Constants] = {}
    shows = False
    for k in rng.permutation(len(net.layers)):
        layer = net.layers[k]
        constants = KINDS[kind](layer, rng)
        if constants is None:
            continue
        shows = shows or shown(net, layer, constants, names)
        if shows and not everywhere:
            return {layer.norm: constants}
        wrong[layer.norm] = constants
    return wrong if shows else {}


def shown(net: Net, layer: Layer, constants: Constants, names: Names) -> bool:
    """Whether the fault counts, as the module says."""
    size, before = sizes(net, layer), net.values[layer.result]
    after = _wrong_output(net, layer, constants)
    fan = layer.rows.shape[1]
    if after is None or not apart(before, after, size, fan, net.unit):
        return False
    if names != "home" or layer.result in {port.name for port in net.model.graph.output}:
        return True
    return any(apart(one, other, size + beside, fan, net.unit) for one, other, beside in _behind(net, layer, after))


def apart(before: Array, after: Array, size: Array, fan: int, unit: float) -> bool:
    """Whether two values differ by more than four times what a correct fold may show."""
    axes = (0, *range(2, before.ndim))
    d, mean_size = after - before, size.mean(axis=axes)
    single = (np.abs(d) >= 2 * (4 * np.sqrt(fan) + 8) * unit * size) & (d != 0)
    offset = np.abs(d.mean(axis=axes)) >= 16 * unit * mean_size
    spread = before.std(axis=axes)
    live = spread > 64 * unit * mean_size
    centred = before - before.mean(axis=axes, keepdims=True)
    gain = np.abs((centred * d).mean(axis=axes)) / np.where(live, np.square(spread), 1.0)
    hidden = 1 + mean_size / (128 * np.where(live, spread, 1.0))
    return bool(single.any() or (offset & (mean_size > 0)).any() or (live & (gain >= 16 * unit * hidden)).any())


def _channels_in(layer: Layer) -> int:
    if layer.op == "ConvTranspose":
        return layer.shape[0]
    return layer.shape[1] * layer.group if layer.op == "Conv" or layer.flipped else layer.shape[0]


def _wrong_output(net: Net, layer: Layer, constants: Constants) -> Array | None:
    """What the wrong layer gives for the original's input, its constants rounded to their type."""
    with np.errstate(over="ignore"):
        rows, bias = (one.astype(net.dtype).astype(np.float64) for one in (constants.rows, constants.bias))
    if not (np.isfinite(rows).all() and np.isfinite(bias).all()):
        return None
    home = onnx.NodeProto()
    home.CopyFrom(next(node for node in net.model.graph.node if node.name == layer.home))
    home.input[:] = ["x", "w"]
    product = result(home, {"x": net.values[layer.source], "w": layer.raw(rows)})
    return product + per_channel(bias, product.ndim)


def _behind(net: Net, layer: Layer, after: Array) -> Iterator[tuple[Array, Array, Array | float]]:
    """Before and after at each value that is made of the layer's result, and the size of what an Add brings to it.

    Nothing behind the next linear operator: both models name that value, but folded in one of them. Nothing that is
    rounded to integers: that hides what is smaller.
    """
    values = {**net.values, layer.result: after}
    for node in net.model.graph.node:
        if layer.result not in node.input or node.op_type in BARRIERS:
            continue
        changed = values[node.output[0]] = result(node, values)
        before = net.values[node.output[0]]
        if before.shape == after.shape:
            beside = [np.abs(net.values[name]) for name in node.input if name != layer.result]
            yield before, changed, beside[0] if node.op_type == "Add" else 0.0


__all__ = ["FLOAT32_ALONE", "KINDS", "applies", "placed", "shown"]
