"""Trees of sums lose what a convolution of the same data takes over, wherever in the tree each of them is added.

A tree is drawn with its leaves; float64 says what it is, and counting says what has to be left of it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from folding_draws import Array, Kind, arrays, examples, statistics
from folding_support import Folded, fold, inputs, model, proven
from forward_support import certified
from hypothesis import event, given
from hypothesis import strategies as st

SINGLE = Kind(np.float32, np.float32, 17)
HEAD = "(float[2,4,6,6] x, float[2,4,6,6] z, float[2,4,1,1] p) => (float[] y)"
LEAVES = ["affine", "affine", "row", "convolution", "convolution", "narrow", "x", "foreign", "small"]


class Tree:
    """ONNX text of a tree of sums, the constants it needs, and how often it adds what."""

    def __init__(self, data: st.DataObject, ops: list[str]) -> None:
        self.data, self.ops = data, ops
        self.lines: list[str] = []
        self.held: dict[str, Array] = {}
        self.leaves: Counter[str] = Counter()

    def value(self, text: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def constant(self, *shape: int) -> str:
        name = f"k{len(self.held)}"
        self.held[name] = self.data.draw(arrays(shape, np.float32))
        return name

    def norm(self, value: str) -> str:
        prefix = f"k{len(self.held)}"
        drawn = self.data.draw(statistics(4, SINGLE, prefix))
        self.held |= drawn
        return self.value(f"BatchNormalization ({', '.join([value, *drawn])})")

    def leaf(self) -> str:
        kind = self.data.draw(st.sampled_from(LEAVES))
        self.leaves[kind] += 1
        if kind in {"affine", "row"}:
            name = self.norm("x")
            return name if kind == "affine" else self.norm(name)
        if kind in {"convolution", "narrow"}:
            size = 3 if kind == "convolution" else 1
            pads = "pads = [1,1,1,1]" if kind == "convolution" else "pads = [0,0,0,0]"
            return self.value(f"Conv <{pads}> (x, {self.constant(4, 4, size, size)}, {self.constant(4)})")
        return {"x": lambda: "x", "foreign": lambda: self.value("Sigmoid (z)"), "small": lambda: "p"}[kind]()

    def draw(self, depth: int) -> str:
        if depth == 0 or self.data.draw(st.integers(0, 3)) == 0:
            return self.leaf()
        op = self.data.draw(st.sampled_from(self.ops))
        count = self.data.draw(st.integers(2, 4)) if op == "Sum" else 2
        return self.value(f"{op} ({', '.join(self.draw(depth - 1) for _ in range(count))})")

    def written(self) -> str:
        top = self.value(f"Sum ({self.draw(2)}, {self.draw(2)}, {self.draw(1)})")
        return f"{HEAD} {{ {' '.join(self.lines)} y = Relu ({top}) }}"

    @property
    def convolutions(self) -> int:
        return self.leaves["convolution"] + self.leaves["narrow"]


def added(done: Folded) -> int:
    """How many values the sums of a model add up, each sum that another one adds not counted."""
    sums = [node for node in done.proto.graph.node if node.op_type in {"Add", "Sub", "Sum"}]
    return sum(len(node.input) for node in sums) - max(0, len(sums) - 1)


@examples(80)
@given(st.data())
def test_every_affine_of_the_data_becomes_a_tap_where_there_is_a_convolution(data: st.DataObject) -> None:
    tree = Tree(data, ["Add", "Sum"])
    before = model(tree.written(), **tree.held)
    affines = tree.leaves["affine"] + tree.leaves["row"]
    left = 0 if tree.convolutions else affines
    done = proven(before, inputs(before), 60 + 10 * len(tree.lines), left=left)
    certified(before, done)
    event("taps" if tree.convolutions and affines else "none")
    if tree.convolutions:
        assert done.ops.count("BatchNormalization") == 0
        total = tree.leaves.total() - affines
        assert added(done) == (total if total > 1 else 0)


@examples(40)
@given(st.data())
def test_what_is_taken_away_is_a_tap_with_the_other_sign(data: st.DataObject) -> None:
    """Some stay: where the only value that is left of a sum would be one that it takes away."""
    tree = Tree(data, ["Add", "Sum", "Sub"])
    before = model(tree.written(), **tree.held)
    left = len(fold(before).plan.refusals)
    done = proven(before, inputs(before), 60 + 10 * len(tree.lines), left=left)
    certified(before, done)
    event(f"{len(done.plan.moves) > 0} {left > 0}")


@examples(40)
@given(st.data())
def test_of_all_convolutions_of_the_data_that_a_sum_adds_one_is_left(data: st.DataObject) -> None:
    tree = Tree(data, ["Sum"])
    names = [tree.leaf() for _ in range(data.draw(st.integers(3, 5)))]
    before = model(f"{HEAD} {{ {' '.join(tree.lines)} y = Sum ({', '.join(names)}) }}", **tree.held)
    affines = tree.leaves["affine"] + tree.leaves["row"]
    done = proven(
        before, inputs(before), 60 + 10 * len(tree.lines), left=0 if tree.convolutions else affines, merge_branches=True
    )
    certified(before, done)
    if tree.convolutions:
        assert len(done.plan.merges) == tree.convolutions - 1
        assert done.ops.count("Conv") == 1
        others = tree.leaves.total() - affines - tree.convolutions
        assert added(done) == (others + 1 if others else 0)


LATER = {
    "a norm behind": "t = Sum (n, c, d) y = BatchNormalization (t, g, be, m, v)",
    "a norm behind, the affine first": "t = Sum (n, d, c) k = Relu (z) y = BatchNormalization (t, g, be, m, v)",
    "a norm behind the inner sum": "t = Add (n, d) u = BatchNormalization (t, g, be, m, v) y = Add (u, c)",
    "a norm behind both": "t = Add (n, d) u = Add (t, c) y = BatchNormalization (u, g, be, m, v)",
    "a norm behind the inner sum and both": "t = Add (n, d) u = BatchNormalization (t, g, be, m, v) w = Add (u, c) "
    "y = BatchNormalization (w, g, be, m, v)",
    "a sign behind the inner sum": "t = Sum (n, d) u = Neg (t) y = Add (u, c)",
    "a shift behind the inner sum": "t = Add (n, d) u = Add (t, q) y = Add (u, c)",
    "a sum before the inner one": "i = Add (n, q) t = Add (i, d) u = BatchNormalization (t, g, be, m, v) "
    "y = Add (u, c)",
    "another affine left": "o = BatchNormalization (x, g, be, m, v) t = Add (n, o) y = Add (t, c)",
    "another affine left, and a norm": "o = BatchNormalization (x, g, be, m, v) t = Add (n, o) "
    "u = BatchNormalization (t, g, be, m, v) y = Add (u, c)",
}  # fmt: skip


@pytest.mark.parametrize("text", LATER.values(), ids=LATER)
@examples(6)
@given(st.data())
def test_what_goes_before_or_later_through_the_same_sums_is_not_lost(text: str, data: st.DataObject) -> None:
    held = {"W": data.draw(arrays((4, 4, 3, 3), np.float32)), "U": data.draw(arrays((4, 4, 1, 1), np.float32))}
    held |= data.draw(statistics(4, SINGLE)) | {"q": data.draw(arrays((1, 4, 1, 1), np.float32))}
    lines = "n = BatchNormalization (x, g, be, m, v) c = Conv <pads = [1,1,1,1]> (x, W) d = Conv (z, U)"
    before = model(f"{HEAD} {{ {lines} {text} }}", **held)
    left = len(fold(before).plan.refusals)
    done = proven(before, inputs(before), 120, left=left)
    certified(before, done)
    assert done.ops.count("BatchNormalization") + done.ops.count("Neg") <= left


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("t = Sub (n, f) y = Add (t, c)", "what is left is taken away"),
        ("t = Add (n, f) y = Mul (t, c)", "no sum of both"),
        ("t = Mul (n, f) y = Add (t, c)", "no sum that reads it"),
        ("t = Max (n, f, p) y = Add (t, c)", "the largest of them"),
        ("t = Mean (n, f, c) y = Relu (t)", "the mean of them"),
        ("t = Add (n, f) u = Relu (t) y = Add (u, c)", "a nonlinearity between"),
        ("t = Add (n, f) u = Add (t, c) y = Add (u, t)", "the inner sum is read twice"),
        ("t = Add (n, p) s = Shape (t) l = Cast <to = 1> (s) k = ReduceSum (l) u = Add (t, c) y = Add (u, k)",
         "its shape is asked for, and what is left is smaller"),
        ("t = Add (n, f) s = Shape (n) l = Cast <to = 1> (s) k = ReduceSum (l) u = Add (t, c) y = Add (u, k)",
         "the shape of the affine is asked for"),
        ("t = Add (n, f) o = Conv <pads = [1,1,1,1]> (z, W) y = Sum (t, o, p)", "the convolution has other data"),
        ("t = Sum (n, f, n) y = Add (t, c)", "the affine is read twice"),
    ],
)  # fmt: skip
def test_where_it_is_no_summand_of_the_same_sum_the_affine_stays(text: str, why: str) -> None:
    head = f"{HEAD} {{ r = Relu (x) n = BatchNormalization (x, g, be, m, v) f = Sigmoid (r) "
    numbers = np.linspace(0.5, 2, 4, dtype=np.float32)
    weight = np.linspace(-1, 1, 144, dtype=np.float32).reshape(4, 4, 3, 3)
    body = f"{head} c = Conv <pads = [1,1,1,1]> (x, W) {text} }}"
    done = fold(model(body, W=weight, g=numbers, be=numbers, m=numbers, v=numbers))
    assert len(done.plan.refusals) == 1, why
    assert done.plan.moves == ()


def test_before_opset_8_an_inner_sum_stays() -> None:
    numbers, weight = np.linspace(0.5, 2, 4, dtype=np.float32), np.ones((4, 4, 3, 3), np.float32)
    body = "n = BatchNormalization (x, g, be, m, v) f = Sigmoid (x) c = Conv <pads = [1,1,1,1]> (x, W) t = Add (n, f)"
    text = f"(float[2,4,6,6] x) => (float[2,4,6,6] y) {{ {body} y = Add (t, c) }}"
    held = {"W": weight, "g": numbers, "be": numbers, "m": numbers, "v": numbers}
    assert len(fold(model(text, opset=7, **held)).plan.refusals) == 1
    assert fold(model(text, opset=8, **held)).plan.refusals == ()
