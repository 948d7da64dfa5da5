"""`bnfold witness`: what it says, in both forms, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Answer

import bnfold

Cli = Callable[..., Answer]


def test_a_witness_in_numbers_names_the_operator_the_input_and_both_values(cli: Cli) -> None:
    answer = cli("witness", "blocked.onnx")
    (found,) = bnfold.witness("blocked.onnx")
    assert found.numbers is not None
    assert (answer.code, answer.err) == (0, "")
    for said in (
        f"{found.refusal.site}: shift-stays",
        f"shown by  {found.refusal.blamed}",
        "drawn with seed 0",
        f"{found.numbers.original:.6g} in the original, {found.numbers.folded:.6g} folded",
        f"{found.numbers.bounds_off:.3g} times the bound",
        "remedy",
    ):
        assert said in answer.out


def test_a_witness_in_json_is_that_of_the_api(cli: Cli) -> None:
    told = cli("witness", "blocked.onnx", "--seed", 3, "--format", "json").json
    assert told["witnesses"] == [one.to_json() for one in bnfold.witness("blocked.onnx", seed=3)]
    assert told["witnesses"] != [one.to_json() for one in bnfold.witness("blocked.onnx")]


def test_a_fact_is_a_sentence(cli: Cli) -> None:
    answer = cli("witness", "training.onnx")
    assert "fact" in answer.out
    assert "training_mode is 1" in answer.out
    assert "bound" not in answer.out.replace("boundary", "")


def test_where_nothing_stays_that_is_said(cli: Cli) -> None:
    assert cli("witness", "m.onnx").out.endswith("nothing stays\n")
    assert cli("witness", "m.onnx", "--format", "json").json["witnesses"] == []


def by_hand() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y)
        <float[3] k = {1.0, 2.0, 3.0}> { r = Sigmoid (x) [one] m = Mul (r, k) [two] y = Add (m, k) }"""
    onnx.save(onnx.parser.parse_model(text), "hand.onnx")


def test_what_is_written_by_hand_is_counted_and_shown_when_asked(cli: Cli, desk: Path) -> None:
    del desk
    by_hand()
    answer = cli("witness", "hand.onnx")
    assert "no BatchNormalization stays\n" in answer.out
    assert "written by hand (Mul, Add, Sub, Div, Neg by a constant) stay: --at '*' shows them too" in answer.out
    left = len(bnfold.plan("hand.onnx").by_hand.refusals)
    assert left
    assert cli("witness", "hand.onnx", "--format", "json").json["by_hand"] == left
    shown = cli("witness", "hand.onnx", "--at", "*", "--format", "json").json
    assert (len(shown["witnesses"]), shown["by_hand"]) == (left, 0)
    assert "--at" not in cli("witness", "blocked.onnx").out


def test_a_plan_says_how_to_see_why_what_is_written_by_hand_stays(cli: Cli, desk: Path) -> None:
    del desk
    by_hand()
    hint = "  left, by hand: -v says why each stays, and bnfold witness MODEL --at NAME what shows it"
    assert hint in cli("plan", "hand.onnx").out.splitlines()
    verbose = cli("plan", "hand.onnx", "-v").out
    assert "  left, by hand\n" in verbose
    assert "-v says" not in verbose + cli("plan", "blocked.onnx").out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["blocked.onnx", "--at", "nobody"], 2, "names nothing that stays"),
        (["nowhere.onnx"], 3, "nowhere.onnx"),
        (["blocked.onnx", "--seed", "-1"], 2, "seed"),
    ],
)
def test_what_cannot_be_asked_is_one_line(cli: Cli, arguments: list[str], code: int, sentence: str) -> None:
    answer = cli("witness", *arguments)
    assert answer.code == code
    assert sentence in answer.err
    assert answer.err.startswith("bnfold: ")
    assert len(answer.err.splitlines()) == 1


def test_nothing_is_written_but_the_report(cli: Cli, desk: Path) -> None:
    before = {path.name: path.read_bytes() for path in desk.iterdir()}
    assert cli("witness", "blocked.onnx", "-q", "--report", "w.json").out == ""
    assert json.loads((desk / "w.json").read_text())["command"] == "witness"
    assert {path.name: path.read_bytes() for path in desk.iterdir() if path.name != "w.json"} == before
