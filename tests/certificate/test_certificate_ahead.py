"""Folds that lead forward, written by hand: the right ones hold, and each that only looks right is refused.

A wrong fold differs from its right one in numbers, in wiring, or in its claim; nothing here is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from certificate_folds import array, copied, put
from certificate_pairs import Arrays, Draw, Pair, claimed, pair_of, wide

from bnfold.equality.claim import Claim

Steps = tuple[np.ndarray, np.ndarray]


def pair(  # noqa: PLR0913  # as pair_of
    draw: Draw,
    interface: str,
    before: str,
    after: str,
    claims: str | list[str],
    *,
    old: Arrays,
    new: Arrays,
    shared: Arrays,
) -> Pair:
    """A pair whose claims lead forward."""
    found = pair_of(draw, interface, before, after, claims, old=old, new=new, shared=shared)
    return replace(found, claims=tuple(replace(claim, ahead=True, unshifted=()) for claim in found.claims))


@dataclass(frozen=True)
class Case:
    """What a layer makes of an affine (a, s) of its data: a right pair, and wrong numbers by name."""

    right: Pair
    wrong: dict[str, dict[str, np.ndarray]]


def conv(attributes: str = "", *, group: int = 2, shift: bool = True) -> Case:
    """A Conv of 4 channels in groups, of as many outputs, so that every wrong axis fits."""
    draw = Draw(1)
    w, b, (parameters, a, s) = draw.weights(4, 4 // group, 3), draw.terms(4), draw.normalization(4)
    if not shift:
        parameters["m"] = parameters["e"] = np.zeros(4, np.float32)
        s = 0 * s
    channel = (np.arange(4) // (4 // group) * (4 // group))[:, None] + np.arange(4 // group)
    weight, added = wide(w) * a[channel][..., None], np.einsum("oik,oi->o", wide(w), s[channel])
    layer = f"Conv<group={group}{attributes}>"
    right = pair(
        draw, "(float[1,4,8] x) => (float[1,4,z] y)", f"n = BN(x,g,e,m,v) y = {layer}(n,w,b)", f"y = {layer}(x,w1,b1)",
        "n: -> y", old={"w": w, "b": b, **parameters}, new={"w1": weight, "b1": wide(b) + added}, shared={},
    )  # fmt: skip
    return Case(right, {
        "the scale on the outputs": {"w1": wide(w) * a[:, None, None]},
        "groups mixed": {"w1": wide(w) * a[channel[::-1]][..., None]},
        "the scale left out": {"w1": wide(w)},
        "the scale divided by": {"w1": wide(w) / a[channel][..., None]},
        "a sign": {"w1": wide(w) * np.abs(a)[channel][..., None]},
        "one channel left out": {"w1": np.where(channel[..., None] == 3, wide(w), weight)},
        "the shift forgotten": {"b1": wide(b)},
        "the shift itself": {"b1": wide(b) + s},
        "the shift subtracted": {"b1": wide(b) - added},
        "the shift of one tap": {"b1": wide(b) + np.einsum("oi,oi->o", wide(w)[..., 1], s[channel])},
        "the shift times the new weight": {"b1": wide(b) + np.einsum("oik,oi->o", weight, s[channel])},
        "the shift in other groups": {"b1": wide(b) + np.einsum("oik,oi->o", wide(w), s[channel[::-1]])},
    })  # fmt: skip


def conv_transpose() -> Case:
    draw = Draw(2)
    w, b, (parameters, a, s) = draw.weights(4, 2, 3), draw.terms(4), draw.normalization(4)
    weight = wide(w) * a[:, None, None]
    each = np.einsum("cmk,c->cm", wide(w), s)
    added = np.concatenate([each[:2].sum(0), each[2:].sum(0)])
    layer = "ConvTranspose<group=2,pads=[2,2],kernel_shape=[3]>"
    right = pair(
        draw, "(float[1,4,8] x) => (float[1,4,6] y)", f"n = BN(x,g,e,m,v) y = {layer}(n,w,b)", f"y = {layer}(x,w1,b1)",
        "n: -> y", old={"w": w, "b": b, **parameters}, new={"w1": weight, "b1": wide(b) + added}, shared={},
    )  # fmt: skip
    return Case(right, {
        "the scale on the outputs": {"w1": wide(w) * np.array([a[:2], a[:2], a[2:], a[2:]])[..., None]},
        "groups mixed": {"w1": wide(w) * a[[2, 3, 0, 1], None, None]},
        "the shift forgotten": {"b1": wide(b)},
        "the shift of the first group": {"b1": wide(b) + np.tile(each[:2].sum(0), 2)},
        "the shift of all groups": {"b1": wide(b) + np.tile(each.sum(0), 2)},
    })  # fmt: skip


def gemm() -> Case:
    draw = Draw(3)
    w, c, (parameters, a, s) = draw.weights(4, 4), draw.terms(4), draw.normalization(4)
    layer = "Gemm<alpha=0.5,beta=2.0,transB=1>"
    added = 0.5 * wide(w) @ s
    right = pair(
        draw, "(float[3,4] x) => (float[3,4] y)", f"n = BN(x,g,e,m,v) y = {layer}(n,w,c)",
        "y = Gemm<alpha=0.5,transB=1>(x,w1,c1)", "n: -> y", old={"w": w, "c": c, **parameters},
        new={"w1": wide(w) * a, "c1": 2 * wide(c) + added}, shared={},
    )  # fmt: skip
    return Case(right, {
        "the scale on the outputs": {"w1": wide(w) * a[:, None]},
        "alpha forgotten in the shift": {"c1": 2 * wide(c) + 2 * added},
        "alpha twice": {"w1": 0.5 * wide(w) * a},
        "beta forgotten": {"c1": wide(c) + added},
        "beta times the shift": {"c1": 2 * wide(c) + 2 * added},
        "the shift through the other axis": {"c1": 2 * wide(c) + 0.5 * wide(w).T @ s},
        "the shift forgotten": {"c1": 2 * wide(c)},
    })  # fmt: skip


def matmul(*, left: bool = False) -> Case:
    draw = Draw(4)
    w, a, s = draw.weights(4, 4), draw.factors(4), draw.terms(4)
    form = (4, 1) if left else (4,)
    added = wide(w) @ wide(s) if left else wide(s) @ wide(w)
    other = wide(w).T @ wide(s) if left else wide(w) @ wide(s)
    scaled = wide(w) @ wide(s * a) if left else wide(s * a) @ wide(w)
    operands = ("w,o", "w1,x") if left else ("o,w", "x,w1")
    wrong = wide(w) * (wide(a)[:, None] if left else wide(a))
    right = pair(
        draw, "(float[2,4,4] x) => (float[2,4,4] y)",
        f"n = Mul(x,k) o = Add(n,d) q = MatMul({operands[0]}) y = Relu(q)",
        f"r = MatMul({operands[1]}) q = Add(r,d1) y = Relu(q)", ["n: o -> q", "o: -> q"],
        old={"w": w, "k": a.reshape(form), "d": s.reshape(form)},
        new={"w1": wide(w) * (wide(a) if left else wide(a)[:, None]), "d1": added.reshape(form)}, shared={},
    )  # fmt: skip
    return Case(right, {
        "the scale on the outputs": {"w1": wrong},
        "the shift through the other axis": {"d1": other.reshape(form)},
        "the shift forgotten": {"d1": 0 * added.reshape(form)},
        "the shift along another axis": {"d1": added.reshape(form[::-1] if left else (4, 1))},
        "the shift scaled, as if it came first": {"d1": scaled.reshape(form)},
    })  # fmt: skip


CASES = {
    "Conv in groups": conv(), "Conv": conv(group=1), "depthwise Conv": conv(group=4), "ConvTranspose": conv_transpose(),
    "Conv with padding, of a scale": conv(",pads=[1,1]", shift=False), "Gemm": gemm(), "MatMul": matmul(),
    "MatMul, the constant first": matmul(left=True),
}  # fmt: skip
NUMBERS = [(name, fault) for name, case in CASES.items() for fault in case.wrong]


@pytest.mark.parametrize("name", CASES)
def test_a_right_fold_holds(name: str) -> None:
    checked = CASES[name].right.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize(("name", "fault"), NUMBERS)
def test_wrong_numbers_are_refused(name: str, fault: str) -> None:
    case = CASES[name]
    after = copied(case.right.after)
    for constant, exact in case.wrong[fault].items():
        new = exact.astype(np.float32)
        if np.array_equal(new, array(after, constant)):
            assert name in {"Conv", "depthwise Conv", "Conv with padding, of a scale"}  # one group, or no shift
            return
        put(after, **{constant: new})
    checked = case.right.certificate(after)
    assert checked.failure is not None
    assert "weight of" in checked.failure or "bias of" in checked.failure


@pytest.mark.parametrize(
    ("attributes", "holds"),
    [("", True), (",pads=[0,0]", True), (',auto_pad="VALID"', True), (",pads=[1,1]", False), (",pads=[0,1]", False),
     (',auto_pad="SAME_UPPER"', False), (',auto_pad="SAME_LOWER"', False), (",strides=[2],dilations=[2]", True)],
)  # fmt: skip
def test_a_shift_arrives_only_where_every_output_sees_every_tap(attributes: str, holds: bool) -> None:
    checked = conv(attributes).right.certificate()
    assert checked.holds is holds
    if not holds:
        assert "a shift arrives at Conv#1" in str(checked.failure)


@pytest.mark.parametrize(
    ("attributes", "holds"),
    [("pads=[2,2]", True), ("pads=[3,2]", True), ("pads=[2,1]", False), ("pads=[1,2]", False), ("pads=[0,0]", False),
     ("pads=[2,2],strides=[2]", False), ("pads=[2,2],dilations=[2]", False), ("pads=[4,4],dilations=[2]", True),
     ("strides=[2],pads=[2,2],output_padding=[1]", False), ('auto_pad="SAME_UPPER"', False),
     ("pads=[2,2],output_shape=[6]", False)],
)  # fmt: skip
def test_so_does_one_at_a_transposed_convolution(attributes: str, holds: bool) -> None:
    right = conv_transpose().right
    models = []
    for model in (right.before, right.after):
        other = copied(model)
        node = next(node for node in other.graph.node if node.op_type == "ConvTranspose")
        text = (
            f"t (float[1,4,8] i) => (float[1,4,6] o) {{ o = ConvTranspose<group=2,kernel_shape=[3],{attributes}>(i) }}"
        )
        del node.attribute[:]
        node.attribute.extend(onnx.parser.parse_graph(text).node[0].attribute)
        models.append(other)
    checked = replace(right, before=models[0], after=models[1]).certificate()
    assert checked.holds is holds
    if not holds:
        assert "of which not every output sees every tap" in str(checked.failure)


# What passes on the way.


def passing(operator: str, *, sign: bool, shift: bool, interface: str = "") -> Pair:
    """BatchNormalization, an operator from n to t, a Conv: what a fold writes that asks nothing."""
    draw = Draw(5)
    w, b, (parameters, _, _) = draw.weights(3, 4, 1, 1), draw.terms(3), draw.normalization(4)
    parameters["g"] = np.abs(parameters["g"]) * (np.array([1, -1, 1, 1], np.float32) if sign else 1)
    if not shift:
        parameters["m"] = parameters["e"] = np.zeros(4, np.float32)
    gamma, beta, mean, var = (wide(parameters[name]) for name in "gemv")
    a = gamma / np.sqrt(var + draw.epsilon)
    s = beta - mean * a
    weight = wide(w) * a.reshape(1, 4, 1, 1)
    total = wide(w).reshape(3, 4) @ s
    behind = operator.replace("(n", "(x").replace(",n)", ",x)")
    return pair(
        draw, interface or "(float[2,4,6,6] x, float[2,4,6,6] z) => (float[] y)",
        f"n = BN(x,g,e,m,v) t = {operator} y = Conv(t,w,b)", f"t1 = {behind} y = Conv(t1,w1,b1)",
        "n: t -> y", old={"w": w, "b": b, **parameters}, new={"w1": weight, "b1": wide(b) + total},
        shared={"slope": draw.factors(4, 1, 1)} if "slope" in operator else {},
    )  # fmt: skip


PASSES = {
    "Identity(n)": "both shift", "Transpose<perm=[0,1,3,2]>(n)": "both shift", "GlobalAveragePool(n)": "both shift",
    "AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(n)": "both shift", "ReduceMean<axes=[2,3]>(n)": "both shift",
    "AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(n)": "both",
    "MaxPool<kernel_shape=[2,2]>(n)": "shift", "GlobalMaxPool(n)": "shift", "ReduceMax<axes=[2,3]>(n)": "shift",
    "Relu(n)": "", "LeakyRelu<alpha=0.2>(n)": "", "PRelu(n,slope)": "", "Abs(n)": "", "Mul(n,z)": "both",
    "Mul(z,n)": "both", "Div(n,z)": "both", "Div(z,n)": None, "Add(n,z)": None, "Sub(n,z)": None, "Max(n,z)": None,
    "Sigmoid(n)": None, "Softmax<axis=1>(n)": None, "Exp(n)": None, "Sum(n,z)": None, "Tanh(n)": None,
    "Clip(n)": None,
}  # fmt: skip


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("operator", PASSES)
def test_what_an_operator_lets_pass(operator: str, sign: bool, shift: bool) -> None:
    what = PASSES[operator]
    allowed = what is not None and (not sign or "both" in what) and (not shift or "shift" in what)
    checked = passing(operator, sign=sign, shift=shift).certificate()
    assert checked.holds is allowed, (checked.failure, checked.uncertain)


@pytest.mark.parametrize(
    ("operator", "interface"),
    [
        ("Transpose<perm=[0,2,1,3]>(n)", "(float[2,4,4,6] x) => (float[] y)"),
        ("ReduceMean<axes=[1]>(n)", "(float[2,4,6,6] x) => (float[] y)"),
        ("ReduceMax<axes=[1]>(n)", "(float[2,4,6,6] x) => (float[] y)"),
        ("Concat<axis=2>(n,x)", "(float[2,4,6,6] x) => (float[] y)"),
        ("Concat<axis=0>(n,x)", "(float[2,4,6,6] x) => (float[] y)"),
    ],
)
def test_channels_that_come_to_lie_elsewhere_are_no_longer_the_layers(operator: str, interface: str) -> None:
    checked = passing(operator, sign=False, shift=True, interface=interface).certificate()
    assert not checked.holds


# What the claim says, and what reads the affine.


def two_readers() -> Pair:
    draw = Draw(6)
    w, b, v, c, (parameters, a, s) = (
        draw.weights(4, 4, 1), draw.terms(4), draw.weights(4, 4, 1), draw.terms(4), draw.normalization(4)
    )  # fmt: skip
    new = {"w1": wide(w) * a[:, None], "b1": wide(b) + wide(w)[..., 0] @ s}
    new |= {"v1": wide(v) * a[:, None], "c1": wide(c) + wide(v)[..., 0] @ s}
    return pair(
        draw, "(float[1,4,8] x) => (float[1,4,8] y, float[1,4,8] z)",
        "n = BN(x,g,e,m,v_) t = Identity(n) y = Conv(t,w,b) z = Conv(n,v,c)".replace("v_", "v0"),
        "t1 = Identity(x) y = Conv(t1,w1,b1) z = Conv(x,v1,c1)", "n: t -> y z",
        old={"w": w, "b": b, "v": v, "c": c, **{k if k != "v" else "v0": p for k, p in parameters.items()}}, new=new,
        shared={},
    )  # fmt: skip


def sites(found: Pair) -> dict[str, Claim]:
    return {name: claimed(found.before, f"{name}: ->") for name in ("n", "t", "y", "z")}


def without_a_home(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, homes=claim.homes[:1])


def without_homes(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, homes=())


def without_its_path(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, path=())


def a_home_as_path(claim: Claim, of: dict[str, Claim]) -> Claim:
    return replace(claim, path=(*claim.path, of["z"].site), homes=(of["y"].site,))


def the_path_as_home(claim: Claim, of: dict[str, Claim]) -> Claim:
    return replace(claim, path=(), homes=(*claim.homes, of["t"].site))


def a_home_twice(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, homes=(*claim.homes, claim.homes[0]))


def itself_as_path(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, path=(*claim.path, claim.site))


def other_data(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, data=1)


def data_that_there_are_not(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, data=9)


def not_ahead(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, ahead=False)


FALSE_CLAIMS = [
    without_a_home, without_homes, without_its_path, a_home_as_path, the_path_as_home, a_home_twice, itself_as_path,
    other_data, data_that_there_are_not, not_ahead,
]  # fmt: skip


def test_a_fold_into_two_readers_holds() -> None:
    checked = two_readers().certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("change", FALSE_CLAIMS, ids=lambda change: change.__name__)
def test_a_claim_that_is_not_what_happened_does_not_hold(change: Callable[[Claim, dict[str, Claim]], Claim]) -> None:
    found = two_readers()
    checked = found.certificate(claimed=(change(found.claims[0], sites(found)),))
    assert not checked.holds
    assert checked.failure or checked.uncertain


def test_no_claim_at_all_and_one_claim_twice_do_not_hold() -> None:
    found = two_readers()
    assert not found.certificate(claimed=()).holds
    assert "claimed twice" in str(found.certificate(claimed=found.claims * 2).failure)


def test_a_reader_that_was_left_out_is_seen() -> None:
    """One layer keeps its weights and reads what the affine was fed: with a claim that names it, and without."""
    found = two_readers()
    after = copied(found.after)
    put(after, v=array(found.before, "v"), c=array(found.before, "c"))
    node = next(node for node in after.graph.node if node.output[0] == "z")
    node.input[1:] = ["v", "c"]
    for name in ("v1", "c1"):
        after.graph.initializer.remove(next(t for t in after.graph.initializer if t.name == name))
    assert "the weight of Conv#3" in str(found.certificate(after).failure)
    alone = replace(found.claims[0], homes=found.claims[0].homes[:1])
    assert "'n' changes, and Conv#3 reads it" in str(found.certificate(after, claimed=(alone,)).failure)


def test_a_reader_that_keeps_the_affine_is_seen() -> None:
    """The node stays for one reader alone, and is claimed to have gone."""
    found = two_readers()
    after = copied(found.after)
    put(after, **{name: array(found.before, name) for name in ("g", "e", "m", "v0", "v", "c")})
    norm = onnx.NodeProto.FromString(found.before.graph.node[0].SerializeToString())
    after.graph.node.insert(0, norm)
    next(node for node in after.graph.node if node.output[0] == "z").input[:] = ["n", "v", "c"]
    assert not found.certificate(after).holds


def test_an_output_of_the_graph_is_promised() -> None:
    found = two_readers()
    models = [copied(model) for model in (found.before, found.after)]
    for model, name in zip(models, ("n", "x"), strict=True):
        model.graph.node.add(op_type="Identity", input=[name], output=["k"])
        model.graph.output.append(onnx.helper.make_tensor_value_info("k", 1, [1, 4, 8]))
    checked = replace(found, before=models[0], after=models[1]).certificate()
    assert "'n' changes, and Identity#4 reads it" in str(checked.failure)
    models[0].graph.node.pop()
    models[0].graph.output[-1].name = "n"
    assert not replace(found, before=models[0], after=models[1]).certificate().holds


def test_what_looks_at_the_shape_alone_may_go_on_doing_so() -> None:
    found = two_readers()
    models = [copied(model) for model in (found.before, found.after)]
    for model, name in zip(models, ("n", "x"), strict=True):
        model.graph.node.add(op_type="Shape", input=[name], output=["k"])
        model.graph.output.append(onnx.helper.make_tensor_value_info("k", 7, [3]))
    checked = replace(found, before=models[0], after=models[1]).certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


# Several affines.


def in_a_row(*, exchanged: bool = False, conjugated: bool = True) -> Pair:
    """A factor, then a normalization that stays the function's second: both go to the Conv behind them."""
    draw = Draw(8)
    w, b, k, (parameters, a, s) = draw.weights(3, 4, 1), draw.terms(3), draw.factors(4, 1), draw.normalization(4)
    f = wide(k)[:, 0]
    shift = f * s if exchanged else s
    if not conjugated:
        shift = s + (1 - f) * s
    weight = wide(w) * (a * f)[:, None]
    return pair(
        draw, "(float[1,4,8] x) => (float[1,3,8] y)", "n = Mul(x,k) o = BN(n,g,e,m,v) y = Conv(o,w,b)",
        "y = Conv(x,w1,b1)", ["n: o -> y", "o: -> y"], old={"w": w, "b": b, "k": k, **parameters},
        new={"w1": weight, "b1": wide(b) + wide(w)[..., 0] @ shift}, shared={},
    )  # fmt: skip


def test_two_affines_in_a_row_hold_in_their_order_alone() -> None:
    right = in_a_row()
    assert right.certificate().holds
    assert right.certificate(claimed=right.claims[::-1]).holds  # their order is that of the values
    assert "the bias of Conv#2" in str(in_a_row(exchanged=True).certificate().failure)
    assert "the bias of Conv#2" in str(in_a_row(conjugated=False).certificate().failure)


def test_one_that_stays_is_passed_by_what_it_makes_of_a_shift() -> None:
    """x*f, then a*x + s that stays: behind it the factor is f, and the shift (1 - f)*s."""
    draw = Draw(9)
    w, b, k, (parameters, _, s) = draw.weights(3, 4, 1), draw.terms(3), draw.factors(4, 1), draw.normalization(4)
    f = wide(k)[:, 0]

    def stays(shift: np.ndarray) -> Pair:
        return pair(
            draw, "(float[1,4,8] x) => (float[1,3,8] y)", "n = Mul(x,k) o = BN(n,g,e,m,v) y = Conv(o,w,b)",
            "o1 = BN(x,g,e,m,v) y = Conv(o1,w1,b1)", ["n: o -> y"], old={"w": w, "b": b, "k": k},
            new={"w1": wide(w) * f[:, None], "b1": wide(b) + wide(w)[..., 0] @ shift}, shared=parameters,
        )  # fmt: skip

    assert stays((1 - f) * s).certificate().holds
    for wrong in (0 * s, s, f * s, (f - 1) * s):
        assert "the bias of Conv#2" in str(stays(wrong).certificate().failure)
