"""`bnfold insert` as a user meets it: where the model goes, what the report says, and one line for each refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import DIGITS, DIGITS_DATA, Answer, operators, parsed, refused, run, temporaries

from bnfold.api import inserting
from bnfold.equality.runner import Runner
from bnfold.inserting.parameters import Parameters

Cli = Callable[..., Answer]
X = np.random.default_rng(0).standard_normal((9, 4, 8)).astype(np.float32)
NORM = "BatchNormalization"


@pytest.fixture
def d(desk: Path) -> Path:
    """Data for the models on the desk."""
    np.savez(desk / "d.npz", x=X)
    return desk


# Where it goes.


@pytest.mark.usefixtures("desk")
def test_into_a_file(cli: Cli) -> None:
    before = Path("without.onnx").read_bytes()
    answer = cli("insert", "without.onnx", "--after", "Conv", "-o", "out.onnx")
    assert (answer.code, answer.err) == (0, "")
    assert operators("out.onnx") == ["Conv", NORM, "Relu"]
    assert Path("without.onnx").read_bytes() == before
    lines = answer.out.splitlines()
    assert lines[0] == "without.onnx -> out.onnx"
    for words in ("1 inserted", "identity: epsilon 0", "same, bit for bit", "Conv#0: 'c', 4 channels"):
        assert any(words in line.replace("c, 4", "'c', 4") for line in lines), words


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("folder", ["made/", "there"])
def test_into_a_folder(cli: Cli, folder: str) -> None:
    Path("there").mkdir()
    assert cli("insert", "without.onnx", "--after", "Conv", "-o", folder).code == 0
    assert operators(Path(folder) / "without.onnx") == ["Conv", NORM, "Relu"]


@pytest.mark.usefixtures("desk")
def test_onto_stdout_the_report_goes_to_stderr(cli: Cli) -> None:
    answer = cli("insert", "without.onnx", "--after", "Conv", "-o", "-")
    assert answer.code == 0
    assert [node.op_type for node in onnx.load_model_from_string(answer.stdout).graph.node] == ["Conv", NORM, "Relu"]
    assert "1 inserted" in answer.err


@pytest.mark.usefixtures("desk")
def test_in_place_and_again_nothing_happens(cli: Cli) -> None:
    assert cli("insert", "without.onnx", "--after", "Conv", "--in-place").code == 0
    once = Path("without.onnx").read_bytes()
    assert operators("without.onnx") == ["Conv", NORM, "Relu"]
    answer = cli("insert", "without.onnx", "--after", "Conv", "--in-place")
    assert answer.code == 0
    assert "unchanged, byte for byte" in answer.out
    assert "1 x has-batch-norm" in answer.out
    assert Path("without.onnx").read_bytes() == once


@pytest.mark.usefixtures("desk")
def test_options_may_be_repeated_or_listed(cli: Cli) -> None:
    assert cli("insert", "two.onnx", "--after", "Conv,Relu", "--skip", "c", "-o", "a.onnx").code == 0
    assert cli("insert", "without.onnx", "--after", "Conv", "--after", "Relu", "--at", "x", "-o", "b.onnx").code == 0
    assert operators("b.onnx") == [NORM, "Conv", NORM, "Relu", NORM]


def test_as_a_process(desk: Path) -> None:
    answer = run("insert", "without.onnx", "--after", "Conv", "--past-activation", "-o", "out.onnx", cwd=desk)
    assert (answer.code, answer.err) == (0, "")
    assert operators(desk / "out.onnx") == ["Conv", "Relu", NORM]


# What the report says.


@pytest.mark.usefixtures("d")
@pytest.mark.parametrize("init", ["identity", "preserve", "normalize"])
def test_the_report_as_json(cli: Cli, init: str) -> None:
    answer = cli(
        "insert", "without.onnx", "--after", "Conv,Relu", "--at", "[xc]", "--skip", "x", "--init", init,
        "--data", "d.npz",
        "-o", "out.onnx", "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = answer.json
    assert found["command"] == "insert"
    assert (found["source"], found["written"], found["init"]) == ("without.onnx", "out.onnx", init)
    assert found["nodes"] == {"before": 2, "after": 4}
    assert found["bytes"]["after"] == Path("out.onnx").stat().st_size
    assert [(one["tensor"], one["channels"], one["axis"]) for one in found["inserted"]] == [("c", 4, 1), ("y", 4, 1)]
    assert [one["count"] for one in found["inserted"]] == ([0, 0] if init == "identity" else [54, 54])
    assert [(one["tensor"], one["code"]) for one in found["skipped"]] == [("x", "skipped")]
    assert (found["verdict"] is None) == (init == "normalize")
    assert (found["normalised"] is None) == (init != "normalize")
    if init == "normalize":
        assert found["normalised"]["variance"] < 1e-3
        (change,) = found["normalised"]["change"]["comparisons"]
        assert change["relative_l2"] > 0


@pytest.mark.usefixtures("d")
def test_reports_are_written_too(cli: Cli) -> None:
    assert cli("insert", "without.onnx", "--after", "Conv", "-o", "o.onnx", "--report", "r.json", "-q").out == ""
    assert json.loads(Path("r.json").read_text())["inserted"][0]["tensor"] == "c"


@pytest.mark.usefixtures("d")
def test_normalising_says_that_the_function_changes_and_by_how_much(cli: Cli) -> None:
    answer = cli("insert", "without.onnx", "--after", "Conv", "--init", "normalize", "--data", "d.npz", "-o", "o.onnx")
    assert answer.code == 0
    for words in ("another function", "means within", "variances within", "outputs moved by up to"):
        assert words in answer.out


@pytest.mark.usefixtures("d")
def test_preserving_says_over_how_much_and_how_exactly(cli: Cli) -> None:
    answer = cli("insert", "without.onnx", "--after", "Conv", "--init", "preserve", "--data", "d.npz", "-o", "o.onnx")
    assert answer.code == 0
    for words in ("over 54 to 54 elements per channel", "exactly 1 in onnxruntime in", "same, within rounding"):
        assert words in answer.out


@pytest.mark.usefixtures("desk")
def test_training_says_that_it_depends_on_each_batch(cli: Cli) -> None:
    answer = cli("insert", "without.onnx", "--after", "Conv", "--training", "-o", "o.onnx")
    assert answer.code == 0
    assert "in training mode it depends on each batch; onnxruntime runs it" in answer.out
    assert len(onnx.load("o.onnx").graph.output) == 3


@pytest.mark.usefixtures("desk")
def test_a_trained_network_loses_nothing_by_preserving(cli: Cli) -> None:
    wishes = ("--after", "Conv,Gemm", "--data", DIGITS_DATA, "--format", "json")
    assert cli("fold", DIGITS, "-o", "f.onnx").code == 0
    answer = cli("insert", "f.onnx", *wishes, "--init", "preserve", "-o", "p.onnx")
    assert answer.code == 0, answer.err
    accuracy = answer.json["verdict"]["end_to_end"]["accuracy"]
    assert accuracy["before"] == accuracy["after"]


# One line for each refusal, and nothing written.


@pytest.mark.usefixtures("d")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["without.onnx", "--after", "Conv"], 2, ["exactly one of -o OUT and --in-place"]),
        (["without.onnx", "--after", "Conv", "-o", "o.onnx", "--in-place"], 2, ["exactly one of"]),
        (["without.onnx", "-o", "o.onnx"], 2, ["insert needs places"]),
        (["without.onnx", "--after", "Cnov", "-o", "o.onnx"], 2, ["'Cnov'", "near names are 'Conv'"]),
        (["without.onnx", "--at", "nothing*", "-o", "o.onnx"], 2, ["names no node and no tensor"]),
        (["without.onnx", "--after", "Conv", "--init", "preserve", "-o", "o.onnx"], 2, ["there are none (--data)"]),
        (["without.onnx", "--after", "Conv", "--init", "other", "-o", "o.onnx"], 2, ["other"]),
        (["without.onnx", "--after", "Conv", "--axis", "0", "-o", "o.onnx"], 2, ["axis 0 counts samples"]),
        (["without.onnx", "--at", "w", "-o", "o.onnx"], 2, ["a weight and no activation"]),
        (["without.onnx", "--after", "Conv", "--data", "no.npz", "-o", "o.onnx"], 2, ["no.npz"]),
        (["without.onnx", "--after", "Conv", "--init", "preserve", "--data", "nan.npz", "-o", "o.onnx"], 2,
         ["hold nan at [0, 0, 0]"]),
        (["nowhere.onnx", "--after", "Conv", "-o", "o.onnx"], 3, ["nowhere.onnx"]),
        (["broken.onnx", "--after", "Conv", "-o", "o.onnx"], 3, ["broken.onnx"]),
        (["old.onnx", "--after", "Conv", "-o", "o.onnx"], 3, ["opset 6", "convert_version"]),
        (["without.onnx", "--after", "Conv", "-o", "without.onnx"], 2, ["without.onnx"]),
        (["without.onnx", "--after", "Conv", "-o", "no/such/o.onnx"], 5, ["no/such"]),
        (["custom.onnx", "--at", "x", "-o", "o.onnx"], 6, ["onnxruntime"]),
    ],
)  # fmt: skip
def test_refusals(cli: Cli, d: Path, arguments: list[str], code: int, words: list[str]) -> None:
    np.savez(d / "nan.npz", x=np.full_like(X, np.nan))
    (d / "broken.onnx").write_bytes(b"nothing of the kind")
    onnx.save(parsed("(float[N,4,8] x) => (float[N,4,6] y) { y = Conv(x,w) }", opset=6), d / "old.onnx")
    before = {path.name: path.read_bytes() for path in d.iterdir()}
    refused(cli("insert", *arguments), code, *words)
    assert {path.name: path.read_bytes() for path in d.iterdir()} == before
    assert temporaries(d) == []


@pytest.mark.usefixtures("desk")
def test_what_is_not_equal_is_not_written(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An identity that is not one: the models are run, and the exit code is 4."""
    right = inserting.identity

    def wrong(*arguments: int, **wishes: float) -> Parameters:
        made = right(*arguments, **wishes)
        return replace(made, scale=made.scale * np.float32(1 + 2**-20))

    monkeypatch.setattr(inserting, "identity", wrong)
    refused(cli("insert", "without.onnx", "--after", "Conv", "-o", "o.onnx"), 4, "'y'", "not bit for bit")
    assert not Path("o.onnx").exists()
    assert cli("insert", "without.onnx", "--after", "Conv", "-o", "o.onnx", "--verify", "off").code == 0


@pytest.mark.usefixtures("desk")
def test_without_verification_nothing_is_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("ran"))
    answer = cli("insert", "custom.onnx", "--at", "x", "-o", "o.onnx", "--verify", "off")
    assert answer.code == 0
    assert "no, as asked for" in answer.out
