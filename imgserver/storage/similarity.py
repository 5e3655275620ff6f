"""The similarity index of a store: one immutable file a build, and a pointer that is swapped when a new one is whole.

similarity/current.json   which build, of which version and kind, what it costs and what it recalls
similarity/<build>.faiss  the index, over vectors of length 1
similarity/<build>.npy    image ids, shape (n,), in the order of the index's places
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgserver.disk import replacing
from imgserver.errors import BadInput, StoreError
from imgserver.storage.records import Ids

FOLDER = "similarity"
NONE = -1  # in the place of a neighbour, where an index has fewer
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
        scores, places = self._index.search(queries, asked, params=self._parameters())
        if coded:
            unique, inverse = np.unique(places, return_inverse=True)
            candidates = unit(exact(self._ids[unique]))[inverse.reshape(places.shape)]
            scores = np.where(places >= 0, np.einsum("qd,qnd->qn", queries, candidates), -2.0)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, places = (np.take_along_axis(values, best, axis=1) for values in (scores, places))
        ids, cosines = np.full((len(queries), k), NONE), np.zeros((len(queries), k), dtype=np.float32)
        there = places >= 0
        ids[:, : places.shape[1]][there] = self._ids[places[there]]
        cosines[:, : places.shape[1]][there] = scores[there]
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

    def current(self) -> SimilarityInfo | None:
        """The build that is in use; None before the first."""
        try:
            return SimilarityInfo(**json.loads((self.folder / "current.json").read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
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
                try:
                    self._opened = info, self._read(info)
                except StoreError:
                    if self.current() == info:
                        raise
                    # Another process took a new build into use meanwhile, and the former one's files are gone.
            return None

    def _read(self, info: SimilarityInfo) -> SimilarityIndex:
        try:
            index = faiss_module().read_index(str(self.folder / f"{info.build}.faiss"))
            ids = np.load(self.folder / f"{info.build}.npy")
        except (RuntimeError, OSError, ValueError) as error:
            raise StoreError(
                f"The similarity index in {self.folder} is damaged: {error}. Run 'imgserver index'."
            ) from error
        return SimilarityIndex(index, ids, info.search_width, info.candidates)

    def swap(self, index: Any, ids: Ids, info: SimilarityInfo) -> None:
        """Write a build, then take it into use in one step; who has the former one open goes on with it.

        Raises:
            StoreError: it cannot be written; the former one stays in use.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            faiss_module().write_index(index, str(self.folder / f"{info.build}.faiss"))
            np.save(self.folder / f"{info.build}.npy", ids)
        except (OSError, RuntimeError) as error:
            for file in self.folder.glob(f"{info.build}.*"):
                file.unlink(missing_ok=True)
            raise StoreError(f"The index cannot be written to {self.folder}: {error}. Is the disk full?") from error
        with replacing(self.folder / "current.json") as part:
            part.write_text(json.dumps(asdict(info), indent=1) + "\n")
        for file in self.folder.iterdir():  # former builds, and what a kill left of one
            if file.name != "current.json" and not file.name.startswith(info.build):
                file.unlink(missing_ok=True)


def new_build() -> str:
    """A name that no build has had."""
    return uuid.uuid4().hex[:12]


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Vectors at length 1, shape (n, D); a vector of zeros stays."""
    values = np.array(vectors, dtype=np.float32, order="C")
    faiss_module().normalize_L2(values)
    return values


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
