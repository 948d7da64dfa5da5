"""A bug of bnfold outside of the work on one model: told in the reports, which are written, and the others go on."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from batch_works import ByName
from command_line import Answer

from bnfold.batch import running, workers
from bnfold.batch.work import Job
from bnfold.batch.workers import Ways
from bnfold.report import folding as report_of_folds
from bnfold.report.folding import planned
from bnfold.report.progress import Spinner
from bnfold.result import FoldResult, Outcome

Cli = Callable[..., Answer]


def _broken(*_: object, **__: object) -> object:
    raise ZeroDivisionError("met on purpose")


def _broken_for(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """The same as `function`, except for a model of this name."""
    return lambda first, *rest, **named: (_broken if first == name else function)(first, *rest, **named)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_bug_in_what_is_told_of_one_model_is_its_own(
    cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    monkeypatch.setattr("bnfold.report.folding.planned", _broken_for("two.onnx", planned))
    answer = cli("plan", "m.onnx", "two.onnx", "without.onnx", "--jobs", jobs, "--report", "r.json", "-q")
    assert (answer.code, answer.err.count("\n")) == (70, 1)
    assert answer.err.startswith("bnfold: two.onnx: this is a bug in bnfold (ZeroDivisionError: met on purpose)")
    models = json.loads((desk / "r.json").read_text())["models"]
    assert [(one["source"], one["exit_code"]) for one in models] == [
        ("m.onnx", 0),
        ("two.onnx", 70),
        ("without.onnx", 0),
    ]
    assert [one["result"] is None for one in models] == [False, True, False]


def test_a_bug_in_what_is_told_of_a_fold_is_its_own(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = report_of_folds._result_facts

    def facts(result: FoldResult, *, check: bool) -> object:
        return _broken() if result.before.batch_norms > 1 else counted(result, check=check)

    monkeypatch.setattr(report_of_folds, "_result_facts", facts)
    answer = cli("fold", "m.onnx", "two.onnx", "-o", "out", "--verify", "off", "--report", "r.json", "-q")
    assert (answer.code, answer.err.count("\n")) == (70, 1)
    models = json.loads((desk / "r.json").read_text())["models"]
    assert [(one["source"], one["exit_code"]) for one in models] == [("m.onnx", 0), ("two.onnx", 70)]


def test_a_bug_between_the_models_costs_those_that_were_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_and_no_more(work: object, jobs: Sequence[Job], ways: Ways) -> Iterator[tuple[int, Outcome[str]]]:
        del work, ways
        yield 1, Outcome(jobs[1].name, None, "done", None)
        _broken()

    monkeypatch.setattr(running, "side_by_side", one_and_no_more)
    outcomes = running.run(ByName(), [Job(name, name) for name in "abc"], Ways(2), Spinner())
    assert [(one.source, one.exit_code) for one in outcomes] == [("a", 70), ("b", 0), ("c", 70)]


def test_a_bug_in_what_shows_how_far_things_are_costs_no_other_model() -> None:
    class Watch(Spinner):
        def done(self, name: str) -> None:
            if name == "a":
                _broken()

    outcomes = running.run(ByName(), [Job(name, name) for name in "ab"], Ways(1), Watch())
    assert [(one.source, one.exit_code) for one in outcomes] == [("a", 70), ("b", 0)]


@pytest.mark.parametrize("startable", [0, 1])
def test_where_no_process_can_be_started_those_that_run_have_to_do(
    startable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, left = workers._started, [None] * startable

    def scarce(*arguments: object) -> object:
        if not left:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        left.pop()
        return started(*arguments)

    monkeypatch.setattr(workers, "_started", scarce)
    outcomes = running.run(ByName(), [Job(name, name) for name in "ab"], Ways(2), Spinner())
    assert [one.exit_code for one in outcomes] == [0 if startable else 6] * 2
    if not startable:
        assert str(outcomes[0].error) == "no process can be started for it: Resource temporarily unavailable"


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("verify m.onnx m.onnx", "bnfold.api.verify"),
        ("witness blocked.onnx", "bnfold.api.witnesses.witnesses_and_rest"),
        ("plan m.onnx", "bnfold.api.plan"),
    ],
)
def test_a_bug_is_told_in_the_reports_of_every_command(
    cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch, command: str, function: str
) -> None:
    monkeypatch.setattr(function, _broken)
    answer = cli(*command.split(), "--report", "r.json", "--report", "r.xml")
    assert (answer.code, answer.out, answer.err.count("\n")) == (70, "", 1)
    said = json.loads((desk / "r.json").read_text())
    assert (said["exit_code"], said["error"]["kind"]) == (70, "Bug")
    assert "ZeroDivisionError" in (desk / "r.xml").read_text()
