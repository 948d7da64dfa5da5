"""What repeats, exchanges channels for positions, holds sequences or mixes rows does not let everything pass.

Beside each refusal stands the number that shows why, or two values that the refused fold would have to hold at once,
and the nearest case that folds.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    assert_same_function,
    clearly_wrong,
    fold,
    inputs,
    model,
    naive,
    norm,
    plan_of,
    refusal,
    run,
    weights,
)
from forward_support import certified, forward

W = weights(4, 3, 1, 1)
NORM = "BatchNormalization ({}, g, be, m, v)"


def behind(line: str, found: dict[str, np.ndarray], **held: object) -> onnx.ModelProto:
    """Conv of four channels, something, and a norm."""
    text = f"(float[2,3,4,4] x) => (float[] y) {{ c = Conv (x, W)  {line}  y = {NORM.format('p')} }}"
    return model(text, W=W, **held, **found)


def alike(channels: int, period: int) -> dict[str, np.ndarray]:
    """A norm that is the same for all channels that are a period apart."""
    return {name: np.tile(array[:period], channels // period) for name, array in norm(channels).items()}


CASES = {  # the line, channels behind it, the code and who is to blame; what the norm must be for it to go
    "SpaceToDepth": ("p = SpaceToDepth <blocksize = 2> (c)", 16, {}, "axis-not-owned", alike(16, 4)),
    "Tile": ("p = Tile (c, times)", 8, {"times": [1, 2, 1, 1]}, "axis-not-owned", alike(8, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_one_channel_that_would_have_to_bear_two_affines(case: str) -> None:
    """Exchanging two norms that land on one channel changes the output: no one weight holds both."""
    line, channels, held, code, same = CASES[case]
    before = behind(line, norm(channels), **held)
    refusal(before, code, case)
    other = behind(line, {name: np.roll(array, 4) for name, array in norm(channels).items()}, **held)
    assert not np.allclose(*(run(proto, inputs(before))[0] for proto in (before, other)), rtol=0.05)
    legal = behind(line, same, **held)
    assert_same_function(legal, fold(legal).proto, inputs(legal), 3)
    assert "BatchNormalization" not in fold(legal).ops


def test_positions_that_bear_different_affines_are_not_channels() -> None:
    text = "(float[2,3,4,4] x) => (float[] y) {{ c = Conv (x, W) p = {} y = Mul (p, k) }}"
    for line, shape in (("DepthToSpace <blocksize = 2> (c)", (8, 1)), ("SpaceToDepth <blocksize = 2> (c)", (2, 1))):
        before = model(text.format(line), W=W, k=weights(*shape))
        refusal(before, "layout-lost", line.split()[0], op="Mul")
        legal = model(text.format(line), W=W, k=weights(1))
        assert_same_function(legal, fold(legal).proto, inputs(legal), 3)


def test_repetitions_that_are_not_known() -> None:
    text = """(float[2,3,4,4] x, int64[4] times) => (float[] y) <float[2,8,4,4] p> {{ c = Conv (x, W) p = Tile (c, {})
        y = Mul (p, k) }}"""
    period = np.tile(weights(4, 1, 1), (2, 1, 1))
    refusal(model(text.format("times"), W=W, k=period), "layout-lost", "Tile", op="Mul")
    legal = model(text.format("t"), W=W, k=period, t=[1, 2, 1, 1])
    assert fold(legal).ops == ["Conv", "Tile"]
    uniform = model(text.format("times"), W=W, k=weights(1))
    assert fold(uniform).ops == ["Conv", "Tile"]


def test_a_channel_that_becomes_several() -> None:
    text = "(float[2,3,4,4] x) => (float[] y) {{ c = Conv (x, W) p = Expand (c, to) y = {} }}"
    held = {"W": W[:1], "to": np.array([2, 4, 4, 4])}
    refusal(model(text.format(NORM.format("p")), **held, **norm(4)), "axis-not-owned", "Expand")
    legal = model(text.format(NORM.format("p")), **{**held, "W": W}, **norm(4))
    assert_same_function(legal, fold(legal).proto, inputs(legal), 3)
    assert fold(legal).ops == ["Conv", "Expand"]


def test_a_batch_and_channels_of_unknown_number_may_grow() -> None:
    text = "(float[2,C,4,4] x) => (float[] y) { c = Relu (x) p = Expand (c, to) y = Mul (p, k) }"
    refusal(model(text, to=np.array([2, 4, 4, 4]), k=np.abs(weights(4, 1, 1))), "axis-not-owned", "Expand", op="Mul")


@pytest.mark.parametrize(
    ("line", "blamed"),
    [
        ("s = SplitToSequence <axis = 1> (c, two) p = SequenceAt (s, place)", "SplitToSequence"),
        ("s = SplitToSequence <axis = 1> (c, two) p = ConcatFromSequence <axis = 1> (s)", "ConcatFromSequence"),
        (
            "q = SequenceConstruct (c) s = SequenceInsert (q, z) p = ConcatFromSequence <axis = 1> (s)",
            "ConcatFromSequence",
        ),
        ("s = SequenceConstruct (c, small) p = SequenceAt (s, zero)", "SequenceConstruct"),
    ],
)
def test_sequences_let_nothing_pass_that_differs_along_the_cuts(line: str, blamed: str) -> None:
    text = (
        "(float[2,3,4,4] x, float[2,2,4,4] z, float[1,1,1,1] small, int64 place) "
        "=> (float[] y) {{ c = Conv (x, W) {} y = {} }}"
    )
    channels = 6 if "Concat" in line else 2 if "Split" in line else 4
    held = {"W": W, "two": 2, "one": 1, "zero": 0, **norm(channels)}
    before = model(text.format(line, NORM.format("p")), **{k: v for k, v in held.items() if k not in {"two"}},
                   two=np.array(2))  # fmt: skip
    refusal(before, "layout-lost" if blamed != "SequenceConstruct" else "axis-not-owned", blamed)


@pytest.mark.parametrize(
    "line",
    [
        "s = SplitToSequence <axis = 1> (c, two) p = SequenceAt (s, one)",
        "s = SequenceConstruct (c, d) p = ConcatFromSequence <axis = 1> (s)",
    ],
)
@pytest.mark.parametrize("besides", ["Shape (c)", "SequenceLength (s)"])
def test_a_sequence_that_something_else_sees_holds_values_that_are_alike(line: str, besides: str) -> None:
    """Its length is the same; a sequence that is seen is left all the same."""
    text = f"(float[2,3,4,4] x) => (float[] y, int64[] z) {{ c = Conv (x, W) d = Conv (x, W) {line} l = {besides} "
    held = {"W": W, "two": np.array(2), "one": np.array(0), **norm(2 if "Split" in line else 8)}
    before = model(f"{text} y = {NORM.format('p')} z = Identity (l) }}", **held)
    if besides == "Shape (c)":
        assert fold(before).plan.refusals == ()
    else:
        assert len(fold(before).plan.refusals) == 1


def test_a_sequence_that_something_else_reads() -> None:
    text = """(float[2,3,4,4] x) => (float[] y, float[] z) {{ c = Conv (x, W) s = SplitToSequence <axis = 2> (c)
        p = SequenceAt (s, one) q = SequenceAt (s, {}) y = {} z = Neg (q) }}"""
    before = model(text.format("zero", NORM.format("p")), W=W, one=1, zero=0, **norm(4))
    refusal(before, "other-readers", "SequenceAt")
    assert clearly_wrong(before, naive(before), inputs(before), 3)


# --- rows that are mixed --------------------------------------------------------------------------------------------

MIX = "(float[2,3,4,5] x, float[2,4,{}] u) => (float[] y) {{ c = Conv (x, W) {} p = MatMul (q, c) y = {} }}"
SHARES = {
    "no shares": ("4,4", "q = Sigmoid (u)"),
    "shares of columns": ("4,4", "q = Softmax <axis = 2> (u)"),
    "turned shares": ("4,4", "t = Softmax (u) q = Transpose <perm = [0,1,3,2]> (t)"),
    "scaled shares": ("4,4", "t = Softmax (u) q = Add (t, t)"),
    "shares that were cut off": ("4,5", "t = Softmax (u) q = Slice (t, zero, four, three)"),
    "shares joined to others": ("4,2", "t = Softmax (u) q = Concat <axis = 3> (t, t)"),
    "shares laid out otherwise": ("4,2", "t = Softmax (u) q = Reshape (t, to)"),
}


@pytest.mark.parametrize("case", SHARES)
def test_rows_that_do_not_sum_to_one_take_no_shift(case: str) -> None:
    shape, line = SHARES[case]
    held = {"zero": [0], "four": [4], "three": [3], "to": [2, 4, 2, 4]}
    before = model(MIX.format(shape, line, NORM.format("p")), W=W, **held, **norm(4))
    refusal(before, "not-constant", "MatMul")
    assert clearly_wrong(before, naive(before), inputs(before), 64)
    legal = model(MIX.format("4,4", "q = Softmax (u)", NORM.format("p")), W=W, **held, **norm(4))
    done = fold(legal)
    certified(legal, done)
    assert done.ops == ["Conv", "Softmax", "MatMul"]


def test_softmax_of_old_goes_over_all_axes_from_its_own_on() -> None:
    old = model(MIX.format("4,4", "q = Softmax <axis = 1> (u)", NORM.format("p")), opset=11, W=W, **norm(4))
    refusal(old, "not-constant", "MatMul")
    assert clearly_wrong(old, naive(old), inputs(old), 64)
    legal = model(MIX.format("4,4", "q = Softmax <axis = 3> (u)", NORM.format("p")), opset=11, W=W, **norm(4))
    assert fold(legal).ops == ["Conv", "Softmax", "MatMul"]


def test_an_affine_of_the_rows_is_not_one_of_what_is_mixed() -> None:
    text = (
        "(float[2,3,4] x, float[2,4,4] u) => (float[] y) {{ c = Conv (x, W) q = Softmax (u) p = MatMul (q, c) y = {} }}"
    )
    before = model(text.format(NORM.format("p")), W=W[..., 0], **norm(4))
    refusal(before, "layout-lost", "MatMul")
    assert clearly_wrong(before, naive(before), inputs(before), 64)


def test_training_dropout_leaves_no_shares() -> None:
    line = "t = Softmax (u) q = Dropout (t, half, on)"
    before = model(MIX.format("4,4", line, NORM.format("p")), W=W, half=np.float32(0.5), on=np.array(True), **norm(4))
    refusal(before, "not-constant", "MatMul")
    assert fold(model(MIX.format("4,4", line, NORM.format("p")), W=W, half=np.float32(0.5), on=np.array(False),
                      **norm(4))).ops == ["Conv", "Softmax", "Dropout", "MatMul"]  # fmt: skip


# --- a shift that is lost -------------------------------------------------------------------------------------------

LOST = {
    "Softmax over the channels": ("Softmax <axis = 1> (n)", 17, "layout-lost", "Softmax <axis = 2> (n)"),
    "LogSoftmax over the channels": ("LogSoftmax <axis = 1> (n)", 17, "layout-lost", "LogSoftmax (n)"),
    "Softmax of old": ("Softmax (n)", 11, "layout-lost", "Softmax <axis = 2> (n)"),
    "Sigmoid": ("Sigmoid (n)", 17, "blocked", "Softmax (n)"),
}


def without(before: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its first node."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(before)
    del wrong.graph.node[0]
    wrong.graph.node[0].input[0] = "x"
    return wrong


@pytest.mark.parametrize("case", LOST)
def test_a_shift_that_is_seen_is_not_lost(case: str) -> None:
    line, opset, code, near = LOST[case]
    text = "(float[2,4,3,5] x) => (float[] y) {{ n = Add (x, k) y = {} }}"
    before = model(text.format(line), opset=opset, k=weights(4, 1, 1))
    refusal(before, code, line.split()[0], op="Add")
    feeds = inputs(before)
    assert not np.allclose(run(before, feeds)[0], run(without(before), feeds)[0], rtol=0.01)
    legal = model(text.format(near), opset=opset, k=weights(4, 1, 1))
    done = fold(legal)
    assert done.ops == [near.split()[0]]
    certified(legal, done)
    ours, theirs = (run(proto, feeds)[0] for proto in (legal, done.proto))
    assert np.abs(ours - theirs).max() <= 64 * 2.0**-24 * np.abs(ours).max()


def test_a_scale_of_normalised_data_is_not_lost() -> None:
    """Nearly: epsilon is added to what the scale has changed."""
    text = "(float[2,4,3,5] x) => (float[] y) {{ n = {} (x, k) y = InstanceNormalization <epsilon = 0.1> (n, g, be) }}"
    held = {"g": weights(4), "be": weights(4, seed=2)}
    before = model(text.format("Mul"), k=weights(4, 1, 1), **held)
    refusal(before, "blocked", "InstanceNormalization", op="Mul")
    assert not np.allclose(run(before, inputs(before))[0], run(without(before), inputs(before))[0], rtol=0.01)
    legal = model(text.format("Add"), k=weights(4, 1, 1), **held)
    assert fold(legal).ops == ["InstanceNormalization"]
    assert fold(fold(legal).bytes).bytes == fold(legal).bytes


def test_an_affine_behind_a_softmax_stays() -> None:
    text = "(float[2,4,3,5] x) => (float[] y) { c = Softmax <axis = 2> (x) y = Add (c, k) }"
    refusal(model(text, k=weights(4, 1, 1)), "blocked", "Softmax", op="Add")


def test_a_shift_is_lost_at_one_reader_and_settles_at_another() -> None:
    text = """(float[2,4,3,5] x) => (float[] y, float[] z) {{ n = {} (x, k) y = Softmax (n) z = Conv (n, V, b) }}"""
    held = {"V": weights(2, 4, 1, 1), "b": weights(2)}
    legal = model(text.format("Add"), k=weights(4, 1, 1), **held)
    assert sorted(forward(legal, {"x": np.abs(inputs(legal)["x"])}, 8).ops) == ["Conv", "Softmax"]
    scale = model(text.format("Mul"), k=weights(4, 1, 1), **held)
    refusal(scale, "blocked", "Softmax", op="Mul")


# --- forward --------------------------------------------------------------------------------------------------------


def test_every_part_of_a_split_has_to_bear_it() -> None:
    text = """(float[2,4,3,5] x) => (float[] y, float[] z) {{ n = {} p, q = Split <axis = 1> (n)
        y = Conv (p, V) z = {} }}"""
    held = {"V": weights(2, 2, 1, 1), **norm(4)}
    before = model(text.format(NORM.format("x"), "Tanh (q)"), **held)
    refusal(before, "blocked", "Tanh")
    legal = model(text.format(NORM.format("x"), "Conv (q, V)"), **held)
    forward(legal, inputs(legal), 2)
    shown = model(text.format(NORM.format("x"), "Conv (q, V)").replace("float[] z", "float[] z, float[] q"), **held)
    assert plan_of(shown).moves == ()


def test_channels_that_become_one_have_to_bear_the_same_forward() -> None:
    text = "(float[2,4,3,5] x) => (float[] y) {{ n = {} p = DepthToSpace <blocksize = 2> (n) y = Conv (p, V) }}"
    refusal(model(text.format(NORM.format("x")), V=weights(2, 1, 1, 1), **norm(4)), "axis-not-owned", "DepthToSpace")
    legal = model(text.format(NORM.format("x")), V=weights(2, 1, 1, 1), **alike(4, 1))
    forward(legal, inputs(legal), 1)
