"""Names that lead astray, nodes that nobody reads, and new nodes in the wrong place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from certificate_folds import Fold, copied, parameters, parsed, put
from certificate_pairs import Draw, Pair, pair_of, wide
from onnx import helper
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


# Graphs in attributes.

HOLDER = (
    "(float[1,4,8] x, bool p) => (float[1,4,6] y) { c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) %s y = Relu(z) }"
)
BRANCHES = IF.replace("(x)", "(n)").replace("float q", "float[1,4,6] q")
OWN = "z = own.apply<body = a () => (float q) { q = Abs(n) }>(n)"


def holding(text: str) -> Fold:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 4, 3)).astype("f"), **parameters(random, 4)}
    return Fold.of(put(parsed(HOLDER % text, further=', "own" : 1'), **weights))


def holder(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type in {"If", "apply"})


@pytest.mark.parametrize(("text", "name"), [(BRANCHES, "else_branch"), (BRANCHES, "then_branch"), (OWN, "body")])
def test_a_graph_in_an_attribute_may_neither_go_nor_be_renamed(text: str, name: str) -> None:
    fold = holding(text)
    assert fold.certificate().holds
    for change in ("gone", "renamed"):
        after = fold.copy()
        attributes = holder(after).attribute
        place = next(i for i, attribute in enumerate(attributes) if attribute.name == name)
        if change == "gone":
            del attributes[place]
        else:
            attributes[place].name = "other"
        failure = str(fold.certificate(after).failure)
        assert failure == f"the rewritten model has no {holder_site(after)}.{name}"


def holder_site(model: onnx.ModelProto) -> str:
    found = holder(model)
    operator = f"{found.domain}.{found.op_type}" if found.domain else found.op_type
    return f"{operator}#{list(model.graph.node).index(found)}"


def test_a_graph_in_an_attribute_may_not_come() -> None:
    fold = holding(OWN)
    after = fold.copy()
    holder(after).attribute.append(helper.make_attribute("more", holder(after).attribute[0].g))
    assert "has a nested graph or function that the original has not" in str(fold.certificate(after).failure)


@pytest.mark.parametrize("sides", [("before",), ("after",), ("before", "after")])
def test_two_attributes_of_one_name_are_not_followed(sides: tuple[str, ...]) -> None:
    """One of them would be looked at, and which one counts is for who runs the model."""
    fold = holding(OWN)
    models = {"before": copied(fold.before), "after": fold.copy()}
    for side in sides:
        holder(models[side]).attribute.append(holder(models[side]).attribute[0])
        holder(models[side]).attribute[0].g.node[0].op_type = "Neg"
    checked = replace(fold, before=models["before"]).certificate(models["after"])
    assert checked.uncertain == "a node has two attributes of one name that hold graphs"


def test_several_graphs_in_one_attribute_are_followed_one_by_one() -> None:
    fold = holding(OWN)
    graphs = [onnx.GraphProto() for _ in range(3)]
    models = [copied(fold.before), fold.copy()]
    for model in models:
        (body,) = holder(model).attribute
        for i, graph in enumerate(graphs):
            graph.CopyFrom(body.g)
            graph.name = f"graph{i}"
        del holder(model).attribute[:]
        holder(model).attribute.append(helper.make_attribute("bodies", graphs))
    several = replace(fold, before=models[0], after=models[1])
    assert several.certificate().holds
    for i in range(3):
        after = several.copy()
        holder(after).attribute[0].graphs[i].node[0].op_type = "Neg"
        assert f"bodies[{i}]/Neg#0 of the rewritten model" in str(several.certificate(after).failure)
    after = several.copy()
    del holder(after).attribute[0].graphs[2]
    assert "has no own.apply#1.bodies[2]" in str(several.certificate(after).failure)


# Inputs that are left out, and some too many.


def clipping(text: str) -> Fold:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 4, 3)).astype("f"), **parameters(random, 4)}
    limits = {"lo": np.float32(0).reshape(()), "hi": np.float32(6).reshape(())}
    body = f"c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) r = {text} y = Add(r,lo) z = Add(r,hi)"
    return Fold.of(
        put(parsed(f"(float[1,4,8] x) => (float[1,4,6] y, float[1,4,6] z) {{ {body} }}"), **weights, **limits)
    )


@pytest.mark.parametrize("text", ["Clip(n,lo,hi)", "Clip(n,,hi)", "Clip(n,lo)", "Clip(n)"])
def test_inputs_that_are_left_out_stay_so(text: str) -> None:
    fold = clipping(text)
    assert fold.certificate().holds
    for inputs in (["lo", "hi"], ["", "hi"], ["lo"], []):
        after = fold.copy()
        clip = next(node for node in after.graph.node if node.op_type == "Clip")
        before = list(clip.input)
        clip.input[1:] = inputs
        if list(clip.input) == before:
            continue
        assert f"Clip#2 reads {list(clip.input)} instead of {before}" in str(fold.certificate(after).failure)


# The Add behind a home.


def matmul(opset: int) -> Pair:
    draw = Draw(1)
    w, (parameters_, a, s) = draw.weights(3, 4), draw.normalization(4)
    return pair_of(
        draw, "(float[2,3] x) => (float[2,4] y)", "m = MatMul(x,w) t = BN(m,g,e,m2,v) y = Relu(t)",
        "r = MatMul(x,w1) t = Add(r,b1) y = Relu(t)", "t: -> m",
        old={"w": w, "m2": parameters_.pop("m"), **parameters_}, new={"w1": wide(w) * a, "b1": s}, opset=opset,
    )  # fmt: skip


@pytest.mark.parametrize("opset", [7, 8, 17])
@pytest.mark.parametrize("name", ["axis", "broadcast"])
def test_from_opset_7_on_the_add_has_no_attributes(opset: int, name: str) -> None:
    pair = matmul(opset)
    add = next(node for node in pair.after.graph.node if node.op_type == "Add")
    add.attribute.append(helper.make_attribute(name, 1))
    assert pair.certificate().failure == "Add#1 is no plain Add"


def test_the_add_has_a_constant() -> None:
    pair = matmul(17)
    holds(pair)
    next(node for node in pair.after.graph.node if node.op_type == "Add").input[1] = ""
    assert pair.certificate().failure == "the constant of Add#1 is missing"


def test_the_add_has_one_output() -> None:
    pair = matmul(17)
    next(node for node in pair.after.graph.node if node.op_type == "Add").output.append("more")
    assert pair.certificate().failure == "Add#1 is no plain Add"


# New nodes in the wrong place.


def test_a_home_that_became_a_constant_is_missing() -> None:
    draw = Draw(1)
    w, (parameters_, _, _) = draw.weights(4, 3, 3), draw.normalization(4)
    pair = pair_of(
        draw, "(float[1,3,8] x) => (float[1,6,4] y, float[1,3,8] z)",
        "h = Conv(x,w) t = Transpose<perm=[0,2,1]>(h) u = Transpose<perm=[0,2,1]>(t) n = BN(u,g,e,m,v) "
        "y = Transpose<perm=[0,2,1]>(n) z = Relu(x)",
        "t1 = Transpose<perm=[0,2,1]>(h) n = Transpose<perm=[0,2,1]>(t1) y = Transpose<perm=[0,2,1]>(n) z = Relu(x)",
        "n: u t -> h", old={"w": w, **parameters_}, new={"h": np.ones((1, 4, 6), "f")},
    )  # fmt: skip
    assert pair.certificate().failure == "a home of a claim is missing in the rewritten model"


def test_a_constant_of_its_own_node_is_new_in_functions_alone() -> None:
    """In a graph a constant is an initializer; another node would be one that no claim covers."""
    pair = quantised("d1 = DequantizeLinear<axis=0>(q,s1) n = Conv(x,d1) y = Relu(n)")
    after = copied(pair.after)
    scale = next(tensor for tensor in after.graph.initializer if tensor.name == "s1")
    after.graph.node.insert(0, helper.make_node("Constant", [], ["s2"], value=scale))
    after.graph.node[1].input[1] = "s2"
    assert "Constant#0 of the rewritten model has no counterpart" in str(pair.certificate(after).failure)


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


def test_a_new_dequantisation_stands_before_everything_that_reads_it() -> None:
    draw = Draw(3)
    q, s, k = stored(draw, 3, 3, 3), scales(draw), draw.factors(3, 1)
    pair = pair_of(
        draw, "(float[1,3,9] x) => (float[1,3,5] y)",
        "d = DequantizeLinear(q,s) h = Conv(x,d) n = Mul(h,k) i = Conv(n,d) o = Mul(i,k) y = Relu(o)",
        "n = Conv(x,d1) d1 = DequantizeLinear<axis=0>(q,s1) o = Conv(n,d1) y = Relu(o)", ["n: -> h", "o: -> i"],
        shared={"q": q}, old={"s": s, "k": k}, new={"s1": wide(s) * wide(k)[:, 0]}, opset=21,
    )  # fmt: skip
    assert "does not stand where its readers are" in str(pair.certificate().failure)
    nodes = list(pair.after.graph.node)
    del pair.after.graph.node[:]
    pair.after.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])
    holds(pair)


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
