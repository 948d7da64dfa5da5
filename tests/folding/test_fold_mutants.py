"""Models with a few things wrong in them: folded and certified, left alone, or refused in one sentence."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from folding_support import model, norm, plan_of, refusal, weights
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[1] / "commands"))
from mutants import MODELS, loaded, mutant, outcome  # a command, which stands beside the tests

PER_TEST = 100


@pytest.mark.parametrize("first", range(0, 500, PER_TEST))
def test_no_mutant_is_folded_wrongly_and_none_ends_in_a_traceback(first: int) -> None:
    models = loaded(sorted(MODELS.glob("*.onnx")))
    counts = Counter(outcome(mutant(models, seed)) for seed in range(first, first + PER_TEST))
    assert counts["folded"] > PER_TEST // 10, "the mutations leave nothing to be tested"
    assert counts["refused"] > 0


@pytest.mark.parametrize(
    ("op", "code"),
    [
        ("Transpose <perm = [0, 1]>", "no-home"),
        ("Transpose", "layout-lost"),
        ("Identity", "layout-lost"),
        ("Dropout", "layout-lost"),
        ("Flatten", "layout-lost"),
    ],
)
def test_an_affine_is_not_lost_where_the_operator_it_passes_has_no_input(op: str, code: str) -> None:
    text = f"(float[2,3] x) => (float[] y) {{ t = {op} ()  y = BatchNormalization (t, g, be, m, v) }}"
    refusal(model(text, **norm(3)), code, op.split(maxsplit=1)[0])


@pytest.mark.parametrize("attribute", ["alpha", "beta"])
def test_a_gemm_factor_that_is_not_finite_is_not_folded(attribute: str) -> None:
    text = """(float[2,3] x) => (float[] y) { c = Gemm (x, W)  y = BatchNormalization (c, g, be, m, v) }"""
    broken = model(text, W=weights(3, 4), **norm(4))
    broken.graph.node[0].attribute.append(helper.make_attribute(attribute, float("nan")))
    refusal(broken, "not-finite", "Gemm")
    broken.graph.node[0].attribute[0].f = 1.0
    assert not plan_of(broken).refusals


def test_an_epsilon_that_is_not_finite_is_not_folded() -> None:
    text = """(float[2,3] x) => (float[] y) { c = Gemm (x, W)  y = BatchNormalization (c, g, be, m, v) }"""
    broken = model(text, W=weights(3, 4), **norm(4))
    broken.graph.node[1].attribute.append(helper.make_attribute("epsilon", float("nan")))
    refusal(broken, "not-finite")
    broken.graph.node[1].attribute[0].f = 1e-3
    assert not plan_of(broken).refusals


def test_a_shape_that_is_made_of_floats_is_no_shape() -> None:
    text = """(float[2,3,5,5] x) => (float[] y) {
        c = Conv (x, W)  r = Reshape (c, W)  y = BatchNormalization (r, g, be, m, v) }"""
    refusal(model(text, W=weights(4, 3, 3, 3), **norm(4)), "layout-lost", "Reshape")
