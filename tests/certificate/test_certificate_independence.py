"""The certificate shares no knowledge of operators with the code that folds: it never imports it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bnfold

ROOT = Path(bnfold.__file__).parents[1]
FOLDING = ("bnfold.ops", "bnfold.planning", "bnfold.apply")
CHECKING = tuple(
    f"bnfold.equality.{name}"
    for name in (
        "certificate", "structure", "reference", "claim", "constants", "homes", "layout", "linear", "messages",
        "numbers", "quantized", "steps", "evidence", "recheck",
    )
)  # fmt: skip


@pytest.mark.parametrize("module", CHECKING)
def test_no_module_of_the_certificate_brings_in_the_folding_side(module: str) -> None:
    code = f"import sys, {module}; print('\\n'.join(name for name in sys.modules if name.startswith('bnfold')))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert module in loaded
    assert [name for name in loaded if name.startswith(FOLDING)] == []


@pytest.mark.parametrize("module", CHECKING)
def test_not_even_inside_a_function_is_the_folding_side_imported(module: str) -> None:
    tree = ast.parse((ROOT / Path(*module.split("."))).with_suffix(".py").read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert any(name.startswith("bnfold.") for name in names)
    assert [name for name in names if name.startswith(FOLDING)] == []
