"""What values of a model are over data, wherever they stand, against what numpy makes of the same arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from bnfold.equality.data_stream import Stream
from bnfold.equality.runner import Limits, Runner
from bnfold.graph import Graph
from bnfold.model import edited, read
from bnfold.observing import CannotObserve, DependsOnItself, Observer, Watch, levels, marked, observe
from bnfold.observing.observer import Shape
from bnfold.statistics import Observed

X = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32) + 1
Sets = Iterable[Mapping[str, np.ndarray]]


def model(text: str, *, opset: int = 17, functions: str = "", **tensors: np.ndarray) -> onnx.ModelProto:
    imports = ', "mine" : 1' if functions else ""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{imports}]> g {text} {functions}')
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in tensors.items())
    return proto


def watched(proto: onnx.ModelProto, names: Mapping[str, int], axis: int = 1) -> tuple[Graph, list[Watch]]:
    """The values of these names, wherever they are, with their numbers of channels; keys in that order."""
    graph = Graph.of(read(proto))
    by_name = {value.name: value for value in graph.values}
    return graph, [Watch(key, by_name[name], n, axis) for key, (name, n) in enumerate(names.items())]


def seen(proto: onnx.ModelProto, names: Mapping[str, int], data: Sets, axis: int = 1) -> list[Observed]:
    graph, watches = watched(proto, names, axis)
    with Runner(Limits(timeout=60)) as runner:
        found = observe(graph.model, watches, Stream(proto, list(data)), runner)
    return [found[key] for key in range(len(watches))]


def assert_seen(found: Observed, arrays: Iterable[np.ndarray], axis: int = 1) -> None:
    """Moments of elements, of samples' means and of samples' variances, of all these arrays."""
    parts = [np.moveaxis(np.asarray(array, np.float64), axis, 1) for array in arrays]
    flat = [part.reshape(*part.shape[:2], -1) for part in parts]
    elements = np.concatenate([np.moveaxis(part, 1, -1).reshape(-1, part.shape[1]) for part in flat])
    means = np.concatenate([part.mean(axis=2) for part in flat])
    variances = np.concatenate([part.var(axis=2) for part in flat])
    for moments, rows in ((found.elements, elements), (found.sample_means, means), (found.sample_variances, variances)):
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(moments.variance, rows.var(axis=0), rtol=1e-5, atol=1e-9)


# The main graph.


@pytest.mark.parametrize("opset", [7, 8, 10, 11, 13, 14, 17, 18, 21])
def test_values_inputs_and_outputs_in_every_opset(opset: int) -> None:
    proto = model("(float[N,3,4] x) => (float[N,3,4] y) { a = Neg(x) y = Relu(a) }", opset=opset)
    x, a, y = seen(proto, {"x": 3, "a": 3, "y": 3}, [{"x": X}, {"x": 2 * X[:2]}])
    batches = [X, 2 * X[:2]]
    assert_seen(x, batches)
    assert_seen(a, [-b for b in batches])
    assert_seen(y, [np.maximum(-b, 0) for b in batches])


@pytest.mark.parametrize("shape", [(7, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 1, 2, 3)])
def test_any_rank(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    dims = ",".join(["N", *map(str, shape[1:])])
    proto = model(f"(float[{dims}] x) => (float[{dims}] y) {{ y = Tanh(x) }}")
    (y,) = seen(proto, {"y": 3}, [{"x": x}])
    assert_seen(y, [np.tanh(x)])


def test_channels_on_the_last_axis() -> None:
    proto = model("(float[N,3,4] x) => (float[N,3,4] y) { y = Neg(x) }")
    (y,) = seen(proto, {"y": 4}, [{"x": X}], axis=-1)
    assert_seen(y, [-X], axis=2)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_types_are_widened_before_anything_is_summed(kind: type) -> None:
    x = (np.random.default_rng(1).standard_normal((2000, 2)) + (1000 if kind is np.float16 else 1e5)).astype(kind)
    name = {np.float16: "float16", np.float32: "float", np.float64: "double"}[kind]
    proto = model(f"({name}[N,2] x) => ({name}[N,2] y) {{ y = Identity(x) }}")
    (y,) = seen(proto, {"y": 2}, [{"x": x}])
    np.testing.assert_allclose(y.elements.mean, x.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(y.elements.variance, x.astype(np.float64).var(axis=0), rtol=1e-9)


# Bodies.

IF = """(float[N,3,4] x, bool b) => (float[N,3,4] y) { y = If(b) <
    then_branch = yes () => (float[N,3,4] p) { p = Neg(x) },
    else_branch = no () => (float[N,3,4] q) { q = Abs(x) }> }"""


@pytest.mark.parametrize("opset", [7, 11, 13, 16, 21])
def test_branches_see_what_reaches_them(opset: int) -> None:
    data = [{"x": X, "b": np.array(True)}, {"x": 3 * X, "b": np.array(False)}, {"x": 5 * X, "b": np.array(True)}]
    p, q, y = seen(model(IF, opset=opset), {"p": 3, "q": 3, "y": 3}, data)
    assert_seen(p, [-X, -5 * X])
    assert_seen(q, [np.abs(3 * X)])
    assert_seen(y, [-X, np.abs(3 * X), -5 * X])


def test_a_branch_that_never_runs_has_seen_nothing() -> None:
    p, q = seen(model(IF), {"p": 3, "q": 3}, [{"x": X, "b": np.array(False)}])
    assert p.elements.count == p.sample_means.count == 0
    assert_seen(q, [np.abs(X)])


def loop(body: str, count: int = 3, opset: int = 17, ports: str = "", outputs: str = "") -> onnx.ModelProto:
    text = f"""(float[N,3,4] x) => (float[N,3,4] y) {{ n = Constant <value = int64 {{{count}}}> ()
        t = Constant <value = bool {{1}}> () y{outputs} = Loop(n, t, x) <body = again (int64 i, bool go, float[P,3,Q] h)
        => (bool on, float[R,3,S] o{ports}) {{ on = Identity(go) {body} }}> }}"""
    return model(text, opset=opset)


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21])
def test_every_iteration_of_a_loop(opset: int) -> None:
    o, h, y = seen(loop("o = Add(h, x)", opset=opset), {"o": 3, "h": 3, "y": 3}, [{"x": X}, {"x": X[:1]}])
    assert_seen(o, [k * b for b in (X, X[:1]) for k in (2, 3, 4)])
    assert_seen(h, [k * b for b in (X, X[:1]) for k in (1, 2, 3)])
    assert_seen(y, [4 * X, 4 * X[:1]])


def test_a_loop_that_has_scan_outputs_of_its_own() -> None:
    proto = loop("o = Add(h, x) each = Neg(o)", ports=", float[R,3,S] each", outputs=", all")
    o, each = seen(proto, {"o": 3, "each": 3}, [{"x": X}])
    assert_seen(o, [2 * X, 3 * X, 4 * X])
    assert_seen(each, [-2 * X, -3 * X, -4 * X])


def test_iterations_may_have_fewer_positions_or_more_samples() -> None:
    cut = "one = Constant <value = int64[1] {1}> () end = Constant <value = int64[1] {9}> () "
    (o,) = seen(loop(cut + "ax = Constant <value = int64[1] {2}> () o = Slice(h, one, end, ax)"), {"o": 3}, [{"x": X}])
    assert_seen(o, [X[:, :, 1:], X[:, :, 2:], X[:, :, 3:]])
    (o,) = seen(loop("o = Concat <axis = 0> (h, x)"), {"o": 3}, [{"x": X}])
    assert_seen(o, [np.concatenate([X] * k) for k in (2, 3, 4)])


def test_a_loop_of_no_iterations_has_seen_nothing() -> None:
    (o,) = seen(loop("o = Add(h, x)", count=0), {"o": 3}, [{"x": X}])
    assert o.elements.count == 0


def test_a_branch_inside_of_a_loop_runs_in_some_iterations() -> None:
    body = """one = Constant <value = int64 {1}> () now = Equal(i, one) o = If(now) <
        then_branch = yes () => (float[P,3,Q] p) { p = Neg(h) }, else_branch = no () => (float[P,3,Q] q)
        { q = Add(h, x) }>"""
    p, q = seen(loop(body), {"p": 3, "q": 3}, [{"x": X}])
    assert_seen(p, [-2 * X])
    assert_seen(q, [2 * X, -X])


def test_a_loop_inside_of_a_loop_and_of_a_branch() -> None:
    inner = """two = Constant <value = int64 {2}> () yes = Constant <value = bool {1}> ()
        o = Loop(two, yes, h) <body = within
        (int64 j, bool g, float[A,3,B] k) => (bool f, float[C,3,D] z) { f = Identity(g) z = Add(k, x) }>"""
    (z,) = seen(loop(inner, count=2), {"z": 3}, [{"x": X}])
    assert_seen(z, [2 * X, 3 * X, 4 * X, 5 * X])
    text = """(float[N,3,4] x, bool b) => (float[N,3,4] y) { y = If(b) <then_branch = yes () => (float[N,3,4] p) {
        n = Constant <value = int64 {2}> () t = Constant <value = bool {1}> () p = Loop(n, t, x) <body = within
        (int64 j, bool g, float[A,3,B] k) => (bool f, float[C,3,D] z) { f = Identity(g) z = Add(k, x) }> },
        else_branch = no () => (float[N,3,4] q) { q = Abs(x) }> }"""
    data = [{"x": X, "b": np.array(True)}, {"x": 3 * X, "b": np.array(False)}]
    z, q = seen(model(text), {"z": 3, "q": 3}, data)
    assert_seen(z, [2 * X, 3 * X])
    assert_seen(q, [np.abs(3 * X)])


SCAN = """(float[T,N,3,4] s, float[N,3,4] x) => (float[N,3,4] y, float[T,N,3,4] all) {
    y, all = Scan <num_scan_inputs = 1, body = step (float[N,3,4] h, float[N,3,4] e) => (float[N,3,4] o, float[N,3,4] a)
    { o = Add(h, e) a = Neg(o) }> (x, s) }"""


@pytest.mark.parametrize("opset", [9, 11, 16, 21])
def test_every_step_of_a_scan(opset: int) -> None:
    s = np.stack([X, 2 * X])
    o, a = seen(model(SCAN, opset=opset), {"o": 3, "a": 3}, [{"s": s, "x": X}])
    assert_seen(o, [2 * X, 4 * X])
    assert_seen(a, [-2 * X, -4 * X])


def test_a_scan_inside_of_a_branch() -> None:
    text = """(float[T,N,3,4] s, float[N,3,4] x, bool b) => (float[N,3,4] y) { y = If(b) <
        then_branch = yes () => (float[N,3,4] p) { p, all = Scan <num_scan_inputs = 1, body = step
        (float[N,3,4] h, float[N,3,4] e) => (float[N,3,4] o, float[N,3,4] a) { o = Add(h, e) a = Neg(o) }> (x, s) },
        else_branch = no () => (float[N,3,4] q) { q = Abs(x) }> }"""
    s = np.stack([X, 2 * X])
    data = [{"s": s, "x": X, "b": np.array(flag)} for flag in (True, False)]
    a, q = seen(model(text), {"a": 3, "q": 3}, data)
    assert_seen(a, [-2 * X, -4 * X])
    assert_seen(q, [np.abs(X)])


# Functions.

TWICE = """<domain: "mine", opset_import: ["" : 17]> twice (a) => (z) { d = Add(a, a) z = Neg(d) }"""


def test_a_function_is_seen_at_all_its_calls() -> None:
    text = "(float[N,3,4] x) => (float[N,3,4] y) { h = mine.twice(x) y = mine.twice(h) }"
    d, a = seen(model(text, functions=TWICE), {"d": 3, "a": 3}, [{"x": X}])
    assert_seen(d, [2 * X, -4 * X])
    assert_seen(a, [X, -2 * X])


def test_a_function_that_is_called_in_a_loop_and_of_other_sizes() -> None:
    text = """(float[N,3,4] x, float[M,3,2] u) => (float[N,3,4] y, float[M,3,2] v) { v = mine.twice(u)
        n = Constant <value = int64 {2}> () t = Constant <value = bool {1}> () y = Loop(n, t, x) <body = again
        (int64 i, bool go, float[P,3,Q] h) => (bool on, float[R,3,S] o) { on = Identity(go) o = mine.twice(h) }> }"""
    (d,) = seen(model(text, functions=TWICE), {"d": 3}, [{"x": X, "u": X[:, :, :2]}])
    assert_seen(d, [2 * X, -4 * X, 2 * X[:, :, :2]])


# Order.


def order(proto: onnx.ModelProto, *names: str) -> tuple[tuple[int, ...], ...]:
    graph, watches = watched(proto, dict.fromkeys(names, 3))
    return levels(Graph.of(edited(graph.model, marked(graph, watches))))


def test_marks_that_nothing_depends_on_are_all_of_one_level() -> None:
    """A mark is read by nobody, so that it changes nothing: only a node in the path has others above it."""
    proto = model("(float[N,3,4] x) => (float[N,3,4] y) { a = Neg(x) b = Abs(a) y = Add(a, b) }")
    assert order(proto, "a", "b", "y") == ((0, 1, 2),)


def test_marks_in_bodies_that_run_again_depend_on_themselves() -> None:
    with pytest.raises(DependsOnItself) as caught:
        order(loop("o = Add(h, x)"), "o", "x", "y")
    assert caught.value.keys == frozenset({0})


# What cannot be observed.


def test_what_onnxruntime_cannot_run_is_said() -> None:
    proto = model("(double[N,3,4] x) => (double[N,2,2] y) { y = Conv(x, w) }", w=np.ones((2, 3, 3)))
    with pytest.raises(CannotObserve, match="onnxruntime cannot run the model on 'data"):
        seen(proto, {"y": 2}, [{"x": X.astype(np.float64)}])


def test_bodies_of_other_operators_are_not_entered() -> None:
    text = """(float[N,3,4] x) => (seq(float[N,3,4]) y) { s = SequenceConstruct(x, x) y = SequenceMap <body = each
        (float[N,3,4] e) => (float[N,3,4] o) { o = Neg(e) }> (s) }"""
    with pytest.raises(CannotObserve, match="values inside of SequenceMap cannot be brought out of it"):
        seen(model(text), {"o": 3}, [{"x": X}])


def test_steps_of_a_scan_that_differ_in_size_are_said() -> None:
    """A Scan stacks what its steps put out, so that a branch that runs in some of them has no place there."""
    body = """zero = Constant <value = float {0}> () m = ReduceMax <keepdims = 0> (e) now = Greater(m, zero)
        a = If(now) <then_branch = yes () => (float[N,3,4] p) { p = Neg(e) },
        else_branch = no () => (float[N,3,4] q) { q = Abs(e) }>"""
    text = SCAN.replace("a = Neg(o)", body)
    with pytest.raises(CannotObserve):
        seen(model(text), {"p": 3}, [{"s": np.stack([X, -np.abs(X)]), "x": X}])


def test_one_observer_measures_again_with_other_constants() -> None:
    """What is put in place of a Constant node's tensor acts on what is measured then."""
    proto = model("(float[N,3,4] x) => (float[N,3,4] y) { k = Constant <value = float {1}> () y = Mul(x, k) }")
    proto.graph.node[0].doc_string = "the factor"
    graph, watches = watched(proto, {"y": 3})
    with Runner(Limits(timeout=60)) as runner:
        copy = edited(graph.model, marked(graph, watches))
        with Observer.of(copy, {0: Shape(3)}, runner) as observer:
            stream = Stream(proto, X)
            before = observer.observe([0], stream)[0]
            three = {"the factor": numpy_helper.from_array(np.float32(3))}
            after = observer.observe([0], stream, three)[0]
    assert_seen(before, [X])
    assert_seen(after, [3 * X])
