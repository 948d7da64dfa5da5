"""Clip and Pad take an affine that is the same everywhere into their own numbers, and let it pass, both ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from folding_draws import Array, arrays, examples
from folding_support import constants, fold, inputs, model, operands, run, weights
from hypothesis import event, given
from hypothesis import strategies as st
from passing_support import Tally, certified, judged, widely

PROVEN = {("linear", "Clip"), ("linear", "Pad"), ("passing", "Clip"), ("forward", "Clip"), ("forward", "Pad")}
AS_ATTRIBUTE = {"lo": "min", "hi": "max"}
NONE = {"min": -3.4028234663852886e38, "max": 3.4028234663852886e38}
"""What a bound is before opset 11 that is not there."""

TEXT = {np.float16: "float16", np.float32: "float"}
AFFINES = {
    "Mul ({x}, {k})": "positive", "Div ({x}, {k})": "positive", "Add ({x}, {k})": "shift", "Sub ({x}, {k})": "shift",
    "Sub ({k}, {x})": "negative", "Neg ({x})": "negative",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    before: onnx.ModelProto
    feeds: dict[str, Array]
    kinds: list[str]
    is_clip: bool
    is_bounded: bool
    kind: type


@st.composite
def cases(draw: st.DrawFn, *, ahead: bool) -> Case:
    """Some affines behind a Clip or Pad behind a Conv, or before one before a Conv."""
    kind = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    is_clip = draw(st.booleans())
    opset = draw(st.sampled_from([7, 8, 9, 10, 10, 10, 11, 12, 13, 17, 21]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = st.sampled_from([(), (1,), (1, 1, 1)])
    chosen = [draw(st.sampled_from(list(AFFINES))) for _ in range(draw(st.integers(1, 3)))]
    tensors = {f"k{i}": random.uniform(0.5, 2, draw(shapes)).astype(kind) for i in range(len(chosen))}
    tensors = {name: array for i, (name, array) in enumerate(tensors.items()) if "{k}" in chosen[i]}
    numbers = dict(zip(["lo", "hi"], np.sort(random.uniform(-2, 2, 2)).astype(kind), strict=True))
    if is_clip:
        given = draw(st.sampled_from([("lo", "hi"), ("lo", ""), ("", "hi"), ("", "")]))
        if opset < 11:
            said = [f"{AS_ATTRIBUTE[name]} = {float(numbers[name])!r}" for name in given if name]
            said += [f"{name} = {number!r}" for name, number in NONE.items() if name not in " ".join(said)] * draw(
                st.booleans()
            )
            written = f"<{', '.join(said)}>" if said else ""
            line = f"p = Clip {written} ({{x}})"
        else:
            line = f"p = Clip ({', '.join(['{x}', *given]).rstrip(', ')})"
            tensors |= {name: np.asarray(numbers[name]) for name in given if name}
    else:
        mode = draw(st.sampled_from(["", "", 'mode = "constant"', 'mode = "edge"']))
        value = draw(st.sampled_from(["", ", lo", ", zero"])) if "edge" not in mode else ""
        line = f"p = Pad {f'<{mode}>' if mode else ''} ({{x}}, pads{value})"
        pads = np.array([0, 0, *random.integers(0, 2, 2), 0, 0, *random.integers(0, 2, 2)], np.int64)
        if opset < 11:
            said = [f"pads = {pads.tolist()}", mode, f"value = {float(numbers['lo'])!r}" if "lo" in value else ""]
            line = f"p = Pad <{', '.join(filter(None, said))}> ({{x}})"
        else:
            tensors["pads"] = pads
            tensors |= {"lo": np.asarray(numbers["lo"])} if "lo" in value else {}
            tensors |= {"zero": np.zeros((), kind)} if "zero" in value else {}
    row = [f"a{i} = {text.format(x='{x}' if not i else f'a{i - 1}', k=f'k{i}')}" for i, text in enumerate(chosen)]
    last = f"a{len(chosen) - 1}"
    layer = "Conv ({x}, W, b)"
    rows = [f"c = {layer}", line, *row, f"y = Relu ({last})"] if not ahead else [*row, line, f"y = {layer}"]
    ends = ["x", "c", "p"] if not ahead else ["x", last, "p"]
    places = [0, 1, 2] if not ahead else [0, len(row), len(row) + 1]
    for place, name in zip(places, ends, strict=True):
        rows[place] = rows[place].replace("{x}", name)
    weight, bias = draw(arrays((3, 2, 1, 1), kind)), draw(arrays((3,), kind))
    text = f"({TEXT[kind]}[2,2,3,4] x) => ({TEXT[kind]}[] y) {{ {' '.join(rows)} }}"
    before = model(text, opset=opset, W=weight, b=bias, **tensors)
    bounded = is_clip and any(given)
    feeds = {"x": draw(arrays((2, 2, 3, 4), kind))}
    return Case(before, feeds, [AFFINES[one] for one in chosen], is_clip, bounded, kind)


@pytest.mark.parametrize("ahead", [False, True])
def test_its_numbers_bear_what_the_value_bears(ahead: bool) -> None:
    tally = Tally()

    @examples(150)
    @given(cases(ahead=ahead))
    def check(case: Case) -> None:
        found = judged(case.before, case.feeds, 64, case.kind)
        event(f"{'Clip' if case.is_clip else 'Pad'} {'moves' if found.folded.plan.moves else 'stays'}")
        tally.add(found)
        old = case.before.opset_import[0].version < 11
        tally.counted["attributes"] += old and any(move.path for move in found.folded.plan.moves)
        stays = [kind for kind in case.kinds if kind == "negative"] if case.is_bounded else []
        if ahead and not case.is_clip:  # a shift would be undone in what is padded
            stays = [kind for kind in case.kinds if kind != "positive"]
        if not stays:
            assert found.folded.plan.refusals == ()

    check()
    assert min(tally.counted[what] for what in ("moved", "ran", "wide")) >= 60, tally.counted
    assert tally.counted["attributes"] >= 30, tally.counted


def test_the_bounds_are_what_the_affine_makes_of_them() -> None:
    text = "(float[2,3,4,4] x) => (float[] y) {{ c = Conv (x, W) p = Clip (c, lo, hi) m = {} y = Relu (m) }}"
    held = {"W": weights(4, 3, 1, 1), "lo": np.float32(-1), "hi": np.float32(6)}
    for line, expected in (("Mul (p, k)", (-3, 18)), ("Add (p, k)", (2, 9)), ("Div (p, k)", (-1 / 3, 2))):
        done = fold(model(text.format(line), **held, k=np.float32(3)))
        assert done.ops == ["Conv", "Clip", "Relu"]
        assert [float(number) for number in operands(done.proto, "Clip")[1:]] == [np.float32(n) for n in expected]


BACK = "({kind}[2,3,4,4] x) => ({kind}[] y) {{ c = Conv (x, W) p = {line} m = {affine} y = Relu (m) }}"
KINDS = {"float": np.float32, "float16": np.float16, "double": np.float64}
CLIP, PAD = "Clip <min = -1.0, max = 6.0> (c)", "Pad <value = -1.0, pads = [0,0,1,1,0,0,1,1]> (c)"


def attributes(proto: onnx.ModelProto) -> dict[str, object]:
    """Those of the only Clip or Pad."""
    (node,) = (node for node in proto.graph.node if node.op_type in {"Clip", "Pad"})
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def back(line: str, affine: str = "Mul (p, k)", kind: str = "float", opset: int = 10, k: float = 3) -> onnx.ModelProto:
    held = {"W": weights(4, 3, 1, 1, dtype=KINDS[kind]), "k": np.asarray(k, KINDS[kind])}
    return model(BACK.format(kind=kind, line=line, affine=affine), opset=opset, **held)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
@pytest.mark.parametrize("kind", ["float", "float16"])
def test_attributes_are_what_the_affine_makes_of_them(opset: int, kind: str) -> None:
    for line, affine, expected in (
        (CLIP, "Mul (p, k)", {"min": -3, "max": 18}),
        (CLIP, "Add (p, k)", {"min": 2, "max": 9}),
        ("Clip <max = 6.0> (c)", "Add (p, k)", {"max": 9}),
        ("Clip (c)", "Add (p, k)", {}),
        (f"Clip <min = 0.0, max = {NONE['max']}> (c)", "Add (p, k)", {"min": 3, "max": np.finfo(np.float32).max}),
        (PAD, "Sub (k, p)", {"value": 4, "pads": [0, 0, 1, 1] * 2}),
        ("Pad <pads = [0,0,1,1,0,0,1,1]> (c)", "Add (p, k)", {"value": 3, "pads": [0, 0, 1, 1] * 2}),
        ("Pad <pads = [0,0,1,1,0,0,1,1]> (c)", "Mul (p, k)", {"pads": [0, 0, 1, 1] * 2}),
    ):
        before = back(line, affine, kind, opset)
        found = judged(before, inputs(before), 3, KINDS[kind])
        assert found.folded.ops == ["Conv", line.split(maxsplit=1)[0], "Relu"]
        assert attributes(found.folded.proto) == expected
        assert found.ran


def test_an_attribute_keeps_what_else_it_says() -> None:
    before = back(CLIP)
    before.graph.node[1].attribute[0].doc_string = "as in the paper"
    done = fold(before)
    assert [a.doc_string for a in done.proto.graph.node[1].attribute] == ["as in the paper", ""]
    checked = certified(before, done)
    assert (checked.failure, checked.uncertain) == (None, None)


@pytest.mark.parametrize(
    ("line", "affine", "k"),
    [(CLIP, "Mul (p, k)", 0.75), (CLIP, "Add (p, k)", 2.0**-20), (PAD, "Sub (k, p)", 0.5),
     ("Pad <pads = [0,0,1,1,0,0,1,1]> (c)", "Add (p, k)", 0.25)],
)  # fmt: skip
def test_beside_float64_an_attribute_that_is_not_rounded_moves(line: str, affine: str, k: float) -> None:
    before = back(line, affine, "double", k=k)
    done = fold(before)
    assert done.ops == ["Conv", line.split(maxsplit=1)[0], "Relu"]
    checked = certified(before, done)
    assert (checked.failure, checked.uncertain) == (None, None)
    feeds = {"x": weights(2, 3, 4, 4, seed=4, dtype=np.float64)}
    ours, theirs = (widely(proto, feeds)[0] for proto in (before, done.proto))
    assert np.max(np.abs(ours - theirs)) <= 2.0**-50


def test_a_padding_of_infinity_takes_the_sign_of_the_scale() -> None:
    text = "(float[2,3,4,4] x) => (float[] y) { c = Conv (x, W) p = Pad (c, pads, none) y = Mul (p, k) }"
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    before = model(text, W=weights(4, 3, 1, 1), pads=pads, none=np.float32(-np.inf), k=np.float32(-2))
    done = fold(before)
    checked = certified(before, done)
    assert (checked.failure, checked.uncertain) == (None, None)
    assert float(operands(done.proto, "Pad")[-1]) == np.inf


def test_a_bound_that_is_read_elsewhere_is_cloned() -> None:
    text = """(float[2,3,4,4] x) => (float[] y, float[] z) { c = Conv (x, W) p = Clip (c, lo) y = Mul (p, k)
        z = Max (x, lo) }"""
    before = model(text, W=weights(4, 3, 1, 1), lo=np.float32(-1), k=np.float32(2))
    done = fold(before)
    assert done.cloned == ("lo",)
    assert float(constants(done.proto)["lo"]) == -1
    feeds = {"x": weights(2, 3, 4, 4, seed=4)}
    assert all(np.array_equal(*pair) for pair in zip(run(before, feeds), run(done.proto, feeds), strict=True))


def test_no_bound_stays_no_bound() -> None:
    text = "(float[2,3,4,4] x) => (float[] y) { c = Conv (x, W) p = Clip (c, lo, hi) y = Mul (p, k) }"
    infinite = {"lo": np.float32(-np.inf), "hi": np.float32(np.inf)}
    before = model(text, W=weights(4, 3, 1, 1), **infinite, k=np.float32(2))
    done = fold(before)
    checked = certified(before, done)
    assert (checked.failure, checked.uncertain) == (None, None)
    assert [float(number) for number in operands(done.proto, "Clip")[1:]] == [-np.inf, np.inf]
    feeds = {"x": weights(2, 3, 4, 4, seed=4)}
    assert np.array_equal(run(before, feeds)[0], run(done.proto, feeds)[0])


def test_affines_on_both_sides_act_in_the_order_in_which_they_go() -> None:
    """One goes forward past the Clip, another back past it and into the layer before."""
    text = """(float[2,3,4,4] x) => (float[] y) { r = Relu (x) n = Add (r, k) p = Clip (n, lo, hi) m = Mul (p, k)
        q = Sub (m, lo) t = Sigmoid (x) g = Mul (q, t) y = Conv (q, W, b) }"""
    text = text.replace("t = Sigmoid (x) g = Mul (q, t) ", "")
    held = {"W": weights(4, 3, 1, 1), "b": weights(4), "lo": np.float32(0.5), "hi": np.float32(2), "k": np.float32(3)}
    found = judged(model(text, **held), {"x": weights(2, 3, 4, 4, seed=3)}, 64)
    assert found.folded.ops == ["Relu", "Clip", "Conv"]
