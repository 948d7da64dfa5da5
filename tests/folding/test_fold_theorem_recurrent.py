"""An affine of the data of an LSTM, GRU or RNN goes into W and Wb of every direction, whatever else the node does.

What is written is float64, rounded once. That it is the same function is asked of a float64 evaluation of ONNX's text
and of onnxruntime, by the jitter that verification.md sets as the bound where no S is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from folding_draws import Array, Kind, examples, statistics
from folding_support import HALF_UNIT, constants, fold, inputs, model, run, scale_and_shift
from forward_support import certified, rounded_once
from hypothesis import event, given
from hypothesis import strategies as st
from recurrent_support import (
    GATES,
    MOST_FLOORS,
    Recurrent,
    Sizes,
    floors_apart,
    floors_in_onnxruntime,
    jittered,
    recurrents,
)

OPS = list(GATES)
PROVEN = {("feeding", op) for op in OPS}
DOUBLE = Kind(np.float64, np.float64, 17)


@dataclass(frozen=True)
class Way:
    """How data come to the node: the graph's input, the nodes before it, and the affine's channels there."""

    shape: tuple[int, ...]
    lines: str
    channels: int
    repeats: int = 1
    norm: bool = True


def ways(steps: int, batch: int, channels: int, layout: int) -> list[Way]:
    """BatchNormalization of [N, C, L] or of an image, and by hand on the data themselves."""
    perm = "[0,2,1]" if layout else "[2,0,1]"
    image = "[0,3,1,2]" if layout else "[3,0,1,2]"
    n = "n = BatchNormalization (x, g, be, m, v)"
    data = (batch, steps, channels) if layout else (steps, batch, channels)
    return [
        Way((batch, channels, steps), f"{n} t = Transpose <perm = {perm}> (n)", channels),
        Way((batch, channels, 1, steps), f"{n} q = Squeeze (n, two) t = Transpose <perm = {perm}> (q)", channels),
        Way((batch, channels, 2, steps), f"{n} q = Transpose <perm = {image}> (n) t = Reshape (q, to)", channels, 2),
        Way(data, "u = Mul (x, k) t = Add (u, s)", channels, norm=False),
        Way(data, "t = Mul (x, k)", channels, norm=False),
    ]  # fmt: skip


@st.composite
def models(
    draw: st.DrawFn, op: str, kind: Kind, *, layout: int = 0
) -> tuple[onnx.ModelProto, Recurrent, Way, Array, Array]:
    """A model, its node, how data come to it, and the affine's scale and shift along its input."""
    steps, batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    way = draw(st.sampled_from(ways(steps, batch, channels, layout)))
    node = draw(recurrents(op, kind, Sizes(channels * way.repeats, steps, batch, layout)))
    if way.norm:
        held = draw(statistics(channels, kind))
        a, s = scale_and_shift(held)
    else:
        random = np.random.default_rng(draw(st.integers(0, 99)))
        held = {n: (random.uniform(0.25, 2, channels) * random.choice([-1, 1], channels)) for n in ("k", "s")}
        held = {n: array.astype(kind.data) for n, array in held.items() if f"{n})" in way.lines}
        a, s = held["k"].astype(np.float64), held.get("s", np.zeros(channels)).astype(np.float64)
    held |= {"two": np.array([2])} if "two" in way.lines else {}
    wide = (batch, steps, -1) if layout else (steps, batch, -1)
    held |= {"to": np.array(wide)} if "to)" in way.lines else {}
    dims = ",".join(map(str, way.shape))
    lens = f", int32[{batch}] lens" if node.feeds else ""
    last = ", y_c" if op == "LSTM" else ""
    outputs = ", ".join(f"{kind.text}[] {name}" for name in ("y", "y_h", *(["y_c"] * (op == "LSTM"))))
    text = f"({kind.text}[{dims}] x{lens}) => ({outputs}) {{ {way.lines} y, y_h{last} = {node.text.format(x='t')} }}"
    before = model(text, opset=max(kind.opset, 14), **node.tensors, **held)
    return before, node, way, np.repeat(a, way.repeats), np.repeat(s, way.repeats)


def data_of(way: Way, x: Array, node: Recurrent) -> Array:
    """The graph's input as the node's data would be without the affine."""
    x = np.asarray(x, np.float64)
    if not way.norm:
        return x
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return x.transpose(0, 2, 1) if node.layout else x.transpose(2, 0, 1)


def numbers(node: Recurrent, a: Array, s: Array) -> dict[str, tuple[Array, Array]]:
    """W and B as they have to be, in float64, with the sizes of their terms."""
    w = node.tensors["W"].astype(np.float64)
    rows = w.shape[1]
    b = node.tensors.get("B", np.zeros((len(w), 2 * rows))).astype(np.float64)
    added, sizes = w @ s, np.abs(w) @ np.abs(s)
    whole = np.concatenate([added, np.zeros_like(added)], 1)
    return {"W": (w * a, 0 * w), "B": (b + whole, np.abs(b) + np.concatenate([sizes, 0 * sizes], 1))}


@pytest.mark.parametrize("op", OPS)
@examples(50)
@given(st.data())
def test_an_affine_goes_into_the_weights_of_every_direction(op: str, data: st.DataObject) -> None:
    kind = Kind(np.float32, np.float32, data.draw(st.sampled_from([14, 17, 21])))
    before, node, way, a, s = data.draw(models(op, kind))
    feeds = {**inputs(before), **node.feeds}
    done = fold(before)
    assert done.plan.refusals == ()
    assert [move.is_forward for move in done.plan.moves] == [True] * (2 if "Add" in way.lines else 1)
    assert done.ops[-1] == op
    assert not {"BatchNormalization", "Mul", "Add"} & {*done.ops}
    certified(before, done)
    assert fold(done.bytes).bytes == done.bytes
    inner, held = done.proto.graph.node[-1], constants(done.proto)
    exact = numbers(node, a, s)
    assert rounded_once(held[inner.input[1]], *exact["W"])
    has_bias = len(inner.input) > 3 and inner.input[3] != ""
    assert has_bias or not np.any(exact["B"][0])
    if has_bias:
        assert rounded_once(held[inner.input[3]], *exact["B"])
        rows = exact["W"][0].shape[1]
        assert np.array_equal(held[inner.input[3]][:, rows:], exact["B"][0][:, rows:])  # Rb, to the last bit
    event(f"{node.direction}, {'B' if 'B' in node.tensors else 'no B'}, {len(way.shape)} dimensions")
    assert floors_in_onnxruntime(before, done.proto, feeds) <= MOST_FLOORS


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("op", OPS)
@examples(25)
@given(st.data())
def test_it_is_the_same_function_in_float64(op: str, layout: int, data: st.DataObject) -> None:
    """Both layouts, of which onnxruntime runs the first alone."""
    before, node, way, a, s = data.draw(models(op, DOUBLE, layout=layout))
    x = data_of(way, inputs(before)["x"], node)
    done = fold(before)
    assert done.plan.refusals == ()
    certified(before, done)
    held, inner = constants(done.proto), done.proto.graph.node[-1]
    names = dict(zip(inner.input, ("x", "W", "R", "B", "lens", "h0", "c0", "P"), strict=False))
    ours = node.outputs(x * a + s, node.tensors)
    theirs = node.outputs(x, {names[name]: array for name, array in held.items() if name in names})

    def moved(draw: int) -> Array:
        random, unit = np.random.default_rng(draw), HALF_UNIT[np.dtype(np.float64)]
        bears = x * jittered(a, unit, random) + jittered(s, unit, random)
        return node.outputs(bears, {name: jittered(array, unit, random) for name, array in node.tensors.items()})

    # The affine itself is float64 here as well: its own rounding is that of its size.
    unit = HALF_UNIT[np.dtype(np.float64)] * (1 + float(np.abs(s).max() + np.abs(x * a).max()))
    assert floors_apart(ours, theirs, moved, unit) <= MOST_FLOORS


@pytest.mark.parametrize("op", OPS)
@examples(25)
@given(st.data())
def test_the_float64_evaluation_is_what_onnxruntime_computes(op: str, data: st.DataObject) -> None:
    before, node, way, a, s = data.draw(models(op, Kind(np.float32, np.float32, 17)))
    feeds = {**inputs(before), **node.feeds}
    y = run(before, feeds)[0]
    x = data_of(way, feeds["x"], node) * a + s
    # Behind statistics that are far off the affine itself loses digits: those of its own rounding.
    lost = float(np.abs(x).max() + np.abs(s).max() + 1) * (1 + float(np.abs(node.tensors["W"]).sum()))
    assert np.allclose(y, node.outputs(x, node.tensors), rtol=0, atol=2.0**-20 * lost)


@pytest.mark.parametrize("op", OPS)
def test_what_lies_beyond_a_sequence_is_not_read(op: str) -> None:
    """Whatever stands there, finite or not, before the fold and after it."""
    random, rows = np.random.default_rng(3), GATES[op] * 2
    held = {"W": random.standard_normal((2, rows, 3)), "R": random.standard_normal((2, rows, 2))}
    held |= {"g": [1.5, -2, 0.5], "be": [1, 2, 3], "m": [0.5, 1, -1], "v": [1, 2, 0.5]}
    before = model(
        f"""(float[2,3,5] x, int32[2] lens) => (float[] y, float[] h) {{ n = BatchNormalization (x, g, be, m, v)
        t = Transpose <perm = [2,0,1]> (n)
        y, h = {op} <hidden_size = 2, direction = "bidirectional"> (t, W, R, "", lens) }}""",
        **{name: np.array(values, np.float32) for name, values in held.items()},
    )  # fmt: skip
    done = fold(before)
    assert [move.is_forward for move in done.plan.moves] == [True]
    feeds = inputs(before) | {"lens": np.array([5, 2], np.int32)}
    for garbage in (7.0, -1e30):
        other = {**feeds, "x": feeds["x"].copy()}
        other["x"][1, :, 2:] = garbage
        for proto in (before, done.proto):
            for plain, moved in zip(run(proto, feeds), run(proto, other), strict=True):
                assert np.array_equal(plain, moved)
    assert floors_in_onnxruntime(before, done.proto, feeds) <= MOST_FLOORS


@pytest.mark.parametrize("op", OPS)
@examples(20)
@given(st.data())
def test_in_half_precision_each_number_is_rounded_once(op: str, data: st.DataObject) -> None:
    """onnxruntime has no kernel for these: the certificate follows them."""
    kind = Kind(np.float16, data.draw(st.sampled_from([np.float16, np.float32])), 17)
    before, node, _, a, s = data.draw(models(op, kind))
    done = fold(before)
    if done.plan.refusals:
        assert {refused.reason.code for refused in done.plan.refusals} <= {"precision-lost", "overflow"}
        return
    certified(before, done)
    held, inner, exact = constants(done.proto), done.proto.graph.node[-1], numbers(node, a, s)
    assert held[inner.input[1]].dtype == np.float16
    assert rounded_once(held[inner.input[1]], *exact["W"])
    if len(inner.input) > 3 and inner.input[3]:
        assert held[inner.input[3]].dtype == np.float16
        assert rounded_once(held[inner.input[3]], *exact["B"])


def test_the_draws_would_notice_each_part_that_was_forgotten() -> None:
    """The bound is tight enough: without the shift, or with one direction left as it was, the same fold is refused."""
    random = np.random.default_rng(5)
    before = model(
        """(float[2,3,4] x) => (float[] y) { n = BatchNormalization (x, g, be, m, v) t = Transpose <perm = [2,0,1]> (n)
        y = LSTM <hidden_size = 2, direction = "bidirectional"> (t, W, R, B) }""",
        W=random.standard_normal((2, 8, 3)).astype("f"), R=random.standard_normal((2, 8, 2)).astype("f"),
        B=random.standard_normal((2, 16)).astype("f"), g=[1.5, -2.0, 0.5], be=[1.0, 2.0, 3.0], m=[0.5, 1.0, -1.0],
        v=[1.0, 2.0, 0.5],
    )  # fmt: skip
    done, feeds = fold(before), inputs(before)
    assert floors_in_onnxruntime(before, done.proto, feeds) <= MOST_FLOORS
    old, new = constants(before), constants(done.proto)
    faults = {
        "no shift": {"B_folded": old["B"]},
        "one direction": {"W_folded": np.stack([new["W_folded"][0], old["W"][1]])},
        "one shift": {"B_folded": np.stack([new["B_folded"][0], old["B"][1]])},
        "other gates": {"W_folded": np.roll(new["W_folded"], 2, axis=1)},
        "one channel": {"W_folded": new["W_folded"] * np.array([1, 1.0001, 1])},
    }
    for name, arrays in faults.items():
        wrong = onnx.ModelProto()
        wrong.CopyFrom(done.proto)
        for tensor in (t for t in wrong.graph.initializer if t.name in arrays):
            tensor.raw_data = arrays[tensor.name].astype(np.float32).tobytes()
        assert floors_in_onnxruntime(before, wrong, feeds) > 20, name
