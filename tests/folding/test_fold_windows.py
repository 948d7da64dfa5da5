"""Whether a window reads what is not there: what both readings of ONNX's text say, against a count of places.

The planner and the certificate know it each by itself; here both are held against a walk over every place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
import pytest
from folding_draws import examples
from folding_support import fold, model, norm, weights
from hypothesis import assume, event, given
from hypothesis import strategies as st

from bnfold.equality import windows as proof
from bnfold.equality.constants import Constants
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.ops.facts import Facts
from bnfold.ops.windows import Padded, padded, pads_of

SAME = ("SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True, slots=True)
class Window:
    """A pool over axes, each with its size of kernel, stride, dilation and, where it is known, extent."""

    axes: tuple[tuple[int, int, int, int | None], ...]
    automatic: str = ""
    ceiled: bool = False
    pads: tuple[int, ...] | None = None

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(axis[0] for axis in self.axes)

    def graph(self) -> Graph:
        names = ("kernel_shape", "strides", "dilations")
        said = [f"{name} = {[axis[i] for axis in self.axes]}" for i, name in enumerate(names)]
        said += [f'auto_pad = "{self.automatic}"'] * bool(self.automatic) + ["ceil_mode = 1"] * self.ceiled
        said += [] if self.pads is None else [f"pads = {list(self.pads)}"]
        dims = ",".join(f"N{i}" if axis[3] is None else str(axis[3]) for i, axis in enumerate(self.axes))
        text = f"(float[1,2,{dims}] x) => (float[] y) {{ y = AveragePool <{', '.join(said)}> (x) }}"
        return Graph.of(read(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]> g {text}')))

    def said(self) -> tuple[Padded, bool]:
        """What the planner and what the certificate say."""
        graph = self.graph()
        (node,) = graph.nodes
        return padded(Facts(graph), node, self.kernel), proof.reads_padding(Constants(graph), node, self.kernel)


def reads_outside(window: Window, axis: tuple[int, int, int, int | None], extent: int) -> bool:
    """Whether a window of one axis reads a place that is not one of the extent's, or begins there."""
    size, stride, step, _ = axis
    reach, same = (size - 1) * step + 1, window.automatic in SAME
    count = math.ceil(extent / stride)
    if not same:
        count = (extent - reach) / stride + 1
        count = max(0, math.ceil(count) if window.ceiled else math.floor(count))
    need = (count - 1) * stride + reach
    return any(
        not 0 <= start + tap * step < extent for start in range(0, need - reach + 1, stride) for tap in range(size)
    )


@st.composite
def drawn(draw: st.DrawFn) -> Window:
    automatic = draw(st.sampled_from(["", "NOTSET", "VALID", *SAME, *SAME]))
    ceiled = automatic not in SAME and draw(st.booleans())
    steps = st.integers(1, 2) if automatic not in SAME else st.just(1)
    axes = [
        (draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(steps), draw(st.none() | st.integers(1, 9)))
        for _ in range(draw(st.integers(1, 2)))
    ]
    return Window(tuple(axes), automatic, ceiled)


@examples(400)
@given(drawn())
def test_a_window_reads_outside_exactly_where_a_walk_over_its_places_does(window: Window) -> None:
    fits = [axis[3] is None or axis[3] > (axis[0] - 1) * axis[2] for axis in window.axes]
    assume(window.automatic in SAME or all(fits))  # else no model of that runs
    each = [
        [reads_outside(window, axis, n) for n in (range(1, 30) if axis[3] is None else (axis[3],))]
        for axis in window.axes
    ]
    planner, certificate = window.said()
    surely = any(all(found) for found in each)
    never = not any(any(found) for found in each)
    event("never" if never else "always" if surely else "it depends")
    if window.ceiled and not never and None in {axis[3] for axis in window.axes}:
        assert planner is not Padded.NOWHERE
    else:
        assert planner is (Padded.NOWHERE if never else Padded.SOMEWHERE if surely else Padded.UNKNOWN)
    assert certificate is not never


STALE = """(float[1,4,{},6] x) => (float[1,6,3,3] y) {{ n = BatchNormalization (x, g, be, m, v)
    y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (n, W) }}"""


@pytest.mark.parametrize(("size", "code"), [("H", "padding-unknown"), ("5", "padding"), ("6", None)])
def test_what_is_noted_of_values_between_is_not_relied_on(size: str, code: str | None) -> None:
    """Tools that free an input leave the sizes that they inferred before."""
    before = model(STALE.format(size), W=weights(6, 4, 2, 2), **norm(4))
    before.graph.value_info.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, [1, 4, 6, 6]))
    graph = Graph.of(read(before))
    assert proof.reads_padding(Constants(graph), graph.nodes[1], (2, 2)) is (code is not None)
    assert [one.reason.code for one in fold(before).plan.refusals] == ([] if code is None else [code])


def test_nor_is_what_a_body_says_of_its_data() -> None:
    body = """z = If (c) <then_branch = t () => (float[1,6,3,3] a) {{ n = BatchNormalization (x, g, be, m, v)
        a = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (n, W) }}, else_branch = e () => (float[1,6,3,3] b) {{
        b = Conv <strides = [2,2]> (x, W) }}>"""
    text = f"(float[1,4,{{}},6] x, bool c) => (float[1,6,3,3] y) {{{{ {body}  y = Relu (z) }}}}"
    for size in ("H", "6"):
        assert not fold(model(text.format(size), W=weights(6, 4, 2, 2), **norm(4))).plan.moves
        assert fold(model(text.format(size), W=weights(6, 4, 1, 1), **norm(4))).plan.moves


@pytest.mark.parametrize(
    "window",
    [
        Window(((2, 2, 2, 8),), "SAME_UPPER"),
        Window(((2, 2, 1, 8),), "SAME_UPPER", ceiled=True),
        Window(((2, 2, 1, 8),), "SAME_UPPER", pads=(0, 1)),
        Window(((2, 2, 1, 8),), "VALID", pads=(1, 0)),
        Window(((2, 2, 1, 8),), "OTHER"),
        Window(((4, 1, 1, 2),), ceiled=False, pads=(1, 1)),
        Window(((3, 2, 1, 2),), ceiled=True),
        Window(((2, 0, 1, 8),), "SAME_UPPER"),
        Window(((2, 2, 0, 8),), "SAME_UPPER"),
    ],
)
def test_what_is_not_plain_is_taken_for_a_padding(window: Window) -> None:
    assert window.said() == (Padded.SOMEWHERE, True)


def test_another_number_of_axes_is_none_that_is_known() -> None:
    graph = Window(((2, 2, 1, 8),), "SAME_UPPER").graph()
    (node,) = graph.nodes
    for kernel in ((2, 2), ()):
        assert padded(Facts(graph), node, kernel) is not Padded.NOWHERE or not kernel
        assert proof.reads_padding(Constants(graph), node, kernel) or not kernel
    assert padded(Facts(graph), node, None) is Padded.SOMEWHERE


@examples(100)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.sampled_from(SAME), st.integers(1, 9))
def test_same_keeps_the_size_with_the_odd_place_at_its_end(kernel: list[int], automatic: str, extent: int) -> None:
    (node,) = Window(tuple((size, 1, 1, extent) for size in kernel), automatic).graph().nodes
    ours, theirs = pads_of(node, tuple(kernel)), proof.pads_of(node, tuple(kernel))
    assert ours == theirs is not None
    first, last = ours[: len(kernel)], ours[len(kernel) :]
    for size, before, behind in zip(kernel, first, last, strict=True):
        assert before + behind == size - 1
        assert behind - before in ({0, 1} if automatic == "SAME_UPPER" else {0, -1})


@pytest.mark.parametrize(
    ("window", "pads"),
    [
        (Window(((3, 2, 1, 8),), pads=(1, 0)), (1, 0)),
        (Window(((3, 2, 1, 8),)), (0, 0)),
        (Window(((3, 2, 1, 8),), "VALID", pads=(0, 0)), (0, 0)),
        (Window(((3, 2, 1, 8),), "VALID", pads=(0, 1)), None),
        (Window(((3, 1, 1, 8),), "SAME_UPPER", pads=(0, 1)), None),
        (Window(((3, 2, 1, 8),), "SAME_UPPER"), None),
        (Window(((3, 1, 2, 8),), "SAME_UPPER"), None),
        (Window(((3, 1, 1, 8),), "OTHER"), None),
        (Window(((3, 1, 1, 8),), pads=(1, 1, 1)), None),
    ],
)
def test_what_is_written_is_what_pads(window: Window, pads: tuple[int, ...] | None) -> None:
    (node,) = window.graph().nodes
    assert pads_of(node, (3,)) == proof.pads_of(node, (3,)) == pads
