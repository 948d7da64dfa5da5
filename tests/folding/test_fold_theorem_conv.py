"""Conv and ConvTranspose take over any affine of their output, exactly: the theorem behind two rows of the op table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from folding_draws import Array, Kind, arrays, epsilons, examples, kinds, statistics
from folding_support import assert_same_function, bits, folded, model, operands, scale_and_shift
from hypothesis import given
from hypothesis import strategies as st

PROVEN = {("linear", "Conv"), ("linear", "ConvTranspose"), ("affine", "BatchNormalization")}


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution with what follows it, ready to be written as text."""

    kind: Kind
    attributes: str
    group: int
    tensors: dict[str, Array]
    x: Array
    bias: str
    epsilon: float

    def text(self, op: str) -> str:
        dims = ",".join(map(str, self.x.shape))
        return f"""({self.kind.text}[{dims}] x) => ({self.kind.text}[] y) {{
            c = {op} <{self.attributes}> (x, W{self.bias})
            y = BatchNormalization <epsilon = {self.epsilon:.9g}> (c, g, be, m, v)
        }}"""


@st.composite
def layers(draw: st.DrawFn, *, transposed: bool) -> Layer:
    kind = draw(kinds())
    rank = draw(st.integers(1, 3))
    small = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    twos = st.lists(st.integers(1, 2), min_size=rank, max_size=rank)
    kernel, strides, dilations = draw(small), draw(twos), draw(twos)
    group = draw(st.integers(1, 4))
    per_group_in, per_group_out = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 3), (3, 2)]))
    attributes = {"group": group, "strides": strides}
    padding = draw(st.sampled_from(["pads", "pads", "none", "VALID", "NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    if padding.startswith("SAME") or (transposed and padding == "VALID"):
        padding = "pads" if transposed else padding
        dilations = [1] * rank  # onnxruntime knows SAME without dilation alone
    attributes["dilations"] = dilations
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if padding in {"pads", "NOTSET"}:
        most = [min(2, e - 1) if transposed else 2 for e in extents]
        attributes["pads"] = [draw(st.integers(0, m)) for m in most] * 2
    if padding not in {"pads", "none"}:
        attributes["auto_pad"] = f'"{padding}"'
    if transposed and draw(st.booleans()):
        attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
    size = [e + draw(st.integers(0, 2)) for e in extents]
    inside, outside = group * per_group_in, group * per_group_out
    dims = (inside, per_group_out, *kernel) if transposed else (outside, per_group_in, *kernel)
    tensors = {"W": draw(arrays(dims, kind.data)), **draw(statistics(outside, kind))}
    bias = draw(st.sampled_from(["", ', ""', ", b"]))
    if bias == ", b":
        tensors["b"] = draw(arrays((outside,), kind.data))
    x = draw(arrays((draw(st.integers(1, 2)), inside, *size), kind.data))
    return Layer(kind, _written(attributes), group, tensors, x, bias, draw(epsilons()))


def _written(attributes: dict[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in attributes.items())


def check(layer: Layer, op: str, channels_of: list[tuple[int, tuple[object, ...]]]) -> None:
    """The same function in onnxruntime, and the constants those of a float64 computation that is rounded once."""
    before = model(layer.text(op), opset=layer.kind.opset, **layer.tensors)
    after = folded(before)
    assert after.ops == [op]
    weight = layer.tensors["W"]
    a, s = scale_and_shift(layer.tensors, eps=layer.epsilon)
    expected = weight.astype(np.float64)
    for channel, where in channels_of:
        expected[where] = weight[where].astype(np.float64) * a[channel]
    _, new_weight, *new_bias = operands(after.proto, op)
    assert new_weight is not None
    assert bits(new_weight) == bits(expected.astype(weight.dtype))
    if "b" in layer.tensors or np.any(s):
        b = layer.tensors.get("b", np.zeros(len(s)))
        (found,) = new_bias
        assert found is not None
        assert bits(found) == bits((b.astype(np.float64) * a + s).astype(weight.dtype))
    fan_in = weight.size // min(weight.shape[0], len(s))
    assert_same_function(before, after.proto, {"x": layer.x}, fan_in)


@examples(220)
@given(layers(transposed=False))
def test_conv_takes_over_any_norm_after_it(layer: Layer) -> None:
    check(layer, "Conv", [(o, (o,)) for o in range(layer.tensors["W"].shape[0])])


@examples(160)
@given(layers(transposed=True))
def test_conv_transpose_takes_over_any_norm_after_it(layer: Layer) -> None:
    inside, outside = layer.tensors["W"].shape[:2]
    step = inside // layer.group
    where = [
        (g * outside + o, (slice(g * step, (g + 1) * step), o)) for g in range(layer.group) for o in range(outside)
    ]
    check(layer, "ConvTranspose", where)
