"""Photos of the report: neighbours by vector, and what DIN attended to. Drawn by seed, never picked."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from features.batch import NULL_IMAGE
from features.images import fetch_ahead
from features.samples import Samples
from imgserver.client import ImageClient
from trainer.checkpoint import PREDICTIONS, Lineage
from trainer.image_head import ImageHead, vectors_of
from trainer.models.base import Model
from trainer.models.din import DIN
from trainer.tensors import to_tensors

QUERIES, NEIGHBOURS, MOST_VECTORS = 6, 6, 50_000
IMPRESSIONS, SHOWN_BEHAVIOURS = 6, 8


@dataclass(frozen=True)
class Picture:
    """One frame of the page.

    Attributes:
        image_id: -1: the item has no image.
        data: a data URI, or empty when there is no photo to show.
        caption: below the frame.
        share: 0 to 1, the length of the bar below the frame; negative: no bar.
        negative: the bar stands for a weight below zero.
    """

    image_id: int
    data: str
    caption: str
    share: float = -1.0
    negative: bool = False

    @property
    def alt(self) -> str:
        """Words for those who cannot see it, and for a frame without a photo."""
        return f"photo of image {self.image_id}" if self.data else "no image"


@dataclass(frozen=True)
class Strip:
    """A picture and those beside it, with a line of text."""

    first: Picture
    others: list[Picture]
    text: str = ""


def _data_uris(client: ImageClient, ids: list[int]) -> dict[int, str]:
    unique = sorted({i for i in ids if i != NULL_IMAGE})
    jpegs = client.thumbnails(unique, max_side=112) if unique else []
    return {
        i: f"data:image/jpeg;base64,{base64.b64encode(j).decode()}" for i, j in zip(unique, jpegs, strict=True) if j
    }


def neighbours(samples: Samples, client: ImageClient, seed: int) -> list[Strip]:
    """Photos of the test part, drawn by seed, each with the nearest others by cosine of their vectors."""
    rng = np.random.default_rng(seed)
    ids = pc.unique(samples.frame("test", ["image_id"])["image_id"]).to_numpy()
    ids = np.sort(ids[ids != NULL_IMAGE])
    if len(ids) > MOST_VECTORS:
        ids = np.sort(rng.choice(ids, MOST_VECTORS, replace=False))
    found = client.get(ids)
    ids, vectors = ids[found.ok], found.values[found.ok].astype(np.float32)
    if len(ids) <= NEIGHBOURS:
        return []
    faiss.normalize_L2(vectors)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    queries = np.sort(rng.choice(len(ids), min(QUERIES, len(ids)), replace=False))
    scores, places = index.search(vectors[queries], NEIGHBOURS + 1)
    uris = _data_uris(client, ids[np.unique(np.concatenate([queries, places.ravel()]))].tolist())
    strips = []
    for query, row_scores, row_places in zip(queries, scores, places, strict=True):
        others = [(int(ids[p]), float(s)) for p, s in zip(row_places, row_scores, strict=True) if p != query]
        strips.append(
            Strip(
                Picture(int(ids[query]), uris.get(int(ids[query]), ""), f"image {ids[query]}"),
                [Picture(i, uris.get(i, ""), f"{score:.2f}") for i, score in others[:NEIGHBOURS]],
            )
        )
    return strips


@torch.inference_mode()
def attention(
    samples: Samples, client: ImageClient, run: Path, model: Model, lineage: Lineage, seed: int
) -> list[Strip]:
    """Test impressions drawn by seed: the target beside its latest behaviours, with DIN's weight for each."""
    if not isinstance(model, DIN) or not samples.history_columns:
        return []
    frame = samples.frame("test", ["label", "image_id", "hist_image_id", "raw_item_id"])
    lengths = np.asarray(pc.list_value_length(frame["hist_image_id"]).combine_chunks())
    # Only impressions with something to attend to; among those the seed decides.
    rows = np.flatnonzero(lengths >= 2)
    if not len(rows):
        return []
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(rows, min(IMPRESSIONS, len(rows)), replace=False))
    weights = _weights(samples, client, model, rows)
    predictions = pq.read_table(run / PREDICTIONS)["probability"].to_numpy()
    targets = frame["image_id"].to_numpy()[rows]
    histories = [frame["hist_image_id"][int(row)].as_py() for row in rows]
    uris = _data_uris(client, [*targets.tolist(), *(i for history in histories for i in history[-SHOWN_BEHAVIOURS:])])
    strips = []
    for row, target, history, weight in zip(rows, targets.tolist(), histories, weights, strict=True):
        most = float(np.abs(weight).max()) or 1.0
        shown = zip(history[-SHOWN_BEHAVIOURS:], weight[-SHOWN_BEHAVIOURS:].tolist(), strict=True)
        clicked = "positive" if frame["label"][int(row)].as_py() else "negative"
        item = frame["raw_item_id"][int(row)].as_py()
        strips.append(
            Strip(
                Picture(target, uris.get(target, ""), f"item {item}"),
                [Picture(i, uris.get(i, ""), f"{w:+.2f}", abs(w) / most, w < 0) for i, w in shown],
                f"label {clicked}, predicted {predictions[row]:.2f}; the latest "
                f"{min(len(history), SHOWN_BEHAVIOURS)} of {len(history)} behaviours, oldest first",
            )
        )
    return strips


def _weights(
    samples: Samples, client: ImageClient, model: DIN, rows: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.float32]]:
    """Attention weights of some test rows, in file order."""
    model.eval()
    wanted, start, found = set(rows.tolist()), 0, []
    device = torch.device("cpu")
    images = ImageHead(client)
    for batch, fetched in fetch_ahead(samples.batches("test", 1024), images.fetch):
        here = [row - start for row in sorted(wanted) if start <= row < start + len(batch)]
        if here:
            values: Any = model.attention(to_tensors(batch, device), vectors_of(images, batch, fetched)).numpy()
            offsets = next(iter(batch.history.values())).offsets
            found += [values[offsets[row] : offsets[row + 1]] for row in here]
        start += len(batch)
    return found
