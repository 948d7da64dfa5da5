"""Inlining: a model's own functions fold like everything else, and that they mean the same is shown by running."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from folding_support import model, norm, run, weights
from onnx import helper, numpy_helper, parser

import bnfold
from bnfold.equality.nested import nodes_of

W = weights(4, 3, 3, 3)
NET = """(float[N,3,5,5] x) => (float[N,4,3,3] y) {
    c = Conv (x, W)  n = BatchNormalization (c, g, be, m, v)  y = Relu (n)
}"""
BLOCKED = """(float[N,3,5,5] x) => (float[N,4,3,3] y) {
    c = Conv (x, W)  r = Relu (c)  y = BatchNormalization (r, g, be, m, v)
}"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def outside(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=16)
    return path


MODEL = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
agraph (float[2,3,6,6] x) => (float[2,4,2,2] y) {
    a = own.block (x, W, g, be, m, v)
    y = own.block <alpha = 0.5> (a, V, g, be, m, v)
}
<opset_import: ["" : 17], domain: "own">
block <alpha: float = 0.25> (x, w, g, be, m, v) => (y) {
    c = Conv (x, w)  n = BatchNormalization <epsilon = 0.001> (c, g, be, m, v)
    y = LeakyRelu <alpha: float = @alpha> (n)
}"""


def called(text: str, **tensors: object) -> onnx.ModelProto:
    proto = parser.parse_model(text)
    given = {"W": W, "V": weights(4, 4, 3, 3, seed=2), **norm(4)} | tensors
    names = {name for node in nodes_of(proto) for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in given.items() if name in names)
    return proto


def shown(result: bnfold.FoldResult) -> bnfold.EndToEnd:
    """The evidence of running both models; nothing was differing, and the outputs were no constants."""
    assert isinstance(result.verdict, bnfold.Same)
    assert (result.verdict.certified, result.verdict.executed) == (True, True)
    assert result.verdict.end_to_end is not None
    assert any("constant" in note for note in result.verdict.end_to_end.notes) is False
    return result.verdict.end_to_end


def test_a_function_called_twice_folds_into_two_weights() -> None:
    before = called(MODEL)
    assert bnfold.fold(before).plan.moves == ()
    result = bnfold.fold(before, inline=True)
    after = result.to_proto()
    assert [node.op_type for node in after.graph.node] == ["Conv", "LeakyRelu", "Conv", "LeakyRelu"]
    assert len(after.functions) == 0
    assert result.inlined_functions == ("own.block",)
    assert any("functions were inlined" in note for note in shown(result).notes)
    assert (result.before.nodes, result.after.nodes) == (5, 4)


def test_defaults_of_attributes_survive_inlining() -> None:
    """Left to itself, onnx's inliner gives a call without the attribute the operator's default, here 0.01."""
    after = bnfold.fold(called(MODEL), inline=True).to_proto()
    slopes = [node.attribute[0].f for node in after.graph.node if node.op_type == "LeakyRelu"]
    assert slopes == [0.25, 0.5]


def test_a_wrong_inlining_is_found_by_running_both_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.model.inlining._give_defaults", lambda _: None)
    with pytest.raises(bnfold.NotVerified) as raised:
        bnfold.fold(called(MODEL), inline=True)
    assert isinstance(raised.value.verdict, bnfold.Differs)


NESTED = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
agraph (float[2,3,6,6] x, bool k) => (float[2,4,4,4] y) {
    c = Neg (x)
    y = If (k) <then_branch = t () => (float[2,4,4,4] p) { n = own.outer (c, W, g, be, m, v)  p = own.bend (n) },
                else_branch = e () => (float[2,4,4,4] q) { q = own.outer (x, W, g, be, m, v) }>
}
<opset_import: ["" : 17, "own" : 1], domain: "own">
outer (x, w, g, be, m, v) => (y) {
    n = own.inner (x, w, g, be, m, v)  c = Abs (n)  y = own.bend <slope = 0.75> (c)
}
<opset_import: ["" : 17], domain: "own">
inner (x, w, g, be, m, v) => (y) { c = Conv (x, w)  y = BatchNormalization (c, g, be, m, v) }
<opset_import: ["" : 17], domain: "own">
bend <slope: float = 0.5> (c) => (n) { n = LeakyRelu <alpha: float = @slope> (c) }
<opset_import: ["" : 17], domain: "own">
unused (c) => (n) { n = Neg (c) }"""


def test_functions_in_functions_and_in_branches_are_inlined_whatever_their_names() -> None:
    before = called(NESTED)
    result = bnfold.fold(before, inline=True)
    assert len(result.plan.moves) == 2
    assert result.inlined_functions == ("own.outer", "own.inner", "own.bend", "own.unused")
    shown(result)
    after = result.to_proto()
    assert len(after.functions) == 0
    branches = [[node.op_type for node in a.g.node] for a in after.graph.node[1].attribute]
    assert sorted(branches) == [["Conv", "Abs", "LeakyRelu"], ["Conv", "Abs", "LeakyRelu", "LeakyRelu"]]


def test_overloads_and_branches_within_a_function_are_inlined() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    agraph (float[2,3] x, bool k) => (float[2,3] y) { a = own.f:one (x, k)  y = own.f:two (a) }
    <opset_import: ["" : 17], domain: "own", overload: "one">
    f (x, k) => (y) {
        y = If (k) <then_branch = t () => (p) { p = Neg (x) }, else_branch = e () => (q) { q = Abs (x) }>
    }
    <opset_import: ["" : 17], domain: "own", overload: "two">
    f (x) => (y) { y = Exp (x) }"""
    result = bnfold.fold(parser.parse_model(text), inline=True)
    assert result.inlined_functions == ("own.f:one", "own.f:two")
    assert shown(result).comparisons[0].equal


def test_a_domain_that_only_a_function_names_is_named_by_the_model() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    agraph (float[2,3] x) => (float[2,3] y) { y = own.f (x) }
    <opset_import: ["" : 17, "com.microsoft" : 1], domain: "own"> f (x) => (y) { y = com.microsoft.Gelu (x) }"""
    result = bnfold.fold(parser.parse_model(text), inline=True)
    assert {entry.domain for entry in result.to_proto().opset_import} == {"", "own", "com.microsoft"}
    assert shown(result).comparisons[0].equal


def test_a_model_without_functions_is_not_changed_by_inlining() -> None:
    plain = model(BLOCKED, W=W, **norm(4))
    result = bnfold.fold(plain, inline=True)
    assert result.is_unchanged
    assert result.to_bytes() == plain.SerializeToString(deterministic=True)
    assert bnfold.fold(plain, inline=True, verify="certificate").is_unchanged


def test_functions_are_inlined_even_if_nothing_folds() -> None:
    before = called(MODEL)
    result = bnfold.fold(before, inline=True, skip=["*"])
    assert result.plan.moves == ()
    assert [node.op_type for node in result.to_proto().graph.node] == ["Conv", "BatchNormalization", "LeakyRelu"] * 2
    assert all(comparison.equal for comparison in shown(result).comparisons)


def test_inlining_twice_is_inlining_once() -> None:
    once = bnfold.fold(called(NESTED), inline=True).to_bytes()
    assert bnfold.fold(once, inline=True).to_bytes() == once


def test_inlining_is_never_certified_without_running(tmp_path: Path) -> None:
    with pytest.raises(bnfold.Undecided, match="shown only by running both models"):
        bnfold.fold(called(MODEL), tmp_path / "out.onnx", inline=True, verify="certificate")
    assert list(tmp_path.iterdir()) == []
    plain = model(NET, W=W, **norm(4))
    verdict = bnfold.fold(plain, inline=True, verify="certificate").verdict
    assert isinstance(verdict, bnfold.Same)
    trusted = bnfold.fold(called(MODEL), inline=True, verify="off")
    assert (trusted.verdict, trusted.certificate) == (None, None)


def test_an_inlined_model_that_cannot_be_run_is_undecided_and_no_certificate_is_offered() -> None:
    text = MODEL.replace('"own" : 1]>\nagraph', '"own" : 1, "made" : 1]>\nagraph').replace("y = own", "b = own")
    custom = called(text.replace("v)\n}\n<", "v)\n y = made.Up (b)\n}\n<"))
    with pytest.raises(bnfold.Undecided, match="onnxruntime cannot run the original") as raised:
        bnfold.fold(custom, inline=True)
    assert "certificate" not in str(raised.value)


def test_what_the_inliner_loses_is_found_where_it_is_lost_though_what_follows_rounds_to_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a Round the outputs decide nothing, and the certificate begins after the inlining."""
    text = MODEL.replace("float[2,4,2,2] y", "int64[2,4,2,2] y").replace("y = own", "b = own")
    rounding = called(text.replace("v)\n}\n<", "v)\n r = Round (b)\n y = Cast <to = 7> (r)\n}\n<"))
    monkeypatch.setattr("bnfold.model.inlining._give_defaults", lambda _: None)
    with pytest.raises(bnfold.NotVerified, match="the first site that differs is LeakyRelu"):
        bnfold.fold(rounding, inline=True)


def test_large_constants_of_a_function_are_copied_to_each_call(tmp_path: Path) -> None:
    """Payloads that the parsed model leaves out come back, and external data stay where they are."""
    table = np.random.default_rng(0).standard_normal((3, 300)).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    agraph (float[2,3] x) => (float[2,300] y) { a = own.f (x)  b = own.f (x)  c = Add (a, b)  y = Add (c, large) }
    <opset_import: ["" : 17], domain: "own"> f (x) => (y) { y = MatMul (x, k) }"""
    before = parser.parse_model(text)
    before.functions[0].node.insert(
        0, helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(table, ""))
    )
    before.graph.initializer.append(numpy_helper.from_array(table[0], "large"))
    inside = bnfold.fold(before, inline=True)
    held = [node.attribute[0].t for node in inside.to_proto().graph.node if node.op_type == "Constant"]
    assert [np.array_equal(numpy_helper.to_array(tensor), table) for tensor in held] == [True, True]
    assert shown(inside).comparisons[0].equal

    path = outside(before, tmp_path / "m.onnx")
    data = (tmp_path / "w.bin").read_bytes()
    result = bnfold.fold(path, in_place=True, inline=True)
    assert result.left_behind == ()
    assert (tmp_path / "w.bin").read_bytes() == data
    (large,) = onnx.load(path, load_external_data=False).graph.initializer
    assert large.external_data[0].value == "w.bin"
    assert run(onnx.load(path), {"x": np.ones((2, 3), np.float32)})[0].shape == (2, 300)


def test_freezing_and_inlining_go_together() -> None:
    before = called(MODEL.replace("x)", "x, float[4,3,3,3] W, float[4] g)"))
    assert [r.reason.code for r in bnfold.plan(before, inline=True).refusals] == ["overridable"] * 2
    result = bnfold.fold(before, inline=True, freeze_inputs=True)
    assert len(result.plan.moves) == 2
    assert (result.inlined_functions, result.frozen_inputs) == (("own.block",), ("W", "g"))
    shown(result)


# What a plan was made for.


@pytest.mark.parametrize(
    "options", [{"freeze_inputs": True}, {"inline": True}, {"freeze_inputs": True, "inline": True}]
)
def test_a_plan_bears_the_fingerprint_of_what_would_be_written_if_nothing_folded(options: dict[str, bool]) -> None:
    before = called(MODEL.replace("x)", "x, float[4,3,3,3] W)"))
    plan = bnfold.plan(before, **options)
    unfolded = bnfold.fold(before, skip=["*"], **options)
    assert unfolded.plan.moves == ()
    assert plan.fingerprint == sha256(unfolded.to_bytes()) != sha256(before.SerializeToString(deterministic=True))
    assert bnfold.plan(unfolded.to_bytes()) == plan
    assert bnfold.Plan.from_json(json.loads(json.dumps(plan.to_json()))).fingerprint == plan.fingerprint


def test_without_anything_to_do_a_plan_is_of_the_file_itself() -> None:
    plain = model(NET, W=W, **norm(4))
    plan = bnfold.plan(plain, freeze_inputs=True, inline=True, assume_inference=True)
    assert plan.fingerprint == sha256(plain.SerializeToString(deterministic=True))
