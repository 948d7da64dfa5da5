"""LSTM, GRU and RNN as LinearMaps: what their gates make of the data. Written from ONNX's text.

    gate(Xt*(W[gate]^T) + Ht-1*(R[gate]^T) + Wb[gate] + Rb[gate])

X is [sequence, batch, input], or batch first; W is [directions, gates*hidden, input]; B is
[directions, 2*gates*hidden], Wb before Rb. The cells are the sums in the gates, of which the outputs are no affine.
A GRU with linear_before_reset multiplies Rb by its reset, and not Wb.
"""

from __future__ import annotations

import numpy as np

from bnfold.equality.claim import UncertainError
from bnfold.equality.constants import Constants, text_of
from bnfold.equality.linear import DataSide, LinearMap, dims, shape_of_weight
from bnfold.nodes import Node

_DIMENSIONS = 3
_OF_INPUT = 2
_B = 3


def recurrent(constants: Constants, node: Node, rank: int | None) -> LinearMap:
    """One cell for each row of W in each direction."""
    del rank
    shape = shape_of_weight(constants, node, 1)
    directions = 2 if text_of(node, "direction").lower() == "bidirectional" else 1
    if len(shape) != _DIMENSIONS or shape[0] != directions:
        raise UncertainError(f"the weight of {node.site} has the shape {list(shape)}")
    rows = shape[0] * shape[1]
    cell = np.arange(rows).reshape(shape[0], shape[1], 1)
    of_bias = np.concatenate([cell[:, :, 0], np.full(shape[:2], -1)], axis=1)
    written = dims(constants, node, _B)
    if written is not None and written != of_bias.shape:
        raise UncertainError(f"the bias of {node.site} has the shape {list(written)}")
    data = DataSide(0, (_OF_INPUT,), np.arange(shape[2]).reshape(1, 1, -1), (shape[2],), rank=_DIMENSIONS)
    return LinearMap((1, 1, rows), cell, 1, _B, data=(data,), bias_cell=of_bias)
