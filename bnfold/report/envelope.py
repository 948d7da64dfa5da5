"""What all answers in JSON have in common: a head that says which version wrote it, and numbers that JSON has."""

from __future__ import annotations

import json
import math

from bnfold import __version__
from bnfold.moves import Json

SCHEMA = 1


def written(command: str, **fields: Json) -> str:
    """The answer of a command, with the head in front."""
    head: dict[str, Json] = {"schema": SCHEMA, "bnfold": __version__, "command": command}
    return json.dumps(_finite({**head, **fields}), indent=2, ensure_ascii=True, allow_nan=False)


def _finite(value: Json) -> Json:
    """JSON has no infinity and no NaN: they are written as words."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
