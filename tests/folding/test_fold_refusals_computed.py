"""What depends on a size that nobody knows, or on what a caller may replace, does not tell where an operator acts.

Beside each refusal stands the nearest case that folds: the same with a size that is known.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import assert_same_function, fold, inputs, model, norm, refusal, weights

SIZES = "s = Shape (c)  k = Slice (s, i1, i2)  h = Slice (s, i2, i3)"
HELD = {**{f"i{k}": np.array([k]) for k in range(4)}, "z0": np.array(0), "z1": np.array(1)}
CASES = {  # the line, the channels behind it, the code and who is to blame
    "Slice": ("e = Div (h, i2)  p = Slice (c, i0, e, i1)", 2, "layout-lost"),
    "Split": ("e = Div (h, i2)  t = Concat <axis = 0> (e, e)  p, o = Split <axis = 1> (c, t)", 2, "layout-lost"),
    "Tile": ("t = Concat <axis = 0> (i1, h, i1, i1)  p = Tile (c, t)", 16, "layout-lost"),
    "Gather": (
        "e = Div (h, i2)  f = Squeeze (e, i0)  t = Range (z0, f, z1)  p = Gather <axis = 1> (c, t)",
        2,
        "layout-lost",
    ),
    "ReduceMean": ("e = Div (h, i2)  p = ReduceMean (c, e)", 4, "layout-lost"),
    "Pad": ("t = Concat <axis = 0> (i0, i0, h, i0, i0, i0, h, i0)  p = Pad (c, t)", 4, "padding"),
}


def behind(case: str, rows: object, **held: np.ndarray) -> onnx.ModelProto:
    line, channels, _ = CASES[case]
    text = f"""(float[1,3,{rows},4] x) => (float[] y) {{ c = Conv (x, W)  {SIZES}  {line}
        y = BatchNormalization (p, g, be, m, v) }}"""
    return model(text, opset=18, W=weights(4, 3, 1, 1), **norm(channels), **(HELD | held))


@pytest.mark.parametrize("case", CASES)
def test_a_size_that_nobody_knows(case: str) -> None:
    refusal(behind(case, "H"), CASES[case][2], case)
    if case not in {"Pad", "Tile"}:  # which pads zeros, and repeats channels that differ
        legal = behind(case, 4)
        assert_same_function(legal, fold(legal).proto, inputs(legal), 3)
        assert "BatchNormalization" not in fold(legal).ops


def test_a_default_that_a_caller_may_replace() -> None:
    """Where it cuts the channels is an input, with a default: the number of the caller decides which two are read."""
    text = """(float[1,3,4,4] x%s) => (float[1,2,4,4] y) { c = Conv (x, W)  t = Add (i, i2)  p = Slice (c, i, t, i1)
        y = BatchNormalization (p, g, be, m, v) }"""
    held = {"i": np.array([1]), **HELD, "W": weights(4, 3, 1, 1), **norm(2)}
    refusal(model(text % ", int64[1] i", **held), "layout-lost", "Slice")
    assert "BatchNormalization" not in fold(model(text % "", **held)).ops
