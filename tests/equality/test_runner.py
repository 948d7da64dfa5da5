from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from bnfold.equality.runner import CannotRun, Limits, Runner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOUBLE = "(float[N] x) => (float[N] y) { y = Add (x, x) }"
ENDLESS = """(float[1] x) => (float[1] y) <int64 most = {9223372036854775807}, bool go = {1}> {
  y = Loop (most, go, x) <body = b (int64 i, bool c, float[1] a) => (bool d, float[1] e) {
    d = Identity (c)
    e = Add (a, a)
  }>
}"""
ONES = np.ones(3, dtype=np.float32)

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of processes are POSIX's")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not _alive(pid)


def test_outputs_come_back_by_name(runner: Runner, write: Callable[..., Path]) -> None:
    outputs = runner.run(
        write("(float[N] x, float[] s) => (float[N] y, float[] t) { y = Mul (x, s) t = Neg (s) }"),
        {"x": ONES, "s": np.array(2, np.float32)},
    )
    assert list(outputs) == ["y", "t"]
    assert outputs["y"].tolist() == [2, 2, 2]
    assert outputs["t"].shape == ()


def test_a_signature_leaves_initializers_out(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(float[N,2] x, float[2] w) => (float[N,2] y) <float[2] w = {1,2}> { y = Add (x, w) }")
    signature = runner.signature(path)
    assert [(port.name, port.type, port.shape) for port in signature.inputs] == [("x", "tensor(float)", ("N", 2))]
    assert [port.name for port in signature.overridable] == ["w"]


@pytest.mark.parametrize("element", ["bool", "int8", "uint16", "int64", "float16", "double", "float"])
def test_every_type_survives_the_pipe(element: str, runner: Runner, write: Callable[..., Path]) -> None:
    dtype = {"double": "float64", "float": "float32"}.get(element, element)
    value = np.array([[0, 1, 1]]).astype(dtype)
    output = runner.run(write(f"({element}[1,3] x) => ({element}[1,3] y) {{ y = Identity (x) }}"), {"x": value})["y"]
    assert output.dtype == value.dtype
    assert np.array_equal(output, value)


def test_bfloat16_survives_the_pipe(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(float[3] x) => (bfloat16[3] y) { y = Cast <to = 16> (x) }")
    output = runner.run(path, {"x": 1.5 * ONES})["y"]
    assert output.dtype.name == "bfloat16"
    back = write("(bfloat16[3] x) => (float[3] y) { y = Cast <to = 1> (x) }", "back.onnx")
    assert runner.run(back, {"x": output})["y"].tolist() == [1.5, 1.5, 1.5]


def test_sequences_are_flattened_and_strings_kept(runner: Runner, write: Callable[..., Path]) -> None:
    pair = write("(float[N] x) => (seq(float[N]) y) { z = Neg (x) y = SequenceConstruct (x, z) }")
    assert {name: value.tolist() for name, value in runner.run(pair, {"x": ONES}).items()} == {
        "y[0]": [1, 1, 1],
        "y[1]": [-1, -1, -1],
    }
    text = write("(int64[2] x) => (string[2] y) { y = Cast <to = 8> (x) }", "text.onnx")
    assert runner.run(text, {"x": np.array([7, 8])})["y"].tolist() == ["7", "8"]


def test_empty_and_transposed_feeds(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(float[A,B] x) => (float[A,B] y) { y = Identity (x) }")
    assert runner.run(path, {"x": np.zeros((0, 3), np.float32)})["y"].shape == (0, 3)
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert np.array_equal(runner.run(path, {"x": values})["y"], values)


def test_one_child_serves_many_requests(write: Callable[..., Path]) -> None:
    path = write(DOUBLE)
    with Runner() as runner:
        runner.run(path, {"x": ONES})
        first = runner._child
        runner.run(path, {"x": ONES})
        assert runner._child is first


def test_a_rewritten_file_is_read_again(runner: Runner, write: Callable[..., Path]) -> None:
    assert runner.run(write(DOUBLE), {"x": ONES})["y"].tolist() == [2, 2, 2]
    path = write("(float[N] x) => (float[N] y) { y = Sub (x, x) }")
    assert runner.run(path, {"x": ONES})["y"].tolist() == [0, 0, 0]


def test_runs_are_bit_reproducible_over_threads_and_processes(write: Callable[..., Path]) -> None:
    random = np.random.default_rng(0)
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,16,20,20] x) => (float[N,M,P,Q] y) { y = Conv (x, w) }'
    )
    model.graph.initializer.append(
        numpy_helper.from_array(random.standard_normal((32, 16, 3, 3)).astype(np.float32), "w")
    )
    path, feeds = write(model), {"x": random.standard_normal((2, 16, 20, 20)).astype(np.float32)}
    results = []
    for threads in (1, 2, 3):
        with Runner(Limits(threads=threads)) as runner:
            results.append(runner.run(path, feeds)["y"].tobytes())
    assert len(set(results)) == 1


def test_nothing_reaches_our_output(write: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    with Runner() as runner, pytest.raises(CannotRun):
        runner.run(write("(float[N] x) => (float[N] y) { y = NoSuchOperator (x) }"), {"x": ONES})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"garbage", b"\x0a", b"\x3a\xff\xff\xff\x0f"])
def test_a_file_that_is_no_model_is_refused(content: bytes, runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(content)
    with pytest.raises(CannotRun, match="Protobuf parsing failed") as caught:
        runner.run(tmp_path / "garbage.onnx", {})
    assert caught.value.kind == "refused"
    assert str(tmp_path) not in caught.value.sentence


def test_a_missing_file_is_refused(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="cannot be read") as caught:
        runner.run(tmp_path / "none.onnx", {})
    assert caught.value.kind == "refused"


def test_a_refusal_is_one_printable_line(runner: Runner, write: Callable[..., Path]) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = NoSuchOperator (x) }'
    )
    model.graph.node[0].name = "a\x1b[31m\nb" * 200
    with pytest.raises(CannotRun) as caught:
        runner.run(write(model), {"x": ONES})
    assert caught.value.sentence.isprintable()
    assert len(caught.value.sentence) <= 300


def test_a_missing_kernel_is_refused(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(double[1,1,3,3] x) => (double[1,1,3,3] y) <double[1,1,1,1] w = {1.0}> { y = Conv (x, w) }")
    with pytest.raises(CannotRun, match="NOT_IMPLEMENTED: Could not find an implementation for Conv") as caught:
        runner.run(path, {"x": np.ones((1, 1, 3, 3))})
    assert caught.value.kind == "refused"


@pytest.mark.parametrize("feeds", [{}, {"z": ONES}, {"x": ONES.astype(np.int64)}, {"x": np.ones((2, 2), np.float32)}])
def test_wrong_feeds_are_refused(feeds: dict[str, np.ndarray], runner: Runner, write: Callable[..., Path]) -> None:
    with pytest.raises(CannotRun) as caught:
        runner.run(write(DOUBLE), feeds)
    assert caught.value.kind == "refused"


def test_an_unknown_provider_is_refused(write: Callable[..., Path]) -> None:
    with Runner(provider="NoSuchProvider") as runner, pytest.raises(CannotRun, match="has no NoSuchProvider"):
        runner.run(write(DOUBLE), {"x": ONES})


@posix
def test_a_killed_child_is_a_crash_and_the_next_request_works(write: Callable[..., Path]) -> None:
    endless, double = write(ENDLESS), write(DOUBLE, "double.onnx")
    with Runner() as runner:
        runner.run(double, {"x": ONES})
        assert runner._child is not None
        threading.Timer(0.3, os.kill, (runner._child.pid, signal.SIGKILL)).start()
        with pytest.raises(CannotRun, match="SIGKILL") as caught:
            runner.run(endless, {"x": ONES[:1]})
        assert caught.value.kind == "crash"
        assert runner.run(double, {"x": ONES})["y"].tolist() == [2, 2, 2]


@posix
def test_a_child_that_dies_idle_is_replaced(write: Callable[..., Path]) -> None:
    path = write(DOUBLE)
    with Runner() as runner:
        runner.run(path, {"x": ONES})
        assert runner._child is not None
        os.kill(runner._child.pid, signal.SIGKILL)
        runner._child.wait()
        assert runner.run(path, {"x": ONES})["y"].tolist() == [2, 2, 2]


@posix
def test_a_timeout_ends_the_child(write: Callable[..., Path]) -> None:
    endless, double = write(ENDLESS), write(DOUBLE, "double.onnx")
    with Runner(Limits(timeout=3.0)) as runner:
        runner.run(double, {"x": ONES})
        assert runner._child is not None
        pid = runner._child.pid
        with pytest.raises(CannotRun, match="longer than 3 s") as caught:
            runner.run(endless, {"x": ONES[:1]})
        assert caught.value.kind == "timeout"
        assert not _alive(pid)
        assert runner.run(double, {"x": ONES})["y"].tolist() == [2, 2, 2]


@posix
def test_processor_time_is_limited_too(write: Callable[..., Path]) -> None:
    with Runner(Limits(timeout=60.0, cpu=1.0)) as runner, pytest.raises(CannotRun, match="processor time") as caught:
        runner.run(write(ENDLESS), {"x": ONES[:1]})
    assert caught.value.kind == "timeout"


@posix
@pytest.mark.parametrize("size", [1 << 40, 1 << 33])
def test_memory_is_limited(size: int, write: Callable[..., Path]) -> None:
    path = write("(int64[1] x) => (float[n] y) { y = ConstantOfShape (x) }")
    with Runner(Limits(memory=4 << 30)) as runner:
        with pytest.raises(CannotRun, match="memory") as caught:
            runner.run(path, {"x": np.array([size])})
        assert caught.value.kind == "memory"
        assert runner.run(path, {"x": np.array([2])})["y"].tolist() == [0, 0]


@posix
def test_the_default_limit_stops_what_no_machine_holds(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(int64[1] x) => (float[n] y) { y = ConstantOfShape (x) }")
    with pytest.raises(CannotRun) as caught:
        runner.run(path, {"x": np.array([1 << 40])})
    assert caught.value.kind == "memory"


@posix
@pytest.mark.parametrize("running", [True, False])
def test_ctrl_c_leaves_no_child(running: bool, write: Callable[..., Path]) -> None:
    script = f"""
import sys, time
import numpy as np
from pathlib import Path
from bnfold.equality.runner import Runner
with Runner() as runner:
    runner.signature(Path({str(write(DOUBLE, "double.onnx"))!r}))
    print(runner._child.pid, flush=True)
    if {running}:
        runner.run(Path({str(write(ENDLESS))!r}), {{"x": np.ones(1, np.float32)}})
    time.sleep(60)
"""
    with _python(script) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=20)
    assert parent.returncode != 0
    assert _gone(pid)


@posix
def test_a_child_whose_parent_was_killed_ends(write: Callable[..., Path]) -> None:
    script = f"""
import time
from pathlib import Path
from bnfold.equality.runner import Runner
runner = Runner()
runner.signature(Path({str(write(DOUBLE))!r}))
print(runner._child.pid, flush=True)
time.sleep(60)
"""
    with _python(script) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.communicate(timeout=20)
    assert _gone(pid)


@posix
def test_a_forgotten_runner_ends_its_child(write: Callable[..., Path]) -> None:
    runner = Runner()
    runner.signature(write(DOUBLE))
    assert runner._child is not None
    pid = runner._child.pid
    del runner
    assert not _alive(pid)


def test_closing_twice_is_harmless(write: Callable[..., Path]) -> None:
    runner = Runner()
    runner.close()
    runner.signature(write(DOUBLE))
    runner.close()
    runner.close()


def test_the_working_directory_hides_no_module(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit(9)")
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    path = write(DOUBLE)
    here = os.getcwd()  # noqa: PTH109  # the counterpart of chdir
    os.chdir(tmp_path)
    try:
        with Runner() as runner:
            assert runner.run(path, {"x": ONES})["y"].tolist() == [2, 2, 2]
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("verdict", ("onnx", "onnxruntime", "numpy")),
        ("runner", ("onnx", "onnxruntime")),
        ("child", ("onnx", "onnxruntime")),
        ("end_to_end", ("onnxruntime",)),
    ],
)
def test_what_a_module_does_not_import(module: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, bnfold.equality.{module}; print([name for name in {absent!r} if name in sys.modules])"
    with _python(script) as parent:
        out, _ = parent.communicate(timeout=60)
    assert out == b"[]\n"


def _python(script: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def test_external_data_are_found_beside_the_model(runner: Runner, tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[3] x) => (float[3] y) { y = Add (x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(ONES, "w"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.bin")
    assert runner.run(tmp_path / "m.onnx", {"x": ONES})["y"].tolist() == [2, 2, 2]
    moved = runner.run(tmp_path / "m.onnx", {"x": 0 * ONES}, perturb=1)["y"]
    assert 0 < np.abs(moved - 1).max() <= 2.0**-23


def test_onnxruntime_reports_nothing_to_anybody(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(DOUBLE)
    (path.parent / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(path.parent / "tmp"))
    with Runner() as runner:
        runner.run(path, {"x": ONES})
    assert list((path.parent / "tmp").iterdir()) == []  # its telemetry would have left its mark


@posix
def test_mapped_data_of_one_model_make_way_for_those_of_another(tmp_path: Path) -> None:
    size = 1 << 30
    for name in ("one", "other"):
        model = parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (int64 i) => (float[4] y) { y = Gather (table, i) }'
        )
        table = model.graph.initializer.add(name="table", data_type=1, dims=[size // 16, 4], data_location=1)
        for key, value in (("location", f"{name}.data"), ("offset", "0"), ("length", str(size))):
            table.external_data.add(key=key, value=value)
        onnx.save(model, tmp_path / f"{name}.onnx")
        with (tmp_path / f"{name}.data").open("wb") as file:
            file.truncate(size)
    with Runner(Limits(memory=size * 15 // 8)) as runner:
        for name in ("one", "other", "one"):
            assert runner.run(tmp_path / f"{name}.onnx", {"i": np.array(3)})["y"].tolist() == [0] * 4
    with Runner(Limits(memory=size)) as runner, pytest.raises(CannotRun) as caught:
        runner.run(tmp_path / "one.onnx", {"i": np.array(3)})
    assert caught.value.kind == "memory"
