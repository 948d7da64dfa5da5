"""What the homes without a bias of their own refuse: MatMul, Einsum, a norm, and an Add that would come back as one.

Each stands with a demonstration: the fold regardless of the refusal is written by hand, and is another function.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    Array,
    assert_same_function,
    cannot_run,
    clearly_wrong,
    constants,
    fold,
    inputs,
    model,
    norm,
    plan_of,
    proven,
    refusal,
    scale_and_shift,
    weights,
)
from onnx import helper, numpy_helper

NORM = "BatchNormalization (c, g, be, m, v)"


def a4() -> Array:
    return scale_and_shift(norm(4))[0]


def without_last(proto: onnx.ModelProto, **changed: Array) -> onnx.ModelProto:
    """The model whose last node has become an Identity of what it reads first, with other constants."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(proto)
    for tensor in wrong.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name].astype(np.float32), tensor.name))
    last = wrong.graph.node[-1]
    wrong.graph.node[-1].CopyFrom(helper.make_node("Identity", [last.input[0]], [last.output[0]]))
    return wrong


def refused(before: onnx.ModelProto, code: str, blamed: str | None, **changed: Array) -> str:
    """Refused, and with these constants instead it is clearly another function."""
    found = refusal(before, code, blamed, op=before.graph.node[-1].op_type)
    assert clearly_wrong(before, without_last(before, **changed), inputs(before), 8)
    return found.detail


# --- MatMul ---------------------------------------------------------------------------------------------------------


def test_axis_1_of_three_is_a_row_of_a_matmul_and_no_column_of_its_constant() -> None:
    text = f"(float[2,4,3] x) => (float[] y) {{ c = MatMul (x, W)  y = {NORM} }}"
    before = model(text, W=weights(3, 4), **norm(4))
    assert "along axis 2 of 3" in refused(before, "axis-not-owned", "MatMul", W=weights(3, 4) * a4())
    moved = text.replace("c = MatMul (x, W)", "t = MatMul (x, W)  c = Transpose <perm = [0, 2, 1]> (t)")
    near_miss = model(moved, W=weights(3, 4), **norm(4))
    assert proven(near_miss, inputs(near_miss), 3).ops == ["MatMul", "Add", "Transpose"]


def test_columns_are_not_rows_where_the_constant_is_on_the_left() -> None:
    text = "(float[2,3,4] x) => (float[] y) { c = MatMul (W, x)  y = Mul (c, k) }"
    before = model(text, W=weights(4, 3), k=weights(4, seed=3))
    refused(before, "axis-not-owned", "MatMul", W=weights(4, 3) * weights(4, seed=3)[:, np.newaxis])
    near_miss = model(text, W=weights(4, 3), k=weights(4, 1, seed=3))
    assert proven(near_miss, inputs(near_miss), 3).ops == ["MatMul"]


def test_a_weight_of_one_dimension_has_no_outputs() -> None:
    text = f"(float[2,4,3] x) => (float[] y) {{ c = MatMul (x, W)  y = {NORM} }}"
    before = model(text, W=weights(3), **norm(4))
    assert "one dimension" in refusal(before, "axis-not-owned", "MatMul").detail
    scaled = [weights(3) * a for a in a4()]
    assert all(clearly_wrong(before, without_last(before, W=w), inputs(before), 8) for w in scaled)


def test_two_values_multiplied_hold_no_constant() -> None:
    text = "(float[2,3] x) => (float[] y) { t = Transpose (x)  c = MatMul (t, x)  y = Mul (c, k) }"
    before = model(text, k=weights(3))
    refused(before, "not-constant", "MatMul")


def test_a_weight_that_each_matrix_of_the_batch_has_of_its_own_is_no_channel() -> None:
    """The constant varies along the batch, and so does the weight; only its columns are looked for."""
    text = "(float[2,4,3] x) => (float[] y) { c = MatMul (x, W)  y = Mul (c, k) }"
    before = model(text, W=weights(2, 3, 4), k=weights(2, 1, 1, seed=4))
    refused(before, "axis-not-owned", "MatMul", W=weights(2, 3, 4))


@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("layer", ["MatMul (x, W)", 'Einsum <equation = "ni,io->no"> (x, W)'])
def test_a_term_alone_would_only_come_back_behind_the_product(op: str, layer: str) -> None:
    """The plain fact: as many nodes as before."""
    before = model(f"(float[2,3] x) => (float[] y) {{ c = {layer}  y = {op} (c, k) }}", W=weights(3, 4), k=weights(4))
    refusal(before, "no-gain", layer.split(maxsplit=1)[0], op=op)
    assert fold(before).ops == [layer.split(maxsplit=1)[0], op]
    before.graph.node[1].op_type = "Mul"
    assert proven(before, inputs(before), 3).ops == [layer.split(maxsplit=1)[0]]


def test_a_term_behind_a_norm_that_brought_an_add_is_free() -> None:
    text = (
        "(float[2,3] x) => (float[] y) { c = MatMul (x, W)  n = BatchNormalization (c, g, be, m, v)  y = Add (n, k) }"
    )
    before = model(text, W=weights(3, 4), k=weights(4), **norm(4))
    assert proven(before, inputs(before), 4).ops == ["MatMul", "Add"]


# --- Einsum ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equation", "x", "w", "operands", "code"),
    [
        ("nci,ci->nc", (2, 4, 3), (4, 3), "x, W", "axis-not-owned"),  # shared: both operands own the label
        ("nci,i->nc", (2, 4, 3), (3,), "x, W", "axis-not-owned"),  # the channels are those of x
        ("ncc,c->nc", (2, 4, 4), (4,), "x, W", "axis-not-owned"),  # repeated in x
        ("ni,cci->nc", (2, 3), (4, 4, 3), "x, W", "axis-not-owned"),  # repeated in the constant: its diagonal
        ("nci,oi->nco", (2, 4, 3), (4, 3), "x, W", "axis-not-owned"),  # owns o, and the norm is along c
    ],
)
def test_an_einsum_whose_constant_does_not_own_the_label_alone_takes_nothing(
    equation: str, x: tuple[int, ...], w: tuple[int, ...], operands: str, code: str
) -> None:
    text = f"""(float{list(x)} x) => (float[] y) {{
        c = Einsum <equation = "{equation}"> ({operands})  y = {NORM} }}"""
    before = model(text, W=weights(*w), **norm(4))
    refusal(before, code, "Einsum")
    along = [4 if size == 4 and i == 0 else 1 for i, size in enumerate(w)]
    guess = weights(*w) * (a4().reshape(along) if 4 in along else a4()[0])
    assert clearly_wrong(before, without_last(before, W=guess), inputs(before), 8)


def test_a_label_that_is_summed_is_no_output() -> None:
    text = """(float[2,4,3] x) => (float[] y) {
        c = Einsum <equation = "nci,oi->nc"> (x, W)  y = BatchNormalization (c, g, be, m, v) }"""
    before = model(text, W=weights(4, 3), **norm(4))
    refused(before, "axis-not-owned", "Einsum", W=weights(4, 3) * a4()[:, np.newaxis])


def test_an_einsum_of_two_values_has_no_constant() -> None:
    text = 'c = Einsum <equation = "ni,oi->no"> (x, x)  y = Mul (c, k)'
    before = model(f"(float[4,3] x) => (float[] y) {{ {text} }}", k=weights(4))
    refused(before, "not-constant", "Einsum")


def test_an_equation_that_does_not_fit_is_not_read_further() -> None:
    text = '(float[2,3] x) => (float[] y) { c = Einsum <equation = "ni,io,o->no"> (x, W)  y = Mul (c, k) }'
    before = model(text, W=weights(3, 4), k=weights(4))
    refusal(before, "broken-layer", "Einsum", op="Mul")
    assert cannot_run(before)


# --- a norm ---------------------------------------------------------------------------------------------------------

TWO = """(float[2,4,3] x) => (float[] y) {
    c = BatchNormalization (x, hg, hbe, hm, hv)  y = BatchNormalization (c, g, be, m, v) }"""


def test_a_norm_in_training_takes_nothing_over_for_its_output_is_its_batch_s() -> None:
    """Scaling its gamma would be right; but it stays as it was written, for what trains it reads its parameters."""
    before = model(TWO.replace("c = BatchNormalization", "c, rm, rv = BatchNormalization <training_mode = 1>"),
                   **norm(4), **norm(4, "h", 3))  # fmt: skip
    refused_both = plan_of(before).refusals
    assert [r.reason.code for r in refused_both] == ["training-mode", "training-mode"]
    assert str(refused_both[1].blamed).startswith("BatchNormalization#0")
    a, s = scale_and_shift(norm(4))
    as_if_inference = fold(model(TWO, **norm(4), **norm(4, "h", 3))).proto
    assert clearly_wrong(before, as_if_inference, inputs(before), 8)
    assert np.any(a != 1)
    assert np.any(s)


def test_a_norm_with_a_parameter_that_is_fed_takes_nothing_over() -> None:
    held = {k: v for k, v in norm(4, "h", 3).items() if k != "hg"}
    before = model(TWO.replace("x) =>", "x, float[4] hg) =>"), **norm(4), **held)
    assert [r.reason.code for r in plan_of(before).refusals] == ["not-constant", "not-constant"]
    wrong = without_last(before, hbe=held["hbe"] * a4())
    assert clearly_wrong(before, wrong, inputs(before), 8)


def test_a_norm_of_one_axis_is_no_home_for_another() -> None:
    text = """(float[2,4,4] x) => (float[] y) {
        h = BatchNormalization (x, hg, hbe, hm, hv)  c = Transpose <perm = [0, 2, 1]> (h)
        y = BatchNormalization (c, g, be, m, v) }"""
    before = model(text, **norm(4), **norm(4, "h", 3))
    refusal(before, "axis-not-owned", "BatchNormalization", index=1)
    swapped = {"hg": norm(4, "h", 3)["hg"] * a4(), "hbe": norm(4, "h", 3)["hbe"] * a4() + scale_and_shift(norm(4))[1]}
    assert clearly_wrong(before, without_last(before, **swapped), inputs(before), 8)


# --- numbers, in each home ------------------------------------------------------------------------------------------

HALF = {
    "Conv": ("Conv (x, W)", (4, 3, 1), (2, 3, 5)),
    "ConvTranspose": ("ConvTranspose (x, W)", (3, 4, 1), (2, 3, 5)),
    "MatMul": ("MatMul (W, x)", (4, 3), (2, 3, 5)),
    "Einsum": ('Einsum <equation = "nil,oi->nol"> (x, W)', (4, 3), (2, 3, 5)),
    "Gemm": ("Gemm (x, W)", (3, 4), (2, 3)),
}


def in_half(home: str, weight: float, **parameters: float) -> tuple[onnx.ModelProto, Array]:
    """A layer of fp16 with weights of about one size, behind it a norm in fp32; and what the weights would become."""
    line, dims, x = HALF[home]
    held = {"g": 1.0, "be": 0.0, "m": 0.0, "v": 1.0} | parameters
    vectors = {k: np.full(4, v, np.float32) for k, v in held.items()}
    text = f"(float16{list(x)} x) => (float16[] y) {{ c = {line}  y = {NORM} }}"
    exact = weights(*dims).astype(np.float64) * weight * held["g"] / np.sqrt(held["v"] + 1e-5)
    return model(text, W=(weights(*dims) * weight).astype(np.float16), **vectors), exact


@pytest.mark.parametrize("home", HALF)
def test_a_folded_weight_too_large_for_half_precision_is_refused_in_every_home(home: str) -> None:
    before, exact = in_half(home, 10.0, g=1e5)
    refusal(before, "overflow", home)
    with np.errstate(over="ignore"):
        assert np.any(np.isinf(exact.astype(np.float16)))
    near_miss, _ = in_half(home, 10.0, g=1e3)
    assert plan_of(near_miss).refusals == ()


@pytest.mark.parametrize("home", HALF)
def test_a_folded_weight_too_small_for_half_precision_is_refused_in_every_home(home: str) -> None:
    before, exact = in_half(home, 1e-3, g=1e-5)
    refusal(before, "precision-lost", home)
    assert np.any(exact.astype(np.float16) == 0)
    assert np.all(exact != 0)
    near_miss, _ = in_half(home, 1e-1, g=1e-2)
    assert plan_of(near_miss).refusals == ()


@pytest.mark.parametrize("home", ["MatMul", "Einsum"])
def test_a_shift_too_large_for_the_add_that_it_would_become_is_refused(home: str) -> None:
    before, _ = in_half(home, 1.0, be=1e6)
    assert "the bias" in refusal(before, "overflow", home).detail
    near_miss, _ = in_half(home, 1.0, be=1e3)
    assert fold(near_miss).ops == [home, "Add"]


def test_a_norm_behind_a_norm_overflows_in_its_gamma() -> None:
    big = {"g": np.full(4, 6e4, np.float16), "hg": np.full(4, 6e4, np.float16)}
    held = {**norm(4, dtype=np.float16), **norm(4, "h", 3, np.float16)} | big
    text = TWO.replace("float[", "float16[")
    before = model(text, **held)
    refusal(before, "overflow", "BatchNormalization", index=1)
    assert float(np.finfo(np.float16).max) < 6e4 * 6e4
    near_miss = model(text, **{**norm(4, dtype=np.float16), **norm(4, "h", 3, np.float16)})
    assert len(plan_of(near_miss).moves) == 1


# --- one odd node never stops the rest ------------------------------------------------------------------------------

ODD = """(float[2,3,5,5] x, float[4,3,3,3] F, bool k) => (float[] y, float[] z, float[] u, float[] w, float[] t) {
    c0 = Conv (x, W)  n0 = BatchNormalization (c0, g, be, m, v)
    c1 = Conv (x, W)  n1 = BatchNormalization (c1, g, be, m, v)
    c2 = Conv (x, W)  n2 = BatchNormalization (c2, g, be, m, v)
    c3 = Conv (x, W)  n3 = BatchNormalization (c3, g, be, m, v)
    c4 = Conv (x, W)  n4 = BatchNormalization (c4, g, be, m, v)
    s = Sum (n0, n1, n2, n3)  y = Sum (s, n4)
    d = Conv (x, F)  z = BatchNormalization (d, g, be, m, v)
    e = Conv (x, W, bad)  u = BatchNormalization (e, g, be, m, v)
    q = Flatten (x)  h = Gemm (q, Sparse)  w = BatchNormalization (h, g, be, m, v)
    t = If (k) <then_branch = then () => (float[] p) {
            i = Conv (x, W)  p, rm, rv = BatchNormalization <training_mode = 1> (i, g, be, m, v) },
        else_branch = other () => (float[] o) { o = Identity (x) }> }"""


def test_a_sparse_weight_a_dynamic_one_a_broken_bias_and_a_norm_in_training_do_not_stop_five_others() -> None:
    before = model(ODD, W=weights(4, 3, 3, 3), bad=weights(3), **norm(4))
    values = helper.make_tensor("Sparse", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("at", onnx.TensorProto.INT64, [2], [3, 17])
    before.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=[75, 4]))
    done = fold(before)
    assert len(done.plan.moves) == 5
    codes = {"not-constant": 1, "broken-bias": 1, "sparse": 1, "training-mode": 1}
    found = [refused.reason.code for refused in done.plan.refusals]
    assert {code: found.count(code) for code in found} == codes
    assert fold(done.bytes).bytes == done.bytes
    # The rest alone, which onnxruntime runs, is the same function.
    kept = onnx.ModelProto()
    kept.CopyFrom(before)
    del kept.graph.node[12:], kept.graph.output[1:], kept.graph.sparse_initializer[:], kept.graph.input[1:]
    assert_same_function(kept, fold(kept).proto, inputs(kept), 27)
    assert len(constants(fold(kept).proto)) == 11
