"""`fold --skip-existing`: an output is left alone only if it was made of the very same bytes, by the same options."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Answer, foldable, refused

import bnfold
from bnfold.batch import skipping

Cli = Callable[..., Answer]
FOLD = ("fold", "in", "-o", "out", "--skip-existing", "--verify", "certificate", "--format", "json")
NOTE = "out/m.onnx.bnfold.json"


@pytest.fixture
def made(cli: Cli, desk: Path) -> Cli:
    """A folder whose one model was folded; call it to do it again: whether it was skipped."""
    (desk / "in").mkdir()
    shutil.copy("m.onnx", "in/m.onnx")
    assert cli(*FOLD).code == 0
    return cli


def skipped(cli: Cli, *further: object) -> bool:
    answer = cli(*FOLD, *further)
    assert answer.code == 0
    (one,) = answer.json["models"]
    assert one["skipped"] is (one["result"] is None)
    return bool(one["skipped"])


def test_the_same_again_is_skipped_and_nothing_is_touched(made: Cli, desk: Path) -> None:
    was = (desk / "out/m.onnx").stat()
    assert skipped(made)
    assert skipped(made, "--timeout", 9, "--threads", 2), "what changes nothing of what is written or shown"
    now = (desk / "out/m.onnx").stat()
    assert (now.st_ino, now.st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
    text = made("fold", "in", "-o", "out", "--skip-existing", "--verify", "certificate")
    assert "skipped  out/m.onnx was made before, of the same bytes by the same options" in text.out


def test_the_model_bears_nothing_of_it_and_the_note_no_date_and_no_place(made: Cli, desk: Path) -> None:
    assert made("fold", "m.onnx", "-o", "plain.onnx", "--verify", "certificate").code == 0
    assert (desk / "plain.onnx").read_bytes() == (desk / "out/m.onnx").read_bytes()
    assert not (desk / "plain.onnx.bnfold.json").exists()
    note = json.loads((desk / NOTE).read_text())
    assert set(note) == {"format", "version", "options", "files", "versions", "read", "written"}
    assert set(note["versions"]) == {"bnfold", "onnx", "onnxruntime", "numpy"}
    assert str(desk) not in (desk / NOTE).read_text()
    first = (desk / NOTE).read_bytes()
    (desk / NOTE).unlink()
    assert not skipped(made)
    assert (desk / NOTE).read_bytes() == first


def other_input(desk: Path) -> None:
    model = foldable()
    model.doc_string = "another"
    onnx.save(model, desk / "in/m.onnx")


CHANGES: dict[str, Callable[[Path], object]] = {
    "another input": other_input,
    "another output": lambda desk: (desk / "out/m.onnx").write_bytes((desk / "m.onnx").read_bytes()),
    "no output": lambda desk: (desk / "out/m.onnx").unlink(),
    "no note": lambda desk: (desk / NOTE).unlink(),
    "a note cut short": lambda desk: (desk / NOTE).write_bytes((desk / NOTE).read_bytes()[:50]),
    "a note of something else": lambda desk: (desk / NOTE).write_text("[]"),
    "a note nested deep": lambda desk: (desk / NOTE).write_text("[" * 100_000),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_otherwise_is_made_anew(made: Cli, desk: Path, change: str) -> None:
    CHANGES[change](desk)
    assert not skipped(made)
    assert skipped(made)


@pytest.mark.parametrize(
    "further", [["--bn-only"], ["--skip", "c"], ["--seed", 3], ["--dim", "N=2"], ["--strict"], ["--verify", "full"]]
)
def test_other_options_make_it_anew(made: Cli, further: list[object]) -> None:
    assert not skipped(made, *further)
    assert skipped(made, *further)
    assert not skipped(made)


def test_another_version_makes_it_anew(made: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipping, "__version__", "999")
    assert not skipped(made)
    versions = skipping.metadata.version
    monkeypatch.setattr(skipping.metadata, "version", lambda name: versions(name) + "+other")
    assert not skipped(made)


def test_data_and_external_data_are_pinned_by_their_bytes(made: Cli, desk: Path) -> None:
    np.savez(desk / "d.npz", x=np.ones((2, 4, 8), "f"))
    assert not skipped(made, "--data", "d.npz")
    assert skipped(made, "--data", "d.npz")
    np.savez(desk / "d.npz", x=np.zeros((2, 4, 8), "f"))
    assert not skipped(made, "--data", "d.npz")
    external = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 16}
    onnx.save_model(foldable(), desk / "in/m.onnx", **external)
    assert not skipped(made)
    assert skipped(made)
    content = bytearray((desk / "in/w.bin").read_bytes())
    content[3] ^= 1
    (desk / "in/w.bin").write_bytes(content)
    assert not skipped(made)
    assert skipped(made)
    for data in (desk / "out").glob("*.data"):
        data.write_bytes(bytes(data.stat().st_size))
    assert not skipped(made)


def test_what_failed_or_left_too_much_is_not_noted(cli: Cli, desk: Path) -> None:
    given = ("-o", "out/", "--skip-existing", "--verify", "certificate", "--strict", "--format", "json")
    for _ in range(2):
        answer = cli("fold", "two.onnx", *given)
        assert (answer.code, answer.json["models"][0]["skipped"]) == (1, False)
    assert [path.name for path in (desk / "out").iterdir()] == ["two.onnx"]
    (desk / "broken.onnx").write_bytes(b"")
    refused(cli("fold", "broken.onnx", "-o", "out/", "--skip-existing"), 3, "is empty")


def test_in_several_processes_it_is_the_same(made: Cli, desk: Path) -> None:
    shutil.copy("two.onnx", "in/two.onnx")
    answer = made(*FOLD, "-j", 2)
    assert [one["skipped"] for one in answer.json["models"]] == [True, False]
    assert [one["skipped"] for one in made(*FOLD, "-j", 2).json["models"]] == [True, True]
    assert sorted(path.name for path in (desk / "out").iterdir()) == [
        "m.onnx", "m.onnx.bnfold.json", "two.onnx", "two.onnx.bnfold.json"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("m.onnx --in-place", "--skip-existing needs -o"),
        ("m.onnx --check", "--skip-existing needs -o"),
        ("m.onnx -o -", "--skip-existing needs -o"),
        ("m.onnx -o out.onnx --certificate c.json", "makes no certificate"),
        ("m.onnx -o out.onnx --data made:data", "cannot know whether 'made:data' still gives the same data"),
    ],
)
def test_what_cannot_be_known_is_refused(cli: Cli, desk: Path, arguments: str, words: str) -> None:
    before = set(os.listdir(desk))  # noqa: PTH208  # names alone
    refused(cli("fold", *arguments.split(), "--skip-existing"), 2, words)
    assert set(os.listdir(desk)) == before  # noqa: PTH208  # likewise


def test_a_note_that_cannot_be_written_is_told_and_the_model_is_there(cli: Cli, desk: Path) -> None:
    (desk / "out.onnx.bnfold.json").mkdir()
    refused(cli("fold", "m.onnx", "-o", "out.onnx", "--skip-existing", "--verify", "off"), 5, "out.onnx.bnfold.json")
    assert bnfold.plan(desk / "out.onnx").moves == ()
