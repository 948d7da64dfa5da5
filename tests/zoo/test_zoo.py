"""Real architectures: planned as recorded, folded, certified and run, with nothing easy left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from differing import difference

import bnfold

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "commands")]
from replay import RECORDS, ZOO, fill, record  # noqa: E402  # both are commands, and stand beside the tests
from survey import straight  # noqa: E402  # likewise

MODELS = sorted(ZOO.glob("*.onnx"))

pytestmark = pytest.mark.skipif(not MODELS, reason="../shared/zoo is absent: NO REAL ARCHITECTURE IS TESTED")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_move_is_verified_and_nothing_easy_stays(path: Path, tmp_path: Path) -> None:
    model = tmp_path / path.name
    fill(path, model)
    result = bnfold.fold(model, tmp_path / "folded.onnx")
    assert record(result.plan) == json.loads(RECORDS.read_text())[path.stem]
    if result.plan.moves:
        assert result.verdict is not None
        assert result.verdict.certified
        assert result.verdict.executed
    else:
        assert not difference((tmp_path / "folded.onnx").read_bytes(), model.read_bytes())
    assert not {refusal.site.name for refusal in result.plan.refusals} & straight(model)
    again = bnfold.fold(tmp_path / "folded.onnx", verify="off")
    assert not again.plan.moves
    assert not difference(again.to_bytes(), (tmp_path / "folded.onnx").read_bytes())


@pytest.mark.skipif(not MODELS, reason="../shared/zoo is absent")
def test_the_records_cover_the_zoo() -> None:
    assert set(json.loads(RECORDS.read_text())) == {path.stem for path in MODELS}
