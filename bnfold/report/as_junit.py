"""A document as JUnit XML, as GitLab, Jenkins and GitHub's actions read it: a suite per model, a test per case.

It has no times, so that the same answer is the same bytes.
"""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree as ET

from bnfold.report.document import Block, Case, Document
from bnfold.report.escape import shown

_ELEMENTS = {"skipped": "skipped", "failed": "failure", "error": "error"}
_COUNTS = {"failures": "failed", "errors": "error", "skipped": "skipped"}


def written(document: Document) -> str:
    """The answer as JUnit XML."""
    root = ET.Element("testsuites", name=f"bnfold {document.command}")
    suites = [_suite(document.command, block) for block in document.blocks if block.cases]
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")


def _suite(command: str, block: Block) -> ET.Element:
    outcomes = Counter(case.outcome for case in block.cases)
    suite = ET.Element("testsuite", name=f"bnfold {command} {shown(block.file)}", tests=str(len(block.cases)))
    for name, outcome in _COUNTS.items():
        suite.set(name, str(outcomes[outcome]))  # type: ignore[index]  # the words of Outcome
    for case in block.cases:
        suite.append(_case(f"bnfold.{command}.{shown(block.file)}", case))
    return suite


def _case(group: str, case: Case) -> ET.Element:
    test = ET.Element("testcase", classname=group, name=shown(case.name))
    details = "\n".join(shown(line) for line in case.details)
    if case.outcome == "passed":
        if details:
            ET.SubElement(test, "system-out").text = details
        return test
    found = ET.SubElement(test, _ELEMENTS[case.outcome], message=shown(case.sentence))
    if case.outcome != "skipped":
        found.set("type", case.outcome)
        found.text = details or shown(case.sentence)
    return test
