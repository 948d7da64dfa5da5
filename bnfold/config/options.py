"""An option as a setting: the key it has in a file, the variable it has in the environment, and what it takes."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Kind(enum.Enum):
    """What a setting takes, in the words of an error."""

    FLAG = "true or false"
    WHOLE = "a whole number"
    NUMBER = "a number"
    TEXT = "a text"
    TEXTS = "a list of texts"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command, by the name of its parameter. `is_path`: relative to the file that says it."""

    name: str
    kind: Kind
    is_path: bool = False

    @property
    def key(self) -> str:
        """Its key in a file: as on the command line."""
        return self.name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Commands:
    """All commands by name, and their options, which are asked for late: looking them up takes time."""

    names: tuple[str, ...]
    options: Callable[[str], tuple[Option, ...]]
    """The options of a command that may be settings."""
    others: Callable[[str], tuple[str, ...]]
    """The keys of those that stand on the command line alone."""
