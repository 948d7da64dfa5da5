"""Made pages are up to date, links lead somewhere, and what the pages promise is in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import reference_pages
import yaml
from reference_pages import PAGES, ROOT

import bnfold
from bnfold.result import SEVERITY

DOCUMENTS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "models" / "README.md"])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_made_from_the_code_is_what_the_code_says(page: str) -> None:
    """`python tests/documents/reference_pages.py` writes them anew."""
    assert (ROOT / "docs" / page).read_text() == PAGES[page]()


def test_every_public_name_is_on_the_page() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name in bnfold.__all__:
        assert name == "__version__" or f"`{name}`" in page or f"`bnfold.{name}`" in page, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(((?!https?:)[^)#]*)(#([^)]*))?\)", document.read_text()):
        path = (document.parent / target) if target else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    linked = set(re.findall(r"\]\(([^)#]+)\)", index))
    assert {page for page in pages if not page.startswith("decisions/")} - linked == {"README.md"}
    assert "decisions" in linked


def test_limits_come_first_in_the_index() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "README.md").read_text(), re.MULTILINE)
    assert headings == ["Limits first", "Tutorial", "How to", "Reference", "Explanation"]


def test_every_exit_code_has_its_row_and_the_order_is_the_one_that_counts() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    rows = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE) for code in row.split(",")}
    codes = {
        code for name in bnfold.__all__ if isinstance(code := getattr(getattr(bnfold, name), "exit_code", None), int)
    }
    assert codes | set(SEVERITY) <= rows
    assert ", ".join(map(str, SEVERITY)) in page


def commands_in(text: str) -> list[str]:
    return re.findall(r"`bnfold ([a-z]+)", text)


def test_pages_name_only_commands_and_options_that_there_are() -> None:
    help_page = (ROOT / "docs" / "cli.md").read_text()
    known = set(re.findall(r"--(?:\[no-\])?([a-z][a-z-]+)", help_page))
    for name in ("tutorial", "exit-codes", "stability", "how-to/github", "how-to/gitlab", "how-to/release-gate"):
        text = (ROOT / "docs" / f"{name}.md").read_text()
        text = re.sub(r"pip install .*", "", text)
        assert set(re.findall(r"--([a-z][a-z-]+)", text)) <= known, name
        assert set(commands_in(text)) <= set(reference_pages.COMMANDS), name


def test_options_that_other_tools_options_become_are_there() -> None:
    """In a table of that page, what stands in the last column is bnfold's."""
    help_page = (ROOT / "docs" / "cli.md").read_text()
    known = set(re.findall(r"--(?:\[no-\])?([a-z][a-z-]+)", help_page))
    page = (ROOT / "docs" / "how-to" / "coming-from-other-tools.md").read_text()
    rows = re.findall(r"^\| .+ \| (.+) \|$", page, re.MULTILINE)
    ours = {option for row in rows for option in re.findall(r"--([a-z][a-z-]+)", row)}
    assert len(ours) > 8
    assert ours <= known


def test_yaml_of_the_pages_is_yaml_and_names_what_there_is() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    hooks = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    found = {
        path.stem: yaml.safe_load(block)
        for path in (ROOT / "docs" / "how-to").glob("*.md")
        for block in re.findall(r"^```yaml\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    }
    assert {hook["id"] for hook in found["pre-commit"]["repos"][0]["hooks"]} == hooks
    steps = {step.get("id"): step for step in found["github"]["jobs"]["models"]["steps"]}
    assert set(steps["bnfold"]["with"]) <= set(action["inputs"])
    page = (ROOT / "docs" / "how-to" / "github.md").read_text()
    assert set(re.findall(r"steps\.bnfold\.outputs\.(\w+)", page)) <= set(action["outputs"])
    assert all(f"`{name}`" in page for name in [*action["inputs"], *action["outputs"]])


def test_gitlab_runs_the_commands_that_the_page_runs() -> None:
    page = (ROOT / "docs" / "how-to" / "gitlab.md").read_text()
    (job,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tried,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(job)["bnfold"]["script"][1:] == tried.splitlines()
