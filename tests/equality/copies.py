"""The copy that is run in place of a model, as a protobuf with its data inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from bnfold.equality.prepare import Copy, Upgrade, prepared

if TYPE_CHECKING:
    from pathlib import Path


def copied(path: Path, *, perturb: int | None = None, upgrade: Upgrade = "none") -> onnx.ModelProto:
    scratch = path.parent / "scratch"
    with prepared(path, perturb=perturb, upgrade=upgrade, scratch=scratch) as found:
        assert found != path, "there is no copy"
        model = onnx.load_model_from_string(found.content) if isinstance(found, Copy) else onnx.load(found)
    assert not scratch.exists()
    return model
