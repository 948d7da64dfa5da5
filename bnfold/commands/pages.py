"""`bnfold ops` and `bnfold explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from bnfold.commands.helping import Command, examples, single
from bnfold.options import Config, FormatOption, NoConfig, Report
from bnfold.report.forms import OF_PAGES, Format
from bnfold.terminal import answer, prepare

_ops, _explain = single(), single()
APPS = {"ops": _ops, "explain": _explain}


@_ops.command(cls=Command, epilog=examples("bnfold ops", "bnfold ops --format json"))
def ops(
    *,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    config: Config = None,
    no_config: NoConfig = False,
) -> None:
    """What may move where: the support matrix, from the op table."""
    del config, no_config  # read before everything else
    outlet = prepare(format_, report, among=OF_PAGES)
    from bnfold import api  # noqa: PLC0415  # heavy: not needed for --help
    from bnfold.report.reference import supported  # noqa: PLC0415  # likewise

    raise typer.Exit(answer(supported(api.operators()), outlet))


@_explain.command(cls=Command, epilog=examples("bnfold explain other-readers", "bnfold explain BN005"))
def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="A reason's or rule's code; none lists them.")
    ] = None,
    *,
    format_: FormatOption = Format.TEXT,
    report: Report = None,
    config: Config = None,
    no_config: NoConfig = False,
) -> None:
    """The page of a reason or of a rule (BN005): what it means, why, and what to do about it."""
    del config, no_config  # read before everything else
    outlet = prepare(format_, report, among=OF_PAGES)
    from bnfold import api  # noqa: PLC0415  # heavy: not needed for --help
    from bnfold.report.reference import explained  # noqa: PLC0415  # likewise

    page = None if code is None else api.explain(code)
    raise typer.Exit(answer(explained(page), outlet))
