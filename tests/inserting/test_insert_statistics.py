"""`preserve`: mean and variance of all the data, however they come, against float64 numpy; and the function stays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inserting_support import attribute, inserted, model, noise, norms, parameters, run

import bnfold
from bnfold.equality.data_stream import Stream
from bnfold.inserting.parameters import Parameters, preserving
from bnfold.statistics import Moments

CONV = "(float[N,4,8] x) => (float[N,3,6] y) { c = Conv(x, w, b) y = Relu(c) }"
CONV_2D = "(float[N,2,H,W] x) => (float[N,3,P,Q] y) { y = Conv(x, w) }"


def conv(**more: object) -> onnx.ModelProto:
    weights = {"w": noise(3, 4, 3), "b": noise(3, seed=1)}
    return model(CONV, **{**weights, **more})  # type: ignore[arg-type]


def preserved(proto: onnx.ModelProto, data: object, **wishes: object) -> tuple[bnfold.InsertResult, onnx.ModelProto]:
    return inserted(proto, init="preserve", data=data, **wishes)


def assert_statistics(after: onnx.ModelProto, values: np.ndarray, place: int = 0, axis: int = 1) -> None:
    """Mean and variance of float64 numpy over everything at once, rounded once to float32."""
    wide = np.moveaxis(values.astype(np.float64), axis, -1).reshape(-1, values.shape[axis])
    _, _, mean, variance = parameters(after, place)
    ulp = np.finfo(mean.dtype).eps
    # The values themselves are float32: a batch cut otherwise may sum them in another order.
    loose = 8 * ulp * np.abs(wide).max(axis=0)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=ulp, atol=float((loose / np.sqrt(len(wide))).max()))
    np.testing.assert_allclose(variance, wide.var(axis=0), rtol=4 * ulp + 4 * float((loose / wide.std(axis=0)).max()))


# Against numpy.


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), far=st.sampled_from([0.0, 30.0, 1e5]))
@settings(max_examples=6, deadline=None)
def test_sets_of_any_sizes_give_the_moments_of_all_at_once(sizes: list[int], far: float) -> None:
    """As far as a mean of 100,000 standard deviations, where a naive sum of squares has no digit left."""
    sets = [noise(size, 3, 5, seed=i) + np.float32(far) for i, size in enumerate(sizes)]
    before = model("(float[N,3,5] x) => (float[N,3,5] y) { y = Identity(x) }")
    result, after = preserved(before, [{"x": one} for one in sets], at=["y"], verify="off")
    rows = np.concatenate(sets)
    wide = rows.astype(np.float64)
    scale, bias, mean, variance = parameters(after)
    assert [array.dtype for array in (scale, bias, mean, variance)] == [np.float32] * 4
    np.testing.assert_array_equal(mean, wide.mean(axis=(0, 2)).astype(np.float32))
    np.testing.assert_allclose(variance, wide.var(axis=(0, 2)), rtol=2.0**-23)
    assert result.inserted[0].count == rows.size // 3


@pytest.mark.parametrize("opset", [7, 13, 14, 17, 18, 21])
def test_a_layer_of_a_network(opset: int) -> None:
    before, x = conv(opset=opset), noise(37, 4, 8, seed=5) * 3 + 1
    result, after = preserved(before, {"x": x}, after=["Conv"])
    assert_statistics(after, run(before, {"x": x}, ["c"])["c"])
    assert attribute(norms(after)[0], "epsilon") == float(np.float32(1e-5))
    assert result.inserted[0].count == 37 * 6
    assert result.verdict is not None


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_types(kind: str) -> None:
    dtype = np.float16 if kind == "float16" else np.float64
    before = model(f"({kind}[N,4] x) => ({kind}[N,3] y) {{ y = Gemm(x, w) }}", w=noise(4, 3, dtype=dtype))
    x = noise(200, 4, seed=5, dtype=dtype)
    _, after = preserved(before, {"x": x}, after=["Gemm"])
    y = run(before, {"x": x})["y"].astype(np.float64)
    _, _, mean, variance = parameters(after)
    assert mean.dtype == (np.float32 if kind == "float16" else np.float64)
    unit = 2.0**-10 if kind == "float16" else 2.0**-50  # of the values: batches of another size sum in another order
    np.testing.assert_allclose(mean, y.mean(axis=0), atol=unit)
    np.testing.assert_allclose(variance, y.var(axis=0), rtol=4 * unit)


@pytest.mark.parametrize(("axis", "channels"), [(-1, 5), (1, 6)])
def test_channels_on_either_axis_of_a_matmul(axis: int, channels: int) -> None:
    before = model("(float[N,6,8] x) => (float[N,6,5] y) { y = MatMul(x, w) }", w=noise(8, 5))
    x = noise(50, 6, 8, seed=2) + 2
    result, after = preserved(before, x, after=["MatMul"], axis=axis)
    assert result.inserted[0].channels == channels
    assert_statistics(after, run(before, {"x": x})["y"], axis=axis)


def test_images_of_several_sizes_count_by_their_pixels() -> None:
    before = model(CONV_2D, w=noise(3, 2, 3, 3))
    images = [noise(n, 2, side, side + 1, seed=n) + n for n, side in ((3, 4), (1, 12), (6, 5))]
    result, after = preserved(before, images, after=["Conv"])
    flat = np.concatenate([np.moveaxis(run(before, {"x": i})["y"], 1, -1).reshape(-1, 3) for i in images])
    assert_statistics(after, flat)
    assert result.inserted[0].count == len(flat)


# Forms of data.


def sets() -> Iterator[dict[str, np.ndarray]]:
    for size in (64, 1, 7):
        yield {"x": noise(size, 4, 8, seed=size)}


@pytest.mark.parametrize("form", ["function", "list", "generator", "folder", "npz", "array"])
def test_data_of_every_form_give_the_same(tmp_path: Path, form: str) -> None:
    whole = np.concatenate([one["x"] for one in sets()])
    for place, one in enumerate(sets()):
        (tmp_path / "folder").mkdir(exist_ok=True)
        np.savez(tmp_path / "folder" / f"{place}.npz", **one)
    np.savez(tmp_path / "whole.npz", x=whole)
    forms: dict[str, object] = {
        "function": sets, "list": list(sets()), "generator": sets(), "folder": tmp_path / "folder",
        "npz": tmp_path / "whole.npz", "array": whole,
    }  # fmt: skip
    before = conv()
    result, after = preserved(before, forms[form], after=["Conv"])
    assert_statistics(after, run(before, {"x": whole}, ["c"])["c"])
    assert result.inserted[0].count == 72 * 6
    assert result.verdict is not None, "a generator that has ended is not asked again"


def test_labels_beside_the_samples_do_no_harm() -> None:
    x = noise(20, 4, 8)
    with_labels, without = (
        preserved(conv(), d, after=["Conv"])[1] for d in ({"x": x, "labels": np.arange(20)}, {"x": x})
    )
    assert with_labels.SerializeToString(deterministic=True) == without.SerializeToString(deterministic=True)


def test_what_does_not_fill_a_prescribed_batch_is_told() -> None:
    before = model("(float[8,4] x) => (float[8,3] y) { y = Gemm(x, w) }", w=noise(4, 3))
    result, _ = preserved(before, noise(21, 4), after=["Gemm"])
    assert result.inserted[0].count == 16
    assert any("5" in note for note in result.notes)


# Memory.


class Counting:
    """Counts arrays, and how many of them are there at once."""

    def __init__(self) -> None:
        self.count, self.alive, self.most = 0, 0, 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        weakref.finalize(array, self._gone)
        self.count, self.alive = self.count + 1, self.alive + 1
        self.most = max(self.most, self.alive)
        return array

    def _gone(self) -> None:
        self.alive -= 1


def test_memory_does_not_depend_on_how_many_sets_there_are() -> None:
    """Two thousand sets go by, and never more than a few of them are there at once."""
    given_out, batches = Counting(), Counting()
    stream = Stream(conv(), lambda: (given_out(noise(1, 4, 8, seed=seed % 50)) for seed in range(2000)))
    for batch in stream:
        batches(batch.feeds["x"])
    del batch
    gc.collect()
    assert (given_out.count, batches.count) == (2000, 2000)
    assert given_out.most <= 3
    assert batches.most <= 3
    assert (given_out.alive, batches.alive) == (0, 0)


def test_two_thousand_batches_are_measured_as_one() -> None:
    whole = noise(2000, 4, 2, seed=3) * 2 + 5
    before = model("(float[N,4,2] x) => (float[N,4,2] y) { y = Identity(x) }")
    result, after = preserved(before, lambda: (row[np.newaxis] for row in whole), at=["y"], verify="off")
    assert result.inserted[0].count == 4000
    wide = whole.astype(np.float64)
    np.testing.assert_allclose(parameters(after)[2], wide.mean(axis=(0, 2)), rtol=2.0**-24)
    np.testing.assert_allclose(parameters(after)[3], wide.var(axis=(0, 2)), rtol=2.0**-23)


# The function.


def test_the_factor_is_exactly_one_where_float32_allows_it() -> None:
    """98 % of all variances have a scale that float32 arithmetic undoes, as onnxruntime does it."""
    channels = 2048
    variances = np.random.default_rng(0).uniform(1e-3, 100, channels)
    made = preserving(Moments(1000, np.zeros(channels), 1000 * variances), onnx.TensorProto.FLOAT, 17)
    assert made.exact / channels > 0.97
    x = noise(16, channels, seed=1)
    text = f"""(float[N,{channels}] x) => (float[N,{channels}] y)
        {{ y = BatchNormalization <epsilon = 1e-5> (x, s, b, m, v) }}"""
    before = model(text, s=made.scale, b=made.bias, m=made.mean, v=made.variance)
    same = (run(before, {"x": x})["y"] == x).all(axis=0)
    assert int(same.sum()) >= made.exact, "what was computed as exact is so in onnxruntime"


@pytest.mark.parametrize("far", [0.0, 1e3, 1e5])
def test_the_function_stays_on_the_data_and_off_them(far: float) -> None:
    before = conv(b=noise(3, seed=1) + np.float32(far))
    result, after = preserved(before, noise(40, 4, 8), after=["Conv"])
    assert result.verdict is not None
    for x in (noise(40, 4, 8), 10 * noise(5, 4, 8, seed=9)):
        ours, theirs = (run(proto, {"x": x})["y"] for proto in (before, after))
        unit = 2.0**-23 * max(1.0, far)
        np.testing.assert_allclose(theirs, ours, atol=16 * unit + 2.0**-20 * np.abs(x).max())


@pytest.mark.parametrize("role", ["scale", "bias", "mean", "variance"])
@pytest.mark.parametrize("off", [2.0**-10, -(2.0**-14)])
def test_parameters_that_do_not_preserve_are_found(monkeypatch: pytest.MonkeyPatch, role: str, off: float) -> None:
    def wrong(*arguments: object) -> Parameters:
        made = preserving(*arguments)  # type: ignore[arg-type]
        return replace(made, **{role: getattr(made, role) * np.float32(1 + off)})

    monkeypatch.setattr("bnfold.api.inserting.preserving", wrong)
    with pytest.raises(bnfold.NotVerified):
        bnfold.insert(conv(b=noise(3, seed=1) + 4), after=["Conv"], init="preserve", data=noise(2, 4, 8))


def test_a_channel_that_is_constant_has_no_variance_and_stays() -> None:
    weight = noise(3, 4, 3)
    weight[1] = 0
    result, after = preserved(conv(w=weight), noise(9, 4, 8), after=["Conv"])
    assert parameters(after)[3][1] == 0
    assert result.inserted[0].constant == 1


# Bodies and functions.

IF = """(float[N,4,8] x, bool b) => (float[N,4,8] y) { y = If(b) <
    then_branch = yes () => (float[N,4,8] p) { p = Conv <pads = [1,1]> (x, w) },
    else_branch = no () => (float[N,4,8] q) { q = Mul(x, x) }> }"""


def test_each_branch_has_the_statistics_of_the_data_that_reach_it() -> None:
    before = model(IF, w=noise(4, 4, 3))
    data = [{"x": noise(size, 4, 8, seed=size), "b": np.array(size % 2 == 0)} for size in (3, 4, 5, 10)]
    result, after = preserved(before, data, after=["Conv", "Mul"])
    assert [one.count for one in result.inserted] == [14 * 8, 8 * 8]
    for place, branch in enumerate((True, False)):
        outputs = [run(before, one)["y"] for one in data if bool(one["b"]) is branch]
        assert_statistics(after, np.concatenate(outputs), place)


def test_a_function_has_the_statistics_of_all_its_calls() -> None:
    block = '<domain: "mine", opset_import: ["" : 17]> block (a, k) => (z) { c = Conv(a, k) z = Relu(c) }'
    text = "(float[N,4,8] x) => (float[N,4,4] y) { a = mine.block(x, w) y = mine.block(a, w) }"
    before = model(text, imports=', "mine" : 1', functions=block, w=noise(4, 4, 3))
    x = noise(30, 4, 8, seed=4)
    result, after = preserved(before, x, after=["Conv"])
    plain = model(
        "(float[N,4,8] x) => (float[N,4,4] d) { c = Conv(x, w) r = Relu(c) d = Conv(r, w) }", w=noise(4, 4, 3)
    )
    seen = run(plain, {"x": x}, ["c", "d"])
    flat = np.concatenate([np.moveaxis(seen[name], 1, -1).reshape(-1, 4) for name in ("c", "d")])
    assert_statistics(after, flat)
    assert result.inserted[0].count == len(flat)


@pytest.mark.parametrize(
    ("step", "iterations"),
    [
        ("o = Conv(h, w)", lambda h, conv: conv(h)),
        ("o = Concat <axis = 0> (h, h)", lambda h, _: np.concatenate([h, h])),
    ],
)
def test_iterations_of_a_loop_count_by_their_elements(step: str, iterations: Callable[..., np.ndarray]) -> None:
    """An iteration may have fewer positions than the one before, or more samples."""
    text = f"""(float[N,4,16] x) => (float[M,4,L] y) {{ n = Constant <value = int64 {{3}}> ()
        t = Constant <value = bool {{1}}> ()
        y = Loop(n, t, x) <body = again (int64 i, bool go, float[P,4,Q] h) => (bool on, float[R,4,S] o)
        {{ on = Identity(go) {step} }}> }}"""
    before, h, flat = model(text, w=noise(4, 4, 3)), noise(5, 4, 16, seed=8), []
    x = h
    plain = model("(float[N,4,L] x) => (float[N,4,M] y) { y = Conv(x, w) }", w=noise(4, 4, 3))
    for _ in range(3):
        h = iterations(h, lambda value: run(plain, {"x": value})["y"])
        flat.append(np.moveaxis(h, 1, -1).reshape(-1, 4))
    result, after = preserved(before, x, after=[step.split()[2].split("(", maxsplit=1)[0]])
    assert result.inserted[0].count == sum(map(len, flat))
    assert_statistics(after, np.concatenate(flat))
