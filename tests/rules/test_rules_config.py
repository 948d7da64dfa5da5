"""`[tool.bnfold]` of pyproject.toml: where it is looked for, and every mistake an error that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

import bnfold
from bnfold.config import Settings, settings


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder two below one in which pyproject.toml is written."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path / "a" / "b"


def written(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


def test_all_keys_are_read(place: Path) -> None:
    path = written(place, '''
        [tool.bnfold]
        select = ["BN0", "BN101,BN102"]
        ignore = ["BN016"]
        [tool.bnfold.per-site-ignores]
        "stem.*" = ["BN010"]
        "*head" = ["BN1"]
    ''')  # fmt: skip
    sites = {"stem.*": ("BN010",), "*head": ("BN1",)}
    assert settings(place) == Settings(("BN0", "BN101", "BN102"), ("BN016",), sites, path)


def test_no_file_and_no_table_are_no_settings(place: Path) -> None:
    assert settings(place).select == ()
    written(place, '[project]\nname = "x"\n[tool.other]\nselect = 3\n')
    assert settings(place).path is None


def test_the_nearest_file_that_has_the_table_counts(place: Path) -> None:
    above = written(place.parents[1], '[tool.bnfold]\nselect = ["BN001"]\n')
    assert settings(place) == Settings(("BN001",), (), {}, above)
    written(place.parent, "[tool.ruff]\nline-length = 3\n")
    assert settings(place).path == above
    nearest = written(place, "[tool.bnfold]\n")
    assert settings(place) == Settings((), (), {}, nearest)


def test_the_current_folder_is_where_it_begins(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(place.parent, '[tool.bnfold]\nignore = ["BN016"]\n')
    monkeypatch.chdir(place)
    assert settings().path == path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[tool.bnfold]\nselekt = ["BN001"]', ["no key 'selekt'", "did you mean 'select'"]),
        ('[tool.bnfold]\nper_site_ignores = {}', ["did you mean 'per-site-ignores'"]),
        ("[tool.bnfold]\nverbosity = 3", ["no key 'verbosity'", "the keys are select"]),
        ('[tool.bnfold]\nselect = "BN001"', ["select must be a list of codes"]),
        ("[tool.bnfold]\nignore = [1]", ["ignore must be a list of codes"]),
        ('[tool.bnfold]\nper-site-ignores = ["BN001"]', ["per-site-ignores must be a table"]),
        ('[tool.bnfold.per-site-ignores]\na = "BN001"', ["per-site-ignores.a must be a list"]),
        ('[tool.bnfold]\nselect = ["BN999"]', ["select 'BN999' names no rule", "near codes"]),
        ('[tool.bnfold.per-site-ignores]\na = ["BN01x"]', ["per-site-ignores.a 'BN01x' names no rule"]),
        ("[tool]\nbnfold = 3", ["tool.bnfold must be a table"]),
        ("[tool.bnfold\n", ["is no TOML"]),
        ("\x00", ["is no TOML"]),
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_that_names_the_file(place: Path, text: str, words: list[str]) -> None:
    path = written(place, text)
    with pytest.raises(bnfold.UsageError) as error:
        settings(place)
    assert str(error.value).startswith(f"{path}: ")
    for word in words:
        assert word in str(error.value)


def test_a_file_that_is_not_utf_8_is_an_error(place: Path) -> None:
    (place / "pyproject.toml").write_bytes(b"[tool.bnfold]\n# \xff\n")
    with pytest.raises(bnfold.UsageError, match="is no TOML"):
        settings(place)


def test_a_folder_of_that_name_is_no_file(place: Path) -> None:
    (place / "pyproject.toml").mkdir()
    assert settings(place) == Settings()
