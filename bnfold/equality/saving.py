"""Feeds as an .npz: one array for each input, under its name, and nothing else; data.py reads them back bit for bit.

An archive's comment says that its arrays are one batch: they are fed as they are, whatever their first dimensions, for
another cut could hide what they show. Types that numpy does not have (bfloat16) are written as their bits.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib import format as npy

from bnfold.errors import CannotWrite

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ONE_BATCH: Final = b"bnfold: one batch"
_LONGEST_NAME: Final = (1 << 16) - 1


def npz_of(feeds: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an .npz, the same for the same feeds. Raises CannotWrite for strings, and for names too long."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = ONE_BATCH
        for name, value in feeds.items():
            archive.writestr(_member(name), _npy(name, value))
    return stream.getvalue()


def is_one_batch(path: Path) -> bool:
    """Whether a file is an .npz that `npz_of` made, to be fed as it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == ONE_BATCH
    except (zipfile.BadZipFile, OSError):
        return False


def unforeign(value: np.ndarray, dtype: np.dtype[np.generic]) -> np.ndarray:
    """Bits that were written for a type that numpy does not have, as that type; anything else as it is."""
    bits = value.dtype.kind == dtype.kind == "V" and value.dtype.names is None
    return value.view(dtype) if bits and value.dtype.itemsize == dtype.itemsize else value


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo()
    # Given to the constructor, it would be cut at a NUL, and lose backslashes on Windows.
    member.filename = f"{name}.npy"
    if len(member.filename.encode()) > _LONGEST_NAME:
        raise CannotWrite(f"the input {name[:40]!r}... has a name that is too long for an .npz")
    member.external_attr = 0o644 << 16
    return member


def _npy(name: str, value: np.ndarray) -> bytes:
    if value.dtype.kind in "OUS":
        raise CannotWrite(f"the input {name!r} holds strings, which no .npz takes without Python objects")
    plain = np.asarray(value, order="C")
    stream = io.BytesIO()
    npy.write_array(stream, plain.view(f"V{plain.itemsize}") if plain.dtype.kind == "V" else plain, allow_pickle=False)
    return stream.getvalue()
