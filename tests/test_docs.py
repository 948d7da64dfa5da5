"""What the documents say is what the code does."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "documents"))
from pictures import PICTURE, SHOWN, lines_of, picture

from bnfold.ops import TABLE
from bnfold.ops.reasons import REASONS
from bnfold.report.as_json import SCHEMA
from bnfold.report.documents import operators_document, reasons_document
from bnfold.report.forms import SUFFIXES, Format
from bnfold.report.reference import page_text, rules_document
from bnfold.rules.rule import every_rule

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = ("fold", "plan", "validate", "verify", "ops", "explain", "witness")


def fenced(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def bnfold_command(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bnfold", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """An empty folder with the project's models in it."""
    (tmp_path / "models").mkdir()
    for name in ("digits_cnn.onnx", "digits_preact.onnx", "digits.npz"):
        shutil.copy(ROOT / "models" / name, tmp_path / "models")
    return tmp_path


def test_the_picture_in_the_readme_is_what_its_commands_print() -> None:
    """`python tests/documents/pictures.py` makes it anew. The first of its commands is the README's own."""
    _, _, command = fenced("sh")[0].partition(".venv/bin/bnfold ")
    assert command.strip() == SHOWN[0]
    assert "](docs/terminal.svg)" in README
    kept, made = PICTURE.read_text(encoding="utf-8"), picture()
    assert [structure(line) for line in lines_of(made)] == [structure(line) for line in lines_of(kept)]
    assert "accuracy     98.33% before, 98.33% after (360 samples)" in "\n".join(lines_of(made))
    assert not re.search(r"url\(.?http|<image|<script|@font-face", kept)


def structure(line: str) -> str:
    """A line of a report up to the figures that another machine rounds otherwise."""
    return re.sub(r"(worst at|relative L2|difference|SNR) [\d.e-]+", r"\1", line)


def test_the_comparison_in_the_readme_is_what_its_command_prints() -> None:
    """bnfold's own row, as far as no other tool is needed for it."""
    command = [
        sys.executable,
        ROOT / "tests/commands/compare.py",
        "--peers-python",
        sys.executable,
        "--models",
        "models",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    head, _, ours, *_ = done.stdout.splitlines()
    (kept_head,) = re.findall(r"^\| \| folded, .*$", README, re.MULTILINE)
    (kept,) = re.findall(r"^\| bnfold \| \d.*$", README, re.MULTILINE)
    assert kept_head.startswith(head.removesuffix(" |"))
    assert kept.startswith(ours.removesuffix(" |"))


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_command 1" in script
    assert "readme_command 2" in script
    assert "pytest" in fenced("sh")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_readme(command: str) -> None:
    assert f"`bnfold {command}" in README


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_reason_has_a_page(code: str, tmp_path: Path) -> None:
    page = bnfold_command("explain", code, cwd=tmp_path)
    assert page.startswith(f"{code}: ")
    assert "What to do: " in page


def test_the_pages_of_the_rules_are_those_that_explain_prints(tmp_path: Path) -> None:
    """`python tests/commands/rules_document.py` writes them anew."""
    written = (ROOT / "docs" / "rules.md").read_text()
    assert written == rules_document(every_rule())
    assert f"```text\n{bnfold_command('explain', 'BN005', cwd=tmp_path)}```" in written
    assert all(page_text(rule) in written for rule in every_rule())


REPORTS = (ROOT / "docs" / "reports.md").read_text()
EXAMPLES = re.findall(r"^```console\n\$ bnfold (.*)\n((?:.*\n)*?)```$", REPORTS, re.MULTILINE)


def test_the_reports_have_an_example_of_each_format_on_stdout() -> None:
    formats = {form for arguments, _ in EXAMPLES for form in re.findall(r"--format (\w+)", arguments)}
    assert formats == {"json", "github", "junit", "sarif", "markdown"}
    assert all(f"| `{form}` |" in REPORTS for form in Format)
    assert all(f"`{suffix}`" in REPORTS for suffix in SUFFIXES)


@pytest.mark.parametrize(("arguments", "shown"), EXAMPLES, ids=[arguments for arguments, _ in EXAMPLES])
def test_an_example_of_a_report_is_what_the_command_prints(desk: Path, arguments: str, shown: str) -> None:
    """What stands as ... in the document may be anything."""
    done = subprocess.run(
        [sys.executable, "-m", "bnfold", *arguments.split()],
        cwd=desk, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1 if "--check" in arguments else 0, "")
    assert doctest.OutputChecker().check_output(shown, done.stdout, doctest.ELLIPSIS), done.stdout
    assert all((desk / name).stat().st_size for name in re.findall(r"--report (\S+)", arguments))


def test_the_python_of_the_reports_runs(desk: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", REPORTS, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", block], cwd=desk, env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == SCHEMA


def test_the_reference_is_made_of_the_op_table_and_of_the_reasons(tmp_path: Path) -> None:
    """`python tests/commands/reference_documents.py` writes both anew."""
    assert (ROOT / "docs" / "operators.md").read_text() == operators_document(TABLE)
    pages = (ROOT / "docs" / "reasons.md").read_text()
    assert pages == reasons_document(REASONS.values())
    assert f"```text\n{bnfold_command('explain', 'padding', cwd=tmp_path)}```" in pages
