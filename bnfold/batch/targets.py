"""Where each model of several goes.

Invariant: no two go to the same place, and none takes the place of another that is read; else nothing is begun.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bnfold.batch.sources import STDIN, Source, Sources
from bnfold.errors import CannotWrite, UsageError


def targets(found: Sources, output: str) -> list[Path]:
    """Into the folder `output` if several were asked for or if it is one, else to that very file.

    Models of the same name keep the path below the folder that all have in common. Raises UsageError where two would
    go to the same place or where `output` is a file for several models, CannotWrite where no folder can be made.
    """
    folder = Path(output)
    if found.is_one and not folder.is_dir() and not output.endswith(("/", os.sep)):
        return [folder]
    if folder.is_file():
        raise UsageError(f"{output!r} is a file; several models need a folder")
    if found.models[0].name == STDIN:
        raise UsageError(f"what comes by stdin has no name: name a file instead of {output!r}")
    names = _names(found.models)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UsageError(f"two models would go to {repeated[0]!r} in {output!r}")
    paths = [folder / name for name in names]
    _check_places(found.models, paths)
    for parent in {path.parent for path in paths}:
        _make(parent)
    return paths


def in_place(found: Sources) -> None:
    """Raise UsageError for a model that has no place, or is named twice."""
    names = [one.name for one in found.models]
    if STDIN in names:
        raise UsageError("what comes by stdin cannot be replaced in place")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UsageError(f"{repeated[0]!r} is named twice")


def _names(models: Sequence[Source]) -> list[str]:
    names = [one.below for one in models]
    if len(set(names)) == len(names):
        return names
    absolute = [str(Path(one.name).parent.resolve() / Path(one.name).name) for one in models]
    common = os.path.commonpath([Path(path).parent for path in absolute])
    return [os.path.relpath(path, common) for path in absolute]


def _check_places(models: Sequence[Source], paths: Sequence[Path]) -> None:
    read = {Path(one.name).resolve(): index for index, one in enumerate(models)}
    for index, path in enumerate(paths):
        taken = read.get(path.resolve(), index)
        if taken != index:
            raise UsageError(f"{models[index].name!r} would take the place of {models[taken].name!r}, which is read")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"the folder {str(folder)!r} cannot be made: {error.strerror or error}") from error
