"""What a catalogue holds, in columns: no Python object an image, so that ten million images fit into memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from shlex import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.files import CSV_SUFFIXES, PARQUET_SUFFIXES, has_suffix
from crossmedia.imgserver.storage.records import Ids, places_in
from crossmedia.keys import is_number
from crossmedia.words import row_said

WHOLE_FILE = -1
SHOWN = 3  # of the photos that have no number
UNKNOWN = -1


@dataclass(frozen=True)
class FoundImages:
    """Images as they were found: n of them in m files.

    Attributes:
        keys: int64 or string, shape (n,): names of photos and tar members without suffix, ids of a Parquet file.
        files: string, shape (m,): paths below the catalogue's root, or whole paths and URLs.
        file: int32, shape (n,): index into ``files``.
        offset: int64, shape (n,): ``WHOLE_FILE``, or the first byte in a tar, or the row in a Parquet file, from 0.
        size: int64, shape (n,): bytes of the image, or ``UNKNOWN``.
        stamp: uint64, shape (n,): what changes when the image is replaced (time in ns, hash of an ETag); 0: unknown.
    """

    keys: pa.Array
    files: pa.Array
    file: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    stamp: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.file)

    def where(self, row: int) -> str:
        """A sentence's worth of where entry ``row`` is."""
        return place_in_words(str(self.files[int(self.file[row])]), int(self.offset[row]))


def place_in_words(name: str, offset: int) -> str:
    """Where an image is: a file, or what part of it; rows count from 1, as in all messages."""
    if offset == WHOLE_FILE:
        return name
    of_rows = has_suffix(name, (*PARQUET_SUFFIXES, *CSV_SUFFIXES))
    return f"{name} ({row_said(offset + 1, name) if of_rows else f'byte {offset}'})"


def concat(parts: Iterable[FoundImages]) -> FoundImages:
    """Images of all parts, in order."""
    found = [part for part in parts if len(part)]
    if not found:
        none = np.zeros(0, dtype=np.int64)
        text = pa.array([], pa.large_string())
        return FoundImages(text, text, none.astype(np.int32), none, none, none.astype(np.uint64))
    shifts = np.cumsum([0, *(len(part.files) for part in found)])
    mixed = len({part.keys.type for part in found}) > 1
    keys = [part.keys.cast(pa.large_string()) if mixed else part.keys for part in found]
    return FoundImages(
        pa.concat_arrays(keys),
        pa.concat_arrays([part.files.cast(pa.large_string()) for part in found]),
        np.concatenate([part.file + np.int32(shift) for part, shift in zip(found, shifts, strict=False)]),
        np.concatenate([part.offset for part in found]),
        np.concatenate([part.size for part in found]),
        np.concatenate([part.stamp for part in found]),
    )


def numeric_keys(entries: FoundImages) -> npt.NDArray[np.bool_]:
    """Which keys are image ids as they are: whole numbers from 0 on that fit into int64, shape (n,)."""
    if pa.types.is_integer(entries.keys.type):
        return np.asarray(pc.greater_equal(entries.keys, 0))
    return np.asarray(is_number(entries.keys))


class Listing:
    """Images in the order of their ids.

    Args:
        entries: what was found.
        ids: their image ids, shape (n,).

    Raises:
        BadInput: an id is there twice.
    """

    def __init__(self, entries: FoundImages, ids: Ids):
        order = np.argsort(ids, kind="stable")
        sorted_ids = ids[order]
        if len(twice := np.flatnonzero(sorted_ids[1:] == sorted_ids[:-1])):
            a, b = order[twice[0]], order[twice[0] + 1]
            raise BadInput(
                f"Image id {ids[a]} has two photos, {entries.where(int(a))} and {entries.where(int(b))}. "
                f"Remove or rename one of them."
            )
        self.ids, self.files = sorted_ids, entries.files
        self.file, self.offset = entries.file[order], entries.offset[order]
        self.size, self.stamp = entries.size[order], entries.stamp[order]

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, ids: Ids) -> Ids:
        """Where each id stands in this listing, shape (n,); -1 where it does not."""
        place, found = places_in(self.ids, ids)
        return np.where(found, place, -1)

    def where(self, image_id: int) -> str | None:
        """Where an image is, for people; None where it is not here."""
        place = int(self.places(np.array([image_id]))[0])
        if place < 0:
            return None
        return place_in_words(str(self.files[int(self.file[place])]), int(self.offset[place]))


def ids_from_keys(entries: FoundImages, root: str) -> Ids:
    """Image ids of entries whose keys are whole numbers, shape (n,).

    Raises:
        BadInput: a key is none; the message says how to make a manifest.
    """
    numeric = numeric_keys(entries)
    if not numeric.all():
        rows = np.flatnonzero(~numeric)
        first = rows[np.asarray(pc.sort_indices(entries.keys.take(pa.array(rows))))][:SHOWN].tolist()
        some = ", ".join(f"{entries.where(row)} ({str(entries.keys[row])!r})" for row in first)
        raise BadInput(
            f"{len(rows)} of {len(entries)} photos in {root} are not named after an image id, a whole number from 0 "
            f"on: {some}{', …' if len(rows) > SHOWN else ''}. Rename them, or give every name an id that lasts: "
            f"crossmedia imgserver manifest {quote(root)} --out manifest.parquet; then use that as the catalogue."
        )
    return np.asarray(pc.cast(entries.keys, pa.int64()))
