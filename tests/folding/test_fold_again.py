"""What stayed is looked at again once something that its search looked at has changed: a second fold finds no more.

Each law is drawn, proven by running and by the certificate, and folded twice; and each condition is broken once.
"""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import Array, arrays, examples, kinds, statistics
from folding_support import Folded, constants, fold, inputs, model, norm, proven, scale_and_shift, weights
from forward_support import certified, rounded_once
from hypothesis import given
from hypothesis import strategies as st

import bnfold
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.planning import make_plan
from bnfold.selecting import Selection


def stays_so(done: Folded) -> Folded:
    """The same, which a second fold leaves as it is."""
    assert fold(done.bytes).bytes == done.bytes
    return done


# --- before a tap -----------------------------------------------------------------------------------------------------


@examples(60)
@given(st.data())
def test_an_affine_before_a_value_goes_once_another_reader_of_it_became_a_tap(data: st.DataObject) -> None:
    """(W + t)*(a*x + s) = (W*a + t*a)*x + (W + t)*s; the shift only where nothing is padded."""
    kind, channels, dims = data.draw(kinds()), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    padded = data.draw(st.booleans())
    size = 3 if padded else 1
    weight = data.draw(arrays((channels, channels, *[size] * dims), kind.data))
    first, second = (data.draw(statistics(channels, kind)) for _ in range(2))
    if padded:
        first["be"] = np.zeros(channels, first["be"].dtype)
        first["m"] = np.zeros(channels, first["m"].dtype)
    extents = ",".join(["5"] * dims)
    names = {f"{name}{i}": array for i, each in enumerate((first, second)) for name, array in each.items()}
    before = model(
        f"({kind.text}[2,{channels},{extents}] x) => ({kind.text}[2,{channels},{extents}] y) {{"
        f" p = Relu (x) z = BatchNormalization (p, g0, be0, m0, v0) c = Conv <pads = {[size // 2] * 2 * dims}> (z, W)"
        " n = BatchNormalization (z, g1, be1, m1, v1) y = Add (c, n) }",
        opset=kind.opset, W=weight, **names,
    )  # fmt: skip
    done = stays_so(proven(before, inputs(before), 2 * weight[0].size + 2))
    certified(before, done)
    assert done.ops == ["Relu", "Conv"]
    (a, s), (t, _) = (scale_and_shift(each) for each in (first, second))
    whole = weight.astype(np.float64)
    own = np.arange(channels)
    whole[own, own, *[size // 2] * dims] += t
    found = next(array for array in constants(done.proto).values() if array.ndim == dims + 2)
    form = (1, channels, *[1] * dims)
    assert rounded_once(found, whole * a.reshape(form), np.abs(whole * a.reshape(form)) + np.abs(t * a).max())
    assert not padded or not np.any(s)


TWO = "z = Mul (x, k) c = Conv <pads = [1, 1, 1, 1]> (z, W) n = BatchNormalization (z, g, be, m, v) t = Add (c, n)"


@pytest.mark.parametrize(
    ("body", "outputs", "ops"),
    [
        ("y = Relu (t)", "float[] y", ["Conv", "Relu"]),
        ("r = Conv (z, V) y = Mul (t, r)", "float[] y", ["Conv", "Conv", "Mul"]),
        ("r = Sigmoid (z) y = Add (t, r)", "float[] y", ["Mul", "Conv", "Sigmoid", "Add"]),
        ("y = Relu (t)", "float[] y, float[] z", ["Mul", "Conv", "Relu"]),
        ("r = Add (n, t) y = Relu (r)", "float[] y", ["Mul", "Conv", "BatchNormalization", "Add", "Add", "Relu"]),
    ],
)
def test_every_other_reader_has_to_take_it_as_before(body: str, outputs: str, ops: list[str]) -> None:
    before = model(
        f"(float[1,4,6,6] x) => ({outputs}) {{ {TWO} {body} }}", W=weights(4, 4, 3, 3), V=weights(4, 4, 1, 1, seed=1),
        k=weights(1, 4, 1, 1, seed=2), **norm(4),
    )  # fmt: skip
    done = stays_so(fold(before))
    assert sorted(done.ops) == sorted(ops)
    assert bnfold.fold(before).verdict.word == "same"


def test_a_shift_before_a_tap_stays_where_the_layer_pads() -> None:
    before = model(
        f"(float[1,4,6,6] x) => (float[] y) {{ {TWO.replace('Mul', 'Add', 1)} y = Relu (t) }}", W=weights(4, 4, 3, 3),
        k=weights(1, 4, 1, 1, seed=2), **norm(4),
    )  # fmt: skip
    done = stays_so(fold(before))
    assert done.ops == ["Add", "Conv", "Relu"]
    assert [refusal.reason.code for refusal in done.plan.refusals] == ["padding"]


@pytest.mark.parametrize(("tap", "ops"), [(10.0, ["Conv", "Add"]), (0.01, ["Conv", "Add", "BatchNormalization"])])
def test_what_a_skip_connection_may_cost_is_asked_of_the_weights_with_their_taps(tap: float, ops: list[str]) -> None:
    """Small weights, a scale of 1/4 behind the sum: it rounds no more than it did where a tap of 10 stands in them."""
    first, second = (norm(4, prefix, seed) for prefix, seed in (("a", 0), ("b", 1)))
    first |= {"ag": np.full(4, tap, np.float32), "av": np.ones(4, np.float32)}
    second |= {"bg": np.full(4, 0.25, np.float32), "bv": np.ones(4, np.float32)}
    before = model(
        "(float[2,4,5,5] x) => (float[2,4,5,5] y) { c = Conv <pads = [1, 1, 1, 1]> (x, W)"
        " n = BatchNormalization (x, ag, abe, am, av) t = Add (c, n) u = Add (t, x)"
        " y = BatchNormalization (u, bg, bbe, bm, bv) }",
        W=weights(4, 4, 3, 3) / np.float32(100), **first, **second,
    )  # fmt: skip
    assert stays_so(fold(before)).ops == ops
    assert bnfold.fold(before).verdict.word == "same"


# --- past what stayed at first ----------------------------------------------------------------------------------------


@examples(40)
@given(st.data())
def test_a_factor_goes_once_the_shift_behind_it_went_back_past_it(data: st.DataObject) -> None:
    kind, channels = data.draw(kinds()), data.draw(st.integers(1, 4))
    draws = {
        "W": arrays((channels, 2, 1, 1), kind.data), "V": arrays((3, channels, 3, 3), kind.data),
        "d": arrays((1, channels, 1, 1), kind.data),
    }  # fmt: skip
    held = {name: data.draw(draw) for name, draw in draws.items()}
    factor = -np.abs(data.draw(arrays((1, channels, 1, 1), kind.data)))
    held["k"] = np.where(factor, factor, -1).astype(kind.data)
    before = model(
        f"({kind.text}[1,2,6,6] x) => ({kind.text}[] y) {{ h = Conv (x, W) p = MaxPool <kernel_shape = [2, 2]> (h)"
        " m = Mul (p, k) t = Add (m, d) y = Conv <pads = [1, 1, 1, 1]> (t, V) }",
        opset=kind.opset, **held,
    )  # fmt: skip
    done = stays_so(fold(before))
    certified(before, done)
    if not np.any(held["d"]):
        return
    if not [refusal for refusal in done.plan.refusals if refusal.reason.code in {"precision-lost", "overflow"}]:
        assert done.ops == ["Conv", "MaxPool", "Conv"]
        proven(before, inputs(before), 9 * channels + 2)


def test_what_stayed_for_the_rank_of_a_sum_goes_once_the_weights_tell_it() -> None:
    """Nothing is known of x; the weights of the convolutions have four dimensions, so their sum has."""
    before = model(
        "(float[] x) => (float[] y) { a = Conv (x, W) b = Conv (x, V) t = Sum (a, b)"
        " n = BatchNormalization (t, g, be, m, v) y = Relu (n) }",
        W=weights(4, 3, 1, 1), V=weights(4, 3, 1, 1, seed=1), **norm(4),
    )  # fmt: skip
    assert stays_so(fold(before)).ops == ["Conv", "Conv", "Sum", "Relu"]
    assert stays_so(fold(before, merge_branches=True)).ops == ["Conv", "Relu"]


def test_a_shift_before_a_layer_that_became_zeros_goes() -> None:
    before = model(
        "(float[2,4] x) => (float[2,4] y) { z = Add (x, d) q = MatMul (z, W) n = BatchNormalization (q, g, be, m, v)"
        " y = Relu (n) }",
        W=weights(4, 4), d=weights(4, seed=1), **norm(4) | {"g": np.zeros(4, np.float32)},
    )  # fmt: skip
    assert stays_so(fold(before)).ops == ["MatMul", "Add", "Relu"]
    assert bnfold.fold(before).verdict.word == "same"


# --- a bias in all but name -------------------------------------------------------------------------------------------


HEADS = "q = MatMul (n, Q) qb = Add (q, c) k = MatMul (n, K) kb = Add ({k}, d) y = Mul (qb, kb)"


@pytest.mark.parametrize("first", ["n = BatchNormalization (x, g, be, m, v)", "n = Add (x, be)", "n = Sub (x, m)"])
def test_a_shift_goes_into_as_many_products_as_have_a_bias(first: str) -> None:
    """Each gets an Add, and each has one that goes into it: nothing is added."""
    before = model(
        f"(float[3,4] x) => (float[] y) {{ {first} {HEADS.format(k='k')} }}", Q=weights(4, 5), K=weights(4, 5, seed=1),
        c=weights(5, seed=2), d=weights(5, seed=3), **norm(4),
    )  # fmt: skip
    done = stays_so(proven(before, inputs(before), 6))
    certified(before, done)
    assert sorted(done.ops) == ["Add", "Add", "MatMul", "MatMul", "Mul"]
    assert done.plan.refusals == ()


@pytest.mark.parametrize(
    ("body", "held"),
    [
        (HEADS.format(k="k") + " z = Relu (k)", {}),
        (HEADS.format(k="k").replace("Add (k, d)", "Add (k, k)") + " z = Relu (y)", {}),
        (HEADS.format(k="k") + " z = Relu (y)", {"d": weights(2, 1, 5)}),
    ],
    ids=["another reader", "no constant", "one that enlarges"],
)
def test_where_one_has_none_a_second_add_is_not_made(body: str, held: dict[str, Array]) -> None:
    before = model(
        f"(float[3,4] x) => (float[] y, float[] z) {{ n = BatchNormalization (x, g, be, m, v)"
        f" {body.replace('qb = Add (q, c)', 'qb = Relu (q)')} }}",
        Q=weights(4, 5), K=weights(4, 5, seed=1), **{"c": weights(5), "d": weights(5, seed=3)} | held, **norm(4),
    )  # fmt: skip
    done = stays_so(fold(before))
    assert "no-gain" in {refusal.reason.code for refusal in done.plan.refusals if "Batch" in refusal.site.op}


def test_an_add_that_is_to_stay_is_no_place_for_a_shift() -> None:
    """--skip names the Adds: with them where they are, two more would be made."""
    proto = model(
        f"(float[3,4] x) => (float[] y) {{ n = BatchNormalization (x, g, be, m, v) {HEADS.format(k='k')} }}",
        Q=weights(4, 5), K=weights(4, 5, seed=1), c=weights(5, seed=2), d=weights(5, seed=3), **norm(4),
    )  # fmt: skip
    for node in proto.graph.node:
        node.name = node.output[0]
    plan = make_plan(Graph.of(read(proto)), Selection(skip=("*b",)))
    assert {refusal.site.op: refusal.reason.code for refusal in plan.refusals} == {
        "BatchNormalization": "no-gain",
        "Add": "skipped",
    }
