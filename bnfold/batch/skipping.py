"""Which outputs were made before, from the very same bytes, by the same options and the same versions.

Beside an output lies a note, OUT.bnfold.json, which pins by SHA-256 what was read and what was written, with external
data, and says the options and versions: the model itself holds none of that. A model is skipped if the note that would
be written today is the one that lies there. Whatever is otherwise (a byte of either model, an option, what lies under
--data, a version, a note that cannot be read) makes it anew. Only what ended with 0 is noted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from bnfold import __version__
from bnfold.equality.data_functions import is_function_name
from bnfold.equality.evidence import FilePin
from bnfold.errors import BnfoldError, UsageError
from bnfold.model import read, staged
from bnfold.moves import Json

FORMAT = "bnfold-made"
VERSION = 1
SUFFIX = ".bnfold.json"
_JUDGES = ("onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Ledger:
    """What all models of one run have in common: options, files that options name (by hash), and versions."""

    options: Mapping[str, Json]
    max_bytes: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Json], files: Sequence[str | None], *, max_bytes: int | None) -> Ledger:
        """`files` are paths that options name. Raises UsageError for a function, which may give something else."""
        for name in files:
            if name is not None and not Path(name).exists() and is_function_name(name):
                raise UsageError(f"--skip-existing cannot know whether {name!r} still gives the same data")
        pins = {name: _hashed(Path(name)) for name in files if name is not None and Path(name).exists()}
        versions = {"bnfold": __version__, **{name: metadata.version(name) for name in _JUDGES}}
        return cls({"options": dict(options), "files": pins, "versions": versions}, max_bytes)

    def entry(self, model: Path) -> Entry:
        """What is to be known of one model that is about to be read; raises InputRefused for what is none."""
        return Entry(self, FilePin.of(read(model, max_bytes=self.max_bytes)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One model that is read."""

    ledger: Ledger
    before: FilePin

    def is_of(self, target: Path) -> bool:
        """Whether `target` was made of it already."""
        try:
            noted = json.loads(_beside(target).read_bytes())
            return bool(noted == self._content(target))
        except (OSError, ValueError, RecursionError, BnfoldError):  # no output, no note, or none that can be read
            return False

    def note(self, target: Path) -> None:
        """Write down that `target` was made of it; raises CannotWrite."""
        content = json.dumps(self._content(target), indent=2).encode() + b"\n"
        with staged(content, _beside(target)) as made:
            made.publish()

    def _content(self, target: Path) -> dict[str, Json]:
        said: dict[str, Json] = {"format": FORMAT, "version": VERSION, **self.ledger.options}
        pins = {"read": asdict(self.before), "written": asdict(FilePin.of(read(target)))}
        # As JSON has it: what lies there was read from JSON, which knows no tuples.
        found: dict[str, Json] = json.loads(json.dumps({**said, **pins}))
        return found


def _beside(target: Path) -> Path:
    return target.with_name(target.name + SUFFIX)


def _hashed(path: Path) -> str:
    """The hash of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    try:
        for file in _files(path):
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{file.relative_to(path).as_posix()}\0{found}\n".encode())
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.rglob("*") if file.is_file())
