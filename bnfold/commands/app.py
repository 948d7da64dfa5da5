"""The command line as typer has it: the list of commands, and what stands before a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import typer

from bnfold import __version__
from bnfold.commands.helping import CONTEXT, Group, examples
from bnfold.commands.table import TABLE, Commands
from bnfold.errors import UsageError


class Root(Group):
    """All commands; none is built before it is asked for."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = {name: (one.group, one.sentence) for name, one in TABLE.items()}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()  # type: ignore[assignment]  # of commands of a class below typer's own


app = typer.Typer(
    name="bnfold",
    cls=Root,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings=dict(CONTEXT),
    help="Fold BatchNormalization of ONNX models into the weights around it, and show that outputs match.",
    epilog=examples(
        "bnfold fold model.onnx -o folded.onnx",
        "bnfold fold models/ -o folded/ --jobs 4",
        "bnfold plan model.onnx",
        "bnfold verify model.onnx folded.onnx",
        after="Exit codes: 0 done, clean or same; 1 findings, differs, or BNs left against --strict; 2 usage; 3 input "
        "refused; 4 not verified equal, nothing written; 5 cannot write; 6 undecided; 70 a bug in bnfold.",
    ),
)


@app.callback()
def _root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"bnfold {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(UsageError.exit_code)
