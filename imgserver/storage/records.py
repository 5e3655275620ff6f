"""What the index keeps of an image, and what entries belong to: dtypes, spaces, batches, seals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from crossmedia.imgserver.storage.checksums import Mask, seals
from crossmedia.status import is_ok
from crossmedia.version import Version, name_of

ENTRY = np.dtype(
    [
        ("row", "<i8"),
        ("size", "<u8"),
        ("stamp", "<u8"),
        ("content", "<u8"),
        ("checksum", "<u4"),
        ("status", "u1"),
        ("seal", "u1", (3,)),  # of the key and all of this: see ``seal_entries``
    ]
)
NO_ROW = -1
MAX_ROWS = 1 << 31  # of a space: what a table has room for beside a checksum
VALUE_DTYPE = "float16"  # of what a codebook decodes to
# Where a row came from: what is compared to notice a replaced photo. ``content`` hashes its bytes; 0: none were read.
SOURCE = np.dtype([("size", "<u8"), ("stamp", "<u8"), ("content", "<u8")])
SOURCE_FIELDS = list(SOURCE.names or ())

KEY = np.dtype([("space", ">u4"), ("id", ">u8")])
RECORD = np.dtype([("key", KEY), ("entry", ENTRY)])

Ids = npt.NDArray[np.int64]
Entries = npt.NDArray[Any]


@dataclass(frozen=True)
class Space:
    """Rows that belong together: the features of a backbone version, or the vectors of a version.

    Attributes:
        number: prefix of its entries' keys, and name of its row folder; never given twice in a store.
        name: the version, as text.
        kind: ``feature`` or ``vector``.
        dim: numbers in a row.
        dtype: of the stored numbers; or the name of the codebook whose codes are stored instead.
        next_row: first free row.
        recipe: of features: what makes their backbone again.
    """

    number: int
    name: str
    kind: str
    dim: int
    dtype: str
    next_row: int = 0
    recipe: str = ""

    @property
    def version(self) -> Version:
        """The version that its name says."""
        return Version.parse(self.name)

    @property
    def codebook(self) -> str:
        """Name of the codebook whose codes its rows are; empty where they are the numbers themselves."""
        return self.dtype if "@" in self.dtype else ""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, in memory and on disk."""
        coded = name_of(self.codebook).removeprefix("pq")
        return int(coded) if coded else self.dim * np.dtype(self.dtype).itemsize

    @property
    def value_dtype(self) -> str:
        """Dtype of its numbers as they are read; where codes are stored, they are decoded."""
        return VALUE_DTYPE if self.codebook else self.dtype


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of n images in one space, in a store or out of any.

    Attributes:
        space: what they belong to.
        ids: shape (n,), each once.
        status: shape (n,), a ``Status`` each.
        sources: shape (n,), ``SOURCE``.
        values: shape (n, D); zeros where the status is not OK.
    """

    space: Space
    ids: Ids
    status: npt.NDArray[np.uint8]
    sources: npt.NDArray[Any]
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chosen: npt.NDArray[Any]) -> Rows:
        """Some of the rows, by a mask or by their places."""
        return Rows(self.space, *(column[chosen] for column in self.columns))

    @property
    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        """All fields but the space: the arrays."""
        return self.ids, self.status, self.sources, self.values

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several parts of one space, one after the other."""
        columns = zip(*(part.columns for part in parts), strict=True)
        return cls(parts[0].space, *(np.concatenate(column) for column in columns))

    @classmethod
    def of_entries(cls, space: Space, ids: Ids, entries: Entries, found: npt.NDArray[Any]) -> Rows:
        """Rows of images with these entries, shape (n,), from the values of those that are OK, shape (m, D)."""
        return cls(space, ids, entries["status"], sources_in(entries), spread(found, is_ok(entries["status"])))


def spread(found: npt.NDArray[Any], there: Mask) -> npt.NDArray[Any]:
    """Rows, shape (n, D), of those that are there, shape (m, D), in their order; zeros elsewhere."""
    if len(found) == len(there):
        return found
    values = np.zeros((len(there), *found.shape[1:]), dtype=found.dtype)
    values[there] = found
    return values


@dataclass(frozen=True)
class NewEntries:
    """Entries to be committed.

    Attributes:
        space: that they belong to, as it was when the rows were made.
        ids: shape (n,), each once.
        entries: shape (n,), ``ENTRY``; ``row`` is filled in by ``put`` where it is not ``NO_ROW``.
        write_rows: called with the first free row; writes the rows of the entries that have one, syncs, and returns
            the first row that they took.
    """

    space: Space
    ids: Ids
    entries: Entries
    write_rows: Callable[[int], int]


def places_in(stored: Ids, ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Where each of ``ids``, shape (n,), stands in ``stored``, which ascends, and which do stand there."""
    place = np.searchsorted(stored, ids)
    place[place == len(stored)] = 0
    found: npt.NDArray[np.bool_] = stored[place] == ids if len(stored) else np.zeros(len(ids), dtype=np.bool_)
    return place, found


def sources_in(entries: Entries) -> npt.NDArray[Any]:
    """Where the rows of entries, shape (n,), came from, shape (n,), ``SOURCE``."""
    return entries[SOURCE_FIELDS].astype(SOURCE)


def same_photo(one: Any, other: Any) -> Mask:
    """Which entries, shape (n,), were made of the same bytes as the others, with the same outcome."""
    same: Mask = (one["content"] == other["content"]) & (one["status"] == other["status"])
    return same


def content_hash(data: bytes) -> int:
    """64-bit hash of a photo's bytes: tells whether a touched file really changed."""
    return xxhash.xxh3_64_intdigest(data)


def seal_entries(number: int, ids: Ids, entries: Entries) -> None:
    """Write the seals of entries, shape (n,), that are about to be stored under the ids, shape (n,), of a space."""
    entries["seal"] = _seal_bytes(np.full(len(ids), number), ids, entries)


def whole_entries(numbers: npt.NDArray[Any], ids: Ids, entries: Entries) -> Mask:
    """Which entries, shape (n,), are what was sealed under these spaces and ids, each of shape (n,)."""
    whole: Mask = (entries["seal"] == _seal_bytes(numbers, ids, entries)).all(axis=1)
    return whole


def _seal_bytes(numbers: npt.NDArray[Any], ids: Ids, entries: Entries) -> npt.NDArray[np.uint8]:
    words = np.ascontiguousarray(entries).view(np.uint64).reshape(len(entries), -1)
    words = np.concatenate([words[:, :-1], words[:, -1:] & np.uint64(0xFF_FFFF_FFFF)], axis=1)  # without the seal
    return seals(numbers, ids, words).astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
