"""JSON that somebody else wrote, taken apart with nothing assumed: every value is asked for with its type.

Invariant: whatever the bytes are, the outcome is a value of the type asked for or a BrokenJsonError whose message says
in a few words what stands where. A field too many is as wrong as one too few.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import NoReturn, TypeVar

_T = TypeVar("_T")
_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST_INTEGER = (1 << 63) - 1


class BrokenJsonError(Exception):
    """The message says what is wrong, and where."""


def parsed(content: bytes) -> object:
    """The value that the bytes hold; NaN, infinities and keys that stand twice in an object are refused."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_once_each, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # decoding errors and numbers with too many digits are ValueErrors
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise BrokenJsonError(f"it is no JSON: {reason}") from error


def fields(value: object, where: str, *names: str) -> Mapping[str, object]:
    """An object that has exactly these fields."""
    if not isinstance(value, dict):
        raise BrokenJsonError(f"{where} is no object")
    missing = [name for name in names if name not in value]
    if missing:
        raise BrokenJsonError(f"{where} has no {missing[0]!r}")
    unknown = [name for name in value if name not in names]
    if unknown:
        raise BrokenJsonError(f"{where} has {str(unknown[0])[:40]!r}, which is not known")
    return value


def each(value: object, where: str, one: Callable[[object, str], _T]) -> tuple[_T, ...]:
    """A list of which `one` takes each entry."""
    if not isinstance(value, list):
        raise BrokenJsonError(f"{where} is no list")
    return tuple(one(entry, f"{where}[{i}]") for i, entry in enumerate(value))


def text(value: object, where: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise BrokenJsonError(f"{where} is no string")
    return value


def flag(value: object, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise BrokenJsonError(f"{where} is neither true nor false")
    return value


def count(value: object, where: str) -> int:
    """An integer from 0 to 2^63 - 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_INTEGER:
        raise BrokenJsonError(f"{where} is no count")
    return value


def number(value: object, where: str) -> float:
    """A finite number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BrokenJsonError(f"{where} is no number")
    if value < 0 or value > _LARGEST_INTEGER or not isfinite(value):
        raise BrokenJsonError(f"{where} is out of range")
    return float(value)


def sha256(value: object, where: str) -> str:
    """A SHA-256 in lower-case hexadecimal digits."""
    found = text(value, where)
    if _SHA256.fullmatch(found) is None:
        raise BrokenJsonError(f"{where} is no SHA-256")
    return found


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has one key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
