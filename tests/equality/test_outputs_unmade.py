"""Outputs that no node makes, or that hang on no input: a weight, a default, an input, what constants give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from site_models import kernel, model, norm

import bnfold

# By what the further output is: inputs, outputs, nodes.
UNMADE = {
    "a constant that nothing reads": ("", "float[3] k", ""),
    "a weight": ("", "float[8,8,3,3] w", ""),
    "a statistic": ("", "float[8] m", ""),
    "integers": ("", "int64[4] i", ""),
    "a default": (", float[3] k", "float[3] k", ""),
    "an input": (", int64[2] j", "int64[2] j", ""),
    "what feeds the Conv": ("", "float[2,8,9,9] x", ""),
    "made of a constant": ("", "float[3] a", "a = Abs(k)"),
    "a node's own constant": ("", "float a", "a = Constant<value_float = 1.5>()"),
    "a constant of a body": (
        ", bool b",
        "float[2] a",
        (
            "a = If(b)<then_branch = t () => (float[2] p) <float[2] p = {1,2}> {}, "
            "else_branch = e () => (float[2] q) <float[2] q = {1,3}> {}>"
        ),
    ),
    "what a body makes of a constant": (
        ", bool b",
        "float[3] a, float[3] k",
        (
            "a = If(b)<then_branch = t () => (float[3] p) { p = Abs(k) }, "
            "else_branch = e () => (float[3] q) { q = Neg(k) }>"
        ),
    ),
}


def putting_out(kind: str) -> onnx.ModelProto:
    inputs, output, nodes = UNMADE[kind]
    text = (
        f"(float[2,8,9,9] x{inputs}) => (float[2,8,7,7] y, {output}) "
        f"{{ c = Conv(x,w) y = BatchNormalization(c,g,be,m,v) {nodes} }}"
    )
    return model(text, w=kernel(1), k=np.array([1.0, 2.0, 3.0]), i=np.arange(4), **norm())


@pytest.mark.parametrize("kind", UNMADE)
def test_an_output_that_no_node_makes_is_compared_like_any_other(kind: str, tmp_path: Path) -> None:
    onnx.save(putting_out(kind), tmp_path / "m.onnx")
    folded = bnfold.fold(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert folded.verdict is not None
    assert folded.verdict.word == "same"
    verdict = bnfold.verify(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert verdict.word == "same"
    assert verdict.sites is not None
    assert verdict.sites.compared == 1


def test_strings_and_what_a_function_makes_of_nothing_are_put_out_too(tmp_path: Path) -> None:
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "d" : 1]>
      g (float[2,8,9,9] x) => (float[2,8,7,7] y, float k, string[2] s)
      { c = Conv(x,w) y = BatchNormalization(c,g,be,m,v) k = d.F() }
      <domain: "d", opset_import: ["" : 17]> F () => (r) { r = Constant<value_float = 1.0>() }""")
    proto.graph.initializer.append(helper.make_tensor("s", onnx.TensorProto.STRING, [2], [b"a", b"b"]))
    for name, array in {"w": kernel(1), **norm()}.items():
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, tmp_path / "m.onnx")
    assert bnfold.fold(tmp_path / "m.onnx", tmp_path / "o.onnx").verdict.word == "same"


@pytest.mark.parametrize("kind", ["a constant that nothing reads", "a default", "made of a constant"])
def test_another_constant_in_such_an_output_is_a_difference(kind: str, tmp_path: Path) -> None:
    before, after = putting_out(kind), putting_out(kind)
    named = next(tensor for tensor in after.graph.initializer if tensor.name == "k")
    named.CopyFrom(numpy_helper.from_array(np.array([1.0, 2.0, 3.001], np.float32), "k"))
    onnx.save(before, tmp_path / "before.onnx")
    onnx.save(after, tmp_path / "after.onnx")
    assert bnfold.verify(tmp_path / "before.onnx", tmp_path / "after.onnx").word == "differs"


@pytest.mark.parametrize("text", ["(float[3] x) => (float[3] x)", "() => (float[3] k)", "(float x) => (float[3] k)"])
def test_a_graph_without_nodes_is_the_same_as_itself(text: str, tmp_path: Path) -> None:
    onnx.save(model(f"{text} {{}}", k=np.ones(3)), tmp_path / "m.onnx")
    assert bnfold.verify(tmp_path / "m.onnx", tmp_path / "m.onnx").word == "same"
