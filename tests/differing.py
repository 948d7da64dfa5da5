"""Where two strings of bytes differ: pytest's own comparison of long ones takes hours when it fails on CI."""

from __future__ import annotations


def difference(ours: bytes, theirs: bytes) -> str:
    """Empty where they are equal; else their lengths and the first place where they are not."""
    if ours == theirs:
        return ""
    shorter = min(len(ours), len(theirs))
    first = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    near = slice(max(0, first - 8), first + 16)
    return f"{len(ours)} and {len(theirs)} bytes, from {first} on: {ours[near]!r} and {theirs[near]!r}"
