"""Environment variables: BNFOLD_ and the option's name in capitals, or BNFOLD_, the command and the option.

`BNFOLD_TIMEOUT=60` is --timeout 60 of every command that has it, `BNFOLD_FOLD_TIMEOUT=60` of fold alone. A flag takes
1, true, yes, on or 0, false, no, off. An option that may be repeated takes several values with commas between. An
empty variable is as good as none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnfold.config.options import Kind, Option
from bnfold.errors import UsageError

PREFIX = "BNFOLD_"
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def variables(command: str, name: str) -> tuple[str, str]:
    """The variables of an option, the one of the command alone first."""
    return f"{PREFIX}{command.upper()}_{name.upper()}", f"{PREFIX}{name.upper()}"


def said(
    command: str, options: Sequence[Option], environment: Mapping[str, str]
) -> tuple[dict[str, tuple[object, str]], dict[str, tuple[object, str]]]:
    """What the environment says of options, by name: the value and the variable that has it.

    First what it says of this command alone, then what it says of all.
    """
    found: tuple[dict[str, tuple[object, str]], dict[str, tuple[object, str]]] = {}, {}
    for option in options:
        for layer, variable in zip(found, variables(command, option.name), strict=True):
            if environment.get(variable):
                layer[option.name] = _value(variable, environment[variable], option.kind), variable
    return found


def wish(command: str, option: Option, environment: Mapping[str, str]) -> object:
    """What the environment says of one option; None if nothing."""
    own, every = said(command, (option,), environment)
    return (every | own).get(option.name, (None, ""))[0]


def _value(variable: str, text: str, kind: Kind) -> object:
    if kind is Kind.FLAG:
        if text.lower() not in (*YES, *NO):
            raise UsageError(f"{variable}: {text!r} must be one of {', '.join((*YES, *NO))}")
        return text.lower() in YES
    if kind is Kind.TEXTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is Kind.TEXT:
        return text
    try:
        return int(text) if kind is Kind.WHOLE else float(text)
    except ValueError:
        raise UsageError(f"{variable}: {text!r} must be {kind.value}") from None
