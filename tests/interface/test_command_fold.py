"""`bnfold fold`: what it says, what it writes and where, with which exit code."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import DIGITS, DIGITS_DATA, Answer, foldable, operators, parsed, refused, run, temporaries
from onnx import helper

Cli = Callable[..., Answer]
CERTIFICATE = ("--verify", "certificate")

NONE = {"found": 0, "folded": 0, "left": 0}
"""Affines that are written by hand, in a model that has none."""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_fold_says_what_it_did_in_text(desk: Path) -> None:
    answer = run("fold", "m.onnx", "-o", "out.onnx", cwd=desk)
    assert (answer.code, answer.err) == (0, "")
    first, *rows = answer.out.splitlines()
    assert first == "m.onnx -> out.onnx"
    assert "  BatchNorms   1 found, 1 folded, 0 left" in rows
    assert "  nodes        3 -> 2" in rows
    assert any(row.startswith("  verified     same, by the certificate and by running") for row in rows)
    assert operators("out.onnx") == ["Conv", "Relu"]
    assert temporaries(desk) == []


def test_a_fold_says_what_it_did_in_json(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "m.onnx", "-o", "out.onnx", "--format", "json")
    said = answer.json
    assert (answer.code, answer.err) == (0, "")
    assert (said["schema"], said["command"], said["exit_code"]) == (1, "fold", 0)
    (one,) = said["models"]
    assert (one["source"], one["target"], one["exit_code"], one["error"]) == ("m.onnx", "out.onnx", 0, None)
    result = one["result"]
    assert result["counts"] == {"found": 1, "folded": 1, "left": 0, "by_hand": NONE}
    assert result["written"] == "out.onnx"
    assert result["sha256"] == sha256(desk / "out.onnx")
    assert result["before"] == {"nodes": 3, "batch_norms": 1, "bytes": (desk / "m.onnx").stat().st_size}
    assert result["after"] == {"nodes": 2, "batch_norms": 0, "bytes": (desk / "out.onnx").stat().st_size}
    assert result["moves"][0]["homes"][0]["op"] == "Conv"
    assert result["refusals"] == []
    assert result["certificate"]["holds"] is True
    assert result["verdict"]["verdict"] == "same"
    assert result["verdict"]["executed"] is True
    assert len(result["verdict"]["end_to_end"]["comparisons"]) >= 3


def test_the_digits_model_keeps_its_accuracy(cli: Cli) -> None:
    answer = cli("fold", DIGITS, "-o", "out.onnx", "--data", DIGITS_DATA, "--format", "json")
    result = answer.json["models"][0]["result"]
    assert result["counts"] == {"found": 8, "folded": 8, "left": 0, "by_hand": NONE}
    accuracy = result["verdict"]["end_to_end"]["accuracy"]
    assert accuracy["samples"] == 360
    assert round(accuracy["before"] * 360) == round(accuracy["after"] * 360) == 354


def test_verbose_names_every_normalization_that_went_and_where(desk: Path) -> None:
    answer = run("fold", DIGITS, "-o", "out.onnx", *CERTIFICATE, "-v", cwd=desk)
    assert "BatchNormalization#25 '/hidden_bn/BatchNormalization' into Gemm#24 '/hidden/Gemm'" in answer.out
    assert answer.out.count(" into ") == 8
    assert "into" not in run("fold", DIGITS, "-o", "out.onnx", *CERTIFICATE, cwd=desk).out


def test_quiet_leaves_stdout_empty_and_the_work_done(cli: Cli) -> None:
    answer = cli("fold", "m.onnx", "-o", "out.onnx", "-q", *CERTIFICATE)
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert operators("out.onnx") == ["Conv", "Relu"]


def test_without_verification_the_report_says_so(cli: Cli) -> None:
    answer = cli("fold", "m.onnx", "-o", "out.onnx", "--verify", "off")
    assert answer.code == 0
    assert re.search(r"^  verified +no, as asked$", answer.out, re.MULTILINE)
    assert "certificate" not in answer.out


def test_what_stays_is_said_with_reason_and_remedy_and_is_no_failure(cli: Cli) -> None:
    answer = cli("fold", "two.onnx", "-o", "out.onnx", *CERTIFICATE)
    assert answer.code == 0
    assert "2 found, 1 folded, 1 left" in answer.out
    assert "1 x shift-stays:" in answer.out
    assert "remedy:" in answer.out
    assert operators("out.onnx") == ["Conv", "Relu", "BatchNormalization"]


def test_a_normalization_that_trains_stays_and_the_exit_code_is_0(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "training.onnx", "-o", "out.onnx")
    assert answer.code == 0
    assert "training-mode" in answer.out
    assert (desk / "out.onnx").read_bytes() == (desk / "training.onnx").read_bytes()


@pytest.mark.parametrize("empty", [1, 2, 4])
def test_empty_optional_outputs_of_a_normalization_are_no_outputs(cli: Cli, desk: Path, empty: int) -> None:
    model = parsed("(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) y = BatchNormalization(c,g,e,m,v) }", opset=13)
    model.graph.node[1].output.extend([""] * empty)
    onnx.save(model, desk / "empty.onnx")
    assert cli("fold", "empty.onnx", "-o", "out.onnx").code == 0
    assert operators("out.onnx") == ["Conv"]


# Exit code 1: what the caller asked to be told as a failure.


def test_check_writes_nothing_and_exits_1_when_something_would_fold(cli: Cli, desk: Path) -> None:
    before = {path: path.read_bytes() for path in desk.iterdir()}
    answer = cli("fold", "m.onnx", "--check")
    assert answer.code == 1
    assert "1 found, 1 to fold, 0 left" in answer.out
    assert {path: path.read_bytes() for path in desk.iterdir()} == before


@pytest.mark.parametrize("name", ["without", "blocked", "training"])
def test_check_exits_0_when_nothing_would_fold(cli: Cli, name: str) -> None:
    assert cli("fold", f"{name}.onnx", "--check").code == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--strict"], 1), (["--max-left", 0], 1), (["--max-left", 1], 0), (["--strict", "--max-left", 5], 1), ([], 0)],
)
def test_more_left_than_allowed_exits_1_and_the_model_is_there(cli: Cli, options: list[object], code: int) -> None:
    answer = cli("fold", "two.onnx", "-o", "out.onnx", *CERTIFICATE, *options, "--format", "json")
    assert answer.code == answer.json["exit_code"] == code
    assert operators("out.onnx") == ["Conv", "Relu", "BatchNormalization"]
    error = answer.json["models"][0]["error"]
    assert error == (None if code == 0 else {"kind": "BatchNormsLeft", "sentence": error["sentence"]})


# Where the model goes.


def test_a_model_on_stdout_is_exactly_the_bytes_of_the_file(desk: Path) -> None:
    to_file = run("fold", "m.onnx", "-o", "out.onnx", cwd=desk)
    piped = run("fold", "m.onnx", "-o", "-", cwd=desk)
    assert piped.code == 0
    assert piped.stdout == (desk / "out.onnx").read_bytes()
    assert piped.err.splitlines()[1:] == to_file.out.splitlines()[1:]


def test_the_report_beside_a_model_on_stdout_may_be_json(cli: Cli) -> None:
    answer = cli("fold", "m.onnx", "-o", "-", "--format", "json", *CERTIFICATE)
    result = json.loads(answer.err)["models"][0]["result"]
    assert hashlib.sha256(answer.stdout).hexdigest() == result["sha256"]
    assert result["written"] is None


def test_a_model_that_cannot_be_folded_leaves_stdout_empty(cli: Cli) -> None:
    refused(cli("fold", "missing.onnx", "-o", "-"), 3)


def test_nothing_to_fold_writes_the_bytes_of_the_input(cli: Cli, desk: Path) -> None:
    assert cli("fold", "without.onnx", "-o", "out.onnx").code == 0
    assert (desk / "out.onnx").read_bytes() == (desk / "without.onnx").read_bytes()
    assert cli("fold", "without.onnx", "-o", "-").stdout == (desk / "without.onnx").read_bytes()


@pytest.mark.parametrize("written", ["out/", "out/deeper/", "out"])
def test_one_model_goes_into_a_folder(cli: Cli, desk: Path, written: str) -> None:
    if written == "out":
        (desk / "out").mkdir()
    assert cli("fold", "m.onnx", "-o", written, *CERTIFICATE).code == 0
    assert operators(desk / written / "m.onnx") == ["Conv", "Relu"]


def test_several_models_go_into_a_folder_that_is_made(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "m.onnx", "two.onnx", "without.onnx", "-o", "some/where", *CERTIFICATE)
    assert answer.code == 0
    assert sorted(path.name for path in (desk / "some" / "where").iterdir()) == ["m.onnx", "two.onnx", "without.onnx"]
    assert answer.out.splitlines()[-1] == "3 models: 2 BatchNorms folded, 1 left"


def test_models_of_one_name_keep_the_folders_they_come_from(cli: Cli, desk: Path) -> None:
    for folder in ("a/x", "a/y", "b"):
        (desk / folder).mkdir(parents=True)
        shutil.copy(desk / "m.onnx", desk / folder / "m.onnx")
    shutil.copy(desk / "two.onnx", desk / "a" / "y" / "m.onnx")
    assert cli("fold", "a/x/m.onnx", "a/y/m.onnx", "b/m.onnx", "-o", "out", *CERTIFICATE).code == 0
    found = sorted(str(path.relative_to(desk / "out")) for path in (desk / "out").rglob("*.onnx"))
    assert found == ["a/x/m.onnx", "a/y/m.onnx", "b/m.onnx"]
    assert operators(desk / "out/a/y/m.onnx") == ["Conv", "Relu", "BatchNormalization"]


def test_one_bad_model_does_not_stop_the_others_and_the_most_severe_code_wins(cli: Cli, desk: Path) -> None:
    (desk / "broken.onnx").write_bytes(b"")
    answer = cli(
        "fold", "broken.onnx", "custom.onnx", "two.onnx", "m.onnx", "-o", "out", "--strict", "--format", "json"
    )  # fmt: skip
    assert answer.code == answer.json["exit_code"] == 3
    codes = {one["source"]: one["exit_code"] for one in answer.json["models"]}
    assert codes == {"broken.onnx": 3, "custom.onnx": 6, "two.onnx": 1, "m.onnx": 0}
    assert sorted(path.name for path in (desk / "out").iterdir()) == ["m.onnx", "two.onnx"]
    kinds = [one["error"] and one["error"]["kind"] for one in answer.json["models"]]
    assert kinds == ["InputRefused", "Undecided", "BatchNormsLeft", None]
    assert answer.json["models"][1]["verdict"]["verdict"] == "unknown"
    assert len(answer.err.splitlines()) == 2
    assert answer.err.startswith("bnfold: broken.onnx: ")


def test_a_bug_in_one_model_does_not_stop_the_others(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.api import folding  # noqa: PLC0415  # what is broken here

    plans = folding.make_plan

    def broken_for_two(graph, *rest, **named):
        if len(graph.nodes) == 4:
            raise ZeroDivisionError("met on purpose")
        return plans(graph, *rest, **named)

    monkeypatch.setattr(folding, "make_plan", broken_for_two)
    answer = cli("fold", "two.onnx", "m.onnx", "-o", "out", *CERTIFICATE, "--format", "json")
    assert answer.code == 70
    assert [one["exit_code"] for one in answer.json["models"]] == [70, 0]
    assert operators(desk / "out/m.onnx") == ["Conv", "Relu"]


def test_in_place_replaces_the_model_and_keeps_its_mode(cli: Cli, desk: Path) -> None:
    (desk / "m.onnx").chmod(0o640)
    was = (desk / "m.onnx").stat().st_ino
    answer = cli("fold", "m.onnx", "--in-place", *CERTIFICATE)
    assert answer.code == 0
    assert operators("m.onnx") == ["Conv", "Relu"]
    assert stat.S_IMODE((desk / "m.onnx").stat().st_mode) == 0o640
    assert (desk / "m.onnx").stat().st_ino != was, "another file took its name, rather than being overwritten"
    assert temporaries(desk) == []


@pytest.mark.parametrize("name", ["without", "blocked"])
def test_in_place_writes_nothing_where_nothing_folds(cli: Cli, desk: Path, name: str) -> None:
    path = desk / f"{name}.onnx"
    was = path.stat()
    assert cli("fold", path.name, "--in-place").code == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns)


def test_folding_twice_changes_nothing_the_second_time(cli: Cli, desk: Path) -> None:
    cli("fold", "two.onnx", "--in-place", *CERTIFICATE)
    once = (desk / "two.onnx").read_bytes()
    answer = cli("fold", "two.onnx", "--in-place", *CERTIFICATE)
    assert "1 found, 0 folded, 1 left" in answer.out
    assert (desk / "two.onnx").read_bytes() == once


def test_a_data_file_that_is_no_longer_named_stays_and_is_told(cli: Cli, desk: Path) -> None:
    onnx.save_model(foldable(), desk / "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    answer = cli("fold", "ext.onnx", "--in-place")
    assert answer.code == 0
    assert "w.bin stays, though the model no longer names it" in answer.out
    assert (desk / "w.bin").exists()
    assert onnx.load(desk / "ext.onnx").graph.initializer[0].raw_data


def test_a_model_with_external_data_is_folded_with_a_data_file_of_its_own(cli: Cli, desk: Path) -> None:
    onnx.save_model(foldable(), desk / "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    was = (desk / "w.bin").read_bytes()
    answer = cli("fold", "ext.onnx", "-o", "out/", "--format", "json")
    assert answer.code == 0
    assert sorted(path.name for path in (desk / "out").iterdir()) == ["ext.onnx", "ext.onnx.data"]
    assert (desk / "w.bin").read_bytes() == was
    assert cli("verify", "ext.onnx", "out/ext.onnx").code == 0


# Reports and certificates.


def test_reports_are_written_in_the_format_that_their_name_asks_for(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "m.onnx", "-o", "out.onnx", *CERTIFICATE, "--report", "r.json", "--report", "r.txt")
    assert json.loads((desk / "r.json").read_text())["models"][0]["result"]["counts"]["folded"] == 1
    assert (desk / "r.txt").read_text() == answer.out


def test_a_report_is_written_when_stdout_is_quiet_and_when_the_model_fails(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "missing.onnx", "-o", "out.onnx", "-q", "--report", "r.json")
    refused(answer, 3)
    assert json.loads((desk / "r.json").read_text())["models"][0]["error"]["kind"] == "InputRefused"


def test_a_certificate_names_both_files_by_their_hashes(cli: Cli, desk: Path) -> None:
    assert cli("fold", "m.onnx", "-o", "out.onnx", "--certificate", "c.json").code == 0
    certificate = json.loads((desk / "c.json").read_text())
    assert certificate["before"]["sha256"] == certificate["begins_at"] == sha256(desk / "m.onnx")
    assert certificate["after"]["sha256"] == sha256(desk / "out.onnx")
    assert certificate["holds"] is True
    assert [claim["site"]["op"] for claim in certificate["claims"]] == ["BatchNormalization"]
    assert certificate["homes"][0]["numbers"] == 4 * 4 * 3 + 4
    assert 0 < certificate["homes"][0]["worst"] <= 1


# The same input gives the same bytes.


def test_the_folded_bytes_do_not_depend_on_the_hash_seed(desk: Path) -> None:
    for seed in ("0", "1", "4242"):
        answer = run("fold", DIGITS, "-o", f"{seed}.onnx", "-q", *CERTIFICATE, cwd=desk, PYTHONHASHSEED=seed)
        assert answer.code == 0
    assert len({(desk / f"{seed}.onnx").read_bytes() for seed in ("0", "1", "4242")}) == 1


def test_the_same_seed_gives_the_same_json(desk: Path) -> None:
    arguments = ["fold", DIGITS, "-o", "out.onnx", "--format", "json", "--seed"]
    one, again, other = (run(*arguments, seed, cwd=desk) for seed in (7, 7, 8))
    assert one.code == other.code == 0
    assert one.stdout == again.stdout
    assert one.stdout != other.stdout


# Names from files, and terminals.

HOSTILE = "\x1b[31mred\x1b[0m\nsecond line"


def test_names_with_escape_sequences_and_newlines_are_printed_escaped(cli: Cli, desk: Path) -> None:
    model = parsed(
        "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) r = Relu(c) y = BatchNormalization(r,g,e,m,v) }"
    )
    for node in model.graph.node:
        node.name = HOSTILE
    onnx.save(model, desk / "hostile.onnx")
    for arguments in (["plan", "hostile.onnx", "-v"], ["fold", "hostile.onnx", "-o", "out.onnx", "-v"]):
        answer = cli(*arguments)
        assert answer.code == 0
        assert "\x1b" not in answer.out
        assert "\\x1b[31mred" in answer.out
        assert "\nsecond line" not in answer.out
    assert HOSTILE in cli("plan", "hostile.onnx", "--format", "json").json["plan"]["refusals"][0]["site"]["name"]


def test_a_file_name_with_an_escape_sequence_is_printed_escaped(cli: Cli, desk: Path) -> None:
    refused(cli("plan", f"{HOSTILE}.onnx"), 3, "\\x1b")
    shutil.copy(desk / "m.onnx", desk / f"{HOSTILE}.onnx")
    answer = cli("fold", f"{HOSTILE}.onnx", "-o", "out.onnx", *CERTIFICATE)
    assert answer.code == 0
    assert "\x1b" not in answer.out + answer.err


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color"}, {"TERM": "dumb"}])
def test_no_colour_and_no_spinner_reach_a_pipe(desk: Path, more: dict[str, str]) -> None:
    answer = run("fold", "m.onnx", "-o", "out.onnx", *CERTIFICATE, cwd=desk, **more)
    assert answer.code == 0
    assert "\x1b" not in answer.out + answer.err
    assert "\r" not in answer.out + answer.err


def test_a_size_given_for_a_dimension_takes_the_place_of_those_tried(cli: Cli) -> None:
    def batches(*options: str) -> set[str]:
        answer = cli("fold", "m.onnx", "-o", "out.onnx", "--format", "json", *options)
        end_to_end = answer.json["models"][0]["result"]["verdict"]["end_to_end"]
        return {comparison["batch"] for comparison in end_to_end["comparisons"]}

    assert "normal, free dimensions 2" in batches()
    assert batches("--dim", "N=3") == {"normal", "wide", "uniform"}


def test_data_of_the_user_are_run_besides_random_inputs(cli: Cli, desk: Path) -> None:
    np.savez(desk / "d.npz", x=np.ones((3, 4, 8), np.float32))
    answer = cli("fold", "m.onnx", "-o", "out.onnx", "--data", "d.npz", "--format", "json")
    with_data = answer.json["models"][0]["result"]["verdict"]["end_to_end"]["comparisons"]
    plain = cli("fold", "m.onnx", "-o", "out.onnx", "--format", "json")
    without = plain.json["models"][0]["result"]["verdict"]["end_to_end"]["comparisons"]
    assert len(with_data) > len(without)


def test_a_model_read_only_for_its_owner_in_a_read_only_folder_is_read(cli: Cli, desk: Path) -> None:
    folder = desk / "locked"
    folder.mkdir()
    shutil.copy(desk / "m.onnx", folder / "m.onnx")
    (folder / "m.onnx").chmod(0o400)
    folder.chmod(0o500)
    try:
        assert cli("fold", "locked/m.onnx", "-o", "out.onnx").code == 0
        assert [path.name for path in folder.iterdir()] == ["m.onnx"]
    finally:
        folder.chmod(0o700)


def test_a_model_whose_metadata_and_unknown_parts_matter_keeps_them(cli: Cli, desk: Path) -> None:
    model = foldable()
    model.metadata_props.add(key="classes", value="cat,dog")
    model.producer_name = "somebody"
    model.graph.node.append(helper.make_node("Identity", ["y"], ["unused"], doc_string="kept"))
    onnx.save(model, desk / "rich.onnx")
    assert cli("fold", "rich.onnx", "-o", "out.onnx").code == 0
    after = onnx.load(desk / "out.onnx")
    assert after.metadata_props == model.metadata_props
    assert after.producer_name == "somebody"
    assert after.graph.node[-1].doc_string == "kept"
