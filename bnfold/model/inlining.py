"""A model whose own functions are inlined by onnx's inliner: what they hold stands in the main graph then.

Invariant: the outcome holds no function and no call of one, or there is InputRefused. The inliner sees the skeleton;
the payloads are put back in afterwards, and external data stay where they are. Three things are done for it: a call
is given the defaults of the attributes that it leaves out, and the model the opsets that only a function names (the
inliner overlooks both, and the outcome means something else or nothing); and what would explode is refused before,
for each of a hundred functions may call the next one twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, inliner
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError
from onnx.version_converter import ConvertError

from bnfold.errors import InputRefused
from bnfold.model.content import Held, Woven
from bnfold.model.modelfile import ModelFile
from bnfold.model.relocate import restored
from bnfold.model.source import reopened
from bnfold.model.splice import check_size
from bnfold.model.tensors import nested_graphs

MOST_NODES = 1 << 20
"""Beyond this many nodes a model is refused: the largest networks exported today have a tenth of it."""

Key = tuple[str, str, str]


def without_functions(model: ModelFile) -> ModelFile:
    """The model with its functions inlined; the same model where it has none. Raises InputRefused, CannotWrite."""
    if not model.proto.functions:
        return model
    title = "the model" if model.path is None else repr(str(model.path))
    try:
        plain = _inlined(model.proto)
    except _CannotInlineError as error:
        raise InputRefused(f"the functions of {title} cannot be inlined: {error}") from error
    content = restored(Held(plain.SerializeToString(deterministic=True)), model)
    check_size(content)
    try:
        return reopened(Woven(content, model.storage.content), model.path)
    except InputRefused as error:
        raise InputRefused(f"the functions of {title} cannot be inlined: what comes out is broken: {error}") from error


def function_names(model: ModelProto) -> tuple[str, ...]:
    """The functions of a model, as a person would write them."""
    return tuple(_called(_key(f.domain, f.name, f.overload)) for f in model.functions)


class _CannotInlineError(Exception):
    """The sentence says which function, and why."""


def _inlined(model: ModelProto) -> ModelProto:
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    _check_growth(model, functions)
    whole = ModelProto()
    whole.CopyFrom(model)
    _give_defaults(whole)
    _give_opsets(whole)
    # Without conversion first: with it the inliner needs to know every type, and does not know an initializer's.
    done = _by_onnx(whole, convert=False)
    if done.functions:
        done = _by_onnx(whole, convert=True)
    left = next((key for node in _every_node(done) if (key := _callee(node)) in functions), None)
    if left is not None or done.functions:
        name = _called(left) if left is not None else function_names(done)[0]
        raise _CannotInlineError(f"onnx's inliner leaves {name} as it is (another opset than the model's, perhaps)")
    return done


def _by_onnx(model: ModelProto, *, convert: bool) -> ModelProto:
    try:
        done: ModelProto = inliner.inline_local_functions(model, convert_version=convert)
    except (RuntimeError, ValueError, ValidationError, InferenceError, ConvertError) as error:
        reason = " ".join(str(error).split()).encode("unicode_escape").decode()
        raise _CannotInlineError(f"onnx's inliner fails: {reason}") from error
    return done


def _check_growth(model: ModelProto, functions: dict[Key, FunctionProto]) -> None:
    """Refuse functions that call themselves, and those that make more than MOST_NODES nodes, without inlining any."""
    calls = {key: Counter(map(_callee, _nodes(function))) for key, function in functions.items()}
    sorter = TopologicalSorter({key: set(called) & functions.keys() for key, called in calls.items()})
    sizes: dict[Key, int] = {}
    try:
        for key in sorter.static_order():
            sizes[key] = _size(calls[key], sizes)
    except CycleError as error:
        raise _CannotInlineError(f"{_called(error.args[1][0])} calls itself") from error
    size = _size(Counter(map(_callee, _nodes(model.graph))), sizes)
    if size > MOST_NODES:
        raise _CannotInlineError(f"that would make {size:,} nodes, more than {MOST_NODES:,}")


def _size(calls: Counter[Key], sizes: dict[Key, int]) -> int:
    return sum(count * sizes.get(key, 1) for key, count in calls.items())


def _give_defaults(model: ModelProto) -> None:
    """Write at each call the attributes that it leaves to the function's defaults."""
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    for node in _nodes(model.graph):
        _complete(node, functions.get(_callee(node)), frozenset())
    for holder in model.functions:
        unsure = frozenset(holder.attribute)
        for node in _nodes(holder):
            _complete(node, functions.get(_callee(node)), unsure)


def _complete(call: NodeProto, function: FunctionProto | None, unsure: frozenset[str]) -> None:
    """Give a call its defaults. `unsure` are attributes of the calling function that its caller may leave out."""
    if function is None:
        return
    given = {attribute.name: attribute for attribute in call.attribute}
    for default in function.attribute_proto:
        if default.name not in given:
            call.attribute.add().CopyFrom(default)
        elif given[default.name].ref_attr_name in unsure:
            name = _called(_callee(call))
            raise _CannotInlineError(f"whether {name} takes the default of {default.name!r} depends on an outer call")


def _give_opsets(model: ModelProto) -> None:
    """Name the opsets of domains that only functions use; where two disagree, the inliner leaves one of them alone."""
    named = {_domain(entry.domain) for entry in model.opset_import}
    for entry in (entry for function in model.functions for entry in function.opset_import):
        if _domain(entry.domain) not in named:
            model.opset_import.add().CopyFrom(entry)
            named.add(_domain(entry.domain))


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _key(domain: str, name: str, overload: str) -> Key:
    return _domain(domain), name, overload


def _callee(node: NodeProto) -> Key:
    return _key(node.domain, node.op_type, node.overload)


def _called(key: Key) -> str:
    domain, name, overload = key
    return ".".join(part for part in (domain, name) if part) + (f":{overload}" if overload else "")


def _every_node(model: ModelProto) -> Iterator[NodeProto]:
    yield from _nodes(model.graph)
    for training in model.training_info:
        yield from _nodes(training.initialization)
        yield from _nodes(training.algorithm)


def _nodes(holder: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """The nodes of a graph or function, those of nested graphs included."""
    pending = list(holder.node)
    while pending:
        node = pending.pop()
        yield node
        pending += [inner for attribute in node.attribute for inner in _inside(attribute)]


def _inside(attribute: AttributeProto) -> Iterator[NodeProto]:
    for graph in nested_graphs(attribute):
        yield from graph.node
