"""Small mistakes in a module, one at a time: which of them do the tests notice?

    python tests/commands/mutations.py bnfold/affine.py --tests tests/folding/test_fold_affine.py [--seconds 600]

Each mutant changes one thing: a comparison, an operator, a constant, a condition, a call that is dropped. It meets the
tests that run its lines, the fastest first, until one fails, in a fork of a process in which everything is imported;
what stands outside functions, or cannot be put into one, meets all tests in a process of its own. onnxruntime is not
there: a test that needs it fails without any mutant, and is not asked. Prints the survivors, and which of them
docs/mutation.md explains.

Killed are those alone at which a test fails that passes without them. Before any mutant, the unchanged code is put in
place in the very ways of a mutant: what fails then is not asked. A mutant with which the run of the tests itself breaks
off is counted by itself, and so is one with which the module cannot be imported.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib.abc
import importlib.util
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPLAINED = ROOT / "docs" / "mutation.md"
MUTANT = "BNFOLD_MUTANT"
ASKED = "BNFOLD_ASKED"
MOST_MEMORY = 6 << 30
NOT_APPLIED, BROKEN_OFF, NO_IMPORT = 99, 98, 97
OUTCOMES = {0: "survived", 1: "killed", NOT_APPLIED: "not applied", NO_IMPORT: "not importable"}
SAID = {"survived", "not run", "not applied", "broken off", "not importable", "timed out"}
SLACK = 10.0
"""Seconds of the processor that a mutant may take beyond ten times what its tests take without it."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift,
}  # fmt: skip
NAMES = {"max": "min", "min": "max", "any": "all", "all": "any", "maximum": "minimum", "zeros": "ones", "ones": "zeros"}
Place = tuple[ast.AST, str, int | None]


@dataclass(frozen=True)
class Mutant:
    """One change: where in the tree, in which function (None outside of all), and how a person would say it.

    `lines` are those of the statement, of which some may not be run as such: what is constant is made beforehand.
    """

    place: Place
    new: ast.AST
    function: tuple[str, int] | None
    lines: range
    first: int
    what: str


def alternatives(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What could stand there by mistake."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        new = deepcopy(node)
        new.ops[0] = SWAPS[type(node.ops[0])]()
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in SWAPS:
        new = deepcopy(node)
        new.op = SWAPS[type(node.op)]()
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield f"{ast.unparse(node)} -> {ast.unparse(node.operand)}", deepcopy(node.operand)
    elif isinstance(node, ast.Constant) and not isinstance(node.value, bytes | type(None) | type(...)):
        value = node.value
        wrong = not value if isinstance(value, bool) else f"{value}x" if isinstance(value, str) else value + 1
        yield f"{value!r} -> {wrong!r}", ast.Constant(wrong)
    elif isinstance(node, ast.IfExp):
        new = ast.IfExp(deepcopy(node.test), deepcopy(node.orelse), deepcopy(node.body))
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        if name in NAMES:
            new = deepcopy(node)
            setattr(new, "id" if isinstance(node, ast.Name) else "attr", NAMES[name])
            yield f"{name} -> {NAMES[name]}", new
    elif isinstance(node, ast.Raise | ast.Expr | ast.AugAssign | ast.Continue | ast.Break):
        yield f"{ast.unparse(node).splitlines()[0][:60]} -> pass", ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield f"{ast.unparse(node).splitlines()[0][:60]} -> return None", ast.Return(ast.Constant(None))


def conditions(node: ast.AST) -> Iterator[tuple[str, ast.expr, str, int | None]]:
    """Conditions that are no comparison: (how it is said, the new one, field, place)."""
    tests: list[tuple[ast.expr, str, int | None]] = []
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        tests = [(node.test, "test", None)]
    elif isinstance(node, ast.comprehension):
        tests = [(test, "ifs", i) for i, test in enumerate(node.ifs)]
    for test, field, i in tests:
        if not isinstance(test, ast.Compare | ast.UnaryOp):
            text = ast.unparse(test)
            yield f"{text} -> not ({text})", ast.UnaryOp(ast.Not(), deepcopy(test)), field, i


def mutants(tree: ast.Module) -> list[Mutant]:
    """Every change of a module, in its order."""
    found: list[Mutant] = []
    pending: list[tuple[ast.AST, str, tuple[str, int] | None, range]] = [(tree, "", None, range(0))]
    while pending:
        node, path, function, lines = pending.pop()
        for what, new, field, i in conditions(node):
            old = getattr(node, field)
            found.append(changed((node, field, i), old if i is None else old[i], new, function, lines, what))
        for field, i, child in children(node):
            # A default is evaluated where the function is made.
            inside = None if field in {"defaults", "kw_defaults"} else function
            around = lines_of(child, lines)
            for what, new in alternatives(child):
                found.append(changed((node, field, i), child, new, inside, around, what))
            pending.append((child, *scope_of(child, path, inside), around))
    return sorted(found, key=lambda mutant: (mutant.first, mutant.what))


def changed(  # noqa: PLR0913, PLR0917  # a mutant is that many things
    place: Place, old: ast.AST, new: ast.AST, function: tuple[str, int] | None, lines: range, what: str
) -> Mutant:
    ast.copy_location(new, old)
    ast.fix_missing_locations(new)
    return Mutant(place, new, function, lines, getattr(old, "lineno", lines.start), what)


def lines_of(node: ast.AST, around: range) -> range:
    """The lines of a statement; of one that holds others, those before them."""
    if not isinstance(node, ast.stmt):
        return around
    body = getattr(node, "body", None)
    last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
    return range(node.lineno, max(node.lineno, last) + 1)


def children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """The nodes below a node that are worth changing: (field, place, node)."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "exc", "format_spec"}:
            continue
        entries = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, child in entries:
            if isinstance(child, ast.AST) and not skipped(child):
                yield field, i, child


def scope_of(node: ast.AST, path: str, function: tuple[str, int] | None) -> tuple[str, tuple[str, int] | None]:
    """The qualified name inside a node, and the outermost function that holds it."""
    if isinstance(node, ast.ClassDef):
        return f"{path}{node.name}.", function
    if isinstance(node, ast.FunctionDef) and function is None:
        first = min([node.lineno, *(entry.lineno for entry in node.decorator_list)])
        return path, (f"{path}{node.name}", first)
    return path, function


def skipped(node: ast.AST) -> bool:
    """What says nothing: docstrings, imports, type aliases, what is for type checkers alone."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
        return True  # words for people
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"


def with_mutant(mutant: Mutant, make: Callable[[], object]) -> object:
    """What `make` gives while the mutant stands in the tree."""
    holder, field, i = mutant.place
    target = getattr(holder, field)
    old = target if i is None else target[i]
    put(holder, field, i, mutant.new)
    try:
        return make()
    finally:
        put(holder, field, i, old)


def put(holder: ast.AST, field: str, i: int | None, node: object) -> None:
    if i is None:
        setattr(holder, field, node)
    else:
        getattr(holder, field)[i] = node


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


class Repeatable:
    """A pytest plugin: hypothesis draws the same examples every time."""

    def pytest_configure(self) -> None:
        from hypothesis import settings  # noqa: PLC0415  # pytest objects to what was imported before it

        settings.register_profile("mutations", derandomize=True, database=None, deadline=None)
        settings.load_profile("mutations")


class Asked:
    """A pytest plugin: of the tests of the files that are run, the ones that are asked."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        asked = set(Path(os.environ[ASKED]).read_text().split("\n"))
        items[:] = [item for item in items if item.nodeid in asked]


class Session:
    """A pytest plugin that runs the tests once, and then, in forks, the fitting ones for each mutant."""

    def __init__(self, file: Path, options: argparse.Namespace) -> None:
        self.file, self.options = str(file), options
        self.tree = ast.parse(file.read_text())
        self.lines = file.read_text().splitlines()
        self.reached: dict[int, list[int]] = defaultdict(list)  # the tests that run a line
        self.took: list[float] = []
        self.kills: Counter[int] = Counter()
        self.failed = False
        self.counts: Counter[str] = Counter()
        self.survivors: list[Mutant] = []
        self.made = 0
        self.asked: list[pytest.Item] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed or report.skipped

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In the place of pytest's own loop."""
        self.measure(session.items)
        unchanged = {self.repeat(session.items), self.by_itself(ast.unparse(self.tree))}
        if unchanged != {"survived"}:
            sys.__stdout__.write(f"the unchanged code is no measure: {', '.join(sorted(unchanged))}\n")
            return True
        chosen = mutants(self.tree)
        self.made = len(chosen)
        random.Random(self.options.seed).shuffle(chosen)
        for mutant in chosen:
            if spent() > self.options.seconds:
                break
            outcome = self.outcome(mutant, session.items)
            self.counts[outcome] += 1
            if outcome in SAID:
                self.survivors += [mutant] * (outcome in {"survived", "not run"})
                sys.__stdout__.write(f"{outcome}: {self.said(mutant)}\n")
                sys.__stdout__.flush()
        return True

    def said(self, mutant: Mutant) -> str:
        line = self.lines[mutant.first - 1].strip()
        mark = "explained" if explained(line, mutant.what) else "SURVIVED"
        return f"{mark}: {Path(self.file).relative_to(ROOT)}:{mutant.first}: `{line}`: {mutant.what}"

    def measure(self, items: list[pytest.Item]) -> None:
        """Which lines each test runs, and how long it takes; one that fails or skips is not asked."""
        touched: set[int] = set()

        def inside(frame: FrameType, event: str, arg: object) -> Callable[..., object]:
            del event, arg
            touched.add(frame.f_lineno)
            return inside

        def enter(frame: FrameType, event: str, arg: object) -> Callable[..., object] | None:
            del event, arg
            if frame.f_code.co_filename != self.file:
                return None
            touched.add(frame.f_lineno)
            return inside

        for i, item in enumerate(items):
            touched.clear()
            self.failed = False
            sys.settrace(enter)
            began = time.process_time()
            self.run(item, items[i + 1] if i + 1 < len(items) else None)
            self.took.append(time.process_time() - began)
            sys.settrace(None)
            for line in () if self.failed or self.took[i] > self.options.longest else touched:
                self.reached[line].append(i)

    def repeat(self, items: list[pytest.Item]) -> str:
        """Once more in a fork, with the same code put in place anew, in the order in which a mutant meets the tests.

        A test that passes only the first time, or only behind another one, would notice every mutant.
        """
        passing = sorted({i for found in self.reached.values() for i in found}, key=lambda i: self.took[i])
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            limit_seconds(SLACK + 10 * sum(self.took[i] for i in passing))
            self.in_repeating_child([items[i] for i in passing], writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            marks = stream.read()
        outcome = waited(child)
        again = {i for i, mark in zip(passing, marks, strict=False) if mark == ord("+")}
        self.reached = {line: [i for i in found if i in again] for line, found in self.reached.items()}
        self.asked = [items[i] for i in sorted(again)]
        return outcome

    def in_repeating_child(self, items: list[pytest.Item], writer: int) -> None:
        try:
            code = compile(self.tree, self.file, "exec")
            for function in {mutant.function for mutant in mutants(self.tree)}:
                if function is not None:
                    self.replaced(function, code)
            for i, item in enumerate(items):
                self.failed = False
                self.run(item, items[i + 1] if i + 1 < len(items) else None)
                os.write(writer, b"-" if self.failed else b"+")
        except BaseException:  # noqa: BLE001  # of this command, and not of the tests
            os._exit(BROKEN_OFF)
        os._exit(0)

    def run(self, item: pytest.Item, following: pytest.Item | None) -> None:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    def outcome(self, mutant: Mutant, items: list[pytest.Item]) -> str:
        if mutant.function is None:
            return self.apart(mutant)
        tests = {i for line in mutant.lines for i in self.reached.get(line, ())}
        if not tests:
            return "not run"
        code = with_mutant(mutant, lambda: compile(self.tree, self.file, "exec"))
        ordered = sorted(tests, key=lambda i: (-self.kills[i], self.took[i]))
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            limit_seconds(SLACK + 10 * sum(self.took[i] for i in ordered))
            self.in_child(mutant, code, [items[i] for i in ordered], writer)
        os.close(writer)
        outcome = waited(child)
        with os.fdopen(reader, "rb") as stream:
            place = stream.read()
        if place:
            self.kills[ordered[int(place)]] += 1
        return self.apart(mutant) if outcome == "not applied" else outcome

    def apart(self, mutant: Mutant) -> str:
        """Of a mutant for which a function cannot take other code: it is none, or reads other variables then."""
        return self.by_itself(with_mutant(mutant, lambda: ast.unparse(self.tree)))

    def in_child(self, mutant: Mutant, code: CodeType, items: list[pytest.Item], writer: int) -> None:
        """Runs the tests with the mutant in place; ends with 1 at the first failure, with 0 after the last test."""
        try:
            applied = mutant.function is not None and self.replaced(mutant.function, code)
        except BaseException:  # noqa: BLE001  # of this command, and not of the tests
            applied = False
        if not applied:
            os._exit(NOT_APPLIED)
        try:
            for i, item in enumerate(items):
                self.failed = False
                self.run(item, items[i + 1] if i + 1 < len(items) else None)
                if self.failed:
                    os.write(writer, str(i).encode())
                    os._exit(1)
        except BaseException:  # noqa: BLE001  # no test has failed
            os._exit(BROKEN_OFF)
        os._exit(0)

    def replaced(self, function: tuple[str, int], code: CodeType) -> bool:
        """Gives a function of the file its code in another code of the file; whether there is such a function."""
        new = next((c for c in codes(code) if (c.co_qualname, c.co_firstlineno) == function), None)
        found = [function for function in gc.get_objects() if isinstance(function, FunctionType)]
        where = (self.file, *function)
        ours = [
            f for f in found if (f.__code__.co_filename, f.__code__.co_qualname, f.__code__.co_firstlineno) == where
        ]
        if new is None:
            return False
        for one in ours:
            one.__code__ = new
        return bool(ours)

    def by_itself(self, source: str) -> str:
        """What the tests that are asked say in a process of their own, in which the module has this source."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as asked:
            asked.write("\n".join(item.nodeid for item in self.asked))
            asked.flush()
            environment = {**os.environ, MUTANT: f"{self.file}\n{source}", ASKED: asked.name}
            files = sorted({str(item.path) for item in self.asked})
            child = os.fork()
            if not child:
                limit_seconds(SLACK + 10 * sum(self.took))
                command = [sys.executable, __file__, self.file, "--tests", *files]
                os.execve(sys.executable, command, environment)  # noqa: S606  # the tests, in a process of their own
            return waited(child)


def spent() -> float:
    """Seconds of the processor, of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def limit_seconds(seconds: float) -> None:
    """Of this process: of the processor, for a machine may be busy with other things."""
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def waited(child: int) -> str:
    """What became of a mutant's process."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in {signal.SIGXCPU, signal.SIGKILL}:
        return "timed out"
    return OUTCOMES.get(os.waitstatus_to_exitcode(status), "broken off")


def explained(line: str, what: str) -> bool:
    """Whether docs/mutation.md has a row for this change of this line."""
    rows = EXPLAINED.read_text().splitlines() if EXPLAINED.exists() else []
    quoted = [text.replace("|", "\\|") for text in (line, what)]
    return any(all(f"`{text}`" in row for text in quoted) for row in rows)


class Loader(importlib.abc.SourceLoader, importlib.abc.MetaPathFinder):
    """Imports one module of the package from other source."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = file, source
        self.name = ".".join(Path(file).relative_to(ROOT).with_suffix("").parts)

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        del path, target
        return importlib.util.spec_from_loader(name, self, origin=self.file) if name == self.name else None

    def get_filename(self, fullname: str) -> str:
        del fullname
        return self.file

    def get_data(self, path: str) -> bytes:
        del path
        return self.source.encode()


def tests_alone(tests: list[str]) -> int:
    """In a process of its own: the tests, with a module from other source; 0 if they pass, 1 if one fails."""
    loader = Loader(*os.environ[MUTANT].split("\n", 1))
    sys.meta_path.insert(0, loader)
    try:
        importlib.import_module(loader.name)
    except BaseException:  # noqa: BLE001  # whatever it is, nothing can be asked
        return NO_IMPORT
    return int(pytest.main(["-x", *common(tests)], plugins=[Repeatable(), Asked()]))


def common(tests: list[str]) -> list[str]:
    return ["-q", "-n0", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "--continue-on-collection-errors", *tests]


def main() -> int:
    """Mutate each file in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the processor, for each file")
    parser.add_argument("--seed", type=int, default=0, help="which mutants come first, if there is no time for all")
    parser.add_argument("--longest", type=float, default=3.0, help="seconds; tests that take longer are not asked")
    parser.add_argument("--verbose", action="store_true", help="leave stderr as it is")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    sys.modules["onnxruntime"] = None  # type: ignore[assignment]  # this is how an import is made to fail
    if MUTANT in os.environ:
        return tests_alone(options.tests)
    for file in options.files:
        child = os.fork()
        if not child:
            os._exit(one_file(file.resolve(), options))
        os.waitpid(child, 0)
    return 0


def one_file(file: Path, options: argparse.Namespace) -> int:
    session = Session(file, options)
    shown = os.dup(1)
    sys.__stdout__ = os.fdopen(shown, "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2) if not options.verbose else None
    pytest.main(common(options.tests), plugins=[Repeatable(), session])
    counts = ", ".join(f"{count} {what}" for what, count in sorted(session.counts.items()))
    tests = len({i for found in session.reached.values() for i in found})
    name = file.relative_to(ROOT)
    unexplained = sum("SURVIVED" in session.said(mutant) for mutant in session.survivors)
    sys.__stdout__.write(
        f"{name}: {sum(session.counts.values())} of {session.made} mutants, {tests} tests: {counts}; "
        f"{unexplained} unexplained ({spent():.0f} s)\n"
    )
    sys.__stdout__.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
