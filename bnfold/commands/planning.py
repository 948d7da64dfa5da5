"""`bnfold plan`."""

from __future__ import annotations

from functools import partial

import typer

from bnfold.commands import many
from bnfold.commands.helping import Command, examples, single
from bnfold.options import (
    AssumeInference,
    BnOnly,
    Config,
    Deadline,
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
    Quiet,
    Report,
    Skip,
    Verbose,
)
from bnfold.report.forms import Format
from bnfold.terminal import answer, prepare

app = single()
APPS = {"plan": app}


@app.command(
    cls=Command,
    epilog=examples(
        "bnfold plan model.onnx",
        "bnfold plan models/ --jobs 4 --format json",
        "git ls-files '*.onnx' | bnfold plan --files-from -",
    ),
)
def plan(  # noqa: PLR0913  # one parameter per option
    model: Models = None,
    *,
    files_from: FilesFrom = None,
    jobs: Jobs = 1,
    deadline: Deadline = None,
    max_bytes: MaxBytes = None,
    only: Only = None,
    skip: Skip = None,
    bn_only: BnOnly = False,
    freeze_inputs: FreezeInputs = False,
    inline: Inline = False,
    assume_inference: AssumeInference = False,
    merge_branches: MergeBranches = False,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: Config = None,
    no_config: NoConfig = False,
) -> None:
    """What fold would do with each BatchNormalization, and why not; writes nothing."""
    del config, no_config  # read before everything else
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose)
    models = many.found(model, files_from)
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.batch.work import Planning  # noqa: PLC0415  # likewise
    from bnfold.report.folding import planned  # noqa: PLC0415  # likewise

    call = partial(
        api.plan, only=only or (), skip=skip or (), bn_only=bn_only, freeze_inputs=freeze_inputs, inline=inline,
        assume_inference=assume_inference, merge_branches=merge_branches, max_bytes=max_bytes,
    )  # fmt: skip
    done = many.run(Planning(call), models, jobs=jobs, deadline=deadline, max_bytes=max_bytes, verbose=verbose)
    document = many.told("plan", done, partial(planned, verbose=verbose), is_one=models.is_one)
    raise typer.Exit(answer(document, outlet))
