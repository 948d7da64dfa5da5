"""Folds that lead forward through what joins several values, written by hand: right ones hold, others are refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from certificate_folds import copied, put
from certificate_pairs import Arrays, Draw, Pair, ahead_pair, wide

INTERFACE = "(float[2,4,5] x, bool[2,1,5] q) => (float[2,3,z] y)"
JOINS = {
    "Add": ("a = Identity(n) t = Add(a,n)", "n: a t -> y", 1, 2),
    "twice": ("t = Add(n,n)", "n: t -> y", 1, 2),
    "Sub": ("a = Identity(n) t = Sub(a,n)", "n: a t -> y", 1, 0),
    "Sum of three": ("a = Identity(n) d = Identity(n) t = Sum(n,a,d)", "n: a d t -> y", 1, 3),
    "Max": ("a = AveragePool<kernel_shape=[3],pads=[1,1]>(n) t = Max(a,n)", "n: a t -> y", 1, 1),
    "Where": ("a = Identity(n) t = Where(q,a,n)", "n: a t -> y", 1, 1),
    "Mul": ("a = Identity(n) t = Mul(a,n)", "n: a t -> y", 2, 0),
    "batch": ("a = Identity(n) t = Concat<axis=0>(a,n)", "n: a t -> y", 1, 1),
    "one behind the other": ("a = Add(n,n) d = Add(n,n) t = Min(a,d)", "n: a d t -> y", 1, 2),
}


def drawn(join: str, *, negative: bool = False) -> tuple[Draw, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """A normalization; of positive scales, and without a shift where products join."""
    draw = Draw(7)
    parameters, a, s = draw.normalization(4)
    if not negative:
        parameters["g"], a = np.abs(parameters["g"]), np.abs(a)
        s = wide(parameters["e"]) - wide(parameters["m"]) * a
    if join == "Mul":
        parameters["m"] = parameters["e"] = np.zeros(4, np.float32)
        s = 0 * s
    return draw, parameters, a, s


def without_it(body: str) -> str:
    """What stands behind a normalization once that is gone: what changes has new names."""
    return re.sub(r"\b([adft])\b(?!loat)", r"\g<1>1", re.sub(r"\bn\b", "p", body))


def case(join: str, *, negative: bool = False) -> tuple[Pair, dict[str, Arrays]]:
    """A join of values that bear (a, s): behind it, (a**power, count*s); and wrong numbers."""
    body, claim, power, count = JOINS[join]
    draw, parameters, a, s = drawn(join, negative=negative)
    w, b = draw.weights(3, 4, 1), draw.terms(3)
    weight, seen = wide(w) * (a**power)[:, None], wide(w)[..., 0] @ s
    after = without_it(body)
    right = ahead_pair(
        draw, INTERFACE, f"p = Relu(x) n = BN(p,g,e,m,v) {body} y = Conv(t,w,c)",
        f"p = Relu(x) {after} y = Conv(t1,w1,c1)", claim, old={"w": w, "c": b, **parameters},
        new={"w1": weight, "c1": wide(b) + count * seen}, shared={},
    )  # fmt: skip
    wrong = {
        "the scale twice": {"w1": wide(w) * (a ** (power + 1))[:, None]},
        "no scale": {"w1": wide(w)},
        "the shift once more": {"c1": wide(b) + (count + 1) * seen},
        "the shift once less": {"c1": wide(b) + (count - 1) * seen},
    }
    return right, {name: numbers for name, numbers in wrong.items() if join != "Mul" or "w1" in numbers}


CASES = {join: case(join) for join in JOINS}
WRONG = [(join, name) for join, (_, wrong) in CASES.items() for name in wrong]


@pytest.mark.parametrize("join", JOINS)
def test_a_right_fold_holds(join: str) -> None:
    checked = CASES[join][0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize(("join", "name"), WRONG, ids=map(str, WRONG))
def test_wrong_numbers_are_refused(join: str, name: str) -> None:
    right, wrong = CASES[join]
    spoiled = put(copied(right.after), **{key: array.astype(np.float32) for key, array in wrong[name].items()})
    assert "should be" in str(right.certificate(spoiled).failure)


@pytest.mark.parametrize("join", ["Max", "one behind the other"])
def test_a_negative_scale_does_not_pass_a_choice(join: str) -> None:
    assert "negative scale" in str(case(join, negative=True)[0].certificate().failure)


@pytest.mark.parametrize(
    ("body", "claim", "sentence"),
    [
        ("t = Add(n,p)", "n: t -> y", "joins what it reads"),
        ("t = Sum(n,p,n)", "n: t -> y", "bear different scales"),
        ("a = Mul(n,n) t = Add(a,n)", "n: a t -> y", "lets no shift pass|comes to"),
        ("a = Add(n,n) t = Max(a,n)", "n: a t -> y", "do not all bear the same"),
        ("t = Max(n,p)", "n: t -> y", "joins what it reads"),
        ("a = Identity(n) t = Where(q,a,p)", "n: a t -> y", "joins what it reads"),
        ("f = Greater(n,p) t = Where(f,n,n)", "n: f t -> y", "."),
        ("t = Div(n,n)", "n: t -> y", "."),
        ("t = Concat<axis=2>(n,p)", "n: t -> y", "along others than its channels"),
    ],
)
def test_what_not_all_values_bear_is_refused(body: str, claim: str, sentence: str) -> None:
    draw, parameters, a, _ = drawn("Add")
    w = draw.weights(3, 4, 1)
    pair = ahead_pair(
        draw, INTERFACE, f"p = Relu(x) n = BN(p,g,e,m,v) {body} y = Conv(t,w)",
        f"p = Relu(x) {without_it(body)} y = Conv(t1,w1)", claim,
        old={"w": w, **parameters}, new={"w1": wide(w) * a[:, None]}, shared={},
    )  # fmt: skip
    checked = pair.certificate()
    assert not checked.holds
    assert re.search(sentence, str(checked.failure or checked.uncertain))
