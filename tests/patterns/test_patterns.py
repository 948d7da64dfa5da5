"""Every pattern folds, or stays for its reason, however the file is written: names and order mean nothing."""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "folding"))
from folding_support import HALF_UNIT, Array, Folded, bits, ceiling, fold, inputs, is_valid, run
from pattern_table import IN_FUNCTION, PATTERNS, Pattern
from pattern_variants import VARIANTS

import bnfold

IN_NO_NODE = {"a sparse weight", "float_data and raw_data"}
"""Patterns about how an initializer is stored: as a node they are no more."""


def variants_of(name: str) -> list[str]:
    return [v for v in VARIANTS if not (v.startswith("constants") and name in IN_NO_NODE)]


@cache
def base(name: str) -> tuple[onnx.ModelProto, Folded, list[Array], list[Array]]:
    """The pattern as it is, its fold, and, where onnxruntime runs it, its outputs and their S."""
    pattern = PATTERNS[name]
    before = pattern.build()
    done = fold(before)
    if not pattern.runs or not pattern.moves:
        return before, done, [], []
    return before, done, run(before, inputs(before)), sizes(pattern)


def sizes(pattern: Pattern) -> list[Array]:
    twin = pattern.twin()
    if pattern.header:
        twin.graph.initializer.extend(numpy_helper.from_array(array, k) for k, array in IN_FUNCTION.items())
    return ceiling(twin, {"x": inputs(pattern.build())["x"]})


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in PATTERNS for variant in variants_of(name)])
def test_a_pattern_folds_as_it_should_in_every_variant(name: str, variant: str) -> None:
    pattern = PATTERNS[name]
    original, plain, expected, bounds = base(name)
    before, names = VARIANTS[variant](original)
    done = fold(before)
    assert len(done.plan.moves) == pattern.moves, done.plan.refusals
    assert sorted(r.reason.code for r in done.plan.refusals) == sorted(pattern.stays)
    assert Counter(op for op in done.ops if op != "Constant") == Counter(pattern.left.split())
    assert Counter(move.site.op for move in done.plan.moves) == Counter(move.site.op for move in plain.plan.moves)
    assert contents(done.proto) == contents(plain.proto)
    check_file(before, done)
    if not expected:
        return
    feeds = {names.get(k, k): array for k, array in inputs(original).items()}
    found = run(done.proto, feeds)
    assert len(found) == len(expected)
    for ours, theirs, size in zip(expected, found, bounds, strict=False):
        bound = (4 * np.sqrt(pattern.fan_in) + 8) * HALF_UNIT[ours.dtype] * size
        assert ours.shape == theirs.shape
        assert np.all(np.abs(ours.astype(np.float64) - theirs) <= bound)


def check_file(before: onnx.ModelProto, done: Folded) -> None:
    """Idempotent, as valid as before, untouched where nothing moved; below IR 4 every initializer is an input."""
    assert fold(done.bytes).bytes == done.bytes
    assert is_valid(done.proto) or not is_valid(before)
    if not done.plan.moves:
        assert done.bytes == before.SerializeToString(deterministic=True)
    held = [tensor.name for tensor in done.proto.graph.initializer]
    listed = [entry.name for entry in done.proto.graph.input]
    assert len(set(listed)) == len(listed)
    assert len(set(held)) == len(held)
    if before.ir_version < 4:
        assert set(held) <= set(listed)
        own = {tensor.name for tensor in before.graph.initializer}
        assert set(listed) - set(held) == {entry.name for entry in before.graph.input} - own


def contents(proto: onnx.ModelProto) -> list[object]:
    """Every constant of a model to the last bit, whatever it is called and wherever it lies."""
    tensors = list(proto.graph.initializer)
    pending = [proto.graph, *proto.functions]
    while pending:
        graph = pending.pop()
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                pending.append(attribute.g)
                tensors.extend(attribute.g.initializer)
    arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
    return sorted(bits(a) if a.dtype.kind == "f" else (str(a.dtype), a.shape, a.tobytes()) for a in arrays)


def test_names_that_read_like_a_fold_s_own_do_not_collide() -> None:
    """Two things are called what the fold would call a third; nothing ends up under a name that was taken."""
    before = PATTERNS["weights shared by two layers"].build()
    for tensor, name in zip(
        before.graph.initializer, ["W", "W_folded", "W_bias", "W_folded_1", "c_folded"], strict=False
    ):
        for node in before.graph.node:
            node.input[:] = [name if used == tensor.name else used for used in node.input]
        tensor.name = name
    done = fold(before)
    names = [tensor.name for tensor in done.proto.graph.initializer]
    assert len(set(names)) == len(names) == 4
    assert set(names).isdisjoint({tensor.name for tensor in before.graph.initializer})
    assert is_valid(done.proto) or not is_valid(before)


@pytest.mark.parametrize("name", ["Conv in 2-D, padded, strided", "MatMul", "both branches of an If, weights outside"])
def test_weights_in_a_file_of_their_own_fold_into_the_same_constants(name: str, tmp_path: Path) -> None:
    before, plain, expected, _ = base(name)
    whole = onnx.ModelProto()
    whole.CopyFrom(before)
    onnx.save(whole, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert (tmp_path / "weights.bin").stat().st_size > 0
    result = bnfold.fold(tmp_path / "model.onnx", verify="off")
    result.save(tmp_path / "folded.onnx")
    after = onnx.load(tmp_path / "folded.onnx")
    assert contents(after) == contents(plain.proto)
    assert all(
        np.array_equal(*pair) for pair in zip(run(after, inputs(before)), run(plain.proto, inputs(before)), strict=True)
    )
    assert len(expected) == len(before.graph.output)
