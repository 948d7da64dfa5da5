"""The model to plan for: inlining and freezing of files as they are, and functions that cannot be inlined."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_builders import example, loaded, with_external
from onnx import TensorProto, helper, numpy_helper, parser

from bnfold.errors import InputRefused
from bnfold.model import ModelFile, read, subject_of, to_bytes
from bnfold.model import inlining as inlining_module
from bnfold.model.tensors import all_tensors

HEAD = '<ir_version: 10, opset_import: ["" : 17, "own" : 1]>\nagraph (float[2,3] x) => (float[2,3] y) '
FUNCTION = '\n<opset_import: ["" : 17, "own" : 1], domain: "own">\n'


def inlined(text: str | onnx.ModelProto) -> ModelFile:
    proto = parser.parse_model(text) if isinstance(text, str) else text
    return subject_of(read(proto), inline=True).model


def same_data(one: ModelFile, other: ModelFile) -> bool:
    """Whether the tensors of two models hold the same arrays, in whatever order."""

    def held(file: ModelFile) -> list[tuple[str, bytes]]:
        arrays = ((tensor, file.array(tensor)) for tensor in all_tensors(file.proto))
        return sorted((str(array.dtype), array.tobytes()) for _, array in arrays)

    return held(one) == held(other)


# What comes out.


def test_payloads_that_the_skeleton_leaves_out_come_back_in_every_graph(tmp_path: Path) -> None:
    for source in (read(example()), read(saved_outside(tmp_path))):
        subject = subject_of(source, inline=True)
        assert subject.functions == ("local.twice",)
        assert len(subject.model.proto.functions) == 0
        assert same_data(subject.model, source)
        assert (
            subject.model.sha256
            == hashlib.sha256(subject.model.storage.content.read(0, subject.model.size)).hexdigest()
        )
        assert subject.model.path == source.path


def saved_outside(folder: Path) -> Path:
    with_external(example(), folder / "m.onnx")
    return folder / "m.onnx"


def test_external_data_are_not_taken_into_the_model(tmp_path: Path) -> None:
    source = read(saved_outside(tmp_path))
    subject = subject_of(source, inline=True, freeze_inputs=True)
    assert subject.model.data_files == source.data_files != ()
    assert subject.model.size < 2 * source.size < sum(file.stat().st_size for file in source.data_files)
    assert (
        loaded(tmp_path / "m.onnx").graph.initializer
        == onnx.load_model_from_string(to_bytes(subject.model, {})).graph.initializer
    )


def test_what_has_nothing_to_inline_and_nothing_to_freeze_is_the_model_itself() -> None:
    source = read(parser.parse_model(HEAD + "{ y = Neg (x) }"))
    subject = subject_of(source, inline=True, freeze_inputs=True)
    assert subject.is_original
    assert (subject.functions, subject.inputs) == ((), ())
    assert subject_of(read(example())).is_original


def test_freezing_leaves_every_other_byte(tmp_path: Path) -> None:
    """Also of a file in an order that no serialiser would write."""
    proto = example()
    proto.graph.input.insert(1, helper.make_tensor_value_info("large", TensorProto.DOUBLE, [20, 30]))
    proto.graph.input[1].doc_string = "a default that goes"
    graph, rest = onnx.ModelProto(graph=proto.graph), onnx.ModelProto()
    rest.CopyFrom(proto)
    rest.ClearField("graph")
    swapped = graph.SerializeToString() + rest.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(swapped)
    subject = subject_of(read(tmp_path / "m.onnx"), freeze_inputs=True)
    assert subject.inputs == ("large",)
    del graph.graph.input[1]
    assert (
        subject.model.storage.content.read(0, subject.model.size)
        == graph.SerializeToString() + rest.SerializeToString()
    )


def test_the_call_of_a_function_that_bears_an_operator_s_name_is_inlined() -> None:
    text = HEAD + '{ y = Neg (x) }\n<opset_import: ["" : 17], domain: ""> Neg (a) => (b) { b = Abs (a) }'
    assert [node.op_type for node in inlined(text).proto.graph.node] == ["Abs"]


def test_a_function_of_another_opset_is_converted_where_the_types_are_known() -> None:
    text = HEAD + '{ y = own.f (x) }\n<opset_import: ["" : 12], domain: "own"> f (a) => (b) { b = Neg (a) }'
    assert [node.op_type for node in inlined(text).proto.graph.node] == ["Neg"]


# What cannot be inlined.

CALLS_ITSELF = HEAD + "{ y = own.f (x) }" + FUNCTION + "f (a) => (b) { c = Neg (a)  b = own.f (c) }"
CALL_EACH_OTHER = (
    HEAD
    + "{ y = own.f (x) }"
    + FUNCTION
    + "f (a) => (b) { b = own.h (a) }"
    + FUNCTION
    + "h (a) => (b) { b = own.f (a) }"
)
OLDER = HEAD + (
    "<float[3] s = {1,2,3}> { t = own.f (x, s)  y = Identity (t) }\n"
    '<opset_import: ["" : 9], domain: "own"> f (a, s) => (b) { b = Upsample (a, s) }'
)
DISAGREEING = HEAD + (
    "{ t = own.f (x)  y = own.h (t) }\n"
    '<opset_import: ["" : 17, "com.microsoft" : 1], domain: "own"> f (a) => (b) { b = com.microsoft.Gelu (a) }\n'
    '<opset_import: ["" : 17, "com.microsoft" : 2], domain: "own"> h (a) => (b) { b = com.microsoft.Gelu (a) }'
)
UNSURE = (
    HEAD
    + "{ y = own.f (x) }"
    + FUNCTION
    + "f <s> (a) => (b) { b = own.h <s: float = @s> (a) }"
    + FUNCTION
    + "h <s: float = 0.5> (a) => (b) { b = LeakyRelu <alpha: float = @s> (a) }"
)
TOO_MANY = HEAD + "{ y = own.f (x, x) }" + FUNCTION + "f (a) => (b) { b = Neg (a) }"
PASSED_THROUGH = HEAD + "{ y = own.f (x) }" + FUNCTION + "f (a) => (a) { b = Neg (a) }"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CALLS_ITSELF, r"own\.f calls itself"),
        (CALL_EACH_OTHER, r"own\.(f|h) calls itself"),
        (OLDER, "onnx's inliner"),
        (DISAGREEING, "onnx's inliner"),
        (UNSURE, r"whether own\.h takes the default of 's' depends on an outer call"),
        (TOO_MANY, "onnx's inliner fails: .*actual parameters"),
        (PASSED_THROUGH, "what comes out is broken: .*'y'"),
    ],
    ids=["itself", "each other", "older", "disagreeing", "unsure", "too many", "passed through"],
)
def test_functions_that_cannot_be_inlined_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputRefused, match=rf"the functions of the model cannot be inlined: .*{says}") as raised:
        inlined(text)
    assert "\n" not in str(raised.value)


def growing(depth: int) -> onnx.ModelProto:
    """Functions that each call the next one twice."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(depth):
        op, domain = (f"f{level + 1}", "own") if level + 1 < depth else ("Neg", "")
        nodes = [helper.make_node(op, ["a"], ["t"], domain=domain), helper.make_node(op, ["t"], ["b"], domain=domain)]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], nodes, imports))
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="own")], "g", port[:1], port[1:])
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)


def test_functions_that_would_explode_are_refused_before_any_is_inlined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(inlined(growing(10)).proto.graph.node) == 1024
    monkeypatch.setattr(inlining_module.inliner, "inline_local_functions", None)
    with pytest.raises(InputRefused, match=r"make 1,208,925,819,614,629,174,706,176 nodes, more than 1,048,576"):
        inlined(growing(80))


def test_a_chain_of_functions_deeper_than_onnx_allows_is_refused() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = growing(1)
    del model.functions[:]
    for level in range(3000):
        op, domain = (f"f{level + 1}", "own") if level + 1 < 3000 else ("Neg", "")
        node = helper.make_node(op, ["a"], ["b"], domain=domain)
        model.functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], [node], imports))
    with pytest.raises(InputRefused, match="chain depth"):
        inlined(model)


def test_a_function_that_training_calls_is_refused() -> None:
    """The inliner does not look there, and drops the function."""
    model = parser.parse_model(HEAD + "{ y = own.f (x) }" + FUNCTION + "f (a) => (b) { b = Neg (a) }")
    training = model.training_info.add()
    training.algorithm.CopyFrom(model.graph)
    with pytest.raises(InputRefused, match=r"leaves own\.f as it is"):
        inlined(model)


def test_the_refusal_names_the_file(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(CALLS_ITSELF), tmp_path / "m.onnx")
    with pytest.raises(InputRefused, match=r"the functions of '.*m\.onnx' cannot be inlined"):
        subject_of(read(tmp_path / "m.onnx"), inline=True)
    assert subject_of(read(tmp_path / "m.onnx"), freeze_inputs=True).is_original


def test_a_mark_of_the_skeleton_in_a_file_is_not_taken_for_one() -> None:
    """A file that claims bytes of itself as external data is refused when it is read, before anything is restored."""
    model = parser.parse_model(HEAD + "{ y = own.f (x) }" + FUNCTION + "f (a) => (b) { k = Neg (a)  b = Add (k, w) }")
    value = numpy_helper.from_array(np.zeros(3, np.float32), "")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    for key, text in (("location", ""), ("offset", "0"), ("length", "12")):
        value.external_data.add(key=key, value=text)
    model.functions[0].node.insert(0, helper.make_node("Constant", [], ["w"], value=value))
    with pytest.raises(InputRefused, match="names no file"):
        inlined(model)
