"""`bnfold fold`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.commands import many
from bnfold.commands.helping import Command, examples, single
from bnfold.errors import UsageError
from bnfold.options import (
    CHOICE,
    MODELS,
    PROOF,
    AssumeInference,
    BnOnly,
    Certificate,
    Config,
    CustomOps,
    Data,
    Deadline,
    Dim,
    DropMismatched,
    ExternalData,
    ExternalDataOption,
    FilesFrom,
    FormatOption,
    FreezeInputs,
    Inline,
    Jobs,
    MaxBytes,
    MergeBranches,
    Models,
    NoConfig,
    Only,
    Provider,
    Quiet,
    Report,
    Seed,
    Skip,
    Threads,
    Timeout,
    Verbose,
    Verify,
)
from bnfold.report.forms import Format
from bnfold.terminal import answer, dims_of, prepare, to_stdout

if TYPE_CHECKING:
    from bnfold.batch.skipping import Ledger
    from bnfold.moves import Json

app = single()
APPS = {"fold": app}


@app.command(
    cls=Command,
    epilog=examples(
        "bnfold fold model.onnx -o folded.onnx --data test.npz",
        "bnfold fold models/ 'more/**/*.onnx' -o folded/ --jobs 4 --skip-existing",
        "bnfold fold model.onnx --check",
        "curl -s https://example.org/model.onnx | bnfold fold - -o - > folded.onnx",
    ),
)
def fold(  # noqa: PLR0913  # one parameter per option
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
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 if anything would fold.", rich_help_panel=MODELS),
    ] = False,
    files_from: FilesFrom = None,
    jobs: Jobs = 1,
    deadline: Deadline = None,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing/--no-skip-existing",
            help="Leave out what was made before of the same bytes, by the same options and versions; a note beside "
            "each output says so.",
            rich_help_panel=MODELS,
        ),
    ] = False,
    external_data: ExternalDataOption = ExternalData.AUTO,
    max_bytes: MaxBytes = None,
    only: Only = None,
    skip: Skip = None,
    bn_only: BnOnly = False,
    freeze_inputs: FreezeInputs = False,
    inline: Inline = False,
    assume_inference: AssumeInference = False,
    merge_branches: MergeBranches = False,
    strict: Annotated[
        bool,
        typer.Option("--strict/--no-strict", help="Exit 1 if any BatchNormalization stays.", rich_help_panel=CHOICE),
    ] = False,
    max_left: Annotated[
        int | None,
        typer.Option("--max-left", min=0, metavar="N", help="Exit 1 if more than N stay.", rich_help_panel=CHOICE),
    ] = None,
    verify: Annotated[
        Verify, typer.Option("--verify", help="How much is shown before writing.", rich_help_panel=PROOF)
    ] = Verify.FULL,
    drop_mismatched: DropMismatched = False,
    certificate: Certificate = None,
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
    """Fold every BatchNormalization that can go, verify, and only then write."""
    del config, no_config  # read before everything else
    if sum((output is not None, in_place, check)) != 1:
        raise UsageError("fold needs exactly one of -o OUT, --in-place and --check")
    if output == "-" and external_data is ExternalData.FILE:
        raise UsageError("-o - has no place for a file of external data")
    if skip_existing and (output in {None, "-"} or certificate is not None):
        raise UsageError("--skip-existing needs -o FILE or FOLDER, and makes no certificate")
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose, to_stderr=output == "-", apart_from=certificate)
    models = many.found(model, files_from, output=output)
    if not models.is_one and certificate is not None:
        raise UsageError("--certificate takes one model at a time")
    if not models.is_one and output == "-":
        raise UsageError("-o - takes one model at a time")
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.batch.work import Folding  # noqa: PLC0415  # likewise
    from bnfold.report.folding import folded  # noqa: PLC0415  # likewise

    call = partial(
        api.fold, in_place=in_place, check=check, only=only or (), skip=skip or (), bn_only=bn_only,
        freeze_inputs=freeze_inputs, inline=inline, assume_inference=assume_inference, merge_branches=merge_branches,
        external_data=external_data.value, strict=strict, max_left=max_left, verify=verify.value,
        drop_mismatched=drop_mismatched, data=data, certificate=certificate, seed=seed,
        dims=dims_of(dim), provider=provider, custom_ops=custom_ops or (),
        threads=many.threads_of(threads, jobs), timeout=timeout, max_bytes=max_bytes,
    )  # fmt: skip
    ledger = _ledger(call.keywords, data, custom_ops or (), max_bytes) if skip_existing else None
    work = Folding(call, keeps_model=output == "-", ledger=ledger)
    targets = many.targets_of(models, output, in_place=in_place)
    done = many.run(work, models, targets, jobs=jobs, deadline=deadline, max_bytes=max_bytes, verbose=verbose)
    done = many.tellable(done, lambda one, _: folded([one], check=check))
    many.complain_of(done)
    code = answer(folded(done, check=check, verbose=verbose), outlet)
    if output == "-":
        to_stdout(done)
    raise typer.Exit(code)


_NOT_PINNED = frozenset({"in_place", "check", "certificate", "data", "custom_ops", "threads", "timeout", "max_bytes"})
"""Options that neither the output nor what is shown of it depends on, and those that are pinned as files."""


def _ledger(options: Mapping[str, Json], data: str | None, custom_ops: Sequence[str], max_bytes: int | None) -> Ledger:
    """What a note of an output pins: all that decides on its bytes, on what was shown of it, and on the exit code."""
    from bnfold.batch.skipping import Ledger  # noqa: PLC0415  # heavy: only where it is asked for

    pinned = {name: value for name, value in options.items() if name not in _NOT_PINNED}
    return Ledger.of(pinned, [data, *custom_ops], max_bytes=max_bytes)
