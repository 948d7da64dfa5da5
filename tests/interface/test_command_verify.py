"""`bnfold verify` on what cannot be compared, cannot be run, or never ends: one sentence, and 1, 2, 3 or 6."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from command_line import DIGITS, FOLDABLE, Answer, custom, foldable, operators, parsed, refused, run

from bnfold.equality.runner import Runner

Cli = Callable[..., Answer]


def written(**models: onnx.ModelProto | str) -> None:
    """Each as NAME.onnx in the current folder; text as the body of a model."""
    for name, model in models.items():
        onnx.save(parsed(model) if isinstance(model, str) else model, f"{name}.onnx")


def because(answer: Answer, code: int, word: str) -> str:
    """The one sentence of a verdict; the answer says nothing else but its figures."""
    assert (answer.code, answer.err) == (code, ""), answer
    assert "Traceback" not in answer.out
    rows = [line.split(maxsplit=1) for line in answer.out.splitlines()[1:]]
    assert rows[0] == ["verdict", word]
    sentences = [rest for name, rest in rows if name == "because"]
    assert len(sentences) == (word != "same")
    return sentences[0] if sentences else ""


# 1: two models that anybody can tell apart by what they take and give.

PLAIN = "(float[N,3] x, float[N,3] z) => (float[N,3] y, float[N,3] t) { y = Add(x,z) t = Sub(x,z) }"
DOUBLE_IN = (
    "(float[N,3] x, double[N,3] z) => (float[N,3] y, float[N,3] t) { f = Cast<to=1>(z) y = Add(x,f) t = Sub(x,f) }"
)
DOUBLE_OUT = (
    "(float[N,3] x, float[N,3] z) => (float[N,3] y, double[N,3] t) { y = Add(x,z) d = Sub(x,z) t = Cast<to=11>(d) }"
)
TURNED = "(float[N,3] x, float[N,3] z) => (float[N,3] y, float[3,N] t) { y = Add(x,z) d = Sub(x,z) t = Transpose(d) }"
OTHERS = {  # another body, and words of the sentence
    "an input's name": (PLAIN.replace("] z", "] q").replace(",z)", ",q)"), "the inputs were 'x'", "are 'x'", "'q'"),
    "the order of inputs": (PLAIN.replace("x, float[N,3] z", "z, float[N,3] x"), "the inputs were", "are 'z'"),
    "the order of outputs": (PLAIN.replace("y, float[N,3] t", "t, float[N,3] y"), "the outputs were", "are 't'"),
    "an output's name": (PLAIN.replace(" t", " u"), "the outputs were", "'u'"),
    "one input more": (PLAIN.replace("] z)", "] z, float[N,3] more)"), "the inputs were", "'more'"),
    "one output fewer": (PLAIN.replace(", float[N,3] t", ""), "the outputs were", "are 'y' tensor(float)"),
    "an input's type": (DOUBLE_IN, "the inputs were", "tensor(double)"),
    "an output's type": (DOUBLE_OUT, "the outputs were", "tensor(double)"),
    "an output's shape": (TURNED, "output 't' is float32[2, 3], then float32[3, 2]"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_models_with_another_interface_differ(cli: Cli, what: str) -> None:
    body, *words = OTHERS[what]
    written(plain=PLAIN, other=body)
    sentence = because(cli("verify", "plain.onnx", "other.onnx"), 1, "differs")
    assert all(word in sentence for word in words), sentence


def test_outputs_that_are_no_floats_are_compared_for_equality(cli: Cli) -> None:
    written(
        one="(int64[N] x) => (int64[N] y) { y = Add(x,x) }",
        same="(int64[N] x) => (int64[N] y) { k = Constant<value_ints=[2]>() y = Mul(k,x) }",
        other="(int64[N] x) => (int64[N] y) { k = Constant<value_ints=[1]>() s = Add(x,x) y = Add(s,k) }",
    )
    because(cli("verify", "one.onnx", "same.onnx"), 0, "same")
    assert "is not equal" in because(cli("verify", "one.onnx", "other.onnx"), 1, "differs")


def test_the_same_file_twice_is_the_same_without_any_draw(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    plain = Runner.run
    monkeypatch.setattr(
        Runner, "run", lambda *given, **named: asked.append(named.get("perturb")) or plain(*given, **named)
    )
    because(cli("verify", "m.onnx", "m.onnx"), 0, "same")
    assert set(asked) == {None}


def test_a_model_behind_a_symbolic_link_is_compared_site_by_site_as_any_other(cli: Cli, desk: Path) -> None:
    """As in the caches of download tools: a folder of links to blobs elsewhere."""
    (desk / "links").mkdir()
    shutil.copy(DIGITS, desk / "digits.onnx")
    (desk / "links" / "model.onnx").symlink_to("../digits.onnx")
    assert cli("fold", "digits.onnx", "-o", "folded.onnx", "-q").code == 0
    for one, other in (("links/model.onnx", "folded.onnx"), ("folded.onnx", "links/model.onnx")):
        answer = cli("verify", one, other)
        because(answer, 0, "same")
        assert "could not be compared" not in answer.out


# NaN, and outputs that are not there.


def test_what_is_nan_on_both_sides_shows_nothing(cli: Cli) -> None:
    written(nan="(float[N,4,8] x) => (float[N,4,8] y) { a = Abs(x) n = Neg(a) y = Log(n) }")
    assert "nothing could be compared" in because(cli("verify", "nan.onnx", "nan.onnx"), 6, "unknown")


def test_what_is_nan_in_the_original_alone_differs(cli: Cli) -> None:
    written(
        nan="(float[N,4,8] x) => (float[N,4,8] y) { n = Neg(x) l = Log(n) y = Add(l,x) }",
        number="(float[N,4,8] x) => (float[N,4,8] y) { y = Add(x,x) }",
    )
    assert "NaN or infinity in other places" in because(cli("verify", "nan.onnx", "number.onnx"), 1, "differs")


def test_a_fold_of_a_model_that_is_partly_nan_is_the_same_and_says_so(cli: Cli) -> None:
    written(nan=FOLDABLE.replace("c = Conv(x,w)", "s = Sqrt(x) c = Conv(s,w)"))
    answer = cli("fold", "nan.onnx", "-o", "folded.onnx")
    assert (answer.code, answer.err) == (0, "")
    assert "NaN or infinite" in answer.out


def test_a_model_without_outputs_is_undecided(cli: Cli) -> None:
    written(none="(float[N] x) => () { y = Neg(x) }")
    assert "no outputs to compare" in because(cli("verify", "none.onnx", "none.onnx"), 6, "unknown")


# 2: a library that is not there. 3: no model. (Further bad files are in test_command_errors.py.)


@pytest.mark.parametrize("library", ["missing.so", "../{folder}", ""])
def test_a_library_that_is_no_file_exits_2(cli: Cli, desk: Path, library: str) -> None:
    named = library.format(folder=desk.name)
    refused(cli("verify", "m.onnx", "m.onnx", "--custom-ops", named), 2, repr(named), "is no file")


@pytest.mark.parametrize(("one", "other"), [("m", "bad"), ("bad", "m"), ("bad", "bad")])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x08"])
def test_garbage_on_either_side_exits_3(cli: Cli, desk: Path, content: bytes, one: str, other: str) -> None:
    (desk / "bad.onnx").write_bytes(content)
    refused(cli("verify", f"{one}.onnx", f"{other}.onnx"), 3, "'bad.onnx'")


# 6: what onnxruntime cannot run, or not within the limits.


def test_an_operator_that_nobody_knows_is_undecided_in_the_original_and_a_difference_in_the_other(cli: Cli) -> None:
    written(plain=foldable())
    sentence = because(cli("verify", "custom.onnx", "plain.onnx"), 6, "unknown")
    assert sentence.startswith("onnxruntime cannot run the original: ")
    assert "made:Up" in sentence
    sentence = because(cli("verify", "plain.onnx", "custom.onnx"), 1, "differs")
    assert sentence.startswith("onnxruntime runs the original but not the rewritten model: ")


@pytest.mark.parametrize("command", ["verify m.onnx m.onnx", "fold m.onnx -o o.onnx"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--custom-ops two.onnx", ["Failed to load library", "two.onnx"]),
        ("--custom-ops empty.so", ["Failed to load library", "empty.so"]),
        ("--provider NoSuchProvider", ["this onnxruntime has no NoSuchProvider"]),
    ],
)
def test_a_library_or_provider_that_does_not_load_is_undecided(
    cli: Cli, desk: Path, command: str, option: str, words: list[str]
) -> None:
    (desk / "empty.so").write_bytes(b"")
    answer = cli(*command.split(), *option.split())
    sentence = because(answer, 6, "unknown") if command.startswith("verify") else answer.err
    assert (answer.code, answer.err.count("\n")) == (6, 0 if command.startswith("verify") else 1)
    assert all(word in sentence for word in words), sentence
    assert not (desk / "o.onnx").exists()


HUGE = (
    "(float[1,4,8] x) => (float[1,4,8] y) <int64[1] n = {1099511627776}> "
    "{ h = ConstantOfShape(n) s = ReduceSum(h) y = Add(x,s) }"
)
ENDLESS = (
    "(float[1,4,8] x) => (float[1,4,6] y) <int64 trips = {1000000000}, bool go = {1}> "
    "{ c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) y = Loop(trips, go, n) "
    "<body = b (int64 i, bool on, float[1,4,6] a) => (bool more, float[1,4,6] o) { more = Identity(on) o = Neg(a) }> }"
)


def test_a_tensor_that_no_machine_holds_is_undecided(cli: Cli) -> None:
    written(huge=HUGE)
    assert "ran out of the memory" in because(cli("verify", "huge.onnx", "huge.onnx"), 6, "unknown")


@pytest.mark.parametrize(("before", "says"), [("endless", "cannot run the original"), ("plain", "hit a limit")])
def test_a_loop_without_end_is_undecided(cli: Cli, before: str, says: str) -> None:
    written(
        endless=ENDLESS,
        plain="(float[1,4,8] x) => (float[1,4,6] y) { c = Conv(x,w) y = BatchNormalization(c,g,e,m,v) }",
    )
    began = time.monotonic()
    sentence = because(cli("verify", f"{before}.onnx", "endless.onnx", "--timeout", "2"), 6, "unknown")
    assert says in sentence
    assert "took longer than 2 s" in sentence
    assert time.monotonic() - began < 30


def test_a_child_that_dies_between_requests_is_replaced(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed by whoever sorts out memory, say: nothing was running, so nothing is said."""
    killed: list[int] = []
    ask = Runner._ask

    def asked(self: Runner, *given: object) -> object:
        answer = ask(self, *given)
        if self._child is not None and len(killed) < 4:
            killed.append(self._child.pid)
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()
        return answer

    monkeypatch.setattr(Runner, "_ask", asked)
    because(cli("verify", "m.onnx", "m.onnx"), 0, "same")
    assert len(set(killed)) == 4


# Libraries of custom operators, made here where there is a compiler.


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("there is no C compiler to make a library of custom operators with")
    made = tmp_path_factory.mktemp("ops") / "made.so"
    source = Path(__file__).with_name("made_ops.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source], check=True)
    return made


@pytest.fixture
def wish(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """What the library is to do when it is loaded."""
    yield lambda word: monkeypatch.setenv("MADE_OPS", word)
    assert "MADE_OPS" in os.environ


def test_a_model_with_custom_operators_is_folded_and_run_with_their_library(cli: Cli, library: Path) -> None:
    answer = cli("fold", "custom.onnx", "-o", "folded.onnx", "--custom-ops", library, "-q")
    assert (answer.code, answer.err) == (0, "")
    assert operators("folded.onnx") == ["Conv", "Up"]
    because(cli("verify", "custom.onnx", "folded.onnx", "--custom-ops", library), 0, "same")


def test_a_wrong_model_with_custom_operators_differs(cli: Cli, library: Path) -> None:
    other = custom()
    other.graph.initializer[2].raw_data = b"\0" * 16
    written(other=other)
    assert "output 'y'" in because(cli("verify", "custom.onnx", "other.onnx", "--custom-ops", library), 1, "differs")


def test_what_a_library_prints_stays_out_of_the_answer(cli: Cli, library: Path, wish: Callable[[str], None]) -> None:
    wish("print")
    answer = cli("verify", "custom.onnx", "custom.onnx", "--custom-ops", library)
    because(answer, 0, "same")
    assert "words of a library" not in answer.out


def test_an_operator_that_ends_the_process_is_a_crash_of_the_original(cli: Cli, library: Path) -> None:
    ending = custom()
    ending.graph.node[-1].op_type = "Down"
    written(ending=ending)
    answer = cli("verify", "ending.onnx", "ending.onnx", "--custom-ops", library)
    assert "onnxruntime crashed (SIGABRT)" in because(answer, 6, "unknown")
    refused(cli("fold", "ending.onnx", "-o", "o.onnx", "--custom-ops", library), 6, "crashed (SIGABRT)")
    assert not Path("o.onnx").exists()


def test_a_library_that_ends_the_process_is_a_crash(cli: Cli, library: Path, wish: Callable[[str], None]) -> None:
    wish("abort")
    answer = cli("verify", "custom.onnx", "custom.onnx", "--custom-ops", library)
    assert "onnxruntime crashed (SIGABRT)" in because(answer, 6, "unknown")


def test_a_library_that_never_finishes_loading_hits_the_limit(
    cli: Cli, library: Path, wish: Callable[[str], None]
) -> None:
    wish("hang")
    answer = cli("verify", "custom.onnx", "custom.onnx", "--custom-ops", library, "--timeout", "2")
    assert "took longer than 2 s" in because(answer, 6, "unknown")


def test_a_library_without_an_entry_is_refused(cli: Cli, desk: Path, library: Path) -> None:
    source = desk / "nothing.c"
    source.write_text("int nothing;")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", desk / "nothing.so", source], check=True)
    assert library.exists()
    sentence = because(cli("verify", "custom.onnx", "custom.onnx", "--custom-ops", "nothing.so"), 6, "unknown")
    assert "RegisterCustomOps" in sentence


def test_the_same_is_one_line_when_bnfold_is_a_process(desk: Path) -> None:
    written(endless=ENDLESS)
    answer = run("verify", "endless.onnx", "endless.onnx", "--timeout", "1", cwd=desk)
    assert "took longer than 1 s" in because(answer, 6, "unknown")
    refused(run("verify", "m.onnx", "m.onnx", "--custom-ops", "none.so", cwd=desk), 2, "'none.so' is no file")
    because(run("verify", "blocked.onnx", "without.onnx", cwd=desk), 1, "differs")


def test_a_model_of_another_architecture_has_a_value_that_is_none_of_the_original(tmp_path: Path) -> None:
    """There is nothing to hold it against, so the evidence is that of the outputs."""
    answer = run("verify", DIGITS.with_name("digits_mlp.onnx"), DIGITS, "--format", "json", cwd=tmp_path)
    assert answer.code == 1
    assert "is no value of the original on the same inputs" in answer.json["why"]
    shown = answer.json["counterexample"]
    assert shown["before"] != shown["after"]
    assert shown["output"] == "logits"
