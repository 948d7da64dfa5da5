from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import parser

from bnfold.equality.runner import Limits, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    with Runner(Limits(timeout=60.0, threads=2)) as running:
        yield running


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model given as ONNX text (without its header) or as a proto, and gives its path."""

    def written(model: str | onnx.ModelProto, name: str = "model.onnx", *, opset: int = 17, ir: int = 8) -> Path:
        if isinstance(model, str):
            model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> g {model}')
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return written
