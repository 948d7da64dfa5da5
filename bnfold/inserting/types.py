"""Types of values inside of functions: what they are wherever the function is called, found by inlining a copy.

A function says nothing of the types of its values. Only where all calls agree on the element type, the rank and the
sizes, there is an answer; sizes that differ between calls are open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnfold.affine import Dim
from bnfold.errors import BnfoldError
from bnfold.graph import Graph
from bnfold.model import edited, without_functions
from bnfold.nodes import Value
from bnfold.observing.marks import Watch, marked, marks_in
from bnfold.ops.facts import Facts
from bnfold.ops.layers import depending_on_data
from bnfold.shapes import Shapes


@dataclass(frozen=True, slots=True)
class Form:
    """The element type (TensorProto's) of a value, its dimensions as far as known, and whether it depends on data."""

    element_type: int
    shape: tuple[Dim, ...] | None
    depends: bool = True


def forms_in_functions(facts: Facts, values: Sequence[Value]) -> dict[int, Form | str]:
    """For each of these values that is a function's, by id: its form, or a sentence that says why there is none."""
    inside = [value for value in values if value.scope.address.function is not None]
    if not inside:
        return {}
    try:
        marks = marked(facts.graph, [Watch(value.id, value, 0) for value in inside])
        graph = Graph.of(without_functions(edited(facts.graph.model, marks)))
    except BnfoldError as error:
        return dict.fromkeys(
            (value.id for value in inside), f"its function cannot be inlined to learn its type: {error}"
        )
    shapes, depending = Shapes(graph), depending_on_data(Facts(graph))
    found: dict[int, list[Form | None]] = {value.id: [] for value in inside}
    for key, node in marks_in(graph):
        value = node.inputs[0]
        element = None if value is None else shapes.element_type(value)
        if value is None or element is None:
            found[key].append(None)
        else:
            found[key].append(Form(element, shapes.shape(value), value.id in depending))
    return {id_: _agreed(forms) for id_, forms in found.items()}


def _agreed(forms: Sequence[Form | None]) -> Form | str:
    if not forms:
        return "its function is called nowhere"
    known = [form for form in forms if form is not None]
    if len(known) < len(forms):
        return "its type is not known where its function is called"
    if len({form.element_type for form in known}) > 1:
        return "its type differs from one call of its function to the next"
    depends = any(form.depends for form in known)
    shapes = [form.shape for form in known if form.shape is not None]
    if len(shapes) < len(known) or len({len(shape) for shape in shapes}) > 1:
        return Form(known[0].element_type, None, depends)
    dims = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
    return Form(known[0].element_type, dims, depends)
