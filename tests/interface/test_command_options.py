"""The options that change which model is planned for, or how old nodes are read, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import ROOT, Answer, operators, parsed, refused, temporaries
from onnx import TensorProto, helper, numpy_helper

from bnfold.api import folding

Cli = Callable[..., Answer]

DEFAULTS = (
    "(float[N,4,8] x, float[4,4,3] w, float[4] g) => (float[N,4,6] y) "
    "{ c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) y = Relu(n) }"
)
DEFAULTS_BLOCKED = (
    "(float[N,4,8] x, float[4,4,3] w, float[4] g) => (float[N,4,6] y) "
    "{ c = Conv(x,w) r = Relu(c) y = BatchNormalization(r,g,e,m,v) }"
)


def with_function() -> onnx.ModelProto:
    model = parsed("(float[N,4,8] x) => (float[N,4,6] y) { y = own.block(x,w,g,e,m,v) }", further=', "own" : 1')
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "e", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    inputs = ["x", "w", "g", "e", "m", "v"]
    model.functions.append(helper.make_function("own", "block", inputs, ["y"], nodes, [helper.make_opsetid("", 17)]))
    return model


def old(is_test: int) -> onnx.ModelProto:
    """A Conv and a BatchNormalization of opset 6 and IR 3."""
    model = parsed("(float[2,4,8] x) => (float[2,4,6] y) { c = Conv(x,w) y = BatchNormalization(c,g,e,m,v) }", opset=6)
    model.graph.node[1].attribute.append(helper.make_attribute("is_test", is_test))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    return model


def old_folded() -> onnx.ModelProto:
    """The same by hand, in inference mode."""
    model = old(1)
    held = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    scale = held["g"] / np.sqrt(held["v"] + np.float64(np.float32(1e-5)))
    new = {"w": held["w"] * scale[:, None, None], "b": held["e"] - held["m"] * scale}
    del model.graph.node[:], model.graph.initializer[:], model.graph.input[1:]
    model.graph.node.append(helper.make_node("Conv", ["x", "w", "b"], ["y"]))
    for name, array in new.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    return model


@pytest.fixture(autouse=True)
def models(desk: Path) -> None:
    made = {
        "defaults": parsed(DEFAULTS),
        "defaults_blocked": parsed(DEFAULTS_BLOCKED),
        "function": with_function(),
        "trained": old(0),
        "old": old(1),
        "old_folded": old_folded(),
    }
    for name, model in made.items():
        onnx.save(model, desk / f"{name}.onnx")


def names_of_inputs(path: str) -> list[str]:
    return [entry.name for entry in onnx.load(path).graph.input]


# Freezing.


def test_frozen_inputs_are_folded_dropped_and_told(cli: Cli) -> None:
    kept = cli("fold", "defaults.onnx", "-o", "kept.onnx")
    assert (kept.code, "1 x overridable" in kept.out) == (0, True)
    answer = cli("fold", "defaults.onnx", "-o", "out.onnx", "--freeze-inputs")
    assert answer.code == 0
    assert "1 found, 1 folded, 0 left" in answer.out
    assert "frozen       2 input(s) that had a default: now constants" in answer.out
    assert "a caller could replace and no longer can: 'g', 'w'" in answer.out
    assert "same, by the certificate and by running both models" in answer.out
    assert names_of_inputs("out.onnx") == ["x"]


def test_inputs_are_frozen_in_place_where_nothing_folds(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "defaults_blocked.onnx", "--in-place", "--freeze-inputs")
    assert (answer.code, "nothing was folded: the bytes" in answer.out) == (0, False)
    assert names_of_inputs("defaults_blocked.onnx") == ["x"]
    was = (desk / "defaults_blocked.onnx").stat()
    again = cli("fold", "defaults_blocked.onnx", "--in-place", "--freeze-inputs")
    assert "nothing was folded: the bytes are the input's" in again.out
    now = (desk / "defaults_blocked.onnx").stat()
    assert (now.st_ino, now.st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
    assert temporaries(desk) == []


def test_check_asks_whether_anything_folds_not_whether_anything_freezes(cli: Cli, desk: Path) -> None:
    before = (desk / "defaults.onnx").read_bytes()
    assert cli("fold", "defaults_blocked.onnx", "--check", "--freeze-inputs").code == 0
    assert cli("fold", "defaults.onnx", "--check").code == 0
    assert cli("fold", "defaults.onnx", "--check", "--freeze-inputs").code == 1
    assert (desk / "defaults.onnx").read_bytes() == before


def test_the_model_on_stdout_is_the_frozen_one(cli: Cli) -> None:
    answer = cli("fold", "defaults_blocked.onnx", "-o", "-", "--freeze-inputs", "-q")
    assert [entry.name for entry in onnx.load_model_from_string(answer.stdout).graph.input] == ["x"]


def test_a_plan_is_of_the_frozen_model(cli: Cli) -> None:
    assert "0 to fold" in cli("plan", "defaults.onnx").out
    assert "1 to fold" in cli("plan", "defaults.onnx", "--freeze-inputs").out
    fingerprint = cli("plan", "defaults.onnx", "--freeze-inputs", "--format", "json").json["plan"]["fingerprint"]
    cli("fold", "defaults.onnx", "-o", "frozen.onnx", "--freeze-inputs", "--skip", "*")
    assert fingerprint == sha256(Path("frozen.onnx").read_bytes()).hexdigest()


# Inlining.


def test_functions_are_inlined_folded_and_told(cli: Cli) -> None:
    answer = cli("fold", "function.onnx", "-o", "out.onnx", "--inline")
    assert answer.code == 0
    assert "1 found, 1 folded, 0 left" in answer.out
    assert "inlined      1 function(s)" in answer.out
    assert "note         functions were inlined before the certificate begins" in answer.out
    assert operators("out.onnx") == ["Conv", "Relu"]
    assert cli("verify", "function.onnx", "out.onnx").code == 0


def test_inlining_without_running_is_undecided_and_nothing_is_written(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "function.onnx", "-o", "out.onnx", "--inline", "--verify", "certificate")
    refused(answer, 6, "the certificate begins at the inlined model", "--verify full")
    assert not (desk / "out.onnx").exists()
    assert temporaries(desk) == []


def test_a_certificate_behind_an_inlining_is_checked_again_and_that_step_by_running(cli: Cli) -> None:
    given = ("function.onnx", "out.onnx", "--certificate", "c.json")
    assert cli("fold", "function.onnx", "-o", "out.onnx", "--inline", "--certificate", "c.json").code == 0
    answer = cli("verify", *given)
    assert answer.code == 0
    assert "52 numbers in 1 home(s) recomputed" in answer.out
    assert "note         functions were inlined before the certificate begins" in answer.out
    alone = cli("verify", *given, "--certificate-alone")
    assert alone.code == 6
    assert "that inlining changed nothing is shown only by running both models" in alone.out


def test_in_a_batch_only_the_model_with_functions_is_undecided(cli: Cli) -> None:
    given = ["function.onnx", "m.onnx", "without.onnx"]
    answer = cli("fold", *given, "-o", "out", "--inline", "--verify", "certificate", "--format", "json")
    assert answer.code == 6
    assert [one["exit_code"] for one in answer.json["models"]] == [6, 0, 0]
    assert Path("out/without.onnx").read_bytes() == Path("without.onnx").read_bytes()
    answer = cli("fold", *given, "defaults.onnx", "-o", "out", "--inline", "--freeze-inputs", "--format", "json")
    results = [one["result"] for one in answer.json["models"]]
    assert answer.code == 0
    assert [one["inlined_functions"] for one in results] == [["own.block"], [], [], []]
    assert [one["frozen_inputs"] for one in results] == [[], [], [], ["w", "g"]]


@pytest.mark.parametrize("command", [["plan"], ["fold", "-o", "out.onnx"]])
def test_a_function_that_cannot_be_inlined_is_refused_input(cli: Cli, desk: Path, command: list[str]) -> None:
    model = with_function()
    model.functions[0].node[2].CopyFrom(helper.make_node("block", ["n", "w"], ["y"], domain="own"))
    onnx.save(model, desk / "recursive.onnx")
    refused(cli(command[0], "recursive.onnx", *command[1:], "--inline"), 3, "recursive.onnx", "own.block calls itself")
    assert not (desk / "out.onnx").exists()


def test_a_plan_is_of_the_inlined_model(cli: Cli) -> None:
    assert "0 to fold" in cli("plan", "function.onnx").out
    answer = cli("plan", "function.onnx", "--inline", "-v")
    assert "1 to fold" in answer.out
    assert "BatchNormalization#1 into Conv#0" in answer.out


def test_a_certificate_says_what_came_before_it(cli: Cli) -> None:
    for name, option, step in (
        ("function", "--inline", {"inlined_functions": ["own.block"], "frozen_inputs": []}),
        ("defaults", "--freeze-inputs", {"inlined_functions": [], "frozen_inputs": ["w", "g"]}),
    ):
        given = ["fold", f"{name}.onnx", "-o", f"{name}_out.onnx", option, "--certificate", f"{name}.json"]
        assert cli(*given).code == 0
        certificate = json.loads(Path(f"{name}.json").read_text())
        assert certificate["before"]["sha256"] == sha256(Path(f"{name}.onnx").read_bytes()).hexdigest()
        assert certificate["after"]["sha256"] == sha256(Path(f"{name}_out.onnx").read_bytes()).hexdigest()
        assert (certificate["begins_at"] == certificate["before"]["sha256"]) is (option == "--freeze-inputs")
        assert step.items() <= certificate.items()


# Old nodes, and what is planned for at all.


def test_old_nodes_are_run_as_they_are_marked_unless_inference_is_assumed(cli: Cli) -> None:
    assert cli("verify", "old.onnx", "old_folded.onnx").code == 0
    assert cli("verify", "trained.onnx", "old_folded.onnx").code == 1
    answer = cli("verify", "trained.onnx", "old_folded.onnx", "--assume-inference")
    assert answer.code == 0
    assert "what says is_test=0 was run as inference, as asked" in answer.out


@pytest.mark.parametrize("command", [["plan", "m.onnx"], ["fold", "m.onnx", "-o", "out.onnx", "--verify", "off"]])
@pytest.mark.parametrize(
    ("options", "wishes"),
    [
        ([], {"bn_only": False, "assume_inference": False}),
        (["--bn-only"], {"bn_only": True, "assume_inference": False}),
        (["--assume-inference"], {"bn_only": False, "assume_inference": True}),
    ],
)
def test_what_the_planner_is_to_know_reaches_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: list[str], options: list[str], wishes: dict[str, bool]
) -> None:
    heard: list[dict[str, bool]] = []
    planned = folding.make_plan

    def listening(*given, **named):
        heard.append(named)
        return planned(*given, **named)

    monkeypatch.setattr(folding, "make_plan", listening)
    assert cli(*command, *options).code == 0
    assert [{key: one[key] for key in wishes} for one in heard] == [wishes]


def test_the_certificate_hears_what_was_assumed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.equality import certificate  # noqa: PLC0415  # what is listened to here

    heard: list[dict[str, bool]] = []
    certify = certificate.certify

    def listening(*given, **named):
        heard.append(named)
        return certify(*given, **named)

    monkeypatch.setattr(certificate, "certify", listening)
    for option in ([], ["--assume-inference"]):
        assert cli("fold", "m.onnx", "-o", "out.onnx", "--verify", "certificate", *option).code == 0
    assert heard == [{"assume_inference": False}, {"assume_inference": True}]


@pytest.mark.parametrize("option", ["--freeze-inputs", "--inline", "--assume-inference", "--bn-only"])
def test_the_readme_says_what_an_option_is_for(option: str) -> None:
    assert f"`{option}`" in (ROOT / "README.md").read_text()
