"""How many bytes and which typed field each ONNX data type takes.

Invariant: the raw data of n elements are ceil(n * ITEM_BITS / 8) bytes; strings have no raw data and are not listed.
"""

from __future__ import annotations

from onnx import TensorProto

_BITS_BY_NAME = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64, "BOOL": 8,
    "FLOAT16": 16, "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16,
    "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8,
    "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6,
}  # fmt: skip

# By name, because the oldest onnx that is supported does not know the newest types.
ITEM_BITS: dict[int, int] = {
    number: _BITS_BY_NAME[name] for name, number in TensorProto.DataType.items() if name in _BITS_BY_NAME
}

TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")

_FIELD_OF: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data", TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data", TensorProto.UINT64: "uint64_data", TensorProto.UINT32: "uint64_data",
    TensorProto.STRING: "string_data",
}  # fmt: skip


def raw_bytes(data_type: int, count: int) -> int:
    """How many bytes the raw data of `count` elements take."""
    return -(-count * ITEM_BITS[data_type] // 8)


def typed_field(data_type: int) -> str:
    """The field of TensorProto that holds typed data of this type."""
    return _FIELD_OF.get(data_type, "int32_data")


def typed_entries(data_type: int, count: int) -> int:
    """How many entries the typed field of `count` elements has: complex numbers take two, packed types share one."""
    if data_type in {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        return 2 * count
    bits = ITEM_BITS.get(data_type, 8)
    return -(-count * bits // 8) if bits in {2, 4} else count
