"""`bnfold validate`: what it says, where, and with which code; and every bad input one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import BLOCKED, DIGITS, DIGITS_DATA, TRAINING, Answer, parsed, refused
from onnx import numpy_helper

from bnfold.rules import RULES

Cli = Callable[..., Answer]
DEAD = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) r = Relu(c) [late] y = BatchNormalization(r,g,e,m,v) }"


@pytest.fixture
def models(desk: Path) -> Path:
    """Beside the models of every command: one with a negative variance, one with a dead channel, and data."""
    for name, role, value in (("negative", "v", -1e-6), ("dead", "g", 0.0), ("nan", "m", np.nan)):
        model = parsed(DEAD)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == role)
        array = numpy_helper.to_array(tensor).copy()
        array[1] = value
        tensor.CopyFrom(numpy_helper.from_array(array, role))
        onnx.save(model, desk / f"{name}.onnx")
    random = np.random.default_rng(0)
    arrays = {"few": (20, 4, 8), "some": (64, 4, 8), "many": (200, 4, 8), "wide": (200, 5, 8)}
    for name, shape in arrays.items():
        np.savez(desk / f"{name}.npz", x=random.standard_normal(shape).astype(np.float32))
    holed = random.standard_normal((200, 4, 8)).astype(np.float32)
    holed[3, 1, 2] = np.nan
    np.savez(desk / "holed.npz", x=holed)
    unrun = "(float[N,4,8] x) => (float[N,4,8] y) { c = made.Up(x) s = Relu(c) y = BatchNormalization(s,g,e,m,v) }"
    onnx.save(parsed(unrun, further=', "made" : 1'), desk / "unrun.onnx")
    np.savez(desk / "misnamed.npz", image=holed, more=holed)
    return desk


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("blocked.onnx", 0, ["1 BatchNormalization looked at: clean, nothing was found"]),
        ("without.onnx", 0, ["there is no BatchNormalization"]),
        ("m.onnx", 0, ["BN016  note", "1 note"]),
        ("m.onnx --select BN016", 1, ["1 note"]),
        ("m.onnx --select BN016 --exit-zero", 0, ["1 note"]),
        ("dead.onnx", 0, ["BN010  note", "'late'", "channel 1 of 4"]),
        ("negative.onnx", 1, ["BN006  warning", "channel 1 of 4", "1 warning"]),
        ("negative.onnx --exit-zero", 0, ["BN006"]),
        ("negative.onnx --ignore BN006", 0, ["clean"]),
        ("nan.onnx", 1, ["BN004  error", "mean is nan in channel 1 of 4"]),
        ("training.onnx", 1, ["BN001  error", "training_mode is 1"]),
    ],
)
def test_what_is_found_and_the_exit_code(cli: Cli, arguments: str, code: int, words: list[str]) -> None:
    answer = cli("validate", *arguments.split())
    assert (answer.code, answer.err) == (code, "")
    for word in words:
        assert word in answer.out
    assert answer.out.startswith(f"{arguments.split(maxsplit=1)[0]}\n")


@pytest.mark.usefixtures("models")
def test_every_finding_has_one_line_and_with_v_its_remedy(cli: Cli) -> None:
    lines = cli("validate", "negative.onnx").out.splitlines()
    assert len(lines) == 3
    verbose = cli("validate", "negative.onnx", "-v").out
    assert verbose.splitlines()[:2] == lines[:2]
    assert f"remedy: {RULES['BN006'].remedy}" in " ".join(verbose.split())


def test_many_notes_of_a_kind_are_counted_unless_v_asks_for_them(cli: Cli) -> None:
    answer = cli("validate", DIGITS)
    assert answer.out.count("fold would put it") == 3
    assert "BN016  and 5 more like that (-v names them)" in answer.out
    assert "8 BatchNormalizations looked at: 8 notes" in answer.out
    assert cli("validate", DIGITS, "-v").out.count("fold would put it") == 8


@pytest.mark.usefixtures("models")
def test_json_has_the_same(cli: Cli) -> None:
    found = cli("validate", "negative.onnx", "--format", "json").json
    assert (found["schema"], found["command"], found["model"]) == (1, "validate", "negative.onnx")
    assert found["counts"] == {"errors": 0, "warnings": 1, "notes": 0, "suppressed": 0}
    assert (found["looked_at"], found["fails"], found["remarks"]) == (1, True, [])
    (finding,) = found["findings"]
    assert set(finding) == {"code", "severity", "site", "sentence", "remedy"}
    assert finding["site"] == {"scope": "", "index": 2, "op": "BatchNormalization", "name": "late"}


@pytest.mark.usefixtures("models")
def test_reports_and_quiet(cli: Cli, desk: Path) -> None:
    answer = cli("validate", "negative.onnx", "-q", "--report", "r.json", "--report", "r.txt")
    assert (answer.code, answer.out) == (1, "")
    assert (desk / "r.txt").read_text() == cli("validate", "negative.onnx").out
    assert '"BN006"' in (desk / "r.json").read_text()


def test_names_are_harmless_for_a_terminal(cli: Cli, desk: Path) -> None:
    model = parsed(TRAINING)
    model.graph.node[1].name = "red\x1b[31m\nline"
    onnx.save(model, desk / "odd.onnx")
    out = cli("validate", "odd.onnx").out
    assert "\x1b" not in out
    assert r"red\x1b[31m\nline" in out or r"red\\x1b[31m\\nline" in out


def test_over_its_own_data_a_trained_network_is_clean_and_over_inverted_images_not(cli: Cli, desk: Path) -> None:
    clean = cli("validate", DIGITS, "--data", DIGITS_DATA, "--ignore", "BN016")
    assert (clean.code, clean.err) == (0, "")
    assert "8 BatchNormalizations looked at: clean" in clean.out
    np.savez(desk / "inverted.npz", image=1 - np.load(DIGITS_DATA)["image"])
    drifted = cli("validate", DIGITS, "--data", "inverted.npz")
    assert drifted.code == 1
    assert "'/stem/bn/BatchNormalization'" in drifted.out
    assert "BN101  warning" in drifted.out


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("data", "remark"), [("few.npz", "20 sample(s): too few"), ("some.npz", "64 samples: too few")]
)
def test_too_few_samples_are_remarked(cli: Cli, data: str, remark: str) -> None:
    assert f"  remark: {remark}" in cli("validate", "m.onnx", "--data", data).out


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("m.onnx --select BN101", 2, ["BN101: needs data (--data)"]),
        ("m.onnx --select BN1", 2, ["BN101, BN102, BN103, BN104: needs data"]),
        ("m.onnx --select BN999", 2, ["--select 'BN999' names no rule", "near codes"]),
        ("m.onnx --ignore nonsense", 2, ["--ignore 'nonsense' names no rule"]),
        ("m.onnx --data none.npz", 2, ["'none.npz' is no file or folder"]),
        ("m.onnx --data misnamed.npz", 2, ["misnamed.npz", "'x'"]),
        ("m.onnx --data wide.npz", 2, ["wide.npz", "'x'"]),
        ("m.onnx --data holed.npz", 2, ["the data hold NaN or infinity in 'x'"]),
        ("m.onnx --data few.npz --select BN101", 2, ["BN101: takes 32 samples at least, the data have 20"]),
        ("m.onnx --data some.npz --select BN102", 2, ["BN102: takes 128 samples at least, the data have 64"]),
        ("m.onnx --dim Q=3", 2, ["no input has a dimension called 'Q'"]),
        ("m.onnx --seed -1", 2, ["--seed"]),
        ("absent.onnx", 3, ["absent.onnx"]),
        ("unrun.onnx --data many.npz", 6, ["cannot be run on the data"]),
    ],
)
def test_a_bad_input_is_one_line(cli: Cli, arguments: str, code: int, words: list[str]) -> None:
    refused(cli("validate", *arguments.split()), code, *words)


@pytest.mark.usefixtures("models")
def test_settings_of_the_project_hold_and_the_command_line_comes_first(cli: Cli, desk: Path) -> None:
    (desk / "pyproject.toml").write_text('[tool.bnfold]\nignore = ["BN006"]\n')
    assert cli("validate", "negative.onnx").code == 0
    assert cli("validate", "negative.onnx", "--ignore", "BN016").code == 1
    (desk / "pyproject.toml").write_text('[tool.bnfold]\nselect = ["BN016"]\n')
    assert cli("validate", "m.onnx").code == 1
    assert cli("validate", "negative.onnx", "--select", "BN006").code == 1
    (desk / "pyproject.toml").write_text('[tool.bnfold.per-site-ignores]\n"late" = ["BN006"]\n')
    answer = cli("validate", "negative.onnx")
    assert answer.code == 0
    assert "clean, nothing was found; 1 suppressed by site" in answer.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[tool.bnfold]\nselects = ["BN001"]\n', ["no key 'selects'", "did you mean 'select'?"]),
        ('[tool.bnfold]\nignore = ["BN0x"]\n', ["ignore 'BN0x' names no rule"]),
        ("[tool.bnfold\n", ["is no TOML"]),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_that_names_the_file(
    cli: Cli, desk: Path, text: str, words: list[str]
) -> None:
    (desk / "pyproject.toml").write_text(text)
    refused(cli("validate", "m.onnx"), 2, str(desk / "pyproject.toml"), *words)


@pytest.mark.parametrize("code", sorted(RULES))
def test_explain_prints_the_page_of_a_rule(cli: Cli, code: str) -> None:
    words = " ".join(cli("explain", code).out.split())
    rule = RULES[code]
    assert words.startswith(f"{code}: {rule.title} ({rule.severity})")
    for paragraph in (*rule.why, f"What to do: {rule.remedy}."):
        assert " ".join(paragraph.split()) in words
    page = cli("explain", code, "--format", "json").json
    assert page["reasons"] == []
    (shown,) = page["rules"]
    assert (shown["code"], shown["severity"], shown["remedy"]) == (code, rule.severity, rule.remedy)


def test_a_blocked_layer_is_what_the_plan_says_too(cli: Cli, desk: Path) -> None:
    """A layer that stays for a good reason is no finding."""
    onnx.save(parsed(BLOCKED), desk / "again.onnx")
    assert "clean" in cli("validate", "again.onnx", "--select", "BN0").out
