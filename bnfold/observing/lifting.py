"""Outputs of a body brought up to the graph that holds it, by one more output of the node that runs it.

    If     the branch puts them out, and the other one puts out what they are of no samples
    Loop   it carries them: each iteration appends what it has, however many samples that is
    Scan   they become scan outputs, which have as many samples each time, and are put one behind the other after it

What leads from the main graph to a body is an `Address`; everything is done to copies of its first node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TypeProto, ValueInfoProto, helper, numpy_helper

from bnfold.observing.reducing import Reduction, constant

Step = tuple[int, int, int]
CARRIED_FROM = 2
"""The inputs of a Loop that come before what it carries; its body puts out one such value, the condition."""


class CannotLift(Exception):
    """A body from which nothing can be brought out; the sentence says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Around:
    """The graph that holds a node: a body, or the main graph, of which only the nodes are known."""

    main: list[NodeProto]
    body: GraphProto | None

    def before(self, name: str, array: np.ndarray) -> None:
        """A constant that all of its nodes can read; those that are there keep their places in a body."""
        if self.body is None:
            self.main.insert(0, constant(name, array))
        else:
            self.body.initializer.append(numpy_helper.from_array(array, name))

    def behind(self, nodes: Sequence[NodeProto]) -> None:
        """Nodes that read what others put out."""
        (self.main if self.body is None else self.body.node).extend(nodes)


Brought = Callable[[NodeProto, GraphProto, Reduction, str, Around], Reduction]


def lifted(
    main: list[NodeProto], holder: NodeProto, steps: tuple[Step, ...], found: Reduction, prefix: str
) -> Reduction:
    """Bring what a body computes up to the main graph; changes `main`, and in it `holder`, which leads there.

    `steps` lead from the main graph to the body, the first of them to `holder`. Raises `CannotLift`.
    """
    for depth in range(len(steps), 0, -1):
        node = _node_at(holder, steps[:depth])
        body = _body(node, steps[depth - 1])
        bring = _BRINGING.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if bring is None:
            raise CannotLift(f"values inside of {node.op_type} cannot be brought out of it")
        around = Around(main, body_at(holder, steps[: depth - 1]) if depth > 1 else None)
        found = bring(node, body, found, f"{prefix}/{depth}", around)
    return found


def body_at(holder: NodeProto, steps: tuple[Step, ...]) -> GraphProto:
    """The body to which `steps` lead, the first of them from `holder`."""
    return _body(_node_at(holder, steps), steps[-1])


def _node_at(holder: NodeProto, steps: tuple[Step, ...]) -> NodeProto:
    """The node that holds the body of the last step."""
    node = holder
    for before, (index, _, _) in pairwise(steps):
        node = _body(node, before).node[index]
    return node


def _body(node: NodeProto, step: Step) -> GraphProto:
    attribute = node.attribute[step[1]]
    body: GraphProto = attribute.g if step[2] < 0 else attribute.graphs[step[2]]
    return body


def _of_branch(node: NodeProto, body: GraphProto, found: Reduction, prefix: str, around: Around) -> Reduction:
    del around
    for branch in _bodies(node):
        if branch is body:
            branch.output.extend(_ports(found))
            continue
        nothing = found.renamed(_names(f"{prefix}/none"))
        branch.node.extend(constant(name, array) for name, array in zip(nothing.names, found.of_nothing(), strict=True))
        branch.output.extend(_ports(nothing))
    outside = found.renamed(_names(prefix))
    node.output.extend(outside.names)
    return outside


def _of_loop(node: NodeProto, body: GraphProto, found: Reduction, prefix: str, around: Around) -> Reduction:
    first, so_far, outside = (found.renamed(_names(f"{prefix}{part}")) for part in ("/none", "/before", ""))
    for name, array in zip(first.names, found.of_nothing(), strict=True):
        around.before(name, array)
    appended = found.renamed(_names(f"{prefix}/after"))
    for before, now, after in zip(so_far.names, found.names, appended.names, strict=True):
        body.node.append(helper.make_node("Concat", [before, now], [after], axis=0))
    carried = len(node.input) - CARRIED_FROM
    node.input.extend(first.names)
    body.input.extend(_ports(so_far))
    for place, port in enumerate(_ports(appended), start=1 + carried):
        body.output.insert(place, port)
    outputs = list(node.output) + [""] * max(0, carried - len(node.output))
    del node.output[:]
    node.output.extend([*outputs[:carried], *outside.names, *outputs[carried:]])
    return outside


def _of_scan(node: NodeProto, body: GraphProto, found: Reduction, prefix: str, around: Around) -> Reduction:
    body.output.extend(_ports(found))
    for attribute in node.attribute:
        if attribute.name in {"scan_output_axes", "scan_output_directions"} and attribute.ints:
            attribute.ints.extend([0] * len(found.names))
    stacked, outside = found.renamed(_names(f"{prefix}/stacked")), found.renamed(_names(prefix))
    node.output.extend(stacked.names)
    for name, flat, array in zip(stacked.names, outside.names, found.of_nothing(), strict=True):
        form = np.array([-1, *array.shape[1:]], dtype=np.int64)
        around.behind([constant(f"{flat}/form", form), helper.make_node("Reshape", [name, f"{flat}/form"], [flat])])
    return outside


_BRINGING: Mapping[str, Brought] = {"If": _of_branch, "Loop": _of_loop, "Scan": _of_scan}


def _names(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}/mean", f"{prefix}/var", f"{prefix}/shape"


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def _ports(found: Reduction) -> Iterator[ValueInfoProto]:
    for name, kind in zip(found.names, found.types, strict=True):
        yield ValueInfoProto(name=name, type=TypeProto(tensor_type=TypeProto.Tensor(elem_type=kind)))
