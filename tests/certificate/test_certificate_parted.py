"""Affines of which the scale went back and the shift forward, by hand: the right ones hold, others do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certificate_folds import copied, put
from certificate_pairs import Arrays, Draw, Pair, pair_of, wide

from bnfold.equality.claim import Claim

CONV = "Conv<group=2,pads=[1,1]>"


def mixer(total: str = "s = Add(z,x)", sign: float = 1.0) -> tuple[Pair, dict[str, Arrays]]:
    """`y = d(n(Relu(c(x))) + x)`, and wrong numbers by name."""
    draw = Draw(4)
    w, b, u, k = draw.weights(4, 2, 3), draw.terms(4), draw.weights(3, 4, 1), draw.terms(3)
    parameters, a, s = draw.normalization(4)
    parameters["g"], a, mean = np.abs(parameters["g"]), np.abs(a), wide(parameters["m"])
    s = wide(parameters["e"]) - mean * a
    rows = wide(u)[:, :, 0]
    scaled = wide(w) * a[:, None, None], wide(b) * a
    after = total.replace("z", "r1")
    found = pair_of(
        draw, "(float[1,4,7] x) => (float[1,3,7] y)",
        f"c = {CONV}(x,w,b) r = Relu(c) z = BN(r,g,e,m,v) {total} y = Conv(s,u,k)",
        f"c1 = {CONV}(x,w1,b1) r1 = Relu(c1) {after.replace('s =', 's1 =')} y = Conv(s1,u,k1)",
        ["z: r -> c", "z: s -> y"],
        old={"w": w, "b": b, "k": k, **parameters}, shared={"u": u},
        new={"w1": scaled[0], "b1": scaled[1], "k1": wide(k) + sign * rows @ s},
    )  # fmt: skip
    back, ahead = found.claims
    claims = replace(back, part="scale"), replace(ahead, part="shift", ahead=True, unshifted=())
    return replace(found, claims=claims), {
        "no shift": {"k1": wide(k)},
        "the shift with the other sign": {"k1": wide(k) - sign * rows @ s},
        "the shift scaled": {"k1": wide(k) + sign * rows @ (s * a)},
        "the shift before the scale": {"k1": wide(k) + sign * rows @ (s / a)},
        "no scale": {"w1": wide(w)},
        "the bias not scaled": {"b1": wide(b)},
        "the shift in both": {"b1": scaled[1] + s},
    }


KINDS = {"a sum": mixer(), "the other operand": mixer("s = Add(x,z)"), "taken away": mixer("s = Sub(x,z)", -1.0)}


@pytest.mark.parametrize("name", KINDS)
def test_an_affine_in_two_parts_holds(name: str) -> None:
    checked = KINDS[name][0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, (_, each) in KINDS.items() for wrong in each])
def test_other_numbers_do_not_hold(name: str, wrong: str) -> None:
    pair, numbers = KINDS[name][0], KINDS[name][1][wrong]
    after = put(copied(pair.after), **{n: v.astype(np.float32) for n, v in numbers.items()})
    assert pair.certificate(after).failure is not None


def said_wrongly(back: Claim, ahead: Claim) -> dict[str, tuple[Claim, ...]]:
    return {
        "the scale alone": (back,),
        "the shift alone": (ahead,),
        "the scale twice": (back, back),
        "whole, and the shift": (replace(back, part=""), ahead),
        "the scale, and whole": (back, replace(ahead, part="")),
        "both whole": (replace(back, part=""), replace(ahead, part="")),
        "the wrong way round": (replace(back, part="shift"), replace(ahead, part="scale")),
        "three parts": (back, ahead, ahead),
    }


@pytest.mark.parametrize("wrong", said_wrongly(*mixer()[0].claims))
def test_parts_that_are_said_otherwise_do_not_hold(wrong: str) -> None:
    pair = mixer()[0]
    assert not replace(pair, claims=said_wrongly(*pair.claims)[wrong]).certificate().holds


def test_a_value_that_has_lost_its_shift_bears_another_name() -> None:
    pair = mixer()[0]
    renamed = copied(pair.after)
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            names[:] = ["z" if name == "r1" else name for name in names]
    assert "which meant another value" in str(pair.certificate(renamed).failure)


def test_a_scale_of_one_value_does_not_pass_a_sum() -> None:
    draw = Draw(6)
    u, (parameters, a, s) = draw.weights(3, 4, 1), draw.normalization(4)
    rows = wide(u)[:, :, 0]
    found = pair_of(
        draw, "(float[1,4,7] x, float[1,4,7] q) => (float[1,3,7] y)", "z = BN(x,g,e,m,v) s = Add(z,q) y = Conv(s,u)",
        "s1 = Add(x,q) y = Conv(s1,u1,k1)", "z: s -> y", old={"u": u, **parameters},
        new={"u1": wide(u) * a[:, None], "k1": rows @ s},
    )  # fmt: skip
    claims = (replace(found.claims[0], ahead=True, unshifted=()),)
    assert replace(found, claims=claims).certificate().failure is not None
