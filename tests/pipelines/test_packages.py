"""What .ci/package asks of a wheel: one that lacks a file, or has one too many, is found."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for path in (ROOT / "bnfold").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
OTHERS = ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "models/digits_cnn.onnx", "tests/test_docs.py")


def checked(folder: Path, *, without: str = "", besides: str = "") -> tuple[int, str]:
    """The command's answer about archives made of the package, but for a file, or with one more in the wheel."""
    with zipfile.ZipFile(folder / "w.whl", "w") as wheel, tarfile.open(folder / "s.tar.gz", "w:gz") as sdist:
        for path in [*FILES, *(ROOT / name for name in OTHERS)]:
            name = path.relative_to(ROOT).as_posix()
            if path in FILES and name != without:
                wheel.write(path, name)
            sdist.add(path, f"s/{name}")
        if besides:
            wheel.writestr(besides, "")
    command = [sys.executable, ROOT / "tests" / "commands" / "packages.py", folder / "w.whl", folder / "s.tar.gz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_whole_archives_pass(tmp_path: Path) -> None:
    assert checked(tmp_path)[0] == 0


def test_a_wheel_without_its_types_or_its_schema_is_found(tmp_path: Path) -> None:
    for name in ("bnfold/py.typed", "bnfold/report/schema.json"):
        assert checked(tmp_path, without=name) == (1, f"w.whl lacks {name}\n")


def test_a_wheel_with_tests_in_it_is_found(tmp_path: Path) -> None:
    code, told = checked(tmp_path, besides="tests/test_docs.py")
    assert code == 1
    assert "w.whl has tests/test_docs.py\n" in told
