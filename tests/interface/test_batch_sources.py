"""Which models a command line asks for, and where each goes: files, folders, globs, lists, stdin; what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Answer, fed, operators, refused, run
from hypothesis import given
from hypothesis import strategies as st

import bnfold
from bnfold.batch.sources import names_in, sources
from bnfold.batch.targets import targets

Cli = Callable[..., Answer]
OFF = ("--verify", "off")
FILES = ("b.onnx", "a.onnx", "x/b.onnx", "x/deep/c.onnx", "x/other.txt", "y/c.onnx", ".hidden/d.onnx", "x/.e.onnx")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files in it, as the current one."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*models: str, listed: list[str] | None = None, output: str | None = None) -> list[tuple[str, str]]:
    return [(one.name, one.below) for one in sources(models, listed, output=output).models]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["b.onnx", "a.onnx"], ["b.onnx", "a.onnx"]),
        (["x"], ["x/b.onnx", "x/deep/c.onnx"]),
        (["x/"], ["x/b.onnx", "x/deep/c.onnx"]),
        (["."], ["a.onnx", "b.onnx", "x/b.onnx", "x/deep/c.onnx", "y/c.onnx"]),
        (["y", "x"], ["y/c.onnx", "x/b.onnx", "x/deep/c.onnx"]),
        (["*.onnx"], ["a.onnx", "b.onnx"]),
        (["**/c.onnx"], ["x/deep/c.onnx", "y/c.onnx"]),
        (["[xy]"], ["x/b.onnx", "x/deep/c.onnx", "y/c.onnx"]),
        (["x/other.txt"], ["x/other.txt"]),
        (["a.onnx", "*.onnx", "."], ["a.onnx", "b.onnx", "x/b.onnx", "x/deep/c.onnx", "y/c.onnx"]),
        (["missing.onnx"], ["missing.onnx"]),
    ],
)
def test_what_is_named_is_found_in_order_and_once(models: list[str], expected: list[str]) -> None:
    assert [os.path.normpath(name) for name, _ in found(*models)] == expected


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("models", "below"),
    [
        (["x/b.onnx", "y/c.onnx"], ["b.onnx", "c.onnx"]),
        (["x"], ["b.onnx", "deep/c.onnx"]),
        (["x/*.onnx"], ["b.onnx"]),
        (["x/**/*.onnx"], ["b.onnx", "deep/c.onnx"]),
        (["*/*.onnx"], ["x/b.onnx", "y/c.onnx"]),
    ],
)
def test_what_a_search_finds_keeps_its_path_below_where_it_began(models: list[str], below: list[str]) -> None:
    assert [one for _, one in found(*models)] == below


@pytest.mark.usefixtures("tree")
def test_only_a_single_file_is_one_model_and_a_folder_with_one_is_several() -> None:
    assert sources(["a.onnx"]).is_one
    assert not sources(["y"]).is_one
    assert not sources(["y/*.onnx"]).is_one
    assert not sources([], ["a.onnx"]).is_one
    assert not sources(["a.onnx", "b.onnx"]).is_one


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tree: Path) -> None:
    (tree / "[ab].onnx").touch()
    assert found("[ab].onnx") == [("[ab].onnx", "[ab].onnx")]
    assert found(listed=["[ab].onnx"]) == [("[ab].onnx", "[ab].onnx")]


def test_what_lies_in_the_folder_of_outputs_is_no_input_unless_it_is_where_one_looks(tree: Path) -> None:
    (tree / "out").mkdir()
    shutil.copy("a.onnx", "out/a.onnx")
    names = [name for name, _ in found(".", output="out")]
    assert "out/a.onnx" not in names
    assert len(names) == 5
    assert found("out/a.onnx", output="out") == [("out/a.onnx", "a.onnx")]
    assert found("out", output="out") == [("out/a.onnx", "a.onnx")]


def test_a_list_has_a_name_a_line_or_nul_between_them() -> None:
    assert names_in("a b.onnx\n\n  \nc.onnx\r\n") == ["a b.onnx", "c.onnx"]
    assert names_in("new\nline.onnx\0c.onnx\0") == ["new\nline.onnx", "c.onnx"]
    assert names_in("") == []


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)))
def test_names_with_nul_between_them_are_kept_as_they_are(names: list[str]) -> None:
    if names:
        assert names_in("".join(f"{name}\0" for name in names)) == names


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("models", "listed", "words"),
    [
        (["-", "a.onnx"], None, "no other beside it"),
        (["-", "-"], None, "no other beside it"),
        (["a.onnx"], ["-"], "no other beside it"),
        ([], None, "there is no model"),
        ([], [], "there is no model"),
    ],
)
def test_what_cannot_be_meant_is_refused(models: list[str], listed: list[str] | None, words: str) -> None:
    with pytest.raises(bnfold.UsageError, match=words):
        sources(models, listed)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("models", "output", "words"),
    [
        (["a.onnx", "a.onnx"], "out", "two models would go to 'a.onnx'"),
        (["x"], "b.onnx", "is a file; several models need a folder"),
        (["x", "deep/c.onnx"], ".", "'x/deep/c.onnx' would take the place of 'deep/c.onnx', which is read"),
        (["x/../a.onnx", "a.onnx"], "out", "two models"),
        (["-"], "out/", "stdin has no name"),
    ],
)
def test_places_that_are_taken_are_refused_before_anything_is_made(
    tree: Path, models: list[str], output: str, words: str
) -> None:
    named = sources(models, output=output)
    with pytest.raises(bnfold.UsageError, match=words):
        targets(named, output)
    assert not (tree / "out").exists()


@pytest.mark.usefixtures("tree")
def test_models_of_one_name_keep_the_folders_they_come_from() -> None:
    paths = targets(sources(["x/b.onnx", "b.onnx", "y/c.onnx"]), "out")
    assert [path.as_posix() for path in paths] == ["out/x/b.onnx", "out/b.onnx", "out/y/c.onnx"]


# On the command line.


def test_a_folder_is_folded_into_a_folder_with_the_same_paths(cli: Cli, desk: Path) -> None:
    (desk / "in" / "deep").mkdir(parents=True)
    shutil.copy("m.onnx", "in/m.onnx")
    shutil.copy("two.onnx", "in/deep/m.onnx")
    answer = cli("fold", "in", "-o", "out", *OFF)
    assert (answer.code, answer.err) == (0, "")
    assert operators("out/m.onnx") == ["Conv", "Relu"]
    assert operators("out/deep/m.onnx") == ["Conv", "Relu", "BatchNormalization"]
    assert answer.out.splitlines()[-1] == "2 models: 2 BatchNorms folded, 1 left"


@pytest.mark.usefixtures("desk")
def test_names_come_from_a_file_and_from_stdin(cli: Cli, desk: Path) -> None:
    (desk / "names").write_text("m.onnx\nblocked.onnx\n")
    answer = cli("plan", "--files-from", "names", "--format", "json")
    assert [one["source"] for one in answer.json["models"]] == ["m.onnx", "blocked.onnx"]
    piped = fed(b"m.onnx\0blocked.onnx\0", "plan", "--files-from", "-", "--format", "json", cwd=desk)
    assert piped.stdout == answer.stdout


def test_a_model_goes_through_a_pipe(desk: Path) -> None:
    piped = fed((desk / "m.onnx").read_bytes(), "fold", "-", "-o", "-", "-q", cwd=desk)
    assert run("fold", "m.onnx", "-o", "out.onnx", cwd=desk).code == piped.code == 0
    assert piped.stdout == (desk / "out.onnx").read_bytes()
    assert fed(piped.stdout, "verify", "m.onnx", "-", cwd=desk).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("plan empty", 3, ["'empty' is a folder without any .onnx file"]),
        ("plan none/*.onnx", 3, ["'none/*.onnx' names no file"]),
        ("fold empty -o out", 3, ["without any .onnx file"]),
        ("fold m.onnx m.onnx --in-place", 2, ["'m.onnx' is named twice"]),
        ("fold - --in-place", 2, ["stdin cannot be replaced in place"]),
        ("fold . -o -", 2, ["-o - takes one model at a time"]),
        ("insert . --after Conv -o -", 2, ["-o - takes one model at a time"]),
        ("fold . -o o --certificate c.json", 2, ["--certificate takes one model at a time"]),
        ("verify - -", 2, ["only one of BEFORE and AFTER can come by stdin"]),
        ("plan --files-from none", 2, ["--files-from 'none' cannot be read"]),
        ("plan --files-from blank", 2, ["there is no model"]),
        ("plan", 2, ["Missing argument 'MODEL...'"]),
        ("plan - m.onnx", 2, ["no other beside it"]),
        ("plan m.onnx --jobs -1", 2, ["--jobs"]),
        ("plan m.onnx --deadline 0", 2, ["--deadline"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(
    cli: Cli, desk: Path, arguments: str, code: int, words: list[str]
) -> None:
    (desk / "empty").mkdir()
    (desk / "blank").write_text("\n \n")
    before = {path.name for path in desk.iterdir()}
    refused(cli(*arguments.split()), code, *words)
    assert {path.name for path in desk.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_what_comes_by_stdin_and_is_no_model_exits_3(desk: Path, content: bytes) -> None:
    refused(fed(content, "plan", "-", cwd=desk), 3)
    refused(fed(bytes(100), "plan", "-", "--max-bytes", 50, cwd=desk), 3, "more than the 50 that are allowed")


def test_bad_models_stop_no_others_in_any_command(cli: Cli, desk: Path) -> None:
    (desk / "in").mkdir()
    for name in ("m", "two", "training"):
        shutil.copy(f"{name}.onnx", f"in/{name}.onnx")
    (desk / "in" / "broken.onnx").write_bytes(b"")
    codes = {"fold": [3, 0, 0, 0], "plan": [3, 0, 0, 0], "validate": [3, 0, 1, 0], "insert": [3, 0, 0, 0]}
    further = {"fold": ["-o", "folded", *OFF], "insert": ["-o", "inserted", "--after", "Conv", *OFF]}
    for command, expected in codes.items():
        answer = cli(command, "in", *further.get(command, []), "--format", "json")
        models = answer.json["models"]
        assert answer.code == answer.json["exit_code"] == 3
        assert [one["source"] for one in models] == [f"in/{n}.onnx" for n in ("broken", "m", "training", "two")]
        assert [one["exit_code"] for one in models] == expected
        assert models[0]["result"] is None
        assert models[0]["error"]["kind"] == "InputRefused"
        assert answer.err == "bnfold: in/broken.onnx: 'in/broken.onnx' is empty\n"
        text = cli(command, "in", *further.get(command, []))
        assert (text.code, "4 models" in text.out) == (3, True)
    assert onnx.load("inserted/m.onnx").graph.node[1].op_type == "BatchNormalization"


def test_a_batch_has_of_each_model_what_it_has_alone(cli: Cli) -> None:
    for command in ("plan", "validate"):
        alone = cli(command, "two.onnx", "--format", "json").json
        one = cli(command, "two.onnx", "m.onnx", "--format", "json").json["models"][0]
        head = ("schema", "schema_id", "bnfold", "command", "exit_code", "model")
        assert one["result"] == {name: value for name, value in alone.items() if name not in head}
        assert cli(command, "two.onnx", "m.onnx").out.startswith(cli(command, "two.onnx").out)
