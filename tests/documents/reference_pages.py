"""The pages of docs/ that are made from the code: the commands' --help, and the public names with their docstrings.

python tests/documents/reference_pages.py

writes them anew.
"""

from __future__ import annotations

import enum
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bnfold
from bnfold import api

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 100
FUNCTIONS = tuple(api.__all__)
COMMANDS = tuple({"operators": "ops"}.get(name, name) for name in FUNCTIONS)

CLI_HEAD = """\
# Commands

What `--help` prints, for all commands. `python tests/documents/reference_pages.py` makes this page.
Beside it: [exit codes](exit-codes.md), [reports](reports.md), [Python](python.md).
"""

PYTHON_HEAD = """\
# Python

The public names of `bnfold`, from their docstrings. `python tests/documents/reference_pages.py` makes this page.
Functions mirror the [commands](cli.md): the same names, the same options. Whatever a caller could overlook raises.

```python
import bnfold

plan = bnfold.plan("models/digits_preact.onnx")
for refusal in plan.refusals:
    print(refusal.site, refusal.reason.code, refusal.remedy)

bnfold.validate("models/digits_preact.onnx", data="models/digits.npz").raise_if_failing()

try:
    result = bnfold.fold("models/digits_preact.onnx", "folded.onnx", certificate="folded.json")
except bnfold.NotVerified as error:  # nothing was written
    print(error, error.verdict)
else:
    print(result.before.batch_norms, "->", result.after.batch_norms, result.verdict)

verdict = bnfold.verify("models/digits_preact.onnx", "folded.onnx", certificate="folded.json")
verdict.raise_unless_same()
```

Importing bnfold imports neither onnx nor onnxruntime. It logs to `logging.getLogger("bnfold")`, and touches no one
else's logging. onnxruntime runs in a process of its own.
"""


def help_of(*command: str) -> str:
    """What `bnfold COMMAND --help` prints where nobody looks at a terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BNFOLD_")}
    environment |= {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "bnfold", *command, "--help"]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")


def commands_page() -> str:
    """docs/cli.md."""
    blocks = [CLI_HEAD, f"```text\n{help_of()}\n```\n"]
    blocks += [f"## bnfold {name}\n\n```text\n{help_of(name)}\n```\n" for name in COMMANDS]
    return "\n".join(blocks)


def python_page() -> str:
    """docs/python.md."""
    errors = [value for value in map(_public, bnfold.__all__) if inspect.isclass(value) and _is_error(value)]
    known = {*FUNCTIONS, *(error.__name__ for error in errors), "__version__"}
    values = [name for name in bnfold.__all__ if name not in known]
    parts = [PYTHON_HEAD, "## Functions\n", *(_function(name) for name in FUNCTIONS)]
    parts += ["## Values\n", *(_value(name) for name in values)]
    parts += ["## Errors\n", "\n".join(_tree(_public("BnfoldError"), errors, 0)) + "\n"]
    return "\n".join(parts)


def _public(name: str) -> object:
    return getattr(bnfold, name)


def _is_error(value: type) -> bool:
    return issubclass(value, BaseException)


def _function(name: str) -> str:
    function = getattr(bnfold, name)
    return f"### `bnfold.{name}`\n\n```text\n{_signature(name, function)}\n```\n\n{inspect.getdoc(function)}\n"


def _signature(name: str, function: object) -> str:
    """One parameter a line, its types as they are written in the code."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    lines: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "    *," not in lines:
            lines.append("    *,")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"    {parameter.name}: {parameter.annotation}{default},")
    return "\n".join([f"{name}(", *lines, f") -> {signature.return_annotation}"])


def _value(name: str) -> str:
    value = getattr(bnfold, name)
    if not inspect.isclass(value):
        return f"### `{name}`\n\n`{re.sub(r'[a-z_]+[.]', '', str(value))}`\n"
    fields = "\n".join(_members(value))
    table = f"\n| | |\n|---|---|\n{fields}\n" if fields else ""
    return f"### `{name}`\n\n{inspect.getdoc(value)}\n{table}"


def _members(value: type) -> Iterator[str]:
    """Fields with their types, then properties and methods with the first sentence of their docstrings."""
    for name, kind in getattr(value, "__annotations__", {}).items():
        if not name.startswith("_"):
            yield f"| `{name}` | `{str(kind).replace('|', chr(92) + '|')}` |"
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or isinstance(value, enum.EnumMeta):
            continue
        called = name if isinstance(member, property) else f"{name}()"
        sentence = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ").replace("|", chr(92) + "|")
        yield f"| `{called}` | {sentence} |"


def _tree(error: object, errors: list[type], depth: int) -> Iterator[str]:
    """An error, with the exit code of its command, and below it those that it is the base of."""
    assert inspect.isclass(error)
    code = getattr(error, "exit_code", None)
    ends = f" Exit code {code}." if isinstance(code, int) else ""
    first = (inspect.getdoc(error) or "").split("\n\n")[0].replace("\n", " ")
    yield f"{'  ' * depth}- `{error.__name__}`: {first}{ends}"
    for other in errors:
        if error in other.__bases__:
            yield from _tree(other, errors, depth + 1)


PAGES = {"cli.md": commands_page, "python.md": python_page}

if __name__ == "__main__":
    for page, made in PAGES.items():
        (ROOT / "docs" / page).write_text(made())
