"""Inputs that take both branches of every If that an input decides, as far as cheap ones do.

What the comparison has run already is looked at first. For conditions seen with one value only, further inputs are
tried: other sizes; all that few bools can say; more rounds of loops; then, beginning at an input that reaches the If at
all, the batch moved away from zero to either side, and integers and floats at, above and below the constants that the
condition is computed from; other draws. Only conditions are computed for them (conditions.py). An input that shows a
new value is run in full, if the original gives nothing but numbers on it. What is left is told.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx.checker import ValidationError

from bnfold.equality.conditions import CannotWatch, Fork, Place, forks_of, is_forked, watching, whole_numbers
from bnfold.equality.inputs import CannotFeed, fed_inputs, has_free_dims, random_batches
from bnfold.equality.measure import is_float, widened
from bnfold.equality.nested import bodies_of, nodes_of, without_functions
from bnfold.equality.readers import Readers
from bnfold.equality.runner import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from bnfold.equality.inputs import Batch
    from bnfold.equality.prepare import Upgrade
    from bnfold.equality.runner import Runner

Outputs = dict[str, np.ndarray]
Conditions = dict[str, frozenset[bool]]
"""By the key of a fork: what its condition was, or both if it was asked for more than once; nothing if never."""

MOST_CANDIDATES: Final = 40
MOST_HEAVY_CANDIDATES: Final = 12
_FILLS: Final = (3, 8, 32)
_DRAWS: Final = 4
_MOST_CONSTANTS: Final = 4
_FAR: Final = (1.0, -1.0, 10.0, -10.0, 1000.0, -1000.0)
_ENDLESS: Final = (1 << 31) - 1  # where a slice ends that has no end: no number that anything is compared with
_LIGHT: Final = 1 << 20  # bytes of a copy that runs in no time
_FEW: Final = 3  # names in a note
_MOST_SWITCHES: Final = 4
_ROUNDS: Final = 16  # of a loop
_MOST_ROUNDS: Final = 256
_BRANCHES: Final = ((True, "then_branch"), (False, "else_branch"))


@dataclass(frozen=True, slots=True)
class Search:
    """Where to look for inputs: the original as a file and as a protobuf, the way to run it, and the user's wishes."""

    path: Path
    proto: onnx.ModelProto
    runner: Runner
    upgrade: Upgrade
    seed: int
    dims: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Unreached:
    """Remarks on branches that never ran, and where those graphs stand, as far as that is known."""

    notes: tuple[str, ...] = ()
    branches: tuple[Place, ...] = ()


def reaching(
    search: Search, tried: Sequence[Batch], run: Callable[[Batch], Outputs]
) -> Generator[tuple[Batch, Outputs], None, Unreached]:
    """Batches that take branches which those `tried` did not, each with what `run` (the original) gives on it.

    So do further rounds of loops, where an input says how many there are. Returns what was never reached.
    """
    if not tried:
        return Unreached()
    longer = [(batch, _outputs(batch, run)) for batch in _longer(search, tried[0])]
    taken = [(batch, outputs) for batch, outputs in longer if outputs]
    yield from taken
    if not is_forked(search.proto):
        return Unreached()
    try:
        forks, hidden = forks_of(without_functions(search.proto))
    except Exception as error:  # noqa: BLE001  # onnx's inliner raises what it likes
        return Unreached((f"which branches of If nodes ran is not known: {' '.join(str(error).split())}",))
    notes = [f"{hidden} If node(s) inside other graphs: which of their branches ran is not known"] if hidden else []
    if not forks:
        return Unreached(tuple(notes))
    seen = _Seen(forks)
    try:
        copy = _copy(search, forks)
        most = MOST_CANDIDATES if len(copy) <= _LIGHT else MOST_HEAVY_CANDIDATES
        with _watch(search, forks, copy) as conditions:
            for batch in (*tried, *(batch for batch, _ in taken)):
                if seen.missing():
                    seen.add(conditions(batch), batch)
            yield from _found(seen, conditions, islice(_candidates(search, seen, tried[0]), most), run)
    except (CannotWatch, CannotRun, ValidationError, ValueError, OSError) as error:
        why = f"which branches of If nodes ran is not known: {' '.join(str(error).split())}"
        return Unreached((*notes, why), tuple(seen.unreached()))
    return Unreached((*seen.remarks(), *notes), tuple(seen.unreached()))


class _Seen:
    """The values that each condition has had, and an input on which it had one at all."""

    def __init__(self, forks: Sequence[Fork]) -> None:
        self._forks = forks
        self._values: dict[str, set[bool]] = {fork.key: set() for fork in forks}
        self._reached: dict[str, Batch] = {}

    def add(self, values: Conditions, batch: Batch) -> None:
        for key, found in values.items():
            self._values[key] |= found
            if found:
                self._reached.setdefault(key, batch)

    def news(self, values: Conditions) -> bool:
        return any(found - self._values[key] for key, found in values.items())

    def missing(self) -> list[Fork]:
        return [fork for fork in self._forks if len(self._values[fork.key]) < 2]

    def begin(self, fork: Fork) -> Batch | None:
        """An input that reaches an If, whichever way it goes then."""
        return self._reached.get(fork.key)

    def unreached(self) -> Iterator[Place]:
        for fork in self.missing():
            yield from (fork.branch(name) for value, name in _BRANCHES if value not in self._values[fork.key])

    def remarks(self) -> Iterator[str]:
        for value, name in _BRANCHES:
            found = (fork.title for fork in self.missing() if self._values[fork.key] == {not value})
            if titles := _listed(found):
                yield (
                    f"If {titles}: the condition was {str(not value).lower()} on every input "
                    f"tried, so that the {name.removesuffix('_branch')} branch was never compared"
                )
        if titles := _listed(fork.title for fork in self.missing() if not self._values[fork.key]):
            yield f"If {titles}: no input tried reaches it, so that neither of its branches was compared"


def _listed(titles: Iterable[str]) -> str:
    names = list(dict.fromkeys(titles))
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _found(
    seen: _Seen,
    conditions: Callable[[Batch], Conditions],
    candidates: Iterator[Batch],
    run: Callable[[Batch], Outputs],
) -> Iterator[tuple[Batch, Outputs]]:
    if not seen.missing():
        return
    for batch in candidates:
        try:
            values = conditions(batch)
        except CannotRun as error:
            if error.kind != "refused":
                raise
            continue
        outputs = _outputs(batch, run) if seen.news(values) else {}
        if outputs:
            seen.add(values, batch)
            yield batch, outputs
        if not seen.missing():
            return


def _outputs(batch: Batch, run: Callable[[Batch], Outputs]) -> Outputs:
    """What the original gives, if it gives nothing but numbers."""
    try:
        outputs = run(batch)
    except CannotRun as error:
        if error.kind != "refused":
            raise
        return {}
    return outputs if all(map(_is_finite, outputs.values())) else {}


def _is_finite(value: np.ndarray) -> bool:
    return not is_float(value) or bool(np.isfinite(widened(value)).all())


def _copy(search: Search, forks: Sequence[Fork]) -> bytes:
    """The model that computes the conditions, empty if all of them are inputs."""
    fed = {port.name for port in fed_inputs(search.proto)}
    if all(fork.key in fed and not fork.at for fork in forks):
        return b""
    model = onnx.load(search.path, load_external_data=False)  # the protobuf at hand may hold no weights
    return watching(without_functions(model), forks, search.path.parent)


@contextmanager
def _watch(search: Search, forks: Sequence[Fork], copy: bytes) -> Iterator[Callable[[Batch], Conditions]]:
    """A function from a batch to what each condition is on it."""
    inside = {fork.key for fork in forks if fork.at}
    names = {fork.key for fork in forks} - inside
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        path = Path(folder) / "conditions.onnx"
        path.write_bytes(copy)

        def conditions(batch: Batch) -> Conditions:
            values = {name: value for name, value in batch.feeds.items() if name in names}
            if copy:
                values |= search.runner.run(path, batch.feeds, upgrade=search.upgrade)
            return {name: _values(value, counts=name in inside) for name, value in values.items() if value.size}

        yield conditions


def _values(value: np.ndarray, *, counts: bool) -> frozenset[bool]:
    """What a condition was: itself, or how often it was true, and false."""
    if not counts:
        return frozenset({bool(value.reshape(-1)[0])})
    return frozenset(which for which, count in zip((True, False), value, strict=True) if count)


def _candidates(search: Search, seen: _Seen, first: Batch) -> Iterator[Batch]:
    """Inputs to try, cheap and likely ones first; what is still missing is asked for again and again."""
    if has_free_dims(search.proto, search.dims):
        yield from _sizes(search)
    if not any(fork.by_value for fork in seen.missing()):
        return
    yield from _switched(first, _free_inputs(search))
    done: list[Batch] = []
    begun: Batch | None = first
    while begun is not None:
        done.append(begun)
        yield from _near(search, seen, begun, is_first=begun is first)
        begins = (seen.begin(fork) for fork in seen.missing() if fork.by_value)
        begun = next((b for b in begins if b is not None and all(b is not other for other in done)), None)


def _switched(first: Batch, free: set[str]) -> Iterator[Batch]:
    """All that bools can say, where they are few; all true and all false were said."""
    switches = [name for name, value in first.feeds.items() if name in free and value.dtype == np.bool_]
    if not 1 < len(switches) <= _MOST_SWITCHES:
        return
    for values in product((True, False), repeat=len(switches)):
        if len(set(values)) > 1:
            said = dict(zip(switches, values, strict=True))
            feeds = {
                name: np.full(value.shape, said[name]) if name in said else value for name, value in first.feeds.items()
            }
            yield _sibling(first, ", ".join(f"{name!r} {str(v).lower()}" for name, v in said.items()), feeds)


def _longer(search: Search, first: Batch) -> Iterator[Batch]:
    """The first batch with as many rounds of loops as their bodies may count to."""
    uses = Readers(search.proto)
    counts = {
        name for name, value in first.feeds.items()
        if value.dtype.kind in "iu" and (use := uses.use(name, {})) is not None and use.kind == "count"
    }  # fmt: skip
    bodies = [body for node in nodes_of(search.proto) if node.op_type == "Loop" for body in bodies_of(node)]
    if counts and bodies:
        counted = [number for number in whole_numbers(bodies) if number < _MOST_ROUNDS - 1]
        yield _filled(first, max((_ROUNDS, *(number + 2 for number in counted))), counts)


def _near(search: Search, seen: _Seen, begun: Batch, *, is_first: bool) -> Iterator[Batch]:
    """Inputs that differ from one in a number alone, and other draws."""
    missing = seen.missing()
    every = dict.fromkeys(n for fork in missing for n in fork.constants if abs(n) < _ENDLESS)
    constants = list(every)[:_MOST_CONSTANTS]
    numbers = [around for number in constants for around in (number, number + 1, number - 1)]
    free = _free_inputs(search) & {name for fork in missing for name in fork.inputs}
    floats = {name for name, value in begun.feeds.items() if name in free and is_float(value)}
    integers = {name for name, value in begun.feeds.items() if name in free and value.dtype.kind in "iu"}
    beyond = 2 * max(map(abs, constants), default=0.0)
    distances = dict.fromkeys((*_FAR, *((beyond, -beyond) if beyond else ())))
    yield from (_moved(begun, distance, floats) for distance in distances if floats)
    yield from (_filled(begun, number, integers) for number in (*numbers, 0, 1, 100) if integers)
    if is_first:
        yield from _draws(search)
    yield from (_filled(begun, number, floats) for number in (0, *numbers) if floats)


def _sizes(search: Search) -> Iterator[Batch]:
    for fill in _FILLS:
        yield from _random(search, search.seed, fill)[:1]


def _draws(search: Search) -> Iterator[Batch]:
    """Further draws of the batch in which every bool is drawn by itself."""
    for draw in range(1, _DRAWS + 1):
        for batch in _random(search, search.seed + draw, 2)[2:3]:
            yield replace(batch, label=f"{batch.label}, draw {draw + 1}")


def _random(search: Search, seed: int, fill: int) -> tuple[Batch, ...]:
    try:
        return random_batches(search.proto, seed=seed, dims=search.dims, fills=(fill,))
    except CannotFeed:
        return ()


def _free_inputs(search: Search) -> set[str]:
    """The inputs that may take any value, as far as is known."""
    readers = Readers(search.proto)
    return {port.name for port in fed_inputs(search.proto) if readers.use(port.name, {}) is None}


def _moved(first: Batch, distance: float, only: set[str]) -> Batch:
    """The same noise, some way from zero."""
    with np.errstate(over="ignore"):
        feeds = {
            name: (widened(value) + distance).astype(value.dtype) if name in only else value
            for name, value in first.feeds.items()
        }
    return _sibling(first, f"moved by {distance:g}", feeds)


def _filled(first: Batch, number: float, only: set[str]) -> Batch:
    feeds = {name: _full(value, number) if name in only else value for name, value in first.feeds.items()}
    return _sibling(first, f"{number:g} in {', '.join(map(repr, sorted(only)))}", feeds)


def _full(value: np.ndarray, number: float) -> np.ndarray:
    if value.dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            return np.full(value.shape, number).astype(value.dtype)
    limits = np.iinfo(value.dtype)
    return np.full(value.shape, min(max(round(number), limits.min), limits.max), dtype=value.dtype)


def _sibling(first: Batch, what: str, feeds: Mapping[str, np.ndarray]) -> Batch:
    return replace(first, label=f"{first.label}, {what}", feeds=feeds, labels=None, notes=(), shipped=None)
