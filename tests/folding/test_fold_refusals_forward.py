"""What keeps an affine from going forward: the number that shows why, and beside it the nearest case that goes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_draws import Array
from folding_support import (
    clearly_wrong,
    constants,
    fold,
    inputs,
    model,
    norm,
    plan_of,
    refusal,
    run,
    scale_and_shift,
)
from folding_support import weights as w
from forward_support import forward

from bnfold.graph import Graph
from bnfold.model import read
from bnfold.planning import make_plan
from bnfold.selecting import Selection

NORM = "BatchNormalization (x, g, be, m, v)"
CONV = {"W": w(6, 4, 3, 3), "b": w(6)}


def image(body: str, **outputs: str) -> str:
    more = "".join(f", {kind} {name}" for name, kind in outputs.items())
    return f"(float[2,4,6,6] x) => (float[] y{more}) {{ {body} }}"


def as_if(before: onnx.ModelProto, layers: dict[str, tuple[Array, Array | None]]) -> onnx.ModelProto:
    """The fold without a question: new weights and biases by the layer's output, the affine (`n`) bypassed."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(before)
    for node in [node for node in wrong.graph.node if node.output[0] in layers]:
        weight, bias = layers[node.output[0]]
        new = {f"new W {node.output[0]}": weight} | ({} if bias is None else {f"new b {node.output[0]}": bias})
        for name, array in new.items():
            wrong.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
        node.input[1:] = list(new)
    gone = next(node for node in wrong.graph.node if "n" in node.output)
    for node in wrong.graph.node:
        node.input[:] = ["x" if name == "n" else name for name in node.input]
    wrong.graph.node.remove(gone)
    return wrong


def in_conv(before: onnx.ModelProto) -> dict[str, tuple[Array, Array | None]]:
    """What Conv `y` would have to hold if it saw every tap."""
    held = constants(before)
    a, s = scale_and_shift(held)
    shift = np.einsum("oikl,i->o", held["W"].astype(np.float64), s)
    return {"y": (held["W"] * a[:, None, None], held["b"] + shift)}


@pytest.mark.parametrize(
    "padding", ["pads = [1,1,1,1]", "pads = [0,0,0,1]", 'auto_pad = "SAME_UPPER"', 'auto_pad = "SAME_LOWER"']
)
def test_a_padding_of_zeros_is_not_shifted(padding: str) -> None:
    before = model(image(f"n = {NORM} y = Conv <{padding}> (n, W, b)"), **CONV, **norm(4))
    refusal(before, "padding", "Conv")
    assert clearly_wrong(before, as_if(before, in_conv(before)), inputs(before), 36)
    for near in (
        "pads = [0,0,0,0]",
        'auto_pad = "VALID"',
        "strides = [2,2]",
        'auto_pad = "SAME_LOWER", strides = [3,3]',
    ):
        legal = model(image(f"n = {NORM} y = Conv <{near}> (n, W, b)"), **CONV, **norm(4))
        forward(legal, inputs(legal), 36)
    scale = model(image(f"n = Mul (x, k) y = Conv <{padding}> (n, W, b)"), **CONV, k=w(4, 1, 1))
    forward(scale, inputs(scale), 36)


TF = '(float[2,4,{}] x) => (float[] y) {{{{ n = {} y = Conv <auto_pad = "{{}}", strides = [2,2]> (n, W, b) }}}}'


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER"])
def test_whether_same_pads_is_known_where_the_size_is(how: str) -> None:
    held = {"W": w(6, 4, 2, 2), "b": w(6), **norm(4)}
    odd, even, unknown = (model(TF.format(size, NORM).format(how), **held) for size in ("6,5", "6,4", "6,M"))
    refusal(odd, "padding", "Conv")
    assert clearly_wrong(odd, as_if(odd, in_conv(odd)), inputs(odd), 16)
    forward(even, inputs(even), 16)
    refused = refusal(unknown, "padding-unknown", "Conv")
    assert "depends on a size that is not known" in refused.detail
    assert clearly_wrong(unknown, as_if(unknown, in_conv(unknown)), inputs(unknown, M=5), 16)
    one = model(TF.format("6,M", NORM).format(how), **(held | {"W": w(6, 4, 1, 1)}))
    forward(one, inputs(one, M=7), 4)
    three = model(TF.format("6,M", NORM).format(how), **(held | {"W": w(6, 4, 3, 3)}))
    refusal(three, "padding", "Conv")  # larger than the stride: it pads, whatever the size


def test_pads_beside_same_are_read_by_some() -> None:
    text = image(f'n = {NORM} y = Conv <auto_pad = "SAME_UPPER", pads = [0,0,1,0]> (n, W, b)')
    refusal(model(text, **(CONV | {"W": w(6, 4, 1, 1)}), **norm(4)), "padding", "Conv")


@pytest.mark.parametrize(
    "how",
    ["", "pads = [2,2,2,1]", "pads = [1,1,1,1]", "pads = [2,2,2,2], strides = [2,2]",
     "pads = [2,2,2,2], dilations = [2,2]", "pads = [2,2,2,2], strides = [2,2], output_padding = [1,1]",
     'auto_pad = "SAME_UPPER"', "output_shape = [6,6]"],
)  # fmt: skip
@pytest.mark.parametrize("stated", ["kernel_shape = [3,3], ", ""])
def test_what_hangs_over_at_a_transposed_convolution_sees_fewer_taps(how: str, stated: str) -> None:
    text = f"n = {{}} y = ConvTranspose <{stated}group = 1{{}}> (n, W, b)"
    held = {"W": w(4, 6, 3, 3), "b": w(6)}
    before = model(image(text.format(NORM, f", {how}" if how else "")), **held, **norm(4))
    refusal(before, "padding", "ConvTranspose")
    a, s = scale_and_shift(constants(before))
    shift = np.einsum("iokl,i->o", held["W"].astype(np.float64), s)
    wrong = as_if(before, {"y": (held["W"] * a[:, None, None, None], held["b"] + shift)})
    assert clearly_wrong(before, wrong, inputs(before), 36)
    legal = model(image(text.format(NORM, ", pads = [2,2,2,2]")), **held, **norm(4))
    forward(legal, inputs(legal), 36)


@pytest.mark.parametrize("how", ["group = 2", 'auto_pad = "VALID"', 'auto_pad = "SAME_UPPER"', "pads = [0,1,0,0]"])
def test_a_transposed_convolution_of_single_places_misses_none(how: str) -> None:
    each = 6 // (2 if "group" in how else 1)
    text = f"n = {NORM} y = ConvTranspose <{how}> (n, W, b)"
    before = model(image(text), W=w(4, each, 1, 1), b=w(6), **norm(4))
    forward(before, inputs(before), 4)
    strided = model(image(text.replace("<", "<strides = [2,2], ")), W=w(4, each, 1, 1), b=w(6), **norm(4))
    refusal(strided, "padding", "ConvTranspose")


def test_a_kernel_that_the_weight_contradicts_is_not_believed() -> None:
    text = f"n = {NORM} y = ConvTranspose <kernel_shape = [1,1]> (n, W, b)"
    refusal(model(image(text), W=w(4, 6, 3, 3), b=w(6), **norm(4)), "padding", "ConvTranspose")


@pytest.mark.parametrize(
    ("reader", "code", "blamed"),
    [
        ("z = Sigmoid (n)", "blocked", "Sigmoid"),
        ("z = Conv <pads = [1,1,1,1]> (n, W, b)", "padding", "Conv"),
        ("z = Relu (n)", "shift-stays", "Relu"),
        ("z = Softmax (n)", "blocked", "Softmax"),
        ("z = Add (n, u)", "blocked", "Add"),
        ("z = Mul (n, n)", "shift-stays", "Mul"),
        ("t = Identity (n) z = Tanh (t)", "blocked", "Tanh"),
    ],
)
def test_one_reader_that_cannot_keeps_it_from_all(reader: str, code: str, blamed: str) -> None:
    text = image(f"n = {NORM} y = Conv (n, W, b) {reader}", z="float[]")
    before = model(text.replace("6] x", "6] x, float[2,4,6,6] u"), **CONV, **norm(4))
    refusal(before, code, blamed)
    assert clearly_wrong(before, as_if(before, in_conv(before)), inputs(before), 36)
    legal = model(image(f"n = {NORM} y = Conv (n, W, b) z = Conv (n, W)", z="float[]"), **CONV, **norm(4))
    forward(legal, inputs(legal), 36)


def test_what_the_graph_puts_out_stays() -> None:
    before = model(image(f"n = {NORM} y = Conv (n, W, b)", n="float[]"), **CONV, **norm(4))
    assert plan_of(before).moves == ()
    hidden = model(image(f"n = {NORM} y = Conv (n, W, b) z = Identity (n)", z="float[]"), **CONV, **norm(4))
    refusal(hidden, "no-home")
    assert clearly_wrong(hidden, as_if(hidden, in_conv(hidden)), inputs(hidden), 36)
    shape = model(image(f"n = {NORM} y = Conv (n, W, b) z = Shape (n)", z="int64[]"), **CONV, **norm(4))
    assert fold(shape).ops == ["Conv", "Shape"]


def test_what_a_nested_graph_reads_stays() -> None:
    text = """(float[2,4,6,6] x, bool c) => (float[] y, float[] z) { n = BatchNormalization (x, g, be, m, v)
    y = Conv (n, W, b)  z = If (c) <then_branch = t () => (float[2,4,6,6] p) { p = Neg (%s) },
    else_branch = e () => (float[2,4,6,6] q) { q = Abs (%s) }> }"""
    before = model(text % ("n", "x"), **CONV, **norm(4))
    assert plan_of(before).moves == ()
    assert plan_of(before).refusals[0].reason.code == "outer-scope"
    assert clearly_wrong(before, as_if_nested(before), {**inputs(before), "c": np.array(True)}, 36)
    legal = model(text % ("x", "x"), **CONV, **norm(4))
    assert [move.is_forward for move in plan_of(legal).moves] == [True]


def as_if_nested(before: onnx.ModelProto) -> onnx.ModelProto:
    wrong = as_if(before, in_conv(before))
    branch = next(a.g for n in wrong.graph.node for a in n.attribute if a.name == "then_branch")
    branch.node[0].input[0] = "x"
    return wrong


def test_an_affine_inside_a_nested_graph_goes_forward_there() -> None:
    before = model(
        """(float[2,4,6,6] x, bool c) => (float[] z) { z = If (c) <
        then_branch = t () => (float[2,6,4,4] y) { n = BatchNormalization (x, g, be, m, v) y = Conv (n, W, b) },
        else_branch = e () => (float[2,6,4,4] q) { q = Conv (x, W, b) }> }""",
        **CONV, **norm(4),
    )  # fmt: skip
    done = fold(before)
    assert [move.is_forward for move in done.plan.moves] == [True]
    for choice in (True, False):
        flat = image(f"n = {NORM} y = Conv (n, W, b)" if choice else "y = Conv (x, W, b)")
        alone, feeds = model(flat, **CONV, **norm(4)), inputs(before) | {"c": np.array(choice)}
        (expected,), (found,) = run(fold(alone).proto, inputs(alone)), run(done.proto, feeds)
        assert np.array_equal(expected, found)


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 1, 4, 1), (4,), (4, 1)])
def test_an_affine_along_another_axis_is_none_of_the_channels(shape: tuple[int, ...]) -> None:
    """Image and channels are of one size, so that the wrong axis fits."""
    text = "(float[2,4,4,4] x) => (float[] y) { n = Mul (x, k) y = Conv (n, W, b) }"
    held = {"W": w(6, 4, 1, 1), "b": w(6)}
    before = model(text, **held, k=w(*shape))
    refusal(before, "axis-not-owned", "Conv", op="Mul")
    wrong = as_if(before, {"y": (held["W"] * w(*shape).reshape(4, 1, 1), held["b"])})
    assert clearly_wrong(before, wrong, inputs(before), 4)
    legal = model(text, **held, k=w(4, 1, 1))
    forward(legal, inputs(legal), 4)


@pytest.mark.parametrize("layer", ["Gemm (n, K)", "MatMul (n, K)", "Gemm <transA = 1> (n, K)"])
def test_rows_are_not_what_a_product_sums_over(layer: str) -> None:
    text = f"(float[4,4] x) => (float[] y) {{ n = Mul (x, k) y = {layer} }}"
    forms = [(4,), (4, 1)]
    right = forms[::-1] if "transA" in layer else forms
    legal = model(text, K=w(4, 3), k=w(*right[0]))
    forward(legal, inputs(legal), 4)
    before = model(text, K=w(4, 3), k=w(*right[1]))
    refusal(before, "axis-not-owned", layer.split(maxsplit=1)[0], op="Mul")
    wrong = as_if(before, {"y": (w(4, 3) * w(4)[:, None], None)})
    assert clearly_wrong(before, wrong, inputs(before), 4)


@pytest.mark.parametrize("layer", ["MatMul (n, K)", "MatMul (L, n)"])
def test_a_vector_that_is_multiplied_is_not_followed(layer: str) -> None:
    """The plain fact: the result has a dimension less than the certificate knows to follow."""
    text = "(float{} x) => (float[] y) {{ n = Mul (x, k)  y = " + layer + " }}"
    before = model(text.format("[4]"), K=w(4, 3), L=w(3, 4), k=w(4))
    refusal(before, "axis-not-owned", "MatMul", op="Mul")
    legal = model(text.format("[4,1]" if "(L" in layer else "[1,4]"), K=w(4, 3), L=w(3, 4),
                  k=w(4, 1) if "(L" in layer else w(4))  # fmt: skip
    forward(legal, inputs(legal), 4)


def test_a_batch_of_matrices_makes_another_shift_in_each() -> None:
    text = "(float[2,3,4] x) => (float[] y) { n = %s  y = MatMul (n, K) }"
    before = model(text % "Sub (x, k)", K=w(2, 4, 5), k=w(4))
    assert "each matrix of the batch" in refusal(before, "axis-not-owned", "MatMul", op="Sub").detail
    alike = np.einsum("bko,k->bo", w(2, 4, 5), w(4))
    wrong = model(
        "(float[2,3,4] x) => (float[] y) { q = MatMul (x, K)  y = Sub (q, s) }", K=w(2, 4, 5), s=alike[0]
    )  # fmt: skip
    assert clearly_wrong(before, wrong, inputs(before), 4)
    legal = model(text % "Mul (x, k)", K=w(2, 4, 5), k=w(4))
    forward(legal, inputs(legal), 4)


def test_channels_of_another_number_are_not_the_layers() -> None:
    """onnxruntime refuses the model as well."""
    before = model(
        "(float[2,4,6,6] x) => (float[] y) { n = Mul (x, k) y = Conv (n, W) }", W=w(6, 5, 1, 1), k=w(4, 1, 1)
    )
    refusal(before, "axis-not-owned", "Conv", op="Mul")


def test_two_products_would_each_get_an_add() -> None:
    """What one node adds, two would: the model would not grow smaller."""
    text = "(float[3,4] x) => (float[] y, float[] z) {{ n = " + NORM + " y = MatMul (n, K) z = {} }}"
    before = model(text.format("MatMul (n, L)"), K=w(4, 5), L=w(4, 6), **norm(4))
    refusal(before, "no-gain", "MatMul")
    legal = model(text.format("Gemm (n, L)"), K=w(4, 5), L=w(4, 6), **norm(4))
    assert sorted(forward(legal, inputs(legal), 4).ops) == ["Add", "Gemm", "MatMul"]
    scale = text.replace(NORM, "Mul (x, k)").format("MatMul (n, L)")
    scales = model(scale, K=w(4, 5), L=w(4, 6), k=w(4))
    forward(scales, inputs(scales), 4)


def test_a_shift_alone_would_only_become_another_add() -> None:
    text = "(float[3,4] x) => (float[] y) {{ n = Add (x, k) y = {} }}"
    refusal(model(text.format("MatMul (n, K)"), K=w(4, 5), k=w(4)), "no-gain", "MatMul", op="Add")
    legal = model(text.format("Gemm (n, K)"), K=w(4, 5), k=w(4))
    forward(legal, inputs(legal), 4)


QUANTIZED = {"Q": np.arange(-12, 12, dtype=np.int8).reshape(6, 4, 1, 1), "u": np.float32(0.1)}


def test_integers_are_not_scaled_per_input() -> None:
    """One scale serves all inputs of an output: those that the affine would scale by different factors."""
    before = model(image(f"n = {NORM} d = DequantizeLinear (Q, u) y = Conv (n, d)"), **QUANTIZED, **norm(4))
    refusal(before, "quantized", "Conv")
    assert len(set(scale_and_shift(norm(4))[0])) == 4


def test_a_bias_of_integers_takes_no_shift() -> None:
    held = {"W": w(6, 4, 1, 1), "B": np.arange(6, dtype=np.int32), "u": np.float32(0.1)}
    text = image("n = %s d = DequantizeLinear (B, u) y = Conv (n, W, d)")
    refusal(model(text % NORM, **held, **norm(4)), "quantized", "Conv")
    legal = model(text % "Mul (x, k)", **held, k=w(4, 1, 1))
    forward(legal, inputs(legal), 4)


@pytest.mark.parametrize("name", ["W", "b"])
def test_a_weight_that_a_caller_may_override_is_not_known(name: str) -> None:
    port = "float[6,4,3,3] W" if name == "W" else "float[6] b"
    text = f"(float[2,4,6,6] x, {port}) => (float[] y) {{ n = {NORM} y = Conv (n, W, b) }}"
    before = model(text, **CONV, **norm(4))
    refusal(before, "overridable", "Conv")
    right = fold(model(image(f"n = {NORM} y = Conv (n, W, b)"), **CONV, **norm(4))).proto
    other = {**inputs(before), "x": inputs(before)["x"], name: 2 * CONV[name]}
    assert not np.allclose(run(before, other)[0], run(right, {"x": other["x"]})[0], rtol=0.01)


def test_a_weight_that_is_computed_is_no_home() -> None:
    text = "(float[2,4,6,6] x, float[6,4,3,3] u) => (float[] y) { n = %s y = Conv (n, %s) }"
    before = model(text % (NORM, "u"), **norm(4))
    assert refusal(before, "not-constant", "Conv")
    legal = model(text % (NORM, "W"), W=w(6, 4, 3, 3), **norm(4))
    forward(legal, inputs(legal), 36)


def test_an_affine_that_is_read_as_a_weight_has_no_home() -> None:
    text = "(float[6,4] x, float[3,6] u) => (float[] y) { n = %s y = MatMul (u, n) }"
    refusal(model(text % NORM, **norm(4)), "not-constant", "MatMul")


def test_what_was_asked_to_stay_is_no_home_and_lets_nothing_pass() -> None:
    """--skip names the second norm: the first would have to change what the second holds."""
    before = model(image(f"n = {NORM} o = BatchNormalization (n, g, be, m, v) y = Conv (o, W, b)"), **CONV, **norm(4))
    graph = Graph.of(read(before))
    assert len(make_plan(graph).moves) == 2
    for name, node in zip(("first", "second"), before.graph.node, strict=False):
        node.name = name
    graph = Graph.of(read(before))
    plan = make_plan(graph, Selection(skip=("second",)))
    assert plan.moves == ()
    assert [refusal.reason.code for refusal in plan.refusals] == ["kept", "skipped"]
    plan = make_plan(graph, Selection(skip=("first",)))
    assert [move.site.name for move in plan.moves] == ["second"]


def test_a_value_that_is_come_to_by_two_ways_bears_both() -> None:
    """Both operands bear the scale: their product bears its square."""
    before = model(image("n = Mul (x, k) r = Relu (n) t = Mul (n, r) y = Conv (t, W, b)"), **CONV, k=np.abs(w(4, 1, 1)))
    forward(before, inputs(before), 36)
    wrong = as_if(before, {"y": (CONV["W"] * np.abs(w(4, 1, 1)), CONV["b"])})
    assert clearly_wrong(before, wrong, inputs(before), 36)
    text = image("n = Mul (x, k) r = Relu (x) t = Mul (n, r) y = Conv (t, W, b)")
    legal = model(text, **CONV, k=np.abs(w(4, 1, 1)))
    forward(legal, inputs(legal), 36)


def test_a_sum_of_which_one_value_bears_another_scale_is_left_alone() -> None:
    before = model(
        image("n = Mul (x, k) r = Mul (n, n) t = Add (n, r) y = Conv (t, W, b)"), **CONV, k=np.abs(w(4, 1, 1))
    )
    refusal(before, "blocked", "Add", op="Mul")
    wrong = as_if(before, {"y": (CONV["W"] * np.abs(w(4, 1, 1)), CONV["b"])})
    assert clearly_wrong(before, wrong, inputs(before), 36)


@pytest.mark.parametrize("broken", ["g", "be", "m"])
def test_numbers_that_are_none_do_not_go_forward(broken: str) -> None:
    parameters = norm(4)
    parameters[broken] = parameters[broken].copy()
    parameters[broken][2] = np.nan
    refused = plan_of(model(image(f"n = {NORM} y = Conv (n, W, b)"), **CONV, **parameters)).refusals[0]
    assert refused.reason.code in {"not-finite", "broken-parameters"}


def test_a_weight_that_would_be_infinite_or_nothing_in_half_precision_stays() -> None:
    text = "(float16[2,4,6,6] x) => (float16[] y) { n = Mul (x, k) y = Conv (n, W) }"
    held = {"W": 4 * w(6, 4, 1, 1, dtype=np.float16)}
    for factor, code in ((6e4, "overflow"), (3e-7, "precision-lost")):
        refusal(model(text, **held, k=np.full((4, 1, 1), factor, np.float16)), code, "Conv", op="Mul")
    legal = model(text, **held, k=w(4, 1, 1, dtype=np.float16))
    forward(legal, inputs(legal), 4)


def test_where_a_version_says_on_which_axis_it_broadcasts_a_factor_does_not_pass() -> None:
    """Before opset 7 `axis` says where the smaller value lies: here along the channels, and not along the rows."""
    body = "t = Mul {} (x, n) u = Transpose <perm = [0,3,2,1]> (t) y = Conv (u, W) }}"
    text = f"(float[4] v, float[2,4,4,4] x) => (float[] y) {{{{ n = Mul (v, k) {body}"
    held = {"W": w(3, 4, 1, 1), "k": w(4)}
    refusal(model(text.format("<broadcast = 1, axis = 1>"), opset=6, **held), "old-opset", "Mul", op="Mul")
    legal = model(text.format(""), **held)
    forward(legal, inputs(legal), 4)
    where = model(text.format("").replace("(x, n)", "(x, n4)").replace("t = Mul", "n4 = Reshape (n, to) t = Mul"),
                  to=np.array([4, 1, 1]), **held)  # fmt: skip
    assert clearly_wrong(where, legal, inputs(legal), 4)
