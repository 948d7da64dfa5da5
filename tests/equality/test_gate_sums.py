"""LSTM, GRU and RNN, compared without a plan: what their gates sum, and what they put out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from site_models import C, affine, compared, model, norm

import bnfold
from bnfold.equality.gate_sums import with_gate_sums
from bnfold.equality.pieces import Source
from bnfold.equality.runner import Runner
from bnfold.equality.verdict import Differs, Same, Verdict
from bnfold.graph import Graph
from bnfold.model import read

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
H, T = 5, 6


@dataclass(frozen=True)
class Net:
    """A BatchNormalization before one node, and that node's constants in float64."""

    op: str
    arrays: dict[str, np.ndarray]
    scale: np.ndarray
    shift: np.ndarray
    how: str = ""

    @classmethod
    def of(cls, op: str, *, seed: int = 0, mean: float = 1.0, how: str = "") -> Net:
        random, rows = np.random.default_rng(seed), GATES[op] * H
        given = norm(seed)
        given["m"] = given["m"] * mean
        arrays = {"W": random.uniform(-0.5, 0.5, (2, rows, C)), "R": random.uniform(-0.5, 0.5, (2, rows, H))}
        arrays |= {"B": random.uniform(-0.5, 0.5, (2, 2 * rows)), **given}
        arrays = {name: array.astype(np.float32).astype(np.float64) for name, array in arrays.items()}
        return cls(op, arrays, *affine(arrays), how)

    @property
    def rows(self) -> int:
        return GATES[self.op] * H

    def text(self, data: str, output: str = "y") -> str:
        layer = f'{self.op} <hidden_size = {H}, direction = "bidirectional"{self.how}> ({data}, W, R, B)'
        return f"{output} = {layer} out = Relu ({output})"

    @property
    def before(self) -> onnx.ModelProto:
        body = "n = BatchNormalization (x, g, be, m, v) t = Transpose <perm = [2,0,1]> (n)"
        return model(f"(float[2,{C},{T}] x) => (float[] out) {{ {body} {self.text('t')} }}", **self.arrays)

    def after(self, output: str = "y", **changed: np.ndarray) -> onnx.ModelProto:
        w, b = self.folded()
        arrays = {"W": w, "R": self.arrays["R"], "B": b} | changed
        body = f"t1 = Transpose <perm = [2,0,1]> (x) {self.text('t1', output)}"
        made = model(f"(float[2,{C},{T}] x) => (float[] out) {{ {body} }}", **arrays)
        for tensor in made.graph.initializer:  # new values, new names
            if tensor.name in {"W", "B"}:
                tensor.name += "1"
        made.graph.node[1].input[:] = ["t1", "W1", "R", "B1"]
        return made

    def folded(self, scale: np.ndarray | None = None, shift: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """W and B that have taken over an affine."""
        w, b = self.arrays["W"], self.arrays["B"].copy()
        b[:, : self.rows] += w @ (self.shift if shift is None else shift)
        return w * (self.scale if scale is None else scale), b


def verdict(before: onnx.ModelProto, after: onnx.ModelProto) -> Verdict:
    return bnfold.verify(before.SerializeToString(), after.SerializeToString())


@pytest.mark.parametrize("mean", [1.0, 1000.0])
@pytest.mark.parametrize("op", GATES)
def test_a_right_fold_agrees_at_every_site(tmp_path: Path, runner: Runner, op: str, mean: float) -> None:
    """Also where gates are saturated, and the original itself computes with few digits."""
    net = Net.of(op, mean=mean)
    found = compared(tmp_path, runner, net.before, net.after())
    assert found.is_same
    assert found.compared == 2  # the sums, and what it puts out


@pytest.mark.parametrize("opset", [7, 17])
@pytest.mark.parametrize("op", GATES)
def test_biases_that_cancel_are_rounded_each_for_itself(tmp_path: Path, runner: Runner, op: str, opset: int) -> None:
    """Also before operands of a Sum could be broadcast, where they are added to each other first."""
    net = Net.of(op)
    if opset >= 8:
        net.arrays["B"][:, : net.rows] += 1e3
        net.arrays["B"][:, net.rows :] -= 1e3
    pair = net.before, net.after()
    for proto in pair:
        proto.opset_import[0].version = opset
    found = compared(tmp_path, runner, *pair)
    assert found.is_same, found
    assert found.compared == 2


def test_a_right_fold_is_the_same_model() -> None:
    net = Net.of("LSTM")
    found = verdict(net.before, net.after())
    assert isinstance(found, Same)
    assert found.sites is not None
    assert found.sites.worst_at == "LSTM#1"


def faults(net: Net) -> dict[str, dict[str, np.ndarray]]:
    w, b = net.folded()
    rows, given = net.rows, net.arrays
    forgotten = affine(given, 0.0)
    half = np.arange(2)[:, None, None] == 0
    one = np.arange(w.size).reshape(w.shape) == 17
    found = {
        "epsilon forgotten": dict(zip("WB", net.folded(*forgotten), strict=True)),
        "the shift lost": {"B": given["B"]},
        "one channel off": {"W": w * (1 + 1e-4 * (np.arange(C) == 3))},
        "one weight zeroed": {"W": np.where(one, 0, w)},
        "one row's shift lost": {"B": np.where(np.arange(2 * rows) == rows - 1, given["B"], b)},
        "one direction alone": {"W": np.where(half, w, given["W"]), "B": np.where(half[..., 0], b, given["B"])},
        "directions mixed": {"B": b[::-1]},
        "rounded to float16": {"W": w.astype(np.float16)},
        "R scaled": {"R": given["R"] * 1.01},
    }
    if net.op != "RNN":
        found["gates in another order"] = {"W": np.roll(w, H, axis=1)}
        found["the shift in other gates"] = {"B": given["B"] + np.roll(b - given["B"], H, axis=1)}
    return found


@pytest.mark.parametrize("mean", [1.0, 1000.0])
@pytest.mark.parametrize("op", GATES)
def test_a_wrong_fold_is_told_at_the_sums(tmp_path: Path, runner: Runner, op: str, mean: float) -> None:
    net = Net.of(op, seed=1, mean=mean)
    for name, arrays in faults(net).items():
        if name == "R scaled" and mean > 1:
            continue  # R is not what was folded, and behind saturated gates it hardly matters
        found = compared(tmp_path, runner, net.before, net.after(**arrays)).divergence
        assert found is not None, name
        assert found.value == ("y" if name == "R scaled" else "y (the sums in its gates)")


def test_what_is_said_names_the_sums() -> None:
    net = Net.of("LSTM")
    found = verdict(net.before, net.after(W=net.folded()[0] * 1.0001))
    assert isinstance(found, Differs)
    assert "'y (the sums in its gates)'" in found.sentence
    assert found.sentence.startswith("the first site that differs is LSTM#1: ")
    assert (found.site, found.original) == ("LSTM#1", "y")


@pytest.mark.parametrize(("op", "how"), [("LSTM", ""), ("RNN", ""), ("GRU", ""), ("GRU", ", linear_before_reset = 1")])
def test_a_bias_in_the_other_half_is_the_same_where_both_are_only_added(
    tmp_path: Path, runner: Runner, op: str, how: str
) -> None:
    """Not so in the last gate of a GRU that multiplies it by its reset."""
    net = Net.of(op, seed=2, how=how)
    _, b = net.folded()
    moved = np.concatenate([0 * b[:, : net.rows], b[:, : net.rows] + b[:, net.rows :]], axis=1)
    assert compared(tmp_path, runner, net.before, net.after(B=moved)).is_same is not bool(how)
    if how:
        for last in (slice(2 * H, 3 * H), slice(5 * H, 6 * H)):
            moved[:, last] = b[:, last]
        assert compared(tmp_path, runner, net.before, net.after(B=moved)).is_same


def test_another_name_of_the_output_leaves_it_to_jitter(tmp_path: Path, runner: Runner) -> None:
    net = Net.of("GRU")
    assert compared(tmp_path, runner, net.before, net.after("z")).is_same
    assert compared(tmp_path, runner, net.before, net.after("z", B=net.arrays["B"])).divergence is not None


def source(folder: Path, proto: onnx.ModelProto, name: str) -> Source:
    onnx.save(proto, folder / name)
    return Source(Graph.of(read(folder / name)), folder / name)


def changed(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A model in which something keeps the sums from being laid open."""
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    node = other.graph.node[1]
    tensors = {tensor.name: tensor for tensor in other.graph.initializer}
    if name == "another operator":
        node.op_type = "GRU"
    if name == "W of unknown form":
        other.graph.node.insert(0, onnx.helper.make_node("NonZero", ["W1"], ["W2"]))
        node.input[1] = "W2"
    if name == "another form":
        tensors["W1"].CopyFrom(numpy_helper.from_array(np.ones((2, 24, C), np.float32), "W1"))
    if name == "the name is taken":
        node.output.append("y (the sums in its gates) 7")
    return other


@pytest.mark.parametrize("name", ["another operator", "W of unknown form", "another form", "the name is taken"])
def test_where_both_do_not_have_them_nothing_is_laid_open(tmp_path: Path, name: str) -> None:
    net = Net.of("LSTM")
    before = source(tmp_path, net.before, "before.onnx")
    assert len(with_gate_sums(before, source(tmp_path, net.after(), "after.onnx"))[2]) == 1
    after = source(tmp_path, changed(net.after(), name), "other.onnx")
    assert with_gate_sums(before, after) == (before, after, {})


def test_weights_that_nodes_hold_or_make_are_as_good(tmp_path: Path, runner: Runner) -> None:
    net = Net.of("LSTM")
    for arrays, same in (({}, True), ({"W": net.folded()[0] * 1.0001}, False)):
        after = net.after(**arrays)
        tensor = next(tensor for tensor in after.graph.initializer if tensor.name == "W1")
        nodes = [onnx.helper.make_node("Constant", [], ["W2"], value=tensor), *after.graph.node]
        nodes.insert(1, onnx.helper.make_node("Identity", ["W2"], ["W1"]))
        after.graph.initializer.remove(tensor)
        del after.graph.node[:]
        after.graph.node.extend(nodes)
        found = compared(tmp_path, runner, net.before, after)
        assert found.is_same is same
        assert same or (found.divergence is not None and found.divergence.value == "y (the sums in its gates)")


def test_the_files_are_left_as_they_are(tmp_path: Path) -> None:
    net = Net.of("LSTM")
    one, other = source(tmp_path, net.before, "before.onnx"), source(tmp_path, net.after(), "after.onnx")
    held = one.file.proto.SerializeToString(deterministic=True)
    laid_open = with_gate_sums(one, other)[0]
    assert one.file.proto.SerializeToString(deterministic=True) == held
    assert [value.name for value in laid_open.file.proto.graph.output] == ["out", "y (the sums in its gates)"]
