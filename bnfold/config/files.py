"""`[tool.bnfold]` of a TOML file: the nearest pyproject.toml that has such a table, or the file that --config names.

[tool.bnfold]                     # every command that has the option
timeout = 120
[tool.bnfold.fold]                # one command
strict = true
[tool.bnfold.per-site-ignores]    # of validate: rules that are silent at some sites
"stem.*" = ["BN010"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnfold.errors import UsageError

NAME = "pyproject.toml"
PER_SITE = "per-site-ignores"
SILENCED = "validate"
"""The command that PER_SITE belongs to; it may stand in its table too."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a file says; `path` is None where there is none."""

    path: Path | None
    values: Mapping[str, object]


def table_of(config: Path | None = None, *, folder: Path | None = None) -> Table:
    """The table of the file `config`, else of the nearest pyproject.toml that has one, from `folder` upwards.

    Raises UsageError for a file that is no TOML, and for a `config` without such a table.
    """
    if config is not None:
        if not config.is_file():
            raise UsageError(f"{config}: is no file")
        values = _values(config)
        if values is None:
            raise UsageError(f"{config}: has no table [tool.bnfold]")
        return Table(config, values)
    start = (folder or Path.cwd()).absolute()
    for place in (start, *start.parents):
        values = _values(place / NAME)
        if values is not None:
            return Table(place / NAME, values)
    return Table(None, {})


def _values(path: Path) -> Mapping[str, object] | None:
    """The table of a file; None where there is no file, or no table in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is no TOML ({error})") from error
    tool = content.get("tool", {})
    table = tool.get("bnfold") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{path}: tool.bnfold must be a table")
    return table


def per_site_ignores(table: Table) -> dict[str, tuple[str, ...]]:
    """Codes by globs of sites, of both tables that may hold them; raises UsageError for what is no such table."""
    own = table.values.get(SILENCED, {})
    found: dict[str, tuple[str, ...]] = {}
    for where, values in (("tool.bnfold", table.values), (f"tool.bnfold.{SILENCED}", own)):
        globs = values.get(PER_SITE, {}) if isinstance(values, Mapping) else {}
        if not isinstance(globs, dict):
            raise UsageError(f"{table.path}: {where}.{PER_SITE} must be a table of lists of codes, by glob")
        for glob, codes in globs.items():
            if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
                raise UsageError(f"{table.path}: {where}.{PER_SITE}.{glob} must be a list of codes")
            found[glob] = (*found.get(glob, ()), *codes)
    return found
