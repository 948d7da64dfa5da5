"""The nodes that reduce a value to what is worth bringing out: per sample and channel, its mean and variance.

    r = Reshape(x)          (N, C, P) where the channels are on axis 1, (N, P, C) where they are on the last
    m = ReduceMean(Cast(r to float64), over P)
    v = ReduceMean((Cast(r) - m)^2, over P)

The shape of r comes out too, for P is how many elements a mean is of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

FIRST_OPSET_WITH_AXES_AS_INPUT = 18


@dataclass(frozen=True, slots=True)
class Reduction:
    """The names of what a value was reduced to, where it stands now, and its channels and their axis."""

    means: str
    variances: str
    shape: str
    channels: int
    axis: int

    @property
    def names(self) -> tuple[str, str, str]:
        """All three."""
        return self.means, self.variances, self.shape

    def renamed(self, names: tuple[str, str, str]) -> Reduction:
        """The same under other names."""
        return Reduction(*names, self.channels, self.axis)

    @property
    def types(self) -> tuple[int, int, int]:
        """The element types of the three."""
        return TensorProto.DOUBLE, TensorProto.DOUBLE, TensorProto.INT64

    def of_nothing(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the three are of no samples."""
        form = (0, self.channels, 1) if self.axis == 1 else (0, 1, self.channels)
        return np.zeros(form), np.zeros(form), np.array(form, dtype=np.int64)


def reduction(name: str, prefix: str, *, channels: int, axis: int, opset: int) -> tuple[list[NodeProto], Reduction]:
    """The nodes that reduce the value `name`; the names of what they make begin with `prefix`."""
    form, over = ([0, 0, -1], 2) if axis == 1 else ([0, -1, channels], 1)
    called = {part: f"{prefix}/{part}" for part in ("form", "rows", "wide", "axes", "mean", "off", "square", "var")}
    nodes = [
        _constant(called["form"], np.array(form, dtype=np.int64)),
        helper.make_node("Reshape", [name, called["form"]], [called["rows"]]),
        helper.make_node("Cast", [called["rows"]], [called["wide"]], to=TensorProto.DOUBLE),
        _constant(called["axes"], np.array([over], dtype=np.int64)),
        _mean(called["wide"], called["axes"], called["mean"], over, opset),
        helper.make_node("Sub", [called["wide"], called["mean"]], [called["off"]]),
        helper.make_node("Mul", [called["off"], called["off"]], [called["square"]]),
        _mean(called["square"], called["axes"], called["var"], over, opset),
        helper.make_node("Shape", [called["rows"]], [f"{prefix}/shape"]),
    ]
    return nodes, Reduction(called["mean"], called["var"], f"{prefix}/shape", channels, axis)


def constant(name: str, array: np.ndarray) -> NodeProto:
    """A Constant node."""
    return _constant(name, array)


def _constant(name: str, array: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def _mean(name: str, axes: str, output: str, over: int, opset: int) -> NodeProto:
    if opset < FIRST_OPSET_WITH_AXES_AS_INPUT:
        return helper.make_node("ReduceMean", [name], [output], axes=[over], keepdims=1)
    return helper.make_node("ReduceMean", [name, axes], [output], keepdims=1)
