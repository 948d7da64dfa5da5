"""No rule fails on a model that can be read, however broken: only BnfoldErrors may come out, of reading it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import bnfold
from bnfold.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "commands"))
from mutants import MODELS, loaded, mutant  # noqa: E402  # a command, which stands beside the tests

SHARED = ROOT.parent / "shared"
ZOO = sorted((SHARED / "zoo").glob("*.onnx"))
PER_TEST = 100


@pytest.mark.parametrize("first", range(0, 500, PER_TEST))
def test_no_rule_raises_on_a_mutant(first: int) -> None:
    models = loaded(sorted(MODELS.glob("*.onnx")))
    counts: Counter[str] = Counter()
    for seed in range(first, first + PER_TEST):
        try:
            found = bnfold.validate(mutant(models, seed), ignore=["BN017"])
        except bnfold.InputRefused:
            counts["refused"] += 1
            continue
        counts.update({one.code for one in found})
        assert all(one.sentence and "\n" not in one.sentence for one in found)
    assert counts["BN007"] > 5, "the mutations leave nothing to be found"
    assert counts["BN016"] > 5


def test_nothing_that_is_tried_raises_on_a_mutant() -> None:
    """The same where onnxruntime runs what looks suspicious."""
    models = loaded([MODELS / "digits_sequence.onnx"])
    for seed in range(40):
        try:
            bnfold.validate(mutant(models, seed), select=["BN017"], timeout=60)
        except bnfold.InputRefused:
            continue


@pytest.mark.skipif(not ZOO, reason="../shared/zoo is absent: NO REAL ARCHITECTURE IS LOOKED AT")
@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
def test_real_architectures_are_looked_at(path: Path, tmp_path: Path) -> None:
    """Those of torch and TensorFlow have nothing wrong but statistics that were made up or never trained."""
    filled = tmp_path / path.name
    subprocess.run([sys.executable, str(SHARED / "zoo.py"), "fill", str(path), str(filled)], check=True)
    found = bnfold.validate(filled)
    assert found.looked_at == len(bnfold.plan(filled).batch_norms.moves + bnfold.plan(filled).batch_norms.refusals)
    if path.stem.startswith(("torch_", "tf_")):
        wrong = {one.code for one in found if one.severity != "note"}
        assert wrong <= {"BN013", "BN017"}


def test_every_rule_has_a_severity_and_a_page() -> None:
    assert len(RULES) >= 23
    for code, rule in RULES.items():
        assert code == rule.code
        assert rule.title == rule.title.strip()
        assert len(rule.title) <= 90
        assert rule.title[-1] not in ".!"
        assert all(paragraph.endswith(".") for paragraph in rule.why)
        assert rule.remedy
