"""Models, runs and bounds for the tests of the folding side; nothing here is taken from the code that folds.

The bound is tier 1 of verification.md, elementwise:

    |difference| <= (4*sqrt(K) + 8) * u * S        u is half a unit of the type, K the fan-in
    S = |a| * (|W|*|x| + |b| + |mean|) + |beta|     by running the original on absolute values (`ceiling`)

`naive` is what a folder without refusals would write. Refusals are tested against it: it must be wrong by far more
than the bound, or the test shows the plain fact that makes a fold impossible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper, parser

from bnfold.apply import rewrite
from bnfold.graph import Graph
from bnfold.model import read, to_bytes
from bnfold.ops.reasons import REASONS
from bnfold.planning import Move, Plan, Refusal, make_plan

if TYPE_CHECKING:
    import onnxruntime

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]

HALF_UNIT = {np.dtype(np.float16): 2.0**-11, np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
ON_SIZES = {"Relu": "Identity", "Sigmoid": "Identity", "Neg": "Identity", "Sub": "Add", "Clip": "Max"}
"""What S runs in place of an operator: one that makes no difference larger passes it, and a difference is a sum."""

CLEARLY_WRONG = 100.0
"""How many bounds a wrong fold must be off, so that a test of a refusal shows something."""


# --- models ---------------------------------------------------------------------------------------------------------


def model(text: str, *, opset: int = 17, ir: int = 8, imports: str = "", **tensors: object) -> onnx.ModelProto:
    """A model from ONNX text without its header; `tensors` become initializers (Python floats as float32)."""
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{imports}]> agraph {text}')
    proto.graph.initializer.extend(tensor(name, value) for name, value in tensors.items())
    return proto


def tensor(name: str, value: object) -> TensorProto:
    """A tensor; what has no dtype of its own becomes float32 or int64."""
    if isinstance(value, TensorProto):
        return value
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if not isinstance(value, np.ndarray):
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
    return numpy_helper.from_array(array, name)


def weights(*dims: int, seed: int = 0, dtype: type = np.float32) -> Array:
    """Nonzero random weights between 0.25 and 1 in size, of either sign."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.25, 1, dims) * rng.choice([-1, 1], dims)).astype(dtype)


def norm(channels: int, prefix: str = "", seed: int = 0, dtype: type = np.float32) -> dict[str, Array]:
    """gamma, beta, mean, var of a BatchNormalization that is far from the identity in every channel."""
    rng = np.random.default_rng(seed + 1000)
    return {
        f"{prefix}g": (rng.uniform(1.5, 3, channels) * rng.choice([-1, 1], channels)).astype(dtype),
        f"{prefix}be": rng.uniform(-2, 2, channels).astype(dtype),
        f"{prefix}m": rng.uniform(0.5, 2, channels).astype(dtype),
        f"{prefix}v": rng.uniform(0.2, 3, channels).astype(dtype),
    }


def inputs(proto: onnx.ModelProto, seed: int = 0, **sizes: int) -> dict[str, Array]:
    """Random values for every graph input that is no initializer: floats of size 0.25 to 2, and True for booleans."""
    rng = np.random.default_rng(seed)
    held = {t.name for t in proto.graph.initializer}
    feeds: dict[str, Array] = {}
    for entry in proto.graph.input:
        if entry.name in held:
            continue
        kind = entry.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, 2) for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        values = rng.uniform(0.25, 2, dims) * rng.choice([-1, 1], dims)
        feeds[entry.name] = np.asarray(values).astype(dtype) if dtype.kind == "f" else np.ones(dims, dtype)
    return feeds


# --- folding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Folded:
    """A plan and the model it makes."""

    plan: Plan
    proto: onnx.ModelProto
    bytes: bytes
    cloned: tuple[str, ...]

    @property
    def ops(self) -> list[str]:
        """The operators of the main graph, in order."""
        return [node.op_type for node in self.proto.graph.node]


def plan_of(proto: onnx.ModelProto) -> Plan:
    """The plan of a model; its invariant is checked."""
    graph = Graph.of(read(proto))
    plan = make_plan(graph)
    assert plan.accounts_for(graph)
    return plan


def fold(
    source: onnx.ModelProto | bytes,
    *,
    assume_inference: bool = False,
    bn_only: bool = False,
    merge_branches: bool = False,
) -> Folded:
    """Plan and apply, without verification."""
    graph = Graph.of(read(source))
    plan = make_plan(graph, assume_inference=assume_inference, bn_only=bn_only, merge_branches=merge_branches)
    assert plan.accounts_for(graph)
    done = rewrite(graph, plan)
    data = to_bytes(graph.model, done.edits)
    return Folded(plan, onnx.load_model_from_string(data), data, done.cloned)


def folded(proto: onnx.ModelProto, moves: int = 1) -> Folded:
    """A fold in which every BatchNormalization goes."""
    done = fold(proto)
    assert [(r.site, r.reason.code, r.detail) for r in done.plan.refusals] == []
    assert len(done.plan.moves) == moves
    return done


def refusal(
    proto: onnx.ModelProto, code: str, blamed: str | None = None, index: int = 0, op: str = "BatchNormalization"
) -> Refusal:
    """The only refusal of a model, whose every part must be told: site, detail, remedy, and the op to blame."""
    done = fold(proto)
    refused = done.plan.refusals[index]
    assert refused.reason.code == code, refused
    assert refused.reason is REASONS[code]
    assert refused.site.op == op
    assert refused.detail
    assert refused.remedy
    assert (refused.blamed.op if refused.blamed else None) == blamed
    if not done.plan.moves:
        assert done.bytes == proto.SerializeToString(deterministic=True)
    return refused


def only_move(proto: onnx.ModelProto) -> Move:
    """The only move of a plan without refusals."""
    plan = plan_of(proto)
    assert plan.refusals == ()
    (move,) = plan.moves
    return move


# --- running --------------------------------------------------------------------------------------------------------


def run(proto: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    """Run in onnxruntime, in this process, with every graph optimisation off."""
    return list(session(proto).run(None, dict(feeds)))


def two_draws_differ(proto: onnx.ModelProto, feeds: Feeds) -> bool:
    """Whether one session gives clearly different answers to the same question."""
    opened = session(proto)
    first, second = (opened.run(None, dict(feeds))[0] for _ in range(2))
    return bool(np.abs(first - second).max() > 0.01)


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session with every graph optimisation off; refuses what onnxruntime dies of."""
    for node in proto.graph.node:
        assert node.op_type != "BatchNormalization" or all(node.output), "never run this in the process of the tests"
    import onnxruntime  # noqa: PLC0415  # a test that runs nothing does without it

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def cannot_run(proto: onnx.ModelProto, feeds: Feeds | None = None) -> bool:
    """Whether onnxruntime itself refuses the model."""
    try:
        run(proto, inputs(proto) if feeds is None else feeds)
    except Exception:  # noqa: BLE001  # onnxruntime raises several types, none of which it exports
        return True
    return False


def ceiling(proto: onnx.ModelProto, feeds: Feeds) -> list[NDArray[np.float64]]:
    """S for every output: the model on absolute values, half precision widened, each mean added in size."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    _dequantize(wide)
    lay_open(wide)
    held = constants(wide)
    new = {name: _absolute(array) for name, array in held.items()}
    for number, node in enumerate(n for n in wide.graph.node if n.op_type == "BatchNormalization"):
        new |= _absolute_norm(node, {**feeds, **held}, f"ceiling{number}")
    for node in wide.graph.node:
        node.op_type = ON_SIZES.get(node.op_type, node.op_type)
        for attribute in node.attribute:
            if node.op_type == "Gemm" and attribute.name in {"alpha", "beta"}:
                attribute.f = abs(attribute.f)
    del wide.graph.initializer[:], wide.graph.value_info[:]
    wide.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in new.items())
    for entry in [*wide.graph.input, *wide.graph.output]:
        if entry.type.tensor_type.elem_type == TensorProto.FLOAT16:
            entry.type.tensor_type.elem_type = TensorProto.FLOAT
    return [out.astype(np.float64) for out in run(wide, {name: _absolute(a) for name, a in feeds.items()})]


def lay_open(proto: onnx.ModelProto) -> None:
    """Write attributes that bound a Clip as further inputs, as a Max has them, and the size of what a Pad pads with."""
    for node in proto.graph.node:
        numbers = [a for a in node.attribute if a.name in {"min", "max", "value"} and a.type == AttributeProto.FLOAT]
        for number in numbers:
            if node.op_type == "Pad":
                number.f = abs(number.f)
            elif node.op_type == "Clip":
                name = f"{node.output[0]}_{number.name}"
                bound = np.float32(0 if abs(number.f) > 1e38 else number.f)
                proto.graph.initializer.append(numpy_helper.from_array(np.asarray(bound), name))
                node.input.append(name)
        if node.op_type == "Clip":
            del node.attribute[:]


def _dequantize(proto: onnx.ModelProto) -> None:
    """Write what each dequantisation of constants gives as a constant."""
    held = constants(proto)
    for node in [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in held]:
        name = node.output[0]
        alone = helper.make_graph([node], "alone", [], [onnx.ValueInfoProto(name=name)])
        alone.initializer.extend(numpy_helper.from_array(held[used], used) for used in node.input if used)
        opsets = list(proto.opset_import)
        (floats,) = run(helper.make_model(alone, opset_imports=opsets, ir_version=proto.ir_version), {})
        proto.graph.initializer.append(numpy_helper.from_array(floats, name))
        proto.graph.node.remove(node)


def _absolute_norm(node: NodeProto, held: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Parameters of |a|*(z + |mean|) + |beta|; the node is changed to read them."""
    gamma, beta, mean, var = (held[name].astype(np.float64) for name in node.input[1:5])
    scale = np.abs(gamma) / np.sqrt(var + epsilon_of(node))
    kind = np.float64 if held[node.input[1]].dtype == np.float64 else np.float32
    new = {f"{prefix}{i}": a.astype(kind) for i, a in enumerate((scale, np.abs(beta), np.abs(mean), np.ones_like(var)))}
    new[f"{prefix}2"] *= -1
    node.input[1:5] = list(new)
    del node.output[1:]
    kept = [a for a in node.attribute if a.name not in {"epsilon", "training_mode"}]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("epsilon", 0.0)])
    return new


def _absolute(array: Array) -> Array:
    if array.dtype.kind != "f":
        return array
    return np.abs(array.astype(np.float32) if array.dtype == np.float16 else array)


def epsilon_of(node: NodeProto) -> float:
    """float64(float32(epsilon))."""
    return float(next((a.f for a in node.attribute if a.name == "epsilon"), np.float32(1e-5)))


def bounds_off(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, fan_in: int = 1) -> float:
    """The largest difference of the outputs, in bounds: up to 1 is the same function, as far as rounding goes."""
    worst = 0.0
    for ours, theirs, size in zip(run(before, feeds), run(after, feeds), ceiling(before, feeds), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert np.all(np.isfinite(ours))
        bound = (4 * np.sqrt(fan_in) + 8) * HALF_UNIT[ours.dtype] * size
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        difference = np.where(np.isfinite(difference), difference, np.inf)
        ratio = np.divide(difference, bound, out=np.where(difference > 0, np.inf, 0.0), where=bound > 0)
        worst = max(worst, float(np.max(ratio, initial=0.0)))
    return worst


def assert_same_function(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, fan_in: int = 1) -> None:
    """Every element of every output within the bound."""
    off = bounds_off(before, after, feeds, fan_in)
    assert off <= 1, f"{off:.3g} bounds off"


def proven(
    before: onnx.ModelProto, feeds: Feeds, fan_in: int, *, left: int = 0, merge_branches: bool = False
) -> Folded:
    """A fold that leaves `left` affines, and what holds of every one.

    It is the same function; folding again changes no byte; the file is valid; and no more nodes than before (an Add
    that a home gets is paid for by the node that went), Constants apart, which are weights.
    """
    done = fold(before, merge_branches=merge_branches)
    assert len(done.plan.refusals) == left, done.plan.refusals
    assert is_valid(done.proto) or not is_valid(before)
    assert working_nodes(done.proto) <= working_nodes(before)
    assert fold(done.bytes, merge_branches=merge_branches).bytes == done.bytes
    if not done.plan.changes_nothing:
        assert_same_function(before, done.proto, feeds, fan_in)
    return done


def is_valid(proto: onnx.ModelProto) -> bool:
    """What onnx's checker says of a model."""
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError:
        return False
    return True


def working_nodes(proto: onnx.ModelProto) -> int:
    """The number of nodes of the main graph that compute something."""
    return sum(node.op_type != "Constant" for node in proto.graph.node)


# --- constants ------------------------------------------------------------------------------------------------------


def constants(proto: onnx.ModelProto) -> dict[str, Array]:
    """The initializers of the main graph by name."""
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def scale_and_shift(parameters: Mapping[str, Array], prefix: str = "", eps: float = 1e-5) -> tuple[Array, Array]:
    """a and s of a BatchNormalization in float64."""
    gamma, beta, mean, var = (parameters[f"{prefix}{k}"].astype(np.float64) for k in ("g", "be", "m", "v"))
    a = gamma / np.sqrt(var + np.float64(np.float32(eps)))
    return a, beta - mean * a


def bits(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    """What makes two arrays the same to the last bit (but -0.0 and 0.0 are one number)."""
    return str(array.dtype), array.shape, (array + array.dtype.type(0)).tobytes()


def operands(proto: onnx.ModelProto, op: str, which: int = 0) -> list[Array | None]:
    """The constants that the node `op` reads, None where it reads something else or nothing."""
    node = [n for n in proto.graph.node if n.op_type == op][which]
    return [constants(proto).get(name) for name in node.input]


# --- the fold that should not be ------------------------------------------------------------------------------------


def naive(proto: onnx.ModelProto, home: int = 0, norm_at: int = -1, **assumed: Array) -> onnx.ModelProto:
    """What a folder without refusals writes: W*a and b*a + s into Conv or Gemm number `home`, the norm bypassed.

    Nodes are of the main graph. `assumed` gives parameters that the file does not hold. Weights are rounded as they
    come, infinite if need be; per output channel of a Conv's first axis or a Gemm's last.
    """
    wrong = onnx.ModelProto()
    wrong.CopyFrom(proto)
    held = constants(wrong) | assumed
    homes = [n for n in wrong.graph.node if n.op_type in {"Conv", "Gemm"}]
    norms = [n for n in wrong.graph.node if n.op_type == "BatchNormalization"]
    conv, bn = homes[home], norms[norm_at]
    parameters = dict(zip(["g", "be", "m", "v"], (held[name] for name in bn.input[1:5]), strict=True))
    with np.errstate(all="ignore"):
        a, s = scale_and_shift(parameters, eps=epsilon_of(bn))
        weight = held[conv.input[1]]
        shaped = a if conv.op_type == "Gemm" else a.reshape(-1, *[1] * (weight.ndim - 1))
        bias = held[conv.input[2]] if len(conv.input) > 2 and conv.input[2] else np.zeros(())
        new = {"naive W": (weight * shaped).astype(weight.dtype), "naive b": (bias * a + s).astype(weight.dtype)}
    wrong.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in new.items())
    conv.input[1:] = list(new)
    _bypass(wrong.graph, bn)
    return wrong


def _bypass(graph: onnx.GraphProto, bn: NodeProto) -> None:
    identity = helper.make_node("Identity", [bn.input[0]], [bn.output[0]])
    position = list(graph.node).index(bn)
    graph.node.remove(bn)
    graph.node.insert(position, identity)


def clearly_wrong(before: onnx.ModelProto, wrong: onnx.ModelProto, feeds: Feeds, fan_in: int = 1) -> bool:
    """Whether a fold is wrong beyond every doubt."""
    return bounds_off(before, wrong, feeds, fan_in) > CLEARLY_WRONG
