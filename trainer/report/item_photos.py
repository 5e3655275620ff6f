"""Which of an item's photos mattered: what attention by the target weighs each by, of the first test rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crossmedia.features.columns import label_column
from crossmedia.imgserver.client import ImageClient
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.layers.spaces import ATTENTION
from crossmedia.trainer.models.base import EmbeddingModel, Model
from crossmedia.trainer.report.photos import Names, Picture, Strip, data_uris
from crossmedia.words import counted, percent

ROWS, JUDGED, MOST_PHOTOS = 6, 400, 8
Weighed = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]  # image ids of a row's target, and their weights


@torch.inference_mode()
def item_photos(feed: Feed, photos: ImageClient, space: str, model: Model) -> tuple[list[Strip], str]:
    """Test impressions of items with several photos: each photo with its weight, the heaviest first; and a sentence.

    Args:
        feed: the samples, and the vectors of the run.
        photos: where the photos are.
        space: that is keyed by image.
        model: of the run; one that does not pool by attention gives nothing.
    """
    if not isinstance(model, EmbeddingModel) or model.inputs.pooling != ATTENTION:
        return [], ""
    samples = feed.samples
    found = _weighed(feed, model, space)
    if not found:
        return [], ""
    frame = samples.frame("test", ["raw_item_id", label_column(samples.labels, model.spec.labels[0])])
    items, labels = frame.columns
    drawn = sorted(found)[:ROWS]
    uris = data_uris(photos, [int(i) for row in drawn for i in found[row][0][:MOST_PHOTOS]])
    strips = []
    for row in drawn:
        ids, weights = found[row]
        order = np.argsort(-weights, kind="stable")[:MOST_PHOTOS]
        name = Names.item(str(items[row]))
        pictures = [
            Picture(
                int(ids[n]), uris.get(int(ids[n]), ""), name, f"photo {n + 1}: {percent(weights[n])}", float(weights[n])
            )
            for n in order.tolist()
        ]
        kind = "Positive" if labels[row].as_py() > 0 else "Negative"
        strips.append(Strip(pictures[0], pictures[1:], f"{kind} row; {counted(len(ids), 'photo')} of {name}"))
    return strips, _said(list(found.values()))


def _said(found: list[Weighed]) -> str:
    """How unevenly photos are weighed, in a sentence."""
    most = float(np.mean([weights.max() for _, weights in found]))
    even = float(np.mean([1 / len(weights) for _, weights in found]))
    first = float(np.mean([weights.argmax() == 0 for _, weights in found]))
    rows = counted(len(found), "test row")
    return (
        f"In {rows} with several photos of the item, the photo that mattered most has {percent(most)} of the weight on "
        f"average, where all alike would have {percent(even)}; it is the item's first photo in {percent(first)} of "
        "the rows."
    )


def _weighed(feed: Feed, model: EmbeddingModel, space: str) -> dict[int, Weighed]:
    """The photos of the first test rows whose item has several, in file order."""
    model.eval()
    start, found = 0, dict[int, Weighed]()
    for fed in feed.of(feed.samples.batches("test", feed.batch_size)):
        lists, weights = model.inputs.photo_weights(fed.tensors, fed.vectors(feed.spaces), space)
        ids: Any = fed.keys[space][lists.values.numpy()]
        owners = lists.owners.numpy()
        ends = np.searchsorted(owners, np.arange(fed.tensors.rows + 1))
        for row in np.flatnonzero(np.diff(ends) > 1).tolist():
            here = slice(ends[row], ends[row + 1])
            found[start + row] = (ids[here], weights.numpy()[here])
            if len(found) == JUDGED:
                return found
        start += fed.tensors.rows
    return found
