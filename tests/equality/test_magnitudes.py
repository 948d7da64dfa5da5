"""S of every operator that has a rule: never below what rounding can move, and refused where no rule is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from site_models import C, affine, kernel, model, norm

from bnfold.equality.magnitudes import RULES, TERMS
from bnfold.equality.pieces import Source
from bnfold.equality.runner import Runner
from bnfold.equality.site_runs import Region, Side, SiteRuns, Sized
from bnfold.graph import Graph
from bnfold.model import read

U = 2.0**-24
IMAGE = "(float[2,8,6,6] x, float[2,8,6,6] z) => (float[] y)"
TEXTS = {
    "Conv": "y = Conv<pads = [1,1,1,1]>(x,w,b)",
    "ConvTranspose": "y = ConvTranspose<strides = [2,2]>(x,w,b)",
    "Gemm": "f = Flatten(x) y = Gemm<alpha = -0.5, beta = 2.0>(f,d,b)",
    "MatMul": "y = MatMul(x,z)",
    "Einsum": 'y = Einsum<equation = "bchw,bcvw->bchv">(x,z)',
    "Mul": "y = Mul(x,z)",
    "Div": "o = Abs(z) p = Add(o,k) y = Div(x,p)",
    "Add": "y = Add(x,z)",
    "Sub": "y = Sub(x,z)",
    "Sum": "y = Sum(x,z,x)",
    "Mean": "y = Mean(x,z)",
    "Max": "y = Max(x,z)",
    "Min": "y = Min(x,z)",
    "Concat": "y = Concat<axis = 1>(x,z)",
    "BatchNormalization": "y = BatchNormalization(x,g,be,m,v)",
    "LeakyRelu": "y = LeakyRelu<alpha = -3.0>(x)",
    "PRelu": "y = PRelu(x,g3)",
    "Relu": "y = Relu(x)",
    "Neg": "y = Neg(x)",
    "Abs": "y = Abs(x)",
    "Clip": "y = Clip(x,k)",
    "Identity": "y = Identity(x)",
    "Dropout": "y = Dropout(x)",
    "Cast": "h = Cast<to = 11>(x) y = Cast<to = 1>(h)",
    "Where": "c = Greater(x,z) y = Where(c,x,z)",
    "Pad": "y = Pad(x,pads,k)",
    "Split": "y, q = Split<axis = 1>(x)",
    "Reshape": "y = Reshape(x,rows)",
    "Transpose": "y = Transpose<perm = [0,2,3,1]>(x)",
    "Unsqueeze": "y = Unsqueeze(x,one)",
    "Squeeze": "s = Unsqueeze(x,one) y = Squeeze(s,one)",
    "Flatten": "y = Flatten(x)",
    "Slice": "y = Slice(x,one,two,one)",
    "Gather": "y = Gather<axis = 1>(x,one)",
    "Expand": "s = Unsqueeze(x,one) y = Expand(s,wide)",
    "Tile": "y = Tile(x,wide4)",
    "DepthToSpace": "y = DepthToSpace<blocksize = 2>(x)",
    "SpaceToDepth": "y = SpaceToDepth<blocksize = 2>(x)",
    "Resize": 'y = Resize<mode = "linear">(x,,double)',
    "ReduceSum": "y = ReduceSum(x,one)",
    "ReduceMean": "y = ReduceMean<axes = [2,3]>(x)",
    "ReduceMax": "y = ReduceMax<axes = [2]>(x)",
    "ReduceMin": "y = ReduceMin<axes = [2]>(x)",
    "ReduceL1": "y = ReduceL1<axes = [2]>(x)",
    "ReduceL2": "y = ReduceL2<axes = [2]>(x)",
    "AveragePool": "y = AveragePool<kernel_shape = [2,2]>(x)",
    "GlobalAveragePool": "y = GlobalAveragePool(x)",
    "MaxPool": "y = MaxPool<kernel_shape = [2,2]>(x)",
    "GlobalMaxPool": "y = GlobalMaxPool(x)",
    "CumSum": "y = CumSum(x,axis)",
    **{op: f"y = {op}(x)" for op in ("Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "HardSwish", "Erf")},
    "HardSigmoid": "y = HardSigmoid<alpha = 0.9>(x)",
}  # fmt: skip
CONSTANTS = {
    "w": kernel(1), "b": np.linspace(-1, 1, C), "d": kernel(3, C * 36, C), "k": np.array(-0.5),
    "g3": kernel(4, C, 1, 1) * 40,
    "pads": [0, 0, 1, 1, 0, 0, 1, 1], "rows": [2, -1], "one": [1], "two": [3], "wide": [2, 3, 8, 6, 6],
    "wide4": [1, 2, 1, 1], "double": [1.0, 1.0, 2.0, 2.0], "axis": np.array(2),
}  # fmt: skip


def sized(folder: Path, runner: Runner, proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Sized:
    path = folder / "m.onnx"
    onnx.save(proto, path)
    side = Side.of(Source(Graph.of(read(path)), path))
    runs = SiteRuns(side, side, runner)
    region = Region.behind(side.outline, side.outline.names["y"], ())
    return runs.sized([region], runs.values(region.bounds, feeds))[0]


def images() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {name: random.standard_normal((2, 8, 6, 6)).astype(np.float32) * 2 for name in ("x", "z")}


def without_unread(text: str) -> onnx.ModelProto:
    proto = model(f"{IMAGE} {{ {text} }}", **CONSTANTS, **norm())
    read_ = {name for node in proto.graph.node for name in node.input}
    for entries in (proto.graph.initializer, proto.graph.input):
        for entry in [entry for entry in entries if entry.name not in read_]:
            entries.remove(entry)
    return proto


@pytest.mark.parametrize("op", sorted(TEXTS))
def test_s_bounds_what_the_rounding_of_the_operands_does(op: str, tmp_path: Path, runner: Runner) -> None:
    """Moving every operand by 2u of itself moves the result by no more than a few u of S."""
    proto = without_unread(TEXTS[op])
    feeds = {port.name: images()[port.name] for port in proto.graph.input}
    found = sized(tmp_path, runner, proto, feeds)
    assert found.magnitude is not None, found.why
    plain = runner.run(tmp_path / "m.onnx", feeds)["y"].astype(np.float64)
    assert found.magnitude.shape == plain.shape
    assert np.all(found.magnitude >= 0)
    for seed in range(3):
        moved = {
            n: (a * (1 + 2 * U * np.random.default_rng(seed).uniform(-1, 1, a.shape))).astype("f")
            for n, a in feeds.items()
        }
        apart = np.abs(runner.run(tmp_path / "m.onnx", moved, perturb=seed)["y"] - plain)
        bound = (4 * np.sqrt(found.size.terms + found.size.operators) + 8) * max(1, found.size.depth) * U
        assert np.all(apart <= bound * found.magnitude + 1e-30), float(
            np.max(apart / (bound * found.magnitude + 1e-30))
        )


def test_what_a_pad_pads_with_counts_with_its_size_where_it_is_an_attribute(tmp_path: Path, runner: Runner) -> None:
    text = f"{IMAGE} {{ y = Pad<pads = [0,0,1,1,0,0,1,1], value = -0.5>(x) }}"
    proto = model(text, opset=10)
    del proto.graph.input[1:]
    found = sized(tmp_path, runner, proto, {"x": images()["x"]})
    assert found.magnitude is not None
    assert np.all(found.magnitude[:, :, 0] == 0.5)


def test_what_is_enlarged_behind_a_layer_repeats_its_rounding(tmp_path: Path, runner: Runner) -> None:
    for text, repeats in (
        ("c = Conv(x,w,b) y = Resize(c,,double)", 4),
        ("c = Conv(x,w,b) a = GlobalAveragePool(c) y = Add(a,x)", 36),
        ("r = Resize(x,,double) y = Conv(r,w,b)", 1),
        ("y = Resize(x,,double)", 1),
        ("c = Conv(x,w,b) y = Relu(c)", 1),
    ):
        assert sized(tmp_path, runner, without_unread(text), {"x": images()["x"]}).size.repeats == repeats


def test_every_rule_is_tested() -> None:
    untested = {
        "GatherElements",
        "GatherND",
        "Upsample",
        "LpPool",
        "GlobalLpPool",
        "Trilu",
        "Celu",
        "Gelu",
        "Mish",
        "Sin",
        "Cos",
        "Atan",
    }
    assert set(RULES) - set(TEXTS) == untested, "relatives of tested ones by the same rule"
    assert set(TERMS) <= set(RULES)


def test_s_of_a_normalised_layer_is_the_one_of_the_text(tmp_path: Path, runner: Runner) -> None:
    """S = |a|*(|W|*|x| + |b| + |mean|) + |beta|."""
    proto = without_unread("c = Conv(x,w,b) y = BatchNormalization(c,g,be,m,v)")
    x = images()["x"]
    found = sized(tmp_path, runner, proto, {"x": x})
    positive = model(
        "(float[2,8,6,6] x) => (float[] y) { y = Conv(x,w,b) }", w=np.abs(kernel(1)), b=np.abs(CONSTANTS["b"])
    )
    onnx.save(positive, tmp_path / "p.onnx")
    terms = runner.run(tmp_path / "p.onnx", {"x": np.abs(x)})["y"].astype(np.float64)
    scale, _ = affine(norm())
    column = {name: np.abs(value).reshape(-1, 1, 1) for name, value in norm().items()}
    expected = np.abs(scale).reshape(-1, 1, 1) * (terms + column["m"]) + column["be"]
    assert found.magnitude is not None
    assert np.max(np.abs(found.magnitude / expected - 1)) < 1e-5
    assert (found.size.terms, found.size.operators, found.size.depth) == (72, 2, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("y = Softmax(x)", "Softmax"),
        ("y, mm, vv = BatchNormalization<training_mode = 1>(x,g,be,m,v)", "training mode"),
        ("i = Cast<to = 7>(x) y = Cast<to = 1>(i)", "Cast to integers"),
        ("s = Softmax(x) y = Add(s,z)", "Softmax"),
    ],
)
def test_what_has_no_rule_has_no_s(text: str, why: str, tmp_path: Path, runner: Runner) -> None:
    proto = without_unread(text)
    found = sized(tmp_path, runner, proto, {port.name: images()[port.name] for port in proto.graph.input})
    assert found.magnitude is None
    assert why in found.why
