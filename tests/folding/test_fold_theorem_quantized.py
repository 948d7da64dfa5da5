"""A weight of integers keeps them: the scale of its dequantisation takes over the affine, and nothing becomes float.

    W = (q - z) * scale        a*W = (q - z) * (a*scale)

Also for a scale of one number (it becomes one per output from opset 13 on), one per output, or one per block; for int8
and uint8; with zero points or without; for a negative scale, which onnxruntime multiplies with like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from folding_draws import Array, Chain, Kind, arrays, chained, examples
from folding_support import bits, constants, fold, inputs, model, norm, operands, proven, scale_and_shift, weights
from hypothesis import assume, event, given
from hypothesis import strategies as st

PROVEN = {("linear", "DequantizeLinear")}
"""No row of its own: what is proven here holds of every row that is linear in a weight."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that reads `{W}` and maybe a bias; the weight's dims, its axis of outputs, x, the axis of the outputs."""

    line: str
    dims: tuple[int, ...]
    own: int
    x: tuple[int, ...]
    axis: int
    fan_in: int
    takes_bias: bool


LAYERS = {
    "Conv": Layer("Conv (x, d{b})", (4, 4, 2), 0, (2, 4, 5), 1, 8, True),
    "Conv in groups": Layer("Conv <group = 2> (x, d{b})", (4, 2, 1, 1), 0, (2, 4, 3, 3), 1, 2, True),
    "ConvTranspose": Layer("ConvTranspose (x, d{b})", (4, 4, 2), 1, (2, 4, 5), 1, 8, True),
    "Gemm": Layer("Gemm (x, d{b})", (4, 4), 1, (2, 4), 1, 4, True),
    "Gemm, transposed": Layer("Gemm <transB = 1> (x, d{b})", (4, 4), 0, (2, 4), 1, 4, True),
    "MatMul": Layer("MatMul (x, d)", (4, 4), 1, (2, 3, 4), 2, 4, False),
    "MatMul, left": Layer("MatMul (d, x)", (4, 4), 0, (2, 4, 3), 1, 4, False),
    "Einsum": Layer('Einsum <equation = "nki,oi->nok"> (x, d)', (4, 4), 0, (2, 3, 4), 1, 4, False),
}


@dataclass(frozen=True, slots=True)
class Quantised:
    """A layer behind a dequantisation, as text and tensors."""

    layer: Layer
    kind: Kind
    text: str
    tensors: dict[str, Array]
    is_int_bias: bool


@st.composite
def quantised(draw: st.DrawFn) -> Quantised:
    layer = LAYERS[draw(st.sampled_from(sorted(LAYERS)))]
    form = draw(st.sampled_from(["scalar", "one", "axis", "axis", "blocks"]))
    opset = 21 if form == "blocks" else draw(st.sampled_from([13, 17, 19, 21]))
    kind = Kind(np.float32, np.float32, opset)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    integer = draw(st.sampled_from([np.int8, np.uint8]))
    limits = np.iinfo(integer)
    block_axis = 1 - layer.own
    scale_dims = {
        "scalar": (), "one": (1,), "axis": (4,),
        "blocks": tuple(n // 2 if i == block_axis else n for i, n in enumerate(layer.dims)),
    }[form]  # fmt: skip
    tensors = {
        "Q": rng.integers(limits.min, limits.max, layer.dims, endpoint=True).astype(integer),
        "qs": np.asarray(rng.uniform(0.005, 0.02, scale_dims) * rng.choice([-1, 1, 1], scale_dims)).astype(np.float32),
    }
    operands_ = "Q, qs"
    if draw(st.booleans()):
        tensors["qz"] = np.asarray(rng.integers(-20 if limits.min else 0, 20, scale_dims)).astype(integer)
        operands_ += ", qz"
    axis = draw(st.sampled_from([layer.own, layer.own - len(layer.dims)]))
    attributes = {"axis": f"<axis = {axis}>", "blocks": f"<axis = {block_axis}, block_size = 2>"}.get(form, "")
    bias = draw(st.sampled_from(["", "float", "int32"])) if layer.takes_bias else ""
    lines = f"d = DequantizeLinear {attributes} ({operands_})"
    if bias == "int32":
        per_axis = draw(st.booleans())
        tensors["B"] = rng.integers(-900, 900, 4).astype(np.int32)
        tensors["Bs"] = np.asarray(rng.uniform(1e-4, 1e-2, 4 if per_axis else ())).astype(np.float32)
        lines += f" b = DequantizeLinear {'<axis = 0>' if per_axis else ''} (B, Bs)"
    elif bias:
        tensors["b"] = draw(arrays((4,), np.float32))
    lines += " t = " + layer.line.replace("{b}", ", b" if bias else "")
    return Quantised(layer, kind, lines, tensors, bias == "int32")


def factors_alone(chain: Chain, draw: st.DrawFn) -> Chain:
    """Mul, Div and Neg: what a bias of integers can take."""
    for _ in range(draw(st.integers(1, 4))):
        op = draw(st.sampled_from(["Mul ({{x}}, {c})", "Div ({{x}}, {c})", "Neg ({{x}})"]))
        name = f"{chain.value}_c"
        values = draw(
            arrays(draw(st.sampled_from([(chain.channels, *[1] * (chain.rank - 1 - chain.axis)), ()])), np.float32)
        )
        chain.add(op.format(c=name))
        if "Neg" not in op:
            chain.tensors[name] = np.where(values == 0, np.float32(1.5), values)
    return chain


@examples(150)
@given(quantised(), st.data())
def test_the_scale_takes_over_any_chain_and_the_integers_stay(drawn: Quantised, data: st.DataObject) -> None:
    layer, kind = drawn.layer, drawn.kind
    start = Chain(kind, len(layer.x), layer.axis, 4, "t")
    chain = factors_alone(start, data.draw) if drawn.is_int_bias else data.draw(chained(start, 1, 3))
    body = f"{drawn.text} {' '.join(chain.lines)} y = Identity ({chain.value})"
    text = f"(float{list(layer.x)} x) => (float[] y) {{ {body} }}"
    before = model(text, opset=kind.opset, ir=10, **drawn.tensors, **chain.tensors)
    x = data.draw(arrays(layer.x, np.float32))
    refusals = fold(before).plan.refusals
    assume(not any("would be zero" in refusal.detail for refusal in refusals))  # see the refusals
    left = len(refusals)
    event(f"left {left}")
    assert left <= (not layer.takes_bias)
    done = proven(before, {"x": x}, layer.fan_in + len(chain.lines), left=left)
    held = constants(done.proto)
    assert bits(held["Q"]) == bits(drawn.tensors["Q"])
    assert all(array.size <= 16 for array in held.values() if array.dtype.kind == "f")
    assert done.ops.count("DequantizeLinear") == 1 + drawn.is_int_bias


@pytest.mark.parametrize("zero", [False, True])
def test_one_scale_becomes_one_per_output_and_the_zero_point_is_repeated(zero: bool) -> None:
    text = f"""(float[2,3,5] x) => (float[] y) {{
        d = DequantizeLinear (Q, qs{", qz" if zero else ""})  c = Conv (x, d)
        y = BatchNormalization (c, g, be, m, v) }}"""
    held = {"Q": np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1), "qs": np.array(0.5, np.float32)}
    before = model(text, **held, **({"qz": np.array(3, np.int8)} if zero else {}), **norm(4))
    done = proven(before, inputs(before), 3)
    a, _ = scale_and_shift(norm(4))
    _, scale, *points = operands(done.proto, "DequantizeLinear")
    assert bits(scale) == bits((0.5 * a).astype(np.float32))
    assert [bits(p) for p in points] == [bits(np.full(4, 3, np.int8))] * zero
    assert {attribute.name: attribute.i for attribute in done.proto.graph.node[0].attribute} == {"axis": 0}


def test_a_factor_that_is_the_same_everywhere_leaves_one_scale_one_scale_even_before_opset_13() -> None:
    text = """(float[2,3,5] x) => (float[] y) {
        d = DequantizeLinear (Q, qs, qz)  c = Conv (x, d)  y = Mul (c, k) }"""
    held = {"Q": np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1), "qs": np.array(0.5, np.float32)}
    before = model(text, opset=10, **held, qz=np.array(3, np.int8), k=np.array(-3, np.float32))
    done = proven(before, inputs(before), 3)
    assert bits(operands(done.proto, "DequantizeLinear")[1]) == bits(np.array(-1.5, np.float32))


def test_integers_that_two_layers_share_are_stored_once() -> None:
    text = """(float[2,4,5] x) => (float[] y, float[] z) {
        d = DequantizeLinear <axis = 0> (Q, qs)  c = Conv (x, d)  y = BatchNormalization (c, g, be, m, v)
        k = Conv (y, d)  z = BatchNormalization (k, hg, hbe, hm, hv) }"""
    held = {"Q": np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1), "qs": weights(4)}
    before = model(text, **held, **norm(4), **norm(4, "h", 5))
    done = proven(before, inputs(before), 8)
    assert done.ops == ["DequantizeLinear", "Conv", "DequantizeLinear", "Conv"]
    assert [array.dtype for array in constants(done.proto).values()].count(np.dtype(np.int8)) == 1


def test_a_layer_that_keeps_the_old_scale_keeps_its_dequantisation() -> None:
    text = """(float[2,4,5] x) => (float[] y, float[] z) {
        d = DequantizeLinear <axis = 0> (Q, qs)  c = Conv (x, d)  y = BatchNormalization (c, g, be, m, v)
        z = Conv (y, d) }"""
    held = {"Q": np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1), "qs": weights(4)}
    before = model(text, **held, **norm(4))
    done = proven(before, inputs(before), 8)
    assert done.ops.count("DequantizeLinear") == 2
    assert bits(constants(done.proto)["qs"]) == bits(weights(4))


def test_no_two_nodes_that_a_fold_makes_bear_one_name() -> None:
    """onnxruntime refuses such a graph; a copy, and an Add, is named after its node and may find that name taken."""
    text = """(float[2,4,5] x) => (float[] y, float[] z) {
        [dq] d = DequantizeLinear <axis = 0> (Q, qs)  c = Conv (x, d)  y = BatchNormalization (c, g, be, m, v)
        k = Conv (y, d)  n = BatchNormalization (k, hg, hbe, hm, hv)
        [product] p = MatMul (P, n)  z = BatchNormalization (p, g, be, m, v)  [product_bias] r = Relu (x) }"""
    held = {"Q": np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1), "qs": weights(4), "P": weights(4, 4)}
    before = model(text, **held, **norm(4), **norm(4, "h", 5))
    done = proven(before, inputs(before), 12)
    names = [node.name for node in done.proto.graph.node if node.name]
    assert sorted(names) == ["dq_folded", "dq_folded_1", "product", "product_bias", "product_bias_1"]
