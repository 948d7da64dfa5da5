"""--select, --ignore and sites where rules are silent; a word that names no rule is an error."""

from __future__ import annotations

import pytest
from rule_models import ALONE, CONV, W, model, sound

import bnfold
from bnfold.rules import RULES
from bnfold.rules.choosing import Choice

TWO = """(float[N,4,6] x) => (float[N,4,6] y) {
    [stem_bn] a = BatchNormalization (x, g, b, m, v)  r = Relu (a)
    [head_bn] y = BatchNormalization (r, g, b, m, v) }"""


def found(select: object = (), ignore: object = ()) -> list[str]:
    """Of a model with a dead channel, an odd epsilon, and a layer that could be folded."""
    text = CONV.replace("Normalization (", "Normalization <epsilon = 0.5> (")
    return [one.code for one in bnfold.validate(model(text, W=W, **sound(g=(0, 0))), select=select, ignore=ignore)]


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ([], [], ["BN009", "BN010", "BN016"]),
        (["BN009"], [], ["BN009"]),
        (["BN01"], [], ["BN010", "BN016"]),
        (["BN0"], ["BN01"], ["BN009"]),
        ([], ["BN009", "BN016"], ["BN010"]),
        (["BN009,BN010"], [], ["BN009", "BN010"]),
        (["BN009, BN016", "BN010"], ["BN016"], ["BN009", "BN010"]),
        ("BN009", (), ["BN009"]),
        (["BN009"], ["BN0"], []),
        ([], ["BN"], []),
    ],
)
def test_codes_and_how_codes_begin_select_and_ignore(select: object, ignore: object, expected: list[str]) -> None:
    assert found(select, ignore) == expected


@pytest.mark.parametrize(
    ("word", "hint"), [("BN999", "BN009"), ("bn009", "BN009"), ("BN90", "near codes are"), ("9", "BN001 to BN104"),
                       ("B", "BN001 to BN104"), ("no-home", "the codes are"), ("BN0x", "near codes are")],
)  # fmt: skip
@pytest.mark.parametrize("option", ["select", "ignore"])
def test_a_word_that_names_no_rule_is_an_error_with_what_comes_near(option: str, word: str, hint: str) -> None:
    with pytest.raises(bnfold.UsageError, match=f"--{option} {word!r} names no rule") as error:
        found(**{option: [word]})
    assert hint in str(error.value)


def test_the_default_is_every_rule() -> None:
    assert Choice.of().codes == set(RULES)
    assert Choice.of().named == frozenset()
    assert [rule.code for rule in Choice.of().rules] == sorted(RULES)


@pytest.mark.parametrize("glob", ["stem_*", "stem_bn", "a", "*#0 'stem_bn'"])
def test_a_rule_is_silent_at_sites_that_a_glob_names(glob: str) -> None:
    proto = model(TWO, **sound(g=(0, 0)))
    result = bnfold.validate(proto, per_site_ignores={glob: ["BN010"]})
    assert [one.site.name for one in result if one.code == "BN010"] == ["head_bn"]
    assert result.suppressed == 1


def test_other_rules_still_speak_there() -> None:
    result = bnfold.validate(model(TWO, **sound(g=(0, 0))), per_site_ignores={"stem_*": ["BN00", "BN012"]})
    assert [one.site.name for one in result if one.code == "BN010"] == ["stem_bn", "head_bn"]
    assert result.suppressed == 0


def test_a_glob_that_matches_no_site_suppresses_nothing() -> None:
    result = bnfold.validate(model(TWO, **sound(g=(0, 0))), per_site_ignores={"STEM_*": ["BN010"]})
    assert (len([one for one in result if one.code == "BN010"]), result.suppressed) == (2, 0)


def test_a_code_of_per_site_ignores_that_there_is_none_of_is_an_error() -> None:
    with pytest.raises(bnfold.UsageError, match="per_site_ignores 'BN77' names no rule"):
        bnfold.validate(model(ALONE, **sound()), per_site_ignores={"*": ["BN77"]})


@pytest.mark.parametrize("code", ["BN101", "BN102", "BN103", "BN104"])
def test_a_rule_that_needs_data_and_has_none_is_an_error_if_it_was_asked_for(code: str) -> None:
    with pytest.raises(bnfold.UsageError, match=f"{code}: needs data"):
        bnfold.validate(model(ALONE, **sound()), select=["BN001", code])
    assert not bnfold.validate(model(ALONE, **sound()), ignore=[code])


def test_only_rules_that_need_data_are_none_without() -> None:
    with pytest.raises(bnfold.UsageError, match="BN101, BN102, BN103, BN104: needs data"):
        bnfold.validate(model(ALONE, **sound()), select=["BN1"])
