"""Copies of a model that onnxruntime can run, with the same meaning or one within rounding of it; made in the child.

Three reasons for a copy: onnxruntime dies of a BatchNormalization whose optional outputs have empty names (they are
cut, or named if others follow: an empty name and a name that nobody reads mean the same); it has no kernel for
BatchNormalization below opset 7 (upgrade.py converts such models); and the floor of a comparison is how far the model
moves when each float constant c becomes c * (1 + xi*2u*U[0,1]), xi = +-1 at random, u half a unit of its type. A
model that needs none stays a file.
"""

from __future__ import annotations

import itertools
import math
import mmap
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from bnfold.equality.nested import graphs_of, nodes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

_MOST_BYTES: Final = (1 << 31) - 1
_OPERATOR: Final = b"BatchNormalization"
_EMPTY_OUTPUT: Final = b"\x12\x00"  # NodeProto.output = 2, length 0
# Room for the other fields of a node on either side of its operator's name. A node that is larger still and has such
# outputs goes undetected, and then costs a crash of the child, no more.
_NODE_BYTES: Final = 8192
_HALF_UNIT: Final = {1: 2.0**-24, 10: 2.0**-11, 11: 2.0**-53, 16: 2.0**-8}
# Inputs whose floats decide a shape: a last bit there changes what is computed, not how exactly.
_SHAPE_READERS: Final = frozenset({"Shape", "Size"})
# What a condition is made of, up to where something is computed.
_COMPARING: Final = frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor", "Cast", "Identity"}
)
_SHAPE_INPUTS: Final = {"Resize": (1, 2), "Upsample": (1,), "Range": (0, 1, 2)}


Upgrade = Literal["none", "marked", "inference"]
"""Whether a model below opset 7 is converted, and in which mode what says is_test=0 then runs: as marked, or not."""

_UPGRADES: Final[tuple[Upgrade, ...]] = ("none", "marked", "inference")


class TooLarge(Exception):
    """A model that would exceed what one protobuf message can hold."""


def upgrade_called(word: object) -> Upgrade:
    """The `Upgrade` of that name."""
    return next(upgrade for upgrade in _UPGRADES if upgrade == word)


def prepared(path: Path, *, perturb: int | None, upgrade: Upgrade) -> bytes | None:
    """The serialised copy of the model at `path` to run instead, or None to run the file itself.

    External data stays outside the copy unless constants are perturbed or the model upgraded.
    Raises `TooLarge`, `CannotUpgrade`, OSError, and what onnx raises for a file that is no model.
    """
    if perturb is None and upgrade == "none" and not _may_have_empty_outputs(path):
        return None
    # Late: most models never need onnx here, and importing it takes longer than running them.
    import onnx  # noqa: PLC0415  # as said above

    model = onnx.load(path, load_external_data=False)
    if perturb is not None or upgrade != "none":
        if path.stat().st_size + _external_bytes(model) > _MOST_BYTES:
            raise TooLarge("the model is too large to be copied (2 GiB)")
        onnx.load_external_data_for_model(model, str(path.parent))
    if upgrade != "none":
        from bnfold.equality.upgrade import upgraded  # noqa: PLC0415  # it needs onnx

        model = upgraded(model, assume_inference=upgrade == "inference")
    changed = name_optional_outputs(model)
    if perturb is not None:
        perturb_constants(model, perturb)
    if perturb is None and upgrade == "none" and not changed:
        return None
    serialised: bytes = model.SerializeToString()
    return serialised


def prepared_piece(model: bytes, folder: Path, perturb: int | None) -> bytes:
    """A serialised model whose external data lie in `folder`, its constants perturbed where a seed is given.

    Raises `TooLarge`, OSError, and what onnx raises for what is no model.
    """
    if perturb is None:
        return model
    import onnx  # noqa: PLC0415  # see `prepared`

    parsed = onnx.load_model_from_string(model)
    if len(model) + _external_bytes(parsed) > _MOST_BYTES:
        raise TooLarge("the piece is too large to be copied (2 GiB)")
    onnx.load_external_data_for_model(parsed, str(folder))
    perturb_constants(parsed, perturb)
    serialised: bytes = parsed.SerializeToString()
    return serialised


def name_optional_outputs(model: onnx.ModelProto) -> bool:
    """Cut empty names at the end of every BatchNormalization's outputs and fill those in between; whether any was.

    In training mode the statistics are computed, read or not: there every output gets a name.
    """
    affected = [node for node in nodes_of(model) if _has_empty_outputs(node)]
    if not affected:
        return False
    taken = {name for node in nodes_of(model) for name in (*node.input, *node.output)}
    fresh = (name for name in map("unused_{}".format, itertools.count()) if name not in taken)
    for node in affected:
        names = list(node.output)
        while len(names) > 1 and not names[-1] and not _trains(node):
            names.pop()
        del node.output[:]
        node.output.extend(name or next(fresh) for name in names)
    return True


def perturb_constants(model: onnx.ModelProto, seed: int) -> None:
    """Multiply each float constant elementwise by 1 + xi*2u*U[0,1], in place; the same seed gives the same model.

    Initializers and Constant nodes of all graphs and functions, sparse ones too. Zeros, infinities and what would
    overflow stay as they are, and so do scales that decide a shape and numbers that a condition compares with.
    """
    random = np.random.default_rng(seed)
    exempt = _deciding_shapes(model) | _deciding_branches(model)
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            if tensor.name not in exempt:
                _perturb_tensor(tensor, random)
        for sparse in graph.sparse_initializer:
            _perturb_tensor(sparse.values, random)
    for node in nodes_of(model):
        if node.op_type == "Constant" and not exempt.intersection(node.output):
            _perturb_constant(node, random)


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


def _perturb_constant(node: onnx.NodeProto, random: np.random.Generator) -> None:
    for attribute in node.attribute:
        if attribute.name == "value":
            _perturb_tensor(attribute.t, random)
        elif attribute.name == "sparse_value":
            _perturb_tensor(attribute.sparse_tensor.values, random)
        elif attribute.name == "value_float":
            attribute.f = float(_moved(np.array(attribute.f, dtype=np.float32), 1, random))
        elif attribute.name == "value_floats":
            moved = _moved(np.array(attribute.floats, dtype=np.float32), 1, random)
            attribute.ClearField("floats")
            attribute.floats.extend(moved.tolist())


def _perturb_tensor(tensor: onnx.TensorProto, random: np.random.Generator) -> None:
    from onnx import numpy_helper  # noqa: PLC0415  # see `prepared`

    if tensor.data_type not in _HALF_UNIT:
        return
    moved = _moved(numpy_helper.to_array(tensor), tensor.data_type, random)
    tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))


def _moved(values: np.ndarray, data_type: int, random: np.random.Generator) -> np.ndarray:
    # xi*U[0,1] is U(-1,1): one draw, and 24 random bits are plenty for it.
    factors = np.asarray(random.random(values.shape, dtype=np.float32), dtype=np.float64)
    factors *= 4.0 * _HALF_UNIT[data_type]
    factors += 1.0 - 2.0 * _HALF_UNIT[data_type]
    with np.errstate(over="ignore", invalid="ignore"):
        factors *= values
        moved = factors.astype(values.dtype)
    np.copyto(moved, values, where=~np.isfinite(moved))
    return np.asarray(moved)


def _may_have_empty_outputs(path: Path) -> bool:
    """Whether the bytes of a file look as if it held a BatchNormalization with an empty output name."""
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return False
        with content:
            return any(
                content.find(_EMPTY_OUTPUT, max(0, start - _NODE_BYTES), start + _NODE_BYTES) >= 0
                for start in _places(content, _OPERATOR)
            )


def _places(content: mmap.mmap, word: bytes) -> Iterator[int]:
    start = content.find(word)
    while start >= 0:
        yield start
        start = content.find(word, start + len(word))


def _trains(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)


def _has_empty_outputs(node: onnx.NodeProto) -> bool:
    standard = node.domain in ("", "ai.onnx")
    return standard and node.op_type == "BatchNormalization" and "" in list(node.output)[1:]


def _external_bytes(model: onnx.ModelProto) -> int:
    from onnx import TensorProto, helper  # noqa: PLC0415  # see `prepared`

    external = (
        tensor
        for graph in graphs_of(model)
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    )
    return sum(
        math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize for tensor in external
    )
