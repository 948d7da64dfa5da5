"""Folds into the weights of LSTM, GRU, RNN and Einsum, written by hand: the right ones hold, no other does.

As many inputs as hidden values, gates and labels allow, so that each wrong axis, half or direction fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from certificate_folds import copied, put
from certificate_pairs import Draw, Pair, ahead_pair, claimed, pair_of, wide

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Case:
    """A right pair, and wrong numbers by name."""

    right: Pair
    wrong: dict[str, dict[str, np.ndarray]]


def halves(bias: np.ndarray, added: np.ndarray) -> np.ndarray:
    """B with something added to Wb of each direction."""
    return wide(bias) + np.concatenate([added, 0 * added], axis=1)


def recurrent(op: str, *, directions: int = 2, bias: bool = True, how: str = "") -> Case:
    """One whose rows are as many as its inputs: 4 inputs, and 4, 12 or 16 rows."""
    draw = Draw(GATES[op] + directions + 20)
    rows, direction = 4 * GATES[op], "bidirectional" if directions == 2 else "reverse"
    w, r, b = draw.weights(directions, rows, 4), draw.weights(directions, rows, 4), draw.terms(directions, 2 * rows)
    parameters, a, s = draw.normalization(4)
    b = b if bias else 0 * b
    added = wide(w) @ s
    made = {"w1": wide(w) * a, "b1": halves(b, added)}
    layer = f'{op}<hidden_size=4,direction="{direction}"{how}>'
    right = ahead_pair(
        draw, "(float[5,4,4] x) => (float[5,d,4,4] y)", f"n = BN(x,g,e,m,v) t = Transpose<perm=[2,0,1]>(n) "
        f"y = {layer}(t,w,r{',b' * bias})", f"t1 = Transpose<perm=[2,0,1]>(x) y = {layer}(t1,w1,r,b1)", "n: t -> y",
        old={"w": w, **parameters} | ({"b": b} if bias else {}), new=made, shared={"r": r},
    )  # fmt: skip
    gates = np.roll(np.arange(rows), 4)
    wrong = {
        "the scale left out": {"w1": wide(w)},
        "the scale divided by": {"w1": wide(w) / a},
        "one input left out": {"w1": np.where(np.arange(4) == 2, wide(w), made["w1"])},
        "the scale on the rows": {"w1": wide(w) * np.tile(a, GATES[op])[:, None]},
        "the sign left out": {"w1": wide(w) * np.abs(a)},
        "the shift forgotten": {"b1": wide(b)},
        "the shift subtracted": {"b1": halves(b, -added)},
        "the shift in the other half": {"b1": wide(b) + np.concatenate([0 * added, added], axis=1)},
        "the shift in both halves": {"b1": wide(b) + np.concatenate([added, added], axis=1)},
        "the shift times the new weight": {"b1": halves(b, made["w1"] @ s)},
        "the shift through R": {"b1": halves(b, wide(r) @ s)},
        "a further row of zeros": {"b1": np.concatenate([made["b1"], 0 * made["b1"][:, :1]], axis=1)},
    }
    if op != "RNN":
        wrong["the shift in other gates"] = {"b1": halves(b, added[:, gates])}
        wrong["the weights in other gates"] = {"w1": made["w1"][:, gates]}
        wrong["one gate left out"] = {"w1": np.where(np.arange(rows)[:, None] < 4, wide(w), made["w1"])}
    if directions == 2:
        wrong["one direction's weight"] = {"w1": np.stack([made["w1"][0], wide(w)[1]])}
        wrong["one direction's shift"] = {"b1": np.stack([made["b1"][0], wide(b)[1]])}
        wrong["directions mixed"] = {"b1": made["b1"][::-1]}
        wrong["one direction for both"] = {"w1": made["w1"][[0, 0]]}
    return Case(right, wrong)


def einsum(equation: str, *, shift: bool = True) -> Case:
    """`nct,...->...` with c, o and p of 4, as many as t."""
    draw = Draw(9)
    left, _, output = equation.partition("->")
    term = left.split(",")[1]
    w, (parameters, a, s) = draw.weights(*(4 for _ in term)), draw.normalization(4)
    if not shift:
        parameters["m"] = parameters["e"] = np.zeros(4, np.float32)
        s = 0 * s
    weight = np.einsum(f"{term},c->{term}", wide(w), a)
    own = [label for label in output if label in term]
    added = np.einsum(f"{term},c->{''.join(own)}", wide(w), s)
    form = [4 if label in own else 1 for label in output]
    added = added.reshape(form)
    text = f'Einsum<equation="{equation}">'
    dims = ",".join("4" for _ in output)
    behind = f"q = {text}(x,w1) r = Add(q,d1) y = Relu(r)" if shift else f"r = {text}(x,w1) y = Relu(r)"
    right = ahead_pair(
        draw, f"(float[4,4,4] x) => (float[{dims}] y)", f"n = BN(x,g,e,m,v) r = {text}(n,w) y = Relu(r)", behind,
        "n: -> r", old={"w": w, **parameters}, new={"w1": weight} | ({"d1": added} if shift else {}), shared={},
    )  # fmt: skip
    wrong = {
        "the scale left out": {"w1": wide(w)},
        "the sign left out": {"w1": np.einsum(f"{term},c->{term}", wide(w), np.abs(a))},
        "one number": {"w1": np.where(np.arange(weight.size).reshape(weight.shape) == 7, 0, weight)},
    }
    wrong |= {f"the scale on {x}": {"w1": np.einsum(f"{term},{x}->{term}", wide(w), a)} for x in term if x != "c"}
    if shift:
        wrong |= {
            "the shift forgotten": {"d1": 0 * added},
            "the shift subtracted": {"d1": -added},
            "the shift along another axis": {"d1": np.moveaxis(added, form.index(4), 0 if form[0] == 1 else -1)},
        }
        if len(own) > 1:
            axes = [i for i, label in enumerate(output) if label in own]
            wrong["the labels swapped"] = {"d1": np.swapaxes(added, *axes)}
    return Case(right, wrong)


CASES = {
    "LSTM": recurrent("LSTM"), "LSTM in one direction": recurrent("LSTM", directions=1),
    "LSTM without B": recurrent("LSTM", bias=False), "GRU": recurrent("GRU", how=",linear_before_reset=1"),
    "GRU without B": recurrent("GRU", bias=False, directions=1), "RNN": recurrent("RNN"),
    "RNN with clip": recurrent("RNN", how=",clip=1.5"), "Einsum": einsum("nct,co->nto"),
    "Einsum, transposed": einsum("nct,oc->ont"), "Einsum of two labels": einsum("nct,pco->notp"),
    "Einsum of a label kept": einsum("nct,nco->nto", shift=False), "Einsum of channels kept": einsum("nct,co->ncto",
    shift=False),
}  # fmt: skip
NUMBERS = [(name, fault) for name, case in CASES.items() for fault in case.wrong]


@pytest.mark.parametrize("name", CASES)
def test_a_right_fold_holds(name: str) -> None:
    checked = CASES[name].right.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize(("name", "fault"), NUMBERS)
def test_wrong_numbers_are_refused(name: str, fault: str) -> None:
    case = CASES[name]
    after = put(copied(case.right.after), **{k: v.astype(np.float32) for k, v in case.wrong[fault].items()})
    checked = case.right.certificate(after)
    assert not checked.holds
    if fault != "a further row of zeros":
        assert checked.failure is not None
        assert "weight of" in checked.failure or "bias of" in checked.failure


def test_what_else_such_a_node_reads_stays_what_it_was() -> None:
    """R, an attribute, the half of B that is not Wb."""
    right = CASES["LSTM"].right
    for changed in ("R", "direction", "hidden"):
        after = copied(right.after)
        node = after.graph.node[-1]
        if changed == "R":
            put(after, r=np.ones((2, 16, 4), np.float32))
        for attribute in node.attribute:
            if attribute.name == "direction" and changed == "direction":
                attribute.s = b"forward"
            if attribute.name == "hidden_size" and changed == "hidden":
                attribute.i = 5
        assert not right.certificate(after).holds
    b = onnx.numpy_helper.to_array(next(t for t in right.after.graph.initializer if t.name == "b1")).copy()
    b[0, 20] = np.nextafter(b[0, 20], np.float32(np.inf))
    assert "bias of" in str(right.certificate(put(copied(right.after), b1=b)).failure)


def test_a_claim_that_something_behind_it_settled_is_refused() -> None:
    draw = Draw(11)
    w, r, k = draw.weights(1, 4, 4), draw.weights(1, 4, 4), draw.factors(4)
    layer = "RNN<hidden_size=4>"
    pair = pair_of(
        draw, "(float[5,4,4] x) => (float[5,1,4,4] y)", f"h = {layer}(x,w,r) n = Mul(h,k) y = Relu(n)",
        f"n = {layer}(x,w1,r) y = Relu(n)", "n: -> h", old={"w": w, "k": k}, new={"w1": wide(w) * wide(k)[:, None]},
        shared={"r": r},
    )  # fmt: skip
    assert "nothing behind RNN#0 can settle" in str(pair.certificate().failure)


def test_a_claim_that_leads_to_an_initial_state_is_not_followed() -> None:
    draw = Draw(12)
    w, r, k = draw.weights(1, 4, 4), draw.weights(1, 4, 4), draw.factors(4)
    layer, b = "RNN<hidden_size=4>", np.zeros((1, 8), np.float32)
    pair = ahead_pair(
        draw, "(float[1,4,4] x) => (float[1,1,4,4] y)", f'n = Mul(x,k) y = {layer}(x,w,r,b,"",n)',
        f'y = {layer}(x,w1,r,b,"",x)', "n: -> y", old={"w": w, "k": k}, new={"w1": wide(w) * wide(k)},
        shared={"r": r, "b": b},
    )  # fmt: skip
    assert not pair.certificate().holds


@pytest.mark.parametrize(
    ("equation", "holds"),
    [("nct,co->nto", True), ("nct,co->no", False), ("nct,cot->nto", False), ("nct,co->ncto", False),
     ("nct,cco->nto", False), ("nct,cow->nto", True), ("ntc,co->nto", True)],
)  # fmt: skip
def test_a_shift_arrives_only_where_it_is_one_number_for_each_output(equation: str, holds: bool) -> None:
    """What the equation sums besides, keeps, or multiplies by another index, makes of it something else."""
    draw = Draw(14)
    left, _, output = equation.partition("->")
    data, term = left.split(",")
    w, s = draw.weights(*(4 for _ in term)), draw.terms(4)
    form = [4 if label == "c" else 1 for label in data]
    body = f'Einsum<equation="{equation}">'
    once = "".join(dict.fromkeys(term))
    added = np.einsum(f"{term}->{once}", wide(w)) if len(once) < len(term) else wide(w)
    added = np.einsum(f"{once},c->o", added, wide(s)).reshape([4 if label == "o" else 1 for label in output])
    factors = draw.factors(4)
    scaled = np.einsum(f"{term},{'c'}->{term}", wide(w), wide(factors)) if term.count("c") == 1 else wide(w)
    dims = ",".join("4" for _ in output)
    pair = ahead_pair(
        draw, f"(float[4,4,4] x) => (float[{dims}] y)", f"n = Mul(x,k) o = Add(n,s) r = {body}(o,w) y = Relu(r)",
        f"q = {body}(x,w1) r = Add(q,d1) y = Relu(r)", ["n: o -> r", "o: -> r"],
        old={"w": w, "k": factors.reshape(form), "s": s.reshape(form)}, new={"w1": scaled, "d1": added}, shared={},
    )  # fmt: skip
    assert pair.certificate().holds is holds


def test_a_dimension_of_one_may_meet_more_of_the_data() -> None:
    draw = Draw(15)
    w, s = draw.weights(1, 4), draw.terms()
    body = 'Einsum<equation="nc,co->no">'
    pair = ahead_pair(
        draw, "(float[2,c] x) => (float[2,4] y)", f"n = Add(x,s) r = {body}(n,w) y = Relu(r)",
        f"q = {body}(x,w1) r = Add(q,d1) y = Relu(r)", "n: -> r", old={"w": w, "s": s},
        new={"w1": wide(w), "d1": wide(w)[0] * wide(s)}, shared={},
    )  # fmt: skip
    assert not pair.certificate().holds


def test_of_two_constants_that_which_changed_is_the_weight() -> None:
    draw = Draw(16)
    w, u, k = draw.weights(4, 4), draw.weights(4, 4), draw.factors(4)
    body = 'Einsum<equation="nc,co,cp->nop">'
    pair = ahead_pair(
        draw, "(float[2,4] x) => (float[2,4,4] y)", f"n = Mul(x,k) y = {body}(n,w,u)", f"y = {body}(x,w1,u)", "n: -> y",
        old={"w": w, "k": k}, new={"w1": wide(w) * wide(k)[:, None]}, shared={"u": u},
    )  # fmt: skip
    assert pair.certificate().holds
    assert not pair.certificate(put(copied(pair.after), w1=w)).holds
    other = copied(pair.after)
    other.graph.node[0].input[:] = ["x", "w1", "u1"]
    assert not pair.certificate(put(other, u1=u)).holds


def test_two_claims_at_two_inputs_of_one_home_are_not_followed() -> None:
    draw = Draw(17)
    w, k, f = draw.weights(4, 4), draw.factors(4), draw.factors(4)
    body = 'Einsum<equation="nc,co,nc->no">'
    pair = ahead_pair(
        draw, "(float[2,4] x, float[2,4] z) => (float[2,4] y)", f"n = Mul(x,k) m = Mul(z,f) y = {body}(n,w,m)",
        f"y = {body}(x,w1,z)", ["n: -> y", "m: -> y"], old={"w": w, "k": k, "f": f},
        new={"w1": wide(w) * (wide(k) * wide(f))[:, None]}, shared={},
    )  # fmt: skip
    assert "of two of its inputs" in str(pair.certificate().uncertain)


def test_a_claim_says_which_it_is() -> None:
    """Claimed of another node, the same numbers are no fold."""
    right = CASES["RNN"].right
    other = replace(claimed(right.before, "t: -> y"), ahead=True, unshifted=())
    assert not right.certificate(claimed=(other,)).holds
