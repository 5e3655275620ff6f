"""The messages of a service with ``repeated float``, made here so that no file has to be generated for a comparison."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_INT64, _FLOAT, _REPEATED = 3, 2, 3


def _messages() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="repeated.proto", package="repeated", syntax="proto3")
    for message, field, kind in (("Request", "ids", _INT64), ("Response", "values", _FLOAT)):
        made = file.message_type.add(name=message)
        made.field.add(name=field, number=1, type=kind, label=_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request, response = (pool.FindMessageTypeByName(f"repeated.{name}") for name in ("Request", "Response"))
    return message_factory.GetMessageClass(request), message_factory.GetMessageClass(response)


Request, Response = _messages()
