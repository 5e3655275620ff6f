"""Vectors that exist already, aligned with behaviour: what could a head reach, had it read the attributes from photos?

    python examples/fashion/align_vectors.py --samples samples --store all-attributes --out aligned-attributes.parquet
    crossmedia imgserver import aligned-attributes.parquet --name aligned-attributes --store aligned-attributes

As ``trainer align`` does with the features of photos, with the same pairs and loss and the settings that it chooses for
such a log, a linear head is trained on the vectors of a store, and the epoch of the best recall of held-out articles is
kept. Of the vectors of ``vectors.py`` it is a bound: no photo says more of type, pattern and colour than they do.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from crossmedia import AlignConfig
from crossmedia.features.batch import Int64Array
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_store
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.head import HeadSpec, new_head
from crossmedia.trainer.align.batches import PairBatches
from crossmedia.trainer.align.keys import SpaceKeys
from crossmedia.trainer.align.learner import AlignLearner
from crossmedia.trainer.align.pairs import pairs_of
from crossmedia.trainer.align.recall import cold_queries, recall
from crossmedia.trainer.images.image_head import LocalHead

SPACE, AT = "photo", 100


def vectors_of(images: LocalHead, keys: Int64Array) -> npt.NDArray[np.float32]:
    """What the head makes of keys, shape (n, D)."""
    with torch.no_grad():
        found: npt.NDArray[np.float32] = images(keys).values.numpy()
    return found


def aligned(config: AlignConfig, client: ImageClient) -> LocalHead:
    """The best head of all epochs."""
    samples, version = Samples(config.samples), client.info().version
    batches = PairBatches(pairs_of(samples, config.pairs, SPACE), config.batch_size, config.seed)
    queries = cold_queries(samples, "validation", SPACE)
    known = client.get(batches.keys, version=version).values.astype(np.float32)
    head = new_head(HeadSpec("aligned", (known.shape[1], *config.head_widths)), known, backbone=version)
    images = LocalHead(client, head, version)
    learner = AlignLearner(images, config.penalty, config.temperature)
    optimizer = torch.optim.Adam(learner.parameters(), lr=config.learning_rate)
    best, kept, worse = 0.0, copy.deepcopy(head.state_dict()), 0
    for epoch in range(config.epochs + 1):  # the first one measures the start
        for batch in batches.epoch(epoch) if epoch else ():
            loss = learner(batch, images.fetch(batch.keys))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            learner.bound()
        found = recall(queries, lambda keys: vectors_of(images, keys), (AT,))[AT]
        print(f"epoch {epoch}: recall@{AT} of held-out articles {found:.4f}", flush=True)
        worse = 0 if found > best else worse + 1
        if not worse:
            best, kept = found, copy.deepcopy(head.state_dict())
        if worse >= config.patience:
            break
    head.load_state_dict(kept)
    return images


def main() -> None:
    """Align, and write what comes out."""
    parser = argparse.ArgumentParser(description="Align the vectors of a store with behaviour, for 'imgserver import'.")
    parser.add_argument("--samples", type=Path, required=True, help="what 'features build' made")
    parser.add_argument("--store", type=Path, required=True, help="whose active vectors are aligned")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    arguments = parser.parse_args()
    with open_store(arguments.store) as client:
        images = aligned(AlignConfig.suited_to(arguments.samples), client)
        keys = np.unique(SpaceKeys.of(Samples(arguments.samples), SPACE).keys)
        vectors = vectors_of(images, keys)
    vectors /= np.sqrt(np.mean(vectors**2))  # angles alone were trained; models begin for a mean square of 1
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"image_id": keys, "vector": lists}), arguments.out)
    print(f"{vectors.shape[0]:,} vectors of {vectors.shape[1]} numbers")


if __name__ == "__main__":
    main()
