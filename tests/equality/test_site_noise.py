"""Noise for channels of few elements: where copies lie, and that what is wrong or right there is found to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from site_models import affine, compared, kernel, model, norm

from bnfold.equality.outline import Outline
from bnfold.equality.runner import Runner
from bnfold.equality.site_noise import Layout, stride_of_maps, with_noise
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.shapes import Shapes


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_copies_lie_along_the_first_axis(rank: int) -> None:
    assert Layout(16).times(rank) == (16, 1, 1, 1)[:rank]


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("copies", [1, 2, 8, 128])
@pytest.mark.parametrize("stride", [1, 2])
def test_copies_in_maps_are_as_many_and_leave_batch_and_channels_alone(rank: int, copies: int, stride: int) -> None:
    times = Layout(copies, stride).times(rank)
    assert len(times) == rank
    assert times[:2] == (1, 1)
    assert np.prod(times) == copies * stride ** (rank - 2)


@pytest.mark.parametrize("layout", [Layout(4), Layout(4, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_noise_is_as_large_as_the_values_vary(layout: Layout, dtype: str) -> None:
    value = (100 + 5 * np.random.default_rng(0).standard_normal((2, 64, 2, 2))).astype(dtype)
    noisy = with_noise(value, np.random.default_rng(1), layout)
    assert noisy.dtype == value.dtype
    assert noisy.shape == tuple(n * times for n, times in zip(value.shape, layout.times(4), strict=True))
    off = noisy.astype(np.float64) - np.tile(value, layout.times(4))
    assert abs(float(off.std()) - 5) < 0.2


@pytest.mark.parametrize("value", [np.arange(4), np.array([True]), np.array(["a"], object)])
def test_what_is_no_float_stays_as_it_is(value: np.ndarray) -> None:
    assert with_noise(value, np.random.default_rng(0), Layout(4)) is value


ONE_BY_ONE = np.ones((8, 8, 1, 1))


@pytest.mark.parametrize(
    ("text", "weight", "stride"),
    [
        ("(float[N,8,h,w] x) => (y) { y = Conv<pads = [1,1,1,1]>(x,w) }", kernel(), 1),
        ("(float[N,8,h,w] x) => (y) { y = Conv<strides = [2,2]>(x,w) }", kernel(), 2),
        ("(float[N,8,h,w] x) => (y) { t = Conv<strides = [2,2]>(x,w) y = Conv<strides = [2,2]>(t,w) }", kernel(), 4),
        ("(float[N,8,4,w] x) => (y) { y = Conv(x,w) }", kernel(), 0),
        ("(float[N,8,4,4] x) => (y) { y = Conv<kernel_shape = [1,1]>(x,w) }", ONE_BY_ONE, 1),
        ("(float[N,8,4,4] x) => (y) { y = Conv(x,w) }", ONE_BY_ONE, 0),
        ("(float[N,8,4,4] x) => (y) { y = Conv<kernel_shape = [1,1], pads = [1,1,1,1]>(x,w) }", ONE_BY_ONE, 0),
        ("(float[N,8,4,4] x) => (y) { y = Conv<kernel_shape = [1,1], strides = [2,2]>(x,w) }", ONE_BY_ONE, 0),
        ("(float[N,8,h,w] x) => (y) { t = Conv(x,w) y = GlobalAveragePool(t) }", kernel(), 0),
        ("(float[N,8,h,w] x) => (y) { y = Relu(x) }", kernel(), 0),
    ],
)
def test_which_nodes_run_on_maps_of_any_size(text: str, weight: np.ndarray, stride: int) -> None:
    graph = Graph.of(read(model(text.replace("(y) {", "(float y) {"), w=weight)))
    outline = Outline.of(graph)
    nodes, bounds = outline.behind([outline.names["y"]], ())
    shapes = Shapes(graph)
    assert stride_of_maps(nodes, [(shapes, value) for value in bounds]) == stride


# Both sides of a site.


def strided(size: str) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """A Conv and its BatchNormalization that make one place out of maps of 2 by 2, and what the fold's weights are."""
    text = f"""(float[2,8,{size}] x) => (float[2,8,a,b] y) {{
      t = Conv<pads = [1,1,1,1], strides = [2,2]>(x,w) y = BatchNormalization(t,g,be,m,v) }}"""
    scale, shift = affine(norm())
    return model(text, w=kernel(), **norm()), kernel() * scale[:, None, None, None], shift


def folded(size: str, weight: np.ndarray, shift: np.ndarray) -> onnx.ModelProto:
    text = f"""(float[2,8,{size}] x) => (float[2,8,a,b] y) {{
      y = Conv<pads = [1,1,1,1], strides = [2,2]>(x,w,b) }}"""
    return model(text, w=weight, b=shift)


@pytest.mark.parametrize("size", ["h,w", "2,2"])
def test_a_right_fold_on_few_elements_is_right(size: str, runner: Runner, tmp_path: Path) -> None:
    before, weight, shift = strided(size)
    found = compared(tmp_path, runner, before, folded(size, weight, shift))
    assert found.is_same, found.why
    assert found.compared == 1


@pytest.mark.parametrize("size", ["h,w", "2,2"])
def test_a_channel_that_is_off_shows_on_few_elements(size: str, runner: Runner, tmp_path: Path) -> None:
    before, weight, shift = strided(size)
    weight[3] *= 1 + 8e-6
    found = compared(tmp_path, runner, before, folded(size, weight, shift))
    assert found.divergence is not None
    assert found.divergence.excess.kind == "gain"
    assert found.divergence.excess.channel == 3


def test_a_tap_that_meets_only_padding_shows_where_maps_may_be_larger(runner: Runner, tmp_path: Path) -> None:
    before, weight, shift = strided("h,w")
    weight[3, 2, 0, 0] = 0
    assert compared(tmp_path, runner, before, folded("h,w", weight, shift)).divergence is not None


def test_a_tap_that_meets_only_padding_is_free_where_maps_have_a_size(runner: Runner, tmp_path: Path) -> None:
    before, weight, shift = strided("2,2")
    weight[:, :, 0, 0] = 0
    assert compared(tmp_path, runner, before, folded("2,2", weight, shift)).is_same


def test_shares_stay_shares() -> None:
    """Rows that sum to one, as a Softmax puts them out, are other rows that do."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((2, 3, 5)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True, dtype=np.float32)
    noisy = with_noise(shares, random, Layout(4))
    assert noisy.shape == (8, 3, 5)
    assert np.all(noisy >= 0)
    assert np.abs(noisy.sum(-1, dtype=np.float64) - 1).max() <= 5 * 2.0**-24
    assert np.all(np.ptp(noisy.reshape(4, -1), axis=0) > 0)


def test_a_single_share_stays_all_there_is() -> None:
    """Of one row, say, by which nothing is mixed."""
    noisy = with_noise(np.ones((2, 3, 1), np.float32), np.random.default_rng(0), Layout(4))
    assert np.array_equal(noisy, np.ones((8, 3, 1), np.float32))


@pytest.mark.parametrize("off", [1e-3, -1e-3, 0.5])
def test_rows_that_sum_to_something_else_are_no_shares(off: float) -> None:
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(5), 6).astype(np.float32) + np.float32(off / 5)
    noisy = with_noise(shares, random, Layout(4))
    assert np.abs(noisy.sum(-1) - 1 - off).max() > 0.1
