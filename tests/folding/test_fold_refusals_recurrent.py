"""What an LSTM, GRU or RNN takes over of its data, and what it does not; each refusal beside what is legal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    Array,
    cannot_run,
    constants,
    fold,
    inputs,
    model,
    norm,
    plan_of,
    refusal,
    scale_and_shift,
)
from folding_support import weights as w
from forward_support import certified
from onnx import TensorProto, helper, numpy_helper
from recurrent_support import GATES, MOST_FLOORS, floors_in_onnxruntime

NORM = "n = BatchNormalization (x, g, be, m, v) t = Transpose <perm = [2,0,1]> (n)"
OPS = list(GATES)
CLEARLY_WRONG = 100.0


def held(op: str = "LSTM", inputs: int = 4, hidden: int = 3, directions: int = 1) -> dict[str, Array]:
    rows = GATES[op] * hidden
    return {
        "W": w(directions, rows, inputs), "R": w(directions, rows, hidden, seed=2), "B": w(directions, 2 * rows, seed=3)
    }  # fmt: skip


def text(op: str, operands: str, before: str = NORM, attributes: str = "hidden_size = 3", ports: str = "") -> str:
    return f"(float[2,4,5] x{ports}) => (float[] y) {{ {before} y = {op} <{attributes}> ({operands}) }}"


def legal(before: onnx.ModelProto, moves: int = 1) -> onnx.ModelProto:
    """A near miss: it folds, and is the same function."""
    done = fold(before)
    assert [move.is_forward for move in done.plan.moves] == [True] * moves
    certified(before, done)
    assert floors_in_onnxruntime(before, done.proto, inputs(before)) <= MOST_FLOORS
    return done.proto


def wrong(before: onnx.ModelProto, scale: Array, shift: Array, op: str = "LSTM") -> float:
    """How far off the fold without a question is: W*a and Wb + W*s, and what stands before it bypassed."""
    new = onnx.ModelProto()
    new.CopyFrom(before)
    arrays = constants(new)
    rows = arrays["W"].shape[1]
    b = arrays["B"].copy()
    b[:, :rows] += arrays["W"] @ shift.astype(np.float32)
    for name, array in {"new W": arrays["W"] * scale, "new B": b}.items():
        new.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    node = next(node for node in new.graph.node if node.op_type == op)
    names = {"W": "new W", "B": "new B"}
    node.input[:] = [names.get(name, name) for name in node.input]
    gone = next(node for node in new.graph.node if "n" in node.output)
    for other in new.graph.node:
        other.input[:] = [gone.input[0] if name == "n" else name for name in other.input]
    new.graph.node.remove(gone)
    return floors_in_onnxruntime(before, new, inputs(before))


@pytest.mark.parametrize("op", OPS)
def test_an_affine_along_another_axis_is_none_of_the_inputs(op: str) -> None:
    """As many steps and sequences as inputs, so that each wrong axis fits."""
    body = f"(float[3,3,3] x) => (float[] y) {{ n = Mul (x, k) y = {op} <hidden_size = 3> (n, W, R, B) }}"
    for form in ((3, 1, 1), (3, 1)):
        before = model(body, **held(op, inputs=3), k=w(*form))
        refusal(before, "axis-not-owned", op, op="Mul")
        assert wrong(before, w(3), np.zeros(3), op) > CLEARLY_WRONG
    for form in ((3,), (1, 1, 3)):
        legal(model(body, **held(op, inputs=3), k=w(*form)))


@pytest.mark.parametrize("op", OPS)
def test_nothing_behind_it_settles_in_its_weights(op: str) -> None:
    body = f"(float[5,2,4] x) => (float[] o) {{ y = {op} <hidden_size = 3> (x, W, R, B) o = Mul (y, k) }}"
    before = model(body, **held(op), k=w(3))
    refusal(before, "blocked", op, op="Mul")
    both = body.replace("(x, W", "(t, W").replace("{ y", "{ t = Mul (x, c) y")
    plan = plan_of(model(both, **held(op), k=w(3), c=w(4)))
    assert [move.is_forward for move in plan.moves] == [True]
    assert [refused.reason.code for refused in plan.refusals] == ["blocked"]


def test_an_initial_state_is_no_input() -> None:
    body = "(float[5,2,4] x, float[1,2,3] h) => (float[] y) {{ n = Mul ({}, k) y = RNN <hidden_size = 3> ({}) }}"
    before = model(body.format("h", "x, W, R, B, , n").replace(", ,", ', "",'), **held("RNN"), k=w(3))
    assert "takes over no affine of its input 5" in refusal(before, "blocked", "RNN", op="Mul").detail
    legal(model(body.format("x", 'n, W, R, B, "", h'), **held("RNN"), k=w(4)))


def test_data_that_are_an_initial_state_too_are_read_twice() -> None:
    body = '(float[1,2,3] x) => (float[] y) {{ n = Mul (x, k) y = RNN <hidden_size = 3> (n, W, R, B, "", {}) }}'
    before = model(body.format("n"), **held("RNN", inputs=3), k=w(3))
    refusal(before, "several-ways", "RNN", op="Mul")
    assert wrong(before, w(3), np.zeros(3), "RNN") > CLEARLY_WRONG
    legal(model(body.format("x"), **held("RNN", inputs=3), k=w(3)))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("name", "place"), [("W", 1), ("B", 3)])
def test_a_weight_or_bias_that_is_computed_is_not_known(op: str, name: str, place: int) -> None:
    operands = ["t", "W", "R", "B"]
    operands[place] = "u"
    arrays = {key: array for key, array in held(op).items() if key != name}
    form = ",".join(map(str, held(op)[name].shape))
    before = model(text(op, ", ".join(operands), ports=f", float[{form}] u"), **arrays, **norm(4))
    refusal(before, "not-constant", op)
    legal(model(text(op, "t, W, R, B"), **held(op), **norm(4)))


def test_what_a_caller_may_override_is_not_known() -> None:
    before = model(text("GRU", "t, W, R, B", ports=", float[1,9,4] W"), **held("GRU"), **norm(4))
    refusal(before, "overridable", "GRU")


@pytest.mark.parametrize("name", ["W", "B"])
def test_integers_are_not_scaled_per_input(name: str) -> None:
    arrays = held("LSTM")
    arrays[name] = np.clip(arrays[name] * 100, -127, 127).astype(np.int8)
    body = text("LSTM", "t, W, R, B".replace(name, "q"), before=f"q = DequantizeLinear ({name}, u) {NORM}")
    refusal(model(body, **arrays, u=np.float32(0.01), **norm(4)), "quantized", "LSTM")


@pytest.mark.parametrize(
    ("arrays", "attributes", "code"),
    [
        ({"W": w(2, 12, 4)}, "hidden_size = 3", "broken-layer"),
        ({"W": w(1, 12, 4)}, 'hidden_size = 3, direction = "bidirectional"', "broken-layer"),
        ({"W": w(1, 12, 4)}, "hidden_size = 4", "broken-layer"),
        ({"W": w(12, 4)}, "hidden_size = 3", "broken-layer"),
        ({"W": w(1, 13, 4)}, "", "broken-layer"),
        ({"B": w(1, 12)}, "hidden_size = 3", "broken-bias"),
        ({"B": w(24)}, "hidden_size = 3", "broken-bias"),
        ({"B": w(1, 24, dtype=np.float64)}, "hidden_size = 3", "broken-bias"),
        ({"W": w(1, 12, 5)}, "hidden_size = 3", "axis-not-owned"),
    ],
)  # fmt: skip
def test_weights_of_another_form_than_the_operator_has_are_left_alone(
    arrays: dict[str, Array], attributes: str, code: str
) -> None:
    """onnxruntime refuses these as well: the plain fact."""
    before = model(text("LSTM", "t, W, R, B", attributes=attributes or "clip = 9.0"), **(held() | arrays), **norm(4))
    refusal(before, code, "LSTM")
    assert cannot_run(before)


def test_a_direction_that_there_is_not_is_left_alone() -> None:
    before = model(text("LSTM", "t, W, R", attributes='hidden_size = 3, direction = "sideways"'), **held(), **norm(4))
    refusal(before, "broken-layer", "LSTM")
    assert cannot_run(before)


def test_a_shift_without_a_bias_makes_one_of_the_right_form() -> None:
    for op in OPS:
        for directions, direction in ((1, "reverse"), (2, "bidirectional")):
            arrays = held(op, directions=directions)
            del arrays["B"]
            attributes = f'hidden_size = 3, direction = "{direction}"'
            after = legal(model(text(op, "t, W, R", attributes=attributes), **arrays, **norm(4)))
            made, rows = constants(after)[after.graph.node[-1].input[3]], GATES[op] * 3
            assert made.shape == (directions, 2 * rows)
            assert not np.any(made[:, rows:])
            _, s = scale_and_shift(norm(4))
            assert np.allclose(made[:, :rows], arrays["W"].astype(np.float64) @ s, rtol=2.0**-22)


def test_a_scale_alone_makes_no_bias_and_leaves_one_as_it_is() -> None:
    body = "(float[5,2,4] x) => (float[] y) {{ n = Mul (x, k) y = GRU <hidden_size = 3> ({}) }}"
    bare = {name: array for name, array in held("GRU").items() if name != "B"}
    assert list(legal(model(body.format("n, W, R"), **bare, k=w(4))).graph.node[0].input) == ["x", "W_folded", "R"]
    after = legal(model(body.format("n, W, R, B"), **held("GRU"), k=w(4)))
    assert list(after.graph.node[0].input) == ["x", "W_folded", "R", "B"]


def test_weights_that_something_else_reads_are_cloned() -> None:
    """Two nodes share them, of which one reads the affine; or the graph puts one out."""
    body = """(float[2,4,5] x, float[5,2,4] z) => (float[] y, float[] o{}) {{ {}
        y = LSTM <hidden_size = 3> (t, W, R, B) o = LSTM <hidden_size = 3> (z, W, R, B) }}"""
    for more in ("", ", float[1,12,4] W"):
        before = model(body.format(more, NORM), **held(), **norm(4))
        after = constants(legal(before))
        assert np.array_equal(after["W"], held()["W"])
        assert np.array_equal(after["B"], held()["B"])
        assert {"W_folded", "B_folded"} <= after.keys()
        assert set(fold(before).cloned) == {"W", "B"}


def test_all_that_read_the_affine_take_it_or_none_does() -> None:
    body = """(float[2,4,5] x) => (float[] y, float[] o) {{ {}
        y = LSTM <hidden_size = 3> (t, W, R, B) o = {} }}"""
    two = model(body.format(NORM, "GRU <hidden_size = 3> (t, V, S)"), **held(), V=w(1, 9, 4), S=w(1, 9, 3), **norm(4))
    assert len(plan_of(two).moves[0].arrivals) == 2
    legal(two)
    refusal(model(body.format(NORM, "Tanh (t)"), **held(), **norm(4)), "blocked", "Tanh")


def test_a_row_of_affines_goes_one_by_one() -> None:
    """By hand and real ones, whose shifts compose in the bias."""
    before = model(
        text("LSTM", "p, W, R, B", before=f"{NORM} q = Mul (t, k) p = Sub (q, c)"), **held(), **norm(4), k=w(4), c=w(4)
    )  # fmt: skip
    after = legal(before, moves=3)
    assert [node.op_type for node in after.graph.node] == ["Transpose", "LSTM"]
    (a, s), k, c = scale_and_shift(norm(4)), w(4).astype(np.float64), w(4).astype(np.float64)
    assert np.allclose(constants(after)["W_folded"], held()["W"] * (a * k), rtol=2.0**-23)
    wb = held()["B"][:, :12] + held()["W"].astype(np.float64) @ (k * s - c)
    assert np.allclose(constants(after)["B_folded"][:, :12], wb, rtol=2.0**-20)


@pytest.mark.parametrize(("factor", "code"), [(6e4, "overflow"), (3e-7, "precision-lost")])
def test_what_half_precision_does_not_hold_stays(factor: float, code: str) -> None:
    arrays = {name: (array * 4).astype(np.float16) for name, array in held().items()}
    body = "(float16[5,2,4] x) => (float16[] y) { n = Mul (x, k) y = LSTM <hidden_size = 3> (n, W, R, B) }"
    refusal(model(body, **arrays, k=np.full(4, factor, np.float16)), code, "LSTM", op="Mul")
    done = fold(model(body, **arrays, k=w(4, dtype=np.float16)))
    assert constants(done.proto)["W_folded"].dtype == np.float16


def test_a_shift_that_its_type_does_not_hold_stays() -> None:
    body = "(float[5,2,4] x) => (float[] y) { n = Add (x, k) y = RNN <hidden_size = 3> (n, W, R, B) }"
    refusal(model(body, **(held("RNN") | {"W": 3 * w(1, 3, 4)}), k=np.full(4, 3e38, "f")), "overflow", "RNN", op="Add")


def test_an_affine_in_training_mode_does_not_go() -> None:
    before = model(text("GRU", "t, W, R, B"), **held("GRU"), **norm(4))
    before.graph.node[0].output.extend(["rm", "rv"])
    before.graph.node[0].attribute.append(helper.make_attribute("training_mode", 1))
    refusal(before, "training-mode")


@pytest.mark.parametrize("code", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_it_goes_in_a_nested_graph_too(code: int) -> None:
    kind, dtype = ("float", np.float32) if code == TensorProto.FLOAT else ("double", np.float64)
    before = model(
        f"""(bool c, {kind}[2,4,5] x) => ({kind}[] o) {{ o = If (c) <
        then_branch = a () => ({kind}[5,1,2,3] y) {{ {NORM} y = RNN <hidden_size = 3> (t, W, R, B) }},
        else_branch = b () => ({kind}[5,1,2,3] z) {{ u = Transpose <perm = [2,0,1]> (x)
            z = RNN <hidden_size = 3> (u, W, R, B) }}> }}""",
        **{name: array.astype(dtype) for name, array in {**held("RNN"), **norm(4)}.items()},
    )  # fmt: skip
    done = fold(before)
    assert [move.is_forward for move in done.plan.moves] == [True]
    certified(before, done)
