"""`bnfold validate`."""

from __future__ import annotations

from functools import partial

import typer

from bnfold import config as settings
from bnfold.commands import many
from bnfold.commands.helping import SETTINGS, Command, examples, single
from bnfold.options import (
    AssumeInference,
    Config,
    CustomOps,
    Data,
    Deadline,
    Dim,
    ExitZero,
    FilesFrom,
    FormatOption,
    Ignore,
    Jobs,
    MaxBytes,
    Models,
    NoConfig,
    Provider,
    Quiet,
    Report,
    Seed,
    Select,
    Threads,
    Timeout,
    Verbose,
)
from bnfold.report.forms import Format
from bnfold.terminal import answer, dims_of, prepare

app = single()
APPS = {"validate": app}


@app.command(
    cls=Command,
    epilog=examples(
        "bnfold validate model.onnx --data test.npz",
        "bnfold validate models/ --jobs 4 --select BN0 --ignore BN016",
    ),
)
def validate(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    model: Models = None,
    *,
    files_from: FilesFrom = None,
    jobs: Jobs = 1,
    deadline: Deadline = None,
    max_bytes: MaxBytes = None,
    select: Select = None,
    ignore: Ignore = None,
    assume_inference: AssumeInference = False,
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
    exit_zero: ExitZero = False,
    config: Config = None,
    no_config: NoConfig = False,
) -> None:
    """What may be wrong with the BatchNormalizations of a model, alone and over data.

    Exit 0 clean, 1 findings: errors, warnings, and notes that --select names. `bnfold explain BN005` has a rule's page;
    per-site-ignores in [tool.bnfold] of pyproject.toml silence rules at single layers.
    """
    del config, no_config  # read before everything else
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose)
    models = many.found(model, files_from)
    table = context.meta[SETTINGS]
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.batch.work import Validating  # noqa: PLC0415  # likewise
    from bnfold.report.finding import found  # noqa: PLC0415  # likewise
    from bnfold.rules.choosing import check_settings  # noqa: PLC0415  # likewise

    silenced = settings.per_site_ignores(table)
    check_settings(str(table.path), table.values, silenced)
    call = partial(
        api.validate, select=select or (), ignore=ignore or (), per_site_ignores=silenced,
        assume_inference=assume_inference, data=data, seed=seed, dims=dims_of(dim), provider=provider,
        custom_ops=custom_ops or (), threads=many.threads_of(threads, jobs), timeout=timeout, max_bytes=max_bytes,
    )  # fmt: skip
    done = many.run(
        Validating(call, exit_zero), models, jobs=jobs, deadline=deadline, max_bytes=max_bytes, verbose=verbose
    )
    one = partial(found, exit_zero=exit_zero, verbose=verbose)
    raise typer.Exit(answer(many.told("validate", done, one, is_one=models.is_one), outlet))
