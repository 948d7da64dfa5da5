"""Folds through operators that let an affine pass, judged three times: in float64, by onnxruntime, by the certificate.

In float64 both models are run by onnx's own evaluator, all their floats widened and each BatchNormalization written as
its scale and shift. The bound is that of folding_support, and S too is computed there, on absolute values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from folding_support import (
    HALF_UNIT,
    Array,
    Feeds,
    Folded,
    ceiling,
    constants,
    fold,
    is_valid,
    lay_open,
    session,
    working_nodes,
)
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bnfold.equality.certificate import Certificate, certify
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.result import claims

ON_SIZES = {
    "Relu": "Identity", "LeakyRelu": "Identity", "PRelu": "Identity", "Abs": "Identity", "Neg": "Identity",
    "Sub": "Add", "Min": "Max", "ReduceMin": "ReduceMax",
}  # fmt: skip
"""What S runs in place of an operator: one that makes no difference larger passes it, and a difference is a sum."""

FLOATS = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
AS_GIVEN = ("scales", "region", "none")
"""Names of constants that are no data: how Resize resizes."""


@dataclass(slots=True)
class Tally:
    """What came out of many folds: a test that refuses all of them, or runs none, has shown nothing."""

    counted: Counter[str] = field(default_factory=Counter)

    def add(self, judged: Judged) -> None:
        """Count one more."""
        self.counted["moved" if judged.folded.plan.moves else "stayed"] += 1
        self.counted["ran"] += judged.ran and bool(judged.folded.plan.moves)
        self.counted["wide"] += judged.wide and bool(judged.folded.plan.moves)


@dataclass(frozen=True, slots=True)
class Judged:
    """A fold that is right, and who could say so: onnxruntime, and onnx's evaluator in float64."""

    folded: Folded
    ran: bool
    wide: bool


def judged(before: onnx.ModelProto, feeds: Feeds, fan_in: int, unit: type | None = None) -> Judged:
    """A fold that holds in float64, under onnxruntime and for the certificate, and that folding again does not change.

    `unit` is the type that the homes compute in, if it is not that of the outputs.
    """
    done = fold(before)
    checked = certified(before, done)
    assert (checked.failure, checked.uncertain) == (None, None)
    assert is_valid(done.proto) or not is_valid(before)
    assert working_nodes(done.proto) <= working_nodes(before)
    assert fold(done.bytes).bytes == done.bytes
    run = [runs(proto, feeds) for proto in (before, done.proto)]
    wide = [evaluated(proto, feeds) for proto in (before, done.proto)]
    sizes = evaluated(before, feeds, absolute=True)
    if sizes is None or wide[0] is None or (run[0] is not None and _shapes(wide[0]) != _shapes(run[0])):
        wide, sizes = [None, None], ceiling(before, feeds)
    assert run[0] is not None or wide[0] is not None, "nothing was compared"
    for where, (ours, theirs) in (("in float64", wide), ("under onnxruntime", run)):
        assert (ours is None) == (theirs is None)
        worst = max(
            (bounds(*each, fan_in, unit) for each in zip(ours or [], theirs or [], sizes, strict=False)), default=0
        )
        assert worst <= 1, f"{worst:.3g} bounds off {where}"
    return Judged(done, ran=run[0] is not None, wide=wide[0] is not None)


def _shapes(arrays: Sequence[NDArray[np.generic]]) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays]


def certified(before: onnx.ModelProto, done: Folded) -> Certificate:
    """What the certificate says of a fold under its own claims."""
    return certify(Graph.of(read(before)), Graph.of(read(done.bytes)), claims(done.plan))


def runs(proto: onnx.ModelProto, feeds: Feeds) -> list[Array] | None:
    """What onnxruntime makes of a model; None where it has no kernel for it."""
    try:
        opened = session(proto)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        return None
    return list(opened.run(None, dict(feeds)))


def bounds(ours: Array, theirs: Array, sizes: NDArray[np.float64], fan_in: int = 1, unit: type | None = None) -> float:
    """The largest difference in bounds; NaN where one is NaN, the same infinity, are no difference."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    kind = np.dtype(unit or np.float32) if ours.dtype == np.float64 else ours.dtype if unit is None else np.dtype(unit)
    bound = (4 * np.sqrt(fan_in) + 8) * HALF_UNIT[kind] * np.broadcast_to(sizes, ours.shape)
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    difference = np.where((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)), 0.0, difference)
    difference = np.where(np.isfinite(difference), difference, np.inf)
    ratio = np.divide(difference, bound, out=np.where(difference > 0, np.inf, 0.0), where=bound > 0)
    return float(np.max(ratio, initial=0.0))


# --- in float64 -----------------------------------------------------------------------------------------------------


def widely(proto: onnx.ModelProto, feeds: Feeds, *, absolute: bool = False) -> list[NDArray[np.float64]]:
    """A model in float64; with `absolute` on absolute values, which is S of its outputs."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    if absolute:
        lay_open(wide)
    for node in wide.graph.node if absolute else ():
        _on_sizes(node)
    for node in (node for node in wide.graph.node if node.op_type == "Cast"):
        node.op_type = "Identity"
        del node.attribute[:]
    held = {
        name: array if name.startswith(AS_GIVEN) else _wide(array, absolute) for name, array in constants(wide).items()
    }
    del wide.graph.initializer[:], wide.graph.value_info[:]
    wide.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    for entry in [*wide.graph.input, *wide.graph.output]:
        if entry.type.tensor_type.elem_type in FLOATS:
            entry.type.tensor_type.elem_type = TensorProto.DOUBLE
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(wide, new_ops=[_norm(absolute), GlobalMaxPool, GlobalLpPool]).run(
            None, {name: _wide(array, absolute) for name, array in feeds.items()}
        )
    return [np.asarray(array) for array in found]


def _wide(array: Array, absolute: bool) -> Array:
    if array.dtype.kind != "f":
        return array
    return np.abs(array.astype(np.float64)) if absolute else array.astype(np.float64)


def _on_sizes(node: onnx.NodeProto) -> None:
    if node.op_type == "Clip":
        node.op_type = "Max"  # what is bounded from below is as large as the bound
        node.input[:] = [name for name in node.input if name]
    if node.op_type in {"Resize", "Upsample"}:
        node.op_type = "GlobalMaxPool"  # the weights of a cubic have either sign, and which place is nearest may differ
    node.op_type = ON_SIZES.get(node.op_type, node.op_type)
    if node.op_type in {"Identity", "GlobalMaxPool"}:
        del node.input[1:], node.attribute[:]


def evaluated(proto: onnx.ModelProto, feeds: Feeds, *, absolute: bool = False) -> list[Array] | None:
    """The same; None for what the evaluator does not know: some attributes of some versions."""
    try:
        return widely(proto, feeds, absolute=absolute)
    except (ValueError, TypeError, RuntimeError, IndexError):
        return None


class GlobalMaxPool(OpRun):
    """The largest of all positions: the evaluator's own keeps no type."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    """The norm of all positions, which the evaluator has not."""

    def _run(self, x: Array, p: int | None = None) -> tuple[Array]:
        power = p or 2
        return ((np.abs(x) ** power).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / power),)


class BatchNormalization(OpRun):  # the evaluator looks an operator up by the name of its class
    """At inference, whatever the version; before opset 14 the evaluator's own reckons with statistics of the batch."""

    sign = -1

    def _run(self, *operands: Array, **attributes: float | None) -> tuple[Array]:
        x, *parameters = operands
        gamma, beta, mean, var = (vector.reshape(-1, *[1] * (x.ndim - 2)) for vector in parameters)
        epsilon = np.float64(np.float32(attributes.get("epsilon") or 1e-5))
        return ((x + self.sign * mean) * (gamma / np.sqrt(var + epsilon)) + beta,)


def _norm(absolute: bool) -> type[OpRun]:
    """The same; with `absolute` the mean is added in size."""
    return type("BatchNormalization", (BatchNormalization,), {"sign": 1}) if absolute else BatchNormalization
