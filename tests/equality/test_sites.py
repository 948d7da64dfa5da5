"""Two models site by site: what stands for what, what is a difference, and what only looks like one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from site_models import C, affine, compared, kernel, model, norm

import bnfold
from bnfold.equality.runner import Runner

PLAIN = (
    "(float[2,8,9,9] x) => (float[2,8,5,5] y) "
    "{ c = Conv(x,w) n = BatchNormalization(c,g,be,m,v) r = Relu(n) y = Conv(r,u) }"
)


def scaled(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return weight * scale.reshape(-1, 1, 1, 1)


def before(**more: object) -> onnx.ModelProto:
    return model(PLAIN, w=kernel(1), u=kernel(2), **norm(), **more)


def folded(names: tuple[str, str] = ("n", "r"), epsilon: float = 1e-5, nudge: float = 1.0) -> onnx.ModelProto:
    """PLAIN, folded by hand; `nudge` multiplies channel 3 of the weight."""
    value, active = names
    scale, shift = affine(norm(), epsilon)
    weight = scaled(kernel(1), scale)
    weight[3] *= nudge
    nodes = f"{value} = Conv(x,w2,b) {active} = Relu({value}) y = Conv({active},u)"
    text = f"(float[2,8,9,9] x) => (float[2,8,5,5] y) {{ {nodes} }}"
    return model(text, w2=weight, b=shift, u=kernel(2))


@pytest.mark.parametrize("names", [("n", "r"), ("c", "r"), ("p", "q"), ("r", "n")], ids="-".join)
def test_a_correct_fold_is_the_same_whatever_its_values_are_called(
    names: tuple[str, str], tmp_path: Path, runner: Runner
) -> None:
    found = compared(tmp_path, runner, before(), folded(names))
    assert found.is_same, found
    assert found.compared == 1
    assert found.worst <= 1
    assert found.worst_at.startswith("Conv#0")


@pytest.mark.parametrize("names", [("n", "r"), ("c", "r"), ("p", "q")], ids="-".join)
@pytest.mark.parametrize("fault", [{"epsilon": 0.0}, {"epsilon": 2e-5}, {"nudge": 1.0001}, {"nudge": -1.0}], ids=str)
def test_a_wrong_fold_differs_at_its_site(
    fault: dict[str, float], names: tuple[str, str], tmp_path: Path, runner: Runner
) -> None:
    """The epsilon is 80 half units: below the rounding of any one element, and a gain of every channel."""
    found = compared(tmp_path, runner, before(), folded(names, **fault))
    assert found.divergence is not None
    assert found.divergence.node.startswith("Conv#0")
    assert found.divergence.value == names[0]
    assert found.divergence.stands_for == "n"
    assert found.divergence.excess.share > 1


def test_a_fault_behind_a_dead_channel_is_found_where_it_is(tmp_path: Path, runner: Runner) -> None:
    """Channel 3 is below zero everywhere: behind its Relu nothing can be seen of it."""
    statistics = norm()
    statistics["be"][3] = -50.0
    original = model(PLAIN, w=kernel(1), u=kernel(2), **statistics)
    scale, shift = affine(statistics)
    shift[3] -= 0.01
    text = "(float[2,8,9,9] x) => (float[2,8,5,5] y) { n = Conv(x,w2,b) r = Relu(n) y = Conv(r,u) }"
    wrong = model(text, w2=scaled(kernel(1), scale), b=shift, u=kernel(2))
    found = compared(tmp_path, runner, original, wrong)
    assert found.divergence is not None
    assert found.divergence.excess.channel in {3, None}
    assert found.divergence.excess.index[1] == 3


BETWEEN = "(float[2,8,9,9] x) => (float[2,8,5,5] y) { c = Conv(x,w) r = Relu(c) y = Conv(r,u) }"


HIDDEN = {
    "Relu": ("r = Relu(n)", -50.0),
    "a pool": ("s = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(n) r = Relu(s)", -50.0),
    "Clip": ("lo = Constant<value_float=0.0>() hi = Constant<value_float=6.0>() r = Clip(n,lo,hi)", 60.0),
    "Sigmoid": ("r = Sigmoid(n)", 60.0),
}
FAULTS = {
    "another shift": lambda a, s: (a, s + 3.0), "no scale": lambda _, s: (1.0, s),
    "half as far": lambda a, s: (a, s / 2), "the other sign": lambda a, s: (-a, s),
    "three times the scale": lambda a, s: (3 * a, s),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("behind", HIDDEN)
def test_a_channel_that_is_far_off_where_nothing_of_it_is_seen(
    behind: str, fault: str, tmp_path: Path, runner: Runner
) -> None:
    """The value has the name of the original's, and all channels but one are its: it is a faulty copy of that."""
    active, beta = HIDDEN[behind]
    statistics = norm()
    statistics["be"][3] = beta
    scale, shift = affine(statistics)
    scale[3], shift[3] = FAULTS[fault](scale[3], shift[3])
    text = "(float[2,8,9,9] x) => (float[2,8,5,5] y) {{ {} {} y = Conv(r,u) }}"
    original = model(
        text.format("c = Conv(x,w) n = BatchNormalization(c,g,be,m,v)", active), w=kernel(1), u=kernel(2), **statistics
    )
    wrong = model(text.format("n = Conv(x,w2,b)", active), w2=scaled(kernel(1), scale), b=shift, u=kernel(2))
    found = compared(tmp_path, runner, original, wrong)
    assert found.divergence is not None
    assert found.divergence.excess.index[1] == 3


@pytest.mark.parametrize("factor", [0.5, -3.0])
def test_what_is_zero_for_all_that_is_tried_may_be_scaled_by_anything(
    factor: float, tmp_path: Path, runner: Runner
) -> None:
    """Both products are zero, and so one stands for the other: with noise on it, it would be another value."""
    text = "(float[3,8] x) => (float[3,8] y) {{ {} }}"
    held = {"w": kernel(1, 8, 8), "c": kernel(2, 8) + 1.0}
    original = model(
        text.format("a = Abs(x) n = Neg(a) h = Relu(n) m = MatMul(h,w) s = Add(m,c) t = Mul(s,k) y = Sigmoid(t)"),
        k=np.array(factor), **held,
    )  # fmt: skip
    folded_ = model(
        text.format("p = Abs(x) q = Neg(p) r = Relu(q) u = MatMul(r,w2) v = Add(u,c2) y = Sigmoid(v)"),
        w2=held["w"] * factor, c2=held["c"] * factor,
    )  # fmt: skip
    assert compared(tmp_path, runner, original, folded_).is_same


def test_a_relu_of_positive_channels_is_no_copy_of_what_it_reads(tmp_path: Path, runner: Runner) -> None:
    """A scale that went forward past it, all values under new names: of five channels they are near to others."""
    statistics = norm()
    statistics["be"] = np.array([50.0] * 5 + [-1.0, 0.0, 1.0])
    factor = np.array([1.0] * 5 + [0.5, 2.0, 3.0])
    text = "(float[2,8,9,9] x) => (float[2,8,5,5] y) {{ {} }}"
    original = model(
        text.format("c = Conv(x,w) n = BatchNormalization(c,g,be,m,v) r = Relu(n) y = Conv(r,u)"),
        w=kernel(1), u=kernel(2), **statistics,
    )  # fmt: skip
    scale, shift = affine(statistics)
    other = model(
        text.format("v1 = Conv(x,w2,b) v2 = Relu(v1) y = Conv(v2,u2)"), w2=scaled(kernel(1), scale * factor),
        b=shift * factor, u2=kernel(2) / factor.reshape(1, -1, 1, 1),
    )  # fmt: skip
    assert compared(tmp_path, runner, original, other).is_same


@pytest.mark.parametrize("factor", [0.25, 3.0, 1.0001, 1 + 2e-5], ids=str)
@pytest.mark.parametrize("name", ["c", "fresh"])
def test_a_scale_that_is_undone_behind_is_no_difference(
    factor: float, name: str, tmp_path: Path, runner: Runner
) -> None:
    """Through a Relu, a positive scale: what stands between is no value of the original, however near it comes."""
    original = model(BETWEEN, w=kernel(1), u=kernel(2))
    rewritten = BETWEEN.replace("c = Conv", f"{name} = Conv").replace("Relu(c)", f"Relu({name})")
    found = compared(tmp_path, runner, original, model(rewritten, w=kernel(1) * factor, u=kernel(2) / factor))
    assert found.is_same, found
    assert found.grown == (2 if name == "c" else 1)


@pytest.mark.parametrize("factor", [0.25, 3.0, 1.0001, 1 + 2e-5], ids=str)
def test_a_scale_that_nothing_undoes_is_one(factor: float, tmp_path: Path, runner: Runner) -> None:
    """The Conv behind is rewritten too (its weights are one unit off in one place), but not to undo it."""
    behind = kernel(2).astype(np.float32)
    behind[0, 0, 0, 0] = np.nextafter(behind[0, 0, 0, 0], np.float32(1))
    found = compared(
        tmp_path, runner, model(BETWEEN, w=kernel(1), u=kernel(2)), model(BETWEEN, w=kernel(1) * factor, u=behind)
    )
    assert found.divergence is not None
    assert found.divergence.node.startswith("Conv#0")


def test_what_both_compute_alike_is_not_run(tmp_path: Path, runner: Runner) -> None:
    """Other names and another order, and a Constant node instead of an initializer."""
    again = model(PLAIN, w=kernel(1), u=kernel(2), **norm())
    for node in again.graph.node:
        node.name = f"renamed {node.op_type}"
    held = again.graph.initializer.pop(0)
    again.graph.node.insert(0, onnx.helper.make_node("Constant", [], [held.name], value=held))
    found = compared(tmp_path, runner, before(), again)
    assert found.is_same
    assert (found.compared, found.identical) == (0, 5)


def test_a_matmul_whose_shift_becomes_an_add(tmp_path: Path, runner: Runner) -> None:
    text = "(float[3,8] x) => (float[3,8] y) { c = MatMul(x,w) n = BatchNormalization(c,g,be,m,v) y = Tanh(n) }"
    scale, shift = affine(norm())
    after = "(float[3,8] x) => (float[3,8] y) { p = MatMul(x,w2) n = Add(p,b) y = Tanh(n) }"
    original = model(text, w=kernel(1, C, C), **norm())
    assert compared(tmp_path, runner, original, model(after, w2=kernel(1, C, C) * scale, b=shift)).is_same
    off, _ = affine(norm(), 0.0)
    found = compared(tmp_path, runner, original, model(after, w2=kernel(1, C, C) * off, b=shift))
    assert found.divergence is not None, "three rows are too few for a gain, unless more are made up"


def test_half_precision(tmp_path: Path, runner: Runner) -> None:
    text = PLAIN.replace("float[", "float16[")
    parameters = {"w": kernel(1), "u": kernel(2), **norm()}
    original = model(text, dtype="float16", **parameters)
    rounded = {name: value.astype(np.float16).astype(np.float64) for name, value in parameters.items()}
    scale, shift = affine(rounded)
    after = "(float16[2,8,9,9] x) => (float16[2,8,5,5] y) { n = Conv(x,w2,b) r = Relu(n) y = Conv(r,u) }"
    given = {"b": shift, "u": rounded["u"], "dtype": "float16"}
    assert compared(tmp_path, runner, original, model(after, w2=scaled(rounded["w"], scale), **given)).is_same
    found = compared(tmp_path, runner, original, model(after, w2=scaled(rounded["w"], scale * 1.02), **given))
    assert found.divergence is not None
    assert found.divergence.value == "n"


NESTED = """(bool up, float[2,8,9,9] x) => (float[2,8,7,7] y) {
  c = Conv(x,w) n = BatchNormalization(c,g,be,m,v)
  y = If(up) <then_branch = t () => (float[2,8,7,7] a) { a = Mul(n,k) },
              else_branch = e () => (float[2,8,7,7] a) { a = Neg(n) }>
}"""


@pytest.mark.parametrize("nudge", [1.0, 1.001])
def test_a_body_that_captures_the_value(nudge: float, tmp_path: Path, runner: Runner) -> None:
    """In the body of the rewritten model it has another name, so that the If is a site as well."""
    scale, shift = affine(norm())
    after = NESTED.replace("c = Conv(x,w) n = BatchNormalization(c,g,be,m,v)", "p = Conv(x,w2,b)")
    after = after.replace("Mul(n,k)", "Mul(p,k)").replace("Neg(n)", "Neg(p)")
    original = model(NESTED, w=kernel(1), k=np.array(2.5), **norm())
    found = compared(tmp_path, runner, original, model(after, w2=scaled(kernel(1), scale * nudge), b=shift, k=2.5))
    assert found.is_same == (nudge == 1.0), found


def test_external_data_of_any_place(tmp_path: Path, runner: Runner) -> None:
    found = compared(tmp_path, runner, before(), folded(), ("one.bin", "two.bin"))
    assert found.is_same
    assert found.compared == 1


def test_a_shape_that_is_computed_and_one_that_is_written(tmp_path: Path, runner: Runner) -> None:
    computed = """(float[2,8,3] x) => (float[2,24] y) <int64[1] zero = {0}, int64[1] rest = {-1}> {
      s = Shape(x) b = Gather(s,zero) t = Concat<axis = 0>(b,rest) r = Reshape(x,t) y = Mul(r,k) }"""
    written = "(float[2,8,3] x) => (float[2,24] y) <int64[2] t = {2,24}> { r = Reshape(x,t) y = Mul(r,k) }"
    found = compared(tmp_path, runner, model(computed, k=2.5), model(written, k=2.5))
    assert found.is_same
    assert found.worst == 0


@pytest.mark.parametrize(("nudge", "word"), [(1 + 1e-7, "same"), (1.01, "differs")])
def test_where_no_terms_can_be_summed_the_jitter_decides(
    nudge: float, word: str, tmp_path: Path, runner: Runner
) -> None:
    """An LSTM has no S: the region is run on constants and values that are rounded otherwise."""
    text = "(float[4,2,8] x) => (float[4,1,2,6] y) { y = LSTM<hidden_size = 6>(x,w,r) }"
    w, r = kernel(1, 1, 24, 8) * 4, kernel(2, 1, 24, 6) * 4
    found = compared(tmp_path, runner, model(text, w=w, r=r), model(text, w=w * nudge, r=r))
    assert found.is_same == (word == "same"), found


def test_a_region_that_rounds_to_steps_is_undecided_and_not_the_same(tmp_path: Path, runner: Runner) -> None:
    text = "(float[64,8] x) => (float[64,8] y) { c = Mul(x,k) q = Round(c) y = MatMul(q,u) }"
    original = model(text, k=1.7, u=kernel(2, C, C))
    moved = "(float[64,8] x) => (float[64,8] y) { p = Mul(x,k) h = Mul(p,j) q = Round(h) y = MatMul(q,u) }"
    found = compared(tmp_path, runner, original, model(moved, k=17.0, j=0.1 + 1e-8, u=kernel(2, C, C)))
    assert not found.is_same or found.worst == 0


def test_nan_in_both_is_the_same_and_in_one_is_not(tmp_path: Path, runner: Runner) -> None:
    text = "(float[2,8] x) => (float[2,8] y) { s = Sqrt(x) n = Add(s,k) y = Neg(n) }"
    split = "(float[2,8] x) => (float[2,8] y) { s = Sqrt(x) h = Add(s,j) n = Add(h,j) y = Neg(n) }"
    assert compared(tmp_path, runner, model(text, k=3.0), model(split, j=1.5)).is_same
    rooted = split.replace("Sqrt(x)", "Sqrt(a)").replace("{ s", "{ a = Abs(x) s")
    found = compared(tmp_path, runner, model(text, k=3.0), model(rooted, j=1.5))
    assert found.divergence is not None
    assert found.divergence.excess.kind == "special"


def test_a_sparse_weight_is_told_by_its_content(tmp_path: Path, runner: Runner) -> None:
    def with_weight(value: float) -> onnx.ModelProto:
        proto = model("(float[2,3] x) => (float[2,3] y) { y = MatMul(x,w) }")
        values = numpy_helper.from_array(np.array([value, 2], np.float32), "w")
        indices = numpy_helper.from_array(np.array([1, 5]), "i")
        proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [3, 3]))
        return proto

    assert compared(tmp_path, runner, with_weight(1), with_weight(1)).identical == 2
    assert compared(tmp_path, runner, with_weight(1), with_weight(1.001)).divergence is not None


QUANTISED = (
    "(float[2,8,9,9] x) => (float[2,8,7,7] y) { c = Conv(x,w) n = BatchNormalization(c,g,be,m,v) r = Relu(n) "
    "q = QuantizeLinear(r,step,zero) y = DequantizeLinear(q,step,zero) }"
)


@pytest.mark.parametrize("nudge", [1.0, 1 + 1e-5])
def test_a_fault_that_the_next_quantisation_swallows_is_found(nudge: float, tmp_path: Path, runner: Runner) -> None:
    """Every step is the same on these inputs; that does not undo the fault."""
    scale, shift = affine(norm())
    scale[2] *= nudge
    tail = "r = Relu(c) q = QuantizeLinear(r,step,zero) y = DequantizeLinear(q,step,zero) }"
    after = f"(float[2,8,9,9] x) => (float[2,8,7,7] y) {{ c = Conv(x,w2,b) {tail}"
    pair = [
        model(QUANTISED, w=kernel(1), step=0.05, **norm()),
        model(after, w2=scaled(kernel(1), scale), b=shift, step=0.05),
    ]
    for proto in pair:
        proto.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    found = compared(tmp_path, runner, *pair)
    assert found.is_same == (nudge == 1.0), found
    assert nudge == 1.0 or (found.divergence is not None and found.divergence.value == "c")


ROWS = (
    "(float[1,3,5,5] x) => (float[1,25,2] y) { s = Sigmoid(x) n = BatchNormalization(s,g,be,m,v) p = Reshape(n,i) "
    "q = Reshape(p,j) t = Transpose<perm=[0,2,1]>(q) y = MatMul(t,w) }"
)
ROWS_FOLDED = (
    "(float[1,3,5,5] x) => (float[1,25,2] y) { s = Sigmoid(x) p2 = Reshape(s,i) "
    "q2 = Reshape(p2,j) t2 = Transpose<perm=[0,2,1]>(q2) z = MatMul(t2,w2) y = Add(z,b) }"
)


@pytest.mark.parametrize("nudge", [1.0, 1.001])
def test_of_two_copies_in_a_row_that_are_scaled_alike_neither_speaks_for_the_other(
    nudge: float, tmp_path: Path, runner: Runner
) -> None:
    """What went ahead is undone behind both; a wrong scale in the layer there is found all the same."""
    shapes = {"i": np.array([0, 3, -1]), "j": np.array([0, 0, -1])}
    statistics = {name: array[:3] for name, array in norm().items()}
    scale, shift = affine(statistics)
    w = np.random.default_rng(4).standard_normal((3, 2)).astype(np.float32)
    original = model(ROWS, w=w, **shapes, **statistics)
    rewritten = model(ROWS_FOLDED, w2=w * scale[:, None] * nudge, b=shift @ w, **shapes)
    found = compared(tmp_path, runner, original, rewritten)
    assert found.is_same == (nudge == 1.0), found


@pytest.mark.parametrize("nudge", [1.0, 1.001])
def test_of_two_that_come_near_and_are_scaled_alike_neither_speaks_for_the_other(
    nudge: float, tmp_path: Path, runner: Runner
) -> None:
    """A factor of nearly one went back past an Add; what undoes it stands behind a sequence, which has no bounds."""
    random = np.random.default_rng(5)
    w, b, u = random.standard_normal((6, 4)), random.standard_normal(4), random.standard_normal((8, 6))
    port = "(float[9,8] x) => (float[9,2] y)"
    rest = {"parts": np.array([2, 2]), "one": np.array(1), "u": u}
    nodes = "{ t = MatMul(x,u) m = MatMul(t,w) a = Add(m,b) q = SplitToSequence<axis=1>(a,parts) "
    nodes += "e = SequenceAt(q,one) y = Mul(e,k) }"
    original = model(port + nodes, w=w, b=b, k=np.full(1, 0.984), **rest)
    nodes = "{ t2 = MatMul(x,u) m2 = MatMul(t2,w) a2 = Add(m2,b) q2 = SplitToSequence<axis=1>(a2,parts) "
    nodes += "y = SequenceAt(q2,one) }"
    rewritten = model(port + nodes, w=w * 0.984 * nudge, b=b * 0.984, **rest)
    found = compared(tmp_path, runner, original, rewritten)
    assert found.is_same == (nudge == 1.0), found


def test_zeros_of_either_sign_are_the_same_where_jitter_decides(tmp_path: Path, runner: Runner) -> None:
    text = """(bool c, float[2,8] x) => (float[2,8] y) { y = If (c)
      <then_branch = t () => (float[2,8] a) { a = Mul(x,k) },
       else_branch = e () => (float[2,8] b) { b = Mul(k,x) }> }"""
    pair = [model(text, k=np.full(8, zero)) for zero in (0.0, -0.0)]
    found = compared(tmp_path, runner, *pair)
    assert found.is_same, found


# What came near, and of which nothing shows.

DEAD = "(float[2,8,9,9] x) => (float[2,8,5,5] y) { c = Conv(x,w,b) r = Relu(c) n = Mul(r,k) y = Conv(n,u) }"
SCALED = "(float[2,8,9,9] x) => (float[2,8,5,5] y) { c = Conv(x,w,b) n = Relu(c) y = Conv(n,u) }"


def dead(bias: float) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A scale of about one that goes back past a Relu, and the fold; with -1000, the Relu puts out zeros alone."""
    scale = np.full(C, 1.01)
    original = model(DEAD, w=kernel(1), b=np.full(C, bias), k=scale.reshape(-1, 1, 1), u=kernel(2))
    return original, model(SCALED, w=scaled(kernel(1), scale), b=bias * scale, u=kernel(2))


def test_a_deviation_that_nothing_behind_it_shows_is_told_as_such(tmp_path: Path, runner: Runner) -> None:
    found = compared(tmp_path, runner, *dead(-1000.0))
    assert found.divergence is not None
    assert not found.divergence.is_seen
    assert compared(tmp_path, runner, *dead(0.1)).is_same


def test_only_a_certificate_decides_what_nothing_shows() -> None:
    """It has recomputed the numbers; of two models alone, they may as well be wrong."""
    original, by_hand = dead(-1000.0)
    assert bnfold.fold(original).verdict is not None
    assert isinstance(bnfold.verify(original, by_hand), bnfold.Differs)


def test_rounding_that_passes_on_is_held_against_nothing(tmp_path: Path, runner: Runner) -> None:
    """One part of what changed is undone, and the other is what it was, but for rounding."""
    text = "(double[9,6] x) => (double[9,2] y, double[9,6] z) {{ {} a, z = Split<axis=1>(c,parts) {} }}"
    weight, first, scale = kernel(1, 6, 8), np.linspace(0.3, 2, 6), np.array([0.98, 1.02])
    ours = text.format("s = Sigmoid(x) f = Mul(s,p) c = MatMul(f,w)", "y = Mul(a,k)")
    before = model(ours, dtype="float64", w=weight, p=first, k=scale, parts=[2, 6])
    theirs = text.replace("a, z", "y, z").format("s = Sigmoid(x) c = MatMul(s,w)", "")
    moved = first[:, None] * weight * np.concatenate([scale, np.ones(6)])
    assert compared(tmp_path, runner, before, model(theirs, dtype="float64", w=moved, parts=[2, 6])).is_same
