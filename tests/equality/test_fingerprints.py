"""Equal digests are equal computations: what enters a digest, and what does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from site_models import model

from bnfold.equality import fingerprints
from bnfold.equality.fingerprints import Fingerprints
from bnfold.equality.outline import Outline
from bnfold.graph import Graph
from bnfold.model import ModelFile, read

TEXT = "(float[2,3] x) => (float[2,3] y) { a = Mul(x,k) b = LeakyRelu<alpha = 0.25>(a) y = Sub(b,x) }"


def digest(proto: onnx.ModelProto, name: str = "y") -> bytes:
    outline = Outline.of(Graph.of(read(proto)))
    return Fingerprints(outline).all_values()[outline.names[name].id]


SAME = digest(model(TEXT, k=2.0))


def test_names_and_order_do_not_enter() -> None:
    renamed = "(float[2,3] x) => (float[2,3] y) { p = Mul(x,j) q = LeakyRelu<alpha = 0.25>(p) y = Sub(q,x) }"
    other = model(renamed, j=2.0)
    nodes = list(other.graph.node)
    del other.graph.node[:]
    other.graph.node.extend([nodes[2], nodes[0], nodes[1]])
    assert digest(other) == SAME


def test_a_constant_node_is_what_an_initializer_is() -> None:
    other = model(TEXT, k=2.0)
    held = other.graph.initializer.pop()
    other.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=held))
    assert digest(other) == SAME


@pytest.mark.parametrize(
    "other",
    [
        model(TEXT, k=np.nextafter(np.float32(2), np.float32(3))),
        model(TEXT, k=[2.0]),
        model(TEXT, dtype="float64", k=2.0),
        model(TEXT, opset=16, k=2.0),
        model(TEXT.replace("0.25", "0.5"), k=2.0),
        model(TEXT.replace("Sub(b,x)", "Sub(x,b)"), k=2.0),
        model(TEXT.replace("Sub(b,x)", "Add(b,x)"), k=2.0),
        model(TEXT.replace("x", "z"), k=2.0),
    ],
    ids=["content", "shape", "type", "opset", "attribute", "operands", "operator", "input"],
)
def test_everything_that_is_computed_with_enters(other: onnx.ModelProto) -> None:
    assert digest(other) != SAME


def test_outputs_of_one_node_are_told_apart() -> None:
    proto = model("(float[2,4] x) => (float[2,2] y, float[2,2] z) { y, z = Split<num_outputs = 2>(x) }", opset=18)
    assert digest(proto, "y") != digest(proto, "z")


BODY = """(bool up, float[2] x) => (float[2] y) { n = Neg(x) y = If(up) <
  then_branch = t () => (float[2] a) { a = Abs(n) }, else_branch = e () => (float[2] a) { a = Relu(n) }> }"""


@pytest.mark.parametrize("change", [("Abs(n)", "Exp(n)"), ("n = Neg(x)", "n = Exp(x)")], ids=["body", "captured"])
def test_bodies_and_what_they_capture_enter(change: tuple[str, str]) -> None:
    assert digest(model(BODY.replace(*change))) != digest(model(BODY)) == digest(model(BODY))


def test_what_a_function_does_enters() -> None:
    def with_function(op: str) -> onnx.ModelProto:
        proto = model("(float[2] x) => (float[2] y) { y = own.f(x) }")
        proto.opset_import.append(helper.make_opsetid("own", 1))
        node = helper.make_node(op, ["a"], ["b"])
        proto.functions.append(helper.make_function("own", "f", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
        return proto

    assert digest(with_function("Abs")) != digest(with_function("Neg"))


def test_what_does_not_depend_on_an_input_does_not_vary() -> None:
    proto = model("(float[2] x, float[2] d) => (float[2] y) { c = Mul(k,d) y = Add(x,c) }", k=[1.0, 2.0])
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "d"))
    outline = Outline.of(Graph.of(read(proto)))
    assert {name for name, value in outline.names.items() if value.id in outline.varying} == {"x", "y"}


# Large constants.


def large(**changes: float) -> onnx.ModelProto:
    w = np.arange(600, dtype=np.float32)
    for place, number in changes.items():
        w[int(place[1:])] = number
    return model("(float[2,600] x) => (float[2,600] y) { y = Mul(x,w) }", w=w)


def prints(proto: onnx.ModelProto, original: Fingerprints | None = None) -> tuple[Fingerprints, bytes]:
    outline = Outline.of(Graph.of(read(proto)))
    found = Fingerprints(outline, original)
    return found, found.all_values()[outline.names["y"].id]


@pytest.fixture
def unhashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_LARGE", 1024)
    monkeypatch.setattr(fingerprints, "_END", 64)
    monkeypatch.delattr(ModelFile, "sha256_of")


@pytest.mark.usefixtures("unhashed")
def test_large_constants_are_told_apart_without_a_hash() -> None:
    original, known = prints(large())
    assert prints(large(), original)[1] == known


@pytest.mark.usefixtures("unhashed")
@pytest.mark.parametrize("place", ["_0", "_100", "_300", "_599"])
def test_a_large_constant_with_other_numbers_is_another(place: str) -> None:
    original, known = prints(large())
    first, again = (prints(large(**{place: 0.5}), original)[1] for _ in range(2))
    assert first == again != known


def test_many_large_constants_that_begin_alike_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_LARGE", 1024)
    monkeypatch.setattr(fingerprints, "_END", 64)
    original, known = prints(large())
    others = [prints(large(_100=number), original)[1] for number in range(1, 9)]
    assert len({known, *others}) == 9
    assert [prints(large(_100=number), original)[1] for number in range(1, 9)] == others
    assert prints(large(), original)[1] == known


def test_no_constant_is_hashed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    outline = Outline.of(Graph.of(read(large())))
    found = Fingerprints(outline)
    first = found.all_values()
    monkeypatch.delattr(ModelFile, "sha256_of")
    assert found.all_values() == first
