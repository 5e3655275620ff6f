"""The calls of the Open Inference Protocol, as a gRPC server handles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from crossmedia.errors import InvalidRequest
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.service.callers import OnEnd
from crossmedia.service.grpc_server import Answer, Api, Handled
from crossmedia.trainer.serving.service import MAX_MESSAGE, ScoringService

NAME = "inference.GRPCInferenceService"
# Who asks for scores must not choose who gives them.
SCOPES = {
    **dict.fromkeys(("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"), "read"),
    **dict.fromkeys(("ModelInfer", "RepositoryIndex"), "read"),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), "admin"),
}


def api_of(service: ScoringService) -> Api:
    """The methods of a service."""

    def model_ready(request: pb.ModelReadyRequest) -> Message:
        service.model(request.name, request.version)
        return pb.ModelReadyResponse(ready=service.ready())

    calls: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
        "ServerLive": (pb.ServerLiveRequest, lambda request: pb.ServerLiveResponse(live=True)),
        "ServerReady": (pb.ServerReadyRequest, lambda request: pb.ServerReadyResponse(ready=service.ready())),
        "ModelReady": (pb.ModelReadyRequest, model_ready),
        "ServerMetadata": (pb.ServerMetadataRequest, lambda request: service.server_metadata()),
        "ModelMetadata": (pb.ModelMetadataRequest, service.model_metadata),
        "RepositoryIndex": (pb.RepositoryIndexRequest, service.index),
        "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, service.load),
        "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, refuse_unload),
    }
    handled = {name: Handled(kind, _without_deadline(call), SCOPES[name]) for name, (kind, call) in calls.items()}
    handled["ModelInfer"] = Handled(
        pb.ModelInferRequest,
        lambda *call: service.infer(*call).SerializeToString(),
        SCOPES["ModelInfer"],
        service.turns.check,
    )
    return Api(
        title="scoring server",
        name=NAME,
        methods=handled,
        admission=service.admission,
        durations=service.metrics.rpc_duration,
        max_message_bytes=MAX_MESSAGE,
        pool=pb.DESCRIPTOR.pool,
    )


def _without_deadline(call: Callable[[Any], Message]) -> Answer:
    """A call that does not look at its deadline."""

    def answer(request: Any, deadline: float, on_end: OnEnd) -> bytes:
        return call(request).SerializeToString()

    return answer


def refuse_unload(request: pb.RepositoryModelUnloadRequest) -> Message:
    """Refuse to take a model away.

    Raises:
        InvalidRequest: always.
    """
    raise InvalidRequest("A model is not unloaded here: load another one in its place, or stop the server.")
