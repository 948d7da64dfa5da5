"""`bnfold.validate` in Python: the findings are the answer, and what cannot be answered raises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from rule_models import ALONE, CONV, W, model, sound

import bnfold
from bnfold.report import as_text
from bnfold.report.finding import found as answer

DATA = {"x": np.random.default_rng(0).standard_normal((200, 3, 6, 6)).astype(np.float32)}


def test_findings_are_a_sequence_sorted_by_severity_where_asked() -> None:
    found = bnfold.validate(model(CONV, W=W, **sound(g=(0, 0), v=[-1, 1, 1, -1e-6])))
    assert isinstance(found, bnfold.Findings)
    assert [one.code for one in found] == ["BN005", "BN006"]
    assert (found[0], found[-1:], len(found)) == (found.errors[0], found.warnings, 2)
    assert found.notes == ()
    assert found.fails


def test_a_finding_is_a_value() -> None:
    (one,) = bnfold.validate(model(ALONE, **sound(v=(0, -1))))
    (same,) = bnfold.validate(model(ALONE, **sound(v=(0, -1))))
    assert one == same
    assert hash(one) == hash(same)
    assert isinstance(one.site, bnfold.Site)
    with pytest.raises(AttributeError):
        one.code = "BN000"  # type: ignore[misc]


def test_what_fails_can_be_made_to_raise() -> None:
    with pytest.raises(bnfold.NotClean, match="BN005 at BatchNormalization#0: variance") as raised:
        bnfold.validate(model(ALONE, **sound(v=(0, -1)))).raise_if_failing()
    assert raised.value.exit_code == 1
    assert [one.code for one in raised.value.findings] == ["BN005"]
    bnfold.validate(model(CONV, W=W, **sound())).raise_if_failing()
    with pytest.raises(bnfold.NotClean, match="BN016"):
        bnfold.validate(model(CONV, W=W, **sound()), select=["BN016"]).raise_if_failing()


def test_a_path_bytes_and_a_proto_are_the_same(tmp_path: Path) -> None:
    proto = model(CONV, W=W, **sound(v=(0, -1)))
    onnx.save(proto, tmp_path / "m.onnx")
    ways = [bnfold.validate(way) for way in (proto, proto.SerializeToString(), tmp_path / "m.onnx")]
    assert ways[0] == ways[1] == ways[2]


def test_a_rule_s_page_is_explained_like_a_reason() -> None:
    rule = bnfold.explain("BN101")
    assert isinstance(rule, bnfold.Rule)
    assert rule.needs_data
    assert isinstance(bnfold.explain("no-home"), bnfold.Reason)
    with pytest.raises(bnfold.UsageError, match="no reason or rule 'BN999'"):
        bnfold.explain("BN999")


def test_data_are_run_and_what_is_constant_over_them_is_noted() -> None:
    proto = model(CONV, W=W, **sound())
    constant = {"x": np.ones((200, 3, 6, 6), np.float32)}
    found = bnfold.validate(proto, data=constant, select=["BN103"])
    assert [one.code for one in found] == ["BN103"]
    assert bnfold.validate(proto, data=DATA, select=["BN103"]).found == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"z": DATA["x"], "w": DATA["x"]}, "'x'"),
        ({"x": DATA["x"][:, :2]}, "'x'"),
        ({"x": DATA["x"].astype(str)}, "'x'"),
        ({"x": np.where(DATA["x"] > 2, np.inf, DATA["x"]).astype(np.float32)}, "NaN or infinity in 'x'"),
        (3, "of the type int"),
    ],
)
def test_data_that_do_not_suit_the_model_are_refused(data: object, words: str) -> None:
    with pytest.raises(bnfold.UsageError, match=words):
        bnfold.validate(model(CONV, W=W, **sound()), data=data)


def test_nothing_is_run_on_data_that_no_chosen_rule_looks_at() -> None:
    text = CONV.replace("Conv (x, W)", "own.Conv (x, W)")
    proto = model(text, W=W, **sound(v=(0, -1)))
    proto.opset_import.append(onnx.helper.make_opsetid("own", 1))
    assert [one.code for one in bnfold.validate(proto, data=DATA, ignore=["BN1"])] == ["BN005"]
    with pytest.raises(bnfold.Undecided, match="cannot be run on the data"):
        bnfold.validate(proto, data=DATA)


def test_an_old_layer_is_not_held_against_data_and_that_is_said() -> None:
    """onnxruntime has no kernel for it."""
    text = (
        "(float[N,4,6,6] x) => (float[N,4,6,6] y) { r = Relu (x) y = BatchNormalization <is_test = 1> (r, g, b, m, v) }"
    )
    images = np.random.default_rng(1).standard_normal((200, 4, 6, 6)).astype(np.float32)
    found = bnfold.validate(model(text, opset=6, ir=8, **sound(m=50)), data={"x": images})
    assert not {one.code for one in found} & {"BN101", "BN104"}
    assert any("was not observed" in remark for remark in found.remarks)
    newer = bnfold.validate(model(text.replace(" <is_test = 1>", ""), opset=7, ir=8, **sound(m=50)), data={"x": images})
    assert {one.code for one in newer} == {"BN101", "BN104"}


def test_in_training_mode_nothing_is_held_against_data() -> None:
    text = CONV.replace("y = Batch", "y, r, s = Batch").replace(
        "Normalization (", "Normalization <training_mode = 1> ("
    )
    found = bnfold.validate(model(text, W=W, **sound(m=50)), data=DATA)
    assert [one.code for one in found] == ["BN001"]


def test_the_same_seed_gives_the_same_findings() -> None:
    proto = model(CONV, W=W, **sound(m=50))
    first, second = (bnfold.validate(proto, data=DATA, seed=3) for _ in range(2))
    assert first == second
    texts = {as_text.written(answer("m", each, verbose=True)) for each in (first, second)}
    assert len(texts) == 1


def test_progress_is_told() -> None:
    stages: list[str] = []
    bnfold.validate(model(CONV, W=W, **sound()), data=DATA, progress=stages.append)
    assert stages[0] == "reading"
    assert "running on the data" in stages


def test_a_model_without_a_layer_is_clean() -> None:
    proto = model("(float[N,3,6,6] x) => (float[N,4,6,6] y) { y = Conv (x, W) }", W=W)
    found = bnfold.validate(proto)
    assert (found.looked_at, list(found), found.fails) == (0, [], False)
