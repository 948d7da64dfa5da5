"""The verdict out of what running showed end to end and site by site, and a certificate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from site_models import affine, kernel, model, norm

import bnfold
from bnfold.equality.examine import Examination, judged
from bnfold.equality.inputs import Batch
from bnfold.equality.pair import Outcome
from bnfold.equality.site_figures import Excess
from bnfold.equality.sites import Divergence, SiteOutcome
from bnfold.equality.verdict import Differs, EndToEnd, OutputComparison

BATCH = Batch("normal", {"x": np.ones(3, np.float32)})
EXCESS = Excess(7.5, "gain", (0, 2), 1.25, 1.5, 1e-7, 2)
APART = OutputComparison("y", "normal", 5.0, 1e-6, 1e-6, 120.0, None, decides=True, equal=False)
FAR = OutputComparison("y", "normal", 11.0, 1e-6, 1e-6, 120.0, None, decides=True, equal=False)

OUTCOMES = {
    "equal": Outcome("equal"),
    "within": Outcome("within"),
    "floor": Outcome("undecided", "apart by 5 times", "floor", None, EndToEnd((APART,))),
    "uncertain": Outcome("undecided", "apart by 11 times", "floor", None, EndToEnd((FAR,))),
    "discrete": Outcome("undecided", "behind Round", "discrete", None, EndToEnd((APART,))),
    "crash": Outcome("undecided", "onnxruntime crashed", "crash"),
    "differs": Outcome("differs", "output 'y' is apart by 20 times"),
}


def sites(word: str) -> SiteOutcome | None:
    if word == "none":
        return None
    divergence = Divergence("Conv#3 'c'", "n", "m", EXCESS, BATCH) if word == "differs" else None
    return SiteOutcome(divergence, "one site says neither" if word == "undecided" else "", 4, 9, 0, 0.5, "Conv#0")


TABLE = [
    ("equal", "same", "same"), ("equal", "undecided", "same"), ("equal", "none", "same"),
    ("within", "same", "same"), ("within", "undecided", "unknown"), ("within", "none", "same"),
    ("floor", "same", "same"), ("floor", "undecided", "unknown"), ("floor", "none", "unknown"),
    ("uncertain", "same", "unknown"), ("uncertain", "none", "unknown"),
    ("discrete", "same", "same"), ("discrete", "undecided", "unknown"), ("discrete", "none", "unknown"),
    ("crash", "none", "unknown"),
    ("differs", "same", "differs"), ("differs", "none", "differs"), ("differs", "undecided", "differs"),
    *((outcome, "differs", "differs") for outcome in OUTCOMES if outcome != "crash"),
]  # fmt: skip


@pytest.mark.parametrize(("outcome", "at_sites", "word"), TABLE)
def test_what_both_say_together(outcome: str, at_sites: str, word: str) -> None:
    assert judged(Examination(OUTCOMES[outcome], sites(at_sites))).word == word


@pytest.mark.parametrize(("outcome", "at_sites", "word"), TABLE)
def test_a_certificate_decides_what_running_leaves_open_and_nothing_else(
    outcome: str, at_sites: str, word: str
) -> None:
    verdict = judged(Examination(OUTCOMES[outcome], sites(at_sites)), is_certified=True)
    open_ = word == "unknown" and outcome in {"within", "floor", "discrete"}
    assert verdict.word == ("same" if open_ else word)


def test_a_difference_names_its_site_both_values_and_what_the_outputs_show() -> None:
    verdict = judged(Examination(OUTCOMES["differs"], sites("differs")))
    assert isinstance(verdict, Differs)
    assert (verdict.site, verdict.value, verdict.original) == ("Conv#3 'c'", "n", "m")
    for part in ("Conv#3 'c'", "'n'[0, 2]", "'m'", "1.5", "1.25", "channel 2", "7.5 times", "'y' is apart"):
        assert part in verdict.sentence
    assert verdict.counterexample is not None
    assert verdict.counterexample.inputs is BATCH.feeds
    assert (verdict.counterexample.before, verdict.counterexample.after) == (1.25, 1.5)


def test_the_saved_counterexample_shows_the_same_site_again(tmp_path: Path) -> None:
    text = "(float[N,8,9,9] x) => (float[N,8,7,7] y) { c = Conv(x,w) n = BatchNormalization(c,g,be,m,v) y = Relu(n) }"
    scale, shift = affine(norm())
    scale[5] *= 1 + 1e-5
    folded = "(float[N,8,9,9] x) => (float[N,8,7,7] y) { n = Conv(x,w2,b) y = Relu(n) }"
    paths = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model(text, w=kernel(1), **norm()), paths[0])
    onnx.save(model(folded, w2=kernel(1) * scale.reshape(-1, 1, 1, 1), b=shift), paths[1])
    first = bnfold.verify(*paths, save_counterexample=tmp_path / "x.npz")
    assert isinstance(first, Differs)
    assert first.counterexample is not None
    with np.load(tmp_path / "x.npz") as saved:
        assert list(saved) == ["x"]
        assert np.array_equal(saved["x"], first.counterexample.inputs["x"])
    again = bnfold.verify(*paths, data=tmp_path / "x.npz", seed=1)
    assert isinstance(again, Differs)
    assert (again.site, again.value) == (first.site, first.value)
