"""Models with external data beyond what one message, or 32 bits, can hold; the gigabytes are holes in sparse files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import FOLDABLE, Answer, command, environment, parsed
from onnx import TensorProto, numpy_helper

import bnfold

Cli = Callable[..., Answer]
BEYOND = (1 << 32) + (1 << 20)


def outside(model: onnx.ModelProto, name: str, data: Path, offset: int) -> None:
    """Move an initializer to a place in a file, which grows as far as needed."""
    (tensor,) = (found for found in model.graph.initializer if found.name == name)
    content = numpy_helper.to_array(tensor).tobytes()
    with data.open("r+b" if data.exists() else "wb") as file:
        file.seek(offset)
        file.write(content)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", data.name), ("offset", str(offset)), ("length", str(len(content)))):
        tensor.external_data.add(key=key, value=value)


@pytest.fixture
def far(desk: Path) -> Path:
    """The model m.onnx with its weight and a parameter beyond four GiB."""
    model = parsed(FOLDABLE)
    outside(model, "w", desk / "far.data", BEYOND)
    outside(model, "g", desk / "far.data", BEYOND + 4096)
    onnx.save(model, desk / "far.onnx")
    return desk / "far.onnx"


def weights(path: str) -> dict[str, bytes]:
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in onnx.load(path).graph.initializer}


@pytest.mark.usefixtures("far")
def test_weights_beyond_four_gib_fold_as_others_do(cli: Cli) -> None:
    assert cli("fold", "m.onnx", "-o", "near_folded.onnx", "-q").code == 0
    answer = cli("fold", "far.onnx", "-o", "far_folded.onnx")
    assert (answer.code, answer.err) == (0, "")
    assert "by the certificate and by running both models" in answer.out
    assert weights("far_folded.onnx") == weights("near_folded.onnx")


@pytest.mark.usefixtures("far")
def test_models_with_weights_beyond_four_gib_are_compared(cli: Cli, desk: Path) -> None:
    assert cli("verify", "far.onnx", "m.onnx", "-q").code == 0
    model = onnx.load(desk / "far.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) - (1 << 32))  # what 32 bits would make of it: zeros
    onnx.save(model, desk / "other.onnx")
    assert cli("verify", "far.onnx", "other.onnx", "-q").code == 1


def test_the_floor_of_a_model_with_weights_beyond_four_gib_is_that_of_the_same_model(cli: Cli, desk: Path) -> None:
    """A factor that is off by five half units: only draws of the perturbed constants say what that is."""
    body = "(float[N,64] x) => (float[N,64] y) { y = Mul(x,k) }"
    ratios = []
    for place in ("inside", "outside"):
        for name, factor in (("one", 1.5), ("other", 1.5 * (1 + 10 * 2.0**-24))):
            model = parsed(body)
            model.graph.initializer.append(numpy_helper.from_array(np.full(64, factor, np.float32), "k"))
            if place == "outside":
                outside(model, "k", desk / f"{name}.data", BEYOND)
            onnx.save(model, desk / f"{name}.onnx")
        said = cli("verify", "one.onnx", "other.onnx", "--format", "json").json
        ratios.append([one["ratio"] for one in said["end_to_end"]["comparisons"]])
    assert ratios[0] == ratios[1]
    assert max(ratios[0]) > 2


@pytest.mark.parametrize("what", ["an old opset", "outputs without names"])
def test_a_model_that_has_to_be_copied_to_run_leaves_its_data_where_they_are(cli: Cli, desk: Path, what: str) -> None:
    model = parsed(FOLDABLE)
    if what == "an old opset":
        model = parsed(FOLDABLE.replace("Normalization(", "Normalization<is_test=1>("), opset=6, ir=4)
    else:
        model.graph.node[1].output.extend(["", ""])
    outside(model, "w", desk / "copied.data", BEYOND)
    onnx.save(model, desk / "copied.onnx")
    assert cli("verify", "copied.onnx", "copied.onnx", "-q").code == 0
    assert cli("fold", "copied.onnx", "-o", "out.onnx", "-q").code == 0
    assert weights("out.onnx").keys() >= {"w_folded"}


SIZE = 1 << 29


def peak(*arguments: str, cwd: Path) -> int:
    """Bytes that bnfold itself (not the process that runs onnxruntime) had in memory at most."""
    process = subprocess.Popen(command(*arguments), cwd=cwd, env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the platform does not say how much memory a process took")
def test_verification_takes_a_fraction_of_the_memory_that_the_data_would(desk: Path) -> None:
    for name in ("one", "other"):
        model = parsed("(float[N,4] x, int64 i) => (float[N,4] y) { r = Gather(table,i) y = Add(x,r) }")
        table = model.graph.initializer.add(name="table", data_type=1, dims=[SIZE // 16, 4], data_location=1)
        for key, value in (("location", f"{name}.data"), ("offset", "0"), ("length", str(SIZE))):
            table.external_data.add(key=key, value=value)
        onnx.save(model, desk / f"{name}.onnx")
        with (desk / f"{name}.data").open("wb") as file:
            file.truncate(SIZE)
    usual = peak("verify", "m.onnx", "m.onnx", cwd=desk)
    assert peak("verify", "one.onnx", "other.onnx", cwd=desk) - usual < SIZE // 8


def test_a_model_that_would_not_fit_into_one_message_cannot_be_had_as_bytes(
    cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is lowered, for two GiB of zeros would have to be written."""
    model = parsed(FOLDABLE)
    outside(model, "w", desk / "m2.data", 0)
    onnx.save(model, desk / "m2.onnx")
    monkeypatch.setattr("bnfold.model.splice.MOST_BYTES", 300)
    answer = cli("fold", "m2.onnx", "-o", "-", "-q", "--verify", "off")
    assert (answer.code, answer.out) == (5, "")
    assert "more than the 2 GiB that protobuf allows" in answer.err
    assert answer.err.count("\n") == 1
    with pytest.raises(bnfold.CannotWrite):
        bnfold.fold("m2.onnx", verify="off").to_bytes()


# Where the data are written.


@pytest.fixture
def roomy(desk: Path) -> Path:
    """A model with a weight that is large enough to lie outside, and a BatchNormalization."""
    model = parsed(FOLDABLE)
    rows = numpy_helper.from_array(np.arange(600, dtype=np.float32), "rows")
    model.graph.initializer.append(rows)
    model.graph.node.add(op_type="Identity", input=["rows"], output=["further"])
    model.graph.output.append(onnx.helper.make_tensor_value_info("further", TensorProto.FLOAT, [600]))
    onnx.save(model, desk / "roomy.onnx")
    return desk / "roomy.onnx"


@pytest.mark.usefixtures("roomy")
def test_data_move_into_a_file_and_back_and_the_model_is_the_same(cli: Cli, desk: Path) -> None:
    assert cli("fold", "roomy.onnx", "-o", "usual.onnx", "-q").code == 0
    answer = cli("fold", "roomy.onnx", "-o", "split.onnx", "--external-data", "file")
    assert (answer.code, answer.err) == (0, "")
    assert "by the certificate and by running both models" in answer.out
    outer = {t.name for t in onnx.load("split.onnx", load_external_data=False).graph.initializer if t.external_data}
    assert outer == {"rows"}
    assert weights("split.onnx") == weights("usual.onnx")
    back = cli("fold", "split.onnx", "-o", "back.onnx", "--external-data", "inline")
    assert back.code == 0
    assert (desk / "back.onnx").read_bytes() == (desk / "usual.onnx").read_bytes()
    assert "the bytes are the input's" not in back.out


@pytest.mark.usefixtures("roomy")
def test_a_name_that_is_taken_gets_the_hash_of_the_data(cli: Cli, desk: Path) -> None:
    (desk / "split.onnx.data").write_bytes(b"somebody's")
    assert cli("fold", "roomy.onnx", "-o", "split.onnx", "--external-data", "file", "-q").code == 0
    assert (desk / "split.onnx.data").read_bytes() == b"somebody's"
    (hashed,) = desk.glob("split.onnx.*.data")
    assert hashed.name == f"split.onnx.{hashlib.sha256(hashed.read_bytes()).hexdigest()[:8]}.data"


def test_what_would_pass_two_gib_goes_into_a_file(cli: Cli, roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered, for two GiB would have to be written."""
    for module in ("publish", "splice"):
        monkeypatch.setattr(f"bnfold.model.{module}.MOST_BYTES", 2000)
    assert cli("fold", roomy, "-o", "out.onnx", "-q", "--verify", "off").code == 0
    assert Path("out.onnx.data").stat().st_size == 2400
    refused = cli("fold", roomy, "-o", "one.onnx", "--verify", "off", "--external-data", "inline")
    assert refused.code == 5
    assert "more than the 2 GiB" in refused.err
    assert not Path("one.onnx").exists()


@pytest.mark.usefixtures("roomy")
def test_in_place_the_file_that_is_named_no_longer_stays_and_is_reported(cli: Cli, desk: Path) -> None:
    assert cli("fold", "roomy.onnx", "-o", "split.onnx", "--external-data", "file", "-q").code == 0
    result = bnfold.fold("split.onnx", in_place=True, external_data="inline", verify="certificate")
    assert result.left_behind == (Path("split.onnx.data"),)
    assert not result.is_unchanged
    assert (desk / "split.onnx.data").exists()
    assert weights("split.onnx")["rows"] == np.arange(600, dtype=np.float32).tobytes()


@pytest.mark.usefixtures("roomy")
def test_where_data_cannot_go_is_said_before_anything_is_read(cli: Cli) -> None:
    answer = cli("fold", "roomy.onnx", "-o", "-", "--external-data", "file")
    assert (answer.code, answer.out) == (2, "")
    assert "no place for a file of external data" in answer.err
    assert cli("fold", "roomy.onnx", "-o", "out.onnx", "--external-data", "outside").code == 2
    with pytest.raises(bnfold.UsageError, match="external_data is 'outside'"):
        bnfold.fold("roomy.onnx", external_data="outside")


def test_a_model_that_shrinks_while_it_is_read_exits_3_and_leaves_nothing(
    cli: Cli, roomy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnfold.model.source.HELD_BYTES", 0)
    planned = bnfold.api.folding.make_plan

    def shrinking(*arguments: object, **wishes: object) -> object:
        plan = planned(*arguments, **wishes)
        os.truncate(roomy, 1000)
        return plan

    monkeypatch.setattr("bnfold.api.folding.make_plan", shrinking)
    before = sorted(Path().iterdir())
    answer = cli("fold", roomy, "-o", "out.onnx", "--verify", "off")
    assert (answer.code, answer.out) == (3, "")
    assert "since the model was opened" in answer.err
    assert answer.err.count("\n") == 1
    assert sorted(Path().iterdir()) == before
