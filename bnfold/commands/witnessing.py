"""`bnfold witness`."""

from __future__ import annotations

from typing import Annotated

import typer

from bnfold.commands.helping import Command, examples, single
from bnfold.options import (
    CHOICE,
    AssumeInference,
    BnOnly,
    Config,
    FormatOption,
    FreezeInputs,
    Inline,
    MaxBytes,
    NoConfig,
    Only,
    Quiet,
    Report,
    Seed,
    Skip,
    Verbose,
)
from bnfold.report.forms import Format
from bnfold.terminal import answer, prepare, stdin_bytes, told_everywhere

app = single()
APPS = {"witness": app}


@app.command(
    cls=Command,
    epilog=examples(
        "bnfold witness model.onnx",
        "bnfold witness model.onnx --at 'layer3*' --format json",
    ),
)
def witness(  # noqa: PLR0913  # one parameter per option
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file, or - for stdin.")],
    *,
    max_bytes: MaxBytes = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="GLOB",
            help="Only of what this names: node, tensor or scope. Repeatable.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    only: Only = None,
    skip: Skip = None,
    bn_only: BnOnly = False,
    freeze_inputs: FreezeInputs = False,
    inline: Inline = False,
    assume_inference: AssumeInference = False,
    seed: Seed = 0,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: Config = None,
    no_config: NoConfig = False,
) -> None:
    """What shows that a BatchNormalization that stays could not go: a fact, or what the nearest fold would give.

    Without --at, of all BatchNormalizations that fold would leave; of what is written by hand (Mul, Add, Sub, Div, Neg
    by a constant) it is said how many stay, and --at '*' shows them. Nothing is written.
    """
    del config, no_config  # read before everything else
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose)
    given = stdin_bytes(max_bytes) if model == "-" else model
    from bnfold.api.witnesses import witnesses_and_rest  # noqa: PLC0415  # heavy: only once the options are sound
    from bnfold.report.witnesses import witnessed  # noqa: PLC0415  # likewise

    with told_everywhere("witness", outlet, model=model):
        found, rest = witnesses_and_rest(
            given, at=at or (), only=only or (), skip=skip or (), bn_only=bn_only, freeze_inputs=freeze_inputs,
            inline=inline, assume_inference=assume_inference, seed=seed, max_bytes=max_bytes,
        )  # fmt: skip
        document = witnessed(model, found, rest)
    raise typer.Exit(answer(document, outlet))
