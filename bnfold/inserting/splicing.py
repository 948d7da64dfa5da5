"""Places and parameters -> edits of the model file.

The node that makes a value puts it out under another name, and the BatchNormalization's output takes the name over: all
readers and all promises stay as they are. What nobody makes (an input) keeps its name, and its readers get another one.
Where the channels are on the last axis and that is not axis 1, the BatchNormalization stands between two Transposes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

from bnfold.assembly import Fresh
from bnfold.graph import Graph
from bnfold.inserting.parameters import Parameters
from bnfold.inserting.places import Place
from bnfold.model import Edits, GraphEdit, NewTensor, NodeEdit
from bnfold.nodes import Scope
from bnfold.observing.marks import mark_of
from bnfold.ops.affine import FIRST_OPSET_WITH_TRAINING_MODE, NORMALIZATION

_CALLED_AFTER = (
    "weight", "bias", "running_mean", "running_var", "running_mean.updated", "running_var.updated", "saved_mean",
    "saved_var", "channels_first", "out",
)  # fmt: skip
"""What is named after a BatchNormalization, with a dot between."""


@dataclass(frozen=True, slots=True, eq=False)
class Insertion:
    """A BatchNormalization at its place. `key`: if it is to be found again, by its mark and those of its constants."""

    place: Place
    parameters: Parameters
    training: bool = False
    key: int | None = None


def constant_mark(key: int, role: str) -> str:
    """The doc_string of the Constant node that holds a parameter of the insertion `key`."""
    return f"bnfold parameter {key} {role}"


@dataclass(frozen=True, slots=True)
class Spliced:
    """The edits of a model file, and the names of the nodes that they put there, one for each insertion."""

    edits: Edits
    names: tuple[str, ...]


def inserted(graph: Graph, insertions: Sequence[Insertion]) -> Spliced:
    """The edits that put BatchNormalizations at their places, each value at most once."""
    return _Splicing(graph).spliced(insertions)


@dataclass(slots=True)
class _Pending:
    """What is to change in one scope."""

    nodes: dict[int, list[NodeProto]] = field(default_factory=lambda: defaultdict(list))
    tensors: list[NewTensor] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)


class _Splicing:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.fresh = Fresh(set(graph.names))
        self.fresh_for_nodes = Fresh({node.proto.name for node in graph.nodes})
        self.inputs: dict[int, list[str]] = {}
        self.outputs: dict[int, list[str]] = {}
        self.pending: dict[Scope, _Pending] = defaultdict(_Pending)

    def spliced(self, insertions: Sequence[Insertion]) -> Spliced:
        names = tuple(self._insert(insertion) for insertion in insertions)
        return Spliced(self._edits(), names)

    def _edits(self) -> Edits:
        changed: dict[Scope, dict[int, NodeEdit]] = defaultdict(dict)
        for id_ in sorted(self.inputs.keys() | self.outputs.keys()):
            node = self.graph.nodes[id_]
            inputs, outputs = self.inputs.get(id_), self.outputs.get(id_)
            changed[node.scope][node.index] = NodeEdit(
                inputs=None if inputs is None else tuple(inputs), outputs=None if outputs is None else tuple(outputs)
            )
        scopes = dict.fromkeys((*changed, *self.pending))
        return {scope.address: self._graph_edit(scope, changed.get(scope, {})) for scope in scopes}

    def _graph_edit(self, scope: Scope, nodes: Mapping[int, NodeEdit]) -> GraphEdit:
        pending = self.pending[scope]
        listed = self.graph.needs_initializer_inputs
        return GraphEdit(
            nodes=dict(nodes),
            inserted={index: tuple(new) for index, new in pending.nodes.items()},
            added_initializers=tuple(pending.tensors),
            added_inputs=tuple(_port(tensor) for tensor in pending.tensors) if listed else (),
            added_outputs=tuple(pending.outputs),
        )

    def _insert(self, insertion: Insertion) -> str:
        place = insertion.place
        before, after = self._names(place)
        name = self._called(f"{place.tensor}_bn")
        nodes = self._parameters(insertion, name)
        index = 0 if place.node is None else place.node.index + 1
        if place.axis == 1:
            nodes.append(self._norm(insertion, name, before, after))
        else:
            order = list(range(place.rank))
            order[1], order[place.axis] = place.axis, 1
            turned, normed = f"{name}.channels_first", f"{name}.out"
            nodes += [
                helper.make_node("Transpose", [before], [turned], perm=order),
                self._norm(insertion, name, turned, normed),
                helper.make_node("Transpose", [normed], [after], perm=order),
            ]
        self.pending[place.value.scope].nodes[index].extend(nodes)
        return nodes[-1 if place.axis == 1 else -2].name

    def _called(self, wanted: str) -> str:
        """A name that is free with everything that is called after it."""
        name = self.fresh(wanted)
        while not self.fresh.taken.isdisjoint(f"{name}.{part}" for part in _CALLED_AFTER):
            name = self.fresh(wanted)
        self.fresh.taken.update(f"{name}.{part}" for part in _CALLED_AFTER)
        return name

    def _names(self, place: Place) -> tuple[str, str]:
        """What the BatchNormalization reads and what it puts out, everything else told of it."""
        value, node = place.value, place.node
        if node is not None:
            before = self.fresh(f"{value.name}_before_bn")
            outputs = self.outputs.setdefault(node.id, list(node.proto.output))
            outputs[node.outputs.index(value)] = before
            return before, value.name
        after = self.fresh(f"{value.name}_normalized")
        for reader in self.graph.readers(value):
            inputs = self.inputs.setdefault(reader.node.id, list(reader.node.proto.input))
            inputs[reader.index] = after
        return value.name, after

    def _parameters(self, insertion: Insertion, name: str) -> list[NodeProto]:
        """Put the parameters among the main graph's initializers; elsewhere, and where marked, they are nodes."""
        scope, nodes = insertion.place.value.scope, []
        for role, array in insertion.parameters.named:
            called = f"{name}.{role}"
            if insertion.key is not None:
                mark = constant_mark(insertion.key, role)
                nodes.append(_constant(called, numpy_helper.from_array(array), doc_string=mark))
            elif scope is not self.graph.scopes[0]:
                nodes.append(_constant(called, numpy_helper.from_array(array)))
            else:
                self.pending[scope].tensors.append(NewTensor.of(called, array))
        return nodes

    def _norm(self, insertion: Insertion, name: str, before: str, after: str) -> NodeProto:
        place = insertion.place
        inputs = [before, *(f"{name}.{role}" for role, _ in insertion.parameters.named)]
        outputs, attributes = [after], {}
        if insertion.training:
            updated = [f"{name}.{role}.updated" for role in ("running_mean", "running_var")]
            element = helper.np_dtype_to_tensor_dtype(insertion.parameters.mean.dtype)
            ports = [helper.make_tensor_value_info(each, element, [place.channels]) for each in updated]
            self.pending[place.value.scope].outputs.extend(ports)
            outputs += updated
            if place.value.scope.opset < FIRST_OPSET_WITH_TRAINING_MODE:
                outputs += [f"{name}.saved_mean", f"{name}.saved_var"]
            else:
                attributes["training_mode"] = 1
        node = helper.make_node(
            NORMALIZATION, inputs, outputs, name=self.fresh_for_nodes(name), epsilon=insertion.parameters.epsilon
        )
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        if insertion.key is not None:
            node.doc_string = mark_of(insertion.key)
        return node


def nodes_added(place: Place) -> int:
    """How many nodes a BatchNormalization costs there, constants apart."""
    return 1 if place.axis == 1 else 3


def _constant(name: str, tensor: object, **attributes: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=tensor, **attributes)


def _port(tensor: NewTensor) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.header.name, tensor.header.data_type, list(tensor.header.dims))
