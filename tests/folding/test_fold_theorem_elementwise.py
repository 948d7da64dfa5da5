"""What is written by hand is an affine like any other: every chain of Mul, Add, Sub, Div, Neg and norms, anywhere.

Four theorems: behind a layer with weights a chain vanishes; behind layout it goes as far as the layout lets it; a
constant of any shape on the way keeps a shift (Add, Sub) or lets it through (Mul, Div); and where nothing takes it, a
chain shrinks into its own first links. Before a layer, a chain does what it does where there is none.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_draws import Array, Chain, Kind, arrays, chained, examples, kinds, spread, statistics
from folding_support import (
    assert_same_function,
    bits,
    constants,
    fold,
    folded,
    inputs,
    model,
    norm,
    operands,
    proven,
    scale_and_shift,
    weights,
)
from hypothesis import event, given
from hypothesis import strategies as st

PROVEN = {(kind, op) for kind in ("affine", "linear", "passing") for op in ("Add", "Sub", "Mul", "Div")}
PROVEN |= {("affine", "Neg"), ("passing", "Neg")}

LAYERS = {
    "Conv": ("t = Conv (x, W)", (4, 3, 1, 1), (2, 3, 2, 2), 1, 3),
    "Conv with a bias, in groups": ("t = Conv <group = 2> (x, W, b)", (4, 3, 1), (2, 6, 4), 1, 4),
    "ConvTranspose": ("t = ConvTranspose (x, W)", (3, 4, 2, 1), (2, 3, 2, 2), 1, 6),
    "Gemm": ("t = Gemm (x, W, b)", (3, 4), (2, 3), 1, 4),
    "Gemm, its rows": ("t = Gemm (W, x, e)", (4, 3), (3, 2), 0, 4),
    "BatchNormalization": ("t = BatchNormalization (x, hg, hbe, hm, hv)", None, (2, 4, 3), 1, 1),
}


def most(kind: Kind) -> int:
    """Half precision has no room for six factors."""
    return 2 if kind.data is np.float16 else 6


@st.composite
def behind_layers(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array, int, int]:
    line, dims, x_dims, axis, fan_in = LAYERS[draw(st.sampled_from(sorted(LAYERS)))]
    kind = draw(kinds(double="Gemm" in line or "Batch" in line))
    tensors = {"b": draw(arrays((4,), kind.data))} if "b)" in line else {}
    tensors |= {"e": draw(arrays((1,), kind.data))} if "e)" in line else {}
    tensors |= {"W": draw(arrays(dims, kind.data))} if dims else draw(statistics(4, kind, "h"))
    chain = draw(chained(Chain(kind, len(x_dims), axis, 4, "t"), 1, most(kind)))
    body = f"{line} {' '.join(chain.lines)} y = Identity ({chain.value})"
    text = f"({kind.text}{list(x_dims)} x) => ({kind.text}[] y) {{ {body} }}"
    before = model(text, opset=kind.opset, **tensors, **chain.tensors)
    return before, draw(arrays(x_dims, kind.data)), fan_in + len(chain.lines), "Batch" in line


@examples(110)
@given(behind_layers())
def test_a_chain_behind_a_layer_with_weights_vanishes(drawn: tuple[onnx.ModelProto, Array, int, int]) -> None:
    before, x, fan_in, first_stays = drawn
    done = proven(before, {"x": x}, fan_in, left=int(first_stays))
    assert done.ops == [before.graph.node[0].op_type, "Identity"]


@st.composite
def behind_layout(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array, int]:
    """Conv, a chain, a layout operator, a chain on the axis where the channels are then."""
    kind = draw(kinds())
    first = draw(chained(Chain(kind, 4, 1, 4, "t"), 0, most(kind) // 2))
    layout, rank, axis = draw(
        st.sampled_from([
            ("Identity ({})", 4, 1), ("Transpose <perm = [0, 2, 3, 1]> ({})", 4, 3), ("Reshape ({}, to)", 3, 1),
            ("Transpose <perm = [1, 0, 2, 3]> ({})", 4, 0), ("Dropout ({})", 4, 1), ("Neg ({})", 4, 1),
        ])
    )  # fmt: skip
    second = draw(chained(Chain(kind, rank, axis, 4, "u"), 1, most(kind) // 2))
    body = f"t = Conv (x, W) {' '.join(first.lines)} u = {layout.format(first.value)} {' '.join(second.lines)}"
    text = f"({kind.text}[2,3,2,2] x) => ({kind.text}[] y) {{ {body} y = Identity ({second.value}) }}"
    tensors = {"W": draw(arrays((4, 3, 1, 1), kind.data)), "to": [0, 0, 4]}
    before = model(text, opset=kind.opset, **tensors, **first.tensors, **second.tensors)
    return before, draw(arrays((2, 3, 2, 2), kind.data)), 3 + len(before.graph.node)


@examples(70)
@given(behind_layout())
def test_chains_on_both_sides_of_layout_vanish(drawn: tuple[onnx.ModelProto, Array, int]) -> None:
    before, x, fan_in = drawn
    done = proven(before, {"x": x}, fan_in)
    assert set(done.ops) <= {"Conv", "Identity", "Transpose", "Reshape", "Dropout"}


@st.composite
def any_shape(draw: st.DrawFn, kind: Kind, dims: tuple[int, ...], number: int) -> Array:
    """A nonzero constant of any shape that broadcasts against `dims`; no two of other `number` cancel to the last bit.

    Where they do, what is left is the identity or the same for all, and may go further when it is folded again.
    """
    shape = tuple(draw(st.sampled_from([1, d])) for d in dims)[draw(st.integers(0, len(dims))) :]
    values = draw(arrays(shape, kind.data))
    filled = np.where(values == 0, 1.5, values)
    further = np.linspace(0.0625, 0.125, filled.size).reshape(filled.shape)
    return np.asarray(filled + np.sign(filled) * number * further, kind.data)


@st.composite
def obstructed(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array, int]:
    """A layer or none, then constants of every shape among norms and chains."""
    kind = draw(kinds())
    dims = (2, 4, 3, 2)
    line, x_dims = draw(st.sampled_from([("Conv (x, W)", (2, 3, 3, 2)), ("Identity (x)", dims), ("Relu (x)", dims),
                                         ("MatMul (x, V)", (2, 4, 3, 5))]))  # fmt: skip
    lines, tensors, value = [f"v = {line}"], {"W": weights(4, 3, 1, 1, dtype=kind.data)}, "v"
    tensors["V"] = weights(5, 2, dtype=kind.data)
    for number in range(draw(st.integers(1, 2 if kind.data is np.float16 else 3))):
        op = draw(
            st.sampled_from(["Mul ({x}, {c})", "Div ({x}, {c})", "Add ({c}, {x})", "Sub ({x}, {c})", "Sub ({c}, {x})"])
        )
        tensors[f"c{number}"] = draw(any_shape(kind, dims, number))
        lines.append(f"w{number} = {op.format(x=value, c=f'c{number}')}")
        chain = draw(chained(Chain(kind, 4, 1, 4, f"w{number}"), 0, 2))
        tensors |= chain.tensors
        lines += chain.lines
        value = chain.value
    text = f"({kind.text}{list(x_dims)} x) => ({kind.text}[] y) {{ {' '.join(lines)} y = Identity ({value}) }}"
    before = model(text, opset=kind.opset, **tensors)
    return before, draw(arrays(x_dims, kind.data)), 5 + len(lines)


@examples(110)
@given(obstructed())
def test_constants_of_any_shape_keep_the_shift_or_let_it_through(drawn: tuple[onnx.ModelProto, Array, int]) -> None:
    before, x, fan_in = drawn
    done = fold(before)
    event(f"{len(done.plan.moves)} moves")
    done = proven(before, {"x": x}, fan_in, left=len(done.plan.refusals))
    added = max(0, done.ops.count("Add") - [n.op_type for n in before.graph.node].count("Add"))
    assert len(done.ops) - len(before.graph.node) + len(done.plan.moves) <= 1
    assert added <= ("MatMul" in done.ops)


@examples(70)
@given(kinds(double=True), st.sampled_from(["x", "Relu (x)"]), st.data())
def test_a_chain_that_nothing_takes_shrinks_into_itself(kind: Kind, source: str, data: st.DataObject) -> None:
    """Each link goes into an earlier one or stays; into a norm, which takes everything, all behind it go."""
    chain = data.draw(chained(Chain(kind, 3, 1, 4, "t"), 1, most(kind)))
    body = f"t = {source if '(' in source else 'Identity (x)'} {' '.join(chain.lines)} y = Identity ({chain.value})"
    text = f"({kind.text}[2,4,3] x) => ({kind.text}[] y) {{ {body} }}"
    before = model(text, opset=kind.opset, **chain.tensors)
    x = data.draw(arrays((2, 4, 3), kind.data))
    plan = fold(before).plan
    done = proven(before, {"x": x}, len(chain.lines), left=len(plan.refusals))
    event(f"{len(chain.lines)} become {len(done.ops) - 2}")
    assert len(done.ops) - 2 == len(plan.refusals) == len(chain.lines) - len(plan.moves)
    if any("Batch" in line for line in chain.lines[:1]):
        assert len(plan.refusals) == 1


@examples(50)
@given(kinds(), st.data())
def test_a_chain_before_a_layer_and_one_behind_it_go_their_own_ways(kind: Kind, data: st.DataObject) -> None:
    first = data.draw(chained(Chain(kind, 4, 1, 3, "s"), 1, most(kind)))
    second = data.draw(chained(Chain(kind, 4, 1, 4, "t"), 1, most(kind) // 2))
    body = f"s = Relu (x) {' '.join(first.lines)} t = Conv ({first.value}, W) {' '.join(second.lines)}"
    text = f"({kind.text}[2,3,2,2] x) => ({kind.text}[] y) {{ {body} y = Identity ({second.value}) }}"
    tensors = {"W": weights(4, 3, 1, 1, dtype=kind.data), **first.tensors, **second.tensors}
    before = model(text, opset=kind.opset, **tensors)
    x = data.draw(arrays((2, 3, 2, 2), kind.data))
    stays = len(fold(before).plan.refusals)
    done = proven(before, {"x": x}, 3 + len(before.graph.node), left=stays)
    assert done.ops[-2:] == ["Conv", "Identity"]
    assert len(done.ops) == 3 + stays


# --- the arithmetic, to the last bit --------------------------------------------------------------------------------

ON_THE_WAY = {
    "Add (p, c)": lambda c, a, s: (a * c + s, a),
    "Add (c, p)": lambda c, a, s: (a * c + s, a),
    "Sub (p, c)": lambda c, a, s: (a * c - s, a),
    "Sub (c, p)": lambda c, a, s: (a * c + s, a),
}


@pytest.mark.parametrize("line", ON_THE_WAY)
@pytest.mark.parametrize("dims", [(4, 1, 1), (1, 4, 3, 3), (), (3, 3), (2, 1, 1, 1)])
def test_a_term_on_the_way_keeps_the_shift_and_the_scale_travels_on(line: str, dims: tuple[int, ...]) -> None:
    """A per-channel term between Conv and norm has gone into the bias already; another one takes a*c + s itself."""
    text = f"""(float[2,3,3,3] x) => (float[] y) {{
        p = Conv (x, W)  q = {line}  y = BatchNormalization (q, g, be, m, v) }}"""
    c = weights(*dims, seed=5)
    before = model(text, W=weights(4, 3, 1, 1), c=c, **norm(4))
    done = proven(before, inputs(before), 5, left=int(dims == (2, 1, 1, 1)))
    a, s = (v.reshape(4, 1, 1) for v in scale_and_shift(norm(4)))
    new_c, new_a = ON_THE_WAY[line](c.astype(np.float64), a, s)
    sign = -1 if line == "Sub (c, p)" and len(done.ops) == 1 else 1
    exact = sign * weights(4, 3, 1, 1).astype(np.float64) * new_a.reshape(4, 1, 1, 1)
    assert bits(operands(done.proto, "Conv")[1]) == bits(exact.astype(np.float32))
    if done.ops == ["Conv"]:
        assert dims in {(4, 1, 1), ()}
        return
    left = [array for name, array in constants(done.proto).items() if name.startswith("c")]
    assert np.array_equal(*np.broadcast_arrays(left[0], new_c.astype(np.float32)))


def test_behind_a_factor_that_has_grown_the_shift_is_divided_by_what_it_has_become() -> None:
    """The first norm without shift settles in c (Relu takes nothing); the term behind then must not use the old c."""
    text = """(float[2,4,3] x) => (float[] y) {
        r = Relu (x)  b = Add (r, e)  p = Mul (b, c)  q = Mul (p, f)  y = Add (q, t) }"""
    held = {"e": weights(2, 4, 3), "c": weights(4, 1), "f": weights(4, 1, seed=2), "t": weights(4, 1, seed=3)}
    before = model(text, **held)
    done = proven(before, inputs(before), 4, left=1)
    assert done.ops == ["Relu", "Add", "Mul"]
    e, c, f, t = (held[k].astype(np.float64) for k in "ecft")
    assert bits(constants(done.proto)["e_folded"]) == bits((e + t / (c * f)).astype(np.float32))


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
def test_before_opset_7_an_axis_says_where_the_constant_lies(opset: int, op: str) -> None:
    text = f"""(float[2,3,4,4] x, float[4,3,1,1] W, float[4] c) => (float[2,4,4,4] y) {{
        p = Conv <kernel_shape = [1, 1]> (x, W)  q = {op} <broadcast = 1, axis = 1> (p, c)  y = Relu (q) }}"""
    c = weights(4, seed=3)
    before = model(text, opset=opset, ir=3, W=weights(4, 3, 1, 1), c=c)
    done = folded(before)
    assert done.ops == ["Conv", "Relu"]
    later = text.replace("x, float[4,3,1,1] W, float[4] c)", "x)").replace("<broadcast = 1, axis = 1>", "")
    ours = model(later, opset=7, W=weights(4, 3, 1, 1), c=c.reshape(4, 1, 1))
    theirs = onnx.ModelProto()
    theirs.CopyFrom(done.proto)
    theirs.opset_import[0].version = 7  # Conv and Relu mean there what they meant before
    assert_same_function(ours, theirs, inputs(ours), 4)
    factor, term = {"Mul": (c, 0), "Div": (1 / c.astype(np.float64), 0), "Add": (1, c), "Sub": (1, -c)}[op]
    exact = weights(4, 3, 1, 1).astype(np.float64) * np.reshape(np.broadcast_to(factor, 4), (4, 1, 1, 1))
    assert bits(operands(done.proto, "Conv")[1]) == bits(exact.astype(np.float32))
    if np.any(term):
        assert bits(operands(done.proto, "Conv")[2]) == bits(np.asarray(term, np.float32))


def test_one_scalar_of_any_rank_up_to_the_value_s_is_a_scale_of_every_channel() -> None:
    for dims in ((), (1,), (1, 1), (1, 1, 1, 1)):
        text = "(float[2,3,4,4] x) => (float[] y) { p = Conv (x, W)  y = Mul (c, p) }"
        before = model(text, W=weights(4, 3, 1, 1), c=np.full(dims, -2.5, np.float32))
        assert proven(before, inputs(before), 4).ops == ["Conv"]


def test_spread_constants_are_never_zero() -> None:
    """What the draws promise: a Div by them is finite, so that no chain is refused for its numbers."""
    chain = Chain(Kind(np.float32, np.float32, 17), 3, 1, 4, "t")

    @examples(50)
    @given(spread(chain))
    def check(c: Array) -> None:
        assert np.all(c != 0)
        assert np.broadcast_shapes(c.shape, (2, 4, 3)) == (2, 4, 3)

    check()
