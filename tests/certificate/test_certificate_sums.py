"""Sums that lose a value which one of the others takes over, written by hand: the right folds hold, others do not.

f + conv(x) + (a*x + s)         a Sum of three becomes one of two
conv(x) + (f + (a*x + s))       the inner sum goes, and f takes its place
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from certificate_folds import copied, put
from certificate_pairs import Arrays, Draw, Pair, claimed, merged, pair_of, read_besides, wide

from bnfold.equality.claim import Claim

INTERFACE = "(float[1,4,7] x) => (float[1,4,z] y)"
CONV = "Conv<group=2,pads=[1,1]>"


def tapped(weight: np.ndarray, scale: np.ndarray, place: int = 1) -> np.ndarray:
    """A weight of two groups of two channels with one more tap at a place of its kernel, in float64."""
    found = wide(weight).copy()
    channels = np.arange(4)
    found[channels, channels % 2, place] += scale
    return found


def joined(pair: Pair, *joints: str) -> Pair:
    """The same, where the first claims lead into convolutions beside, and these sums lost what went."""
    sites = [claimed(pair.before, f"{name}: ->").site for name in joints]
    first = (replace(claim, joint=(site,)) for claim, site in zip(pair.claims, sites, strict=False))
    return replace(pair, claims=(*first, *pair.claims[len(sites) :]))


def layer(
    before: str, after: str, joint: str = "y", path: str = "", sign: float = 1.0
) -> tuple[Pair, dict[str, Arrays]]:
    """`n` is added to the convolution `c` and to something else: a pair, and wrong numbers by name."""
    draw = Draw(1)
    w, b, (parameters, a, s) = draw.weights(4, 2, 3), draw.terms(4), draw.normalization(4)
    body = f"n = BN(x,g,e,m,v) f = Sigmoid(x) h = Relu(x) c = {CONV}(x,w,b) {before}"
    found = pair_of(
        draw, INTERFACE, body, f"f = Sigmoid(x) h = Relu(x) d = {CONV}(x,w1,b1) {after}", f"n: {path} -> c",
        old={"w": w, "b": b, **parameters}, new={"w1": tapped(w, sign * a), "b1": wide(b) + sign * s},
    )  # fmt: skip
    return joined(found, joint), {
        "no tap": {"w1": wide(w)},
        "no shift": {"b1": wide(b)},
        "the tap with the other sign": {"w1": tapped(w, -sign * a)},
        "the shift with the other sign": {"b1": wide(b) - sign * s},
        "the tap at another place": {"w1": tapped(w, sign * a, 0)},
        "the tap twice": {"w1": tapped(w, 2 * sign * a)},
    }


KINDS = {
    "a Sum of three": layer("y = Sum(c,n,f)", "y = Sum(d,f)"),
    "the first of three": layer("y = Sum(n,f,c)", "y = Sum(f,d)"),
    "a Sum of four": layer("y = Sum(f,n,h,c)", "y = Sum(f,h,d)"),
    "by way of a Sum that stays": layer("t = Sum(f,c) y = Sum(n,t,h)", "t1 = Sum(f,d) y = Sum(t1,h)", path="t"),
    "further on": layer("t = Add(n,f) y = Add(t,c)", "y = Add(f,d)", "t", "y"),
    "further on, the other operands": layer("t = Add(f,n) y = Add(c,t)", "y = Add(d,f)", "t", "y"),
    "further on, taken away": layer("t = Sub(f,n) y = Add(t,c)", "y = Add(f,d)", "t", "y", -1.0),
    "taken away twice": layer("t = Add(f,n) u = Sub(h,t) y = Sub(u,c)", "u1 = Sub(h,f) y = Sub(u1,d)", "t", "u y"),
    "the convolution taken away": layer("t = Add(n,f) y = Sub(t,c)", "y = Sub(f,d)", "t", "y", -1.0),
    "further on, from a Sum that stays": layer("t = Sum(n,f,h) y = Add(t,c)", "t1 = Sum(f,h) y = Add(t1,d)", "t", "y"),
    "further on, two sums": layer(
        "t = Add(n,f) u = Add(h,t) k = Sub(c,h) y = Add(u,k)",
        "u1 = Add(h,f) k1 = Sub(d,h) y = Add(u1,k1)",
        "t",
        "u y k",
    ),
    "what is left is the data": layer("t = Add(n,x) y = Add(t,c)", "y = Add(x,d)", "t", "y"),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_sum_that_loses_a_value_holds(name: str) -> None:
    checked = KINDS[name][0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    assert checked.holds


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, (_, each) in KINDS.items() for wrong in each])
def test_other_numbers_do_not_hold(name: str, wrong: str) -> None:
    pair, numbers = KINDS[name][0], KINDS[name][1][wrong]
    after = put(copied(pair.after), **{n: v.astype(np.float32) for n, v in numbers.items()})
    assert pair.certificate(after).failure is not None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("a Sum of three", "y = Sum(d)"),
        ("a Sum of three", "y = Sum(f)"),
        ("a Sum of three", "y = Sum(d,h)"),
        ("a Sum of three", "y = Sum(f,d)"),
        ("a Sum of three", "y = Sum(d,f,f)"),
        ("a Sum of three", "y = Sum(d,x,f)"),
        ("a Sum of three", "y = Add(d,f)"),
        ("a Sum of three", "y = Identity(d)"),
        ("a Sum of four", "y = Sum(f,d)"),
        ("a Sum of four", "y = Sum(h,d)"),
        ("further on", "y = Add(h,d)"),
        ("further on", "y = Add(x,d)"),
        ("further on", "y = Add(d,d)"),
        ("further on", "y = Sub(f,d)"),
        ("further on", "y = Identity(d)"),
        ("further on, taken away", "y = Sub(f,d)"),
        ("further on, from a Sum that stays", "t1 = Sum(f,h,h) y = Add(t1,d)"),
        ("further on, from a Sum that stays", "t1 = Sum(f) y = Add(t1,d)"),
        ("further on, from a Sum that stays", "t = Sum(f,h) y = Add(t,d)"),
        ("further on, from a Sum that stays", "y = Add(f,d)"),
    ],
)
def test_a_sum_that_loses_something_else_does_not_hold(name: str, wrong: str) -> None:
    pair = KINDS[name][0]
    after = copied(pair.after)
    body = pair_of(Draw(1), INTERFACE, wrong_body := f"f = Sigmoid(x) h = Relu(x) d = {CONV}(x,w1,b1) {wrong}",
                   wrong_body, [], old=arrays(pair), new=arrays(pair)).after  # fmt: skip
    after.graph.ClearField("node")
    after.graph.node.extend(body.graph.node)
    checked = pair.certificate(after)
    assert checked.failure is not None, (checked.holds, checked.uncertain)


def arrays(pair: Pair) -> dict[str, np.ndarray]:
    """Some weight and bias: the nodes alone are of interest."""
    return {tensor.name: np.zeros(list(tensor.dims), np.float32) for tensor in pair.after.graph.initializer}


@pytest.mark.parametrize(
    ("before", "after", "joint", "path", "sign"),
    [
        ("t = Sub(n,f) y = Add(t,c)", "y = Add(f,d)", "t", "y", 1.0),
        ("t = Sub(n,f) y = Add(t,c)", "y = Sub(d,f)", "t", "y", 1.0),
        ("t = Mul(n,f) y = Add(t,c)", "y = Add(f,d)", "t", "y", 1.0),
        ("t = Max(n,f,h) y = Add(t,c)", "t1 = Max(f,h) y = Add(t1,d)", "t", "y", 1.0),
        ("t = Add(n,f) y = Mul(t,c)", "y = Mul(f,d)", "t", "y", 1.0),
        ("t = Add(n,f) u = Relu(t) y = Add(u,c)", "u1 = Relu(f) y = Add(u1,d)", "t", "u y", 1.0),
        ("y = Max(c,n,f)", "y = Max(d,f)", "y", "", 1.0),
        ("y = Mean(c,n,f)", "y = Mean(d,f)", "y", "", 1.0),
        ("k = Relu(c) y = Sum(k,n,f)", "k1 = Relu(d) y = Sum(k1,f)", "y", "k", 1.0),
        ("t = Add(n,f) y = Sum(c,t,t)", "y = Sum(d,f,f)", "t", "y", 1.0),
        ("y = Sum(c,n,n)", "y = Sum(d)", "y", "", 1.0),
    ],
)
def test_what_is_no_sum_of_both_does_not_hold(before: str, after: str, joint: str, path: str, sign: float) -> None:
    for each in (sign, -sign):
        assert not layer(before, after, joint, path, each)[0].certificate().holds


@pytest.mark.parametrize("name", ["n", "t"])
@pytest.mark.parametrize("reader", ["Relu", "Shape"])
def test_whatever_else_sees_what_ends_or_loses_a_value_is_seen(name: str, reader: str) -> None:
    """Not even its shape may be asked for: what is left may be smaller."""
    pair = read_besides(KINDS["further on"][0], name)
    for model in (pair.before, pair.after):
        model.graph.node[-1].op_type = reader
        if reader == "Shape":
            model.graph.output[-1].type.tensor_type.elem_type = 7
    assert not pair.certificate().holds


def test_before_opset_8_nothing_takes_the_place_of_a_value() -> None:
    pair = KINDS["further on"][0]
    for model in (pair.before, pair.after):
        model.opset_import[0].version = 7
    assert "is on no way" in str(pair.certificate().failure)


def the_sum_of_both(claim: Claim, of: Callable[[str], Claim]) -> Claim:
    return replace(claim, joint=(of("y").site,))


def no_way(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, path=())


def half_the_way(claim: Claim, of: Callable[[str], Claim]) -> Claim:
    return replace(claim, path=(of("u").site,))


def no_joint(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, joint=())


def the_first_sum_on_the_way(claim: Claim, of: Callable[[str], Claim]) -> Claim:
    return replace(claim, joint=(of("u").site,))


@pytest.mark.parametrize(
    "change", [the_sum_of_both, no_way, half_the_way, no_joint, the_first_sum_on_the_way], ids=lambda f: f.__name__
)
def test_a_claim_that_is_not_what_happened_does_not_hold(change: Callable[..., Claim]) -> None:
    pair = KINDS["further on, two sums"][0]
    wrong = change(pair.claims[0], lambda name: claimed(pair.before, f"{name}: ->"))
    assert not pair.certificate(claimed=(wrong,)).holds


# What goes back or ahead later finds the sum as it is then.


def scaled_later() -> Pair:
    """`y = n2(c(x) + n(x) + d(x))`: a tap, and then the scale for the two values that are left."""
    draw = Draw(5)
    w, b, u = draw.weights(4, 2, 3), draw.terms(4), draw.weights(4, 2, 1)
    one, two = draw.normalization(4, "1"), draw.normalization(4, "2")
    scale = two[1][:, None, None]
    found = pair_of(
        draw, INTERFACE,
        f"n = BN(x,g1,e1,m1,v1) c = {CONV}(x,w,b) d = Conv<group=2>(x,u) z = Sum(c,n,d) y = BN(z,g2,e2,m2,v2)",
        f"c1 = {CONV}(x,w1,b1) d1 = Conv<group=2>(x,u1) y = Sum(c1,d1)", ["n: -> c", "y: z -> c d"],
        old={"w": w, "b": b, "u": u, **one[0], **two[0]},
        new={"w1": tapped(w, one[1]) * scale, "b1": (wide(b) + one[2]) * two[1] + two[2], "u1": wide(u) * scale},
    )  # fmt: skip
    return joined(found, "z")


def test_a_scale_that_goes_back_through_what_is_left_holds() -> None:
    pair = scaled_later()
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    assert not pair.certificate(claimed=pair.claims[::-1]).holds, "before that it would have to go to the other one too"
    for claims in (pair.claims[:1], pair.claims[1:]):
        assert not pair.certificate(claimed=claims).holds
    later = claimed(pair.before, "y: z -> c")
    assert not pair.certificate(claimed=(pair.claims[0], later)).holds


# Convolutions that are merged.


def merging(total: str = "y = Sum(c,d,f)", left: str = "y = Sum(c1,f)") -> tuple[Pair, dict[str, Arrays]]:
    """Two convolutions of three values become one, and wrong numbers by name."""
    draw = Draw(7)
    w, u, b, k = draw.weights(4, 2, 3), draw.weights(4, 2, 1), draw.terms(4), draw.terms(4)
    whole = wide(w).copy()
    whole[:, :, 1:2] += wide(u)
    found = pair_of(
        draw, INTERFACE, f"f = Sigmoid(x) c = {CONV}(x,w,b) d = Conv<group=2>(x,u,k) {total}",
        f"f = Sigmoid(x) c1 = {CONV}(x,w1,b1) {left}", [], old={"w": w, "b": b, "u": u, "k": k},
        new={"w1": whole, "b1": wide(b) + wide(k)},
    )  # fmt: skip
    return replace(found, mergings=(merged(found.before, "d", "c", "y"),)), {
        "the other one lost": {"w1": wide(w)},
        "the bias of the other one lost": {"b1": wide(b)},
        "the other one twice": {"b1": wide(b) + 2 * wide(k)},
    }


@pytest.mark.parametrize("total", ["c,d,f", "d,c,f", "f,d,c", "d,f,c"])
def test_two_of_three_values_that_are_merged_hold(total: str) -> None:
    left = ",".join("c1" if name == "c" else name for name in total.split(",") if name != "d")
    pair, wrong = merging(f"y = Sum({total})", f"y = Sum({left})")
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    for numbers in wrong.values():
        after = put(copied(pair.after), **{n: v.astype(np.float32) for n, v in numbers.items()})
        assert pair.certificate(after).failure is not None
    right = pair.mergings[0]
    said = [
        (right, right),
        (replace(right, site=right.home, home=right.site),),
        (replace(right, joint=right.home),),
        (),
    ]
    assert not any(replace(pair, mergings=each).certificate().holds for each in said)


@pytest.mark.parametrize("left", ["y = Sum(c1)", "y = Sum(f)", "y = Sum(c1,f,f)", "y = Identity(c1)", "y = Sum(f,c1)"])
def test_a_merging_by_which_something_else_is_lost_does_not_hold(left: str) -> None:
    assert not merging(left=left)[0].certificate().holds
