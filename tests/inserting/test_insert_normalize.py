"""`normalize`: behind each BatchNormalization mean 0 and variance 1, layer by layer, as measured here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from inserting_support import attribute, inserted, model, noise, norms, parameters, run

import bnfold

DEEP = """(float[N,3,12] x) => (float[N,4,4] y) { a = Conv(x, u) ar = Relu(a) b = Conv(ar, v) br = Tanh(b)
    c = Conv(br, w) cr = Relu(c) y = Conv(cr, z) }"""
RESIDUAL = """(float[N,4,8] x) => (float[N,4,8] y) { a = Conv <pads = [1,1]> (x, w) ar = Relu(a)
    b = Conv <pads = [1,1]> (ar, v) s = Add(b, x) sr = Relu(s) c = Conv <pads = [1,1]> (sr, z) y = Add(c, s) }"""
PARALLEL = """(float[N,4,8] x) => (float[N,8,8] y) { a = Conv <pads = [1,1]> (x, w) b = Conv <pads = [1,1]> (x, v)
    k = Concat <axis = 1> (a, b) kr = Relu(k) y = Conv (kr, z) }"""
UNIT = 2e-4
"""How far from 1 a variance may be: epsilon is up to 1e-4 of it, and float32 rounds."""


def deep(**more: object) -> onnx.ModelProto:
    weights = {
        "u": noise(5, 3, 3),
        "v": noise(6, 5, 3, seed=1),
        "w": noise(4, 6, 3, seed=2),
        "z": noise(4, 4, 3, seed=3),
    }
    return model(DEEP, **weights, **more)  # type: ignore[arg-type]


def residual() -> onnx.ModelProto:
    return model(RESIDUAL, w=noise(4, 4, 3), v=noise(4, 4, 3, seed=1), z=noise(4, 4, 3, seed=2))


def parallel() -> onnx.ModelProto:
    return model(PARALLEL, w=noise(4, 4, 3), v=noise(4, 4, 3, seed=1), z=noise(8, 8, 1, seed=2))


def of_outputs(after: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance per channel of what every BatchNormalization of the main graph puts out."""
    names = [node.output[0] for node in norms(after)]
    found = {}
    for name, array in run(after, feeds, names).items():
        flat = np.moveaxis(array.astype(np.float64), 1, -1).reshape(-1, array.shape[1])
        found[name] = flat.mean(axis=0), flat.var(axis=0)
    return found


def assert_normal(after: onnx.ModelProto, feeds: dict[str, np.ndarray], unit: float = UNIT) -> None:
    seen = of_outputs(after, feeds)
    assert seen
    for name, (mean, variance) in seen.items():
        np.testing.assert_allclose(mean, 0, atol=unit / 10, err_msg=name)
        np.testing.assert_allclose(variance, 1, atol=unit, err_msg=name)


@pytest.mark.parametrize("opset", [7, 13, 14, 17, 18, 21])
def test_the_last_layer_is_as_good_as_the_first(opset: int) -> None:
    before, x = deep(opset=opset), 5 * noise(64, 3, 12, seed=9) + 2
    result, after = inserted(before, after=["Conv"], init="normalize", data=x)
    assert len(norms(after)) == 4
    assert_normal(after, {"x": x})
    assert result.normalised is not None
    assert result.normalised.variance < UNIT
    assert result.normalised.mean < UNIT / 10
    assert result.verdict is None


def test_measured_all_at_once_the_third_layer_would_be_far_off() -> None:
    """That is what a rival does: its statistics are those of the model before anything was inserted."""
    before, x = deep(), 5 * noise(64, 3, 12, seed=9) + 2
    _, after = inserted(before, after=["Conv"], init="normalize", data=x)
    at_once = run(before, {"x": x}, ["a", "b", "c", "y"])
    for place, name in enumerate("abcy"):
        variance = at_once[name].astype(np.float64).var(axis=(0, 2))
        ours = parameters(after, place)[3]
        assert (np.abs(ours / variance - 1).max() < 1e-5) == (place == 0)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(after)
    for place, node in enumerate(norms(wrong)):
        values = at_once[node.output[0]].astype(np.float64)
        held = {tensor.name: tensor for tensor in wrong.graph.initializer}
        for name, array in zip(node.input[3:5], (values.mean(axis=(0, 2)), values.var(axis=(0, 2))), strict=True):
            held[name].CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
        assert place < 4
    assert np.abs(of_outputs(wrong, {"x": x})["c"][1] - 1).max() > 0.5


@pytest.mark.parametrize("made", [residual, parallel])
def test_networks_with_branches(made: object) -> None:
    before, x = made(), noise(64, 4, 8, seed=9) * 3 - 1  # type: ignore[operator]
    _, after = inserted(before, after=["Conv"], init="normalize", data={"x": x})
    assert len(norms(after)) == 3
    assert_normal(after, {"x": x})


@pytest.mark.parametrize("wishes", [{"after": ["Conv"], "past_activation": True}, {"at": ["x", "s", "y"]},
                                    {"choose": lambda place: place.op in {"Conv", "Add"}}])  # fmt: skip
def test_at_other_places(wishes: dict[str, object]) -> None:
    x = noise(64, 4, 8, seed=9) * 3 - 1
    _, after = inserted(residual(), init="normalize", data={"x": x}, **wishes)
    assert len(norms(after)) >= 3
    assert_normal(after, {"x": x})


def test_behind_matmuls_between_transposes() -> None:
    text = "(float[N,6,8] x) => (float[N,6,5] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    x = noise(40, 6, 8) + 1
    _, after = inserted(model(text, w=noise(8, 7), v=noise(7, 5)), after=["MatMul"], init="normalize", data=x)
    assert_normal(after, {"x": x})


def test_many_uneven_batches_and_a_function_that_makes_them_anew() -> None:
    sizes = (64, 1, 13, 100)

    def batches() -> object:
        return ({"x": noise(size, 3, 12, seed=size) + size / 50} for size in sizes)

    _, after = inserted(deep(), after=["Conv"], init="normalize", data=batches)
    assert_normal(after, {"x": np.concatenate([one["x"] for one in batches()])})  # type: ignore[attr-defined]


def test_scale_and_b_are_one_and_zero_and_the_function_changes_by_as_much_as_it_says() -> None:
    before, x = deep(), noise(32, 3, 12)
    result, after = inserted(before, after=["Conv"], init="normalize", data=x)
    for place in range(4):
        scale, bias, _, _ = parameters(after, place)
        assert (scale == 1).all()
        assert (bias == 0).all()
    assert result.normalised is not None
    assert result.normalised.change is not None
    (change,) = result.normalised.change.comparisons
    ours, theirs = (run(proto, {"x": x})["y"].astype(np.float64) for proto in (before, after))
    moved = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    assert change.relative_l2 == pytest.approx(moved, rel=1e-3)


# What stands in the way.


def test_constant_channels_are_told_and_do_no_harm() -> None:
    weights = [noise(5, 3, 3), noise(6, 5, 3, seed=1), noise(4, 6, 3, seed=2), noise(4, 4, 3, seed=3)]
    weights[0][2], weights[2][0] = 0, 0
    before, x = model(DEEP, **dict(zip("uvwz", weights, strict=True))), noise(64, 3, 12)
    result, after = inserted(before, after=["Conv"], init="normalize", data=x)
    assert [one.constant for one in result.inserted] == [1, 0, 1, 0]
    assert result.normalised is not None
    assert result.normalised.variance < UNIT, "constant channels are not counted"
    for name, (mean, variance) in of_outputs(after, {"x": x}).items():
        still = {"a": 2, "c": 0}.get(name)
        expected = np.ones_like(variance)
        if still is not None:
            expected[still] = 0
        np.testing.assert_allclose(variance, expected, atol=UNIT)
        np.testing.assert_allclose(mean, 0, atol=UNIT)


@pytest.mark.parametrize("opset", [13, 17])
def test_constant_channels_of_float16(opset: int) -> None:
    """The smallest epsilon vanishes in float16: what follows a constant channel must not become NaN by it."""
    text = "(float16[N,3] x) => (float16[N,2] y) { a = Gemm(x, u) r = Relu(a) y = Gemm(r, v) }"
    u = noise(3, 4, dtype=np.float16) / np.float16(100)
    u[:, 1] = 0
    before = model(text, opset=opset, u=u, v=noise(4, 2, dtype=np.float16))
    x = noise(256, 3, dtype=np.float16)
    _, after = inserted(before, after=["Gemm"], init="normalize", data=x)
    seen = of_outputs(after, {"x": x})
    np.testing.assert_allclose(seen["a"][1], [1, 0, 1, 1], atol=0.02)
    np.testing.assert_allclose(seen["y"][1], 1, atol=0.02)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-12])
def test_epsilon_is_small_beside_the_smallest_variance(size: float) -> None:
    """With 1e-5, a channel of variance 1e-6 would come out with variance 0.1."""
    before = model("(float[N,3] x) => (float[N,3] y) { y = Identity(x) }")
    x = noise(500, 3) * np.array([1, size, 100], np.float32)
    _, after = inserted(before, at=["y"], init="normalize", data=x)
    assert 0 < attribute(norms(after)[0], "epsilon") <= max(1e-4 * size**2, 1e-30)
    assert_normal(after, {"x": x})


def test_the_noise_of_a_constant_channel_is_not_magnified_by_a_small_epsilon() -> None:
    before = model("(float[N,2] x) => (float[N,2] y) { y = Identity(x) }")
    x = noise(500, 2) * np.array([1e-6, 0], np.float32)
    x[:, 1] = np.where(np.arange(500) % 2, np.float32(5), np.nextafter(np.float32(5), np.float32(6)))
    result, after = inserted(before, at=["y"], init="normalize", data=x)
    assert result.inserted[0].constant == 1
    assert np.abs(run(after, {"x": x})["y"][:, 1]).max() < 1e-3
    np.testing.assert_allclose(run(after, {"x": x})["y"][:, 0].astype(np.float64).var(), 1, atol=UNIT)


def test_where_variances_are_usual_epsilon_is_the_usual_one() -> None:
    before = model("(float[N,3] x) => (float[N,3] y) { y = Identity(x) }")
    _, after = inserted(before, at=["y"], init="normalize", data=noise(500, 3))
    assert attribute(norms(after)[0], "epsilon") == float(np.float32(1e-5))


def test_a_mean_far_from_zero() -> None:
    before = model("(double[N,3] x) => (double[N,3] y) { y = Identity(x) }")
    x = noise(500, 3).astype(np.float64) + 1e8
    result, after = inserted(before, at=["y"], init="normalize", data=x)
    assert result.inserted[0].constant == 0, "float64 has digits enough for that"
    assert_normal(after, {"x": x})


def test_bodies_of_an_if_are_layers_too() -> None:
    text = """(float[N,4,8] x, bool b) => (float[N,4,4] y) { c = Conv(x, w) k = If(b) <
        then_branch = yes () => (float[N,4,6] p) { p = Conv <pads = [1,1]> (c, v) },
        else_branch = no () => (float[N,4,6] q) { q = Tanh(c) }> y = Conv(k, v) }"""
    before = model(text, w=noise(4, 4, 3), v=noise(4, 4, 3, seed=1))
    x = noise(64, 4, 8) + 1
    data = [{"x": x, "b": np.array(True)}, {"x": 2 * x, "b": np.array(False)}]
    result, after = inserted(before, after=["Conv"], init="normalize", data=data)
    assert len(norms(after)) == 3
    assert result.normalised is not None
    assert result.normalised.variance < UNIT
    outputs = np.concatenate([run(after, one)["y"] for one in data]).astype(np.float64)
    np.testing.assert_allclose(outputs.mean(axis=(0, 2)), 0, atol=UNIT)
    np.testing.assert_allclose(outputs.var(axis=(0, 2)), 1, atol=UNIT)


def test_without_verification_nothing_is_measured_again() -> None:
    result = bnfold.insert(deep(), after=["Conv"], init="normalize", data=noise(8, 3, 12), verify="off")
    assert result.normalised is None
    assert len(result.inserted) == 4
