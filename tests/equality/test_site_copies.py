"""Copies of what a site is fed: where they would run into each other, the site is run on one of them after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from site_models import C, affine, compared, kernel, model, norm

from bnfold.equality.outline import Outline
from bnfold.equality.runner import Runner
from bnfold.equality.site_copies import never_parts, sizes_among, stay_apart
from bnfold.graph import Graph
from bnfold.model import read

# A layout between a Conv and its BatchNormalization, whose sizes are written, or are those of another value.
N = "sh = Shape(c) i = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>() n = Slice(sh,i,one)"
LEFT = "left = Constant<value_ints = [-1]>()"
LAYOUTS = {
    "written sizes": "k = Constant<value_ints = [1,8,-1]>() t = Reshape(c,k)",
    "written sizes and back": (
        "k = Constant<value_ints = [1,8,-1]>() j = Constant<value_ints = [-1,8,3,3]>() e = Reshape(c,k) "
        " t = Reshape(e,j)"
    ),
    "N of the value": f"{N} {LEFT} k = Constant<value_ints = [8]>() to = Concat<axis = 0>(n,k,left) t = Reshape(c,to)",
    "N and C of the value": (
        f"{N} {LEFT} two = Constant<value_ints = [2]>() k = Slice(sh,one,two) to = Concat<axis = 0>(n,k,left) "
        " t = Reshape(c,to)"
    ),
    "N before more axes": f"{N} k = Constant<value_ints = [8,-1,3]>() to = Concat<axis = 0>(n,k) t = Reshape(c,to)",
    "the batch last and back": (
        "a = Transpose<perm = [1,2,3,0]>(c) k = Constant<value_ints = [8,9,-1]>() a2 = Reshape(a,k) "
        " t = Transpose<perm = [2,0,1]>(a2)"
    ),
    "the sizes of another value": "sh = Shape(z) t = Resize<mode = \"nearest\">(c,,,sh)",
    "an end": f"{N} e = Constant<value_ints = [0]>() t = Slice(c,i,n,e)",
    "amounts": (
        f"{N} q = Constant<value_ints = [0,0,0,0,0,0,0]>() p = Concat<axis = 0>(q,n) t = Pad<mode = \"edge\">(c,p)"
    ),
    "a float that says sizes": (
        f"{N} f = Cast<to = 1>(n) g1 = Constant<value_floats = [1.0,1.0]>() sc = Concat<axis = 0>(g1,f,f) "
        " t = Resize<mode = \"nearest\">(c,,sc)"
    ),
    "one after another": " t = Identity(c)",
}  # fmt: skip


def batch_norm_of(layout: str, nudge: float | None = None) -> onnx.ModelProto:
    """Conv, layout, BatchNormalization; or, with a number, folded into the Conv with one channel off by it."""
    weight, bias = kernel(1), np.zeros(C)
    nodes = f"c = Conv(x,w,b) {LAYOUTS[layout]} y = BatchNormalization(t,g,be,m,v)"
    if nudge is not None:
        scale, bias = affine(norm())
        weight = weight * scale.reshape(-1, 1, 1, 1)
        weight[3] *= nudge
        nodes = f"c = Conv(x,w,b) {LAYOUTS[layout].replace(' t =', ' y =')}"
    text = f"(float[1,8,5,5] x, float[1,8,7,6] z) => (y) {{ {nodes} }}"
    return model(text, w=weight, b=bias, **norm())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_right_fold_is_right_whatever_says_the_sizes(layout: str, tmp_path: Path, runner: Runner) -> None:
    found = compared(tmp_path, runner, batch_norm_of(layout), batch_norm_of(layout, 1.0))
    assert found.is_same, found
    assert found.worst <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_channel_that_is_off_shows_all_the_same(layout: str, tmp_path: Path, runner: Runner) -> None:
    """Nine elements of a channel are too few: only the copies show a gain of a few units."""
    found = compared(tmp_path, runner, batch_norm_of(layout), batch_norm_of(layout, 1 + 2e-5))
    assert found.divergence is not None


@pytest.mark.parametrize(("nudge", "is_same"), [(1.0, True), (1 + 2e-5, False)])
def test_one_that_takes_no_copies_is_no_hindrance_to_others(
    nudge: float, is_same: bool, tmp_path: Path, runner: Runner
) -> None:
    """Two sites side by side: a Reshape that only suits one, and a Transpose that suits any number."""
    scale, shift = affine(norm())
    weight = kernel(1) * scale.reshape(-1, 1, 1, 1)
    off = weight.copy()
    off[3] *= nudge
    text = "(float[1,8,5,5] x) => (y, z) {{ k = Constant<value_ints = [1,8,-1]>() {} }}"
    plain = (
        "c = Conv(x,w) t = Reshape(c,k) y = BatchNormalization(t,g,be,m,v) "
        "d = Conv(x,w2) n = BatchNormalization(d,g,be,m,v) z = Transpose<perm = [0,2,3,1]>(n)"
    )
    folded = "c = Conv(x,w,b) y = Reshape(c,k) n = Conv(x,w2,b) z = Transpose<perm = [0,2,3,1]>(n)"
    ours = model(text.format(plain), w=kernel(1), w2=kernel(1), **norm())
    theirs = model(text.format(folded), w=weight, w2=off, b=shift)
    assert compared(tmp_path, runner, ours, theirs).is_same is is_same


def outlined(text: str) -> Outline:
    return Outline.of(Graph.of(read(model(text, w=kernel(1)))))


def test_a_value_of_which_only_the_size_counts_says_no_size() -> None:
    graph = outlined("(float[1,8,3,3] x, float[2] f) => (float y) { s = Shape(x) i = Cast<to = 7>(f) r = Reshape(x,i) "
                     "y = Expand(r,s) }")  # fmt: skip
    x, f = graph.names["x"], graph.names["f"]
    assert sizes_among(graph.nodes, [x, f]) == {f.id}


PARTED = {
    "all that is left": ("y = Reshape(x,k)", {"x": (2, 8, 9), "y": (2, 8, 9)}, {"x": (6, 8, 9), "y": (2, 8, 27)}),
    "no copies": ("y = ReduceSum(x,k)", {"x": (2, 8, 9), "y": (1, 8, 9)}, {"x": (6, 8, 9), "y": (1, 8, 9)}),
    "another size": ("y = Pad(x,k)", {"x": (2, 8, 9), "y": (3, 8, 9)}, {"x": (6, 8, 9), "y": (7, 8, 9)}),
    "another rank": ("y = Squeeze(x)", {"x": (1, 8, 9), "y": (8, 9)}, {"x": (3, 8, 9), "y": (3, 8, 9)}),
    "another axis": (
        "y = Transpose<perm = [1,0,2]>(x)", {"x": (2, 8, 9), "y": (8, 2, 9)}, {"x": (6, 8, 9), "y": (24, 2, 9)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", PARTED)
def test_copies_that_part_are_seen(how: str) -> None:
    node, plain, copied = PARTED[how]
    graph = outlined(f"(float[2,8,9] x, int64[K] k) => (float y) {{ {node} }}")
    by_id = [{graph.names[name].id: dims for name, dims in one.items()} for one in (plain, copied)]
    assert not stay_apart(graph.nodes, *by_id)


TOGETHER = {
    "rows": ("y = Reshape(x,k)", {"x": (2, 8, 9), "y": (16, 9)}, {"x": (6, 8, 9), "y": (48, 9)}),
    "a moved axis": (
        "y = Transpose<perm = [1,0,2]>(x)", {"x": (2, 8, 9), "y": (8, 2, 9)}, {"x": (6, 8, 9), "y": (8, 6, 9)}
    ),
    "all axes turned": ("y = Transpose(x)", {"x": (2, 8, 9), "y": (9, 8, 2)}, {"x": (6, 8, 9), "y": (9, 8, 6)}),
    "a size": ("y = Shape(x)", {"x": (2, 8, 9), "y": (3,)}, {"x": (6, 8, 9), "y": (3,)}),
}  # fmt: skip


@pytest.mark.parametrize("how", TOGETHER)
def test_copies_that_stay_together_are_seen(how: str) -> None:
    node, plain, copied = TOGETHER[how]
    graph = outlined(f"(float[2,8,9] x, int64[K] k) => (float y) {{ {node} }}")
    by_id = [{graph.names[name].id: dims for name, dims in one.items()} for one in (plain, copied)]
    assert stay_apart(graph.nodes, *by_id)


@pytest.mark.parametrize(("op", "never"), [("Relu(x)", True), ("Reshape(x,k)", False), ("Transpose(x)", False)])
def test_what_moves_no_axis_need_not_be_tried(op: str, never: bool) -> None:
    assert never_parts(outlined(f"(float[2,8,9] x, int64[K] k) => (float y) {{ y = {op} }}").nodes) is never
