"""The commands: one thin one per API function. Parse, call, render, exit code.

Nothing heavy is imported before a command needs it, so that `--help` and `--version` answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold import __version__
from bnfold.errors import UsageError
from bnfold.options import (
    AssumeInference,
    BnOnly,
    Certificate,
    CertificateAlone,
    CustomOps,
    Data,
    Dim,
    DropMismatched,
    ExitZero,
    ExternalData,
    ExternalDataOption,
    FormatOption,
    FreezeInputs,
    GivenCertificate,
    Ignore,
    Init,
    Inline,
    MaxBytes,
    MergeBranches,
    Model,
    Only,
    Provider,
    Quiet,
    Report,
    SaveCounterexample,
    Seed,
    Select,
    Skip,
    Timeout,
    Verbose,
    Verify,
    VerifyInsertion,
)
from bnfold.report.forms import OF_PAGES, Format
from bnfold.terminal import (
    answer,
    complain,
    dims_of,
    listed,
    prepare,
    say,
    stdout_kept,
    to_stdout,
    told_everywhere,
)

if TYPE_CHECKING:
    from bnfold.result import FoldResult

app = typer.Typer(
    name="bnfold",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fold BatchNormalization of ONNX models into the weights around it, and show that outputs match.",
    epilog="Exit codes: 0 done, clean or same; 1 findings, differs, or BNs left against --strict; 2 usage; 3 input "
    "refused; 4 not verified equal, nothing written; 5 cannot write; 6 undecided; 70 a bug in bnfold.",
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


@app.command(epilog="Example: bnfold fold model.onnx -o folded.onnx --data test.npz")
def fold(  # noqa: PLR0913  # one parameter per option
    model: Annotated[list[str], typer.Argument(metavar="MODEL...", help="One or more ONNX files.")],
    *,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="OUT", help="A file, a folder (for several), or - for stdout."),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace each model.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if anything would fold.")] = False,
    only: Only = None,
    skip: Skip = None,
    bn_only: BnOnly = False,
    freeze_inputs: FreezeInputs = False,
    inline: Inline = False,
    assume_inference: AssumeInference = False,
    merge_branches: MergeBranches = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any BatchNormalization stays.")] = False,
    max_left: Annotated[int | None, typer.Option("--max-left", min=0, help="Exit 1 if more than N stay.")] = None,
    external_data: ExternalDataOption = ExternalData.AUTO,
    verify: Annotated[Verify, typer.Option("--verify", help="How much is shown before writing.")] = Verify.FULL,
    drop_mismatched: DropMismatched = False,
    data: Data = None,
    certificate: Certificate = None,
    seed: Seed = 0,
    dim: Dim = None,
    provider: Provider = "CPUExecutionProvider",
    custom_ops: CustomOps = None,
    timeout: Timeout = 600.0,
    max_bytes: MaxBytes = None,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fold every BatchNormalization that can go, verify, and only then write."""
    if sum((output is not None, in_place, check)) != 1:
        raise UsageError("fold needs exactly one of -o OUT, --in-place and --check")
    if len(model) > 1 and certificate is not None:
        raise UsageError("--certificate takes one model at a time")
    if len(model) > 1 and output == "-":
        raise UsageError("-o - takes one model at a time")
    if output == "-" and external_data is ExternalData.FILE:
        raise UsageError("-o - has no place for a file of external data")
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose, to_stderr=output == "-", apart_from=certificate)
    from bnfold import api, batch  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.report.folding import folded  # noqa: PLC0415  # likewise
    from bnfold.report.progress import progress  # noqa: PLC0415  # likewise

    dims = dims_of(dim)
    outputs: Sequence[Path | None] = [None] * len(model)
    if output not in {None, "-"}:
        outputs = batch.targets(model, str(output))

    def fold_one(source: str, target: Path | None) -> FoldResult:
        with progress(source) as tell, stdout_kept():
            return api.fold(
                source, target, in_place=in_place, check=check, only=only or (), skip=skip or (), bn_only=bn_only,
                freeze_inputs=freeze_inputs, inline=inline, assume_inference=assume_inference,
                merge_branches=merge_branches, strict=strict, max_left=max_left, external_data=external_data.value,
                verify=verify.value, drop_mismatched=drop_mismatched, data=data, certificate=certificate, seed=seed,
                dims=dims, provider=provider, custom_ops=custom_ops or (), timeout=timeout, max_bytes=max_bytes,
                progress=tell,
            )  # fmt: skip

    done = list(batch.each(model, outputs, fold_one))
    for one in done:
        if one.error is not None and one.result is None:
            complain(f"{one.source}: {one.error}" if len(done) > 1 else str(one.error))
    document = folded(done, check=check, verbose=verbose)
    code = answer(document, outlet)
    if output == "-":
        to_stdout(done)
    raise typer.Exit(code)


@app.command(epilog="Example: bnfold plan model.onnx --format json")
def plan(  # noqa: PLR0913  # one parameter per option
    model: Model,
    *,
    only: Only = None,
    skip: Skip = None,
    bn_only: BnOnly = False,
    freeze_inputs: FreezeInputs = False,
    inline: Inline = False,
    assume_inference: AssumeInference = False,
    merge_branches: MergeBranches = False,
    max_bytes: MaxBytes = None,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What fold would do with each BatchNormalization, and why not; writes nothing."""
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose)
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.report.folding import planned  # noqa: PLC0415  # likewise

    with told_everywhere("plan", outlet, model=model):
        made = api.plan(
            model, only=only or (), skip=skip or (), bn_only=bn_only, freeze_inputs=freeze_inputs, inline=inline,
            assume_inference=assume_inference, merge_branches=merge_branches, max_bytes=max_bytes,
        )  # fmt: skip
    raise typer.Exit(answer(planned(model, made, verbose=verbose), outlet))


@app.command(epilog="Example: bnfold insert model.onnx --after Conv,Gemm -o with_bn.onnx")
def insert(  # noqa: PLR0913  # one parameter per option
    model: Model,
    *,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="A file, a folder, or - for stdout.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the model.")] = False,
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="OP,...", help="Behind the output of these operators. Repeatable."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="GLOB", help="Behind what this names: node or tensor. Repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="GLOB", help="Leave out what this names. Repeatable.")
    ] = None,
    axis: Annotated[
        int | None, typer.Option("--axis", help="Axis of the channels: 1, or the last. A MatMul's is the last.")
    ] = None,
    past_activation: Annotated[
        bool, typer.Option("--past-activation", help="Behind the activation that follows, if one does.")
    ] = False,
    init: Annotated[
        Init,
        typer.Option(
            "--init",
            help="identity: bit-exact; preserve: the data's statistics, same function; normalize: mean 0 and variance "
            "1, layer by layer, which changes the function.",
        ),
    ] = Init.IDENTITY,
    training: Annotated[
        bool, typer.Option("--training", help="In training mode, with running statistics as graph outputs.")
    ] = False,
    verify: Annotated[
        VerifyInsertion, typer.Option("--verify", help="Whether both models are compared before writing.")
    ] = VerifyInsertion.FULL,
    data: Data = None,
    seed: Seed = 0,
    dim: Dim = None,
    provider: Provider = "CPUExecutionProvider",
    custom_ops: CustomOps = None,
    timeout: Timeout = 600.0,
    max_bytes: MaxBytes = None,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Insert BatchNormalization behind layers: an identity, with real statistics, or normalising."""
    if (output is None) == (not in_place):
        raise UsageError("insert needs exactly one of -o OUT and --in-place")
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose, to_stderr=output == "-")
    from bnfold import api, batch  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.report.insertion import inserted  # noqa: PLC0415  # likewise
    from bnfold.report.progress import progress  # noqa: PLC0415  # likewise

    target = None if output in {None, "-"} else batch.targets([model], str(output))[0]
    telling = told_everywhere("insert", outlet, source=model)
    with telling, progress(model) as tell, stdout_kept():
        result = api.insert(
            model, target, in_place=in_place, after=listed(after), at=at or (), skip=skip or (), axis=axis,
            past_activation=past_activation, init=init.value, training=training, verify=verify.value, data=data,
            seed=seed, dims=dims_of(dim), provider=provider, custom_ops=custom_ops or (), timeout=timeout,
            max_bytes=max_bytes, progress=tell,
        )  # fmt: skip
    document = inserted(model, result, verbose=verbose)
    code = answer(document, outlet)
    if output == "-":
        say(result.to_bytes())
    raise typer.Exit(code)


@app.command(epilog="Example: bnfold verify model.onnx folded.onnx")
def verify(  # noqa: PLR0913  # one parameter per option
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The original ONNX file.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The rewritten ONNX file, whoever rewrote it.")],
    *,
    assume_inference: AssumeInference = False,
    certificate: GivenCertificate = None,
    certificate_alone: CertificateAlone = False,
    save_counterexample: SaveCounterexample = None,
    data: Data = None,
    seed: Seed = 0,
    dim: Dim = None,
    provider: Provider = "CPUExecutionProvider",
    custom_ops: CustomOps = None,
    timeout: Timeout = 600.0,
    max_bytes: MaxBytes = None,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Whether two models are the same function, shown by running both, and by a certificate if there is one.

    Exit 0 same, 1 differs, 6 undecided.
    """
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose, apart_from=certificate)
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.report.comparing import compared  # noqa: PLC0415  # likewise
    from bnfold.report.progress import progress  # noqa: PLC0415  # likewise

    telling = told_everywhere("verify", outlet, before=before, after=after)
    with telling, progress(after) as tell, stdout_kept():
        verdict = api.verify(
            before, after, assume_inference=assume_inference, certificate=certificate,
            certificate_alone=certificate_alone, save_counterexample=save_counterexample, data=data, seed=seed,
            dims=dims_of(dim), provider=provider, custom_ops=custom_ops or (), timeout=timeout, max_bytes=max_bytes,
            progress=tell,
        )  # fmt: skip
    document = compared(before, after, verdict, to_save=save_counterexample is not None, verbose=verbose)
    raise typer.Exit(answer(document, outlet))


@app.command(epilog="Example: bnfold validate model.onnx --data test.npz")
def validate(  # noqa: PLR0913  # one parameter per option
    model: Model,
    *,
    select: Select = None,
    ignore: Ignore = None,
    exit_zero: ExitZero = False,
    assume_inference: AssumeInference = False,
    data: Data = None,
    seed: Seed = 0,
    dim: Dim = None,
    provider: Provider = "CPUExecutionProvider",
    custom_ops: CustomOps = None,
    timeout: Timeout = 600.0,
    max_bytes: MaxBytes = None,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What may be wrong with the BatchNormalizations of a model, alone and over data.

    Exit 0 clean, 1 findings: errors, warnings, and notes that --select names. `bnfold explain BN005` has a rule's page;
    [tool.bnfold] in pyproject.toml has select, ignore and per-site-ignores.
    """
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose)
    from bnfold import api, config  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.report.finding import found  # noqa: PLC0415  # likewise
    from bnfold.report.progress import progress  # noqa: PLC0415  # likewise

    settings = config.settings()
    telling = told_everywhere("validate", outlet, model=model)
    with telling, progress(model) as tell, stdout_kept():
        findings = api.validate(
            model, select=select or settings.select, ignore=ignore or settings.ignore,
            per_site_ignores=settings.per_site_ignores, assume_inference=assume_inference, data=data, seed=seed,
            dims=dims_of(dim), provider=provider, custom_ops=custom_ops or (), timeout=timeout, max_bytes=max_bytes,
            progress=tell,
        )  # fmt: skip
    document = found(model, findings, exit_zero=exit_zero, verbose=verbose)
    raise typer.Exit(answer(document, outlet))


@app.command()
def ops(*, format_: FormatOption = Format.TEXT, report: Report = None) -> None:
    """What may move where: the support matrix, from the op table."""
    outlet = prepare(format_, report, among=OF_PAGES)
    from bnfold import api  # noqa: PLC0415  # heavy: not needed for --help
    from bnfold.report.reference import supported  # noqa: PLC0415  # likewise

    raise typer.Exit(answer(supported(api.operators()), outlet))


@app.command(epilog="Example: bnfold explain other-readers")
def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="A reason's or rule's code; none lists them.")
    ] = None,
    *,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
) -> None:
    """The page of a reason or of a rule (BN005): what it means, why, and what to do about it."""
    outlet = prepare(format_, report, among=OF_PAGES)
    from bnfold import api  # noqa: PLC0415  # heavy: not needed for --help
    from bnfold.report.reference import explained  # noqa: PLC0415  # likewise

    page = None if code is None else api.explain(code)
    raise typer.Exit(answer(explained(page), outlet))
