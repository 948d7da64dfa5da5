"""What a home is told by the values around it, which figures a check bears, and constants of forms that do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import test_certificate_quantized
from certificate_folds import copied, put
from certificate_kinds import KINDS
from certificate_pairs import Draw, Pair, pair_of, wide
from onnx import TensorProto, helper

from bnfold.equality import numbers
from bnfold.equality.certificate import Certificate

CONV = "(float[1,3,8] x) => (float[1,4,6] y)"


def holds(pair: Pair) -> Certificate:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    return checked


# How many dimensions a home puts out, where nothing says so of its output.


def without_rank(pair: Pair, **known: list[int]) -> Pair:
    """The same pair, of whose input nothing is known, and of whose values only what is said here."""
    models = []
    for model in map(copied, (pair.before, pair.after)):
        for entry in (*model.graph.input, *model.graph.output):
            entry.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        models.append(model)
    for name, dims in known.items():
        models[0].graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    before, after = models
    return replace(pair, before=before, after=after)


def by_way_of(text: str, draw: Draw) -> Pair:
    w, k = draw.weights(3, 4), draw.factors(4)
    return pair_of(
        draw, "(float[2,5,3] x) => (float y)", f"c = MatMul(x,w) t = {text} n = Mul(t,k) y = Relu(n)",
        f"c1 = MatMul(x,w1) n = {text.replace('(c', '(c1')} y = Relu(n)", "n: t -> c",
        shared={"s": np.array([2, 5, 4])}, old={"w": w, "k": k}, new={"w1": wide(w) * wide(k)},
    )  # fmt: skip


def test_the_rank_of_a_home_is_that_of_what_stands_behind_it() -> None:
    pair = by_way_of("Identity(c)", Draw(1))
    holds(pair)
    assert "unknown rank" in str(without_rank(pair).certificate().uncertain)
    holds(without_rank(pair, c=[2, 5, 4]))
    holds(without_rank(pair, t=[2, 5, 4]))


def test_the_rank_behind_a_reshape_is_not_that_of_the_home() -> None:
    pair = by_way_of("Reshape(c,s)", Draw(1))
    holds(pair)
    assert "unknown rank" in str(without_rank(pair, t=[2, 5, 4]).certificate().uncertain)
    flat = by_way_of("Flatten<axis=2>(c)", Draw(1))
    holds(flat)
    assert "unknown rank" in str(without_rank(flat, t=[10, 4]).certificate().uncertain)


def turned(*shape: int) -> Pair:
    """A factor of this shape, which takes the one that stands behind a permutation."""
    draw = Draw(1)
    c, k = draw.factors(*shape), draw.factors(4, 1)
    return pair_of(
        draw, "(float[3,4] x) => (float[4,3] y)", "t = Mul(x,c) u = Transpose<perm=[1,0]>(t) n = Mul(u,k) y = Relu(n)",
        "t1 = Mul(x,c1) n = Transpose<perm=[1,0]>(t1) y = Relu(n)", "n: u -> t", old={"c": c, "k": k},
        new={"c1": wide(c) * wide(k)[:, 0]},
    )  # fmt: skip


def test_a_constant_is_a_home_though_nothing_is_known_of_its_value_but_the_rank() -> None:
    pair = turned(1, 4)
    holds(pair)
    holds(without_rank(pair))


@pytest.mark.parametrize("dims", [[3, 4, 1], [1, 3, 4], [3]])
def test_a_note_that_contradicts_a_permutation_decides_nothing(dims: list[int]) -> None:
    checked = without_rank(turned(1, 4), t=dims).certificate()
    assert checked.uncertain == "the rank of what Mul#0 puts out is not what its producers make it"


def test_a_constant_that_would_grow_is_none_where_nothing_is_known_of_its_value() -> None:
    pair = turned(1, 1)
    holds(pair)
    assert "whether the new constant of Mul#0 fits its value is not known" in str(
        without_rank(pair).certificate().uncertain
    )


@pytest.mark.parametrize("operator", ["Mul", "Div"])
def test_a_value_without_dimensions_has_constants_of_one_number(operator: str) -> None:
    draw = Draw(1)
    c, k = draw.factors(), draw.factors()
    new = wide(c) * wide(k) if operator == "Mul" else wide(c) / wide(k)
    pair = pair_of(
        draw, "(float[1] x) => (float[1] y)", f"t = {operator}(x,c) n = Mul(t,k) y = Relu(n)",
        f"n = {operator}(x,c1) y = Relu(n)", "n: -> t", old={"c": c, "k": k}, new={"c1": new},
    )  # fmt: skip
    for model in (pair.before, pair.after):
        for entry in (*model.graph.input, *model.graph.output):
            del entry.type.tensor_type.shape.dim[:]
    assert [part.numbers for part in holds(pair).homes[0].parts] == [1, 1]
    after = put(copied(pair.after), c1=np.float32(1.5 * new))
    assert "and should be" in str(pair.certificate(after).failure)


def test_a_note_of_another_rank_than_the_value_has_decides_nothing() -> None:
    """It is not the producers' word, and the file's own would make another axis the channels."""
    draw = Draw(2)
    w, (parameters, a, s) = draw.weights(4, 3, 3), draw.normalization(4)
    pair = pair_of(
        draw, CONV, "c = Conv(x,w) n = BN(c,g,e,m,v) y = Relu(n)", "n = Conv(x,w1,b1) y = Relu(n)", "n: -> c",
        old={"w": w, **parameters}, new={"w1": wide(w) * a[:, None, None], "b1": s},
    )  # fmt: skip
    holds(pair)
    noted = without_rank(pair, c=[1, 4, 6, 1])
    checked = noted.certificate()
    assert "the rank before BatchNormalization#1 is not what its producers make it" in str(checked.uncertain)


# Figures.


def figures(pair: Pair) -> list[tuple[str, int, int]]:
    return [(part.what, part.terms, part.numbers) for check in holds(pair).homes for part in check.parts]


FIGURES = {  # of each home in turn: what was compared, K, and how many numbers
    "matmul before a scale alone": [("weight", 1, 12), ("bias", 3, 4)],
    "matmul of rank 3 before hand written scale and shift": [("weight", 2, 12), ("bias", 5, 4)],
    "conv by way of an add that takes the shift": [
        ("scale", 1, 0), ("bias", 3, 4), ("weight", 1, 36), ("bias", 3, 4),
    ],
    "conv by way of factors that stay": [("weight", 1, 36), ("bias", 6, 4)],
    "conv by way of a factor whose axis is moved": [("weight", 1, 36), ("bias", 4, 4)],
    "conv before every hand written operator": [("weight", 6, 36), ("bias", 13, 4)],
    "divisor that stays behind a transpose": [("weight", 2, 3), ("bias", 3, 3)],
}  # fmt: skip


@pytest.mark.parametrize("kind", FIGURES)
def test_the_terms_of_each_bound_are_those_that_were_added(kind: str) -> None:
    """One factor for each affine, and one division; for a bias the old one, and of each affine two and one for each
    factor that it passes and that stays. A home without a weight has a scale, which is one, and of no numbers."""
    assert figures(KINDS[kind](Draw(1))) == FIGURES[kind]


def test_quantised_constants_are_checked_by_their_scales() -> None:
    kinds = test_certificate_quantized.KINDS
    assert figures(kinds["conv with a quantised bias"](Draw(1))) == [
        ("scale of the weight", 1, 4),
        ("scale of the bias", 2, 4),
    ]
    assert figures(kinds["conv with scales per channel and a float bias"](Draw(1))) == [
        ("scale of the weight", 1, 4),
        ("bias", 3, 4),
    ]


def test_the_worst_share_is_that_of_all_pieces_of_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = KINDS["matmul of a matrix before a normalization"](Draw(1))
    (whole,) = holds(pair).homes
    monkeypatch.setattr(numbers, "BLOCK", 4)
    assert holds(pair).homes == (whole,)
    assert whole.parts[0].worst > 0
    assert whole.worst == max(part.worst for part in whole.parts)


def test_a_wrong_number_is_found_in_any_piece_of_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "BLOCK", 4)
    pair = KINDS["matmul of a matrix before a normalization"](Draw(1))
    for row in range(3):
        after = copied(pair.after)
        values = onnx.numpy_helper.to_array(next(t for t in after.graph.initializer if t.name == "w1")).copy()
        values[row, 1] *= 1.001
        assert "and should be" in str(pair.certificate(put(after, w1=values)).failure)


# Constants of forms that do not fit.


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (3,), (5,), (), (2, 2)])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_bias_that_is_no_vector_of_the_channels_is_refused(shape: tuple[int, ...], side: str) -> None:
    draw = Draw(1)
    w, b, k = draw.weights(4, 3, 3), draw.terms(4), draw.factors(4, 1)
    pair = pair_of(
        draw, CONV, "c = Conv(x,w,b) n = Mul(c,k) y = Relu(n)", "n = Conv(x,w1,b1) y = Relu(n)", "n: -> c",
        old={"w": w, "b": b, "k": k}, new={"w1": wide(w) * wide(k)[:, None], "b1": wide(b) * wide(k)[:, 0]},
    )  # fmt: skip
    holds(pair)
    broken = {"before": pair.before, "after": pair.after}[side]
    put(broken, **{"b" if side == "before" else "b1": np.resize(draw.terms(4), shape).astype("f")})
    assert f"the bias of Conv#0 has the shape {shape}" in str(pair.certificate().failure)


@pytest.mark.parametrize("text", ["Add(c,x)", "Add(x,c)", "Mul(c,x)", "Mul(x,c)", "Sub(c,x)"])
def test_a_constant_with_fewer_dimensions_than_before_is_refused(text: str) -> None:
    """Of a value with fewer dimensions itself, or of none that are known, it would make another one."""
    draw = Draw(1)
    c, k = draw.factors(1, 4), draw.factors(4)
    pair = pair_of(
        draw, "(float[2,4] x) => (float[2,4] y)", f"t = {text} n = Mul(t,k) y = Relu(n)",
        f"n = {text.replace('c', 'c1')} y = Relu(n)", "n: -> t", old={"c": c, "k": k},
        new={"c1": wide(c) * wide(k)},
    )  # fmt: skip
    if text.startswith("Mul"):
        holds(pair)
    put(pair.after, c1=(c * k)[0])
    assert "has fewer dimensions than the old one" in str(pair.certificate().failure)


def test_a_weight_with_fewer_dimensions_than_before_is_refused() -> None:
    pair = KINDS["conv by way of factors that stay"](Draw(1))
    holds(pair)
    weight = onnx.numpy_helper.to_array(next(t for t in pair.after.graph.initializer if t.name == "w1"))
    flat = put(copied(pair.after), w1=weight.reshape(4, -1))
    assert pair.certificate(flat).failure == "the weight of Conv#0 changed its shape or type"


@pytest.mark.parametrize("text", ["Mul(x,c)", "Add(x,c)", "MatMul(x,c)"])
def test_operands_that_changed_places_are_not_followed(text: str) -> None:
    """Which of them the weight is would be another question in each model."""
    draw = Draw(1)
    c, k = draw.factors(3, 3), draw.factors(1)
    pair = pair_of(
        draw, "(float[3,3] x) => (float[3,3] y)", f"t = {text} n = Mul(t,k) y = Relu(n)",
        f"n = {text.replace('x,c', 'c1,x')} y = Relu(n)", "n: -> t", old={"c": c, "k": k},
        new={"c1": wide(c) * wide(k)},
    )  # fmt: skip
    assert "which constant of" in str(pair.certificate().uncertain)


@pytest.mark.parametrize("zeros", [[1], [0, 1, 2]])
def test_a_divisor_is_not_divided_by_zero(zeros: list[int]) -> None:
    draw = Draw(1)
    d, k = draw.factors(3, 1), draw.factors(3, 1)
    k[zeros] = 0
    pair = pair_of(
        draw, "(float[3,4] x) => (float[3,4] y)", "t = Div(x,d) n = Mul(t,k) y = Relu(n)", "n = Div(x,d1) y = Relu(n)",
        "n: -> t", old={"d": d, "k": k}, new={"d1": wide(d)},
    )  # fmt: skip
    assert "divides, and would be divided by zero" in str(pair.certificate().failure)


@pytest.mark.parametrize(("beta", "factor"), [(4.0, 0.5), (-1.0, -2.0), (2.0, 1.0), (0.0, 1.0)])
def test_the_factor_of_a_quantised_bias_goes_into_its_scale_or_stays(beta: float, factor: float) -> None:
    draw = Draw(2)
    q, s, k = (
        test_certificate_quantized.stored(draw, 4, 3),
        test_certificate_quantized.scales(draw, 4),
        draw.factors(4),
    )
    p, r = (
        test_certificate_quantized.stored(draw, 4, dtype=np.int32),
        test_certificate_quantized.scales(draw, 4),
    )
    pair = pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)",
        """d = DequantizeLinear<axis=0>(q,s) b = DequantizeLinear<axis=0>(p,r)
           h = Gemm<beta=2.0,transB=1>(x,d,b) n = Mul(h,k) y = Relu(n)""",
        f"""d1 = DequantizeLinear<axis=0>(q,s1) b1 = DequantizeLinear<axis=0>(p,r1)
           n = Gemm<beta={beta},transB=1>(x,d1,b1) y = Relu(n)""", "n: -> h", shared={"q": q, "p": p},
        old={"s": s, "r": r, "k": k}, new={"s1": wide(s) * wide(k), "r1": factor * wide(r) * wide(k)}, opset=21,
    )  # fmt: skip
    if beta:
        holds(pair)
    else:
        assert "the scale of the bias of Gemm#2" in str(pair.certificate().failure)
