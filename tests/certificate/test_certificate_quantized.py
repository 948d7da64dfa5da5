"""Folds into weights that are stored quantised: only scales change, in a new dequantisation; all else is refused."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from certificate_folds import array, copied, put
from certificate_pairs import Draw, Pair, pair_of, wide
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

KINDS: dict[str, Callable[[Draw], Pair]] = {}


def kind(function: Callable[[Draw], Pair]) -> Callable[[Draw], Pair]:
    KINDS[function.__name__.replace("_", " ")] = function
    return function


def stored(draw: Draw, *shape: int, dtype: type = np.int8) -> np.ndarray:
    low, high = (0, 16) if np.dtype(dtype).kind == "u" else (-7, 8)
    return draw.random.integers(low, high, shape).astype(dtype)


def scales(draw: Draw, *shape: int) -> np.ndarray:
    return np.abs(draw.factors(*shape)).astype(draw.dtype)


@kind
def conv_with_one_scale_that_becomes_one_per_channel(draw: Draw) -> Pair:
    q, s, z, (parameters, a, t) = stored(draw, 4, 3, 3), scales(draw), np.int8(2), draw.normalization(4)
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)",
        "d = DequantizeLinear(q,s,z) h = Conv(x,d) n = BN(h,g,e,m,v) y = Relu(n)",
        "d1 = DequantizeLinear<axis=0>(q,s1,z1) n = Conv(x,d1,b1) y = Relu(n)", "n: -> h", shared={"q": q},
        old={"s": s, "z": np.array(z), **parameters},
        new={"s1": wide(s) * a, "z1": np.full(4, z), "b1": t}, opset=21,
    )  # fmt: skip


@kind
def conv_with_scales_per_channel_and_a_float_bias(draw: Draw) -> Pair:
    q, s, b, (parameters, a, t) = stored(draw, 4, 3, 3), scales(draw, 4), draw.terms(4), draw.normalization(4)
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)",
        "d = DequantizeLinear<axis=0>(q,s) h = Conv(x,d,b) n = BN(h,g,e,m,v) y = Relu(n)",
        "d1 = DequantizeLinear<axis=0>(q,s1) n = Conv(x,d1,b1) y = Relu(n)", "n: -> h", shared={"q": q},
        old={"s": s, "b": b, **parameters}, new={"s1": wide(s) * a, "b1": wide(b) * a + t}, opset=21,
    )  # fmt: skip


@kind
def conv_whose_dequantised_weight_another_reads_too(draw: Draw) -> Pair:
    """The old dequantisation stays as it was; of the scales, one is negative and one is zero."""
    q, s, k = stored(draw, 4, 3, 3, dtype=np.uint8), scales(draw), draw.factors(4, 1)
    k[0], k[1] = -np.abs(k[0]), 0
    z, both = np.array(3, np.uint8), "(float[1,3,8] x) => (float[1,4,6] y, float[1,4,6] o)"
    return pair_of(
        draw, both, "d = DequantizeLinear(q,s,z) h = Conv(x,d) y = Mul(h,k) o = Conv(x,d)",
        "d = DequantizeLinear(q,s,z) d1 = DequantizeLinear<axis=-3>(q,s1,z1) y = Conv(x,d1) o = Conv(x,d)", "y: -> h",
        shared={"q": q, "s": s, "z": z}, old={"k": k},
        new={"s1": wide(s) * wide(k)[:, 0], "z1": np.full(4, 3, np.uint8)}, opset=21,
    )  # fmt: skip


@kind
def conv_with_a_quantised_bias(draw: Draw) -> Pair:
    q, s, k = stored(draw, 4, 3, 3), scales(draw), draw.factors(4, 1)
    p, r = stored(draw, 4, dtype=np.int32), scales(draw)
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)",
        "d = DequantizeLinear(q,s) b = DequantizeLinear(p,r) h = Conv(x,d,b) n = Mul(h,k) y = Relu(n)",
        """d1 = DequantizeLinear<axis=0>(q,s1) b1 = DequantizeLinear<axis=0>(p,r1)
           n = Conv(x,d1,b1) y = Relu(n)""", "n: -> h", shared={"q": q, "p": p}, old={"s": s, "r": r, "k": k},
        new={"s1": wide(s) * wide(k)[:, 0], "r1": wide(r) * wide(k)[:, 0]}, opset=21,
    )  # fmt: skip


@kind
def conv_transpose(draw: Draw) -> Pair:
    q, s, (parameters, a, t) = stored(draw, 3, 4, 3), scales(draw), draw.normalization(4)
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,10] y)",
        "d = DequantizeLinear(q,s) h = ConvTranspose(x,d) n = BN(h,g,e,m,v) y = Relu(n)",
        "d1 = DequantizeLinear(q,s1) n = ConvTranspose(x,d1,b1) y = Relu(n)", "n: -> h", shared={"q": q},
        old={"s": s, **parameters}, new={"s1": wide(s) * a, "b1": t}, opset=21,
    )  # fmt: skip


@kind
def gemm_with_its_factors_and_a_quantised_bias(draw: Draw) -> Pair:
    """The factor of the bias may stay, or go into its scale."""
    q, s, k = stored(draw, 4, 3), scales(draw, 4), draw.factors(4)
    p, r = stored(draw, 4, dtype=np.int32), scales(draw, 4)
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)",
        """d = DequantizeLinear<axis=0>(q,s) b = DequantizeLinear<axis=0>(p,r)
           h = Gemm<alpha=0.5,beta=2.0,transB=1>(x,d,b) n = Mul(h,k) y = Relu(n)""",
        """d1 = DequantizeLinear<axis=0>(q,s1) b1 = DequantizeLinear<axis=0>(p,r1)
           n = Gemm<alpha=0.5,transB=1>(x,d1,b1) y = Relu(n)""", "n: -> h", shared={"q": q, "p": p},
        old={"s": s, "r": r, "k": k}, new={"s1": wide(s) * wide(k), "r1": 2 * wide(r) * wide(k)}, opset=21,
    )  # fmt: skip


@kind
def matmul_with_blocks_of_four_bits(draw: Draw) -> Pair:
    """Blocks of two along the contracted axis: each column has several scales, and all of them change."""
    q, s, z = stored(draw, 5, 4, dtype=ml_dtypes.int4), scales(draw, 3, 4), stored(draw, 3, 4, dtype=ml_dtypes.int4)
    parameters, a, t = draw.normalization(4)
    body = "DequantizeLinear<axis=0,block_size=2>"
    return pair_of(
        draw, "(float[2,5] x) => (float[2,4] y)", f"d = {body}(q,s,z) h = MatMul(x,d) n = BN(h,g,e,m,v) y = Relu(n)",
        f"d1 = {body}(q,s1,z) r = MatMul(x,d1) n = Add(r,b1) y = Relu(n)", "n: -> h", shared={"q": q, "z": z},
        old={"s": s, **parameters}, new={"s1": wide(s) * a, "b1": t}, opset=21,
    )  # fmt: skip


def certified(pair: Pair) -> None:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_models_of_a_pair_are_one_function(kind: str) -> None:
    """All numbers are such that float32 computes without rounding: the outputs are the same, bit for bit."""
    pair = KINDS[kind](Draw(0, exact=True))
    shape = [dim.dim_value for dim in pair.before.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).integers(-8, 9, shape).astype(np.float32)
    ours, theirs = (ReferenceEvaluator(model).run(None, {"x": x}) for model in (pair.before, pair.after))
    assert all(np.array_equal(a, b) and np.any(a) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("element", ["float", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_fold_is_certified(kind: str, element: str) -> None:
    for seed in range(4):
        certified(KINDS[kind](Draw(seed, element)))


def two_units_off(values: np.ndarray) -> np.ndarray:
    values.flat[-1] = values.flat[-1] + 2 * np.spacing(np.abs(values.flat[-1]))
    return values


SPOILED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "two units off": two_units_off,
    "of the other sign": lambda values: -values,
    "the other way round": lambda values: np.ascontiguousarray(np.flip(values)),
    "lost": lambda values: values * 0,
}


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_spoiled_scale_and_bias_is_refused(kind: str, spoil: str) -> None:
    pair = KINDS[kind](Draw(1))
    for name in pair.new:
        right = array(pair.after, name)
        if right.dtype == np.float32:
            wrong = put(copied(pair.after), **{name: SPOILED[spoil](right.copy())})
            assert pair.certificate(wrong).failed_site == pair.claims[0].homes[0]


@pytest.mark.parametrize("used", [0.0, 2e-5])
def test_another_epsilon_is_refused(used: float) -> None:
    for made in (conv_with_one_scale_that_becomes_one_per_channel, matmul_with_blocks_of_four_bits):
        assert made(Draw(2, used=used)).certificate().failed_site is not None


# What else may not change.

FIRST = conv_with_one_scale_that_becomes_one_per_channel


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(found for found in model.graph.node if name in found.output)


def another_zero_point(after: onnx.ModelProto) -> None:
    values = array(after, "z1")
    values[1] += 1
    put(after, z1=values)


def no_zero_point(after: onnx.ModelProto) -> None:
    del node(after, "d1").input[2:]
    after.graph.initializer.remove(next(t for t in after.graph.initializer if t.name == "z1"))


def one_zero_point_for_scales_per_channel(after: onnx.ModelProto) -> None:
    put(after, z1=np.array(2, np.int8))


def another_axis_of_the_same_size(after: onnx.ModelProto) -> None:
    node(after, "d1").attribute[0].i = 1


def another_tensor(after: onnx.ModelProto) -> None:
    put(after, q1=array(after, "q"))
    node(after, "d1").input[0] = "q1"


def a_changed_tensor(after: onnx.ModelProto) -> None:
    values = array(after, "q")
    values[0, 0, 0] += 1
    put(after, q=values)


def an_attribute_more(after: onnx.ModelProto) -> None:
    node(after, "d1").attribute.append(helper.make_attribute("output_dtype", TensorProto.FLOAT))


def scales_of_another_type(after: onnx.ModelProto) -> None:
    put(after, s1=array(after, "s1").astype(np.float16))


def too_few_scales(after: onnx.ModelProto) -> None:
    put(after, s1=array(after, "s1")[:3], z1=array(after, "z1")[:3])


def a_weight_made_float(after: onnx.ModelProto) -> None:
    dense = (array(after, "q").astype("f") - 2) * array(after, "s1")[:, None, None]
    after.graph.node.remove(node(after, "d1"))
    put(after, d1=dense)


def a_dequantisation_that_nobody_reads(after: onnx.ModelProto) -> None:
    after.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s1", "z1"], ["d2"], axis=0))


def a_dequantisation_of_which_more_is_read(after: onnx.ModelProto) -> None:
    relu = node(after, "y")
    relu.op_type = "Abs"
    relu.input[0] = "d1"


CHANGES = {
    another_zero_point: "another zero point",
    no_zero_point: "another zero point",
    one_zero_point_for_scales_per_channel: "has a scale of (4,) and a zero point of ()",
    another_axis_of_the_same_size: "the scale of the weight of Conv#1",
    another_tensor: "no longer what 'q' holds",
    a_changed_tensor: "the constant 'q' changed",
    an_attribute_more: "dequantises in another way",
    scales_of_another_type: "has scales of another type",
    too_few_scales: "has parameters of (3,) for a tensor of (4, 4, 3)",
    a_weight_made_float: "changed its factor, or how it is stored",
    a_dequantisation_that_nobody_reads: "does not stand where its readers are",
    a_dequantisation_of_which_more_is_read: "has no counterpart in the original",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_another_change_of_a_quantised_weight_is_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    draw = Draw(3)
    q, s, z, (parameters, a, t) = stored(draw, 4, 4, 3), scales(draw), np.array(2, np.int8), draw.normalization(4)
    pair = pair_of(
        draw, "(float[1,4,8] x) => (float[1,4,6] y)",
        "d = DequantizeLinear(q,s,z) h = Conv(x,d) n = BN(h,g,e,m,v) y = Relu(n)",
        "d1 = DequantizeLinear<axis=0>(q,s1,z1) n = Conv(x,d1,b1) y = Relu(n)", "n: -> h", shared={"q": q},
        old={"s": s, "z": z, **parameters}, new={"s1": wide(s) * a, "z1": np.full(4, 2, np.int8), "b1": t}, opset=21,
    )  # fmt: skip
    certified(pair)
    after = copied(pair.after)
    change(after)
    checked = pair.certificate(after)
    assert CHANGES[change] in str(checked.failure)


def test_a_dequantisation_edited_in_place_while_another_node_reads_it_is_refused() -> None:
    pair = conv_whose_dequantised_weight_another_reads_too(Draw(4))
    after = copied(pair.after)
    after.graph.node.remove(node(after, "d1"))
    edited = node(after, "d")
    edited.input[1:] = ["s1", "z1"]
    edited.attribute.append(helper.make_attribute("axis", 0))
    node(after, "y").input[1] = "d"
    assert pair.certificate(after).failure is not None
    edited.output[0] = node(after, "y").input[1] = node(after, "o").input[1] = "d1"
    assert "reads ['x', 'd1'] instead of ['x', 'd']" in str(pair.certificate(after).failure)


def test_a_quantised_bias_takes_no_shift() -> None:
    draw = Draw(5)
    q, s, (parameters, a, t) = stored(draw, 4, 3, 3), scales(draw), draw.normalization(4)
    p, r = stored(draw, 4, dtype=np.int32), scales(draw)
    before = "d = DequantizeLinear(q,s) b = DequantizeLinear(p,r) h = Conv(x,d,b) n = BN(h,g,e,m,v) y = Relu(n)"
    numbers = {"s": s, "r": r, **parameters}
    for bias in ("b1 = DequantizeLinear<axis=0>(p,r1)", "b1 = Identity(c1)"):
        pair = pair_of(
            draw, "(float[1,3,8] x) => (float[1,4,6] y)", before,
            "d1 = DequantizeLinear<axis=0>(q,s1) b1 = DequantizeLinear<axis=0>(p,r1) n = Conv(x,d1,b1) y = Relu(n)",
            "n: -> h", shared={"q": q, "p": p}, old=numbers, new={"s1": wide(s) * a, "r1": wide(r) * a}, opset=21,
        )  # fmt: skip
        after = copied(pair.after)
        if "Identity" in bias:
            after.graph.node.remove(node(after, "b1"))
            put(after, b1=(wide(p) * wide(r) * a + t).astype("f"))
        checked = pair.certificate(after)
        assert checked.failed_site == pair.claims[0].homes[0]
        assert "bias" in str(checked.failure)


@pytest.mark.parametrize("shift", [0.0, 2.0**-149, -(2.0**-149)])
def test_a_quantised_bias_takes_not_even_the_smallest_shift(shift: float) -> None:
    draw = Draw(5)
    q, s, p, r = stored(draw, 4, 3, 3), scales(draw), stored(draw, 4, dtype=np.int32), scales(draw)
    quantised = "d = DequantizeLinear(q,s) b = DequantizeLinear(p,r)"
    pair = pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)", f"{quantised} h = Conv(x,d,b) n = Add(h,k) y = Relu(n)",
        f"{quantised} n = Conv(x,d,b) y = Relu(n)", "n: -> h", shared={"q": q, "p": p, "s": s, "r": r},
        old={"k": np.full((4, 1), shift, "f")}, opset=21,
    )  # fmt: skip
    assert pair.certificate().holds is (shift == 0)


def test_scales_per_channel_do_not_exist_below_opset_13() -> None:
    pair = FIRST(Draw(6))
    certified(pair)
    for model in (pair.before, pair.after):
        model.opset_import[0].version = 12
    assert "no such axis" in str(pair.certificate().failure)


def test_the_channels_of_several_groups_have_no_scale_of_their_own() -> None:
    """Along axis 1 of the weights of a ConvTranspose each place serves one channel in every group."""
    draw = Draw(7)
    q, s, k = stored(draw, 4, 2, 3), scales(draw), draw.factors(4, 1)
    pair = pair_of(
        draw, "(float[1,4,8] x) => (float[1,4,10] y)",
        "d = DequantizeLinear(q,s) h = ConvTranspose<group=2>(x,d) n = Mul(h,k) y = Relu(n)",
        "d1 = DequantizeLinear(q,s1) n = ConvTranspose<group=2>(x,d1) y = Relu(n)", "n: -> h", shared={"q": q},
        old={"s": s, "k": k}, new={"s1": wide(s) * wide(k)[:2, 0]}, opset=21,
    )  # fmt: skip
    assert pair.certificate().failed_site is not None
    equal = put(copied(pair.before), k=np.tile(array(pair.before, "k")[:2], (2, 1)))
    certified(Pair(equal, pair.after, pair.claims, pair.new))
