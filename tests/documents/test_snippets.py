"""Every `sh` and `python` block of the documents is run by the installed command, a page in one folder from its top on.

A comment before a block says what is special about it: `<!-- exit 1 -->` is what it ends with, and a block under
`<!-- illustrative: why -->` is not run. A `text` block right below a block is what it prints, where ... is anything.
The folder is a git repository with the project's `models/`, and `model.onnx` (no BatchNormalization), `a.onnx`,
`b.onnx` and `calib.npz`.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "models" / "README.md"]
)
BLOCK = re.compile(
    r"(?:^<!-- (?P<remark>.+?) -->\n)?^```(?P<kind>sh|bash|shell|python)\n(?P<code>.*?)^```\n"
    r"(?:\n+^```text\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
README_INSTALLS = 2
"""The README's first blocks make environments: .ci/run runs them, and tests/test_docs.py what the first one prints."""


@dataclass(frozen=True)
class Block:
    kind: str
    code: str
    shown: str | None
    exit_code: int


def blocks(page: Path) -> list[Block]:
    """What is to be run of a page."""
    found = list(BLOCK.finditer(page.read_text()))
    if page == ROOT / "README.md":
        found = found[README_INSTALLS:]
    return [
        Block(one["kind"], one["code"], one["shown"], int((one["remark"] or "exit 0").removeprefix("exit ")))
        for one in found
        if not (one["remark"] or "").startswith("illustrative: ")
    ]


def pages_to_test() -> list[Path]:
    return [page for page in PAGES if blocks(page)]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folded") / "model.onnx"
    fold = [TOOLS / "bnfold", "fold", ROOT / "models" / "digits_cnn.onnx", "-q", "--verify", "certificate", "-o", path]
    subprocess.run(fold, check=True)
    return path


@pytest.fixture
def desk(tmp_path: Path, folded: Path) -> Path:
    (tmp_path / "models").mkdir()
    for source in [*(ROOT / "models").glob("*.onnx"), *(ROOT / "models").glob("*.npz")]:
        shutil.copy(source, tmp_path / "models")
    shutil.copy(folded, tmp_path / "model.onnx")
    shutil.copy(ROOT / "models" / "digits.npz", tmp_path / "calib.npz")
    for name in ("a.onnx", "b.onnx"):
        shutil.copy(ROOT / "models" / "digits_mlp.onnx", tmp_path / name)
    for arguments in (("init", "--quiet"), ("add", "models")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def ran(block: Block, desk: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("BNFOLD_", "GITHUB_", "GIT_"))
    }
    environment["PATH"] = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "-euo", "pipefail", "-c"]
    command = [sys.executable, "-c"] if block.kind == "python" else shell
    return subprocess.run(
        [*command, block.code], cwd=desk, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("page", pages_to_test(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_says(page: Path, desk: Path) -> None:
    for block in blocks(page):
        done = ran(block, desk)
        assert done.returncode == block.exit_code, f"{block.code}\n{done.stdout}{done.stderr}"
        if block.shown is not None:
            assert doctest.OutputChecker().check_output(block.shown, done.stdout, doctest.ELLIPSIS), done.stdout


def test_each_fence_of_code_is_seen() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```(?:sh|bash|shell|python)\b", page.read_text(), re.MULTILINE)
        assert len(fences) == len(list(BLOCK.finditer(page.read_text()))), page


def test_a_remark_is_an_exit_code_or_says_why_a_block_is_not_run() -> None:
    remarks = [one["remark"] for page in PAGES for one in BLOCK.finditer(page.read_text()) if one["remark"]]
    assert all(re.fullmatch(r"exit \d+|illustrative: \S.*", remark) for remark in remarks)
    illustrative = [remark for remark in remarks if remark.startswith("illustrative")]
    assert 0 < len(illustrative) < len(remarks)


def test_what_a_page_shows_is_held_against_what_is_printed(desk: Path) -> None:
    """A page that lies is found."""
    block = Block("sh", "bnfold --version\n", "bnfold 99\n", 0)
    assert not doctest.OutputChecker().check_output(str(block.shown), ran(block, desk).stdout, doctest.ELLIPSIS)
    assert ran(Block("sh", "false | true\n", None, 1), desk).returncode == 1
