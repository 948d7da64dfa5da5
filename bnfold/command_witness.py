"""The command `bnfold witness`, as thin as those in commands.py."""

from __future__ import annotations

from typing import Annotated

import typer

from bnfold.commands import app
from bnfold.options import (
    AssumeInference,
    BnOnly,
    FormatOption,
    FreezeInputs,
    Inline,
    MaxBytes,
    Model,
    Only,
    Quiet,
    Report,
    Seed,
    Skip,
    Verbose,
)
from bnfold.report.forms import Format
from bnfold.terminal import answer, prepare, told_everywhere


@app.command(epilog="Example: bnfold witness model.onnx --at 'layer3*'")
def witness(  # noqa: PLR0913  # one parameter per option
    model: Model,
    *,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="GLOB", help="Only of what this names: node, tensor or scope. Repeatable."),
    ] = None,
    only: Only = None,
    skip: Skip = None,
    bn_only: BnOnly = False,
    freeze_inputs: FreezeInputs = False,
    inline: Inline = False,
    assume_inference: AssumeInference = False,
    seed: Seed = 0,
    max_bytes: MaxBytes = None,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What shows that a BatchNormalization that stays could not go: a fact, or what the nearest fold would give.

    Without --at, of all BatchNormalizations that fold would leave. Nothing is written.
    """
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose)
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.report.witnesses import witnessed  # noqa: PLC0415  # likewise

    with told_everywhere("witness", outlet, model=model):
        found = api.witness(
            model, at=at or (), only=only or (), skip=skip or (), bn_only=bn_only, freeze_inputs=freeze_inputs,
            inline=inline, assume_inference=assume_inference, seed=seed, max_bytes=max_bytes,
        )  # fmt: skip
    raise typer.Exit(answer(witnessed(model, found), outlet))
