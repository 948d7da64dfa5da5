"""Contents of integer expressions: what is known is what onnxruntime computes, whatever the symbols stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from folding_draws import examples
from folding_support import model, run
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from shapes_support import SIZES, actual, agrees, content, ints, shape, values_of

from bnfold.affine import Dim
from bnfold.shapes import Shapes
from bnfold.shapes.contents import Contents

BINARY = ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min")


class Chain:
    """Lines of text that compute vectors of integers; each entry of `vectors` is a name and a length."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.opset = draw(st.sampled_from([12, 13, 17, 21]))
        sizes = st.sampled_from(["N", "M", 1, 2, 3, 8])
        self.dims = draw(st.lists(sizes, min_size=2, max_size=4))
        self.lines = ["s = Shape (x)"]
        self.vectors = [("s", len(self.dims))]
        self.held: dict[str, NDArray[np.int64]] = {}
        for i in range(draw(st.integers(1, 7))):
            step = draw(st.sampled_from([self.slice, self.gather, self.concat, self.binary, self.choose, self.cast,
                                         self.whole, self.split, self.tile, self.matrix]))  # fmt: skip
            name = f"v{i}"
            length = step(draw, name, *draw(st.sampled_from(self.vectors)))
            self.vectors.append((name, length))

    def constant(self, *values: int) -> str:
        name = f"k{len(self.held)}"
        self.held[name] = ints(*values)
        return name

    def slice(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        start, step = draw(st.integers(0, length - 1)), draw(st.sampled_from([1, 1, 2, -1]))
        end = draw(st.integers(start + 1, length)) if step > 0 else -length - 1
        steps = self.constant(start), self.constant(end), self.constant(0), self.constant(step)
        self.lines.append(f"{to} = Slice ({of}, {', '.join(steps)})")
        return len(range(length)[start : end if step > 0 else None : step])

    def gather(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        chosen = draw(st.lists(st.integers(-length, length - 1), min_size=1, max_size=3))
        self.lines.append(f"{to} = Gather ({of}, {self.constant(*chosen)})")
        return len(chosen)

    def concat(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        other, more = draw(st.sampled_from([*self.vectors, (self.constant(-1, 7), 2)]))
        self.lines.append(f"{to} = Concat <axis = 0> ({of}, {other}, {of})")
        return 2 * length + more

    def binary(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        op = draw(st.sampled_from(BINARY))
        numbers = st.sampled_from([-3, -1, 1, 2, 4]) if op in {"Div", "Mod"} else st.integers(-2, 3)
        other = self.constant(*(draw(numbers) for _ in range(draw(st.sampled_from([1, length])))))
        same = [name for name, n in self.vectors if n == length and op not in {"Div", "Mod"}]
        self.lines.append(f"{to} = {op} ({of}, {draw(st.sampled_from([other, *same]))})")
        return length

    def choose(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        first, second = self.constant(*range(length)), self.constant(draw(st.integers(-1, 3)))
        compared = draw(st.sampled_from([of, first]))
        op = draw(st.sampled_from(["Equal", "Greater", "Less"]))
        self.lines.append(f"{to}c = {op} ({compared}, {second})  {to} = Where ({to}c, {first}, {of})")
        return length

    def cast(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        through = draw(st.sampled_from([TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL]))
        self.lines.append(f"{to}c = Cast <to = {through}> ({of})  {to} = Cast <to = {TensorProto.INT64}> ({to}c)")
        return length

    def whole(self, draw: st.DrawFn, to: str, of: str, _: int) -> int:
        self.lines.append(
            f"{to} = {draw(st.sampled_from(['ReduceProd', 'ReduceMax', 'ReduceMin']))} <keepdims = 1> ({of})"
        )
        return 1

    def split(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        self.lines.append(f"{to}d = Concat <axis = 0> ({of}, {of})")
        halves = f" <num_outputs = 2> ({to}d)" if self.opset >= 18 else f" ({to}d)"
        self.lines.append(f"{to}a, {to} = Split{halves}" if draw(st.booleans()) else f"{to}, {to}a = Split{halves}")
        return length

    def tile(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        times = draw(st.integers(1, 3))
        self.lines.append(f"{to} = Tile ({of}, {self.constant(times)})")
        return times * length

    def matrix(self, draw: st.DrawFn, to: str, of: str, length: int) -> int:
        del draw
        first, second = self.constant(2, length), self.constant(-1)
        self.lines.append(
            f"{to}a = Expand ({of}, {first})  {to}b = Transpose ({to}a)  {to} = Reshape ({to}b, {second})"
        )
        return 2 * length

    def proto(self) -> onnx.ModelProto:
        outputs = ", ".join(f"int64[] {name}" for name, _ in self.vectors)
        dims = ",".join(map(str, self.dims))
        return model(f"(float[{dims}] x) => ({outputs}) {{ {'  '.join(self.lines)} }}", opset=self.opset, **self.held)


@examples(250)
@given(st.data())
def test_every_element_that_is_known_is_what_onnxruntime_computes(data: st.DataObject) -> None:
    chain = Chain(data.draw)
    proto = chain.proto()
    graph, values = values_of(proto)
    shapes = Shapes(graph)
    contents = Contents(graph, shapes.shape, shapes.element_type)
    found = {name: contents.of(values[name]) for name, _ in chain.vectors}
    for sizes in SIZES:
        results = run(proto, {"x": np.zeros(actual(chain.dims, sizes), np.float32)})
        for (name, length), truth in zip(chain.vectors, results, strict=True):
            assert truth.shape == (length,)
            known = found[name]
            assert known is None or agrees(contents.sizes(known), sizes, truth.tolist()), (name, sizes)
            assert agrees(shapes.shape(values[name]) or (length,), sizes, truth.shape)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Div", "Mod", "Max", "Min", "Add", "Sub", "Mul"])
@pytest.mark.parametrize("other", ["two", "n"])
def test_arithmetic_of_a_symbol_is_unknown_beside_elements_that_are_known(op: str, other: str) -> None:
    text = f"""(float[N,8] x) => (int64[] y) {{
        s = Shape (x)  n = Gather (s, first)  m = {op} (n, {other})  y = Concat <axis = 0> (m, n, two)
    }}"""
    before = model(text, first=ints(0), two=ints(2))
    assert content(before, "y") == (None, "N", 2)


@pytest.mark.parametrize(("op", "known"), [("Equal", 9), ("Greater", 8), ("Less", 9)])
def test_a_comparison_with_a_symbol_chooses_nothing(op: str, known: int) -> None:
    text = f"(float[N,8] x) => (int64[] y) {{ s = Shape (x)  c = {op} (s, four)  y = Where (c, s, nine) }}"
    before = model(text, four=ints(4), nine=ints(9))
    assert content(before, "y") == (None, known)
    truths = [tuple(run(before, {"x": np.zeros((n, 8), np.float32)})[0]) for n in (3, 4, 5)]
    assert len(set(truths)) > 1
    assert {last for _, last in truths} == {known}


def test_an_expression_that_cannot_be_computed_tells_nothing() -> None:
    text = "(float[2,6] x) => (float[] y) { s = Shape (x)  t = Gather (s, beyond)  y = Reshape (x, t) }"
    before = model(text, opset=13, beyond=ints(0, 5))
    assert content(before, "t") == (None, None)
    assert shape(before, "y") == (None, None)


def test_operators_older_than_broadcasting_are_not_followed() -> None:
    text = "(float[2,6] x) => (int64[] y) { s = Shape (x)  y = Add <broadcast = 1> (s, one) }"
    assert content(model(text, opset=6, one=ints(1)), "y") == (None, None)
    assert content(model(text.replace(" <broadcast = 1>", ""), opset=7, one=ints(1)), "y") == (3, 7)


@pytest.mark.parametrize(
    ("through", "known"),
    [(TensorProto.INT32, ("N", 8)), (TensorProto.FLOAT, (None, 8)), (TensorProto.BOOL, (None, 1)),
     (TensorProto.INT8, (None, 8)), (TensorProto.FLOAT16, (None, None))],
)  # fmt: skip
def test_a_symbol_stays_one_through_wide_integers_alone(through: int, known: tuple[Dim, ...]) -> None:
    text = f"(float[N,8] x) => (int64[] y) {{ s = Shape (x)  c = Cast <to = {through}> (s)  y = Cast <to = 7> (c) }}"
    assert content(model(text), "y") == known


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e9, -3e9])
def test_a_float_that_no_integer_holds_everywhere_becomes_nothing_known(value: float) -> None:
    text = "(float[2] x) => (int64[] y) { c = Floor (f)  y = Cast <to = 7> (c) }"
    assert content(model(text, f=np.array([value, 2.5], np.float32)), "y") == (None, None)
    assert content(model(text, f=np.array([7.9, 2.5], np.float32)), "y") == (7, 2)


def test_a_tensor_of_another_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """(float[2,6] x) => (float[] y) {
        t = ConstantOfShape <value = int64[1] {3}> (one)  u = Neg (t)  y = Reshape (x, u)
    }"""
    graph, values = values_of(model(text, opset=13, one=ints(1)))
    held = graph.model.proto.graph.node[0].attribute[0].t
    held.ClearField("int64_data")
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    held.external_data.add(key="location", value="elsewhere")
    (tmp_path / "elsewhere").write_bytes(ints(7).tobytes())
    monkeypatch.chdir(tmp_path)
    shapes = Shapes(graph)
    contents = Contents(graph, shapes.shape, shapes.element_type)
    found = contents.of(values["u"])
    assert found is not None
    assert contents.sizes(found) == (None,)
