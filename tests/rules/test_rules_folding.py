"""BN015 and BN016: what the plan has to say, and what would come of a fold in float16."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from rule_models import ALONE, CONV, W, codes, kernel, model, only, sound

import bnfold

HALF = CONV.replace("float[", "float16[")


def test_a_layer_that_could_be_folded_is_a_note() -> None:
    found = only(model(CONV, W=W, **sound()), "BN016", "Conv#0")
    assert found.severity == "note"
    assert [one.code for one in bnfold.validate(model(ALONE, **sound()))] == []


def test_a_note_fails_only_if_its_code_is_selected() -> None:
    proto = model(CONV, W=W, **sound())
    assert not bnfold.validate(proto).fails
    assert not bnfold.validate(proto, select=["BN01"]).fails
    assert bnfold.validate(proto, select=["BN016"]).fails


def test_a_layer_that_stays_for_a_reason_is_no_note() -> None:
    text = CONV.replace("y = BatchNormalization (c", "r = Relu (c)  y = BatchNormalization (r")
    assert bnfold.plan(model(text, W=W, **sound())).refusals[0].reason.code == "shift-stays"
    assert [one.code for one in bnfold.validate(model(text, W=W, **sound()))] == []


@pytest.mark.parametrize(("size", "expected"), [(2e5, ["BN015"]), (6e4, [])])
def test_weights_that_float16_has_no_room_for_once_they_are_folded(size: float, expected: list[str]) -> None:
    """The scale is at most 1: only the size of the weights decides."""
    assert codes(model(CONV, W=kernel(4, 3, 1, 1, size=size), **sound(g=1, v=1.0))) == expected


def test_a_bias_that_float16_has_no_room_for() -> None:
    found = only(model(CONV, W=W, **sound(g=(0, 400), m=(0, 300))), "BN015", "Conv#0", "a weight or bias")
    assert found.severity == "warning"
    assert codes(model(CONV, W=W, **sound(g=(0, 100), m=(0, 300)))) == []


def test_the_scale_of_a_layer_that_stays_is_not_held_against_it() -> None:
    assert codes(model(ALONE, **sound(g=(0, 400), m=(0, 300)))) == []


def test_a_fold_that_is_refused_in_the_type_of_the_weights_says_why() -> None:
    proto = model(HALF, W=kernel(4, 3, 1, 1, size=6e4, dtype=np.float16), **sound(dtype=np.float16, g=(1, 60)))
    (refusal,) = bnfold.plan(proto).refusals
    assert refusal.reason.code == "overflow"
    only(proto, "BN015", refusal.detail)
    fitting = model(HALF, W=kernel(4, 3, 1, 1, dtype=np.float16), **sound(dtype=np.float16, g=(1, 60)))
    assert codes(fitting) == []


def test_a_sum_of_two_layers_in_one_home_counts_together() -> None:
    """Neither factor is too large alone; what the Conv would take over is their product."""
    text = """(float[N,3,6,6] x) => (float[N,4,6,6] y) {
        c = Conv (x, W)  a = BatchNormalization (c, g, b, m, v)  y = BatchNormalization (a, g, b, m, v) }"""
    proto = model(text, W=W, **sound(g=300, m=0, b=0, v=1))
    assert codes(proto).count("BN015") == 2
    assert "BN015" not in codes(model(text, W=W, **sound(g=100, m=0, b=0, v=1)))
    assert numpy_helper.to_array(proto.graph.initializer[0]).max() * 300 < 65504


@pytest.mark.parametrize(("bound", "said"), [(5e4, True), (2e4, False)])
def test_a_bound_that_float16_has_no_room_for(bound: float, said: bool) -> None:
    """Before opset 11 it is an attribute."""
    text = CONV.replace("y = BatchNormalization (c", f"p = Clip <max = {bound}> (c)  y = BatchNormalization (p")
    parameters = {name: np.full(4, number, np.float32) for name, number in zip("gbmv", (2, 0, 0, 1), strict=True)}
    assert ("BN015" in codes(model(text, opset=10, W=W, **parameters))) == said
