"""[tool.bnfold] of a file and the environment: what they mean, who comes first, and every mistake one line."""

from __future__ import annotations

import enum
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Answer, refused, run

import bnfold
from bnfold import cli as command_line_module
from bnfold.commands.settings import ALONE, OF_REFERENCE, options_of
from bnfold.commands.table import TABLE
from bnfold.config import Kind, Option, per_site_ignores, table_of, variables

Cli = Callable[..., Answer]
OPTIONS = [(command, option) for command in TABLE for option in options_of(command)]
SOURCES = ("file", "environment", "command line")
NEEDED = {"verify": ["a", "b"], "witness": ["m"]}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, two below one that is empty."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    return tmp_path / "a" / "b"


def written(folder: Path, text: str, name: str = "pyproject.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@functools.cache
def built(command: str) -> Any:
    return typer.main.get_command(command_line_module.app).commands[command]


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """What a command's function would be called with."""
    return built(command).make_context(command, [*arguments, *NEEDED.get(command, [])]).params


def parameter(command: str, option: Option) -> Any:
    return next(one for one in built(command).params if one.name.rstrip("_") == option.name)


def values_of(command: str, option: Option) -> tuple[object, ...]:
    """A value for each of the three sources, next to each other never the same."""
    hints = parameter(command, option).type_descriptor.annotation
    if isinstance(hints, type) and issubclass(hints, enum.Enum):
        words = [one.value for one in hints]
        return words[1], words[0], words[-1]
    return {
        Kind.FLAG: (True, False, True),
        Kind.WHOLE: (3, 2, 5),
        Kind.NUMBER: (3.5, 2.0, 5.25),
        Kind.TEXT: ("of_file", "of_environment", "of_line"),
        Kind.TEXTS: (["of_file", "too"], ["of_environment"], ["of_line"]),
    }[option.kind]


def on_the_line(command: str, option: Option, value: object) -> list[str]:
    names = parameter(command, option).opts
    long = next(name for name in names if name.startswith("--"))
    if isinstance(value, bool):
        return [long if value else f"--no-{long[2:]}"]
    return [part for one in (value if isinstance(value, list) else [value]) for part in (long, str(one))]


def same(found: object, wanted: object) -> bool:
    if isinstance(wanted, list) and isinstance(found, list | tuple):
        return [str(one) for one in found] == wanted
    return found == wanted or str(found) == wanted


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda one: getattr(one, "key", one))
def test_the_command_line_comes_before_the_environment_and_that_before_the_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: Option
) -> None:
    default = parsed(command)
    for values in (values_of(command, option), values_of(command, option)[::-1]):
        given = dict(zip(SOURCES, values, strict=True))
        for said in itertools.product((True, False), repeat=3):
            there = [source for source, is_there in zip(SOURCES, said, strict=True) if is_there]
            text = f"{option.key} = {json.dumps(given['file'])}" if "file" in there else ""
            written(place, f"[tool.bnfold]\n{text}\n")
            of_environment = given["environment"]
            variable = variables(command, option.name)[1]
            monkeypatch.delenv(variable, raising=False)
            if "environment" in there:
                words = of_environment if isinstance(of_environment, list) else [str(of_environment)]
                monkeypatch.setenv(variable, ",".join(words))
            line = on_the_line(command, option, given["command line"]) if "command line" in there else []
            found = parsed(command, *line)[parameter(command, option).name]
            assert same(found, given[there[-1]]) if there else found == default[parameter(command, option).name]


def test_every_option_is_a_setting_or_stands_on_the_command_line_alone_for_a_reason() -> None:
    for command in TABLE:
        all_ = {param.name.rstrip("_") for param in built(command).params}
        settings = {option.name for option in options_of(command)}
        assert all_ - settings <= ALONE | {name.rstrip("_") for name in OF_REFERENCE.get(command, ())}
        assert {"output", "in_place", "check", "certificate", "model"}.isdisjoint(settings)
    assert len(OPTIONS) > 60


def test_of_one_command_alone_comes_before_of_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(place, "[tool.bnfold]\ntimeout = 10\nseed = 1\n[tool.bnfold.fold]\ntimeout = 20\n")
    assert (parsed("fold")["timeout"], parsed("fold")["seed"]) == (20.0, 1)
    assert (parsed("insert")["timeout"], parsed("insert")["seed"]) == (10.0, 1)
    monkeypatch.setenv("BNFOLD_TIMEOUT", "30")
    assert (parsed("fold")["timeout"], parsed("insert")["timeout"]) == (30.0, 30.0)
    monkeypatch.setenv("BNFOLD_FOLD_TIMEOUT", "40")
    assert (parsed("fold")["timeout"], parsed("insert")["timeout"]) == (40.0, 30.0)
    assert parsed("fold", "--timeout", "50")["timeout"] == 50.0
    monkeypatch.setenv("BNFOLD_FOLD_TIMEOUT", "")
    assert parsed("fold")["timeout"] == 30.0, "an empty variable is as good as none"


@pytest.mark.parametrize(
    ("file", "environment", "line", "expected"),
    [
        ("strict = true", {}, ["--max-left", "3"], {"strict": False, "max_left": 3}),
        ("max-left = 3", {}, ["--strict"], {"strict": True, "max_left": None}),
        ("max-left = 3", {"BNFOLD_STRICT": "yes"}, [], {"strict": True, "max_left": None}),
        ("strict = true", {"BNFOLD_MAX_LEFT": "2"}, [], {"strict": False, "max_left": 2}),
        ("max-left = 3", {}, ["--no-strict"], {"strict": False, "max_left": 3}),
        ("max-left = 3", {"BNFOLD_STRICT": "no"}, [], {"strict": False, "max_left": 3}),
        ("strict = true\nmax-left = 3", {}, [], {"strict": True, "max_left": 3}),
        ("quiet = true", {}, ["-v"], {"quiet": False, "verbose": True}),
        ("skip-existing = true", {}, ["--check"], {"skip_existing": False}),
        ("skip-existing = true", {}, ["--in-place"], {"skip_existing": False}),
        ("skip-existing = true", {}, ["-o", "out"], {"skip_existing": True}),
    ],
)
def test_of_options_that_contradict_each_other_the_stronger_source_has_its_way(  # noqa: PLR0913, PLR0917  # three sources
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    environment: dict[str, str],
    line: list[str],
    expected: dict[str, object],
) -> None:
    written(place, f"[tool.bnfold]\n{file}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = parsed("fold", *line)
    assert {name: found[name] for name in expected} == expected


def test_paths_in_a_file_count_from_its_folder_and_names_of_functions_are_none(place: Path) -> None:
    written(place.parent, '[tool.bnfold]\ndata = "d.npz"\nreport = ["r.json", "/tmp/x.txt"]\n')
    assert parsed("fold")["data"] == str(place.parent / "d.npz")
    assert parsed("fold")["report"] == [place.parent / "r.json", Path("/tmp/x.txt")]  # noqa: S108  # not written to
    written(place.parent, '[tool.bnfold]\ndata = "pkg.mod:function"\n')
    assert parsed("fold")["data"] == "pkg.mod:function"
    written(place, '[tool.bnfold]\ndata = "d.npz"\n')
    assert parsed("fold")["data"] == "d.npz"


# Which file.


def test_the_nearest_file_that_has_the_table_counts(place: Path) -> None:
    assert table_of().path is None
    above = written(place.parents[1], "[tool.bnfold]\nseed = 1\n")
    assert table_of().path == above
    written(place.parent, "[tool.ruff]\nline-length = 3\n")
    assert parsed("fold")["seed"] == 1
    nearest = written(place, "[tool.bnfold]\n")
    assert table_of().path == nearest
    assert parsed("fold")["seed"] == 0


def test_a_file_may_be_named_or_none_at_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(place, "[tool.bnfold]\nseed = 1\n")
    written(place, "[tool.bnfold]\nseed = 2\n", "other.toml")
    assert parsed("fold", "--config", "other.toml")["seed"] == 2
    assert parsed("fold", "--no-config")["seed"] == 0
    monkeypatch.setenv("BNFOLD_CONFIG", "other.toml")
    assert parsed("fold")["seed"] == 2
    assert parsed("fold", "--no-config")["seed"] == 0
    assert parsed("fold", "--config", "pyproject.toml")["seed"] == 1
    monkeypatch.setenv("BNFOLD_NO_CONFIG", "1")
    assert parsed("fold")["seed"] == 0
    assert parsed("fold", "--config", "pyproject.toml")["seed"] == 1
    monkeypatch.setenv("BNFOLD_SEED", "7")
    assert parsed("fold", "--no-config")["seed"] == 7


def test_a_folder_of_that_name_is_no_file(place: Path) -> None:
    (place / "pyproject.toml").mkdir()
    assert table_of().path is None


def test_verify_is_a_command_and_an_option_of_others(place: Path) -> None:
    written(place, '[tool.bnfold]\nverify = "off"\n')
    assert (parsed("fold")["verify"], parsed("insert")["verify"]) == ("off", "off")
    written(place, "[tool.bnfold.verify]\nseed = 3\n")
    assert (parsed("verify")["seed"], parsed("fold")["verify"]) == (3, "full")


def test_rules_are_silenced_by_site_for_all_or_for_validate(place: Path) -> None:
    written(place, '''
        [tool.bnfold.per-site-ignores]
        "stem.*" = ["BN010"]
        [tool.bnfold.validate.per-site-ignores]
        "stem.*" = ["BN011"]
        "*head" = ["BN1"]
    ''')  # fmt: skip
    assert per_site_ignores(table_of()) == {"stem.*": ("BN010", "BN011"), "*head": ("BN1",)}


# Mistakes.

MISTAKES = {
    '[tool.bnfold]\nselekt = ["BN001"]': ["no key 'selekt'", "did you mean 'select'?"],
    "[tool.bnfold]\nper_site_ignores = {}": ["no key 'per_site_ignores'", "did you mean 'per-site-ignores'?"],
    "[tool.bnfold]\nbn_only = true": ["no key 'bn_only'", "did you mean 'bn-only'?"],
    "[tool.bnfold.fodl]\nseed = 1": ["no key 'fodl'", "did you mean 'fold'?"],
    "[tool.bnfold]\nxyz = 3": ["no key 'xyz'", "the keys are after, "],
    "[tool.bnfold.plan]\nseed = 3": ["tool.bnfold.plan has no key 'seed'"],
    "[tool.bnfold.ops]\nper-site-ignores = {}": ["tool.bnfold.ops has no key 'per-site-ignores'"],
    "[tool.bnfold]\nin-place = true": ["tool.bnfold.in-place stands on the command line alone"],
    '[tool.bnfold.fold]\noutput = "x"': ["tool.bnfold.fold.output stands on the command line alone"],
    "[tool.bnfold]\nfold = 3": ["tool.bnfold.fold must be a table"],
    '[tool.bnfold]\nseed = "3"': ["tool.bnfold.seed must be a whole number"],
    "[tool.bnfold]\nseed = 1.5": ["tool.bnfold.seed must be a whole number"],
    "[tool.bnfold]\nseed = true": ["tool.bnfold.seed must be a whole number"],
    "[tool.bnfold.fold]\nseed = -1": ["tool.bnfold.fold.seed: Invalid value for '--seed'"],
    "[tool.bnfold]\nstrict = 1": ["tool.bnfold.strict must be true or false"],
    '[tool.bnfold]\nonly = "x"': ["tool.bnfold.only must be a list of texts"],
    "[tool.bnfold]\nonly = [1]": ["tool.bnfold.only must be a list of texts"],
    "[tool.bnfold]\nprovider = 3": ["tool.bnfold.provider must be a text"],
    '[tool.bnfold]\nverify = "maybe"': ["tool.bnfold.verify: Invalid value for '--verify'", "maybe"],
    "[tool.bnfold]\ntimeout = []": ["tool.bnfold.timeout must be a number"],
    "[tool.bnfold]\ntimeout = 0": ["tool.bnfold.timeout: Invalid value"],
    "[tool]\nbnfold = 3": ["tool.bnfold must be a table"],
    "[tool.bnfold\n": ["is no TOML"],
    "\x00": ["is no TOML"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_that_names_it(cli: Cli, desk: Path, text: str) -> None:
    path = written(desk, text)
    refused(cli("fold", "m.onnx", "-o", "out.onnx"), 2, f"{path}: ", *MISTAKES[text])
    assert not (desk / "out.onnx").exists()
    assert cli("fold", "m.onnx", "-o", "out.onnx", "--no-config", "--verify", "off", "-q").code == 0


@pytest.mark.parametrize("command", ["plan", "validate", "verify", "insert", "ops", "explain", "witness"])
def test_every_command_reads_the_file(cli: Cli, desk: Path, command: str) -> None:
    written(desk, "[tool.bnfold]\nxyz = 3\n")
    arguments = {"verify": ["m.onnx", "m.onnx"], "ops": [], "explain": []}.get(command, ["m.onnx"])
    refused(cli(command, *arguments), 2, "no key 'xyz'")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["fold", "--help"]])
def test_help_and_version_do_not(cli: Cli, desk: Path, arguments: list[str]) -> None:
    written(desk, "[tool.bnfold\n")
    assert cli(*arguments).code == 0


def test_a_file_that_is_not_utf_8_is_a_mistake(place: Path) -> None:
    (place / "pyproject.toml").write_bytes(b"[tool.bnfold]\n# \xff\n")
    with pytest.raises(bnfold.UsageError, match="is no TOML"):
        table_of()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BNFOLD_SEED", "x", "BNFOLD_SEED: 'x' must be a whole number"),
        ("BNFOLD_FOLD_SEED", "1.5", "BNFOLD_FOLD_SEED: '1.5' must be a whole number"),
        ("BNFOLD_SEED", "-1", "BNFOLD_SEED: Invalid value for '--seed'"),
        ("BNFOLD_TIMEOUT", "soon", "BNFOLD_TIMEOUT: 'soon' must be a number"),
        ("BNFOLD_STRICT", "maybe", "BNFOLD_STRICT: 'maybe' must be one of 1, true, yes, on, 0, false, no, off"),
        ("BNFOLD_VERIFY", "maybe", "BNFOLD_VERIFY: Invalid value for '--verify'"),
        ("BNFOLD_CONFIG", "none.toml", "none.toml: is no file"),
        ("BNFOLD_CONFIG", "empty.toml", "empty.toml: has no table [tool.bnfold]"),
        ("BNFOLD_NO_CONFIG", "x", "BNFOLD_NO_CONFIG: 'x' must be one of"),
    ],
)
def test_a_mistake_in_the_environment_is_one_line_that_names_the_variable(
    desk: Path, variable: str, value: str, words: str
) -> None:
    written(desk, "", "empty.toml")
    refused(run("fold", "m.onnx", "-o", "out.onnx", cwd=desk, **{variable: value}), 2, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[tool.bnfold]\nselect = ["BN999"]', ["tool.bnfold.select 'BN999' names no rule", "near codes"]),
        ('[tool.bnfold.validate]\nignore = ["BN01x"]', ["tool.bnfold.validate.ignore 'BN01x' names no rule"]),
        ('[tool.bnfold.per-site-ignores]\na = ["BN01x"]', ["per-site-ignores.a 'BN01x' names no rule"]),
        ('[tool.bnfold]\nper-site-ignores = ["BN001"]', ["per-site-ignores must be a table"]),
        ('[tool.bnfold.per-site-ignores]\na = "BN001"', ["per-site-ignores.a must be a list"]),
    ],
)
def test_a_code_that_there_is_none_of_is_a_mistake(cli: Cli, desk: Path, text: str, words: list[str]) -> None:
    path = written(desk, text)
    refused(cli("validate", "m.onnx"), 2, str(path), *words)


def test_settings_are_at_work(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(desk, '[tool.bnfold.fold]\nstrict = true\nverify = "off"\n')
    assert cli("fold", "two.onnx", "-o", "out.onnx").code == 1
    assert cli("fold", "two.onnx", "-o", "out.onnx", "--no-strict").code == 0
    assert "no, as asked" in cli("fold", "two.onnx", "-o", "out.onnx", "--max-left", "1").out
    monkeypatch.setenv("BNFOLD_FORMAT", "json")
    assert cli("plan", "m.onnx").json["model"] == "m.onnx"


def test_the_reports_of_a_pipeline_are_not_for_pages(cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(desk, '[tool.bnfold]\nreport = ["r.sarif"]\nformat = "github"\n')
    monkeypatch.setenv("BNFOLD_FORMAT", "sarif")
    assert cli("explain", "BN005").out.startswith("BN005: ")
    assert cli("ops").code == 0
    assert not (desk / "r.sarif").exists()
    assert cli("plan", "m.onnx").json["version"] == "2.1.0"
    assert (desk / "r.sarif").exists()
    written(desk, '[tool.bnfold.ops]\nformat = "json"\n')
    refused(cli("ops"), 2, f"{path}: tool.bnfold.ops.format stands on the command line alone")
