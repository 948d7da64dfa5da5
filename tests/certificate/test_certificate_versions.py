"""Old versions of the operators, whose text differs, and types that differ within one model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certificate_folds import array, copied, put
from certificate_pairs import Draw, Pair, pair_of, rounded, wide
from onnx import helper, version_converter
from onnx.reference import ReferenceEvaluator

from bnfold.equality.certificate import certify
from bnfold.graph import Graph
from bnfold.model import read

CONV = "(float[1,3,8] x) => (float[1,4,6] y)"


def certified(pair: Pair, *, assume_inference: bool = False) -> None:
    checked = pair.certificate(assume_inference=assume_inference)
    assert (checked.failure, checked.uncertain) == (None, None)


def old_normalization(attributes: str = "", *, draw: Draw, opset: int = 6) -> Pair:
    w, (parameters, a, s) = draw.weights(4, 3, 3), draw.normalization(4)
    text = f"BatchNormalization<{attributes}epsilon={draw.epsilon!r}>"
    return pair_of(
        draw, CONV, f"h = Conv(x,w) n = {text}(h,g,e,m,v) y = Relu(n)", "n = Conv(x,w1,b1) y = Relu(n)", "n: -> h",
        old={"w": w, **parameters}, new={"w1": wide(w) * a[:, None, None], "b1": s}, opset=opset,
    )  # fmt: skip


@pytest.mark.parametrize("opset", [1, 6])
def test_a_normalization_of_before_opset_7_is_one_at_inference_where_it_says_so(opset: int) -> None:
    more = "consumed_inputs=[0,0,0,1,1]," if opset == 1 else ""
    for seed in range(3):
        certified(old_normalization(f"{more}is_test=1,", draw=Draw(seed), opset=opset))
        wrong = old_normalization(f"{more}is_test=1,", draw=Draw(seed, used=0.0), opset=opset)
        assert wrong.certificate().failed_site is not None
    sentence = "BatchNormalization#1 is no BatchNormalization at inference"
    for attributes in ("", "is_test=0,", "is_test=1,spatial=0,"):
        assert old_normalization(more + attributes, draw=Draw(), opset=opset).certificate().failure == sentence


def test_where_inference_is_assumed_only_the_flag_does_not_count() -> None:
    sentence = "BatchNormalization#1 is no BatchNormalization at inference"
    for attributes in ("", "is_test=0,"):
        pair = old_normalization(attributes, draw=Draw())
        assert pair.certificate().failure == sentence
        certified(pair, assume_inference=True)
        graphs = [Graph.of(read(model)) for model in (pair.before, pair.after)]
        assert certify(*graphs, pair.claims).failure == sentence  # nobody assumes it unasked
        further = copied(pair.before)
        further.graph.node[1].output.extend(["mean", "var"])
        assert replace(pair, before=further).certificate(assume_inference=True).failure == sentence
    for attributes, opset in (("spatial=0,", 6), ("spatial=0,", 8), ("training_mode=1,", 15)):
        pair = old_normalization(attributes, draw=Draw(), opset=opset)
        assert pair.certificate(assume_inference=True).failure == sentence


def test_the_old_normalization_is_what_its_text_says() -> None:
    """By way of ONNX's converter, since nothing runs the version itself; the numbers are exact."""
    pair = old_normalization("is_test=1,", draw=Draw(1, exact=True))
    x = np.random.default_rng(0).integers(-8, 9, (1, 3, 8)).astype(np.float32)
    models = []
    for model in (pair.before, pair.after):
        model.ir_version = 3
        have = {value.name for value in model.graph.input}
        for tensor in model.graph.initializer:
            if tensor.name not in have:
                model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        models.append(version_converter.convert_version(model, 17))
    ours, theirs = (ReferenceEvaluator(model).run(None, {"x": x})[0] for model in models)
    assert np.array_equal(ours, theirs)


def old_operator(node: str, constant: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, draw: Draw) -> Pair:
    """A Conv and one elementwise operator of opset 6 behind it; `weight` are the factors of the channels."""
    w = draw.weights(4, 3, 3)
    return pair_of(
        draw, "(float[1,3,6] x) => (float[1,4,4] y)", f"h = Conv(x,w) n = {node} y = Relu(n)",
        f"n = Conv(x,w1{'' if bias is None else ',b1'}) y = Relu(n)", "n: -> h", old={"w": w, "k": constant},
        new={"w1": wide(w) * wide(weight)[:, None, None]} | ({} if bias is None else {"b1": wide(bias)}), opset=6,
    )  # fmt: skip


def test_below_opset_7_an_attribute_says_where_a_constant_stands() -> None:
    draw = Draw(2)
    k, ones = draw.factors(4), np.ones(4)
    certified(old_operator("Mul<broadcast=1,axis=1>(h,k)", k, k, None, draw))
    certified(old_operator("Div<broadcast=1,axis=1>(h,k)", k, 1 / wide(k), None, draw))
    certified(old_operator("Add<broadcast=1,axis=1>(h,k)", k, ones, k, draw))
    certified(old_operator("Sub<broadcast=1,axis=1>(h,k)", k, ones, -k, draw))
    certified(old_operator("Add<broadcast=1>(h,k)", k[:, None], ones, k, draw))
    certified(old_operator("Mul<broadcast=1>(h,k)", k[:1], np.tile(k[:1], 4), None, draw))
    certified(old_operator("Sub(k,h)", np.tile(k[:, None], (1, 1, 4)), -ones, k, draw))


REFUSED = {
    "Mul<broadcast=1>(h,k)": "serves places where what settled in it differs",  # [4] along the last axis
    "Mul<broadcast=1,axis=2>(h,k)": "serves places where what settled in it differs",
    "Mul<broadcast=1,axis=3>(h,k)": "does not fit a value of 3 dimensions",
    "Mul<broadcast=1,axis=-2>(h,k)": "does not fit a value of 3 dimensions",
    "Mul(h,k)": "does not broadcast",
    "Mul<axis=1>(h,k)": "does not broadcast",
    "Mul<broadcast=1,axis=1>(k,h)": "does not broadcast",
}


@pytest.mark.parametrize("node", REFUSED)
def test_below_opset_7_a_constant_that_stands_elsewhere_is_refused(node: str) -> None:
    draw = Draw(3)
    k = draw.factors(4)
    checked = old_operator(node, k, k, None, draw).certificate()
    assert REFUSED[node] in str(checked.failure or checked.uncertain)


def test_a_home_and_a_way_of_before_opset_7() -> None:
    """A factor that stays, a sum that takes the shift, and a factor that takes the next scale."""
    draw = Draw(4)
    k, c, q, f = draw.factors(4), draw.terms(4), draw.factors(4), draw.factors(4)
    w, (parameters, a, s) = draw.weights(4, 3, 3), draw.normalization(4)
    at = "<broadcast=1,axis=1>"
    before = f"""h = Conv(x,w) t = Add{at}(h,c) u = Mul{at}(t,k)
                 n = BatchNormalization<is_test=1,epsilon={draw.epsilon!r}>(u,g,e,m,v) r = Relu(n)
                 o = Mul{at}(r,q) i = Div{at}(o,f) y = Abs(i)"""
    after = f"h1 = Conv(x,w1) t1 = Add{at}(h1,c1) n = Mul{at}(t1,k) r = Relu(n) i = Mul{at}(r,q1) y = Abs(i)"
    pair = pair_of(
        draw, CONV, before, after, ["n: u t -> t h", "i: -> o"], shared={"k": k},
        old={"w": w, "c": c, "q": q, "f": f, **parameters},
        new={"w1": wide(w) * a[:, None, None], "c1": wide(c) * a + s / wide(k), "q1": wide(q) / wide(f)}, opset=6,
    )  # fmt: skip
    certified(pair)
    for name in pair.new:
        wrong = put(copied(pair.after), **{name: array(pair.after, name)[::-1].copy()})
        assert pair.certificate(wrong).failed_site is not None


def test_a_matmul_of_before_opset_7_gets_an_add_that_says_where_it_adds() -> None:
    draw = Draw(5)
    w, c = draw.weights(4, 3), draw.terms(4)
    for attributes, right in (("<broadcast=1,axis=0>", True), ("<broadcast=1>", False), ("", False)):
        pair = pair_of(
            draw, "(float[3,4] x) => (float[4,4] y)", "h = MatMul(w,x) n = Add<broadcast=1,axis=0>(h,c) y = Relu(n)",
            f"r = MatMul(w,x) n = Add{attributes}(r,b1) y = Relu(n)", "n: -> h", shared={"w": w}, old={"c": c},
            new={"b1": wide(c)}, opset=6,
        )  # fmt: skip
        assert pair.certificate().holds == right
        assert (pair.certificate().failure is None) == right


# Types.


def mixed(opset: int, statistics: str, scale: str) -> Pair:
    """Data of half precision, statistics of single precision; scale and bias of one of the two."""
    draw = Draw(6)
    w = draw.weights(4, 3, 3).astype(np.float16)
    parameters, *_ = draw.normalization(4)
    kinds = {"g": scale, "e": scale, "m": statistics, "v": statistics}
    parameters = {name: values.astype(kinds[name]) for name, values in parameters.items()}
    a = wide(parameters["g"]) / np.sqrt(wide(parameters["v"]) + draw.epsilon)
    s = wide(parameters["e"]) - wide(parameters["m"]) * a
    return pair_of(
        draw, "(float16[1,3,8] x) => (float16[1,4,6] y)", "h = Conv(x,w) n = BN(h,g,e,m,v) y = Relu(n)",
        "n = Conv(x,w1,b1) y = Relu(n)", "n: -> h", old={"w": w, **parameters},
        new={"w1": (wide(w) * a[:, None, None]).astype(np.float16), "b1": s.astype(np.float16)}, opset=opset,
    )  # fmt: skip


@pytest.mark.parametrize(("opset", "scale"), [(14, "float16"), (15, "float32"), (17, "float16")])
def test_half_precision_with_statistics_of_single_precision(opset: int, scale: str) -> None:
    pair = mixed(opset, "float32", scale)
    certified(pair)
    for dtype in (np.float32, np.float64):
        wider = put(copied(pair.after), b1=array(pair.after, "b1").astype(dtype))
        assert "the bias of Conv#0 is" in str(pair.certificate(wider).failure)
    for name in pair.new:
        values = array(pair.after, name)
        values.flat[0] += 2 * np.spacing(np.abs(values.flat[0]))
        assert pair.certificate(put(copied(pair.after), **{name: values})).failed_site is not None


@pytest.mark.parametrize("element", ["float16", "float", "double", "bfloat16"])
def test_a_number_rounded_to_the_wrong_side_is_refused_and_one_rounded_rightly_is_not(element: str) -> None:
    """Numbers just beside the middle of two neighbours: rounded twice, by way of float32, they go the wrong way."""
    draw = Draw(7, element)
    one = rounded(np.ones(4), draw.dtype)
    unit = float(np.spacing(one[0]))
    k = rounded(np.array([1.0, 1.0 + unit, 1.5, 2.0]), draw.dtype)
    certified(factored(draw, k, wide(one) * wide(k)))
    for units in (1.0, -1.0):
        off = rounded(wide(k) + units * wide(np.spacing(k)), draw.dtype)
        held = factored(draw, k, wide(off)).certificate()
        assert held.holds == (element == "double")  # there the bound of the arithmetic is wider than a unit


def factored(draw: Draw, k: np.ndarray, factor: np.ndarray) -> Pair:
    return pair_of(
        draw, "(float[2,4] x) => (float[2,4] y)", "h = Mul(x,o) n = Mul(h,k) y = Relu(n)",
        "n = Mul(x,o1) y = Relu(n)", "n: -> h", old={"o": rounded(np.ones(4), draw.dtype), "k": k},
        new={"o1": factor},
    )  # fmt: skip


def test_a_bfloat16_that_was_rounded_twice_is_refused() -> None:
    """Where float32 lands on the middle of two neighbours, the last rounding no longer knows the side."""
    draw = Draw(8, "bfloat16")
    deviation = np.sqrt(1 + draw.epsilon)
    gamma = draw.random.uniform(0.5, 2, 1 << 20).astype(np.float32)
    once = rounded(wide(gamma) / deviation, draw.dtype)
    twice = (wide(gamma) / deviation).astype(np.float32).astype(draw.dtype)
    gamma = gamma[once != twice][:4]
    assert gamma.shape == (4,)
    a = wide(gamma) / deviation
    nothing, w = np.zeros(4, np.float32), np.ones((4, 1, 1), draw.dtype)
    pair = pair_of(
        draw, "(bfloat16[1,1,8] x) => (bfloat16[1,4,8] y)", "h = Conv(x,w) n = BN(h,g,e,m,v) y = Relu(n)",
        "n = Conv(x,w1) y = Relu(n)", "n: -> h",
        old={"w": w, "g": gamma, "e": nothing, "m": nothing, "v": nothing + np.float32(1)},
        new={"w1": a[:, None, None]},
    )  # fmt: skip
    certified(pair)
    wrong = a.astype(np.float32).astype(draw.dtype)[:, None, None]
    assert pair.certificate(put(copied(pair.after), w1=wrong)).failed_site == pair.claims[0].homes[0]
