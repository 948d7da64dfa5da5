"""Several models into one folder: where each goes, and what became of each; one bad model never stops the rest."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bnfold.errors import BnfoldError, CannotWrite, Flagged, UsageError, bug
from bnfold.result import Done, FoldResult

logger = logging.getLogger("bnfold")


def targets(sources: Sequence[str], output: str) -> list[Path]:
    """Where each model goes: into the folder `output` if there are several or it is one, else to that very file.

    Models of the same base name keep the path below the folder that all have in common. Raises UsageError where two
    would go to the same place or where `output` is a file for several models, CannotWrite where no folder can be made.
    """
    folder = Path(output)
    to_folder = len(sources) > 1 or folder.is_dir() or output.endswith(("/", os.sep))
    if not to_folder:
        return [folder]
    if folder.is_file():
        raise UsageError(f"{output!r} is a file; several models need a folder")
    names = _names(sources)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UsageError(f"two models would go to {repeated[0]!r} in {output!r}")
    paths = [folder / name for name in names]
    for parent in {path.parent for path in paths}:
        _make(parent)
    return paths


def _names(sources: Sequence[str]) -> list[str]:
    names = [Path(source).name for source in sources]
    if len(set(names)) == len(names):
        return names
    absolute = [os.path.realpath(source) for source in sources]
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120  # beside commonpath
    return [os.path.relpath(path, common) for path in absolute]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"the folder {str(folder)!r} cannot be made: {error.strerror or error}") from error


def each(
    sources: Sequence[str], outputs: Sequence[Path | None], fold_one: Callable[[str, Path | None], FoldResult]
) -> Iterator[Done]:
    """Fold one after the other, whatever happens to any of them."""
    for source, target in zip(sources, outputs, strict=True):
        where = None if target is None else str(target)
        try:
            yield Done(source, where, fold_one(source, target), None)
        except Flagged as flagged:
            yield Done(source, where, flagged.result, flagged)
        except BnfoldError as error:
            yield Done(source, where, None, error)
        except Exception as error:  # a bug met in one model must not cost the others
            logger.debug("the traceback of the bug", exc_info=error)
            yield Done(source, where, None, bug(error))
