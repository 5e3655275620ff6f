"""Texts on their way to an encoder: read from memory, in batches of about one length."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue
from crossmedia.imgserver.storage.records import Ids, Space, content_hash
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.imgserver.vision.engines import Engine, run_all
from crossmedia.imgserver.vision.photos import Photo, Source, text_from_bytes

COMMIT_TEXTS = 4096


def check_kind(store: Store, coming: Space) -> None:
    """A store holds photos or texts: its names, its rejects and its catalogue are of one of them.

    Raises:
        BadInput: it holds features of the other, or is to take texts and holds vectors of nobody knows what.
    """
    of_texts = coming.version.of_texts
    for held in store.index.spaces("feature"):
        if held.version.of_texts != of_texts:
            one, other = ("photos", "texts") if of_texts else ("texts", "photos")
            raise BadInput(
                f"The store {store.folder} holds {one} ({held.name}). Give {other} a store of their own with "
                f"--store; a trainer takes vectors of both servers."
            )
    if of_texts and (strange := [held for held in store.index.spaces("vector") if not held.version.of_texts]):
        raise BadInput(
            f"The store {store.folder} holds vectors that are not of texts ({strange[0].name}). Give texts a store of "
            f"their own with --store; a trainer takes vectors of both servers."
        )


def text_batches(
    catalogue: Catalogue, backbone: TextBackbone, ids: Ids, size: int = COMMIT_TEXTS
) -> Iterator[list[Photo]]:
    """What became of texts, ``size`` of them at a time; those of a length stand together, so that none is filled up."""
    assert isinstance(catalogue, TextCatalogue), "a text encoder has a catalogue of texts"
    for start in range(0, len(ids), size):
        block = ids[start : start + size]
        texts = catalogue.all_of(block)
        stamps = catalogue.fingerprints(block).stamp.tolist()
        found = [
            text_from_bytes(image_id, data, Source(len(data), stamp, content_hash(data)), backbone.preprocessing)
            for image_id, data, stamp in zip(block.tolist(), texts, stamps, strict=True)
        ]
        yield sorted(found, key=lambda photo: photo.source.size)


def texts_per_s(catalogue: Catalogue, backbone: TextBackbone, engine: Engine, sample: Ids) -> float:
    """Texts a second that an engine embeds, from a few of them."""
    engine.run(np.array(["a"] * len(sample)))  # the first run sets things up
    started = time.perf_counter()
    photos = next(text_batches(catalogue, backbone, sample))
    if ready := [photo.pixels for photo in photos if photo.pixels is not None]:
        run_all(engine, ready)
    return len(sample) / (time.perf_counter() - started)
