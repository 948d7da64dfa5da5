"""Windows over positions, and whether one of them may lie over a padding: what convolutions and pools say alike.

With auto_pad SAME there are ceil(n / stride) windows, the last of which begins  r = (n - 1) mod stride + 1  places
before the end of n; so a window of k places needs a padding exactly where k > r. That takes no knowledge of n where k
is 1, or larger than the stride; and with a stride of 1 the padding is k - 1, its odd rest behind (UPPER) or before.
"""

from __future__ import annotations

from enum import Enum

from bnfold.affine import Dim
from bnfold.nodes import Node
from bnfold.ops.facts import Facts
from bnfold.ops.reasons import PADDING, SIZE_UNKNOWN, Obstacle

SAME = frozenset({"SAME_UPPER", "SAME_LOWER"})
Kernel = tuple[int, ...]


class Padded(Enum):
    """Whether a window lies over something that is padded in."""

    NOWHERE = "nowhere"
    SOMEWHERE = "somewhere"
    UNKNOWN = "unknown"
    """It depends on a size that is not known."""


def padded(facts: Facts, node: Node, kernel: Kernel | None) -> Padded:
    """Whether a window of a Conv or pool with this kernel lies over a padding, or hangs over the end."""
    automatic = node.string_attribute("auto_pad", "NOTSET")
    plain = automatic in SAME | {"NOTSET", "VALID"} and not any(node.ints_attribute("pads") or ())
    ceiled = bool(node.int_attribute("ceil_mode", 0))
    if not plain or (ceiled and automatic in SAME):
        return Padded.SOMEWHERE
    if automatic not in SAME and not ceiled:
        return Padded.NOWHERE
    count = len(kernel or ())
    strides, steps = (node.ints_attribute(name) or (1,) * count for name in ("strides", "dilations"))
    if kernel is None or len(strides) != count or len(steps) != count or min((*strides, *steps), default=0) < 1:
        return Padded.SOMEWHERE
    extents = _extents(facts, node, count)
    each = {
        _along(size, stride, step, extent, same=automatic in SAME)
        for size, stride, step, extent in zip(kernel, strides, steps, extents, strict=True)
    }
    return next((found for found in (Padded.SOMEWHERE, Padded.UNKNOWN) if found in each), Padded.NOWHERE)


def _along(size: int, stride: int, step: int, extent: Dim, *, same: bool) -> Padded:
    """Along one axis: with SAME, or else without any padding, where the last window may hang over."""
    if same and size == 1:
        return Padded.NOWHERE
    if same and (step != 1 or size > stride):  # of SAME with a dilation, onnxruntime and others make different things
        return Padded.SOMEWHERE
    if not same and stride == 1:
        return Padded.NOWHERE
    if not isinstance(extent, int):
        return Padded.UNKNOWN
    reach = (size - 1) * step + 1
    fits = reach <= (extent - 1) % stride + 1 if same else extent >= reach and (extent - reach) % stride == 0
    return Padded.NOWHERE if fits else Padded.SOMEWHERE


def _extents(facts: Facts, node: Node, count: int) -> tuple[Dim, ...]:
    """The sizes of the axes over which the windows go, as far as the model's inputs say them."""
    value = node.input(0)
    shape = None if value is None else facts.shapes.proven(value)
    return (None,) * count if shape is None or len(shape) != count + 2 else shape[2:]


def counted_padding(facts: Facts, node: Node) -> Obstacle | None:
    """What keeps a shift from passing an AveragePool: zeros that it counts, or that it may count."""
    if node.op != "AveragePool" or not node.int_attribute("count_include_pad", 0):
        return None
    found = padded(facts, node, node.ints_attribute("kernel_shape"))
    if found is Padded.UNKNOWN:
        return size_unknown(node)
    if found is Padded.NOWHERE:
        return None
    return Obstacle(PADDING, "AveragePool counts the zeros of its padding, which a shift would change", node)


def size_unknown(node: Node) -> Obstacle:
    """Whether a node pads depends on how large its data are."""
    automatic = node.string_attribute("auto_pad", "NOTSET")
    how = f"auto_pad={automatic}" if automatic in SAME else "ceil_mode=1"
    return Obstacle(SIZE_UNKNOWN, f"whether {node.op} pads with {how} depends on a size that is not known", node)


def pads_of(node: Node, kernel: Kernel) -> tuple[int, ...] | None:
    """The padding of a Conv, all axes at the beginning and then all at the end; None where it takes a size to know."""
    automatic, count = node.string_attribute("auto_pad", "NOTSET"), len(kernel)
    written = node.ints_attribute("pads") or (0,) * 2 * count
    if automatic == "NOTSET":
        return written if len(written) == 2 * count else None
    if any(written) or automatic not in SAME | {"VALID"}:
        return None
    if automatic == "VALID":
        return (0,) * 2 * count
    if any(n != 1 for name in ("strides", "dilations") for n in node.ints_attribute(name) or ()):
        return None
    shorter, longer = [(size - 1) // 2 for size in kernel], [size // 2 for size in kernel]
    return (*shorter, *longer) if automatic == "SAME_UPPER" else (*longer, *shorter)
