"""What is known of a network with BatchNormalization: its layers, and every value in float64 on a probe."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from exact import Array, per_channel, result

UNITS = {"float32": 2.0**-24, "float16": 2.0**-11}


class Unsuitable(Exception):
    """A draw that came to nothing: an output that is constant, a number beyond its type."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear operator and the BatchNormalization behind it: names of nodes and values, and constants in float64.

    `rows` is the weight as (out, in * taps), whatever the operator's own layout; `home` the linear node, `adder` the
    Add of its bias where it is a node, `norm` the BatchNormalization.
    """

    op: str
    group: int
    flipped: bool
    bias_factor: float
    shape: tuple[int, ...]
    home: str
    adder: str
    norm: str
    source: str
    total: str
    result: str
    weight: str
    rows: Array
    bias: Array | None
    gamma: Array
    beta: Array
    mean: Array
    var: Array
    epsilon: float

    @property
    def scale(self) -> Array:
        return self.gamma / np.sqrt(self.var + self.epsilon)

    @property
    def offset(self) -> Array:
        """The bias, or zeros."""
        return np.zeros_like(self.mean) if self.bias is None else self.bias

    def raw(self, rows: Array) -> Array:
        """A weight given as rows, in the operator's own layout."""
        if self.op == "ConvTranspose":
            inner = (self.group, self.shape[1], self.shape[0] // self.group, *self.shape[2:])
            return rows.reshape(inner).swapaxes(1, 2).reshape(self.shape)
        return rows.reshape(self.shape) if self.op == "Conv" or self.flipped else rows.T


@dataclass(frozen=True, slots=True)
class Net:
    """A model, its layers in order, and all its values on the probe."""

    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    values: dict[str, Array] = field(repr=False)
    family: str
    statistics: str
    dtype: str

    @property
    def unit(self) -> float:
        """Half a unit in the last place, relative."""
        return UNITS[self.dtype]


@dataclass(frozen=True, slots=True)
class Spec:
    """What one linear operator is to be."""

    op: str
    out: int
    kernel: tuple[int, ...] = ()
    group: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1


def sizes(net: Net, layer: Layer) -> Array:
    """S, elementwise: |a| * (|W| * |x| + |b| + |mean|) + |beta|, the sum of the absolute terms of one output."""
    home = next(node for node in net.model.graph.node if node.name == layer.home)
    plain = onnx.NodeProto()
    plain.CopyFrom(home)
    del plain.input[2:]
    terms = {layer.source: np.abs(net.values[layer.source]), layer.weight: np.abs(net.values[layer.weight])}
    product = result(plain, terms)
    scale, inside, beta = (
        per_channel(np.abs(one), product.ndim)
        for one in (layer.scale, np.abs(layer.offset) + np.abs(layer.mean), layer.beta)
    )
    return scale * (product + inside) + beta
