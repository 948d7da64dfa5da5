"""Which options of a command may be settings, and what settings say of them.

What decides where something is written or replaced, or belongs to one pair of files, stands on the command line alone.
"""

from __future__ import annotations

import enum
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnfold import config
from bnfold.commands.table import TABLE, function_of
from bnfold.config import Kind, Option, Setting, Table

ALONE = frozenset(
    {"model", "before", "after", "code", "files_from", "output", "in_place", "check", "certificate",
     "certificate_alone", "config", "no_config", "context"}
)  # fmt: skip
"""Parameters that are no settings."""

OF_INSERT = frozenset({"after"})
"""An argument of verify, and an option of insert."""

OF_REFERENCE = {"ops": frozenset({"format_", "report"}), "explain": frozenset({"format_", "report"})}
"""What a pipeline sets for its reports is not for a page that someone looks up, and need not suit it."""

PATHS = frozenset({"data", "report", "custom_ops", "save_counterexample"})

CONFIG, NO_CONFIG = Option("config", Kind.TEXT), Option("no_config", Kind.FLAG)


@dataclass(frozen=True, slots=True)
class Found:
    """What settings say: of options, by parameter, and the table of the file, which has more."""

    options: Mapping[str, Setting]
    table: Table


def settled_for(command: str, given: Mapping[str, object]) -> Found:
    """What settings say of a command; `given` is what the command line says. Raises UsageError."""
    table = _table(command, given)
    known = config.Commands(tuple(TABLE), options_of, _others_of)
    said = {name.rstrip("_"): value for name, value in given.items()}
    return Found(config.settled(command, said, known, table, os.environ), table)


def _table(command: str, given: Mapping[str, object]) -> Table:
    """The file to read: the command line's word on it, else the environment's, else the nearest."""
    path, none = given.get("config"), given.get("no_config")
    if path is None and none is None:
        path, none = (config.wish(command, option, os.environ) for option in (CONFIG, NO_CONFIG))
    if none:
        return Table(None, {})
    return config.table_of(None if path is None else Path(str(path)))


def options_of(command: str) -> tuple[Option, ...]:
    """The options of a command that may be settings, from the types of its function's parameters."""
    hints = typing.get_type_hints(function_of(command))
    names = [name for name in hints if name != "return" and not _is_alone(command, name)]
    return tuple(Option(name.rstrip("_"), _kind(hints[name]), name in PATHS) for name in names)


def _others_of(command: str) -> tuple[str, ...]:
    hints = typing.get_type_hints(function_of(command))
    return tuple(name.rstrip("_").replace("_", "-") for name in hints if _is_alone(command, name))


def _is_alone(command: str, name: str) -> bool:
    if name in OF_REFERENCE.get(command, ()):
        return True
    return name in ALONE and not (command == "insert" and name in OF_INSERT)


def _kind(hint: object) -> Kind:
    """What a parameter of this type takes in a file."""
    if isinstance(hint, types.UnionType):  # X | None
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is list:
        return Kind.TEXTS
    kinds = {bool: Kind.FLAG, int: Kind.WHOLE, float: Kind.NUMBER}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return Kind.TEXT
    return next((kind for type_, kind in kinds.items() if hint is type_), Kind.TEXT)
