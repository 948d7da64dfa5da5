"""Clip and Pad, whose numbers bear what their value bears: right folds hold, and each wrong one is refused.

All are written by hand: numbers that stay, or bear too little, too much, or in another order; and claims that say less.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certificate_folds import array, copied, put
from certificate_pairs import Draw, Pair, pair_of, wide

from bnfold.equality.claim import Claim

SCALE, SHIFT = 1.5, -0.7
LOW, HIGH, FILL = -1.1, 2.3, 0.4
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)


def single(number: float) -> np.ndarray:
    return np.asarray(number, np.float32)


def exact(number: float) -> float:
    return float(single(number))


def back(line: str, *, scale: float = SCALE, shift: float = SHIFT, **numbers: float | None) -> Pair:
    """Conv, a Clip or Pad that reads `c`, a scale and a shift; the new numbers are those given, by name."""
    draw = Draw(21)
    w, b = draw.weights(2, 3, 1, 1), draw.terms(2)
    old = {name: single(value) for name, value in (("lo", LOW), ("hi", HIGH), ("fill", FILL)) if f",{name}" in line}
    new = {f"{name}1": single(value) for name, value in numbers.items() if value is not None}
    kept = {name: old.pop(name) for name in [*old] if name not in numbers}
    renamed = line.replace("(c", "(c1")
    for name in numbers:
        renamed = renamed.replace(f",{name}", f",{name}1") if f",{name}" in line else renamed.replace(")", f",{name}1)")
    return pair_of(
        draw, "(float[1,3,4,4] x) => (float[1,2,a,b] y)",
        f"c = Conv(x,w,b) p = {line} n = Mul(p,k) u = Add(n,d) y = Relu(u)",
        f"c1 = Conv(x,w1,b1) u = {renamed} y = Relu(u)", ["n: p -> p c", "u: p -> p c"], shared={"pads": PADS, **kept},
        old={"w": w, "b": b, "k": single(scale), "d": single(shift), **old},
        new={**new, "w1": wide(w) * exact(scale), "b1": wide(b) * exact(scale) + exact(shift)},
    )  # fmt: skip


def whole(pair: Pair) -> tuple[Claim, ...]:
    """Claims by which every home takes the shift."""
    return tuple(replace(claim, unshifted=()) for claim in pair.claims)


def new(number: float, scale: float = SCALE, shift: float = SHIFT) -> float:
    return exact(number) * exact(scale) + exact(shift)


RIGHT = {
    "Clip": back("Clip(c,lo,hi)", lo=new(LOW), hi=new(HIGH)),
    "Clip from below": back("Clip(c,lo)", lo=new(LOW)),
    "Clip from above": back("Clip(c,,hi)", hi=new(HIGH)),
    "Pad": back("Pad(c,pads,fill)", fill=new(FILL)),
    "Pad, negative": back("Pad(c,pads,fill)", scale=-SCALE, fill=new(FILL, -SCALE)),
    "Pad that had no number": back("Pad(c,pads)", fill=new(0)),
}
WRONG = {
    "a bound that stays": (back("Clip(c,lo,hi)", lo=new(LOW), hi=HIGH), "input 2 of Clip#1"),
    "both bounds stay": (back("Clip(c,lo,hi)", lo=LOW, hi=HIGH), "input 1 of Clip#1"),
    "the same two, not even renamed": (back("Clip(c,lo,hi)"), "input 1 of Clip#1"),
    "the shift forgotten": (back("Clip(c,lo)", lo=new(LOW, shift=0)), "input 1 of Clip#1"),
    "the scale forgotten": (back("Clip(c,lo)", lo=new(LOW, scale=1)), "input 1 of Clip#1"),
    "the shift first": (back("Clip(c,lo)", lo=(LOW + SHIFT) * SCALE), "input 1 of Clip#1"),
    "undone instead": (back("Clip(c,lo)", lo=(LOW - SHIFT) / SCALE), "input 1 of Clip#1"),
    "bounds exchanged": (back("Clip(c,lo,hi)", lo=new(HIGH), hi=new(LOW)), "input 1 of Clip#1"),
    "a negative scale": (
        back("Clip(c,lo,hi)", scale=-SCALE, lo=new(LOW, -SCALE), hi=new(HIGH, -SCALE)),
        "not above zero",
    ),
    "a negative scale, bounds exchanged": (
        back("Clip(c,lo,hi)", scale=-SCALE, lo=new(HIGH, -SCALE), hi=new(LOW, -SCALE)),
        "not above zero",
    ),
    "a bound that came": (back("Clip(c,lo)", lo=new(LOW), hi=new(HIGH)), "has come or gone"),
    "a unit too much": (back("Clip(c,lo)", lo=new(LOW) * (1 + 2.0**-22)), "input 1 of Clip#1"),
    "what is padded stays": (back("Pad(c,pads,fill)", fill=FILL), "input 2 of Pad#1"),
    "zeros stay": (back("Pad(c,pads)"), "input 2 of Pad#1"),
    "zeros only scaled": (back("Pad(c,pads)", fill=0.0), "input 2 of Pad#1"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_numbers_that_bear_what_the_value_bears_are_certified(case: str) -> None:
    checked = RIGHT[case].certificate(claimed=whole(RIGHT[case]))
    assert (checked.failure, checked.uncertain) == (None, None)
    assert any(part.what.startswith("input") for check in checked.homes for part in check.parts)


@pytest.mark.parametrize("case", WRONG)
def test_numbers_that_do_not_are_refused(case: str) -> None:
    pair, sentence = WRONG[case]
    checked = pair.certificate(claimed=whole(pair))
    assert not checked.holds
    assert sentence in str(checked.failure or checked.uncertain)


def test_a_bound_per_channel_would_be_none() -> None:
    """A scale that differs between channels passes no Clip, whatever its bounds are."""
    draw = Draw(22)
    w, k = draw.weights(2, 3, 1, 1), np.array([1.0, 2.0], np.float32).reshape(2, 1, 1)
    pair = pair_of(
        draw, "(float[1,3,4,4] x) => (float[1,2,4,4] y)", "c = Conv(x,w) p = Clip(c,lo) n = Mul(p,k) y = Relu(n)",
        "c1 = Conv(x,w1) n = Clip(c1,lo1) y = Relu(n)", "n: p -> p c", old={"w": w, "k": k, "lo": single(LOW)},
        new={"w1": wide(w) * wide(k)[..., None], "lo1": single(2 * LOW)},
    )  # fmt: skip
    checked = pair.certificate(claimed=whole(pair))
    assert "serves places where what settled in it differs" in str(checked.failure)


@pytest.mark.parametrize("line", ["Clip(c,lo,hi)", "Pad(c,pads,fill)"])
def test_a_claim_that_passes_it_without_a_word_is_refused(line: str) -> None:
    pair = back(line)
    claims = tuple(replace(claim, homes=claim.homes[1:], unshifted=()) for claim in pair.claims)
    checked = pair.certificate(claimed=claims)
    assert "bounds stay" in str(checked.failure) if "Clip" in line else "pads with 0.4" in str(checked.failure)


def test_a_claim_by_which_the_numbers_take_no_shift_is_refused() -> None:
    pair = back("Clip(c,lo)", lo=new(LOW, shift=0))
    claims = tuple(replace(claim, unshifted=claim.homes[:1]) for claim in pair.claims)
    checked = pair.certificate(claimed=claims)
    assert "take another part than its value" in str(checked.failure)


def test_zeros_that_bear_a_shift_have_to_bear_what_follows() -> None:
    """The scale behind the shift is claimed to pass what pads with zeros in the original, and then no longer does."""
    draw = Draw(23)
    w, b, k, d = draw.weights(2, 3, 1, 1), draw.terms(2), draw.factors(2, 1, 1), single(SHIFT)
    pair = pair_of(
        draw, "(float[1,3,4,4] x) => (float[1,2,6,6] y)",
        "c = Conv(x,w,b) p = Pad(c,pads) n = Add(p,d) u = Mul(n,k) y = Relu(u)",
        "c1 = Conv(x,w1,b1) u = Pad(c1,pads,d1) y = Relu(u)", ["n: p -> p c", "u: p -> c"], shared={"pads": PADS},
        old={"w": w, "b": b, "k": k, "d": d},
        new={"w1": wide(w) * wide(k)[..., None], "b1": (wide(b) + exact(SHIFT)) * wide(k)[:, 0, 0], "d1": d},
    )  # fmt: skip
    checked = pair.certificate(claimed=whole(pair))
    assert "whose numbers bear another affine, but not this one" in str(checked.failure)


# --- forward --------------------------------------------------------------------------------------------------------


def ahead(line: str, *, scale: float = SCALE, homes: str = "p y", **numbers: float) -> Pair:
    """A scale, a Clip or Pad that reads `n`, and a Conv."""
    draw = Draw(24)
    w, b = draw.weights(2, 3, 1, 1), draw.terms(2)
    old = {name: single(value) for name, value in (("lo", LOW), ("hi", HIGH), ("fill", FILL)) if f",{name}" in line}
    kept = {name: old.pop(name) for name in [*old] if name not in numbers}
    renamed = line.replace("(n", "(x")
    for name in numbers:
        renamed = renamed.replace(f",{name}", f",{name}1")
    pair = pair_of(
        draw, "(float[1,3,4,4] x) => (float[1,2,a,b] y)", f"n = Mul(x,k) p = {line} y = Conv(p,w,b)",
        f"p1 = {renamed} y = Conv(p1,w1,b)", f"n: p -> {homes}", shared={"pads": PADS, "b": b, **kept},
        old={"w": w, "k": single(scale), **old},
        new={**{f"{name}1": single(value) for name, value in numbers.items()}, "w1": wide(w) * exact(scale)},
    )  # fmt: skip
    return replace(pair, claims=tuple(replace(claim, ahead=True, unshifted=()) for claim in pair.claims))


AHEAD = {
    "Clip": ahead("Clip(n,lo,hi)", lo=exact(LOW) / SCALE, hi=exact(HIGH) / SCALE),
    "Pad": ahead("Pad(n,pads,fill)", fill=exact(FILL) / SCALE),
    "Pad, negative": ahead("Pad(n,pads,fill)", scale=-SCALE, fill=-exact(FILL) / SCALE),
}
AHEAD_WRONG = {
    "multiplied instead": (ahead("Clip(n,lo)", lo=exact(LOW) * SCALE), "input 1 of Clip#1"),
    "a bound stays": (ahead("Clip(n,lo)", lo=LOW), "input 1 of Clip#1"),
    "a negative scale": (ahead("Clip(n,lo)", scale=-SCALE, lo=-exact(LOW) / SCALE), "not above zero"),
    "the claim does not say so": (ahead("Clip(n,lo)", homes="y"), "bounds stay"),
    "what is padded stays": (ahead("Pad(n,pads,fill)", fill=FILL), "input 2 of Pad#1"),
    "the claim does not say that it pads": (ahead("Pad(n,pads,fill)", homes="y"), "pads with 0.4"),
    "it settles there alone": (ahead("Clip(n,lo)", lo=exact(LOW) / SCALE, homes="p"), "reads it"),
}


@pytest.mark.parametrize("case", AHEAD)
def test_numbers_in_front_of_which_it_is_undone_are_certified(case: str) -> None:
    checked = AHEAD[case].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("case", AHEAD_WRONG)
def test_numbers_in_front_of_which_it_is_not_are_refused(case: str) -> None:
    pair, sentence = AHEAD_WRONG[case]
    checked = pair.certificate()
    assert not checked.holds
    assert sentence in str(checked.failure or checked.uncertain)


def test_a_number_that_another_node_reads_is_no_number_of_its_own() -> None:
    pair = RIGHT["Clip from below"]
    after = copied(pair.after)
    put(after, more=array(after, "lo1"))
    after.graph.node[-1].op_type = "Max"
    after.graph.node[-1].input.append("lo1")
    assert not pair.certificate(after, claimed=whole(pair)).holds
