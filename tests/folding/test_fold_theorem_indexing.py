"""What takes a part of a value lets an affine pass: its part bears it, and no one sees what the rest bears."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from folding_draws import Array, arrays, examples
from folding_support import constants, model, operands
from hypothesis import event, given
from hypothesis import strategies as st
from passing_support import Tally, judged

PROVEN = {("passing", op) for op in ("Split", "Slice", "Gather")}
TEXT = {np.float16: "float16", np.float32: "float"}
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 21, 22)


@dataclass(frozen=True, slots=True)
class Part:
    """A Conv, a part of what it puts out, and an affine per channel of that; `taken` are the channels of the part."""

    before: onnx.ModelProto
    feeds: dict[str, Array]
    taken: tuple[int, ...]
    kind: type
    uneven: bool = False
    """A channel that is taken twice would have to bear two affines, or one at some positions and none at others."""


@st.composite
def parts(draw: st.DrawFn, op: str) -> Part:
    kind = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    extents = draw(st.sampled_from([(4,), (4, 3), (4, 2, 2)]))
    channels, opset = draw(st.sampled_from([4, 6])), draw(st.sampled_from(OPSETS))
    axis = draw(st.sampled_from([1, 1, 1, 2]))
    size = (2, channels, *extents)[axis]
    written = axis - 2 - len(extents) if opset >= 11 and draw(st.booleans()) else axis
    line, tensors, taken, rest = {"Split": split, "Slice": slice_, "Gather": gather}[op](draw, opset, size, written)
    places = taken if axis == 1 else tuple(range(channels))
    heads = [f"{TEXT[kind]}[] {name}" for name in ["y", *rest]]
    affine, held, uneven = behind(draw, places, len(extents), kind)
    uneven = uneven or (op == "Split" and axis == 2)
    dims = (2, 2, *extents)
    text = f"""({TEXT[kind]}[{",".join(map(str, dims))}] x) => ({", ".join(heads)})
        {{ c = Conv (x, W) {line} q = {affine} y = Identity (q) }}"""
    weight = draw(arrays((channels, 2, *[1] * len(extents)), kind))
    before = model(text, opset=opset, W=weight, **tensors, **held)
    return Part(before, {"x": draw(arrays(dims, kind))}, places, kind, uneven)


def behind(draw: st.DrawFn, places: tuple[int, ...], extents: int, kind: type) -> tuple[str, dict[str, Array], bool]:
    """A norm of `p`, or a factor; alike for channels that are taken twice, or not."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gamma, beta = (random.uniform(0.5, 2, 1 + max(places, default=0)) * random.choice([-1, 1]) for _ in range(2))
    alike = draw(st.booleans())
    scale, shift = gamma[list(places)], beta[list(places)]
    if not alike:
        scale = scale * random.uniform(0.5, 1, len(places))
    uneven = not alike and len(set(places)) < len(places)
    if draw(st.booleans()):
        return "Mul (p, k)", {"k": scale.reshape(-1, *[1] * extents).astype(kind)}, uneven
    held = {"g": scale, "be": shift, "m": 0 * scale, "v": np.ones(len(places))}
    return "BatchNormalization (p, g, be, m, v)", {k: v.astype(kind) for k, v in held.items()}, uneven


Piece = tuple[str, dict[str, Array], tuple[int, ...], list[str]]


def split(draw: st.DrawFn, opset: int, size: int, axis: int) -> Piece:
    """Sizes as an attribute, as an input, or equal ones; the norm stands behind any part, the others are outputs."""
    count = draw(st.integers(2, 3))
    how = draw(st.sampled_from(["given", "equal", "given"]))
    cuts = sorted(draw(st.sets(st.integers(1, size - 1), min_size=count - 1, max_size=count - 1)))
    sizes = np.diff([0, *cuts, size]).tolist()
    attributes, operand, tensors = f"axis = {axis}", "", {}
    if how == "equal" and (opset >= 18 or size % count == 0):
        each = -(-size // count)
        sizes = [max(0, min(each, size - each * k)) for k in range(count)]
        attributes += f", num_outputs = {count}" if opset >= 18 else ""
    elif opset >= 13:
        operand, tensors = ", parts", {"parts": np.array(sizes, np.int64)}
    else:
        attributes += f", split = {sizes}"
    which = draw(st.integers(0, count - 1))
    names = ["p" if k == which else f"o{k}" for k in range(count)]
    first = sum(sizes[:which])
    taken = tuple(range(first, first + sizes[which]))
    return f"{', '.join(names)} = Split <{attributes}> (c{operand})", tensors, taken, [n for n in names if n != "p"]


def slice_(draw: st.DrawFn, opset: int, size: int, axis: int) -> Piece:
    """Starts and ends from the front, from the back and beyond; steps of either sign from opset 10 on."""
    step = draw(st.sampled_from([1, 1, 2, -1, -2, 3])) if opset >= 10 else 1
    starts = [*range(-size - 1, size + 2)]
    ends = [*starts, 2**31 - 1, 2**63 - 1, -(2**31), -(2**63) + 1]
    cuts = [(s, e) for s in starts for e in ends if len(range(size)[s:e:step]) > 0]
    if opset < 10:  # of others onnx infers no shapes there
        cuts = [(s, e) for s, e in cuts if s >= 0 and 0 <= e < 2**31]
    start, end = draw(st.sampled_from(cuts))
    taken = tuple(range(size)[start:end:step])
    if opset < 10:
        return f"p = Slice <starts = [{start}], ends = [{end}], axes = [{axis}]> (c)", {}, taken, []
    held = {"starts": [start], "ends": [end], "axes": [axis], "steps": [step]}
    tensors = {name: np.array(value, np.int64) for name, value in held.items()}
    if step == 1 and draw(st.booleans()):
        del tensors["steps"]
    return f"p = Slice (c, {', '.join(tensors)})", tensors, taken, []


def gather(draw: st.DrawFn, opset: int, size: int, axis: int) -> Piece:
    """Any indices, also several times, and from the back."""
    taken = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size))
    written = [i - size if opset >= 11 and draw(st.booleans()) else i for i in taken]
    kind = draw(st.sampled_from([np.int32, np.int64]))
    return f"p = Gather <axis = {axis}> (c, indices)", {"indices": np.array(written, kind)}, tuple(taken), []


@pytest.mark.parametrize("op", ["Split", "Slice", "Gather"])
def test_an_affine_of_a_part_goes_to_the_channels_that_are_taken(op: str) -> None:
    tally = Tally()

    @examples(80)
    @given(parts(op))
    def check(part: Part) -> None:
        found = judged(part.before, part.feeds, 8, part.kind)
        event(f"{op} {'stays' if part.uneven else 'moves'}")
        assert bool(found.folded.plan.moves) == (not part.uneven), found.folded.plan.refusals
        tally.add(found)
        if part.uneven:
            return
        weight = operands(found.folded.proto, "Conv")[1]
        old = constants(part.before)["W"]
        if weight is not None and len(set(part.taken)) > 1:  # what is the same for all may go to what nobody reads too
            rest = sorted(set(range(len(old))) - set(part.taken))
            assert np.array_equal(weight[rest], old[rest])

    check()
    assert min(tally.counted[what] for what in ("moved", "ran", "wide")) >= 20
    assert tally.counted["stayed"] >= 4 or op != "Gather"


@pytest.mark.parametrize("indices", [2, [[0, 2], [1, 3]]])
def test_gather_of_positions_by_indices_of_any_rank(indices: object) -> None:
    """A class token: one position is taken, and its axis goes; a matrix of indices makes one axis two."""
    places = np.array(indices, np.int64)
    rank = 2 + places.ndim
    text = """(float[2,3,4] x) => (float[] y) { c = Conv (x, W)  p = Gather <axis = 2> (c, indices)
        q = BatchNormalization (p, g, be, m, v)  y = Identity (q) }"""
    random = np.random.default_rng(rank)
    held = {name: random.uniform(0.5, 2, 4).astype(np.float32) for name in ("g", "be", "m", "v")}
    before = model(text, W=random.uniform(-1, 1, (4, 3, 1)).astype(np.float32), indices=places, **held)
    found = judged(before, {"x": random.uniform(-1, 1, (2, 3, 4)).astype(np.float32)}, 8)
    assert found.ran
    assert [move.site.op for move in found.folded.plan.moves] == ["BatchNormalization"]
