"""Correct folds of every form that bnfold makes: the certificate refuses none of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from certificate_folds import Fold, array, copied, parameters, parsed, put
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnfold.apply import rewrite
from bnfold.equality.certificate import certify
from bnfold.graph import Graph
from bnfold.model import candidate, read
from bnfold.planning import make_plan
from bnfold.result import claims

ELEMENTS = {"float": "float32", "double": "float64", "float16": "float16"}
NORMALIZED = "n = BatchNormalization(c,g,e,m,v)"


def certified(model: onnx.ModelProto, moves: int = 1) -> Fold:
    """The fold of a model in which so many BNs must go, certified."""
    fold = Fold.of(model)
    assert len(fold.claims) == moves, [refusal.detail for refusal in fold.plan.refusals]
    checked = fold.certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    assert sum(check.numbers for check in checked.homes) > 0
    return fold


def drawn(random: np.random.Generator, element: str, *shape: int) -> np.ndarray:
    return np.asarray(random.standard_normal(shape)).astype(ELEMENTS[element])


@pytest.mark.parametrize("element", ["float", "double", "float16"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_convolutions_of_any_rank_group_and_type(op: str, rank: int, group: int, bias: bool, element: str) -> None:
    random = np.random.default_rng(rank)
    kernel = [3] * (rank - 2)
    shape = (4, 6 // group) if op == "Conv" else (6, 4 // group)
    sizes = ",".join(["1", "6", *["8"] * (rank - 2)])
    unknown = ",".join(["1", "4", *["s"] * (rank - 2)])
    operands = "x,w,b" if bias else "x,w"
    text = f"({element}[{sizes}] x) => ({element}[{unknown}] n) {{ c = {op}<group={group}>({operands}) {NORMALIZED} }}"
    model = put(parsed(text), w=drawn(random, element, *shape, *kernel), b=drawn(random, element, 4))
    certified(put(model, **parameters(random, 4, dtype=ELEMENTS[element])))


SHAPES_OF_C = (None, (), (1,), (4,), (1, 1), (1, 4), (2, 1), (2, 4))


@pytest.mark.parametrize("element", ["float", "double"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.5, 0.3), (0.0, 2.0), (-1.0, 0.0)])
@pytest.mark.parametrize("transposed", ["", "transA=1,", "transB=1,", "transA=1,transB=1,"])
def test_gemms_of_all_forms(transposed: str, alpha: float, beta: float, element: str) -> None:
    random = np.random.default_rng(0)
    rows = "3,2" if "A" in transposed else "2,3"
    weight = drawn(random, element, *((4, 3) if "B" in transposed else (3, 4)))
    for shape in SHAPES_OF_C:
        home = f"Gemm<{transposed}alpha={alpha},beta={beta}>(x,w{'' if shape is None else ',b'})"
        model = parsed(f"({element}[{rows}] x) => ({element}[2,4] n) {{ c = {home} {NORMALIZED} }}")
        put(model, w=weight, **parameters(random, 4, dtype=ELEMENTS[element]))
        certified(model if shape is None else put(model, b=drawn(random, element, *shape)))


@pytest.mark.parametrize("transposed", ["", "transA=1"])
@pytest.mark.parametrize("shape", [None, (), (4, 1), (1, 2), (4, 2)])
def test_a_gemm_whose_first_operand_is_the_weight(shape: tuple[int, ...] | None, transposed: str) -> None:
    random = np.random.default_rng(1)
    operands = "w,x" if shape is None else "w,x,b"
    home = f"Gemm<{transposed}>({operands})" if transposed else f"Gemm({operands})"
    model = parsed(f"(float[3,2] x) => (float[2,4] n) {{ c0 = {home} c = Transpose(c0) {NORMALIZED} }}")
    put(model, w=drawn(random, "float", *((3, 4) if transposed else (4, 3))), **parameters(random, 4))
    certified(model if shape is None else put(model, b=drawn(random, "float", *shape)))


def test_weights_and_scales_that_are_zero_in_every_type() -> None:
    random = np.random.default_rng(2)
    for element, dtype in ELEMENTS.items():
        numbers = parameters(random, 4, dtype=dtype)
        weight = drawn(random, element, 3, 4)
        weight[0, :] = weight[:, 3] = 0
        numbers["g"][1] = 0
        model = parsed(f"({element}[2,3] x) => ({element}[2,4] n) {{ c = Gemm<beta=0.5>(x,w) {NORMALIZED} }}")
        certified(put(model, w=weight, **numbers))
        numbers["e"][:] = numbers["m"][:] = 0
        certified(put(model, **numbers))


@pytest.mark.parametrize("name", ["tiny variance", "huge mean", "huge gamma", "tiny gamma", "huge bias", "cancelling"])
def test_extreme_statistics(name: str) -> None:
    random = np.random.default_rng(3)
    numbers = parameters(random, 4) | {"b": drawn(random, "float", 4), "w": drawn(random, "float", 4, 4, 3)}
    if name == "tiny variance":
        numbers["v"] *= np.float32(1e-20)
    elif name == "huge mean":
        numbers["m"] *= np.float32(1e20)
    elif name == "huge gamma":
        numbers["g"] *= np.float32(1e20)
    elif name == "tiny gamma":
        numbers["g"] *= np.float32(1e-41)
    elif name == "huge bias":
        numbers["b"] *= np.float32(1e25)
    else:  # bias and mean cancel almost, and so do the weights of one channel
        numbers["m"] = np.nextafter(numbers["b"] * np.float32(1e6), np.float32(0))
        numbers["b"] = numbers["b"] * np.float32(1e6)
        numbers["w"][:, 1] = -np.nextafter(numbers["w"][:, 0], np.float32(0))
    model = parsed(f"(float[1,4,8] x) => (float[1,4,6] n) {{ c = Conv(x,w,b) {NORMALIZED} }}")
    certified(put(model, **numbers))


def test_normalizations_in_a_row_compose() -> None:
    random = np.random.default_rng(4)
    chain = "c = Conv(x,w) " + " ".join(
        f"{'c' if k == 0 else f'n{k}'}n = BatchNormalization({value},g{k},e{k},m{k},v{k})"
        for k, value in enumerate(["c", "cn", "n1n"])
    )
    model = parsed(f"(float[1,4,8] x) => (float[1,4,6] n2n) {{ {chain} }}")
    numbers = {name: value for k in range(3) for name, value in parameters(random, 4, str(k)).items()}
    certified(put(model, w=drawn(random, "float", 4, 4, 3), **numbers), moves=3)


CONV = "a = Conv(x,w)"
LAYOUTS = {  # interface, the way to c, the channels of the BN that reads it
    "transposed twice": (
        "(float[N,4,8] x) => (float[N,4,M] n)",
        f"{CONV} t = Transpose<perm=[2,1,0]>(a) c = Transpose<perm=[2,1,0]>(t)",
        4,
    ),
    "squeezed": ("(float[N,4,3] x) => (float[N,4] n)", f"{CONV} c = Squeeze(a,last)", 4),
    "squeezed and unsqueezed": (
        "(float[N,4,3] x) => (float[N,4,1,1] n)",
        f"{CONV} q = Squeeze(a,last) c = Unsqueeze(q,two)",
        4,
    ),
    "reshaped with an unknown batch": ("(float[N,4,8] x) => (float[N,4,2,3] n)", f"{CONV} c = Reshape(a,keep)", 4),
    "reshaped with unknown sizes": ("(float[N,4,M] x) => (float[N,4,1,K] n)", f"{CONV} c = Reshape(a,keep_all)", 4),
    "flattened": ("(float[N,4,3] x) => (float[N,4] n)", f"{CONV} c = Flatten(a)", 4),
    "features split into channels and places": (
        "(float[N,5] x) => (float[N,2,2] n)",
        "a = Gemm(x,wide) c = Reshape(a,split)",
        2,
    ),
    "through operators that do nothing": (
        "(float[N,4,8] x) => (float[N,4,6] n)",
        f"{CONV} i = Identity(a) c = Dropout(i)",
        4,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folds_through_layout_operators(layout: str) -> None:
    interface, way, channels = LAYOUTS[layout]
    random = np.random.default_rng(5)
    axes = {"last": [2], "two": [2, 3], "keep": [0, 4, 2, 3], "keep_all": [0, 4, 1, -1], "split": [-1, 2, 2]}
    model = parsed(f"{interface} {{ {way} {NORMALIZED} }}")
    put(model, w=drawn(random, "float", 4, 4, 3), wide=drawn(random, "float", 5, 4), **parameters(random, channels))
    certified(put(model, **{name: np.array(values) for name, values in axes.items()}))


@pytest.mark.parametrize("layout", ["features split into channels and places", "transposed twice", "squeezed"])
def test_the_same_folds_with_two_channels_exchanged_are_refused(layout: str) -> None:
    interface, way, channels = LAYOUTS[layout]
    random = np.random.default_rng(5)
    model = parsed(f"{interface} {{ {way} {NORMALIZED} }}")
    put(model, w=drawn(random, "float", 4, 4, 3), wide=drawn(random, "float", 5, 4), **parameters(random, channels))
    fold = Fold.of(put(model, last=np.array([2]), split=np.array([-1, 2, 2])))
    exchanged = Fold.of(put(copied(model), **{name: array(model, name)[::-1].copy() for name in "gemv"}))
    assert fold.certificate().holds
    assert exchanged.certificate().holds
    assert fold.certificate(exchanged.after).failed_site == fold.claims[0].homes[0]


def test_a_fold_in_both_branches_of_an_if() -> None:
    random = np.random.default_rng(6)
    branches = ", ".join(
        f"{branch}_branch = {branch} () => (float[1,4,6] n{k}) "
        f"{{ c{k} = Conv(x,w{k}) n{k} = BatchNormalization(c{k},g{k},e{k},m{k},v{k}) }}"
        for k, branch in enumerate(["then", "else"])
    )
    model = parsed(f"(bool p, float[1,4,8] x) => (float[1,4,6] y) {{ y = If(p) <{branches}> }}")
    for k in range(2):
        put(model, **{f"w{k}": drawn(random, "float", 4, 4, 3)}, **parameters(random, 4, str(k)))
    certified(model, moves=2)


def test_a_fold_with_the_constants_inside_the_branch() -> None:
    random = np.random.default_rng(7)
    inner = f"then_branch = a () => (float[1,4,6] n) {{ c = Conv(x,w) {NORMALIZED} }}"
    outer = "else_branch = b () => (float[1,4,6] o) { o = Conv(x,wo) }"
    model = parsed(f"(bool p, float[1,4,8] x) => (float[1,4,6] y) {{ y = If(p) <{inner}, {outer}> }}")
    branch = model.graph.node[0].attribute[0].g
    for name, values in {"w": drawn(random, "float", 4, 4, 3), **parameters(random, 4)}.items():
        branch.initializer.append(numpy_helper.from_array(values, name))
    certified(put(model, wo=drawn(random, "float", 4, 4, 3)))


def test_a_model_of_ir_3_whose_constants_are_inputs() -> None:
    random = np.random.default_rng(8)
    model = parsed(f"(float[1,4,8] x) => (float[1,4,6] n) {{ c = Conv(x,w) {NORMALIZED} }}", opset=8, ir=3)
    put(model, w=drawn(random, "float", 4, 4, 3), **parameters(random, 4))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    fold = certified(model)
    assert [value.name for value in fold.after.graph.input] == ["x", *(t.name for t in fold.after.graph.initializer)]


@pytest.mark.parametrize("stored", ["initializer", "Constant", "computed"])
def test_a_weight_that_another_node_reads_too(stored: str) -> None:
    random = np.random.default_rng(9)
    weight = drawn(random, "float", 4, 4, 3)
    head = "w = Identity(w0)" if stored == "computed" else ""
    text = f"(float[1,4,8] x) => (float[1,4,6] n, float[1,4,6] z) {{ {head} c = Conv(x,w) {NORMALIZED} z = Conv(x,w) }}"
    model = put(parsed(text), **parameters(random, 4))
    if stored == "Constant":
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)))
    else:
        put(model, **{"w0" if stored == "computed" else "w": weight})
    certified(model)


def test_two_layers_that_share_weight_and_normalization() -> None:
    random = np.random.default_rng(10)
    layers = "c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) c2 = Conv(x,w) z = BatchNormalization(c2,g,e,m,v)"
    model = parsed(f"(float[1,4,8] x) => (float[1,4,6] n, float[1,4,6] z) {{ {layers} }}")
    certified(put(model, w=drawn(random, "float", 4, 4, 3), **parameters(random, 4)), moves=2)


def test_a_model_with_large_tensors_where_bnfold_does_not_look() -> None:
    random = np.random.default_rng(11)
    model = parsed(f"(float[1,4,8] x) => (float[1,4,6] n) {{ c = Conv(x,w) {NORMALIZED} }}")
    put(model, w=drawn(random, "float", 4, 4, 3), **parameters(random, 4))
    large = numpy_helper.from_array(np.ones(400, "f"), "large")
    sparse = helper.make_sparse_tensor(large, numpy_helper.from_array(np.arange(400), ""), [500])
    model.graph.sparse_initializer.append(sparse)
    model.graph.node.append(helper.make_node("Constant", [], ["k"], sparse_value=sparse))
    training = model.training_info.add()
    training.algorithm.name = "step"
    training.algorithm.initializer.append(large)
    certified(model)


def on_disk(path: Path, *, outside: bool) -> Path:
    random = np.random.default_rng(12)
    model = parsed(f"(float[1,16,8] x) => (float[1,16,6] n) {{ c = Conv(x,w) {NORMALIZED} }}")
    put(model, w=drawn(random, "float", 16, 16, 3), other=drawn(random, "float", 300), **parameters(random, 16))
    location = f"{path.name}.data" if outside else ""
    onnx.save_model(model, path, save_as_external_data=outside, location=location, size_threshold=16)
    return path


def test_a_model_with_external_data_is_certified_from_its_files(tmp_path: Path) -> None:
    graph = Graph.of(read(on_disk(tmp_path / "m.onnx", outside=True)))
    assert graph.model.has_external_data
    plan = make_plan(graph)
    with candidate(graph.model, rewrite(graph, plan).edits, tmp_path / "out.onnx") as made:
        after = Graph.of(read(made.path))
        assert after.model.has_external_data
        assert certify(graph, after, claims(plan)).holds


@pytest.mark.parametrize("place", [0, 5, 16 * 16 * 3 * 4 - 1])
def test_one_bit_of_external_data_is_seen(tmp_path: Path, place: int) -> None:
    graph = Graph.of(read(on_disk(tmp_path / "m.onnx", outside=True)))
    plan = make_plan(graph)
    with candidate(graph.model, rewrite(graph, plan).edits, tmp_path / "out.onnx") as made:
        assert made.data_path is not None
        data = bytearray(made.data_path.read_bytes())
        data[place] ^= 0x40
        made.data_path.write_bytes(data)
        assert not certify(graph, Graph.of(read(made.path)), claims(plan)).holds


def test_the_storage_of_a_constant_may_change_when_its_content_does_not(tmp_path: Path) -> None:
    inside, outside = on_disk(tmp_path / "a.onnx", outside=False), on_disk(tmp_path / "b.onnx", outside=True)
    assert certify(*(Graph.of(read(path)) for path in (inside, outside)), ()).holds


# Any network of these layers, drawn from a seed.

HOMES = list(product(["Conv", "grouped", "ConvTranspose"], ["", ",b"], [1, 2]))


def network(random: np.random.Generator, element: str) -> onnx.ModelProto:
    """Up to four layers of 4 channels, each with one or two normalizations behind it, statistics over many decades."""
    lines, arrays, value = [], {}, "x"
    number_of = np.dtype(ELEMENTS[element]).type
    for k in range(random.integers(1, 5)):
        home, bias, normalizations = HOMES[random.integers(len(HOMES))]
        op, group = ("Conv", 2) if home == "grouped" else (home, 1)
        operands = f"{value},w{k}" + (f",b{k}" if bias else "")
        lines.append(f"c{k}_0 = {op}<group={group},pads=[1,1]>({operands})")
        arrays[f"w{k}"] = drawn(random, element, 4, 4 // group, 3)
        arrays[f"b{k}"] = drawn(random, element, 4)
        decade = 0 if element == "float16" else random.integers(-6, 7)
        for i in range(normalizations):
            numbers = parameters(random, 4, f"{k}_{i}", ELEMENTS[element])
            numbers[f"g{k}_{i}"] *= number_of(10.0**decade)
            numbers[f"v{k}_{i}"] *= number_of(10.0**-decade)
            arrays |= numbers
            suffix = f"{k}_{i}"
            names = ",".join(f"{name}{suffix}" for name in "gemv")
            lines.append(f"c{k}_{i + 1} = BatchNormalization(c{k}_{i},{names})")
        lines.append(f"r{k} = Tanh(c{k}_{normalizations})")
        value = f"r{k}"
    body = "\n".join(lines)
    return put(parsed(f"({element}[1,4,8] x) => ({element}[1,4,8] y) {{ {body} y = Identity({value}) }}"), **arrays)


@seed(20240501)
@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(ELEMENTS)))
def test_no_correct_fold_of_any_network_is_refused_and_one_wrong_number_of_it_is(number: int, element: str) -> None:
    random = np.random.default_rng(number)
    fold = Fold.of(network(random, element))
    assert fold.certificate().holds
    rewritten = [tensor.name for tensor in fold.after.graph.initializer if "folded" in tensor.name]
    if not rewritten:
        assert element == "float16", "only what would lose precision stays"
        return
    name = rewritten[random.integers(len(rewritten))]
    values = array(fold.after, name)
    number_of = values.dtype.type
    place = random.integers(values.size)
    values.flat[place] = values.flat[place] * number_of(1.01) + number_of(0.001)
    assert not fold.certificate(put(fold.copy(), **{name: values})).holds
