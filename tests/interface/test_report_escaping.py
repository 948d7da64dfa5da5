"""Whatever stands in a model's names, each format shows it, and nothing of it becomes part of the format."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

import onnx
import pytest
from command_line import BLOCKED, TWO, command, environment, parsed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_reports import self_contained

from bnfold.report import as_github, as_html, as_json, as_junit, as_markdown, as_sarif, as_text
from bnfold.report.document import Block, Case, Document, Fact, Level, Line, Page, Section
from bnfold.report.escape import shown

Test = TypeVar("Test", bound=Callable[..., None])

NASTY = (
    "\x1b[31mred", "a\nb", "::error::x", "##[error]x", "%0A::warning::y", "a,b:c%", "<script>alert(1)</script>", "]]>",
    "&amp;&#10;", "|", "a|b`c", "``", "`x`", r"\|", "\\", "**b**", "_i_", "[l](http://a.b)", "![i](x)", "$x$", "~~s~~",
    "http://a.b/c", "www.a.b", "- x", "# x", "1. x", "1) x", "=====", "---", "+ x", "> x", "    x", "{0}", "{{0}}",
    "[a](1)", "\ud800", "\u202e", "\x00", "\ufffe", '"', "'", "</style>", "a" * 300, "", " ", "é", "名前", "🙂",
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=30), st.lists(st.sampled_from(NASTY), max_size=4).map("".join)
)


def drawn(count: int) -> Callable[[Test], Test]:
    """A test of so many names: some at random, and each of the nasty ones."""

    def decorate(test: Test) -> Test:
        for name in NASTY:
            test = example(*[name] * count)(test)
        return settings(max_examples=25, deadline=None)(given(*[NAMES] * count)(test))

    return decorate


def document(
    place: str, sentence: str = "s", *, levels: tuple[Level, ...] = ("error",), file: str = "m.onnx"
) -> Document:
    lines = tuple(Line(place, sentence, "code", level, "remedy") for level in levels)
    sections = tuple(Section(place, lines, layout) for layout in ("groups", "table", "list"))
    block = Block(
        file, file, (Fact(place, sentence, "bad"),), sections, (sentence,), (sentence,),
        failure=Line(place, sentence, "whole", "error"),
        cases=(
            Case(place, "failed", sentence, (sentence,)),
            Case(place, "passed", "", (sentence,)),
            Case(place, "skipped", sentence),
        ),
    )  # fmt: skip
    pages = {"code": Page("code", sentence, (sentence,), sentence)}
    return Document("plan", (block,), lambda: {"model": file}, pages=pages, sums="sums")


# GitHub.


def parsed_command(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as GitHub's runner reads it."""
    found = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
    assert found is not None, line
    properties = dict(part.split("=", 1) for part in found[2].split(",") if part)
    for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        properties = {key: value.replace(code, character) for key, value in properties.items()}
    message = found[3].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    return found[1], properties, message


@drawn(2)
def test_a_name_stays_within_its_annotation(place: str, sentence: str) -> None:
    lines = as_github.written(document(place, sentence, file=f"{shown(place)}.onnx")).split("\n")
    assert lines[-1] == "sums"
    for line in lines[:-1]:
        kind, properties, message = parsed_command(line)
        assert kind == "error"
        assert set(properties) == {"file", "title"}
        assert message.startswith(f"{shown(place)}: {shown(sentence)}" if place else shown(sentence))
        assert message.count("\n") <= 1
        assert not set(line) & {"\r", "\x1b", "\x0b", "\x85", "\u2028"}


@pytest.mark.parametrize(
    ("levels", "kept", "rest"),
    [
        (("error",) * 9, {"error": 10}, []),
        (("error",) * 10, {"error": 10}, ["and 2 more of 11"]),
        (("error",) * 50 + ("warning",) * 10 + ("note",) * 11, {"error": 10, "warning": 10, "notice": 10}, ["42", "2"]),
    ],
)
def test_no_more_annotations_of_a_kind_than_github_shows(
    levels: tuple[Level, ...], kept: dict[str, int], rest: list[str]
) -> None:
    whole = document("n", levels=levels)
    block = Block("m", "m", sections=whole.blocks[0].sections[:1], failure=whole.blocks[0].failure)
    lines = [parsed_command(line) for line in as_github.written(Document("plan", (block,), dict)).split("\n")[:-1]]
    assert {kind: sum(line[0] == kind for line in lines) for kind in kept} == kept
    summed = [message for _, properties, message in lines if "file" not in properties]
    assert len(summed) == len(rest)
    assert all(words in message for words, message in zip(rest, summed, strict=True))


@pytest.mark.parametrize("taken", [0, 1000, 1024 * 1024 - 3000, 1024 * 1024 - 20, 1024 * 1024, 1024 * 1024 + 5])
def test_the_summary_of_a_job_is_cut_where_github_would_show_none(taken: int) -> None:
    long = document("ñ" * 200, levels=("note",) * 4000)
    written = as_github.summary(long, taken)
    assert len(written) <= max(0, 1024 * 1024 - taken)
    text = written.decode()
    if text:
        assert text.endswith(as_markdown.CUT)
        whole = as_markdown.written(long).split("\n")
        assert (
            text.removesuffix(as_markdown.CUT).split("\n")
            == whole[: text.count("\n") - as_markdown.CUT.count("\n") + 1]
        )
    short = document("n")
    assert as_github.summary(short, 0).decode() == as_markdown.written(short) + "\n\n"


@pytest.mark.parametrize(
    ("file", "workspace", "seen"),
    [
        ("m.onnx", "", "m.onnx"),
        ("sub/m.onnx", ".", "sub/m.onnx"),
        ("m.onnx", "..", "{here}/m.onnx"),
        ("/elsewhere/m.onnx", ".", "/elsewhere/m.onnx"),
        ("{whole}/a/m.onnx", ".", "a/m.onnx"),
    ],
)
def test_a_file_is_named_as_the_repository_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, workspace: str, seen: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / workspace) if workspace else "")
    wanted = seen.format(here=tmp_path.name)
    given_as = file.format(whole=tmp_path)
    _, properties, _ = parsed_command(as_github.written(document("n", file=given_as)).split("\n")[0])
    assert properties["file"] == wanted


# XML, SARIF and JSON.


@drawn(2)
def test_a_name_is_text_in_xml(place: str, sentence: str) -> None:
    root = ET.fromstring(as_junit.written(document(place, sentence)))
    assert [case.get("name") for case in root.iter("testcase")] == [shown(place)] * 3
    assert [found.get("message") for found in root.iter("failure")] == [shown(sentence)]
    assert [found.text or "" for found in root.iter("failure")] == [shown(sentence)]
    assert {element.tag for element in root.iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "skipped", "system-out"
    }  # fmt: skip


def unescaped(message: str, *, as_link: bool, as_argument: bool) -> str:
    text = re.sub(r"\\([\\\[\]])", r"\1", message) if as_link else message
    return text.replace("{{", "{").replace("}}", "}") if as_argument else text


@drawn(2)
def test_a_name_is_no_link_and_no_argument_in_sarif(place: str, sentence: str) -> None:
    (run,) = json.loads(as_sarif.written(document(place, sentence)))["runs"]
    whole = shown(f"{place}: {sentence}" if place else sentence)
    is_link, is_argument = bool(re.search(r"\[.*\]\(", whole)), bool(re.search(r"\{\d+\}", whole))
    for result in run["results"]:
        text = result["message"]["text"]
        assert unescaped(text, as_link=is_link, as_argument=is_argument) == whole
        assert not re.search(r"(?<!\\)\[[^\]\\]*\]\(", text)
        assert not re.search(r"(?<!\{)(?:\{\{)*\{\d+\}(?!\})", text)
        (location,) = result["locations"]
        assert [one["fullyQualifiedName"] for one in location.get("logicalLocations", [])] == [shown(place)] * bool(
            place
        )


@pytest.mark.parametrize("file", ["a b#c?.onnx", "ünï.onnx", "100%.onnx", "x\udc80.onnx", "sub/m.onnx"])
def test_a_path_is_a_reference_in_sarif(file: str) -> None:
    (run,) = json.loads(as_sarif.written(document("n", file=file)))["runs"]
    uri = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", uri)
    assert unquote_to_bytes(uri) == os.fsencode(file)


@drawn(1)
def test_a_name_in_json_is_the_name(place: str) -> None:
    said = Document("plan", (), lambda: {"name": place, "worst": float("inf")})
    value = json.loads(as_json.written(said))
    assert (value["name"], value["worst"]) == (place, "inf")
    assert as_json.written(said).isascii()


# Markdown and HTML.


def visible(markdown: str) -> list[str]:
    """What a reader of the rendered Markdown sees: the text of each cell, heading and paragraph."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = reader.parse(markdown)
    assert {token.type for token in tokens} <= KNOWN_TOKENS, "a name became part of the document"
    texts = []
    for token in tokens:
        if token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= KNOWN_CHILDREN, (markdown, children)
            assert {child.content for child in children if child.type == "html_inline"} <= {"<code>", "</code>"}
            texts.append("".join(child.content for child in children if child.type != "html_inline"))
    return texts


KNOWN_TOKENS = {
    *(f"{name}_{side}" for name in ("heading", "paragraph", "table", "thead", "tbody", "tr", "th", "td")
      for side in ("open", "close")),
    "inline",
}  # fmt: skip
KNOWN_CHILDREN = {"text", "text_special", "code_inline", "strong_open", "strong_close", "html_inline"}


@drawn(2)
def test_a_name_shows_as_it_stands_in_markdown(place: str, sentence: str) -> None:
    texts = [text.strip() for text in visible(as_markdown.written(document(place, sentence)))]
    assert texts.count(shown(place).strip()) >= 3 + 1  # in each table of sections, and as a heading
    assert texts.count(shown(sentence).strip()) >= 2 + 1 + 3  # paragraphs, a fact, and each table


@drawn(2)
def test_a_name_is_text_in_html(place: str, sentence: str) -> None:
    html = as_html.written(document(place, sentence))
    page = self_contained(html)
    text = "".join(page.texts)
    assert text.count(shown(sentence)) >= 6
    assert shown(place) in text
    plain = as_html.written(document("n", "s"))
    reference = [tag for tag, _ in self_contained(plain).seen]
    optional = {"p"}  # an empty one is drawn too, but for a failure's
    assert [tag for tag, _ in page.seen if tag not in optional] == [tag for tag in reference if tag not in optional]


# Text, on a terminal and elsewhere.


@drawn(2)
def test_a_name_is_one_line_of_printable_text(place: str, sentence: str) -> None:
    text = as_text.written(document(place, sentence))
    assert all(line.isprintable() for line in text.split("\n"))
    assert shown(f"{place}: {sentence}").rstrip() in text or not sentence.strip()


def on_a_terminal(folder: Path, *arguments: str, columns: int = 80, **more: str) -> str:
    """What a command writes to a terminal as its answer; stderr is none, or it would have a spinner there."""
    ours, theirs = pytest.importorskip("pty").openpty()
    clean = {key: value for key, value in environment().items() if key not in {"NO_COLOR", "FORCE_COLOR", "CI"}}
    surroundings = {**clean, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40", **more}
    process = subprocess.Popen(command(*arguments), cwd=folder, env=surroundings, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, b"")
    return written.decode().replace("\r\n", "\n")


ESCAPES = re.compile(r"\x1b\[([\d;]*)m")
COLOURS = re.compile(r"^(?:3[0-7]|9[0-7]|38;.*)$")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with a model whose node's name would clear the screen."""
    model = parsed(BLOCKED)
    model.graph.node[2].name = "\x1b[2Jgone\n" + "x" * 120
    onnx.save(model, tmp_path / "odd.onnx")
    return tmp_path


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_colours_and_lines_that_fit(odd: Path, columns: int) -> None:
    written = on_a_terminal(odd, "plan", "odd.onnx", columns=columns)
    codes = [part for found in ESCAPES.findall(written) for part in [found] if found]
    assert any(COLOURS.match(part) for code in codes for part in code.split(";"))
    plain = ESCAPES.sub("", written)
    assert "\x1b" not in plain
    assert max(map(len, plain.split("\n"))) <= columns
    assert r"\x1b[2Jgone\n" in plain or r"\\x1b[2Jgone\\n" in plain
    together = re.sub(r"\s+", "", plain)
    piped = subprocess.run(command("plan", "odd.onnx"), cwd=odd, env=environment(), capture_output=True, check=True)
    assert together == re.sub(r"\s+", "", piped.stdout.decode())


def test_findings_are_in_columns_where_they_fit_and_else_all_below_their_places(tmp_path: Path) -> None:
    onnx.save(parsed(TWO), tmp_path / "m.onnx")
    wide, narrow = (
        ESCAPES.sub("", on_a_terminal(tmp_path, "validate", "m.onnx", "-v", columns=columns)).split("\n")
        for columns in (300, 60)
    )
    sentence = "fold would put it into Conv#0"
    (row,) = [line for line in wide if sentence in line]
    place = row.index(sentence)
    assert {line[place - 1 : place] for line in wide if line.startswith("  BN")} == {" "}
    (below,) = [number for number, line in enumerate(narrow) if sentence in line]
    assert narrow[below] == f"      {sentence}"
    assert narrow[below - 1].split() == row[:place].split()


def test_no_color_is_honoured(odd: Path) -> None:
    written = on_a_terminal(odd, "plan", "odd.onnx", NO_COLOR="1")
    assert not any(COLOURS.match(part) for code in ESCAPES.findall(written) for part in code.split(";"))
    assert "\x1b" not in on_a_terminal(odd, "plan", "odd.onnx", TERM="dumb")


def test_what_is_piped_has_no_colours_even_if_the_terminal_would(odd: Path) -> None:
    done = subprocess.run(
        command("plan", "odd.onnx"), cwd=odd, env=environment(TERM="xterm-256color"), capture_output=True, check=True
    )
    assert b"\x1b" not in done.stdout


def test_force_color_has_them_in_a_pipe_and_no_color_is_stronger(odd: Path) -> None:
    def piped(*options: str, **more: str) -> str:
        surroundings = environment(COLUMNS="80", **more)
        line = command("plan", "odd.onnx", *options)
        return subprocess.run(line, cwd=odd, env=surroundings, capture_output=True, check=True).stdout.decode()

    def coloured(text: str) -> bool:
        return any(COLOURS.match(part) for code in ESCAPES.findall(text) for part in code.split(";"))

    assert coloured(piped(FORCE_COLOR="1"))
    assert not coloured(piped(FORCE_COLOR=""))
    assert not coloured(piped(FORCE_COLOR="1", NO_COLOR="1"))
    assert "\x1b" not in piped("--format", "json", FORCE_COLOR="1") + piped("--format", "markdown", FORCE_COLOR="1")
    assert "\x1b" not in ESCAPES.sub("", piped(FORCE_COLOR="1"))
