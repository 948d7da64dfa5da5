"""A shift vanishes in an operator exactly when it is alike along the axes on which that acts; a scale never does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from folding_draws import Array, arrays, examples
from folding_support import fold, model, run
from forward_support import certified
from hypothesis import event, given
from hypothesis import strategies as st

PROVEN = {("feeding", op) for op in ("Softmax", "LogSoftmax", "InstanceNormalization")}
UNIT = 2.0**-24


@dataclass(frozen=True, slots=True)
class Case:
    before: onnx.ModelProto
    x: Array
    shift: Array
    vanishes: bool


@st.composite
def cases(draw: st.DrawFn, op: str) -> Case:
    shape = draw(st.sampled_from([(2, 3, 4), (2, 3, 4, 2), (2, 3, 2, 2, 2)]))
    opset, rank = draw(st.sampled_from([8, 11, 13, 17])), len(shape)
    axis = draw(st.integers(0, rank - 1))
    looked_at, line, held = list(range(2, rank)), f"y = {op} (n, g, be)", {}
    if op == "InstanceNormalization":
        held = {"g": draw(arrays((3,), np.float32)), "be": draw(arrays((3,), np.float32))}
    else:
        written = axis - rank if opset >= 11 and draw(st.booleans()) else axis
        line = f"y = {op} <axis = {written}> (n)"
        looked_at = [axis] if opset >= 13 else list(range(axis, rank))
    where = draw(st.sets(st.sampled_from(range(rank))))
    if draw(st.booleans()):
        where -= set(looked_at)
    form = tuple(size if place in where else 1 for place, size in enumerate(shape))
    shift = draw(arrays(form, np.float32)) + np.arange(np.prod(form), dtype=np.float32).reshape(form) / 8
    text = f"(float{list(shape)} x) => (float[] y) {{ n = {draw(st.sampled_from(['Add', 'Sub']))} (x, k) {line} }}"
    # What differs along several axes at once is no affine that is looked at.
    vanishes = not where & set(looked_at) and len(where) <= 1
    return Case(model(text, opset=opset, k=shift, **held), draw(arrays(shape, np.float32)), shift, vanishes)


def allowed(case: Case, ours: Array) -> float:
    """What rounding the sum of both does to the output: its slope is at most one, or one by the deviation."""
    moved = UNIT * float(np.abs(case.x).max() + np.abs(case.shift).max())
    if case.before.graph.node[-1].op_type != "InstanceNormalization":
        return 4 * moved + 32 * UNIT * float(np.abs(ours).max())
    positions = tuple(range(2, case.x.ndim))
    steepest = float((1 / np.sqrt(case.x.astype(np.float64).var(positions) + 1e-5)).max())
    return 16 * moved * steepest**2 * 4 + 32 * UNIT * float(np.abs(ours).max() + 2)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "InstanceNormalization"])
def test_a_shift_goes_exactly_when_it_makes_no_difference(op: str) -> None:
    counted = {True: 0, False: 0}

    @examples(60)
    @given(cases(op))
    def check(case: Case) -> None:
        done = fold(case.before)
        event("goes" if case.vanishes else "stays")
        assert (done.ops == [op]) == case.vanishes, done.plan.refusals
        certified(case.before, done)
        assert fold(done.bytes).bytes == done.bytes
        ours, theirs = (run(proto, {"x": case.x})[0].astype(np.float64) for proto in (case.before, done.proto))
        assert np.abs(ours - theirs).max() <= allowed(case, ours)
        counted[case.vanishes] += 1

    check()
    assert min(counted.values()) >= 8, counted
