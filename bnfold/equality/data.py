"""The user's own data as batches, whatever they come as.

    FILE.npz, FILE.npy   one set of samples
    a folder of those    one set for each file, by name
    a folder with test_data_set_N, or such a set itself: tensors as ONNX ships them, with outputs to compare with
    pkg.mod:function     one set, or at most 64, from Python; `bnfold.verify(data=...)` also takes the function itself,
                         arrays by name, an array, or an iterable of those

Data are never shuffled, and nothing in a file is executed. All of them are read before anything is run, so that data
that do not suit the model are told at once; together they may take 8 GiB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bnfold.equality import data_files
from bnfold.equality.data_files import SUFFIXES, arrays_of
from bnfold.equality.data_fitting import Given, batches_of, whole_batch
from bnfold.equality.data_functions import MOST_SETS, is_function_name, sets_of, sets_of_function
from bnfold.equality.inputs import fed_inputs
from bnfold.equality.saving import is_one_batch
from bnfold.equality.test_sets import batch_of_set, sets_in
from bnfold.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from bnfold.equality.inputs import Batch

OneSet = np.ndarray | Mapping[str, np.ndarray]
Data = str | os.PathLike[str] | OneSet | Iterable[OneSet] | Callable[[], OneSet | Iterable[OneSet]]

_MOST_NOTES: Final = 8


def check_data(data: object) -> None:
    """Raise `UsageError` for what cannot be data, before anything else is done."""
    if isinstance(data, str | os.PathLike):
        if not _is_there(Path(data)) and not is_function_name(os.fspath(data)):
            raise UsageError(f"{os.fspath(data)!r} is no file or folder, and no function's name (pkg.mod:function)")
        return
    if isinstance(data, bytes) or not (isinstance(data, np.ndarray | Iterable) or callable(data)):
        raise UsageError(
            f"the data are of the type {type(data).__name__}, and must be a path, the name of a function, a function, "
            "an array, arrays by name, or several of those"
        )


def data_batches(model: onnx.ModelProto, data: Data) -> tuple[Batch, ...]:
    """The batches that the user's data make for a model, in the order of the data.

    An input is an array of N samples by its name; beside them may stand `labels`, N integer classes. A batch has as
    many samples as the model prescribes, else at most 64. Raises `UsageError` for data that are missing, unreadable, or
    do not suit the model.
    """
    check_data(data)
    if not isinstance(data, str | os.PathLike):
        sets, cut = sets_of("the given data", "data", data, data_files.MOST_BYTES)
        return _batches(model, sets, cut=cut)
    path = Path(data)
    if not _is_there(path):
        sets, cut = sets_of_function(os.fspath(data), data_files.MOST_BYTES)
        return _batches(model, sets, cut=cut)
    try:
        return _of_path(model, path)
    except OSError as error:
        raise UsageError(f"{path.name or path}: cannot be read ({error.strerror or error})") from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long
        return False


def _of_path(model: onnx.ModelProto, path: Path) -> tuple[Batch, ...]:
    most = data_files.MOST_BYTES
    if not path.is_dir():
        given = Given(path.name, "data", arrays_of(path, path.name, most))
        if is_one_batch(path) and given.arrays.keys() == {port.name for port in fed_inputs(model)}:
            return (whole_batch(model, replace(given, label="data, as one batch")),)
        return _batches(model, (given,))
    entries = sorted(path.iterdir())
    files = [entry for entry in entries if entry.suffix in SUFFIXES and not entry.name.startswith(".")]
    sets = sets_in(path)
    if sets:
        return _noted(
            _of_test_sets(model, sets, most), "files of arrays beside the test sets were not read" * bool(files)
        )
    if not files:
        raise UsageError(f"{path}: holds neither {' nor '.join(SUFFIXES)} files nor a test_data_set_0")
    return _batches(model, _of_files(files, path, most))


def _of_test_sets(model: onnx.ModelProto, sets: Iterable[Path], most: int) -> tuple[Batch, ...]:
    batches: list[Batch] = []
    left = most
    for folder in sets:
        batch = batch_of_set(model, folder, left)
        left -= sum(value.nbytes for value in (*batch.feeds.values(), *(batch.shipped or {}).values()))
        batches.append(batch)
    return tuple(batches)


def _of_files(files: Iterable[Path], folder: Path, most: int) -> tuple[Given, ...]:
    sets: list[Given] = []
    left = most
    for file in files:
        title = f"{folder.name}/{file.name}" if folder.name else file.name
        arrays = arrays_of(file, title, left)
        left -= sum(value.nbytes for value in arrays.values())
        sets.append(Given(title, file.name, arrays))
    return tuple(sets)


def _batches(model: onnx.ModelProto, sets: Iterable[Given], *, cut: bool = False) -> tuple[Batch, ...]:
    batches = tuple(batch for given in sets for batch in batches_of(model, given))
    return _noted(batches, f"only the first {MOST_SETS} sets of samples were run, there are more" * cut)


def _noted(batches: tuple[Batch, ...], note: str) -> tuple[Batch, ...]:
    """The same batches with their notes once and in front, a further one if there is any, and not too many."""
    notes = list(dict.fromkeys(note for note in (note, *(note for batch in batches for note in batch.notes)) if note))
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"and {len(notes) - _MOST_NOTES} more remarks on the data"]
    first, *others = (replace(batch, notes=()) for batch in batches)
    return (replace(first, notes=tuple(notes)), *others)
