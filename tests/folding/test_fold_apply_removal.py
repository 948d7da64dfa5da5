"""What goes with a BatchNormalization, and what stays: nodes, initializers and what the file notes of its values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from folding_support import constants, fold, folded, model, norm, weights
from onnx import TensorProto, helper

W = weights(4, 3, 3, 3)
HEAD = "(float[2,3,5,5] x, bool k, float[1] u) => (float[] y, float[] z)"
PLAIN = "c = Conv (x, W)  y = BatchNormalization (c, g, be, m, v)  z = Relu (x)"


def noted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, in which something is noted of every value that is no input or output."""
    outer = {entry.name for entry in (*proto.graph.input, *proto.graph.output)}
    for node in proto.graph.node:
        for name in dict.fromkeys([*node.input, *node.output]):
            if name and name not in outer:
                outer.add(name)
                proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return proto


def notes(proto: onnx.ModelProto) -> set[str]:
    return {entry.name for entry in proto.graph.value_info}


@dataclass(frozen=True)
class Left:
    """A model, and of what its fold consists: operators, constants beside the new ones, weights that were cloned."""

    text: str
    more: dict[str, np.ndarray] = field(default_factory=dict)
    ops: tuple[str, ...] = ("Conv", "Relu")
    constants: frozenset[str] = frozenset()
    cloned: tuple[str, ...] = ()


ONE = {"one": np.float32([1])}
PAIR = {"vv": np.abs(weights(8))}
SPLIT = PLAIN.replace("v)", "q)")
BRANCHES = (
    "h = If (k) <then_branch = a () => (float[] p) { p = Relu (x) }, else_branch = b () => (float[] o) { o = Abs (x) }>"
)
LEFT = {
    "parameters": Left(PLAIN),
    "a parameter that something else reads": Left(PLAIN.replace("(x)", "(g)"), constants=frozenset({"g"})),
    "a parameter that is put out": Left(
        PLAIN.replace("Conv (x, W)", "Conv (x, W, z)").replace("z = Relu (x)", "z = Add (one, one)").replace("be", "z"),
        {"one": np.float32([1, 2, 3, 4])}, ("Conv", "Add"), frozenset({"be", "one"}), ("z",),
    ),
    "an expression": Left(f"two = Add (one, one)  q = Mul (v, two)  {SPLIT}", ONE),
    "an expression of which a part is read elsewhere": Left(
        f"two = Add (one, one)  q = Mul (v, two)  {SPLIT.replace('(x)', '(two)')}", ONE, ("Add", "Conv", "Relu"),
        frozenset({"one"}),
    ),
    "an expression with an operand left out": Left(f'q = Clip (v, "", one)  {SPLIT}', {"one": np.float32(1)}),
    "an expression with two outputs": Left(f"q, r = Split <axis = 0> (vv)  {SPLIT}", PAIR, constants=frozenset("v")),
    "an expression whose second output is read elsewhere": Left(
        f"q, r = Split <axis = 0> (vv)  {SPLIT.replace('(x)', '(r)')}", PAIR, ("Split", "Conv", "Relu"),
        frozenset({"v", "vv"}),
    ),
    "an expression whose second output is put out": Left(
        f"q, z = Split <axis = 0> (vv)  {SPLIT.replace('z = Relu (x)', '')}", PAIR, ("Split", "Conv"),
        frozenset({"v", "vv"}),
    ),
    "a node with graphs, of which the type alone is read": Left(
        f"{BRANCHES}  q = CastLike (v, h)  {SPLIT}", ops=("If", "Conv", "Relu")
    ),
    "an input, of which the type alone is read": Left(f"q = CastLike (v, u)  {SPLIT}"),
    "a weight that another node reads": Left(
        PLAIN.replace("Relu (x)", "Relu (W)"), constants=frozenset("W"), cloned=("W",)
    ),
    "a computed weight": Left("V = Identity (W)  " + PLAIN.replace("W", "V")),
    "a computed weight that another node reads": Left(
        "V = Identity (W)  " + PLAIN.replace("W", "V").replace("(x)", "(V)"), ops=("Identity", "Conv", "Relu"),
        constants=frozenset("W"), cloned=("V",),
    ),
}  # fmt: skip


def test_a_note_keeps_all_that_it_says_but_the_name() -> None:
    text = "c0 = Conv (x, W)  c = Transpose <perm = [0, 1, 3, 2]> (c0)  y = BatchNormalization (c, g, be, m, v)"
    before = model(f"{HEAD} {{ {text}  z = Relu (x) }}", W=W, **norm(4))
    before.graph.value_info.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, [2, 4, 3, 3]))
    (note,) = folded(before).proto.graph.value_info
    assert note == helper.make_tensor_value_info("c0_folded", TensorProto.FLOAT, [2, 4, 3, 3])


@pytest.mark.parametrize("kind", LEFT)
def test_what_nobody_reads_any_more_goes_and_nothing_else(kind: str) -> None:
    left = LEFT[kind]
    before = noted(model(f"{HEAD} {{ {left.text} }}", **{"W": W, **norm(4), **left.more}))
    after = folded(before)
    held = constants(after.proto).keys()
    assert tuple(after.ops) == left.ops
    assert held & constants(before).keys() == left.constants
    assert len(held) == len(left.constants) + 2
    assert after.cloned == left.cloned
    assert notes(after.proto) == notes(before) & (held | {n for node in after.proto.graph.node for n in node.output})


QUANTISED = """d = DequantizeLinear (q, s%s)  c = Conv (x, d)  y = BatchNormalization (c, g, be, m, v)  z = %s"""


@pytest.mark.parametrize("zero", ["", ', ""', ", p"])
@pytest.mark.parametrize(("other", "stays"), [("Relu (x)", set()), ("Relu (d)", {"s"}), ("Relu (s)", {"s"})])
def test_a_dequantisation_is_copied_and_goes_unless_something_else_reads_it(
    zero: str, other: str, stays: set[str]
) -> None:
    integers = np.random.default_rng(0).integers(-7, 8, W.shape).astype(np.int8)
    stored = {"q": integers, "s": np.float32(0.25), **({"p": np.int8(1)} if zero == ", p" else {})}
    text = f"{HEAD} {{ {QUANTISED % (zero, other)} }}"
    after = folded(model(text, **norm(4), **{name: np.asarray(value) for name, value in stored.items()}))
    kept = other == "Relu (d)"
    assert after.ops == ["DequantizeLinear"] * (1 + kept) + ["Conv", "Relu"]
    held = constants(after.proto).keys()
    assert held & {*stored, *norm(4)} == {"q"} | stays | ({"p"} if kept and zero == ", p" else set())
    assert set(after.cloned) == stays | (held & {"p"})


def test_what_a_tap_leaves_stays_where_something_else_reads_it() -> None:
    """The BatchNormalization beside the Conv goes, and so does the sum; one that stays reads the same scale."""
    before = model(
        """(float[1,3,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z) {
            c = Conv (x, W)  n = BatchNormalization (x, g, be, m, v)  y = Add (c, n)
            s = Sigmoid (x)  z = BatchNormalization (s, g, hbe, hm, hv) }""",
        W=weights(3, 3, 1, 1), **norm(3), **{name: a for name, a in norm(3, "h", seed=1).items() if name != "hg"},
    )  # fmt: skip
    done = fold(before)
    assert done.ops == ["Conv", "Sigmoid", "BatchNormalization"]
    assert set(constants(done.proto)) >= {"g", "hbe", "hm", "hv"}
    assert not {"be", "m", "v"} & set(constants(done.proto))
    onnx.checker.check_model(done.proto)
