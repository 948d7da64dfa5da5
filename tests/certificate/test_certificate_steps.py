"""What arrives at a home: ranks that grow on the way, gains, sizes that are not known, and the terms of a bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from certificate_folds import copied, parsed, put
from certificate_pairs import Draw, Pair, pair_of, wide

from bnfold.equality import steps
from bnfold.equality.claim import Link
from bnfold.equality.constants import Constants
from bnfold.graph import Graph
from bnfold.model import read


def holds(pair: Pair) -> None:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


# Ranks that grow.


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 1, 1, 4), (4,), (1, 1, 1)])
@pytest.mark.parametrize("order", ["c,k", "k,c"])
def test_a_factor_that_stays_may_have_more_dimensions_than_its_value(shape: tuple[int, ...], order: str) -> None:
    """Then what follows it is read off at another rank."""
    draw = Draw(1)
    w, k, s, d = draw.weights(3, 4), draw.factors(*shape), draw.factors(1, 4), draw.terms(4)
    rank = max(2, len(shape))
    dims = ",".join(map(str, [*[1] * (rank - 2), 2, 4]))
    pair = pair_of(
        draw, f"(float[2,3] x) => (float[{dims}] y)",
        f"c = MatMul(x,w) t = Mul({order}) n = Mul(t,s) a = Add(n,d) y = Relu(a)",
        f"r = MatMul(x,w1) c1 = Add(r,b1) a = Mul({order.replace('c', 'c1')}) y = Relu(a)", ["n: t -> c", "a: t -> c"],
        shared={"k": k}, old={"w": w, "s": s, "d": d},
        new={"w1": wide(w) * wide(s), "b1": wide(d) / np.broadcast_to(wide(k), (*[1] * (rank - 1), 4)).reshape(-1)},
    )  # fmt: skip
    holds(pair)
    wrong = onnx.numpy_helper.to_array(next(t for t in pair.after.graph.initializer if t.name == "b1")).copy()
    wrong[2] *= np.float32(1.001)
    assert "and should be" in str(pair.certificate(put(copied(pair.after), b1=wrong)).failure)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_gain_of_any_size_follows_the_layout(channels: int) -> None:
    draw = Draw(2)
    w, k, d = draw.weights(channels, 3, 3), draw.factors(channels, 1), draw.terms(channels)
    pair = pair_of(
        draw, f"(float[1,3,8] x) => (float[1,6,{channels}] y)",
        "c = Conv(x,w) t = Mul(c,k) u = Transpose<perm=[0,2,1]>(t) n = Add(u,d) y = Relu(n)",
        "c1 = Conv(x,w,b1) t1 = Mul(c1,k) n = Transpose<perm=[0,2,1]>(t1) y = Relu(n)", "n: u t -> c",
        shared={"w": w, "k": k}, old={"d": d}, new={"b1": wide(d) / wide(k)[:, 0]},
    )  # fmt: skip
    holds(pair)
    other = put(copied(pair.after), b1=np.roll((wide(d) / wide(k)[:, 0]).astype("f"), 1))
    assert pair.certificate(other).holds is (channels == 1)


def test_a_value_without_dimensions_passes_a_factor_that_has_no_constant() -> None:
    draw = Draw(1)
    c, k, d = draw.factors(), draw.factors(), draw.terms()
    pair = pair_of(
        draw, "(float[1] x) => (float[1] y)",
        "b = Mul(x,c) t = Add(b,e) i = Neg(t) n = Mul(i,k) o = Add(n,d) y = Relu(o)",
        "b1 = Mul(x,c1) t1 = Add(b1,e1) o = Neg(t1) y = Relu(o)", ["n: i t -> t b", "o: n i -> t"],
        old={"c": c, "k": k, "d": d, "e": d}, new={"c1": wide(c) * wide(k), "e1": wide(d) * wide(k) - wide(d)},
    )  # fmt: skip
    for model in (pair.before, pair.after):
        for entry in (*model.graph.input, *model.graph.output):
            del entry.type.tensor_type.shape.dim[:]
    holds(pair)


def test_a_weight_for_no_channels_is_right() -> None:
    draw = Draw(1)
    w, k = draw.weights(3, 0), draw.factors(0)
    pair = pair_of(
        draw, "(float[2,3] x) => (float[2,0] y)", "c = MatMul(x,w) n = Mul(c,k) y = Relu(n)",
        "n = MatMul(x,w1) y = Relu(n)", "n: -> c", old={"w": w, "k": k}, new={"w1": wide(w)},
    )  # fmt: skip
    holds(pair)


def test_a_factor_that_stays_has_one_constant() -> None:
    draw = Draw(1)
    w, k, q = draw.weights(3, 4), draw.factors(4), draw.factors(4)
    pair = pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", "c = MatMul(x,w) t = Mul(c,q) n = Mul(t,k) y = Relu(n)",
        "c1 = MatMul(x,w1) n = Mul(c1,q) y = Relu(n)", "n: t -> c", shared={"q": q}, old={"w": w, "k": k},
        new={"w1": wide(w) * wide(k)},
    )  # fmt: skip
    holds(pair)
    for model in (pair.before, pair.after):
        model.graph.node[1].input.append("")
    assert pair.certificate().failure == "Mul#1 is no affine"


# Sizes that are not known.


def unknown(pair: Pair) -> Pair:
    """The same pair, the sizes of whose values are not known, but their number is."""
    models = [copied(pair.before), copied(pair.after)]
    for model in models:
        for entry in (*model.graph.input, *model.graph.output):
            for dim in entry.type.tensor_type.shape.dim:
                dim.Clear()
    return replace(pair, before=models[0], after=models[1])


def scalar_before_a_norm(equal: bool) -> Pair:
    """A scalar factor that takes the scale of a normalization without a shift, which is one number or is not."""
    draw = Draw(1)
    c, (parameters, a, _) = draw.factors(1), draw.normalization(4)
    if equal:
        parameters |= {"g": np.full_like(parameters["g"], 2), "v": np.full_like(parameters["v"], 0.25)}
        a = np.full(4, 2 / np.sqrt(0.25 + draw.epsilon))
    parameters |= {"m": 0 * parameters["m"], "e": 0 * parameters["e"]}
    return pair_of(
        draw, "(float[1,4,6] x) => (float[1,4,6] y)", "t = Mul(x,c) n = BN(t,g,e,m,v) y = Relu(n)",
        "n = Mul(x,c1) y = Relu(n)", "n: -> t", old={"c": c, **parameters},
        new={"c1": wide(c) * (a[:1] if equal else a[:, None])},
    )  # fmt: skip


@pytest.mark.parametrize("equal", [True, False])
def test_a_normalization_tells_how_many_channels_there_are(equal: bool) -> None:
    """So a constant may grow to one number for each, though the file does not say how many the value has."""
    holds(scalar_before_a_norm(equal))
    holds(unknown(scalar_before_a_norm(equal)))


def test_a_constant_by_hand_does_not_tell_how_many_there_are() -> None:
    """It would enlarge a value of one: that its numbers are equal shows nothing."""
    draw = Draw(1)
    c, k = draw.factors(1), draw.factors(1)
    pair = pair_of(
        draw, "(float[1,4,6] x) => (float[1,4,6] y)", "t = Mul(x,c) n = Mul(t,k) y = Relu(n)",
        "n = Mul(x,c1) y = Relu(n)", "n: -> t", old={"c": c, "k": np.tile(k, (4, 1))}, new={"c1": wide(c) * wide(k)},
    )  # fmt: skip
    holds(pair)
    assert "the sizes before Mul#1 are not known" in str(unknown(pair).certificate().uncertain)


def test_a_normalization_behind_one_that_goes_tells_it_too() -> None:
    draw = Draw(1)
    c, k, (parameters, a, _) = draw.factors(1), draw.factors(1), draw.normalization(4)
    parameters |= {"m": 0 * parameters["m"], "e": 0 * parameters["e"]}
    pair = pair_of(
        draw, "(float[1,4,6] x) => (float[1,4,6] y)", "t = Mul(x,c) u = Mul(t,k) n = BN(u,g,e,m,v) y = Relu(n)",
        "n = Mul(x,c1) y = Relu(n)", ["u: -> t", "n: u -> t"], old={"c": c, "k": k, **parameters},
        new={"c1": wide(c) * wide(k) * a[:, None]},
    )  # fmt: skip
    holds(pair)
    holds(unknown(pair))


def test_a_normalization_behind_another_node_tells_nothing_of_the_home() -> None:
    draw = Draw(1)
    c, (parameters, a, _) = draw.factors(1), draw.normalization(4)
    parameters |= {"m": 0 * parameters["m"], "e": 0 * parameters["e"]}
    pair = pair_of(
        draw, "(float[1,6,4] x) => (float[1,4,6] y)",
        "t = Mul(x,c) u = Transpose<perm=[0,2,1]>(t) n = BN(u,g,e,m,v) y = Relu(n)",
        "t1 = Mul(x,c1) n = Transpose<perm=[0,2,1]>(t1) y = Relu(n)", "n: u -> t", old={"c": c, **parameters},
        new={"c1": wide(c) * a},
    )  # fmt: skip
    holds(pair)
    assert "fits its value is not known" in str(unknown(pair).certificate().uncertain)


@pytest.mark.parametrize("place", range(3))
def test_what_depends_on_a_size_that_is_not_known_is_not_followed(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """No layout operator that is known gets so far: where sizes decide, the places of one channel disagree before."""
    pair = scalar_before_a_norm(equal=True)
    right = steps.Walk.at_home

    def other(self, grid: tuple[int, ...], size: int) -> tuple[np.ndarray, ...]:
        return tuple(part + size * (i == place) for i, part in enumerate(right(self, grid, size)))

    monkeypatch.setattr(steps.Walk, "at_home", other)
    assert "depends on a size that is not known" in str(pair.certificate().uncertain)


def test_two_sizes_are_tried_which_differ() -> None:
    assert len(set(steps.UNKNOWN_SIZES)) == 2
    assert min(steps.UNKNOWN_SIZES) > 1


@pytest.mark.parametrize("unknown", steps.UNKNOWN_SIZES)
def test_a_gain_is_carried_at_the_sizes_of_the_labels(unknown: int) -> None:
    """Of a value of which nothing but the rank is known, each tells one size, which holds for both."""
    text = "(float[a,b,c] x) => (float[d,e] y) { y = Flatten<axis=1>(x) }"
    constants = Constants(Graph.of(read(parsed(text))))
    link = Link(constants.graph.nodes[0], 0)
    walk = steps.Walk(constants, (), link, frozenset(), frozenset(), {}, takes_shift=True, part="")
    labels, gain = np.arange(4).reshape(1, 4, 1), np.array([2.0, 3.0]).reshape(1, 1, 2)
    ((moved, carried),) = walk.through_layout(link, labels, gain, unknown)
    assert moved.shape == carried.shape
    assert moved[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert carried[0].tolist() == [2.0, 3.0] * 4


# The terms of a bound.


@pytest.mark.parametrize("size", [1e-8, 1e-3])
def test_the_bound_of_a_small_shift_is_as_small(size: float) -> None:
    """In float64 it is the arithmetic that is bounded, by the sizes of the terms and by nothing else."""
    draw = Draw(1, "double")
    w, d = draw.weights(4, 3, 3), size * (1 + draw.terms(4, 1))
    pair = pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)", "c = Conv(x,w) n = Add(c,d) y = Relu(n)",
        "n = Conv(x,w,b1) y = Relu(n)", "n: -> c", shared={"w": w}, old={"d": d}, new={"b1": d[:, 0]},
    )  # fmt: skip
    holds(pair)
    for factor, passes in ((1 + 2.0**-52, True), (1 + 2.0**-40, False)):
        after = put(copied(pair.after), b1=d[:, 0] * factor)
        assert pair.certificate(after).holds is passes


def test_a_shift_that_another_home_took_widens_no_bound() -> None:
    draw = Draw(1, "double")
    w, b, c = draw.weights(4, 3, 3), 1e-8 * (1 + draw.terms(4)), draw.terms(4, 1)
    parameters, a, s = draw.normalization(4)
    right = b * a
    pair = pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)", "h = Conv(x,w,b) t = Add(h,c) n = BN(t,g,e,m,v) y = Relu(n)",
        "h1 = Conv(x,w1,b1) n = Add(h1,c1) y = Relu(n)", "n: t -> t h", old={"w": w, "b": b, "c": c, **parameters},
        new={"w1": w * a[:, None, None], "b1": right, "c1": c * a[:, None] + s[:, None]},
    )  # fmt: skip
    holds(pair)
    assert not pair.certificate(put(copied(pair.after), b1=right * (1 + 2.0**-40))).holds
