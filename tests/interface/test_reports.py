"""Every answer of every command in every format: held against the schemas, and against what each reader takes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import numpy as np
import onnx
import pytest
from command_line import Answer, command, environment, parsed, temporaries
from onnx import numpy_helper

import bnfold
from bnfold.equality.verdict import Counterexample, Differs, EndToEnd, Unknown
from bnfold.errors import BnfoldError, Bug, InputRefused, NotVerified, Undecided
from bnfold.report import as_json, as_junit, as_sarif, as_text
from bnfold.report.as_json import SCHEMA
from bnfold.report.folding import folded, planned
from bnfold.report.forms import OF_PAGES, SUFFIXES, Format
from bnfold.report.several import several
from bnfold.result import Done

Cli = Callable[..., Answer]
OFFICIAL = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json").read_text())
OURS = json.loads((resources.files("bnfold.report") / "schema.json").read_text())
OPEN = {"same", "differs", "unknown", "plan_fields", "insert_fields", "validate_fields"}
"""What others are composed of: what is no field of theirs may be one of the whole."""

CERTIFICATE = "--verify certificate"

NORM = "BatchNormalization"
MORE = {
    "twin": "(float[N,4,8] x) => (float[N,4,6] y) { a = Conv(x,w) b = Conv(x,w) s = Add(a,b) y = Relu(s) }",
    "skip": f"(float[N,4,8] x) => (float[N,4,8] y) {{ c = Conv<pads=[1,1]>(x,w) s = Add(c,x) y = {NORM}(s,g,e,m,v) }}",
    "parted": f"(float[N,4,8] x) => (float[N,4,6] y) {{ c = Conv<pads=[1,1]>(x,w) r = Relu(c) z = {NORM}(r,g,e,m,v) "
    "s = Add(z,x) y = Conv(s,w) }",
}
"""Models whose plans have more in them than homes and ways."""

ANSWERS = {
    "a fold": (f"fold m.onnx -o out.onnx {CERTIFICATE}", 0),
    "a fold that was run": ("fold m.onnx -o out.onnx --data d.npz", 0),
    "a fold that was not verified": ("fold m.onnx -o out.onnx --verify off", 0),
    "a fold that leaves one": (f"fold two.onnx -o out.onnx {CERTIFICATE}", 0),
    "a fold that may leave none": (f"fold two.onnx -o out.onnx --strict {CERTIFICATE}", 1),
    "a fold that merges": (f"fold twin.onnx -o out.onnx --merge-branches {CERTIFICATE}", 0),
    "a plan that merges": ("plan twin.onnx --merge-branches", 0),
    "a fold past a skip connection": (f"fold skip.onnx -o out.onnx {CERTIFICATE}", 0),
    "a fold that parts": (f"fold parted.onnx -o out.onnx -v {CERTIFICATE}", 0),
    "a plan of a skip connection": ("plan skip.onnx", 0),
    "a plan that parts": ("plan parted.onnx", 0),
    "a check": ("fold m.onnx --check", 1),
    "a check of nothing": ("fold without.onnx --check", 0),
    "a fold of nothing": ("fold without.onnx -o out.onnx", 0),
    "a fold of several": (f"fold m.onnx missing.onnx two.onnx -o out/ {CERTIFICATE}", 3),
    "a fold of none": ("fold missing.onnx -o out.onnx", 3),
    "an undecided fold": ("fold custom.onnx -o out.onnx", 6),
    "a plan": ("plan two.onnx", 0),
    "a plan of several": ("plan m.onnx missing.onnx two.onnx", 3),
    "a plan of nothing": ("plan without.onnx", 0),
    "a plan of none": ("plan missing.onnx", 3),
    "a plan of what is not there": ("plan m.onnx --only nonsense", 2),
    "an insertion": ("insert without.onnx --after Conv,Relu -o out.onnx", 0),
    "an insertion that leaves out": ("insert two.onnx --after Conv,Relu -o out.onnx --verify off", 0),
    "an insertion for training": ("insert without.onnx --after Conv --training -o out.onnx", 0),
    "an insertion that normalises": ("insert without.onnx --after Conv --init normalize --data d.npz -o out.onnx", 0),
    "an insertion into several": ("insert without.onnx missing.onnx --after Conv -o out/", 3),
    "an insertion into none": ("insert missing.onnx --after Conv -o out.onnx", 3),
    "the same": ("verify m.onnx m.onnx", 0),
    "the same by a certificate": ("verify m.onnx folded.onnx --certificate c.json --certificate-alone", 0),
    "another certificate": ("verify m.onnx two.onnx --certificate c.json --certificate-alone", 6),
    "a difference": ("verify m.onnx other.onnx --save-counterexample x.npz", 1),
    "other inputs": ("verify m.onnx renamed.onnx", 1),
    "undecided": ("verify custom.onnx custom.onnx", 6),
    "none to compare": ("verify m.onnx missing.onnx", 3),
    "findings": ("validate bad.onnx", 1),
    "findings that do not count": ("validate bad.onnx --exit-zero", 0),
    "notes": ("validate m.onnx", 0),
    "notes that count": ("validate m.onnx --select BN016", 1),
    "findings over data": ("validate m.onnx --data d.npz", 1),
    "findings of several": ("validate bad.onnx missing.onnx m.onnx", 3),
    "no findings": ("validate blocked.onnx", 0),
    "no model to look at": ("validate missing.onnx", 3),
    "the support matrix": ("ops", 0),
    "all pages": ("explain", 0),
    "a reason": ("explain blocked", 0),
    "a rule": ("explain BN101", 0),
}


@dataclass(frozen=True)
class Told:
    """One answer in every format."""

    code: int
    text: str
    json: Any
    github: str
    junit: ET.Element
    sarif: Any
    markdown: str
    html: str


@pytest.fixture
def models(desk: Path) -> Path:
    """Beside the models of every command: one that another tool broke, one with bad variances, twins, data."""
    model = onnx.load(desk / "m.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), "w"))
    onnx.save(model, desk / "other.onnx")
    model = onnx.load(desk / "m.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "another"
    onnx.save(model, desk / "renamed.onnx")
    model = onnx.load(desk / "two.onnx")
    variance = next(tensor for tensor in model.graph.initializer if tensor.name == "v")
    variance.CopyFrom(numpy_helper.from_array(np.array([1, -1, np.nan, 1], np.float32), "v"))
    onnx.save(model, desk / "bad.onnx")
    for name, text in MORE.items():
        onnx.save(parsed(text), desk / f"{name}.onnx")
    random = np.random.default_rng(0)
    np.savez(desk / "d.npz", x=random.standard_normal((200, 4, 8)).astype(np.float32))
    return desk


def told(cli: Cli, desk: Path, line: str, code: int) -> Told:
    words = line.split()
    if "c.json" in words:
        assert cli("fold", "m.onnx", "-o", "folded.onnx", *CERTIFICATE.split(), "--certificate", "c.json").code == 0
    of_pages = words[0] in {"ops", "explain"}
    suffixes = [suffix for suffix, form in SUFFIXES.items() if form in OF_PAGES or not of_pages]
    reports = [option for suffix in suffixes for option in ("--report", f"r{suffix}")]
    answer = cli(*words, *reports, *(() if of_pages else ("--format", "github")))
    assert answer.code == code, answer
    written = {suffix: (desk / f"r{suffix}").read_text(encoding="utf-8") for suffix in suffixes}
    return Told(
        code,
        written[".txt"],
        json.loads(written[".json"]),
        "" if of_pages else answer.out,
        ET.fromstring(written.get(".xml", "<testsuites/>")),
        json.loads(written.get(".sarif", "null")),
        written[".md"],
        written[".html"],
    )


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_every_format(cli: Cli, desk: Path, name: str) -> None:
    line, code = ANSWERS[name]
    found = told(cli, desk, line, code)
    jsonschema.Draft202012Validator(strict(OURS)).validate(found.json)
    assert (found.json["schema_id"], found.json["exit_code"]) == (SCHEMA, code)
    assert found.json["command"] == line.split(maxsplit=1)[0]
    self_contained(found.html)
    assert found.text.strip()
    assert ("merged into another" in found.text) == ("--merge-branches" in line)
    assert found.markdown.strip()
    if found.sarif is not None:
        jsonschema.Draft4Validator(OFFICIAL).validate(found.sarif)
        agree(found)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with nothing allowed that it does not name, so that a field without a description is noticed."""
    copied = json.loads(json.dumps(schema))

    def close(value: Any, name: str = "") -> None:
        if isinstance(value, dict):
            if "properties" in value and "allOf" not in value and name not in OPEN and not name.endswith("_answer"):
                value["unevaluatedProperties"] = False
            for key, inner in value.items():
                close(inner, key)
        elif isinstance(value, list):
            for inner in value:
                close(inner)

    for name, part in copied["$defs"].items():
        if name not in OPEN | {"fold"} and not name.endswith("_answer"):
            close(part, name)
    copied["unevaluatedProperties"] = False
    return copied


def agree(found: Told) -> None:
    """What one format tells, the others tell too."""
    (run,) = found.sarif["runs"]
    levels = {"error": "error", "warning": "warning", "notice": "note"}
    annotations = [line for line in found.github.splitlines() if line.startswith("::")]
    told_here = [levels[line[2:].split(" ")[0]] for line in annotations]
    results = [result["level"] for result in run["results"]]
    assert sorted(told_here) == sorted(results)
    assert run["invocations"][0]["exitCode"] == found.code
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    cases(found.junit, fails=found.code != 0 or found.json.get("fails", False))


def cases(root: ET.Element, *, fails: bool) -> None:
    """What readers of JUnit XML go by: suites of cases, counts that are right, a failure wherever the code is not 0."""
    assert root.tag == "testsuites"
    assert len(root) > 0
    total = {"tests": 0, "failures": 0, "errors": 0}
    for suite in root:
        assert (suite.tag, bool(suite.get("name"))) == ("testsuite", True)
        elements = {"failures": "failure", "errors": "error", "skipped": "skipped"}
        for attribute, element in elements.items():
            assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{element}"))
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase")) > 0
        names = [(case.attrib["classname"], case.attrib["name"]) for case in suite]
        assert len(set(names)) == len(names)
        for case in suite:
            assert len(case) <= 1
            assert {child.tag for child in case} <= {"failure", "error", "skipped", "system-out"}
            assert all(child.get("message") for child in case if child.tag != "system-out")
        for name in total:
            total[name] += int(suite.attrib[name])
    assert total == {name: int(root.attrib[name]) for name in total}
    assert (total["failures"] + total["errors"] > 0) == fails


class Page(HTMLParser):
    """Which elements are open, what they refer to, and the text between them."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)


def self_contained(html: str) -> Page:
    """One well-formed page that loads nothing and runs nothing."""
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert {tag for tag, _ in page.seen}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    )
    identities = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(set(identities)) == len(identities)
    for _, attributes in page.seen:
        assert set(attributes) <= {"class", "id", "href", "lang", "charset", "http-equiv", "content", "name"}
        if "href" in attributes:
            assert str(attributes["href"])[:1] == "#"
            assert str(attributes["href"])[1:] in identities
    assert "prefers-color-scheme: dark" in html
    assert "url(" not in html
    assert "@import" not in html
    return page


def test_the_schema_is_one_and_says_what_every_field_is() -> None:
    jsonschema.Draft202012Validator.check_schema(OURS)
    assert OURS["$id"] == SCHEMA
    undescribed = [
        f"{name}.{field}"
        for name, part in OURS["$defs"].items()
        for field, value in part.get("properties", {}).items()
        if "description" not in value and "$ref" not in value and not {"enum", "const", "anyOf", "items"} & set(value)
    ]
    assert set(undescribed) <= {"accuracy.before", "accuracy.after", "inserted.epsilon"}
    used = set(json.dumps(OURS).split('"#/$defs/')[1:])
    assert {name for name in OURS["$defs"] if not any(part.startswith(f'{name}"') for part in used)} == set()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: value.update(schema=2), "another version"),
        (lambda value: value.update(exit_code=7), "a code that there is none of"),
        (lambda value: value.pop("plan"), "a field that is missing"),
        (lambda value: value["plan"]["moves"][0].pop("homes"), "a field that is missing inside"),
        (lambda value: value["plan"]["refusals"][0].update(code=3), "a field of another type"),
    ],
)
def test_the_schema_takes_nothing_else(cli: Cli, change: Callable[[Any], object], why: str) -> None:
    value = cli("plan", "two.onnx", "--format", "json").json
    check = jsonschema.Draft202012Validator(OURS)
    check.validate(value)
    value["another"] = "a field of a later version"
    check.validate(value)
    change(value)
    assert not check.is_valid(value), why


def test_a_fold_that_was_not_verified_has_its_verdict_everywhere() -> None:
    shows = Counterexample("y", (0, 2), 1.0, float("inf"), 1e-6, "seed 0", {})
    verdict = Differs("y is another value", shows, EndToEnd((), notes=("a remark",)), site="Conv#0", value="y")
    unknown = Unknown("it cannot be run")
    errors = NotVerified("y is another value", verdict), Undecided("it cannot be run", unknown), Bug("a bug")
    done = [Done(f"{place}.onnx", None, None, error) for place, error in enumerate(errors)]
    value = json.loads(as_json.written(folded(done)))
    jsonschema.Draft202012Validator(strict(OURS)).validate(value)
    assert value["exit_code"] == 70
    assert value["models"][0]["verdict"]["counterexample"]["after"] == "inf"
    suites = ET.fromstring(as_junit.written(folded(done)))
    assert [child.tag for suite in suites for case in suite for child in case] == ["failure", "error", "error"]
    sarif = json.loads(as_sarif.written(folded(done)))
    jsonschema.Draft4Validator(OFFICIAL).validate(sarif)
    assert [result["ruleId"] for result in sarif["runs"][0]["results"]] == ["not-verified", "undecided", "bug"]


def test_what_was_made_before_is_skipped_everywhere() -> None:
    done = [Done("m.onnx", "out/m.onnx", None, None, skipped=True), Done("n.onnx", None, None, InputRefused("empty"))]
    document = folded(done)
    value = json.loads(as_json.written(document))
    jsonschema.Draft202012Validator(strict(OURS)).validate(value)
    assert [(one["skipped"], one["exit_code"]) for one in value["models"]] == [(True, 0), (False, 3)]
    suite = ET.fromstring(as_junit.written(document))[0]  # our own
    assert [child.tag for case in suite for child in case] == ["skipped"]
    text = as_text.written(document)
    assert "skipped  out/m.onnx was made before, of the same bytes by the same options" in text
    assert text.endswith("2 models: 0 BatchNorms folded, 0 left, 1 model(s) skipped, 1 model(s) failed")
    assert not folded(done[:1]).is_failure


@pytest.mark.usefixtures("desk")
def test_several_models_have_a_block_each_and_one_list() -> None:
    plans = [Ended(name, bnfold.plan(name), None) for name in ("m.onnx", "two.onnx")]
    missing = Ended("missing.onnx", None, InputRefused("'missing.onnx' does not exist"))
    document = several("plan", [*plans, missing], planned)
    value = json.loads(as_json.written(document))
    jsonschema.Draft202012Validator(strict(OURS)).validate(value)
    assert [(one["source"], one["exit_code"]) for one in value["models"]] == [
        ("m.onnx", 0), ("two.onnx", 0), ("missing.onnx", 3)
    ]  # fmt: skip
    assert value["exit_code"] == document.exit_code == 3
    assert value["models"][1]["result"]["counts"]["left"] == 1
    text = as_text.written(document)
    assert text.startswith(as_text.written(planned("m.onnx", bnfold.plan("m.onnx"))) + "\n\ntwo.onnx\n")
    assert text.endswith("\n\n3 models, 1 failed")
    assert len(ET.fromstring(as_junit.written(document))) == 3


@dataclass(frozen=True)
class Ended:
    """What a batch holds of one model."""

    source: str
    result: bnfold.Plan | None
    error: BnfoldError | None
    target: str | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.error is None else self.error.exit_code


# What is asked for, and what cannot be had.


@pytest.mark.parametrize("form", [form for form in Format if form not in OF_PAGES])
@pytest.mark.parametrize("command", ["ops", "explain"])
def test_what_is_about_no_model_has_no_annotations_and_no_tests(cli: Cli, command: str, form: str) -> None:
    answer = cli(command, "--format", form)
    assert (answer.code, answer.out) == (2, "")
    assert (
        answer.err == f"bnfold: --format {form}: this answer is about no model; it may be text, json, markdown, html\n"
    )
    assert cli(command, "--report", "r.xml").code == 2


@pytest.mark.parametrize("command", ["plan m.onnx", "ops", "fold m.onnx -o out.onnx", "validate m.onnx"])
@pytest.mark.parametrize("name", ["r.pdf", "r", ".json.", "r.json.gz", "-", "r.sarif.xml.", "json"])
def test_a_report_of_an_unknown_form_is_told_before_any_work_is_done(
    cli: Cli, desk: Path, command: str, name: str
) -> None:
    before = sorted(desk.iterdir())
    answer = cli(*command.split(), "--report", "good.json", "--report", name)
    assert (answer.code, answer.out) == (2, "")
    known = "the name must end in .json, .txt, .xml, .sarif, .md or .html"
    assert answer.err == f"bnfold: --report {name!r}: {known}\n"
    assert sorted(desk.iterdir()) == before


@pytest.mark.parametrize(("name", "begins"), [("R.JSON", "{"), ("r.sarif.json", '{\n  "$schema"'), ("r.MD", "## m")])
def test_the_suffix_says_the_form_in_any_case(cli: Cli, desk: Path, name: str, begins: str) -> None:
    assert cli("plan", "m.onnx", "-q", "--report", name).code == 0
    assert (desk / name).read_text().startswith(begins)


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (f"fold m.onnx -o out.onnx {CERTIFICATE}", "; the model was written to 'out.onnx'"),
        (f"fold m.onnx two.onnx missing.onnx -o out {CERTIFICATE}", "; 2 of 3 models were written"),
        ("insert m.onnx missing.onnx --after Conv -o out --verify off", "; 1 of 2 models were written"),
        ("fold m.onnx --check", "; no model was written"),
        ("fold missing.onnx -o out.onnx", "; no model was written"),
        ("insert without.onnx --after Conv -o out.onnx --verify off", "; the model was written to 'out.onnx'"),
        ("insert missing.onnx --after Conv -o out.onnx", "; no model was written"),
        ("plan m.onnx", ""),
        ("plan missing.onnx", ""),
    ],
)
def test_a_report_that_cannot_be_written_is_one_line_and_costs_no_other(
    cli: Cli, desk: Path, command: str, outcome: str
) -> None:
    (desk / "taken.md").mkdir()
    options = ("--report", "no/r.json", "--report", "taken.md", "--report", "r.json", "--report", "r.xml", "-q")
    answer = cli(*command.split(), *options)
    assert answer.code == 5
    assert json.loads((desk / "r.json").read_text())["command"] == command.split(maxsplit=1)[0]
    assert (desk / "r.xml").exists()
    ours = [line for line in answer.err.splitlines() if "the report" in line]
    assert ours[0] == f"bnfold: the report 'no/r.json' cannot be written: there is no folder 'no'{outcome}"
    assert ours[1].startswith("bnfold: the report 'taken.md' cannot be written: ")
    assert len(ours) == 2
    assert (desk / "out.onnx").exists() == ("to 'out.onnx'" in outcome)


def test_a_bug_in_one_report_costs_no_other(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> str:
        raise ZeroDivisionError("met on purpose")

    monkeypatch.setattr("bnfold.report.as_html.written", broken)
    answer = cli("plan", "m.onnx", "--report", "r.html", "--report", "r.json", "-q")
    assert answer.code == 70
    assert answer.err.startswith("bnfold: the report 'r.html': this is a bug in bnfold (ZeroDivisionError: met on purp")
    assert json.loads((desk / "r.json").read_text())["command"] == "plan"
    assert not (desk / "r.html").exists()


@pytest.mark.skipif(os.name == "nt", reason="there is no such limit")
def test_a_report_is_written_whole_or_not_at_all(desk: Path) -> None:
    """Where the disk is full in the middle of it, the report of the run before stays, and nothing beside it."""
    (desk / "r.json").write_text("of the run before")
    limited = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *command("plan", "m.onnx", "-q", "--report", "r.json")]
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (5, "bnfold: the report 'r.json' cannot be written: File too large\n")
    assert (desk / "r.json").read_text() == "of the run before"
    assert not temporaries(desk)


@pytest.mark.skipif(os.name == "nt", reason="links and named pipes are made otherwise")
def test_a_report_goes_through_a_link_and_into_a_pipe(cli: Cli, desk: Path) -> None:
    (desk / "r.json").symlink_to("real.json")
    assert cli("plan", "m.onnx", "-q", "--report", "r.json").code == 0
    assert (desk / "r.json").is_symlink()
    assert json.loads((desk / "real.json").read_text())["command"] == "plan"
    os.mkfifo(desk / "pipe.json")
    with subprocess.Popen(["cat", "pipe.json"], stdout=subprocess.PIPE) as reader:
        assert cli("plan", "m.onnx", "-q", "--report", "pipe.json").code == 0
        assert json.loads(reader.communicate()[0])["command"] == "plan"


def test_a_report_does_not_take_the_place_of_the_certificate(cli: Cli, desk: Path) -> None:
    answer = cli("fold", "m.onnx", "-o", "out.onnx", "--certificate", "c.json", "--report", "c.json")
    assert (answer.code, answer.err) == (2, "bnfold: --report 'c.json': that is the certificate\n")
    assert not (desk / "out.onnx").exists()


def test_the_reports_are_there_when_nobody_reads_stdout(desk: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = command("explain", "--report", "r.json")
        done = subprocess.run(run, cwd=desk, env=environment(), stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    assert json.loads((desk / "r.json").read_text())["command"] == "explain"


def test_the_summary_of_a_job_is_added_to_what_is_there(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = desk / "summary"
    summary.write_text("# before\n\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert cli("plan", "m.onnx").code == 0
    assert summary.read_text() == "# before\n\n"
    for options in ((), ("-q",)):
        assert cli("plan", "two.onnx", "--format", "github", "--report", "r.md", *options).code == 0
    assert summary.read_text() == "# before\n\n" + 2 * ((desk / "r.md").read_text() + "\n")


def test_a_summary_that_is_full_stays_as_it_is(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = desk / "summary"
    summary.write_bytes(b"x" * 1024 * 1024)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert cli("plan", "two.onnx", "--format", "github").code == 0
    assert summary.stat().st_size == 1024 * 1024


def test_a_summary_that_cannot_be_written_is_a_report_that_cannot(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/summary")
    answer = cli("plan", "m.onnx", "--format", "github")
    assert answer.code == 5
    assert answer.out == "1 model: 1 BatchNorms to fold, 0 left\n"
    assert answer.err == "bnfold: the report 'no/summary' cannot be written: No such file or directory\n"


def test_the_same_answer_is_the_same_bytes(cli: Cli, desk: Path) -> None:
    contents = []
    for _ in range(2):
        reports = [option for suffix in SUFFIXES for option in ("--report", f"r{suffix}")]
        assert cli("fold", "two.onnx", "-o", "out.onnx", *CERTIFICATE.split(), *reports).code == 0
        contents.append([(desk / f"r{suffix}").read_bytes() for suffix in SUFFIXES])
    assert contents[0] == contents[1]
