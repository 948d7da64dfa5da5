"""What acts on positions lets an affine pass exactly as far as it treats all channels alike, and no further.

For each operator: an affine behind it moves if and only if the operator's law allows its shift and its signs; then it
is the same function in float64, under onnxruntime, and for the certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from folding_draws import Array, arrays, examples
from folding_support import model
from hypothesis import event, given
from hypothesis import strategies as st
from passing_support import Tally, judged

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22)
TEXT = {np.float16: "float16", np.float32: "float", np.float64: "double"}


@dataclass(slots=True)
class Spot:
    """Where an operator stands: behind `c`, of this shape, type and opset; it puts out `p`."""

    draw: st.DrawFn
    kind: type
    opset: int
    shape: tuple[int, ...]
    line: str = ""
    tensors: dict[str, Array] = field(default_factory=dict)
    shifts: bool = True
    """Whether a shift may pass."""
    negative: bool = True
    """Whether a negative scale may pass."""
    axis: int = 1
    """Where the channels are behind it."""
    rank: int = 0
    """How many dimensions it puts out."""
    out: type | None = None
    """The type that it puts out, if it is another."""

    @property
    def extents(self) -> tuple[int, ...]:
        return self.shape[2:]

    def one_of(self, *values: object) -> object:
        return self.draw(st.sampled_from(values))

    def maybe(self) -> bool:
        return self.draw(st.booleans())

    def write(self, op: str, *attributes: str, operands: str = "") -> None:
        held = f"<{', '.join(a for a in attributes if a)}>" if any(attributes) else ""
        self.line = f"p = {op} {held} (c{operands})"


ROWS: dict[str, Callable[[Spot], None]] = {}


def row(*ops: str) -> Callable[[Callable[[Spot, str], None]], Callable[[Spot, str], None]]:
    def keep(function: Callable[[Spot, str], None]) -> Callable[[Spot, str], None]:
        ROWS.update({op: lambda spot, op=op: function(spot, op) for op in ops})
        return function

    return keep


# --- each element ---------------------------------------------------------------------------------------------------


@row("Relu", "Abs", "LeakyRelu", "PRelu")
def rectifier(spot: Spot, op: str) -> None:
    spot.shifts = spot.negative = False
    if op == "LeakyRelu":
        spot.write(op, spot.one_of("", "alpha = 0.25", "alpha = -0.5", "alpha = 0.0"))
        return
    if op == "PRelu":
        channels = (spot.shape[1], *[1] * len(spot.extents))
        slope = spot.one_of(channels, (1,), spot.shape[1:], (1, *channels))
        spot.tensors["slope"] = spot.draw(arrays(slope, spot.kind)) / 2
    spot.write(op, operands=", slope" if op == "PRelu" else "")


@row("Cast")
def cast(spot: Spot, op: str) -> None:
    spot.out = spot.one_of(*[t for t in TEXT if np.dtype(t).itemsize >= np.dtype(spot.kind).itemsize])
    spot.write(op, f"to = {({np.float16: 10, np.float32: 1, np.float64: 11})[spot.out]}")


# --- windows --------------------------------------------------------------------------------------------------------


def window(spot: Spot, dilated_since: int, ceiled_since: int) -> tuple[list[str], bool]:
    """Attributes of a pooling operator, and whether a window reads what is not there."""
    rank = len(spot.extents)
    kernel = [spot.one_of(*range(1, min(3, n) + 1)) for n in spot.extents]
    found = [f"kernel_shape = {kernel}"]
    strides, steps = [1] * rank, [1] * rank
    if spot.maybe():
        strides = [spot.draw(st.integers(1, k)) for k in kernel]  # onnxruntime fails on SAME with larger ones
        found.append(f"strides = {strides}")
    automatic = spot.one_of("", "", "VALID", "SAME_UPPER", "SAME_LOWER")
    pads = [0] * 2 * rank
    if automatic:
        found.append(f'auto_pad = "{automatic}"')
    elif spot.maybe():
        pads = [spot.draw(st.integers(0, k - 1)) for k in kernel * 2]
        found.append(f"pads = {pads}")
    if spot.opset >= dilated_since and spot.maybe() and not automatic:
        wide = [k == 2 and n > 2 for k, n in zip(kernel, spot.extents, strict=True)]
        steps = [int(str(spot.one_of(1, 2))) if possible else 1 for possible in wide]
        found.append(f"dilations = {steps}")
    ceiled = spot.opset >= ceiled_since and spot.maybe() and not automatic
    if ceiled:
        found.append("ceil_mode = 1")
    ends = [n - (k - 1) * d for k, d, n in zip(kernel, steps, spot.extents, strict=True)]
    if automatic.startswith("SAME"):  # a window begins at each multiple of the stride
        return found, any(max(range(0, n, s)) >= end for n, s, end in zip(spot.extents, strides, ends, strict=True))
    return found, any(pads) or (ceiled and any((end - 1) % s for s, end in zip(strides, ends, strict=True)))


@row("AveragePool")
def average_pool(spot: Spot, op: str) -> None:
    found, padded = window(spot, 19, 10)
    counted = spot.maybe()
    spot.shifts = not (counted and padded)
    spot.write(op, *found, f"count_include_pad = {int(counted)}")


@row("MaxPool")
def max_pool(spot: Spot, op: str) -> None:
    spot.negative = False
    spot.write(op, *window(spot, 10, 10)[0], "storage_order = 1" if spot.opset >= 8 and spot.maybe() else "")


@row("LpPool")
def norm_pool(spot: Spot, op: str) -> None:
    spot.shifts = spot.negative = False
    spot.write(op, *window(spot, 18, 18)[0], spot.one_of("", "p = 1", "p = 2", "p = 3"))


@row("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool_of_all(spot: Spot, op: str) -> None:
    spot.shifts, spot.negative = op != "GlobalLpPool", op == "GlobalAveragePool"
    spot.write(op, spot.one_of("p = 1", "p = 3", "") if op == "GlobalLpPool" else "")


@row("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
def reduction(spot: Spot, op: str) -> None:
    rank = len(spot.shape)
    axes = sorted(spot.draw(st.sets(st.sampled_from([0, *range(2, rank)]), min_size=1)))
    kept = spot.one_of(0, 1, None)
    written = [axis - rank if spot.opset >= 11 and spot.maybe() else axis for axis in spot.draw(st.permutations(axes))]
    as_input = spot.opset >= (13 if op == "ReduceSum" else 18)
    if as_input:
        spot.tensors["axes"] = np.array(written, np.int64)
    attributes = [f"axes = {written}" if not as_input else spot.one_of("", "noop_with_empty_axes = 1"),
                  "" if kept is None else f"keepdims = {kept}"]  # fmt: skip
    spot.write(op, *attributes, operands=", axes" if as_input else "")
    spot.shifts, spot.negative = op not in {"ReduceL1", "ReduceL2"}, op in {"ReduceMean", "ReduceSum"}
    spot.rank = rank if kept != 0 else rank - len(axes)
    spot.axis = 1 if kept != 0 else 1 - (0 in axes)


# --- sizes ----------------------------------------------------------------------------------------------------------


@row("Pad")
def pad(spot: Spot, op: str) -> None:
    rank = len(spot.shape)
    mode = spot.one_of("constant", "constant", "edge", "reflect", *["wrap"] * (spot.opset >= 19))
    pads = [0] * 2 * rank
    for axis in [axis for axis in range(2, rank) if spot.maybe()]:
        for place in (axis, axis + rank):
            pads[place] = spot.draw(st.integers(-1 if mode == "constant" and spot.shape[axis] > 2 else 0, 1))
    if mode == "constant" and spot.one_of(True, False, False):
        pads = [min(amount, 0) for amount in pads]
    cuts = not any(amount > 0 for amount in pads)
    spot.shifts = mode != "constant" or cuts
    attributes, operands = [] if mode == "constant" and spot.maybe() else [f'mode = "{mode}"'], ""
    if spot.opset < 11:
        attributes.append(f"pads = {pads}")
    else:
        spot.tensors["pads"] = np.array(pads, np.int64)
        operands = ", pads"
        if spot.maybe():
            spot.tensors["zero"] = np.full((), 3.0 if cuts and spot.maybe() else 0.0, spot.kind)
            operands += ", zero"
        if spot.opset >= 18 and spot.maybe():
            given = [axis for axis in spot.draw(st.permutations(range(rank))) if pads[axis] or pads[axis + rank]] or [
                rank - 1
            ]
            spot.tensors["pads"] = np.array([pads[a + end] for end in (0, rank) for a in given], np.int64)
            spot.tensors["axes"] = np.array([a - rank if spot.maybe() else a for a in given], np.int64)
            operands += ", axes" if "zero" in operands else ", , axes"
    spot.write(op, *attributes, operands=operands)


@row("Resize")
def resize(spot: Spot, op: str) -> None:
    spot.opset = max(spot.opset, 10)
    rank = len(spot.shape)
    factors = [1.0, 1.0, *(spot.one_of(0.5, 1.0, 1.5, 2.0) for _ in spot.extents)]
    mode = spot.one_of("nearest", "linear", *["cubic"] * (rank == 4 and spot.opset >= 11))
    attributes, operands = [f'mode = "{mode}"'], ", scales"
    spot.tensors["scales"] = np.array(factors, np.float32)
    if spot.opset >= 11:
        modes = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
        attributes.append(f'coordinate_transformation_mode = "{spot.one_of(*modes)}"')
        operands = ", , scales" if spot.opset >= 13 else ", region, scales"
        spot.tensors |= {name: np.zeros(0, np.float32) for name in ("region", "none")} if spot.opset < 13 else {}
        if mode == "nearest":
            attributes.append(
                f'nearest_mode = "{spot.one_of("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")}"'
            )
        if spot.maybe():
            operands = ", , , sizes" if spot.opset >= 13 else ", region, none, sizes"
            del spot.tensors["scales"]
            spot.tensors["sizes"] = np.array(
                [max(1, int(n * f)) for n, f in zip(spot.shape, factors, strict=True)], np.int64
            )
    if spot.opset >= 18 and spot.maybe():
        attributes.append(f"axes = {[*range(2, rank)]}")
        name = "sizes" if "sizes" in spot.tensors else "scales"
        spot.tensors[name] = spot.tensors[name][2:]
    if spot.opset >= 13 and rank == 4 and mode != "cubic" and spot.maybe():
        cropped(spot, attributes, "axes" in attributes[-1])
        operands = operands.replace(", ,", ", region,", 1)
    spot.write(op, *attributes, operands=operands)


def cropped(spot: Spot, attributes: list[str], places_alone: bool) -> None:
    """A region of the data, or beyond, outside of which zeros stand."""
    attributes[1:] = ['coordinate_transformation_mode = "tf_crop_and_resize"', *attributes[2:]]
    region = np.array([[0, 0, spot.one_of(0.0, -0.5, 0.25), 0], [1, 1, spot.one_of(1.0, 1.5), spot.one_of(0.75, 2.0)]])
    spot.tensors["region"] = np.float32(region[:, 2:] if places_alone else region).reshape(-1)
    spot.shifts = False


@row("Upsample")
def upsample(spot: Spot, op: str) -> None:
    spot.opset = min(spot.opset, 9)
    factors = [1.0, 1.0, *(spot.one_of(1.0, 2.0) for _ in spot.extents)]
    mode = spot.one_of("nearest", *["linear"] * (len(spot.extents) == 2))
    if spot.opset < 9:
        spot.write(op, f'mode = "{mode}"', f"scales = {factors}")
        return
    spot.tensors["scales"] = np.array(factors, np.float32)
    spot.write(op, f'mode = "{mode}"', operands=", scales")


PROVEN = {("passing", op) for op in ROWS}


@st.composite
def spots(draw: st.DrawFn, op: str) -> Spot:
    extents = draw(st.sampled_from([(4,), (5,), (3, 4), (4, 3), (5, 5), (2, 3, 3)]))
    kind = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    shape = (draw(st.sampled_from([1, 2])), draw(st.sampled_from([2, 4])), *extents)
    spot = Spot(draw, kind, draw(st.sampled_from(OPSETS)), shape, rank=len(shape))
    ROWS[op](spot)
    return spot


@st.composite
def behind(draw: st.DrawFn, spot: Spot) -> tuple[str, dict[str, Array], bool, bool]:
    """An affine behind `p`: its text, its constants, whether it has a shift, and whether a scale is negative."""
    kind = spot.out or spot.kind
    channels = spot.shape[1]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    signs = draw(st.sampled_from([(1,), (1, 0), (1, -1, 0)]))
    scale = random.uniform(0.5, 2, channels) * random.choice(signs, channels)
    scale[0] = abs(scale[0]) or 0.75
    shift = random.uniform(0.25, 2, channels) * draw(st.booleans())
    along = (channels, *[1] * (spot.rank - 1 - spot.axis))
    if spot.axis == 1 and spot.rank >= 2 and draw(st.booleans()):
        parameters = {"g": scale, "be": shift, "m": np.zeros(channels), "v": random.uniform(0.5, 2, channels)}
        text = "BatchNormalization (p, g, be, m, v)"
        return text, {k: v.astype(kind) for k, v in parameters.items()}, bool(np.any(shift)), bool(np.any(scale < 0))
    if draw(st.booleans()) and np.any(shift):
        return "Add (p, k)", {"k": shift.reshape(along).astype(kind)}, True, False
    return "Mul (p, k)", {"k": scale.reshape(along).astype(kind)}, False, bool(np.any(scale < 0))


@pytest.mark.parametrize("op", ROWS)
def test_an_affine_passes_what_treats_all_channels_alike(op: str) -> None:
    tally = Tally()

    @examples(40)
    @given(spots(op), st.data())
    def check(spot: Spot, data: st.DataObject) -> None:
        line, parameters, shifts, negative = data.draw(behind(spot))
        group = data.draw(st.sampled_from([1, 2]))
        weight = data.draw(arrays((spot.shape[1], 2 // group, *[1] * len(spot.extents)), spot.kind))
        dims, out = ",".join(map(str, (spot.shape[0], 2, *spot.extents))), TEXT[spot.out or spot.kind]
        text = f"""({TEXT[spot.kind]}[{dims}] x) => ({out}[] y)
            {{ c = Conv <group = {group}> (x, W)  {spot.line}  q = {line}  y = Identity (q) }}"""
        before = model(text, opset=spot.opset, W=weight, **spot.tensors, **parameters)
        x = data.draw(arrays((spot.shape[0], 2, *spot.extents), spot.kind))
        found = judged(before, {"x": x}, 8, spot.kind)
        expected = (spot.shifts or not shifts) and (spot.negative or not negative)
        event(f"{op} {'moves' if expected else 'stays'}")
        assert bool(found.folded.plan.moves) == expected, found.folded.plan.refusals
        tally.add(found)

    check()
    assert tally.counted["moved"] >= 8
    assert tally.counted["ran"] >= 4
    assert tally.counted["wide"] >= 4
