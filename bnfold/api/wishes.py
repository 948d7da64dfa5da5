"""What the public functions take alike, and the checks of it that come before anything is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from bnfold.errors import UsageError
from bnfold.model import ModelFile
from bnfold.result import refuse_overwriting

if TYPE_CHECKING:
    from bnfold.equality.data import Data

Source = str | os.PathLike[str] | bytes | onnx.ModelProto

CPU = "CPUExecutionProvider"
LONGEST_TIMEOUT = 366 * 24 * 3600


def target_of(
    original: ModelFile, output: str | os.PathLike[str] | None, *, in_place: bool, check: bool = False
) -> Path | None:
    """Where to write, once everything is verified."""
    if sum((output is not None, in_place, check)) > 1:
        raise UsageError("output, in_place and check exclude each other")
    if in_place:
        if original.path is None:
            raise UsageError("in_place needs a model that was read from a path")
        return original.path
    if output is None:
        return None
    target = Path(output)
    refuse_overwriting(original, target)
    return target


def check_runs(seed: int, threads: int, timeout: float, data: Data | None, libraries: Sequence[str]) -> None:
    """What no generator of random numbers and no clock accepts, and what is not there."""
    if seed < 0:
        raise UsageError(f"the seed is {seed}, and must be 0 or more")
    if threads < 0:
        raise UsageError(f"the number of threads is {threads}, and must be 0 or more")
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise UsageError(f"the timeout is {timeout:g} s, and must be more than 0 and at most {LONGEST_TIMEOUT:,} s")
    for library in libraries:
        if not Path(library).is_file():
            raise UsageError(f"{os.fspath(library)!r} is no file")
    if data is not None:
        from bnfold.equality.data import check_data  # noqa: PLC0415  # only where there are data

        check_data(data)


def silent(stage: str) -> None:
    """The progress that nobody wants to hear of."""
    del stage
