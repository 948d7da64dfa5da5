"""`--help` as plain text in groups, and what a command's options are worth before the command line is read.

typer would draw the groups as boxes, by rich; loading that takes as long as all else that --help needs. So the groups
(`rich_help_panel`) become sections here. Their titles are bold on a terminal, unless NO_COLOR is set.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from bnfold.commands.settings import settled_for
from bnfold.errors import UsageError

WIDTH = 100
COLUMN = 26
"""Characters of the longest option that what it means still stands beside."""
CONTEXT: Mapping[str, object] = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}
ARGUMENTS, GENERAL = "Arguments", "Options"
SETTINGS = "bnfold.settings"
"""Where the context keeps what the settings say beside options."""


def single() -> typer.Typer:
    """An application of one command, which `table` takes it from."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=dict(CONTEXT))


def examples(*lines: str, after: str = "") -> str:
    """The end of a page of --help: examples, which are not wrapped, and a last paragraph."""
    shown = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
    return f"{shown}\n\n{after}" if after else shown


def bold_titles(formatter: Any) -> None:
    """Titles in bold; typer's echo takes that out again where nobody looks at a terminal."""
    plain = formatter.write_heading
    if not os.environ.get("NO_COLOR"):
        formatter.write_heading = lambda heading: plain(typer.style(heading, bold=True))


def write_groups(params: Iterable[Any], context: typer.Context, formatter: Any) -> None:
    """Arguments and options, by group, in the order in which groups appear."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        record = param.get_help_record(context)
        if record is not None:
            title = param.rich_help_panel or (GENERAL if isinstance(param, TyperOption) else ARGUMENTS)
            groups.setdefault(title, []).append(_row(param, record))
    terms = [term for rows in groups.values() for term, _ in rows]
    width = max((len(term) for term in terms if len(term) <= COLUMN), default=0)
    for title in sorted(groups, key=lambda title: (title == GENERAL, title != ARGUMENTS)):
        with formatter.section(title):
            formatter.write_dl([(term.ljust(width), meaning) for term, meaning in groups[title]], col_max=width)


_LEAST = re.compile(r"; x>=[\d.]+(?=\])|  \[x>=[\d.]+\]$")
"""How typer says what the least of a number is; who gives less is told in words."""


def _row(param: Any, record: tuple[str, str]) -> tuple[str, str]:
    """One line of help: an argument by its name alone; a flag that can be taken back is `--[no-]flag`."""
    term, meaning = record[0], _LEAST.sub("", record[1])
    if not isinstance(param, TyperOption):
        return str(param.metavar), meaning
    if not param.secondary_opts:
        return term, meaning
    short = [name for name in param.opts if not name.startswith("--")]
    long = next(name for name in param.opts if name.startswith("--"))
    return ", ".join([*short, f"--[no-]{long[2:]}"]), str(param.help)


def spare(params: Iterable[Any]) -> None:
    """Keep typer from coercing what needs no coercing: it does that by pydantic, which takes longer than all --help."""
    for param in params:
        if "process_value" not in vars(param):
            param.process_value = partial(_processed, param, param.process_value)


def _processed(param: Any, coerced: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    """A default is what it is to be, a text, a flag and a choice are what they say; all else is coerced."""
    is_default = not param.required and (value is None or value is param.default)
    wanted: Any = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if not is_default and isinstance(value, str) and _is_choice(wanted):
        value = {choice.value: choice for choice in wanted}.get(value, value)
    if not is_default and not _is_plain(wanted, value):
        return coerced(ctx, value)
    return value if param.callback is None else param.callback(ctx, param, value)


def _is_plain(wanted: Any, value: Any) -> bool:
    """Whether a value is of the type that is wanted: a text, texts, a flag, a choice."""
    if wanted == list[str]:
        return isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value)
    return (wanted is str or wanted is bool or _is_choice(wanted)) and type(value) is wanted


def _is_choice(wanted: Any) -> bool:
    return isinstance(wanted, enum.EnumType)


class Command(TyperCommand):
    """A command with its groups of options, whose defaults come from settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Plain, whatever typer would do."""
        bold_titles(formatter)
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        write_groups(self.get_params(ctx), ctx, formatter)
        self.format_epilog(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments by their names, which typer would put in braces."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line over what settings say; a setting that cannot be meant is named by where it stands."""
        spare(self.get_params(ctx))
        if not ctx.resilient_parsing:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            if "help" not in given:
                self._settle(ctx, given)
        return super().parse_args(ctx, args)

    def _settle(self, ctx: Any, given: Mapping[str, object]) -> None:
        found = settled_for(str(self.name), given)
        ctx.meta[SETTINGS] = found.table
        ctx.default_map = {}
        for param in self.params:
            setting = found.options.get(param.name.rstrip("_"))  # format_ is no builtin's name
            if setting is None:
                continue
            ctx.default_map[param.name] = setting.value
            try:
                param.process_value(ctx, setting.value)
            except typer.TyperException as error:
                raise UsageError(f"{setting.where}: {error.format_message()}") from error


class Group(TyperGroup):
    """All commands, each built when it is asked for; `table` says what the list of them needs."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """The group and the sentence of each command, by name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before a command."""
        spare(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Plain, whatever typer would do."""
        bold_titles(formatter)
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title in dict.fromkeys(title for title, _ in self.table.values()):
            with formatter.section(title):
                formatter.write_dl([(name, says) for name, (group, says) in self.table.items() if group == title])
        write_groups(self.get_params(ctx), ctx, formatter)
        self.format_epilog(ctx, formatter)
