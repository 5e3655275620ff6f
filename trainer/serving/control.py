"""A scoring server's models from outside: which it holds, and which are to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from crossmedia.imgserver.client.failures import Server, translated
from crossmedia.imgserver.client.security import ClientSecurity, open_channel
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.logs import REQUEST_ID_KEY, new_request_id
from crossmedia.trainer.serving.api import NAME

LOAD_S = 60.0
SCORER = Server("scoring server", "trainer serve")


@dataclass(frozen=True)
class HeldModel:
    """A model that a server holds.

    Attributes:
        name: by which requests name it.
        version: digits of the digest of its file.
        role: active, canary, shadow or previous, and how far it is from the one before.
    """

    name: str
    version: str
    role: str


class Control:
    """Calls to a scoring server, by TLS and with the token that the environment names.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str):
        self._address, self._security = address, ClientSecurity.from_environment()

    def models(self) -> list[HeldModel]:
        """All that are held.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        told = self._call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        return [HeldModel(one.name, one.version, one.reason) for one in told.models]

    def load(self, name: str, **parameters: str | bool) -> None:
        """Have a model replaced; ``loads.py`` has the parameters.

        Raises:
            CrossMediaError: what the server or the way to it raised.
        """
        request = pb.RepositoryModelLoadRequest(model_name=name)
        for key, value in parameters.items():
            setattr(request.parameters[key], "bool_param" if isinstance(value, bool) else "string_param", value)
        self._call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)

    def _call(self, method: str, request: Any, reply: Any) -> Any:
        number, token = new_request_id(), self._security.token()
        metadata = ((REQUEST_ID_KEY, number), *(token.now() if token else ()))
        with open_channel(self._address, self._security) as channel:
            ask: Any = channel.unary_unary(f"/{NAME}/{method}")
            try:
                data = ask(request.SerializeToString(), timeout=LOAD_S, metadata=metadata)
            except grpc.RpcError as error:
                raise translated(error, self._address, LOAD_S, number, SCORER) from None
        return reply.FromString(data)
