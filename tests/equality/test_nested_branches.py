"""Ifs inside other graphs: what runs them, what counts how they went, and what is said where nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from site_models import kernel, model, norm
from test_branches import DECIDED, forked, notes_of, outcome_of

import bnfold
from bnfold.equality.conditions import forks_of, watching
from bnfold.equality.examine import Subject, examine, judged
from bnfold.equality.runner import Runner
from bnfold.equality.unreached import unlike
from bnfold.model import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.equality.verdict import Verdict


def an_if(condition: str, then: str, other: str, k: int = 0, way: tuple[str, str] = ("", "")) -> str:
    """The right side of `y = ...`; `way` stands in either branch before its result."""
    return (
        f"If ({condition}) <then_branch = t{k} () => (float[A,B] p{k}) {{ {way[0]} p{k} = {then} }}, "
        f"else_branch = e{k} () => (float[A,B] q{k}) {{ {way[1]} q{k} = {other} }}>"
    )


LARGE = "m = ReduceMax <keepdims = 0> (x) k = Constant <value_float = 50.0> () g = Greater (m, k)"
ROUND = "body = body (int64 i, bool go, float[2,3] s) => (bool on, float[2,3] z)"
LATE = f"""y = Loop (n, , x) <{ROUND} {{ on = Identity (go) k = Constant <value_int = 9> () g = Greater (i, k)
  z = {an_if("g", "WRONG (s)", "Relu (s)", 1)} }}>"""
LATER = f"""y = Loop (n, , x) <{ROUND} {{ on = Identity (go) k = Constant <value_int = 40> () g = Greater (i, k)
  w = WRONG (s) z = Where (g, w, s) }}>"""
LOOP = f"""n = Constant <value_int = 3> () l = Constant <value_float = 60.0> ()
  r = Loop (n, , x) <{ROUND} {{ on = Identity (go) m = ReduceMax <keepdims = 0> (s) g = Greater (m, l)
    z = {an_if("g", "WRONG (s)", "Relu (s)", 1)} }}>"""
SCAN = """l = Constant <value_float = 60.0> () zero = Constant <value_floats = [0.0, 0.0, 0.0]> ()
  f, y = Scan <num_scan_inputs = 1, body = body (float[3] s, float[3] r) => (float[3] t, float[3] z)
    { t = Add (s, r) m = ReduceMax <keepdims = 0> (r) g = Greater (m, l)
      z = If (g) <then_branch = t1 () => (float[3] p1) { p1 = WRONG (r) },
                  else_branch = e1 () => (float[3] q1) { q1 = Relu (r) }> }> (zero, x)"""
# By what it is: inputs, nodes with WRONG where one of the files has another operator than the other.
NESTED = {
    "two bools, true and false": (
        "bool c, bool d", "y = " + an_if("c", an_if("d", "Relu (x)", "WRONG (x)", 1), "Abs (x)")
    ),
    "two bools, false and true": (
        "bool c, bool d", "y = " + an_if("c", "Abs (x)", an_if("d", "WRONG (x)", "Relu (x)", 1))
    ),
    "three bools": (
        "bool c, bool d, bool e",
        "y = " + an_if("c", an_if("d", "Abs (x)", an_if("e", "WRONG (x)", "Relu (x)", 2), 1), "Neg (x)"),
    ),
    "a bool and what is computed": (
        "bool c", "y = " + an_if("c", an_if("g", "WRONG (x)", "Relu (x)", 1), "Abs (x)", way=(LARGE, ""))
    ),
    "what is computed where a bool is false": (
        "bool c, bool d", "y = " + an_if("c", "Abs (x)", an_if("g", "WRONG (x)", "Relu (x)", 1), way=("", LARGE))
    ),
    "late in a loop": ("int64 n", LATE),
    "a later round without an If": ("int64 n", LATER),
    "in a loop in a branch": ("bool c", "y = " + an_if("c", "Identity (r)", "Abs (x)", way=(LOOP, ""))),
    "in a scan": ("", SCAN),
}  # fmt: skip


def verdict_of(before: Path, after: Path, runner: Runner) -> Verdict:
    """What `verify` says, without a process of its own."""
    return judged(examine(Subject(read(before), before), Subject(read(after), after), runner=runner))


def nested(kind: str, operator: str) -> str:
    inputs, nodes = NESTED[kind]
    taken = ", ".join(one for one in ("float[2,3] x", inputs) if one)
    return f"({taken}) => (float[A,B] y) {{ {nodes.replace('WRONG', operator)} }}"


@pytest.mark.parametrize("kind", NESTED)
def test_a_branch_inside_other_graphs_is_run(kind: str, runner: Runner, write: Callable[..., Path]) -> None:
    before, after = write(nested(kind, "Cos"), "before.onnx"), write(nested(kind, "Sin"), "after.onnx")
    same = verdict_of(before, before, runner)
    assert same.word == "same"
    assert [note for note in same.end_to_end.notes if "If" in note] == []
    assert verdict_of(before, after, runner).word == "differs"


@pytest.mark.parametrize("decided", DECIDED)
def test_a_wrong_branch_of_the_main_graph_is_a_difference(
    decided: str, runner: Runner, write: Callable[..., Path]
) -> None:
    """Behind a comparison outputs decide nothing: the sites are asked on the input that takes the branch."""
    before = write(forked(*DECIDED[decided], "Relu (x)"), "before.onnx")
    after = write(forked(*DECIDED[decided], "Abs (x)"), "after.onnx")
    assert verdict_of(before, after, runner).word == "differs"


def calling(operator: str) -> onnx.ModelProto:
    body = an_if("c", an_if("d", "Relu (x)", f"{operator} (x)", 1), "Abs (x)")
    return parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
      g (float[2,3] x, bool c, bool d) => (float[2,3] y) {{ y = own.F (x, c, d) }}
      <domain: "own", opset_import: ["" : 17]> F (x, c, d) => (r) {{ r = {body} }}""")


def test_a_branch_inside_a_function_is_run(runner: Runner, write: Callable[..., Path]) -> None:
    before, after = write(calling("Exp"), "before.onnx"), write(calling("Neg"), "after.onnx")
    assert verdict_of(before, before, runner).word == "same"
    assert verdict_of(before, after, runner).word == "differs"


def test_how_often_a_branch_ran_is_counted_over_rounds(runner: Runner, write: Callable[..., Path]) -> None:
    path = write(nested("late in a loop", "Exp"))
    proto = onnx.load(path)
    forks, hidden = forks_of(proto)
    (fork,) = forks
    assert hidden == 0
    assert fork.at == (("y", "body"),)
    (path.parent / "counts.onnx").write_bytes(watching(proto, forks, path.parent))
    for rounds, counts in ((0, [0, 0]), (10, [0, 10]), (13, [3, 10])):
        feeds = {"x": np.ones((2, 3), np.float32), "n": np.array(rounds)}
        found = runner.run(path.parent / "counts.onnx", feeds)
        assert found[fork.key].tolist() == counts


# What never runs.

NEVER = "s = ReduceSumSquare <keepdims = 0> (x) c = Less (s, k)"


def hidden(then: str, constants: str = "float k = {-1}") -> str:
    return forked("float[2,3] x", constants, NEVER, then)


def test_a_branch_that_never_ran_and_differs_is_not_called_the_same(runner: Runner, write: Callable[..., Path]) -> None:
    before, after = write(hidden("Relu (x)"), "before.onnx"), write(hidden("Exp (x)"), "after.onnx")
    verdict = verdict_of(before, after, runner)
    assert verdict.word == "unknown"
    assert verdict.why.startswith(
        "no input tried takes the then branch of the If that gives 'y', which is not the same"
    )
    assert verdict_of(before, before, runner).word == "same"


def test_nor_is_one_that_captures_another_constant(runner: Runner, write: Callable[..., Path]) -> None:
    paths = [
        write(hidden("Add (x, w)", f"float k = {{-1}}, float[3] w = {{1,2,{last}}}"), f"{last}.onnx") for last in (3, 4)
    ]
    assert verdict_of(*paths, runner).word == "unknown"
    assert verdict_of(paths[0], paths[0], runner).word == "same"


def test_a_certificate_decides_what_no_input_reaches(tmp_path: Path) -> None:
    proto = model(
        f"""(float[2,8,9,9] x) => (float[A,B,D,E] y) {{ {NEVER} y = If (c)
          <then_branch = t () => (float[A,B,D,E] p) {{ h = Conv (x,w) p = BatchNormalization (h,g,be,m,v) }},
           else_branch = e () => (float[A,B,D,E] q) {{ q = Conv (x,w) }}> }}""",
        w=kernel(1), **norm(),
    )  # fmt: skip
    proto.graph.initializer.append(numpy_helper.from_array(np.array(-1, np.float32), "k"))
    onnx.save(proto, tmp_path / "m.onnx")
    folded = bnfold.fold(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert folded.verdict.word == "same"
    assert any("the then branch was never compared" in note for note in folded.verdict.end_to_end.notes)
    assert bnfold.verify(tmp_path / "m.onnx", tmp_path / "o.onnx").word == "unknown"


PLACE = (("y", "then_branch"),)


@pytest.mark.parametrize(
    ("then", "constants", "alike"),
    [
        ("Relu (x)", "float k = {-1}", True),
        ("Relu (x)", "float k = {-2}", True),
        ("Abs (x)", "float k = {-1}", False),
        ("Add (x, k)", "float k = {-1}", False),
        ("Relu (y)", "float k = {-1}", False),
    ],
)
def test_what_makes_branches_alike(then: str, constants: str, alike: bool, write: Callable[..., Path]) -> None:
    ours = read(write(hidden("Relu (x)"), "ours.onnx"))
    theirs = read(write(hidden(then.replace("(y)", "(s)"), constants), "theirs.onnx"))
    assert (unlike(ours, theirs, (PLACE,)) == "") is alike
    assert unlike(ours, theirs, ()) == ""


@pytest.mark.parametrize("way", ["w = Abs (v)", "w = Neg (z) z = Abs (v)"])
def test_what_a_captured_value_is_computed_from_counts_where_it_is_constant(
    way: str, write: Callable[..., Path]
) -> None:
    files = []
    for number in (1, 2):
        text = forked("float[2,3] x", f"float k = {{-1}}, float v = {{{number}}}", f"{NEVER} {way}", "Add (x, w)")
        path = write(text.replace("w = Neg (z) z = Abs (v)", "z = Abs (v) w = Neg (z)"), f"{number}.onnx")
        files.append(read(path))
    assert unlike(files[0], files[0], (PLACE,)) == ""
    assert "then branch" in unlike(*files, (PLACE,))


def test_what_hangs_on_an_input_is_compared_where_it_is_made(write: Callable[..., Path]) -> None:
    files = [
        read(write(forked("float[2,3] x", "float k = {-1}", f"{NEVER} w = {op} (x)", "Add (x, w)"), f"{op}.onnx"))
        for op in ("Abs", "Neg")
    ]
    assert unlike(*files, (PLACE,)) == ""


def test_a_branch_that_is_not_there_is_unlike_any(write: Callable[..., Path]) -> None:
    ours = read(write(hidden("Relu (x)"), "ours.onnx"))
    theirs = read(write("(float[2,3] x) => (float[2,3] y) { y = Relu (x) }", "theirs.onnx"))
    assert unlike(ours, theirs, (PLACE,))


def test_what_cannot_be_watched_is_told() -> None:
    text = """(seq(float[2,3]) x, bool c) => (seq(float[2,3]) y) {
      y = SequenceMap (x) <body = f (float[2,3] s) => (float[2,3] z) { z = If (c)
        <then_branch = t () => (float[2,3] p) { p = Relu (s) }, else_branch = e () => (float[2,3] q) { q = Neg (s) }>
      }> }"""
    assert forks_of(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')) == ((), 1)


def test_a_branch_on_which_the_original_gives_no_numbers_is_not_taken_for_compared(
    runner: Runner, write: Callable[..., Path]
) -> None:
    path = write(nested("late in a loop", "Log"))
    assert any("the then branch was never compared" in note for note in notes_of(outcome_of(path, path, runner)))
