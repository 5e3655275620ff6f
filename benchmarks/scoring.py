"""How long does a request of 200 candidates take, with Rocket's light net and with its booster?

    python -m benchmarks.scoring

A Rocket is trained for a moment over a generated log with images (its weights do not matter here), and both of its nets
answer the same requests through ``Scorer``: raw values in, vectors by image id from an image server, or from the cache
of its client, probabilities out. Printed: median and 99th percentile of a request, the median of the part of it that
the vectors take, and the multiplications of matrix products a request. ``--light`` and ``--booster`` choose the nets.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fetch import make_store, make_vectors
from benchmarks.parts import daemon, finish
from benchmarks.train import ITEMS, make_samples
from crossmedia.allocator import keep_freed_memory
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import ImageClient, Vectors
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.models.rocket import Rocket
from crossmedia.trainer.runs.checkpoint import load_model
from crossmedia.trainer.scorer import Scorer

IMAGES, BEHAVIOURS = 10_000, 50
CACHE_BYTES, CACHED = 4_000_000, ", cached"


def requests(count: int, candidates: int) -> list[tuple[dict[str, Any], dict[str, list[Any]]]]:
    """Users with 50 behaviours, and their candidates, as raw values."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        items, shown = rng.integers(0, ITEMS, BEHAVIOURS), rng.integers(0, ITEMS, candidates)
        user = {
            "user_id": str(rng.integers(0, 100)),
            "hist_item_id": items.tolist(),
            "hist_cate_id": rng.integers(0, 100, BEHAVIOURS).tolist(),
            "hist_image_id": items.tolist(),
            "hist_action": ["click"] * BEHAVIOURS,
            "hist_time": np.arange(BEHAVIOURS).tolist(),
        }
        cates = rng.integers(0, 100, candidates).tolist()
        found.append((user, {"item_id": shown.tolist(), "cate_id": cates, "image_id": shown.tolist()}))
    return found


class TimedClient(ImageClient):
    """Notes the seconds of each fetch."""

    waited = 0.0

    def get(self, image_ids: Any, timeout_s: float | None = None, version: str | None = None) -> Vectors:
        """As ``ImageClient.get``."""
        started = time.perf_counter()
        try:
            return super().get(image_ids, timeout_s, version)
        finally:
            self.waited += time.perf_counter() - started


def main() -> None:
    """Answer the requests with each net, in turn."""
    parser = argparse.ArgumentParser(description="Latency of a request, light net beside booster.")
    parser.add_argument("--light", default="embedding_mlp")
    parser.add_argument("--booster", default="din")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--quick", action="store_true", help="100 requests")
    arguments = parser.parse_args()
    count = 100 if arguments.quick else arguments.requests
    keep_freed_memory()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_store(folder / "store", make_vectors(IMAGES))
        make_samples(folder / "data", BEHAVIOURS, 6_000, IMAGES)
        with daemon(folder / "store") as (address, _):
            fetching, keeping = TimedClient(address), TimedClient(address, cache_bytes=CACHE_BYTES)
            options = {"light": arguments.light, "booster": arguments.booster}
            config = FitConfig(str(folder / "data" / "samples"), str(folder / "run"), model="rocket", server=address)
            fit(replace(config, options=options, epochs=1))
            model, lineage, _ = load_model(config.out)
            assert isinstance(model, Rocket)
            vocabulary = Samples(config.samples).vocabulary
            fetching.version = keeping.version = lineage.versions["image"]
            keeping.get(np.arange(IMAGES))  # a cache that has seen the catalogue, as after some minutes of requests
            nets = {"light": model.light.eval(), "booster": model.booster.eval()}
            clients = {name + tail: client for name in nets for tail, client in (("", fetching), (CACHED, keeping))}
            scorers = {
                name: Scorer(nets[name.removesuffix(CACHED)], lineage, vocabulary, {"image": client})
                for name, client in clients.items()
            }
            every = requests(count, arguments.candidates)
            taken: dict[str, list[float]] = {name: [] for name in scorers}
            waited: dict[str, list[float]] = {name: [] for name in scorers}
            for warm in (True, False):
                for user, candidates in every[:20] if warm else every:
                    for name, scorer in scorers.items():
                        before, started = clients[name].waited, time.perf_counter()
                        scorer.score(user, candidates, now_s=1_000.0)
                        if not warm:
                            taken[name].append(1e3 * (time.perf_counter() - started))
                            waited[name].append(1e3 * (clients[name].waited - before))
            products = {}
            for name, scorer in scorers.items():
                with FlopCounterMode(display=False) as counter:
                    scorer.score(*every[0], now_s=1_000.0)
                products[name] = counter.get_total_flops() // 2  # a product and a sum each
    table = Table(
        "net", "ms p50", "p99", "of it vectors", "M multiplications", title=f"{arguments.candidates} candidates"
    )
    parts: dict[str, Any] = {}
    for name, times in taken.items():
        p50, p99, vectors = statistics.median(times), float(np.percentile(times, 99)), statistics.median(waited[name])
        parts[name] = {"p50_ms": p50, "p99_ms": p99, "vectors_ms": vectors, "multiplications": products[name]}
        which = getattr(arguments, name.removesuffix(CACHED))
        figures = (p50, p99, vectors, products[name] / 1e6)
        table.add_row(f"{name}: {which}", *(f"{figure:,.2f}" for figure in figures))
    Console(width=120).print(table)
    ratios = {
        "latency": parts["light"]["p50_ms"] / parts["booster"]["p50_ms"],
        "multiplications": products["light"] / products["booster"],
        "cached_vectors": parts["light" + CACHED]["vectors_ms"] / parts["light"]["vectors_ms"],
        "cached_latency": parts["light" + CACHED]["p50_ms"] / parts["light"]["p50_ms"],
    }
    finish("scoring", ratios, requests=count, parts=parts)


if __name__ == "__main__":
    main()
