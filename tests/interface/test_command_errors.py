"""Every exit code that says no: one line on stderr, nothing on stdout, nothing written, the target untouched."""

from __future__ import annotations

import dataclasses
import gzip
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Answer, command, environment, operators, refused, run, temporaries
from onnx import numpy_helper

from bnfold.api import folding
from bnfold.equality import certificate
from bnfold.ops import absorb

Cli = Callable[..., Answer]
CERTIFICATE = ("--verify", "certificate")


@pytest.fixture
def untouched(desk: Path) -> Callable[[], None]:
    """Call it at the end: the folder holds what it held, with the same bytes."""

    def found() -> dict[str, bytes]:
        return {str(p.relative_to(desk)): p.read_bytes() for p in desk.rglob("*") if p.is_file()}

    before: dict[str, bytes] = {}

    def check() -> None:
        assert found() == before

    (desk / "target.onnx").write_bytes(b"what stood here before")
    before.update(found())
    return check


# 2: an option that cannot be meant.

USAGE = {  # the arguments, and words of the sentence
    "an unknown option": ("fold m.onnx --strct -o o.onnx", "--strct", "--strict"),
    "an unknown command": ("fld m.onnx", "fld", "did you mean 'fold'?"),
    "no model": ("fold -o o.onnx", "MODEL"),
    "neither output nor in place nor check": ("fold m.onnx", "-o OUT, --in-place and --check"),
    "output and in place": ("fold m.onnx -o o.onnx --in-place", "exactly one of"),
    "output and check": ("fold m.onnx -o o.onnx --check", "exactly one of"),
    "in place and check": ("fold m.onnx --in-place --check", "exactly one of"),
    "an output without a name": ("fold m.onnx -o", "-o"),
    "a dimension without a size": ("fold m.onnx -o o.onnx --dim N", "NAME=SIZE", "'N'"),
    "a dimension without a name": ("fold m.onnx -o o.onnx --dim =3", "NAME=SIZE"),
    "a dimension of size 0": ("fold m.onnx -o o.onnx --dim N=0", "NAME=SIZE"),
    "a dimension of a negative size": ("fold m.onnx -o o.onnx --dim N=-1", "NAME=SIZE"),
    "a dimension that the model has not": ("fold m.onnx -o o.onnx --dim Q=3", "'Q'", "'N'"),
    "a report of an unknown form": ("fold m.onnx -o o.onnx --report r.pdf", "r.pdf", ".json, .txt, .xml"),
    "a report of an unknown form, of a plan": ("plan m.onnx --report r", ".md or .html"),
    "an unknown format": ("plan m.onnx --format xml", "xml"),
    "an unknown way to verify": ("fold m.onnx -o o.onnx --verify maybe", "maybe", "certificate"),
    "a negative number left": ("fold m.onnx -o o.onnx --max-left -1", "--max-left"),
    "a number that is none": ("fold m.onnx -o o.onnx --seed x", "--seed"),
    "a negative seed": ("fold m.onnx -o o.onnx --seed -1", "--seed"),
    "no time at all": ("fold m.onnx -o o.onnx --timeout 0", "--timeout"),
    "an endless time": ("fold m.onnx -o o.onnx --timeout inf", "timeout"),
    "a time that is no number": ("fold m.onnx -o o.onnx --timeout nan", "timeout"),
    "no bytes at all": ("plan m.onnx --max-bytes 0", "--max-bytes"),
    "the input as output": ("fold m.onnx -o m.onnx", "'m.onnx'", "--in-place"),
    "the input as output by another way": ("fold m.onnx -o ../{folder}/m.onnx", "the input itself"),
    "the input's folder as output": ("fold m.onnx -o .", "the input itself"),
    "several models into one file": ("fold m.onnx two.onnx -o target.onnx", "several models"),
    "one model twice into one folder": ("fold m.onnx m.onnx -o out/", "two models"),
    "several models on stdout": ("fold m.onnx two.onnx -o -", "one model at a time"),
    "several certificates": ("fold m.onnx two.onnx -o out --certificate c", "one model at a time"),
    "a certificate in place of the input": ("fold m.onnx -o o.onnx --certificate m.onnx", "overwrite"),
    "a certificate in place of the output": ("fold m.onnx -o o.onnx --certificate o.onnx", "overwrite"),
    "a certificate that nobody made": ("fold m.onnx -o o.onnx --verify off --certificate c.json", "no certificate"),
    "a library that does not exist": ("fold m.onnx -o o.onnx --custom-ops none.so", "none.so"),
    "data that do not exist": ("fold m.onnx -o o.onnx --data none.npz", "none.npz"),
    "data that are a folder": ("fold m.onnx -o o.onnx --data ../{folder}", "{folder}"),
    "data that are no arrays": ("fold m.onnx -o o.onnx --data two.onnx", "two.onnx"),
    "an unknown reason": ("explain no-such-reason", "no-such-reason", "other-readers"),
    "an argument too many": ("verify m.onnx two.onnx blocked.onnx", "blocked.onnx"),
    "one model to compare": ("verify m.onnx", "AFTER"),
}


@pytest.mark.parametrize("mistake", USAGE)
def test_an_option_that_cannot_be_meant_exits_2(
    cli: Cli, desk: Path, untouched: Callable[[], None], mistake: str
) -> None:
    arguments, *words = (text.replace("{folder}", desk.name) for text in USAGE[mistake])
    refused(cli(*arguments.split()), 2, *words)
    untouched()


def test_a_command_without_any_argument_prints_its_help_and_exits_2(cli: Cli) -> None:
    answer = cli()
    assert answer.code == 2
    assert "Usage: bnfold" in answer.out


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"one": np.ones((2, 4, 8), "f"), "two": np.ones((2, 4, 8), "f")}, ["'x'"]),
        ({"x": np.ones((2, 5, 8), "f")}, ["'x'"]),
        ({"x": np.ones((2, 4), "f")}, ["'x'"]),
        ({"x": np.array(["text"])}, ["'x'"]),
        ({"x": np.array([None, 3], object)}, ["Python objects"]),
        ({"x": np.ones((2, 4, 8), "f"), "labels": np.zeros(3, "i8")}, ["labels"]),
    ],
    ids=["another name", "another size", "another rank", "another type", "pickled objects", "too many labels"],
)
def test_data_that_do_not_fit_exit_2(
    cli: Cli, desk: Path, untouched: Callable[[], None], arrays: dict[str, np.ndarray], words: list[str]
) -> None:
    np.savez(desk / "d.npz", **arrays)
    refused(cli("fold", "m.onnx", "-o", "target.onnx", "--data", "d.npz"), 2, *words)
    (desk / "d.npz").unlink()
    untouched()


# 3: a file that is no model.


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"weights")


WHOLE = "whole"
BAD_FILES: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "missing": (lambda path, _: path.unlink(missing_ok=True), "does not exist"),
    "a folder": (lambda path, _: path.mkdir(), "is a folder"),
    "empty": (lambda path, _: path.write_bytes(b""), "is empty"),
    "truncated": (lambda path, whole: path.write_bytes(whole[:-40]), "truncated"),
    "a web page": (lambda path, _: path.write_bytes(b"\n <!DOCTYPE html><html>404</html>"), "HTML"),
    "an LFS pointer": (
        lambda path, _: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "compressed": (lambda path, whole: path.write_bytes(gzip.compress(whole)), "gzip"),
    "a zip archive": (lambda path, _: zipped(path), "PyTorch"),
    "no model at all": (lambda path, _: path.write_bytes(os.urandom(64).replace(b"\x08", b"\x09")), "bad.onnx"),
    "text": (lambda path, _: path.write_bytes(b"these are words"), "is not an ONNX model"),
    "a device": (lambda path, _: path.symlink_to(os.devnull), "is not a regular file"),
}
COMMANDS = {
    "plan": ["plan", "bad.onnx"],
    "fold": ["fold", "bad.onnx", "-o", "target.onnx"],
    "fold in place": ["fold", "bad.onnx", "--in-place"],
    "check": ["fold", "bad.onnx", "--check"],
    "verify before": ["verify", "bad.onnx", "m.onnx"],
    "verify after": ["verify", "m.onnx", "bad.onnx"],
}


@pytest.mark.parametrize("given", COMMANDS)
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_model_exits_3(
    cli: Cli, desk: Path, untouched: Callable[[], None], kind: str, given: str
) -> None:
    make, word = BAD_FILES[kind]
    bad = desk / "bad.onnx"
    make(bad, (desk / "m.onnx").read_bytes())
    refused(cli(*COMMANDS[given]), 3, "bad.onnx", word)
    if bad.is_file() and not bad.is_symlink():
        bad.unlink()
    untouched()


def test_a_model_larger_than_allowed_exits_3(cli: Cli, desk: Path, untouched: Callable[[], None]) -> None:
    size = (desk / "m.onnx").stat().st_size
    refused(cli("fold", "m.onnx", "-o", "target.onnx", "--max-bytes", size - 1), 3, str(size))
    untouched()
    assert cli("fold", "m.onnx", "-o", "target.onnx", "--max-bytes", size, *CERTIFICATE).code == 0


def test_a_pipe_in_place_of_a_model_is_refused_and_not_waited_for(cli: Cli, desk: Path) -> None:
    os.mkfifo(desk / "pipe.onnx")
    refused(cli("plan", "pipe.onnx"), 3, "is not a regular file")


def test_the_same_errors_are_one_line_when_bnfold_is_a_process(desk: Path) -> None:
    refused(run("plan", "missing.onnx", cwd=desk), 3, "'missing.onnx' does not exist")
    refused(run("fold", "m.onnx", cwd=desk), 2)
    refused(run("nonsense", cwd=desk), 2, "nonsense")


# 4: a wrong fold.


@pytest.fixture
def wrong_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight is written one part in ten thousand too large."""
    right = absorb.absorbed_parts
    wrong = np.float32(1.0001)
    monkeypatch.setattr(absorb, "absorbed_parts", lambda *given: (part * wrong for part in right(*given)))


@pytest.mark.usefixtures("wrong_weights")
@pytest.mark.parametrize("level", ["full", "certificate"])
@pytest.mark.parametrize("target", ["target.onnx", "new.onnx"])
def test_a_wrong_fold_exits_4_and_writes_nothing(
    cli: Cli, desk: Path, untouched: Callable[[], None], level: str, target: str
) -> None:
    refused(cli("fold", "m.onnx", "-o", target, "--verify", level), 4, "the weight of Conv#0", "and should be")
    untouched()
    assert temporaries(desk) == []


@pytest.mark.usefixtures("wrong_weights")
def test_a_wrong_fold_in_place_leaves_the_model(cli: Cli, untouched: Callable[[], None]) -> None:
    refused(cli("fold", "m.onnx", "--in-place"), 4)
    untouched()


@pytest.mark.usefixtures("wrong_weights")
def test_a_wrong_fold_on_stdout_writes_no_byte(cli: Cli) -> None:
    refused(cli("fold", "m.onnx", "-o", "-"), 4)


@pytest.mark.usefixtures("wrong_weights")
def test_a_wrong_fold_in_json_says_what_differs(cli: Cli) -> None:
    answer = cli("fold", "m.onnx", "-o", "new.onnx", "--format", "json")
    (one,) = answer.json["models"]
    assert (answer.code, one["exit_code"], one["error"]["kind"], one["result"]) == (4, 4, "NotVerified", None)
    assert one["verdict"]["verdict"] == "differs"
    assert "the weight of Conv#0" in one["verdict"]["why"]


@pytest.mark.usefixtures("wrong_weights")
def test_only_without_verification_is_a_wrong_fold_written(cli: Cli) -> None:
    assert cli("fold", "m.onnx", "-o", "new.onnx", "--verify", "off").code == 0
    assert operators("new.onnx") == ["Conv", "Relu"]


@pytest.mark.usefixtures("wrong_weights")
def test_a_wrong_fold_that_the_certificate_missed_is_found_by_running_it(
    cli: Cli, untouched: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = certificate.certify
    blind = lambda *given, **named: dataclasses.replace(asked(*given, **named), failure=None)  # noqa: E731  # used once
    monkeypatch.setattr(certificate, "certify", blind)
    answer = cli("fold", "m.onnx", "-o", "target.onnx", "--format", "json")
    (one,) = answer.json["models"]
    assert answer.code == one["exit_code"] == 4
    shown = one["verdict"]["counterexample"]
    assert (one["verdict"]["site"].partition("#")[0], shown["output"]) == ("Conv", "n")
    assert shown["before"] != shown["after"]
    untouched()


def test_a_plan_that_leaves_out_the_shift_is_not_verified(
    cli: Cli, untouched: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absorb, "_new_bias", lambda *_: None)
    refused(cli("fold", "m.onnx", "-o", "target.onnx"), 4, "the bias of Conv#0")
    untouched()


# 5: a target that cannot be written.


def test_a_folder_that_does_not_exist_exits_5(cli: Cli, untouched: Callable[[], None]) -> None:
    refused(cli("fold", "m.onnx", "-o", "no/such/o.onnx"), 5, "there is no folder 'no/such'")
    untouched()


def test_a_target_that_is_a_folder_exits_5(cli: Cli, desk: Path, untouched: Callable[[], None]) -> None:
    (desk / "out" / "m.onnx").mkdir(parents=True)
    refused(cli("fold", "m.onnx", "-o", "out"), 5, "is a folder")
    untouched()


def test_a_folder_that_cannot_be_made_exits_5(cli: Cli, untouched: Callable[[], None]) -> None:
    refused(cli("fold", "m.onnx", "two.onnx", "-o", "target.onnx/deeper"), 5, "target.onnx/deeper")
    untouched()


@pytest.mark.parametrize("leads_to", ["two.onnx", "nowhere.onnx"])
def test_a_symbolic_link_is_not_written_through(cli: Cli, desk: Path, leads_to: str) -> None:
    (desk / "link.onnx").symlink_to(leads_to)
    was = (desk / "two.onnx").read_bytes()
    refused(cli("fold", "m.onnx", "-o", "link.onnx"), 5, "symbolic link")
    assert (desk / "two.onnx").read_bytes() == was
    assert not (desk / "nowhere.onnx").exists()


def test_a_symbolic_link_is_not_replaced_in_place(cli: Cli, desk: Path) -> None:
    (desk / "link.onnx").symlink_to("m.onnx")
    was = (desk / "m.onnx").read_bytes()
    refused(cli("fold", "link.onnx", "--in-place"), 5, "symbolic link")
    assert (desk / "link.onnx").is_symlink()
    assert (desk / "m.onnx").read_bytes() == was


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder: run the tests as a user")
@pytest.mark.parametrize("arguments", [["m.onnx", "-o", "locked/o.onnx"], ["locked/m.onnx", "--in-place"]])
def test_a_read_only_folder_exits_5(cli: Cli, desk: Path, arguments: list[str]) -> None:
    (desk / "locked").mkdir()
    (desk / "locked" / "m.onnx").write_bytes((desk / "m.onnx").read_bytes())
    (desk / "locked").chmod(0o500)
    try:
        refused(cli("fold", *arguments), 5, "cannot be written: Permission denied")
    finally:
        (desk / "locked").chmod(0o700)


def test_a_full_disk_exits_5_and_leaves_no_temporary(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    was = (desk / "m.onnx").read_bytes()
    monkeypatch.setattr("bnfold.model.writing._write_all", full)
    refused(cli("fold", "m.onnx", "--in-place"), 5, "'m.onnx' cannot be written: No space left on device")
    assert (desk / "m.onnx").read_bytes() == was
    assert temporaries(desk) == []


def test_a_rename_that_fails_exits_5_and_leaves_the_target(
    cli: Cli, desk: Path, untouched: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", denied)
    refused(cli("fold", "m.onnx", "-o", "target.onnx", *CERTIFICATE), 5, "Permission denied")
    untouched()
    assert temporaries(desk) == []


def test_a_certificate_that_cannot_be_written_exits_5_before_the_model_is_published(
    cli: Cli, untouched: Callable[[], None]
) -> None:
    refused(cli("fold", "m.onnx", "-o", "target.onnx", "--certificate", "no/c.json"), 5, "no/c.json")
    untouched()


def test_a_report_that_cannot_be_written_exits_5(cli: Cli) -> None:
    answer = cli("plan", "m.onnx", "-q", "--report", "no/r.json")
    refused(answer, 5, "no/r.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize(
    "arguments", ["plan m.onnx", "verify m.onnx m.onnx", "ops", "explain", "--help", "fold m.onnx --verify off -q -o -"]
)
def test_a_full_stdout_exits_5(desk: Path, arguments: str) -> None:
    line = f'"$@" {arguments} > /dev/full; exit $?'
    answer = shell(line, desk)
    refused(answer, 5, "No space left on device")


def shell(line: str, folder: Path) -> Answer:
    """A line of bash in which "$@" is bnfold."""
    bash = shutil.which("bash")
    assert bash, "these tests need bash"
    line_of = [bash, "-c", line, "bash", *command()]
    done = subprocess.run(line_of, cwd=folder, env=environment(), capture_output=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr.decode())


@pytest.mark.parametrize(
    "arguments", ["plan m.onnx -v", "verify m.onnx m.onnx", "ops", "explain", "--help", "fold m.onnx --verify off -o -"]
)
def test_a_closed_pipe_is_neither_a_finding_nor_a_traceback(desk: Path, arguments: str) -> None:
    answer = shell(f'"$@" {arguments} 2> err | true; echo ${{PIPESTATUS[0]}}', desk)
    assert answer.out.split() == ["141"]
    assert "Traceback" not in (desk / "err").read_text()
    assert "bnfold:" not in (desk / "err").read_text()


def test_an_error_that_nobody_hears_keeps_its_code(desk: Path) -> None:
    assert shell('"$@" plan missing.onnx 2>&1 | true; echo ${PIPESTATUS[0]}', desk).out.split() == ["3"]


def test_a_closed_stdout_is_no_bug(desk: Path) -> None:
    assert shell('"$@" fold m.onnx -o o.onnx >&-', desk).code == 0
    assert shell('"$@" verify m.onnx two.onnx >&-', desk).code == 1
    refused(shell('"$@" fold m.onnx -q -o - >&-', desk), 5, "closed")


# 6: undecided.


def test_a_model_that_onnxruntime_cannot_run_exits_6_and_offers_the_certificate(
    cli: Cli, untouched: Callable[[], None]
) -> None:
    refused(cli("fold", "custom.onnx", "-o", "target.onnx"), 6, "cannot run the original", "--verify certificate")
    untouched()


def test_the_certificate_alone_folds_it_and_says_that_nothing_was_run(cli: Cli) -> None:
    answer = cli("fold", "custom.onnx", "-o", "o.onnx", *CERTIFICATE)
    assert answer.code == 0
    assert "not executed" in answer.out
    assert operators("o.onnx") == ["Conv", "Up"]


@pytest.mark.parametrize("options", [["--provider", "NoSuchProvider"], ["--custom-ops", "m.onnx"]])
def test_a_provider_or_library_that_cannot_be_loaded_exits_6(
    cli: Cli, untouched: Callable[[], None], options: list[str]
) -> None:
    refused(cli("fold", "m.onnx", "-o", "target.onnx", *options), 6, options[1])
    untouched()


def test_a_limit_of_time_that_is_hit_exits_6(cli: Cli, desk: Path, untouched: Callable[[], None]) -> None:
    refused(cli("fold", "m.onnx", "-o", "target.onnx", "--timeout", "0.1"), 6, "took longer than 0.1 s")
    untouched()
    assert temporaries(desk) == []


def test_a_tensor_of_a_million_million_elements_exits_6(cli: Cli, desk: Path, untouched: Callable[[], None]) -> None:
    model = onnx.load(desk / "m.onnx")
    size = numpy_helper.from_array(np.array([1 << 40]), "size")
    model.graph.initializer.append(size)
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["size"], ["huge"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("huge", onnx.TensorProto.FLOAT, [None]))
    onnx.save(model, desk / "bomb.onnx")
    refused(cli("fold", "bomb.onnx", "-o", "target.onnx"), 6)
    (desk / "bomb.onnx").unlink()
    untouched()


# 70: a bug.


@pytest.mark.parametrize("arguments", [["plan", "m.onnx"], ["fold", "m.onnx", "-o", "target.onnx"]])
def test_a_bug_is_one_line_and_exits_70(
    cli: Cli, untouched: Callable[[], None], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("met on\npurpose")

    monkeypatch.setattr(folding, "make_plan", broken)
    refused(cli(*arguments), 70, "this is a bug in bnfold", "ZeroDivisionError", "met on\\npurpose", "-v")
    untouched()


@pytest.mark.parametrize("arguments", [["plan", "m.onnx"], ["fold", "m.onnx", "-o", "o.onnx"]])
def test_the_traceback_of_a_bug_is_shown_when_asked_for(desk: Path, arguments: list[str]) -> None:
    code = (
        "import bnfold.api.folding as folding\n"
        "def broken(*_, **__): raise ZeroDivisionError('met on purpose')\n"
        "folding.make_plan = broken\n"
        "from bnfold.cli import main\n"
        f"main({[*arguments, '-v']!r})"
    )
    run_ = [sys.executable, "-c", code]
    done = subprocess.run(run_, cwd=desk, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert "in broken" in done.stderr
