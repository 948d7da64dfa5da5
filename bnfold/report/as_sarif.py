"""A document as SARIF 2.1.0, as code scanning and editors read it: a result per line that has a level.

A model has no lines, so that the node is a logical location; line 1 is named because code scanning shows nothing that
has none. What ended a command, or one model of it, is a result too, and a notification of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from urllib.parse import quote

from bnfold import __version__
from bnfold.moves import Json
from bnfold.report.as_github import in_repository
from bnfold.report.document import Document, Line, Page
from bnfold.report.escape import shown

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LINK = re.compile(r"\[.*\]\(")
_ARGUMENT = re.compile(r"\{\d+\}")

UNSUCCESSFUL = frozenset({2, 3, 5, 6, 70})
"""Exit codes of commands that did not get to an answer."""


def written(document: Document) -> str:
    """The answer as SARIF."""
    told = [(block.file, line) for block in document.blocks for line in block.told]
    rules = list(dict.fromkeys([*document.pages, *(line.code for _, line in told)]))
    run: Json = {
        "tool": {
            "driver": {
                "name": "bnfold",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(code, document.pages.get(code)) for code in rules],
            }
        },
        "invocations": [_invocation(document)],
        "columnKind": "unicodeCodePoints",
        "results": [_result(file, line, rules.index(line.code)) for file, line in told],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=True)


def _rule(code: str, page: Page | None) -> Json:
    if page is None:
        return {"id": code}
    why = " ".join(page.why)
    help_text = "\n\n".join([*page.why, f"What to do: {page.remedy}."] if page.remedy else page.why) or page.title
    return {
        "id": code,
        "shortDescription": {"text": page.title},
        "fullDescription": {"text": why or page.title},
        "help": {"text": help_text},
        "defaultConfiguration": {"level": page.level},
    }


def _result(file: str, line: Line, rule: int) -> Json:
    location: dict[str, Json] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(file)}, "region": {"startLine": 1}}
    }
    if line.place:
        location["logicalLocations"] = [{"fullyQualifiedName": shown(line.place), "kind": "node"}]
    same = hashlib.sha256(f"{line.code}\0{line.place}".encode("utf-8", "backslashreplace")).hexdigest()
    where = f"{line.place}: " if line.place else ""
    return {
        "ruleId": line.code,
        "ruleIndex": rule,
        "level": line.level,
        "message": {"text": _message(f"{where}{line.sentence}")},
        "locations": [location],
        "partialFingerprints": {"bnfoldCodeAndNode/v1": same},
    }


def _message(text: str) -> str:
    """Text in which nothing is a link or a place for an argument; what is neither stays, for many do not unescape."""
    safe = shown(text)
    if _LINK.search(safe):
        safe = re.sub(r"[\\\[\]]", lambda found: f"\\{found[0]}", safe)
    return safe.replace("{", "{{").replace("}", "}}") if _ARGUMENT.search(safe) else safe


def _uri(file: str) -> str:
    """The model as a reference: relative to the repository, or to the current folder, or a file: URI."""
    path = in_repository(file)
    return Path(path).as_uri() if Path(path).is_absolute() else quote(os.fsencode(path))


def _invocation(document: Document) -> Json:
    notifications = [
        {"level": "error", "message": {"text": _message(f"{block.file}: {block.failure.sentence}")}}
        for block in document.blocks
        if block.failure is not None
    ]
    return {
        "executionSuccessful": document.exit_code not in UNSUCCESSFUL,
        "exitCode": document.exit_code,
        "toolExecutionNotifications": notifications,
    }
