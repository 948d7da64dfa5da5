from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from conv_nets import WRONG, Layer, fold, folded, layer, original, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import parser

from bnfold.equality import end_to_end, pair
from bnfold.equality.end_to_end import compare
from bnfold.equality.inputs import Batch, random_batches
from bnfold.equality.pair import Outcome
from bnfold.equality.runner import CannotRun, Limits, Runner
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def outcome_of(before: Path, after: Path, runner: Runner, **wishes: object) -> Outcome:
    proto = onnx.load(before, load_external_data=False)
    return compare(before, after, runner=runner, proto=proto, **wishes)


def judged(
    folder: Path,
    runner: Runner,
    layers: list[Layer],
    wrong: Mapping[int, str] | None = None,
    element: str = "float",
) -> Outcome:
    chosen = wrong or {}
    constants = [WRONG[chosen[k]](one) if k in chosen else fold(one) for k, one in enumerate(layers)]
    before = saved(original(layers, element), folder / "before.onnx")
    return outcome_of(before, saved(folded(constants, element), folder / "after.onnx"), runner)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_fold_of_one_layer_is_caught(wrong: str, runner: Runner, tmp_path: Path) -> None:
    outcome = judged(tmp_path, runner, [layer(np.random.default_rng(1))], {0: wrong})
    assert outcome.word == "differs", outcome.sentence
    assert outcome.sentence.startswith("output 'out' on the batch")


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("wrong", sorted(wrong for wrong in WRONG if not wrong.startswith("epsilon")))
def test_a_wrong_fold_in_a_deeper_network_is_caught(wrong: str, place: int, runner: Runner, tmp_path: Path) -> None:
    layers = [layer(np.random.default_rng(seed)) for seed in range(4)]
    assert judged(tmp_path, runner, layers, {place: wrong}).word == "differs"


@pytest.mark.parametrize("element", ["float", "float16"])
@pytest.mark.parametrize(("depth", "seed"), [(1, 0), (1, 1), (1, 2), (10, 0), (10, 1), (10, 2)])
def test_a_correct_fold_is_accepted(depth: int, seed: int, element: str, runner: Runner, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    dtype = {"float": "float32"}.get(element, element)
    outcome = judged(tmp_path, runner, [layer(random, dtype) for _ in range(depth)], element=element)
    assert outcome.word in {"equal", "within"}, outcome.sentence
    assert outcome.end_to_end is not None
    assert outcome.end_to_end.worst is not None
    assert outcome.end_to_end.worst.ratio < 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**20),
    offset=st.sampled_from([0.0, 30.0, -1e3, 1e5]),
    epsilons=st.lists(st.sampled_from([1e-5, 1e-3, 0.1]), min_size=1, max_size=3),
)
def test_correct_folds_of_cancelling_layers_are_accepted(
    seed: int, offset: float, epsilons: list[float], runner: Runner, tmp_path: Path
) -> None:
    random = np.random.default_rng(seed)
    layers = [replace(layer(random, offset=offset), epsilon=epsilon) for epsilon in epsilons]
    outcome = judged(tmp_path, runner, layers)
    assert outcome.word in {"equal", "within"}, outcome.sentence


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**20), wrong=st.sampled_from(sorted(WRONG)))
def test_wrong_folds_of_random_layers_never_pass_for_equal(
    seed: int, wrong: str, runner: Runner, tmp_path: Path
) -> None:
    outcome = judged(tmp_path, runner, [layer(np.random.default_rng(seed))], {0: wrong})
    assert outcome.word == "differs", outcome.sentence


@pytest.mark.parametrize("wrong", ["beta lost", "gamma swapped", "mean negated", "wrong axis"])
def test_wrong_folds_in_fp16_are_caught(wrong: str, runner: Runner, tmp_path: Path) -> None:
    layers = [layer(np.random.default_rng(seed), "float16") for seed in range(2)]
    assert judged(tmp_path, runner, layers, {1: wrong}, "float16").word == "differs"


def test_the_same_file_is_equal(runner: Runner, tmp_path: Path) -> None:
    path = saved(original([layer(np.random.default_rng(0))]), tmp_path / "one.onnx")
    outcome = outcome_of(path, path, runner)
    assert (outcome.word, outcome.sentence) == ("equal", "")
    assert outcome.end_to_end is not None
    assert all(one.equal and one.ratio == 0 and one.snr_db == np.inf for one in outcome.end_to_end.comparisons)


def test_the_counterexample_shows_the_difference(runner: Runner, tmp_path: Path) -> None:
    outcome = judged(tmp_path, runner, [layer(np.random.default_rng(0))], {0: "beta lost"})
    shown = outcome.counterexample
    assert shown is not None
    before = runner.run(tmp_path / "before.onnx", shown.inputs)[shown.output][shown.index]
    after = runner.run(tmp_path / "after.onnx", shown.inputs)[shown.output][shown.index]
    assert (shown.before, shown.after) == (before, after)
    assert abs(shown.after - shown.before) > shown.bound > 0


def test_the_same_seed_gives_the_same_outcome(runner: Runner, tmp_path: Path) -> None:
    layers = [layer(np.random.default_rng(0))]
    first = judged(tmp_path, runner, layers, {0: "epsilon forgotten"})
    with Runner(Limits(threads=1)) as other:
        assert judged(tmp_path, other, layers, {0: "epsilon forgotten"}) == first
    assert str(tmp_path) not in repr(first)


# What is not decided by numbers

IDENTITY = "(float[N,3] x) => (float[N,3] y) { y = Identity (x) }"


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ("(float[N,3] x) => (float[N,3] z) { z = Identity (x) }", "the outputs were 'y' tensor(float) and are 'z'"),
        ("(float[N,3] z) => (float[N,3] y) { y = Identity (z) }", "the inputs were 'x' tensor(float) and are 'z'"),
        ("(float[N,3] x) => (double[N,3] y) { y = Cast <to = 11> (x) }", "are 'y' tensor(double)"),
        ("(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Identity (x) z = Neg (x) }", "'z'"),
        ("(float[N,3] x) => (float[M,P] y) { y = Transpose (x) }", "is float32[2, 3], then float32[3, 2]"),
        (
            "(float[N,3] x) => (float[N,3] y) <int64[2] s = {1,3}> { y = Reshape (x, s) }",
            "onnxruntime runs the original but not the rewritten model",
        ),
        (
            "(float[N,3] x) => (float[N,3] y) { y = NoSuchOperator (x) }",
            "runs the original but not the rewritten model",
        ),
    ],
)
def test_another_interface_differs(after: str, says: str, runner: Runner, write: Callable[..., Path]) -> None:
    outcome = outcome_of(write(IDENTITY, "before.onnx"), write(after, "after.onnx"), runner)
    assert outcome.word == "differs"
    assert says in outcome.sentence


def test_an_original_that_cannot_run_is_undecided(runner: Runner, write: Callable[..., Path]) -> None:
    before = write("(float[N,3] x) => (float[N,3] y) { y = NoSuchOperator (x) }", "before.onnx")
    outcome = outcome_of(before, write(IDENTITY, "after.onnx"), runner)
    assert (outcome.word, outcome.reason, outcome.end_to_end) == ("undecided", "refused", None)
    assert "onnxruntime cannot run the original: " in outcome.sentence


def test_a_limit_is_undecided_on_either_side(write: Callable[..., Path]) -> None:
    small = write("(int64[1] x) => (float[n] y) { y = ConstantOfShape (x) }", "before.onnx")
    big = write(
        "(int64[1] x) => (float[n] y) <int64[1] k = {1099511627776}> { z = Mul (x, k) y = ConstantOfShape (z) }",
        "after.onnx",
    )
    with Runner(Limits(memory=4 << 30)) as runner:
        rewritten = outcome_of(small, big, runner)
        unrunnable = outcome_of(big, small, runner)
    assert (rewritten.word, rewritten.reason) == ("undecided", "memory")
    assert (unrunnable.word, unrunnable.reason) == ("undecided", "memory")


def test_a_random_operator_is_undecided(runner: Runner, write: Callable[..., Path]) -> None:
    text = "(float[N,3] x) => (float[N,3] y) {{ r = RandomNormalLike (x) z = Add (x, r) y = {} (z) }}"
    before, after = write(text.format("Neg"), "before.onnx"), write(text.format("Abs"), "after.onnx")
    outcome = outcome_of(before, after, runner)
    assert (outcome.word, outcome.reason) == ("undecided", "random")
    assert "each time" in outcome.sentence


def test_other_nans_differ(runner: Runner, write: Callable[..., Path]) -> None:
    before = write("(float[N,3] x) => (float[N,3] y) { y = Sqrt (x) }", "before.onnx")
    after = write("(float[N,3] x) => (float[N,3] y) { z = Abs (x) y = Sqrt (z) }", "after.onnx")
    outcome = outcome_of(before, after, runner)
    assert outcome.word == "differs"
    assert "NaN or infinity in other places" in outcome.sentence
    assert outcome.counterexample is not None
    assert outcome.counterexample.before != outcome.counterexample.before
    assert outcome.counterexample.bound == 0


def test_the_same_nans_are_equal_and_counted(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(float[N,3] x) => (float[N,3] y) { y = Sqrt (x) }")
    outcome = outcome_of(path, path, runner)
    assert outcome.word == "equal"
    assert outcome.end_to_end is not None
    (note,) = outcome.end_to_end.notes
    assert "output 'y' of the original is NaN or infinite in " in note
    assert " of 21 elements" in note


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "(float[3] x) => (float[3] y) { s = Mul (x, x) n = Neg (s) y = Log (n) }",
            "output 'y' is not finite everywhere",
        ),
        (
            "(float[3] x) => (float[A] y) <int64[1] n = {0}> { y = Slice (x, n, n) }",
            "output 'y' is empty on every input",
        ),
    ],
)
def test_where_no_output_is_a_number_nothing_was_shown(
    text: str, note: str, runner: Runner, write: Callable[..., Path]
) -> None:
    path = write(text)
    outcome = outcome_of(path, path, runner)
    assert (outcome.word, outcome.reason) == ("undecided", "nothing")
    assert outcome.end_to_end is not None
    assert outcome.end_to_end.notes[0].startswith(note)


def test_nans_hide_no_difference_of_another_output(runner: Runner, write: Callable[..., Path]) -> None:
    text = "(float[3] x) => (float[3] y, float[3] z) {{ s = Mul (x, x) n = Neg (s) y = Log (n) z = {} (x) }}"
    before, after = write(text.format("Neg"), "before.onnx"), write(text.format("Abs"), "after.onnx")
    assert outcome_of(before, before, runner).word == "equal"
    assert outcome_of(before, after, runner).word == "differs"


def test_a_model_without_inputs_is_run_once(runner: Runner, write: Callable[..., Path]) -> None:
    text = "() => (float[2] y) <float[2] w = {{1,{}}}> {{ y = Neg (w) }}"
    before, after = write(text.format(2), "before.onnx"), write(text.format(3), "after.onnx")
    outcome = outcome_of(before, before, runner)
    assert outcome.word == "equal"
    assert outcome.end_to_end is not None
    assert [one.batch for one in outcome.end_to_end.comparisons] == ["no inputs"]
    assert outcome.end_to_end.notes == (
        "the model takes no inputs: its outputs are always the same, and were computed once",
    )
    assert outcome_of(before, after, runner).word == "differs"


def test_without_float_outputs_values_are_equal_or_not(runner: Runner, write: Callable[..., Path]) -> None:
    text = "(float[N,9] x) => (int64[N] y) {{ z = {} (x) y = ArgMax <axis = 1, keepdims = 0> (z) }}"
    before, after = write(text.format("Relu"), "before.onnx"), write(text.format("Neg"), "after.onnx")
    outcome = outcome_of(before, before, runner)
    assert outcome.word == "equal"
    assert outcome.end_to_end is not None
    assert outcome.end_to_end.notes == ("no output is floating point: values were compared for equality alone",)
    assert outcome_of(before, after, runner).word != "equal"


def test_constant_outputs_are_weak_evidence(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Sub (x, x) z = Neg (x) }")
    evidence = outcome_of(path, path, runner).end_to_end
    assert evidence is not None
    assert evidence.notes == ("output 'y' is 0 everywhere on every input tried, which is weak evidence",)


def test_an_output_behind_a_discrete_operator_never_decides(runner: Runner, write: Callable[..., Path]) -> None:
    text = "(float[N,3] x) => (float[N,3] y) <float k = {{{}}}> {{ z = Mul (x, k) y = Round (z) }}"
    outcome = outcome_of(write(text.format(1), "before.onnx"), write(text.format(2), "after.onnx"), runner)
    assert (outcome.word, outcome.reason) == ("undecided", "discrete")
    assert "behind Round" in outcome.sentence
    assert outcome.end_to_end is not None
    assert not any(one.decides for one in outcome.end_to_end.comparisons)


def test_integer_outputs_must_be_equal(runner: Runner, write: Callable[..., Path]) -> None:
    text = "(int64[N,3] x) => (int64[N,3] y) <int64 k = {{{}}}> {{ y = Add (x, k) }}"
    before, after = write(text.format(1), "before.onnx"), write(text.format(2), "after.onnx")
    assert outcome_of(before, before, runner).word == "equal"
    outcome = outcome_of(before, after, runner)
    assert outcome.word == "differs"
    assert outcome.counterexample is not None
    assert outcome.counterexample.after == outcome.counterexample.before + 1


def test_both_branches_of_a_condition_are_run(runner: Runner, write: Callable[..., Path]) -> None:
    text = """(bool c, float[64] x) => (float[64] y) {{ y = If (c) <
        then_branch = t () => (float[64] a) {{ a = Relu (x) }},
        else_branch = e () => (float[64] b) {{ b = {} (x) }}> }}"""
    before, after = write(text.format("Neg"), "before.onnx"), write(text.format("Abs"), "after.onnx")
    assert outcome_of(before, before, runner).word == "equal"
    assert outcome_of(before, after, runner).word == "differs"


def test_an_index_suits_its_table(runner: Runner, write: Callable[..., Path]) -> None:
    text = """(int64[N,4] ids) => (float[N,4,2] y) <float[2,2] table = {{1,2,3,{}}}> {{ y = Gather (table, ids) }}"""
    before, after = write(text.format(4), "before.onnx"), write(text.format(5), "after.onnx")
    assert outcome_of(before, before, runner).word == "equal"
    assert outcome_of(before, after, runner).word == "differs"


def test_a_dimension_is_searched_for(runner: Runner, write: Callable[..., Path]) -> None:
    ones = ",".join(["1"] * 49)
    text = "(float[1,1,H,H] x) => (float[1,1,P,Q] y) <float[1,1,7,7] w = {{{}}}> {{ y = Conv (x, w) }}"
    path = write(text.format(ones))
    outcome = outcome_of(path, path, runner)
    assert outcome.word == "equal"
    assert outcome.end_to_end is not None
    assert {one.batch for one in outcome.end_to_end.comparisons} == {
        f"{distribution}, free dimensions 8" for distribution in ("normal", "wide", "uniform")
    }


def test_a_given_dimension_is_taken(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(float[N,3] x) => (float[M] y) <int64[1] s = {15}> { y = Reshape (x, s) }")
    assert outcome_of(path, path, runner).reason == "inputs"
    assert outcome_of(path, path, runner, dims={"N": 5}).word == "equal"
    with pytest.raises(UsageError, match="no input has a dimension called 'M'; the symbolic dimensions are: 'N'"):
        outcome_of(path, path, runner, dims={"M": 5})


def test_inputs_that_cannot_be_made_up_are_undecided(runner: Runner, write: Callable[..., Path]) -> None:
    path = write("(string[3] x) => (string[3] y) { y = Identity (x) }")
    outcome = outcome_of(path, path, runner)
    assert (outcome.word, outcome.reason) == ("undecided", "inputs")
    assert "input 'x' holds strings" in outcome.sentence


def test_labels_give_accuracy(runner: Runner, tmp_path: Path, write: Callable[..., Path]) -> None:
    scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    np.savez(tmp_path / "data.npz", x=scores, labels=np.array([0, 1, 2, 2, 2]))
    text = "(float[N,3] x) => (float[N,3] y) <float[3] k = {{1,1,{}}}> {{ y = Mul (x, k) }}"
    before, after = write(text.format(1), "before.onnx"), write(text.format(-1), "after.onnx")
    outcome = outcome_of(before, after, runner, data=tmp_path / "data.npz")
    assert outcome.end_to_end is not None
    accuracy = outcome.end_to_end.accuracy
    assert accuracy is not None
    assert (accuracy.before, accuracy.after, accuracy.samples) == (0.6, 0.4, 5)


def test_data_alone_decide_where_random_inputs_are_refused(
    runner: Runner, tmp_path: Path, write: Callable[..., Path]
) -> None:
    np.save(tmp_path / "data.npy", np.ones((5, 3), dtype=np.float32))
    path = write("(float[N,3] x) => (float[M] y) <int64[1] s = {15}> { y = Reshape (x, s) }")
    outcome = outcome_of(path, path, runner, data=tmp_path / "data.npy")
    assert outcome.word == "equal"
    assert outcome.end_to_end is not None
    assert "compared on the given data alone" in outcome.end_to_end.notes[0]


def test_an_old_batch_normalization_is_converted_on_both_sides(runner: Runner, write: Callable[..., Path]) -> None:
    header = "(float[N,2,3,3] x) => (float[N,2,3,3] y) <float[2,2,1,1] w = {{{},0,0,{}}}, float[2] b = {{0,{}}}"
    norm = "c = Conv (x, w, b) y = BatchNormalization <is_test = 1> (c, s, m, m, s)"
    before = header.format(1, 1, 0) + f", float[2] s = {{1,2}}, float[2] m = {{0,1}}> {{ {norm} }}"
    a = [float(np.float32(k / np.sqrt(k + 1e-5))) for k in (1.0, 2.0)]
    after, wrong = (header.format(*a, shift) + "> { y = Conv (x, w, b) }" for shift in (1 - a[1], a[1]))
    before, after, wrong = (write(text, f"{k}.onnx", opset=6) for k, text in enumerate((before, after, wrong)))
    assert outcome_of(before, after, runner).word == "within"
    assert outcome_of(before, wrong, runner).word == "differs"


def test_a_missing_file_is_the_callers_mistake(runner: Runner, tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError):
        outcome_of(write(IDENTITY), tmp_path / "none.onnx", runner)


class Crashing(Runner):
    """Dies whenever it runs the model called `name`, as onnxruntime does on crafted ones."""

    name = "after.onnx"

    def run(self, model: Path, *arguments: object, **options: object) -> dict[str, np.ndarray]:
        if model.name == self.name:
            raise CannotRun("crash", "onnxruntime crashed (SIGSEGV)")
        return super().run(model, *arguments, **options)


def test_a_crash_of_the_rewritten_model_differs(write: Callable[..., Path]) -> None:
    with Crashing() as runner:
        outcome = outcome_of(write(IDENTITY, "before.onnx"), write(IDENTITY, "after.onnx"), runner)
        reverse = outcome_of(write(IDENTITY, "after.onnx"), write(IDENTITY, "before.onnx"), runner)
    assert (outcome.word, outcome.reason) == ("differs", "crash")
    assert (reverse.word, reverse.reason) == ("undecided", "crash")


class Miscompiling(Runner):
    """Another function as soon as graph optimisations are on."""

    def run(self, *arguments: object, **options: object) -> dict[str, np.ndarray]:
        outputs = super().run(*arguments, **options)
        return {name: 1.5 * value for name, value in outputs.items()} if options.get("optimise") else outputs


def test_an_optimiser_that_changes_the_original_is_told_on(write: Callable[..., Path]) -> None:
    path = write(IDENTITY)
    with Miscompiling() as runner:
        outcome = outcome_of(path, path, runner)
    assert outcome.word == "equal"
    assert outcome.end_to_end is not None
    assert outcome.end_to_end.notes[0].startswith("onnxruntime's own optimiser changes the original: output 'y'")


# What is run, and how often.


class Counting(Runner):
    """Counts runs by file, whether optimised, and perturbation."""

    def __init__(self) -> None:
        super().__init__(Limits(timeout=60.0, threads=1))
        self.runs: Counter[tuple[str, bool, int | None]] = Counter()

    def run(self, model: Path, feeds: Mapping[str, np.ndarray], **wishes: object) -> dict[str, np.ndarray]:
        self.runs[model.name, bool(wishes.get("optimise")), wishes.get("perturb")] += 1
        return super().run(model, feeds, **wishes)


def by_a_unit_or_two(write: Callable[..., Path]) -> tuple[Path, Path]:
    """Two models apart by more than rounding their output explains, and less than rounding their constant does."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,1] y) { y = MatMul (x, w) }'
    )
    weight = np.array([[1.0], [-1.0]] * 32, np.float32) + np.arange(64, dtype=np.float32)[:, None] * 2.0**-20
    models = []
    for factor in (1, 1 + 2.0**-23):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer.append(onnx.numpy_helper.from_array(weight * np.float32(factor), "w"))
        models.append(write(copy, f"{len(models)}.onnx"))
    return models[0], models[1]


def test_nothing_is_run_twice_but_for_one_look_at_whether_it_repeats(write: Callable[..., Path]) -> None:
    before, after = by_a_unit_or_two(write)
    with Counting() as runner:
        outcome = outcome_of(before, after, runner)
    assert outcome.word == "within", outcome.sentence
    assert outcome.end_to_end is not None
    batches = len(outcome.end_to_end.comparisons)
    drawn = {perturb: count for (_, _, perturb), count in runner.runs.items() if perturb is not None}
    assert runner.runs[after.name, False, None] == batches
    assert runner.runs[before.name, False, None] == batches + 1
    assert runner.runs[before.name, True, None] == 1
    assert all(count <= batches for count in drawn.values())


def test_an_optimiser_that_rounds_otherwise_is_not_measured_against_draws(write: Callable[..., Path]) -> None:
    class Rounding(Counting):
        def run(self, model: Path, feeds: Mapping[str, np.ndarray], **wishes: object) -> dict[str, np.ndarray]:
            outputs = super().run(model, feeds, **wishes)
            factor = np.float32(1 + 12 * 2.0**-24 if wishes.get("optimise") else 1)
            return {name: value * factor for name, value in outputs.items()}

    path = write(IDENTITY)
    with Rounding() as runner:
        outcome = outcome_of(path, path, runner)
    assert outcome.end_to_end is not None
    assert outcome.end_to_end.notes == ()
    assert {perturb for _, _, perturb in runner.runs} == {None}


def test_what_is_too_much_to_keep_is_run_again_with_the_same_outcome(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = by_a_unit_or_two(write)
    with Counting() as runner:
        kept = outcome_of(before, after, runner)
        few = runner.runs.total()
        monkeypatch.setattr(pair, "_MOST_KEPT", 0)
        assert outcome_of(before, after, runner) == kept
    assert runner.runs.total() > 2 * few


def test_the_optimiser_is_not_tried_on_weights_without_end(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,64] y) { y = Mul (x, w) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(64, np.float32), "w"))
    path = write(model)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="w.bin")
    for most, tried in ((256, True), (255, False)):
        monkeypatch.setattr(end_to_end, "_MOST_OPTIMISED", most)
        with Counting() as runner:
            outcome = outcome_of(path, path, runner)
        assert outcome.end_to_end is not None
        assert any("was not tried" in note for note in outcome.end_to_end.notes) is not tried
        assert runner.runs[path.name, True, None] == tried


class Sites:
    """A comparison site by site that agrees or not, and may have run the original again."""

    def __init__(self, *, agrees: bool, again: Mapping[str, np.ndarray] | None = None) -> None:
        self.agrees, self.outputs = agrees, again or {}

    def again(self, batch: Batch) -> Mapping[str, np.ndarray]:
        del batch
        return self.outputs

    def agree(self, batches: tuple[Batch, ...]) -> bool:
        assert len(batches) == 1
        return self.agrees


@pytest.mark.parametrize(("factor", "agrees", "word", "draws"), [
    (6, False, "undecided", True), (6, True, "within", False), (3, False, "within", True), (3, True, "within", False),
    (40, False, "differs", True), (40, True, "differs", True),
])  # fmt: skip
def test_draws_are_made_where_they_can_decide(
    factor: int, agrees: bool, word: str, draws: bool, write: Callable[..., Path]
) -> None:
    """An output that is so many floors away, of rounding it once."""
    text = "(float[4,64] x) => (float[4,64] y) {{ k = Constant<value = float[1] {{{}}}>() y = Mul(x, k) }}"
    before = write(text.format(1.5), "before.onnx")
    after = write(text.format(1.5 * (1 + 4 * factor * 2.0**-24)), "after.onnx")
    with Counting() as runner:
        outcome = outcome_of(before, after, runner, sites=Sites(agrees=agrees))
    assert outcome.word == word, outcome.sentence
    assert outcome.end_to_end is not None
    notes = [note for note in outcome.end_to_end.notes if "was not drawn, for every site agrees" in note]
    drawn = {perturb for _, _, perturb in runner.runs if perturb is not None}
    assert (bool(drawn), bool(notes)) == (draws, agrees and word == "within" and factor > 4)


def test_what_is_far_apart_differs_though_every_site_agrees(runner: Runner, write: Callable[..., Path]) -> None:
    before = write("(float[N,4] x) => (float[N,4] y) { y = Neg (x) }", "before.onnx")
    after = write("(float[N,4] x) => (float[N,4] y) { y = Abs (x) }", "after.onnx")
    assert outcome_of(before, after, runner, sites=Sites(agrees=True)).word == "differs"


def test_a_run_for_the_sites_shows_that_the_original_repeats_itself(write: Callable[..., Path]) -> None:
    before, after = by_a_unit_or_two(write)
    runs = []
    for shift in (None, 0, 1):
        with Counting() as runner:
            first = random_batches(onnx.load(before), seed=0, dims={})[0]
            again = {} if shift is None else {n: v + shift for n, v in runner.run(before, first.feeds).items()}
            runner.runs.clear()
            outcome = outcome_of(before, after, runner, sites=Sites(agrees=True, again=again))
        assert outcome.word == "within"
        runs.append(runner.runs[before.name, False, None])
    assert runs == [runs[1] + 1, runs[1], runs[1] + 1]
