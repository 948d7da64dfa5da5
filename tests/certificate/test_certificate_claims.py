"""Claims that are false, and folds that only look right: each is refused for what is wrong with it, or not decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from certificate_folds import array, copied, put
from certificate_kinds import KINDS
from certificate_pairs import Draw, Pair, pair_of, wide
from onnx import TensorProto, helper

CONV = "(float[1,3,8] x) => (float[1,4,6] y)"
DENSE = "(float[2,3] x) => (float[2,4] y)"


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(found for found in model.graph.node if name in found.output)


def refused(pair: Pair, sentence: str, after: onnx.ModelProto | None = None, claims: tuple | None = None) -> None:
    checked = pair.certificate(after, claimed=claims)
    assert sentence in str(checked.failure)


def undecided(pair: Pair, sentence: str) -> None:
    checked = pair.certificate()
    assert checked.failure is None
    assert sentence in str(checked.uncertain)


def certified(pair: Pair) -> None:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


# The Add behind a home that has no bias.


def operands_swapped(after: onnx.ModelProto) -> None:
    node(after, "n").input[:] = ["b1", "r"]


def another_operator(after: onnx.ModelProto) -> None:
    node(after, "n").op_type = "Sub"


def another_constant(after: onnx.ModelProto) -> None:
    node(after, "n").input[1] = "other"


def a_value_instead_of_a_constant(after: onnx.ModelProto) -> None:
    node(after, "n").input[1] = "z"


def the_value_twice(after: onnx.ModelProto) -> None:
    node(after, "n").input[1] = "r"


def the_raw_value_under_an_old_name(after: onnx.ModelProto) -> None:
    node(after, "r").output[0] = node(after, "n").input[0] = "c"


def the_raw_value_read_by_another_node(after: onnx.ModelProto) -> None:
    node(after, "o").input[0] = "r"


def only_the_shape_of_the_raw_value_read(after: onnx.ModelProto) -> None:
    node(after, "i").input[0] = "r"


def placed_behind_another_node(after: onnx.ModelProto) -> None:
    add = copied_node(node(after, "n"))
    after.graph.node.remove(node(after, "n"))
    after.graph.node.insert(2, add)


def a_second_one(after: onnx.ModelProto) -> None:
    node(after, "n").output[0] = "more"
    after.graph.node.insert(2, helper.make_node("Add", ["more", "b1"], ["n"]))


def left_out(after: onnx.ModelProto) -> None:
    after.graph.node.remove(node(after, "n"))
    node(after, "r").output[0] = "n"


def of_a_constant_that_enlarges(after: onnx.ModelProto) -> None:
    put(after, b1=array(after, "b1")[None, None])


def of_a_constant_with_rows(after: onnx.ModelProto) -> None:
    put(after, b1=np.tile(array(after, "b1"), (2, 1)))


def of_a_constant_of_another_type(after: onnx.ModelProto) -> None:
    put(after, b1=array(after, "b1").astype(np.float64))


def of_a_constant_that_another_reads(after: onnx.ModelProto) -> None:
    node(after, "o").input[1] = "b1"


def copied_node(found: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.NodeProto.FromString(found.SerializeToString())


ADDS = {
    operands_swapped: "is no sum of what MatMul#0 puts out and a constant",
    another_operator: "no counterpart",
    another_constant: "the bias of MatMul#0",
    a_value_instead_of_a_constant: None,
    the_value_twice: "no counterpart",
    the_raw_value_under_an_old_name: "under a new name",
    the_raw_value_read_by_another_node: "no counterpart",
    only_the_shape_of_the_raw_value_read: "is not all that reads",
    placed_behind_another_node: "right behind",
    a_second_one: "no counterpart",
    left_out: "the bias of MatMul#0",
    of_a_constant_that_enlarges: "enlarges its value",
    of_a_constant_with_rows: "the bias of MatMul#0",
    of_a_constant_of_another_type: "the bias of MatMul#0",
    of_a_constant_that_another_reads: "instead of",
}


@pytest.mark.parametrize("change", ADDS, ids=lambda change: change.__name__)
def test_an_add_that_is_not_the_one_behind_its_home_is_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    draw = Draw(0)
    w, (parameters, a, s) = draw.weights(3, 4), draw.normalization(4)
    rest = "o = Mul(z,other) i = Shape({}) y = Relu(n)"
    pair = pair_of(
        draw, "(float[2,3] x, float[2,4] z) => (float[2,4] y, float[2,4] o, int64[2] i)",
        f"c = MatMul(x,w) n = BN(c,g,e,m,v) {rest.format('c')}", f"r = MatMul(x,w1) n = Add(r,b1) {rest.format('n')}",
        "n: -> c", shared={"other": draw.terms(4)}, old={"w": w, **parameters}, new={"w1": wide(w) * a, "b1": s},
    )  # fmt: skip
    certified(pair)
    after = copied(pair.after)
    change(after)
    checked = pair.certificate(after)
    assert not checked.holds
    if ADDS[change] is None:
        assert "'z' is not constant" in str(checked.uncertain)
    else:
        assert ADDS[change] in str(checked.failure)


def test_a_home_with_a_bias_gets_no_add() -> None:
    draw = Draw(1)
    w, (parameters, a, s) = draw.weights(3, 4), draw.normalization(4)
    pair = pair_of(
        draw, DENSE, "c = Gemm(x,w) n = BN(c,g,e,m,v) y = Relu(n)", "r = Gemm(x,w1) n = Add(r,b1) y = Relu(n)",
        "n: -> c", old={"w": w, **parameters}, new={"w1": wide(w) * a, "b1": s},
    )  # fmt: skip
    refused(pair, "no counterpart")


# What a claim says of its way.


def by_way_of_an_add_and_a_factor() -> Pair:
    return KINDS["conv by way of a factor and then an add"](Draw(2))


def by_way_of_two_adds(homes: str = "u t h") -> Pair:
    draw = Draw(3)
    w, b, c, d, (parameters, a, s) = (
        draw.weights(4, 3, 3), draw.terms(4), draw.terms(4, 1), draw.terms(4, 1), draw.normalization(4)
    )  # fmt: skip
    column = a[:, None]
    return pair_of(
        draw, CONV, "h = Conv(x,w,b) t = Add(h,c) u = Add(t,d) n = BN(u,g,e,m,v) y = Relu(n)",
        "h1 = Conv(x,w1,b1) t1 = Add(h1,c1) n = Add(t1,d1) y = Relu(n)", f"n: u t -> {homes}",
        old={"w": w, "b": b, "c": c, "d": d, **parameters},
        new={
            "w1": wide(w) * a[:, None, None], "b1": wide(b) * a, "c1": wide(c) * column,
            "d1": wide(d) * column + s[:, None],
        },
    )  # fmt: skip


def test_the_nearest_add_takes_the_shift_and_each_one_is_a_home() -> None:
    certified(by_way_of_two_adds())
    refused(by_way_of_two_adds("t h"), "Add#2 reads ['t1', 'd1'] instead of ['t1', 'd']")
    refused(by_way_of_two_adds("t u h"), "takes a shift that went on already")


def test_an_add_on_the_way_that_is_no_home_is_not_followed() -> None:
    """Here it is right: a shift alone passes a sum. No fold needs it."""
    draw = Draw(3)
    b, c, d = draw.terms(4), draw.terms(4, 1), draw.terms(4, 1)
    pair = pair_of(
        draw, CONV, "h = Conv(x,w,b) t = Add(h,c) n = Add(t,d) y = Relu(n)",
        "h1 = Conv(x,w,b1) n = Add(h1,c) y = Relu(n)", "n: t -> h", shared={"w": draw.weights(4, 3, 3), "c": c},
        old={"b": b, "d": d}, new={"b1": wide(b) + wide(d)[:, 0]},
    )  # fmt: skip
    undecided(pair, "a claim passes Add#1, which is none of its homes")


def test_a_sum_of_constants_on_the_way_is_not_followed() -> None:
    """Either of its operands could be the one that is rewritten."""
    draw = Draw(1, exact=True)
    w, k, f = draw.weights(3, 4), draw.terms(2, 4), draw.factors(4)
    pair = pair_of(
        draw, "(float[2,4] x) => (float[2,4] y)", "m = MatMul(w0,w) t = Add(k,m) u = Mul(t,f) y = Add(x,u)",
        "m1 = MatMul(w0,w1) u = Add(k1,m1) y = Add(x,u)", "u: t -> t m", shared={"w0": draw.weights(2, 3)},
        old={"w": w, "k": k, "f": f}, new={"w1": wide(w) * wide(f), "k1": wide(k) * wide(f)},
    )  # fmt: skip
    undecided(pair, "the data of Add#1 are constant themselves")


def test_a_shift_taken_by_the_farther_of_two_adds_is_refused() -> None:
    """The same function all the same: refused, because the numbers are not those that the claim means."""
    pair = by_way_of_two_adds()
    c1, d1 = (array(pair.after, name) for name in ("c1", "d1"))
    after = put(copied(pair.after), c1=c1 + np.float32(0.5), d1=d1 - np.float32(0.5))
    assert pair.certificate(after).failed_site in pair.claims[0].homes[:2]


def changed(claims: tuple, **parts: object) -> tuple:
    return tuple(replace(claim, **parts) for claim in claims)


def test_homes_that_cannot_be_are_refused() -> None:
    pair = by_way_of_an_add_and_a_factor()
    certified(pair)
    (claim,) = pair.claims
    (add, conv), (factor, _) = claim.homes, claim.path
    refused(pair, "no sum with a constant", claims=changed(pair.claims, homes=(add, factor, conv)))
    refused(pair, "is no sum with a constant", claims=changed(pair.claims, homes=(factor, add, conv)))
    refused(pair, "names a node twice", claims=changed(pair.claims, homes=(add, add, conv)))
    refused(pair, "names a node twice", claims=changed(pair.claims, homes=(add, conv, conv)))
    refused(pair, "no home but those on its path", claims=changed(pair.claims, homes=(add, factor), unshifted=()))
    refused(pair, "names a node twice", claims=changed(pair.claims, homes=(add, claim.site), unshifted=()))
    refused(pair, "does not read from", claims=changed(pair.claims, path=(add,)))
    refused(pair, "Add#1 reads", claims=changed(pair.claims, homes=(conv,)))


def test_a_layout_operator_takes_no_shift() -> None:
    draw = Draw(4)
    w, (parameters, a, s) = draw.weights(4, 3, 3), draw.normalization(4)
    pair = pair_of(
        draw, CONV, "h = Conv(x,w) t = Identity(h) n = BN(t,g,e,m,v) y = Relu(n)",
        "h1 = Conv(x,w1,b1) n = Identity(h1) y = Relu(n)", "n: t -> t h", old={"w": w, **parameters},
        new={"w1": wide(w) * a[:, None, None], "b1": s},
    )  # fmt: skip
    refused(pair, "Identity#1, which is no sum with a constant")


@pytest.mark.parametrize("reader", ["o = Abs(h)", "o = Abs(t)", "o = Add(u,h)"])
def test_what_changes_may_have_no_other_reader(reader: str) -> None:
    draw = Draw(5)
    w, k, c, q = draw.weights(4, 3, 3), draw.factors(4, 1), draw.terms(4, 1), draw.factors(1)
    after = {"o = Abs(h)": "o = Abs(h1)", "o = Abs(t)": "o = Abs(t1)", "o = Add(u,h)": "o = Add(y,h1)"}[reader]
    for more, then in (("o = Abs(x)", "o = Abs(x)"), (reader, after)):
        pair = pair_of(
            draw, "(float[1,3,8] x) => (float[1,4,6] y, float[N,M,K] o)",
            f"h = Conv(x,w) t = Mul(q,h) u = Mul(t,k) y = Add(u,c) {more}",
            f"h1 = Conv(x,w1,b1) y = Mul(q,h1) {then.replace('t1', 'y')}", ["u: t -> h", "y: u t -> h"],
            shared={"q": q}, old={"w": w, "k": k, "c": c},
            new={"w1": wide(w) * wide(k)[:, None], "b1": wide(c)[:, 0] / wide(q)},
        )  # fmt: skip
        if more != reader:
            certified(pair)
            continue
        assert not pair.certificate().holds
        assert pair.certificate().failure is not None


def test_a_shift_passes_no_factor_of_zero_and_a_scale_does() -> None:
    for shifts in (True, False):
        draw = Draw(6)
        w, k, c, q = draw.weights(4, 3, 3), draw.factors(4, 1), draw.terms(4, 1) * shifts, draw.factors(4, 1)
        k[2] = 0
        pair = pair_of(
            draw, CONV, "h = Conv(x,w) t = Mul(h,k) u = Mul(t,q) n = Add(u,c) y = Relu(n)",
            "h1 = Conv(x,w1,b1) n = Mul(h1,k) y = Relu(n)", ["u: t -> h", "n: u t -> h"], shared={"k": k},
            old={"w": w, "c": c, "q": q}, new={"w1": wide(w) * wide(q)[:, None], "b1": np.zeros(4)},
        )  # fmt: skip
        if shifts:
            refused(pair, "the shift of Add#3 passes a factor of zero")
        else:
            certified(pair)


def test_a_factor_on_the_way_stays_as_it_is() -> None:
    pair = by_way_of_an_add_and_a_factor()
    values = array(pair.after, "k")
    values[1] *= 2
    refused(pair, "the constant 'k' changed", put(copied(pair.after), k=values))
    after = put(copied(pair.after), k1=values)
    node(after, "n").input[1] = "k1"
    refused(pair, "Mul#2 reads", after)


def test_a_shift_past_a_factor_that_has_taken_a_scale_is_divided_by_both() -> None:
    draw = Draw(7)
    w, k, q, c = draw.weights(4, 3, 3), draw.factors(4, 1), draw.factors(4, 1), draw.terms(4, 1)
    for divisor, is_right in ((wide(k) * wide(q), True), (wide(k), False)):
        pair = pair_of(
            draw, CONV, "h = Conv(x,w) t = Mul(h,k) u = Mul(t,q) n = Add(u,c) y = Relu(n)",
            "h1 = Conv(x,w,b1) n = Mul(h1,k1) y = Relu(n)", ["u: -> t", "n: u t -> h"], shared={"w": w},
            old={"k": k, "q": q, "c": c}, new={"k1": wide(k) * wide(q), "b1": (wide(c) / divisor)[:, 0]},
        )  # fmt: skip
        if is_right:
            certified(pair)
        else:
            refused(pair, "the bias of Conv#0")


def test_a_claim_may_leave_out_nodes_that_go_and_no_others() -> None:
    draw = Draw(22)
    w, c, k, (parameters, a, s) = draw.weights(4, 3, 3), draw.terms(4, 1), draw.factors(4, 1), draw.normalization(4)
    before = "h = Conv(x,w) n = BN(h,g,e,m,v) t = Add(c,n) u = Identity(t) o = Mul(u,k) y = Relu(o)"
    factor = wide(k)[:, 0]
    pair = pair_of(
        draw, CONV, before, "h1 = Conv(x,w1,b1) o = Identity(h1) y = Relu(o)", ["n: -> h", "t: n -> h", "o: u t -> h"],
        old={"w": w, "c": c, "k": k, **parameters},
        new={"w1": wide(w) * (a * factor)[:, None, None], "b1": (s + wide(c)[:, 0]) * factor},
    )  # fmt: skip
    certified(pair)
    first, second, third = pair.claims
    bare = replace(second, path=()), replace(third, path=third.path[:1])
    assert pair.certificate(claimed=(first, *bare)).holds
    refused(pair, "does not read from", claims=(first, second, replace(third, path=())))
    refused(pair, "does not read from", claims=(second, third))


def test_each_claim_is_read_in_the_graph_that_those_before_it_have_left() -> None:
    """Of the Mul alone, all else standing there, it is not true that it reads from the Conv."""
    draw = Draw(22)
    w, k, (parameters, a, s) = draw.weights(4, 3, 3), draw.factors(4, 1), draw.normalization(4)
    factor = wide(k)[:, 0]
    pair = pair_of(
        draw, CONV, "h = Conv(x,w) n = BN(h,g,e,m,v) o = Mul(n,k) y = Relu(o)", "o = Conv(x,w1,b1) y = Relu(o)",
        ["n: -> h", "o: -> h"], old={"w": w, "k": k, **parameters},
        new={"w1": wide(w) * (a * factor)[:, None, None], "b1": s * factor},
    )  # fmt: skip
    certified(pair)
    refused(pair, "does not read from", claims=tuple(reversed(pair.claims)))


# Shapes that are computed.


@pytest.mark.parametrize("wrong", [False, True])
def test_a_reshape_to_computed_sizes_is_followed_where_its_output_is_known(wrong: bool) -> None:
    """The rows are as many as the batch makes them: a multiple of 6, whichever."""
    draw = Draw(23)
    w, k, c = draw.weights(3, 4), draw.factors(4), draw.terms(1)
    shape = "b = Shape<start=0,end=1>(x) l = Concat<axis=0>(b,six) f = Reshape(x,flat)"
    pair = pair_of(
        draw, "(float[N,6,3] x) => (float[N,6,4] y)",
        f"{shape} h = MatMul(f,w) r = Reshape(h,l) n = Mul(r,k) o = Sub(n,c) y = Relu(o)",
        f"{shape} h0 = MatMul(f,w1) h1 = Add(h0,b1) o = Reshape(h1,l) y = Relu(o)", ["n: r -> h", "o: n r -> h"],
        shared={"six": np.array([6, 4]), "flat": np.array([-1, 3])}, old={"w": w, "k": k, "c": c},
        new={"w1": wide(w) * wide(k if not wrong else k[::-1]), "b1": -wide(c)},
    )  # fmt: skip
    if wrong:
        refused(pair, "the weight of MatMul#3")
    else:
        certified(pair)


def test_a_reshape_that_mixes_channels_with_rows_is_refused() -> None:
    """[N, 4] becomes [N/3, 12]: each weight serves three places, of which every one has a number of its own."""
    draw = Draw(24)
    w, k = draw.weights(3, 4), draw.factors(12)
    pair = pair_of(
        draw, "(float[N,3] x) => (float[M,12] y)", "h = MatMul(x,w) r = Reshape(h,s) n = Mul(r,k) y = Relu(n)",
        "h1 = MatMul(x,w1) n = Reshape(h1,s) y = Relu(n)", "n: r -> h", shared={"s": np.array([-1, 12])},
        old={"w": w, "k": k}, new={"w1": wide(w) * wide(k[:4])},
    )  # fmt: skip
    refused(pair, "serves places where what settled in it differs")
    periodic = put(copied(pair.before), k=np.tile(k[:4], 3))
    certified(Pair(periodic, pair.after, pair.claims, pair.new))


# The node that goes.


def into_conv(operator: str, *, interface: str = CONV, **constants: np.ndarray) -> Pair:
    """A Conv and one node `n = OPERATOR` behind it, claimed to have changed nothing."""
    draw = Draw(8)
    weight = draw.weights(4, 3, 3)
    return pair_of(
        draw, interface, f"h = Conv(x,w) n = {operator} y = Relu(n)", "n = Conv(x,w) y = Relu(n)", "n: -> h",
        shared={"w": weight}, old=constants,
    )  # fmt: skip


ONE = np.ones((4, 1), np.float32)


def test_the_operators_that_are_no_affine_are_refused() -> None:
    certified(into_conv("Mul(h,k)", k=ONE))
    certified(into_conv("Div(h,k)", k=ONE))
    certified(into_conv("Sub(h,k)", k=0 * ONE))
    refused(into_conv("Div(k,h)", k=ONE), "Div#1 is no affine")
    refused(into_conv("Mul(h,h)"), "does not read from")
    refused(into_conv("Div(h,k)", k=0 * ONE), "divides by zero")
    refused(into_conv("Abs(h)"), "is no affine")
    refused(into_conv("Pow(h,k)", k=ONE), "is no affine")
    refused(into_conv("Max(h,k)", k=ONE), "is no affine")
    refused(into_conv("Neg(h)"), "the weight of Conv#0")
    refused(into_conv("Sub(k,h)", k=0 * ONE), "the weight of Conv#0")
    refused(into_conv("Add(h,k)", k=ONE), "the bias of Conv#0")


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_an_affine_of_integers_is_refused(dtype: type) -> None:
    """Integers wrap around and divide without remainder: no algebra of real numbers holds for them."""
    element = np.dtype(dtype).name
    draw = Draw(9)
    pair = pair_of(
        draw, f"({element}[2,4] x) => ({element}[2,4] y)", "h = Mul(x,k) n = Mul(h,q) y = Identity(n)",
        "n = Mul(x,k1) y = Identity(n)", "n: -> h", old={"k": np.array(3, dtype), "q": np.array(2, dtype)},
        new={"k1": np.array(6, dtype)},
    )  # fmt: skip
    refused(pair, "in which no affine is exact")


def test_a_constant_that_a_caller_may_replace_is_not_decided() -> None:
    pair = into_conv("Mul(h,k)", k=ONE)
    for model in (pair.before, pair.after):
        put(model, k=ONE)
        model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [4, 1]))
    undecided(pair, "'k' is only a default, which a caller may replace")


def test_a_factor_that_is_computed_or_drawn_is_not_decided() -> None:
    draw = Draw(10)
    interface = "(float[1,3,8] x, float[4,1] k) => (float[1,4,6] y)"
    undecided(into_conv("Mul(h,k)", interface=interface), "'k' is not constant")
    body = "h = Conv(x,w) k = RandomNormal<shape=[4,1],seed=1.0>() n = Mul(h,k) y = Relu(n)"
    pair = pair_of(
        draw, CONV, body, "n = Conv(x,w) y = Relu(n)", "n: -> h", shared={"w": draw.weights(4, 3, 3)}
    )  # fmt: skip
    undecided(pair, "'k' is drawn at random")


def test_a_constant_that_enlarges_the_value_is_refused() -> None:
    """The numbers are the very same, and the shapes are not."""
    wider = np.full((1, 1, 4, 1), 1, np.float32)
    refused(into_conv("Mul(h,k)", interface="(float[1,3,8] x) => (float[1,N,4,6] y)", k=wider), "enlarges its value")
    longer = np.full((5, 1, 1), 1, np.float32)
    refused(into_conv("Mul(h,k)", interface="(float[1,3,8] x) => (float[N,4,6] y)", k=longer), "do not fit its data")


def test_an_axis_that_has_the_same_size_by_chance_is_refused() -> None:
    """[4] stands along the last axis, of the same size as that of the channels, which the weights scale."""
    draw = Draw(11)
    w, k = draw.weights(4, 3, 3), draw.factors(4)
    for shape, right in (((4, 1), True), ((4,), False), ((1, 4), False)):
        pair = pair_of(
            draw, "(float[1,3,6] x) => (float[1,4,4] y)", "h = Conv(x,w) n = Mul(h,k) y = Relu(n)",
            "n = Conv(x,w1) y = Relu(n)", "n: -> h", old={"w": w, "k": k.reshape(shape)},
            new={"w1": wide(w) * wide(k)[:, None, None]},
        )  # fmt: skip
        if right:
            certified(pair)
        else:
            refused(pair, "serves places where what settled in it differs")


@pytest.mark.parametrize("left", [False, True])
def test_a_matmul_scaled_along_its_other_axis_is_refused_where_both_have_one_size(left: bool) -> None:
    draw = Draw(12)
    w, k = draw.weights(4, 4), draw.factors(4)
    operands = "w,x" if left else "x,w"
    for constant, factor, right in (
        (k[:, None] if left else k, k[:, None] if left else k, True),
        (k[:, None] if left else k, k if left else k[:, None], False),
        (k if left else k[:, None], k if left else k[:, None], False),
    ):
        pair = pair_of(
            draw, "(float[4,4] x) => (float[4,4] y)", f"h = MatMul({operands}) n = Mul(h,k) y = Relu(n)",
            f"n = MatMul({operands.replace('w', 'w1')}) y = Relu(n)", "n: -> h", old={"w": w, "k": constant},
            new={"w1": wide(w) * wide(factor)},
        )  # fmt: skip
        assert pair.certificate().holds == right
        assert (pair.certificate().failure is None) == right


# What a home cannot take.


def test_a_sum_takes_no_scale_and_a_factor_no_shift() -> None:
    draw = Draw(13)
    c, k = draw.terms(4), draw.factors(4)
    interface = "(float[2,4] x) => (float[2,4] y)"
    pair = pair_of(
        draw, interface, "h = Add(x,c) n = Mul(h,k) y = Relu(n)", "n = Add(x,c1) y = Relu(n)", "n: -> h",
        old={"c": c, "k": k}, new={"c1": wide(c) * wide(k)},
    )  # fmt: skip
    refused(pair, "the scale of Add#0")
    pair = pair_of(
        draw, interface, "h = Mul(x,k) n = Add(h,c) y = Relu(n)", "n = Mul(x,k) y = Relu(n)", "n: -> h",
        shared={"k": k}, old={"c": c},
    )  # fmt: skip
    refused(pair, "the bias of Mul#0")
    zero = put(copied(pair.before), c=np.zeros(4, np.float32))
    certified(Pair(zero, pair.after, pair.claims, ()))


def test_a_divisor_is_not_divided_by_zero() -> None:
    draw = Draw(14)
    pair = pair_of(
        draw, "(float[2,4] x) => (float[2,4] y)", "h = Div(x,k) n = Mul(h,q) y = Relu(n)",
        "n = Div(x,k1) y = Relu(n)", "n: -> h", old={"k": draw.factors(4), "q": np.zeros(4, np.float32)},
        new={"k1": np.full(4, np.inf)},
    )  # fmt: skip
    refused(pair, "would be divided by zero")


@pytest.mark.parametrize(("size", "sentence"), [("4", None), ("1", "has the shape [1, 4]"), ("N", "is not known")])
def test_a_constant_grows_only_as_far_as_the_value_is_known_to_go(size: str, sentence: str | None) -> None:
    draw = Draw(15)
    k, q = draw.factors(), draw.factors(4)
    pair = pair_of(
        draw, f"(float[2,{size}] x) => (float[2,M] y)", "h = Mul(x,k) n = Mul(h,q) y = Relu(n)",
        "n = Mul(x,k1) y = Relu(n)", "n: -> h", old={"k": k, "q": q}, new={"k1": wide(k) * wide(q)},
    )  # fmt: skip
    checked = pair.certificate()
    assert checked.holds == (sentence is None)
    assert sentence is None or sentence in str(checked.failure or checked.uncertain)
    assert size != "N" or checked.failure is None


def test_a_constant_does_not_shrink_the_value_that_the_old_one_enlarged() -> None:
    """[4] times [1, 4] is [1, 4], and times [4] it is [4]; [4, 1] times the same is [4, 4], and times [1] no more."""
    draw = Draw(25)
    k, q = draw.factors(1, 4), draw.factors()
    for interface, old, new, sentence in (
        ("(float[4] x) => (float[N,4] y)", k, k, None),
        ("(float[4] x) => (float[N,4] y)", k, k[0], "has fewer dimensions than the old one"),
        ("(float[4,1] x) => (float[4,N] y)", np.tile(k[:, :1], 4), k[:, :1], "has the shape [1, 1]"),
    ):
        pair = pair_of(
            draw, interface, "h = Mul(x,k) n = Mul(h,q) y = Relu(n)", "n = Mul(x,k1) y = Relu(n)", "n: -> h",
            old={"k": old, "q": q}, new={"k1": wide(new) * wide(q)},
        )  # fmt: skip
        if sentence is None:
            certified(pair)
        else:
            refused(pair, sentence)


def test_a_normalization_says_how_many_channels_there_are() -> None:
    draw = Draw(16)
    k, (parameters, a, _) = draw.factors(), draw.normalization(4)
    parameters["e"] = parameters["m"] = np.zeros(4, np.float32)
    pair = pair_of(
        draw, "(float[N,C,L] x) => (float[N,C,L] y)", "h = Mul(x,k) n = BN(h,g,e,m,v) y = Relu(n)",
        "n = Mul(x,k1) y = Relu(n)", "n: -> h", old={"k": k, **parameters},
        new={"k1": (wide(k) * a)[:, None]},
    )  # fmt: skip
    certified(pair)
    longer = put(copied(pair.after), k1=np.tile(array(pair.after, "k1"), (1, 5)))
    assert "whether the new constant of Mul#0 fits" in str(pair.certificate(longer).uncertain)


def test_a_home_reads_the_same_data_and_statistics() -> None:
    draw = Draw(17)
    (first, *_), (second, a, s) = draw.normalization(4, "0"), draw.normalization(4)
    interface = "(float[2,4] x, float[2,4] z) => (float[2,4] y, float[2,4] o)"
    pair = pair_of(
        draw, interface, "h = BN(x,g0,e0,m0,v0) n = BN(h,g,e,m,v) y = Relu(n) o = Abs(z)",
        "n = BN(x,g1,e1,m0,v0) y = Relu(n) o = Abs(z)", "n: -> h", shared={"m0": first["m0"], "v0": first["v0"]},
        old={"g0": first["g0"], "e0": first["e0"], **second},
        new={"g1": wide(first["g0"]) * a, "e1": wide(first["e0"]) * a + s},
    )  # fmt: skip
    certified(pair)
    for place, name in ((0, "z"), (3, "v0"), (4, "m0")):
        after = copied(pair.after)
        node(after, "n").input[place] = name
        refused(pair, f"BatchNormalization#0 reads something else at input {place}", after)
    other = copied(pair.after)
    node(other, "n").attribute[0].f = 1e-3
    refused(pair, "no counterpart", other)


def test_a_normalization_that_trains_is_no_home() -> None:
    pair = KINDS["normalization that stays"](Draw(18))
    for model in (pair.before, pair.after):
        model.graph.node[0].attribute.append(helper.make_attribute("training_mode", 1))
    refused(pair, "is no BatchNormalization at inference")


EINSUMS = {  # the equation, and what cannot be followed
    "bij,ik->bkj": None,
    "bij,ik": None,  # the result is bjk
    "bkj,ik->bkj": "differs",  # the data have the label too
    "bij,kk->bkj": "none that the certificate can follow",
    "bij,...k->bkj": "none that the certificate can follow",
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_an_einsum_absorbs_along_a_label_that_the_constant_alone_has(equation: str) -> None:
    draw = Draw(19)
    w, k = draw.weights(3, 3), draw.factors(3)
    k[0], k[1], k[2] = 0.5, 2.0, -1.5
    constant = k if equation == "bij,ik" else k[:, None]
    body = f'Einsum<equation="{equation}">'
    pair = pair_of(
        draw, "(float[2,3,3] x) => (float[2,3,3] y)", f"h = {body}(x,w) n = Mul(h,k) y = Relu(n)",
        f"n = {body}(x,w1) y = Relu(n)", "n: -> h", old={"w": w, "k": constant}, new={"w1": wide(w) * wide(k)},
    )  # fmt: skip
    checked = pair.certificate()
    assert checked.holds == (EINSUMS[equation] is None)
    assert str(EINSUMS[equation] or "None") in str(checked.failure or checked.uncertain)


def test_a_rank_that_nothing_but_a_permutation_tells() -> None:
    draw = Draw(26)
    w, (parameters, a, s) = draw.weights(3, 4), draw.normalization(4)
    for way, then, known in (
        ("t = Transpose<perm=[0,2,1]>(h)", "n = Transpose<perm=[0,2,1]>(h1)", True),
        ("t = Identity(h)", "n = Identity(h1)", False),
    ):
        pair = pair_of(
            draw, "(float[a,b,c] x, int64[k] s) => (float[d,f,l] y)",
            f"f = Reshape(x,s) h = MatMul(f,w) {way} n = BN(t,g,e,m,v) y = Relu(n)",
            f"f = Reshape(x,s) r = MatMul(f,w1) h1 = Add(r,b1) {then} y = Relu(n)", "n: t -> h",
            old={"w": w, **parameters}, new={"w1": wide(w) * a, "b1": s},
        )  # fmt: skip
        if known:
            certified(pair)
        else:
            undecided(pair, "a value of unknown rank")


def test_an_einsum_of_two_constants_is_followed_and_a_matmul_by_a_vector_is_not_decided() -> None:
    draw = Draw(20)
    w, u, k = draw.weights(3, 4), draw.weights(4), draw.factors()
    body = 'Einsum<equation="bi,ik,k->bk">'
    pair = pair_of(
        draw, DENSE, f"h = {body}(x,w,u) n = Mul(h,k) y = Relu(n)", f"n = {body}(x,w1,u) y = Relu(n)", "n: -> h",
        shared={"u": u}, old={"w": w, "k": k}, new={"w1": wide(w) * wide(k)},
    )  # fmt: skip
    certified(pair)
    refused(pair, "weight of Einsum#0", put(copied(pair.after), w1=w))
    pair = pair_of(
        draw, "(float[2,4] x) => (float[2] y)", "h = MatMul(x,u) n = Mul(h,k) y = Relu(n)",
        "n = MatMul(x,u1) y = Relu(n)", "n: -> h", old={"u": u, "k": k}, new={"u1": wide(u) * wide(k)},
    )  # fmt: skip
    undecided(pair, "multiplies a vector")


def test_a_constant_divided_is_no_home() -> None:
    draw = Draw(21)
    c, k = draw.factors(4), draw.factors(4)
    pair = pair_of(
        draw, "(float[2,4] x) => (float[2,4] y)", "h = Div(c,x) n = Mul(h,k) y = Relu(n)",
        "n = Div(c1,x) y = Relu(n)", "n: -> h", old={"c": c, "k": k}, new={"c1": wide(c) * wide(k)},
    )  # fmt: skip
    undecided(pair, "Div#0 divides a constant")
