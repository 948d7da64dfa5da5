"""Folds with wrong numbers: each kind of mistake, in each kind of home, in one layer and in all, is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from certificate_folds import EPSILON, Fold, array, parameters, parsed, put

CHANNELS = 4


@dataclass(frozen=True)
class Layer:
    """The numbers of one layer in float64; the weight's output channels lie along its axis 0."""

    weight: np.ndarray
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    unscaled_bias: bool = False

    def folded(self, deviation: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        scale = self.gamma / deviation(self.var)
        bias = self.bias if self.unscaled_bias else scale * self.bias
        return self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1)), bias - self.mean * scale + self.beta

    @property
    def right(self) -> tuple[np.ndarray, np.ndarray]:
        return self.folded(lambda var: np.sqrt(var + np.float32(EPSILON)))


def _swapped(values: np.ndarray) -> np.ndarray:
    return values[[1, 0, *range(2, len(values))]]


def _swapped_rows(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = layer.right
    return _swapped(weight), bias


def _zeroed(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = layer.right
    weight.flat[5] = 0
    return weight, bias


def _channel_off(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = layer.right
    weight[2] *= 1 + 1e-4
    return weight, bias


def _bias_off(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = layer.right
    bias[3] += 1e-4
    return weight, bias


def _in_half_precision(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = layer.right
    return weight.astype(np.float16), bias


WRONG: dict[str, Callable[[Layer], tuple[np.ndarray, np.ndarray]]] = {
    "epsilon forgotten": lambda layer: layer.folded(np.sqrt),
    "epsilon doubled": lambda layer: layer.folded(lambda var: np.sqrt(var + 2 * EPSILON)),
    "epsilon subtracted": lambda layer: layer.folded(lambda var: np.sqrt(var - EPSILON)),
    "epsilon outside the root": lambda layer: layer.folded(lambda var: np.sqrt(var) + EPSILON),
    "root forgotten": lambda layer: layer.folded(lambda var: var + EPSILON),
    "mean of the wrong sign": lambda layer: replace(layer, mean=-layer.mean).right,
    "gamma of the wrong sign": lambda layer: replace(layer, gamma=-layer.gamma).right,
    "mean lost": lambda layer: replace(layer, mean=0 * layer.mean).right,
    "beta lost": lambda layer: replace(layer, beta=0 * layer.beta).right,
    "bias lost": lambda layer: replace(layer, bias=0 * layer.bias).right,
    "bias not scaled": lambda layer: replace(layer, unscaled_bias=True).right,
    "two channels of gamma swapped": lambda layer: replace(layer, gamma=_swapped(layer.gamma)).right,
    "two channels of mean swapped": lambda layer: replace(layer, mean=_swapped(layer.mean)).right,
    "two channels of beta swapped": lambda layer: replace(layer, beta=_swapped(layer.beta)).right,
    "two channels of the weight swapped": _swapped_rows,
    "one weight zeroed": _zeroed,
    "one channel off by 1e-4": _channel_off,
    "one bias off by 1e-4": _bias_off,
    "weights rounded to fp16": _in_half_precision,
    "nothing scaled": lambda layer: (layer.weight, layer.right[1]),
    "infinite": lambda layer: (layer.right[0] * np.inf, layer.right[1]),
    "not a number": lambda layer: (layer.right[0] * np.nan, layer.right[1]),
    "the bias not a number": lambda layer: (layer.right[0], layer.right[1] * np.nan),
}

HOMES = {  # interface, home, weight's shape, axis of its output channels
    "Conv": ("(float[1,4,8,8] x) => (float[1,4,6,6] y)", "Conv(x,w,b)", (CHANNELS, 4, 3, 3), 0),
    "grouped Conv": ("(float[1,6,8] x) => (float[1,4,6] y)", "Conv<group=2>(x,w,b)", (CHANNELS, 3, 3), 0),
    "ConvTranspose": ("(float[1,4,8,8] x) => (float[1,4,N,N] y)", "ConvTranspose(x,w,b)", (4, CHANNELS, 3, 3), 1),
    "Gemm": ("(float[2,5] x) => (float[2,4] y)", "Gemm(x,w,b)", (5, CHANNELS), 1),
    "Gemm of B transposed": ("(float[2,5] x) => (float[2,4] y)", "Gemm<transB=1>(x,w,b)", (CHANNELS, 5), 0),
}


def drawn(kind: str, seed: int = 0, dtype: str = "float32") -> tuple[Fold, Layer, int]:
    """A fold of one layer, its numbers, and the axis of the weight's channels."""
    interface, home, shape, axis = HOMES[kind]
    text = f"{interface} {{ c = {home} n = BatchNormalization(c,g,e,m,v) y = Relu(n) }}"
    random = np.random.default_rng(seed)
    found = parameters(random, CHANNELS, dtype=dtype)
    weight, bias = random.standard_normal(shape).astype(dtype), random.standard_normal(CHANNELS).astype(dtype)
    element = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    fold = Fold.of(put(parsed(text.replace("float", element)), w=weight, b=bias, **found))
    wide = [value.astype(np.float64) for value in (np.moveaxis(weight, axis, 0), bias, *found.values())]
    return fold, Layer(*wide), axis


def written(after: onnx.ModelProto, node: int, weight: np.ndarray, bias: np.ndarray, axis: int) -> onnx.ModelProto:
    """The candidate with other numbers in what a home reads, rounded to the types that stand there."""
    names = after.graph.node[node].input[1:3]
    for name, numbers in zip(names, (np.moveaxis(weight, 0, axis), bias), strict=True):
        old = array(after, name)
        put(after, **{name: np.ascontiguousarray(numbers.reshape(old.shape), old.dtype)})
    return after


@pytest.mark.parametrize("kind", HOMES)
def test_the_numbers_that_these_tests_spoil_are_right_before_they_are_spoiled(kind: str) -> None:
    fold, layer, axis = drawn(kind)
    assert fold.certificate(written(fold.copy(), 0, *layer.right, axis)).failure is None


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kind", HOMES)
def test_a_wrong_fold_is_refused_at_its_site(kind: str, wrong: str) -> None:
    fold, layer, axis = drawn(kind)
    checked = fold.certificate(written(fold.copy(), 0, *WRONG[wrong](layer), axis))
    assert not checked.holds
    assert checked.failed_site == fold.claims[0].homes[0]
    assert "and should be" in str(checked.failure)


@pytest.mark.parametrize("wrong", ["epsilon forgotten", "mean of the wrong sign", "one channel off by 1e-4"])
@pytest.mark.parametrize("kind", ["Gemm", "Conv"])
def test_a_wrong_fold_in_float64_is_refused(kind: str, wrong: str) -> None:
    fold, layer, axis = drawn(kind, dtype="float64")
    assert fold.certificate(written(fold.copy(), 0, *WRONG[wrong](layer), axis)).failed_site is not None


@pytest.mark.parametrize("wrong", ["gamma of the wrong sign", "beta lost", "two channels of the weight swapped"])
@pytest.mark.parametrize("kind", ["Gemm", "Conv"])
def test_a_wrong_fold_in_float16_is_refused(kind: str, wrong: str) -> None:
    fold, layer, axis = drawn(kind, dtype="float16")
    assert fold.certificate(written(fold.copy(), 0, *WRONG[wrong](layer), axis)).failed_site is not None


@pytest.mark.parametrize("part", [1, 2], ids=["weight", "bias"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", HOMES)
def test_every_single_number_one_unit_further_off_is_refused(kind: str, dtype: str, part: int) -> None:
    fold, layer, axis = drawn(kind, seed=part, dtype=dtype)
    name = fold.after.graph.node[0].input[part]
    right = np.moveaxis(layer.right[0], 0, axis) if part == 1 else layer.right[1]
    now = array(fold.after, name).reshape(right.shape)
    outward = np.where(right >= now, -np.inf, np.inf).astype(now.dtype)
    step = np.nextafter(now, outward)
    for place in range(0, now.size, max(1, now.size // 8)):
        spoiled = now.copy()
        spoiled.reshape(-1)[place] = step.reshape(-1)[place]
        if dtype == "float64":  # its bound allows a few units of 2^-53 of the absolute terms besides
            spoiled.reshape(-1)[place] *= 1 + 2.0**-40
        checked = fold.certificate(put(fold.copy(), **{name: spoiled.reshape(array(fold.after, name).shape)}))
        assert checked.failed_site == fold.claims[0].homes[0]
        assert str([int(i) for i in np.unravel_index(place, now.shape)])[1:-1] in str(checked.failure)


def test_a_weight_scaled_along_its_input_axis_is_refused_where_both_axes_have_one_size() -> None:
    fold, layer, axis = drawn("ConvTranspose")
    weight, bias = layer.right
    scale = weight[:, 0, 0, 0] / layer.weight[:, 0, 0, 0]
    along_inputs = layer.weight * scale[None, :, None, None]
    assert fold.certificate(written(fold.copy(), 0, along_inputs, bias, axis)).failed_site is not None


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_weights_scaled_by_the_factors_of_another_group_are_refused(kind: str) -> None:
    text = (
        f"(float[1,4,8] x) => (float[1,4,N] y) {{ c = {kind}<group=2>(x,w) n = BatchNormalization(c,g,e,m,v) "
        "y = Relu(n) }"
    )
    random = np.random.default_rng(1)
    weight = random.standard_normal((4, 2, 3)).astype("f")
    fold = Fold.of(put(parsed(text), w=weight, **parameters(random, CHANNELS)))
    name = fold.after.graph.node[0].input[1]
    factors = array(fold.after, name) / weight
    mixed = (weight * factors[[2, 3, 0, 1]]).astype("f")
    assert fold.certificate().holds
    assert fold.certificate(put(fold.copy(), **{name: mixed})).failed_site == fold.claims[0].homes[0]


def test_a_depthwise_transposed_convolution_scaled_by_the_channel_in_its_group_is_refused() -> None:
    text = (
        "(float[1,3,8] x) => (float[1,6,10] y) { c = ConvTranspose<group=3>(x,w) n = BatchNormalization(c,g,e,m,v) "
        "y = Relu(n) }"
    )
    random = np.random.default_rng(2)
    weight = random.standard_normal((3, 2, 3)).astype("f")
    fold = Fold.of(put(parsed(text), w=weight, **parameters(random, 6)))
    name = fold.after.graph.node[0].input[1]
    wrong = (weight * (array(fold.after, name) / weight)[0:1]).astype("f")
    assert fold.certificate().holds
    assert not fold.certificate(put(fold.copy(), **{name: wrong})).holds


LAYERS = 30


def network() -> tuple[Fold, list[Layer]]:
    """Thirty times Conv, BatchNormalization, Relu."""
    random = np.random.default_rng(3)
    lines, arrays, layers, value = [], {}, [], "x"
    for k in range(LAYERS):
        lines.append(f"c{k} = Conv<pads=[1,1]>({value},w{k},b{k}) n{k} = BatchNormalization(c{k},g{k},e{k},m{k},v{k})")
        lines.append(f"r{k} = Relu(n{k})")
        value = f"r{k}"
        found = parameters(random, CHANNELS)
        weight, bias = random.standard_normal((CHANNELS, CHANNELS, 3)).astype("f"), random.standard_normal(4)
        bias = bias.astype("f")
        arrays |= {f"w{k}": weight, f"b{k}": bias} | {f"{name}{k}": number for name, number in found.items()}
        layers.append(Layer(*(a.astype(np.float64) for a in (weight, bias, *found.values()))))
    body = "\n".join(lines)
    text = f"(float[1,{CHANNELS},8] x) => (float[1,{CHANNELS},8] y) {{ {body} y = Identity({value}) }}"
    return Fold.of(put(parsed(text), **arrays)), layers


@pytest.mark.parametrize("wrong", ["epsilon forgotten", "bias not scaled", "two channels of gamma swapped"])
def test_one_wrong_layer_of_thirty_is_named(wrong: str) -> None:
    fold, layers = network()
    for k in (0, 17, LAYERS - 1):
        checked = fold.certificate(written(fold.copy(), 2 * k, *WRONG[wrong](layers[k]), 0))
        assert checked.failed_site == fold.claims[k].homes[0]


@pytest.mark.parametrize("wrong", WRONG)
def test_the_same_mistake_in_all_layers_is_refused(wrong: str) -> None:
    fold, layers = network()
    candidate = fold.copy()
    for k, layer in enumerate(layers):
        written(candidate, 2 * k, *WRONG[wrong](layer), 0)
    checked = fold.certificate(candidate)
    assert checked.failed_site == fold.claims[0].homes[0]
    assert len(checked.homes) == 0


def test_a_fold_of_thirty_layers_is_certified_home_by_home() -> None:
    fold, _ = network()
    checked = fold.certificate()
    assert checked.holds
    assert [check.home for check in checked.homes] == [claim.homes[0] for claim in fold.claims]
    assert {check.numbers for check in checked.homes} == {CHANNELS * CHANNELS * 3 + CHANNELS}
    assert all(0 < check.worst <= 1 for check in checked.homes)
