"""A document as JSON, for machines: a head that says which version wrote it, the command's own fields, the exit code.

`schema.json` beside this module describes it. `VERSION` counts up when a field changes its meaning or goes.
"""

from __future__ import annotations

import json
import math

from bnfold import __version__
from bnfold.moves import Json
from bnfold.report.document import Document

VERSION = 1
SCHEMA = f"urn:bnfold:answer:{VERSION}"


def written(document: Document) -> str:
    """The answer as JSON."""
    value: dict[str, Json] = {
        "schema": VERSION,
        "schema_id": SCHEMA,
        "bnfold": __version__,
        "command": document.command,
        **document.data(),
        "exit_code": document.exit_code,
    }
    return json.dumps(_finite(value), indent=2, ensure_ascii=True, allow_nan=False)


def _finite(value: Json) -> Json:
    """JSON has no infinity and no NaN: they are written as words."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
