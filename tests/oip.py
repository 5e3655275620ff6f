"""Requests of the Open Inference Protocol, made by hand: as raw contents, or as typed ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from crossmedia.inference import grpc_predict_v2_pb2 as pb

PATH = "/inference.GRPCInferenceService/"
REPLIES = {"ModelInfer": pb.ModelInferResponse, "ModelMetadata": pb.ModelMetadataResponse}


@contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as opened:
        yield opened


def call(opened: grpc.Channel, method: str, request: Any, timeout: float = 10, metadata: Any = ()) -> Any:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    ask: Any = opened.unary_unary(PATH + method)
    reply = getattr(pb, f"{method}Response")
    return reply.FromString(ask(data, timeout=timeout, metadata=metadata))


def add(request: pb.ModelInferRequest, name: str, values: Sequence[Any], datatype: str = "", shape: Any = None) -> None:
    """An input, raw."""
    texts = len(values) > 0 and isinstance(values[0], str | bytes)
    datatype = datatype or ("BYTES" if texts else "INT64")
    request.inputs.add(name=name, datatype=datatype, shape=shape or [len(values)])
    if texts:
        encoded = [one.encode() if isinstance(one, str) else one for one in values]
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(one)) + one for one in encoded))
    else:
        dtype = {"INT64": "<i8", "FP32": "<f4", "FP64": "<f8", "INT32": "<i4"}[datatype]
        request.raw_input_contents.append(np.asarray(values, dtype).tobytes())


def infer(inputs: Mapping[str, Sequence[Any]], model: str = "din", **parameters: float) -> pb.ModelInferRequest:
    """A request of these inputs."""
    request = pb.ModelInferRequest(model_name=model)
    for name, values in inputs.items():
        add(request, name, values)
    for name, value in parameters.items():
        field = "int64_param" if isinstance(value, int) else "double_param"
        setattr(request.parameters[name], field, value)
    return request


def output(reply: pb.ModelInferResponse, name: str) -> Any:
    """An output as an array, or a list of texts."""
    number = [one.name for one in reply.outputs].index(name)
    told, data = reply.outputs[number], reply.raw_output_contents[number]
    if told.datatype != "BYTES":
        dtype = {"FP32": "<f4", "UINT8": "u1"}[told.datatype]
        return np.frombuffer(data, dtype).reshape(tuple(told.shape))
    texts, place = [], 0
    while place < len(data):
        (size,) = struct.unpack_from("<I", data, place)
        texts.append(data[place + 4 : place + 4 + size].decode())
        place += 4 + size
    return texts
