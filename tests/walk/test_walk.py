"""What people do with the installed command, from an empty folder: a newcomer, a CI author, a user of the library.

Everything goes through `bnfold` and `python` of this environment, as a shell would find them; nothing of the project is
on the path but what is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
MODELS = ROOT / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Empty but for the models that somebody has."""
    shutil.copytree(MODELS, tmp_path / "models", ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__"))
    return tmp_path


def shell(line: str, folder: Path, *, code: int = 0, **more: str) -> tuple[str, str]:
    """stdout and stderr of one line typed into a shell; `code` is what it has to end with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BNFOLD_", "GITHUB_", "PYTHON"))}
    environment = {**kept, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", **more}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"models"}


def test_a_newcomer_looks_around_folds_and_asks_why(folder: Path) -> None:
    assert re.fullmatch(r"bnfold \d+\.\d+\.\d+\S*\n", shell("bnfold --version", folder)[0])
    assert "fold" in shell("bnfold --help", folder)[0]

    # The first command of the README.
    command = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    out, err = shell(command.partition(".venv/bin/")[2].partition(".venv/bin/")[2], folder)
    assert "verified     same" in out
    assert err == ""
    assert made(folder) == {"digits_folded.onnx"}

    # A mistake or two, each answered with one line.
    for line, code in (
        ("bnfold fold models/digits_cnn.onnx", 2),
        ("bnfold fold models/digits_cnn.onxx -o x.onnx", 3),
        ("bnfold fold models/digits_cnn.onnx -o nowhere/at/all.onnx", 5),
        ("bnfold fodl models/digits_cnn.onnx -o x.onnx", 2),
    ):
        out, err = shell(line, folder, code=code)
        assert out == ""
        assert re.fullmatch(r"bnfold: .+\n", err), err

    # A model of which something stays: why, and what to do.
    out, _ = shell("bnfold fold models/digits_preact.onnx -o preact.onnx", folder)
    code = re.findall(r"^ +\d+ x ([a-z-]+): ", out, re.MULTILINE)[0]
    assert "What to do: " in shell(f"bnfold explain {code}", folder)[0]

    # Folding what is folded changes nothing.
    shell("bnfold fold digits_folded.onnx -o again.onnx", folder)
    assert (folder / "again.onnx").read_bytes() == (folder / "digits_folded.onnx").read_bytes()
    assert made(folder) == {"digits_folded.onnx", "preact.onnx", "again.onnx"}


def test_a_ci_author_builds_a_gate_that_opens_and_closes(folder: Path) -> None:
    summary = folder / "summary.md"
    summary.touch()
    gate = (
        "set -e\n"
        "bnfold validate {model} --data models/digits.npz --report validate.sarif -q\n"
        "bnfold fold {model} -o release.onnx --certificate release.json --max-left 0 -q"
        " --report fold.xml --report fold.json\n"
        "bnfold fold release.onnx --check -q\n"
        "bnfold verify {model} release.onnx --certificate release.json --format github\n"
    )
    out, err = shell(gate.format(model="models/digits_cnn.onnx"), folder, GITHUB_STEP_SUMMARY=str(summary))
    assert err == ""
    assert "::error" not in out
    assert "same" in summary.read_text()
    assert json.loads((folder / "fold.json").read_text())["exit_code"] == 0
    assert json.loads((folder / "release.json").read_text())["format"] == "bnfold-certificate"
    assert json.loads((folder / "validate.sarif").read_text())["version"] == "2.1.0"
    suite = ElementTree.parse(folder / "fold.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")

    # It closes, with a code and a report that say why, each in its own way.
    shell(gate.format(model="models/digits_preact.onnx"), folder, code=1)
    assert int(ElementTree.parse(folder / "fold.xml").getroot().get("failures", "0")) > 0
    (folder / "broken.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    _, err = shell(gate.format(model="broken.onnx"), folder, code=3)
    assert re.fullmatch(r"bnfold: .+\n", err)
    shell("bnfold verify models/digits_mlp.onnx release.onnx", folder, code=1)
    wrong_pair = "bnfold verify models/digits_unet.onnx release.onnx --certificate release.json --certificate-alone"
    shell(wrong_pair, folder, code=6)


def test_a_user_of_the_library_does_what_the_page_says_and_catches_what_it_raises(folder: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    (folder / "page.py").write_text(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0])
    out, err = shell("python page.py", folder)
    assert "other-readers" in out
    assert "7 -> 4" in out
    assert err == ""
    (folder / "mine.py").write_text(
        "import bnfold, sys\n"
        "assert not {'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "import onnx\n"
        "proto = onnx.load('models/digits_cnn.onnx')\n"
        "before = proto.SerializeToString()\n"
        "folded = bnfold.fold(proto).to_proto()\n"
        "assert proto.SerializeToString() == before, 'the argument is not changed'\n"
        "assert not any(node.op_type == 'BatchNormalization' for node in folded.graph.node)\n"
        "for wrong, error in ((lambda: bnfold.fold('no.onnx'), bnfold.InputRefused),\n"
        "                     (lambda: bnfold.fold(proto, check=True), bnfold.WouldFold),\n"
        "                     (lambda: bnfold.verify(proto, bnfold.fold('models/digits_preact.onnx').to_proto())"
        ".raise_unless_same(), bnfold.NotVerified)):\n"
        "    try:\n"
        "        wrong()\n"
        "    except error as caught:\n"
        "        print(caught.exit_code, type(caught).__name__)\n"
    )
    out, err = shell("python mine.py", folder)
    assert out == "3 InputRefused\n1 WouldFold\n4 NotVerified\n"
    assert err == ""


def test_the_package_is_typed_for_those_who_check(folder: Path) -> None:
    found = "import bnfold, pathlib; print((pathlib.Path(bnfold.__file__).parent / 'py.typed').exists())"
    assert shell(f'python -c "{found}"', folder)[0] == "True\n"
