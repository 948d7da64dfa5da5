"""How far rounding alone can move a model: each float constant c becomes c * (1 + xi*2u*U[0,1]), xi = +-1, u half a
unit of its type; and each Sigmoid is moved by xi*2u*U[0,1].

onnxruntime computes a Sigmoid to within units of 1, and not of itself: sigmoid(-6.6) = 0.0013 comes out in steps of
2^-25. So it is off by what no constant shows, and all that follows is.

Invariant: the draws hang on the seed and on the constants in the order of the file, and neither on where their data
lie (inside the model or in a file beside it) nor on the blocks in which they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from bnfold.equality.nested import graphs_of, nodes_of

if TYPE_CHECKING:
    import onnx

Change = Callable[[np.ndarray], np.ndarray]
"""A vector of elements as another one of the same length and type; called with those of a tensor in their order."""

# Elements: few enough for their float64 factors to stay in a processor's cache, which makes it four times as fast.
_BLOCK: Final = 1 << 16
_HALF_UNIT: Final = {1: 2.0**-24, 10: 2.0**-11, 11: 2.0**-53, 16: 2.0**-8}
_SINGLE: Final = 1
_FLOATS: Final = frozenset(_HALF_UNIT)
# Inputs whose floats decide a shape: a last bit there changes what is computed, not how exactly.
_SHAPE_READERS: Final = frozenset({"Shape", "Size"})
# What a condition is made of, up to where something is computed.
_COMPARING: Final = frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor", "Cast", "Identity"}
)
_SHAPE_INPUTS: Final = {"Resize": (1, 2), "Upsample": (1,), "Range": (0, 1, 2)}


class Store(Protocol):
    """Where the data of tensors lie that are not inside their model."""

    def write(self, tensor: onnx.TensorProto, change: Change) -> None:
        """Write what `change` makes of a tensor's data, and let the tensor say where they lie now."""


def perturb_constants(model: onnx.ModelProto, seed: int, store: Store | None = None) -> None:
    """Multiply each float constant elementwise by 1 + xi*2u*U[0,1], in place; the same seed gives the same model.

    Initializers and Constant nodes of all graphs and functions, sparse ones too. Zeros, infinities and what would
    overflow stay as they are, and so do scales that decide a shape and numbers that a condition compares with.
    `store` writes what lies outside the model.
    """
    random = np.random.default_rng(seed)
    exempt = _deciding_shapes(model) | _deciding_branches(model)
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            if tensor.name not in exempt:
                _perturb_tensor(tensor, random, store)
        for sparse in graph.sparse_initializer:
            _perturb_tensor(sparse.values, random, store)
    for node in nodes_of(model):
        if node.op_type == "Constant" and not exempt.intersection(node.output):
            _perturb_constant(node, random, store)
    if _is_single_precision(model):
        for graph in graphs_of(model):
            _perturb_sigmoids(graph, random)


def _is_single_precision(model: onnx.ModelProto) -> bool:
    """Whether all that is computed in floating point is float32: types between nodes stand in no file."""
    kinds = {tensor.data_type for graph in graphs_of(model) for tensor in graph.initializer}
    kinds |= {a.t.data_type for node in nodes_of(model) for a in node.attribute if a.name == "value"}
    kinds |= {port.type.tensor_type.elem_type for graph in graphs_of(model) for port in (*graph.input, *graph.output)}
    kinds |= {a.i for node in nodes_of(model) if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    computes_alike = not any(node.domain or node.op_type == "CastLike" for node in nodes_of(model))
    return computes_alike and not model.functions and not kinds & (_FLOATS - {_SINGLE})


def _perturb_sigmoids(graph: onnx.GraphProto, random: np.random.Generator) -> None:
    from onnx import helper, numpy_helper  # noqa: PLC0415  # as in _perturb_tensor

    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    for place in reversed([i for i, node in enumerate(graph.node) if node.op_type == "Sigmoid"]):
        node = graph.node[place]
        name = node.output[0]
        plain, moved = (_unused(f"{name} {what}", taken) for what in ("plain", "moved"))
        by = np.array(random.uniform(-2.0, 2.0) * _HALF_UNIT[_SINGLE], dtype=np.float32)
        node.output[0] = plain
        graph.node.insert(place + 1, helper.make_node("Constant", [], [moved], value=numpy_helper.from_array(by)))
        graph.node.insert(place + 2, helper.make_node("Add", [plain, moved], [name]))


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _deciding_shapes(model: onnx.ModelProto) -> set[str]:
    """Names whose values decide a shape: those operands, and all they are computed from, but for what a shape is of."""
    makers = {name: node for node in nodes_of(model) for name in node.output if name}
    pending = [
        node.input[place]
        for node in nodes_of(model)
        for place in _SHAPE_INPUTS.get(node.op_type, ())
        if place < len(node.input)
    ]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if not name or name in found:
            continue
        found.add(name)
        maker = makers.get(name)
        if maker is not None and maker.op_type not in _SHAPE_READERS:
            pending += maker.input
    return found


def _deciding_branches(model: onnx.ModelProto) -> set[str]:
    """Names of the numbers that the conditions of If nodes are compared with: moved, another branch would run."""
    makers = {name: node for node in nodes_of(model) for name in node.output if name}
    pending = [node.input[0] for node in nodes_of(model) if node.op_type == "If" and node.input]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        maker = makers.get(name)
        if maker is not None and maker.op_type in _COMPARING:
            pending += maker.input
    return found


def _perturb_constant(node: onnx.NodeProto, random: np.random.Generator, store: Store | None) -> None:
    for attribute in node.attribute:
        if attribute.name == "value":
            _perturb_tensor(attribute.t, random, store)
        elif attribute.name == "sparse_value":
            _perturb_tensor(attribute.sparse_tensor.values, random, store)
        elif attribute.name == "value_float":
            attribute.f = float(_moved(np.array([attribute.f], dtype=np.float32), 1, random)[0])
        elif attribute.name == "value_floats":
            moved = _moved(np.array(attribute.floats, dtype=np.float32), 1, random)
            attribute.ClearField("floats")
            attribute.floats.extend(moved.tolist())


def _perturb_tensor(tensor: onnx.TensorProto, random: np.random.Generator, store: Store | None) -> None:
    # Late: whoever has a tensor has imported onnx, and whoever has none need not.
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415  # as said above

    kind = tensor.data_type
    if kind not in _HALF_UNIT:
        return
    if tensor.data_location == TensorProto.EXTERNAL and store is not None:
        store.write(tensor, lambda values: _moved(values, kind, random))
        return
    values = numpy_helper.to_array(tensor)
    moved = _moved(values.reshape(-1), kind, random).reshape(values.shape)
    tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))


def _moved(values: np.ndarray, data_type: int, random: np.random.Generator) -> np.ndarray:
    moved = np.empty_like(values)
    for start in range(0, len(values), _BLOCK):
        moved[start : start + _BLOCK] = _moved_block(values[start : start + _BLOCK], _HALF_UNIT[data_type], random)
    return moved


def _moved_block(values: np.ndarray, unit: float, random: np.random.Generator) -> np.ndarray:
    # xi*U[0,1] is U(-1,1): one draw, and 24 random bits are plenty for it.
    factors = random.random(len(values), dtype=np.float32).astype(np.float64)
    factors *= 4.0 * unit
    factors += 1.0 - 2.0 * unit
    with np.errstate(over="ignore", invalid="ignore"):
        factors *= values
        moved = factors.astype(values.dtype)
    np.copyto(moved, values, where=~np.isfinite(moved))
    return moved
