"""The house rules of docs and design that a program can check: who imports whom, what starts light, what is named."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bnfold

PACKAGE = Path(bnfold.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

ORDER = (
    "lazily", "errors", "affine", "statistics", "model", "nodes", "graph", "shapes", "ops", "selecting", "moves",
    "decided", "fitting", "adding", "beside", "searching", "forwarding", "tapping", "choosing", "merging", "planning",
    "witnessing", "assembly", "apply", "equality", "result", "proving", "observing", "inserting", "rules", "report",
    "api", "batch", "config", "options", "terminal", "commands", "cli", "__main__",
)  # fmt: skip
"""Each may import only itself and what stands above it."""

NOT_FOR_EQUALITY = {
    "ops", "moves", "decided", "fitting", "adding", "beside", "searching", "forwarding", "tapping", "choosing",
    "merging", "planning", "witnessing", "assembly", "apply",
}  # fmt: skip
"""What folds may not be asked whether it folded rightly."""

FOR_TYPES_ALONE = {("errors", "equality"), ("errors", "result"), ("errors", "rules")}
"""Looks upward, under TYPE_CHECKING: an error holds a verdict, a result or findings, and imports none of them."""


def place(path: Path) -> str:
    """The entry of ORDER that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules of bnfold that a file imports: (entry of ORDER or "", whether for types alone)."""
    tree = TREES[path]
    guarded = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING"
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            module = node.module or ""
            names = [f"bnfold.{alias.name}" for alias in node.names] if module == "bnfold" else [module]
        for name in names:
            if name.split(".")[0] == "bnfold":
                yield name.partition(".")[2].partition(".")[0], id(node) in guarded


def below_init() -> list[Path]:
    return [path for path in FILES if path != PACKAGE / "__init__.py"]


def test_every_module_has_its_place_in_the_order() -> None:
    assert {place(path) for path in below_init()} <= set(ORDER)


@pytest.mark.parametrize("path", below_init(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_above_it(path: Path) -> None:
    ours = place(path)
    for theirs, for_types in imports(path):
        if theirs == "__version__" or (for_types and (ours, theirs) in FOR_TYPES_ALONE):
            continue
        assert theirs in ORDER, f"{path.name} imports bnfold.{theirs}"
        assert ORDER.index(theirs) <= ORDER.index(ours), f"{path.name} imports {theirs}, which stands below it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "equality").glob("*.py")), ids=lambda path: path.name)
def test_the_proof_imports_nothing_of_the_folding(path: Path) -> None:
    assert {theirs for theirs, _ in imports(path)}.isdisjoint(NOT_FOR_EQUALITY)


# Only what is asked for is started.

HEAVY = ("onnx", "onnxruntime", "numpy", "google.protobuf")


@pytest.mark.parametrize(
    "code",
    [
        "import bnfold",
        "import bnfold; bnfold.__version__; dir(bnfold); bnfold.UsageError; bnfold.Same; bnfold.NotVerified",
        "from bnfold.cli import main; main(['--version'])",
        "from bnfold.cli import main; main(['--help'])",
        "from bnfold.cli import main; main(['fold', '--help'])",
        "from bnfold.cli import main; main(['fold', 'm.onnx'])",
        "from bnfold.cli import main; main(['nonsense'])",
    ],
)
def test_it_starts_without_anything_heavy(code: str) -> None:
    ends = f"import atexit, sys\natexit.register(lambda: sys.stderr.write('LOADED ' + ' '.join(sys.modules)))\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    run = [sys.executable, "-c", ends]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    loaded = set(done.stderr.rpartition("LOADED ")[2].split())
    assert "bnfold" in loaded
    assert loaded.isdisjoint(HEAVY)


NEEDLESS = (
    "pydantic", "onnx.reference", "bnfold.rules", "bnfold.inserting", "bnfold.witnessing", "bnfold.batch.skipping",
    "bnfold.equality.certificate", "bnfold.equality.examine", "bnfold.equality.data",
)  # fmt: skip


@pytest.mark.parametrize(
    "options", [["plan"], ["fold", "--check"], ["fold", "-q", "-o", "out.onnx", "--verify", "off"]]
)
def test_a_command_imports_nothing_of_what_it_does_not_do(options: list[str], tmp_path: Path) -> None:
    model = PACKAGE.parent / "models" / "digits_cnn.onnx"
    command, *rest = options
    code = f"from bnfold.cli import main; main({[command, str(model), *rest]!r})"
    ends = f"import atexit, sys\natexit.register(lambda: sys.stderr.write('LOADED ' + ' '.join(sys.modules)))\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    run = [sys.executable, "-c", ends]
    done = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    loaded = set(done.stderr.rpartition("LOADED ")[2].split())
    assert {"bnfold.planning", "onnx"} <= loaded
    assert loaded.isdisjoint(NEEDLESS)


def test_onnxruntime_is_imported_in_the_child_alone() -> None:
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name.startswith("onnxruntime") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onnxruntime"))
    ]
    assert set(found) == {"equality/child.py"}


# Names.


def submodules() -> list[str]:
    return [
        module.name
        for module in pkgutil.walk_packages([str(PACKAGE)], "bnfold.")
        if not module.name.endswith("__main__")
    ]


PUBLIC = [name for name in bnfold.__all__ if name != "__version__"]


def test_every_public_name_is_there_after_every_submodule_was_imported() -> None:
    code = (
        "import importlib, inspect, bnfold\n"
        f"for name in {submodules()!r}: importlib.import_module(name)\n"
        f"for name in {PUBLIC!r}:\n"
        "    if inspect.ismodule(getattr(bnfold, name)): print(name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "these submodules have taken the place of public functions of their name"


def test_no_submodule_bears_the_name_of_a_public_name() -> None:
    assert {name.removeprefix("bnfold.") for name in submodules()} & set(PUBLIC) == set()


def test_every_public_name_leads_to_a_class_or_function_or_union_with_that_name() -> None:
    for name in PUBLIC:
        home = importlib.import_module(bnfold._HOME_OF[name])
        found = getattr(home, name)
        assert callable(found) or name == "Verdict"
        assert getattr(found, "__name__", name) == name


def test_the_public_names_are_said_once_for_people_and_once_for_type_checkers() -> None:
    for_types = {
        alias.name
        for outer in TREES[PACKAGE / "__init__.py"].body
        if isinstance(outer, ast.If)
        for node in outer.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_types == set(bnfold._HOME_OF) == set(PUBLIC)
    assert bnfold.__all__ == sorted(bnfold.__all__)
    assert set(dir(bnfold)) == set(bnfold.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        bnfold.nonsense  # noqa: B018  # reading it is the test


# Form.

KNOWS_OPERATORS = {
    "equality/bounds.py",
    "equality/branches.py",
    "equality/conditions.py",
    "equality/constants.py",
    "equality/discrete.py",
    "equality/fingerprints.py",
    "equality/gate_sums.py",
    "equality/layout.py",
    "equality/linear.py",
    "equality/ahead.py",
    "equality/claim.py",
    "equality/magnitudes.py",
    "equality/pass_joining.py",
    "equality/pass_positions.py",
    "equality/pass_matrices.py",
    "equality/pass_repeating.py",
    "equality/passes.py",
    "equality/nested.py",
    "equality/perturb.py",
    "equality/plateaus.py",
    "equality/prepare.py",
    "equality/quantized.py",
    "equality/readers.py",
    "equality/reference.py",
    "equality/site_copies.py",
    "equality/site_noise.py",
    "equality/stated_sizes.py",
    "equality/structure.py",
    "equality/upgrade.py",
    "equality/watching.py",
}
"""Besides ops/: the proof's own knowledge, which must not be that of the folding side."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_four_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_nothing_prints() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "pprint"}
    ]
    assert found == []


def test_only_the_command_line_echoes_and_progress_looks_for_a_terminal() -> None:
    found = {
        path.name
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"echo", "secho", "stdout", "stderr"}
        and isinstance(node.value, ast.Name) and node.value.id in {"typer", "sys"}
    }  # fmt: skip
    assert found == {"app.py", "progress.py", "terminal.py"}


def compares_operators(node: ast.AST) -> bool:
    """`node.op == ...`, `op_type in ...` and the like."""
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    literal = any(isinstance(side, ast.Constant | ast.Set | ast.Tuple | ast.Name) for side in sides)
    return literal and any(isinstance(side, ast.Attribute) and side.attr in {"op", "op_type"} for side in sides)


def test_operators_are_told_apart_only_where_operators_are_known() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if compares_operators(node)
    }
    outside = {name for name in found if not name.startswith("ops/")}
    assert outside <= KNOWS_OPERATORS | {"planning.py"}, "operators belong into ops/ or the proof's own tables"
    assert "equality/reference.py" in outside, "the search finds what is there"


def test_planning_asks_tables_and_names_no_operator() -> None:
    tree = TREES[PACKAGE / "planning.py"]
    named = [
        f"planning.py:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and compares_operators(node)
        and any(isinstance(side, ast.Constant | ast.Set) for side in [node.left, *node.comparators])
    ]  # fmt: skip
    assert named == []


def public_members() -> Iterator[tuple[str, object]]:
    for name in ["bnfold", *submodules()]:
        module = importlib.import_module(name)
        yield name, module
        for member, value in vars(module).items():
            if member.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            yield f"{name}.{member}", value
            if inspect.isclass(value):
                for method, inner in vars(value).items():
                    function = inner.fget if isinstance(inner, property) else getattr(inner, "__func__", inner)
                    if not method.startswith("_") and inspect.isfunction(function):
                        yield f"{name}.{member}.{method}", function


def documented(value: object) -> bool:
    doc = getattr(value, "__doc__", None)
    return bool(doc) and not (inspect.isclass(value) and doc.startswith(f"{value.__name__}("))


def test_every_public_module_class_and_function_has_a_docstring() -> None:
    assert [name for name, value in public_members() if not documented(value)] == []
    assert len(list(public_members())) > 200


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


# Reasons and operators.


def test_every_reason_has_a_page() -> None:
    from bnfold.ops.reasons import REASONS  # noqa: PLC0415  # heavy, and not what most tests here look at

    assert len(REASONS) > 15
    for code, reason in REASONS.items():
        assert code == reason.code
        assert code == code.lower()
        assert code.replace("-", "").isalpha()
        for text in (reason.summary, reason.why, reason.remedy):
            assert text.strip() == text != ""
        assert "\n" not in reason.summary
        assert len(reason.summary) <= 90
        assert reason.why.endswith(".")
        assert reason.summary[-1] not in ".!"


def test_every_reason_is_given_somewhere() -> None:
    source = (PACKAGE / "ops" / "reasons.py").read_text()
    names = [
        node.targets[0].id
        for node in TREES[PACKAGE / "ops" / "reasons.py"].body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "_reason"
    ]  # fmt: skip
    elsewhere = "\n".join(path.read_text() for path in FILES if path.name != "reasons.py")
    assert len(names) == source.count("= _reason(")
    assert [name for name in names if name not in elsewhere] == []


def test_the_certificate_knows_every_operator_that_absorbs_or_passes() -> None:
    from bnfold.ops import TABLE  # noqa: PLC0415  # heavy, and not what most tests here look at

    known = "".join((PACKAGE / "equality" / f"{name}.py").read_text() for name in ("reference", "passes", "quantized"))
    unknown = [row.op for row in TABLE if f'"{row.op}"' not in known]
    assert unknown == []
    assert {row.kind for row in TABLE} == {"affine", "linear", "passing", "feeding", "forward", "sideways"}
