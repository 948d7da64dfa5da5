"""The hooks, run by pre-commit itself in a scratch repository that takes them from another one.

`language: system` stands in the scratch configuration, so that pre-commit runs the bnfold that is installed: making its
own environment would take a package index and minutes. What it would install is what .ci/package installs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="THE HOOKS ARE NOT TESTED: there is no git here")


def git(folder: Path, *arguments: str) -> str:
    me = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "gc.auto=0")
    done = subprocess.run(["git", *me, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def pre_commit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "PRE_COMMIT_HOME": str(folder.parent / "cache"),
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "pre_commit", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the hooks, and nothing else that `language: system` would need."""
    folder = tmp_path_factory.mktemp("hooks")
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", folder)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "hooks")
    return folder


@pytest.fixture
def project(tmp_path: Path, hooks: Path) -> Path:
    """A repository that uses them, with nothing in it yet."""
    folder = tmp_path / "project"
    folder.mkdir()
    wanted = [{"id": hook["id"], "language": "system"} for hook in HOOKS]
    repos = [{"repo": str(hooks), "rev": git(hooks, "rev-parse", "HEAD"), "hooks": wanted}]
    (folder / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": repos}))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    return folder


def test_pre_commit_takes_the_manifest(tmp_path: Path) -> None:
    done = pre_commit(tmp_path, "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml"))
    assert done.returncode == 0, done.stdout
    assert [hook["id"] for hook in HOOKS] == ["bnfold-validate", "bnfold-check"]


def test_a_model_that_would_fold_stops_the_commit(project: Path) -> None:
    shutil.copy(ROOT / "models" / "digits_cnn.onnx", project)
    git(project, "add", ".")
    done = pre_commit(project, "run")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("bnfold validate") and line.endswith("Passed") for line in lines), done.stdout
    assert any(line.startswith("bnfold fold --check") and line.endswith("Failed") for line in lines), done.stdout
    assert "8 found, 8 to fold, 0 left" in done.stdout
    assert git(project, "status", "--porcelain", "digits_cnn.onnx") == "A  digits_cnn.onnx", "it is not changed"


def test_a_file_that_is_no_model_stops_the_commit(project: Path) -> None:
    (project / "not a model.onnx").write_bytes(b"nothing")
    git(project, "add", ".")
    done = pre_commit(project, "run")
    assert done.returncode == 1
    assert done.stdout.count("- exit code: 3") == len(HOOKS)
    assert "bnfold: 'not a model.onnx' is not an ONNX model" in done.stdout
    assert "Traceback" not in done.stdout


def test_files_of_other_kinds_are_not_looked_at(project: Path) -> None:
    (project / "model.onnx.txt").write_text("nothing")
    git(project, "add", ".")
    done = pre_commit(project, "run")
    assert done.returncode == 0
    assert done.stdout.count("Skipped") == len(HOOKS)


def test_a_folded_model_passes(project: Path) -> None:
    fold = [
        sys.executable,
        "-m",
        "bnfold",
        "fold",
        ROOT / "models" / "digits_cnn.onnx",
        "--verify",
        "certificate",
        "-o",
    ]
    subprocess.run([*fold, project / "folded.onnx"], check=True, capture_output=True)
    git(project, "add", ".")
    done = pre_commit(project, "run")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Passed") == len(HOOKS)
