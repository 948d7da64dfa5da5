"""Claims whose order is not that of the values: what stayed at first went once something behind it had gone.

Each claim is read in the graph that those before it have left; the pairs are written by hand, right and wrong.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certificate_folds import copied, put
from certificate_pairs import Arrays, Draw, Pair, claimed, pair_of, wide

from bnfold.equality.claim import UncertainError
from bnfold.equality.constants import Constants
from bnfold.equality.settling import Settled
from bnfold.equality.trees import trees_of
from bnfold.graph import Graph
from bnfold.model import read

Case = tuple[Pair, dict[str, Arrays]]


def ahead(pair: Pair, *places: int) -> Pair:
    """The same, where some claims lead forward."""
    claims = [replace(c, ahead=True, unshifted=()) if i in places else c for i, c in enumerate(pair.claims)]
    return replace(pair, claims=tuple(claims))


def before_a_tap(*, kernel: int) -> Case:
    """An affine of x becomes a tap of the convolution of x; then one before x goes into that, which sees it twice."""
    draw = Draw(1)
    w, b = draw.weights(4, 4, kernel), draw.terms(4)
    (first, c, r), (second, a, s) = draw.normalization(4, "0"), draw.normalization(4)
    if kernel > 1:  # the border is not shifted
        first["m0"] = first["e0"] = np.zeros(4, np.float32)
        r = 0 * r
    second["mu"] = second.pop("m")  # m is a value here
    tap = np.zeros((4, 4, kernel))
    tap[np.arange(4), np.arange(4), kernel // 2] = a
    whole, own = (wide(w) + tap) * c[:, None], wide(w) * c[:, None]
    seen = np.einsum("oik,i->o", wide(w) + tap, r)
    conv = f"Conv<pads=[{kernel // 2},{kernel // 2}]>"
    right = pair_of(
        draw, "(float[1,4,7] x) => (float[1,4,7] y)",
        f"m = BN(x,g0,e0,m0,v0) n = BN(m,g,e,mu,v) c = {conv}(m,w,b) y = Add(c,n)",
        f"y = {conv}(x,w1,b1)", ["n: -> c", "m: -> c"],
        old={"w": w, "b": b, **first, **second},
        new={"w1": whole, "b1": wide(b) + s + seen},
    )  # fmt: skip
    unshifted = wide(b) + s
    shifts = {
        "the shift of the tap forgotten": {"b1": unshifted + np.einsum("oik,i->o", wide(w), r)},
        "the shift of the weight forgotten": {"b1": unshifted + a * r},
        "the shift of the tap unscaled": {"b1": unshifted + seen + (1 - a) * r},
    }
    beside = replace(right.claims[0], joint=(claimed(right.before, "y: ->").site,))
    return ahead(replace(right, claims=(beside, right.claims[1])), 1), {
        "the tap left as it was": {"w1": own + tap},
        "the tap scaled alone": {"w1": wide(w) + tap * c[:, None]},
        "the tap scaled twice": {"w1": own + tap * c[:, None] ** 2},
        "no tap": {"w1": own},
        **(shifts if kernel == 1 else {}),
    }


def behind_a_pool() -> Case:
    """An Add goes back past a negative Mul that stays before a padded layer; then nothing but a scale comes there."""
    draw = Draw(2)
    w, b, v = draw.weights(4, 3, 3), draw.terms(4), draw.weights(5, 4, 3)
    k, d = -np.abs(draw.factors(4, 1)), draw.terms(4, 1)
    right = pair_of(
        draw, "(float[1,3,9] x) => (float[1,5,z] y)",
        "h = Conv(x,w,b) p = MaxPool<kernel_shape=[2]>(h) m = Mul(p,k) t = Add(m,d) y = Conv<pads=[1,1]>(t,v)",
        "h1 = Conv(x,w,b1) p1 = MaxPool<kernel_shape=[2]>(h1) y = Conv<pads=[1,1]>(p1,v1)",
        ["t: m p -> h", "m: t -> y"], shared={"w": w}, old={"b": b, "v": v, "k": k, "d": d},
        new={"b1": wide(b) + (wide(d) / wide(k))[:, 0], "v1": wide(v) * wide(k)},
    )  # fmt: skip
    return ahead(right, 1), {
        "the shift as it stands there": {"b1": wide(b) + wide(d)[:, 0]},
        "no shift": {"b1": wide(b)},
        "no scale": {"v1": wide(v)},
        "the size of the scale": {"v1": wide(v) * np.abs(wide(k))},
    }


def handed_on() -> Case:
    """An Add that has taken a shift goes into the layer before it, once that has an Add for something else."""
    draw = Draw(3)
    w, c, d, (parameters, a, s) = draw.weights(3, 4), draw.terms(4), draw.terms(3), draw.normalization(4)
    right = pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)",
        "z = Add(x,d) q = MatMul(z,w) r = Add(q,c) n = BN(r,g,e,m,v) y = Relu(n)",
        "q1 = MatMul(x,w1) n = Add(q1,b1) y = Relu(n)", ["n: r -> r q", "z: -> q", "r: -> q"],
        old={"w": w, "c": c, "d": d, **parameters},
        new={"w1": wide(w) * a, "b1": (wide(d) @ wide(w) + wide(c)) * a + s},
    )  # fmt: skip
    return ahead(right, 1), {
        "what it took over left out": {"b1": (wide(d) @ wide(w)) * a + wide(c)},
        "its own number not scaled": {"b1": (wide(d) @ wide(w)) * a + wide(c) + s},
        "all scaled twice": {"b1": ((wide(d) @ wide(w)) * a + wide(c)) * a + s},
        "the shift before it left out": {"b1": wide(c) * a + s},
        "the shift before it not scaled": {"b1": wide(d) @ wide(w) + wide(c) * a + s},
        "the weight scaled twice": {"w1": wide(w) * a**2},
    }


KINDS = {
    "before a tap": before_a_tap(kernel=1),
    "before a tap, padded": before_a_tap(kernel=3),
    "behind a pool": behind_a_pool(),
    "handed on": handed_on(),
}
WRONG = [(kind, name) for kind, (_, wrong) in KINDS.items() for name in wrong]


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_fold_holds(kind: str) -> None:
    checked = KINDS[kind][0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize(("kind", "name"), WRONG, ids=map(str, WRONG))
def test_wrong_numbers_are_refused(kind: str, name: str) -> None:
    right, wrong = KINDS[kind]
    spoiled = put(copied(right.after), **{key: array.astype(np.float32) for key, array in wrong[name].items()})
    assert "should be" in str(right.certificate(spoiled).failure)


@pytest.mark.parametrize("kind", KINDS)
def test_in_another_order_the_claims_do_not_hold(kind: str) -> None:
    """Of the graph as it was, what a later claim says is not so."""
    right, _ = KINDS[kind]
    assert not right.certificate(claimed=(*right.claims[1:], right.claims[0])).holds


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_claim_left_out_nothing_holds(kind: str) -> None:
    right, _ = KINDS[kind]
    for place in range(len(right.claims)):
        assert not right.certificate(claimed=right.claims[:place] + right.claims[place + 1 :]).holds


def test_what_has_gone_may_be_left_out_of_a_claim_and_is_no_home() -> None:
    right, _ = KINDS["behind a pool"]
    first, second = right.claims
    assert right.certificate(claimed=(first, replace(second, path=()))).holds
    spoiled = replace(second, path=(), homes=(*second.path, *second.homes))
    assert "is no way for that" in str(right.certificate(claimed=(first, spoiled)).failure)


def test_what_an_affine_has_taken_over_is_not_lost_where_it_goes_forward() -> None:
    """n settles in r, and r in the Gemm behind it: what it had of n would be nowhere."""
    draw = Draw(4)
    w, c, d = draw.weights(3, 4), draw.terms(3), draw.terms(3)
    pair = ahead(pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", "t = Relu(x) r = Add(t,c) n = Add(r,d) y = Gemm(n,w)",
        "t = Relu(x) y = Gemm(t,w,b1)", ["n: -> r", "r: n -> y"], shared={"w": w},
        old={"c": c, "d": d}, new={"b1": wide(c) @ wide(w)},
    ), 1)  # fmt: skip
    assert not pair.certificate().holds
    assert not pair.certificate(put(copied(pair.after), b1=((c + d) @ w))).holds
    graph = Graph.of(read(pair.before))
    trees = trees_of(graph, pair.claims)
    grids = {node.id: (1, 3) for node in graph.nodes}
    with pytest.raises(UncertainError, match="what it has taken over goes another way"):
        Settled.of(Constants(graph), trees, grids, {trees[1].ahead.homes[0].node.id: 1})
