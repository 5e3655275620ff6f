"""Tensors of the Open Inference Protocol: what comes is checked before anything is made of it.

Legend: n values of a tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import InvalidRequest
from crossmedia.inference import grpc_predict_v2_pb2 as pb

BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    **{"BOOL": np.dtype("?"), "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4")},
    **{"INT64": np.dtype("<i8"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4")},
    **{"UINT64": np.dtype("<u8"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")},
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# In which field of ``contents`` the values of a type stand; those of 16-bit floats can only be sent raw.
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
MAX_TEXT = 4096  # bytes of one value
MAX_INPUTS = 1024
Output = npt.NDArray[Any] | Sequence[Sequence[str]] | Sequence[str]  # numbers, or texts, or rows of texts
LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """An input as it came.

    Attributes:
        name: of the column.
        datatype: as the protocol calls it.
        shape: one or two sizes.
        values: numbers, or texts, row after row: n of them.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | list[str]

    def wrong(self, what: str) -> InvalidRequest:
        """An error about it; ``what`` is the rest of the sentence."""
        return InvalidRequest(f"The input {short(self.name)}, {self.datatype} of shape {[*self.shape]}, {what}")


def short(name: str) -> str:
    """A name that a caller chose, as messages have it."""
    return repr(name if len(name) <= 60 else f"{name[:60]}…")


def tensors_of(request: pb.ModelInferRequest, most: int) -> dict[str, Tensor]:
    """The inputs of a request by name.

    Args:
        request: as it came.
        most: values that one of them may have.

    Raises:
        InvalidRequest: one has no name or that of another, is of another type or shape than the protocol allows, is too
            large, or its values do not fit its shape.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(f"The request has {len(inputs)} inputs; give each column once, {MAX_INPUTS} at most.")
    if raw and len(raw) != len(inputs):
        raise InvalidRequest(
            f"The request has {len(inputs)} inputs and {len(raw)} entries of raw_input_contents: give one for each, in "
            f"the same order, or none at all."
        )
    found: dict[str, Tensor] = {}
    for number, given in enumerate(inputs):
        if not given.name or given.name in found:
            has = f"the name {short(given.name)} again" if given.name else "no name"
            raise InvalidRequest(f"Input number {number + 1} has {has}. Give each input the name of its column.")
        empty = Tensor(given.name, given.datatype[:16], tuple(given.shape[:3]), [])
        _check(empty, most)
        if raw and given.HasField("contents"):
            raise empty.wrong("has contents beside raw_input_contents. Give the values once, in one of the two.")
        values = _of_raw(empty, raw[number]) if raw else _of_contents(empty, given.contents)
        found[given.name] = Tensor(empty.name, empty.datatype, empty.shape, values)
    return found


def _check(tensor: Tensor, most: int) -> None:
    if tensor.datatype not in DTYPES and tensor.datatype != BYTES:
        raise tensor.wrong(f"is of no type that is read here: {', '.join([*DTYPES, BYTES])}.")
    if len(tensor.shape) not in (1, 2):
        raise tensor.wrong("must have one size, or two where each cell is a list.")
    if min(tensor.shape) < 0 or math.prod(tensor.shape) > most:
        raise tensor.wrong(f"must have sizes from 0 on and {most} values at most. Send fewer in a request.")


def _of_raw(tensor: Tensor, data: bytes) -> npt.NDArray[Any] | list[str]:
    n = math.prod(tensor.shape)
    if tensor.datatype == BYTES:
        return _texts(tensor, _pieces(tensor, data, n))
    dtype = DTYPES[tensor.datatype]
    if len(data) != n * dtype.itemsize:
        raise tensor.wrong(f"takes {n * dtype.itemsize} bytes of raw_input_contents; {len(data)} came.")
    return np.frombuffer(data, dtype)


def _pieces(tensor: Tensor, data: bytes, n: int) -> list[bytes]:
    """The values of raw BYTES, each behind its length."""
    found, place = [], 0
    for _ in range(n):
        start = place + LENGTH.size
        place = start + (LENGTH.unpack_from(data, place)[0] if start <= len(data) else len(data))
        if place > len(data):
            break
        found.append(data[start:place])
    if place != len(data) or len(found) != n:
        raise tensor.wrong(
            f"must be {n} values in raw_input_contents, each behind its length as 4 bytes; they end at another place."
        )
    return found


def _of_contents(tensor: Tensor, contents: pb.InferTensorContents) -> npt.NDArray[Any] | list[str]:
    field = FIELDS.get(tensor.datatype)
    if field is None:
        raise tensor.wrong("can only be sent in raw_input_contents: the protocol has no other field for this type.")
    if others := [other.name for other, _ in contents.ListFields() if other.name != field]:
        raise tensor.wrong(f"has values in {others[0]}; those of its type stand in {field}.")
    given = getattr(contents, field)
    n = math.prod(tensor.shape)
    if len(given) != n:
        raise tensor.wrong(f"must have {n} values in {field}; {len(given)} came.")
    if tensor.datatype == BYTES:
        return _texts(tensor, given)
    wide, dtype = np.array(given), DTYPES[tensor.datatype]
    narrow = wide.astype(dtype)
    if dtype.kind in "iu" and (narrow != wide).any():
        raise tensor.wrong(f"has a value in {field} that its type cannot hold.")
    return narrow


def _texts(tensor: Tensor, values: Sequence[bytes]) -> list[str]:
    if (longest := max(map(len, values), default=0)) > MAX_TEXT:
        raise tensor.wrong(f"has a value of {longest} bytes; {MAX_TEXT} are read at most.")
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise tensor.wrong(f"has a value that is no UTF-8 text: {error.reason}.") from None


def add_output(reply: pb.ModelInferResponse, name: str, values: Output) -> None:
    """Add an output to a reply, raw.

    Args:
        reply: is added to.
        name: of the output.
        values: an array of numbers; or texts, or rows of texts of one length.
    """
    shape: tuple[int, ...]
    if isinstance(values, np.ndarray):
        datatype, shape, data = NAMES[values.dtype], values.shape, np.ascontiguousarray(values).tobytes()
    else:
        rows = [[one] if isinstance(one, str) else [*one] for one in values]
        flat = [text.encode() for row in rows for text in row]
        nested = bool(len(values)) and not isinstance(values[0], str)
        shape = (len(rows), len(rows[0])) if nested else (len(rows),)
        datatype, data = BYTES, b"".join(LENGTH.pack(len(text)) + text for text in flat)
    reply.outputs.add(name=name, datatype=datatype, shape=shape)
    reply.raw_output_contents.append(data)
