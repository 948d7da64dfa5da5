"""`bnfold plan`, `verify`, `ops`, `explain`, `--help` and `--version`: what they say, with which code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import DIGITS, Answer, foldable, parsed, refused, run
from onnx import numpy_helper

import bnfold
from bnfold.ops import TABLE
from bnfold.ops.reasons import REASONS
from bnfold.rules.rule import every_rule

Cli = Callable[..., Answer]


@pytest.fixture
def folded(cli: Cli, desk: Path) -> Path:
    assert cli("fold", "m.onnx", "-o", "folded.onnx", "--verify", "certificate").code == 0
    return desk / "folded.onnx"


def test_a_plan_says_how_many_go_and_why_the_others_stay(cli: Cli) -> None:
    answer = cli("plan", "two.onnx")
    assert (answer.code, answer.err) == (0, "")
    first, counts, left, reason, site, *remedy = answer.out.splitlines()
    assert first == "two.onnx"
    assert counts == "  BatchNorms  2 found, 1 to fold, 1 left"
    assert left == "  left"
    assert reason == f"    1 x shift-stays: {REASONS['shift-stays'].summary}"
    assert site == "      BatchNormalization#3: Relu lets no shift pass (at Relu#2)"
    assert remedy[0].startswith("      remedy: ")


def test_a_plan_in_json_is_the_plan_of_the_api(cli: Cli) -> None:
    answer = cli("plan", "two.onnx", "--format", "json")
    said = answer.json
    assert (answer.code, answer.err) == (0, "")
    assert (said["schema"], said["command"], said["model"]) == (1, "plan", "two.onnx")
    assert said["counts"] == {"found": 2, "folded": 1, "left": 1, "by_hand": {"found": 0, "folded": 0, "left": 0}}
    read_back = bnfold.Plan.from_json(said["plan"])
    assert read_back.to_json() == bnfold.plan("two.onnx").to_json()


def test_a_plan_writes_nothing(cli: Cli, desk: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in desk.iterdir()}
    assert cli("plan", "m.onnx", "-v").code == 0
    assert {path.name: path.stat().st_mtime_ns for path in desk.iterdir()} == before


@pytest.mark.parametrize("name", ["without", "blocked", "training", "custom"])
def test_a_plan_of_any_model_exits_0(cli: Cli, name: str) -> None:
    assert cli("plan", f"{name}.onnx").code == 0


def test_a_verbose_plan_names_the_homes(cli: Cli) -> None:
    assert "BatchNormalization#1 into Conv#0" in cli("plan", "m.onnx", "-v").out
    assert "into" not in cli("plan", "m.onnx").out


def test_a_plan_with_many_of_one_reason_shows_a_few_and_all_when_asked(cli: Cli, desk: Path) -> None:
    lines = "\n".join(f"r{k} = Relu({'x' if k == 0 else f'n{k - 1}'}) n{k} = BatchNormalization(r{k},g,e,m,v)"
                      for k in range(6))  # fmt: skip
    onnx.save(parsed(f"(float[1,4,8] x) => (float[1,4,8] n5) {{ {lines} }}"), desk / "many.onnx")
    assert cli("plan", "many.onnx").out.count("BatchNormalization#") == 3
    assert "and 3 more (-v shows all)" in cli("plan", "many.onnx").out
    assert cli("plan", "many.onnx", "-v").out.count("BatchNormalization#") == 6


def test_reports_and_quiet_of_a_plan(cli: Cli, desk: Path) -> None:
    answer = cli("plan", "two.onnx", "-q", "--report", "r.json", "--report", "r.txt")
    assert (answer.code, answer.out) == (0, "")
    assert json.loads((desk / "r.json").read_text())["counts"]["left"] == 1
    assert (desk / "r.txt").read_text() == cli("plan", "two.onnx").out


@pytest.mark.usefixtures("folded")
def test_a_fold_and_its_original_are_the_same(cli: Cli) -> None:
    answer = cli("verify", "m.onnx", "folded.onnx")
    assert (answer.code, answer.err) == (0, "")
    first, verdict, *evidence = answer.out.splitlines()
    assert first == "m.onnx and folded.onnx"
    assert verdict.split() == ["verdict", "same"]
    assert any("of the rounding floor" in line for line in evidence)


@pytest.mark.usefixtures("folded")
def test_sameness_in_json(cli: Cli) -> None:
    said = cli("verify", "m.onnx", "folded.onnx", "--format", "json").json
    assert (said["command"], said["before"], said["after"]) == ("verify", "m.onnx", "folded.onnx")
    assert (said["verdict"], said["executed"], said["certified"]) == ("same", True, False)
    assert said["end_to_end"]["comparisons"]


@pytest.fixture
def different(folded: Path, desk: Path) -> str:
    """The folded model with one channel one per cent too large."""
    model = onnx.load(folded)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w_folded")
    numbers = numpy_helper.to_array(weight).copy()
    numbers[2] *= np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    onnx.save(model, desk / "different.onnx")
    return "different.onnx"


def test_another_function_differs_and_exits_1_with_an_example(cli: Cli, different: str) -> None:
    answer = cli("verify", "m.onnx", different)
    assert (answer.code, answer.err) == (1, "")
    assert "verdict" in answer.out
    assert "differs" in answer.out
    assert "shown by" in answer.out


def test_a_difference_in_json_has_the_values_of_both_sides(cli: Cli, different: str) -> None:
    answer = cli("verify", "m.onnx", different, "--format", "json")
    shown = answer.json["counterexample"]
    assert answer.code == 1
    assert answer.json["verdict"] == "differs"
    assert (shown["output"], shown["index"][1]) == ("n", 2)
    assert abs(shown["before"] - shown["after"]) > shown["bound"]


def test_a_difference_said_quietly_is_the_code_alone(cli: Cli, different: str) -> None:
    answer = cli("verify", "m.onnx", different, "-q")
    assert (answer.code, answer.out, answer.err) == (1, "", "")


def test_models_with_other_inputs_differ(cli: Cli, desk: Path) -> None:
    other = foldable()
    other.graph.input[0].name = other.graph.node[0].input[0] = "another"
    onnx.save(other, desk / "other.onnx")
    answer = cli("verify", "m.onnx", "other.onnx")
    assert answer.code == 1
    assert "the inputs were" in answer.out


def test_what_onnxruntime_cannot_run_is_unknown_and_exits_6(cli: Cli) -> None:
    answer = cli("verify", "custom.onnx", "custom.onnx")
    assert answer.code == 6
    assert "unknown" in answer.out
    said = cli("verify", "custom.onnx", "custom.onnx", "--format", "json")
    assert (said.code, said.json["verdict"]) == (6, "unknown")
    assert "made" in said.json["why"]


def test_a_model_that_runs_beside_one_that_does_not_differs(cli: Cli) -> None:
    assert cli("verify", "m.onnx", "custom.onnx").code == 1


def test_a_comparison_reports_to_files(cli: Cli, desk: Path, different: str) -> None:
    assert cli("verify", "m.onnx", different, "-q", "--report", "r.json").code == 1
    assert json.loads((desk / "r.json").read_text())["verdict"] == "differs"


def test_ops_lists_every_row_of_the_table(cli: Cli) -> None:
    answer = cli("ops")
    assert (answer.code, answer.err) == (0, "")
    blocks = re.split(r"\n  (?=\S)", answer.out)
    written = [" ".join(block.split()) for block in blocks]
    for row in TABLE:
        assert any(block.startswith(f"{row.op} {row.rule}") and row.unless in block for block in written)
    assert len([block for block in blocks if re.match(r"[A-Z]\w+  ", block)]) == len(list(TABLE))


def test_ops_in_json_is_the_table(cli: Cli) -> None:
    rows = cli("ops", "--format", "json").json["rows"]
    assert rows == [asdict(row) | {"direction": row.direction} for row in TABLE]


def test_explain_lists_all_reasons(cli: Cli) -> None:
    reasons, rules = cli("explain").out.split("\n\n")
    assert (reasons.splitlines()[0], rules.splitlines()[0]) == ("why a BatchNormalization stays", "what validate finds")
    listed = [line.split(maxsplit=1) for line in reasons.splitlines()[1:]]
    assert {code: summary.strip() for code, summary in listed} == {c: r.summary for c, r in REASONS.items()}
    assert [line.split(maxsplit=2) for line in rules.splitlines()[1:]] == [
        [rule.code, rule.severity, rule.title] for rule in every_rule()
    ]
    assert [reason["code"] for reason in cli("explain", "--format", "json").json["reasons"]] == list(REASONS)


@pytest.mark.parametrize("code", REASONS)
def test_explain_prints_the_page_of_a_reason(cli: Cli, code: str) -> None:
    answer = cli("explain", code)
    words = " ".join(answer.out.split())
    assert answer.code == 0
    assert words.startswith(f"{code}: {REASONS[code].summary}")
    assert REASONS[code].why in words
    assert REASONS[code].remedy in words
    (page,) = cli("explain", code, "--format", "json").json["reasons"]
    assert REASONS[code].algebra in words
    assert page == asdict(REASONS[code])


def test_a_reason_that_a_plan_gives_can_be_explained(cli: Cli) -> None:
    refusals = cli("plan", "blocked.onnx", "--format", "json").json["plan"]["refusals"]
    assert [cli("explain", refusal["code"]).code for refusal in refusals] == [0]


def test_the_version_is_the_package_s(cli: Cli) -> None:
    answer = cli("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"bnfold {bnfold.__version__}\n", "")


@pytest.mark.parametrize(
    "command", [[], ["fold"], ["plan"], ["validate"], ["verify"], ["ops"], ["explain"], ["witness"]]
)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_a_help_page(cli: Cli, command: list[str], option: str) -> None:
    answer = cli(*command, option)
    assert (answer.code, answer.err) == (0, "")
    assert " ".join(["Usage: bnfold", *command]) in answer.out


def test_log_lines_of_verbose_go_to_stderr(desk: Path) -> None:
    plain, verbose = (run("plan", DIGITS, *options, "--format", "json", cwd=desk) for options in ([], ["-v"]))
    assert plain.stdout == verbose.stdout
    refused(run("plan", "missing.onnx", "-v", cwd=desk), 3)
