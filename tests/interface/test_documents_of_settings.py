"""docs/several.md and docs/settings.md say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from command_line import ROOT

from bnfold.commands.settings import ALONE, options_of
from bnfold.commands.table import TABLE
from bnfold.result import SEVERITY

SETTINGS = (ROOT / "docs" / "settings.md").read_text()
SEVERAL = (ROOT / "docs" / "several.md").read_text()
EVERY = {option.key for command in TABLE for option in options_of(command)}


def test_the_example_of_settings_has_keys_that_there_are() -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", SETTINGS, re.MULTILINE | re.DOTALL)
    table = tomllib.loads(example)["tool"]["bnfold"]
    per_command = {name: values for name, values in table.items() if name in TABLE}
    assert set(table) - set(per_command) - {"per-site-ignores"} <= EVERY
    for name, values in per_command.items():
        assert set(values) <= {option.key for option in options_of(name)}


def test_what_stands_on_the_command_line_alone_is_named() -> None:
    arguments = {"model", "before", "after", "code", "context"}
    for name in ALONE - arguments:
        assert f"`--{name.replace('_', '-')}`" in SETTINGS


def test_the_order_of_severity_is_the_one_that_counts() -> None:
    assert ", ".join(str(code) for code in SEVERITY) in SEVERAL


@pytest.mark.parametrize("document", [SETTINGS, SEVERAL], ids=["settings", "several"])
def test_options_in_the_documents_exist(document: str) -> None:
    known = {f"--{key}" for key in EVERY} | {f"--{name.replace('_', '-')}" for name in ALONE}
    known |= {f"--no-{key}" for key in EVERY} | {"--help", "--version", "--show-completion", "--install-completion"}
    assert set(re.findall(r"`?(--[a-z][a-z-]+)", document)) <= known


def test_links_between_the_documents_lead_somewhere() -> None:
    for name in ("several.md", "settings.md"):
        assert f"docs/{name}" in (ROOT / "README.md").read_text()
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs" / name).read_text()):
            assert (Path(ROOT / "docs") / target).exists()
