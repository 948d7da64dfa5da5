"""How bnfold behaves at a terminal and in a pipe: completion, help, near names, colours, names, logging, start-up."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import typer
from command_line import Answer, command, environment, foldable, refused, run

from bnfold import cli as command_line_module
from bnfold.commands.table import TABLE
from bnfold.options import ANSWER, CHOICE, MODELS, PROOF, RUNS, SETTINGS

Cli = Callable[..., Answer]
ESCAPE = "\x1b"
HEAVY = ("onnx", "onnxruntime", "numpy", "google.protobuf", "rich", "pydantic")


def completed(words: str, cwd: Path, *, by: str = "bash", **more: str) -> list[str]:
    """What a shell is told for the last of some words."""
    count = str(len(words.split(" ")) - 1)
    variables = {"_BNFOLD_COMPLETE": f"complete_{by}", "COMP_WORDS": words, "COMP_CWORD": count,
                 "_TYPER_COMPLETE_ARGS": words}  # fmt: skip
    answer = run(cwd=cwd, **variables, **more)
    assert answer.err == ""
    return answer.out.split()


# Completion.


def test_commands_options_and_choices_are_completed(tmp_path: Path) -> None:
    assert completed("bnfold pl", tmp_path) == ["plan"]
    assert set(completed("bnfold ", tmp_path)) == set(TABLE)
    assert completed("bnfold fold --skip-", tmp_path) == ["--skip-existing"]
    assert completed("bnfold fold m.onnx --verify c", tmp_path) == ["certificate"]
    assert completed("bnfold fold --nonsense", tmp_path) == []
    assert "--jobs" in " ".join(completed("bnfold validate --j", tmp_path, by="zsh"))


def test_completion_reads_no_settings(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.bnfold\n")
    assert completed("bnfold fold --in-p", tmp_path, BNFOLD_SEED="x") == ["--in-place"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_takes_the_script_and_completes_by_it(tmp_path: Path) -> None:
    """As a user has it: a command called bnfold on the path, and its script read by the shell."""
    tool = tmp_path / "bnfold"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m bnfold "$@"\n')
    tool.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    script = run(cwd=tmp_path, _BNFOLD_COMPLETE="source_bash").out
    assert "_bnfold_completion" in script
    ask = f'{script}\nCOMP_WORDS=(bnfold fold --str); COMP_CWORD=2; _bnfold_completion bnfold; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", ask], env=environment(PATH=path), capture_output=True, text=True, check=True
    )  # whichever bash there is
    assert done.stdout == "--strict\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_by_its_script_and_files_where_no_name_is_known(tmp_path: Path) -> None:
    script = run(cwd=tmp_path, _BNFOLD_COMPLETE="source_fish").out.replace(" bnfold)", f" {sys.executable} -m bnfold)")
    script = script.replace(' bnfold"', f' {sys.executable} -m bnfold"')
    (tmp_path / "model.onnx").touch()
    ask = "; ".join(f'complete -C "bnfold {words}"' for words in ("fold --str", "plan mod", "fold m.onnx --verify c"))
    line = ["fish", "--no-config", "-c", f"{script}\n{ask}"]
    done = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert [said.split("\t")[0] for said in done.stdout.split("\n") if said] == [
        "--strict",
        "model.onnx",
        "certificate",
    ]


# Help.


@pytest.mark.parametrize("name", TABLE)
def test_help_is_in_groups_with_examples_that_can_be_parsed(cli: Cli, name: str) -> None:
    out = cli(name, "--help").out
    built = typer.main.get_command(command_line_module.app).commands[name]
    titles = [line[:-1] for line in out.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert len(titles) == len(set(titles))
    assert set(titles) <= {MODELS, CHOICE, PROOF, RUNS, ANSWER, SETTINGS, "Arguments", "Options"}
    assert titles[-1] == "Options"
    for param in built.params:
        long = next((opt for opt in param.opts if opt.startswith("--")), param.metavar)
        assert long in out or f"--[no-]{long[2:]}" in out, long
    examples = [line.strip() for line in out.splitlines() if line.startswith("    ") and f"bnfold {name}" in line]
    assert len(examples) >= 2
    for line in examples:
        words = re.split(r"\s[>|]\s", line.partition(f"bnfold {name}")[2])[0].replace("'", "").split()
        built.make_context(name, words)


def test_the_list_of_commands_says_what_each_does(cli: Cli) -> None:
    out = cli("--help").out
    for name, entry in TABLE.items():
        assert f"  {name} " in out
        doc = typer.main.get_command(command_line_module.app).commands[name].help or ""
        assert doc.split()[:3] == entry.sentence.split()[:3]


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal(desk: Path, width: int) -> None:
    lines = run("fold", "--help", cwd=desk, COLUMNS=str(width)).out.splitlines()
    assert max(len(line) for line in lines) <= width
    assert max(len(line) for line in lines) > 0.7 * min(width, 100)


# Near names.


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ("help", "No such command 'help'; bnfold --help lists them"),
        ("fld m.onnx", "did you mean 'fold'?"),
        ("fold m.onnx --strct -o x", "No such option: --strct; did you mean --strict"),
        ("plan m.onnx --frmat json", "did you mean --format?"),
        ("explain blokced", "there is no reason or rule 'blokced'; did you mean blocked"),
        ("explain bn05", "did you mean BN0"),
        ("plan two.onnx --skip BatchNormalisation#1", "near names are 'BatchNormalization#1'"),
        ("plan m.onnx --format jsn", "Invalid value for '--format': 'jsn' is not one of 'text', 'json'"),
        ("plan two.onnx --only nn", "near names are 'n'"),
        ("plan scopes.onnx --only /blok1/*", "near names are '/block1/*'"),
        ("plan scopes.onnx --skip /block1/bm*", "near names are '/block1/bn*'"),
        ("witness scopes.onnx --at /blok2/*", "near names are '/block2/*'"),
        ("insert scopes.onnx -o o.onnx --at /blok1/c*", "near names are '/block1/conv*'"),
    ],
)
def test_a_name_that_there_is_not_has_near_ones_told(cli: Cli, desk: Path, arguments: str, near: str) -> None:
    model = onnx.load(desk / "two.onnx")
    for node, name in zip(model.graph.node, ("/block1/conv", "/block1/bn", "/block2/relu", "/block2/bn"), strict=True):
        node.name = name
    onnx.save(model, desk / "scopes.onnx")
    refused(cli(*arguments.split()), 2, near)


def test_a_name_far_from_all_has_none(cli: Cli) -> None:
    refused(cli("fold", "m.onnx", "--xyzzy"), 2, "No such option: --xyzzy\n")
    refused(cli("explain", "xyzzy"), 2, "there are: ")


# Colours, a terminal, and none.


def test_nothing_is_coloured_in_a_pipe(cli: Cli) -> None:
    for arguments in (["--help"], ["fold", "--help"], ["plan", "two.onnx"], ["plan", "no.onnx"], ["fold"]):
        answer = cli(*arguments)
        assert ESCAPE not in answer.out + answer.err


def at_a_terminal(*arguments: object, cwd: Path, **more: str) -> tuple[int, str]:
    """The exit code, and what a terminal of 100 columns is sent, stdout and stderr together."""
    import pty  # noqa: PLC0415  # not on Windows

    ours, theirs = pty.openpty()
    variables = environment(COLUMNS="100", TERM="xterm-256color", **more)
    with subprocess.Popen(command(*arguments), cwd=cwd, env=variables, stdin=theirs, stdout=theirs, stderr=theirs) as p:
        os.close(theirs)
        said = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # how a terminal ends on Linux
                break
            if not block:
                break
            said += block
        os.close(ours)
        return p.wait(), said.decode()


on_posix = pytest.mark.skipif(os.name == "nt", reason="a terminal is made with pty")


@on_posix
def test_titles_are_bold_at_a_terminal_unless_no_color_is_set(desk: Path) -> None:
    code, said = at_a_terminal("--help", cwd=desk)
    assert (code, f"{ESCAPE}[1m" in said) == (0, True)
    code, said = at_a_terminal("--help", cwd=desk, NO_COLOR="1")
    assert (code, ESCAPE in said) == (0, False)


@on_posix
def test_several_models_have_a_bar_at_a_terminal_alone(desk: Path) -> None:
    given = ["fold", "m.onnx", "two.onnx", "-o", "out", "--verify", "off"]
    code, said = at_a_terminal(*given, cwd=desk)
    assert code == 0
    assert "2/2" in said
    assert re.search(r"\d:\d\d:\d\d|-:--:--", said), "how long the rest will take"
    assert run(*given, cwd=desk).err == ""


@on_posix
def test_a_model_is_not_waited_for_at_a_terminal(desk: Path) -> None:
    code, said = at_a_terminal("plan", "-", cwd=desk)
    assert (code, said.splitlines()) == (2, ["bnfold: - is stdin, which is a terminal: pipe a model into it"])


# Names.


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_of_files_and_nodes_are_harmless_wherever_they_are_printed(cli: Cli, desk: Path) -> None:
    odd = "red\x1b[31m\nx\r.onnx"
    model = foldable()
    model.graph.node[1].name = "blink\x1b[5m\n"
    onnx.save(model, desk / odd)
    shutil.copy("blocked.onnx", f"in{odd}")
    (desk / f"bad{odd}").write_bytes(b"")
    for answer in (
        cli("plan", odd, "-v"),
        cli("plan", odd, f"bad{odd}", f"in{odd}"),
        cli("fold", odd, f"bad{odd}", "-o", f"out{odd}", "--verify", "off"),
        cli("validate", odd, f"bad{odd}", "--select", "BN016"),
        cli("fold", f"no{odd}", "-o", "x"),
        cli(f"fold{odd}"),
        cli("fold", f"--x{odd}"),
        cli("plan", odd, "--only", f"x{odd}"),
        cli("plan", f"none{odd}*"),
        cli("plan", "--files-from", f"none{odd}"),
        cli("plan", odd, "--config", f"none{odd}"),
    ):
        assert answer.code != 70
        assert ESCAPE not in answer.out + answer.err
        assert "\r" not in answer.out + answer.err
        assert all(line.startswith("bnfold: ") for line in answer.err.splitlines())


# Logging.


def test_the_library_touches_no_one_s_logging() -> None:
    code = (
        "import logging, bnfold, bnfold.api, bnfold.cli, bnfold.batch.running\n"
        "assert logging.getLogger().handlers == []\n"
        "assert logging.getLogger('bnfold').handlers == []\n"
        "assert logging.getLogger('bnfold').level == logging.NOTSET\n"
        "names = [n for n in logging.root.manager.loggerDict if n.split('.')[0] == 'bnfold']\n"
        "assert names in ([], ['bnfold']), names\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def test_verbose_logs_and_leaves_nothing_behind(cli: Cli) -> None:
    logger = logging.getLogger("bnfold")
    before = list(logger.handlers), logger.level
    assert cli("plan", "m.onnx", "-v").code == 0
    assert (list(logger.handlers), logger.level) == before


# A reader that goes away.


@pytest.mark.skipif(os.name == "nt", reason="there is no such pipe")
def test_a_closed_pipe_ends_a_batch_with_141(desk: Path) -> None:
    arguments = command("plan", "m.onnx", "two.onnx", "-j", 2, "-v")
    with subprocess.Popen(arguments, cwd=desk, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        assert p.stdout is not None
        assert p.stderr is not None
        p.stdout.close()
        assert b"Traceback" not in p.stderr.read()
        assert p.wait() == 141


# Start-up.

_LOADED = "import atexit, sys; atexit.register(lambda: sys.stderr.write('LOADED ' + ' '.join(sys.modules)))\n"


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--help"], {}),
        (["--version"], {}),
        (["fold", "--help"], {}),
        (["validate", "--help"], {}),
        ([], {"_BNFOLD_COMPLETE": "complete_bash", "COMP_WORDS": "bnfold fold --s", "COMP_CWORD": "2"}),
        (["fold", "m.onnx", "-o", "x", "--check"], {}),
        (["fodl"], {}),
    ],
)
def test_what_needs_no_model_loads_nothing_heavy(tmp_path: Path, arguments: list[str], more: dict[str, str]) -> None:
    code = f"{_LOADED}from bnfold.cli import main; main({arguments!r})"
    run_ = [sys.executable, "-c", code]
    done = subprocess.run(run_, cwd=tmp_path, env=environment(**more), capture_output=True, text=True, check=False)
    loaded = set(done.stderr.rpartition("LOADED ")[2].split())
    assert "bnfold" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_what_runs_no_model_needs_no_onnxruntime(desk: Path) -> None:
    (desk / "onnxruntime").mkdir()
    (desk / "onnxruntime" / "__init__.py").write_text("open('loaded', 'w').close()\nraise ImportError('not here')\n")
    path = f"{desk}{os.pathsep}{environment()['PYTHONPATH']}"
    assert run("plan", "m.onnx", cwd=desk, PYTHONPATH=path).code == 0
    assert run("fold", "m.onnx", "-o", "out.onnx", "--verify", "off", cwd=desk, PYTHONPATH=path).code == 0
    assert not (desk / "loaded").exists()
    refused(run("fold", "m.onnx", "-o", "o.onnx", cwd=desk, PYTHONPATH=path), 6)
    assert (desk / "loaded").exists(), "it would have been noticed"
