"""Semantic ids: a few small numbers an image, so that images that look alike begin with the same ones.

Residual quantisation: the first code is the nearest of some centres, the second the nearest of other centres to what is
left, and so on (the codes of TIGER, Rajput et al., NeurIPS 2023; as ids of a ranker, Singh et al., arXiv 2306.08121).
The centres are kept in the store, so that photos that come later get codes of the same meaning.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.similarity.index import Vectors, faiss_module, unit
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import active_rows
from crossmedia.names import ImageNames

SAMPLE = 100_000
BLOCK = 65_536
MAX_LEVELS = 8


@dataclass(frozen=True)
class SemanticIds:
    """What was written.

    Attributes:
        version: of the vectors.
        images: that have codes.
        distinct: different ids with 1, 2, … levels.
        error: share of the vectors' variance that all levels leave.
        file: Parquet: image_id, sid_1, sid_2, …, and key where the store knows what images are called.
        kept: whether the centres of an earlier run were used.
    """

    version: str
    images: int
    distinct: tuple[int, ...]
    error: float
    file: str
    kept: bool


def write_semantic_ids(store: Store, out: Path, levels: int, codes: int, seed: int = 0) -> SemanticIds:
    """Codes of every image that has a vector of the active version.

    ``sid_2`` holds the first two codes and so on (``"17-4"``), so each level is an id column of its own.

    Args:
        store: holds the vectors, and from then on the centres.
        out: Parquet file to write.
        levels: codes of an image, 1 to 8.
        codes: centres of a level, a power of two from 2 to 256.
        seed: of the sample that the centres are fitted on.

    Raises:
        NotReady: the store has no vectors yet.
        BadInput: levels or codes out of their limits, or too few images for so many codes.
        StoreError: the centres of an earlier run, or a row, are damaged.
    """
    bits = codes.bit_length() - 1
    if not 1 <= levels <= MAX_LEVELS or not 1 <= bits <= 8 or codes != 1 << bits:
        raise BadInput(f"{levels} levels of {codes} codes: levels go from 1 to {MAX_LEVELS}, codes are 2, 4, … or 256.")
    space, ids, entries = active_rows(store)
    name = f"{hashlib.sha256(space.name.encode()).hexdigest()[:12]}-{levels}x{codes}.faiss"
    path = store.folder / "semantic" / name
    kept = path.exists()
    if kept:
        quantiser = _read(path)
    else:
        if len(ids) < codes:
            most = max(2, 1 << len(ids).bit_length() - 1)
            raise BadInput(f"{len(ids)} vectors are too few for {codes} codes; take {most} or fewer (--codes {most}).")
        rows = np.sort(np.random.default_rng(seed).choice(len(ids), min(SAMPLE, len(ids)), replace=False))
        quantiser = _fitted(unit(store.read(space, entries[rows])), levels, bits)
        data = faiss_module().serialize_index(quantiser).tobytes()
        with replacing(path) as part:
            part.write_bytes(xxhash.xxh3_128_digest(data) + data)
    columns: list[list[npt.NDArray[Any]]] = [[] for _ in range(levels)]
    left = spread = 0.0
    mean = np.zeros(space.dim)
    for start in range(0, len(ids), BLOCK):
        vectors = unit(store.read(space, entries[start : start + BLOCK]))
        packed = quantiser.rq.compute_codes(vectors)
        left += float(((vectors - quantiser.rq.decode(packed)) ** 2).sum())
        spread += float((vectors**2).sum())
        mean += vectors.sum(axis=0)
        found = faiss_module().unpack_bitstrings(packed, levels, bits)
        texts = found[:, 0].astype(str)
        for level in range(levels):
            texts = texts if not level else np.char.add(np.char.add(texts, "-"), found[:, level].astype(str))
            columns[level].append(texts)
    spread -= float((mean**2).sum()) / max(len(ids), 1)
    arrays = [pa.array(np.concatenate(parts)) for parts in columns]
    table = pa.table([pa.array(ids), *arrays], names=["image_id", *(f"sid_{n + 1}" for n in range(levels))])
    if (names := ImageNames.of_store(store.folder)) is not None:
        table = table.append_column("key", pa.array(names.keys(ids)))
    with replacing(out) as part:
        pq.write_table(table.replace_schema_metadata({"crossmedia.version": space.name}), part)
    distinct = tuple(len(array.unique()) for array in arrays)
    return SemanticIds(space.name, len(ids), distinct, left / spread if spread else 0.0, str(out), kept)


def _read(path: Path) -> Any:
    """The centres of an earlier run.

    Raises:
        StoreError: they are not what was written.
    """
    try:
        data = path.read_bytes()
        seal, data = data[:16], data[16:]
        if xxhash.xxh3_128_digest(data) != seal:
            raise ValueError("they are not what was written")
        return faiss_module().deserialize_index(np.frombuffer(data, dtype=np.uint8))
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"The centres of an earlier run in {path} are damaged: {error}. Bring the file back from a backup; or "
            f"remove it, and all codes get another meaning."
        ) from error


def _fitted(vectors: Vectors, levels: int, bits: int) -> Any:
    faiss = faiss_module()
    quantiser = faiss.IndexResidualQuantizer(vectors.shape[1], levels, bits)
    # One candidate at a time: the first code is then the nearest centre, whatever the others are.
    quantiser.rq.max_beam_size = 1
    quantiser.rq.cp.min_points_per_centroid = 1  # FAISS would say for each level that more images would be better
    quantiser.train(vectors)
    return quantiser
