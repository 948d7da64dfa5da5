"""The file of a certificate: complete, the same for the same fold, and read with nothing assumed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest
from certificate_files import LONGER, Files, Json, files, layer
from certificate_kinds import KINDS
from certificate_pairs import Draw

import bnfold
from bnfold.equality import evidence
from bnfold.equality.evidence import evidence_at

SCHEMA = json.loads((Path(bnfold.__file__).parents[1] / "docs" / "certificate.schema.json").read_text())
WORDS = {
    "$schema", "$defs", "$ref", "title", "description", "type", "const", "pattern", "minimum", "items", "required",
    "properties", "additionalProperties",
}  # fmt: skip
TYPES: dict[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def violations(value: Json, schema: Json, where: str = "") -> Iterator[str]:
    """Where a value does not fit a schema, of which only the words are known that ours uses."""
    assert schema.keys() <= WORDS
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "const" in schema and (value != schema["const"] or isinstance(value, bool)):
        yield f"{where}: another constant"
        return
    if "type" in schema and not TYPES[schema["type"]](value):
        yield f"{where}: another type"
        return
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: another form"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{where}: too small"
    for i, entry in enumerate(value if isinstance(value, list) else ()):
        yield from violations(entry, schema["items"], f"{where}[{i}]")
    if isinstance(value, dict):
        assert set(schema["required"]) == schema["properties"].keys()
        assert schema["additionalProperties"] is False
        if value.keys() != schema["properties"].keys():
            yield f"{where}: other fields"
        for name in value.keys() & schema["properties"].keys():
            yield from violations(value[name], schema["properties"][name], f"{where}.{name}")


def leaves(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value that holds no further ones."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [leaf for key, entry in entries for leaf in leaves(entry, (*path, key))]
    yield from inner or [path]


def holder(said: Json, path: tuple[str | int, ...]) -> Json:
    for key in path[:-1]:
        said = said[key]
    return said


@pytest.fixture
def made(tmp_path: Path) -> Files:
    return files(tmp_path, layer(LONGER))


def test_what_is_read_back_is_what_was_written(made: Files) -> None:
    found = evidence_at(made.certificate)
    assert found.to_bytes() == made.certificate.read_bytes()
    assert [len(claim.path) for claim in found.claims] == [2, 0]
    assert [part.what for part in found.homes[0].parts] == ["weight", "bias"]
    assert found.bnfold == bnfold.__version__


@pytest.mark.parametrize("external", [False, True])
def test_the_same_fold_gives_the_same_bytes_wherever_it_is_made(tmp_path: Path, external: bool) -> None:
    contents = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        contents.append(files(tmp_path / name, external=external).certificate.read_bytes())
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0]


@pytest.mark.parametrize("external", [False, True])
def test_a_certificate_fits_its_schema(tmp_path: Path, external: bool) -> None:
    said = files(tmp_path, layer(LONGER), external=external).said
    assert list(violations(said, SCHEMA)) == []
    assert len(list(leaves(said))) > 70


def test_the_schema_refuses_what_the_reader_refuses(made: Files) -> None:
    for path in leaves(made.said):
        said = made.said
        holder(said, path)[path[-1]] = None
        assert list(violations(said, SCHEMA)), path
        (made.folder / "spoiled.json").write_text(json.dumps(said))
        with pytest.raises(bnfold.UsageError):
            evidence_at(made.folder / "spoiled.json")


@pytest.mark.parametrize(
    ("element", "name", "half"),
    [("float", "float32", 2.0**-24), ("double", "float64", 2.0**-53), ("float16", "float16", 2.0**-11),
     ("bfloat16", "bfloat16", 2.0**-8)],
)  # fmt: skip
def test_a_part_says_what_makes_its_bound(element: str, name: str, half: float) -> None:
    checked = KINDS["matmul of a matrix before a normalization"](Draw(1, element)).certificate()
    weight, bias = checked.homes[0].parts
    assert [(part.what, part.type, part.half_unit) for part in (weight, bias)] == [
        ("weight", name, half),
        ("bias", name, half),
    ]
    # One factor; the bias, and the two terms of the shift.
    assert (weight.terms, bias.terms) == (1, 3)
    assert (weight.numbers, bias.numbers) == (3 * 4, 4)
    assert checked.homes[0].numbers == 16
    assert checked.homes[0].worst == max(weight.worst, bias.worst) <= 1


def test_a_certificate_as_json_values_says_all_of_it() -> None:
    pair = KINDS["matmul of a matrix before a normalization"](Draw(1))
    right, wrong, lost = (
        pair.certificate(),
        pair.certificate(pair.before),
        pair.certificate(claimed=(replace(pair.claims[0], homes=()),)),
    )
    assert (right.failure, right.uncertain, wrong.uncertain, lost.failure) == (None, None, None, None)
    for checked in (right, wrong, lost):
        assert checked.to_json() == {
            "before": checked.before,
            "after": checked.after,
            "holds": checked is right,
            "failure": checked.failure,
            "uncertain": checked.uncertain,
            "claims": [asdict(claim) for claim in checked.claims],
            "mergings": [],
            "homes": [asdict(home) for home in checked.homes],
        }


def test_every_file_of_data_is_pinned_by_its_hash(tmp_path: Path) -> None:
    said = files(tmp_path, external=True).said
    for side, name in (("before", "w.bin"), ("after", "after.onnx.data")):
        content = (tmp_path / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        assert said[side]["data"] == [{"location": name, "bytes": len(content), "sha256": digest}]


def test_several_files_of_data_are_named_in_order(tmp_path: Path) -> None:
    model = layer()
    onnx.save_model(model, tmp_path / "before.onnx", save_as_external_data=True, all_tensors_to_one_file=False,
                    size_threshold=16)  # fmt: skip
    made = Files(tmp_path)
    bnfold.fold(made.before, made.after, verify="certificate", certificate=made.certificate)
    names = [data["location"] for data in made.said["before"]["data"]]
    assert len(names) == 5
    assert names == sorted(names)
    assert made.verdict().is_same


def test_a_certificate_of_external_data_needs_files_to_name(tmp_path: Path) -> None:
    made = files(tmp_path, external=True)
    for options in ({}, {"check": True}):
        with pytest.raises(bnfold.UsageError):
            bnfold.fold(made.before, verify="certificate", certificate=tmp_path / "other.json", **options)
    assert not (tmp_path / "other.json").exists()


def test_nothing_to_fold_in_place_certifies_the_very_files_that_are_there(tmp_path: Path) -> None:
    blocked = layer(TEXT_BLOCKED)
    for external in (False, True):
        (tmp_path / str(external)).mkdir()
        made = files(tmp_path / str(external), blocked, external=external)
        bnfold.fold(made.before, in_place=True, verify="certificate", certificate=made.certificate)
        assert made.said["before"] == made.said["after"]
        assert made.said["claims"] == made.said["mergings"] == made.said["homes"] == []
        assert bnfold.verify(made.before, made.before, certificate=made.certificate, certificate_alone=True).is_same
        left = {path.name for path in made.folder.iterdir()}
        assert left <= {"before.onnx", "w.bin", "after.onnx", "c.json"}


TEXT_BLOCKED = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) r = Relu(c) y = BatchNormalization(r,g,e,m,v) }"


# What is no certificate.

BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no JSON"),
    "no JSON": (b"{'format': 1}", "no JSON"),
    "no text": (b"\xff\xfe\x00", "no JSON"),
    "a list": (b"[]", "its format is not 'bnfold-certificate'"),
    "a number": (b"3", "its format"),
    "another format": (b'{"format": "other", "version": 1}', "its format"),
    "another version": (b'{"format": "bnfold-certificate", "version": 1}', "reads version 3"),
    "no version": (b'{"format": "bnfold-certificate"}', "reads version 3"),
    "a version that is true": (b'{"format": "bnfold-certificate", "version": true}', "reads version 3"),
    "its head alone": (b'{"format": "bnfold-certificate", "version": 3}', "it has no 'bound'"),
    "one key twice": (b'{"format": "bnfold-certificate", "format": "x"}', "one key twice"),
    "not a number": (b'{"format": NaN}', "NaN is no number"),
    "a number without end": (b'{"format": ' + b"9" * 5000 + b"}", "no JSON"),
    "lists without end": (b"[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_certificate_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    content, words = BROKEN[kind]
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(bnfold.UsageError) as refused:
        evidence_at(tmp_path / "c.json")
    sentence = str(refused.value)
    assert sentence.startswith(f"{str(tmp_path / 'c.json')!r} is no certificate that can be read: ")
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) < len(str(tmp_path)) + 250


def test_a_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "missing.json", Path("nul\0byte")):
        with pytest.raises(bnfold.UsageError):
            evidence_at(path)
    monkeypatch.setattr(evidence, "MOST_BYTES", 10)
    (tmp_path / "large.json").write_bytes(b" " * 11)
    with pytest.raises(bnfold.UsageError, match="more than a certificate takes"):
        evidence_at(tmp_path / "large.json")


@pytest.mark.parametrize("wrong", [None, True, -1, 1.5, 1 << 70, 1e300, "", "text", "ab" * 32, [], [3], {}, {"a": 1}])
def test_no_value_of_another_type_gets_through(made: Files, wrong: Json) -> None:
    """Whatever a value is replaced by, the reader and the schema agree, and nothing but a UsageError is raised."""
    right = made.certificate.read_bytes()
    for path in leaves(json.loads(right)):
        said = json.loads(right)
        holder(said, path)[path[-1]] = wrong
        made.say(said)
        too_large = not isinstance(wrong, list | dict | str | None) and wrong >= 1 << 63
        if list(violations(said, SCHEMA)) or too_large:
            with pytest.raises(bnfold.UsageError, match=r"^[^\n]*$"):
                evidence_at(made.certificate)
        else:
            evidence_at(made.certificate)


def test_a_field_too_many_or_too_few_is_refused_wherever_it_stands(made: Files) -> None:
    right = made.said
    objects = {path[:-1] for path in leaves(right) if isinstance(path[-1], str)}
    assert len(objects) > 10
    for path in objects:
        for change, words in ((lambda found: found.update(extra=1), "which is not known"),
                              (lambda found: found.popitem(), "has no ")):  # fmt: skip
            said = json.loads(json.dumps(right))
            change(holder(said, (*path, "")))
            made.say(said)
            with pytest.raises(bnfold.UsageError, match=words):
                evidence_at(made.certificate)
