"""Outputs of a body brought up to the graph that holds it, by one more output of the node that runs it.

    If     the branch puts them out, and the other one puts out what they are of no samples
    Loop   they become scan outputs: one row of them for each iteration
    Scan   likewise

What leads from the main graph to a body is an `Address`; everything is done to copies of its first node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from onnx import AttributeProto, GraphProto, NodeProto, TypeProto, ValueInfoProto

from bnfold.observing.reducing import Reduction, constant

Step = tuple[int, int, int]
Brought = Callable[[NodeProto, GraphProto, Reduction, str], None]


class CannotLift(Exception):
    """A body from which nothing can be brought out; the sentence says why."""


def lifted(holder: NodeProto, steps: tuple[Step, ...], found: Reduction, prefix: str) -> Reduction:
    """Bring what a body computes up to the main graph; changes `holder`, a copy of the node that leads there.

    `steps` lead from the main graph to the body, the first of them to `holder`. Raises `CannotLift`.
    """
    for depth in range(len(steps), 0, -1):
        node = _node_at(holder, steps[:depth])
        body = _body(node, steps[depth - 1])
        bring = _BRINGING.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if bring is None:
            raise CannotLift(f"values inside of {node.op_type} cannot be brought out of it")
        names = (f"{prefix}/{depth}/mean", f"{prefix}/{depth}/var", f"{prefix}/{depth}/shape")
        bring(node, body, found, prefix)
        node.output.extend(names)
        found = found.renamed(names)
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


def _of_branch(node: NodeProto, body: GraphProto, found: Reduction, prefix: str) -> None:
    for branch in _bodies(node):
        if branch is body:
            branch.output.extend(_ports(found))
            continue
        names = tuple(f"{prefix}/none/{part}" for part in ("mean", "var", "shape"))
        nothing = zip(names, found.of_nothing(), strict=True)
        branch.node.extend(constant(name, array) for name, array in nothing)
        branch.output.extend(_ports(found.renamed((names[0], names[1], names[2]))))


def _of_loop(node: NodeProto, body: GraphProto, found: Reduction, prefix: str) -> None:
    del node, prefix
    body.output.extend(_ports(found))


def _of_scan(node: NodeProto, body: GraphProto, found: Reduction, prefix: str) -> None:
    del prefix
    body.output.extend(_ports(found))
    for attribute in node.attribute:
        if attribute.name in {"scan_output_axes", "scan_output_directions"} and attribute.ints:
            attribute.ints.extend([0] * len(found.names))


_BRINGING: Mapping[str, Brought] = {"If": _of_branch, "Loop": _of_loop, "Scan": _of_scan}


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def _ports(found: Reduction) -> Iterator[ValueInfoProto]:
    for name, kind in zip(found.names, found.types, strict=True):
        yield ValueInfoProto(name=name, type=TypeProto(tensor_type=TypeProto.Tensor(elem_type=kind)))
