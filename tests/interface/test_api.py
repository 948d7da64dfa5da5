"""The functions: models in, results out, errors that carry what a caller needs."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import DIGITS, custom, environment, foldable, operators, temporaries

import bnfold
from bnfold.api import folding
from bnfold.equality.examine import Examination, judged
from bnfold.equality.pair import Outcome
from bnfold.equality.verdict import EndToEnd, OutputComparison
from bnfold.ops import absorb
from bnfold.report import as_json
from bnfold.report.folding import folded
from bnfold.result import Done

CERTIFICATE = "certificate"


def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = absorb.absorbed_weight
    monkeypatch.setattr(absorb, "absorbed_parts", lambda *given: [right(*given) * np.float32(1.0001)])


@pytest.mark.parametrize("source", ["path", "text", "bytes", "proto"])
def test_a_model_comes_as_path_bytes_or_proto(desk: Path, source: str) -> None:
    path = desk / "m.onnx"
    given = {"path": path, "text": str(path), "bytes": path.read_bytes(), "proto": onnx.load(path)}[source]
    result = bnfold.fold(given)
    assert isinstance(result, bnfold.FoldResult)
    assert [node.op_type for node in result.to_proto().graph.node] == ["Conv", "Relu"]
    assert isinstance(result.verdict, bnfold.Same)
    assert result.verdict.executed
    assert result.certificate is not None
    assert result.certificate.holds
    assert result.written is None


def test_a_proto_that_was_folded_is_not_changed() -> None:
    given = foldable()
    was = given.SerializeToString()
    bnfold.fold(given, verify=CERTIFICATE)
    assert given.SerializeToString() == was


def test_save_writes_the_bytes_that_were_verified(desk: Path) -> None:
    result = bnfold.fold(desk / "m.onnx", verify=CERTIFICATE)
    assert result.save("saved.onnx") == Path("saved.onnx")
    saved = (desk / "saved.onnx").read_bytes()
    assert saved == result.to_bytes() == result.to_proto().SerializeToString()
    assert hashlib.sha256(saved).hexdigest() == result.sha256
    assert len(saved) == result.after.bytes


def test_an_output_is_written_and_said(desk: Path) -> None:
    result = bnfold.fold("m.onnx", "out.onnx", verify=CERTIFICATE)
    assert result.written == Path("out.onnx")
    assert hashlib.sha256((desk / "out.onnx").read_bytes()).hexdigest() == result.sha256


def test_nothing_is_written_without_an_output(desk: Path) -> None:
    before = sorted(desk.iterdir())
    bnfold.fold("m.onnx", verify=CERTIFICATE)
    assert sorted(desk.iterdir()) == before


def test_in_place_writes_where_the_model_was_read(desk: Path) -> None:
    assert bnfold.fold("m.onnx", in_place=True, verify=CERTIFICATE).written == Path("m.onnx")
    assert operators(desk / "m.onnx") == ["Conv", "Relu"]
    assert bnfold.fold("without.onnx", in_place=True).written is None


def test_totals_count_nodes_normalizations_and_bytes(desk: Path) -> None:
    result = bnfold.fold("two.onnx", verify=CERTIFICATE)
    assert result.before == bnfold.Totals(4, 2, (desk / "two.onnx").stat().st_size)
    assert result.after == bnfold.Totals(3, 1, len(result.to_bytes()))


def test_nothing_to_fold_gives_the_bytes_of_the_input(desk: Path) -> None:
    result = bnfold.fold("blocked.onnx")
    assert result.to_bytes() == (desk / "blocked.onnx").read_bytes()
    assert isinstance(result.verdict, bnfold.Same)
    assert (result.verdict.certified, result.verdict.executed) == (True, False)
    assert result.certificate is not None
    assert (result.certificate.before, result.certificate.claims) == (result.certificate.after, ())


def test_a_certificate_of_nothing_to_fold_in_place_is_written_and_the_model_is_not(desk: Path) -> None:
    was = (desk / "blocked.onnx").stat()
    assert bnfold.fold("blocked.onnx", in_place=True, certificate="c.json").written is None
    assert json.loads((desk / "c.json").read_text())["holds"]
    now = (desk / "blocked.onnx").stat()
    assert (now.st_ino, now.st_mtime_ns) == (was.st_ino, was.st_mtime_ns)


@pytest.mark.parametrize("limit", [{"strict": True}, {"max_left": 0}])
def test_a_check_counts_what_stays_too(desk: Path, limit: dict[str, object]) -> None:
    with pytest.raises(bnfold.BatchNormsLeft):
        bnfold.fold("blocked.onnx", check=True, **limit)
    assert bnfold.fold("blocked.onnx", check=True, max_left=1).written is None
    assert temporaries(desk) == []


def test_nothing_to_fold_in_place_touches_no_file(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "shown", None)
    assert bnfold.fold("blocked.onnx", in_place=True).written is None
    assert temporaries(desk) == []


def test_a_model_with_external_data_is_folded_written_and_saved_again(desk: Path) -> None:
    onnx.save_model(foldable(), "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    (desk / "elsewhere").mkdir()
    result = bnfold.fold("ext.onnx", "out.onnx")
    result.save("elsewhere/copy.onnx")
    for name in ("out.onnx", "elsewhere/copy.onnx"):
        assert operators(desk / name) == ["Conv", "Relu"]
        bnfold.verify("ext.onnx", desk / name).raise_unless_same()
    assert result.to_proto().graph.initializer[0].raw_data
    assert temporaries(desk) == []


def test_external_data_that_changed_under_the_fold_are_refused_when_it_is_saved(desk: Path) -> None:
    onnx.save_model(foldable(), "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    result = bnfold.fold("ext.onnx", verify=CERTIFICATE)
    (desk / "w.bin").write_bytes(b"short")
    with pytest.raises(bnfold.BnfoldError):
        result.save("late.onnx")
    assert not (desk / "late.onnx").exists()
    assert temporaries(desk) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": "m.onnx", "output": "m.onnx"}, bnfold.UsageError),
        ({"model": "m.onnx", "output": "o.onnx", "in_place": True}, bnfold.UsageError),
        ({"model": "m.onnx", "in_place": True, "check": True}, bnfold.UsageError),
        ({"model": b"\x08\x08", "in_place": True}, bnfold.BnfoldError),
        ({"model": "m.onnx", "verify": "maybe"}, bnfold.UsageError),
        ({"model": "m.onnx", "seed": -1}, bnfold.UsageError),
        ({"model": "m.onnx", "timeout": 0.0}, bnfold.UsageError),
        ({"model": "m.onnx", "timeout": float("nan")}, bnfold.UsageError),
        ({"model": "m.onnx", "timeout": float("inf")}, bnfold.UsageError),
        ({"model": "m.onnx", "dims": {"Q": 3}}, bnfold.UsageError),
        ({"model": "m.onnx", "data": "none.npz"}, bnfold.UsageError),
        ({"model": "m.onnx", "certificate": "m.onnx"}, bnfold.UsageError),
        ({"model": "m.onnx", "certificate": "c.json", "verify": "off"}, bnfold.UsageError),
        ({"model": "m.onnx", "custom_ops": ["none.so"]}, bnfold.UsageError),
        ({"model": "m.onnx", "certificate": "none/c.json"}, bnfold.CannotWrite),
        ({"model": "missing.onnx"}, bnfold.InputRefused),
        ({"model": b""}, bnfold.InputRefused),
        ({"model": "m.onnx", "max_bytes": 10}, bnfold.InputRefused),
        ({"model": "m.onnx", "output": "no/o.onnx"}, bnfold.CannotWrite),
        ({"model": "m.onnx", "output": "."}, bnfold.CannotWrite),
        ({"model": "m.onnx", "certificate": "no/c.json"}, bnfold.CannotWrite),
    ],
)
def test_what_cannot_be_done_raises_and_writes_nothing(
    desk: Path, arguments: dict[str, object], error: type[bnfold.BnfoldError]
) -> None:
    before = {path.name: path.read_bytes() for path in desk.iterdir()}
    with pytest.raises(error) as raised:
        bnfold.fold(**arguments)
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in desk.iterdir()} == before


def test_errors_carry_the_exit_code_of_the_command_line() -> None:
    codes = {
        bnfold.Flagged: 1,
        bnfold.WouldFold: 1,
        bnfold.BatchNormsLeft: 1,
        bnfold.UsageError: 2,
        bnfold.InputRefused: 3,
        bnfold.NotVerified: 4,
        bnfold.CannotWrite: 5,
        bnfold.Undecided: 6,
    }
    assert {error: error.exit_code for error in codes} == codes
    assert all(issubclass(error, bnfold.BnfoldError) for error in codes)


def test_in_place_without_a_path_is_refused() -> None:
    for given in (foldable(), foldable().SerializeToString()):
        with pytest.raises(bnfold.UsageError, match="path"):
            bnfold.fold(given, in_place=True)


def test_check_raises_with_the_plan_when_something_would_fold(desk: Path) -> None:
    with pytest.raises(bnfold.WouldFold) as raised:
        bnfold.fold("two.onnx", check=True)
    assert len(raised.value.result.plan.moves) == 1
    assert raised.value.result.written is None
    assert raised.value.result.to_bytes() == (desk / "two.onnx").read_bytes()
    assert bnfold.fold("blocked.onnx", check=True).plan.moves == ()


def test_too_many_left_raises_with_the_result_and_the_model_is_written(desk: Path) -> None:
    with pytest.raises(bnfold.BatchNormsLeft) as raised:
        bnfold.fold("two.onnx", "out.onnx", strict=True, verify=CERTIFICATE)
    assert raised.value.result.written == Path("out.onnx")
    assert operators(desk / "out.onnx") == ["Conv", "Relu", "BatchNormalization"]
    assert bnfold.fold("two.onnx", max_left=1, verify=CERTIFICATE).written is None
    with pytest.raises(bnfold.BatchNormsLeft):
        bnfold.fold("two.onnx", max_left=0, verify=CERTIFICATE)


def test_a_wrong_fold_raises_with_its_verdict(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch)
    with pytest.raises(bnfold.NotVerified, match="the weight of Conv#0") as raised:
        bnfold.fold("m.onnx", "out.onnx")
    assert isinstance(raised.value.verdict, bnfold.Differs)
    assert not isinstance(raised.value, bnfold.Undecided)
    assert not (desk / "out.onnx").exists()


def test_an_undecided_fold_raises_with_its_verdict(desk: Path) -> None:
    with pytest.raises(bnfold.Undecided, match="verify='certificate'") as raised:
        bnfold.fold("custom.onnx", "out.onnx")
    assert isinstance(raised.value.verdict, bnfold.Unknown)
    assert not (desk / "out.onnx").exists()
    alone = bnfold.fold(custom(), verify=CERTIFICATE).verdict
    assert (alone.certified, alone.executed) == (True, False)


@pytest.mark.parametrize(
    ("is_certified", "reason", "ratio", "word"),
    [
        (True, "floor", 5.0, "same"), (False, "floor", 5.0, "unknown"), (True, "floor", 11.0, "unknown"),
        (True, "discrete", 11.0, "same"), (True, "random", 5.0, "unknown"),
    ],
)  # fmt: skip
def test_a_certificate_decides_where_the_rounding_floor_does_not(
    is_certified: bool, reason: str, ratio: float, word: str
) -> None:
    apart = OutputComparison("y", "normal", ratio, 1e-6, 1e-6, 120.0, None, decides=True, equal=False)
    outcome = Outcome("undecided", "apart by 5 times", reason, None, EndToEnd((apart,), None, ("a note",)))
    verdict = judged(Examination(outcome, None), is_certified=is_certified)
    assert verdict.word == word
    if (word, reason) == ("same", "floor"):
        assert verdict.end_to_end.notes == (
            "a note",
            "apart by 5 times: that decides nothing, and the certificate does",
        )


def test_a_difference_is_one_whatever_a_certificate_says() -> None:
    assert judged(Examination(Outcome("differs", "apart", "floor"), None), is_certified=True).word == "differs"


def test_verdicts_speak_for_themselves(desk: Path) -> None:
    result = bnfold.fold("m.onnx", "out.onnx")
    same = bnfold.verify("m.onnx", "out.onnx")
    assert same.is_same
    assert same.raise_unless_same() is None
    bnfold.verify(onnx.load("m.onnx"), result.to_bytes()).raise_unless_same()

    other = onnx.load(desk / "m.onnx")
    next(t for t in other.graph.initializer if t.name == "e").raw_data = np.full(4, 9, "f").tobytes()
    differs = bnfold.verify("m.onnx", other)
    assert isinstance(differs, bnfold.Differs)
    assert not differs.is_same
    assert isinstance(differs.counterexample, bnfold.Counterexample)
    assert list(differs.counterexample.inputs) == ["x"]
    with pytest.raises(bnfold.NotVerified) as raised:
        differs.raise_unless_same()
    assert raised.value.verdict is differs

    unknown = bnfold.verify("custom.onnx", "custom.onnx")
    assert isinstance(unknown, bnfold.Unknown)
    with pytest.raises(bnfold.Undecided):
        unknown.raise_unless_same()


@pytest.mark.parametrize("options", [{"seed": -1}, {"timeout": 0}, {"dims": {"Q": 1}}, {"data": "none.npz"}])
def test_a_comparison_that_cannot_be_meant_raises(desk: Path, options: dict[str, object]) -> None:
    with pytest.raises(bnfold.UsageError):
        bnfold.verify(desk / "m.onnx", desk / "m.onnx", **options)


@pytest.mark.usefixtures("desk")
def test_a_counterexample_really_tells_the_models_apart() -> None:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  # another engine than the one that found it

    other = onnx.load("m.onnx")
    next(t for t in other.graph.initializer if t.name == "e").raw_data = np.full(4, 9, "f").tobytes()
    verdict = bnfold.verify("m.onnx", other)
    assert isinstance(verdict, bnfold.Differs)
    shown = verdict.counterexample
    assert shown is not None
    (before,), (after,) = (ReferenceEvaluator(model).run(None, dict(shown.inputs)) for model in ("m.onnx", other))
    assert abs(float(before[shown.index]) - float(after[shown.index])) > shown.bound


@pytest.mark.usefixtures("desk")
def test_a_plan_goes_to_json_and_back_and_accounts_for_every_normalization() -> None:
    plan = bnfold.plan("two.onnx")
    assert [str(move.site) for move in plan.moves] == ["BatchNormalization#1"]
    assert [refusal.reason.code for refusal in plan.refusals] == ["shift-stays"]
    assert plan.refusals[0].remedy == bnfold.explain("shift-stays").remedy
    again = bnfold.Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert json.dumps(again.to_json()) == json.dumps(plan.to_json())


@pytest.mark.parametrize("broken", [{}, {"moves": 3}, {"fingerprint": "", "moves": [{}], "refusals": []}])
def test_what_is_no_plan_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(bnfold.UsageError, match="this is no plan"):
        bnfold.Plan.from_json(broken)


def test_explain_gives_a_page_and_refuses_what_is_no_code() -> None:
    assert bnfold.explain("training-mode").code == "training-mode"
    with pytest.raises(bnfold.UsageError, match="other-readers"):
        bnfold.explain("nonsense")


@pytest.mark.usefixtures("desk")
def test_progress_is_told_each_stage_in_order() -> None:
    stages: list[str] = []
    bnfold.fold("m.onnx", "out.onnx", progress=stages.append)
    assert stages == [
        "reading",
        "planning",
        "writing a candidate",
        "recomputing every constant",
        "running both models",
        "publishing",
    ]


@pytest.mark.usefixtures("desk")
def test_a_progress_that_raises_leaves_nothing_behind() -> None:
    def tired(stage: str) -> None:
        if stage == "running both models":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bnfold.fold("m.onnx", "out.onnx", progress=tired)
    assert not Path("out.onnx").exists()
    assert temporaries(Path()) == []


@pytest.mark.usefixtures("desk")
def test_nobody_else_s_logging_is_touched() -> None:
    before = {None: _state(None), "onnx": _state("onnx"), "bnfold": _state("bnfold")}
    bnfold.fold("m.onnx", "out.onnx")
    bnfold.verify("m.onnx", "out.onnx")
    assert {name: _state(name) for name in before} == before


def _state(name: str | None) -> tuple[int, bool, list[logging.Handler], bool]:
    logger = logging.getLogger(name)
    return logger.level, logger.disabled, list(logger.handlers), logger.propagate


def test_a_library_call_prints_nothing(desk: Path) -> None:
    code = "import bnfold; bnfold.fold('two.onnx', 'out.onnx'); bnfold.plan('two.onnx'); bnfold.ops"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=desk, env=environment(), capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.usefixtures("desk")
def test_the_same_call_gives_the_same_bytes_and_the_same_figures() -> None:
    results = [bnfold.fold(DIGITS, seed=3) for _ in range(2)]
    assert results[0].to_bytes() == results[1].to_bytes()
    said = [as_json.written(folded([Done("m", None, result, None)])) for result in results]
    assert said[0] == said[1]


def test_a_result_s_certificate_names_the_files(desk: Path) -> None:
    result = bnfold.fold("m.onnx", "out.onnx", verify=CERTIFICATE, certificate="c.json")
    written = json.loads((desk / "c.json").read_text())
    assert result.certificate is not None
    recomputed = json.loads(json.dumps(result.certificate.to_json()))
    assert all(written[key] == recomputed[key] for key in ("holds", "claims", "homes"))
    assert written["begins_at"] == recomputed["before"]
    for side, path in (("before", desk / "m.onnx"), ("after", desk / "out.onnx")):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        assert written[side] == {"sha256": digest, "bytes": len(content), "data": []}
        assert recomputed[side] == digest
