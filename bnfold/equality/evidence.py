"""A certificate as a file: JSON that pins both models and their data by hash, and can be checked again against them.

Invariant: what is read from such a file is what somebody says. Its types are checked here; whether the files are those
that it names, and whether its claims hold of them, is for recheck.py to find out.

The same fold gives the same bytes: no dates, no paths, no order that depends on chance. docs/certificate.md has the
fields, docs/certificate.schema.json their schema.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bnfold.equality.certificate import Certificate
from bnfold.equality.claim import Claim, Merging, Part, Skip
from bnfold.equality.homes import HomeCheck
from bnfold.equality.numbers import BOUND, PartCheck
from bnfold.equality.strict_json import BrokenJsonError, count, each, fields, flag, number, parsed, sha256, text
from bnfold.errors import UsageError
from bnfold.model import ModelFile, Span
from bnfold.nodes import Site

FORMAT = "bnfold-certificate"
VERSION = 3

MOST_BYTES = 32 << 20
"""A claim and its home take about 2 kB; a larger file is none that a fold of a real network wrote."""


@dataclass(frozen=True, slots=True)
class DataPin:
    """A file of external data, by the name under which the model knows it."""

    location: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FilePin:
    """A model file and all files of external data that it names, in the order of their names."""

    sha256: str
    bytes: int
    data: tuple[DataPin, ...]

    @classmethod
    def of(cls, model: ModelFile) -> FilePin:
        """Hashes every data file as a whole; raises InputRefused where one cannot be read."""
        known: dict[Path, str] = {}
        for path, size in model.locations.values():
            if path not in known:
                known[path] = _hashed(model.storage.blocks(Span(path, 0, size)))
        pins = (DataPin(location, size, known[path]) for location, (path, size) in model.locations.items())
        return cls(model.sha256, model.size, tuple(sorted(pins, key=lambda pin: pin.location)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the file of a certificate says.

    `before` and `after` pin the model that was read and the one that was written. `begins_at` is the SHA-256 of the
    model that the claims are about: that of `before`, or of what inlining made of it. `bnfold` is the version that
    wrote the file.
    """

    bnfold: str
    before: FilePin
    after: FilePin
    begins_at: str
    inlined_functions: tuple[str, ...]
    frozen_inputs: tuple[str, ...]
    assumed_inference: bool
    holds: bool
    claims: tuple[Claim, ...]
    mergings: tuple[Merging, ...]
    homes: tuple[HomeCheck, ...]

    def to_bytes(self) -> bytes:
        """The content of the file."""
        head = {"format": FORMAT, "version": VERSION}
        body = {name: value for name, value in asdict(self).items() if name not in {"claims", "mergings", "homes"}}
        checked = {"bound": BOUND, "claims": [asdict(claim) for claim in self.claims],
                   "mergings": [asdict(merging) for merging in self.mergings],
                   "homes": [asdict(check) for check in self.homes]}  # fmt: skip
        return (json.dumps(head | body | checked, indent=2, allow_nan=False) + "\n").encode()

    def shortcomings(self, found: Certificate) -> list[str]:
        """What the file says otherwise than it was recomputed, each as a sentence; `found` holds."""
        said: list[str] = []
        if not self.holds:
            said.append("the certificate's file says itself that it does not hold")
        if self.homes == found.homes:
            return said
        theirs, ours = ({check.home: check for check in checks} for checks in (self.homes, found.homes))
        other = sorted(site for site in ours.keys() | theirs.keys() if ours.get(site) != theirs.get(site))
        if not other:
            return [*said, "the certificate's file lists its homes otherwise than they were recomputed"]
        theirs_at, ours_at = (found.get(other[0]) for found in (theirs, ours))
        where = f"{len(other)} home(s) were recomputed with other figures than are written, {other[0]} the first"
        said.append(f"{where}: {_figures(ours_at)}, and {_figures(theirs_at)} is written")
        return said


def evidence_at(path: Path) -> Evidence:
    """What a certificate's file says; raises UsageError, with one sentence, for what is no such file."""
    title = repr(str(path))
    content = _content(path, title)
    try:
        return _evidence(parsed(content))
    except BrokenJsonError as error:
        raise UsageError(f"{title} is no certificate that can be read: {error}") from error


def _content(path: Path, title: str) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{title} is no file")
        if status.st_size > MOST_BYTES:
            raise UsageError(f"{title} has {status.st_size} bytes, more than a certificate takes ({MOST_BYTES})")
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES)
    except FileNotFoundError as error:
        raise UsageError(f"{title} is no file") from error
    except OSError as error:
        raise UsageError(f"{title} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{title} is no path: {error}") from error


def _evidence(value: object) -> Evidence:
    _check_version(value)
    names = ("format", "version", "bound", *Evidence.__dataclass_fields__)
    found = fields(value, "it", *names)
    text(found["bound"], "bound")
    return Evidence(
        bnfold=text(found["bnfold"], "bnfold"),
        before=_file(found["before"], "before"),
        after=_file(found["after"], "after"),
        begins_at=sha256(found["begins_at"], "begins_at"),
        inlined_functions=each(found["inlined_functions"], "inlined_functions", text),
        frozen_inputs=each(found["frozen_inputs"], "frozen_inputs", text),
        assumed_inference=flag(found["assumed_inference"], "assumed_inference"),
        holds=flag(found["holds"], "holds"),
        claims=each(found["claims"], "claims", _claim),
        mergings=each(found["mergings"], "mergings", _merging),
        homes=each(found["homes"], "homes", _home),
    )


def _check_version(value: object) -> None:
    """Said before anything else: what another version means by its fields is not known."""
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise BrokenJsonError(f"its format is not {FORMAT!r}")
    version = value.get("version")
    if version != VERSION or isinstance(version, bool):
        raise BrokenJsonError(f"this bnfold reads version {VERSION} of it, and it is another")


def _file(value: object, where: str) -> FilePin:
    found = fields(value, where, "sha256", "bytes", "data")
    pins = each(found["data"], f"{where}.data", _data)
    return FilePin(sha256(found["sha256"], f"{where}.sha256"), count(found["bytes"], f"{where}.bytes"), pins)


def _data(value: object, where: str) -> DataPin:
    found = fields(value, where, "location", "bytes", "sha256")
    size = count(found["bytes"], f"{where}.bytes")
    return DataPin(text(found["location"], f"{where}.location"), size, sha256(found["sha256"], f"{where}.sha256"))


def _claim(value: object, where: str) -> Claim:
    found = fields(value, where, "site", "path", "homes", "unshifted", "ahead", "data", "joint", "skips", "part")
    ahead, data = flag(found["ahead"], f"{where}.ahead"), count(found["data"], f"{where}.data")
    path, homes, rest, joint = (
        each(found[name], f"{where}.{name}", _site) for name in ("path", "homes", "unshifted", "joint")
    )
    skips = each(found["skips"], f"{where}.skips", _skip)
    part = PARTS.get(text(found["part"], f"{where}.part"))
    if part is None:
        raise BrokenJsonError(f"{where}.part is {found['part']!r}, and no part of an affine")
    return Claim(_site(found["site"], f"{where}.site"), path, homes, rest, ahead, data, joint, skips, part)


PARTS: Mapping[str, Part] = {"": "", "scale": "scale", "shift": "shift"}


def _skip(value: object, where: str) -> Skip:
    found = fields(value, where, "joint", "home")
    return Skip(_site(found["joint"], f"{where}.joint"), _site(found["home"], f"{where}.home"))


def _merging(value: object, where: str) -> Merging:
    found = fields(value, where, *Merging.__dataclass_fields__)
    return Merging(*(_site(found[name], f"{where}.{name}") for name in Merging.__dataclass_fields__))


def _site(value: object, where: str) -> Site:
    found = fields(value, where, "scope", "index", "op", "name")
    scope, op, name = (text(found[key], f"{where}.{key}") for key in ("scope", "op", "name"))
    return Site(scope, count(found["index"], f"{where}.index"), op, name)


def _home(value: object, where: str) -> HomeCheck:
    found = fields(value, where, "home", "numbers", "worst", "parts")
    numbers, worst = count(found["numbers"], f"{where}.numbers"), number(found["worst"], f"{where}.worst")
    parts = each(found["parts"], f"{where}.parts", _part)
    return HomeCheck(_site(found["home"], f"{where}.home"), numbers, worst, parts)


def _part(value: object, where: str) -> PartCheck:
    found = fields(value, where, *PartCheck.__dataclass_fields__)
    what, kind = (text(found[key], f"{where}.{key}") for key in ("what", "type"))
    unit, worst = (number(found[key], f"{where}.{key}") for key in ("half_unit", "worst"))
    terms, numbers = (count(found[key], f"{where}.{key}") for key in ("terms", "numbers"))
    return PartCheck(what, kind, unit, terms, numbers, worst)


def _figures(check: HomeCheck | None) -> str:
    """The figures of a home and of its parts, as far as a note goes."""
    if check is None:
        return "nothing"
    parts = ", ".join(f"{part.what} {part.worst:.3g} (K={part.terms})" for part in check.parts[:2])
    return f"{check.numbers} numbers, worst {check.worst:.3g} of the bound ({parts})"


def _hashed(blocks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
