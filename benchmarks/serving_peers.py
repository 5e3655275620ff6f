"""What ``benchmarks.serving`` compares with, each a process of its own: an empty handler, and FastAPI.

    python -m benchmarks.serving_peers empty PORT REPLY
    python -m benchmarks.serving_peers fastapi PORT MODEL IMAGE_SERVER

``empty`` is the scoring server's own gRPC server, whose ModelInfer gives the bytes of the file REPLY. ``fastapi`` is
what people write first: a handler that calls the model with what came as JSON; here with our ``Scorer``, so that what
it computes is the same and the door is compared.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.service.admission import Admission
from crossmedia.service.grpc_server import Api, GrpcServer, Handled
from crossmedia.service.metrics import Metrics
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.serving.api import NAME


class Idle:
    """Work that is always done."""

    timeout_s, alive, last_at = 1.0, True, float("inf")

    def probe(self) -> None:
        """Nothing."""


def empty(port: int, reply: bytes) -> None:
    """Serve one reply until SIGTERM."""
    handled = Handled(pb.ModelInferRequest, lambda *call: reply, "read")
    api = Api(
        "empty server", NAME, {"ModelInfer": handled}, Admission(1 << 30, 1 << 40), Metrics().rpc_duration, 1 << 26
    )
    server = GrpcServer(api, Idle(), 1e9, f"127.0.0.1:{port}")
    server.start()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(1)


def fastapi(port: int, model: str, image_server: str) -> None:
    """Serve the scores of a model by FastAPI and uvicorn."""
    import uvicorn
    from fastapi import FastAPI

    torch.set_num_threads(1)
    app, scorer = FastAPI(), Scorer.load(model, server=image_server, items="")

    def score(body: dict[str, Any]) -> dict[str, Any]:  # in a thread of its pool, as FastAPI advises for such work
        return {"score": scorer.score(body["user"], body["candidates"], body["now"]).tolist()}

    app.add_api_route("/score", score, methods=["POST"])

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    which, at, *rest = sys.argv[1:]
    if which == "empty":
        empty(int(at), Path(rest[0]).read_bytes())
    else:
        fastapi(int(at), rest[0], rest[1])
