"""Folds through operators that are told by expressions of sizes where they act, all written by hand.

The sizes are those of a value of which the batch and the rows may be any. Each wrong fold is right but for the place
that the expression gives, or rests on a size that nobody knows.
"""

from __future__ import annotations

import numpy as np
import pytest
from certificate_pairs import Draw, Pair, pair_of, wide

SIZES = """s = Shape(c) n = Slice(s,i0,i1) a = Slice(s,i1,i2) h = Slice(s,i2,i3) w = Slice(s,i3,i4) k = Div(a,i2)
    ns = Squeeze(k,i0) r = Size(s)"""
"""Of c, which is (N, 4, H, 4): n is [N], a [4], h [H], w [4], k [2], ns 2, r 4."""

HELD = {
    **{f"i{i}": np.array([i]) for i in range(5)}, **{f"z{i}": np.array(i) for i in range(5)},
    "i_1": np.array([-1]), "o6": np.zeros(6, np.int64),
}  # fmt: skip
NONE = 8
"""Number of the affine that is none: scale 1, shift 0."""


def back(line: str, groups: list[int], takes: list[int], rank: int = 4, further: str = "") -> Pair:
    """Conv of four channels, `line` from c to p, and a norm behind it, whose channel k has affine number groups[k].

    The fold gives channel c of the Conv number takes[c]. `further` is an output besides, of the graph too.
    """
    draw = Draw(13)
    w, b = draw.weights(4, 2, 1, 1), draw.terms(4)
    scale, shift = (np.append(draw.factors(NONE), 1), np.append(draw.terms(NONE), 0))
    values = {"g": scale[groups], "e": shift[groups], "m": 0 * scale[groups], "v": 0 * scale[groups] + 1}
    gamma = np.where(np.arange(NONE + 1) == NONE, 1, wide(scale) / np.sqrt(1 + draw.epsilon))
    dims = ",".join("ABCDEF"[:rank])
    more = f", float[P,Q,R,S] {further}" if further else ""
    passed = line.rpartition("; ")[2].split(",", 1)[0].split(" =")[0]
    text = f"{SIZES} {line.replace('; ', ' ')}"
    return pair_of(
        draw, f"(float[N,2,H,4] x) => (float[{dims}] y{more})",
        f"c = Conv(x,w0,b0) {text} y = BN(p,g,e,m,v)",
        f"c1 = Conv(x,w1,b1) {text.replace('(c', '(c1').replace('p =', 'y =').replace('p,', 'y,')}",
        f"y: {passed} -> c", shared=HELD, old={"w0": w, "b0": b, **values},
        new={"w1": wide(w) * gamma[takes][:, None, None, None], "b1": wide(b) * gamma[takes] + wide(shift)[takes]},
    )  # fmt: skip


FIRST, LAST, SPLIT = "p = Slice(c,i0,k,i1)", "p = Slice(c,k,a,i1)", "t = Concat<axis=0>(k,k); p, o = Split<axis=1>(c,t)"
TILE = "t = Concat<axis=0>(i1,k,h,i1); p = Tile(c,t)"
TAKE = "f = Add(ns,z1); t = Range(z1,f,z1); p = Gather<axis=1>(c,t)"
PAD = 't = Concat<axis=0>(o6,h,i0); p = Pad<mode="edge">(c,t)'
EACH = [0, 1, 2, 3]
RIGHT = {
    "the first channels": back(FIRST, [0, 1], [0, 1, 2, 3]),
    "the last channels": back(LAST, [0, 1], [2, 3, 0, 1]),
    "rows": back("p = Slice(c,i0,h,i2)", EACH, EACH),
    "rows from nobody knows where": back("t = Add(h,i_1); p = Slice(c,t,h,i2)", EACH, EACH),
    "parts": back(SPLIT, [0, 1], [0, 1, NONE, NONE]),
    "parts, all of which are read": back(SPLIT, [0, 1], [0, 1, NONE, NONE], further="o"),
    "parts of rows, one of which is read": back("p, o = Split<axis=2,num_outputs=2>(c)", EACH, EACH),
    "places": back(TAKE, [0, 1], [2, 0, 1, 3]),
    "repeated": back(TILE, EACH * 2, EACH),
    "padded": back(PAD, EACH, EACH),
    "reduced": back("t = Range(z2,r,z1); p = ReduceMean<keepdims=1>(c,t)", EACH, EACH),
    "places in a row": back("t = Concat<axis=0>(n,a,i_1); p = Reshape(c,t)", EACH, EACH, 3),
    "what is left over": back("t = Concat<axis=0>(n,i_1,h,w); p = Reshape(c,t)", EACH, EACH),
    "halves of rows": back("f = Div(h,i2); t = Concat<axis=0>(n,a,f,i2,w); p = Reshape(c,t)", EACH, EACH, 5),
    "a new axis": back("t = Shape(s); p = Unsqueeze(c,t)", EACH, EACH, 5),
}
OTHERS, DIFFERS, OPEN = "of Conv#", "serves places where", "not known"
WRONG = {
    "the first channels for the last": (back(LAST, [0, 1], [0, 1, 2, 3]), OTHERS),
    "the last channels for the first": (back(FIRST, [0, 1], [2, 3, 0, 1]), OTHERS),
    "a part for the other": (back(SPLIT, [0, 1], [2, 3, 0, 1]), OTHERS),
    "a part that is read too": (back(SPLIT, [0, 1], [0, 1, 0, 1], further="o"), OTHERS),
    "rows of a part that is read too": (
        back("p, o = Split<axis=2,num_outputs=2>(c)", EACH, EACH, further="o"), "'o' would change too"
    ),
    "the first places": (back(TAKE, [0, 1], [0, 1, 2, 3]), OTHERS),
    "repeated as if each by itself": (back(TILE, [0, 0, 1, 1, 2, 2, 3, 3], EACH), DIFFERS),
    "channels that are reduced": (
        back("t = Range(z1,ns,z1); p = ReduceMean<keepdims=1>(c,t)", [0], [0, 1, 2, 3]), OTHERS
    ),
    "padded with zeros": (back("t = Concat<axis=0>(o6,h,i0); p = Pad(c,t)", EACH, EACH), "no shift pass"),
    "padded channels": (
        back('t = Concat<axis=0>(o6,i0,i0); f = Add(t,k); p = Pad<mode="edge">(c,f)', [0, 1, 2, 3] * 2, EACH), DIFFERS
    ),
    "an end that nobody knows": (back("p = Slice(c,i0,h,i1)", [0, 1], EACH), OPEN),
    "repeats that nobody knows": (back("t = Concat<axis=0>(i1,h,i1,i1); p = Tile(c,t)", EACH, EACH), OPEN),
    "rows for channels": (back("t = Concat<axis=0>(n,h,i_1); p = Reshape(c,t)", EACH, EACH, 3), "do not fit"),
    "a batch for channels": (back("t = Concat<axis=0>(a,n,h,w); p = Reshape(c,t)", EACH, EACH), "do not fit"),
    "two sizes that nobody knows": (
        back("f = Div(h,i2); t = Concat<axis=0>(n,f,f,i2,i_1); p = Reshape(c,t)", EACH, EACH, 5), OPEN
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_told_by_sizes_is_certified(case: str) -> None:
    checked = RIGHT[case].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("case", WRONG)
def test_what_goes_to_another_place_or_an_unknown_one_is_refused(case: str) -> None:
    pair, sentence = WRONG[case]
    checked = pair.certificate()
    assert not checked.holds
    assert sentence in str(checked.failure or checked.uncertain)
    assert checked.failed_site in {pair.claims[0].site, *pair.claims[0].homes}, "and it says of whom that is found"
