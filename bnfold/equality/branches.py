"""Inputs that take both branches of every If that an input decides, as far as cheap ones do.

What the comparison has run already is looked at first. For conditions seen with one value only, further inputs are
tried: other sizes; the first batch moved away from zero to either side; integers and floats at, above and below the
constants that the condition is computed from; other draws. Only conditions are computed for them (conditions.py). An
input that shows a new value is run in full, if the original gives nothing but numbers on it. What is left is told.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx.checker import ValidationError

from bnfold.equality.conditions import CannotWatch, Fork, forks_of, is_forked, watching
from bnfold.equality.inputs import CannotFeed, fed_inputs, has_free_dims, random_batches
from bnfold.equality.measure import is_float, widened
from bnfold.equality.readers import Readers
from bnfold.equality.runner import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from bnfold.equality.inputs import Batch
    from bnfold.equality.prepare import Upgrade
    from bnfold.equality.runner import Runner

Outputs = dict[str, np.ndarray]

MOST_CANDIDATES: Final = 40
MOST_HEAVY_CANDIDATES: Final = 12
_FILLS: Final = (3, 8, 32)
_DRAWS: Final = 4
_MOST_CONSTANTS: Final = 4
_FAR: Final = (1.0, -1.0, 10.0, -10.0, 1000.0, -1000.0)
_ENDLESS: Final = (1 << 31) - 1  # where a slice ends that has no end: no number that anything is compared with
_LIGHT: Final = 1 << 20  # bytes of a copy that runs in no time
_FEW: Final = 3  # names in a note


@dataclass(frozen=True, slots=True)
class Search:
    """Where to look for inputs: the original as a file and as a protobuf, the way to run it, and the user's wishes."""

    path: Path
    proto: onnx.ModelProto
    runner: Runner
    upgrade: Upgrade
    seed: int
    dims: Mapping[str, int]


def reaching(
    search: Search, tried: Sequence[Batch], run: Callable[[Batch], Outputs]
) -> Generator[tuple[Batch, Outputs], None, tuple[str, ...]]:
    """Batches that take branches which those `tried` did not, each with what `run` (the original) gives on it.

    Returns remarks: which branches were never taken, as far as that is known.
    """
    if not tried or not is_forked(search.proto):
        return ()
    forks, nested = forks_of(search.proto)
    notes = [f"{nested} If node(s) inside other graphs: which of their branches ran is not known"] if nested else []
    if not forks:
        return tuple(notes)
    seen = _Seen(forks)
    try:
        copy = _copy(search, forks)
        most = MOST_CANDIDATES if len(copy) <= _LIGHT else MOST_HEAVY_CANDIDATES
        with _watch(search, forks, copy) as conditions:
            for batch in tried:
                if seen.missing():
                    seen.add(conditions(batch))
            yield from _found(seen, conditions, islice(_candidates(search, forks, tried[0]), most), run)
    except (CannotWatch, CannotRun, ValidationError, ValueError, OSError) as error:
        return (*notes, f"which branches of If nodes ran is not known: {' '.join(str(error).split())}")
    return (*seen.remarks(), *notes)


class _Seen:
    """The values that each condition has had."""

    def __init__(self, forks: Sequence[Fork]) -> None:
        self._forks = forks
        self._values: dict[str, set[bool]] = {fork.condition: set() for fork in forks}

    def add(self, values: Mapping[str, bool]) -> None:
        for name, value in values.items():
            self._values[name].add(value)

    def news(self, values: Mapping[str, bool]) -> bool:
        return any(value not in self._values[name] for name, value in values.items())

    def missing(self) -> list[Fork]:
        return [fork for fork in self._forks if len(self._values[fork.condition]) < 2]

    def remarks(self) -> Iterator[str]:
        for value in (True, False):
            found = (fork.title for fork in self.missing() if value in self._values[fork.condition])
            names = list(dict.fromkeys(found))
            if names:
                further = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
                branch = "else" if value else "then"
                yield (
                    f"If {', '.join(names[:_FEW])}{further}: the condition was {str(value).lower()} on every input "
                    f"tried, so that the {branch} branch was never compared"
                )


def _found(
    seen: _Seen,
    conditions: Callable[[Batch], Mapping[str, bool]],
    candidates: Iterator[Batch],
    run: Callable[[Batch], Outputs],
) -> Iterator[tuple[Batch, Outputs]]:
    if not seen.missing():
        return
    for batch in candidates:
        try:
            values = conditions(batch)
            outputs = run(batch) if seen.news(values) else {}
        except CannotRun as error:
            if error.kind != "refused":
                raise
            continue
        if outputs and all(_is_finite(value) for value in outputs.values()):
            seen.add(values)
            yield batch, outputs
        if not seen.missing():
            return


def _is_finite(value: np.ndarray) -> bool:
    return not is_float(value) or bool(np.isfinite(widened(value)).all())


def _copy(search: Search, forks: Sequence[Fork]) -> bytes:
    """The model that computes the conditions, empty if all of them are inputs."""
    fed = {port.name for port in fed_inputs(search.proto)}
    if all(fork.condition in fed for fork in forks):
        return b""
    model = onnx.load(search.path, load_external_data=False)  # the protobuf at hand may hold no weights
    return watching(model, forks, search.path.parent)


@contextmanager
def _watch(search: Search, forks: Sequence[Fork], copy: bytes) -> Iterator[Callable[[Batch], dict[str, bool]]]:
    """A function from a batch to what each condition is on it."""
    names = {fork.condition for fork in forks}
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        path = Path(folder) / "conditions.onnx"
        path.write_bytes(copy)

        def conditions(batch: Batch) -> dict[str, bool]:
            values = {name: value for name, value in batch.feeds.items() if name in names}
            if copy:
                values |= search.runner.run(path, batch.feeds, upgrade=search.upgrade)
            return {name: bool(value.reshape(-1)[0]) for name, value in values.items() if value.size}

        yield conditions


def _candidates(search: Search, forks: Sequence[Fork], first: Batch) -> Iterator[Batch]:
    if has_free_dims(search.proto, search.dims):
        yield from _sizes(search)
    if not any(fork.by_value for fork in forks):
        return
    every = dict.fromkeys(number for fork in forks for number in fork.constants if abs(number) < _ENDLESS)
    constants = list(every)[:_MOST_CONSTANTS]
    numbers = [around for number in constants for around in (number, number + 1, number - 1)]
    free = _free_inputs(search)
    floats = {name for name, value in first.feeds.items() if name in free and is_float(value)}
    integers = {name for name, value in first.feeds.items() if name in free and value.dtype.kind in "iu"}
    beyond = 2 * max(map(abs, constants), default=0.0)
    distances = dict.fromkeys((*_FAR, *((beyond, -beyond) if beyond else ())))
    yield from (_moved(first, distance, floats) for distance in distances if floats)
    yield from (_filled(first, number, integers) for number in (*numbers, 0, 1, 100) if integers)
    yield from _draws(search)
    yield from (_filled(first, number, floats) for number in (0, *numbers) if floats)


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
