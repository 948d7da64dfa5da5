"""Models, runs and looks into models for the tests of insert; nothing here is taken from the code that inserts.

Runs are the tests' own: onnxruntime with its optimiser off, one thread. Equality bit for bit is that of numbers, so
that a negative zero is zero (an affine with shift 0 makes +0 of it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, NodeProto, helper, numpy_helper, parser

import bnfold

Feeds = Mapping[str, np.ndarray]
NORM = "BatchNormalization"


def model(
    text: str, *, opset: int = 17, ir: int = 8, imports: str = "", functions: str = "", **tensors: np.ndarray
) -> onnx.ModelProto:
    """A model from ONNX text without its header; `tensors` become initializers."""
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}{imports}]>'
    proto = parser.parse_model(f"{header} agraph {text} {functions}")
    for name, array in tensors.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        if ir < 4:
            element = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
            proto.graph.input.append(helper.make_tensor_value_info(name, element, np.shape(array)))
    return proto


def noise(*dims: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Standard normal numbers."""
    return np.asarray(np.random.default_rng(seed).standard_normal(dims).astype(dtype))


def inserted(proto: onnx.ModelProto, **wishes: object) -> tuple[bnfold.InsertResult, onnx.ModelProto]:
    """What `insert` gives, and the model, which onnx's checker accepts with all shapes inferred."""
    result = bnfold.insert(proto, **wishes)  # type: ignore[arg-type]
    after = result.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert result.nodes_after == sum(len(graph.node) for graph in graphs(after)) + functions_nodes(after)
    assert result.bytes_after == len(result.to_bytes())
    return result, after


def functions_nodes(proto: onnx.ModelProto) -> int:
    """How many nodes the functions hold, bodies included."""
    return sum(1 for function in proto.functions for node in function.node for _ in every(node))


def every(node: NodeProto) -> Iterator[NodeProto]:
    """A node and what its bodies hold."""
    yield node
    for body in bodies(node):
        for inner in body.node:
            yield from every(inner)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(proto: onnx.ModelProto) -> Iterator[GraphProto]:
    """The main graph and all that are nested in it."""
    yield proto.graph
    for node in proto.graph.node:
        for one in every(node):
            yield from bodies(one)


def nodes(proto: onnx.ModelProto) -> Iterator[NodeProto]:
    """All nodes, of bodies and functions too."""
    for holder in (proto.graph, *proto.functions):
        for node in holder.node:
            yield from every(node)


def norms(proto: onnx.ModelProto) -> list[NodeProto]:
    """All BatchNormalizations."""
    return [node for node in nodes(proto) if node.op_type == NORM]


def attribute(node: NodeProto, name: str, default: float = 0) -> float:
    """A number that a node has as an attribute."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Initializers and Constant nodes, by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for graph in graphs(proto) for tensor in graph.initializer}
    for node in nodes(proto):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def parameters(proto: onnx.ModelProto, place: int = 0) -> list[np.ndarray]:
    """scale, B, mean and var of one BatchNormalization."""
    held = constants(proto)
    return [held[name] for name in norms(proto)[place].input[1:]]


def exposed(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy in which these values of the main graph are outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    given = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    return copy


def run(proto: onnx.ModelProto, feeds: Feeds, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """All outputs, or these values of the main graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = exposed(proto, names).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    wanted = list(names) or [value.name for value in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True))


def assert_same_numbers(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds) -> None:
    """Both give the same bits, but for the sign of zeros."""
    ours, theirs = run(before, feeds), run(after, feeds)
    assert ours.keys() <= theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert array.shape == theirs[name].shape
        assert positive(array).tobytes() == positive(theirs[name]).tobytes(), name


def positive(array: np.ndarray) -> np.ndarray:
    """The same numbers without negative zeros."""
    return np.where(array == 0, np.zeros_like(array), array)


def undone(after: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """A model without what was put into its main graph: told apart by names that `before`, of no Transposes, lacks."""
    names = {name for node in nodes(before) for name in (*node.input, *node.output)}
    names |= {entry.name for entry in (*before.graph.initializer, *before.graph.input)}
    plain = onnx.ModelProto()
    plain.CopyFrom(after)
    graph = plain.graph
    new = [node for node in graph.node if node.op_type in {NORM, "Transpose"} and not names.issuperset(node.input)]
    new += [node for node in graph.node if node.op_type == "Transpose" and node not in new]
    origins = {node.output[0]: node.input[0] for node in new}
    back = {}
    for output, origin in origins.items():
        while origin in origins:
            origin = origins[origin]  # noqa: PLW2901  # followed to where it comes from
        back |= {origin: output} if output in names else {output: origin}
    for node in new:
        graph.node.remove(node)
    for node in nodes(plain):
        for ports in (node.input, node.output):
            ports[:] = [back.get(name, name) for name in ports]
    for entries in (graph.initializer, graph.input):
        for entry in [entry for entry in entries if entry.name not in names]:
            entries.remove(entry)
    return plain


def assert_nothing_else_changed(after: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """What was inserted taken out again, the files are the same."""
    assert undone(after, before).SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)
