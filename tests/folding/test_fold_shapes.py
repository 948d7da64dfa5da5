"""Shapes that onnx's inference loses behind integer expressions: recovered where decided, and never wrongly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_draws import examples
from folding_support import assert_same_function, folded, inputs, model, norm, run, weights
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from shapes_support import SIZES, actual, agrees, content, ints, numbers, shape, values_of

from bnfold.affine import Dim
from bnfold.shapes import Shapes

# --- what is decided is recovered -----------------------------------------------------------------------------------

SHUFFLE = """(float[{batch},8,5,5] x) => (float[] y) {{
    c = Conv (x, W)  s = Shape (c)
    n = Gather <axis = 0> (s, first)  ch = Gather <axis = 0> (s, second)  hw = Slice (s, third, end)
    per = Div (ch, groups)
    into = Concat <axis = 0> (n, groups, per, hw)  back = Concat <axis = 0> (n, minus, hw)
    split = Reshape (c, into)  turned = Transpose <perm = [0, 2, 1, 3, 4]> (split)
    z = Reshape (turned, back)
    y = BatchNormalization (z, g, be, m, v)
}}"""
PLACES = {"first": ints(0), "second": ints(1), "third": ints(2), "end": ints(4), "groups": ints(4), "minus": ints(-1)}


@pytest.mark.parametrize("opset", [11, 13, 14, 17, 21])
@pytest.mark.parametrize("batch", ["2", "N"])
def test_a_channel_shuffle_is_followed_and_folded(opset: int, batch: str) -> None:
    before = model(SHUFFLE.format(batch=batch), opset=opset, W=weights(8, 8, 3, 3), **PLACES, **norm(8))
    first = 2 if batch == "2" else "N"
    assert shape(before, "split") == (first, 4, 2, 3, 3)
    assert shape(before, "turned") == (first, 2, 4, 3, 3)
    assert shape(before, "z") == (first, 8, 3, 3)
    assert_same_function(before, folded(before).proto, inputs(before), fan_in=72)


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 21])
def test_a_batch_of_any_size_stays_a_symbol_through_reshape_and_expand(opset: int) -> None:
    text = """(float[N,6] x, float[1,1,6] b) => (float[] y, float[] e) {
        s = Shape (x)  n = Gather <axis = 0> (s, zero)
        into = Concat <axis = 0> (n, two, minus)  y = Reshape (x, into)
        wide = Concat <axis = 0> (n, two, six)  e = Expand (b, wide)
    }"""
    before = model(text, opset=opset, zero=ints(0), two=ints(2), six=ints(6), minus=ints(-1))
    assert shape(before, "y") == ("N", 2, 3)
    assert shape(before, "e") == ("N", 2, 6)


def test_the_one_unknown_size_follows_from_the_others_where_all_are_numbers() -> None:
    text = """(float[4,6] x, int64[1] k) => (float[] y, float[] z) {
        one = Concat <axis = 0> (k, three)  y = Reshape (x, one)
        both = Concat <axis = 0> (k, k)  z = Reshape (x, both)
    }"""
    before = model(text, opset=13, three=ints(3))
    assert shape(before, "y") == (8, 3)
    assert shape(before, "z") == (None, None)


def test_both_branches_of_an_if_and_what_it_gives() -> None:
    branch = """s{i} = Shape (x)  p{i} = ReduceProd <keepdims = 0> (s{i})
                w{i} = Unsqueeze (p{i}, zero)  {o} = Reshape (x, w{i})"""
    text = f"""(float[2,3] x, bool k) => (float[] y, float[] z) {{
        y = If (k) <then_branch = t () => (float[] a) {{ {branch.format(i=0, o="a")} }},
                    else_branch = e () => (float[] b) {{ {branch.format(i=1, o="b")} }}>
        z = Neg (y)
    }}"""
    before = model(text, opset=13, zero=ints(0))
    assert [shape(before, name) for name in "abyz"] == [(6,)] * 4


def test_large_integers_of_the_file_are_read_and_nothing_of_the_model_changes() -> None:
    table = np.arange(300, dtype=np.int64)
    text = """(float[4,6] x, int64[2] at) => (float[] y) {
        s = Shape (x)  t = Gather (table, s)  u = Gather(t, zero)  v = Concat<axis=0>(u, minus)
        y = Reshape(x, v)
    }"""
    before = model(text, opset=13, table=table, zero=ints(1), minus=ints(-1))
    graph, values = values_of(before)
    skeleton = graph.model.proto.SerializeToString(deterministic=True)
    assert graph.model.proto.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert Shapes(graph).shape(values["y"]) == (6, 4)
    assert graph.model.proto.SerializeToString(deterministic=True) == skeleton


def calls_of_inference(proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes onnx's inference was asked about, each time."""
    asked: list[int] = []
    infer = onnx.shape_inference.infer_shapes

    def counting(proto: onnx.ModelProto, *, data_prop: bool) -> onnx.ModelProto:
        asked.append(len(proto.graph.node))
        return infer(proto, data_prop=data_prop)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counting)
    shape(proto, "y")
    return asked


@pytest.mark.parametrize(("blocks", "lost"), [(0, 0), (1, 3), (4, 3 + 3 * 5)])
def test_inference_runs_once_and_then_once_for_each_node_that_was_lost(
    blocks: int, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        f"s{i} = Shape (x{i})  t{i} = Slice (s{i}, zero, two)  d{i} = Concat <axis = 0> (t{i}, m)"
        f"  r{i} = Reshape (x{i}, d{i})  x{i + 1} = Relu (r{i})"
        for i in range(blocks)
    ]
    text = f"(float[2,3,4,5] x0) => (float[] y) {{ {' '.join(lines)} y = Neg (x{blocks}) }}"
    before = model(text, opset=13, zero=ints(0), two=ints(2), m=ints(-1))
    assert shape(before, "y") == ((2, 3, 20) if blocks else (2, 3, 4, 5))
    asked = calls_of_inference(before, monkeypatch)
    assert asked == [len(before.graph.node)] + [1] * lost


def test_behind_an_operator_that_nobody_knows_inference_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "(float[2,6] x) => (float[] y) { a = other.Foo (x)  b = Relu (a)  c = Gather (b, zero)  y = Add (b, one) }"
    before = model(text, imports=', "other" : 1', zero=ints(0), one=ints(1).astype(np.float32))
    assert shape(before, "y") is None
    assert calls_of_inference(before, monkeypatch) == [4]


# --- nothing is known wrongly ---------------------------------------------------------------------------------------


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[Dim], list[list[Dim]], onnx.ModelProto]:
    """A Reshape of an input of any dimensions whose target joins neighbours, computed from the input's own shape."""
    dims: list[Dim] = draw(st.lists(st.sampled_from(["N", "M", 2, 3, 5]), min_size=1, max_size=5))
    cuts = [*sorted(draw(st.sets(st.integers(1, len(dims))))), len(dims)]
    groups = [dims[a:b] for a, b in zip([0, *cuts], cuts, strict=False) if a < b]
    solved = draw(st.integers(-3, len(groups) - 1))
    held, lines, parts = {}, ["s = Shape (x)"], []
    starts = np.cumsum([0, *map(len, groups)])
    for i, group in enumerate(groups):
        held[f"at{i}"] = ints(*range(starts[i], starts[i + 1]))
        copied = starts[i] == i and len(group) == 1 and draw(st.booleans())
        held[f"c{i}"] = ints(0 if copied else -1)
        lines.append(f"g{i} = Gather (s, at{i})  p{i} = ReduceProd <keepdims = 1> (g{i})")
        parts.append(f"c{i}" if copied or i == solved else f"p{i}" if len(group) > 1 else f"g{i}")
    lines.append(f"into = Concat <axis = 0> ({', '.join(parts)})  y = Reshape (x, into)")
    shaped = ",".join(map(str, dims))
    opset = draw(st.sampled_from([8, 13, 14, 17]))
    return dims, groups, model(f"(float[{shaped}] x) => (float[] y) {{ {'  '.join(lines)} }}", opset=opset, **held)


@examples(250)
@given(reshapes())
def test_every_dimension_after_a_reshape_is_what_onnxruntime_makes_of_it(
    drawn: tuple[list[Dim], list[list[Dim]], onnx.ModelProto],
) -> None:
    dims, groups, proto = drawn
    known = shape(proto, "y")
    assert known is not None
    assert len(known) == len(groups)
    for found, group in zip(known, groups, strict=True):
        if all(isinstance(d, int) for d in dims):
            assert found == np.prod([d for d in group if isinstance(d, int)])
    for sizes in SIZES[:4]:
        (truth,) = run(proto, {"x": np.zeros(actual(dims, sizes), np.float32)})
        assert agrees(known, sizes, truth.shape), sizes


@examples(150)
@given(st.lists(st.sampled_from(["N", "M", 1, 2, 3]), min_size=1, max_size=3), st.data())
def test_every_dimension_of_what_is_filled_repeated_or_broadcast_is_what_onnxruntime_makes(
    dims: list[Dim], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(dims))))
    op = data.draw(st.sampled_from(["ConstantOfShape (t)", "Tile (x, t)", "Expand (one, t)", "Expand (x, u)"]))
    text = f"""(float[{",".join(map(str, dims))}] x) => (float[] y) {{
        s = Shape (x)  r = Gather (s, order)  d = Mul (r, two)
        t = Where (keep, r, d)  u = Concat <axis = 0> (two, s)  y = {op}
    }}"""
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(dims), max_size=len(dims))))
    one = np.ones([1] * len(dims), np.float32)
    proto = model(text, opset=13, order=ints(*order), two=ints(2), keep=keep, one=one)
    known = shape(proto, "y")
    assert known is not None
    for sizes in SIZES:
        (truth,) = run(proto, {"x": np.zeros(actual(dims, sizes), np.float32)})
        assert agrees(known, sizes, truth.shape), sizes


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["M", 1, 4])
def test_an_element_that_coincides_with_a_symbol_in_value_alone_is_not_it(first: Dim) -> None:
    text = f"""(float[N,4] x, float[{first},4] z) => (float[] y) {{
        s = Shape (z)  n = Gather (s, zero)  t = Concat <axis = 0> (n, two, minus)  y = Reshape (x, t)
    }}"""
    before = model(text, opset=13, zero=ints(0), two=ints(2), minus=ints(-1))
    assert content(before, "t") == (first, 2, -1)
    known = shape(before, "y")
    assert known is not None
    assert known[:2] == (first, 2)
    assert known[2] != 2  # what it would be, were N copied: N * 4 / (N * 2)
    other = 1 if first == "M" else first
    (truth,) = run(before, {"x": np.zeros((8, 4), np.float32), "z": np.zeros((other, 4), np.float32)})
    assert truth.shape != (8, 2, 2)


def test_what_a_caller_feeds_is_no_shape() -> None:
    text = """(float[2,6] x, int64[2] t) => (float[] y, float[] z) {
        d = Mul (t, t)  y = Reshape (x, t)  z = Reshape (x, d)
    }"""
    before = model(text)
    assert numbers(before, "y") == numbers(before, "z") == []


@pytest.mark.parametrize(("ir", "known"), [(8, []), (3, [3, 4])])
def test_an_initializer_that_a_caller_may_replace_is_no_shape(ir: int, known: list[int]) -> None:
    text = """(float[2,6] x, int64[2] t) => (float[] y, float[] z) {
        one = Neg (t)  two = Neg (one)  y = Reshape (x, t)  z = Reshape (x, two)
    }"""
    before = model(text, opset=13, ir=ir, t=ints(3, 4))
    assert numbers(before, "y") == numbers(before, "z") == known
    if ir == 8:
        (other, _) = run(before, {"x": np.zeros((2, 6), np.float32), "t": ints(12, 1)})
        assert other.shape == (12, 1)


def test_a_zero_that_is_meant_copies_nothing() -> None:
    text = """(float[N,8] x) => (float[] y) {
        s = Shape (x)  n = Gather (s, first)  t = Concat <axis = 0> (n, zero, two)
        y = Reshape <allowzero = 1> (x, t)
    }"""
    before = model(text, first=ints(0), zero=ints(0), two=ints(2))
    assert shape(before, "y") in {("N", 0, 2), (None, 0, 2)}
    (truth,) = run(before, {"x": np.zeros((0, 8), np.float32)})
    assert truth.shape == (0, 0, 2)


def test_sizes_that_onnx_invents_are_not_taken_for_the_same() -> None:
    text = """(float[2,6] x, int64[1] a, int64[1] b) => (float[] y, float[] z) {
        k = Concat <axis = 0> (a, two, minus)  m = Concat <axis = 0> (b, two, minus)
        y = Reshape (x, k)  z = Reshape (x, m)
    }"""
    before = model(text, opset=13, two=ints(2), minus=ints(-1))
    assert shape(before, "y") == shape(before, "z") == (None, 2, None)


def test_what_a_loop_carries_is_not_guessed() -> None:
    text = """(float[1,8] x, int64 n) => (float[] y) {
        y = Loop (n, , x) <body = b (int64 i, bool more, float[] z) => (bool on, float[] u) {
            on = Identity (more)  s = Shape (z)  t = Mul (s, one)
            d = Concat <axis = 0> (z, z)  w = Shape (d)  u = Reshape (d, w)
        }>
        t2 = Shape (y)  r = Reshape (y, t2)
    }"""
    before = model(text, opset=13, one=ints(1))
    assert [shape(before, name) for name in "zduyr"] == [None] * 5


def test_a_batchnormalization_says_how_many_channels_there_are() -> None:
    """A Flatten of maps of any size: what the file says of the channels stands in gamma alone."""
    text = """(float[N,2,H,H] x) => (float[] y) {
        s = Tanh(x)  f = Flatten(s)  n = BatchNormalization(f, g, be, m, v)  t = Tanh(n)  y = Mul(t, c)
    }"""
    before = model(text, opset=15, c=np.ones(18, np.float32), **norm(18))
    assert [shape(before, name) for name in "nty"] == [("N", 18)] * 3


@pytest.mark.parametrize("other", ["M", "N"])
def test_a_symbol_of_another_value_is_what_the_target_says(other: str) -> None:
    text = f"""(float[N,4] x, float[{other},3] z) => (float[] y) {{
        s = Shape (z)  n = Gather (s, zero)  t = Concat <axis = 0> (four, n)  y = Reshape (x, t)
    }}"""
    assert shape(model(text, opset=13, zero=ints(0), four=ints(4)), "y") == (4, other)


@pytest.mark.parametrize(
    "text",
    [
        "t = ConstantOfShape (huge)",
        "t = Expand (three, huge)",
        "t = Tile (three, huge)",
        "a = ConstantOfShape (many)  b = Cast <to = 7> (a)  t = Gather (b, b)",
        "a = ConstantOfShape (many)  b = Unsqueeze (a, one)  t = Add (a, b)",
    ],
)
def test_an_expression_that_is_too_large_is_not_computed(text: str) -> None:
    before = model(
        f"""(float[2,6] x) => (float[] y) {{
            {text}  u = Cast <to = 7> (t)  v = ReduceMax <keepdims = 0> (u)  w = Reshape (v, one)
            y = Reshape (x, w)
        }}""",
        opset=13, huge=ints(1 << 40), many=ints(1 << 14), three=ints(3), one=ints(1),
    )  # fmt: skip
    assert content(before, "v") == (None,)
    assert shape(before, "y") == (12,)  # the rank is that of its operand, and the rest follows


def test_what_the_file_says_and_an_expression_contradicts_stays() -> None:
    text = "(float[2,6] x) => (float[3,N] y) { s = Shape (x)  t = Slice (s, zero, two)  y = Reshape (x, t) }"
    before = model(text, opset=13, zero=ints(0), two=ints(2))
    assert shape(before, "y") == (3, "N")


def test_a_number_that_the_file_says_is_not_given_up_for_a_symbol() -> None:
    text = "(float[N,6] x) => (float[2,?] y) { s = Shape (x)  t = Slice (s, zero, two)  y = Reshape (x, t) }"
    assert shape(model(text, opset=13, zero=ints(0), two=ints(2)), "y") == (2, 6)


def test_onnx_is_not_asked_to_write_out_a_vector_that_is_merely_said_to_be_long() -> None:
    text = """(float[N,6] x, int64[1] k) => (int64[] y) {
        many = Mul (half, half)  e = Expand (six, many)  y = Concat <axis = 0> (k, e)
    }"""
    assert shape(model(text, opset=13, half=ints(1 << 20), six=ints(6)), "y") == ((1 << 40) + 1,)
