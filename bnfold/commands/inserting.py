"""`bnfold insert`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from bnfold.commands import many
from bnfold.commands.helping import Command, examples, single
from bnfold.errors import UsageError
from bnfold.options import (
    CHOICE,
    MODELS,
    PROOF,
    Config,
    CustomOps,
    Data,
    Deadline,
    Dim,
    FilesFrom,
    FormatOption,
    Init,
    Jobs,
    MaxBytes,
    Models,
    NoConfig,
    Provider,
    Quiet,
    Report,
    Seed,
    Threads,
    Timeout,
    Verbose,
    VerifyInsertion,
)
from bnfold.report.forms import Format
from bnfold.terminal import answer, dims_of, listed, prepare, say

app = single()
APPS = {"insert": app}


@app.command(
    cls=Command,
    epilog=examples(
        "bnfold insert model.onnx --after Conv,Gemm -o with_bn.onnx",
        "bnfold insert model.onnx --at '/layer1/*' --init normalize --data train.npz -o with_bn.onnx",
        "bnfold insert models/ --after Conv -o with_bn/ --jobs 4",
    ),
)
def insert(  # noqa: PLR0913  # one parameter per option
    model: Models = None,
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file, a folder (for several), or - for stdout.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace each model.", rich_help_panel=MODELS)] = False,
    files_from: FilesFrom = None,
    jobs: Jobs = 1,
    deadline: Deadline = None,
    max_bytes: MaxBytes = None,
    after: Annotated[
        list[str] | None,
        typer.Option(
            "--after",
            metavar="OP,...",
            help="Behind the output of these operators. Repeatable.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="GLOB",
            help="Behind what this names: node or tensor. Repeatable.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="GLOB", help="Leave out what this names. Repeatable.", rich_help_panel=CHOICE),
    ] = None,
    axis: Annotated[
        int | None,
        typer.Option(
            "--axis",
            metavar="N",
            help="Axis of the channels: 1, or the last. A MatMul's is the last.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    past_activation: Annotated[
        bool,
        typer.Option(
            "--past-activation/--no-past-activation",
            help="Behind the activation that follows, if one does.",
            rich_help_panel=CHOICE,
        ),
    ] = False,
    init: Annotated[
        Init,
        typer.Option(
            "--init",
            help="identity: bit-exact; preserve: the data's statistics, same function; normalize: mean 0 and variance "
            "1, layer by layer, which changes the function.",
            rich_help_panel=CHOICE,
        ),
    ] = Init.IDENTITY,
    training: Annotated[
        bool,
        typer.Option(
            "--training/--no-training",
            help="In training mode, with running statistics as graph outputs.",
            rich_help_panel=CHOICE,
        ),
    ] = False,
    verify: Annotated[
        VerifyInsertion,
        typer.Option("--verify", help="Whether both models are compared before writing.", rich_help_panel=PROOF),
    ] = VerifyInsertion.FULL,
    data: Data = None,
    seed: Seed = 0,
    dim: Dim = None,
    provider: Provider = "CPUExecutionProvider",
    custom_ops: CustomOps = None,
    threads: Threads = 0,
    timeout: Timeout = 600.0,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: Config = None,
    no_config: NoConfig = False,
) -> None:
    """Insert BatchNormalization behind layers: an identity, with real statistics, or normalising."""
    del config, no_config  # read before everything else
    if (output is None) == (not in_place):
        raise UsageError("insert needs exactly one of -o OUT and --in-place")
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose, to_stderr=output == "-")
    models = many.found(model, files_from, output=output)
    if not models.is_one and output == "-":
        raise UsageError("-o - takes one model at a time")
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.batch.work import Inserting  # noqa: PLC0415  # likewise
    from bnfold.report.insertion import inserted  # noqa: PLC0415  # likewise

    call = partial(
        api.insert, in_place=in_place, after=listed(after), at=at or (), skip=skip or (), axis=axis,
        past_activation=past_activation, init=init.value, training=training, verify=verify.value, data=data, seed=seed,
        dims=dims_of(dim), provider=provider, custom_ops=custom_ops or (), threads=many.threads_of(threads, jobs),
        timeout=timeout, max_bytes=max_bytes,
    )  # fmt: skip
    targets = many.targets_of(models, output, in_place=in_place)
    work = Inserting(call, keeps_model=output == "-")
    done = many.run(work, models, targets, jobs=jobs, deadline=deadline, max_bytes=max_bytes, verbose=verbose)
    one = partial(inserted, verbose=verbose)
    document = many.told(
        "insert", done, one, is_one=models.is_one, name="source", written=lambda result: result.written
    )
    code = answer(document, outlet)
    if output == "-" and done[0].result is not None:
        say(done[0].result.to_bytes())
    raise typer.Exit(code)
