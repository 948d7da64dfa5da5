"""Folds through what repeats, exchanges channels for positions, holds sequences, mixes rows, or loses a shift.

All are written by hand; each wrong one is right but for the map from channels to channels, or for what makes it exact.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from certificate_pairs import Draw, Pair, ahead_pair, pair_of, wide

Held = dict[str, np.ndarray]


def holds(pair: Pair) -> None:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


def refused(pair: Pair, sentence: str) -> None:
    checked = pair.certificate()
    assert not checked.holds
    assert sentence in str(checked.failure or checked.uncertain)


def integers(held: dict[str, object]) -> Held:
    return {name: np.asarray(value, np.int64) for name, value in held.items()}


def back(line: str, groups: list[int], takes: list[int], rank: int = 4, axis: int = 1, **held: object) -> Pair:
    """Conv of as many channels as `takes` has, `line` from c to p, and a scale and a shift per channel of p.

    Channel k of p bears affine number groups[k]; the fold gives channel c of the Conv number takes[c].
    """
    draw, channels = Draw(11), len(takes)
    w, b, scale, shift = draw.weights(channels, 2, 1, 1), draw.terms(channels), draw.factors(9), draw.terms(9)
    form = (-1, *[1] * (rank - 1 - axis))
    affines = {"k": scale[groups].reshape(form), "d": shift[groups].reshape(form)}
    passed = " ".join(part.split(" =")[0] for part in reversed(line.split("; ")))
    text = line.replace("; ", " ")
    renamed = re.sub(r"\b([cqs])\b", r"\g<1>1", text).replace("p =", "u =")
    return pair_of(
        draw, "(float[1,2,4,4] x) => (float[A,B,C,D] y)",
        f"c = Conv(x,w,b) {text} n = Mul(p,k) u = Add(n,d) y = Relu(u)", f"c1 = Conv(x,w1,b1) {renamed} y = Relu(u)",
        [f"n: {passed} -> c", f"u: n {passed} -> c".replace("u: n", "u:")], shared=integers(held),
        old={"w": w, "b": b, **affines},
        new={"w1": wide(w) * wide(scale)[takes][:, None, None, None], "b1": wide(b) * scale[takes] + shift[takes]},
    )  # fmt: skip


DCR, CRD = "p = DepthToSpace<blocksize=2>(c)", 'p = DepthToSpace<blocksize=2,mode="CRD">(c)'
TO_DEPTH = "p = SpaceToDepth<blocksize=2>(c)"
BACK = {
    "DepthToSpace": back(DCR, [0, 1], [0, 1] * 4),
    "DepthToSpace, interleaved": back(CRD, [0, 1], [0] * 4 + [1] * 4),
    "DepthToSpace twice": back(f"q = DepthToSpace<blocksize=2>(c); {DCR.replace('(c', '(q')}", [0], [0] * 16),
    "DepthToSpace and what pools": back("q = DepthToSpace<blocksize=2>(c); p = GlobalAveragePool(q)", [3], [3] * 4),
    "SpaceToDepth": back(TO_DEPTH, [0, 1] * 4, [0, 1]),
    "there and back": back(
        'q = DepthToSpace<blocksize=2,mode="CRD">(c); p = SpaceToDepth<blocksize=2>(q)', [0, 1] * 4, [0] * 4 + [1] * 4
    ),
    "Tile": back("p = Tile(c,times)", [0, 1, 2] * 2, [0, 1, 2], times=[1, 2, 1, 3]),
    "Expand": back("p = Expand(c,shape)", [0, 1, 2], [0, 1, 2], rank=5, axis=2, shape=[2, 3, 1, 4, 4]),
    "a part of a sequence": back(
        "s = SplitToSequence<axis=2>(c); p = SequenceAt(s,one)", [0, 1, 2], [0, 1, 2], one=1
    ),
    "a part of a sequence without its axis": back(
        "s = SplitToSequence<axis=3,keepdims=0>(c); p = SequenceAt(s,one)", [0, 1], [0, 1], rank=3, one=1
    ),
    "a part of a sequence, alike for all channels": back(
        "s = SplitToSequence<axis=1>(c); p = SequenceAt(s,one)", [0], [0, 0, 0], one=1
    ),
    "a part of the channels of a sequence": back(
        "s = SplitToSequence<axis=1>(c,each); p = SequenceAt(s,one)", [0, 1], [3, 4, 0, 1, 2], each=2, one=1
    ),
    "the last part, which is smaller": back(
        "s = SplitToSequence<axis=-3>(c,each); p = SequenceAt(s,last)", [2], [0, 1, 0, 1, 2], each=2, last=-1
    ),
    "parts of several sizes": back(
        "s = SplitToSequence<axis=1>(c,sizes); p = SequenceAt(s,one)", [0, 1], [3, 0, 1, 4], sizes=[1, 2, 1], one=1
    ),
    "a sequence put together": back(
        "s = SplitToSequence<axis=2>(c); p = ConcatFromSequence<axis=3>(s)", [0, 1], [0, 1]
    ),
}  # fmt: skip
DIFFERS = "serves places where"
BACK_WRONG = {
    "DepthToSpace as if interleaved": (back(DCR, [0, 1], [0] * 4 + [1] * 4), "of Conv#0"),
    "interleaved as if not": (back(CRD, [0, 1], [0, 1] * 4), "of Conv#0"),
    "one position of a block": (back(DCR, [0, 1], [0, 1, 2, 3, 0, 1, 0, 1]), "of Conv#0"),
    "SpaceToDepth of channels that differ": (back(TO_DEPTH, [0, 1, 0, 1, 0, 1, 2, 1], [0, 1]), DIFFERS),
    "SpaceToDepth as if interleaved": (back(TO_DEPTH, [0] * 4 + [1] * 4, [0, 1]), DIFFERS),
    "there and back, mixed": (
        back('q = DepthToSpace<blocksize=2,mode="CRD">(c); p = SpaceToDepth<blocksize=2>(q)', [0, 1] * 4, [0, 1] * 4),
        "of Conv#0",
    ),
    "Tile of channels that differ": (
        back("p = Tile(c,times)", [0, 1, 2, 0, 1, 3], [0, 1, 2], times=[1, 2, 1, 1]), DIFFERS
    ),
    "Tile as if it repeated each": (
        back("p = Tile(c,times)", [0, 0, 1, 1, 2, 2], [0, 1, 2], times=[1, 2, 1, 1]), DIFFERS
    ),
    "Expand of a channel": (back("p = Expand(c,shape)", [0, 1, 2], [0], shape=[1, 3, 4, 4]), DIFFERS),
    "a part of the channels": (
        back("s = SplitToSequence<axis=1>(c,each); p = SequenceAt(s,one)", [0, 1], [0, 1, 1, 0], each=2, one=1),
        "of Conv#0",
    ),
    "another part of the channels": (
        back("s = SplitToSequence<axis=1>(c,each); p = SequenceAt(s,one)", [0, 1], [0, 1, 2, 3], each=2, one=1),
        "of Conv#0",
    ),
    "all parts of the channels": (
        back("s = SplitToSequence<axis=1>(c,each); p = ConcatFromSequence<axis=1>(s)", [0, 1, 2, 3], [0, 1, 2, 3],
             each=2), "are not known"
    ),
    "channels put one behind the other": (
        back("s = SplitToSequence<axis=2>(c); p = ConcatFromSequence<axis=1>(s)", [0, 1] * 4, [0, 1]), "are not known"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BACK)
def test_what_goes_back_by_the_right_channels_is_certified(case: str) -> None:
    holds(BACK[case])


@pytest.mark.parametrize("case", BACK_WRONG)
def test_what_goes_back_by_others_is_refused(case: str) -> None:
    refused(*BACK_WRONG[case])


def ahead(line: str, groups: list[int], takes: list[int], **held: object) -> Pair:
    """A scale and a shift per channel of x, `line` from n to p, and a Conv of as many channels as `takes` has."""
    draw, channels = Draw(12), len(takes)
    w, b, scale, shift = draw.weights(3, channels, 1, 1), draw.terms(3), draw.factors(9), draw.terms(9)
    parameters = {"g": scale[groups], "e": shift[groups]}
    parameters |= {"m": 0 * parameters["e"], "v": 0 * parameters["e"] + 1}
    a = wide(scale)[takes] / np.sqrt(1 + draw.epsilon)
    passed = " ".join(part.split(" =")[0] for part in line.split("; "))
    text = line.replace("; ", " ")
    renamed = re.sub(r"\b([ps])\b", r"\g<1>1", text).replace("(n", "(x")
    return ahead_pair(
        draw, f"(float[1,{len(groups)},4,4] x) => (float[A,B,C,D] y)",
        f"n = BN(x,g,e,m,v) {text} y = Conv(p,w,b)",
        f"{renamed} y = Conv(p1,w1,b1)", f"n: {passed} -> y",
        shared=integers(held), old={"w": w, "b": b, **parameters},
        new={"w1": wide(w) * a[:, None, None], "b1": wide(b) + np.einsum("oikl,i->o", wide(w), wide(shift)[takes])},
    )  # fmt: skip


AHEAD = {
    "DepthToSpace": ahead(DCR.replace("(c", "(n"), [0, 1] * 4, [0, 1]),
    "DepthToSpace, interleaved": ahead(CRD.replace("(c", "(n"), [0] * 4 + [1] * 4, [0, 1]),
    "a sequence of channels": ahead(
        "s = SplitToSequence<axis=1>(n,each); p = SequenceAt(s,one)", [0, 1, 2, 3], [2, 3], each=2, one=1
    ),
    "SpaceToDepth": ahead(TO_DEPTH.replace("(c", "(n"), [0, 1], [0, 1] * 4),
    "Tile": ahead("p = Tile(n,times)", [0, 1], [0, 1] * 2, times=[1, 2, 1, 1]),
    "Expand": ahead("p = Expand(n,shape)", [0, 1], [0, 1], shape=[2, 1, 1, 1]),
    "Slice": ahead("p = Slice(n,one,three,one)", [0, 1, 2], [1, 2], one=[1], three=[3]),
    "Gather": ahead("p = Gather<axis=1>(n,which)", [0, 1, 2], [2, 0, 0], which=[2, 0, 0]),
    "a sequence": ahead("s = SplitToSequence<axis=2>(n); p = SequenceAt(s,one)", [0, 1], [0, 1], one=1),
}
AHEAD_WRONG = {
    "DepthToSpace of channels that differ": (
        ahead(DCR.replace("(c", "(n"), [0, 1, 0, 1, 0, 1, 2, 1], [0, 1]),
        "differs between positions",
    ),
    "DepthToSpace as if interleaved": (
        ahead(DCR.replace("(c", "(n"), [0] * 4 + [1] * 4, [0, 1]),
        "differs between positions",
    ),
    "SpaceToDepth as if interleaved": (ahead(TO_DEPTH.replace("(c", "(n"), [0, 1], [0] * 4 + [1] * 4), "of Conv#2"),
    "Tile as if it repeated each": (ahead("p = Tile(n,times)", [0, 1], [0, 0, 1, 1], times=[1, 2, 1, 1]), "of Conv#2"),
    "Slice of others": (ahead("p = Slice(n,one,three,one)", [0, 1, 2], [0, 1], one=[1], three=[3]), "of Conv#2"),
    "Gather of others": (ahead("p = Gather<axis=1>(n,which)", [0, 1, 2], [0, 1, 2], which=[2, 0, 0]), "of Conv#2"),
    "a sequence of channels": (
        ahead("s = SplitToSequence<axis=1>(n,each); p = SequenceAt(s,one)", [0, 1, 2, 3], [0, 1], each=2, one=1),
        "of Conv#3",
    ),
}


@pytest.mark.parametrize("case", AHEAD)
def test_what_goes_forward_by_the_right_channels_is_certified(case: str) -> None:
    holds(AHEAD[case])


@pytest.mark.parametrize("case", AHEAD_WRONG)
def test_what_goes_forward_by_others_is_refused(case: str) -> None:
    refused(*AHEAD_WRONG[case])


# --- parts, each for its own reader ---------------------------------------------------------------------------------


def split(takes: tuple[int, int] = (0, 1)) -> Pair:
    """A norm of two channels, of which each goes to a Conv of its own."""
    draw = Draw(13)
    w, u, (parameters, a, s) = draw.weights(3, 1, 1), draw.weights(3, 1, 1), draw.normalization(2)
    first, second = takes
    new = {"w1": wide(w) * a[first], "b1": wide(w)[:, 0, 0] * s[first]}
    new |= {"u1": wide(u) * a[second], "q1": wide(u)[:, 0, 0] * s[second]}
    return ahead_pair(
        draw, "(float[1,2,4] x) => (float[1,3,4] y, float[1,3,4] z)",
        "n = BN(x,g,e,m,v) p, q = Split<axis=1>(n) y = Conv(p,w) z = Conv(q,u)",
        "p1, q2 = Split<axis=1>(x) y = Conv(p1,w1,b1) z = Conv(q2,u1,q1)", "n: p -> y z",
        old={"w": w, "u": u, **parameters}, new=new, shared={},
    )  # fmt: skip


def test_each_part_goes_to_its_own_readers() -> None:
    holds(split())


@pytest.mark.parametrize("takes", [(1, 0), (0, 0), (1, 1)])
def test_another_part_is_refused(takes: tuple[int, int]) -> None:
    refused(split(takes), "of Conv#")


def test_a_part_that_nobody_took_over_is_refused() -> None:
    pair = split()
    (claim,) = pair.claims
    refused(replace(pair, claims=(replace(claim, homes=claim.homes[:1]),)), "changes, and Conv#3 reads it")


# --- rows that sum to one -------------------------------------------------------------------------------------------


def mixture(line: str, *, ports: str = "float[1,2,4,4] u", shift: bool = True, opset: int = 17) -> Pair:
    """A Conv, whose rows are mixed, and a norm of its channels."""
    draw = Draw(14)
    w, b, (parameters, a, s) = draw.weights(2, 3, 1, 1), draw.terms(2), draw.normalization(2)
    if not shift:
        parameters["e"], parameters["m"], s = 0 * parameters["e"], 0 * parameters["m"], 0 * s
    return pair_of(
        draw, f"(float[1,3,4,5] x, {ports}) => (float[1,2,4,5] y)",
        f"c = Conv(x,w,b) {line} p = MatMul(q,c) n = BN(p,g,e,m,v) y = Relu(n)",
        f"c1 = Conv(x,w1,b1) {line} n = MatMul(q,c1) y = Relu(n)", "n: p -> c", opset=opset,
        old={"w": w, "b": b, **parameters}, new={"w1": wide(w) * a[:, None, None, None], "b1": wide(b) * a + s},
    )  # fmt: skip


MIXED = {
    "Softmax": mixture("q = Softmax(u)"),
    "Softmax by its number": mixture("q = Softmax<axis=3>(u)"),
    "Softmax of opset 11": mixture("q = Softmax<axis=3>(u)", opset=11),
    "moved rows": mixture(
        "t = Softmax(u) r = Transpose<perm=[1,0,2,3]>(t) q = Dropout(r)", ports="float[2,1,4,4] u"
    ),
    "a scale alone, no Softmax": mixture("q = Sigmoid(u)", shift=False),
}  # fmt: skip
NOT_MIXED = {
    "no Softmax": mixture("q = Sigmoid(u)"),
    "Softmax over columns": mixture("q = Softmax<axis=2>(u)"),
    "Softmax of opset 11, over all": mixture("q = Softmax(u)", opset=11),
    "turned rows": mixture("t = Softmax(u) q = Transpose<perm=[0,1,3,2]>(t)"),
    "scaled rows": mixture("t = Softmax(u) q = Mul(t,t)"),
}


@pytest.mark.parametrize("case", MIXED)
def test_a_mixture_by_shares_is_certified(case: str) -> None:
    holds(MIXED[case])


@pytest.mark.parametrize("case", NOT_MIXED)
def test_shares_that_may_not_sum_to_one_are_refused(case: str) -> None:
    refused(NOT_MIXED[case], "lets no shift pass")


def test_an_affine_of_the_rows_is_refused() -> None:
    draw = Draw(15)
    w, k = draw.weights(4, 2, 1), draw.factors(4, 1)
    pair = pair_of(
        draw, "(float[1,2,5] x, float[1,4,4] u) => (float[1,4,5] y)",
        "c = Conv(x,w) q = Softmax(u) p = MatMul(q,c) n = Mul(p,k) y = Relu(n)",
        "c1 = Conv(x,w1) q = Softmax(u) n = MatMul(q,c1) y = Relu(n)", "n: p -> c", old={"w": w, "k": k},
        new={"w1": wide(w) * wide(k)[:, :, None]},
    )  # fmt: skip
    refused(pair, "serves places where what settled in it differs")


# --- a shift that is lost -------------------------------------------------------------------------------------------


def lost(line: str, *, scale: bool = False, shape: tuple[int, ...] = (4, 1, 1), opset: int = 17) -> Pair:
    """Something is added to the data (or they are scaled), and then it is not."""
    draw = Draw(16)
    return ahead_pair(
        draw, "(float[2,4,3,5] x) => (float[2,4,3,5] y)", f"n = {'Mul' if scale else 'Add'}(x,k) y = {line}",
        f"y = {line.replace('(n', '(x')}", "n: -> y", old={"k": draw.factors(*shape)}, new={},
        shared={"g": draw.factors(4), "e": draw.terms(4)},
    ) if opset == 17 else pair_of(
        draw, "(float[2,4,3,5] x) => (float[2,4,3,5] y)", f"n = Add(x,k) y = {line}", f"y = {line.replace('(n', '(x')}",
        "n: -> y", old={"k": draw.factors(*shape)}, shared={"g": draw.factors(4), "e": draw.terms(4)}, opset=opset,
    )  # fmt: skip


def led_ahead(pair: Pair) -> Pair:
    return replace(pair, claims=tuple(replace(claim, ahead=True, unshifted=()) for claim in pair.claims))


LOST = {
    "Softmax": lost("Softmax(n)"), "Softmax over rows": lost("Softmax<axis=2>(n)"),
    "LogSoftmax": lost("LogSoftmax<axis=-2>(n)"), "InstanceNormalization": lost("InstanceNormalization(n,g,e)"),
    "Softmax of opset 11": led_ahead(lost("Softmax<axis=2>(n)", opset=11)),
    "a shift of images and channels": lost("InstanceNormalization(n,g,e)", shape=(2, 4, 1, 1)),
}  # fmt: skip
KEPT = {
    "Softmax over the channels": (lost("Softmax<axis=1>(n)"), "differs along the axes on which it acts"),
    "Softmax of opset 11, over all": (led_ahead(lost("Softmax(n)", opset=11)), "differs along the axes"),
    "Softmax over channels and more": (
        led_ahead(lost("Softmax<axis=2>(n)", opset=11, shape=(5,))),
        "differs along the axes",
    ),
    "a scale": (lost("Softmax(n)", scale=True), "a scale arrives at Softmax#1"),
    "a scale before a norm": (lost("InstanceNormalization(n,g,e)", scale=True), "a scale arrives"),
    "a shift of positions": (lost("InstanceNormalization(n,g,e)", shape=(3, 1)), "differs along the axes"),
    "Sigmoid": (lost("Sigmoid(n)"), "no home that the certificate knows"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_shift_that_is_lost_is_certified(case: str) -> None:
    holds(LOST[case])


@pytest.mark.parametrize("case", KEPT)
def test_what_is_not_lost_is_refused(case: str) -> None:
    refused(*KEPT[case])


def test_nothing_behind_it_is_lost() -> None:
    draw = Draw(17)
    pair = pair_of(
        draw, "(float[2,4,3] x) => (float[2,4,3] y)", "c = Softmax(x) n = Add(c,k) y = Relu(n)",
        "n = Softmax(x) y = Relu(n)", "n: -> c", old={"k": draw.factors(4, 1)},
    )  # fmt: skip
    refused(pair, "")
