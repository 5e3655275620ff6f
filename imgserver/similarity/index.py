"""The similarity index of a store: one immutable file a build, and a pointer that is swapped when a new one is whole.

similarity/current.json   which build, of which version and kind, what it costs and what it recalls, hashes of its files
similarity/<build>.faiss  the index, over vectors of length 1
similarity/<build>.npy    image ids, shape (n,), in the order of the index's places
"""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.disk import hash_of, replacing, sync
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.storage.records import Ids
from crossmedia.notes import note, read_note

FOLDER = "similarity"
NONE = -1  # in the place of a neighbour, where an index has fewer
# Products that are worth a thread: a millisecond or two. FAISS takes a thread for each core even for less, which wait
# for each other without sleeping: where the cores have other work too, a search of half a millisecond took twenty.
THREAD_PRODUCTS = 20_000_000
Vectors = npt.NDArray[np.float32]
Cosines = npt.NDArray[np.float32]
Exact = Callable[[Ids], npt.NDArray[Any]]


@dataclass(frozen=True)
class SimilarityInfo:
    """What a build is.

    Attributes:
        build: name of its files.
        version: of the vectors.
        kind: ``flat``, ``hnsw`` or ``ivf-pq``.
        images: in it.
        dim: numbers in a vector.
        bytes_per_image: of the index in memory.
        search_width: nodes (hnsw) or lists (ivf-pq) that a query looks at; 0: all there is.
        recall_at_10: share of the 10 nearest of a sample of its images that it finds.
        candidates: for each neighbour asked for, of an index that holds codes; the stored vectors decide among them.
        hashes: of its two files.
    """

    build: str
    version: str
    kind: str
    images: int
    dim: int
    bytes_per_image: float
    search_width: int
    recall_at_10: float
    candidates: int = 1
    hashes: tuple[str, ...] = ()


class SimilarityIndex:
    """Finds the nearest of the images in it. It never changes, so any number of threads may search it.

    Args:
        index: FAISS's, by inner product, over vectors of length 1.
        ids: shape (n,), of its places.
        search_width: see ``SimilarityInfo``.
        candidates: see ``SimilarityInfo``.
    """

    def __init__(self, index: Any, ids: Ids, search_width: int, candidates: int = 1):
        self._index, self._ids, self._width, self._candidates = index, ids, search_width, candidates

    def __len__(self) -> int:
        return len(self._ids)

    def queries_at_once(self, k: int, products: int, size: int) -> int:
        """Queries for ``k`` neighbours that one ``search`` answers within so many products and bytes; at least one."""
        size_of_one = 8 * self._candidates * k * int(self._index.d)
        return max(1, min(products // (self._products(k) or 1), size // size_of_one))

    def _products(self, k: int) -> int:
        """Numbers that are multiplied, or looked up, for one query."""
        faiss, index, dim = faiss_module(), self._index, int(self._index.d)
        if isinstance(index, faiss.IndexIVFPQ):
            codes = self._width * len(self._ids) // int(index.nlist)
            return (int(index.nlist) + int(index.pq.ksub)) * dim + codes * int(index.pq.M)
        looked_at = max(self._width, k) * int(index.hnsw.nb_neighbors(0)) if self._width else len(self._ids)
        return min(looked_at, len(self._ids)) * dim

    def search(self, vectors: Vectors, k: int, exact: Exact) -> tuple[Ids, Cosines]:
        """The nearest images of each vector, best first.

        Args:
            vectors: shape (q, D).
            k: how many.
            exact: image ids, shape (n,), to their vectors, shape (n, D): what an index that holds codes only is
                corrected by.

        Returns:
            image ids, shape (q, k), -1 where there are fewer; cosines, shape (q, k).
        """
        faiss = faiss_module()
        queries = unit(vectors)
        coded = isinstance(self._index, faiss.IndexIVFPQ)
        asked = min(self._candidates * k, len(self._ids))
        with at_most_threads(1 + len(queries) * self._products(k) // THREAD_PRODUCTS):
            scores, places = self._index.search(queries, asked, params=self._parameters())
        if coded:
            unique, inverse = np.unique(places, return_inverse=True)
            candidates = unit(exact(self._ids[unique]))[inverse.reshape(places.shape)]
            scores = np.where(places >= 0, np.einsum("qd,qnd->qn", queries, candidates), -2.0)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, places = (np.take_along_axis(values, best, axis=1) for values in (scores, places))
        ids, cosines = np.full((len(queries), k), NONE), np.zeros((len(queries), k), dtype=np.float32)
        there = places >= 0
        np.copyto(ids[:, : places.shape[1]], self._ids.take(places, mode="clip"), where=there)
        np.copyto(cosines[:, : places.shape[1]], scores, where=there)
        return ids, cosines

    def _parameters(self) -> Any:
        """Of one query: what an index looks at is no state of it, so that queries do not disturb each other."""
        faiss = faiss_module()
        if not self._width:
            return None
        if isinstance(self._index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=self._width)
        return faiss.SearchParametersIVF(nprobe=self._width)


class SimilarityFiles:
    """The builds below a store's folder.

    Args:
        store: the store's folder.
    """

    def __init__(self, store: Path):
        self.folder = store / FOLDER
        self._lock = threading.Lock()
        self._opened: tuple[SimilarityInfo, SimilarityIndex] | None = None
        self._failed: tuple[SimilarityInfo, StoreError] | None = None

    def _files(self, info: SimilarityInfo) -> tuple[Path, Path]:
        return self.folder / f"{info.build}.faiss", self.folder / f"{info.build}.npy"

    def current(self) -> SimilarityInfo | None:
        """The build that is in use; None before the first."""
        try:
            told = read_note((self.folder / "current.json").read_bytes())
            return SimilarityInfo(**{**told, "hashes": tuple(told["hashes"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{self.folder / 'current.json'} is damaged: {error}. Run 'imgserver index'.") from error

    def open(self) -> tuple[SimilarityInfo, SimilarityIndex] | None:
        """The build that is in use, read once; None before the first.

        Raises:
            StoreError: its files are damaged.
        """
        with self._lock:
            while (info := self.current()) is not None:
                if self._opened is not None and self._opened[0] == info:
                    return self._opened
                if self._failed is not None and self._failed[0] == info:
                    raise self._failed[1]
                try:
                    self._opened = info, self._read(info)
                except StoreError as error:
                    if self.current() == info:
                        self._failed = info, error  # it is not read again each second
                        raise
                    # Another process took a new build into use meanwhile, and the former one's files are gone.
            return None

    def _read(self, info: SimilarityInfo) -> SimilarityIndex:
        try:
            # Before FAISS reads it, which believes what a file says of itself.
            if tuple(map(hash_of, self._files(info))) != info.hashes:
                raise ValueError("a file is not what was written")
            graph, places = self._files(info)
            index, ids = faiss_module().read_index(str(graph)), np.load(places, allow_pickle=False)
        except (RuntimeError, OSError, ValueError) as error:
            raise StoreError(
                f"The similarity index in {self.folder} is damaged: {error}. Run 'imgserver index'."
            ) from error
        return SimilarityIndex(index, ids, info.search_width, info.candidates)

    def swap(self, index: Any, ids: Ids, info: SimilarityInfo) -> SimilarityInfo:
        """Write a build, then take it into use in one step; who has the former one open goes on with it.

        Returns:
            ``info``, with the hashes of its files.

        Raises:
            StoreError: it cannot be written; the former one stays in use.
        """
        with self._alone():
            try:
                graph, places = self._files(info)
                faiss_module().write_index(index, str(graph))
                np.save(places, ids)
                sync(graph)
                sync(places)
                info = replace(info, hashes=(hash_of(graph), hash_of(places)))
            except (OSError, RuntimeError) as error:
                for file in self.folder.glob(f"{info.build}.*"):
                    file.unlink(missing_ok=True)
                raise StoreError(f"The index cannot be written to {self.folder}: {error}. Is the disk full?") from error
            with replacing(self.folder / "current.json") as part:
                part.write_text(note(asdict(info)))
            for file in self.folder.iterdir():  # former builds, and what a kill left of one
                if file.name != "current.json" and not file.name.startswith(info.build):
                    file.unlink(missing_ok=True)
            return info

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out others that build an index at the same time: each removes the builds that it does not know.

        Raises:
            StoreError: the folder cannot be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            opened = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise StoreError(f"The index cannot be written to {self.folder}: {error}.") from error
        try:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(opened, fcntl.LOCK_EX)
            yield
        finally:
            os.close(opened)


def new_build() -> str:
    """A name that no build has had."""
    return uuid.uuid4().hex[:12]


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Vectors at length 1, shape (n, D); a vector of zeros stays."""
    values = np.array(vectors, dtype=np.float32, order="C")
    faiss_module().normalize_L2(values)
    return values


@contextmanager
def at_most_threads(n: int) -> Iterator[None]:
    """FAISS computes with at most so many threads meanwhile, for the thread that calls it."""
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(min(before, n))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def faiss_module() -> Any:
    """FAISS, imported when it is first needed.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise BadInput('Similarity needs FAISS. Install it with: pip install "crossmedia[server]"') from error
    return faiss
