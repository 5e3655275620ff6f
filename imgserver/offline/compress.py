"""A version of a few bytes a vector, made out of another one: product quantisation by a codebook that FAISS trains."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crossmedia.errors import BadInput
from crossmedia.imgserver.head_files import load_head
from crossmedia.imgserver.offline.head_vectors import fill
from crossmedia.imgserver.similarity.index import faiss_module, unit
from crossmedia.imgserver.storage.codebook import CENTRES, Codebook
from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import (
    held,
    vector_space,
)
from crossmedia.status import is_ok

SAMPLE = 256 * CENTRES  # vectors; FAISS takes no more
COMPARED = 10_000
SEED = 0  # the same vectors give the same codebook


@dataclass(frozen=True)
class CompressReport:
    """What ``compress`` did.

    Attributes:
        version: of the compressed vectors; it is not activated.
        of: the version that they were made of.
        images: that have a vector.
        added: vectors that were not there before, or older.
        bytes: of a vector.
        plain_bytes: of a vector as it was.
        cosine: mean of vectors to what they were, of a sample; 0 where every photo was replaced since.
        kept: whether the codebook of an earlier run was used.
        seconds: of it all.
    """

    version: str
    of: str
    images: int
    added: int
    bytes: int
    plain_bytes: int
    cosine: float
    kept: bool
    seconds: float


def compress(store: Store, size: int, version: str = "") -> CompressReport:
    """Make a version of ``size`` bytes a vector, beside the one that it is made of.

    Run it again after a kill, or when photos were added: a codebook that is there is used, so it is the same version.

    Args:
        store: holds the vectors, and from then on the codebook.
        size: bytes of a vector; divides its numbers.
        version: to compress; the active one when it is empty.

    Raises:
        NotReady: no version is named, and none is active.
        BadInput: no such version, one that is compressed, bytes that do not divide its numbers, or fewer than 2 images.
        StoreError: a row is damaged, or the store cannot be written.
    """
    started = time.monotonic()
    source = held(store, version, "vector")
    if source.codebook:
        raise BadInput(f"{source.name} is compressed already; compress {source.version.plain} instead.")
    if not 1 <= size <= source.dim or source.dim % size:
        fitting = ", ".join(str(n) for n in range(1, source.dim + 1) if source.dim % n == 0)
        fewer = source.dim // size * size
        other = f" {fewer} numbers would fit: 'imgserver precompute --dim {fewer}' makes vectors of so many."
        raise BadInput(
            f"{size} bytes do not divide the {source.dim} numbers of a vector; {fitting} do."
            f"{other if fewer and not source.version.imported else ''}"
        )
    of_size = [
        space
        for space in store.index.spaces("vector")
        if space.codebook.startswith(f"pq{size}@") and space.version.plain == source.version
    ]
    if of_size:
        target = of_size[-1]
    else:
        codebook = train_codebook(_sample(store, source), size)
        store.save_codebook(codebook)
        target = vector_space(store, replace(source.version, codebook=codebook.name))
    before = target.next_row
    if source.version.imported:
        fill(store, source, target, lambda values: values)
    else:  # from the features, of which there may be newer ones than the source has vectors of
        fill(store, held(store, source.version.backbone), target, load_head(store, source.name).apply_numpy)
    images = int(is_ok(store.index.load(target.name)[1]["status"]).sum())
    return CompressReport(
        target.name,
        source.name,
        images,
        held(store, target.name).next_row - before,
        size,
        source.row_bytes,
        _cosine(store, source, target),
        bool(of_size),
        time.monotonic() - started,
    )


def train_codebook(vectors: npt.NDArray[np.float32], size: int) -> Codebook:
    """A codebook of ``size`` bytes for vectors like these, shape (n, D).

    Of fewer vectors than a byte tells apart, it has as many centres as the power of two below n, each several times.

    Raises:
        BadInput: there are fewer than 2 vectors.
    """
    n, dim = vectors.shape
    if n < 2:
        raise BadInput(f"{n} vectors are too few for a codebook; it takes 2, better {CENTRES} and more.")
    bits = min(CENTRES, n).bit_length() - 1
    # As ``Codebook`` deals a vector's numbers out to its bytes.
    dealt = vectors.reshape(n, dim // size, size).transpose(0, 2, 1).reshape(n, dim)
    faiss = faiss_module()
    quantiser = faiss.ProductQuantizer(dim, size, bits)
    quantiser.cp.seed = SEED
    quantiser.cp.min_points_per_centroid = 1  # FAISS would say for each byte that more images would be better
    quantiser.train(np.ascontiguousarray(dealt, dtype=np.float32))
    centres = faiss.vector_to_array(quantiser.centroids).reshape(size, 1 << bits, dim // size)
    return Codebook(np.tile(centres, (1, CENTRES >> bits, 1)))


def _sample(store: Store, space: Space) -> npt.NDArray[np.float32]:
    _, entries, _ = store.index.load(space.name)
    entries = entries[is_ok(entries["status"])]
    if len(entries) > SAMPLE:
        entries = entries[np.sort(np.random.default_rng(SEED).choice(len(entries), SAMPLE, replace=False))]
    return store.read(space, entries).astype(np.float32)


def _cosine(store: Store, source: Space, target: Space) -> float:
    ids, entries, _ = store.index.load(source.name)
    ok = is_ok(entries["status"])
    ids, entries = ids[ok], entries[ok]
    chosen = np.sort(np.random.default_rng(SEED).choice(len(ids), min(COMPARED, len(ids)), replace=False))
    now, there = store.index.get(target.name, ids[chosen])
    # A photo that was replaced since has another vector in the target, or, broken now, none.
    same = there & is_ok(now["status"]) & (now["content"] == entries[chosen]["content"])
    plain, coded = unit(store.read(source, entries[chosen][same])), unit(store.read(target, now[same]))
    return float((plain * coded).sum(axis=1).mean()) if same.any() else 0.0
