"""Convolutions of the same data whose outputs are added: where one of them fits into the taps of the other.

    sum over t' of W2[t'] * x[p*stride + t'*d2 - pad2]        a tap t sees the same where t*d1 - pad1 = t'*d2 - pad2

With the same strides and groups, outputs of the same size, and each tap of the one seeing what a tap of the other sees,
the sum of both is one convolution, whatever is padded: zeros are zeros for both.
"""

from __future__ import annotations

from itertools import product

from bnfold.nodes import Node
from bnfold.ops.absorb import Linear
from bnfold.ops.quantized import Dequantized
from bnfold.ops.windows import pads_of

Axis = tuple[int, int, int, int, int]
"""Along one axis: the size of the kernel, its stride, its dilation, and the padding before and behind."""


def is_branch(linear: Linear) -> bool:
    """Whether it is a convolution that may be merged: a Conv with a dense weight and a plain bias, or none."""
    quantized = isinstance(linear.weight, Dequantized) or isinstance(linear.bias, Dequantized)
    return linear.node.op == "Conv" and not quantized


def places_in(wide: Linear, narrow: Linear) -> tuple[int, ...] | None:
    """For each tap of a convolution, in order, the (flat) tap of another that sees the same; None if one has none."""
    if not (is_branch(wide) and is_branch(narrow)) or wide.weight.dims[:2] != narrow.weight.dims[:2]:
        return None
    if wide.groups != narrow.groups or wide.weight.dtype != narrow.weight.dtype:
        return None
    ours, theirs = _axes(wide), _axes(narrow)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    places: list[list[int]] = []
    for one, other in zip(ours, theirs, strict=True):
        found = _along(one, other)
        if found is None:
            return None
        places.append(found)
    return tuple(_flat(index, wide.weight.dims[2:]) for index in product(*places))


def _along(wide: Axis, narrow: Axis) -> list[int] | None:
    """The taps along one axis; None where the sizes of the outputs may differ, or a tap sees what no other does."""
    size, stride, step, first, last = wide
    other, its_stride, its_step, its_first, its_last = narrow
    if stride != its_stride or first + last - step * (size - 1) != its_first + its_last - its_step * (other - 1):
        return None
    offsets = [tap * its_step - its_first + first for tap in range(other)]
    fits = all(offset in range(0, size * step, step) for offset in offsets)
    return [offset // step for offset in offsets] if fits else None


def _axes(linear: Linear) -> list[Axis] | None:
    node, kernel = linear.node, linear.weight.dims[2:]
    pads = pads_of(node, kernel)
    strides, steps = (_ints(node, name, len(kernel), 1) for name in ("strides", "dilations"))
    if pads is None or len(strides) != len(kernel) or len(steps) != len(kernel):
        return None
    if min(pads) < 0 or min(strides) < 1 or min(steps) < 1:
        return None
    return list(zip(kernel, strides, steps, pads[: len(kernel)], pads[len(kernel) :], strict=True))


def _ints(node: Node, name: str, count: int, default: int) -> tuple[int, ...]:
    return node.ints_attribute(name) or (default,) * count


def _flat(index: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    place = 0
    for tap, size in zip(index, kernel, strict=True):
        place = place * size + tap
    return place
