"""Affines that went forward, and one behind them that went back through their places: what they are read by counts."""

from __future__ import annotations

import numpy as np
import pytest
from certificate_pairs import Draw, Pair, claimed, pair_of, wide

from bnfold.equality.claim import Claim

INTERFACE = "(float[2,3,6] x) => (float[2,5,6] y, float[2,5,6] z)"
"""Two layers: the first takes a scale alone on, from `e`; the shifts of `n` and `o` have gone forward to the last."""


def ahead(pair: Pair, *lines: str) -> tuple[Claim, ...]:
    """The claims of a pair, the first of which lead forward: `n: o e -> y` goes by way of o and e to the home y."""
    found = []
    for line in lines:
        claim = claimed(pair.before, line)
        found.append(Claim(claim.site, claim.path, claim.homes, ahead=True, data=claim.data))
    return (*found, *pair.claims)


def crossing(reads: str, *, rows: int) -> tuple[Pair, tuple[Claim, ...]]:
    """Conv, `rows` Adds that go forward, a Mul that goes back through them, Conv; and another Conv of `reads`."""
    draw = Draw(7)
    w, b, v, c = draw.weights(4, 3, 1), draw.terms(4), draw.weights(5, 4, 1), draw.terms(5)
    adds, scale = [draw.terms(4, 1) for _ in range(rows)], draw.factors(4, 1)
    names = [f"t{i}" for i in range(rows)]
    lines = [f"{new} = Add({old},d{i})" for i, (old, new) in enumerate(zip(["h", *names], names, strict=False))]
    before_z = {"h": 0, "e": rows} | {name: i + 1 for i, name in enumerate(names)}
    shifts = [wide(part) * (wide(scale) if reads == "e" or not at_z else 1) for at_z in (0, 1) for part in adds]
    to_y, to_z = (
        np.sum(part, axis=0)[:, 0] for part in (shifts[:rows], shifts[rows:][: before_z[reads]] or [0 * scale])
    )
    new = {"c1": c + np.einsum("oik,i->o", wide(v), to_y), "c2": c + np.einsum("oik,i->o", wide(v), to_z)}
    layers = f"y = Conv(e,v,c) z = Conv({reads},v,c)"
    pair = pair_of(
        draw, INTERFACE, f"h = Conv(x,w,b) {' '.join(lines)} e = Mul({names[-1]},s) {layers}",
        f"r = Conv(x,w1,b1) y = Conv(r,v1,c1) z = Conv(r,{'v,c' if reads == 'h' else 'v1,c2'})", f"e: {names[-1]} -> h",
        shared={"v": v, "c": c} if reads == "h" else {},
        old={"w": w, "b": b, "s": scale, **{f"d{i}": part for i, part in enumerate(adds)}}
        | ({} if reads == "h" else {"v": v, "c": c}),
        new={"w1": wide(w) * wide(scale)[:, :, None], "b1": wide(b) * wide(scale)[:, 0], "v1": wide(v), **new},
    )  # fmt: skip
    homes = ["y z" if i < before_z[reads] else "y" for i in range(rows)]
    ways = [" ".join([*names[i + 1 :], "e"]) for i in range(rows)]
    return pair, ahead(pair, *(f"{name}: {ways[i]} -> {homes[i]}" for i, name in enumerate(names)))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_an_affine_goes_back_through_those_that_went_forward(rows: int) -> None:
    pair, claims = crossing("e", rows=rows)
    checked = pair.certificate(claimed=claims)
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_what_is_read_before_the_first_of_them_must_not_change(rows: int) -> None:
    """`z` reads what the first layer puts out, which bears the scale then."""
    pair, claims = crossing("h", rows=rows)
    checked = pair.certificate(claimed=claims)
    assert "'h' changes, and something else reads it" in str(checked.failure)


@pytest.mark.parametrize(("reads", "rows"), [("t0", 1), ("t0", 2), ("t1", 2), ("t0", 3), ("t1", 3), ("t2", 3)])
def test_what_is_read_between_them_must_not_change(reads: str, rows: int) -> None:
    pair, claims = crossing(reads, rows=rows)
    checked = pair.certificate(claimed=claims)
    assert f"{reads!r} changes, and something else reads it" in str(checked.failure)
