"""A fold that is not the same function: nothing is written and the site is named, or that one affine stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import DIGITS, operators, parsed, refused

import bnfold
from bnfold import proving
from bnfold.equality import reference
from bnfold.ops import absorb

TWICE = (
    "(float[2,4,9] x) => (float[2,4,5] y) { c = Conv<kernel_shape = [3]>(x,w) n = BatchNormalization(c,g,e,m,v) "
    "r = Relu(n) d = Conv<kernel_shape = [3], dilations = [1]>(r,w) p = BatchNormalization(d,g,e,m,v) y = Tanh(p) }"
)


@pytest.fixture
def second_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second weight that is folded comes out wrong in one channel, by 1e-4 of itself."""
    right = absorb.absorbed_weight

    def absorbed(*given):
        weight = right(*given).copy()
        if "dilations" in {attribute.name for attribute in given[0].node.proto.attribute}:
            weight[1] *= np.float32(1.0001)
        return [weight]

    monkeypatch.setattr(absorb, "absorbed_parts", absorbed)


@pytest.fixture
def no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate sees nothing, so that the comparison site by site has to."""
    monkeypatch.setattr(proving, "certified", lambda _: bnfold.Same(None, certified=True, executed=False))


@pytest.fixture
def twice(desk: Path) -> None:
    onnx.save(parsed(TWICE), desk / "twice.onnx")


@pytest.mark.usefixtures("twice", "second_is_wrong")
def test_nothing_is_written_and_the_site_is_named(cli: Callable, desk: Path) -> None:
    refused(cli("fold", "twice.onnx", "-o", "out.onnx"), 4, "Conv#3", "[1, ")
    assert not (desk / "out.onnx").exists()


@pytest.mark.usefixtures("twice", "second_is_wrong", "no_certificate")
def test_site_by_site_names_it_too(cli: Callable, desk: Path) -> None:
    refused(cli("fold", "twice.onnx", "-o", "out.onnx"), 4, "the first site that differs is Conv#2", "'p'")
    assert not (desk / "out.onnx").exists()


@pytest.mark.usefixtures("twice", "second_is_wrong")
@pytest.mark.parametrize("blind", [False, True])
def test_that_one_stays_where_asked_and_the_other_goes(
    blind: bool, cli: Callable, desk: Path, request: pytest.FixtureRequest
) -> None:
    if blind:
        request.getfixturevalue("no_certificate")
    answer = cli("fold", "twice.onnx", "-o", "out.onnx", "--drop-mismatched", "--format", "json")
    assert answer.code == 0
    (result,) = (model["result"] for model in answer.json["models"])
    assert [(r["site"]["index"], r["code"]) for r in result["refusals"]] == [(4, "mismatch")]
    assert operators(desk / "out.onnx") == ["Conv", "Relu", "Conv", "BatchNormalization", "Tanh"]
    assert result["verdict"]["verdict"] == "same"


@pytest.mark.usefixtures("twice", "second_is_wrong")
def test_it_is_said_in_words_and_counts_as_left(cli: Callable) -> None:
    answer = cli("fold", "twice.onnx", "-o", "out.onnx", "--drop-mismatched", "--strict")
    assert answer.code == 1
    assert "1 x mismatch" in answer.out
    assert "--drop-mismatched" in cli("explain", "mismatch").out


TURNED = (
    "(float[2,4,9] x) => (float[2,5,4] y) { c = Conv<kernel_shape = [3]>(x,w) n = BatchNormalization(c,g,e,m,v) "
    "r = Relu(n) d = Conv<kernel_shape = [3]>(r,w) t = Transpose<perm = [0,1,2]>(d) "
    "p = BatchNormalization(t,g,e,m,v) y = Transpose<perm = [0,2,1]>(p) }"
)


@pytest.mark.parametrize("level", ["full", "certificate"])
def test_one_that_the_certificate_cannot_follow_stays_where_asked(
    level: str, cli: Callable, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows no Transpose here: without being asked to leave that affine, it loses the whole model."""
    monkeypatch.delitem(reference._LAYOUT, "Transpose")
    onnx.save(parsed(TURNED), desk / "turned.onnx")
    refused(cli("fold", "turned.onnx", "-o", "out.onnx", "--verify", level), 6, "Transpose#4", "--drop-mismatched")
    assert not (desk / "out.onnx").exists()
    options = ["--verify", level, "--drop-mismatched", "--format", "json"]
    answer = cli("fold", "turned.onnx", "-o", "out.onnx", *options)
    assert answer.code == 0
    (result,) = (model["result"] for model in answer.json["models"])
    assert [(r["site"]["index"], r["code"]) for r in result["refusals"]] == [(5, "mismatch")]
    assert operators(desk / "out.onnx") == ["Conv", "Relu", "Conv", "Transpose", "BatchNormalization", "Transpose"]
    assert result["verdict"]["verdict"] == "same"


def test_where_nothing_differs_it_changes_nothing(cli: Callable, desk: Path) -> None:
    for name, options in (("plain.onnx", []), ("dropped.onnx", ["--drop-mismatched"])):
        assert cli("fold", DIGITS, "-o", name, *options).code == 0
    assert (desk / "plain.onnx").read_bytes() == (desk / "dropped.onnx").read_bytes()
