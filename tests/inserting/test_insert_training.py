"""`training`: onnxruntime normalises by the batch, and puts out the running statistics that PyTorch would keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from inserting_support import attribute, inserted, model, noise, norms, parameters, run

import bnfold

CONV = "(float[N,3,8] x) => (float[N,4,6] y) { c = Conv(x, w) y = Relu(c) }"
MOMENTUM = float(np.float32(0.9))
EPSILON = float(np.float32(1e-5))


def conv(**more: object) -> onnx.ModelProto:
    return model(CONV, w=noise(4, 3, 3), **more)  # type: ignore[arg-type]


def batch_of(before: onnx.ModelProto, x: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, mean and population variance of what the original computes, in float64."""
    values = run(before, {"x": x}, [name])[name].astype(np.float64)
    axes = (0, *range(2, values.ndim))
    return values, values.mean(axis=axes), values.var(axis=axes)


@pytest.mark.parametrize("opset", [7, 8, 9, 12, 13])
def test_before_opset_14_five_outputs_say_so(opset: int) -> None:
    result, after = inserted(conv(opset=opset), after=["Conv"], training=True)
    (norm,) = norms(after)
    assert list(norm.output) == [
        "c", "c_bn.running_mean.updated", "c_bn.running_var.updated", "c_bn.saved_mean", "c_bn.saved_var",
    ]  # fmt: skip
    assert not [a for a in norm.attribute if a.name == "training_mode"]
    assert [value.name for value in after.graph.output] == ["y", *norm.output[1:3]]
    assert (result.training, result.verdict) == (True, None)


@pytest.mark.parametrize("opset", [14, 15, 18, 21])
def test_from_opset_14_on_an_attribute_does(opset: int) -> None:
    _, after = inserted(conv(opset=opset), after=["Conv"], training=True)
    (norm,) = norms(after)
    assert list(norm.output) == ["c", "c_bn.running_mean.updated", "c_bn.running_var.updated"]
    assert attribute(norm, "training_mode") == 1
    assert attribute(norm, "epsilon") == EPSILON
    assert attribute(norm, "momentum", default=MOMENTUM) == pytest.approx(0.9)
    assert [value.name for value in after.graph.output] == ["y", *norm.output[1:]]
    assert [d.dim_value for d in after.graph.output[1].type.tensor_type.shape.dim] == [4]


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 17, 21])
def test_onnxruntime_normalises_by_the_batch_and_updates_the_running_statistics(opset: int, optimised: bool) -> None:
    before, x = conv(opset=opset), 3 * noise(20, 3, 8, seed=4) + 1
    _, after = inserted(before, after=["Conv"], training=True)
    if optimised:
        session = onnxruntime.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
        y, mean, variance = session.run(None, {"x": x})
    else:
        y, mean, variance = run(after, {"x": x}).values()
    values, batch_mean, batch_variance = batch_of(before, x, "c")
    np.testing.assert_allclose(mean, MOMENTUM * 0 + (1 - MOMENTUM) * batch_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, MOMENTUM * 1 + (1 - MOMENTUM) * batch_variance, rtol=1e-5)
    normal = (values - batch_mean[:, np.newaxis]) / np.sqrt(batch_variance + EPSILON)[:, np.newaxis]
    np.testing.assert_allclose(y, np.maximum(normal, 0), atol=1e-5)


@pytest.mark.parametrize("opset", [7, 13, 14, 17])
def test_float16_too(opset: int) -> None:
    before = model(CONV.replace("float[", "float16["), opset=opset, w=noise(4, 3, 3, dtype=np.float16))
    x = (3 * noise(20, 3, 8, seed=4) + 1).astype(np.float16)
    _, after = inserted(before, after=["Conv"], training=True)
    y, mean, variance = run(after, {"x": x}).values()
    values, batch_mean, batch_variance = batch_of(before, x, "c")
    assert mean.dtype == variance.dtype == (np.float16 if opset < 14 else np.float32)
    unit = 2.0**-10
    np.testing.assert_allclose(mean, (1 - MOMENTUM) * batch_mean, atol=unit)
    np.testing.assert_allclose(variance, MOMENTUM + (1 - MOMENTUM) * batch_variance, rtol=unit)
    normal = (values - batch_mean[:, np.newaxis]) / np.sqrt(batch_variance + EPSILON)[:, np.newaxis]
    np.testing.assert_allclose(y, np.maximum(normal, 0), atol=4 * unit)


def test_in_an_old_file_too() -> None:
    before = conv(opset=9, ir=3)
    _, after = inserted(before, after=["Conv"], training=True)
    assert {tensor.name for tensor in after.graph.initializer} <= {value.name for value in after.graph.input}
    assert len(run(after, {"x": noise(9, 3, 8)})) == 3


def test_what_it_begins_with_may_be_the_data_s_statistics() -> None:
    """`preserve` begins with statistics of the data, and undoes them: at inference it is the same function."""
    before, x = conv(), 3 * noise(50, 3, 8, seed=4) + 1
    result, after = inserted(before, after=["Conv"], training=True, init="preserve", data=x)
    _, mean, variance = batch_of(before, x, "c")
    scale, bias, running_mean, running_variance = parameters(after)
    np.testing.assert_allclose(running_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(running_variance, variance, rtol=1e-5)
    np.testing.assert_allclose(scale, np.sqrt(variance + EPSILON), rtol=1e-5)
    np.testing.assert_allclose(bias, mean, rtol=1e-5, atol=1e-6)
    assert result.inserted[0].epsilon == EPSILON


def test_each_of_several_has_outputs_of_its_own() -> None:
    before = model(
        "(float[N,3] x) => (float[N,5] y) { a = Gemm(x, u) r = Relu(a) y = Gemm(r, v) }", u=noise(3, 4), v=noise(4, 5)
    )
    _, after = inserted(before, after=["Gemm"], training=True)
    assert [value.name for value in after.graph.output] == [
        "y", "a_bn.running_mean.updated", "a_bn.running_var.updated", "y_bn.running_mean.updated",
        "y_bn.running_var.updated",
    ]  # fmt: skip
    assert len(run(after, {"x": noise(9, 3)})) == 5


def test_between_transposes() -> None:
    before = model("(float[N,6,8] x) => (float[N,6,5] y) { y = MatMul(x, w) }", w=noise(8, 5))
    _, after = inserted(before, after=["MatMul"], training=True)
    x = noise(9, 6, 8)
    outputs = run(after, {"x": x})
    np.testing.assert_allclose(outputs["y"].astype(np.float64).mean(axis=(0, 1)), 0, atol=1e-6)
    values = run(before, {"x": x})["y"].astype(np.float64)
    mean = outputs["y_bn.running_mean.updated"]
    np.testing.assert_allclose(mean, (1 - MOMENTUM) * values.mean(axis=(0, 1)), rtol=1e-4, atol=1e-6)


def test_what_was_inserted_for_training_is_no_inference_norm_and_fold_leaves_it() -> None:
    _, after = inserted(conv(), after=["Conv"], training=True)
    (refusal,) = bnfold.plan(after).batch_norms.refusals
    assert refusal.reason.code == "training-mode"


def test_a_model_that_cannot_run_in_training_is_not_written(tmp_path: Path) -> None:
    text = CONV.replace("float[", "double[")
    with pytest.raises(bnfold.Undecided, match="onnxruntime cannot run the model for training"):
        bnfold.insert(
            model(text, w=noise(4, 3, 3, dtype=np.float64)), tmp_path / "out.onnx", after=["Conv"], training=True
        )
    assert not list(tmp_path.iterdir())
