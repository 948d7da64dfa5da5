"""Which values get a BatchNormalization: operators, names, inputs, bodies, functions, past activations, and axes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from inserting_support import inserted, model, noise, norms, run

import bnfold

CNN = """(float[N,3,8,8] x) => (float[N,5] y) {
    [first] c = Conv(x, w) [act] r = Relu(c) [up] d = ConvTranspose(r, u) f = GlobalAveragePool(d)
    e = Flatten(f) [last] y = Gemm(e, v) }"""
IN_IF = """(float[N,4,8] x, bool b) => (float[N,4,6] y) { c = Conv(x, w) [which] y = If(b) <
    then_branch = yes () => (float[N,4,6] p) { p = Conv <pads = [1,1]> (c, w) },
    else_branch = no () => (float[N,4,6] q) { z = Conv <pads = [1,1]> (c, w) q = Relu(z) }> }"""
IN_LOOP = """(float[N,4,8] x) => (float[N,4,8] y) { n = Constant <value = int64 {3}> ()
    t = Constant <value = bool {1}> ()
    y = Loop(n, t, x) <body = again (int64 i, bool go, float[N,4,8] h) => (bool on, float[N,4,8] o)
    { on = Identity(go) k = Conv <pads = [1,1]> (h, w) o = Tanh(k) }> }"""
SWISH = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x, w) s = Sigmoid(c) y = Mul(c, s) }"
CALLS = "(float[N,4,8] x) => (float[N,4,8] y) { a = mine.block(x, w) y = mine.block(a, w) }"
BLOCK = """<domain: "mine", opset_import: ["" : 17]> block (a, k) => (z)
    { c = Conv <pads = [1,1]> (a, k) z = Relu(c) }"""


def cnn(**more: object) -> onnx.ModelProto:
    return model(CNN, w=noise(4, 3, 3, 3), u=noise(4, 6, 2, 2), v=noise(6, 5), **more)  # type: ignore[arg-type]


def nested(text: str, **more: object) -> onnx.ModelProto:
    return model(text, w=noise(4, 4, 3), **more)  # type: ignore[arg-type]


def called(text: str = CALLS, block: str = BLOCK, **weights: np.ndarray) -> onnx.ModelProto:
    return model(text, imports=', "mine" : 1', functions=block, **(weights or {"w": noise(4, 4, 3)}))


def tensors(result: bnfold.InsertResult) -> list[str]:
    return [one.tensor for one in result.inserted]


def without_running(proto: onnx.ModelProto, **wishes: object) -> tuple[bnfold.InsertResult, onnx.ModelProto]:
    return inserted(proto, verify="off", **wishes)


# Named.


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"after": ["Conv"]}, ["c"]),
        ({"after": ["Conv", "ConvTranspose", "Gemm"]}, ["c", "d", "y"]),
        ({"after": ["Conv", "Conv"]}, ["c"]),
        ({"at": ["first"]}, ["c"]),
        ({"at": ["c"]}, ["c"]),
        ({"at": ["Conv#0 'first'"]}, ["c"]),
        ({"at": ["x"]}, ["x"]),
        ({"at": ["[dr]"]}, ["r", "d"]),
        ({"at": ["*st"], "after": ["Relu"]}, ["c", "r", "y"]),
        ({"after": ["Conv", "Gemm"], "skip": ["last"]}, ["c"]),
        ({"after": ["Conv", "Gemm"], "skip": ["c"]}, ["y"]),
        ({"after": ["Conv"], "past_activation": True}, ["r"]),
        ({"after": ["ConvTranspose", "Gemm"], "past_activation": True}, ["d", "y"]),
        ({"after": "Conv", "at": "last", "skip": "up"}, ["c", "y"]),
        ({"choose": lambda place: place.op == "Gemm"}, ["y"]),
        ({"choose": lambda place: np.greater(place.channels, 5)}, ["d", "f", "e"]),
        ({"choose": lambda place: place.channels == 6 and place.rank == 4}, ["d", "f"]),
        ({"after": ["Conv", "Gemm"], "choose": lambda place: place.tensor != "c"}, ["y"]),
    ],
)
def test_what_is_named_gets_one(wishes: dict[str, object], expected: list[str]) -> None:
    result, after = without_running(cnn(), **wishes)
    assert tensors(result) == expected
    assert len(norms(after)) == len(expected)


def test_a_place_says_what_a_callable_may_want_to_know() -> None:
    seen = {}

    def choose(place: bnfold.Place) -> bool:
        seen[place.tensor] = (place.op, str(place.site), place.shape, place.axis, place.channels)
        return False

    result, _ = without_running(cnn(), choose=choose)
    assert result.is_unchanged
    assert seen["c"] == ("Conv", "Conv#0 'first'", ("N", 4, 6, 6), 1, 4)
    assert seen["y"] == ("Gemm", "Gemm#5 'last'", ("N", 5), 1, 5)
    assert "x" not in seen, "inputs are asked for by name"


def test_all_readers_get_the_new_value_and_outputs_keep_their_names() -> None:
    text = "(float[N,4,8] x) => (float[N,4,6] c, float[N,4,6] y) { c = Conv(x, w) r = Relu(c) y = Add(r, c) }"
    _, after = without_running(nested(text), after=["Conv"])
    assert [value.name for value in after.graph.output] == ["c", "y"]
    (norm,) = norms(after)
    assert norm.output[0] == "c"
    assert [list(node.input) for node in after.graph.node if node.op_type in {"Relu", "Add"}] == [["c"], ["r", "c"]]


def test_an_input_keeps_its_name_and_its_readers_nested_ones_too_get_another() -> None:
    text = """(float[N,4,8] x, bool b) => (float[N,4,8] y, float[N,4,6] c) { c = Conv(x, w) y = If(b) <
        then_branch = yes () => (float[N,4,8] p) { p = Relu(x) }, else_branch = no () => (float[N,4,8] q) { q = Neg(x) }
        > }"""
    before = nested(text)
    _, after = inserted(before, at=["x"])
    assert [value.name for value in after.graph.input] == ["x", "b"]
    (norm,) = norms(after)
    assert norm.input[0] == "x"
    readers = [node for node in after.graph.node if "x" in node.input]
    assert readers == [norm]
    for branch in (True, False):
        feeds = {"x": noise(2, 4, 8), "b": np.array(branch)}
        np.testing.assert_array_equal(run(after, feeds)["y"], run(before, feeds)["y"])


@pytest.mark.parametrize(
    ("op", "outputs", "expected"),
    [("Split <axis = 2, num_outputs = 2>", "a, b", ["a"]), ("Split <axis = 2>", "a, b", ["a"])],
)
def test_behind_an_operator_of_several_outputs_is_behind_the_first(op: str, outputs: str, expected: list[str]) -> None:
    opset = 18 if "num" in op else 12
    text = f"(float[N,4,8] x) => (float[N,4,4] y) {{ {outputs} = {op} (x) y = Sub(a, b) }}"
    assert tensors(without_running(model(text, opset=opset), after=["Split"])[0]) == expected
    assert tensors(without_running(model(text, opset=opset), at=["b"])[0]) == ["b"]


# Bodies and functions.


def test_bodies_of_an_if_get_their_own() -> None:
    result, after = inserted(nested(IN_IF), after=["Conv"])
    assert tensors(result) == ["c", "p", "z"]
    assert [one.site.scope for one in result.inserted] == [
        "",
        "If#1 'which'.then_branch",
        "If#1 'which'.else_branch",
    ]
    assert len(after.graph.initializer) == 1 + 4, "parameters of bodies are Constant nodes there"
    assert len(norms(after)) == 3


def test_what_an_if_puts_out_is_a_place() -> None:
    result, after = inserted(nested(IN_IF), at=["y"])
    assert tensors(result) == ["y"]
    assert [node.op_type for node in after.graph.node] == ["Conv", "If", "BatchNormalization"]


def test_bodies_of_a_loop_get_theirs_and_what_they_are_fed_can_be_named() -> None:
    assert tensors(inserted(nested(IN_LOOP), after=["Conv"])[0]) == ["k"]
    assert tensors(inserted(nested(IN_LOOP), at=["h"])[0]) == ["h"]


def test_functions_get_one_that_serves_all_calls() -> None:
    result, after = inserted(called(), after=["Conv"])
    assert [(one.tensor, one.site.scope) for one in result.inserted] == [("c", "function mine.block")]
    assert len(norms(after)) == 1
    assert [node.op_type for node in after.functions[0].node].count("Constant") == 4
    assert len(after.graph.initializer) == 1


def test_a_function_may_be_called_with_other_sizes_but_not_with_other_channels() -> None:
    text = """(float[N,4,8] x, float[M,4,5] u) => (float[N,4,8] y, float[M,4,5] z)
        { y = mine.block(x, w) z = mine.block(u, w) }"""
    result, after = inserted(called(text), after=["Conv"])
    assert result.inserted[0].channels == 4
    feeds = {"x": noise(2, 4, 8), "u": noise(3, 4, 5)}
    assert run(after, feeds).keys() == {"y", "z"}
    text = """(float[N,4,8] x, float[M,3,5] u) => (float[N,4,8] y, float[M,6,5] z)
        { y = mine.block(x, w) z = mine.block(u, v) }"""
    with pytest.raises(bnfold.UsageError, match="the size of its axis 1, the channels, is None"):
        bnfold.insert(called(text, w=noise(4, 4, 3), v=noise(6, 3, 3)), after=["Conv"])


# Past activations, and axes.


@pytest.mark.parametrize(
    ("text", "op", "expected"),
    [
        (SWISH, "Conv", "y"),
        (SWISH.replace("Sigmoid", "HardSigmoid"), "Conv", "y"),
        (SWISH.replace("Mul(c, s)", "Mul(s, c)"), "Conv", "y"),
        (SWISH.replace("Mul(c, s)", "Add(c, s)"), "Conv", "c"),
        (SWISH.replace("Mul(c, s)", "Mul(s, s)"), "Conv", "s"),
        ("(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x, w) y = Clip(c) }", "Conv", "y"),
        ("(float[N,4,8] x) => (float[N,4,6] y, float[N,4,6] c) { c = Conv(x, w) y = Relu(c) }", "Conv", "c"),
        ("(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x, w) r = Relu(c) y = Sub(r, c) }", "Conv", "c"),
        ("(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x, w) m = MaxPool <kernel_shape = [1]> (c) y = Relu(m) }",
         "Conv", "c"),
        ("(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x, w) s = Add(c, b) y = Tanh(s) }", "Conv", "y"),
    ],
)  # fmt: skip
def test_past_the_activation_that_follows_if_one_does(text: str, op: str, expected: str) -> None:
    proto = model(text, w=noise(4, 4, 3), **({"b": noise(1, 4, 1)} if "b)" in text else {}))
    assert tensors(without_running(proto, after=[op], past_activation=True)[0]) == [expected]


LINEAR = "(float[N,6,8] x) => (float[N,6,5] y) { m = MatMul(x, w) b = Add(m, v) y = Relu(b) }"


@pytest.mark.parametrize(
    ("text", "wishes", "channels", "axis"),
    [
        ("(float[N,8] x) => (float[N,5] y) { y = MatMul(x, w) }", {}, 5, 1),
        ("(float[N,6,8] x) => (float[N,6,5] y) { y = MatMul(x, w) }", {}, 5, 2),
        ("(float[N,6,8] x) => (float[N,6,5] y) { y = MatMul(x, w) }", {"axis": 1}, 6, 1),
        ("(float[N,6,8] x) => (float[N,6,5] y) { y = MatMul(x, w) }", {"axis": -1}, 5, 2),
        ("(float[N,6,8] x) => (float[N,6,5] y) { y = MatMul(x, w) }", {"axis": -2}, 6, 1),
        ("(float[N,3,6,8] x) => (float[N,3,6,5] y) { y = MatMul(x, w) }", {}, 5, 3),
    ],
)
def test_the_channels_of_a_matmul_are_on_its_last_axis(
    text: str, wishes: dict[str, object], channels: int, axis: int
) -> None:
    result, after = inserted(model(text, w=noise(8, 5)), after=["MatMul"], **wishes)
    (one,) = result.inserted
    assert (one.channels, one.axis) == (channels, axis)
    assert [n.op_type for n in after.graph.node].count("Transpose") == (0 if axis == 1 else 2)


def test_behind_the_activation_of_a_matmul_the_channels_are_where_the_matmul_has_them() -> None:
    """The activation itself says nothing of channels, and an axis of positions must not be taken for them."""
    result, _ = inserted(model(LINEAR, w=noise(8, 5), v=noise(5)), after=["MatMul"], past_activation=True)
    assert [(one.tensor, one.channels, one.axis) for one in result.inserted] == [("y", 5, 2)]


# What has one already.


@pytest.mark.parametrize(
    "between", ["n = Norm(c)", "s = Add(c, b) n = Norm(s)", "i = Identity(c) n = Norm(i)",
                "t = Transpose <perm = [0,1,2]> (c) n = Norm(t)"],
)  # fmt: skip
def test_what_has_one_is_left_out_and_told(between: str) -> None:
    body = between.replace("Norm(", "BatchNormalization(").replace(")", ")")
    body = body[: body.rindex(")")] + ", g, e, m, v)"
    text = f"(float[N,4,8] x) => (float[N,4,6] y) {{ c = Conv(x, w) {body} y = Conv(n, w1) }}"
    four = {name: noise(4, seed=3) ** 2 + 1 for name in "gemv"}
    extra = {"b": noise(1, 4, 1)} if "b)" in between else {}
    result, after = without_running(model(text, w=noise(4, 4, 3), w1=noise(4, 4, 1), **four, **extra), after=["Conv"])
    assert tensors(result) == ["y"]
    assert [(one.tensor, one.code) for one in result.skipped] == [("c", "has-batch-norm")]
    assert "is followed by BatchNormalization" in result.skipped[0].sentence
    assert len(norms(after)) == 2


def test_where_everything_has_one_nothing_changes() -> None:
    text = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x, w) y = BatchNormalization(c, g, e, m, v) }"
    before = model(text, w=noise(4, 4, 3), **{name: noise(4, seed=3) ** 2 + 1 for name in "gemv"})
    result = bnfold.insert(before, after=["Conv"])
    assert result.is_unchanged
    assert result.verdict is None
    assert result.to_bytes() == before.SerializeToString()


@pytest.mark.parametrize("wishes", [{"after": ["MatMul"]}, {"at": ["y"]}, {"at": ["m*", "y*"]}, {"at": ["x*"]}])
def test_inserting_twice_is_inserting_once(wishes: dict[str, object]) -> None:
    """Also where it stands between two Transposes, and where the value is now what one of those puts out."""
    before = model("(float[N,6,8] x) => (float[N,6,5] y) { m = MatMul(x, w) y = Relu(m) }", w=noise(8, 5))
    once, after = without_running(before, axis=-1, **wishes)
    assert once.inserted
    assert norms(after)
    twice = bnfold.insert(once.to_bytes(), axis=-1, **wishes)  # type: ignore[arg-type]
    assert twice.is_unchanged
    assert {one.code for one in twice.skipped} == {"has-batch-norm"}
    assert twice.to_bytes() == once.to_bytes()
