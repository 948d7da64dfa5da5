"""--data in all its forms, from the command line and from Python; and reports that are the same bytes every time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Answer, parsed, refused, run
from onnx import numpy_helper

import bnfold

Cli = Callable[..., Answer]

X = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
LOADING = """
import numpy as np

X = np.ones((2, 4, 8), np.float32)


def batches():
    print("loading")
    yield {"x": X}
    yield {"x": 2 * X}


def wrong():
    return {"z": X, "u": X}


def broken():
    raise OSError("the disk\\nis gone")


def leaving():
    raise SystemExit(0)
"""


@pytest.fixture
def supplies(desk: Path) -> Iterator[Path]:
    """The folder `desk` with data of every kind in it; what it imports is forgotten again."""
    np.savez(desk / "d.npz", x=X)
    np.save(desk / "d.npy", X)
    (desk / "folder").mkdir()
    np.save(desk / "folder" / "a.npy", X)
    (desk / "sets" / "test_data_set_0").mkdir(parents=True)
    shipped = bnfold.fold("m.onnx", verify="off").to_proto()
    assert shipped.graph.output[0].name == "y"
    (desk / "sets" / "test_data_set_0" / "input_0.pb").write_bytes(numpy_helper.from_array(X).SerializeToString())
    answers = numpy_helper.from_array(np.zeros((3, 4, 6), np.float32))
    (desk / "sets" / "test_data_set_0" / "output_0.pb").write_bytes(answers.SerializeToString())
    (desk / "loading_for_tests.py").write_text(LOADING)
    yield desk
    sys.modules.pop("loading_for_tests", None)


FORMS = {
    "d.npz": ["data 0..2"],
    "d.npy": ["data 0..2"],
    "folder": ["a.npy 0..2"],
    "sets": ["test_data_set_0"],
    "sets/test_data_set_0": ["test_data_set_0"],
    "loading_for_tests:batches": ["batches[0] 0..1", "batches[1] 0..1"],
}


def batches_of(verdict: dict[str, object]) -> list[str]:
    return [comparison["batch"] for comparison in verdict["end_to_end"]["comparisons"]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("supplies")
def test_every_form_of_data_is_run_beside_random_inputs(cli: Cli, form: str) -> None:
    answer = cli("verify", "m.onnx", "m.onnx", "--data", form, "--format", "json")
    assert answer.code == 0
    assert batches_of(answer.json)[4:] == FORMS[form]


@pytest.mark.usefixtures("supplies")
def test_fold_takes_data_as_verify_does(cli: Cli) -> None:
    folded = cli("fold", "m.onnx", "-o", "out.onnx", "--data", "loading_for_tests:batches", "--format", "json")
    assert folded.code == 0
    assert batches_of(folded.json["models"][0]["result"]["verdict"])[4:] == FORMS["loading_for_tests:batches"]


@pytest.mark.usefixtures("supplies")
def test_what_a_function_prints_does_not_reach_the_answer(cli: Cli) -> None:
    answer = cli("verify", "m.onnx", "m.onnx", "--data", "loading_for_tests:batches")
    assert "loading" not in answer.out
    assert answer.err == "loading\n"
    piped = cli("fold", "m.onnx", "-o", "-", "--data", "loading_for_tests:batches")
    assert onnx.load_model_from_string(piped.stdout).graph.node


@pytest.mark.usefixtures("supplies")
def test_shipped_outputs_are_reported(cli: Cli) -> None:
    answer = cli("verify", "m.onnx", "m.onnx", "--data", "sets")
    assert "note        the shipped outputs of test_data_set_0: both models are off by relative L2" in answer.out


MISTAKES = {
    "a folder with nothing": ("empty", "empty: holds neither .npy nor .npz files nor a test_data_set_0"),
    "a folder of models": (".", "holds neither .npy nor .npz"),
    "a set without inputs": ("bad_set", "bad_set: holds 0 input(s), the model's inputs are 'x'"),
    "a set that is cut off": ("cut_set", "cut_set/input_0.pb: is no tensor"),
    "another name": ("loading_for_tests:wrong", "the model's inputs are 'x'"),
    "a function that is not there": ("loading_for_tests:none", "the function 'loading_for_tests:none' failed"),
    "a module that is not there": ("no_such_module:f", "No module named 'no_such_module'"),
    "a function that fails": ("loading_for_tests:broken", "'loading_for_tests:broken' failed: OSError: the disk"),
    "a function that leaves": ("loading_for_tests:leaving", "failed: it left with exit code 0"),
    "no function": ("loading_for_tests:X", "is of the type ndarray and cannot be called"),
    "a name with an escape in it": ("\x1b[31m.npz", "\\x1b[31m.npz' is no file or folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_data_that_cannot_be_used_exit_2_in_one_line(cli: Cli, supplies: Path, mistake: str) -> None:
    for name in ("empty", "bad_set", "cut_set"):
        (supplies / name).mkdir()
    (supplies / "bad_set" / "output_0.pb").write_bytes(b"")
    (supplies / "cut_set" / "input_0.pb").write_bytes(numpy_helper.from_array(X).SerializeToString()[:-7])
    for path in (supplies / "d.npy", supplies / "d.npz"):
        path.unlink()
    data, words = MISTAKES[mistake]
    refused(cli("verify", "m.onnx", "m.onnx", "--data", data), 2, words)
    refused(cli("fold", "m.onnx", "-o", "target.onnx", "--data", data), 2, words)
    assert not (supplies / "target.onnx").exists()


def test_verbose_shows_where_a_function_failed(supplies: Path) -> None:
    answer = run("verify", "m.onnx", "m.onnx", "--data", "loading_for_tests:broken", "-v", cwd=supplies)
    assert answer.code == 2
    assert 'raise OSError("the disk' in answer.err
    assert answer.err.endswith("bnfold: the function 'loading_for_tests:broken' failed: OSError: the disk\n")


# From Python


@pytest.mark.parametrize("data", [{"x": X}, X, [X], [{"x": X}], lambda: X, lambda: iter([{"x": X}]), Path("d.npy")])
@pytest.mark.usefixtures("supplies")
def test_python_takes_arrays_and_functions(data: object) -> None:
    verdict = bnfold.verify("m.onnx", "m.onnx", data=data)
    assert len(verdict.end_to_end.comparisons) == 5


def test_fold_in_python_takes_them_too(desk: Path) -> None:
    del desk
    result = bnfold.fold("m.onnx", data=[{"x": X}, X])
    assert len(result.verdict.end_to_end.comparisons) == 6


@pytest.mark.usefixtures("supplies")
@pytest.mark.parametrize("data", [7, b"d.npz", {"x": X[0]}, [], lambda: 1 / 0, "d.npzz"])
def test_python_that_gives_none_is_a_usage_error(data: object) -> None:
    with pytest.raises(bnfold.UsageError):
        bnfold.verify("m.onnx", "m.onnx", data=data)
    with pytest.raises(bnfold.UsageError):
        bnfold.fold("m.onnx", data=data)


# The same seed, the same bytes

BRANCHED = """(float[N,4,8] x, int64 i, bool b) => (float[N,4,6] y, float z)
  <float k = {-900}, float[5] t = {1,2,3,4,5}> {
  c = Conv (x, w) n = BatchNormalization (c, g, e, m, v) s = ReduceSum <keepdims = 0> (x) d = Less (s, k)
  y = If (d) <then_branch = a () => (float[A,B,C] p) { p = Relu (n) },
              else_branch = o () => (float[A,B,C] q) { q = Neg (n) }>
  j = Gather (t, i) z = If (b) <then_branch = a2 () => (float p2) { p2 = Neg (j) },
                                else_branch = o2 () => (float q2) { q2 = Identity (j) }> }"""


@pytest.mark.parametrize(
    "command", [["fold", "branched.onnx", "-o", "out.onnx"], ["verify", "branched.onnx", "out.onnx"]]
)
def test_the_same_seed_gives_the_same_bytes(supplies: Path, command: list[str]) -> None:
    onnx.save(parsed(BRANCHED), supplies / "branched.onnx")
    np.savez(supplies / "d.npz", x=X, i=np.int64(3), b=np.bool_(True))
    bnfold.fold("branched.onnx", "out.onnx", verify="off")
    arguments = [*command, "--data", "d.npz", "--seed", "5", "--report", "r.json"]
    told = []
    for seed in ("1", "2"):
        answer = run(*arguments, cwd=supplies, PYTHONHASHSEED=seed)
        assert answer.code == 0, answer
        told.append((answer.out, (supplies / "r.json").read_text()))
        (supplies / "r.json").unlink()
    assert told[0] == told[1]
    assert "moved by" in told[0][1], "the search for branches took part"
