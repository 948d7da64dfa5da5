"""Keep this layer, fold that one: --only and --skip by node, tensor and scope, and a typo that is an error."""

from __future__ import annotations

import onnx
import pytest
from folding_support import model, norm, weights

import bnfold

TEXT = """(float[2,3] x, bool when) => (float[] y) {
    [first] a = Gemm (x, W)  [bn_first] b = BatchNormalization (a, g, be, m, v)
    [last] c = Gemm (b, V)  [bn_last] d = BatchNormalization (c, g, be, m, v)
    [either] y = If (when) <
        then_branch = t () => (float[] p) {
            [inner] i = Gemm (d, V)  [bn_then] p = BatchNormalization (i, g, be, m, v)
        },
        else_branch = e () => (float[] q) { q = Identity (d) }
    >
}"""


def network() -> onnx.ModelProto:
    return model(TEXT, W=weights(3, 4), V=weights(4, 4), **norm(4))


def folded(**globs: list[str]) -> set[str]:
    plan = bnfold.plan(network(), **globs)
    assert len(plan.moves) + len(plan.refusals) == 3
    return {move.site.name for move in plan.moves}


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ({}, {"bn_first", "bn_last", "bn_then"}),
        ({"only": ["bn_first"]}, {"bn_first"}),
        ({"only": ["bn_?ast"]}, {"bn_last"}),
        ({"skip": ["bn_last"]}, {"bn_first", "bn_then"}),
        ({"only": ["bn_*"], "skip": ["bn_l*", "bn_t*"]}, {"bn_first"}),
        ({"only": ["a"]}, {"bn_first"}),  # the tensor it reads
        ({"only": ["d"]}, {"bn_last"}),  # the tensor it writes
        ({"skip": ["*then_branch"]}, {"bn_first", "bn_last"}),  # the scope that holds it
        ({"only": ["g"]}, {"bn_first", "bn_last", "bn_then"}),  # a parameter that all share
    ],
)
def test_a_glob_names_a_node_a_tensor_or_a_scope(globs: dict[str, list[str]], expected: set[str]) -> None:
    assert folded(**globs) == expected


def test_what_is_left_out_is_a_refusal_that_says_by_which_option() -> None:
    found = refusal_of(bnfold.plan(network(), skip=["bn_last"]), "bn_last")
    assert (found.reason.code, found.detail) == ("skipped", "a --skip glob names it")
    found = refusal_of(bnfold.plan(network(), only=["bn_last"]), "bn_first")
    assert (found.reason.code, found.detail) == ("skipped", "no --only glob names it")


def refusal_of(plan: bnfold.Plan, name: str) -> bnfold.Refusal:
    return next(entry for entry in plan.refusals if entry.site.name == name)


@pytest.mark.parametrize("option", ["only", "skip"])
@pytest.mark.parametrize("glob", ["bn_frist", "BN_FIRST", "", "first"])
def test_a_glob_that_names_nothing_is_an_error_that_tells_near_names(option: str, glob: str) -> None:
    with pytest.raises(bnfold.UsageError, match=f"--{option} {glob!r} names nothing that could fold") as caught:
        bnfold.plan(network(), **{option: [glob]})
    assert ("'bn_first'" in str(caught.value)) == (glob in {"bn_frist", "first"})


def test_a_folded_model_without_the_skipped_layer_is_verified_and_keeps_its_bytes() -> None:
    before = network()
    result = bnfold.fold(before, skip=["bn_last"])
    assert result.verdict is not None
    assert result.verdict.certified
    kept = [node for node in result.to_proto().graph.node if node.name == "bn_last"]
    assert [node.op_type for node in kept] == ["BatchNormalization"]
    parameters = {t.name: t.raw_data for t in result.to_proto().graph.initializer if t.name in {"g", "be", "m", "v"}}
    assert parameters == {t.name: t.raw_data for t in before.graph.initializer if t.name in {"g", "be", "m", "v"}}


def test_strict_counts_what_stays_against_the_wish_alone() -> None:
    bnfold.fold(network(), skip=["bn_last"], strict=True, verify="off")
    text = "(float[2,3] x) => (float[] y) { r = Relu (x)  y = BatchNormalization (r, g, be, m, v) }"
    with pytest.raises(bnfold.BatchNormsLeft):
        bnfold.fold(model(text, **norm(3)), strict=True, verify="off")


def test_an_order_of_layers_does_not_make_a_skipped_one_transparent() -> None:
    text = """(float[2,3] x) => (float[] y) {
        a = Gemm (x, W)  [one] b = BatchNormalization (a, g, be, m, v)
        [two] y = BatchNormalization (b, g, be, m, v) }"""
    before = model(text, W=weights(3, 4), **norm(4))
    assert len(bnfold.plan(before).moves) == 2
    left = bnfold.plan(before, skip=["one"])
    assert not left.moves
    assert {entry.site.name: entry.reason.code for entry in left.refusals} == {"one": "skipped", "two": "kept"}
