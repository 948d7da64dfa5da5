"""One pair of every kind of fold, as a function of where the numbers come from; shapes differ from kind to kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from certificate_pairs import Draw, Pair, pair_of, wide

KINDS: dict[str, Callable[[Draw], Pair]] = {}


def kind(function: Callable[[Draw], Pair]) -> Callable[[Draw], Pair]:
    KINDS[function.__name__.replace("_", " ")] = function
    return function


def channels(values: np.ndarray, rank: int) -> np.ndarray:
    return values.reshape(-1, *[1] * (rank - 2))


# Homes without a bias: one Add behind them.


@kind
def matmul_of_a_matrix_before_a_normalization(draw: Draw) -> Pair:
    w, (parameters, a, s) = draw.weights(3, 4), draw.normalization(4)
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", "c = MatMul(x,w) n = BN(c,g,e,m,v) y = Relu(n)",
        "r = MatMul(x,w1) n = Add(r,b1) y = Relu(n)", "n: -> c", old={"w": w, **parameters},
        new={"w1": wide(w) * a, "b1": s},
    )  # fmt: skip


@kind
def matmul_of_rank_3_before_hand_written_scale_and_shift(draw: Draw) -> Pair:
    w, k, c = draw.weights(3, 4), draw.factors(4), draw.terms(4)
    return pair_of(
        draw, "(float[2,5,3] x) => (float[2,5,4] y)", "m = MatMul(x,w) t = Mul(k,m) u = Sub(t,c) y = Relu(u)",
        "r = MatMul(x,w1) u = Add(r,b1) y = Relu(u)", ["t: -> m", "u: t -> m"], old={"w": w, "k": k, "c": c},
        new={"w1": wide(w) * wide(k), "b1": -wide(c)},
    )  # fmt: skip


@kind
def matmul_before_a_scale_alone(draw: Draw) -> Pair:
    w, k = draw.weights(3, 4), draw.factors(1)
    return pair_of(
        draw, "(float[2,5,3] x) => (float[2,5,4] y)", "m = MatMul(x,w) t = Div(m,k) y = Add(t,x0)",
        "t = MatMul(x,w1) y = Add(t,x0)", "t: -> m", shared={"x0": draw.terms(5, 4)},
        old={"w": w, "k": k}, new={"w1": wide(w) / wide(k)},
    )  # fmt: skip


@kind
def matmul_through_transpose_and_flatten(draw: Draw) -> Pair:
    w, (parameters, a, s) = draw.weights(3, 4), draw.normalization(4)
    return pair_of(
        draw, "(float[2,5,3] x) => (float[2,4,5] y)",
        "c = MatMul(x,w) t = Transpose<perm=[0,2,1]>(c) n = BN(t,g,e,m,v) y = Relu(n)",
        "r = MatMul(x,w1) c1 = Add(r,b1) n = Transpose<perm=[0,2,1]>(c1) y = Relu(n)", "n: t -> c",
        old={"w": w, **parameters}, new={"w1": wide(w) * a, "b1": s},
    )  # fmt: skip


@kind
def matmul_of_a_batch_of_matrices(draw: Draw) -> Pair:
    w, k, c = draw.weights(2, 3, 4), draw.factors(2, 1, 4), draw.terms(2, 1, 1)
    return pair_of(
        draw, "(float[6,2,5,3] x) => (float[6,2,5,4] y)", "m = MatMul(x,w) t = Mul(m,k) u = Add(c,t) y = Relu(u)",
        "r = MatMul(x,w1) u = Add(r,b1) y = Relu(u)", ["t: -> m", "u: t -> m"], old={"w": w, "k": k, "c": c},
        new={"w1": wide(w) * wide(k), "b1": wide(c)},
    )  # fmt: skip


@kind
def matmul_with_the_constant_on_the_left(draw: Draw) -> Pair:
    w, k, c = draw.weights(4, 3), draw.factors(4, 1), draw.terms(4, 1)
    return pair_of(
        draw, "(float[2,3,5] x) => (float[2,4,5] y)", "m = MatMul(w,x) t = Mul(m,k) u = Add(t,c) y = Relu(u)",
        "r = MatMul(w1,x) u = Add(r,b1) y = Relu(u)", ["t: -> m", "u: t -> m"], old={"w": w, "k": k, "c": c},
        new={"w1": wide(w) * wide(k), "b1": wide(c)},
    )  # fmt: skip


@kind
def matmul_on_the_left_before_a_normalization(draw: Draw) -> Pair:
    w, (parameters, a, s) = draw.weights(4, 3), draw.normalization(4)
    return pair_of(
        draw, "(float[2,3,5] x) => (float[2,4,5] y)", "c = MatMul(w,x) n = BN(c,g,e,m,v) y = Relu(n)",
        "r = MatMul(w1,x) n = Add(r,b1) y = Relu(n)", "n: -> c", old={"w": w, **parameters},
        new={"w1": wide(w) * a[:, None], "b1": s[:, None]},
    )  # fmt: skip


@kind
def matmul_whose_shift_goes_into_the_add_that_follows(draw: Draw) -> Pair:
    w, c, (parameters, a, s) = draw.weights(3, 4), draw.terms(4), draw.normalization(4)
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", "m = MatMul(x,w) t = Add(m,c) n = BN(t,g,e,m0,v) y = Relu(n)",
        "r = MatMul(x,w1) n = Add(r,c1) y = Relu(n)", "n: t -> t m",
        old={"w": w, "c": c} | {k.replace("m", "m0"): v for k, v in parameters.items()},
        new={"w1": wide(w) * a, "c1": wide(c) * a + s},
    )  # fmt: skip


@kind
def matmul_that_gets_an_add_before_the_ones_that_follow(draw: Draw) -> Pair:
    """The first shift goes to the MatMul, the second into the first of two Adds, a third Add is not concerned."""
    w, k, c, d = draw.weights(3, 4), draw.terms(4), draw.terms(4), draw.terms(1)
    parameters, a, s = draw.normalization(4)
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)",
        "h = MatMul(x,w) u = Sub(h,k) t = Add(u,c) n = BN(t,g,e,m,v) z = Add(n,d) y = Relu(z)",
        "r = MatMul(x,w1) q = Add(r,b1) n = Add(q,c1) z = Add(n,d) y = Relu(z)", ["u: -> h", "n: t u -> t h"],
        shared={"d": d}, old={"w": w, "c": c, "k": k, **parameters},
        new={"w1": wide(w) * a, "b1": -wide(k) * a, "c1": wide(c) * a + s},
    )  # fmt: skip


@kind
def einsum_before_a_normalization(draw: Draw) -> Pair:
    w, (parameters, a, s) = draw.weights(3, 4), draw.normalization(4)
    body = 'Einsum<equation="bij, ik -> bkj">'
    return pair_of(
        draw, "(float[2,3,5] x) => (float[2,4,5] y)", f"c = {body}(x,w) n = BN(c,g,e,m,v) y = Relu(n)",
        f"r = {body}(x,w1) n = Add(r,b1) y = Relu(n)", "n: -> c", old={"w": w, **parameters},
        new={"w1": wide(w) * a, "b1": s[:, None]},
    )  # fmt: skip


@kind
def einsum_with_two_labels_and_an_ellipsis(draw: Draw) -> Pair:
    w, k = draw.weights(4, 3, 5), draw.factors(5, 4)
    body = 'Einsum<equation="kil,...i->...lk">'
    return pair_of(
        draw, "(float[2,6,3] x) => (float[2,6,5,4] y)", f"c = {body}(w,x) t = Mul(k,c) y = Relu(t)",
        f"t = {body}(w1,x) y = Relu(t)", "t: -> c", old={"w": w, "k": k},
        new={"w1": wide(w) * wide(k).T[:, None, :]},
    )  # fmt: skip


# Ways through constants.


@kind
def conv_by_way_of_an_add_that_takes_the_shift(draw: Draw) -> Pair:
    w, b, c, (parameters, a, s) = draw.weights(4, 3, 3), draw.terms(4), draw.terms(4, 1), draw.normalization(4)
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)", "h = Conv(x,w,b) t = Add(c,h) n = BN(t,g,e,m,v) y = Relu(n)",
        "h1 = Conv(x,w1,b1) n = Add(c1,h1) y = Relu(n)", "n: t -> t h", old={"w": w, "b": b, "c": c, **parameters},
        new={"w1": wide(w) * channels(a, 4), "b1": wide(b) * a, "c1": wide(c) * a[:, None] + s[:, None]},
    )  # fmt: skip


@kind
def conv_by_way_of_a_difference_either_way(draw: Draw) -> Pair:
    """y = a*(c - (x - d)) + s: what is subtracted from takes the shift, what is subtracted is only scaled."""
    w, b, c, d = draw.weights(4, 3, 3), draw.terms(4), draw.terms(4, 1), draw.terms(1)
    parameters, a, s = draw.normalization(4)
    column = a[:, None]
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)",
        "h = Conv(x,w,b) t = Sub(h,d) u = Sub(c,t) n = BN(u,g,e,m,v) y = Relu(n)",
        "h1 = Conv(x,w1,b1) t1 = Sub(h1,d1) n = Sub(c1,t1) y = Relu(n)", "n: u t -> u t h",
        old={"w": w, "b": b, "c": c, "d": d, **parameters},
        new={
            "w1": wide(w) * channels(a, 4), "b1": wide(b) * a, "d1": wide(d) * column,
            "c1": wide(c) * column + s[:, None],
        },
    )  # fmt: skip


@kind
def conv_by_way_of_factors_that_stay(draw: Draw) -> Pair:
    """The shift is divided on its way: by k, by 1/q and by -1."""
    w, k, q, (parameters, a, s) = draw.weights(4, 3, 3), draw.factors(4, 1), draw.factors(1), draw.normalization(4)
    gain = -wide(k)[:, 0] / wide(q)
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)",
        "h = Conv(x,w) t = Mul(k,h) u = Div(t,q) i = Neg(u) n = BN(i,g,e,m,v) y = Relu(n)",
        "h1 = Conv(x,w1,b1) t1 = Mul(k,h1) u1 = Div(t1,q) n = Neg(u1) y = Relu(n)", "n: i u t -> h",
        shared={"k": k, "q": q}, old={"w": w, **parameters}, new={"w1": wide(w) * channels(a, 4), "b1": s / gain},
    )  # fmt: skip


@kind
def conv_by_way_of_a_factor_and_then_an_add(draw: Draw) -> Pair:
    w, k, c, (parameters, a, s) = draw.weights(4, 3, 3), draw.factors(4, 1), draw.terms(1), draw.normalization(4)
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)",
        "h = Conv(x,w) t = Add(h,c) u = Mul(t,k) n = BN(u,g,e,m,v) y = Relu(n)",
        "h1 = Conv(x,w1) t1 = Add(h1,c1) n = Mul(t1,k) y = Relu(n)", "n: u t -> t h",
        shared={"k": k}, old={"w": w, "c": c, **parameters},
        new={"w1": wide(w) * channels(a, 4), "c1": wide(c) * a[:, None] + s[:, None] / wide(k)},
    )  # fmt: skip


@kind
def conv_by_way_of_a_factor_whose_axis_is_moved(draw: Draw) -> Pair:
    w, k, (parameters, a, s) = draw.weights(4, 3, 3), draw.factors(4), draw.normalization(4)
    way = "Mul({t},k) {v} = Transpose<perm=[0,2,1]>({u})"
    before = f"t = Transpose<perm=[0,2,1]>(h) u = {way.format(t='t', u='u', v='i')}"
    after = f"t1 = Transpose<perm=[0,2,1]>(h1) u1 = {way.format(t='t1', u='u1', v='n')}"
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)", f"h = Conv(x,w) {before} n = BN(i,g,e,m,v) y = Relu(n)",
        f"h1 = Conv(x,w1,b1) {after} y = Relu(n)", "n: i u t -> h", shared={"k": k}, old={"w": w, **parameters},
        new={"w1": wide(w) * channels(a, 4), "b1": s / wide(k)},
    )  # fmt: skip


@kind
def conv_before_every_hand_written_operator(draw: Draw) -> Pair:
    w, b = draw.weights(4, 3, 3), draw.terms(4)
    k, c, d, f, q = draw.factors(4, 1), draw.terms(4, 1), draw.terms(1), draw.terms(1, 4, 1), draw.factors(1, 4, 1)
    # -((f - (k*h + c - d)) / q), where h is what the Conv puts out
    a, shift = (wide(k) / wide(q)[0])[:, 0], (-(wide(f)[0] - wide(c) + wide(d)) / wide(q)[0])[:, 0]
    return pair_of(
        draw, "(float[1,3,8] x) => (float[1,4,6] y)",
        "h = Conv(x,w,b) o = Mul(k,h) p = Add(o,c) r = Sub(p,d) s = Sub(f,r) t = Div(s,q) n = Neg(t) y = Relu(n)",
        "n = Conv(x,w1,b1) y = Relu(n)",
        ["o: -> h", "p: o -> h", "r: p o -> h", "s: r p o -> h", "t: s r p o -> h", "n: t s r p o -> h"],
        old={"w": w, "b": b, "k": k, "c": c, "d": d, "f": f, "q": q},
        new={"w1": wide(w) * channels(a, 4), "b1": wide(b) * a + shift},
    )  # fmt: skip


# Homes that are affines themselves.


@kind
def normalization_that_stays(draw: Draw) -> Pair:
    (first, *_), (second, a, s) = draw.normalization(4, "0"), draw.normalization(4)
    return pair_of(
        draw, "(float[2,4,5] x) => (float[2,4,5] y)", "h = BN(x,g0,e0,m0,v0) n = BN(h,g,e,m,v) y = Relu(n)",
        "n = BN(x,g1,e1,m0,v0) y = Relu(n)", "n: -> h", shared={"m0": first["m0"], "v0": first["v0"]},
        old={"g0": first["g0"], "e0": first["e0"], **second},
        new={"g1": wide(first["g0"]) * a, "e1": wide(first["e0"]) * a + s},
    )  # fmt: skip


@kind
def scalar_factor_that_stays_and_grows(draw: Draw) -> Pair:
    k, q = draw.factors(), draw.factors(3, 1, 1)
    return pair_of(
        draw, "(float[2,3,4,5] x) => (float[2,3,4,5] y)", "h = Mul(x,k) n = Mul(h,q) y = Relu(n)",
        "n = Mul(x,k1) y = Relu(n)", "n: -> h", old={"k": k, "q": q}, new={"k1": wide(k) * wide(q)},
    )  # fmt: skip


@kind
def divisor_that_stays_behind_a_transpose(draw: Draw) -> Pair:
    """What varies along the last axis behind the Transpose varies along axis 1 before it."""
    k, q = draw.factors(1, 3, 1), draw.factors(3)
    return pair_of(
        draw, "(float[2,3,5] x) => (float[2,5,3] y)",
        "h = Div(x,k) t = Transpose<perm=[0,2,1]>(h) n = Mul(t,q) y = Relu(n)",
        "h1 = Div(x,k1) n = Transpose<perm=[0,2,1]>(h1) y = Relu(n)", "n: t -> h", old={"k": k, "q": q},
        new={"k1": wide(k) / wide(q)[:, None]},
    )  # fmt: skip


@kind
def sum_and_difference_that_stay(draw: Draw) -> Pair:
    b, c, d, e = draw.terms(5), draw.terms(), draw.terms(3, 1), draw.terms(1, 5)
    return pair_of(
        draw, "(float[3,5] x, float[3,5] z) => (float[3,5] y, float[3,5] y2)",
        "h = Add(x,b) n = Add(h,d) y = Relu(n) i = Sub(c,z) o = Sub(i,e) y2 = Relu(o)",
        "n = Add(x,b1) y = Relu(n) o = Sub(c1,z) y2 = Relu(o)", ["n: -> h", "o: -> i"],
        old={"b": b, "c": c, "d": d, "e": e}, new={"b1": wide(b) + wide(d), "c1": wide(c) - wide(e)},
    )  # fmt: skip


@kind
def subtrahend_that_stays(draw: Draw) -> Pair:
    c, d = draw.terms(3, 1), draw.terms(5)
    return pair_of(
        draw, "(float[3,5] x) => (float[3,5] y)", "h = Sub(x,c) n = Add(d,h) y = Relu(n)",
        "n = Sub(x,c1) y = Relu(n)", "n: -> h", old={"c": c, "d": d}, new={"c1": wide(c) - wide(d)},
    )  # fmt: skip


@kind
def gemm_that_keeps_the_factor_of_its_bias(draw: Draw) -> Pair:
    w, c, k = draw.weights(3, 4), draw.terms(4), draw.factors(4)
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", "h = Gemm<beta=-4.0>(x,w,c) t = Mul(h,k) y = Relu(t)",
        "t = Gemm<beta=-4.0>(x,w1,c1) y = Relu(t)", "t: -> h", old={"w": w, "c": c, "k": k},
        new={"w1": wide(w) * wide(k), "c1": wide(c) * wide(k)},
    )  # fmt: skip


@kind
def gemm_with_another_factor_of_its_bias(draw: Draw) -> Pair:
    w, c, k = draw.weights(3, 4), draw.terms(4), draw.factors(4)
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", "h = Gemm<beta=0.5>(x,w,c) t = Mul(h,k) y = Relu(t)",
        "t = Gemm<beta=0.25>(x,w1,c1) y = Relu(t)", "t: -> h", old={"w": w, "c": c, "k": k},
        new={"w1": wide(w) * wide(k), "c1": 2 * wide(c) * wide(k)},
    )  # fmt: skip


@kind
def gemm_with_both_factors(draw: Draw) -> Pair:
    w, c, k, d = draw.weights(4, 3), draw.terms(4), draw.factors(4), draw.terms(2, 1)
    gemm = "Gemm<alpha=0.5,beta=2.0,transB=1>"
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", f"h = {gemm}(x,w,c) t = Mul(h,k) n = Add(t,z) y = Relu(n)",
        "n = Gemm<alpha=0.5,transB=1>(x,w1,c1) y = Relu(n)", ["t: -> h", "n: t -> h"],
        old={"w": w, "c": c, "k": k, "z": d[:1]},
        new={"w1": wide(w) * wide(k)[:, None], "c1": 2 * wide(c) * wide(k) + wide(d)[0]},
    )  # fmt: skip
