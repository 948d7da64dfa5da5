"""Scales through products of matrices, written by hand: the right ones hold, and each that only looks right is refused.

All matrices are as large along rows as along columns, so that every wrong axis fits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certificate_pairs import Draw, Pair, ahead_pair, pair_of, wide

Arrays = dict[str, np.ndarray]
INTERFACE = "(float[2,4,4] x, float[2,4,4] u) => (float[A,B,C] y)"
PRODUCTS = {"left": "MatMul({},u)", "right": "MatMul(u,{})", "left of a constant": "MatMul({},v)"}


def back(product: str, axis: int, takes: int, *, shift: bool = False) -> Pair:
    """Conv whose channels are rows, or by a Transpose columns, a product, and a factor along an axis of that.

    The fold scales the Conv's channels, which are the axis `takes` of the operand.
    """
    draw = Draw(21)
    w, b, v, k, d = draw.weights(4, 4, 1), draw.terms(4), draw.weights(4, 4), draw.factors(4), draw.terms(4)
    turned = takes == 2
    line = "t{0} = Transpose<perm=[0,2,1]>(c{0})" if turned else "t{0} = Identity(c{0})"
    text = PRODUCTS[product]
    form = (-1, *[1] * (2 - axis))
    behind = "q = Mul(p,k) y = Add(q,d)" if shift else "y = Mul(p,k)"
    claims = ["q: p t -> c", "y: p t -> c"] if shift else ["y: p t -> c"]
    added = {"d": d.reshape(form)} if shift else {}
    return pair_of(
        draw, INTERFACE,
        f"c = Conv(x,w0,b0) {line.format('')} p = {text.format('t')} {behind}",
        f"c1 = Conv(x,w1,b1) {line.format('1')} y = {text.format('t1')}",
        claims, shared={"v": v}, old={"w0": w, "b0": b, "k": k.reshape(form)} | added,
        new={"w1": wide(w) * wide(k)[:, None, None], "b1": wide(b) * wide(k) + (wide(d) if shift else 0)},
    )  # fmt: skip


RIGHT = {
    "rows of the left one": back("left", 1, 1),
    "columns of the right one": back("right", 2, 2),
    "rows before a constant": back("left of a constant", 1, 1),
}
WRONG = {
    "columns by rows of the left one": (back("left", 2, 1), "serves places where"),
    "rows by columns of the left one": (back("left", 1, 2), "serves places where"),
    "rows by columns of the right one": (back("right", 1, 2), "serves places where"),
    "columns by rows of the right one": (back("right", 2, 1), "serves places where"),
    "rows with a shift": (back("left", 1, 1, shift=True), "shift"),
    "columns with a shift": (back("right", 2, 2, shift=True), "shift"),
    "rows before a constant, with a shift": (back("left of a constant", 1, 1, shift=True), "shift"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_scale_of_what_is_not_summed_over_is_certified(case: str) -> None:
    checked = RIGHT[case].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("case", WRONG)
def test_another_scale_and_any_shift_are_refused(case: str) -> None:
    pair, sentence = WRONG[case]
    checked = pair.certificate()
    assert not checked.holds
    assert sentence in str(checked.failure or checked.uncertain)


def ahead(product: str, layer: str, axis: int, *, shift: bool = False) -> Pair:
    """A factor along an axis of an operand, the product, and a layer that takes it over of its data."""
    draw = Draw(22)
    w, b, v, k, d = draw.weights(4, 4), draw.terms(4), draw.weights(4, 4), draw.factors(4), draw.terms(4)
    form, is_conv = (-1, *[1] * (2 - axis)), layer == "Conv"
    weight = w[:, :, None] if is_conv else w
    scaled = wide(weight) * wide(k)[:, None]
    begun = "m = Mul(x,k) n = Add(m,d)" if shift else "n = Mul(x,k)"
    text = PRODUCTS[product]
    behind = "y = Conv({},{},b)" if is_conv else "y = MatMul({},{})"
    return ahead_pair(
        draw, INTERFACE, f"{begun} p = {text.format('n')} {behind.format('p', 'w0')}",
        f"p1 = {text.format('x')} {behind.format('p1', 'w1')}",
        ["m: n p -> y", "n: p -> y"] if shift else ["n: p -> y"],
        shared={"v": v, "b": b}, old={"w0": weight, "k": k.reshape(form)} | ({"d": d.reshape(form)} if shift else {}),
        new={"w1": scaled},
    )  # fmt: skip


AHEAD = {
    "rows of the left one": ahead("left", "Conv", 1),
    "columns of the right one": ahead("right", "MatMul", 2),
    "rows before a constant": ahead("left of a constant", "Conv", 1),
}
AHEAD_WRONG = {
    "columns of the left one, by rows": ahead("left", "Conv", 2),
    "columns of the left one, by columns": ahead("left", "MatMul", 2),
    "rows of the right one": ahead("right", "Conv", 1),
    "rows of the left one, by columns": ahead("left", "MatMul", 1),
    "a shift of rows": ahead("left", "Conv", 1, shift=True),
}


@pytest.mark.parametrize("case", AHEAD)
def test_a_scale_of_an_operand_goes_forward(case: str) -> None:
    checked = AHEAD[case].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("case", AHEAD_WRONG)
def test_what_is_summed_over_and_a_shift_do_not_go_forward(case: str) -> None:
    checked = AHEAD_WRONG[case].certificate()
    assert not checked.holds
    assert checked.homes == (), "not for its numbers, but for where they come from"


def layered(*, before: bool) -> Pair:
    """A MatMul that takes a shift over, and a scale of its rows behind that, which is claimed to pass it."""
    draw = Draw(23)
    w, b, v, k = draw.weights(4, 4, 1), draw.terms(4), draw.weights(4, 4), draw.factors(4, 1)
    d = draw.terms(4)
    line = "e = Add(c,d) p = MatMul(e,v) y = Mul(p,k)" if before else "p = MatMul(c,v) e = Add(p,d) y = Mul(e,k)"
    claims = ["e: -> p", "y: p -> c"]
    made = pair_of(
        draw, INTERFACE, f"c = Conv(x,w0,b0) {line}", "c1 = Conv(x,w1,b1) p1 = MatMul(c1,v) y = Add(p1,d1)", claims,
        shared={"v": v}, old={"w0": w, "b0": b, "k": k, "d": d},
        new={"w1": wide(w) * wide(k)[:, :, None], "b1": wide(b) * wide(k)[:, 0],
             "d1": wide(d) @ wide(v) if before else wide(d)},
    )  # fmt: skip
    if not before:
        return made
    first, *others = made.claims
    return replace(made, claims=(replace(first, ahead=True), *others))


@pytest.mark.parametrize("before", [False, True])
def test_a_scale_does_not_pass_a_layer_that_has_taken_a_shift_over(before: bool) -> None:
    checked = layered(before=before).certificate()
    assert not checked.holds
    assert "which has taken over something" in str(checked.uncertain)
