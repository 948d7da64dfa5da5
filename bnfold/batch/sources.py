"""What a user named, as models: files, folders, globs that no shell has expanded, lists of names, and stdin.

A folder is searched for *.onnx, hidden folders left out; what is found is sorted by its path, and keeps its path below
the folder in a folder of outputs (from a glob: below the part of it that is no pattern). What is found twice is one
model, and what lies in the folder of outputs is none, or a second run would fold what the first one wrote.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnfold.errors import UsageError

STDIN = "-"
SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True)
class Source:
    """One model: its file, its path in a folder of outputs, and why there is nothing to read, if there is not."""

    name: str
    below: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """All models, in the order in which they were named. `is_one`: whether a single file was asked for."""

    models: tuple[Source, ...]
    is_one: bool


def sources(models: Sequence[str], listed: Sequence[str] | None = None, *, output: str | None = None) -> Sources:
    """The models that arguments and a list of names ask for; `output` is where they go to, if that is a folder.

    Names of a list are files or folders, and never globs. Raises UsageError where there is no model at all, and for
    stdin beside others.
    """
    given = [*models, *(listed or ())]
    if STDIN in given:
        return _stdin(given)
    named = [*(found for name in models for found in _expanded(name)), *(f for name in listed or () for f in _of(name))]
    if not named:
        raise UsageError("there is no model: name a MODEL, or some by --files-from")
    is_one = listed is None and len(models) == 1 and named[0].is_plain
    outside = named if output in {None, STDIN} else _outside(named, Path(str(output)))
    return Sources(tuple(one.source for one in _once(outside)), is_one)


def names_in(text: str) -> list[str]:
    """The names of a list: one a line, or with NUL after each, as `find -print0` has it."""
    entries = text.split("\0") if "\0" in text else text.splitlines()
    return [entry for entry in entries if entry.strip()]


@dataclass(frozen=True, slots=True)
class _Found:
    """A source, and whether a user named that very file."""

    source: Source
    is_plain: bool


def _stdin(given: Sequence[str]) -> Sources:
    if len(given) > 1:
        raise UsageError("- (stdin) takes one model, and no other beside it")
    return Sources((Source(STDIN, STDIN),), is_one=True)


def _expanded(name: str) -> Iterator[_Found]:
    if os.path.lexists(name) or not glob.has_magic(name):
        yield from _of(name)
        return
    found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  # a pattern may be absolute, and Path.glob takes none
    if not found:
        yield _Found(Source(name, Path(name).name, trouble=f"{name!r} names no file"), is_plain=False)
    base = _before_pattern(name)
    for path in found:
        if Path(path).is_dir():
            yield from _within(path, base, is_asked=False)
        else:
            yield _Found(Source(path, os.path.relpath(path, base)), is_plain=False)


def _of(name: str) -> Iterator[_Found]:
    if Path(name).is_dir():
        yield from _within(name, name, is_asked=True)
    else:
        yield _Found(Source(name, Path(name).name), is_plain=True)


def _within(folder: str, base: str, *, is_asked: bool) -> Iterator[_Found]:
    """The models of a folder; `base` is what their paths below are counted from."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        found += [str(Path(place, file)) for file in files if file.endswith(SUFFIX) and not file.startswith(".")]
    if not found and is_asked:
        yield _Found(
            Source(folder, Path(folder).name, trouble=f"{folder!r} is a folder without any {SUFFIX} file"),
            is_plain=False,
        )
    for path in sorted(found, key=lambda path: Path(path).parts):
        yield _Found(Source(path, os.path.relpath(path, base)), is_plain=False)


def _before_pattern(pattern: str) -> str:
    """The folder in front of the first part of a pattern that is one."""
    plain: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return str(Path(*plain)) if plain else os.curdir


def _outside(named: Iterable[_Found], output: Path) -> list[_Found]:
    """Without what a search found in the folder of outputs, unless that is where it searched."""
    inside = output.resolve()
    return [
        one
        for one in named
        if one.is_plain
        or one.source.trouble
        or not Path(one.source.name).resolve().is_relative_to(inside)
        or _root_of(one.source).is_relative_to(inside)
    ]


def _root_of(source: Source) -> Path:
    """The folder that was searched."""
    path = Path(source.name).resolve()
    return path.parents[len(Path(source.below).parts) - 1]


def _once(named: Iterable[_Found]) -> Iterator[_Found]:
    """What was named by itself, and each file that a search found unless it was there before."""
    seen: set[str] = set()
    for one in named:
        path = str(Path(one.source.name).absolute())
        if one.is_plain or path not in seen:
            yield one
        seen.add(path)
