"""What repeats a value, exchanges channels for positions, holds values in sequences, or mixes rows: both ways.

A stage says of each channel behind it which channels before it are in it. Back goes what is the same wherever a channel
comes to; forward what is the same for all that a channel is made of. Then it is the same function in float64, under
onnxruntime and for the certificate; else it stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from folding_draws import Array, arrays, examples
from folding_support import model, norm, proven, weights
from forward_support import certified
from hypothesis import event, given
from hypothesis import strategies as st
from passing_support import Tally, judged

import bnfold

PROVEN = {
    (kind, op)
    for kind in ("passing", "forward")
    for op in (
        "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "SplitToSequence", "SequenceAt", "SequenceConstruct",
        "ConcatFromSequence", "MatMul",
    )
} - {("forward", "SequenceConstruct")}  # fmt: skip
TEXT = {np.float16: "float16", np.float32: "float"}


@dataclass(slots=True)
class Stage:
    """Nodes that read `c` (of this shape, channels along `axis`) and put out `p`."""

    shape: tuple[int, ...]
    lines: list[str]
    made_of: list[tuple[int, ...]]
    tensors: dict[str, Array] = field(default_factory=dict)
    axis: int = 1
    rank_after: int = 4
    axis_after: int = 1
    opset: int = 17
    ports: str = ""
    feeds: dict[str, Array] = field(default_factory=dict)
    further: str = ""
    """A value that is read beside `c`, made of `x` by another layer."""
    never: bool = False
    """Whether nothing that differs between channels passes."""

    @property
    def channels(self) -> int:
        return self.shape[self.axis]


STAGES: dict[str, Callable[[st.DrawFn, type], Stage]] = {}


def stage(function: Callable[[st.DrawFn, type], Stage]) -> Callable[[st.DrawFn, type], Stage]:
    STAGES[function.__name__] = function
    return function


def identity(channels: int) -> list[tuple[int, ...]]:
    return [(channel,) for channel in range(channels)]


@stage
def expand(draw: st.DrawFn, kind: type) -> Stage:
    """Axes of 1 grow, new ones come first; a single channel may become several."""
    del kind
    channels = draw(st.sampled_from([1, 3, 4]))
    before = [draw(st.sampled_from([1, 2])), channels, draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))]
    after = [size if size > 1 or axis == 1 else draw(st.integers(1, 3)) for axis, size in enumerate(before)]
    if channels == 1 and draw(st.booleans()):
        after[1] = 3
    kept = [old == size > 1 and draw(st.booleans()) for old, size in zip(before, after, strict=True)]
    written = [1 if one else size for one, size in zip(kept, after, strict=True)]
    new = [draw(st.integers(1, 2)) for _ in range(draw(st.integers(0, 1)))]
    made_of = identity(channels) if after[1] == channels else [(0,)] * after[1]
    return Stage(
        tuple(before), ["p = Expand (c, shape)"], made_of, {"shape": np.array(new + written, np.int64)},
        rank_after=4 + len(new), axis_after=1 + len(new), opset=draw(st.sampled_from([8, 13, 17])),
        never=after[1] != channels,
    )  # fmt: skip


@stage
def tile(draw: st.DrawFn, kind: type) -> Stage:
    del kind
    channels, times = draw(st.sampled_from([1, 2, 3])), [draw(st.integers(1, 2)) for _ in range(4)]
    return Stage(
        (2, channels, 2, 3), ["p = Tile (c, times)"], identity(channels) * times[1],
        {"times": np.array(times, np.int64)}, opset=draw(st.sampled_from([8, 13, 17])),
    )  # fmt: skip


@stage
def depth_to_space(draw: st.DrawFn, kind: type) -> Stage:
    del kind
    block, outputs, opset = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([8, 11, 13, 17]))
    mode = draw(st.sampled_from(["", "DCR", "CRD"])) if opset >= 11 else ""
    blocks = block * block
    made_of = [tuple(k * outputs + c for k in range(blocks)) for c in range(outputs)]
    if mode == "CRD":
        made_of = [tuple(c * blocks + k for k in range(blocks)) for c in range(outputs)]
    attributes = f"blocksize = {block}" + (f', mode = "{mode}"' if mode else "")
    return Stage((2, blocks * outputs, 2, 3), [f"p = DepthToSpace <{attributes}> (c)"], made_of, opset=opset)


@stage
def space_to_depth(draw: st.DrawFn, kind: type) -> Stage:
    del kind
    block, inputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Stage(
        (2, inputs, 2 * block, block), [f"p = SpaceToDepth <blocksize = {block}> (c)"],
        identity(inputs) * (block * block), opset=draw(st.sampled_from([8, 13, 17])),
    )  # fmt: skip


@stage
def there_and_back(draw: st.DrawFn, kind: type) -> Stage:
    """Blocks of channels go to positions, are pooled there, and come back: each output channel is made of a group."""
    del kind
    block, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    pool = "GlobalAveragePool (d)" if block == 1 else "AveragePool <kernel_shape = [2, 2]> (d)"
    blocks = block * block
    return Stage(
        (2, blocks * groups, 2, 3), [f"d = DepthToSpace <blocksize = {block}> (c)", f"p = {pool}"],
        [tuple(k * groups + c for k in range(blocks)) for c in range(groups)],
    )  # fmt: skip


@stage
def sequence_of_parts(draw: st.DrawFn, kind: type) -> Stage:
    """Cut along another axis than the channels, or along that; one part is taken out."""
    del kind
    axis = draw(st.sampled_from([0, 2, 3, -1, 1]))
    shape = (2, 5, 2, 4)
    dropping = ["keepdims = 0"] if axis != 1 else []  # without the axis of the channels there are none
    how = draw(st.sampled_from(["split", "splits", "keepdims = 1", "", *dropping]))
    sizes = [1] * shape[axis]
    attributes, operand, tensors = f"axis = {axis}", "", dict[str, Array]()
    if how in {"split", "splits"}:
        operand = ", sizes"
        each = draw(st.integers(1, shape[axis]))
        rest = shape[axis] - each
        sizes = [each] * (shape[axis] // each) + [shape[axis] % each] * (shape[axis] % each > 0)
        sizes = [each, rest] if how == "splits" and rest else sizes
        tensors["sizes"] = np.array(each if how == "split" else sizes, np.int64)
    elif how:
        attributes += f", {how}"
    where = draw(st.integers(-len(sizes), len(sizes) - 1))
    tensors["where"] = np.array(where, np.int64)
    first = sum(sizes[: where % len(sizes)])
    taken = [(channel,) for channel in range(first, first + sizes[where])] if axis == 1 else identity(5)
    dropped = how == "keepdims = 0"
    return Stage(
        shape, [f"s = SplitToSequence <{attributes}> (c{operand})", "p = SequenceAt (s, where)"],
        taken, tensors, rank_after=3 if dropped else 4, axis_after=1 - (dropped and axis == 0),
    )  # fmt: skip


@stage
def sequence_of_values(draw: st.DrawFn, kind: type) -> Stage:
    """Two values are put into a sequence, of which one is taken out, or which are put side by side again."""
    del kind
    ways = {
        "p = SequenceAt (s, where)": (4, 1), "p = ConcatFromSequence <axis = 2> (s)": (4, 1),
        "p = ConcatFromSequence <axis = 1> (s)": (4, 1), "p = ConcatFromSequence <axis = -3> (s)": (4, 1),
        "p = ConcatFromSequence <axis = 0, new_axis = 1> (s)": (5, 2),
        "p = ConcatFromSequence <axis = -1, new_axis = 1> (s)": (5, 1),
    }  # fmt: skip
    line = draw(st.sampled_from(list(ways)))
    where = {"where": np.array(draw(st.sampled_from([0, 1, -1])), np.int64)} if "where" in line else {}
    by_channels = "<axis = 1>" in line or "<axis = -3>" in line
    made_of = [*identity(3), (), (), ()] if by_channels else identity(3)
    return Stage(
        (2, 3, 2, 3), ["s = SequenceConstruct (c, f)", line], made_of, where, rank_after=ways[line][0],
        axis_after=ways[line][1], further="f",
    )  # fmt: skip


@stage
def shares(draw: st.DrawFn, kind: type) -> Stage:
    """Rows that sum to one, in some layout, by values whose channels lie last, or before the rows."""
    rows, opset = draw(st.integers(1, 4)), draw(st.sampled_from([11, 13, 17]))
    last = draw(st.booleans())
    batch = draw(st.sampled_from([(), (2,), (2, 3)])) if last else (2, 3)
    shape = (*batch, rows, 4)
    channels = 4 if last else 3
    form = {
        "r = Identity (q)": (*batch, 2, rows),
        "r = Transpose <perm = {perm}> (q)": (*batch[::-1], 2, rows),
        "r = Reshape (q, to)": (math.prod(batch) * 2, rows),
    }  # fmt: skip
    line = draw(st.sampled_from(list(form)))
    perm = [*reversed(range(len(batch))), len(batch), len(batch) + 1]
    axis = draw(st.sampled_from(["axis = -1", f"axis = {len(form[line]) - 1}"]))
    values = np.abs(draw(arrays(form[line], kind)))
    tensors = {"to": np.array((*batch, 2, rows), np.int64)} if "to" in line else {}
    return Stage(
        shape, [f"q = Softmax <{axis}> (u)", line.format(perm=perm), "p = MatMul (r, c)"], identity(channels), tensors,
        axis=len(shape) - 1 if last else 1, rank_after=len(shape), axis_after=len(shape) - 1 if last else 1,
        opset=opset, ports=f", {TEXT[kind]}[{','.join(map(str, form[line]))}] u", feeds={"u": values},
    )  # fmt: skip


def affine(draw: st.DrawFn, axis: int, rank: int, groups: list[int], kind: type) -> tuple[str, dict[str, Array]]:
    """A norm, or a factor, of channels along an axis; those of one group are alike."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = max(groups) + 1
    scale, shift = random.uniform(0.5, 2, count) * random.choice([-1, 1], count), random.uniform(-2, 2, count)
    if axis != 1 or draw(st.booleans()):
        return "Mul ({}, k)", {"k": scale[groups].reshape(-1, *[1] * (rank - axis - 1)).astype(kind)}
    held = {"g": scale[groups], "be": shift[groups], "m": 0 * scale[groups], "v": np.ones(len(groups))}
    return "BatchNormalization ({}, g, be, m, v)", {name: values.astype(kind) for name, values in held.items()}


def grouped(draw: st.DrawFn, sets: list[tuple[int, ...]], size: int) -> tuple[list[int], bool]:
    """A group for each of `size` things, and whether those of each set are all of one group."""
    groups = list(range(size))
    if draw(st.booleans()):
        for members in sets:
            for member in members:
                groups[member] = min(members)
    alike = all(len({groups[member] for member in members}) == 1 for members in sets)
    names = {group: number for number, group in enumerate(sorted(set(groups)))}
    return [names[group] for group in groups], alike


@dataclass(frozen=True, slots=True)
class Case:
    before: onnx.ModelProto
    feeds: dict[str, Array]
    passes: bool
    fan_in: int
    kind: type
    channels: int
    may_stay: bool = False
    """Whether it is exact, and may be left alone all the same."""


@st.composite
def backward(draw: st.DrawFn, name: str) -> Case:
    kind = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    spot = STAGES[name](draw, kind)
    outputs = [tuple(k for k, made in enumerate(spot.made_of) if c in made) for c in range(spot.channels)]
    groups, alike = grouped(draw, [out for out in outputs if out], len(spot.made_of))
    text, held = affine(draw, spot.axis_after, spot.rank_after, groups, kind)
    one = len(set(groups)) == 1
    if spot.axis == 1 and len(spot.shape) == 4:
        dims = (spot.shape[0], 2, *spot.shape[2:])
        weights = {"W": draw(arrays((spot.channels, 2, 1, 1), kind))}
        layer, further = "Conv (x, W)", "f = Conv (x, V)"
        if spot.further:
            weights["V"] = draw(arrays((spot.channels, 2, 1, 1), kind))
    else:
        dims, weights = (*spot.shape[:-1], 2), {"W": draw(arrays((2, spot.shape[-1]), kind))}
        layer, further = "MatMul (x, W)", ""
    body = " ".join([f"c = {layer}", further if spot.further else "", *spot.lines, f"n = {text.format('p')}"])
    written = f"({TEXT[kind]}[{','.join(map(str, dims))}] x{spot.ports}) => ({TEXT[kind]}[] y) {{ {body} y = Neg (n) }}"
    before = model(written, opset=spot.opset, **weights, **spot.tensors, **held)
    passes = alike if not spot.never else one and len(spot.made_of) == 1
    feeds, fan_in, may_stay = {"x": draw(arrays(dims, kind)), **spot.feeds}, 2 * 16 * spot.shape[-2], spot.never and one
    return Case(before, feeds, passes, fan_in, kind, len(spot.made_of), may_stay)


@pytest.mark.parametrize("name", STAGES)
def test_an_affine_goes_back_where_each_channel_bears_one(name: str) -> None:
    tally = Tally()

    @examples(30)
    @given(backward(name))
    def check(case: Case) -> None:
        found = judged(case.before, case.feeds, case.fan_in, case.kind)
        event("moves" if case.passes else "stays")
        moved = [move.site.op for move in found.folded.plan.moves]
        refusals = found.folded.plan.refusals
        if case.may_stay:
            event("alike for channels that were one: exact, and not always seen")
            return
        if case.channels == 1 and any("not known how many channels" in one.detail for one in refusals):
            event("one channel, which might be broadcast")
            return
        if any("its input a size that is not known" in one.detail for one in refusals):
            event("what is joined from a sequence has no known size")
            return
        assert ("Mul" in moved or "BatchNormalization" in moved) == case.passes, found.folded.plan.refusals
        tally.add(found)

    check()
    assert min(tally.counted[what] for what in ("moved", "ran", "wide")) >= 10, tally.counted


@st.composite
def ahead(draw: st.DrawFn, name: str) -> Case:
    kind = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    spot = STAGES[name](draw, kind)
    groups, alike = grouped(draw, [made for made in spot.made_of if made], spot.channels)
    text, held = affine(draw, spot.axis, len(spot.shape), groups, kind)
    channels, rank = len(spot.made_of), spot.rank_after
    perm = [axis for axis in range(rank) if axis != spot.axis_after] + [spot.axis_after]
    body = " ".join([f"c = {text.format('x')}", *spot.lines, f"t = Transpose <perm = {perm}> (p) y = MatMul (t, K)"])
    ports = f", {TEXT[kind]}[{','.join(map(str, spot.shape))}] f" if spot.further else ""
    text = f"({TEXT[kind]}[{','.join(map(str, spot.shape))}] x{spot.ports}{ports}) => ({TEXT[kind]}[] y) {{ {body} }}"
    before = model(text, opset=spot.opset, K=draw(arrays((channels, 2), kind)), **spot.tensors, **held)
    feeds = {"x": draw(arrays(spot.shape, kind)), **spot.feeds}
    if spot.further:
        feeds["f"] = draw(arrays(spot.shape, kind))
    grown = name == "expand" and spot.never  # one channel, which becomes several, all alike
    passes = grown or (alike and not spot.never and not spot.further) or (spot.never and spot.channels == 1)
    return Case(before, feeds, passes, 16 * channels, kind, channels)


@pytest.mark.parametrize("name", STAGES)
def test_an_affine_goes_forward_where_all_that_a_channel_is_made_of_bears_it(name: str) -> None:
    counted = {True: 0, False: 0}

    @examples(30)
    @given(ahead(name))
    def check(case: Case) -> None:
        event("moves" if case.passes else "stays")
        done = proven(case.before, case.feeds, case.fan_in, left=int(not case.passes))
        assert [move.is_forward for move in done.plan.moves] == [True] * case.passes
        certified(case.before, done)
        counted[case.passes] += 1

    check()
    assert counted[True] >= 10 or name == "sequence_of_values"


NORM = "BatchNormalization ({}, g, be, m, v)"
VERIFIED = {
    "rows that are mixed": f"c = Conv (x, W) t = Softmax (u) p = MatMul (t, c) n = {NORM.format('p')} y = Relu (n)",
    "rows that are mixed, forward": f"n = {NORM.format('x')} t = Softmax (u) p = MatMul (t, n) y = Conv (p, W)",
    "a sequence": f"c = Conv (x, W) s = SplitToSequence <axis = 2> (c) p = SequenceAt (s, one) y = {NORM.format('p')}",
    "a sequence, forward": f"n = {NORM.format('x')} s = SplitToSequence <axis = 2> (n) p = SequenceAt (s, one) "
    "y = Conv (p, W)",
    "a shift that is lost": "n = Add (x, k) t = Softmax (n) y = Relu (t)",
}  # fmt: skip


@pytest.mark.parametrize("case", VERIFIED)
def test_running_both_shows_it_too(case: str) -> None:
    """What mixes by shares is not the same for any numbers: where noise is added, they have to stay shares."""
    held = {"W": weights(4, 4, 1, 1), "one": 1, "k": weights(4, 1, 1), **norm(4)}
    text = f"(float[2,4,4,6] x, float[2,1,4,4] u) => (float[] y) {{ {VERIFIED[case]} }}"
    result = bnfold.fold(model(text, **held))
    assert len(result.plan.moves) == 1
    assert result.verdict.word == "same"
    assert result.verdict.sites is not None
