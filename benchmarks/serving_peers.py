"""What ``benchmarks.serving`` compares with, each a process of its own: an empty handler, FastAPI, and FuxiCTR.

    python -m benchmarks.serving_peers empty PORT REPLY
    python -m benchmarks.serving_peers fastapi PORT MODEL IMAGE_SERVER
    python -m benchmarks.serving_peers fuxictr PORT ITEMS

``empty`` is the scoring server's own gRPC server, whose ModelInfer gives the bytes of the file REPLY. ``fastapi`` is
what people write first: a handler that calls the model with what came as JSON; here with our ``Scorer``, so that what
it computes is the same and the door is compared. ``fuxictr`` is a DIN of FuxiCTR's layers, of our widths, behind our
gRPC server and protocol: ids by dictionaries, what items have and their vectors in arrays in memory, histories padded.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fetch import DIM, make_vectors
from benchmarks.scoring import IMAGES
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.service.admission import Admission
from crossmedia.service.grpc_server import Api, GrpcServer, Handled
from crossmedia.service.metrics import Metrics
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.serving.api import NAME
from crossmedia.trainer.serving.tensors import add_output, tensors_of

WIDTH, USERS, CATEGORIES = 16, 2_000, 100


class Idle:
    """Work that is always done."""

    timeout_s, alive, last_at = 1.0, True, float("inf")

    def probe(self) -> None:
        """Nothing."""


def behind_our_door(port: int, answer: Callable[[pb.ModelInferRequest], bytes]) -> None:
    """Answer ModelInfer until SIGTERM, by the scoring server's own gRPC server."""
    handled = Handled(pb.ModelInferRequest, lambda request, *_: answer(request), "read")
    api = Api("peer", NAME, {"ModelInfer": handled}, Admission(1 << 30, 1 << 40), Metrics().rpc_duration, 1 << 26)
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

    app, scorer = FastAPI(), Scorer.load(model, server=image_server, items="")

    def score(body: dict[str, Any]) -> dict[str, Any]:  # in a thread of its pool, as FastAPI advises for such work
        return {"score": scorer.score(body["user"], body["candidates"], body["now"]).tolist()}

    app.add_api_route("/score", score, methods=["POST"])

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def fuxictr_din(items: int) -> nn.Module:
    """Its attention and its MLP, as its zoo's DIN has them, with a projected vector in each item."""
    from fuxictr.pytorch.layers import DIN_Attention, MLP_Block

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"user": USERS, "item": items, "category": CATEGORIES, "image": IMAGES}
            self.tables = nn.ModuleDict({name: nn.Embedding(size + 1, WIDTH) for name, size in sizes.items()})
            self.project = nn.Linear(DIM, WIDTH)
            self.attention = DIN_Attention(4 * WIDTH, [64, 16], "Dice")
            self.top = MLP_Block(9 * WIDTH, [200, 80], "Dice", output_dim=1, output_activation="sigmoid")

        def of(self, item: Tensor, category: Tensor, image: Tensor, vector: Tensor) -> Tensor:
            ids = {"item": item, "category": category, "image": image}
            return torch.cat([*(self.tables[name](found) for name, found in ids.items()), self.project(vector)], -1)

        def forward(self, user: Tensor, shown: list[Tensor], seen: list[Tensor]) -> Tensor:
            target, history = self.of(*shown), self.of(*seen)
            found: Tensor = self.top(torch.cat([self.tables["user"](user), target, self.attention(target, history)], 1))
            return found

    return Net().eval()


def fuxictr(port: int, table: str) -> None:
    """Serve a DIN of FuxiCTR's layers."""
    import pyarrow.parquet as pq

    read = pq.read_table(table)
    items, categories, images = (read[name].to_numpy() for name in ("item_id", "cate_id", "image_id"))
    places = {str(item): place for place, item in enumerate(items.tolist())}
    vectors, net = make_vectors(IMAGES).astype(np.float32), fuxictr_din(len(items))
    turns = threading.Semaphore(len(os.sched_getaffinity(0)))

    def tensors(ids: list[str], rows: int = 0) -> list[Tensor]:
        """What items have; of behaviours a row for each candidate."""
        place = np.array([places.get(one, 0) for one in ids])
        found = [place, categories[place], images[place], vectors[images[place]]]
        given = map(torch.from_numpy, found)
        return [one.expand(rows, *one.shape).contiguous() if rows else one for one in given]

    def answer(request: pb.ModelInferRequest) -> bytes:
        found: dict[str, Any] = {name: one.values for name, one in tensors_of(request, 1 << 20).items()}
        with turns, torch.inference_mode():
            count = len(found["item_id"])
            user = torch.full((count,), int(found["user_id"][0]) % USERS)
            scores = net(user, tensors(found["item_id"]), tensors(found["hist_item_id"], count))
        reply = pb.ModelInferResponse(model_name=request.model_name)
        add_output(reply, "score", scores[:, 0].numpy())
        return reply.SerializeToString()

    behind_our_door(port, answer)


def main() -> None:
    """Serve what the command line names."""
    torch.set_num_threads(1)
    which, at, *rest = sys.argv[1:]
    if which == "empty":
        reply = Path(rest[0]).read_bytes()
        behind_our_door(int(at), lambda request: reply)
    elif which == "fastapi":
        fastapi(int(at), *rest)
    else:
        fuxictr(int(at), *rest)


if __name__ == "__main__":
    main()
