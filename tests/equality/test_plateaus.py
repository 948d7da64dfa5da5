"""Sums of many alike terms: rounding that adds up is no difference, and a fault is one all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from site_models import compared, model

from bnfold.equality.plateaus import like_terms
from bnfold.equality.runner import Runner
from bnfold.graph import Graph
from bnfold.model import read

SIDE = 28
SUMS = {
    "GlobalAveragePool": "p = GlobalAveragePool(c)",
    "GlobalLpPool": "p = GlobalLpPool(c)",
    "AveragePool": f"p = AveragePool<kernel_shape=[{SIDE},{SIDE}]>(c)",
    "LpPool": f"p = LpPool<kernel_shape=[{SIDE},{SIDE}]>(c)",
    "ReduceMean": "p = ReduceMean<axes=[2,3]>(c)",
    "ReduceL1": "p = ReduceL1<axes=[2,3]>(c)",
    "ReduceL2": "p = ReduceL2<axes=[2,3]>(c)",
}
CHANNELS = 6


def pair(summed: str, seed: int, fault: float = 0.0) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A Conv of which half the channels are their bias, summed over places and scaled; and the scale in the Conv."""
    random = np.random.default_rng(seed)
    weight = random.uniform(0.1, 1, (CHANNELS, 2, 1, 1)).astype(np.float32)
    weight[: CHANNELS // 2] = 0
    bias = random.uniform(1, 2, CHANNELS).astype(np.float32)
    scale = random.uniform(0.5, 2, (CHANNELS, 1, 1)).astype(np.float32)
    port = f"(float[1,2,{SIDE},{SIDE}] x) => (float[1,{CHANNELS},1,1] y)"
    before = model(f"{port} {{ c = Conv(x,w,b) {SUMS[summed]} y = Mul(p,k) }}", w=weight, b=bias, k=scale)
    shift = bias * scale.reshape(-1) * (1 + fault * (np.arange(CHANNELS) == 1))
    after = model(
        f"{port} {{ c = Conv(x,w,b) {SUMS[summed].replace('p =', 'y =')} }}", w=weight * scale[..., None], b=shift
    )
    return before, after


@pytest.mark.parametrize("summed", SUMS)
def test_rounding_that_adds_up_is_no_difference(summed: str, tmp_path: Path, runner: Runner) -> None:
    for seed in range(6):
        found = compared(tmp_path, runner, *pair(summed, seed))
        assert found.is_same, found


@pytest.mark.parametrize("summed", SUMS)
def test_a_bias_that_is_off_is_one(summed: str, tmp_path: Path, runner: Runner) -> None:
    found = compared(tmp_path, runner, *pair(summed, 0, fault=1e-4))
    assert found.divergence is not None


@pytest.mark.parametrize("summed", SUMS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_how_many_terms_are_alike(summed: str, share: float) -> None:
    before, _ = pair(summed, 0)
    graph = Graph.of(read(before))
    nodes = tuple(graph.producers_first())
    node = next(n for n in nodes if n.op == summed)
    data = np.random.default_rng(0).standard_normal((1, 2, SIDE, SIDE)).astype(np.float32)
    data.reshape(2, -1)[1, : round(share * SIDE**2)] = 7
    values = {node.inputs[0].id: data, node.outputs[0].id: np.zeros((1, 2, 1, 1), np.float32)}
    found = like_terms(nodes, lambda wanted: {v.id: values[v.id] for v in wanted})
    expected = share * SIDE**2 if share >= 1 / 8 else 0.0
    assert found == pytest.approx(expected, abs=1)


def test_nothing_is_alike_where_nothing_is_summed_over_places() -> None:
    before, _ = pair("ReduceMean", 0)
    graph = Graph.of(read(before))
    conv = [n for n in graph.producers_first() if n.op == "Conv"]
    assert like_terms(conv, lambda _: pytest.fail("nothing has to be run")) == 0
