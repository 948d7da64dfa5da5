"""All commands: the module and the function of each, and its line in the list of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import typer

if TYPE_CHECKING:
    from typer.core import TyperCommand

REWRITE = "Rewrite a model"
LOOK = "Look at models"
KNOW = "What bnfold knows"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is, its group in the list, and the sentence that it has there."""

    module: str
    group: str
    sentence: str


TABLE: Mapping[str, Entry] = {
    "fold": Entry("folding", REWRITE, "Fold every BatchNormalization that can go, verify, and only then write."),
    "insert": Entry("inserting", REWRITE, "Insert BatchNormalization behind layers."),
    "plan": Entry("planning", LOOK, "What fold would do with each BatchNormalization, and why not."),
    "validate": Entry("validating", LOOK, "What may be wrong with the BatchNormalizations of a model."),
    "witness": Entry("witnessing", LOOK, "What shows that a BatchNormalization that stays could not go."),
    "verify": Entry("verifying", LOOK, "Whether two models are the same function."),
    "ops": Entry("pages", KNOW, "What may move where."),
    "explain": Entry("pages", KNOW, "The page of a reason or of a rule."),
}


def function_of(name: str) -> Callable[..., None]:
    """The function of a command; its module is imported now."""
    module = importlib.import_module(f"bnfold.commands.{TABLE[name].module}")
    return cast("Callable[..., None]", getattr(module, name))


class Commands(MutableMapping[str, "TyperCommand"]):
    """The commands by name, each built when it is asked for."""

    def __init__(self) -> None:
        self._built: dict[str, TyperCommand] = {}

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in TABLE:
            raise KeyError(name)
        if name not in self._built:
            module = importlib.import_module(f"bnfold.commands.{TABLE[name].module}")
            self._built[name] = cast("TyperCommand", typer.main.get_command(module.APPS[name]))
        return self._built[name]

    def __setitem__(self, name: str, command: TyperCommand) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)
