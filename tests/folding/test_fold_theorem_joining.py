"""An affine behind what joins several values goes to all of them, or to one, and is refused where one cannot bear it.

Each branch is a Conv. Trees of joins and of what stands on positions are drawn too: whatever moves in them, the fold is
the same function, holds for the certificate, and is the same when folded again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from folding_draws import Array, arrays, examples
from folding_support import model
from hypothesis import event, given
from hypothesis import strategies as st
from passing_support import Tally, judged

JOINS = ("Concat", "Add", "Sub", "Sum", "Mul", "Div", "Where", "Max", "Min")
PROVEN = {("passing", op) for op in JOINS}
TEXT = {np.float16: "float16", np.float32: "float"}
OPSETS = (8, 9, 11, 13, 14, 15, 17, 18, 21)


def signed(draw: st.DrawFn, channels: int, kind: type) -> tuple[str, dict[str, Array], bool, bool]:
    """A norm of `p`: its text and constants, whether it has a shift, and whether a scale is negative."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = random.uniform(0.5, 2, channels) * random.choice(
        draw(st.sampled_from([(1,), (1, 0), (1, -1, 0)])), channels
    )
    shift = random.uniform(0.25, 2, channels) * draw(st.booleans())
    found = {"g": scale, "be": shift, "m": np.zeros(channels), "v": random.uniform(0.5, 2, channels)}
    parameters = {name: array.astype(kind) for name, array in found.items()}
    return "BatchNormalization (p, g, be, m, v)", parameters, bool(np.any(shift)), bool(np.any(scale < 0))


@dataclass(frozen=True, slots=True)
class Joined:
    """A join of Convs, as a model, and whether its law lets the norm behind it move."""

    before: onnx.ModelProto
    feeds: dict[str, Array]
    moves: bool
    kind: type


@st.composite
def joins(draw: st.DrawFn, op: str, *, narrow_channels: bool) -> Joined:
    kind = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    extents = draw(st.sampled_from([(3,), (2, 3), (2, 2, 2)]))
    least, most = {"Concat": (1, 3), "Sum": (1, 3), "Max": (1, 3), "Min": (1, 3)}.get(op, (2, 2))
    count = draw(st.integers(max(least, 1 + narrow_channels), most))
    axis = draw(st.sampled_from([1, 1, 2])) if op == "Concat" else 1
    sizes = [draw(st.integers(1, 3)) if op == "Concat" and axis == 1 else 3 for _ in range(count)]
    small = draw(st.integers(0, count - 1)) if narrow_channels else None
    lines, tensors = [], {}
    for k, size in enumerate(sizes):
        tensors[f"W{k}"] = draw(arrays((1 if k == small else size, 2, *[1] * len(extents)), kind))
        lines.append(f"c{k} = Conv (x{k}, W{k})")
    # An operand that broadcasts along positions bears everything that one of full size bears.
    narrow = draw(st.booleans()) and op not in {"Concat"} and count > 1
    dims = [(2, 2, *([1] * len(extents) if k == 1 and narrow else extents)) for k in range(count)]
    names = [f"c{k}" for k in range(count)]
    if op == "Div":  # S divides by what is in the model: not by what a Conv makes of absolute values
        names[1], dims[1] = "x1", (2, 1 if small == 1 else 3, *dims[1][2:])
        lines.pop()
    operands = ", ".join([*["choice"] * (op == "Where"), *names])
    tensors |= (
        {"choice": draw(st.sampled_from([np.array([[True], [False], [True]]), np.array(True)]))}
        if op == "Where"
        else {}
    )
    written = f"<axis = {axis - draw(st.sampled_from([0, 2 + len(extents)]))}>" if op == "Concat" else ""
    opset = draw(st.sampled_from([o for o in OPSETS if op != "Concat" or "-" not in written or o >= 11]))
    if op == "Where":
        opset = max(opset, 9)
        tensors["choice"] = (
            tensors["choice"].reshape(-1, *[1] * len(extents)) if tensors["choice"].ndim else tensors["choice"]
        )
    line, parameters, shifts, negative = signed(draw, sum(sizes) if op == "Concat" and axis == 1 else 3, kind)
    heads = ", ".join(f"{TEXT[kind]}[{','.join(map(str, d))}] x{k}" for k, d in enumerate(dims))
    body = f"{' '.join(lines)} p = {op} {written} ({operands}) q = {line} y = Identity (q)"
    text = f"({heads}) => ({TEXT[kind]}[] y) {{ {body} }}"
    before = model(text, opset=opset, **tensors, **parameters)
    moves = _allowed(op, small, shifts=shifts, negative=negative, unit=not np.any(scale_of(parameters) != 1))
    feeds = {f"x{k}": draw(arrays(d, kind)) for k, d in enumerate(dims)}
    if op == "Div":
        feeds["x1"][feeds["x1"] == 0] = 1
    return Joined(before, feeds, moves, kind)


def scale_of(parameters: dict[str, Array]) -> Array:
    return parameters["g"] / np.sqrt(parameters["v"] + 1e-5)


def _allowed(op: str, small: int | None, *, shifts: bool, negative: bool, unit: bool) -> bool:
    """The law of each join: `small` is the operand that has one channel."""
    if op in {"Mul", "Div"}:
        return not shifts and (op == "Mul" or small != 0)
    if op in {"Max", "Min"} and negative:
        return False
    return small is None or (unit and small != 0)


@pytest.mark.parametrize("op", JOINS)
def test_an_affine_behind_a_join_goes_where_all_of_it_can_be_borne(op: str) -> None:
    tally = Tally()

    @examples(40)
    @given(joins(op, narrow_channels=False))
    def check(joined: Joined) -> None:
        found = judged(joined.before, joined.feeds, 8, joined.kind)
        event(f"{op} {'moves' if joined.moves else 'stays'}")
        assert bool(found.folded.plan.moves) == joined.moves, found.folded.plan.refusals
        tally.add(found)

    check()
    assert all(tally.counted[what] >= 8 for what in ("moved", "ran", "wide")), tally.counted


@pytest.mark.parametrize("op", [op for op in JOINS if op != "Concat"])
def test_an_operand_of_one_channel_bears_no_affine_that_differs_between_channels(op: str) -> None:
    tally = Tally()

    @examples(20)
    @given(joins(op, narrow_channels=True))
    def check(joined: Joined) -> None:
        found = judged(joined.before, joined.feeds, 8, joined.kind)
        assert bool(found.folded.plan.moves) == joined.moves, found.folded.plan.refusals
        tally.add(found)

    check()
    assert tally.counted["stayed"] >= 4 or op == "Mul"  # the other operand bears it


# --- trees ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tree:
    """Text and constants of a tree; every value has the shape (2, channels, 2, 2)."""

    draw: st.DrawFn
    lines: list[str] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def put(self, line: str, *held: tuple[str, Array]) -> str:
        """One more node; `{n}` is its number. Gives the name of what it puts out."""
        number = len(self.lines)
        self.tensors |= {name.format(n=number): array for name, array in held}
        self.lines.append(f"v{number} = {line.format(n=number)}")
        return f"v{number}"

    def value(self, channels: int, depth: int) -> str:
        """A value with so many channels."""
        inner = "sum sum concat max pool relu split slice norm product constant twice"
        kinds = ["conv", *inner.split()] if depth else ["conv", "conv", "shared"]
        return getattr(self, self.draw(st.sampled_from(kinds)))(channels, depth - 1)

    def conv(self, channels: int, depth: int) -> str:
        """Without a bias: behind a MatMul it would be an Add."""
        del depth
        if self.draw(st.booleans()):
            rows = self.put("MatMul (r, M{n})", ("M{n}", self.draw(arrays((2, channels), np.float32))))
            return self.put(f"Transpose <perm = [0, 3, 1, 2]> ({rows})")
        return self.put("Conv (x, W{n})", ("W{n}", self.draw(arrays((channels, 2, 1, 1), np.float32))))

    def shared(self, channels: int, depth: int) -> str:
        """The weight is another node's too, if there is one of that size."""
        del depth
        name = f"S{channels}"
        self.tensors.setdefault(name, np.linspace(0.5, 1.5, 2 * channels, dtype=np.float32).reshape(channels, 2, 1, 1))
        return self.put(f"Conv (x, {name})")

    def sum(self, channels: int, depth: int) -> str:
        op = self.draw(st.sampled_from(["Add", "Sub", "Sum"]))
        return self.put(f"{op} ({self.value(channels, depth)}, {self.value(channels, depth)})")

    def concat(self, channels: int, depth: int) -> str:
        first = self.draw(st.integers(1, channels - 1)) if channels > 1 else 0
        if not first:
            return self.value(channels, depth)
        return self.put(f"Concat <axis = 1> ({self.value(first, depth)}, {self.value(channels - first, depth)})")

    def max(self, channels: int, depth: int) -> str:
        return self.put(f"Max ({self.value(channels, depth)}, {self.value(channels, depth)})")

    def pool(self, channels: int, depth: int) -> str:
        op = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        return self.put(f"{op} <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({self.value(channels, depth)})")

    def relu(self, channels: int, depth: int) -> str:
        return self.put(f"Relu ({self.value(channels, depth)})")

    def split(self, channels: int, depth: int) -> str:
        """One part goes on, the other is an output of the graph or goes on too."""
        whole = self.value(channels + 2, depth)
        number = len(self.lines)
        self.tensors[f"parts{number}"] = np.array([channels, 2], np.int64)
        self.lines.append(f"v{number}, w{number} = Split <axis = 1> ({whole}, parts{number})")
        self.outputs.append(f"w{number}")
        return f"v{number}"

    def twice(self, channels: int, depth: int) -> str:
        """Both parts of a Split, or one value, come together again."""
        if channels % 2 or self.draw(st.booleans()):
            value = self.value(channels, depth)
            return self.put(f"Add ({value}, {value})")
        whole = self.value(channels, depth)
        number = len(self.lines)
        self.tensors[f"parts{number}"] = np.array([channels // 2] * 2, np.int64)
        self.lines.append(f"v{number}, w{number} = Split <axis = 1> ({whole}, parts{number})")
        return self.put(f"Concat <axis = 1> (w{number}, v{number})")

    def slice(self, channels: int, depth: int) -> str:
        self.tensors |= {"one": np.array([1], np.int64), f"end{channels}": np.array([channels + 1], np.int64)}
        return self.put(f"Slice ({self.value(channels + 2, depth)}, one, end{channels}, one)")

    def norm(self, channels: int, depth: int) -> str:
        random = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1)))
        sign = self.draw(st.sampled_from([(1,), (1, -1)]))
        held = (random.uniform(0.5, 2, channels) * random.choice(sign, channels), random.uniform(-1, 1, channels),
                random.uniform(-1, 1, channels), random.uniform(0.5, 2, channels))  # fmt: skip
        if self.draw(st.booleans()):
            held = (held[0], 0 * held[1], 0 * held[2], held[3])
        value = self.value(channels, depth)
        named = [(f"{name}{{n}}", array.astype(np.float32)) for name, array in zip("gemv", held, strict=True)]
        return self.put(
            f"BatchNormalization ({value}, g{{n}}, e{{n}}, m{{n}}, v_{{n}})", *named[:3], ("v_{n}", named[3][1])
        )

    def product(self, channels: int, depth: int) -> str:
        gate = self.put(f"Sigmoid ({self.value(channels, depth)})")
        return self.put(f"Mul ({gate}, {self.value(channels, depth)})")

    def constant(self, channels: int, depth: int) -> str:
        shape = self.draw(st.sampled_from([(channels, 1, 1), (1,), (2, 2)]))
        op = self.draw(st.sampled_from(["Add", "Sub", "Mul"]))
        value = self.value(channels, depth)
        array = self.draw(arrays(shape, np.float32))
        return self.put(f"{op} ({value}, k{{n}})", ("k{n}", np.where(array == 0, 1, array).astype(np.float32)))


@st.composite
def trees(draw: st.DrawFn) -> onnx.ModelProto:
    tree = Tree(draw)
    last = tree.norm(draw(st.sampled_from([2, 4])), 3)
    results = ", ".join(f"float[] {name}" for name in ["y", *tree.outputs])
    body = f"r = Transpose <perm = [0, 2, 3, 1]> (x) {' '.join(tree.lines)} y = Identity ({last})"
    return model(f"(float[2,2,2,2] x) => ({results}) {{ {body} }}", **tree.tensors)


def test_whatever_moves_in_a_tree_is_the_same_function_and_folds_no_further() -> None:
    tally = Tally()
    ways: set[str] = set()

    @examples(250)
    @given(trees(), arrays((2, 2, 2, 2), np.float32))
    def check(before: onnx.ModelProto, x: Array) -> None:
        found = judged(before, {"x": x}, 8 * len(before.graph.node))
        tally.add(found)
        ways.update(site.op for move in found.folded.plan.moves for site in move.path)

    check()
    assert tally.counted["moved"] >= 100
    assert ways >= {
        "Concat",
        "Add",
        "Sub",
        "Sum",
        "Max",
        "MaxPool",
        "AveragePool",
        "Relu",
        "Split",
        "Slice",
        "Mul",
        "Transpose",
    }
