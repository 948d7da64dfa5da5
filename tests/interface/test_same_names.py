"""The command line and the API are one interface: same names, same options, same defaults."""

from __future__ import annotations

import inspect

import pytest
import typer

import bnfold
from bnfold import api, cli

COMMANDS = ("explain", "fold", "insert", "ops", "plan", "validate", "verify", "witness")
OF_THE_COMMAND_LINE = {"format_", "report", "quiet", "verbose", "help", "exit_zero"}
"""How an answer is shown, and what exit code it makes, is no concern of a function's."""

FUNCTIONS = {"ops": "operators"}
"""`bnfold.ops` is the package of the op table, and no module bears the name of a public function."""

OF_THE_API = {"progress", "choose", "per_site_ignores"}
"""Sites where rules are silent stand in pyproject.toml, which the command line reads and a function does not."""
RENAMED = {"dim": "dims"}
"""One --dim per dimension; a mapping of all of them."""

EMPTY = {None: {None, ()}}
"""An option that may be repeated is None until it is given; its parameter may be an empty tuple."""


def options(name: str) -> dict[str, object]:
    """The parameters of a command under the API's names, with their defaults."""
    command = typer.main.get_command(cli.app).commands[name]
    found = {RENAMED.get(p.name, p.name): p.default for p in command.params}
    return {option: default for option, default in found.items() if option not in OF_THE_COMMAND_LINE}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    found = inspect.signature(getattr(api, FUNCTIONS.get(name, name))).parameters
    return {parameter: value for parameter, value in found.items() if parameter not in OF_THE_API}


def test_the_commands_are_the_functions() -> None:
    functions = {name for name in bnfold.__all__ if inspect.isfunction(getattr(api, name, None))}
    assert set(typer.main.get_command(cli.app).commands) == set(COMMANDS)
    assert functions == {FUNCTIONS.get(name, name) for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_of_its_function(name: str) -> None:
    assert set(options(name)) == set(parameters(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_left_out_means_what_a_parameter_left_out_means(name: str) -> None:
    compared = 0
    for option, default in options(name).items():
        parameter = parameters(name)[option]
        if parameter.default is inspect.Parameter.empty or option == "code":
            continue
        ours = getattr(default, "value", default)
        assert parameter.default in EMPTY.get(ours, {ours}), option
        compared += 1
    assert compared > 0 or name in {"ops", "explain"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_the_api_is_passed_by_its_name(name: str) -> None:
    """Only the models, and where the result goes, are told by their place."""
    by_place = {n for n, p in parameters(name).items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert by_place <= {"model", "output", "before", "after", "code"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_says_what_each_option_does(name: str) -> None:
    command = typer.main.get_command(cli.app).commands[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, parameter.name


@pytest.mark.parametrize("name", ["fold", "insert", "plan", "validate", "verify", "witness"])
def test_the_docstring_of_a_function_names_every_parameter(name: str) -> None:
    doc = inspect.getdoc(getattr(api, name)) or ""
    shared = {"seed", "dims", "provider", "custom_ops", "timeout", "max_bytes", "data"}
    named = set(parameters(name)) - (shared if name == "verify" else set())
    missing = {parameter for parameter in named if parameter not in doc}
    assert missing <= {"max_bytes", "before", "after"}
