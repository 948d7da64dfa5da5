"""Names that a nested graph gives to values of its own, though they bear another value outside of it.

The same name in both models is not enough then: what it means depends on what the nested graph still defines.
"""

from __future__ import annotations

import numpy as np
import pytest
from certificate_folds import copied
from certificate_pairs import Draw, Pair, pair_of, wide
from onnx import numpy_helper

INTERFACE = "(bool p, float[1,3,8] x, float[1,4,6] o) => (float[1,4,6] y, float[1,4,6] z)"


def certified(pair: Pair) -> None:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


def branching(output: str, body: str) -> str:
    other = "else_branch = b () => (float[1,4,6] r2) { r2 = Abs(o) }"
    return f"z = If(p)<then_branch = a () => (float[1,4,6] {output}) {{ {body} }}, {other}>"


def pair(before: str, after: str, output: str = "r") -> Pair:
    """A Conv and a normalization that goes, and a branch with these nodes; `q` and `k` are names from outside of it."""
    draw = Draw(1)
    w, (parameters, a, s) = draw.weights(4, 3, 3), draw.normalization(4)
    return pair_of(
        draw, INTERFACE, f"q = Relu(o) h = Conv(x,w) n = BN(h,g,e,m,v) {branching(output, before)} y = Sub(n,q)",
        f"q = Relu(o) n = Conv(x,w1,b1) {branching(output, after)} y = Sub(n,q)", "n: -> h",
        shared={"k": draw.terms(4, 1)}, old={"w": w, **parameters}, new={"w1": wide(w) * a[:, None, None], "b1": s},
    )  # fmt: skip


def test_a_nested_graph_may_call_its_own_value_by_a_name_from_outside() -> None:
    certified(pair("q = Neg(o) r = Abs(q)", "q = Neg(o) r = Abs(q)"))
    certified(pair("r = Abs(q)", "r = Abs(q)"))


def test_what_defines_such_a_name_may_not_go() -> None:
    dropped = pair("q = Neg(o) r = Abs(q)", "r = Abs(q)")
    assert dropped.certificate().failure == "If#3.then_branch/Abs#1 reads other values by the names ['q']"


def test_what_a_nested_graph_puts_out_by_such_a_name_may_not_go() -> None:
    certified(pair("q = Neg(o) r = Abs(o)", "q = Neg(o) r = Abs(o)", output="q"))
    certified(pair("r = Abs(o)", "r = Abs(o)", output="q"))
    dropped = pair("q = Neg(o) r = Abs(o)", "r = Abs(o)", output="q")
    assert dropped.certificate().failure == "If#3.then_branch puts out another value by the same name"


def test_a_constant_by_such_a_name_may_not_go() -> None:
    whole = pair("r = Add(q,k)", "r = Add(q,k)")
    for model in (whole.before, whole.after):
        own = numpy_helper.from_array(np.ones((4, 1), "f"), "k")
        model.graph.node[-2].attribute[0].g.initializer.append(own)
    certified(whole)
    after = copied(whole.after)
    del after.graph.node[-2].attribute[0].g.initializer[:]
    assert "Add#0 reads other values by the names ['q', 'k']" in str(whole.certificate(after).failure)


@pytest.mark.parametrize("name", ["h1", "n"])
def test_a_changed_value_may_not_hide_another_one_from_a_nested_graph(name: str) -> None:
    """What goes leaves its name to who takes its place, and the name is another's in the branch."""
    draw = Draw(1)
    w, u, (one, a, s), (two, b, t) = (
        draw.weights(4, 3, 3), draw.weights(4, 3, 3), draw.normalization(4), draw.normalization(4, "2"),
    )  # fmt: skip
    turn, back = "Transpose<perm=[0,2,1]>", "Transpose<perm=[0,2,1]>"
    before = f"i = Conv(x,u) j = {turn}(i) k = {back}(j) l = BN(k,g2,e2,m2,v2) r = Sub(l,n)"
    after = f"{name} = Conv(x,u1,c1) j1 = {turn}({name}) l = {back}(j1) r = Sub(l,n)"
    found = pair_of(
        draw, INTERFACE, f"h = Conv(x,w) n = BN(h,g,e,m,v) {branching('r', before)} y = Relu(n)",
        f"n = Conv(x,w1,b1) {branching('r', after)} y = Relu(n)", ["n: -> h", "l: k j -> i"],
        old={"w": w, "u": u, **one, **two},
        new={"w1": wide(w) * a[:, None, None], "b1": s, "u1": wide(u) * b[:, None, None], "c1": t},
    )  # fmt: skip
    if name == "n":
        assert "Sub#4 reads other values by the names ['l', 'n']" in str(found.certificate().failure)
    else:
        certified(found)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_new_constant_may_not_hide_the_data_of_a_home(hidden: bool) -> None:
    """An Add in a branch takes the shift of what goes behind it, and reads the Conv that stands outside."""
    draw = Draw(1)
    w, c, (parameters, a, s) = draw.weights(4, 3, 3), draw.terms(4, 1), draw.normalization(4)
    before = "t = Add(h,c) n = BN(t,g,e,m,v) r = Relu(n)"
    found = pair_of(
        draw, INTERFACE, f"h = Conv(x,w) {branching('r', before)} y = Neg(o)",
        f"h1 = Conv(x,w1) {branching('r', 'n = Add(h1,c1) r = Relu(n)')} y = Neg(o)", "n: t -> t h",
        old={"w": w, "c": c, **parameters},
        new={"w1": wide(w) * a[:, None, None], "c1": wide(c) * a[:, None] + s[:, None]},
    )  # fmt: skip
    certified(found)
    after = copied(found.after)
    if hidden:
        own = numpy_helper.from_array(np.ones((1, 4, 6), "f"), "h1")
        after.graph.node[1].attribute[0].g.initializer.append(own)
    assert found.certificate(after).holds is not hidden
    assert not hidden or "Add#0 reads something else at input 0" in str(found.certificate(after).failure)
