"""Where the windows of convolutions and pools lie, written from ONNX's text: whether one reads what is padded in.

SAME_UPPER and SAME_LOWER pad so that  out = ceil(in / stride):  (out - 1) * stride + (k - 1) * dilation + 1 - in  in
all if that is above zero, half of it at each end, and an odd rest at the end (UPPER) or at the beginning (LOWER).
"""

from __future__ import annotations

from bnfold.affine import Dim
from bnfold.equality.constants import Constants, int_of, ints_of, text_of
from bnfold.nodes import Node

_WRITTEN = frozenset({"", "NOTSET"})
_AUTOMATIC = frozenset({"SAME_UPPER", "SAME_LOWER"})
Sizes = tuple[int, ...]


def reads_padding(constants: Constants, node: Node, kernel: Sizes) -> bool:
    """Whether a window may lie over a padding, or end behind the data: false only if surely none does."""
    automatic = text_of(node, "auto_pad")
    if any(ints_of(node, "pads") or ()) or automatic not in _WRITTEN | _AUTOMATIC | {"VALID"}:
        return True
    ceiled = int_of(node, "ceil_mode", 0)
    if automatic not in _AUTOMATIC and not ceiled:
        return False
    if automatic in _AUTOMATIC and ceiled:
        return True
    strides, spread = (ints_of(node, name) or (1,) * len(kernel) for name in ("strides", "dilations"))
    data = node.input(0)
    sizes = None if data is None else constants.shapes.proven(data)
    if sizes is None or len(sizes) != len(kernel) + 2:
        sizes = (None,) * (len(kernel) + 2)
    if len(strides) != len(kernel) or len(spread) != len(kernel) or min((*strides, *spread), default=0) < 1:
        return True
    each = zip(kernel, strides, spread, sizes[2:], strict=True)
    if automatic in _AUTOMATIC:
        return any(_is_padded(*axis) for axis in each)
    return any(_ends_behind(*axis) for axis in each)


def _is_padded(size: int, stride: int, step: int, extent: Dim) -> bool:
    """Along one axis, with SAME. With a dilation, runtimes do not agree on what it means."""
    if size == 1:
        return False  # the last window begins inside the data, and ends there
    if not isinstance(extent, int) or step != 1:
        return True
    windows = -(-extent // stride)
    return (windows - 1) * stride + size - extent > 0


def _ends_behind(size: int, stride: int, step: int, extent: Dim) -> bool:
    """Along one axis, without pads, where the number of windows is rounded up."""
    if stride == 1:
        return False
    if not isinstance(extent, int):
        return True
    over = extent - ((size - 1) * step + 1)
    return over < 0 or over % stride != 0


def pads_of(node: Node, kernel: Sizes) -> Sizes | None:
    """What a Conv pads, at the beginning of each axis and then at the end of each; None where it depends on sizes."""
    count, automatic = len(kernel), text_of(node, "auto_pad")
    pads = ints_of(node, "pads") or (0,) * (2 * count)
    if automatic in _WRITTEN:
        return pads if len(pads) == 2 * count else None
    if any(pads):
        return None
    if automatic == "VALID":
        return pads
    single = all(n == 1 for name in ("strides", "dilations") for n in ints_of(node, name) or ())
    if automatic not in _AUTOMATIC or not single:
        return None
    whole = [size - 1 for size in kernel]  # out = in
    less, more = tuple(n // 2 for n in whole), tuple(n - n // 2 for n in whole)
    return less + more if automatic == "SAME_UPPER" else more + less
