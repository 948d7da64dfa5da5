"""A product of two matrices, written from ONNX's text: MatMul, which multiplies as numpy.matmul does.

Each element is a sum over the columns of the left operand and the rows of the right one. So a scale of a whole row of
the left one, or of a whole column of the right one, is one of the product; a shift is none, but where the rows of the
left one sum to one: each row of the product is a mean of the rows of the right one then.
"""

from __future__ import annotations

from bnfold.equality.claim import Link, UncertainError
from bnfold.equality.constants import Constants, int_of, ints_of
from bnfold.equality.passing import Carried, Passing, anywhere_along
from bnfold.nodes import Node, Value


def product(constants: Constants, node: Node) -> Passing:
    """MatMul: a scale of one operand; of what is mixed by shares a shift as well."""
    shares = node.input(0)
    return Passing(joins="one", shift=shares is not None and are_shares(constants, shares))


def is_mixed(constants: Constants, link: Link) -> bool:
    """Whether what goes by this input of a MatMul is mixed by shares."""
    shares = link.node.input(0)
    return link.data == 1 and shares is not None and are_shares(constants, shares)


def multiplied(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """MatMul: the axis that is summed over brings all its places together; the other operand has another there."""
    del unknown
    known = [None if value is None else constants.sizes(value) for value in link.node.inputs]
    ranks = [len(sizes) for sizes in known if sizes is not None]
    if len(ranks) != 2 or min(*ranks, carried.ndim) < 2:
        raise UncertainError(f"the ranks before {link.node.site} are not known, or one is that of a vector")
    new = (1,) * max(0, max(ranks) - carried.ndim)
    summed = carried.ndim - (1 if link.data == 0 else 2)
    return tuple(part.reshape(new + part.shape) for part in anywhere_along(link, carried, [summed]))


def are_shares(constants: Constants, value: Value) -> bool:
    """Whether the numbers along the last axis of a value sum to one: a Softmax, whose rows may have been moved."""
    node = constants.graph.producer(value)
    while node is not None and node.op != "Softmax":
        before = node.input(0)
        if before is None or node.output(0) is not value or not _moves_rows(constants, node, before, value):
            return False
        value, node = before, constants.graph.producer(before)
    if node is None:
        return False
    axis, sizes = int_of(node, "axis", 1 if node.scope.opset < 13 else -1), constants.sizes(value)
    return axis == -1 or (sizes is not None and axis == len(sizes) - 1)


def _moves_rows(constants: Constants, node: Node, before: Value, after: Value) -> bool:
    sizes = [constants.sizes(value) for value in (before, after)]
    match node.op:
        case "Identity":
            return True
        case "Dropout":
            mode = node.input(2)
            at_inference = node.scope.opset >= 7 or constants.assume_inference or bool(int_of(node, "is_test", 0))
            return at_inference and (node.scope.opset < 12 or mode is None or not any(constants.integers(mode)))
        case "Transpose":
            perm = ints_of(node, "perm")
            return perm is not None and len(perm) > 0 and perm[-1] == len(perm) - 1
        case "Unsqueeze" | "Reshape" | "Flatten":
            last = [None if not known else known[-1] for known in sizes]
            if node.op == "Unsqueeze" and last[0] == 1:
                return False  # whether the last axis is the new one is not plain then
            return last[0] is not None and last[0] > 0 and last[0] == last[1]
        case _:
            return False
