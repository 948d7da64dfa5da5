"""Names, order and bytes: what a fold must keep, whatever a file calls its values and however it orders them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from folding_draws import examples
from folding_support import (
    Folded,
    assert_same_function,
    bits,
    ceiling,
    constants,
    fold,
    folded,
    inputs,
    model,
    norm,
    plan_of,
    refusal,
    run,
    weights,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

W = weights(4, 3, 3, 3)
V = weights(4, 4, 1, 1, seed=3)
HEAD = "(float[2,3,5,5] x) => (float[2,4,3,3] y)"
NORM = "BatchNormalization (c, g, be, m, v)"

NETWORK = f"""{HEAD} {{
    c = Conv (x, W)  n = {NORM}  r = Relu (n)
    d = Conv (r, V)  t = Transpose <perm = [0, 1, 3, 2]> (d)  k = BatchNormalization (t, hg, hbe, hm, hv)
    i = Identity (r)  s = Sigmoid (i)  z = BatchNormalization (s, g, be, m, v)
    y = Add (k, z)
}}"""


def network() -> onnx.ModelProto:
    """Two norms that go, one that stays, a skip."""
    return model(NETWORK, W=W, V=V, **norm(4), **norm(4, "h", seed=6))


# --- names ----------------------------------------------------------------------------------------------------------


def exposed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Every value of the main graph as an output."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    for node in proto.graph.node:
        for name in node.output:
            if name not in {output.name for output in shown.graph.output}:
                shown.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return shown


def test_a_name_in_both_files_means_the_same_value_in_both() -> None:
    before, after = network(), folded_but_one(network()).proto
    feeds = inputs(before)
    values = [by_name(exposed(proto), run(exposed(proto), feeds)) for proto in (before, after)]
    sizes = by_name(exposed(before), ceiling(exposed(before), feeds))
    common = values[0].keys() & values[1].keys()
    assert common == {"n", "r", "k", "i", "s", "z", "y"}
    assert values[1].keys() - common == {"d_folded"}
    for name in common:
        bound = (4 * np.sqrt(27 + 4 + 5) + 8) * 2.0**-24 * sizes[name]
        assert np.all(np.abs(values[0][name] - values[1][name]) <= bound)
    assert np.abs(values[0]["d"] - values[1]["d_folded"]).max() > 0.1  # so it could not keep its name
    held = constants(before).keys() & constants(after).keys()
    assert all(bits(constants(before)[name]) == bits(constants(after)[name]) for name in held)
    assert not {"W", "V"} & constants(after).keys()


def by_name(proto: onnx.ModelProto, outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip([output.name for output in proto.graph.output], outputs, strict=True))


def folded_but_one(proto: onnx.ModelProto) -> Folded:
    after = fold(proto)
    assert [len(after.plan.moves), [r.reason.code for r in after.plan.refusals]] == [2, ["blocked"]]
    return after


def test_the_output_of_the_norm_keeps_its_name_and_the_one_before_it_goes() -> None:
    after = folded(model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4)))
    (conv,) = after.proto.graph.node
    assert list(conv.input) == ["x", "W_folded", "W_bias"]
    assert list(conv.output) == ["y"]


def test_a_result_passes_onnx_s_checker_with_shapes() -> None:
    onnx.checker.check_model(network(), full_check=True)
    onnx.checker.check_model(folded_but_one(network()).proto, full_check=True)


STRANGE = [
    "",
    " ",
    "a b",
    "it's",
    '"quoted"',
    "line\nbreak",
    "läyer/ünicode",
    "Conv#0",
    "%s {0}",
    "y_folded",
    "../x",
    "\t",
]


@pytest.mark.parametrize("name", STRANGE)
def test_no_node_name_is_too_strange(name: str) -> None:
    before = network()
    for node in before.graph.node:
        node.name = name  # repeated, too
    after = folded_but_one(before)
    assert len({move.site for move in after.plan.moves}) == 2
    assert [node.name for node in after.proto.graph.node] == [name] * 8
    assert constants(after.proto).keys() == constants(folded_but_one(network()).proto).keys()


@pytest.mark.parametrize("name", STRANGE[1:])
def test_no_value_name_is_too_strange(name: str) -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4))
    after = folded(renamed(before, {"c": f"{name}c", "W": name, "g": f"{name}g"}))
    assert constants(after.proto).keys() == {f"{name}_folded", f"{name}_bias"}
    assert_same_function(before, after.proto, inputs(before), 27)


# --- renaming and reordering ----------------------------------------------------------------------------------------


def renamed(proto: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """The same model with other names of values."""
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    graph = other.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for entry in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        entry.name = names.get(entry.name, entry.name)
    return other


def contents(proto: onnx.ModelProto) -> list[object]:
    return sorted(bits(array) for array in constants(proto).values())


@examples(30)
@given(st.randoms(use_true_random=False))
def test_other_names_lead_to_the_same_moves_and_constants(rng: random.Random) -> None:
    before = network()
    known = [n for node in before.graph.node for n in (*node.input, *node.output) if n not in {"x", "y"}]
    fresh = [f"v{rng.randrange(10**9)}.{i}" for i in range(len(set(known)))]
    other = renamed(before, dict(zip(dict.fromkeys(known), fresh, strict=True)))
    ours, theirs = folded_but_one(before), folded_but_one(other)
    assert moves(ours.plan) == moves(theirs.plan)
    assert contents(ours.proto) == contents(theirs.proto)


def moves(plan: object) -> list[object]:
    return [(str(m.site), [(str(a.home), a.after.scale.tobytes()) for a in m.arrivals]) for m in plan.moves]


@examples(40)
@given(st.randoms(use_true_random=False))
def test_another_legal_order_of_nodes_leads_to_the_same_constants(rng: random.Random) -> None:
    before = network()
    other = onnx.ModelProto()
    other.CopyFrom(before)
    del other.graph.node[:]
    waiting, known = list(before.graph.node), {"x", *constants(before)}
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        chosen = rng.choice(ready)
        waiting.remove(chosen)
        known.update(chosen.output)
        other.graph.node.append(chosen)
    rng.shuffle(tensors := list(before.graph.initializer))
    del other.graph.initializer[:]
    other.graph.initializer.extend(tensors)
    ours, theirs = folded_but_one(before), folded_but_one(other)
    assert contents(ours.proto) == contents(theirs.proto)
    assert_same_function(other, theirs.proto, inputs(other), 40)


def test_a_graph_that_is_not_sorted_leads_to_the_same_constants() -> None:
    """onnxruntime sorts for itself; the file keeps its own order."""
    before = network()
    other = onnx.ModelProto()
    other.CopyFrom(before)
    nodes = list(before.graph.node)[::-1]
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    after = folded_but_one(other)
    assert contents(after.proto) == contents(folded_but_one(before).proto)
    assert after.ops == [n.op_type for n in nodes if n.output[0] not in {"n", "k"}]


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_a_second_fold_changes_no_byte() -> None:
    once = folded_but_one(network())
    again = fold(once.bytes)
    assert again.plan.moves == ()
    assert again.bytes == once.bytes


def test_a_plan_without_moves_writes_the_bytes_that_were_read() -> None:
    before = model(f"(float[2,4,5,5] c) => (float[] y) {{ y = {NORM} }}", **norm(4))
    refusal(before, "no-home")
    data = before.SerializeToString() + b"\xf8\x3f\x07"  # a field that onnx does not know, and a loose order
    assert fold(data).bytes == data


def test_what_the_plan_does_not_name_stays_byte_for_byte() -> None:
    before = network()
    before.graph.doc_string = "kept"
    before.metadata_props.add(key="author", value="kept too")
    before.graph.node[2].doc_string = "this Relu"
    data = before.SerializeToString()
    after = fold(data)
    untouched = [n for n in before.graph.node if n.output[0] in {"r", "i", "s", "z", "y"}]
    assert [n.SerializeToString() for n in after.proto.graph.node if n.output[0] in {"r", "i", "s", "z", "y"}] == [
        n.SerializeToString() for n in untouched
    ]
    for name in ("g", "be", "m", "v"):  # the norm that stays reads them
        ours, theirs = (next(t for t in p.graph.initializer if t.name == name) for p in (before, after.proto))
        assert ours.SerializeToString() in after.bytes
        assert ours == theirs
    for node in untouched:
        assert node.SerializeToString() in after.bytes
    assert (after.proto.metadata_props, after.proto.graph.doc_string) == (before.metadata_props, "kept")


def test_a_plan_and_its_bytes_do_not_depend_on_how_python_hashes() -> None:
    """One process per seed."""
    program = """
import hashlib, json, sys
sys.path[:0] = sys.argv[1:]
from folding_support import fold
from test_fold_apply_names import network
done = fold(network())
print(hashlib.sha256(done.bytes + json.dumps(done.plan.to_json()).encode()).hexdigest())
"""
    here = Path(__file__).parent
    answers = set()
    for seed in ("0", "1", "4242"):
        command = [sys.executable, "-c", program, str(here), str(here.parents[1])]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        answers.add(done.stdout)
    assert len(answers) == 1
    assert len(answers.pop()) == 65
    assert plan_of(network()).fingerprint == plan_of(network()).fingerprint
