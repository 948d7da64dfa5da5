"""The environment over a file, and one command's table over the one for all; what the command line gives, is its own.

Some options contradict each other. One of them that stands further left (see the package) takes the others out that
stand further right, or `strict = true` in a file could not be answered by `--max-left 3`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from bnfold.config.environment import said
from bnfold.config.files import PER_SITE, SILENCED, Table
from bnfold.config.options import Commands, Kind, Option
from bnfold.errors import UsageError

YIELD_TO: Mapping[str, frozenset[str]] = {
    "max_left": frozenset({"strict"}),
    "strict": frozenset({"max_left"}),
    "quiet": frozenset({"verbose"}),
    "verbose": frozenset({"quiet"}),
    "data": frozenset({"certificate_alone"}),
    "save_counterexample": frozenset({"certificate_alone"}),
    "skip_existing": frozenset({"in_place", "check", "certificate"}),
}
"""Of each option those that take it out where they stand further left."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_TYPES: Mapping[Kind, tuple[type, ...]] = {
    Kind.FLAG: (bool,),
    Kind.WHOLE: (int,),
    Kind.NUMBER: (int, float),
    Kind.TEXT: (str,),
    Kind.TEXTS: (list,),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and where it stands, for an error about it."""

    value: object
    where: str


def settled(
    command: str, given: Mapping[str, object], commands: Commands, table: Table, environment: Mapping[str, str]
) -> dict[str, Setting]:
    """What a command's options are worth that are not in `given`, which holds those that the command line has.

    Raises UsageError for a key that no command knows, for a value of the wrong type, and for a variable of the wrong
    form.
    """
    options = commands.options(command)
    layers = [*_of_environment(command, options, environment), *_of_file(command, commands, table)]
    settings: dict[str, Setting] = {}
    said = {name: value for name, value in given.items() if value is not None}
    for layer in layers:
        # A flag that is taken back contradicts nothing.
        stronger = {name for name, value in said.items() if value is not False}
        settings |= {
            name: setting
            for name, setting in layer.items()
            if name not in said and not YIELD_TO.get(name, frozenset()) & stronger
        }
        said = {name: setting.value for name, setting in layer.items()} | said
    return settings


def _of_environment(
    command: str, options: tuple[Option, ...], environment: Mapping[str, str]
) -> list[dict[str, Setting]]:
    """The layers of the environment: of the command alone, then of all."""
    layers = said(command, options, environment)
    return [{name: Setting(value, variable) for name, (value, variable) in layer.items()} for layer in layers]


def _of_file(command: str, commands: Commands, table: Table) -> list[dict[str, Setting]]:
    """The layers of a file: the command's own table, then the one for all."""
    ours = {option.key: option for option in commands.options(command)}
    layers = []
    for name, values in _tables(commands, table).items():
        _check_keys(name, values, commands, table)
        if name not in {command, ""}:
            continue
        where = f"tool.bnfold.{name}".removesuffix(".")
        known = {key: value for key, value in values.items() if key in ours}
        layers.append({ours[key].name: _setting(table, where, ours[key], value) for key, value in known.items()})
    return layers[::-1] if len(layers) > 1 else layers


def _tables(commands: Commands, table: Table) -> dict[str, Mapping[str, object]]:
    """The table for all under "", and those of single commands.

    `verify` is a command, and an option of others: a table is the command's, and all else is the option.
    """
    own = {name: values for name in commands.names if isinstance(values := table.values.get(name), Mapping)}
    return {"": {key: value for key, value in table.values.items() if key not in own}, **own}


def _check_keys(name: str, values: Mapping[str, object], commands: Commands, table: Table) -> None:
    """Raise UsageError for a key that no command has, or not this one."""
    asked = commands.names if not name else (name,)
    wanting = [key for key in values if key != PER_SITE or name not in {"", SILENCED}]
    if not wanting:
        return
    known = {option.key for each in asked for option in commands.options(each)}
    where = f"{table.path}: tool.bnfold.{name}".removesuffix(".")
    for key in wanting:
        if key in known:
            continue
        if key in commands.names and not name:
            raise UsageError(f"{where}.{key} must be a table")
        if any(key in commands.others(each) for each in asked):
            raise UsageError(f"{where}.{key} stands on the command line alone")
        words = sorted({*known, PER_SITE, *(commands.names if not name else ())})
        near = get_close_matches(key.replace("_", "-"), words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(words)}"
        raise UsageError(f"{where} has no key {key!r}{hint}")


def _setting(table: Table, where: str, option: Option, value: object) -> Setting:
    title = f"{table.path}: {where}.{option.key}"
    is_flag = isinstance(value, bool)  # which is an int as well
    if not isinstance(value, _TYPES[option.kind]) or is_flag != (option.kind is Kind.FLAG):
        raise UsageError(f"{title} must be {option.kind.value}")
    if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
        raise UsageError(f"{title} must be {option.kind.value}")
    return Setting(_from_there(table, value) if option.is_path else value, title)


def _from_there(table: Table, value: object) -> object:
    """Paths count from the folder of the file that says them; a function's name is none."""
    if isinstance(value, list):
        return [_from_there(table, entry) for entry in value]
    if table.path is None or not isinstance(value, str) or _FUNCTION.fullmatch(value):
        return value
    place = table.path.parent
    return value if place.absolute() == Path.cwd() else str(place / value)
