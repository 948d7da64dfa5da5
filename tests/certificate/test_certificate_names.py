"""Names that lead astray, nodes that nobody reads, and new nodes in the wrong place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from certificate_folds import Fold, copied, parameters, parsed, put
from certificate_pairs import Draw, Pair, pair_of, wide
from test_certificate_quantized import scales, stored

CONV = "(float[1,3,8] x) => (float[1,4,6] y)"


def holds(pair: Pair) -> None:
    checked = pair.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)


# Names.


def two_norms(name: str = "n2") -> Pair:
    """Both go; what they made together bears the name of the last."""
    draw = Draw(1)
    w, (one, a, s), (two, b, t) = draw.weights(4, 3, 3), draw.normalization(4), draw.normalization(4, "2")
    return pair_of(
        draw, CONV, "c = Conv(x,w) n = BN(c,g,e,m,v) n2 = BN(n,g2,e2,m2,v2) y = Relu(n2)",
        f"{name} = Conv(x,w1,b1) y = Relu({name})", ["n: -> c", "n2: n -> c"], old={"w": w, **one, **two},
        new={"w1": wide(w) * (a * b)[:, None, None], "b1": b * s + t},
    )  # fmt: skip


def test_what_two_norms_made_has_the_name_of_the_last() -> None:
    holds(two_norms())
    sentence = "'n2' is called 'fresh', though its content does not change"
    assert two_norms("fresh").certificate().failure == sentence


@pytest.mark.parametrize("name", ["n", "c"])
def test_it_may_not_have_the_name_of_what_came_before(name: str) -> None:
    sentence = f"'c' changes and is now called {name!r}, which meant another value"
    assert two_norms(name).certificate().failure == sentence


@pytest.mark.parametrize("name", ["w", "g"])
def test_a_new_constant_may_not_have_the_name_of_an_old_one(name: str) -> None:
    pair = two_norms("fresh")
    after = copied(pair.after)
    weight = next(tensor for tensor in after.graph.initializer if tensor.name == "w1")
    weight.name = after.graph.node[0].input[1] = name
    assert pair.certificate(after).failure is not None


# Nodes that nobody reads.

DEAD = (
    "(float[1,4,8] x, bool p) => (float[1,4,6] y) "
    "{{ c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) y = Relu(n) {dead} }}"
)
IF = "z = If(p)<then_branch = a () => (float q) { q = Abs(x) }, else_branch = b () => (float q2) { q2 = Neg(x) }>"


def network(dead: str) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 4, 3)).astype("f"), **parameters(random, 4)}
    return put(parsed(DEAD.format(dead=dead)), **weights)


@pytest.mark.parametrize("dead", [IF, "z = Abs(x)", "z = Abs(x) u = Neg(z)"])
def test_what_nobody_reads_may_go_with_the_graphs_in_it(dead: str) -> None:
    fold = Fold.of(network(dead))
    assert fold.certificate().holds
    after = fold.copy()
    for node in [node for node in after.graph.node if node.op_type in {"If", "Abs", "Neg"}]:
        after.graph.node.remove(node)
    assert fold.certificate(after).holds


def test_what_nobody_reads_may_not_come() -> None:
    fold = Fold.of(network(""))
    after = Fold.of(network(IF)).after
    assert "has no counterpart" in str(fold.certificate(after).failure)


# New nodes in the wrong place.


def quantised(where: str) -> Pair:
    """A fold into the scale of a weight; `where` is what stands in the place of the right nodes."""
    draw = Draw(3)
    q, s, k = stored(draw, 4, 3, 3), scales(draw), draw.factors(4, 1)
    return pair_of(
        draw, CONV, "d = DequantizeLinear(q,s) h = Conv(x,d) n = Mul(h,k) y = Relu(n)", where, "n: -> h",
        shared={"q": q}, old={"s": s, "k": k}, new={"s1": wide(s) * wide(k)[:, 0]}, opset=21,
    )  # fmt: skip


def test_a_new_dequantisation_stands_before_what_reads_it() -> None:
    holds(quantised("d1 = DequantizeLinear<axis=0>(q,s1) n = Conv(x,d1) y = Relu(n)"))
    behind = quantised("n = Conv(x,d1) d1 = DequantizeLinear<axis=0>(q,s1) y = Relu(n)")
    assert "does not stand where its readers are" in str(behind.certificate().failure)


def test_a_new_dequantisation_stands_in_the_scope_of_what_reads_it() -> None:
    draw = Draw(3)
    q, s, k = stored(draw, 4, 3, 3), scales(draw), draw.factors(4, 1)

    def branches(nodes: str) -> str:
        other = "else_branch = b () => (float[1,4,6] z) { z = Abs(o) }"
        return f"y = If(p)<then_branch = a () => (float[1,4,6] r) {{ {nodes} r = Relu(n) }}, {other}>"

    interface = "(bool p, float[1,3,8] x, float[1,4,6] o) => (float[1,4,6] y)"
    inside = "d1 = DequantizeLinear<axis=0>(q,s1)"
    pairs = []
    for outer, inner in (("", inside), (inside, "")):
        before = branches("d = DequantizeLinear(q,s) h = Conv(x,d) n = Mul(h,k)")
        after = f"{outer} {branches(f'{inner} n = Conv(x,d1)')}"
        models = [put(parsed(f"{interface} {{ {text} }}", opset=21, ir=10), q=q) for text in (before, after)]
        put(models[0], s=s, k=k)
        put(models[1], s1=(wide(s) * wide(k)[:, 0]).astype("f"))
        pairs.append(models)
    fold = Fold.of(pairs[0][0])
    assert len(fold.claims) == 1
    right, wrong = (fold.certificate(after) for _, after in pairs)
    assert right.holds
    assert "does not stand where its readers are" in str(wrong.failure)
