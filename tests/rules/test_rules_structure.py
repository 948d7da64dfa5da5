"""BN001, 2, 3, 8, 18 and 19: each with a model that triggers it, and a near miss that does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from rule_models import ALONE, CONV, W, codes, model, only, sound

import bnfold

TRAINING = (
    "(float[N,4,6,6] x) => (float[N,4,6,6] y) { y, r, s = BatchNormalization <training_mode = 1> (x, g, b, m, v) }"
)
OLD = "(float[2,4,6,6] x) => (float[2,4,6,6] y) { y = BatchNormalization <is_test = %d> (x, g, b, m, v) }"


def outputs(text: str, *names: str) -> str:
    return text.replace("y = Batch", f"{', '.join(('y', *names))} = Batch")


def test_a_sound_model_is_clean() -> None:
    assert codes(model(CONV, W=W, **sound())) == codes(model(ALONE, **sound())) == []


@pytest.mark.parametrize("opset", [14, 15, 17, 21])
def test_training_mode_is_an_error(opset: int) -> None:
    found = only(model(TRAINING, opset=opset, ir=10, **sound()), "BN001", "training_mode is 1")
    assert found.severity == "error"


def test_training_mode_that_is_said_to_be_off_is_none() -> None:
    text = ALONE.replace("Normalization (", "Normalization <training_mode = 0> (")
    assert codes(model(text, **sound())) == []


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_before_opset_14_further_outputs_are_the_signal(opset: int) -> None:
    text = outputs(ALONE, "r", "s", "t", "u")
    only(model(text, opset=opset, **sound()), "BN001", "5 outputs", f"opset {opset}")
    assert codes(model(ALONE, opset=opset, **sound())) == []


def test_further_outputs_without_training_mode_contradict_it() -> None:
    only(model(outputs(ALONE, "r", "s"), **sound()), "BN001", "training_mode is 0", "3 outputs")


def test_before_opset_14_training_mode_is_no_attribute() -> None:
    """The file says nothing by it there; the layer has one output, and is run at inference."""
    text = ALONE.replace("Normalization (", "Normalization <training_mode = 1> (")
    assert codes(model(text, opset=13, **sound())) == []


@pytest.mark.parametrize("opset", [1, 6])
def test_before_opset_7_is_test_0_with_one_output_is_only_perhaps_training(opset: int) -> None:
    proto = model(OLD % 0, opset=opset, **sound())
    assert only(proto, "BN002", f"opset {opset}").severity == "warning"
    assert codes(proto, assume_inference=True) == []
    assert codes(model(OLD % 1, opset=opset, **sound())) == []


def test_before_opset_7_five_outputs_are_training_for_certain() -> None:
    only(model(outputs(OLD % 0, "r", "s", "t", "u"), opset=6, **sound()), "BN001", "5 outputs", "means training")
    contradiction = model(outputs(OLD % 1, "r", "s", "t", "u"), opset=6, **sound())
    only(contradiction, "BN001", "is_test is 1", "5 outputs")


def test_is_test_means_nothing_from_opset_7_on() -> None:
    only(model(outputs(OLD % 1, "r", "s", "t", "u"), opset=7, **sound()), "BN001", "means training")
    assert codes(model(OLD % 0, opset=7, **sound())) == []


@pytest.mark.parametrize(("names", "said"), [(["", ""], "outputs 1, 2"), (["r", ""], "output 2")])
def test_an_empty_output_name_is_an_error(names: list[str], said: str) -> None:
    proto = model(ALONE, **sound())
    proto.graph.node[0].output.extend(names)
    found = only(proto, "BN003", said, others=["BN001"])
    assert found.severity == "error"
    assert ("BN001" in codes(proto)) == ("r" in names)


def test_an_output_that_is_left_out_altogether_is_none() -> None:
    assert "BN003" not in codes(model(TRAINING, **sound()))


@pytest.mark.parametrize("opset", [7, 8])
def test_spatial_0_is_a_warning_and_its_parameters_may_have_the_rank_of_an_element(opset: int) -> None:
    text = ALONE.replace("Normalization (", "Normalization <spatial = 0> (")
    elements = {name: np.ones((4, 6, 6), np.float32) for name in "gbmv"}
    only(model(text, opset=opset, **elements), "BN008", f"opset {opset}")
    assert codes(model(text.replace("= 0", "= 1"), opset=opset, **sound())) == []


def test_spatial_means_nothing_from_opset_9_on() -> None:
    text = ALONE.replace("Normalization (", "Normalization <spatial = 0> (")
    assert codes(model(text, opset=9, **sound())) == []


def test_two_in_a_row_are_a_note_about_the_second() -> None:
    text = """(float[N,4,6] x) => (float[N,4,6] y) {
        [first] a = BatchNormalization (x, g, b, m, v)  [second] y = BatchNormalization (a, g, b, m, v) }"""
    found = only(model(text, **sound()), "BN018", "'first'")
    assert (found.site.name, found.severity) == ("second", "note")
    between = text.replace("  [second] y = BatchNormalization (a", " r = Relu (a) [second] y = BatchNormalization (r")
    assert codes(model(between, **sound())) == []


def test_the_running_mean_of_another_layer_is_not_its_output() -> None:
    text = """(float[N,4] x) => (float[N,4] y) {
        a, r, s = BatchNormalization <training_mode = 1> (x, g, b, m, v)
        t = Unsqueeze (r, zero)  y = BatchNormalization (t, g, b, m, v) }"""
    assert "BN018" not in codes(model(text, zero=np.array([0]), **sound()))


@pytest.mark.parametrize(("ir", "expected"), [(8, ["BN019"]), (4, ["BN019"]), (3, [])])
def test_parameters_that_a_caller_may_override_are_a_note(ir: int, expected: list[str]) -> None:
    text = ALONE.replace("x) =>", "x, float[4] m, float[4] v) =>")
    if ir == 3:
        text = text.replace("x, float[4] m", "x, float[4] g, float[4] b, float[4] m")
    proto = model(text, ir=ir, **sound())
    assert codes(proto) == expected
    if expected:
        assert "'m', 'v'" in only(proto, "BN019").sentence


def test_a_default_is_looked_at_like_any_parameter() -> None:
    text = ALONE.replace("x) =>", "x, float[4] v) =>")
    only(model(text, **sound(v=(2, -3))), "BN005", "channel 2", others=["BN019"])


def test_layers_of_branches_and_functions_are_looked_at() -> None:
    text = """(float[N,4] x, bool when) => (float[N,4] y) { y = If (when) <
        then_branch = t () => (float[N,4] p) { p = BatchNormalization (x, g, b, m, v) },
        else_branch = e () => (float[N,4] q) { q = Identity (x) } > }"""
    assert only(model(text, **sound(v=(1, -1))), "BN005").site.scope.endswith("then_branch")
    found = bnfold.validate(in_function(epsilon=0.5))
    assert [(one.code, one.site.scope) for one in found] == [("BN009", "function own.Norm")]


def test_an_attribute_that_callers_state_is_not_guessed() -> None:
    proto = in_function(epsilon=1e-5)
    proto.functions[0].attribute.append("epsilon")
    attribute = proto.functions[0].node[0].attribute[0]
    attribute.CopyFrom(onnx.AttributeProto(name="epsilon", type=onnx.AttributeProto.FLOAT, ref_attr_name="epsilon"))
    proto.graph.node[0].attribute.append(helper.make_attribute("epsilon", 1e-5))
    assert codes(proto) == []


def in_function(epsilon: float) -> onnx.ModelProto:
    """A function whose parameters come from its caller: nothing is known of them there."""
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        agraph (float[N,4] x, float[4] p) => (float[N,4] y) {{ y = own.Norm (x, p) }}
        <domain: "own", opset_import: ["" : 17]>
        Norm (x, p) => (y) {{ y = BatchNormalization <epsilon : float = {epsilon}> (x, p, p, p, p) }}""")
