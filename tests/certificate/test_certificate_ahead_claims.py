"""What a claim that leads forward says, and what reads the affine: a fold that only looks right is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from certificate_folds import array, copied, put
from certificate_pairs import Draw, Pair, ahead_pair, claimed, wide

from bnfold.equality.claim import Claim

# What the claim says, and what reads the affine.


def two_readers() -> Pair:
    draw = Draw(6)
    w, b, v, c, (parameters, a, s) = (
        draw.weights(4, 4, 1), draw.terms(4), draw.weights(4, 4, 1), draw.terms(4), draw.normalization(4)
    )  # fmt: skip
    new = {"w1": wide(w) * a[:, None], "b1": wide(b) + wide(w)[..., 0] @ s}
    new |= {"v1": wide(v) * a[:, None], "c1": wide(c) + wide(v)[..., 0] @ s}
    return ahead_pair(
        draw, "(float[1,4,8] x) => (float[1,4,8] y, float[1,4,8] z)",
        "n = BN(x,g,e,m,v_) t = Identity(n) y = Conv(t,w,b) z = Conv(n,v,c)".replace("v_", "v0"),
        "t1 = Identity(x) y = Conv(t1,w1,b1) z = Conv(x,v1,c1)", "n: t -> y z",
        old={"w": w, "b": b, "v": v, "c": c, **{k if k != "v" else "v0": p for k, p in parameters.items()}}, new=new,
        shared={},
    )  # fmt: skip


def sites(found: Pair) -> dict[str, Claim]:
    return {name: claimed(found.before, f"{name}: ->") for name in ("n", "t", "y", "z")}


def without_a_home(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, homes=claim.homes[:1])


def without_homes(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, homes=())


def without_its_path(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, path=())


def a_home_as_path(claim: Claim, of: dict[str, Claim]) -> Claim:
    return replace(claim, path=(*claim.path, of["z"].site), homes=(of["y"].site,))


def the_path_as_home(claim: Claim, of: dict[str, Claim]) -> Claim:
    return replace(claim, path=(), homes=(*claim.homes, of["t"].site))


def a_home_twice(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, homes=(*claim.homes, claim.homes[0]))


def itself_as_path(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, path=(*claim.path, claim.site))


def other_data(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, data=1)


def data_that_there_are_not(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, data=9)


def not_ahead(claim: Claim, _: dict[str, Claim]) -> Claim:
    return replace(claim, ahead=False)


FALSE_CLAIMS = [
    without_a_home, without_homes, without_its_path, a_home_as_path, the_path_as_home, a_home_twice, itself_as_path,
    other_data, data_that_there_are_not, not_ahead,
]  # fmt: skip


def test_a_fold_into_two_readers_holds() -> None:
    checked = two_readers().certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize("change", FALSE_CLAIMS, ids=lambda change: change.__name__)
def test_a_claim_that_is_not_what_happened_does_not_hold(change: Callable[[Claim, dict[str, Claim]], Claim]) -> None:
    found = two_readers()
    checked = found.certificate(claimed=(change(found.claims[0], sites(found)),))
    assert not checked.holds
    assert checked.failure or checked.uncertain


def test_no_claim_at_all_and_one_claim_twice_do_not_hold() -> None:
    found = two_readers()
    assert not found.certificate(claimed=()).holds
    assert "claimed twice" in str(found.certificate(claimed=found.claims * 2).failure)


def test_a_reader_that_was_left_out_is_seen() -> None:
    """One layer keeps its weights and reads what the affine was fed: with a claim that names it, and without."""
    found = two_readers()
    after = copied(found.after)
    put(after, v=array(found.before, "v"), c=array(found.before, "c"))
    node = next(node for node in after.graph.node if node.output[0] == "z")
    node.input[1:] = ["v", "c"]
    for name in ("v1", "c1"):
        after.graph.initializer.remove(next(t for t in after.graph.initializer if t.name == name))
    assert "the weight of Conv#3" in str(found.certificate(after).failure)
    alone = replace(found.claims[0], homes=found.claims[0].homes[:1])
    assert "'n' changes, and Conv#3 reads it" in str(found.certificate(after, claimed=(alone,)).failure)


def test_a_reader_that_keeps_the_affine_is_seen() -> None:
    """The node stays for one reader alone, and is claimed to have gone."""
    found = two_readers()
    after = copied(found.after)
    put(after, **{name: array(found.before, name) for name in ("g", "e", "m", "v0", "v", "c")})
    norm = onnx.NodeProto.FromString(found.before.graph.node[0].SerializeToString())
    after.graph.node.insert(0, norm)
    next(node for node in after.graph.node if node.output[0] == "z").input[:] = ["n", "v", "c"]
    assert not found.certificate(after).holds


def test_an_output_of_the_graph_is_promised() -> None:
    found = two_readers()
    models = [copied(model) for model in (found.before, found.after)]
    for model, name in zip(models, ("n", "x"), strict=True):
        model.graph.node.add(op_type="Identity", input=[name], output=["k"])
        model.graph.output.append(onnx.helper.make_tensor_value_info("k", 1, [1, 4, 8]))
    checked = replace(found, before=models[0], after=models[1]).certificate()
    assert "'n' changes, and Identity#4 reads it" in str(checked.failure)
    models[0].graph.node.pop()
    models[0].graph.output[-1].name = "n"
    assert not replace(found, before=models[0], after=models[1]).certificate().holds


def test_what_looks_at_the_shape_alone_may_go_on_doing_so() -> None:
    found = two_readers()
    models = [copied(model) for model in (found.before, found.after)]
    for model, name in zip(models, ("n", "x"), strict=True):
        model.graph.node.add(op_type="Shape", input=[name], output=["k"])
        model.graph.output.append(onnx.helper.make_tensor_value_info("k", 7, [3]))
    checked = replace(found, before=models[0], after=models[1]).certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


# Several affines.


def in_a_row(*, exchanged: bool = False, conjugated: bool = True) -> Pair:
    """A factor, then a normalization that stays the function's second: both go to the Conv behind them."""
    draw = Draw(8)
    w, b, k, (parameters, a, s) = draw.weights(3, 4, 1), draw.terms(3), draw.factors(4, 1), draw.normalization(4)
    f = wide(k)[:, 0]
    shift = f * s if exchanged else s
    if not conjugated:
        shift = s + (1 - f) * s
    weight = wide(w) * (a * f)[:, None]
    return ahead_pair(
        draw, "(float[1,4,8] x) => (float[1,3,8] y)", "n = Mul(x,k) o = BN(n,g,e,m,v) y = Conv(o,w,b)",
        "y = Conv(x,w1,b1)", ["n: o -> y", "o: -> y"], old={"w": w, "b": b, "k": k, **parameters},
        new={"w1": weight, "b1": wide(b) + wide(w)[..., 0] @ shift}, shared={},
    )  # fmt: skip


def test_two_affines_in_a_row_hold_in_their_order_alone() -> None:
    right = in_a_row()
    assert right.certificate().holds
    assert right.certificate(claimed=right.claims[::-1]).holds  # their order is that of the values
    assert "the bias of Conv#2" in str(in_a_row(exchanged=True).certificate().failure)
    assert "the bias of Conv#2" in str(in_a_row(conjugated=False).certificate().failure)


def test_one_that_stays_is_passed_by_what_it_makes_of_a_shift() -> None:
    """x*f, then a*x + s that stays: behind it the factor is f, and the shift (1 - f)*s."""
    draw = Draw(9)
    w, b, k, (parameters, _, s) = draw.weights(3, 4, 1), draw.terms(3), draw.factors(4, 1), draw.normalization(4)
    f = wide(k)[:, 0]

    def stays(shift: np.ndarray) -> Pair:
        return ahead_pair(
            draw, "(float[1,4,8] x) => (float[1,3,8] y)", "n = Mul(x,k) o = BN(n,g,e,m,v) y = Conv(o,w,b)",
            "o1 = BN(x,g,e,m,v) y = Conv(o1,w1,b1)", ["n: o -> y"], old={"w": w, "b": b, "k": k},
            new={"w1": wide(w) * f[:, None], "b1": wide(b) + wide(w)[..., 0] @ shift}, shared=parameters,
        )  # fmt: skip

    assert stays((1 - f) * s).certificate().holds
    for wrong in (0 * s, s, f * s, (f - 1) * s):
        assert "the bias of Conv#2" in str(stays(wrong).certificate().failure)
