"""How often each branch of an If ran that stands inside other graphs, as one more output of the main graph.

    counts(If) = [condition, 1 - condition]      counts of an If in the branch that did not run = [0, 0]
    counts of an If in the body of a Loop or Scan = the sum over all iterations

A graph hands the counts of what it holds to the node that holds it, which hands them on as one more output: a branch
beside the counting one puts out zeros, and a body that repeats carries the sum as one more state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Place = tuple[tuple[str, str], ...]

_REPEATING: Final = frozenset({"Loop", "Scan"})
_PREFIX: Final = "bnfold:"


def can_count(node: onnx.NodeProto) -> bool:
    """Whether counts come out of the graphs that a node holds."""
    return node.domain in ("", "ai.onnx") and (node.op_type == "If" or node.op_type in _REPEATING)


def count_branches(graph: onnx.GraphProto, keys: Mapping[tuple[Place, str], str]) -> None:
    """Let a main graph put out the counts of Ifs under these names; each is named by its graph and first output."""
    counter = _Counter(keys)
    for key, name in counter.counted(graph, ()).items():
        graph.node.append(helper.make_node("Identity", [name], [key]))
        graph.output.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, [2]))


class _Counter:
    """Adds the counts to graphs, from the inside outward; names that it gives are no others."""

    def __init__(self, keys: Mapping[tuple[Place, str], str]) -> None:
        self._keys = keys
        self._count = 0

    def counted(self, graph: onnx.GraphProto, at: Place) -> dict[str, str]:
        """By key: the name, in this graph, of the counts of each If in it and in the graphs that it holds."""
        found: dict[str, str] = {}
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            first = next(iter(node.output), "")
            if can_count(node) and self._holds_any(node, at):
                found |= self._held(node, graph, at)
            graph.node.append(node)
            if (at, first) in self._keys and at:
                found[self._keys[at, first]] = self._of_condition(graph, node.input[0])
        return found

    def _holds_any(self, node: onnx.NodeProto, at: Place) -> bool:
        """Whether an If that counts stands in a graph of a node."""
        inside = {(*at, (next(iter(node.output), ""), attribute.name)) for attribute in node.attribute}
        return any(where[: len(at) + 1] in inside for where, _ in self._keys)

    def _of_condition(self, graph: onnx.GraphProto, condition: str) -> str:
        number, true, false, both = (self._name() for _ in range(4))
        one, shape = self._constant(graph, np.ones(1, np.float32)), self._constant(graph, np.array([1]))
        graph.node.extend(
            (
                helper.make_node("Cast", [condition], [number], to=TensorProto.FLOAT),
                helper.make_node("Reshape", [number, shape], [true]),
                helper.make_node("Sub", [one, true], [false]),
                helper.make_node("Concat", [true, false], [both], axis=0),
            )
        )
        return both

    def _held(self, node: onnx.NodeProto, graph: onnx.GraphProto, at: Place) -> dict[str, str]:
        """The counts of all Ifs in the graphs of a node, which it puts out besides; `graph` holds the node."""
        first = next(iter(node.output), "")
        counts = {a.name: self.counted(a.g, (*at, (first, a.name))) for a in node.attribute if a.HasField("g")}
        keys = list(dict.fromkeys(key for each in counts.values() for key in each))
        names = {key: self._name() for key in keys}
        for attribute in node.attribute:
            if not attribute.HasField("g"):
                continue
            if node.op_type in _REPEATING:
                self._carried(node, attribute.g, graph, counts[attribute.name], names)
                continue
            for key in keys:
                counted = counts[attribute.name].get(key) or self._constant(attribute.g, np.zeros(2, np.float32))
                attribute.g.output.append(_port(counted))
        if node.op_type not in _REPEATING:
            node.output.extend(names.values())
        return names

    def _carried(
        self,
        node: onnx.NodeProto,
        body: onnx.GraphProto,
        graph: onnx.GraphProto,
        counts: Mapping[str, str],
        names: Mapping[str, str],
    ) -> None:
        """One more state for each: what was counted so far and what this iteration counts."""
        is_loop = node.op_type == "Loop"
        scanned = 0 if is_loop else next(a.i for a in node.attribute if a.name == "num_scan_inputs")
        while is_loop and len(node.input) < 2:  # no length, no condition
            node.input.append("")
        states = len(node.input) - scanned - 2 * is_loop
        node.output.extend([""] * (states - len(node.output)))
        for place, (key, counted) in enumerate(counts.items(), start=states):
            before, after = self._name(), self._name()
            body.node.append(helper.make_node("Add", [before, counted], [after]))
            node.input.insert(place + 2 * is_loop, self._constant(graph, np.zeros(2, np.float32)))
            body.input.insert(place + 2 * is_loop, _port(before))
            body.output.insert(place + is_loop, _port(after))
            node.output.insert(place, names[key])

    def _constant(self, graph: onnx.GraphProto, array: np.ndarray) -> str:
        name = self._name()
        graph.node.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"{_PREFIX}{self._count}"


def _port(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
