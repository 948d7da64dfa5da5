"""An affine before an Einsum goes into its constant along the labels that both have; behind it, along those it owns.

Labels by what they are, of the data X, the constant W and a third operand V:

    n, t   in X and the result        c, d   in X and W, summed       g   in X, W and the result
    o, p   in W and the result        w      in W, summed             s   in X, summed

A scale goes along c, d and g. A shift goes where it adds one number to each output that W owns: not with g, s or V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from folding_draws import Array, Kind, arrays, examples, statistics
from folding_support import clearly_wrong, constants, fold, inputs, model, proven, refusal, scale_and_shift
from folding_support import weights as w
from forward_support import certified, rounded_once
from hypothesis import event, given
from hypothesis import strategies as st

SIZES = {"n": 2, "t": 3, "c": 3, "d": 2, "g": 2, "o": 4, "p": 2, "w": 2, "s": 3, "v": 3}


@dataclass(frozen=True)
class Product:
    """One Einsum: the terms by operand in the order in which they stand, and where the data may be enlarged."""

    data: str
    weight: str
    other: str
    output: str
    order: tuple[str, ...]
    dots: bool

    @property
    def equation(self) -> str:
        terms = {"x": self.data, "W": self.weight, "V": self.other}
        return ",".join(self.shown(terms[name]) for name in self.order) + "->" + self.shown(self.output)

    def shown(self, term: str) -> str:
        """An ellipsis in place of what X hands on in front."""
        return term.replace("nt", "...") if self.dots else term

    @property
    def text(self) -> str:
        return f'Einsum <equation = "{self.equation}"> ({", ".join("n" if n == "x" else n for n in self.order)})'

    @property
    def shared(self) -> list[str]:
        return [label for label in self.data if label in self.weight]

    @property
    def takes_shift(self) -> bool:
        return not self.other and "g" not in self.data and "s" not in self.data

    def numbers(self, x: Array, weight: Array, other: Array | None) -> Array:
        operands = {"x": x, "W": weight, "V": other}
        terms = {"x": self.data, "W": self.weight, "V": self.other}
        plain = ",".join(terms[name] for name in self.order) + "->" + self.output
        return np.einsum(plain, *(np.asarray(operands[name], np.float64) for name in self.order))


def dims(term: str) -> tuple[int, ...]:
    return tuple(SIZES[label] for label in term)


@st.composite
def products(draw: st.DrawFn) -> Product:
    """Labels of every kind, there or not, in any order in each term."""
    some = {kind: [x for x in labels if draw(st.booleans())] for kind, labels in
            {"kept": "nt", "more": "d", "both": "g", "own": "op", "lone": "w", "lost": "s"}.items()}  # fmt: skip
    if draw(st.integers(0, 2)):
        some["both"] = some["lost"] = []
    dots = some["kept"] == ["n", "t"] and draw(st.booleans())
    kept = ["nt"] if dots else some["kept"]
    other = draw(st.sampled_from(["", "", "", "v", "cv", "s"]))
    other = other if "s" not in other or some["lost"] else ""

    def shuffled(labels: list[str]) -> str:
        return "".join(draw(st.permutations(labels)))

    return Product(
        data=shuffled([*kept, "c", *some["more"], *some["both"], *some["lost"]]),
        weight=shuffled(["c", *some["more"], *some["both"], *some["own"], *some["lone"]]),
        other=other,
        output=shuffled([*kept, *some["both"], *some["own"], *(["v"] * ("v" in other))]),
        order=tuple(draw(st.permutations(["x", "W", *(["V"] * bool(other))]))),
        dots=dots,
    )  # fmt: skip


@st.composite
def before(draw: st.DrawFn, product: Product, kind: Kind) -> tuple[str, dict[str, Array], Array, Array, bool]:
    """An affine of the data: lines, constants, scale and shift that broadcast against X, whether it is a term alone.

    Along one of the shared labels, or along none.
    """
    rank = len(product.data)
    along = draw(st.sampled_from([product.shared[:1], product.shared[-1:], []]))
    form = [SIZES[label] if label in along else 1 for label in product.data]
    one, none = np.ones(form), np.zeros(form)
    if rank > 1 and len(along) == 1 and product.data[1] == along[0] and draw(st.booleans()):
        held = draw(statistics(SIZES[along[0]], kind))
        a, s = (part.reshape(form) for part in scale_and_shift(held))
        return "n = BatchNormalization (x, g, be, m, v)", held, a, s, False
    c = np.asarray(np.abs(draw(arrays(tuple(form), kind.data))) + 0.25).astype(kind.data)
    exact = c.astype(np.float64)
    how = draw(st.sampled_from(["Mul", "Mul", "Sub", "both"]))
    if how == "Mul":
        return "n = Mul (x, k)", {"k": c}, exact, none, False
    if how == "Sub":
        return "n = Sub (x, k)", {"k": c}, one, -exact, True
    return "m = Mul (x, k) n = Sub (m, k)", {"k": c}, exact, -exact, False


@examples(80)
@given(st.data())
def test_an_affine_goes_into_the_constant_along_what_it_shares(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([Kind(np.float32, np.float32, 17), Kind(np.float64, np.float64, 15)]))
    product = data.draw(products())
    lines, tensors, a, s, ends_with_term = data.draw(before(product, kind))
    held = {"W": data.draw(arrays(dims(product.weight), kind.data))}
    held |= {"V": data.draw(arrays(dims(product.other), kind.data))} if product.other else {}
    shape = ",".join(map(str, dims(product.data)))
    text = f"({kind.text}[{shape}] x) => ({kind.text}[] y) {{ {lines} y = {product.text} }}"
    original = model(text, opset=kind.opset, **held, **tensors)
    fan_in = int(np.prod([size for label, size in SIZES.items() if label not in product.output]))
    shifts = bool(np.any(s))
    w64, v64 = held["W"].astype(np.float64), held.get("V")
    added = product.numbers(np.broadcast_to(s, dims(product.data)), w64, v64)
    bounds = product.numbers(np.broadcast_to(np.abs(s), dims(product.data)), np.abs(w64), v64)
    goes = not shifts or (product.takes_shift and not (ends_with_term and np.any(added)))
    event(f"{'shift' if shifts else 'scale'} {'goes' if goes else 'stays'}")
    if not goes:
        codes = [refused.reason.code for refused in fold(original).plan.refusals]
        assert codes, (text, fold(original).ops)
        assert set(codes) <= {"no-gain", "blocked", "axis-not-owned"}, (text, codes)
        proven(original, inputs(original), fan_in, left=len(codes))
        return
    done = proven(original, inputs(original), fan_in)
    assert [move.is_forward for move in done.plan.moves] == [True] * lines.count("=")
    certified(original, done)
    node, *rest = done.proto.graph.node
    assert [node.op_type, *(n.op_type for n in rest)] == ["Einsum"] + ["Add"] * (shifts and bool(np.any(added)))
    new = constants(done.proto)
    name = next(new[i] for i in node.input if i.startswith(("W_folded", "V_folded")))
    if "V_folded" in new:
        return  # the other constant has what is shared as well
    scale = np.einsum(f"{product.data}->{''.join(product.shared)}", np.broadcast_to(a, dims(product.data)))
    copies = np.prod([SIZES[label] for label in product.data if label not in product.shared])
    exact = np.einsum(f"{product.weight},{''.join(product.shared)}->{product.weight}", w64, scale / copies)
    assert np.allclose(name, exact, rtol=2.0**-22 if kind.data is np.float32 else 2.0**-50, atol=0)
    if rest:
        constant = np.broadcast_to(new[rest[0].input[1]], added.shape)
        assert rounded_once(constant, added, bounds)


@pytest.mark.parametrize("weight", ["cdo", "ocd", "dco", "dowc"])
@pytest.mark.parametrize("op", ["norm", "Mul"])
def test_channels_that_a_reshape_splits_lie_along_two_labels(weight: str, op: str) -> None:
    lines = {"norm": "m = BatchNormalization (x, g, be, m, v)", "Mul": "m = Mul (x, k)"}[op]
    held = dict(zip(("g", "be", "m", "v"), norm_of(6, 5), strict=True)) if op == "norm" else {"k": w(6, 1)}
    original = model(
        f"""(float[2,6,3] x) => (float[] y) {{ {lines} n = Reshape (m, to)
        y = Einsum <equation = "ncdt,{weight}->nto"> (n, W) }}""".replace(", m, v", ", mm, v"),
        W=w(*dims(weight)), to=[2, 3, 2, 3], **{"mm" if name == "m" else name: array for name, array in held.items()},
    )  # fmt: skip
    done = proven(original, inputs(original), 12)
    assert done.ops == ["Reshape", "Einsum"] + ["Add"] * (op == "norm")
    certified(original, done)
    a = scale_and_shift(held)[0] if op == "norm" else w(6).astype(np.float64)
    exact = np.einsum(f"{weight},cd->{weight}", w(*dims(weight)).astype(np.float64), a.reshape(3, 2))
    assert rounded_once(constants(done.proto)["W_folded"], exact, 0 * exact)


@pytest.mark.parametrize("weight", ["cop", "poc", "pco"])
def test_what_follows_goes_back_along_all_labels_that_it_owns(weight: str) -> None:
    """A norm of channels that a Reshape makes of two labels."""
    held = dict(zip(("g", "be", "mm", "v"), norm_of(8, 6), strict=True))
    original = model(
        f"""(float[2,3,5] x) => (float[] y) {{ q = Einsum <equation = "nct,{weight}->nopt"> (x, W)
        r = Reshape (q, to) y = BatchNormalization (r, g, be, mm, v) }}""",
        W=w(*dims(weight)), to=[2, 8, 5], **held,
    )  # fmt: skip
    done = proven(original, inputs(original), 3)
    assert done.ops == ["Einsum", "Add", "Reshape"]
    certified(original, done)
    a, s = scale_and_shift(held | {"m": held["mm"]})
    exact = np.einsum(f"{weight},op->{weight}", w(*dims(weight)).astype(np.float64), a.reshape(4, 2))
    assert rounded_once(constants(done.proto)["W_folded"], exact, 0 * exact)
    assert rounded_once(constants(done.proto)[done.proto.graph.node[1].input[1]], s.reshape(4, 2, 1), np.abs(s).max())


def test_a_norm_before_and_one_behind_go_into_one_constant() -> None:
    """The shifts of both end in one Add, of all that the constant owns."""
    after = {f"z{name}": array for name, array in zip(("g", "be", "m", "v"), norm_of(2, 7), strict=True)}
    first = dict(zip(("g", "be", "m", "v"), norm_of(3, 8), strict=True))
    original = model(
        """(float[2,3,5] x) => (float[] y) { n = BatchNormalization (x, g, be, m, v)
        q = Einsum <equation = "nct,cop->npto"> (n, W) y = BatchNormalization (q, zg, zbe, zm, zv) }""",
        W=w(3, 4, 2), **first, **after,
    )  # fmt: skip
    done = proven(original, inputs(original), 3)
    assert [move.is_forward for move in done.plan.moves] == [True, False]
    assert done.ops == ["Einsum", "Add"]
    certified(original, done)
    (a, s), (b, t) = scale_and_shift(first), scale_and_shift(after, "z")
    exact = np.einsum("cop,c,p->cop", w(3, 4, 2).astype(np.float64), a, b)
    assert rounded_once(constants(done.proto)["W_folded"], exact, 0 * exact)
    added = np.einsum("cop,c->po", w(3, 4, 2).astype(np.float64), s) * b[:, None] + t[:, None]
    assert rounded_once(constants(done.proto)[done.proto.graph.node[1].input[1]], added[:, None, :], np.abs(added) + 20)


def norm_of(channels: int, seed: int) -> tuple[Array, ...]:
    random = np.random.default_rng(seed)
    values = (random.uniform(0.5, 2, channels), *random.normal(size=(2, channels)), random.uniform(0.5, 2, channels))
    return tuple(np.asarray(value, np.float32) for value in values)


# What it does not take over.

REFUSED = [
    ("nct,co->nto", "Mul", (1, 1, 3), "axis-not-owned"),  # along what X hands on
    ("nct,co->nto", "Mul", (2, 1, 1), "axis-not-owned"),
    ("ncs,co->no", "Add", (1, 3, 1), "axis-not-owned"),  # summed over s besides: each shift 3 times
    ("ngc,gco->ngo", "Add", (1, 1, 3), "axis-not-owned"),  # one shift for each g
    ("nct,co,o->nto", "Add", (1, 3, 1), "blocked"),  # multiplied by another operand
    ("ncc,co->no", "Mul", (1, 3, 1), "blocked"),  # X's diagonal: exact for a scale, and not looked for
    ("nc,cco->no", "Mul", (3,), "blocked"),  # the constant's diagonal, likewise
    ("nc,cwo->no", "Add", (3,), "no-gain"),
]


@pytest.mark.parametrize(("equation", "op", "form", "code"), REFUSED)
def test_what_is_not_one_number_for_each_output_stays(equation: str, op: str, form: tuple[int, ...], code: str) -> None:
    terms = equation.partition("->")[0].split(",")
    shapes = [dims(term) for term in terms]
    names = ["n", "W", "V"][: len(terms)]
    layer = f'Einsum <equation = "{equation}"> ({{}}, {", ".join(names[1:])})'
    held = dict(zip(names[1:], (w(*shape) for shape in shapes[1:]), strict=True))
    port = f"(float{list(shapes[0])} x) => (float[] y)"
    original = model(f"{port} {{ n = {op} (x, k) y = {layer.format('n')} }}", **held, k=w(*form))
    refusal(original, code, "Einsum", op=op)
    if code == "no-gain" or "cc" in equation:
        return
    wrong = model(f"{port} {{ y = {layer.format('x')} }}", **held)
    if op == "Mul":
        held["W"] = held["W"] * (w(3)[:, None] if max(form) == 3 else 2)
        wrong = model(f"{port} {{ y = {layer.format('x')} }}", **held)
    else:
        added = np.tensordot(held["W"], w(3), (terms[1].index("c"), 0)).reshape(-1, 4)[0]
        wrong = model(f"{port} {{ q = {layer.format('x')} y = Add (q, u) }}", **held, u=added)
    assert clearly_wrong(original, wrong, inputs(original), 9)


def test_a_dimension_of_one_may_be_enlarged_and_takes_no_shift() -> None:
    """What is summed is as long as the data, which the constant's one row meets again and again."""
    body = 'n = {} y = Einsum <equation = "nc,co->no"> (n, W) }}'
    for op, stays in (("Sub (x, k)", True), ("Mul (x, k)", False)):
        original = model(f"(float[2,c] x) => (float[] y) {{ {body.format(op)}", W=w(1, 4), k=np.float32(2))
        done = fold(original)
        assert bool(done.plan.refusals) is stays
        if stays:
            assert done.plan.refusals[0].reason.code == "axis-not-owned"
        else:
            certified(original, done)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [("...c,co->...o", "[2,3,3]"), ("c...,co->o...", "[3,2,2]"), ("a...c,co->a...o", "[2,2,3]"),
     ("...c,co", "[2,3,3]"), ("...c,oc->...o", "[2,4,3]"), (" ...c , co -> o... ", "[2,3,3]")],
)  # fmt: skip
def test_an_ellipsis_in_the_data_is_handed_on(equation: str, shape: str) -> None:
    rank_first = equation.strip().startswith("c")
    k = w(3, 1, 1) if rank_first else w(3)
    body = f'(float{shape} x) => (float[] y) {{ m = Mul (x, k) y = Einsum <equation = "{equation}"> (m, W) }}'
    original = model(body, W=w(4, 3) if "oc" in equation else w(3, 4), k=k)
    done = proven(original, inputs(original), 3)
    assert done.ops == ["Einsum"]
    certified(original, done)


def test_an_ellipsis_that_is_not_in_the_result_or_that_the_constant_has_is_not_followed() -> None:
    for equation, shape in (("...c,co->o", "[1,3]"), ("nc,...co->n...o", "[2,3]")):
        body = f'(float{shape} x) => (float[] y) {{ n = Sub (x, k) y = Einsum <equation = "{equation}"> (n, W) }}'
        original = model(body, W=w(3, 4) if "...co" not in equation else w(1, 3, 4), k=w(3))
        assert fold(original).plan.moves == ()
