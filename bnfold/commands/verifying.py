"""`bnfold verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.commands.helping import Command, examples, single
from bnfold.errors import UsageError
from bnfold.options import (
    AssumeInference,
    CertificateAlone,
    Config,
    CustomOps,
    Data,
    Dim,
    FormatOption,
    GivenCertificate,
    MaxBytes,
    NoConfig,
    Provider,
    Quiet,
    Report,
    SaveCounterexample,
    Seed,
    Threads,
    Timeout,
    Verbose,
)
from bnfold.report.forms import Format
from bnfold.terminal import answer, dims_of, prepare, stdin_bytes, stdout_kept, told_everywhere

if TYPE_CHECKING:
    from collections.abc import Sequence

app = single()
APPS = {"verify": app}


@app.command(
    cls=Command,
    epilog=examples(
        "bnfold verify model.onnx folded.onnx",
        "bnfold verify model.onnx folded.onnx --certificate certificate.json",
        "bnfold fold model.onnx -o - | bnfold verify model.onnx -",
    ),
)
def verify(  # noqa: PLR0913  # one parameter per option
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The original ONNX file, or - for stdin.")],
    after: Annotated[
        str, typer.Argument(metavar="AFTER", help="The rewritten one, whoever rewrote it, or - for stdin.")
    ],
    *,
    max_bytes: MaxBytes = None,
    assume_inference: AssumeInference = False,
    certificate: GivenCertificate = None,
    certificate_alone: CertificateAlone = False,
    save_counterexample: SaveCounterexample = None,
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
    """Whether two models are the same function, shown by running both, and by a certificate if there is one.

    Exit 0 same, 1 differs, 6 undecided.
    """
    del config, no_config  # read before everything else
    outlet = prepare(format_, report, quiet=quiet, verbose=verbose, apart_from=certificate)
    first, second = _given((before, after), max_bytes)
    from bnfold import api  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.report.comparing import compared  # noqa: PLC0415  # likewise
    from bnfold.report.progress import progress  # noqa: PLC0415  # likewise

    telling = told_everywhere("verify", outlet, before=before, after=after)
    with telling, progress(after) as tell, stdout_kept():
        verdict = api.verify(
            first, second, assume_inference=assume_inference, certificate=certificate,
            certificate_alone=certificate_alone, save_counterexample=save_counterexample, data=data, seed=seed,
            dims=dims_of(dim), provider=provider, custom_ops=custom_ops or (), threads=threads, timeout=timeout,
            max_bytes=max_bytes, progress=tell,
        )  # fmt: skip
        document = compared(before, after, verdict, to_save=save_counterexample is not None, verbose=verbose)
    raise typer.Exit(answer(document, outlet))


def _given(models: Sequence[str], max_bytes: int | None) -> list[str | bytes]:
    """Both models as the API takes them."""
    if all(model == "-" for model in models):
        raise UsageError("only one of BEFORE and AFTER can come by stdin")
    return [stdin_bytes(max_bytes) if model == "-" else model for model in models]
