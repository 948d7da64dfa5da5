"""Parallel convolutions merged by hand: the right ones hold, those that look right do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certificate_folds import copied, put
from certificate_pairs import Arrays, Draw, Pair, fed_otherwise, merged, pair_of, read_besides, wide

INTERFACE = "(float[1,4,7] x) => (float[1,4,z] y)"
WIDE, NARROW, SAME = "Conv<group=2,pads=[1,1]>", "Conv<group=2>", 'Conv<group=2,auto_pad="SAME_{}">'


def put_at(weight: np.ndarray, other: np.ndarray, taps: list[int], sign: float = 1.0) -> np.ndarray:
    found = wide(weight).copy()
    found[:, :, taps] += sign * wide(other)
    return found


def layer(
    one: str = WIDE,
    other: str = NARROW,
    *,
    total: str = "y = Add(c,d)",
    taps: tuple[int, ...] = (1,),
    sign: float = 1.0,
) -> tuple[Pair, dict[str, Arrays]]:
    """Two convolutions with what is behind them, and wrong numbers by name."""
    draw = Draw(7)
    w, u, b, k = draw.weights(4, 2, 3), draw.weights(4, 2, len(taps)), draw.terms(4), draw.terms(4)
    parameters, a, s = draw.normalization(4)
    right = wide(u) * a[:, None, None], wide(k) * a + s
    found = pair_of(
        draw, INTERFACE, f"c = {one}(x,w,b) i = {other}(x,u,k) d = BN(i,g,e,m,v) {total}", f"y = {one}(x,w1,b1)",
        "d: -> i", old={"w": w, "b": b, "u": u, "k": k, **parameters},
        new={"w1": put_at(w, right[0], [*taps], sign), "b1": wide(b) + sign * right[1]},
    )  # fmt: skip
    elsewhere = [(tap + 1) % 3 for tap in taps]
    return replace(found, mergings=(merged(found.before, "i", "c", "y"),)), {
        "the other one lost": {"w1": wide(w)},
        "the bias of the other one lost": {"b1": wide(b)},
        "its scale forgotten": {"w1": put_at(w, u, [*taps], sign)},
        "its shift forgotten": {"b1": wide(b) + sign * wide(k) * a},
        "its bias not scaled": {"b1": wide(b) + sign * (wide(k) + s)},
        "its scale on both": {"w1": put_at(wide(w) * a[:, None, None], right[0], [*taps], sign)},
        "another tap": {"w1": put_at(w, right[0], elsewhere, sign)},
        "the other sign": {"w1": put_at(w, right[0], [*taps], -sign)},
        "the bias with the other sign": {"b1": wide(b) - sign * right[1]},
        "the groups mixed": {"w1": put_at(w, right[0][[2, 3, 0, 1]], [*taps], sign)},
    }


KINDS = {
    "one tap": layer(),
    "two taps": layer(other="Conv<group=2,pads=[0,1]>", taps=(1, 2)),
    "spread": layer("Conv<group=2,pads=[2,2],dilations=[2]>", "Conv<group=2,pads=[2,2],dilations=[4]>", taps=(0, 2)),
    "padded at one end": layer("Conv<group=2,pads=[2,0]>", taps=(2,)),
    "in steps": layer("Conv<group=2,pads=[1,1],strides=[2]>", "Conv<group=2,strides=[2]>"),
    "the other operand": layer(total="y = Add(d,c)"),
    "a difference": layer(total="y = Sub(c,d)", sign=-1.0),
    "SAME, written": layer(one=SAME.format("UPPER")),
    "SAME, a kernel of one": layer(other=SAME.format("UPPER")),
    "SAME, the odd place at the end": layer(other=SAME.format("UPPER"), taps=(1, 2)),
    "SAME, the odd place at the beginning": layer(SAME.format("UPPER"), SAME.format("LOWER"), taps=(0, 1)),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_merging_holds(name: str) -> None:
    checked = KINDS[name][0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    assert checked.holds


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, (_, each) in KINDS.items() for wrong in each])
def test_other_numbers_do_not_hold(name: str, wrong: str) -> None:
    pair, numbers = KINDS[name][0], KINDS[name][1][wrong]
    after = put(copied(pair.after), **{n: v.astype(np.float32) for n, v in numbers.items()})
    assert pair.certificate(after).failure is not None


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (WIDE, "Conv<group=2,strides=[1]>", None),
        (WIDE, "Conv<group=2,pads=[1,0]>", "other sizes"),
        (WIDE, "Conv<group=2,strides=[2]>", "other places"),
        ("Conv<group=2,pads=[2,2],dilations=[2]>", "Conv<group=2,pads=[1,-1]>", "a tap between two"),
        ("Conv<group=2,pads=[3,-1]>", NARROW, "a tap that the wide one has not"),
        (SAME.format("UPPER"), NARROW, None),
        (SAME.format("UPPER"), "Conv<group=2,auto_pad=\"VALID\">", None),
        ("Conv<group=2,auto_pad=\"SAME_UPPER\",strides=[2]>", "Conv<group=2,strides=[2]>", "what SAME pads"),
        (WIDE, "Conv<group=2,auto_pad=\"SAME_LOWER\",dilations=[2]>", "the same of the other one"),
        ("Conv<group=2,auto_pad=\"VALID\">", "Conv<group=2,auto_pad=\"VALID\">", "other sizes"),
    ],
)  # fmt: skip
def test_only_convolutions_whose_taps_see_the_same_are_one(one: str, other: str, why: str | None) -> None:
    checked = layer(one, other)[0].certificate()
    assert checked.holds is (why is None), (checked.failure, checked.uncertain)


def test_the_wide_one_taken_away_is_no_sum_with_it() -> None:
    for sign in (1.0, -1.0):
        assert not layer(total="y = Sub(d,c)", sign=sign)[0].certificate().holds


def test_another_input_of_the_same_shape_is_other_data() -> None:
    checked = fed_otherwise(layer()[0], (0, 1, 0)).certificate()
    assert "do not read the same data" in str(checked.failure)


@pytest.mark.parametrize("name", ["c", "i", "d"])
def test_whatever_else_reads_one_of_them_is_seen(name: str) -> None:
    checked = read_besides(layer()[0], name).certificate()
    assert f"'{name}' changes, and something else reads it" in str(checked.failure)


def test_what_is_said_of_other_nodes_does_not_hold() -> None:
    pair = layer()[0]
    right = pair.mergings[0]
    nowhere = replace(right.site, index=99)
    wrong = {
        "not said": (),
        "said twice": (right, right),
        "the other way round": (replace(right, site=right.home, home=right.site),),
        "into itself": (replace(right, home=right.site),),
        "no such sum": (replace(right, joint=right.home),),
        "no such node": (replace(right, site=nowhere),),
        "the normalization": (replace(right, site=pair.claims[0].site),),
    }
    assert {name for name, said in wrong.items() if replace(pair, mergings=said).certificate().holds} == set()


def test_convolutions_of_other_groups_are_not_one() -> None:
    draw = Draw(2)
    w, u = draw.weights(4, 2, 1), draw.weights(4, 2, 1)
    found = pair_of(
        draw, "(float[1,4,7] x) => (float[1,4,7] y)",
        "c = Conv<group=2>(x,w) p = Slice(x,at,end,axis) d = Conv(p,u) y = Add(c,d)", "y = Conv<group=2>(x,w1)", [],
        old={"w": w, "u": u, "at": np.array([0]), "end": np.array([2]), "axis": np.array([1])},
        new={"w1": wide(w) + wide(u)},
    )  # fmt: skip
    assert not replace(found, mergings=(merged(found.before, "d", "c", "y"),)).certificate().holds
