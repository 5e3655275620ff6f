"""Photos of the report, what they are called, and neighbours by vector. Drawn by seed, never picked."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from crossmedia.features.batch import NULL_IMAGE
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import ImageClient
from crossmedia.trainer.images.image_head import StoredVectors

QUERIES, NEIGHBOURS, MOST_VECTORS = 6, 6, 50_000
NO_PHOTOS = (
    "Not drawn: where the vectors are there are no photos. A store holds vectors alone: give --catalogue, too, or the "
    "--server that has the photos."
)


@dataclass(frozen=True)
class Picture:
    """One frame of the page.

    Attributes:
        image_id: -1: the item has no image.
        data: a data URI, or empty when there is no photo to show.
        name: of what it shows: the key of the item, as the log has it.
        caption: below the frame and the name.
        share: 0 to 1, the length of the bar below the frame, the same scale for all rows; negative: no bar.
        negative: the bar stands for a weight below zero.
    """

    image_id: int
    data: str
    name: str
    caption: str
    share: float = -1.0
    negative: bool = False

    @property
    def alt(self) -> str:
        """Words for those who cannot see it, and for a frame without a photo."""
        return f"photo of {self.name} (image {self.image_id})" if self.data else "no image"


@dataclass(frozen=True)
class Strip:
    """A picture and those beside it, with a line of text."""

    first: Picture
    others: list[Picture]
    text: str = ""


class Names:
    """What people call images: by the key of the item that shows them, as the log has it.

    Args:
        samples: whose rows of the test part name images and items.
    """

    def __init__(self, samples: Samples):
        frame = samples.frame("test", ["image_id", "raw_item_id"]).combine_chunks()
        self._images, self._items = (frame[name].combine_chunks() for name in frame.column_names)
        self._known = samples.vocabulary.values["item_id"]

    def of(self, ids: npt.NDArray[np.int64]) -> dict[int, str]:
        """Each image id, and the name of its first item; those of no test row, which are in histories, by their id."""
        place = np.asarray(pc.fill_null(pc.index_in(pa.array(ids), value_set=self._images), -1))
        items = self._items.take(pa.array(place, mask=place < 0)).to_pylist()
        return {
            i: f"image {i}" if item is None else self.item(item) for i, item in zip(ids.tolist(), items, strict=True)
        }

    def of_behaviours(self, images: list[int], items: list[int]) -> list[str]:
        """Names of behaviours, by their items; of an item that training does not know, by its image.

        Args:
            images: their ids, -1 where there is none.
            items: their places in the vocabulary, 0 of those that training does not know.
        """
        by_image = self.of(np.array([i for i in images if i != NULL_IMAGE], dtype=np.int64))
        return [
            self.item(self._known[item - 1].as_py()) if item else by_image.get(image, "an item unknown to training")
            for image, item in zip(images, items, strict=True)
        ]

    @staticmethod
    def item(key: str) -> str:
        """A key as a name; one that is a number alone would say nothing."""
        return f"item {key}" if key.isdigit() else key


def data_uris(client: ImageClient, ids: list[int], max_side: int = 112) -> dict[int, str]:
    """Small photos of images, to stand in a page."""
    unique = sorted({i for i in ids if i != NULL_IMAGE})
    jpegs = client.thumbnails(unique, max_side=max_side) if unique else []
    return {
        i: f"data:image/jpeg;base64,{base64.b64encode(j).decode()}" for i, j in zip(unique, jpegs, strict=True) if j
    }


@torch.inference_mode()
def neighbours(samples: Samples, images: StoredVectors, seed: int) -> list[Strip]:
    """Photos of the test part, drawn by seed, each with the nearest others by cosine of their vectors.

    Where the vectors come from a head that learned, each photo stands there twice: with its neighbours by feature,
    which is what the head began with, and by vector.
    """
    rng = np.random.default_rng(seed)
    ids = pc.unique(samples.frame("test", ["image_id"])["image_id"]).to_numpy()
    ids = np.sort(ids[ids != NULL_IMAGE])
    if len(ids) > MOST_VECTORS:
        ids = np.sort(rng.choice(ids, MOST_VECTORS, replace=False))
    found = images(ids)
    there = found.ok.numpy()
    ids = ids[there]
    if len(ids) <= NEIGHBOURS:
        return []
    spaces = {"": found.values.numpy()[there]}
    if images.head is not None:
        features = images.source.get(ids, version=images.backbone).values.astype(np.float32)
        spaces = {"before, by feature": features - features.mean(axis=0), "learned": spaces[""]}
    queries = np.sort(rng.choice(len(ids), min(QUERIES, len(ids)), replace=False))
    near = {title: _nearest(vectors, queries) for title, vectors in spaces.items()}
    shown = np.unique(np.concatenate([queries, *(places.ravel() for _, places in near.values())]))
    uris, names = data_uris(images.source, ids[shown].tolist()), Names(samples).of(ids[shown])
    strips = []
    for number, query in enumerate(queries.tolist()):
        for title, (scores, places) in near.items():
            pairs = zip(places[number].tolist(), scores[number].tolist(), strict=True)
            others = [(int(ids[place]), score) for place, score in pairs if place != query]
            strips.append(
                Strip(
                    Picture(int(ids[query]), uris.get(int(ids[query]), ""), names[int(ids[query])], ""),
                    [Picture(i, uris.get(i, ""), names[i], f"{score:.2f}") for i, score in others[:NEIGHBOURS]],
                    title,
                )
            )
    return strips


def _nearest(vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """Cosines and places of the nearest of some vectors, themselves among them, shape (queries, NEIGHBOURS + 1)."""
    unit = np.ascontiguousarray(vectors, dtype=np.float32)
    faiss.normalize_L2(unit)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    found: tuple[Any, Any] = index.search(unit[queries], NEIGHBOURS + 1)
    return found
