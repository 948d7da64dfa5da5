"""Small networks of Conv, BatchNormalization and Relu, their correct folds, and wrong ones on purpose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper, parser

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHANNELS = 4


@dataclass(frozen=True)
class Layer:
    weight: np.ndarray
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    epsilon: float = 1e-5


Constants = tuple[np.ndarray, np.ndarray]


def layer(random: np.random.Generator, dtype: str = "float32", *, offset: float = 0.0) -> Layer:
    def values(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(dtype)

    return Layer(
        weight=values(CHANNELS, CHANNELS, 3, 3) / np.array(6, dtype),
        bias=values(CHANNELS) + np.array(offset, dtype),
        gamma=(1 + random.random(CHANNELS)).astype(dtype),
        # Large enough that no channel is dead behind its Relu: nothing could be seen there.
        beta=np.abs(values(CHANNELS)) + np.array(1, dtype),
        mean=values(CHANNELS) + np.array(offset, dtype),
        var=(0.5 + random.random(CHANNELS)).astype(dtype),
    )


def fold(given: Layer, denominator: Callable[[np.ndarray], np.ndarray] | None = None) -> Constants:
    wide = {
        name: getattr(given, name).astype(np.float64) for name in ("weight", "bias", "gamma", "beta", "mean", "var")
    }
    root = denominator(wide["var"]) if denominator else np.sqrt(wide["var"] + np.float32(given.epsilon))
    scale = wide["gamma"] / root
    weight = wide["weight"] * scale[:, None, None, None]
    bias = (wide["bias"] - wide["mean"]) * scale + wide["beta"]
    return weight.astype(given.weight.dtype), bias.astype(given.bias.dtype)


def _swap(values: np.ndarray) -> np.ndarray:
    return values[[1, 0, *range(2, len(values))]]


def _bias_not_scaled(given: Layer) -> Constants:
    weight, bias = fold(replace(given, bias=np.zeros_like(given.bias)))
    return weight, bias + given.bias


def _one_weight_zeroed(given: Layer) -> Constants:
    weight, bias = fold(given)
    weight[0, 0, 0, 0] = 0
    return weight, bias


def _one_channel_off(given: Layer) -> Constants:
    weight, bias = fold(given)
    weight[1] *= 1 + 1e-4
    return weight, bias


def _rounded_to_half(given: Layer) -> Constants:
    weight, bias = fold(given)
    return weight.astype(np.float16).astype(weight.dtype), bias


def _wrong_axis(given: Layer) -> Constants:
    weight, bias = fold(given)
    scale = weight[:, 0, 0, 0] / given.weight[:, 0, 0, 0]
    return given.weight * scale[None, :, None, None], bias


WRONG: dict[str, Callable[[Layer], Constants]] = {
    "epsilon forgotten": lambda given: fold(given, np.sqrt),
    "epsilon doubled": lambda given: fold(given, lambda var: np.sqrt(var + 2e-5)),
    "epsilon subtracted": lambda given: fold(given, lambda var: np.sqrt(var - 1e-5)),
    "epsilon outside the root": lambda given: fold(given, lambda var: np.sqrt(var) + 1e-5),
    "gamma swapped": lambda given: fold(replace(given, gamma=_swap(given.gamma))),
    "mean swapped": lambda given: fold(replace(given, mean=_swap(given.mean))),
    "gamma negated": lambda given: fold(replace(given, gamma=-given.gamma)),
    "mean negated": lambda given: fold(replace(given, mean=-given.mean)),
    "beta lost": lambda given: fold(replace(given, beta=np.zeros_like(given.beta))),
    "bias lost": lambda given: fold(replace(given, bias=np.zeros_like(given.bias))),
    "bias not scaled": _bias_not_scaled,
    "one weight zeroed": _one_weight_zeroed,
    "one channel off by 1e-4": _one_channel_off,
    "wrong axis": _wrong_axis,
    "rounded to fp16": _rounded_to_half,
}


def original(layers: list[Layer], element: str = "float") -> onnx.ModelProto:
    lines, tensors, value = [], {}, "x"
    for k, given in enumerate(layers):
        lines.append(f"c{k} = Conv <pads = [1,1,1,1]> ({value}, w{k}, b{k})")
        lines.append(f"n{k} = BatchNormalization <epsilon = {given.epsilon:.9f}> (c{k}, g{k}, e{k}, m{k}, v{k})")
        lines.append(f"r{k} = Relu (n{k})")
        value = f"r{k}"
        named = zip("wbgemv", ("weight", "bias", "gamma", "beta", "mean", "var"), strict=True)
        tensors.update({f"{letter}{k}": getattr(given, name) for letter, name in named})
    return _model(lines, value, tensors, element)


def folded(constants: list[Constants], element: str = "float") -> onnx.ModelProto:
    lines, tensors, value = [], {}, "x"
    for k, (weight, bias) in enumerate(constants):
        lines.append(f"c{k} = Conv <pads = [1,1,1,1]> ({value}, w{k}, b{k})")
        lines.append(f"r{k} = Relu (c{k})")
        value = f"r{k}"
        tensors.update({f"w{k}": weight, f"b{k}": bias})
    return _model(lines, value, tensors, element)


def _model(lines: list[str], value: str, tensors: dict[str, np.ndarray], element: str) -> onnx.ModelProto:
    body = "\n".join(lines)
    # The last value carries no shape and its own name, so that both models agree on it.
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({element}[N,{CHANNELS},6,6] x) '
        f"=> ({element}[N,{CHANNELS},6,6] out) {{ {body}\n out = Identity ({value}) }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    return model


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path
