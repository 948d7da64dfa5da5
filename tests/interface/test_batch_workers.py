"""Several models at a time: the same bytes and the same report; who dies, hangs or is interrupted costs no other."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from batch_works import ByName
from command_line import ROOT, Answer, command, environment, refused, run, temporaries
from test_command_signals import alive, children, endless, wait_until

import bnfold
from bnfold.batch.work import Folding, Job, attempt
from bnfold.batch.workers import Ways, side_by_side
from bnfold.errors import bug
from bnfold.result import FoldResult

Cli = Callable[..., Answer]
on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

DIGITS = ("digits_cnn", "digits_mlp")


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A folder with another in it that has real models, and a broken one."""
    (tmp_path / "in").mkdir()
    for name in DIGITS:
        shutil.copy(ROOT / "models" / f"{name}.onnx", tmp_path / "in" / f"{name}.onnx")
    (tmp_path / "in" / "digits_broken.onnx").write_bytes(b"\x08")
    return tmp_path


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bytes_and_report_do_not_depend_on_the_number_of_jobs(digits: Path) -> None:
    answers, made = [], []
    for jobs in (1, 3):
        answers.append(run("fold", "in", "-o", "out", "-j", jobs, "--format", "json", cwd=digits))
        made.append(written(digits / "out"))
        shutil.rmtree(digits / "out")
    assert made[0] == made[1]
    assert set(made[0]) == {f"{name}.onnx" for name in DIGITS}
    assert answers[0] == answers[1]
    assert answers[0].code == 3
    assert [one["exit_code"] for one in answers[0].json["models"]] == [3, 0, 0]


@pytest.mark.usefixtures("desk")
def test_findings_and_models_left_are_told_across_processes(desk: Path) -> None:
    answer = run("validate", "m.onnx", "training.onnx", "-j", 2, "--format", "json", cwd=desk)
    assert [one["exit_code"] for one in answer.json["models"]] == [0, 1]
    assert answer.json["models"][1]["result"]["findings"][0]["code"] == "BN001"
    strict = ("--strict", "--verify", "off", "--format", "json")
    answer = run("fold", "m.onnx", "two.onnx", "-o", "out", "-j", 2, *strict, cwd=desk)
    assert [one["exit_code"] for one in answer.json["models"]] == [0, 1]
    assert answer.json["models"][1]["result"]["counts"]["left"] == 1
    assert answer.json["models"][1]["error"]["kind"] == "BatchNormsLeft"


# One of the models brings its process down.

ENDS = {
    "at once": (0, ""),
    "killed": (6, "the process that worked on it was ended from outside (SIGKILL), as for want of memory"),
    "crashed": (70, "this is a bug in bnfold: the process that worked on it crashed (SIGSEGV)"),
    "gone": (70, "this is a bug in bnfold: the process that worked on it crashed (exit status 0)"),
    "slow": (6, "it took longer than 2 s in all (--deadline)"),
    "odd": (70, "this is a bug in bnfold (TypeError: not to be pickled); -v prints the traceback"),
    "at last": (0, ""),
}


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_worker_that_dies_or_hangs_costs_its_model_alone() -> None:
    jobs = [Job(name, name) for name in ENDS]
    outcomes = dict(side_by_side(ByName(), jobs, Ways(2, deadline=2.0)))
    found = [outcomes[place] for place in range(len(jobs))]
    assert [one.source for one in found] == list(ENDS)
    said = {one.source: (one.exit_code, "" if one.error is None else str(one.error)) for one in found}
    assert said == ENDS
    assert (found[0].result, found[-1].result) == ("at once", "at last")


# What the function of --data does, it does in the worker, and once.

_ONCE = """
import os, signal, time
import numpy as np
def first():
    try:
        os.close(os.open("done", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
def data():
    if first(): {deed}
    return np.ones((2, 4, 8), "f")
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
def test_a_worker_that_is_killed_leaves_no_file(desk: Path) -> None:
    (desk / "once.py").write_text(_ONCE.format(deed="os.kill(os.getpid(), signal.SIGKILL)"))
    (desk / "tmp").mkdir()
    names = ["m.onnx", "two.onnx"]
    given = ["-o", "out", "-j", 2, "--data", "once:data", "--format", "json"]
    answer = run("fold", *names, *given, cwd=desk, TMPDIR=str(desk / "tmp"))
    codes = {one["source"]: one["exit_code"] for one in answer.json["models"]}
    assert (answer.code, list(codes), sorted(codes.values())) == (6, names, [0, 6])
    (bad,) = [one for one in answer.json["models"] if one["exit_code"]]
    assert answer.err == f"bnfold: {bad['source']}: {bad['error']['sentence']}\n"
    assert [path.name for path in (desk / "out").iterdir()] == [name for name in names if not codes[name]]
    assert list((desk / "tmp").iterdir()) == []


def test_a_deadline_holds_for_a_single_model_too(desk: Path) -> None:
    (desk / "once.py").write_text(_ONCE.format(deed="time.sleep(1000)"))
    answer = run("fold", "m.onnx", "-o", "out.onnx", "--data", "once:data", "--deadline", 2, cwd=desk)
    refused(answer, 6, "it took longer than 2 s in all (--deadline)")
    assert not (desk / "out.onnx").exists()
    assert temporaries(desk) == []


def test_a_model_that_onnxruntime_never_ends_is_undecided_and_the_others_go_on(desk: Path) -> None:
    onnx.save(endless(), desk / "endless.onnx")
    # The first one starts the process and is no slower for it; the other needs no onnxruntime.
    answer = run("fold", "endless.onnx", "without.onnx", "-o", "out", "--timeout", 4, "--format", "json", cwd=desk)
    assert [one["exit_code"] for one in answer.json["models"]] == [6, 0]
    assert answer.code == 6
    assert "longer than 4 s" in answer.json["models"][0]["error"]["sentence"]


# Ctrl-C.


@pytest.fixture
def working(desk: Path) -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """`bnfold fold -j 2` while both models are being verified, and all processes below it."""
    (desk / "in").mkdir()
    for name in ("one", "other"):
        onnx.save(endless(), desk / "in" / f"{name}.onnx")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    arguments = command("fold", "in", "-o", "out", "-j", "2")
    with subprocess.Popen(arguments, cwd=desk, env=environment(TMPDIR=str(desk)), **pipes) as process:
        try:
            wait_until(lambda: len(temporaries(desk / "out")) == 2 if (desk / "out").exists() else False, "both run")
            wait_until(lambda: len(below(process.pid)) >= 4, "onnxruntime runs")
            yield process, below(process.pid)
        finally:
            process.kill()


def below(pid: int) -> set[int]:
    """All processes below one."""
    found = children(pid)
    return found.union(*(below(child) for child in found))


@on_linux
@pytest.mark.parametrize(
    ("send", "sent", "code", "sentence"),
    [
        (os.killpg, signal.SIGINT, 130, b"bnfold: interrupted\n"),
        (os.kill, signal.SIGTERM, 143, b""),
    ],
    ids=["Ctrl-C of a terminal", "SIGTERM to one"],
)
def test_interrupted_it_leaves_no_process_and_no_file(  # noqa: PLR0913, PLR0917  # what is sent, and what comes of it
    working: tuple[subprocess.Popen[bytes], set[int]],
    desk: Path,
    send: Callable[[int, signal.Signals], None],
    sent: signal.Signals,
    code: int,
    sentence: bytes,
) -> None:
    process, workers = working
    send(process.pid, sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, b"", sentence)
    wait_until(lambda: not any(alive(pid) for pid in workers), "all workers have gone")
    assert temporaries(desk) == []
    assert list((desk / "out").iterdir()) == []


@on_linux
def test_killed_it_takes_its_workers_with_it(working: tuple[subprocess.Popen[bytes], set[int]], desk: Path) -> None:
    process, workers = working
    process.kill()
    wait_until(lambda: not any(alive(pid) for pid in workers), "all workers have gone")
    assert temporaries(desk / "out") == []


# What goes from one process to another.


def test_errors_keep_what_they_carry(desk: Path) -> None:
    with pytest.raises(bnfold.Undecided) as undecided:
        bnfold.fold(desk / "custom.onnx")
    with pytest.raises(bnfold.WouldFold) as would:
        bnfold.fold(desk / "m.onnx", check=True)
    would.value.result = would.value.result.without_model()
    for error in (undecided.value, would.value, bug(ValueError("x")), bnfold.UsageError("said")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__.keys() == error.__dict__.keys()
    assert pickle.loads(pickle.dumps(undecided.value)).verdict == undecided.value.verdict  # noqa: S301  # our own


def test_a_result_without_its_model_says_the_same_and_cannot_be_saved(desk: Path) -> None:
    result = bnfold.fold(desk / "m.onnx")
    light = result.without_model()
    again: FoldResult = pickle.loads(pickle.dumps(light))  # noqa: S301  # our own
    for one in (light, again):
        for name in ("sha256", "sha256_read", "before", "after", "verdict", "certificate", "is_unchanged"):
            assert getattr(one, name) == getattr(result, name), name
        assert one.plan.to_json() == result.plan.to_json()
        with pytest.raises(bnfold.UsageError, match="holds no model"):
            one.save(desk / "late.onnx")
        with pytest.raises(bnfold.UsageError, match="holds no model"):
            one.to_bytes()
    inserted = bnfold.insert(desk / "m.onnx", after=["Conv"], verify="off").without_model()
    with pytest.raises(bnfold.UsageError, match="holds no model"):
        inserted.save(desk / "late.onnx")


def test_no_model_is_held_once_it_is_done(desk: Path) -> None:
    outcome = attempt(Folding(bnfold.fold), Job("m.onnx", str(desk / "m.onnx")), lambda _: None)
    assert outcome.result is not None
    with pytest.raises(bnfold.UsageError, match="holds no model"):
        outcome.result.to_bytes()


def test_a_bug_in_one_model_is_its_own(desk: Path) -> None:
    def broken(*_: object, **__: object) -> FoldResult:
        raise ZeroDivisionError("met on purpose")

    outcome = attempt(Folding(broken), Job("m.onnx", str(desk / "m.onnx")), lambda _: None)
    assert (outcome.exit_code, outcome.result) == (70, None)
    assert "ZeroDivisionError: met on purpose" in str(outcome.error)
