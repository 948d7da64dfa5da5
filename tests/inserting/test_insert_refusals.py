"""Where no BatchNormalization can stand, what names nothing, what data cannot give: a sentence, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from inserting_support import model, noise

import bnfold

CONV = '(float[N,4,8] x) => (float[N,4,6] y) { ["layer1.conv"] c = Conv(x, w) ["layer1.act"] y = Relu(c) }'


def conv(text: str = CONV, **more: object) -> onnx.ModelProto:
    return model(text, **{"w": noise(4, 4, 3), **more})  # type: ignore[arg-type]


def refusal(proto: onnx.ModelProto, kind: type[Exception] = bnfold.UsageError, **wishes: object) -> str:
    with pytest.raises(kind) as caught:
        bnfold.insert(proto, **wishes)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# What names nothing, with what comes near.


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({}, ["needs places", "--after Conv", "--at"]),
        (
            {"after": ["Convolution"]},
            ["--after 'Convolution': the model has no such operator", "near names are 'Conv'"],
        ),
        ({"after": ["conv"]}, ["no such operator", "'Conv'"]),
        ({"after": ["Conv", "Gemm"]}, ["--after 'Gemm'"]),
        ({"at": ["layer1.cnov"]}, ["--at 'layer1.cnov' names no node and no tensor", "'layer1.conv'"]),
        ({"at": ["layer2.*"]}, ["--at 'layer2.*' names no node and no tensor", "near names are 'layer1.*'"]),
        ({"at": ["LAYER1.CONV"]}, ["names no node"]),
        ({"at": [""]}, ["--at '' names no node"]),
        ({"after": ["Conv"], "skip": ["layer1.con"]}, ["--skip 'layer1.con' names no node", "'layer1.conv'"]),
        ({"after": ["Conv"], "axis": 0}, ["axis 0 counts samples"]),
        ({"after": ["Conv"], "init": "random"}, ["init is 'random'", "identity, preserve, normalize"]),
        ({"after": ["Conv"], "verify": "certificate"}, ["verify is 'certificate'", "full, off"]),
        ({"after": ["Conv"], "seed": -1}, ["seed is -1"]),
        ({"choose": lambda _: 1}, ["choose gives something of the type int", "True or False"]),
        ({"choose": lambda _: None}, ["choose gives something of the type NoneType"]),
    ],
)
def test_wishes_that_cannot_be_meant(wishes: dict[str, object], words: list[str]) -> None:
    sentence = refusal(conv(), **wishes)
    for word in words:
        assert word in sentence


# Sites where none may stand.

LONG = "(int64[N,4] x, float[N,4] z) => (float[N,4] y, int64[N,4] i) { i = Add(x, x) y = Relu(z) }"
FLAT = "(float[N] x) => (float[N] y) { y = Relu(x) }"
UNKNOWN = "(float[N,C,8] x) => (float[N,C,8] y) { y = Relu(x) }"
SHAPES = """(float[N,4,8] x) => (float[N,4,8] y) { s = Shape(x) f = Cast <to = 1> (s) u = Unsqueeze(f, one)
    m = MatMul(u, row) r = Relu(x) q = ReduceSum <keepdims = 0> (m) y = Add(r, q) }"""
UNREAD = "(float[N,4,8] x) => (float[N,4,8] y) { y = Relu(x) lost = Neg(x) }"
BOTH = "(float[N,4,8] x) => (float[N,4,8] x, float[N,4,8] y) { y = Relu(x) }"


@pytest.mark.parametrize(
    ("proto", "wishes", "words"),
    [
        (lambda: model(LONG), {"after": ["Add"]}, ["Add#0 ('i'): it holds int64, and BatchNormalization takes floats"]),
        (lambda: model(FLAT), {"after": ["Relu"]}, ["it has 1 dimension(s), and channels are the second one"]),
        (lambda: model(UNKNOWN), {"after": ["Relu"]}, ["the size of its axis 1, the channels, is C"]),
        (lambda: model(SHAPES, one=np.array([1]), row=noise(1, 5)), {"after": ["MatMul"]},
         ["MatMul#3 ('m'): it depends on nothing that an input holds", "computed from shapes alone"]),
        (lambda: model(UNREAD), {"at": ["lost"]}, ["nothing reads it"]),
        (lambda: model(BOTH), {"at": ["x"]}, ["an input that is an output at once"]),
        (conv, {"at": ["w"]}, ["it is a constant, a weight and no activation"]),
        (lambda: model("(float[N,4] x) => (float[N,4] y) { q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }",
                       s=np.float32(0.1)), {"after": ["QuantizeLinear"]}, ["('q'): it holds uint8"]),
        (lambda: model("(float[N,4] x) => (float[N,4] y) { d = DequantizeLinear(w, s) y = MatMul(x, d) }",
                       w=np.ones((4, 4), np.int8), s=np.float32(0.1)), {"after": ["DequantizeLinear"]},
         ["DequantizeLinear#0 ('d'): it depends on nothing that an input holds: a weight"]),
        (conv, {"after": ["Conv"], "axis": 3}, ["channels can be on axis 1 or on the last one, 2, and not on 3"]),
        (conv, {"after": ["Conv"], "axis": -3}, ["and not on 0"]),
        (lambda: model("(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = Relu(x) }"), {"after": ["Relu"], "axis": 2},
         ["channels can be on axis 1 or on the last one, 3, and not on 2"]),
        (lambda: model("(float[N,4,8] x) => (float[N,4,8] y) { k = Relu(w) y = Mul(x, k) }", w=noise(1, 4, 1)),
         {"after": ["Relu"]}, ["Relu#0 ('k'): it is a constant"]),
        (lambda: model("(float[N,4] x) => (seq(float[N,2]) y) { y = SplitToSequence <axis = 1> (x, two) }",
                       two=np.array(2)), {"after": ["SplitToSequence"]}, ["its type is not known"]),
        (lambda: model("(bfloat16[N,4] x) => (bfloat16[N,4] y) { y = Relu(x) }", opset=13), {"after": ["Relu"]},
         ["takes bfloat16 from opset 14 on"]),
    ],
)  # fmt: skip
def test_places_that_were_named_exactly_must_be_legal(
    proto: Callable[[], onnx.ModelProto], wishes: dict[str, object], words: list[str]
) -> None:
    sentence = refusal(proto(), **wishes)
    assert sentence.startswith("no BatchNormalization can stand at ")
    for word in words:
        assert word in sentence


def test_an_overridable_weight_is_no_activation() -> None:
    proto = conv()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4, 3]))
    assert "it is an initializer, a weight and no activation" in refusal(proto, at=["w"])


def test_in_an_old_file_an_input_that_is_a_weight_is_one() -> None:
    assert "a weight and no activation" in refusal(conv(ir=3, opset=7), at=["w"])


def test_every_illegal_place_has_its_reason_up_to_a_few() -> None:
    text = """(int64[N,4] x) => (int64[N,4] y) { a = Add(x, x) b = Add(a, x) c = Add(b, x) d = Add(c, x) e = Add(d, x)
        y = Add(e, x) }"""
    sentence = refusal(model(text), after=["Add"])
    assert sentence.count("it holds int64") == 4
    assert "and 2 more" in sentence
    assert "skip leaves a place out" in sentence


def test_what_only_a_wildcard_names_is_left_out_and_told() -> None:
    result = bnfold.insert(model(LONG), at=["[iy]"], verify="off")
    assert [one.tensor for one in result.inserted] == ["y"]
    assert [(one.tensor, one.code) for one in result.skipped] == [("i", "type")]
    assert "it holds int64" in refusal(model(LONG), at=["i*"]), "unless nothing else is left"


def test_what_is_illegal_can_be_left_out() -> None:
    result = bnfold.insert(model(LONG), after=["Add", "Relu"], skip=["i"], verify="off")
    assert [one.tensor for one in result.inserted] == ["y"]
    assert [(one.tensor, one.code) for one in result.skipped] == [("i", "skipped")]


# Opsets.


@pytest.mark.parametrize("wishes", [{"after": ["Conv"]}, {"at": ["layer1.*"]}, {"choose": lambda _: True}])
@pytest.mark.parametrize("opset", [1, 5, 6])
def test_an_opset_too_old_is_refused_with_the_conversion(opset: int, wishes: dict[str, object]) -> None:
    sentence = refusal(conv(opset=opset, ir=3), bnfold.InputRefused, **wishes)
    assert f"the model has opset {opset}" in sentence
    assert "version_converter.convert_version" in sentence


def test_in_training_bodies_and_functions_are_refused() -> None:
    text = """(float[N,4,8] x, bool b) => (float[N,4,8] y) { y = If(b) <
        then_branch = yes () => (float[N,4,8] p) { p = Relu(x) }, else_branch = no () => (float[N,4,8] q) { q = Neg(x) }
        > }"""
    assert "cannot leave a nested graph" in refusal(model(text), after=["Relu"], training=True)
    function = '<domain: "mine", opset_import: ["" : 17]> act (a) => (z) { z = Relu(a) }'
    called = model("(float[N,4] x) => (float[N,4] y) { y = mine.act(x) }", imports=', "mine" : 1', functions=function)
    assert "cannot leave a function as graph outputs; inline it first" in refusal(called, after=["Relu"], training=True)


def test_functions_that_are_called_nowhere_or_with_several_types_are_refused() -> None:
    function = '<domain: "mine", opset_import: ["" : 17]> act (a) => (z) { z = Tanh(a) }'
    text = "(float[N,4] x, double[N,4] u) => (float[N,4] y, double[N,4] v) { y = mine.act(x) v = mine.act(u) }"
    of_both = model(text, imports=', "mine" : 1', functions=function)
    assert "its type differs from one call of its function to the next" in refusal(of_both, after=["Tanh"])
    text = "(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
    unused = model(text, imports=', "mine" : 1', functions=function)
    assert "its function is called nowhere" in refusal(unused, after=["Tanh"])


def test_weights_that_a_function_is_given_are_no_activations() -> None:
    function = '<domain: "mine", opset_import: ["" : 17]> layer (a, k) => (z) { n = Neg(k) z = Conv(a, n) }'
    text = "(float[N,4,8] x) => (float[N,4,6] y) { y = mine.layer(x, w) }"
    proto = model(text, imports=', "mine" : 1', functions=function, w=noise(4, 4, 3))
    assert "('n'): it depends on nothing that an input holds: a weight" in refusal(proto, after=["Neg"])
    result = bnfold.insert(proto, choose=lambda _: True, verify="off")
    assert [one.tensor for one in result.inserted] == ["y", "z"]


# Data.


@pytest.mark.parametrize("init", ["preserve", "normalize"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, ["takes its statistics from data, and there are none"]),
        ({"z": noise(2, 4, 8), "u": noise(2, 4, 8)}, ["'z'", "'u'"]),
        ({"x": noise(2, 5, 8)}, ["'x'", "5"]),
        ({"x": noise(2, 4)}, ["'x'"]),
        ({"x": np.array([[["a"]]])}, ["'x'"]),
        ({"x": np.full((2, 4, 8), np.nan, np.float32)}, ["the data for 'x' hold nan at [0, 0, 0]"]),
        ([{"x": noise(2, 4, 8)}, {"x": np.where(np.arange(8) == 5, np.inf, noise(1, 4, 8))}],
         ["hold inf at [0, 0, 5] of 'data[1]"]),
        ([], ["gives no data"]),
        (3, ["the data are of the type int"]),
        ("nowhere.npz", ["'nowhere.npz' is no file or folder"]),
        ({"x": np.full((2, 4, 8), 3e38, np.float32)}, ["Conv#0 'layer1.conv' ('c') is NaN or infinite on the data"]),
    ],
)  # fmt: skip
def test_data_that_give_no_statistics(init: str, data: object, words: list[str]) -> None:
    sentence = refusal(conv(), after=["Conv"], init=init, data=data)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize("init", ["preserve", "normalize"])
def test_one_element_has_no_variance(init: str) -> None:
    gemm = model("(float[N,4] x) => (float[N,3] y) { y = Gemm(x, w) }", w=noise(4, 3))
    sentence = refusal(gemm, after=["Gemm"], init=init, data=noise(1, 4))
    assert (
        sentence == "the data give Gemm#0 ('y') one value per channel, which has no variance: more samples are needed"
    )
    result = bnfold.insert(gemm, after=["Gemm"], init=init, data=noise(2, 4))  # type: ignore[arg-type]
    assert result.inserted[0].count == 2


@pytest.mark.parametrize("opset", [7, 13])
@pytest.mark.parametrize(
    ("size", "init"), [(300.0, "preserve"), (1e-4, "preserve"), (300.0, "normalize"), (1e-4, "normalize")]
)
def test_variances_that_float16_does_not_hold_are_refused(opset: int, size: float, init: str) -> None:
    """Before opset 14 the statistics of float16 are float16: 65,536 is infinite there, and 1e-8 zero."""
    half = conv(CONV.replace("float[", "float16["), opset=opset, w=noise(4, 4, 3, dtype=np.float16))
    data = (noise(10, 4, 8) * size).astype(np.float16)
    sentence = refusal(half, after=["Conv"], init=init, data=data)
    assert "which float16 cannot hold; from opset 14 on they may be float32: convert it" in sentence
    newer = conv(CONV.replace("float[", "float16["), opset=15, w=noise(4, 4, 3, dtype=np.float16))
    assert bnfold.insert(newer, after=["Conv"], init=init, data=data).inserted  # type: ignore[arg-type]


def test_variances_that_overflow_float32_are_refused() -> None:
    sentence = refusal(conv(), after=["Conv"], init="preserve", data=noise(10, 4, 8) * np.float32(1e25))
    assert "which float32 cannot hold" in sentence


def test_a_branch_that_never_runs_has_no_statistics() -> None:
    text = """(float[N,4,8] x, bool b) => (float[N,4,8] y) { y = If(b) <
        then_branch = yes () => (float[N,4,8] p) { p = Relu(x) }, else_branch = no () => (float[N,4,8] q) { q = Neg(x) }
        > }"""
    data = {"x": noise(2, 4, 8), "b": np.array(False)}
    sentence = refusal(model(text), after=["Relu", "Neg"], init="preserve", data=data)
    assert "the data never reach If#0.then_branch/Relu#0 ('p')" in sentence


def test_an_iterator_has_one_pass_and_layers_need_several() -> None:
    two = conv("(float[N,4,8] x) => (float[N,4,4] y) { c = Conv(x, w) y = Conv(c, w) }")
    data = (noise(3, 4, 8, seed=i) for i in range(3))
    assert "an iterator, which ends after one pass" in refusal(two, after=["Conv"], init="normalize", data=data)


@pytest.mark.parametrize("inside", ["loop", "function"])
def test_what_comes_back_to_itself_has_no_order_of_layers(inside: str) -> None:
    loop = """(float[N,4,8] x) => (float[N,4,8] y) { n = Constant <value = int64 {2}> ()
        t = Constant <value = bool {1}> ()
        y = Loop(n, t, x) <body = again (int64 i, bool go, float[N,4,8] h) => (bool on, float[N,4,8] o)
        { on = Identity(go) o = Tanh(h) }> }"""
    function = '<domain: "mine", opset_import: ["" : 17]> act (a) => (z) { z = Tanh(a) }'
    fed_back = "(float[N,4,8] x) => (float[N,4,8] y) { h = mine.act(x) y = mine.act(h) }"
    proto = model(loop) if inside == "loop" else model(fed_back, imports=', "mine" : 1', functions=function)
    sentence = refusal(proto, after=["Tanh"], init="normalize", data=noise(5, 4, 8))
    assert "what it puts out comes back to it" in sentence
    assert "use preserve there" in sentence
    assert bnfold.insert(proto, after=["Tanh"], init="preserve", data=noise(5, 4, 8)).inserted


# Nothing is written.


@pytest.mark.parametrize(
    ("wishes", "kind"),
    [
        ({"after": ["Gemm"]}, bnfold.UsageError),
        ({"after": ["Conv"], "init": "preserve"}, bnfold.UsageError),
        ({"after": ["Conv"], "init": "preserve", "data": np.full((2, 4, 8), 3e38, np.float32)}, bnfold.UsageError),
    ],
)
def test_nothing_is_written_where_it_is_refused(
    tmp_path: Path, wishes: dict[str, object], kind: type[Exception]
) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(conv(), source)
    before = source.read_bytes()
    for target in ({"output": tmp_path / "out.onnx"}, {"in_place": True}):
        with pytest.raises(kind):
            bnfold.insert(source, **target, **wishes)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert source.read_bytes() == before


def test_a_model_that_onnxruntime_cannot_run_is_undecided() -> None:
    """There is no kernel for float64 Conv on the CPU: nothing can be shown, unless one does not ask for it."""
    double = conv(CONV.replace("float[", "double["), w=noise(4, 4, 3, dtype=np.float64))
    assert "onnxruntime" in refusal(double, bnfold.Undecided, after=["Conv"])
    assert bnfold.insert(double, after=["Conv"], verify="off").inserted
    sentence = refusal(double, bnfold.Undecided, after=["Conv"], init="preserve", data=noise(4, 4, 8, dtype=np.float64))
    assert "onnxruntime cannot run the model on 'data" in sentence
