"""Both branches of an If are run, wherever inputs that take them are cheap to find; otherwise the report says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from bnfold.equality import branches
from bnfold.equality.conditions import forks_of
from bnfold.equality.end_to_end import compare
from bnfold.equality.pair import Outcome
from bnfold.equality.runner import CannotRun, Runner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# By what decides: the inputs, constants, the way to the condition `c`. Every model has an input x of 3 columns.
DECIDED = {
    "an input": ("float[2,3] x, bool c", "", ""),
    "a sum": ("float[2,3] x", "float k = {0}", "s = ReduceSum <keepdims = 0> (x) c = Greater (s, k)"),
    "a sum far from zero": ("float[2,3] x", "float k = {-700}", "s = ReduceSum <keepdims = 0> (x) c = Less (s, k)"),
    "a value that is met": ("float[2,3] x, float z", "float k = {7}", "c = Equal (z, k)"),
    "a size": ("float[N,3] x", "int64 k = {1}, int64 i = {0}", "s = Shape (x) n = Gather (s, i) c = Equal (n, k)"),
    "a larger size": ("float[N,3] x", "int64 k = {5}, int64 i = {0}", "s = Shape (x) n = Gather(s, i) c = Less (k, n)"),
    "a number": ("float[2,3] x, int64 n", "int64 k = {57}", "c = Equal (n, k)"),
    "a number above": (
        "float[2,3] x, int32 n", "", "k = Constant <value_int = 500> () m = Cast <to = 7> (n) c = Less (k, m)"
    ),
    "a byte": ("float[2,3] x, uint8 n", "uint8 k = {200}", "c = Equal (n, k)"),
    "two switches": ("float[2,3] x, bool a, bool b", "", "c = Xor (a, b)"),
}  # fmt: skip


def forked(inputs: str, constants: str, way: str, then: str = "Relu (x)", other: str = "Neg (x)") -> str:
    """A model whose output is `then` or `other`, as c says."""
    return f"""({inputs}) => (float[A,B] y) <{constants}> {{ {way} y = If (c)
      <then_branch = t () => (float[A,B] p) {{ p = {then} }},
       else_branch = e () => (float[A,B] q) {{ q = {other} }}> }}"""


def outcome_of(before: Path, after: Path, runner: Runner, **wishes: object) -> Outcome:
    proto = onnx.load(before, load_external_data=False)
    return compare(before, after, runner=runner, proto=proto, **wishes)


def notes_of(outcome: Outcome) -> tuple[str, ...]:
    assert outcome.end_to_end is not None
    return outcome.end_to_end.notes


@pytest.mark.parametrize("wrong", [("Relu (x)", "Abs (x)"), ("Neg (x)", "Neg (x)")])
@pytest.mark.parametrize("decided", DECIDED)
def test_a_difference_in_either_branch_is_found(
    decided: str, wrong: tuple[str, str], runner: Runner, write: Callable[..., Path]
) -> None:
    before = write(forked(*DECIDED[decided]), "before.onnx")
    after = write(forked(*DECIDED[decided], *wrong), "after.onnx")
    same = outcome_of(before, before, runner)
    assert same.word == "equal"
    assert [note for note in notes_of(same) if note.startswith("If")] == []
    differing = outcome_of(before, after, runner)
    # Behind a comparison of what was computed, running can show no more than that something is there.
    assert (differing.word, differing.reason) in {("differs", ""), ("undecided", "discrete")}
    assert differing.counterexample is not None or "behind" in differing.sentence


def test_a_condition_that_is_costly_is_computed_a_few_times(write: Callable[..., Path]) -> None:
    way = "z = MatMul (x, w) s = ReduceSumSquare <keepdims = 0> (z) c = Less (s, k)"
    path = write(forked("float[2,3] x", "float k = {-1}", way))
    model = onnx.load(path)
    weights = np.ones((3, branches._LIGHT // 12 + 1), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, path)
    with Counting() as runner:
        outcome_of(path, path, runner)
        assert runner.runs == branches.MOST_HEAVY_CANDIDATES + 3


def test_a_slice_without_an_end_is_no_number_to_compare_with(runner: Runner, write: Callable[..., Path]) -> None:
    way = "z = Slice (x, b, f) s = ReduceSum <keepdims = 0> (z) c = Less (s, k)"
    constants = "float k = {-700}, int64[1] b = {0}, int64[1] f = {9223372036854775807}"
    path = write(forked("float[2,3] x", constants, way))
    assert [note for note in notes_of(outcome_of(path, path, runner)) if note.startswith("If")] == []


def test_conditions_are_read_from_a_small_copy_with_its_external_data(
    runner: Runner, write: Callable[..., Path]
) -> None:
    way = """z = MatMul (x, w) s = ReduceSum <keepdims = 0> (z) k = Constant <value_float = 100.0> ()
      c = Greater (s, k)"""
    path = write(forked("float[2,3] x", "", way))
    model = onnx.load(path)
    weights = np.random.default_rng(0).standard_normal((3, 500)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=16)
    outcome = outcome_of(path, path, runner)
    assert outcome.word == "equal"
    assert [note for note in notes_of(outcome) if "branch" in note] == []


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("s = ReduceSumSquare <keepdims = 0> (x) c = Less (s, k)", "was false on every input tried, so that the then"),
        ("s = ReduceSumSquare <keepdims = 0> (x) c = Less (k, s)", "was true on every input tried, so that the else"),
        ("i = Shape (x) j = Cast <to = 1> (i) s = ReduceMax <keepdims = 0> (j) c = Less (s, k)", "was false on every"),
    ],
)
def test_a_branch_that_nothing_reaches_is_told(way: str, says: str, runner: Runner, write: Callable[..., Path]) -> None:
    path = write(forked("float[2,3] x", "float k = {-1}", way))
    outcome = outcome_of(path, path, runner)
    assert outcome.word == "equal"
    (note,) = (note for note in notes_of(outcome) if note.startswith("If"))
    assert note.startswith("If 'c': the condition ")
    assert says in note


def test_many_such_ifs_make_one_remark(runner: Runner, write: Callable[..., Path]) -> None:
    body = " ".join(
        f"y{k} = If (c) <then_branch = t{k} () => (float[A,B] p{k}) {{ p{k} = Relu (x) }}, "
        f"else_branch = e{k} () => (float[A,B] q{k}) {{ q{k} = Neg (x) }}>"
        for k in range(9)
    )
    outputs = ", ".join(f"float[A,B] y{k}" for k in range(9))
    text = f"(float[2,3] x) => ({outputs}) {{ s = ReduceSumSquare <keepdims = 0> (x) c = Less (s, s) {body} }}"
    path = write(text)
    model = onnx.load(path)
    for k, node in enumerate(model.graph.node[2:]):
        node.name = f"if{k}"
    onnx.save(model, path)
    (note,) = (note for note in notes_of(outcome_of(path, path, runner)) if note.startswith("If"))
    assert note.startswith("If 'if0', 'if1', 'if2' and 6 more: the condition was false on every input tried")


def test_an_if_inside_another_graph_is_told(runner: Runner, write: Callable[..., Path]) -> None:
    inner = """If (c) <then_branch = a () => (float[A,B] u) { u = Relu (x) },
      else_branch = b () => (float[A,B] v) { v = Abs (x) }>"""
    path = write(forked("float[2,3] x, bool c", "", "", then=inner))
    (note,) = notes_of(outcome_of(path, path, runner))
    assert note.startswith("If 'c': the condition was true on every input tried, so that the else branch was never")


def test_an_if_that_no_input_decides_is_no_weakness(runner: Runner, write: Callable[..., Path]) -> None:
    path = write(forked("float[2,3] x", "float k = {0}", "c = Less (k, k)"))
    assert forks_of(onnx.load(path)) == ((), 0)
    assert notes_of(outcome_of(path, path, runner)) == ()


def test_data_count_among_what_reaches_a_branch(runner: Runner, tmp_path: Path, write: Callable[..., Path]) -> None:
    way = "d = Sub (x, k) s = ReduceSumSquare <keepdims = 0> (d) c = Equal (s, z)"
    path = write(forked("float[2,3] x", "float[2,3] k = {3,1,4,1,5,9}, float z = {0}", way))
    assert any(note.startswith("If 'c'") for note in notes_of(outcome_of(path, path, runner)))
    np.save(tmp_path / "x.npy", np.array([[3, 1, 4], [1, 5, 9]], dtype=np.float32))
    with_data = outcome_of(path, path, runner, data=tmp_path / "x.npy")
    assert not any(note.startswith("If 'c'") for note in notes_of(with_data))


def test_an_input_on_which_the_original_gives_no_numbers_is_not_taken(
    runner: Runner, write: Callable[..., Path]
) -> None:
    way = "s = ReduceMax <keepdims = 0> (x) c = Greater (s, k)"
    path = write(forked("float[2,3] x", "float k = {9}", way, then="Log (m)").replace("c = ", "m = Neg (s) c = "))
    outcome = outcome_of(path, path, runner)
    assert outcome.word == "equal"
    assert any("the then branch was never compared" in note for note in notes_of(outcome))


class Refusing(Runner):
    """Runs no copies of conditions."""

    kind = "refused"

    def run(self, model: Path, *arguments: object, **options: object) -> dict[str, np.ndarray]:
        if model.name == "conditions.onnx":
            raise CannotRun(self.kind, "no\ncopies")
        return super().run(model, *arguments, **options)


@pytest.mark.parametrize("kind", ["refused", "crash", "timeout", "memory"])
def test_conditions_that_cannot_be_watched_are_told_and_decide_nothing(kind: str, write: Callable[..., Path]) -> None:
    path = write(forked(*DECIDED["a sum"]))
    with Refusing() as runner:
        runner.kind = kind
        outcome = outcome_of(path, path, runner)
    assert outcome.word == "equal"
    assert notes_of(outcome) == ("which branches of If nodes ran is not known: no copies",)


class Counting(Runner):
    """Counts the runs of conditions."""

    runs = 0

    def run(self, model: Path, *arguments: object, **options: object) -> dict[str, np.ndarray]:
        self.runs += model.name == "conditions.onnx"
        return super().run(model, *arguments, **options)


def test_the_search_is_short(write: Callable[..., Path]) -> None:
    way = """s = ReduceSumSquare <keepdims = 0> (x) m = Cast <to = 1> (n) o = Cast <to = 1> (b) j = Cast <to = 1> (k)
      l = Sum (s, m, o, j) c = Greater (s, l)"""
    path = write(forked("float[N,3] x, int64 n, bool b", "int64 k = {9}", way))
    with Counting() as runner:
        outcome_of(path, path, runner)
        assert 10 < runner.runs <= branches.MOST_CANDIDATES + 4
    straight = write("(float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    with Counting() as runner:
        outcome_of(straight, straight, runner)
        assert runner.runs == 0
