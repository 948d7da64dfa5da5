"""A certificate checked again from two files alone: what was tampered with, in any of the three, never passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from certificate_files import LONGER, TEXT, Files, Json, files, layer, pin
from certificate_folds import array, parsed, put
from onnx import TensorProto, helper

import bnfold
from bnfold import proving
from bnfold.equality import recheck
from bnfold.equality.examine import Examination
from bnfold.equality.pair import Outcome
from bnfold.errors import InputRefused
from bnfold.model import inlining


@pytest.fixture
def made(tmp_path: Path) -> Files:
    return files(tmp_path, layer(LONGER))


def undecided(verdict: bnfold.Verdict, *words: str) -> None:
    assert isinstance(verdict, bnfold.Unknown), verdict
    assert not verdict.is_same
    assert "\n" not in verdict.why
    for word in words:
        assert word in verdict.why


def test_a_right_certificate_says_same_and_was_recomputed(made: Files) -> None:
    verdict = made.verdict()
    assert isinstance(verdict, bnfold.Same)
    assert (verdict.certified, verdict.executed, verdict.end_to_end) == (True, False, None)
    assert verdict.recheck is not None
    assert (verdict.recheck.why, verdict.recheck.notes, verdict.recheck.inlined) == ("", (), False)
    assert verdict.recheck.certificate is not None
    assert verdict.recheck.certificate.holds
    assert json.loads(json.dumps(verdict.recheck.certificate.to_json()))["homes"] == made.said["homes"]


@pytest.mark.parametrize("external", [False, True])
def test_bytes_will_do_instead_of_paths_where_they_hold_everything(tmp_path: Path, external: bool) -> None:
    made = files(tmp_path, external=external)
    given = made.before.read_bytes(), made.after.read_bytes()
    if external:
        with pytest.raises(InputRefused, match="give the path"):
            bnfold.verify(*given, certificate=made.certificate, certificate_alone=True)
    else:
        assert bnfold.verify(*given, certificate=made.certificate, certificate_alone=True).is_same


# Other files than it names.


def test_the_two_files_in_the_wrong_order_are_other_files(made: Files) -> None:
    verdict = bnfold.verify(made.after, made.before, certificate=made.certificate, certificate_alone=True)
    undecided(verdict, "the certificate is of other files: BEFORE has the SHA-256", made.said["before"]["sha256"])
    assert verdict.recheck is not None
    assert verdict.recheck.certificate is None


def nudge(name: str) -> Callable[[onnx.ModelProto], None]:
    """One number of a constant, away from zero by one unit in the last place."""

    def change(model: onnx.ModelProto) -> None:
        values = array(model, name)
        values.flat[1] = np.nextafter(values.flat[1], np.float32(np.copysign(np.inf, values.flat[1])))
        put(model, **{name: values})

    return change


def other_shift(model: onnx.ModelProto) -> None:
    values = array(model, "e")
    values[1] += np.float32(1e-3)  # a unit of it would be nothing where the new bias is larger
    put(model, e=values)


def other_node(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"


def other_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("pads", [1, 1]))


def other_name(model: onnx.ModelProto) -> None:
    model.graph.name = "other"


CHANGES: dict[str, tuple[str, Callable[[onnx.ModelProto], None], str]] = {
    "a weight of the fold": ("after", nudge("w_folded"), "the weight of Conv#0 at [0, 0, 1] is"),
    "a weight that was folded": ("before", nudge("w"), "the weight of Conv#0 at [0, 0, 1] is"),
    "a scale that was folded": ("before", nudge("g"), "the weight of Conv#0"),
    "a shift that was folded": ("before", other_shift, "the bias of Conv#0 at [0, 1, 0] is"),
    "a node of the fold": ("after", other_node, "has no counterpart"),
    "a node of the original": ("before", other_node, "has no counterpart"),
    "an attribute of the fold": ("after", other_attribute, "has no counterpart"),
    "the fold's name": ("after", other_name, "something outside the graph's nodes"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_model_that_was_changed_is_another_file(made: Files, what: str) -> None:
    side, change, _ = CHANGES[what]
    made.change(made.folder / f"{side}.onnx", change, repin=False)
    undecided(made.verdict(), f"the certificate is of other files: {side.upper()} has the SHA-256")


@pytest.mark.parametrize("what", CHANGES)
def test_a_model_that_was_changed_does_not_pass_when_the_hashes_are_changed_too(made: Files, what: str) -> None:
    side, change, words = CHANGES[what]
    made.change(made.folder / f"{side}.onnx", change, repin=True)
    undecided(made.verdict(), "the certificate does not hold: ", words)


def test_another_size_than_the_file_has_is_another_file(made: Files) -> None:
    made.tamper(lambda said: said["after"].update(bytes=7))
    undecided(made.verdict(), "AFTER has", "bytes, it names 7")


# External data.


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("side", "name"), [("before", "w.bin"), ("after", "after.onnx.data")])
def test_data_that_were_changed_are_other_files(tmp_path: Path, side: str, name: str) -> None:
    made = files(tmp_path, external=True)
    assert made.verdict().is_same
    flip(tmp_path / name)
    undecided(made.verdict(), f"{side.upper()} has other data in {name!r}")
    made.tamper(lambda said: said[side]["data"][0].update(pin((tmp_path / name).read_bytes())))
    undecided(made.verdict(), "the certificate does not hold: the weight of Conv#0")


@pytest.mark.parametrize("change", [lambda data: data.clear(), lambda data: data[0].update(location="other.bin"),
                                    lambda data: data.append(data[0])])  # fmt: skip
def test_data_that_a_certificate_names_otherwise_are_other_files(
    tmp_path: Path, change: Callable[[list[Json]], None]
) -> None:
    made = files(tmp_path, external=True)
    made.tamper(lambda said: change(said["after"]["data"]))
    undecided(made.verdict(), "AFTER has data in 'after.onnx.data', it names ")


def test_data_in_a_model_that_has_none_are_other_files(made: Files) -> None:
    made.tamper(lambda said: said["after"]["data"].append({"location": "w.bin", **pin(b"")}))
    undecided(made.verdict(), "AFTER has data in none, it names 'w.bin'")


# Claims.

SITES = ("site", "path", "homes")


def renamed(said: Json) -> None:
    said["claims"][0]["homes"][0]["name"] = "other"


CLAIMS: dict[str, tuple[Callable[[Json], Any], str]] = {
    "none, and still it says that it holds": (lambda said: said.update(claims=[]), "no counterpart"),
    "none, and no homes": (lambda said: said.update(claims=[], homes=[]), "no counterpart"),
    "the first dropped": (lambda said: said["claims"].pop(0), "no counterpart"),
    "the last dropped": (lambda said: said["claims"].pop(), "no counterpart"),
    "one twice": (lambda said: said["claims"].append(said["claims"][0]), "claimed twice"),
    "a home renamed": (renamed, "a claim names Conv#0 'other', which the original has not"),
    "no home": (lambda said: said["claims"][0].update(homes=[]), "has 0 homes"),
    "another home": (
        lambda said: said["claims"][0].update(homes=said["claims"][1]["homes"]),
        "does not read from",
    ),
    "another node": (lambda said: said["claims"][0]["site"].update(index=2, op="Transpose"), "names a node twice"),
    "a node that is none": (lambda said: said["claims"][0]["site"].update(index=99), "which the original has not"),
    "a scope that is none": (lambda said: said["claims"][0]["site"].update(scope="If#1"), "which the original has not"),
    "a path that is shorter": (lambda said: said["claims"][0]["path"].pop(), "does not read from"),
    "a home on the path": (
        lambda said: said["claims"][0]["homes"].insert(0, said["claims"][0]["path"][0]),
        "is no sum with a constant",
    ),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_claims_that_were_tampered_with_do_not_hold(made: Files, what: str) -> None:
    change, words = CLAIMS[what]
    made.tamper(change)
    assert made.said["holds"] is True
    undecided(made.verdict(), "the certificate ", words)


def test_claims_of_nothing_do_not_certify_two_models_that_differ(made: Files) -> None:
    """As a forger would: another model in the place of the fold, its hash, and no claims at all."""
    made.change(made.after, lambda model: model.CopyFrom(layer()), repin=True)
    made.tamper(lambda said: said.update(claims=[], homes=[]))
    undecided(made.verdict(), "does not hold")


def test_no_single_value_that_is_changed_makes_another_certificate_pass(made: Files) -> None:
    """Every value in turn: what still passes is what is said for people, and then there is a note or no need of one."""
    said = made.said
    passing: set[str] = set()
    for path in _leaves(said):
        holder = tampered = json.loads(json.dumps(said))
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = _another(holder[path[-1]])
        made.say(tampered)
        try:
            verdict = made.verdict()
        except bnfold.UsageError:
            continue
        if verdict.is_same:
            passing.add(str(path[0]))
            assert bool(verdict.recheck.notes) == (path[0] in {"homes", "holds"})
    assert passing == {"bnfold", "bound", "holds", "homes", "assumed_inference"}


def _leaves(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, entry in entries for leaf in _leaves(entry, (*path, key))] or [path]


def _another(value: Json) -> Json:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return ["x"] if isinstance(value, list) else value + 1


# Figures.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said["homes"][0].update(worst=0.0), "Conv#0 the first: 52 numbers, worst 0.9"),
        (lambda said: said["homes"][0].update(numbers=3), "and 3 numbers, worst 0.9"),
        (lambda said: said["homes"][0]["parts"][1].update(terms=99), "1 home(s) were recomputed with other"),
        (lambda said: said.update(homes=[]), "of the bound (weight 0.9"),
        (lambda said: said["homes"].pop(0), "(K=3)), and nothing is written"),
        (lambda said: said["homes"][1]["home"].update(index=6), "2 home(s) were recomputed"),
        (lambda said: said["homes"].reverse(), "lists its homes otherwise"),
        (lambda said: said["homes"].append(said["homes"][1]), "lists its homes otherwise"),
        (lambda said: said.update(holds=False), "says itself that it does not hold"),
    ],
)  # fmt: skip
def test_figures_are_recomputed_and_others_are_told(made: Files, change: Callable[[Json], Any], words: str) -> None:
    made.tamper(change)
    verdict = made.verdict()
    assert verdict.is_same
    (note,) = verdict.recheck.notes
    assert words in note


# Steps before the claims.

DEFAULTS = TEXT.replace("(float[N,4,8] x)", "(float[N,4,8] x, float[4,4,3] w, float[4] g)")


def test_inputs_are_frozen_as_it_says(tmp_path: Path) -> None:
    made = files(tmp_path, layer(DEFAULTS), freeze_inputs=True)
    assert made.said["frozen_inputs"] == ["w", "g"]
    verdict = made.verdict()
    assert verdict.is_same
    assert verdict.recheck.notes == ("inputs that a caller could replace are constants now: 'w', 'g'",)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "the graph's inputs differ"),
        (["w"], "it froze the inputs 'w', and there are 'w', 'g'"),
        (["g", "w"], "it froze the inputs 'g', 'w', and there are 'w', 'g'"),
        (["w", "g", "x", "y"], "it froze the inputs 'w', 'g', 'x' and 1 more, and there are 'w', 'g'"),
    ],
)
def test_other_inputs_than_were_frozen_do_not_hold(tmp_path: Path, names: list[str], words: str) -> None:
    made = files(tmp_path, layer(DEFAULTS), freeze_inputs=True)
    made.tamper(lambda said: said.update(frozen_inputs=names))
    undecided(made.verdict(), "the certificate does not hold", words)


def test_inputs_that_nothing_froze_do_not_hold(made: Files) -> None:
    made.tamper(lambda said: said.update(frozen_inputs=["x"]))
    undecided(made.verdict(), "it froze the inputs 'x', and there are none")


def with_function() -> onnx.ModelProto:
    model = parsed("(float[N,4,8] x) => (float[N,4,6] y) { y = own.block(x,w,g,e,m,v) }", further=', "own" : 1')
    nodes = layer().graph.node
    inputs = ["x", "w", "g", "e", "m", "v"]
    model.functions.append(helper.make_function("own", "block", inputs, ["y"], nodes, [helper.make_opsetid("", 17)]))
    model.graph.initializer.extend(layer().graph.initializer)
    return model


@pytest.fixture
def inlined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A certificate that begins behind an inlining; what running shows is taken for granted here."""
    monkeypatch.setattr(proving, "_examined", lambda *_: Examination(Outcome("equal"), None))
    made = files(tmp_path, with_function(), inline=True, verify="full")
    assert made.said["inlined_functions"] == ["own.block"]
    assert made.said["begins_at"] != made.said["before"]["sha256"]
    return made


def test_behind_an_inlining_a_certificate_alone_decides_nothing(inlined: Files) -> None:
    verdict = inlined.verdict()
    undecided(verdict, "the certificate begins at the inlined model")
    assert verdict.recheck.certificate.holds
    assert verdict.recheck.inlined


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said.update(inlined_functions=[]), "it begins at a model that is not BEFORE"),
        (lambda said: said.update(inlined_functions=["own.other"]), "it inlined the functions 'own.other', and there "),
        (lambda said: said.update(begins_at=said["before"]["sha256"]), "is not what inlining makes of BEFORE here"),
        (lambda said: said["claims"].clear(), "the certificate does not hold: Conv#0 of the"),
    ],
)
def test_an_inlining_that_was_another_does_not_hold(inlined: Files, change: Callable[[Json], Any], words: str) -> None:
    inlined.tamper(change)
    undecided(inlined.verdict(), words)


def test_an_inlining_that_is_not_possible_any_more_is_undecided(
    inlined: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inlining, "MOST_NODES", 1)
    undecided(inlined.verdict(), "what the certificate begins at cannot be made again: the functions of ")


def test_functions_that_are_none_do_not_hold(made: Files) -> None:
    made.tamper(lambda said: said.update(inlined_functions=["own.block"]))
    undecided(made.verdict(), "it inlined the functions 'own.block', and there are none")


def trained() -> onnx.ModelProto:
    """A BatchNormalization of opset 6 whose is_test is 0."""
    model = layer()
    model.opset_import[0].version, model.ir_version = 6, 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    return model


def test_whether_inference_is_assumed_is_for_the_caller_to_say(tmp_path: Path) -> None:
    made = files(tmp_path, trained(), assume_inference=True)
    assert made.said["assumed_inference"] is True
    assert made.verdict(assume_inference=True).is_same
    undecided(made.verdict(), "is no BatchNormalization at inference (it was made with assume_inference, ")
    made.tamper(lambda said: said.update(assumed_inference=False))
    assert made.verdict(assume_inference=True).is_same
    verdict = made.verdict()
    undecided(verdict, "is no BatchNormalization at inference")
    assert "it was made with" not in verdict.why


# Together with what running shows.

OUTCOMES = ("equal", "within", "undecided", "differs")


@pytest.mark.parametrize("word", OUTCOMES)
@pytest.mark.parametrize("reason", ["floor", "discrete", "refused"])
@pytest.mark.parametrize(
    ("checked", "expected"),
    [
        (None, ("same", "same", "unknown", "differs")),
        (recheck.Recheck(None, "it is of other files"), ("unknown", "unknown", "unknown", "differs")),
        (recheck.Recheck(None, inlined=True), ("same", "same", "unknown", "differs")),
        (recheck.Recheck(None), ("same", "same", "unknown", "differs")),
    ],
    ids=["none", "broken", "inlined", "right"],
)
def test_what_running_shows_and_what_a_certificate_shows_together(
    word: str, reason: str, checked: recheck.Recheck | None, expected: tuple[str, ...]
) -> None:
    outcome = Outcome(word, "apart", reason if word == "undecided" else "")
    verdict = proving.concluded(Examination(outcome, None), checked)
    wanted = expected[OUTCOMES.index(word)]
    if word == "undecided" and reason == "discrete" and checked == recheck.Recheck(None):
        wanted = "same"  # behind a discrete operator a certificate decides
    assert verdict.word == wanted
    assert verdict.recheck is checked
    if isinstance(verdict, bnfold.Same):
        assert verdict.executed
        assert verdict.certified is (checked is not None)
    if isinstance(verdict, bnfold.Unknown):
        assert (verdict.why == "it is of other files") is (checked is not None and bool(checked.why))
        offered = checked == recheck.Recheck(None)
        assert ("--certificate-alone" in verdict.why) is offered
