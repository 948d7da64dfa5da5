"""Splicing: equal to an edit done with protobuf, and byte for byte the input wherever no edit is."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_builders import edited, example, graph_at, messy
from onnx import TensorProto, helper, numpy_helper

from bnfold.model import Address, GraphEdit, NewTensor, NodeEdit, read, to_bytes
from bnfold.model.content import Held
from bnfold.model.wire import fields

MAIN = Address()
THEN = Address(nested=((3, 0, -1),))
ELSE = Address(nested=((3, 1, -1),))
FUNCTION = Address(function=0)
WITHOUT_THEN = NodeEdit(dropped_attributes=frozenset({"then_branch"}))
RELAXED = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def random_edit(random: Random, graph, *, locked: frozenset[int] = frozenset()) -> GraphEdit:
    """Edits of about a third of everything; the nodes in `locked` stay in their place."""

    def some(count: int) -> list[int]:
        return [i for i in range(count) if random.random() < 0.35]

    def value(name: str):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [random.randrange(9), "M"])

    def tensor(name: str) -> NewTensor:
        return NewTensor.of(name, np.full((random.randrange(4), 100), random.random(), np.float32))

    def node_edit(node) -> NodeEdit:
        names = [a.name for a in node.attribute if not a.HasField("g")]
        replaced = [helper.make_attribute(n, random.randrange(1000)) for n in names if random.random() < 0.5]
        added = [helper.make_attribute("fresh", "text")] if random.random() < 0.5 else []
        return NodeEdit(
            inputs=random.choice([None, (), ("i", "", "j")]),
            outputs=random.choice([None, ("o",)]),
            attributes=(*replaced, *added),
            dropped_attributes=frozenset(n for n in names if random.random() < 0.3),
        )

    new_node = helper.make_node("Relu", ["n"], ["m"])
    nodes = {i: None for i in some(len(graph.node)) if i not in locked}
    nodes |= {i: node_edit(graph.node[i]) for i in some(len(graph.node))}
    inserted = {i: (new_node,) * random.randrange(3) for i in some(len(graph.node) + 1)}
    value_info = {i: random.choice([None, value("i")]) for i in some(len(graph.value_info))}
    added = tuple(value("added") for _ in some(2))
    if isinstance(graph, onnx.FunctionProto):
        return GraphEdit(nodes=nodes, inserted=inserted, value_info=value_info, added_value_info=added)
    return GraphEdit(
        nodes=nodes,
        inserted=inserted,
        initializers={i: (tensor("t"),) * random.randrange(3) for i in some(len(graph.initializer))},
        added_initializers=tuple(tensor("u") for _ in some(2)),
        inputs={i: random.choice([None, value("i")]) for i in some(len(graph.input))},
        added_inputs=tuple(value("v") for _ in some(2)),
        added_outputs=tuple(value("v") for _ in some(2)),
        outputs={i: value("out") for i in some(len(graph.output))},
        value_info=value_info,
        added_value_info=added,
    )


def random_edits(random: Random, model: onnx.ModelProto) -> dict[Address, GraphEdit]:
    return {
        address: random_edit(random, graph_at(model, address), locked=frozenset({3} if address == MAIN else ()))
        for address in (MAIN, THEN, ELSE, FUNCTION)
        if random.random() < 0.7
    }


@RELAXED
@given(st.randoms(use_true_random=False))
def test_a_splice_is_the_edit_that_protobuf_would_do(random):
    model = example()
    edits = random_edits(random, model)
    assert onnx.ModelProto.FromString(to_bytes(read(model), edits)) == edited(model, edits)


@RELAXED
@given(st.integers(0, 2**32))
def test_any_encoding_is_spliced_as_what_protobuf_reads(seed):
    random = Random(seed)
    data = messy(example().SerializeToString(), random)
    parsed = onnx.ModelProto.FromString(data)
    model = read(data)
    assert to_bytes(model, {}) == data
    edits = random_edits(random, parsed)
    found = onnx.ModelProto.FromString(to_bytes(model, edits))
    expected = edited(parsed, edits)
    for each in (found, expected):
        each.DiscardUnknownFields()
    assert found == expected


@RELAXED
@given(st.integers(0, 2**32))
def test_any_encoding_has_the_same_arrays(seed):
    original = example()
    model = read(messy(original.SerializeToString(), Random(seed)))
    for tensor, reference in zip(model.proto.graph.initializer, original.graph.initializer, strict=True):
        np.testing.assert_array_equal(model.array(tensor), numpy_helper.to_array(reference))


def graph_fields(data: bytes) -> list[bytes]:
    (graph,) = [f for f in fields(Held(data), 0, len(data)) if f.number == 7]
    return [data[f.start : f.end] for f in fields(Held(data), graph.body, graph.end)]


def test_what_no_edit_names_keeps_its_bytes():
    encodings = (messy(example().SerializeToString(), Random(seed)) for seed in range(99))
    data = next(e for e in encodings if sum(f.number == 7 for f in fields(Held(e), 0, len(e))) == 1)
    out = to_bytes(read(data), {MAIN: GraphEdit(nodes={0: NodeEdit(outputs=("pp",))}, initializers={1: ()})})
    before, after = graph_fields(data), graph_fields(out)
    kept = [field for field in before if field in after]
    assert len(before) - len(kept) == 2
    assert [field for field in after if field in before] == kept


def test_an_edit_inside_a_branch_keeps_the_rest_of_the_node():
    data = example().SerializeToString()
    out = to_bytes(read(data), {THEN: GraphEdit(nodes={1: NodeEdit(inputs=("k",))})})
    before, after = graph_fields(data), graph_fields(out)
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [3]
    assert len(out) == len(data)


def test_editing_twice_gives_the_same_bytes():
    edits = {MAIN: GraphEdit(added_initializers=(NewTensor.of("n", np.arange(1000)),), nodes={1: None})}
    assert to_bytes(read(example()), edits) == to_bytes(read(example()), edits)


@pytest.mark.parametrize(
    "edits",
    [
        {MAIN: GraphEdit(nodes={9: None})},
        {MAIN: GraphEdit(nodes={-1: None})},
        {MAIN: GraphEdit(initializers={7: ()})},
        {MAIN: GraphEdit(inserted={7: (helper.make_node("Relu", ["a"], ["b"]),)})},
        {MAIN: GraphEdit(value_info={4: None})},
        {MAIN: GraphEdit(nodes={3: None}), THEN: GraphEdit(nodes={0: None})},
        {MAIN: GraphEdit(nodes={3: WITHOUT_THEN}), THEN: GraphEdit(nodes={0: None})},
        {Address(nested=((0, 0, -1),)): GraphEdit(nodes={0: None})},
        {Address(nested=((3, 0, 0),)): GraphEdit(nodes={0: None})},
        {Address(nested=((30, 0, 0),)): GraphEdit(nodes={0: None})},
        {Address(function=3): GraphEdit(nodes={0: None})},
        {FUNCTION: GraphEdit(initializers={0: ()})},
        {FUNCTION: GraphEdit(added_inputs=(onnx.ValueInfoProto(name="x"),))},
    ],
)  # fmt: skip
def test_an_edit_of_what_is_not_there_is_a_mistake(edits):
    with pytest.raises(ValueError, match=r"there is no|has no|cannot be inserted|is dropped|is replaced|function"):
        to_bytes(read(example()), edits)


def test_data_of_another_length_than_announced_are_never_written():
    wrong = NewTensor(TensorProto(name="w", dims=[2], data_type=1), 8, lambda: (b"1234",))
    with pytest.raises(ValueError, match="8 bytes of data were announced and 4 bytes came"):
        to_bytes(read(example()), {MAIN: GraphEdit(added_initializers=(wrong,))})


def test_a_new_tensor_is_not_rounded_silently():
    with pytest.raises(ValueError, match="an array of float64 is not a tensor of float32"):
        NewTensor.of("w", np.zeros(3), TensorProto.FLOAT)
