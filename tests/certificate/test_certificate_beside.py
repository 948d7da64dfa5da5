"""Folds of an affine into a convolution beside it, written by hand: the right ones hold, those that look right do not.

conv(x) + (a*x + s)        W[c, c, center] += a[c]        b[c] += s[c]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from certificate_folds import copied, parsed, put
from certificate_pairs import Arrays, Draw, Pair, claimed, fed_otherwise, pair_of, read_besides, wide

from bnfold.equality.claim import Claim, Skip

INTERFACE = "(float[1,4,7] x) => (float[1,4,z] y)"
CONV = "Conv<group=2,pads=[1,1]>"


def beside(pair: Pair, joint: str) -> Pair:
    """The same with claims that name the sum that went too."""
    site = claimed(pair.before, f"{joint}: ->").site
    return replace(pair, claims=(replace(pair.claims[0], joint=(site,)), *pair.claims[1:]))


def tapped(weight: np.ndarray, scale: np.ndarray, place: int = 1) -> np.ndarray:
    """A weight of two groups of two channels with one more tap at a place of its kernel, in float64."""
    found = wide(weight).copy()
    channels = np.arange(4)
    found[channels, channels % 2, place] += scale
    return found


def layer(
    conv: str = CONV, *, total: str = "y = Add(c,n)", kernel: int = 3, place: int = 1, sign: float = 1.0
) -> tuple[Pair, dict[str, Arrays]]:
    """A convolution beside a normalization, and wrong numbers by name."""
    draw = Draw(1)
    w, b, (parameters, a, s) = draw.weights(4, 2, kernel), draw.terms(4), draw.normalization(4)
    right = pair_of(
        draw, INTERFACE, f"n = BN(x,g,e,m,v) c = {conv}(x,w,b) {total}", f"y = {conv}(x,w1,b1)", "n: -> c",
        old={"w": w, "b": b, **parameters},
        new={"w1": tapped(w, sign * a, place), "b1": wide(b) + sign * s},
    )  # fmt: skip
    return beside(right, "y"), {
        "no tap": {"w1": wide(w)},
        "no shift": {"b1": wide(b)},
        "the tap with the other sign": {"w1": tapped(w, -sign * a, place)},
        "the shift with the other sign": {"b1": wide(b) - sign * s},
        "the tap at another place": {"w1": tapped(w, sign * a, (place + 1) % kernel)},
        "the taps of another group": {"w1": tapped(w, sign * a[[2, 3, 0, 1]], place)},
        "the tap instead of the weight": {"w1": tapped(w * (np.arange(kernel) != place), sign * a, place)},
        "a tap for all inputs": {"w1": wide(w) + sign * a[:, None, None] * (np.arange(kernel) == place)},
        "the scale on the outputs too": {"w1": tapped(w, sign * a, place) * a[:, None, None]},
        "one of the scales": {"w1": tapped(w, sign * a * [1, 1, 1, 0], place)},
        "a tap of one": {"w1": tapped(w, sign * np.ones(4), place)},
        "the shift of the tap": {"b1": wide(b) + sign * s * a},
    }


KINDS = {
    "padded": layer(),
    "a kernel of one": layer("Conv<group=2>", kernel=1, place=0),
    "spread": layer("Conv<group=2,pads=[2,2],dilations=[2]>"),
    "padded at one end": layer("Conv<group=2,pads=[2,0]>", place=2),
    "the other operand": layer(total="y = Add(n,c)"),
    "a difference": layer(total="y = Sub(c,n)", sign=-1.0),
    "Sum": layer(total="y = Sum(n,c)"),
    **{
        f"SAME_{end}, a kernel of {kernel}": layer(f'Conv<group=2,auto_pad="SAME_{end}">', kernel=kernel, place=place)
        for end, kernel, place in (("UPPER", 2, 0), ("LOWER", 2, 1), ("UPPER", 3, 1), ("UPPER", 4, 1), ("LOWER", 4, 2))
    },
}


@pytest.mark.parametrize("name", KINDS)
def test_a_tap_beside_holds(name: str) -> None:
    checked = KINDS[name][0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    assert checked.holds


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, (_, each) in KINDS.items() for wrong in each])
def test_other_numbers_do_not_hold(name: str, wrong: str) -> None:
    pair, numbers = KINDS[name][0], KINDS[name][1][wrong]
    after = put(copied(pair.after), **{n: v.astype(np.float32) for n, v in numbers.items()})
    checked = pair.certificate(after)
    if (name, wrong) == ("a kernel of one", "the tap at another place"):
        assert checked.holds, "there is one place"
    else:
        assert checked.failure is not None, checked.uncertain


@pytest.mark.parametrize(
    ("conv", "why"),
    [
        ("Conv<group=2,pads=[1,1],strides=[1]>", None),
        ("Conv<group=2,auto_pad=\"SAME_UPPER\">", None),
        ("Conv<group=2,auto_pad=\"SAME_UPPER\",dilations=[2]>", "SAME and a dilation, of which runtimes disagree"),
        ("Conv<group=2,auto_pad=\"SAME_UPPER\",strides=[2]>", "the places are others"),
        ("Conv<group=2,auto_pad=\"VALID\">", "the size changes"),
        ("Conv<group=2,pads=[1,1],dilations=[2]>", "the size changes"),
        ("Conv<group=2,pads=[1,1],strides=[2]>", "the places are others"),
        ("Conv<group=2>", "the size changes"),
        ("Conv<group=2,pads=[3,-1]>", "the place is none of the kernel's"),
    ],
)  # fmt: skip
def test_only_a_convolution_whose_outputs_lie_as_its_data_has_such_a_tap(conv: str, why: str | None) -> None:
    checked = layer(conv)[0].certificate()
    assert checked.holds is (why is None), (checked.failure, checked.uncertain)


def test_the_convolution_taken_away_is_no_sum_with_it() -> None:
    for sign in (1.0, -1.0):
        assert not layer(total="y = Sub(n,c)", sign=sign)[0].certificate().holds


def test_another_input_of_the_same_shape_is_other_data() -> None:
    checked = fed_otherwise(layer()[0], (0, 0, 0)).certificate()
    assert "do not read the same data" in str(checked.failure)


@pytest.mark.parametrize("name", ["n", "c"])
def test_whatever_else_reads_it_is_seen(name: str) -> None:
    assert f"'{name}' changes, and something else reads it" in str(
        read_besides(KINDS["padded"][0], name).certificate().failure
    )


# By way of sums, and of a normalization that has gone backward into the same convolution.


def block() -> Pair:
    """Two convolutions and their normalizations beside one: `y = n1(c(x)) + n2(d(x)) + n(x)`, as training has it."""
    draw = Draw(3)
    w, u = draw.weights(4, 2, 3), draw.weights(4, 2, 1)
    one, two, own = (draw.normalization(4, suffix) for suffix in ("1", "2", "0"))
    found = pair_of(
        draw, INTERFACE,
        f"c = {CONV}(x,w) nc = BN(c,g1,e1,m1,v1) d = Conv<group=2>(x,u) nd = BN(d,g2,e2,m2,v2) "
        "n = BN(x,g0,e0,m0,v0) t = Add(nc,nd) y = Add(t,n)",
        f"c1 = {CONV}(x,w1,b1) nd = Conv<group=2>(x,u1,b2) y = Add(c1,nd)",
        ["nc: -> c", "nd: -> d", "n: nc t -> c"],
        old={"w": w, "u": u, **one[0], **two[0], **own[0]},
        new={"w1": tapped(wide(w) * one[1][:, None, None], own[1]), "b1": one[2] + own[2],
             "u1": wide(u) * two[1][:, None, None], "b2": two[2]},
    )  # fmt: skip
    claims = list(found.claims)
    claims[2] = replace(claims[2], joint=(claimed(found.before, "y: ->").site,), unshifted=())
    return replace(found, claims=tuple(claims))


def test_a_tap_by_way_of_a_sum_and_a_normalization_that_went_holds() -> None:
    checked = block().certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


# A row of affines: what settled in the one that goes goes with it.


def row() -> tuple[Pair, dict[str, Arrays]]:
    """`y = c(x) + ((n(x) + k) * q)`, and wrong numbers by name."""
    draw = Draw(5)
    w, b, (parameters, a, s) = draw.weights(4, 2, 3), draw.terms(4), draw.normalization(4)
    k, q = draw.weights(1, 4, 1), draw.weights(1, 4, 1)
    added, factor = wide(k).ravel(), wide(q).ravel()
    found = pair_of(
        draw, INTERFACE, f"n = BN(x,g,e,m,v) i = Add(n,k) j = Mul(i,q) c = {CONV}(x,w,b) y = Add(c,j)",
        f"y = {CONV}(x,w1,b1)", ["i: -> n", "j: -> n", "n: -> c"],
        old={"w": w, "b": b, "k": k, "q": q, **parameters},
        new={"w1": tapped(w, a * factor), "b1": wide(b) + (s + added) * factor},
    )  # fmt: skip
    claims = (*found.claims[:2], replace(found.claims[2], joint=(claimed(found.before, "y: ->").site,)))
    return replace(found, claims=claims), {
        "the normalization alone": {"w1": tapped(w, a), "b1": wide(b) + s},
        "the tap without the factor": {"w1": tapped(w, a)},
        "the shift without the term": {"b1": wide(b) + s * factor},
        "the term without the factor": {"b1": wide(b) + s * factor + added},
        "the shift without the factor": {"b1": wide(b) + s + added * factor},
        "the bias times the factor": {"b1": (wide(b) + s + added) * factor},
    }


def test_a_row_of_affines_beside_a_convolution_holds() -> None:
    checked = row()[0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("wrong", row()[1])
def test_what_settled_in_an_affine_that_goes_is_not_lost(wrong: str) -> None:
    pair, numbers = row()
    after = put(copied(pair.after), **{n: v.astype(np.float32) for n, v in numbers[wrong].items()})
    assert pair.certificate(after).failure is not None


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_row_of_which_one_is_not_claimed_does_not_hold(left_out: int) -> None:
    pair = row()[0]
    claims = tuple(claim for place, claim in enumerate(pair.claims) if place != left_out)
    assert not replace(pair, claims=claims).certificate().holds


def test_a_home_that_goes_and_takes_nothing_with_it_does_not_hold() -> None:
    pair = row()[0]
    claims = (*pair.claims[:2], replace(pair.claims[2], joint=()))
    assert not replace(pair, claims=claims).certificate().holds


@pytest.mark.parametrize("name", ["i", "j"])
def test_whatever_else_reads_the_row_is_seen(name: str) -> None:
    checked = read_besides(row()[0], name).certificate()
    assert f"'{name}' changes, and something else reads it" in str(checked.failure)


def no_joint(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, joint=())


def two_joints(claim: Claim, of: Callable[[str], Claim]) -> Claim:
    return replace(claim, joint=(*claim.joint, of("t").site))


def the_inner_sum(claim: Claim, of: Callable[[str], Claim]) -> Claim:
    return replace(claim, joint=(of("t").site,))


def the_home_as_joint(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, joint=claim.homes)


def the_other_convolution(claim: Claim, of: Callable[[str], Claim]) -> Claim:
    return replace(claim, homes=(of("d").site,), path=(of("nd").site, of("t").site))


def both_convolutions(claim: Claim, of: Callable[[str], Claim]) -> Claim:
    return replace(claim, homes=(*claim.homes, of("d").site))


def no_path(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, path=())


def ahead(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, ahead=True)


def unshifted(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, unshifted=claim.homes)


def other_data(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, data=1)


def data_that_there_are_not(claim: Claim, _: Callable[[str], Claim]) -> Claim:
    return replace(claim, data=7)


FALSE_CLAIMS = [
    no_joint, two_joints, the_inner_sum, the_home_as_joint, the_other_convolution, both_convolutions, no_path, ahead,
    unshifted, other_data, data_that_there_are_not,
]  # fmt: skip


@pytest.mark.parametrize("change", FALSE_CLAIMS, ids=lambda change: change.__name__)
def test_a_claim_that_is_not_what_happened_does_not_hold(change: Callable[..., Claim]) -> None:
    pair = block()
    wrong = change(pair.claims[2], lambda name: claimed(pair.before, f"{name}: ->"))
    checked = pair.certificate(claimed=(*pair.claims[:2], wrong))
    assert not checked.holds
    assert checked.failure or checked.uncertain


@pytest.mark.parametrize("place", range(3))
def test_a_claim_left_out_does_not_hold(place: int) -> None:
    pair = block()
    claims = pair.claims[:place] + pair.claims[place + 1 :]
    assert not pair.certificate(claimed=claims).holds


def test_the_tap_before_the_scale_of_the_normalization_behind_does_not_hold() -> None:
    """The normalization of the convolution does not act on what is added behind it."""
    pair = block()
    draw = Draw(3)
    w = draw.weights(4, 2, 3)
    draw.weights(4, 2, 1)
    one, _, own = (draw.normalization(4, suffix) for suffix in ("1", "2", "0"))
    weight = tapped(w, own[1]) * one[1][:, None, None]
    checked = pair.certificate(put(copied(pair.after), w1=weight.astype(np.float32)))
    assert "the weight of Conv#0" in str(checked.failure)


# A skip connection: the convolution's tap makes up for data that are added unscaled.


def skipping(total: str = "t = Add(c,x)", sign: float = 1.0) -> tuple[Pair, dict[str, Arrays]]:
    """`y = n(c(x) + x)`, and wrong numbers by name."""
    draw = Draw(9)
    w, b, (parameters, a, s) = draw.weights(4, 2, 3), draw.terms(4), draw.normalization(4)
    scaled = wide(w) * a[:, None, None]
    op, operands = total.removeprefix("t = ").split("(")
    found = pair_of(
        draw, INTERFACE, f"c = {CONV}(x,w,b) {total} y = BN(t,g,e,m,v)",
        f"d = {CONV}(x,w1,b1) y = {op}({operands.replace('c', 'd')}", "y: t -> c",
        old={"w": w, "b": b, **parameters},
        new={"w1": tapped(scaled, sign * (a - 1)), "b1": wide(b) * a + s},
    )  # fmt: skip
    claim = found.claims[0]
    claims = (replace(claim, skips=(Skip(claim.path[0], claim.homes[0]),)),)
    return replace(found, claims=claims), {
        "no tap": {"w1": scaled},
        "a tap of the scale": {"w1": tapped(scaled, sign * a)},
        "the tap with the other sign": {"w1": tapped(scaled, -sign * (a - 1))},
        "the tap elsewhere": {"w1": tapped(scaled, sign * (a - 1), 0)},
        "the weight as it was": {"w1": tapped(wide(w), sign * (a - 1))},
        "the tap on all inputs": {"w1": scaled + sign * (a - 1)[:, None, None] * (np.arange(3) == 1)},
        "no shift": {"b1": wide(b) * a},
        "the bias as it was": {"b1": wide(b) + s},
    }


SKIPPING = {
    "conv + x": skipping(),
    "x + conv": skipping("t = Add(x,c)"),
    "conv - x": skipping("t = Sub(c,x)", -1.0),
    "Sum": skipping("t = Sum(x,c)"),
}


@pytest.mark.parametrize("name", SKIPPING)
def test_a_tap_that_makes_up_for_a_skip_connection_holds(name: str) -> None:
    checked = SKIPPING[name][0].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, (_, each) in SKIPPING.items() for wrong in each])
def test_another_tap_does_not_hold(name: str, wrong: str) -> None:
    pair, numbers = SKIPPING[name][0], SKIPPING[name][1][wrong]
    after = put(copied(pair.after), **{n: v.astype(np.float32) for n, v in numbers.items()})
    assert pair.certificate(after).failure is not None


def test_a_skip_connection_that_is_not_told_of_does_not_hold() -> None:
    pair = skipping()[0]
    claim = pair.claims[0]
    joint, home = claim.path[0], claim.homes[0]
    for skips in ((), (Skip(home, home),), (Skip(joint, joint),), (Skip(joint, home), Skip(joint, home))):
        said = replace(pair, claims=(replace(claim, skips=skips),)).certificate()
        assert not said.holds or len(skips) == 2


def test_a_skip_connection_of_other_data_does_not_hold() -> None:
    checked = fed_otherwise(skipping()[0], (0, 1, 1), (1, 1, 1)).certificate()
    assert "do not read the same data" in str(checked.failure)


@pytest.mark.parametrize("conv", ["Conv<group=2,pads=[2,0]>", "Conv<group=2,pads=[2,2],dilations=[2]>"])
def test_a_tap_lies_where_the_padding_says(conv: str) -> None:
    pair = skipping()[0]
    models = [copied(model) for model in (pair.before, pair.after)]
    for model in models:
        text = parsed(f"{INTERFACE} {{ y = {conv}(x,w) }}", opset=17, ir=10)
        del model.graph.node[0].attribute[:]
        model.graph.node[0].attribute.extend(text.graph.node[0].attribute)
    checked = replace(pair, before=models[0], after=models[1]).certificate()
    assert checked.holds is ("dilations" in conv), "the own place is the last tap's where all padding is before"
