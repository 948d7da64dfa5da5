"""Models and encodings of models for the tests of bnfold.model, and edits done with protobuf as their reference."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser

from bnfold.model import Address, GraphEdit, NewTensor, NodeEdit
from bnfold.model.content import Held
from bnfold.model.tensors import all_tensors
from bnfold.model.walk import CHILDREN, Kind
from bnfold.model.wire import LENGTH, VARINT, encoded_varint, fields, number_at, varint

TEXT = """
<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
main (float[N, 2] x, bool c) => (float[N, 2] y)
<float[2] a = {1.0, 2.0}, float[2] b = {3.0, 4.0}>
{
  p = Add (x, a)
  q = Mul (p, b)
  r = If (c) <then_branch = t () => (float[N, 2] u) <float[2] k = {5.0, 6.0}> { v = Mul (q, k)  u = Identity (v) },
              else_branch = e () => (float[N, 2] w) { w = Identity (q) }>
  y = local.twice (r)
}
<domain: "local", opset_import: ["" : 17]>
twice (z) => (s)
{
  one = Constant <value_float = 2.0> ()
  s = Mul (z, one)
}
"""


def example() -> onnx.ModelProto:
    """Two initializers, one of them large, an If with initializers inside, a function, metadata, a large Constant."""
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((20, 30)), "large"))
    value = numpy_helper.from_array(rng.standard_normal(400).astype(np.float32), "inside")
    model.graph.node.insert(1, helper.make_node("Constant", [], ["const"], value=value))
    branch = model.graph.node[3].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(rng.integers(0, 9, 300), "nested_large"))
    model.graph.value_info.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 2]))
    model.graph.value_info.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, ["N", 2]))
    model.metadata_props.add(key="k", value="v")
    model.producer_name = "tests"
    return model


def with_external(model: onnx.ModelProto, path, least: int = 16) -> onnx.ModelProto:
    """Save the model at `path` with its initializers of `least` bytes or more in `<name>.data`."""
    names = {"location": f"{path.name}.data", "size_threshold": least, "convert_attribute": True}
    onnx.save_model(model, path, save_as_external_data=True, **names)
    return onnx.load(path)


def loaded(path) -> onnx.ModelProto:
    """What onnx.load reads, without the marks that it leaves on tensors which were external."""
    model = onnx.load(path)
    for tensor in all_tensors(model):
        tensor.ClearField("data_location")
    return model


def overlong(value: int, extra: int) -> bytes:
    """A varint with `extra` bytes more than it needs."""
    short = encoded_varint(value)
    return short[:-1] + bytes([short[-1] | 0x80]) + b"\x80" * (extra - 1) + b"\0" if extra else short


def messy(data: bytes, random: Random, kind: Kind | None = Kind.MODEL) -> bytes:
    """The same message in another encoding: over-long varints, unknown fields and groups, unpacked dims, chunks."""
    out = bytearray()
    for field in fields(Held(data), 0, len(data)):
        out += _unknown(random)
        if field.wire != LENGTH:
            out += _scalar(data, field, random)
            continue
        body = data[field.body : field.end]
        child, singular = CHILDREN.get(kind, {}).get(field.number, (None, False))
        if child is not None:
            body = messy(body, random, child)
        if kind is Kind.TENSOR and field.number == 1 and random.random() < 0.5:
            out += b"".join(b"\x08" + number for number in _packed(body))
            continue
        for chunk in _chunks(body, random) if singular else [body]:
            out += overlong(field.number << 3 | LENGTH, random.choice([0, 0, 1, 2]))
            out += overlong(len(chunk), random.choice([0, 0, 0, 1, 3])) + chunk
    return bytes(out + _unknown(random))


def _scalar(data, field, random):
    if field.wire != VARINT:
        return data[field.start : field.end]
    value = number_at(Held(data), field)
    extra = random.choice([0, 0, 1, 3]) if value < 2**32 else 0
    return encoded_varint(field.number << 3) + overlong(value, extra)


def _packed(body):
    at = 0
    while at < len(body):
        _, end = varint(body, at, len(body))
        yield body[at:end]
        at = end


def _chunks(body: bytes, random: Random) -> list[bytes]:
    if random.random() < 0.7:
        return [body]
    ends = [field.end for field in fields(Held(body), 0, len(body))] or [0]
    cut = random.choice(ends)
    return [body[:cut], body[cut:]]


def _unknown(random: Random) -> bytes:
    if random.random() < 0.8:
        return b""
    number = random.choice([200, 1000, 5000])
    tag = number << 3
    return random.choice([
        encoded_varint(tag) + overlong(random.randrange(1 << 40), 1),
        encoded_varint(tag | 1) + random.randbytes(8),
        encoded_varint(tag | 2) + encoded_varint(5) + random.randbytes(5),
        encoded_varint(tag | 5) + random.randbytes(4),
        encoded_varint(tag | 3) + b"\x08\x01\x13\x0a\x02ab\x14" + encoded_varint(tag | 4),
    ])  # fmt: skip


def graph_at(model: onnx.ModelProto, address: Address):
    """The graph or function that an address names."""
    graph = model.graph if address.function is None else model.functions[address.function]
    for node, attribute, index in address.nested:
        holder = graph.node[node].attribute[attribute]
        graph = holder.g if index == -1 else holder.graphs[index]
    return graph


def edited(model: onnx.ModelProto, edits: Mapping[Address, GraphEdit]) -> onnx.ModelProto:
    """The reference: the same edits, done on the parsed model; inner graphs first, for their addresses to hold."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for address in sorted(edits, key=lambda a: -len(a.nested)):
        _edit_graph(graph_at(result, address), edits[address])
    return result


def _edit_graph(graph, edit: GraphEdit) -> None:
    nodes = []
    for index, node in enumerate([*graph.node, None]):
        nodes.extend(edit.inserted.get(index, ()))
        change = edit.nodes.get(index, NodeEdit())
        if node is not None and change is not None:
            _edit_node(node, change)
            nodes.append(node)
    _refill(graph.node, nodes)
    _refill(graph.value_info, _replaced(graph.value_info, edit.value_info, edit.added_value_info))
    if isinstance(graph, onnx.FunctionProto):
        return
    _refill(graph.input, _replaced(graph.input, edit.inputs, edit.added_inputs))
    _refill(graph.output, _replaced(graph.output, edit.outputs, edit.added_outputs))
    tensors = [edit.initializers.get(i, (t,)) for i, t in enumerate(graph.initializer)]
    flat = [t for group in [*tensors, edit.added_initializers] for t in group]
    _refill(graph.initializer, [full(t) if isinstance(t, NewTensor) else t for t in flat])


def full(new: NewTensor) -> TensorProto:
    """A new tensor with its data in it."""
    tensor = TensorProto()
    tensor.CopyFrom(new.header)
    tensor.raw_data = b"".join(bytes(block) for block in new.blocks())
    return tensor


def _replaced(old, changes, added):
    kept = [changes.get(i, value) for i, value in enumerate(old)]
    return [*(value for value in kept if value is not None), *added]


def _refill(field, values) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _edit_node(node, edit: NodeEdit) -> None:
    if edit.inputs is not None:
        _refill_texts(node.input, edit.inputs)
    if edit.outputs is not None:
        _refill_texts(node.output, edit.outputs)
    new = {a.name: a for a in edit.attributes}
    kept: list[AttributeProto] = []
    for attribute in node.attribute:
        if attribute.name in new:
            kept.append(new.pop(attribute.name))
        elif attribute.name not in edit.dropped_attributes:
            kept.append(attribute)
    _refill(node.attribute, [*kept, *new.values()])


def _refill_texts(field, texts) -> None:
    del field[:]
    field.extend(texts)
