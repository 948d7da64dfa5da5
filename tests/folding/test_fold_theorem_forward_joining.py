"""An affine goes forward through what joins several values that bear it: sums, choices, products, values side by side.

All come from one value that bears it, by ways of their own, so that they bear the same. Each draw is proven by running
and by the certificate; each condition is broken once.
"""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import Array, arrays, examples, kinds, statistics
from folding_support import assert_same_function, fold, inputs, model, norm, proven, weights
from forward_support import certified
from hypothesis import event, given
from hypothesis import strategies as st

import bnfold

PROVEN = {("forward", "Max"), ("forward", "Min"), ("forward", "Where")}

WAYS = {
    "itself": "{to} = Identity (n)",
    "turned": "{to} = Gather <axis = 0> (n, i)",
    "average": "{to} = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n)",
    "largest": "{to} = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n)",
    "one place": "{to} = GlobalAveragePool (n)",
}
JOINS = {
    "Add": "t = Add (a, b)", "Sub": "t = Sub (a, b)", "Sum": "t = Sum (a, b, n)", "Max": "t = Max (a, b)",
    "Min": "t = Min (a, n, b)", "Where": "t = Where (q, a, b)", "Mul": "t = Mul (a, b)",
    "twice": "t = Add (n, n)", "a square": "t = Mul (n, n)", "channels": "t = Concat <axis = 1> (a, z, b)",
    "rows": "t = Concat <axis = 2> (a, b)", "batch": "t = Concat <axis = 0> (n, a)",
    "one behind the other": "u = Add (a, b) t = Max (u, n, n)",
}  # fmt: skip
NO_SHIFT = {"Mul", "a square"}
NO_SIGN = {"Max", "Min", "one behind the other"}
SMALL = {"rows", "channels", "batch"}


def shown(join: str) -> str:
    return join.replace("one behind the other", "chain")


@pytest.mark.parametrize("join", JOINS, ids=shown)
@examples(25)
@given(st.data())
def test_what_all_values_bear_the_result_bears(join: str, data: st.DataObject) -> None:
    kind, channels = data.draw(kinds()), data.draw(st.integers(1, 4))
    held = data.draw(statistics(channels, kind))
    ways = [way for way in WAYS if join not in SMALL or way != "one place"]
    first, second = (data.draw(st.sampled_from(ways)) for _ in range(2))
    if join in NO_SIGN or "largest" in {first, second}:
        held["g"] = np.abs(held["g"])
    if join in NO_SHIFT:
        held["be"], held["m"] = (np.zeros_like(held[name]) for name in ("be", "m"))
    if join == "one behind the other":  # 2*(a*x + s) and a*x + s are not alike
        held["g"], held["v"] = np.ones_like(held["g"]), np.full_like(held["v"], 1)
        held["be"], held["m"] = (np.zeros_like(held[name]) for name in ("be", "m"))
    width = channels * (3 if join == "channels" else 1)
    held |= {"W": data.draw(arrays((3, width, 1, 1), kind.data)), "c": data.draw(arrays((3,), kind.data))}
    body = f"{WAYS[first].format(to='a')} {WAYS[second].format(to='b')} z = Sigmoid (x) {JOINS[join]}"
    before = model(
        f"({kind.text}[2,{channels},4,4] x, bool[2,1,4,1] q) => ({kind.text}[] y) {{ p = Relu (x)"
        f" n = BatchNormalization (p, g, be, m, v) {body} y = Conv (t, W, c) }}",
        opset=max(kind.opset, 13), i=np.array([1, 0]), **held,
    )  # fmt: skip
    feeds = inputs(before) | {"q": np.random.default_rng(0).random((2, 1, 4, 1)) < 0.5}
    done = fold(before)
    if [each for each in done.plan.refusals if each.reason.code in {"precision-lost", "overflow"}]:
        event("lost")
        return
    event("went")
    done = proven(before, feeds, 40 * width + 4)
    certified(before, done)
    assert "BatchNormalization" not in done.ops


ALONE = {
    "a sum of which one bears nothing": ("t = Add (n, p)", {}),
    "a choice of which one bears nothing": ("t = Max (n, p)", {}),
    "a negative scale": ("a = Identity (n) t = Max (n, a)", {"g": -weights(4, seed=5)}),
    "a shift of products": ("a = Identity (n) t = Mul (n, a)", {}),
    "what divides": ("a = Identity (n) t = Div (a, n)", {"be": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}),
    "two scales": ("a = Mul (n, n) u = Add (a, n) t = Identity (u)", {}),
    "sums of other shifts": ("a = Add (n, n) u = Identity (n) t = Max (a, u)", {}),
    "rows of which some bear nothing": ("t = Concat <axis = 2> (n, p)", {}),
    "a condition": ("f = Constant <value_float = 0.5> () q = Greater (n, f) t = Where (q, n, n)", {}),
}


@pytest.mark.parametrize("name", ALONE)
def test_where_they_do_not_bear_the_same_it_stays(name: str) -> None:
    body, held = ALONE[name]
    before = model(
        f"(float[2,4,5,5] x) => (float[] y) {{ p = Relu (x) n = BatchNormalization (p, g, be, m, v) {body}"
        " y = Conv (t, W) }",
        W=weights(3, 4, 1, 1), **norm(4) | held,
    )  # fmt: skip
    done = fold(before)
    assert [refusal.site.op for refusal in done.plan.refusals] == ["BatchNormalization"]
    assert done.bytes == before.SerializeToString(deterministic=True)


def test_what_differs_between_channels_does_not_pass_what_one_value_is_for_all_of() -> None:
    """Of the smaller value one number serves all channels, each of which would bear another scale."""
    before = model(
        "(float[2,4,5,5] x) => (float[] y) { p = Relu (x) n = BatchNormalization (p, g, be, m, v)"
        " s = ReduceMean <axes = [1]> (n) t = Add (n, s) y = Conv (t, W) }",
        W=weights(3, 4, 1, 1), **norm(4),
    )  # fmt: skip
    assert len(fold(before).plan.refusals) == 1


def held_by(value: float) -> Array:
    return np.full(4, value, np.float32)


def test_a_pyramid_of_pools_goes_as_one() -> None:
    """As of YOLO's SPPF: a value beside its pools, and pools of these."""
    pool = "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
    before = model(
        f"(float[1,4,6,6] x) => (float[] y) {{ p = Relu (x) n = BatchNormalization (p, g, be, m, v) a = {pool} (n)"
        f" b = {pool} (a) c = {pool} (b) t = Concat <axis = 1> (n, a, b, c) y = Conv (t, W) }}",
        W=weights(5, 16, 1, 1), **norm(4) | {"g": np.abs(weights(4)) + held_by(0.5)},
    )  # fmt: skip
    done = fold(before)
    assert done.ops == ["Relu", "MaxPool", "MaxPool", "MaxPool", "Concat", "Conv"]
    assert_same_function(before, done.proto, inputs(before), 20)
    assert bnfold.fold(before).verdict.word == "same"
