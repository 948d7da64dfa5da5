"""The user's own data as batches that can be gone through as often as needed, with one set of samples in memory.

What data may be is what `data.py` reads, without its limits on how many sets there are: files of a folder are read one
after the other, a function is called anew for each pass, and only an iterator that is its own (a generator that was
handed over) ends after one. Numbers must be numbers: NaN and infinity are refused, with the place of the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bnfold.equality.data import Data, check_data
from bnfold.equality.data_files import MOST_BYTES, SUFFIXES, arrays_of
from bnfold.equality.data_fitting import LABEL_NAMES, Given, batches_of
from bnfold.equality.data_functions import current_folder_importable, each_set, function_called
from bnfold.equality.test_sets import batch_of_set, sets_in
from bnfold.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from bnfold.equality.inputs import Batch


@dataclass(slots=True)
class Stream:
    """The batches that data make for a model; every `iter` is a pass over all of them. Passes raise `UsageError`."""

    model: onnx.ModelProto
    data: Data
    notes: list[str] = field(default_factory=list)
    """Remarks on the data, each once; complete after a pass."""
    _passes: int = 0

    def __post_init__(self) -> None:
        check_data(self.data)

    @property
    def is_spent(self) -> bool:
        """Whether there is no further pass."""
        return self._passes > 0 and isinstance(self.data, Iterator)

    def __iter__(self) -> Iterator[Batch]:
        if self.is_spent:
            raise UsageError(
                "the data are an iterator, which ends after one pass, and several are needed: give a function that "
                "makes it, or a list"
            )
        self._passes += 1
        try:
            for batch in self._batches():
                self.notes.extend(note for note in batch.notes if note not in self.notes)
                _check_finite(batch)
                yield batch
        except OSError as error:
            raise UsageError(f"{self.data}: cannot be read ({error.strerror or error})") from error

    def _batches(self) -> Iterator[Batch]:
        if not isinstance(self.data, str | os.PathLike):
            yield from self._of_sets("the given data", "data", self.data)
            return
        path = Path(self.data)
        if path.is_dir():
            yield from self._of_folder(path)
        elif path.exists():
            yield from batches_of(self.model, Given(path.name, "data", arrays_of(path, path.name, MOST_BYTES)))
        else:
            name = os.fspath(self.data)
            function = function_called(name)
            with current_folder_importable():
                yield from self._of_sets(f"the function {name!r}", name.partition(":")[2], function)

    def _of_sets(self, title: str, label: str, source: object) -> Iterator[Batch]:
        with closing(each_set(title, label, source)) as sets:
            for given in sets:
                yield from batches_of(self.model, given)

    def _of_folder(self, folder: Path) -> Iterator[Batch]:
        sets = sets_in(folder)
        for one in sets:
            yield batch_of_set(self.model, one, MOST_BYTES)
        if sets:
            return
        files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
        if not files:
            raise UsageError(f"{folder}: holds neither {' nor '.join(SUFFIXES)} files nor a test_data_set_0")
        for file in files:
            title = f"{folder.name}/{file.name}"
            yield from batches_of(self.model, Given(title, file.name, arrays_of(file, title, MOST_BYTES)))


def first_batches(stream: Iterable[Batch], count: int) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    """The first batches, with their labels, as data that `verify` takes."""
    kept = [_with_labels(batch) for _, batch in zip(range(count), stream, strict=False)]
    return lambda: iter(kept)


def _with_labels(batch: Batch) -> dict[str, np.ndarray]:
    name = next((name for name in LABEL_NAMES if name not in batch.feeds), "")
    return dict(batch.feeds) | ({name: batch.labels} if name and batch.labels is not None else {})


def _check_finite(batch: Batch) -> None:
    for name, value in batch.feeds.items():
        if value.dtype.kind not in "fc":
            continue
        bad = ~np.isfinite(value)
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            raise UsageError(
                f"the data for {name!r} hold {value[index]} at {list(index)} of {batch.label!r}: statistics of it "
                "would be no numbers"
            )
