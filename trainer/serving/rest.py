"""The REST form of the protocol: paths, and messages as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from crossmedia.errors import InvalidRequest
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.service.http_server import HttpApi, HttpReply, HttpRequest
from crossmedia.trainer.serving.service import ScoringService
from crossmedia.trainer.serving.tensors import BYTES, DTYPES, FIELDS, LENGTH, short

PATHS = {
    "ServerLive": ("GET", re.compile(r"/v2/health/live")),
    "ServerReady": ("GET", re.compile(r"/v2/health/ready")),
    "ServerMetadata": ("GET", re.compile(r"/v2/?")),
    "ModelReady": ("GET", re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/ready")),
    "ModelMetadata": ("GET", re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/?")),
    "ModelInfer": ("POST", re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")),
}
OPEN = ("ServerLive", "ServerReady")  # a probe has no token
PARAMETERS: dict[Any, str] = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


def rest_of(service: ScoringService) -> HttpApi:
    """The REST form of a service."""

    def answer(request: HttpRequest) -> HttpReply:
        route, parts = _route(request.method, request.path)
        name, version = parts.get("name") or "", parts.get("version") or ""
        if route == "ServerLive":
            return HttpReply(_json({"live": True}), 200, route)
        if route == "ServerReady":
            return HttpReply(_json({"ready": service.ready()}), 200 if service.ready() else 503, route)
        if route == "ServerMetadata":
            told = service.server_metadata()
            found = {"name": told.name, "version": told.version, "extensions": [*told.extensions]}
            return HttpReply(_json(found), 200, route)
        if route == "ModelReady":
            service.model(name, version)
            return HttpReply(_json({"name": name, "ready": service.ready()}), 200 if service.ready() else 503, route)
        if route == "ModelMetadata":
            metadata = service.model_metadata(pb.ModelMetadataRequest(name=name, version=version))
            return HttpReply(_json(_metadata(metadata)), 200, route)
        message = message_of(request.body, name, version)
        return HttpReply(_json(_reply(service.infer(message, request.deadline))), 200, route)

    def scope(method: str, path: str) -> str | None:
        return None if _route(method, path)[0] in OPEN else "read"

    return HttpApi("scoring server", answer, scope, lambda text: _json({"error": text}), service.metrics.rpc_duration)


def _route(method: str, path: str) -> tuple[str, dict[str, str | None]]:
    for route, (by, form) in PATHS.items():
        if found := form.fullmatch(path):
            if method != by:
                raise InvalidRequest(f"{path[:200]!r} is asked for by {by}, not by {method}.")
            return route, found.groupdict()
    raise InvalidRequest(
        f"There is no {path[:200]!r} here. Paths begin with /v2: /v2/health/ready, /v2/models/NAME/infer."
    )


def _json(found: Any) -> bytes:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def message_of(body: bytes, name: str, version: str) -> pb.ModelInferRequest:
    """A request in JSON as a message; what it means is checked where the message is.

    Raises:
        InvalidRequest: it is no JSON, or not of the protocol.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request is no JSON: {error}.") from None
    given = _typed("request", found, dict)
    message = pb.ModelInferRequest(model_name=name, model_version=version, id=_typed("id", given.get("id", ""), str))
    for key, value in _typed("parameters", given.get("parameters", {}), dict).items():
        field = PARAMETERS.get(type(value))
        if field is None:
            raise InvalidRequest(f"The parameter {short(key)} must be a number, a text, true or false.")
        _set(message.parameters[key], field, value, f"The parameter {short(key)}")
    for one in _typed("inputs", given.get("inputs", []), list):
        _add_input(message, _typed("inputs", one, dict))
    for one in _typed("outputs", given.get("outputs", []), list):
        message.outputs.add(name=_typed("name", _typed("outputs", one, dict).get("name"), str))
    return message


def _set(message: Any, field: str, value: Any, what: str) -> None:
    try:
        setattr(message, field, value)
    except (ValueError, TypeError):
        raise InvalidRequest(f"{what} is beyond what 64 bits hold.") from None


def _typed(what: str, value: Any, kind: type) -> Any:
    names: dict[Any, str] = {dict: "an object", list: "a list", str: "a text"}
    if not isinstance(value, kind):
        raise InvalidRequest(f"In the JSON {what!r} must be {names[kind]}.")
    if isinstance(value, str) and max(value, default="") >= "\udc00" and any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidRequest(f"In the JSON {what!r} is a text with half a character.")
    return value


def _add_input(message: pb.ModelInferRequest, given: dict[str, Any]) -> None:
    name = _typed("name", given.get("name"), str)
    datatype = _typed("datatype", given.get("datatype"), str)
    shape, data = _typed("shape", given.get("shape"), list), _typed("data", given.get("data"), list)
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**31 for size in shape):
        raise InvalidRequest(f"The shape of the input {short(name)} must be a list of sizes.")
    added = message.inputs.add(name=name, datatype=datatype, shape=shape)
    field = FIELDS.get(datatype)
    if field is None:
        return  # which is refused with the message
    values = [one for row in data for one in (row if isinstance(row, list) else [row])]
    kinds: tuple[type, ...] = (str,) if datatype == BYTES else (bool,) if datatype == "BOOL" else (int,)
    if datatype.startswith("FP"):
        kinds, values = (int, float), [float("nan") if one is None else one for one in values]
    if wrong := [one for one in values if type(one) not in kinds]:
        hint = " Write texts in quotes, or give numbers as INT64." if datatype == BYTES else ""
        raise InvalidRequest(f"The input {short(name)} is of {datatype}; {json.dumps(wrong[0])[:60]} is none.{hint}")
    try:
        getattr(added.contents, field).extend([one.encode() for one in values] if datatype == BYTES else values)
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequest(f"The input {short(name)} has a value that {datatype} cannot hold.") from None


def _metadata(found: pb.ModelMetadataResponse) -> dict[str, Any]:
    tensors = {
        which: [{"name": one.name, "datatype": one.datatype, "shape": [*one.shape]} for one in getattr(found, which)]
        for which in ("inputs", "outputs")
    }
    return {"name": found.name, "versions": [*found.versions], "platform": found.platform} | tensors


def _reply(found: pb.ModelInferResponse) -> dict[str, Any]:
    told: dict[str, Any] = {"model_name": found.model_name, "model_version": found.model_version}
    if found.id:
        told["id"] = found.id
    if found.parameters:
        told["parameters"] = {key: one.string_param for key, one in found.parameters.items()}
    told["outputs"] = [
        {"name": one.name, "datatype": one.datatype, "shape": [*one.shape], "data": _values(one.datatype, data)}
        for one, data in zip(found.outputs, found.raw_output_contents, strict=True)
    ]
    return told


def _values(datatype: str, data: bytes) -> list[Any]:
    if datatype != BYTES:
        return [*np.frombuffer(data, DTYPES[datatype]).tolist()]
    texts, place = [], 0
    while place < len(data):
        start = place + LENGTH.size
        place = start + LENGTH.unpack_from(data, place)[0]
        texts.append(data[start:place].decode())
    return texts
