"""What a model says in float64, before any type rounds it: a few operators, written from ONNX's text.

Independent of bnfold and of onnxruntime. `Unsupported` is raised for an operator or attribute that is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, numpy_helper

Array = np.ndarray
Attributes = dict[str, Any]
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
Operator = Callable[[Sequence[Array], Attributes], Array]


class Unsupported(Exception):
    """An operator that is not written here."""


def values_of(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every value of the model by name, floats in float64."""
    values = {tensor.name: widened(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    values.update({name: widened(array) for name, array in feeds.items()})
    for node in model.graph.node:
        values[node.output[0]] = result(node, values)
    return values


def widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def result(node: onnx.NodeProto, values: Mapping[str, Array]) -> Array:
    """The first output of one node; inputs left out come as empty arrays."""
    if node.op_type not in OPERATORS or node.domain not in {"", "ai.onnx"} or any(node.output[1:]):
        raise Unsupported(node.op_type)
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise Unsupported("auto_pad")
    return OPERATORS[node.op_type]([values[name] if name else np.empty(0) for name in node.input], attributes)


def per_channel(array: Array, rank: int) -> Array:
    """A vector in the shape that broadcasts along axis 1."""
    return np.asarray(array).reshape(1, -1, *[1] * (rank - 2))


def windows(x: Array, kernel: Sequence[int], attributes: Attributes, fill: float) -> Array:
    """Every window of the spatial axes, padded with `fill`: (N, C, *positions, *kernel)."""
    spatial = x.ndim - 2
    strides, dilations, pads = spans(attributes, spatial)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)], constant_values=fill)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    seen = sliding_window_view(padded, extent, axis=tuple(range(2, x.ndim)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return seen[(slice(None), slice(None), *steps)]


def spans(attributes: Attributes, spatial: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads, with ONNX's defaults."""
    ones = [1] * spatial
    return (
        list(attributes.get("strides", ones)),
        list(attributes.get("dilations", ones)),
        list(attributes.get("pads", [0] * (2 * spatial))),
    )


def conv(inputs: Sequence[Array], attributes: Attributes) -> Array:
    x, weight = inputs[:2]
    group, out = attributes.get("group", 1), weight.shape[0]
    seen = windows(x, weight.shape[2:], attributes, 0.0)
    spatial = x.ndim - 2
    positions = seen.shape[2 : 2 + spatial]
    # To (group, N * positions, in * kernel), so that one matrix product serves each group.
    split = seen.reshape(len(x), group, -1, *seen.shape[2:])
    order = (1, 0, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    rows = split.transpose(order).reshape(group, len(x) * int(np.prod(positions)), -1)
    columns = weight.reshape(group, out // group, -1).transpose(0, 2, 1)
    product = (rows @ columns).reshape(group, len(x), *positions, out // group)
    back = product.transpose(1, 0, 2 + spatial, *range(2, 2 + spatial))
    return biased(back.reshape(len(x), out, *positions), inputs)


def conv_transpose(inputs: Sequence[Array], attributes: Attributes) -> Array:
    x, weight = inputs[:2]
    spatial, group = x.ndim - 2, attributes.get("group", 1)
    if {"output_shape", "output_padding"} & set(attributes):
        raise Unsupported("ConvTranspose output_shape")
    strides, dilations, pads = spans(attributes, spatial)
    stuffed = np.zeros((*x.shape[:2], *[(n - 1) * step + 1 for n, step in zip(x.shape[2:], strides, strict=True)]))
    stuffed[(slice(None), slice(None), *[slice(None, None, step) for step in strides])] = x
    # (group, in, out, *kernel) -> (group * out, in, *kernel), mirrored.
    split = weight.reshape(group, -1, *weight.shape[1:]).swapaxes(1, 2)
    mirrored = np.flip(split, axis=tuple(range(3, 3 + spatial))).reshape(-1, split.shape[2], *weight.shape[2:])
    reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilations, strict=True)] * 2
    around = [r - p for r, p in zip(reach, pads, strict=True)]
    if min(around) < 0:
        raise Unsupported("ConvTranspose that crops its own input")
    plain = conv([stuffed, mirrored], {"group": group, "pads": around, "dilations": dilations})
    return biased(plain, inputs)


def biased(product: Array, inputs: Sequence[Array]) -> Array:
    has_bias = len(inputs) > 2 and inputs[2].size
    return product + per_channel(inputs[2], product.ndim) if has_bias else product


def gemm(inputs: Sequence[Array], attributes: Attributes) -> Array:
    a, b = (m.T if attributes.get(f"trans{letter}") else m for m, letter in zip(inputs, "AB", strict=False))
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product + attributes.get("beta", 1.0) * inputs[2] if len(inputs) > 2 and inputs[2].size else product


def batch_normalization(inputs: Sequence[Array], attributes: Attributes) -> Array:
    if attributes.get("training_mode"):
        raise Unsupported("training")
    x = inputs[0]
    gamma, beta, mean, var = (per_channel(one, x.ndim) for one in inputs[1:])
    epsilon = float(np.float32(attributes.get("epsilon", 1e-5)))
    return (x - mean) * (gamma / np.sqrt(var + epsilon)) + beta


def pool(reducing: Callable[..., Array], fill: float) -> Operator:
    def pooled(inputs: Sequence[Array], attributes: Attributes) -> Array:
        if attributes.get("ceil_mode") or (reducing is np.mean and any(attributes.get("pads", []))):
            raise Unsupported("a pool that counts its padding")
        x = inputs[0]
        seen = windows(x, attributes["kernel_shape"], attributes, fill)
        return reducing(seen, axis=tuple(range(x.ndim, seen.ndim)))

    return pooled


def clip(inputs: Sequence[Array], _: Attributes) -> Array:
    low, high = (float(one) if one.size else edge for one, edge in zip(inputs[1:], (-np.inf, np.inf), strict=False))
    return np.clip(inputs[0], low, high)


def reshape(inputs: Sequence[Array], _: Attributes) -> Array:
    x, shape = inputs
    return x.reshape([x.shape[k] if n == 0 else int(n) for k, n in enumerate(shape)])


def cast(inputs: Sequence[Array], attributes: Attributes) -> Array:
    if inputs[0].dtype.kind != "f" or attributes["to"] not in FLOATS:
        raise Unsupported("Cast of integers")
    return inputs[0]


def quantised(inputs: Sequence[Array], _: Attributes) -> Array:
    kind = inputs[2].dtype
    limits = np.iinfo(kind)
    return np.clip(np.rint(inputs[0] / inputs[1]) + inputs[2], limits.min, limits.max).astype(kind)


def sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def flatten(inputs: Sequence[Array], attributes: Attributes) -> Array:
    axis = attributes.get("axis", 1)
    return inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), -1)


def axes_of(inputs: Sequence[Array], attributes: Attributes) -> tuple[int, ...]:
    return tuple(int(n) for n in (attributes["axes"] if "axes" in attributes else inputs[1]))


def dequantised(inputs: Sequence[Array], attributes: Attributes) -> Array:
    """A zero point that is left out is zero; one scale for all, or one along an axis."""
    x, scale = inputs[0].astype(np.float64), np.asarray(inputs[1], np.float64)
    zero = np.asarray(inputs[2], np.float64) if len(inputs) > 2 and inputs[2].size else np.zeros(())
    form = [1] * x.ndim
    if scale.size > 1:
        form[int(attributes.get("axis", 1))] = -1
    if not x.ndim:
        return (x - zero.reshape(())) * scale.reshape(())
    return (x - (zero.reshape(form) if zero.size > 1 else zero.reshape(()))) * scale.reshape(form)


OPERATORS: dict[str, Operator] = {
    "Add": lambda i, _: i[0] + i[1],
    "AveragePool": pool(np.mean, 0.0),
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Clip": clip,
    "Concat": lambda i, a: np.concatenate(i, axis=a["axis"]),
    "Constant": lambda _, a: widened(numpy_helper.to_array(a["value"])),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DequantizeLinear": dequantised,
    "Div": lambda i, _: i[0] / i[1],
    "Flatten": flatten,
    "Gemm": gemm,
    "GlobalAveragePool": lambda i, _: i[0].mean(axis=tuple(range(2, i[0].ndim)), keepdims=True),
    "Identity": lambda i, _: i[0],
    "LeakyRelu": lambda i, a: np.where(i[0] < 0, a.get("alpha", 0.01) * i[0], i[0]),
    "Less": lambda i, _: i[0] < i[1],
    "MatMul": lambda i, _: i[0] @ i[1],
    "Max": lambda i, _: reduce(np.maximum, i),
    "MaxPool": pool(np.max, -np.inf),
    "Mul": lambda i, _: i[0] * i[1],
    "QuantizeLinear": quantised,
    "Relu": lambda i, _: np.maximum(i[0], 0.0),
    "Reshape": reshape,
    "Sigmoid": lambda i, _: sigmoid(i[0]),
    "Sqrt": lambda i, _: np.sqrt(i[0]),
    "Squeeze": lambda i, a: np.squeeze(i[0], axes_of(i, a)),
    "Sub": lambda i, _: i[0] - i[1],
    "Transpose": lambda i, a: i[0].transpose(a.get("perm")),
    "Unsqueeze": lambda i, a: np.expand_dims(i[0], axes_of(i, a)),
    "Where": lambda i, _: np.where(*i),
}
