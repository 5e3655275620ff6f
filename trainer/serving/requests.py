"""A request of the protocol as a ``Scorer`` takes it: what the user has, what the candidates have, and what is asked.

Legend: C candidates, T behaviours, k entries of a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from crossmedia.errors import InvalidRequest, did_you_mean
from crossmedia.features.columns import HISTORY
from crossmedia.features.reading.request import RequestColumns
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.serving.tensors import BYTES, Tensor, short, tensors_of

MAX_REASONS = 100
PARAMETERS = {"reasons": "whole numbers from 0 to 100", "now": "seconds, a number"}
# What Triton's clients send of themselves, and what they are told about in the reply.
IGNORED = ("priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "binary_data_output")


@dataclass(frozen=True)
class Request:
    """What one user is shown, and what is asked about it.

    Attributes:
        user, candidates: raw values by column, as ``Scorer.score`` takes them.
        count: C.
        now_s: the time of the impression in seconds; None: now.
        reasons: so many of each candidate.
    """

    user: dict[str, Any]
    candidates: dict[str, Any]
    count: int
    now_s: float | None = None
    reasons: int = 0


def count_of(message: pb.ModelInferRequest, columns: RequestColumns, max_candidates: int) -> int:
    """C, as the shapes say, before anything is read; 0 where they do not.

    Args:
        message: as it came.
        columns: that the model knows.
        max_candidates: most C.

    Raises:
        InvalidRequest: there are more.
    """
    shown = {*columns.of_candidates, *columns.of_log}
    count = max((given.shape[0] for given in message.inputs if given.name in shown and given.shape), default=0)
    if count > max_candidates:
        raise InvalidRequest(
            f"The request has {count} candidates; this server takes {max_candidates} at most. Ask in several requests."
        )
    return max(0, count)


def request_of(message: pb.ModelInferRequest, columns: RequestColumns, max_candidates: int) -> Request:
    """Read a message.

    Args:
        message: as it came.
        columns: that the model knows.
        max_candidates: most C.

    Raises:
        InvalidRequest: an input is not what its column takes, or a parameter is unknown; what, where, and what to do.
    """
    tensors = tensors_of(message, 64 * max(max_candidates, 1024))
    own, shown = set(columns.of_user), set(columns.of_candidates)
    user: dict[str, Any] = {}
    candidates: dict[str, Any] = {}
    count: int | None = None
    for name, tensor in tensors.items():
        apart = name in columns.of_log and tensor.shape[0] != 1
        if name not in own and name not in shown:
            known = [*columns.of_candidates, *columns.of_user]
            raise InvalidRequest(
                f"The model has no input {short(name)}.{did_you_mean(name[:60], known)} Its inputs are: "
                f"{', '.join(known)}."
            )
        if name in own and not apart:
            user[name] = _of_behaviours(tensor) if name.startswith(HISTORY) else _of_one(tensor)
            continue
        if count is not None and tensor.shape[0] != count:
            raise tensor.wrong(f"must have {count} rows, one for each candidate, as {next(iter(candidates))!r} has.")
        count = tensor.shape[0]
        candidates[name] = _cells(tensor)
    if not count:
        raise InvalidRequest(
            f"The request has no candidates: give at least one of {', '.join(columns.of_candidates)}, a value for each."
        )
    asked = _parameters(message)
    return Request(user, candidates, count, asked.get("now"), int(asked.get("reasons", 0)))


def _of_one(tensor: Tensor) -> Any:
    """What the user has: one value, or a list of them."""
    if tensor.shape[0] != 1:
        raise tensor.wrong("is of the user: it must have one row, which counts for all candidates.")
    return _cells(tensor)[0].as_py()


def _of_behaviours(tensor: Tensor) -> pa.Array:
    return _cells(tensor)


def _cells(tensor: Tensor) -> pa.Array:
    """A cell a row: a value, or the list of those of its row that are not padding, which is -1 or an empty text."""
    texts = tensor.datatype == BYTES
    if not texts and np.isinf(np.asarray(tensor.values, dtype=np.float64)).any():
        raise tensor.wrong("has an infinite value. Leave out what is unknown: nan, or no such input.")
    flat = pa.array(tensor.values, pa.string()) if texts else pa.array(np.asarray(tensor.values))
    if len(tensor.shape) == 1:
        return flat
    rows, width = tensor.shape
    if width == 0:
        raise tensor.wrong("has rows without a place. Give lists of at least one entry, padded with -1 or empty texts.")
    values = np.asarray(tensor.values, dtype=object if texts else None).reshape(rows, width)
    there = values != ("" if texts else -1)
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat.filter(pa.array(there.reshape(-1))))


def _parameters(message: pb.ModelInferRequest) -> Mapping[str, float]:
    """The parameters of a request that count here.

    Raises:
        InvalidRequest: one is unknown, or is not what it must be.
    """
    found: dict[str, float] = {}
    for name, parameter in message.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name in IGNORED:
            continue
        if name not in PARAMETERS:
            raise InvalidRequest(
                f"There is no parameter {short(name)}.{did_you_mean(name[:60], PARAMETERS)} Those that are read: "
                f"{', '.join(PARAMETERS)}."
            )
        value = getattr(parameter, kind) if kind in ("int64_param", "double_param", "uint64_param") else math.nan
        whole = name == "reasons"
        if not math.isfinite(value) or (whole and (value != int(value) or not 0 <= value <= MAX_REASONS)):
            raise InvalidRequest(f"The parameter {name} must be {PARAMETERS[name]}.")
        found[name] = value
    return found
