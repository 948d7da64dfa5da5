"""`identity`: the same bits out, every other byte of the file as it was; fold gives the weights back bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inserting_support import (
    assert_nothing_else_changed,
    assert_same_numbers,
    attribute,
    inserted,
    model,
    noise,
    norms,
    parameters,
    run,
)
from onnx import TensorProto, helper, numpy_helper

import bnfold

LATEST = min(onnx.defs.onnx_opset_version(), 23)
MLP = "(float[N,4] x) => (float[N,3] y) { a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v) }"
CNN = "(float[N,3,6,6] x) => (float[N,4,4,4] y) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }"
TYPES = {"float16": np.float16, "float": np.float32, "double": np.float64}


def mlp(kind: str = "float", **more: object) -> onnx.ModelProto:
    weights = {"w": noise(4, 6), "b": noise(6, seed=1), "v": noise(6, 3, seed=2)}
    cast = {name: array.astype(TYPES[kind]) for name, array in weights.items()}
    return model(MLP.replace("float[", f"{kind}["), **cast, **more)  # type: ignore[arg-type]


def cnn(kind: str = "float", **more: object) -> onnx.ModelProto:
    weights = {"w": noise(4, 3, 3, 3), "b": noise(4, seed=1), "v": noise(4, 4, 1, 1, seed=2)}
    cast = {name: array.astype(TYPES[kind]) for name, array in weights.items()}
    return model(CNN.replace("float[", f"{kind}["), **cast, **more)  # type: ignore[arg-type]


def initializers(proto: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.SerializeToString(deterministic=True) for tensor in proto.graph.initializer}


# The same bits.


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("opset", range(7, LATEST + 1))
def test_outputs_are_the_same_bits_in_every_opset_and_type(opset: int, kind: str) -> None:
    before = mlp(kind, opset=opset)
    level = "full" if opset in {7, 15, LATEST} else "off"
    result, after = inserted(before, after=["Gemm", "MatMul"], verify=level)
    assert (result.verdict is not None) == (level == "full")
    assert [node.op_type for node in after.graph.node].count("BatchNormalization") == 2
    assert_same_numbers(before, after, {"x": noise(9, 4, seed=3).astype(TYPES[kind])})
    assert_nothing_else_changed(after, before)


@pytest.mark.parametrize("kind", ["float16", "float"])
@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, LATEST])
def test_and_for_convolutions(opset: int, kind: str) -> None:
    before = cnn(kind, opset=opset)
    _, after = inserted(before, after=["Conv"])
    assert_same_numbers(before, after, {"x": noise(3, 3, 6, 6, seed=3).astype(TYPES[kind])})
    assert_nothing_else_changed(after, before)


@pytest.mark.parametrize("opset", [7, 13, 14, 15, LATEST])
@pytest.mark.parametrize("kind", TYPES)
def test_the_parameters_are_those_of_an_identity(kind: str, opset: int) -> None:
    _, after = inserted(mlp(kind, opset=opset), after=["Gemm"], verify="off")
    assert [array.tolist() for array in parameters(after)] == [[1] * 6, [0] * 6, [0] * 6, [1] * 6]
    own, wide = np.dtype(TYPES[kind]), np.dtype(np.float32 if kind == "float16" else TYPES[kind])
    scale, statistics = (wide if opset >= 15 else own), (wide if opset >= 14 else own)
    assert [array.dtype for array in parameters(after)] == [scale, scale, statistics, statistics]
    assert attribute(norms(after)[0], "epsilon", default=1e-5) == 0.0
    assert list(norms(after)[0].output) == ["a"]


@pytest.mark.parametrize("kind", TYPES)
def test_denormals_infinities_and_nan_come_out_as_they_went_in(kind: str) -> None:
    dtype = TYPES[kind]
    info = np.finfo(dtype)
    x = np.array([[info.smallest_subnormal, -info.tiny, info.max], [np.inf, -np.inf, -0.0], [1, np.nan, 3]], dtype)
    before = model(f"({kind}[N,3] x) => ({kind}[N,3] y) {{ y = Identity(x) }}")
    _, after = inserted(before, at=["y"])
    ours = run(after, {"x": x})["y"]
    np.testing.assert_array_equal(ours, x)


def test_a_negative_zero_becomes_a_positive_one_and_that_is_equal() -> None:
    before = model("(float[N,4] x) => (float[N,4] y) { r = Relu(x) y = Mul(r, k) }", k=np.full((1, 4), -1, np.float32))
    _, after = inserted(before, after=["Mul"])
    feeds = {"x": noise(5, 4)}
    assert np.signbit(run(before, feeds)["y"]).all()
    assert_same_numbers(before, after, feeds)


def test_nor_is_that_a_false_alarm_where_two_values_are_computed_alike() -> None:
    text = "(float[N,2] x) => (float[N,2] y) { a = Relu(x) b = Neg(a) c = Relu(x) d = Neg(c) y = Add(b, d) }"
    before = model(text)
    result, after = inserted(before, choose=lambda _: True)
    assert len(result.inserted) == 5
    assert_same_numbers(before, after, {"x": noise(5, 2)})


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", ["N,6,8", "N,2,6,8", "2,6,8"])
def test_matmul_of_any_rank(shape: str, axis: int) -> None:
    rank = shape.count(",") + 1
    before = model(f"(float[{shape}] x) => (float[{shape[:-1]}5] y) {{ m = MatMul(x, w) y = Relu(m) }}", w=noise(8, 5))
    _, after = inserted(before, after=["MatMul"], axis=axis)
    dims = [2 if part == "N" else int(part) for part in shape.split(",")]
    assert len(dims) == rank
    assert_same_numbers(before, after, {"x": noise(*dims)})
    assert_nothing_else_changed(after, before)


def test_an_input_and_an_output() -> None:
    before = cnn()
    _, after = inserted(before, at=["x", "y"])
    assert_same_numbers(before, after, {"x": noise(2, 3, 6, 6)})
    assert_nothing_else_changed(after, before)


def test_it_is_shown_on_the_data_too_also_those_of_an_iterator() -> None:
    for data in (noise(5, 4), iter([noise(5, 4)])):
        result, _ = inserted(mlp(), after=["Gemm"], data=data)
        assert result.verdict is not None
        assert result.verdict.end_to_end is not None
        assert "data[0] 0..4" in {one.batch for one in result.verdict.end_to_end.comparisons}


# Files.


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_in_an_old_file_initializers_are_inputs_too(opset: int) -> None:
    before = cnn(opset=opset, ir=3)
    _, after = inserted(before, after=["Conv"])
    assert {tensor.name for tensor in after.graph.initializer} <= {value.name for value in after.graph.input}
    assert_same_numbers(before, after, {"x": noise(2, 3, 6, 6)})
    assert_nothing_else_changed(after, before)


def test_external_data_stay_where_they_are_and_come_along(tmp_path: Path) -> None:
    before = cnn()
    onnx.save(before, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "other").mkdir()
    bnfold.insert(tmp_path / "m.onnx", tmp_path / "other" / "n.onnx", after=["Conv"])
    after = onnx.load(tmp_path / "other" / "n.onnx")
    assert len(norms(after)) == 2
    assert_same_numbers(onnx.load(tmp_path / "m.onnx"), after, {"x": noise(2, 3, 6, 6)})
    held = {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in after.graph.initializer}
    for tensor in cnn().graph.initializer:
        assert held[tensor.name] == numpy_helper.to_array(tensor).tobytes()


def test_what_is_unknown_in_the_file_is_still_there() -> None:
    before = cnn()
    before.producer_name, before.doc_string = "somebody", "something"
    before.metadata_props.add(key="k", value="v")
    before.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 4, 4, 4]))
    before.graph.node[0].doc_string = "the first"
    content = before.SerializeToString() + bytes([0xC2, 0x3E, 0x03]) + b"new"  # field 1000 of some later version
    result = bnfold.insert(content, after=["Conv"], verify="off")
    assert result.to_bytes().endswith(b"new")
    assert_nothing_else_changed(result.to_proto(), onnx.load_model_from_string(content))


HOSTILE = [
    {"w": "c_bn.weight", "b": "c_bn"},
    {"w": "c_bn.running_var", "b": "c_bn_1.bias", "v": "c_before_bn"},
    {"c": "a b/c:0", "x": "in put", "y": "out\tput"},
    {"c": "c_bn", "r": "c_bn_bn", "y": "c_bn_bn.weight"},
    {"c": "x_normalized", "w": "x_bn.running_mean", "b": "x_bn_1", "v": "x_bn_1.weight"},
    {"c": "é", "y": "y" * 300, "x": "x[0]*?"},
]


@pytest.mark.parametrize("names", HOSTILE)
def test_names_that_are_taken_or_strange(names: dict[str, str]) -> None:
    before = cnn()
    for node in before.graph.node:
        for ports in (node.input, node.output):
            ports[:] = [names.get(name, name) for name in ports]
    before.graph.node[0].name = "c_bn"
    for entry in (*before.graph.initializer, *before.graph.input, *before.graph.output):
        entry.name = names.get(entry.name, entry.name)
    result, after = inserted(before, after=["Conv", "Relu"], at=[names.get("x", "x")])
    assert len(result.inserted) == 4
    defined = [name for node in after.graph.node for name in node.output]
    defined += [entry.name for entry in (*after.graph.initializer, *after.graph.input)]
    assert len(set(defined)) == len(defined)
    assert_same_numbers(before, after, {names.get("x", "x"): noise(2, 3, 6, 6)})


# And back.


def assert_folds_back(before: onnx.ModelProto, **wishes: object) -> None:
    _, after = inserted(before, **wishes)
    assert norms(after)
    folded = bnfold.fold(after)
    assert not folded.plan.batch_norms.refusals
    back = folded.to_proto()
    assert not norms(back)
    ours = {tensor.name: numpy_helper.to_array(tensor) for tensor in before.graph.initializer}
    theirs = [numpy_helper.to_array(tensor) for tensor in back.graph.initializer]
    assert {(a.dtype.str, a.shape, a.tobytes()) for a in theirs} == {
        (a.dtype.str, a.shape, a.tobytes()) for a in ours.values()
    }
    assert [node.op_type for node in back.graph.node] == [node.op_type for node in before.graph.node]


@pytest.mark.parametrize("kind", ["float16", "float"])
@pytest.mark.parametrize("opset", [7, 14, 17])
def test_fold_gives_the_original_weights_bit_for_bit(opset: int, kind: str) -> None:
    assert_folds_back(cnn(kind, opset=opset), after=["Conv"])
    assert_folds_back(mlp(kind, opset=opset), after=["Gemm", "MatMul"])


@pytest.mark.parametrize("special", [-0.0, 1e-45, -1e-40, 3e38])
def test_and_those_that_are_special(special: float) -> None:
    before = cnn()
    for tensor, name in zip(before.graph.initializer, "wbv", strict=True):
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[[0, 2]] = np.float32(special) if name == "b" or abs(special) < 1 else 1
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    assert_folds_back(before, after=["Conv"])


def test_and_one_that_two_layers_share() -> None:
    text = "(float[N,4,5] x) => (float[N,4,5] y) { c = Conv(x, w) r = Relu(c) y = Conv(r, w) }"
    assert_folds_back(model(text, w=noise(4, 4, 1)), after=["Conv"])


def test_and_a_convtranspose_in_groups() -> None:
    text = "(float[N,4,5] x) => (float[N,6,M] y) { c = ConvTranspose <group = 2, strides = [2]> (x, w) y = Relu(c) }"
    assert_folds_back(model(text, w=noise(4, 3, 3)), after=["ConvTranspose"])


def test_what_stood_between_transposes_leaves_the_weights_as_they_were() -> None:
    before = model("(float[N,6,8] x) => (float[N,6,5] y) { m = MatMul(x, w) y = Relu(m) }", w=noise(8, 5))
    _, after = inserted(before, after=["MatMul"])
    back = bnfold.fold(after).to_proto()
    assert not norms(back)
    (weight,) = (numpy_helper.to_array(tensor) for tensor in back.graph.initializer if list(tensor.dims) == [8, 5])
    assert weight.tobytes() == noise(8, 5).tobytes()


# Any network.


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A few layers behind each other, with branches, of the same spatial size."""
    kind = draw(st.sampled_from(["float", "float16"]))
    seed, channels, steps, held = draw(st.integers(0, 99)), draw(st.integers(1, 4)), [], {}
    first = channels
    values = [("x", channels)]
    for place in range(draw(st.integers(1, 5))):
        name, (before, channels) = f"v{place}", draw(st.sampled_from(values))
        step = draw(st.sampled_from(["Conv", "Conv", "Relu", "Neg", "Concat", "Sigmoid"]))
        if step == "Conv":
            wanted = draw(st.integers(1, 4))
            held[f"w{place}"] = noise(wanted, channels, 3, seed=seed + place).astype(TYPES[kind])
            steps.append(f"{name} = Conv <pads = [1,1]> ({before}, w{place})")
            channels = wanted
        elif step == "Concat":
            steps.append(f"{name} = Concat <axis = 1> ({before}, x)")
            channels += first
        else:
            steps.append(f"{name} = {step}({before})")
        values.append((name, channels))
    last, channels = values[-1]
    text = f"({kind}[N,{first},5] x) => ({kind}[N,{channels},5] y) {{ {' '.join(steps)} y = Identity({last}) }}"
    return model(text, opset=draw(st.sampled_from([7, 9, 13, 14, 15, 17, 21])), **held), (3, first, 5)


@given(drawn=networks())
@settings(max_examples=12, deadline=None)
def test_any_network_with_one_everywhere_is_the_same(drawn: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    before, dims = drawn
    result, after = inserted(before, choose=lambda _: True)
    assert result.inserted
    kind = numpy_helper.to_array(before.graph.initializer[0]).dtype if before.graph.initializer else None
    element = helper.tensor_dtype_to_np_dtype(before.graph.input[0].type.tensor_type.elem_type)
    assert kind in {None, element}
    assert_same_numbers(before, after, {"x": noise(*dims, seed=7).astype(element)})
    assert_nothing_else_changed(after, before)
    again = bnfold.insert(result.to_bytes(), choose=lambda _: True)
    assert again.is_unchanged
