"""The fold that was refused, as if it were none: the affine moved past the blamed node, and both sides evaluated.

    behind the node     A(f(x))      against   f(A'(x))        A' as the op table maps it where the numbers allow that
    before it           f(A(x))      against   A'(f(x))
    a layer             A(f(x))      against   f'(x)           its weight with the nearest affine of its own channels
    a layer ahead       f(A(x))      against   f'(x)           its weight as if every output saw every tap

Of several such folds the one that differs least is shown: that is the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.nodes import Node, Value
from bnfold.ops.absorb import Linear
from bnfold.ops.facts import Array, Constant, Facts
from bnfold.ops.forward import forward
from bnfold.ops.home import Furnishing
from bnfold.ops.linear import ways_of
from bnfold.ops.passing import Passed, backward
from bnfold.ops.rounding import HALF_UNITS
from bnfold.witnessing.evaluating import CannotEvaluate, Region, element_type
from bnfold.witnessing.values import Numbers
from bnfold.witnessing.ways import Reached

SIZES = (1.0, 4.0)
"""Sizes of the values that are drawn: the second reaches what the first does not."""

Values = Mapping[int, Array]
Guess = Callable[[Values], Float64]


@dataclass(frozen=True, slots=True)
class Draw:
    """Which values are drawn: normal ones of a size, in the shapes of the model, or smaller except along `kept`."""

    seed: int
    size: float
    kept: frozenset[int] | None


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """A fold that should not be: what it assumes, and what it gives for some data."""

    assumed: str
    gives: Guess


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The blamed node at its place: what the original gives, its size S, the fan-in, and the folds to try."""

    region: Region
    original: Guess
    size: Guess
    fan_in: int | None
    folds: tuple[Fold, ...]
    acts_on: int | None = None
    """The value that the affine makes: what is drawn in its place is what it acts on."""


def nearest(facts: Facts, reached: Reached, behind: Value, seed: int) -> Numbers:
    """The nearest wrong fold on drawn values, at the element where it is most bounds off; raises CannotEvaluate.

    `behind` is what the affine puts out: its type says how large the bound is.
    """
    compared = _ahead(facts, reached) if reached.is_forward else _back(facts, reached)
    unit = HALF_UNITS[element_type(facts, compared.region.target if reached.is_forward else behind)]
    problem = CannotEvaluate("no fold comes near enough to be tried")
    channels = frozenset({1, *(axis for axis, size in enumerate(reached.affine.shape) if size != 1)})
    for kept in (channels, None):
        found: list[Numbers] = []
        for fold in compared.folds:
            try:
                tried = [_measured(compared, fold, unit, Draw(seed, size, kept)) for size in SIZES]
            except CannotEvaluate as error:
                problem = error
            else:
                found.append(max(tried, key=lambda numbers: numbers.bounds_off))
        if found:
            return min(found, key=lambda numbers: numbers.bounds_off)
    raise problem


def _measured(compared: Compared, fold: Fold, unit: float, draw: Draw) -> Numbers:
    region = compared.region
    values = region.drawn(np.random.default_rng(draw.seed), draw.size, draw.kept)
    try:
        with np.errstate(all="ignore"):
            original, folded = compared.original(values), fold.gives(values)
            sizes = np.maximum(np.maximum(compared.size(values), np.abs(original)), np.abs(folded))
    except ValueError as error:  # shapes that do not broadcast
        raise CannotEvaluate("the affine does not fit what the operator reads or makes") from error
    if original.shape != folded.shape or not original.size:
        raise CannotEvaluate("the affine does not fit what the operator reads or makes")
    fan_in = compared.fan_in or _window(values)
    bound = (4 * np.sqrt(fan_in) + 8) * unit * np.broadcast_to(sizes, original.shape)
    off = np.abs(original - folded) / np.where(bound > 0, bound, np.inf)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.nan_to_num(off))), off.shape))
    names = {v.id: f"{v.name} (before the affine)" if v.id == compared.acts_on else v.name for v in region.data}
    inputs = {names[id_]: np.asarray(array) for id_, array in values.items()}
    at = f"the output of {region.nodes[-1].site}"
    return Numbers(
        at, fold.assumed, place, float(original[place]), float(folded[place]), float(bound[place]), draw.seed, inputs
    )


def _acted(affine: Affine, value: Array) -> Float64:
    """An affine of a value; one that would enlarge it does not fit."""
    if affine.rank > value.ndim:
        raise ValueError("of another rank")
    result = np.asarray(affine.scale * value.astype(np.float64) + affine.shift)
    if result.shape != value.shape:
        raise ValueError("it would enlarge the value")
    return result


def _absolute(values: Values) -> dict[int, Array]:
    return {id_: np.abs(array) for id_, array in values.items()}


# --- back -----------------------------------------------------------------------------------------------------------


def _back(facts: Facts, reached: Reached) -> Compared:
    node, affine = reached.node, reached.affine
    region = Region.at(facts, node, reached.index)
    layers = [way for way in _layers(facts, node) if reached.index == 0]
    size = Affine(np.abs(affine.scale), np.abs(affine.shift))
    weights = _magnitudes(layers[0]) if layers else {}

    def sizes(values: Values) -> Float64:
        return _acted(size, np.maximum(np.abs(region.run(values)), np.abs(region.run(_absolute(values), weights))))

    folds = [fold for way in layers for fold in _into(region, way, affine)]
    if not layers:
        folds = [_given(region, given) for given in _ways_back(facts, region, reached)]
    fan_in = _fan_in(layers[0]) if layers else None
    return Compared(region, lambda values: _acted(affine, region.run(values)), sizes, fan_in, tuple(folds))


def _given(region: Region, given: Mapping[int, Affine]) -> Fold:
    names = ", ".join(repr(value.name) for value in region.data if value.id in given)

    def gives(values: Values) -> Float64:
        moved = {id_: _acted(given[id_], array) if id_ in given else array for id_, array in values.items()}
        return region.run(moved)

    return Fold(f"the affine acts on {names} instead, before {region.nodes[-1].site}", gives)


def _ways_back(facts: Facts, region: Region, reached: Reached) -> Iterator[dict[int, Affine]]:
    """The affines that the data might bear instead: as the table maps them, else the same one, on all or on one."""
    node, affine = reached.node, reached.affine
    mapped = _mapped_back(facts, reached)
    places = {value.id for value in region.data}
    found = {
        value.id: before
        for index, before in mapped.items()
        if (value := node.input(index)) is not None and value.id in places
    }
    same = {value.id: affine for value in region.data}
    for candidate in (found, same):
        if candidate:
            yield candidate
        if len(candidate) > 1:
            yield from ({id_: before} for id_, before in candidate.items())


def _mapped_back(facts: Facts, reached: Reached) -> dict[int, Affine]:
    """By input, how a positive scale of the same layout passes, undone of what made it positive."""
    far = 1 + float(np.max(np.abs(reached.affine.scale))) + float(np.max(np.abs(reached.affine.shift)))
    parts: list[dict[int, Affine]] = []
    for array in (reached.affine.scale, reached.affine.shift):
        lifted = Affine(array + far, np.zeros_like(array))
        passed = backward(facts, reached.node, lifted, reached.index)
        if not isinstance(passed, Passed):
            return {}
        parts.append({passage.index: passage.affine for passage in passed.passages})
    scales, shifts = parts
    return {i: Affine(scales[i].scale - far, shifts[i].scale - far) for i in scales.keys() & shifts.keys()}


# --- ahead ----------------------------------------------------------------------------------------------------------


def _ahead(facts: Facts, reached: Reached) -> Compared:
    node, affine = reached.node, reached.affine
    region, read = Region.at(facts, node), node.input(reached.index)
    if read is None or read not in region.data:
        raise CannotEvaluate("the affine does not act on the data")
    size = Affine(np.abs(affine.scale), np.abs(affine.shift))
    layers = list(_layers(facts, node))
    weights = _magnitudes(layers[0]) if layers else {}

    def original(values: Values) -> Float64:
        return region.run({**values, read.id: _acted(affine, values[read.id])})

    def sizes(values: Values) -> Float64:
        absolute = _absolute(values)
        return np.abs(region.run({**absolute, read.id: _acted(size, absolute[read.id])}, weights))

    folds = [fold for way in layers for fold in _taken(region, way, reached)]
    if not layers:
        folds = [_behind(region, after) for after in _ways_ahead(facts, reached)]
    fan_in = _fan_in(layers[0]) if layers else None
    return Compared(region, original, sizes, fan_in, tuple(folds), acts_on=read.id)


def _behind(region: Region, after: Affine) -> Fold:
    assumed = f"the affine acts on what {region.nodes[-1].site} makes instead"
    return Fold(assumed, lambda values: _acted(after, region.run(values)))


def _ways_ahead(facts: Facts, reached: Reached) -> Iterator[Affine]:
    affine = reached.affine
    right = forward(facts, reached.node, reached.index, affine)
    if isinstance(right, tuple) and len(right) == 1:
        yield right[0]
    far = 1 + float(np.max(np.abs(affine.scale))) + float(np.max(np.abs(affine.shift)))
    parts: list[Float64] = []
    for array in (affine.scale, affine.shift):
        after = forward(facts, reached.node, reached.index, Affine(array + far, np.zeros_like(array)))
        parts += [after[0].scale - far] if isinstance(after, tuple) and len(after) == 1 else []
    if len(parts) == 2:
        yield Affine(*parts)
    yield affine


# --- layers ---------------------------------------------------------------------------------------------------------


def _layers(facts: Facts, node: Node) -> Iterator[Linear]:
    """The ways in which a layer absorbs, its weights in float64."""
    ways = ways_of(facts, node)
    for way in ways if isinstance(ways, tuple) else ():
        if isinstance(way, Linear) and isinstance(way.weight, Constant) and isinstance(way.bias, Constant | None):
            yield in_float64(way)


def in_float64(way: Linear) -> Linear:
    """The same layer with its weight and bias in float64, so that what it makes of them is not rounded."""
    weight = way.weight.in_float64() if isinstance(way.weight, Constant) else way.weight
    return replace(way, weight=weight, bias=way.bias.in_float64() if isinstance(way.bias, Constant) else way.bias)


def _into(region: Region, way: Linear, affine: Affine) -> Iterator[Fold]:
    """A layer that takes over the nearest affine of its own outputs: the mean along all other axes."""
    axes = way.axes_at(affine.rank)
    if not all(0 <= axis < affine.rank for axis in axes):
        return
    own = _projected(affine, axes)
    if any(own.shape[axis] not in {1, size} for axis, size in zip(axes, way.sizes, strict=True)):
        return
    assumed = f"{way.node.site} takes over the mean of the affine along its own outputs"
    yield _furnished(region, way, way.furnishing(own), assumed)


def _taken(region: Region, way: Linear, reached: Reached) -> Iterator[Fold]:
    """A layer that takes over an affine of its data as if each output saw every tap, and each channel had but one."""
    if way.fed is None or way.fed.data_input != reached.index:
        return
    axes = way.fed.axes_at(reached.affine.rank)
    if not all(0 <= axis < reached.affine.rank for axis in axes):
        return
    before = _projected(reached.affine, axes)
    fed = replace(way, fed=replace(way.fed, sees_all=True)).fed_by(before, reached.index)
    if isinstance(fed, Linear):
        after = Affine.identity(fed.output_rank(before))
        assumed = f"{way.node.site} takes it over as if its padding were shifted too"
        exact = reached.affine.varies_only_along(axes)
        yield _furnished(region, fed, fed.furnishing(after), assumed if exact else f"{way.node.site} takes its mean")


def _furnished(region: Region, way: Linear, furnishing: Furnishing, assumed: str) -> Fold:
    changed = {(way.node.id, new.index): new.content() for new in furnishing.constants}
    added = None if furnishing.added is None else furnishing.added.content()

    def gives(values: Values) -> Float64:
        made = region.run(values, changed, furnishing.dropped)
        return made if added is None else np.asarray(made + added.astype(np.float64))

    return Fold(assumed, gives)


def _projected(affine: Affine, axes: tuple[int, ...]) -> Affine:
    others = tuple(i for i in range(affine.rank) if i not in axes)
    full = [np.broadcast_to(array, affine.shape) for array in (affine.scale, affine.shift)]
    return Affine(*(array.mean(axis=others, keepdims=True) for array in full))


def _magnitudes(way: Linear) -> dict[tuple[int, int], Array]:
    """A layer's constants in size."""
    found = {}
    for index, constant in ((way.weight_input, way.weight), (way.bias_input, way.bias)):
        if index is not None and isinstance(constant, Constant):
            found[way.node.id, index] = np.abs(constant.array())
    return found


def _fan_in(way: Linear) -> int:
    return max(1, int(np.prod(way.weight.dims, dtype=np.int64)) // way.channels)


def _window(values: Values) -> int:
    """How many elements an operator without weights may join: all those behind the first two axes."""
    return max((int(np.prod(array.shape[2:], dtype=np.int64)) for array in values.values()), default=1)
