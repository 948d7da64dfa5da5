"""Time is linear: twice the model makes about twice the calls, of planning, rewriting, writing and the certificate.

Calls are counted, for they are the same on every machine. What is quadratic in calls shows as a factor of four.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.apply import rewrite
from bnfold.equality.certificate import certify
from bnfold.graph import Graph
from bnfold.model import read, to_bytes
from bnfold.ops.facts import Facts
from bnfold.planning import make_plan
from bnfold.result import claims

CHANNELS = 2
MOST = 2.6
"""What doubles may have constant parts, and single steps that grow with the logarithm."""

Parts = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def constant(random: np.random.Generator, name: str, *dims: int) -> onnx.TensorProto:
    return numpy_helper.from_array(random.uniform(0.5, 1.5, dims).astype(np.float32), name)


def conv(random: np.random.Generator, name: str, source: str, target: str) -> Parts:
    node = helper.make_node("Conv", [source, f"w{name}"], [target], name=f"conv{name}")
    return [node], [constant(random, f"w{name}", CHANNELS, CHANNELS, 1, 1)]


def norm(random: np.random.Generator, name: str, source: str, target: str, channels: int) -> Parts:
    names = [f"{role}{name}" for role in ("gamma", "beta", "mean", "var")]
    node = helper.make_node("BatchNormalization", [source, *names], [target], name=f"bn{name}")
    return [node], [constant(random, each, channels) for each in names]


def model(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], channels: int) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 4, 4])
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def row(length: int) -> onnx.ModelProto:
    """Conv and BatchNormalization, `length` times in a row."""
    random = np.random.default_rng(0)
    nodes, tensors = [], []
    for i in range(length):
        source, target = "x" if i == 0 else f"n{i - 1}", "y" if i == length - 1 else f"n{i}"
        for more in (conv(random, str(i), source, f"c{i}"), norm(random, str(i), f"c{i}", target, CHANNELS)):
            nodes += more[0]
            tensors += more[1]
    return model(nodes, tensors, CHANNELS)


def branches(length: int) -> Parts:
    random = np.random.default_rng(0)
    found = [conv(random, str(i), "x", f"c{i}") for i in range(length)]
    return [node for nodes, _ in found for node in nodes], [tensor for _, tensors in found for tensor in tensors]


def concat(length: int) -> onnx.ModelProto:
    """A BatchNormalization behind the Concat of so many convolutions."""
    nodes, tensors = branches(length)
    nodes.append(helper.make_node("Concat", [f"c{i}" for i in range(length)], ["cat"], axis=1))
    last = norm(np.random.default_rng(1), "", "cat", "y", CHANNELS * length)
    return model([*nodes, *last[0]], [*tensors, *last[1]], CHANNELS * length)


def sums(length: int) -> onnx.ModelProto:
    """A BatchNormalization behind a row of Adds of so many convolutions."""
    nodes, tensors = branches(length)
    for i in range(1, length):
        nodes.append(helper.make_node("Add", ["c0" if i == 1 else f"s{i - 1}", f"c{i}"], [f"s{i}"]))
    last = norm(np.random.default_rng(1), "", f"s{length - 1}", "y", CHANNELS)
    return model([*nodes, *last[0]], [*tensors, *last[1]], CHANNELS)


def nested(depth: int) -> onnx.ModelProto:
    """An If in an If in an If, with a Conv and a BatchNormalization in each branch."""
    random = np.random.default_rng(0)
    tensors: list[onnx.TensorProto] = []
    inner: onnx.GraphProto | None = None
    for i in reversed(range(depth)):
        ends = []
        for name in (f"then{i}", f"else{i}"):
            parts = conv(random, name, "x", f"c{name}"), norm(random, name, f"c{name}", f"n{name}", CHANNELS)
            tensors += [tensor for _, more in parts for tensor in more]
            ends.append([node for more, _ in parts for node in more])
        if inner is not None:
            ends[0].append(helper.make_node("If", ["c"], [f"i{i}"], then_branch=inner[0], else_branch=inner[1]))
        outputs = [f"i{i}" if inner is not None else f"nthen{i}", f"nelse{i}"]
        inner = [
            helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])
            for nodes, name in zip(ends, outputs, strict=True)
        ]
    holder = helper.make_node("If", ["c"], ["y"], then_branch=inner[0], else_branch=inner[1])
    made = model([holder], tensors, CHANNELS)
    made.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return made


def calls(action: Callable[[], object]) -> tuple[int, object]:
    """How many calls an action makes, those into C included, and what it returns."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        result = action()
    finally:
        sys.setprofile(before)
    return count, result


def counted(proto: onnx.ModelProto) -> dict[str, int]:
    """Calls by stage."""
    found: dict[str, int] = {}
    found["reading"], graph = calls(lambda: Graph.of(read(proto)))
    facts = Facts(graph)
    found["planning"], plan = calls(lambda: make_plan(graph, facts=facts))
    assert plan.moves
    assert not plan.refusals
    found["rewriting"], changes = calls(lambda: rewrite(graph, plan, facts))
    found["writing"], data = calls(lambda: to_bytes(graph.model, changes.edits))
    after, before = Graph.of(read(data)), Graph.of(read(proto))
    found["certificate"], certificate = calls(lambda: certify(before, after, claims(plan)))
    assert certificate.holds
    return found


@pytest.mark.parametrize(("made", "size"), [(row, 40), (concat, 60), (sums, 60), (nested, 8)])
def test_twice_the_model_takes_twice_the_calls(made: Callable[[int], onnx.ModelProto], size: int) -> None:
    counted(made(2))  # what is imported late, or remembered, counts for neither
    once, twice = counted(made(size)), counted(made(2 * size))
    factors = {stage: twice[stage] / once[stage] for stage in once}
    assert max(factors.values()) < MOST, factors


def test_a_long_row_needs_no_stack() -> None:
    """More nodes than Python is given room for on its stack."""
    graph = Graph.of(read(row(1500)))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(250)
    try:
        plan = make_plan(graph)
        changes = rewrite(graph, plan)
    finally:
        sys.setrecursionlimit(limit)
    assert len(plan.moves) == 1500
    assert changes.edits
