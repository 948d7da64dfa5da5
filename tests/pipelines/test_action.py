"""The GitHub action: its file is read as GitHub reads it, and the script of its last step is run by bash.

The step that installs is run by .ci/package, for it takes an empty environment and a package index.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from bnfold.commands.table import KNOW, TABLE

ROOT = Path(__file__).resolve().parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: dict[str, Any] = {step["id"]: step for step in ACTION["runs"]["steps"]}
TOOL = Path(sys.executable).parent / "bnfold"


@dataclass(frozen=True)
class Ran:
    code: int
    log: str
    outputs: dict[str, str]
    summary: str


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a workflow has checked out."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("digits_cnn.onnx", "digits_preact.onnx"):
        shutil.copy(ROOT / "models" / name, folder)
    return folder


def given(**inputs: str) -> dict[str, str]:
    """The environment of the last step: each ${{ inputs.NAME }} replaced as GitHub does it."""
    values = {name: inputs.get(name, str(entry.get("default", ""))) for name, entry in ACTION["inputs"].items()}
    replaced = {"steps.install.outputs.bnfold": str(TOOL)} | {f"inputs.{name}": v for name, v in values.items()}
    return {
        name: re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: replaced[found[1]], text)
        for name, text in STEPS["run"]["env"].items()
    }


def ran(checkout: Path, **inputs: str) -> Ran:
    output, summary = checkout.parent / "output", checkout.parent / "summary.md"
    output.touch()
    summary.touch()
    environment = {
        **os.environ,
        **given(**inputs),
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_WORKSPACE": str(checkout),
    }
    shell = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", STEPS["run"]["run"]]
    done = subprocess.run(
        shell, cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return Ran(done.returncode, done.stdout + done.stderr, outputs, summary.read_text())


def test_findings_are_annotations_a_summary_and_reports(checkout: Path) -> None:
    done = ran(checkout, command="fold", args="--check", models="digits_cnn.onnx\n")
    assert done.code == 1
    assert done.outputs == {"exit-code": "1", "sarif": "bnfold.sarif", "junit": "bnfold.xml"}
    assert "::error file=digits_cnn.onnx,title=bnfold would-fold::" in done.log
    assert done.summary.startswith("## digits")
    assert json.loads((checkout / "bnfold.sarif").read_text())["version"] == "2.1.0"
    assert ElementTree.parse(checkout / "bnfold.xml").getroot().get("failures") == "1"


def test_a_clean_model_ends_with_0_at_paths_that_were_asked_for(checkout: Path) -> None:
    done = ran(checkout, models="digits_cnn.onnx", sarif="out of code.sarif", junit="tests.xml", args="--ignore BN006")
    assert done.code == 0, done.log
    assert done.outputs == {"exit-code": "0", "sarif": "out of code.sarif", "junit": "tests.xml"}
    assert (checkout / "out of code.sarif").stat().st_size
    assert (checkout / "tests.xml").stat().st_size


def test_verify_takes_two_models(checkout: Path) -> None:
    done = ran(checkout, command="verify", models="digits_cnn.onnx\ndigits_cnn.onnx\n")
    assert done.code == 0, done.log


MODELS_TOO = {
    "fold": ("-o folded/ --jobs 2 --certificate certificate.json --data digits.npz", "digits_cnn.onnx"),
    "plan": ("--only '/stem/*' --verbose", "digits_cnn.onnx"),
    "insert": ("--after Conv --init identity -o with.onnx", "digits_preact.onnx"),
    "validate": ("--data digits.npz --select BN1", "*.onnx"),
    "witness": ("--at '/block1/*'", "digits_preact.onnx"),
    "verify": ("--dim batch=3 --save-counterexample x.npz", "digits_cnn.onnx\ndigits_cnn.onnx"),
}


@pytest.mark.parametrize("command", [name for name, entry in TABLE.items() if entry.group != KNOW])
def test_every_command_about_models_runs_with_its_options(checkout: Path, command: str) -> None:
    shutil.copy(ROOT / "models" / "digits.npz", checkout)
    args, models = MODELS_TOO[command]
    done = ran(checkout, command=command, args=args, models=models)
    assert done.code == 0, done.log
    assert done.outputs == {"exit-code": "0", "sarif": "bnfold.sarif", "junit": "bnfold.xml"}
    runs = json.loads((checkout / "bnfold.sarif").read_text())["runs"]
    assert runs[0]["tool"]["driver"]["name"] == "bnfold"
    assert done.summary


def test_models_may_be_listed_in_a_file_and_settings_count(checkout: Path) -> None:
    (checkout / "list.txt").write_text("digits_cnn.onnx\ndigits_preact.onnx\n")
    (checkout / "pyproject.toml").write_text('[tool.bnfold]\nselect = ["BN016"]\n')
    done = ran(checkout, args="--files-from list.txt")
    assert done.code == 1
    assert {name for name in ("digits_cnn.onnx", "digits_preact.onnx") if f"file={name}," in done.log} == {
        "digits_cnn.onnx",
        "digits_preact.onnx",
    }


def test_names_with_spaces_and_carriage_returns_are_one_model_each(checkout: Path) -> None:
    (checkout / "digits_cnn.onnx").rename(checkout / "my model.onnx")
    done = ran(checkout, command="fold", args="--check", models="my model.onnx\r\n\r\ndigits_preact.onnx")
    assert done.code == 1
    assert "file=my model.onnx," in done.log
    assert "file=digits_preact.onnx," in done.log


@pytest.mark.parametrize(
    "hostile", ["$(touch pwned)", "`touch pwned`", "; touch pwned", "'; touch pwned #'", "a && touch pwned"]
)
def test_what_is_passed_is_never_run(checkout: Path, hostile: str) -> None:
    for inputs in ({"models": hostile}, {"args": hostile, "models": "digits_cnn.onnx"}, {"command": hostile}):
        assert ran(checkout, **inputs).code != 0
    assert not (checkout / "pwned").exists()


def test_a_model_that_looks_like_an_option_is_a_model(checkout: Path) -> None:
    (checkout / "digits_cnn.onnx").rename(checkout / "--exit-zero")
    done = ran(checkout, command="fold", args="--check", models="--exit-zero")
    assert done.code == 1
    assert "::error file=--exit-zero,title=bnfold would-fold::" in done.log


def test_quotes_hold_a_word_together(checkout: Path) -> None:
    done = ran(checkout, command="fold", args="--only 'no such  node' --check", models="digits_cnn.onnx")
    assert done.code == 2
    assert "no such  node" in done.log


@pytest.mark.parametrize("args", ["'open", 'open"'])
def test_a_quote_that_does_not_close_fails_before_anything_is_done(checkout: Path, args: str) -> None:
    done = ran(checkout, args=args, models="digits_cnn.onnx")
    assert done.code != 0
    assert done.outputs == {}


def test_a_file_that_is_no_model_is_reported_and_its_code_kept(checkout: Path) -> None:
    (checkout / "digits_cnn.onnx").write_bytes(b"no model")
    done = ran(checkout, models="digits_cnn.onnx")
    assert done.code == 3
    assert done.outputs["exit-code"] == "3"
    assert "::error" in done.log
    assert ElementTree.parse(checkout / "bnfold.xml").getroot().get("errors") == "1"


def test_a_wrong_command_line_leaves_no_report_of_an_earlier_run(checkout: Path) -> None:
    assert ran(checkout, models="digits_cnn.onnx").code == 0
    (checkout.parent / "output").unlink()
    done = ran(checkout, models="digits_cnn.onnx", args="--no-such-option")
    assert (done.code, done.outputs) == (2, {"exit-code": "2"})
    assert "::error title=bnfold::the command line or the settings cannot be meant" in done.log


@pytest.mark.parametrize("command", ["ops", "explain", "", "fold plan"])
def test_only_commands_about_models_can_be_asked_for(checkout: Path, command: str) -> None:
    done = ran(checkout, command=command, models="digits_cnn.onnx")
    assert done.code == 2
    assert "command is one of" in done.log


def test_no_script_has_an_expression_in_it() -> None:
    """GitHub would put an input's text into the script, to be run."""
    assert [step["id"] for step in STEPS.values() if "${{" in step.get("run", "")] == []


def test_each_input_is_used_and_each_output_is_set() -> None:
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert all("shell" in step for step in STEPS.values() if "run" in step)
    for output in ACTION["outputs"].values():
        step, name = re.findall(r"steps\.(\w+)\.outputs\.([\w-]+)", output["value"])[0]
        assert f'echo "{name}=' in STEPS[step]["run"]
