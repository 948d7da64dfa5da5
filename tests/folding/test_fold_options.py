"""Freezing: defaults that a caller may override become constants, are folded, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from folding_support import cannot_run, constants, inputs, model, norm, run, weights
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.model import read, subject_of
from bnfold.result import certificate_of

W = weights(4, 3, 3, 3)
NET = """(float[N,3,5,5] x, float[4,3,3,3] W, float[4] g) => (float[N,4,3,3] y) {
    c = Conv (x, W)  n = BatchNormalization (c, g, be, m, v)  y = Relu (n)
}"""
BLOCKED = """(float[N,3,5,5] x, float[4,3,3,3] W, float[4] g) => (float[N,4,3,3] y) {
    c = Conv (x, W)  r = Relu (c)  y = BatchNormalization (r, g, be, m, v)
}"""


def frozen_by_hand(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the inputs of its main graph that are initializers."""
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    held = {tensor.name for tensor in plain.graph.initializer}
    held |= {sparse.values.name for sparse in plain.graph.sparse_initializer}
    kept = [entry for entry in plain.graph.input if entry.name not in held]
    del plain.graph.input[:]
    plain.graph.input.extend(kept)
    return plain


# Freezing.


def test_a_default_is_no_constant_until_it_is_frozen() -> None:
    before = model(NET, W=W, **norm(4))
    left = bnfold.fold(before)
    assert [refusal.reason.code for refusal in left.plan.refusals] == ["overridable"]
    assert left.is_unchanged
    result = bnfold.fold(before, freeze_inputs=True)
    assert len(result.plan.moves) == 1
    assert result.frozen_inputs == ("W", "g")
    after = result.to_proto()
    assert [entry.name for entry in after.graph.input] == ["x"]
    assert set(constants(after)) == {"W_folded", "W_bias"}
    assert isinstance(result.verdict, bnfold.Same)
    assert (result.verdict.certified, result.verdict.executed) == (True, True)


def test_what_a_caller_loses_by_freezing() -> None:
    """Another value of a default gives another result, and the frozen model has no place for one."""
    before = model(NET, W=W, **norm(4))
    after = bnfold.fold(before, freeze_inputs=True).to_proto()
    feeds = inputs(before)
    doubled = {"g": 2 * constants(before)["g"]}
    assert np.abs(run(before, feeds)[0] - run(before, feeds | doubled)[0]).max() > 1
    assert not cannot_run(after, feeds)
    assert cannot_run(after, feeds | doubled)


@pytest.mark.parametrize("text", [NET, BLOCKED])
def test_freezing_and_folding_is_folding_what_was_frozen_by_hand(text: str) -> None:
    before = model(text, W=W, **norm(4))
    before.graph.input[1].doc_string = "a default"
    before.metadata_props.add(key="k", value="v")
    by_hand = bnfold.fold(frozen_by_hand(before))
    assert bnfold.fold(before, freeze_inputs=True).to_bytes() == by_hand.to_bytes()


def test_inputs_are_frozen_even_if_nothing_folds_and_nothing_else_changes() -> None:
    before = model(BLOCKED, W=W, **norm(4))
    result = bnfold.fold(before, freeze_inputs=True)
    assert result.plan.moves == ()
    assert result.to_bytes() == frozen_by_hand(before).SerializeToString(deterministic=True)
    assert not result.is_unchanged
    assert isinstance(result.verdict, bnfold.Same)
    assert result.verdict.executed
    assert result.verdict.end_to_end is not None
    assert all(comparison.equal for comparison in result.verdict.end_to_end.comparisons)
    assert "initializers that a caller could replace and no longer can: 'W', 'g'" in result.verdict.end_to_end.notes


@pytest.mark.parametrize("text", [NET.replace(", float[4,3,3,3] W, float[4] g", ""), BLOCKED])
def test_a_model_without_defaults_is_not_changed_by_freezing(text: str) -> None:
    plain = frozen_by_hand(model(text, W=W, **norm(4)))
    assert bnfold.fold(plain, freeze_inputs=True).to_bytes() == bnfold.fold(plain).to_bytes()


def test_below_ir_4_there_are_no_defaults_to_freeze() -> None:
    before = model(BLOCKED, W=W, **norm(4))
    for name in ("be", "m", "v"):
        before.graph.input.add().CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]))
    before.ir_version = 3
    result = bnfold.fold(before, freeze_inputs=True)
    assert result.frozen_inputs == ()
    assert result.to_bytes() == before.SerializeToString(deterministic=True)
    folding = onnx.ModelProto()
    folding.CopyFrom(before)
    del folding.graph.node[1:]
    folding.graph.node.extend([helper.make_node("BatchNormalization", ["c", "g", "be", "m", "v"], ["y"])])
    plain, frozen = (bnfold.fold(folding, freeze_inputs=wish) for wish in (False, True))
    assert len(frozen.plan.moves) == 1
    assert plain.to_bytes() == frozen.to_bytes()


def test_freezing_twice_is_freezing_once() -> None:
    once = bnfold.fold(model(NET, W=W, **norm(4)), freeze_inputs=True).to_bytes()
    twice = bnfold.fold(once, freeze_inputs=True)
    assert twice.to_bytes() == once
    assert twice.is_unchanged


def test_a_default_that_a_branch_reads_is_frozen_too() -> None:
    text = """(float[2,3,5,5] x, bool k, float[4,3,3,3] W) => (float[] y) {
        y = If (k) <then_branch = t () => (float[] p) { c = Conv (x, W)  p = BatchNormalization (c, g, be, m, v) },
                    else_branch = e () => (float[] q) { q = Conv (x, W) }>
    }"""
    before = model(text, W=W, **norm(4))
    assert [r.reason.code for r in bnfold.fold(before, freeze_inputs=False).plan.refusals] == ["overridable"]
    result = bnfold.fold(before, freeze_inputs=True)
    assert len(result.plan.moves) == 1
    assert result.cloned == ("W",)
    assert [entry.name for entry in result.to_proto().graph.input] == ["x", "k"]


def test_an_initializer_that_a_loop_feeds_is_no_default_of_the_model() -> None:
    """A body's inputs are told by their place: one that an initializer names as well is fed by the Loop."""
    text = """(float[2,4] x, int64 count, bool go, float[4] held) => (float[2,4] y) {
        y = Loop (count, go, x) <body = b (int64 i, bool k, float[2,4] a) => (bool k2, float[2,4] z) {
            k2 = Identity (k)  z = Add (a, held)
        }>
    }"""
    before = model(text, held=np.ones(4, np.float32))
    body = before.graph.node[0].attribute[0].g
    body.initializer.append(numpy_helper.from_array(np.zeros((2, 4), np.float32), "a"))
    result = bnfold.fold(before, freeze_inputs=True, verify="certificate")
    assert result.frozen_inputs == ("held",)
    assert result.to_proto().graph.node == before.graph.node


def test_a_sparse_default_is_frozen_like_a_dense_one() -> None:
    before = model("(float[2,4] x, float[4] s) => (float[2,4] y) { y = Add (x, s) }")
    values = numpy_helper.from_array(np.array([5], np.float32), "s")
    indices = numpy_helper.from_array(np.array([2]), "")
    before.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    result = bnfold.fold(before, freeze_inputs=True)
    assert result.frozen_inputs == ("s",)
    assert result.to_bytes() == frozen_by_hand(before).SerializeToString(deterministic=True)


def test_an_output_that_is_a_default_stays_an_output() -> None:
    text = "(float[2,3] x, float[3] w) => (float[2,3] y, float[3] w) { y = Add (x, w) }"
    before = model(text, w=np.ones(3, np.float32))
    result = bnfold.fold(before, freeze_inputs=True)
    assert [entry.name for entry in result.to_proto().graph.output] == ["y", "w"]
    assert [entry.name for entry in result.to_proto().graph.input] == ["x"]


def outside(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=16)
    return path


def test_frozen_in_place_a_model_names_the_same_data_file(tmp_path: Path) -> None:
    path = outside(model(BLOCKED, W=W, **norm(4)), tmp_path / "m.onnx")
    data = (tmp_path / "w.bin").read_bytes()
    result = bnfold.fold(path, in_place=True, freeze_inputs=True)
    assert result.written == path
    assert result.left_behind == ()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "w.bin"]
    assert (tmp_path / "w.bin").read_bytes() == data
    assert [entry.name for entry in onnx.load(path).graph.input] == ["x"]


def test_a_frozen_model_with_external_data_folds_into_a_data_file_of_its_own(tmp_path: Path) -> None:
    path = outside(model(NET, W=W, **norm(4)), tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    result = bnfold.fold(path, tmp_path / "out" / "f.onnx", freeze_inputs=True)
    assert len(result.plan.moves) == 1
    bnfold.verify(path, tmp_path / "out" / "f.onnx").raise_unless_same()
    result.save(tmp_path / "out" / "again.onnx")
    bnfold.verify(path, tmp_path / "out" / "again.onnx").raise_unless_same()


def dropping_less(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3, 3, 3]))


def another_value(proto: onnx.ModelProto) -> None:
    (found,) = (tensor for tensor in proto.graph.initializer if tensor.name == "g")
    found.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(found), "g"))


def another_type(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7


@pytest.mark.parametrize("wrong", [dropping_less, another_value, another_type])
def test_the_certificate_begins_before_the_inputs_are_frozen(wrong, tmp_path: Path) -> None:
    """Freezing that does another thing is found without the code that freezes."""
    before = model(BLOCKED, W=W, **norm(4))
    subject = subject_of(read(before), freeze_inputs=True)
    plan = bnfold.plan(before, freeze_inputs=True)
    right = frozen_by_hand(before)
    onnx.save(right, tmp_path / "right.onnx")
    assert certificate_of(subject, plan, tmp_path / "right.onnx", assume_inference=False).holds
    wrong(right)
    onnx.save(right, tmp_path / "wrong.onnx")
    found = certificate_of(subject, plan, tmp_path / "wrong.onnx", assume_inference=False)
    assert found.failure is not None


def test_an_input_that_vanishes_without_being_frozen_is_a_failure(tmp_path: Path) -> None:
    before = model(BLOCKED, W=W, **norm(4))
    onnx.save(frozen_by_hand(before), tmp_path / "frozen.onnx")
    subject = subject_of(read(before))
    found = certificate_of(subject, bnfold.plan(before), tmp_path / "frozen.onnx", assume_inference=False)
    assert found.failure == "the graph's inputs differ"
