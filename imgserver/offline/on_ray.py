"""A catalogue embedded by a Ray cluster: the same files as ``shards`` writes, by actors of Ray Data.

Ray plans, keeps actors alive and moves work; it holds none of the result. What is done is what the files say: after
whatever befalls a run, Ray is asked for what no file has yet.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from crossmedia.imgserver.offline.shards import BLOCK_PHOTOS, FileEmbedder, Job, JobPart, OpenJob, PartResult
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.vision.machine import Machine

LEAST_PHOTOS = 256  # of a block, however small the catalogue is
BLOCKS_AN_ACTOR = 8  # so that none waits long for the last one
TRIES_WITHOUT_PROGRESS = 3


class Actor:
    """A CNN on one core, or on one GPU where the cluster has some."""

    def __init__(self, job: Job):
        self._embedder = FileEmbedder(OpenJob(job), Machine(threads=1))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embed a block and write its files; return how many were embedded, and who was rejected and why."""
        ids = table["image_id"].to_numpy()
        embedded, rejected = self._embedder.embed(ids)
        return pa.table(
            {
                "photos": pa.array([len(ids)], pa.int64()),
                "embedded": pa.array([embedded], pa.int64()),
                "rejected": pa.array([list(rejected)], pa.list_(pa.int64())),
                "reasons": pa.array([list(rejected.values())], pa.list_(pa.string())),
            }
        )


def embed_on_ray(
    of: OpenJob, ids: Ids, part: JobPart, address: str | None, progress: Callable[[int], None] = lambda done: None
) -> PartResult:
    """``embed_part`` on a cluster: actors come and go with the cluster's size, one at least.

    Args:
        of: the job; its folder and its photos are at the same place on every machine.
        ids: ``of.of_part(part)``.
        part: which one it is.
        address: of the cluster, as ``ray.init`` takes it; None uses ``RAY_ADDRESS``, or starts Ray on this machine.
        progress: told how many photos were just dealt with.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
        RuntimeError: Ray failed three times in a row without embedding a photo.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    started = time.monotonic()
    todo = of.left(ids, part)
    result = PartResult(str(part), len(ids), len(ids) - len(todo))
    progress(result.skipped)
    failures = 0
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans are no news to the user of a command
        while len(todo):
            try:
                for row in _run(ray, of.job, todo):
                    result.embedded += row["embedded"]
                    result.rejected |= dict(zip(row["rejected"], row["reasons"], strict=True))
                    progress(row["photos"])
                break
            except ray.exceptions.RayError as error:  # such as a lost node, in a way that Ray does not mend
                before, todo = len(todo), of.left(ids, part)
                failures = failures + 1 if len(todo) == before else 0
                if failures == TRIES_WITHOUT_PROGRESS:
                    raise RuntimeError(
                        f"Ray failed {failures} times in a row without embedding a photo; {len(todo)} are left. "
                        f"The last time: {error}"
                    ) from error
    finally:
        ray.shutdown()
    result.seconds = time.monotonic() - started
    return result


def _run(ray: Any, job: Job, ids: Ids) -> Iterator[dict[str, Any]]:
    """One run of Ray Data over the ids: a row for each block, as it is done."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    actors = gpus or max(int(resources.get("CPU", 1)), 1)
    size = int(np.clip(-(-len(ids) // (BLOCKS_AN_ACTOR * actors)), LEAST_PHOTOS, BLOCK_PHOTOS))
    blocks = [pa.table({"image_id": ids[start : start + size]}) for start in range(0, len(ids), size)]
    done = ray.data.from_arrow(blocks).map_batches(
        Actor,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=0 if gpus else 1,
        num_gpus=1 if gpus else 0,
    )
    rows: Iterator[dict[str, Any]] = done.iter_rows()
    return rows
