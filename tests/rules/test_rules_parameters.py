"""BN004 to BN014, the rules about numbers: each with a model that triggers it, and a near miss that does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rule_models import ALONE, CONV, W, codes, model, only, sound

import bnfold


def with_epsilon(epsilon: float, text: str = ALONE) -> str:
    return text.replace("Normalization (", f"Normalization <epsilon = {epsilon!r}> (")


@pytest.mark.parametrize("role", ["g", "b", "m", "v"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_an_error(role: str, value: float) -> None:
    found = only(model(ALONE, **sound(**{role: (1, value)})), "BN004", "channel 1 of 4", str(value), others=["BN005"])
    assert found.severity == "error"
    assert codes(model(ALONE, **sound(**{role: (1, 3.0)}))) == []


def test_an_epsilon_that_is_nan_is_an_error_too() -> None:
    proto = model(ALONE, **sound())
    proto.graph.node[0].attribute.append(helper.make_attribute("epsilon", float("nan")))
    only(proto, "BN004", "epsilon is nan")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_largest_number_of_a_type_is_finite(dtype: type) -> None:
    text = ALONE.replace("float[", "double[" if dtype is np.float64 else "float16[")
    largest = float(np.finfo(dtype).max)
    assert "BN004" not in codes(model(text, **sound(dtype=dtype, b=(0, largest))))


@pytest.mark.parametrize(("variance", "expected"), [(-1e-3, "BN005"), (-2.0, "BN005"), (-1e-6, "BN006"), (0.0, None)])
def test_variance_and_epsilon(variance: float, expected: str | None) -> None:
    proto = model(ALONE, **sound(v=(3, variance), m=(3, 0)))
    assert codes(proto) == ([] if expected is None else [expected])
    if expected:
        only(proto, expected, "channel 3 of 4")


def test_a_sum_of_exactly_zero_is_not_positive() -> None:
    proto = model(with_epsilon(0.0078125), **sound(v=(0, -0.0078125)))
    only(proto, "BN005", "is 0 in channel 0")


def test_a_negative_variance_that_epsilon_hides_is_told_with_its_channels() -> None:
    found = only(model(ALONE, **sound(v=[-1e-6, 1, -2e-6, 1], m=0.001)), "BN006", "-2e-06", "channels 0, 2 of 4")
    assert found.severity == "warning"


BREAKS: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "shorter": {"m": lambda array: array[:3]},
    "all shorter": dict.fromkeys("gbmv", lambda array: array[:3]),
    "of one": dict.fromkeys("gbmv", lambda array: array[:1]),
    "empty": dict.fromkeys("gbmv", lambda array: array[:0]),
    "integers": {"v": lambda array: array.astype(np.int32)},
    "matrix": {"b": lambda array: array[np.newaxis]},
    "double": {"m": lambda array: array.astype(np.float64)},
    "missing": {},
    "cut off": {},
}


def broken(change: str) -> onnx.ModelProto:
    """A model with one thing wrong in its parameters."""
    arrays = sound()
    arrays |= {name: changed(arrays[name]) for name, changed in BREAKS[change].items()}
    proto = model(ALONE, **arrays)
    if change == "missing":
        proto.graph.node[0].input[3] = ""
    if change == "cut off":
        del proto.graph.node[0].input[4:]
    return proto


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("shorter", ["lengths differ", "mean 3"]),
        ("all shorter", ["for 3 channel(s)", "input has 4"]),
        ("of one", ["for 1 channel(s)", "input has 4"]),
        ("empty", ["empty"]),
        ("integers", ["var", "int32"]),
        ("matrix", ["B has 2 dimensions"]),
        ("missing", ["mean: missing"]),
        ("cut off", ["var: missing"]),
        ("double", ["types differ", "mean double"]),
    ],
)
def test_parameters_of_the_wrong_length_type_or_rank_are_an_error(change: str, words: list[str]) -> None:
    assert only(broken(change), "BN007", *words).severity == "error"


@pytest.mark.parametrize("change", BREAKS)
def test_they_are_told_though_a_plan_stops_at_another_obstacle(change: str) -> None:
    """A plan refuses a layer in training before it looks at parameters."""
    proto = broken(change)
    assert [refusal.reason.code for refusal in bnfold.plan(proto).refusals] == [
        "broken-parameters"
    ] or change == "double"
    said = only(proto, "BN007").sentence
    proto.graph.node[0].attribute.append(helper.make_attribute("training_mode", 1))
    proto.graph.node[0].output.extend(["r", "s"])
    assert only(proto, "BN007", others=["BN001", "BN017"]).sentence == said


def test_a_layer_without_input_or_output_is_broken() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { z = BatchNormalization (x, g, b, m, v)  y = Relu (x) }"
    for field in ("input", "output"):
        proto = model(text, **sound())
        getattr(proto.graph.node[0], field)[0] = ""
        only(proto, "BN007", "its input or output is missing")


def test_channels_that_only_the_weight_tells_are_held_against_the_parameters() -> None:
    text = "(float[] x) => (float[] y) { c = Conv (x, W)  y = BatchNormalization (c, g, b, m, v) }"
    proto = model(text, W=W, **sound(3))
    for port in (*proto.graph.input, *proto.graph.output):
        port.type.tensor_type.ClearField("shape")
    only(proto, "BN007", "for 3 channel(s), the input has 4")


def test_an_input_of_one_dimension_in_training_has_no_channels_either() -> None:
    text = "(float[4] x) => (float[4] y) { y, r, s = BatchNormalization <training_mode = 1> (x, g, b, m, v) }"
    only(model(text, **sound()), "BN007", "1 dimension(s), and so no channels", others=["BN001", "BN017"])


@pytest.mark.parametrize(
    ("opset", "role", "others"),
    [(14, "b", "scale float, B double"), (15, "b", "scale float, B double"), (15, "v", "mean float, var double")],
)
def test_scale_and_bias_are_of_one_type_and_mean_and_variance_are(opset: int, role: str, others: str) -> None:
    arrays = sound()
    arrays[role] = arrays[role].astype(np.float64)
    only(model(ALONE, opset=opset, **arrays), "BN007", "types differ", others)


def test_other_rules_are_silent_about_parameters_that_cannot_be_read() -> None:
    for change in ("shorter", "empty", "integers", "matrix", "missing", "cut off"):
        assert codes(broken(change)) == ["BN007"]


@pytest.mark.parametrize(
    ("opset", "element", "weights", "statistics", "expected"),
    [
        (13, "float16", np.float16, np.float32, ["BN007"]),
        (14, "float16", np.float16, np.float32, []),
        (14, "float16", np.float32, np.float32, ["BN007"]),
        (15, "float16", np.float32, np.float32, []),
        (15, "float16", np.float32, np.float64, []),
    ],
)
def test_which_types_may_differ_depends_on_the_version(
    opset: int, element: str, weights: type, statistics: type, expected: list[str]
) -> None:
    text = "(float16[N,4] x) => (float16[N,4] y) { y = BatchNormalization (x, g, b, m, v) }".replace("float16", element)
    arrays = sound()
    types = {"g": weights, "b": weights, "m": statistics, "v": statistics}
    assert codes(model(text, opset=opset, **{k: a.astype(types[k]) for k, a in arrays.items()})) == expected


def test_an_input_without_channels_is_no_input() -> None:
    text = "(float[4] x) => (float[4] y) { y = BatchNormalization (x, g, b, m, v) }"
    only(model(text, **sound()), "BN007", "1 dimension")


def test_a_dimension_that_is_not_known_is_not_guessed() -> None:
    text = "(float[N,C,6] x) => (float[N,C,6] y) { y = BatchNormalization (x, g, b, m, v) }"
    assert codes(model(text, **sound())) == []


@pytest.mark.parametrize("epsilon", [-0.1, 0.5, 0.02, 0.0, 1e-20])
def test_an_odd_epsilon_is_a_warning(epsilon: float) -> None:
    found = only(model(with_epsilon(epsilon), **sound()), "BN009", f"{epsilon:.3g}")
    assert found.severity == "warning"


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1.001e-5, 1e-5, 1e-7, 1e-8, 1e-10])
def test_an_epsilon_that_frameworks_use_is_none(epsilon: float) -> None:
    assert codes(model(with_epsilon(epsilon), **sound())) == []


def test_the_exact_identity_may_have_epsilon_0_and_statistics_that_were_never_trained() -> None:
    assert codes(model(with_epsilon(0.0), **sound(g=1, b=0, m=0, v=1))) == []
    assert codes(model(with_epsilon(0.0), **sound(g=1, b=1, m=0, v=1))) == ["BN009", "BN013"]


def test_an_epsilon_that_the_type_of_the_variance_has_no_number_for() -> None:
    text = with_epsilon(1e-8, "(float16[N,4] x) => (float16[N,4] y) { y = BatchNormalization (x, g, b, m, v) }")
    only(model(text, **sound(dtype=np.float16)), "BN009", "float16")
    wide = {name: a.astype(np.float32) if name in "mv" else a for name, a in sound(dtype=np.float16).items()}
    assert codes(model(text, **wide)) == []
    assert codes(model(text.replace("1e-08", "1e-05"), **sound(dtype=np.float16))) == []


def test_a_dead_channel_is_a_note_and_a_dead_layer_a_warning() -> None:
    assert only(model(ALONE, **sound(g=(2, 0))), "BN010", "channel 2 of 4").severity == "note"
    assert only(model(ALONE, **sound(g=0)), "BN011", "all 4 channels").severity == "warning"
    assert codes(model(ALONE, **sound(g=(2, 1e-3)))) == []


def test_a_gamma_that_beta_rounds_away_is_dead_in_the_type_of_the_output() -> None:
    beta = {"b": (1, 1.0)}
    only(model(ALONE, **sound(g=(1, 2.0**-25), **beta)), "BN010", "channel 1 of 4")
    assert codes(model(ALONE, **sound(g=(1, 2.0**-23), **beta))) == []
    assert codes(model(ALONE, **sound(g=(1, 2.0**-25), b=(1, 0.0)))) == []


def test_a_gain_above_a_thousand_is_a_warning() -> None:
    found = only(model(ALONE, **sound(v=(0, 0), m=(0, 0), g=(0, 4))), "BN012", "1.26e+03", "channel 0 of 4")
    assert found.severity == "warning"
    assert codes(model(ALONE, **sound(v=(0, 0), m=(0, 0), g=(0, 3)))) == []


def test_statistics_as_they_are_initialised_are_a_warning() -> None:
    assert only(model(ALONE, **sound(m=0, v=1)), "BN013", "all 4 channels").severity == "warning"
    assert codes(model(ALONE, **sound(m=[0, 0, 0, 1e-6], v=1))) == []
    assert codes(model(ALONE, **sound(m=0, v=[1, 1, 1, 0.999]))) == []


def test_in_training_mode_initial_statistics_are_not_used_and_no_finding() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { y, r, s = BatchNormalization <training_mode = 1> (x, g, b, m, v) }"
    assert codes(model(text, **sound(m=0, v=1, g=0)), ignore=["BN016", "BN017"]) == ["BN001"]


def test_in_training_mode_neither_gain_nor_mean_are_used() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { y, r, s = BatchNormalization <training_mode = 1> (x, g, b, m, v) }"
    assert codes(model(text, **sound(v=(0, 0), g=(0, 40), m=(1, 5000)))) == ["BN001"]
    assert codes(model(ALONE, **sound(v=(0, 0), g=(0, 40), m=(1, 5000)))) == ["BN012", "BN014"]


@pytest.mark.parametrize(
    ("element", "dtype", "far", "near"),
    [("float", np.float32, 1100, 900), ("double", np.float64, 1100, 900), ("float16", np.float16, 140, 120)],
)
def test_a_mean_far_from_zero_is_a_warning(element: str, dtype: type, far: float, near: float) -> None:
    text = ALONE.replace("float[", f"{element}[")
    found = only(model(text, **sound(dtype=dtype, m=(1, -far), v=(1, 1))), "BN014", "channel 1 of 4")
    assert found.severity == "warning"
    assert codes(model(text, **sound(dtype=dtype, m=(1, -near), v=(1, 1)))) == []


def test_a_parameter_that_only_the_caller_knows_is_not_judged() -> None:
    text = ALONE.replace("x) =>", "x, float[4] v) =>")
    arrays = sound(m=0)
    del arrays["v"]
    assert codes(model(text, **arrays)) == []


def test_bfloat16_parameters_are_read() -> None:
    proto = model(ALONE.replace("float[", "bfloat16["), **sound(v=(1, -1)))
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, array.shape, array.tolist()))
    only(proto, "BN005", "channel 1 of 4")


def test_the_weights_before_a_layer_do_not_matter_to_these_rules() -> None:
    assert codes(model(CONV, W=1000 * W, **sound())) == []
