r"""Scores by Ray Serve, for who has a Ray cluster already: replicas of one ``Scorer``, by HTTP.

    python examples/ray/serve.py din.pt2 --server localhost:7070 --replicas 2
    curl localhost:8000 -d '{"user": {"user_id": "u1"}, "candidates": {"item_id": ["i1", "i2"]}, "now": 1000}'

Without a cluster ``crossmedia trainer serve`` does more: gRPC, the Open Inference Protocol, switches of models, scores
while the image server is gone. Needs Ray's own packages: pip install "ray[serve]".
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from crossmedia import Scorer
from crossmedia.errors import CrossMediaError


class Scores:
    """A replica: a model, loaded once.

    Args:
        model: a run folder, or an exported file; where every replica sees it.
        server: address of the image server.
    """

    def __init__(self, model: str, server: str):
        self._scorer = Scorer.load(model, server=server, items="", cache_bytes=256 << 20)

    def score(self, body: Any) -> dict[str, Any]:
        """Scores of what came as JSON, and a status of each candidate; or what is wrong with it."""
        if not isinstance(body, dict):
            return {"error": "Give an object with user, candidates and, if it is not now, the time now in seconds."}
        try:
            answer = self._scorer.answer(body.get("user", {}), body.get("candidates", {}), body.get("now"))
        except CrossMediaError as error:
            return {"error": str(error)}
        return {"score": answer.probabilities.tolist(), "status": answer.status.tolist()}

    async def __call__(self, request: Any) -> dict[str, Any]:
        """A request of HTTP."""
        return self.score(await request.json())


def main() -> None:
    """Start the replicas, on the cluster of ``RAY_ADDRESS`` or on this machine, until Ctrl-C."""
    from ray import serve

    parser = argparse.ArgumentParser(description="Scores by Ray Serve.")
    parser.add_argument("model")
    parser.add_argument("--server", default="localhost:7070")
    parser.add_argument("--replicas", type=int, default=2)
    arguments = parser.parse_args()
    deployment: Any = serve.deployment(Scores, num_replicas=arguments.replicas)
    serve.run(deployment.bind(os.path.abspath(arguments.model), arguments.server))
    print("answering at http://localhost:8000", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
