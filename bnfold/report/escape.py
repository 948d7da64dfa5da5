"""Names from a file, made harmless for a terminal: control characters and escape sequences become visible."""

from __future__ import annotations


def shown(text: object) -> str:
    """The text on one line, with everything that is not printable written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
