"""All that docs/stability.md says is stable and that can be written down: names, defaults, codes, fields, versions.

python tests/interface/stable_surface.py           prints what differs from what is recorded in stable.json
python tests/interface/stable_surface.py --record  records it anew

What goes, or changes, breaks the promise: it needs a new version of bnfold, and of the schema or the format, and a line
in the changelog. What comes is recorded, and is promised from then on.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import bnfold
from bnfold import cli
from bnfold.commands.table import TABLE, Commands
from bnfold.equality import evidence
from bnfold.errors import BUG_EXIT_CODE
from bnfold.ops.reasons import REASONS
from bnfold.report import as_sarif
from bnfold.report.document import Block, Document, Line
from bnfold.report.forms import SUFFIXES, Format
from bnfold.rules.rule import every_rule

RECORDED = Path(__file__).with_name("stable.json")
ROOT = Path(bnfold.__file__).parents[1]


def surface() -> dict[str, Any]:
    """What is promised, as JSON has it."""
    found = {
        "commands": {name: _options(name) for name in TABLE},
        "formats": {format_.value: [s for s, form in SUFFIXES.items() if form is format_] for format_ in Format},
        "exit codes": _exit_codes(),
        "answers in JSON": _schema(json.loads((resources.files("bnfold.report") / "schema.json").read_text())),
        "certificates": {
            "format": evidence.FORMAT,
            "version": evidence.VERSION,
            **_schema(json.loads((ROOT / "docs" / "certificate.schema.json").read_text())),
        },
        "reasons": sorted(REASONS),
        "rules": {rule.code: rule.severity for rule in every_rule()},
        "SARIF": _fingerprints(),
        "python": {name: _public(getattr(bnfold, name)) for name in bnfold.__all__ if name != "__version__"},
    }
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def _options(command: str) -> dict[str, str]:
    """Each option and argument of a command, with what it is worth by default."""
    params = Commands()[command].params
    return {" ".join([*p.opts, *p.secondary_opts]): str(p.default) for p in params if p.name != "help"}


def _exit_codes() -> dict[str, int]:
    errors = [thing for name in bnfold.__all__ if inspect.isclass(thing := getattr(bnfold, name))]
    codes = {e.__name__: e.exit_code for e in errors if issubclass(e, Exception)}
    return codes | {"bug": BUG_EXIT_CODE, "interrupted": cli.INTERRUPTED, "pipe closed": cli.PIPE_CLOSED}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The version of a schema, and all fields that it names, by where they stand."""
    version = schema["properties"].get("schema", {}).get("const")
    return {"schema": version, "fields": sorted(set(_fields(schema, "")))}


def _fields(schema: Any, place: str) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _fields(part, place)
    if not isinstance(schema, dict):
        return
    yield from (f"{place}{name}" for name in schema.get("properties", {}))
    for key, part in schema.items():
        if key != "properties":
            yield from _fields(part, f"{key}/" if place == "$defs/" else "$defs/" if key == "$defs" else place)
        else:
            for name, inner in part.items():
                yield from _fields(inner, f"{place}{name}/")


def _fingerprints() -> dict[str, str]:
    """The fingerprint of one result: who compares runs by it must find it again."""
    line = Line("Conv#0 'c'", "a sentence", "code", "error")
    block = Block("m.onnx", "m.onnx", failure=line)
    (run,) = json.loads(as_sarif.written(Document("plan", (block,), dict)))["runs"]
    prints: dict[str, str] = run["results"][0]["partialFingerprints"]
    return prints


def _public(thing: Any) -> Any:
    """The parameters of a function with their defaults, the fields of a value, or what an error is a kind of."""
    if inspect.isfunction(thing):
        return {name: _default(one) for name, one in inspect.signature(thing).parameters.items()}
    if not inspect.isclass(thing):
        return "union"
    names = {name for name in vars(thing) if not name.startswith("_")}
    if dataclasses.is_dataclass(thing):
        names |= {field.name for field in dataclasses.fields(thing) if not field.name.startswith("_")}
    ours = [base.__name__ for base in thing.__mro__[1:] if base.__module__.startswith("bnfold")]
    return {"is a": ours, "has": sorted(names)}


def _default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is inspect.Parameter.empty else repr(parameter.default)


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """What went, changed or came, each in a line."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            yield from differences(before.get(name), after.get(name), f"{place}/{name}")
    elif isinstance(before, list) and isinstance(after, list):
        yield from (f"gone: {place}/{one}" for one in before if one not in after)
        yield from (f"new: {place}/{one}" for one in after if one not in before)
    elif before is None or after is None:
        yield from [f"{'new' if before is None else 'gone'}: {place}"] * (before != after)
    elif before != after:
        yield f"changed: {place} was {before!r}, is {after!r}"


def recorded() -> dict[str, Any]:
    """What was promised before."""
    found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    now = surface()
    sys.stdout.writelines(f"{line}\n" for line in sorted(differences(recorded() if RECORDED.exists() else {}, now)))
    if "--record" in sys.argv:
        RECORDED.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
