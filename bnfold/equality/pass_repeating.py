"""Operators that repeat elements, exchange channels for positions, or hold values in sequences.

Written from ONNX's text. Where the channels of a value go to different positions, what is carried is taken apart: one
array for each of the positions, each of which says "anywhere" of the axes along which it no longer tells. An array that
claims more places than there are is stricter than the truth, for at all of them the affine has to be the same.
"""

from __future__ import annotations

from itertools import product as pairs

import numpy as np

from bnfold.equality.claim import Link, UncertainError
from bnfold.equality.constants import Constants, int_of, text_of
from bnfold.equality.pass_joining import side_by_side
from bnfold.equality.passing import Carried, anywhere_along, first_alone, whole_axis
from bnfold.nodes import Node, Value


def expanded(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Expand: broadcast with a shape; axes of 1 may grow, and new ones come first."""
    del unknown
    first_alone(link)
    shape, sizes = link.node.input(1), constants.sizes(link.source)
    given = None if shape is None else constants.sizes(shape)
    if given is None or len(given) != 1 or given[0] is None:
        raise UncertainError(f"how many dimensions {link.node.site} puts out is not known")
    for axis, size in enumerate(carried.shape):
        if size > 1 and (sizes is None or sizes[axis] not in {None, size}):
            raise UncertainError(f"the sizes before {link.node.site} are not what its producers make them")
    return carried.reshape((1,) * max(0, given[0] - carried.ndim) + carried.shape)


def tiled(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Tile: the value, as often as said along each axis."""
    del unknown
    first_alone(link)
    if link.node.scope.opset < 6:
        raise UncertainError(f"{link.node.site} is of a version that is not followed")
    operand = link.node.input(1)
    if all(size == 1 for size in carried.shape):
        return carried
    repeats = () if operand is None else constants.elements(operand)
    if len(repeats) != carried.ndim:
        raise UncertainError(f"how often {link.node.site} repeats its value is not known")
    needed = [times if size > 1 else 1 for times, size in zip(repeats, carried.shape, strict=True)]
    known = [times for times in needed if isinstance(times, int)]
    if len(known) < len(needed):
        raise UncertainError(f"how often {link.node.site} repeats its value is not known")
    return np.tile(carried, known)


def depth_to_space(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """DepthToSpace: channel (i, j, c), or (c, i, j) in the mode CRD, goes to row i and column j of a block."""
    del constants, unknown
    first_alone(link)
    block = _block(link.node, carried)
    mode = text_of(link.node, "mode") or "DCR"
    if mode not in {"DCR", "CRD"} or (carried.shape[1] != 1 and carried.shape[1] % block**2):
        raise UncertainError(f"{link.node.site} is of a kind that is not followed")
    if carried.shape[1] == 1:
        return (_grown(carried, block),)
    batch, channels, *extents = carried.shape
    form = (block, block, channels // block**2) if mode == "DCR" else (channels // block**2, block, block)
    seen = carried.reshape(batch, *form, *extents)
    parts = (seen[:, i, j] if mode == "DCR" else seen[:, :, i, j] for i, j in pairs(range(block), repeat=2))
    return tuple(_grown(part, block) for part in parts)


def _grown(carried: Carried, block: int) -> Carried:
    """Every place of a block is where its own may have come to."""
    for axis in (2, 3):
        carried = carried if carried.shape[axis] == 1 else carried.repeat(block, axis)
    return carried


def space_to_depth(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """SpaceToDepth: row i and column j of the blocks of channel c become channel (i, j, c)."""
    del constants, unknown
    first_alone(link)
    block = _block(link.node, carried)
    if any(size % block and size != 1 for size in carried.shape[2:]):
        raise UncertainError(f"the sizes before {link.node.site} are not known")
    places = pairs(range(block), repeat=2)
    parts: Carried = np.concatenate([_every(_every(carried, 2, i, block), 3, j, block) for i, j in places], axis=1)
    return parts


def _every(carried: Carried, axis: int, first: int, step: int) -> Carried:
    return carried if carried.shape[axis] == 1 else carried.take(range(first, carried.shape[axis], step), axis)


def _block(node: Node, carried: Carried) -> int:
    block = int_of(node, "blocksize", 0)
    if carried.ndim != 4 or block < 1:
        raise UncertainError(f"{node.site} is of a kind that is not followed")
    return block


# Sequences: what is carried is what is carried with each of its values. If one node makes a sequence and one reads it,
# it is what the latter puts out, where both together are a Concat, or one part of a Split.


def taken_out(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """SequenceAt: one value of a sequence."""
    del constants, unknown
    first_alone(link)
    return carried


def put_in(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """SequenceConstruct: a sequence of the values that it reads."""
    del unknown
    axis = _joined_again(constants, link.node.output(0), carried.ndim)
    return carried if axis is None else side_by_side(constants, link, carried, axis)


def cut(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """SplitToSequence: the parts along an axis, which goes if each part is one thick (and it is not said otherwise)."""
    del unknown
    first_alone(link)
    node = link.node
    axis = int_of(node, "axis", 0) % carried.ndim
    kept = node.input(1) is not None or int_of(node, "keepdims", 1)
    part = part_read(constants, node)
    if part is not None:
        whole = whole_axis(constants, link.source, carried, axis, node)
        own = whole.take(part, axis)
        return (own if kept else own.squeeze(axis),)
    return tuple(part if kept else part.squeeze(axis) for part in anywhere_along(link, carried, [axis]))


def strung(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """ConcatFromSequence: the values side by side, along an axis of theirs or a new one."""
    del unknown
    first_alone(link)
    node = link.node
    if int_of(node, "new_axis", 0):
        return (np.expand_dims(carried, int_of(node, "axis", 0)),)
    if _joined_again(constants, link.source, carried.ndim) is not None:
        return (carried,)
    return anywhere_along(link, carried, [int_of(node, "axis", 0) % carried.ndim])


def part_read(constants: Constants, node: Node) -> range | None:
    """The places along its axis of the only part that is read of what a SplitToSequence cuts; None if not known."""
    reader, data = _only_reader(constants, node.output(0)), node.input(0)
    place = reader.input(1) if reader is not None and reader.op == "SequenceAt" else None
    sizes = None if data is None else constants.sizes(data)
    if node.op != "SplitToSequence" or place is None or constants.shape(place) is None or not sizes:
        return None
    size, at = sizes[int_of(node, "axis", 0) % len(sizes)], int(constants.array(place).reshape(-1)[0])
    parts = None if size is None else _cut_into(constants, node.input(1), size)
    if parts is None or not -len(parts) <= at < len(parts):
        return None
    first = sum(parts[: at % len(parts)])
    return range(first, first + parts[at])


def _cut_into(constants: Constants, said: Value | None, size: int) -> list[int] | None:
    """The sizes of the parts: of one where nothing is said, all of one number (the last may be smaller), or as said."""
    if said is None:
        return [1] * size
    if constants.shape(said) is None:
        return None
    numbers = constants.array(said)
    if not numbers.ndim:
        each = int(numbers)
        return [min(each, size - first) for first in range(0, size, each)] if each > 0 else None
    parts = [int(number) for number in numbers]
    return parts if sum(parts) == size and min(parts) >= 0 else None


def _joined_again(constants: Constants, sequence: Value | None, rank: int) -> int | None:
    """The axis along which all that a SequenceConstruct puts in is joined by the only node that reads it.

    None where it is not known how the values stand there: then all of them have to bear the same.
    """
    made = None if sequence is None else constants.graph.producer(sequence)
    reader = _only_reader(constants, sequence)
    if made is None or reader is None or made.op != "SequenceConstruct" or reader.op != "ConcatFromSequence":
        return None
    axis = int_of(reader, "axis", 0)
    if int_of(reader, "new_axis", 0) or not -rank <= axis < rank:
        return None
    return None if constants.side_by_side(made, rank, axis % rank).unknown else axis % rank


def _only_reader(constants: Constants, sequence: Value | None) -> Node | None:
    """The node that reads a sequence, if there is no other that sees anything of it."""
    readers = [] if sequence is None else constants.graph.readers(sequence)
    if sequence is None or len(readers) != 1 or constants.graph.is_graph_output(sequence):
        return None
    return readers[0].node if readers[0].node.scope is sequence.scope else None
