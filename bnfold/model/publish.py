"""A model on its way to a file: a candidate in the target's folder, then one rename.

Invariant: until `Candidate.publish` renames, neither the input nor the target is touched; whatever ends the candidate
before, its files are removed. The rename of the model is the commit point: before it there is the old file, after it
the new one, complete.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bnfold.errors import CannotWrite
from bnfold.model.edits import Edits
from bnfold.model.modelfile import ModelFile
from bnfold.model.relocate import inlined, relocated
from bnfold.model.rope import Rope, rope
from bnfold.model.splice import changes_something, check_size
from bnfold.model.wire import MOST_BYTES
from bnfold.model.writing import write_copied, write_hashed

ExternalData = Literal["auto", "inline", "file"]

OWNER = secrets.token_hex(4)
"""Stands in the names of this process's temporary files, so that they can be told if it is killed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model written and hashed beside its target, not yet published.

    `size` (bytes) and `sha256` (hex) are those of the model file at `path`. `data_path` is the data file that it
    names, None when it needs no new one; that file has its final name already, which was free.
    """

    path: Path
    size: int
    sha256: str
    data_path: Path | None
    target: Path

    def publish(self) -> None:
        """Make the candidate the target, durably. Raises CannotWrite; before the rename nothing has changed then."""
        with _sentence(self.target):
            _check_target(self.target)
            if self.target.exists():
                self.path.chmod(stat.S_IMODE(self.target.stat().st_mode))
            for file in (self.data_path, self.path):
                if file is not None:
                    _flush(file)
            self.path.replace(self.target)
            _flush_folder(self.target.parent)


@contextmanager
def candidate(
    model: ModelFile, edits: Edits, target: Path, external_data: ExternalData = "auto"
) -> Iterator[Candidate]:
    """Write the edited model to a temporary file in the target's folder; it is removed unless it gets published.

    `external_data`: "inline" takes all data into the model, "file" puts the large initializers of its main graph into
    one file beside it. With "auto" they lie as in the input, or in a file where the model would pass 2 GiB; a model
    with external data gets one data file beside it, unless there are no edits and the folder is the input's.
    Raises CannotWrite when the target cannot be written, InputRefused when the input's data cannot be read any more.
    """
    with ExitStack() as cleanup:
        with _sentence(target):
            _check_target(target)
            _check_not_data(model, target)
            made = _written(model, edits, target, external_data, cleanup)
            model.storage.content.check_unchanged()
        yield made


@contextmanager
def staged(content: bytes, target: Path) -> Iterator[Candidate]:
    """Write any other file as a model is written: beside its target, published by one rename. Raises CannotWrite."""
    with ExitStack() as cleanup:
        with _sentence(target):
            _check_target(target)
            made = _file_written(rope(content), None, _created(target.parent, cleanup), target)
        yield made


def _written(
    model: ModelFile, edits: Edits, target: Path, external_data: ExternalData, cleanup: ExitStack
) -> Candidate:
    # It exists from here until it is published: the clean-up of the data file can tell by that.
    temporary = _created(target.parent, cleanup)
    outside = model.has_external_data
    unchanged = not changes_something(edits)
    if unchanged and external_data == "auto" and outside and _same_folder(model, target):
        return _copy_written(model, temporary, target)
    if external_data == "inline" or (external_data == "auto" and not outside):
        if unchanged and not outside:
            return _copy_written(model, temporary, target)
        content = inlined(model, edits)
        if content.length <= MOST_BYTES or external_data == "inline":
            return _file_written(content, None, temporary, target)
    relocation = relocated(model, edits, outward=external_data == "file" or not outside)
    if not relocation.has_data:
        return _file_written(relocation.model(""), None, temporary, target)
    data_path = _data_written(relocation.data, model, temporary, target, cleanup)
    return _file_written(relocation.model(data_path.name), data_path, temporary, target)


def _copy_written(model: ModelFile, temporary: Path, target: Path) -> Candidate:
    """The input's own bytes; they have been hashed, or are while they are copied."""
    model.hash_ahead()
    write_copied(temporary, model.storage.content.rope(0, model.size))
    return Candidate(temporary, model.size, model.sha256, None, target)


def _file_written(content: Rope, data_path: Path | None, temporary: Path, target: Path) -> Candidate:
    check_size(content)
    sha256 = write_hashed(temporary, content)
    return Candidate(temporary, content.length, sha256, data_path, target)


def _data_written(content: Rope, model: ModelFile, candidate_path: Path, target: Path, cleanup: ExitStack) -> Path:
    temporary = _created(target.parent, cleanup)
    # Only where the plain name is taken does a hash decide the name.
    plain = _plain_data_path(model, target)
    sha256 = None if plain is not None else write_hashed(temporary, content)
    if sha256 is None:
        write_copied(temporary, content)
        plain = _plain_data_path(model, target)
    path = plain or _hashed_data_path(target, sha256 or _hash_of(temporary))
    if path.exists():
        return path
    cleanup.callback(_remove_unpublished, path, temporary, candidate_path)
    temporary.rename(path)
    return path


def _remove_unpublished(data_path: Path, temporary: Path, candidate_path: Path) -> None:
    if candidate_path.exists() and not temporary.exists():
        data_path.unlink(missing_ok=True)


def _created(folder: Path, cleanup: ExitStack) -> Path:
    """A new empty file with the mode that the user's umask gives."""
    path = folder / f".bnfold-{OWNER}-{secrets.token_hex(8)}.tmp"
    cleanup.callback(path.unlink, missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


def _plain_data_path(model: ModelFile, target: Path) -> Path | None:
    """The data file's name without a hash, where that is free; in place it never is."""
    path = target.parent / f"{target.name}.data"
    return None if _in_place(model, target) or os.path.lexists(path) else path


def _hashed_data_path(target: Path, sha256: str) -> Path:
    """The first of the data file's names with a hash that is free, or that names these very bytes already."""
    for digits in (8, 16, 64):
        path = target.parent / f"{target.name}.{sha256[:digits]}.data"
        if not os.path.lexists(path) or _holds(path, sha256):
            return path
    raise CannotWrite(f"all names for the data of {str(target)!r} are taken")


def _holds(path: Path, sha256: str) -> bool:
    return not path.is_symlink() and path.is_file() and _hash_of(path) == sha256


def _hash_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _in_place(model: ModelFile, target: Path) -> bool:
    return model.path is not None and target.exists() and target.samefile(model.path)


def _same_folder(model: ModelFile, target: Path) -> bool:
    return model.path is not None and target.parent.samefile(model.path.parent)


def _check_target(target: Path) -> None:
    title = repr(str(target))
    if target.is_symlink():
        raise CannotWrite(f"{title} is a symbolic link; name the file that it leads to")
    if target.is_dir() or not target.name:
        raise CannotWrite(f"{title} is a folder, not a file to write")
    if target.exists() and not target.is_file():
        raise CannotWrite(f"{title} is not a regular file")
    if not target.parent.is_dir():
        raise CannotWrite(f"{title} cannot be written: there is no folder {str(target.parent)!r}")


def _check_not_data(model: ModelFile, target: Path) -> None:
    if target.exists() and any(target.samefile(file) for file in model.data_files):
        raise CannotWrite(f"{str(target)!r} holds data of the model that is read")


@contextmanager
def _sentence(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{str(target)!r} cannot be written: {error.strerror or error}") from error


def _flush(path: Path) -> None:
    # Opened for writing, because Windows flushes no other files.
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    # Windows can neither open nor flush a folder.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
