"""`bnfold verify` with a certificate, and with a counterexample to save: codes, reports, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Answer, foldable, parsed, refused, temporaries
from onnx import numpy_helper

import bnfold
from bnfold.equality import runner

Cli = Callable[..., Answer]
GIVEN = ("verify", "m.onnx", "folded.onnx", "--certificate", "c.json")


@pytest.fixture(autouse=True)
def folded(cli: Cli, desk: Path) -> Path:
    """A fold with its certificate, and a model that is another function."""
    fold = ("fold", "m.onnx", "-o", "folded.onnx", "--verify", "certificate", "--certificate", "c.json")
    assert cli(*fold).code == 0
    model = onnx.load(desk / "folded.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w_folded")
    numbers = numpy_helper.to_array(weight).copy()
    numbers[2] *= np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    onnx.save(model, desk / "different.onnx")
    return desk / "folded.onnx"


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object, **__: object) -> None:
        raise AssertionError("something is run")

    monkeypatch.setattr(runner.Runner, "run", no)
    monkeypatch.setattr(runner.Runner, "signature", no)


# A certificate.


def test_a_certificate_and_a_run_say_same(cli: Cli) -> None:
    answer = cli(*GIVEN)
    assert (answer.code, answer.err) == (0, "")
    _, verdict, certificate, *evidence = answer.out.splitlines()
    assert verdict.split() == ["verdict", "same"]
    assert certificate == "  certificate  52 numbers in 1 home(s) recomputed in float64, each within its bound"
    assert any("of the rounding floor" in line for line in evidence)
    said = cli(*GIVEN, "--format", "json").json
    assert (said["verdict"], said["certified"], said["executed"]) == ("same", True, True)
    assert said["recheck"]["certificate"]["holds"] is True
    assert said["recheck"]["why"] is None
    assert cli("verify", "m.onnx", "folded.onnx", "--format", "json").json["recheck"] is None


@pytest.mark.usefixtures("nothing_runs")
def test_a_certificate_alone_says_same_and_nothing_is_run(cli: Cli) -> None:
    answer = cli(*GIVEN, "--certificate-alone")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[1:] == [
        "  verdict      same",
        "  certificate  52 numbers in 1 home(s) recomputed in float64, each within its bound",
    ]
    said = cli(*GIVEN, "--certificate-alone", "--format", "json").json
    assert (said["verdict"], said["certified"], said["executed"]) == ("same", True, False)


@pytest.mark.usefixtures("nothing_runs")
def test_a_model_that_onnxruntime_cannot_run_is_checked_by_its_certificate(cli: Cli) -> None:
    fold = ("fold", "custom.onnx", "-o", "c.onnx", "--verify", "certificate", "--certificate", "d.json")
    assert cli(*fold).code == 0
    assert cli("verify", "custom.onnx", "c.onnx", "--certificate", "d.json", "--certificate-alone").code == 0


def test_what_cannot_be_run_offers_the_certificate_alone(cli: Cli) -> None:
    cli("fold", "custom.onnx", "-o", "c.onnx", "--verify", "certificate", "--certificate", "d.json")
    answer = cli("verify", "custom.onnx", "c.onnx", "--certificate", "d.json")
    assert answer.code == 6
    assert "--certificate-alone" in answer.out
    assert "--certificate-alone" not in cli("verify", "custom.onnx", "c.onnx").out


@pytest.mark.parametrize("alone", [[], ["--certificate-alone"]])
def test_a_certificate_of_other_files_leaves_it_undecided(cli: Cli, desk: Path, alone: list[str]) -> None:
    """One byte that means nothing: both models are the same function, and the certificate is of others."""
    model = onnx.load(desk / "folded.onnx")
    model.doc_string = "other"
    onnx.save(model, desk / "folded.onnx")
    answer = cli(*GIVEN, *alone)
    assert (answer.code, answer.err) == (6, "")
    assert "because      the certificate is of other files: AFTER has the SHA-256" in answer.out
    assert "certificate  shows nothing of these two models" in answer.out
    assert ("rounding floor" in answer.out) is (not alone)
    said = cli(*GIVEN, *alone, "--format", "json").json
    assert (said["verdict"], said["recheck"]["certificate"]) == ("unknown", None)
    assert said["recheck"]["why"] == said["why"]


def test_a_certificate_of_other_files_does_not_hide_that_they_differ(cli: Cli) -> None:
    answer = cli("verify", "m.onnx", "different.onnx", "--certificate", "c.json")
    assert answer.code == 1
    assert "certificate  shows nothing of these two models" in answer.out
    alone = cli("verify", "m.onnx", "different.onnx", "--certificate", "c.json", "--certificate-alone")
    assert alone.code == 6


def test_a_certificate_whose_claims_are_gone_does_not_hold_whatever_it_says(cli: Cli, desk: Path) -> None:
    said = json.loads((desk / "c.json").read_text())
    (desk / "c.json").write_text(json.dumps(said | {"claims": []}))
    assert said["holds"] is True
    answer = cli(*GIVEN)
    assert answer.code == 6
    assert "the certificate does not hold: Conv#0 of the rewritten model has no counterpart" in answer.out


def test_figures_that_were_written_otherwise_are_told(cli: Cli, desk: Path) -> None:
    said = json.loads((desk / "c.json").read_text())
    said["homes"][0]["worst"] = 0.001
    (desk / "c.json").write_text(json.dumps(said))
    answer = cli(*GIVEN, "--certificate-alone")
    assert answer.code == 0
    assert "note         1 home(s) were recomputed with other figures than are written, Conv#0 the first" in answer.out
    assert cli(*GIVEN, "--certificate-alone", "--format", "json").json["recheck"]["notes"]


def test_progress_and_errors_come_in_order(desk: Path) -> None:
    stages: list[str] = []
    bnfold.verify("m.onnx", "folded.onnx", certificate="c.json", progress=stages.append)
    assert stages == ["reading", "recomputing every constant", "running both models"]
    (desk / "c.json").write_text("{}")
    stages.clear()
    with pytest.raises(bnfold.UsageError):
        bnfold.verify("missing.onnx", "folded.onnx", certificate="c.json", progress=stages.append)
    assert stages == []


USAGE = {
    "no certificate to go by": ("verify m.onnx folded.onnx --certificate-alone", "needs a certificate"),
    "data that nothing runs on": (f"{' '.join(GIVEN)} --certificate-alone --data d.npz", "nothing is run"),
    "a counterexample of nothing": (f"{' '.join(GIVEN)} --certificate-alone --save-counterexample x", "nothing is run"),
    "a certificate that is not there": ("verify m.onnx folded.onnx --certificate none.json", "none.json"),
    "a certificate that is a folder": ("verify m.onnx folded.onnx --certificate .", "no file"),
    "a certificate that is a model": ("verify m.onnx folded.onnx --certificate m.onnx", "m.onnx", "no JSON"),
    "a counterexample in place of a model": ("verify m.onnx folded.onnx --save-counterexample m.onnx", "overwrite"),
    "and of the other one": ("verify m.onnx folded.onnx --save-counterexample ./folded.onnx", "overwrite"),
    "and of data": ("verify ext.onnx folded.onnx --save-counterexample w.bin", "overwrite"),
    "and of the user's data": ("verify m.onnx folded.onnx --data d.npz --save-counterexample d.npz", "overwrite"),
    "and of the certificate": (f"{' '.join(GIVEN)} --save-counterexample c.json", "overwrite"),
    "a certificate of a check": ("fold m.onnx --check --certificate o.json", "check writes nothing"),
    "a certificate of no file": ("fold ext.onnx -o - --certificate o.json", "needs an output"),
}


@pytest.mark.parametrize("mistake", USAGE)
@pytest.mark.usefixtures("nothing_runs")
def test_what_cannot_be_meant_exits_2_and_writes_nothing(cli: Cli, desk: Path, mistake: str) -> None:
    onnx.save_model(foldable(), "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    np.savez(desk / "d.npz", x=np.zeros((2, 4, 8), "f"))
    before = {path.name: path.read_bytes() for path in desk.iterdir()}
    arguments, *words = USAGE[mistake]
    refused(cli(*arguments.split()), 2, *words)
    assert {path.name: path.read_bytes() for path in desk.iterdir()} == before


# A counterexample.

SAVE = ("--save-counterexample", "x.npz")


def test_a_counterexample_is_written_and_shows_the_difference_again(cli: Cli, desk: Path) -> None:
    answer = cli("verify", "m.onnx", "different.onnx", *SAVE)
    assert (answer.code, answer.err) == (1, "")
    assert answer.out.splitlines()[-1] == "  inputs      written to x.npz, which --data takes"
    with np.load(desk / "x.npz", allow_pickle=False) as found:
        assert found.files == ["x"]
    again = cli("verify", "m.onnx", "different.onnx", "--data", "x.npz", "--format", "json")
    assert again.code == 1
    ratios = {c["batch"]: c["ratio"] for c in again.json["end_to_end"]["comparisons"]}
    assert ratios["data, as one batch"] > 10
    assert temporaries(desk) == []


def test_a_counterexample_is_that_of_the_verdict(desk: Path) -> None:
    verdict = bnfold.verify("m.onnx", "different.onnx", save_counterexample="x.npz")
    assert isinstance(verdict, bnfold.Differs)
    shows = verdict.counterexample
    assert shows is not None
    assert shows.saved == Path("x.npz")
    with np.load(desk / "x.npz", allow_pickle=False) as found:
        assert found["x"].tobytes() == shows.inputs["x"].tobytes()
    assert bnfold.verify("m.onnx", "different.onnx").counterexample.saved is None


def test_a_counterexample_in_json_names_its_file(cli: Cli) -> None:
    said = cli("verify", "m.onnx", "different.onnx", *SAVE, "--format", "json").json
    assert said["counterexample"]["saved"] == "x.npz"
    assert cli("verify", "m.onnx", "different.onnx", "--format", "json").json["counterexample"]["saved"] is None


@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_written_for_models_that_are_the_same(cli: Cli, desk: Path, existing: bool) -> None:
    if existing:
        (desk / "x.npz").write_bytes(b"what stood here before")
    answer = cli("verify", "m.onnx", "folded.onnx", *SAVE)
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == "  inputs      not written: there is nothing that tells the models apart"
    assert (desk / "x.npz").exists() is existing
    assert not existing or (desk / "x.npz").read_bytes() == b"what stood here before"
    assert temporaries(desk) == []
    assert "inputs" not in cli("verify", "m.onnx", "folded.onnx").out


@pytest.mark.parametrize("other", ["custom.onnx", "renamed.onnx"])
def test_a_difference_without_an_example_writes_none(cli: Cli, desk: Path, other: str) -> None:
    model = foldable()
    model.graph.input[0].name = model.graph.node[0].input[0] = "another"
    onnx.save(model, desk / "renamed.onnx")
    answer = cli("verify", "m.onnx", other, *SAVE)
    assert answer.code == 1
    assert "not written" in answer.out
    assert not (desk / "x.npz").exists()


@pytest.mark.parametrize("target", ["none/x.npz", ".", "link.npz"])
@pytest.mark.usefixtures("nothing_runs")
def test_a_counterexample_that_cannot_be_written_exits_5_before_anything_is_run(
    cli: Cli, desk: Path, target: str
) -> None:
    (desk / "link.npz").symlink_to(desk / "elsewhere.npz")
    refused(cli("verify", "m.onnx", "different.onnx", "--save-counterexample", target), 5)
    assert temporaries(desk) == []
    assert not (desk / "elsewhere.npz").exists()


def test_inputs_with_first_dimensions_of_their_own_and_odd_names_show_it_again(cli: Cli, desk: Path) -> None:
    text = "(float[N,3] x, float[3,M] z) => (float[N,M] y) {{ p = MatMul(x,z) y = Mul(p,k{further}) }}"
    for name, further in (("one", ""), ("other", "2")):
        model = parsed(text.format(further=further))
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "k"))
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1.01), "k2"))
        for old, new in (("x", "a/b\n.npy"), ("z", "labels\0")):
            next(entry for entry in model.graph.input if entry.name == old).name = new
            model.graph.node[0].input[["x", "z"].index(old)] = new
        onnx.save(model, desk / f"{name}.onnx")
    given = ("verify", "one.onnx", "other.onnx", "--dim", "N=5", "--dim", "M=2")
    assert cli(*given, *SAVE).code == 1
    again = cli(*given, "--data", "x.npz", "--format", "json").json
    (comparison,) = (c for c in again["end_to_end"]["comparisons"] if c["batch"] == "data, as one batch")
    assert comparison["ratio"] > 10


def test_a_counterexample_does_not_outlast_a_failed_write(
    cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnfold.api import verifying  # noqa: PLC0415  # what fails here

    def full(_: object) -> bytes:
        raise bnfold.CannotWrite("'x.npz' cannot be written: No space left on device")

    monkeypatch.setattr(verifying, "npz_of", full)
    refused(cli("verify", "m.onnx", "different.onnx", *SAVE), 5, "No space left")
    assert not (desk / "x.npz").exists()
    assert temporaries(desk) == []
