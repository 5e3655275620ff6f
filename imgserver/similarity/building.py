"""Build the similarity index of a store: its kind by size, as wide a search as its recall needs, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossmedia.arguments import check_places
from crossmedia.errors import BadInput
from crossmedia.imgserver.similarity.index import (
    SimilarityFiles,
    SimilarityIndex,
    SimilarityInfo,
    Vectors,
    faiss_module,
    new_build,
    unit,
)
from crossmedia.imgserver.storage.codebook import CENTRES
from crossmedia.imgserver.storage.records import Entries, Ids, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import active_rows

KINDS = ("flat", "hnsw", "ivf-pq")
HNSW_FROM, IVF_PQ_FROM = 50_000, 2_000_000
HNSW_LINKS = 32
PER_CENTRE, TRAINED_PER_CENTRE = 39, 64  # vectors that FAISS asks for, and that it gets
NUMBERS_PER_CODE = 8  # that one byte of a product quantiser stands for
BLOCK = 65_536
QUERIES, NEIGHBOURS = 500, 10
GOOD_RECALL, LITTLE_RECALL = 0.95, 0.01
CANDIDATES = (10, 40, 160)  # for each neighbour, that an index of codes gives to the stored vectors to decide


@dataclass(frozen=True)
class IndexReport:
    """What a build came to.

    Attributes:
        info: of the build.
        seconds: of all of it, recall included.
        queries_per_s: of the index, a few hundred queries at once.
        brute_force_queries_per_s: of comparing each query with every vector, in the same run.
    """

    info: SimilarityInfo
    seconds: float
    queries_per_s: float
    brute_force_queries_per_s: float


def build_index(
    store: Store | str | Path, kind: str = "auto", progress: Callable[[int], None] = lambda done: None
) -> IndexReport:
    """Index the vectors of the active version, and take the index into use.

    Args:
        store: holds the vectors; open, or its folder.
        kind: one of ``KINDS``; ``auto`` goes by the number of images: all are compared (flat) below 50,000, a graph
            (hnsw) below 2 million, and codes in lists, corrected by the stored vectors (ivf-pq), above.
        progress: told how many vectors were just added.

    Raises:
        NotReady: the store has no vectors yet.
        BadInput: an unknown kind, or too few images for it.
        StoreError: a row is damaged, or there is no store in the folder.

    Example:
        >>> from crossmedia import build_index
        >>> build_index("store").info.images
        100
    """
    if not isinstance(store, Store):
        check_places(store=store)
        with closing(Store(store, create=False)) as opened:
            return _build(opened, kind, progress)
    return _build(store, kind, progress)


def _build(store: Store, kind: str, progress: Callable[[int], None]) -> IndexReport:
    started = time.monotonic()
    if kind not in ("auto", *KINDS):
        raise BadInput(f"There is no index of kind {kind!r}; there are: auto, {', '.join(KINDS)}.")
    space, ids, entries = active_rows(store)
    if kind == "auto":
        kind = "flat" if len(ids) < HNSW_FROM else "hnsw" if len(ids) < IVF_PQ_FROM else "ivf-pq"
    rng = np.random.default_rng(0)
    index = _empty(kind, space.dim, len(ids), partial(_sample, store, space, entries, rng))
    for block in _blocks(store, space, entries):
        index.add(block)
        progress(len(block))

    places = np.sort(rng.choice(len(ids), min(QUERIES, len(ids)), replace=False))
    queries = unit(store.read(space, entries[places]))
    began = time.perf_counter()
    right = _brute_force(store, space, ids, entries, queries)
    brute_force_s = time.perf_counter() - began

    def exact(of: Ids) -> Any:
        return store.read(space, entries[np.searchsorted(ids, of)])

    def measured(width: int, candidates: int) -> tuple[float, float]:
        searched = SimilarityIndex(index, ids, width, candidates)
        searched.search(queries[:1], NEIGHBOURS, exact)  # the first search sets things up
        began = time.perf_counter()
        found, _ = searched.search(queries, NEIGHBOURS + 1, exact)
        return _recall(found, right, ids[places]), time.perf_counter() - began

    # Wider until that finds no more, for then it is the codes that lose the nearest; then with more candidates.
    widths = iter(_widths(kind, index))
    width = next(widths)
    for candidates in CANDIDATES if kind == "ivf-pq" else (1,):
        recall, search_s = measured(width, candidates)
        before = 0.0
        while recall < GOOD_RECALL and recall - before >= LITTLE_RECALL and (wider := next(widths, 0)):
            before, width = recall, wider
            recall, search_s = measured(width, candidates)
        if recall >= GOOD_RECALL:
            break
    size = len(faiss_module().serialize_index(index)) / max(len(ids), 1)
    info = SimilarityInfo(new_build(), space.name, kind, len(ids), space.dim, size, width, recall, candidates)
    info = SimilarityFiles(store.folder).swap(index, ids, info)
    return IndexReport(info, time.monotonic() - started, len(queries) / search_s, len(queries) / brute_force_s)


def _empty(kind: str, dim: int, images: int, sample: Callable[[int], Vectors]) -> Any:
    """An index of ``kind``, trained, with nothing in it."""
    faiss = faiss_module()
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        return faiss.index_factory(dim, f"HNSW{HNSW_LINKS},SQfp16", faiss.METRIC_INNER_PRODUCT)
    if images < PER_CENTRE * CENTRES:
        raise BadInput(
            f"{images} vectors are too few for ivf-pq, which needs {PER_CENTRE * CENTRES}; take another --kind."
        )
    lists = min(1 << round(np.log2(4 * images**0.5)), images // PER_CENTRE)
    codes = next(n for n in range(max(1, dim // NUMBERS_PER_CODE), 0, -1) if dim % n == 0)
    index = faiss.index_factory(dim, f"IVF{lists},PQ{codes}", faiss.METRIC_INNER_PRODUCT)
    index.train(sample(min(images, TRAINED_PER_CENTRE * max(lists, CENTRES))))
    return index


def _sample(store: Store, space: Space, entries: Entries, rng: np.random.Generator, rows: int) -> Vectors:
    return unit(store.read(space, entries[np.sort(rng.choice(len(entries), rows, replace=False))]))


def _blocks(store: Store, space: Space, entries: Entries) -> Iterator[Vectors]:
    for start in range(0, len(entries), BLOCK):
        yield unit(store.read(space, entries[start : start + BLOCK]))


def _widths(kind: str, index: Any) -> list[int]:
    """How wide a search may be, narrow first; the last looks at nearly all that it could."""
    if kind == "flat":
        return [0]
    most = 1024 if kind == "hnsw" else index.nlist
    return [width for width in (16 << n for n in range(20)) if width <= most] or [most]


def _brute_force(store: Store, space: Space, ids: Ids, entries: Entries, queries: Vectors) -> Ids:
    """The nearest images of each query, itself among them, shape (q, NEIGHBOURS + 1), -1 where there are fewer."""
    k = NEIGHBOURS + 1
    best, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -2.0, dtype=np.float32)
    for number, block in enumerate(_blocks(store, space, entries)):
        here = ids[number * BLOCK : number * BLOCK + len(block)]
        cosines = np.concatenate([scores, queries @ block.T], axis=1)
        every = np.concatenate([best, np.broadcast_to(here, (len(queries), len(here)))], axis=1)
        order = np.argpartition(-cosines, min(k, cosines.shape[1]) - 1, axis=1)[:, :k]
        best, scores = np.take_along_axis(every, order, 1), np.take_along_axis(cosines, order, 1)
    return best


def _recall(found: Ids, right: Ids, own: Ids) -> float:
    """Share of the nearest that were found; a query's own image counts for nothing."""
    hits = wanted = 0
    for row, image_id in enumerate(own.tolist()):
        neighbours = set(right[row].tolist()) - {image_id, -1}
        hits += len(neighbours & set(found[row].tolist()))
        wanted += len(neighbours)
    return hits / wanted if wanted else 1.0
