"""Folds that lead forward, written by hand: the right ones hold, and each that only looks right is refused.

A wrong fold differs from its right one in numbers, in wiring, or in its claim; nothing here is run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from certificate_folds import Fold, array, copied, put
from certificate_pairs import Draw, Pair, ahead_pair, wide

Steps = tuple[np.ndarray, np.ndarray]


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
    right = ahead_pair(
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
    right = ahead_pair(
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
    right = ahead_pair(
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
    right = ahead_pair(
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
     (',auto_pad="SAME_UPPER"', False), (',auto_pad="SAME_LOWER"', False), (",strides=[2],dilations=[2]", True),
     (',auto_pad="SAME_UPPER",strides=[5]', True), (',auto_pad="SAME_LOWER",strides=[5]', True),
     (',auto_pad="SAME_UPPER",strides=[3]', False), (',auto_pad="SAME_UPPER",strides=[7]', False),
     (',auto_pad="SAME_UPPER",strides=[5],dilations=[2]', False),
     (',auto_pad="SAME_UPPER",strides=[5],pads=[0,1]', False),
     (',auto_pad="OTHER",strides=[5]', False)],
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
@pytest.mark.parametrize("stated", ["kernel_shape=[3],", ""])
def test_so_does_one_at_a_transposed_convolution(attributes: str, stated: str, holds: bool) -> None:
    right = conv_transpose().right
    models = []
    for model in (right.before, right.after):
        other = copied(model)
        node = next(node for node in other.graph.node if node.op_type == "ConvTranspose")
        text = f"t (float[1,4,8] i) => (float[1,4,6] o) {{ o = ConvTranspose<group=2,{stated}{attributes}>(i) }}"
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
    return ahead_pair(
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
    "Clip(n)": "both shift",
    'AveragePool<kernel_shape=[2,2],strides=[2,3],auto_pad="SAME_LOWER",count_include_pad=1>(n)': "both shift",
    'AveragePool<kernel_shape=[2,2],strides=[2,5],auto_pad="SAME_LOWER",count_include_pad=1>(n)': "both",
}  # fmt: skip


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("operator", PASSES)
def test_what_an_operator_lets_pass(operator: str, sign: bool, shift: bool) -> None:
    what = PASSES[operator]
    allowed = what is not None and (not sign or "both" in what) and (not shift or "shift" in what)
    checked = passing(operator, sign=sign, shift=shift).certificate()
    assert checked.holds is allowed, (checked.failure, checked.uncertain)


POOL = "AveragePool<kernel_shape=[{}],strides=[2,2],count_include_pad=1,{}>(n)"


@pytest.mark.parametrize(
    ("size", "how", "sizes", "holds"),
    [("2,2", 'auto_pad="SAME_UPPER"', "6,6", True), ("2,2", 'auto_pad="SAME_UPPER"', "H,6", False),
     ("1,2", 'auto_pad="SAME_UPPER"', "H,6", True), ("2,2", 'auto_pad="SAME_UPPER"', "6,7", False),
     ("2,2", "ceil_mode=1", "8,6", True), ("2,2", "ceil_mode=1", "6,W", False), ("2,2", "ceil_mode=1", "7,6", False)],
)  # fmt: skip
def test_whether_something_is_padded_may_depend_on_the_size(size: str, how: str, sizes: str, holds: bool) -> None:
    interface = f"(float[2,4,{sizes}] x) => (float[] y)"
    checked = passing(POOL.format(size, how), sign=True, shift=True, interface=interface).certificate()
    assert checked.holds is holds, (checked.failure, checked.uncertain)


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


@pytest.mark.parametrize(
    ("layer", "weight", "then", "reader", "constant"),
    [
        ("Conv", (4, 3, 1, 1), "Conv", (5, 4, 1, 1), (4, 1, 1)),
        ("ConvTranspose<group=2>", (6, 2, 1, 1), "Conv", (5, 4, 1, 1), (4, 1, 1)),
        ("Gemm", (3, 4), "Gemm", (4, 5), (4,)),
        ("Gemm<transB=1>", (4, 3), "Gemm", (4, 5), (4,)),
    ],
)
def test_how_many_channels_a_layer_puts_out_stands_in_its_weight(
    layer: str, weight: tuple[int, ...], then: str, reader: tuple[int, ...], constant: tuple[int, ...]
) -> None:
    """Nothing is known of what it reads; so nothing else says that the constant enlarges nothing."""
    random = np.random.default_rng(0)
    text = f"(float[] x) => (float[] c, float[] y) {{ c = {layer}(x,w) m = Mul(c,k) y = {then}(m,u) }}"
    before = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for name, shape in (("w", weight), ("k", constant), ("u", reader)):
        put(before, **{name: random.uniform(0.5, 2, shape).astype(np.float32)})
    fold = Fold.of(before)
    assert [move.site.op for move in fold.plan.moves] == ["Mul"]
    assert fold.certificate().holds
