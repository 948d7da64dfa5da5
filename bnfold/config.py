"""`[tool.bnfold]` of pyproject.toml, in the current folder or the nearest one above it that has such a table.

    [tool.bnfold]
    select = ["BN0"]
    ignore = ["BN016"]

    [tool.bnfold.per-site-ignores]
    "stem.*" = ["BN010"]

The command line comes first: an option that is given there replaces the key of its name. A key that is not known, a
value of the wrong type and a code that there is none of are errors that name the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from bnfold.errors import UsageError
from bnfold.rules.choosing import codes_of, words

NAME = "pyproject.toml"
LISTS = ("select", "ignore")
PER_SITE = "per-site-ignores"
KEYS = (*LISTS, PER_SITE)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a pyproject.toml says; `path` is None where there is none."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_site_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path | None = None


def settings(folder: Path | None = None) -> Settings:
    """The settings that hold in a folder, the current one unless it is given. Raises UsageError."""
    start = (folder or Path.cwd()).absolute()
    for place in (start, *start.parents):
        table = _table(place / NAME)
        if table is not None:
            return _settings(place / NAME, table)
    return Settings()


def _table(path: Path) -> Mapping[str, object] | None:
    """The table of a file; None where there is no file, or no table in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no TOML ({error})") from error
    tool = content.get("tool", {})
    table = tool.get("bnfold") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{path}: tool.bnfold must be a table")
    return table


def _settings(path: Path, table: Mapping[str, object]) -> Settings:
    for key in table:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(KEYS)}"
            raise UsageError(f"{path}: tool.bnfold has no key {key!r}{hint}")
    select, ignore = (_codes(path, key, table.get(key, [])) for key in LISTS)
    per_site = table.get(PER_SITE, {})
    if not isinstance(per_site, dict):
        raise UsageError(f"{path}: tool.bnfold.{PER_SITE} must be a table of lists of codes, by glob")
    globs = {str(glob): _codes(path, f"{PER_SITE}.{glob}", codes) for glob, codes in per_site.items()}
    return Settings(select, ignore, globs, path)


def _codes(path: Path, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise UsageError(f"{path}: tool.bnfold.{key} must be a list of codes")
    found = words(value)
    try:
        codes_of(key, found)
    except UsageError as error:
        raise UsageError(f"{path}: tool.bnfold.{error}") from None
    return found
