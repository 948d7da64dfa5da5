"""One seed -> one graph: its form, its blocks, and what the file says of its sizes.

The first block goes round through all there are, so that each comes as often; the others are drawn, the more often the
fewer forms they fit. Those that fill a cell of the op table come four times as often as those that must be refused. A
block that cannot stand where it was drawn is left out. Leaving further ones out makes a graph that fails smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from graph_blocks import FIRST_OPSET, Block, blocks, fills
from graph_builder import IMAGE, ROWS, TOKENS, Builder, Flow, Form, Unfit
from graph_cells import BESIDE, IS, MERGES, of_the_table
from graph_layers import layer
from graph_operators import LAST_OPSET
from graph_patterns import PATTERNS
from graph_single import SINGLE_CELLS
from onnx import helper

BLOCKS: dict[str, Block] = {**blocks(), **SINGLE_CELLS, **PATTERNS}
NAMES = tuple(BLOCKS)
COMMON = {
    *(f"{way} {op}" for way in ("behind", "before") for op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")),
    "back Add",
}
"""Of these there is something in most other blocks."""
WANTED = tuple(
    name for name in NAMES
    if fills(name).way in {BESIDE, MERGES}
    or (fills(name) in of_the_table() and fills(name).way != IS and name not in COMMON)
)  # fmt: skip
ROUND = (*NAMES, *WANTED, *WANTED, *WANTED)
"""The first blocks of one seed after another."""

MERGED = 0.4
"""The share of graphs in which parallel convolutions become one."""

MOST_ELEMENTS = 1200
ATTEMPTS = 6
SHARES = {np.float32: 6, np.float16: 2, np.float64: 2}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A graph: the model, its blocks in order (by number), the shape of its input, and its symbolic dimensions."""

    seed: int
    proto: onnx.ModelProto
    blocks: tuple[tuple[int, str], ...]
    shape: tuple[int, ...]
    sizes: dict[str, int]
    form: Form
    merge: bool
    """Whether parallel convolutions are to become one."""


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What is drawn before any block is made."""

    form: Form
    names: tuple[str, ...]
    shape: tuple[int, ...]
    axis: int
    symbolic: tuple[int, ...]
    merge: bool


def drawn(seed: int, without: frozenset[int] = frozenset()) -> Drawn:
    """The graph of a seed, without some of its blocks."""
    recipe = _recipe(seed)
    g = Builder(recipe.form)
    dims = [f"d{i}" if i in recipe.symbolic else n for i, n in enumerate(recipe.shape)]
    x = Flow("x", recipe.shape, recipe.axis)
    made: list[tuple[int, str]] = []
    for number, name in enumerate(recipe.names):
        if number in without:
            continue
        following = _attempted(g, x, seed, number, BLOCKS[name])
        if following is not None:
            x = following
            made.append((number, name))
    g.begin(99, [seed, 99])
    outputs = dict.fromkeys([*g.outputs, _ended(g, x)])
    graph = helper.make_graph(
        g.scope.nodes, "graph", [g.port("x", shape=dims)], [g.port(name) for name in outputs], g.scope.tensors
    )
    if recipe.form.ir < 4:
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in graph.initializer)
    opsets = [helper.make_opsetid("", recipe.form.opset)]
    opsets += [helper.make_opsetid("local", 1)] if g.functions else []
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=recipe.form.ir, functions=g.functions)
    sizes = {f"d{i}": recipe.shape[i] for i in recipe.symbolic}
    return Drawn(seed, proto, tuple(made), recipe.shape, sizes, recipe.form, recipe.merge)


def _recipe(seed: int) -> _Recipe:
    rng = np.random.default_rng([seed, 12345])
    first = ROUND[seed % len(ROUND)]
    types = BLOCKS[first].types
    shares = np.array([SHARES[one] for one in types])
    data = types[int(rng.choice(len(types), p=shares / shares.sum()))]
    opset = int(rng.choice(BLOCKS[first].opsets))
    half = data is np.float16
    statistics = np.float32 if half and opset >= 15 and rng.random() < 0.5 else data
    spatial = int(rng.choice([n for n in (1, 2, 2, 2, 3) if n in BLOCKS[first].spatial]))
    ir = 3 if opset <= 9 and rng.random() < 0.3 else 8 if opset < 20 else 10
    form = Form(data, statistics, opset, spatial, ir)
    able = [name for name, block in BLOCKS.items() if _may_stand(block, form)]
    weights = np.array([_rarity(name) for name in able])
    names = [str(name) for name in rng.choice(able, int(rng.integers(3, 6)), p=weights / weights.sum())]
    names.insert(int(rng.integers(0, len(names) + 1)), first)
    shape, axis = _shape(rng, form)
    symbolic = () if rng.random() < 0.65 else (0,) if rng.random() < 0.6 else _all_but(axis, len(shape))
    return _Recipe(form, tuple(names), shape, axis, symbolic, bool(rng.random() < MERGED))


def _rarity(name: str) -> float:
    """How much oftener a block is to be drawn where it fits, for it fits few forms, or fills a cell of the table."""
    block = BLOCKS[name]
    opsets = len(block.opsets) / (LAST_OPSET + 1 - FIRST_OPSET)
    types = sum(SHARES[one] for one in block.types) / sum(SHARES.values())
    return (4 if name in WANTED else 1) / (opsets * types * len(block.spatial) / 3)


def _may_stand(block: Block, form: Form) -> bool:
    return form.opset in block.opsets and form.data in block.types and form.spatial in block.spatial


def _all_but(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(i for i in range(rank) if i != axis)


def _shape(rng: np.random.Generator, form: Form) -> tuple[tuple[int, ...], int]:
    kind = str(rng.choice([IMAGE, IMAGE, IMAGE, ROWS, TOKENS] if form.data is not np.float64 else [ROWS, TOKENS]))
    batch, channels = int(rng.choice([1, 2])), int(rng.choice([2, 3, 4, 4]))
    if kind == ROWS:
        return (batch + 1, channels), 1
    if kind == TOKENS:
        return (batch, int(rng.integers(2, 5)), channels), 2
    side = {1: 8, 2: 5, 3: 3}[form.spatial] + int(rng.integers(0, 2))
    return (batch, channels, *[side] * form.spatial), 1


def _attempted(g: Builder, x: Flow, seed: int, number: int, block: Block) -> Flow | None:
    """The value behind a block, tried a few times; None where it cannot stand here."""
    for attempt in range(ATTEMPTS):
        g.begin(number, [seed, number, attempt])
        before = g.so_far()
        try:
            y = block.make(g, _smaller(g, x))
            return y if g.kind(y) else g.to(TOKENS, y)
        except Unfit:
            g.back_to(before)
    return None


def _smaller(g: Builder, x: Flow) -> Flow:
    """A value that is large, as rows; and a single place now and then as many again."""
    if np.prod(x.shape) > MOST_ELEMENTS or x.channels > 16:
        return g.to(ROWS, x)
    if g.kind(x) == IMAGE and max(x.spatial) == 1 and g.chance(0.7) and g.form.data is not np.float64:
        return g.to(IMAGE, g.to(ROWS, x))
    return x


def _ended(g: Builder, x: Flow) -> str:
    """The output: a layer's, that of what lets nothing through, or the value itself."""
    if g.chance(0.3) and not (g.kind(x) == IMAGE and g.form.data is np.float64):
        return layer(g, x).name
    if g.chance(0.4):
        return g.wall(x).name
    if g.chance(0.5) or x.name == "x":
        return g.node("Identity", x.name)
    return x.name
