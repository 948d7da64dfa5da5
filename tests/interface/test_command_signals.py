"""Ctrl-C, SIGTERM and kill -9 at a running fold: no file is lost, none is left over, no process lives on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import command, environment, parsed, run, temporaries
from differing import difference
from onnx import numpy_helper

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="these tests look for child processes in /proc, which is Linux's"
)

PATIENCE = 60.0


def endless() -> onnx.ModelProto:
    """A foldable model that onnxruntime is busy with for a long time."""
    return parsed(
        "(float[1,4,8] x) => (float[1,4,6] y) <int64 trips = {1000000000}, bool go = {1}> "
        "{ c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) y = Loop(trips, go, n) "
        "<body = b (int64 i, bool on, float[1,4,6] a) => (bool more, float[1,4,6] o) "
        "{ more = Identity(on) o = Neg(a) }> }"
    )


def children(pid: int) -> set[int]:
    found = set()
    # Not by glob: that fails when a process ends while it looks.
    for stat in [folder / "stat" for folder in Path("/proc").iterdir() if folder.name.isdecimal()]:
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


@pytest.fixture
def folding(desk: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`bnfold fold --in-place` in the middle of its verification: the candidate is there, and so is the child."""
    onnx.save(endless(), desk / "endless.onnx")
    arguments = command("fold", "endless.onnx", "--in-place")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=desk, env=environment(), **pipes) as process:
        try:
            wait_until(lambda: bool(temporaries(desk)) and bool(children(process.pid)), "the verification runs")
            yield process
        finally:
            process.kill()


INTERRUPTED_IN_TEXT = r"""
import bnfold.cli

def run(arguments):
    try:
        exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**7): pass")
    except KeyboardInterrupt:
        return bnfold.cli.INTERRUPTED

bnfold.cli._run = run
bnfold.cli.main()
"""


def test_an_interrupt_while_a_class_is_being_made_ends_by_its_code_too(tmp_path: Path) -> None:
    """A dataclass is text that Python runs: an interrupt in there would end the process by SIGINT, and not by 130."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_IN_TEXT)
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, env=environment(), check=False)
    assert done.returncode == 130


@pytest.mark.parametrize(
    ("sent", "code", "sentence"),
    [(signal.SIGINT, 130, b"bnfold: interrupted\n"), (signal.SIGTERM, 143, b""), (signal.SIGHUP, 129, b"")],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_ends_a_fold_without_a_trace(
    folding: subprocess.Popen[bytes], desk: Path, sent: signal.Signals, code: int, sentence: bytes
) -> None:
    was = (desk / "endless.onnx").read_bytes()
    served_by = children(folding.pid)
    folding.send_signal(sent)
    out, err = folding.communicate(timeout=PATIENCE)
    assert (folding.returncode, out, err) == (code, b"", sentence)
    assert temporaries(desk) == []
    assert (desk / "endless.onnx").read_bytes() == was
    wait_until(lambda: not any(alive(pid) for pid in served_by), "the child has gone")


def test_a_signal_to_both_processes_as_a_terminal_sends_it_ends_both(desk: Path) -> None:
    onnx.save(endless(), desk / "endless.onnx")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    arguments = command("fold", "endless.onnx", "-o", "out.onnx")
    with subprocess.Popen(arguments, cwd=desk, env=environment(), **pipes) as process:
        try:
            wait_until(lambda: bool(temporaries(desk)) and bool(children(process.pid)), "the verification runs")
            served_by = children(process.pid)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, b"", b"bnfold: interrupted\n")
    assert temporaries(desk) == []
    assert not (desk / "out.onnx").exists()
    wait_until(lambda: not any(alive(pid) for pid in served_by), "the child has gone")


def test_the_child_of_a_killed_fold_ends_with_it_long_before_its_limits(desk: Path) -> None:
    onnx.save(endless(), desk / "endless.onnx")
    was = (desk / "endless.onnx").read_bytes()
    arguments = command("fold", "endless.onnx", "--in-place", "--timeout", "3000")
    with subprocess.Popen(arguments, cwd=desk, env=environment()) as process:
        try:
            wait_until(lambda: bool(temporaries(desk)) and bool(children(process.pid)), "the verification runs")
            (child,) = children(process.pid)
        finally:
            process.kill()  # else leaving the block would wait for a fold that takes hours
    wait_until(lambda: not alive(child), "the child has gone")
    assert (desk / "endless.onnx").read_bytes() == was


def test_a_fold_under_nohup_outlives_its_terminal(desk: Path) -> None:
    onnx.save(endless(), desk / "endless.onnx")
    arguments = ["nohup", *command("fold", "endless.onnx", "-o", "out.onnx", "--timeout", "2")]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=desk, env=environment(), **pipes) as process:
        try:
            wait_until(lambda: bool(temporaries(desk)) and bool(children(process.pid)), "the verification runs")
            process.send_signal(signal.SIGHUP)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, b"took longer than 2 s" in err) == (6, True)


# The copy with perturbed constants, which takes as much room as the weights.

VAST = 3 << 29
"""Bytes of zeros in a file that takes no room: a second or two to perturb."""


def vast(folder: Path, name: str, factor: float) -> None:
    """A model that reads a vast table; two of them with almost the same factor are apart by more than rounding."""
    model = parsed("(float[N,4] x, int64 i) => (float[N,4] y) { r = Gather(table,i) k = Mul(x,factor) y = Add(k,r) }")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    table = model.graph.initializer.add(name="table", data_type=1, dims=[VAST // 16, 4], data_location=1)
    for key, value in (("location", f"{name}.data"), ("offset", "0"), ("length", str(VAST))):
        table.external_data.add(key=key, value=value)
    onnx.save(model, folder / f"{name}.onnx")
    with (folder / f"{name}.data").open("wb") as file:
        file.truncate(VAST)


@pytest.fixture
def perturbing(desk: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`bnfold verify` while its child writes a perturbed copy, and the folder for temporary files."""
    vast(desk, "one", 1.0)
    vast(desk, "other", 1 + 10 * 2.0**-23)
    scratch = desk / "tmp"
    scratch.mkdir()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    arguments = command("verify", "one.onnx", "other.onnx")
    with subprocess.Popen(arguments, cwd=desk, env=environment(TMPDIR=str(scratch)), **pipes) as process:
        try:
            wait_until(lambda: any(scratch.glob("*/*.data")), "the copy is being written")
            yield process, scratch
        finally:
            process.kill()


# To bnfold alone, to it and its child as a terminal sends it, and where neither lives to tidy up after the other.
ALONE = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
TOGETHER = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(
    ("send", "sent", "code"), [(os.kill, *case) for case in ALONE] + [(os.killpg, *case) for case in TOGETHER]
)
def test_no_perturbed_copy_outlives_a_signal(
    perturbing: tuple[subprocess.Popen[bytes], Path],
    send: Callable[[int, signal.Signals], None],
    sent: signal.Signals,
    code: int,
) -> None:
    process, scratch = perturbing
    (child,) = children(process.pid)
    send(process.pid, sent)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    wait_until(lambda: not alive(child), "the child has gone")
    assert list(scratch.iterdir()) == []


def large(size: int) -> onnx.ModelProto:
    """A foldable model of `size` bytes that takes a moment to write."""
    model = parsed("(float[1,4,8] x) => (float[1,4,6] y) { c = Conv(x,w) y = BatchNormalization(c,g,e,m,v) }")
    filler = np.arange(size // 4, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(filler, "filler"))
    return model


# Kills bnfold by itself, the moment after the given line of `publish` was reached: nothing could be timed better.
_KILLED_AT = """
import os, signal, sys
from pathlib import Path
from bnfold.model import publish, writing
step, place = sys.argv[1], int(sys.argv[2])
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
if step == "write":
    write, count = writing._write_all, [0]
    def stopping(stream, block):
        write(stream, memoryview(block)[: len(block) // 2])
        count[0] += 1
        if count[0] > place: kill()
        write(stream, memoryview(block)[len(block) // 2 :])
    writing._write_all = stopping
elif step == "flush":
    flush = publish._flush
    publish._flush = lambda path: (kill() if place == 0 else flush(path), kill())
elif step == "rename":
    rename = Path.replace
    Path.replace = lambda self, target: (kill() if place == 0 else rename(self, target), kill())
from bnfold.cli import main
main(["fold", "large.onnx", "--in-place", "--verify", "certificate", "-q"])
"""


@pytest.mark.parametrize(
    ("step", "place", "survives"),
    [
        ("write", 0, "old"),
        ("write", 2, "old"),
        ("flush", 0, "old"),
        ("flush", 1, "old"),
        ("rename", 0, "old"),
        ("rename", 1, "new"),
    ],
)
def test_a_fold_killed_at_any_step_of_writing_leaves_one_whole_file(
    desk: Path, step: str, place: int, survives: str
) -> None:
    old, new = versions(desk)
    killed = [sys.executable, "-c", _KILLED_AT, step, str(place)]
    assert subprocess.run(killed, cwd=desk, env=environment(), check=False).returncode == -signal.SIGKILL
    assert not difference((desk / "large.onnx").read_bytes(), {"old": old, "new": new}[survives])
    assert run("fold", "large.onnx", "--in-place", "--verify", "off", "-q", cwd=desk).code == 0
    assert not difference((desk / "large.onnx").read_bytes(), new)


def versions(desk: Path) -> tuple[bytes, bytes]:
    """large.onnx as it is, and as it will be."""
    onnx.save(large(8 << 20), desk / "large.onnx")
    assert run("fold", "large.onnx", "-o", "new.onnx", "--verify", "off", "-q", cwd=desk).code == 0
    return (desk / "large.onnx").read_bytes(), (desk / "new.onnx").read_bytes()


def test_a_fold_killed_at_a_random_moment_leaves_the_old_file_or_the_new_one(desk: Path) -> None:
    old, new = versions(desk)
    moments = random.Random(7)
    began = time.monotonic()
    assert run("fold", "large.onnx", "--check", "-q", cwd=desk).code == 1
    usual = time.monotonic() - began
    codes, found = set(), set()
    for _ in range(8):
        (desk / "large.onnx").write_bytes(old)
        arguments = command("fold", "large.onnx", "--in-place", "--verify", "off", "-q")
        with subprocess.Popen(arguments, cwd=desk, env=environment()) as process:
            time.sleep(usual * moments.uniform(0.5, 1.3))
            process.kill()
            codes.add(process.wait())
        found.add({old: "old", new: "new"}.get((desk / "large.onnx").read_bytes(), "neither"))
    assert "neither" not in found
    assert codes <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in codes
