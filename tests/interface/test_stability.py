"""What docs/stability.md promises is what it was, and each of its rows is held by tests that there are."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from stable_surface import ROOT, differences, recorded, surface

PAGE = (ROOT / "docs" / "stability.md").read_text()


def test_nothing_that_is_stable_has_gone_or_changed() -> None:
    """What is new is recorded by `python tests/interface/stable_surface.py --record`, and promised from then on."""
    found = sorted(differences(recorded(), surface()))
    assert found == []


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("commands/fold/--seed", "1", "changed: /commands/fold/--seed was '1', is '0'"),
        ("commands/fold/--gone", "0", "gone: /commands/fold/--gone"),
        ("exit codes/NotVerified", 6, "changed: /exit codes/NotVerified was 6, is 4"),
        ("rules/BN001", None, "new: /rules/BN001"),
        ("certificates/version", 2, "changed: /certificates/version was 2, is 3"),
        ("python/fold/verify", "'off'", "changed: /python/fold/verify was \"'off'\", is \"'full'\""),
    ],
)
def test_what_has_gone_changed_or_come_is_named(path: str, value: object, line: str) -> None:
    before = copy.deepcopy(recorded())
    *places, name = path.split("/")
    inner = before
    for place in places:
        inner = inner[place]
    inner[name] = value
    assert list(differences(before, recorded())) == [line]


def test_a_code_or_a_field_that_has_gone_is_named() -> None:
    before = copy.deepcopy(recorded())
    before["reasons"].append("gone-away")
    before["answers in JSON"]["fields"].append("gone/away")
    assert sorted(differences(before, recorded())) == [
        "gone: /answers in JSON/fields/gone/away",
        "gone: /reasons/gone-away",
    ]


def test_every_row_names_tests_that_there_are() -> None:
    rows = re.findall(r"^\| (?!stable)([^|]+) \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 8
    for name, held in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", held)
        assert files, name
        assert all((ROOT / Path(file)).exists() for file in files), name
