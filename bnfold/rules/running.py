"""Where onnxruntime's own optimiser computes something else, found by running it: measured, not believed.

A place that looks like a known mistake (ops/optimiser.py) is cut out as a model of its own and run on random inputs,
with all optimisations and with none. It is a finding where the two differ by more than ten times what rounding
explains (the floor of equality/measure.py). Nothing is run where no place looks so.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnfold.equality.measure import DRAWS, UNITS, Distance, distance, floor_of
from bnfold.equality.runner import CannotRun, Runner
from bnfold.equality.tally import DIFFERS, JITTER_FROM
from bnfold.nodes import Node, Value
from bnfold.ops.affine import FIRST_OPSET_WITHOUT_TEST_FLAG, PARAMETERS
from bnfold.ops.facts import Constant
from bnfold.ops.optimiser import product_before, trains_with_unread_outputs
from bnfold.rules.rule import rule
from bnfold.rules.subject import FLOATS, SINGLE_HALF_UNIT, Norm

CODE = "BN017"
FREE = 2
"""The size of a dimension that is free."""
LARGEST_PIECE = 1 << 30
FIRST_IR = 4
"""From here on an initializer need not be an input."""


@rule(CODE, "error", "onnxruntime's optimiser computes something else here")
def miscomputed(norm: Norm) -> str | None:
    """Two mistakes are known. onnxruntime 1.31 fuses a MatMul and a BatchNormalization through a Transpose or Reshape,
    on the wrong axis, where the sizes happen to agree. Up to 1.32 at least, in training mode with outputs that nobody
    reads, it makes one tensor of parameters that are equal (gamma and variance of a new layer), and writes the new
    statistics into it. Nothing is reported: the session simply gives other numbers.

    A place that looks so was run here, with the optimiser and without, by the onnxruntime that is installed; a version
    that is right there gives no finding.

    Remedy: fold the layer (bnfold fold MODEL -o OUT: nothing is left to be fused wrongly), export for inference, or run
    with graph_optimization_level=ORT_DISABLE_ALL.
    """
    return norm.miscomputed


def suspects(norms: Iterable[Norm]) -> tuple[tuple[Norm, tuple[Node, ...]], ...]:
    """Every BatchNormalization that looks like a known mistake, with the nodes to run, the last of them itself."""
    found: list[tuple[Norm, tuple[Node, ...]]] = []
    for norm in norms:
        if norm.opset < FIRST_OPSET_WITHOUT_TEST_FLAG or norm.node.refers_to_attributes:
            continue
        if trains_with_unread_outputs(norm.around.graph, norm.node):
            found.append((norm, (norm.node,)))
        elif norm.mode == "inference" and norm.values is not None and len(norm.constants) == len(PARAMETERS):
            chain = product_before(norm.facts, norm.node, norm.values.gamma.size)
            found += [(norm, chain)] if chain is not None else []
    return tuple(found)


def measure(norms: Iterable[Norm], runner: Runner, *, seed: int, dims: Mapping[str, int]) -> tuple[str, ...]:
    """Run every suspect and set `miscomputed` of those that differ; remarks on those that could not be run."""
    remarks: list[str] = []
    for norm, nodes in suspects(norms):
        try:
            norm.miscomputed = _tried(norm, nodes, runner, seed, dims)
        except CannotRun as error:
            remarks.append(
                f"{norm.site}: whether onnxruntime's optimiser is right there is not known: {error.sentence}"
            )
    return tuple(remarks)


def _tried(norm: Norm, nodes: tuple[Node, ...], runner: Runner, seed: int, dims: Mapping[str, int]) -> str | None:
    """The finding of one suspect; free dimensions are 2, or, if that cannot be run, as many as there are channels."""
    channels = norm.values.gamma.size if norm.values is not None else FREE
    try:
        return _compared(_piece(norm, nodes, dims, FREE), runner, seed)
    except CannotRun as error:
        if error.kind != "refused":
            raise
        return _compared(_piece(norm, nodes, dims, channels), runner, seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Some nodes as a model of their own, of one input and one output."""

    content: bytes
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def _compared(piece: _Piece, runner: Runner, seed: int) -> str | None:
    random = np.random.default_rng([seed, len(piece.content)])
    feeds = {"x": np.asarray(random.standard_normal(piece.shape)).astype(piece.dtype)}
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        path = Path(folder) / "piece.onnx"
        path.write_bytes(piece.content)
        plain = runner.run(path, feeds)["y"]
        optimised = runner.run(path, feeds, optimise=True)["y"]
        if plain.shape != optimised.shape:
            return f"with its optimiser the output has the shape {optimised.shape}, without {plain.shape}"
        apart, unit = distance(plain, optimised), UNITS.get(plain.dtype.name, SINGLE_HALF_UNIT)
        jitter = None
        if apart.alike and apart.relative() > JITTER_FROM * unit:
            draws = [distance(plain, runner.run(path, feeds, perturb=DRAWS * seed + i)["y"]) for i in range(DRAWS)]
            jitter = math.sqrt(sum(draw.difference**2 for draw in draws) / DRAWS)
    return _sentence(apart, apart.ratio(floor_of(apart, unit, jitter)))


def _sentence(apart: Distance, ratio: float) -> str | None:
    if ratio <= DIFFERS:
        return None
    return f"with its optimiser on, the output is off by relative L2 {apart.relative():.2g}"


def _piece(norm: Norm, nodes: tuple[Node, ...], dims: Mapping[str, int], free: int) -> _Piece:
    """Cut nodes out; raises CannotRun where something that they need is not known."""
    start = nodes[0].input(0)
    if start is None:
        raise CannotRun("refused", "its input is missing")
    shape, kind = norm.facts.shape(start), norm.facts.shapes.element_type(start) or norm.data_type
    if shape is None or kind not in FLOATS:
        raise CannotRun("refused", f"the shape or type of {start.name!r} is not known")
    sizes = tuple(dim if isinstance(dim, int) else dims.get(str(dim), free) for dim in shape)
    names = {start.id: "x"} | {
        value.id: f"v{value.id}" for node in nodes for value in node.outputs if value is not None
    }
    if (last := nodes[-1].output(0)) is not None:
        names[last.id] = "y"
    constants = {v.id: v for node in nodes for v in node.inputs if v is not None and v.id not in names}
    tensors = [_tensor(norm, value, f"v{value.id}") for value in constants.values()]
    graph = helper.make_graph(
        [_renamed(node, names | {id_: f"v{id_}" for id_ in constants}) for node in nodes],
        "piece",
        [helper.make_tensor_value_info("x", kind, sizes)],
        [onnx.ValueInfoProto(name="y")],
        tensors,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in norm.node.scope.opsets.items()]
    ir_version = max(norm.around.graph.model.proto.ir_version, FIRST_IR)
    content = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()
    return _Piece(content, sizes, helper.tensor_dtype_to_np_dtype(kind))


def _tensor(norm: Norm, value: Value, name: str) -> TensorProto:
    found = norm.facts.constant(value)
    if not isinstance(found, Constant):
        raise CannotRun("refused", found.detail)
    if math.prod(found.dims) * found.dtype.itemsize > LARGEST_PIECE:
        raise CannotRun("memory", f"{value.name!r} is larger than 1 GiB")
    return numpy_helper.from_array(np.ascontiguousarray(found.array()).reshape(found.dims), name)


def _renamed(node: Node, names: Mapping[int, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node.proto)
    del copy.input[:], copy.output[:]
    copy.input.extend("" if value is None else names[value.id] for value in node.inputs)
    copy.output.extend("" if value is None else names[value.id] for value in node.outputs)
    return copy
