"""commands/wrong_folds.py: what it prints, its exit codes, and the tools of another Python."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from cases import COMBINATIONS, Finding, right
from peers import PeerFailed, Peers, ratio

sys.path.insert(0, str(Path(__file__).parents[1] / "commands"))
import wrong_folds  # a command, which stands beside the tests

SMALL = ("--deepest", "4", "--jobs", "1")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["wrong_folds.py", *arguments, *SMALL])
    return wrong_folds.main()


def answering(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """Every case is found to be `word`, without running it."""
    found = Finding(0, "beta lost", "conv", ("one layer",), word, "why")
    monkeypatch.setattr(wrong_folds, "run", lambda task: replace(found, seed=task.seed))


def test_wrong_folds_that_are_caught_end_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "--count", "2") == 0
    printed = capsys.readouterr().out
    assert "| all kinds |" in printed
    assert "2 of 2 caught." in printed


@pytest.mark.parametrize("word", ["same", "unknown", "error", "not drawn"])
def test_a_wrong_fold_that_is_not_called_different_ends_with_1_and_its_seed(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, word)
    assert ended(monkeypatch, "--only", "77") == 1
    assert f"- 77 (beta lost, conv; one layer): {word}, why" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "code"),
    [("same", 0), ("unknown", 0), ("peer wrong: differs", 0), ("peer failed", 0),
     ("differs", 1), ("error", 1), ("not drawn", 1)],
)  # fmt: skip
def test_a_correct_fold_that_is_rejected_ends_with_1(word: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, word)
    assert ended(monkeypatch, "--correct", "3") == code


def test_a_kind_and_a_family_choose_among_the_seeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, "differs")
    every = str(len(COMBINATIONS))
    assert ended(monkeypatch, "--count", every, "--family", "depthwise", "--kind", "groups mixed") == 0
    assert "1 of 1 caught." in capsys.readouterr().out
    assert ended(monkeypatch, "--count", every, "--family", "gemm", "--kind", "groups mixed") == 2


def test_both_models_of_a_seed_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ended(monkeypatch, "--correct", "0", "--only", "1", "--kind", "bias in an Add", "--save", str(tmp_path)) == 0
    before, after = (onnx.load(tmp_path / f"1_{which}.onnx") for which in ("before", "after"))
    assert any(node.op_type == "BatchNormalization" for node in before.graph.node)
    assert not any(node.op_type == "BatchNormalization" for node in after.graph.node)


def test_a_tool_that_cannot_be_imported_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    found = wrong_folds.peers_there(sys.executable)
    assert "onnxruntime BASIC" in found
    missing = {"onnxsim", "onnxslim", "onnxscript", "onnxoptimizer"} - set(found)
    assert capsys.readouterr().out.count("NOT TESTED") == len(missing)


def test_a_peer_rewrites_and_its_result_is_judged_without_the_verifier() -> None:
    case = right(2, deepest=4, kind="BN's name kept")
    feeds = case.feeds()
    assert feeds is not None
    with Peers(sys.executable) as peers:
        rewritten = peers.rewritten("onnxruntime BASIC", case.before)
        assert not any(node.op_type == "BatchNormalization" for node in rewritten.graph.node)
        assert peers.right(case.before, rewritten, feeds)
        assert peers.right_when_run(case.before, rewritten)
        off = onnx.ModelProto()
        off.CopyFrom(case.before)
        norm = next(node for node in off.graph.node if node.op_type == "BatchNormalization")
        norm.attribute[0].f *= 100
        assert ratio(case.before, off, feeds) > 10
        assert not peers.right_when_run(case.before, off)


def test_a_peer_that_fails_or_dies_is_no_rejection(tmp_path: Path) -> None:
    (tmp_path / "dies").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "dies").chmod(0o755)
    with Peers(str(tmp_path / "dies")) as peers, pytest.raises(PeerFailed, match="ended its process"):
        peers.tools()
    with Peers(sys.executable) as peers:
        with pytest.raises(PeerFailed, match="onnxruntime BASIC: "):
            peers.rewritten("onnxruntime BASIC", onnx.ModelProto())
        assert "onnxruntime BASIC" in peers.tools()[0], "the process serves the next request"
