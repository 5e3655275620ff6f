"""What a catalogue holds, in columns: no Python object an image, so that ten million images fit into memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from imgserver.errors import BadInput
from imgserver.keys import is_number
from imgserver.storage.catalog.files import PARQUET_SUFFIXES
from imgserver.storage.records import Ids, places_in

WHOLE_FILE = -1
UNKNOWN = -1


@dataclass(frozen=True)
class FoundImages:
    """Images as they were found: n of them in m files.

    Attributes:
        keys: int64 or string, shape (n,): names of photos and tar members without suffix, ids of a Parquet file.
        files: string, shape (m,): paths below the catalogue's root, or whole paths and URLs.
        file: int32, shape (n,): index into ``files``.
        offset: int64, shape (n,): ``WHOLE_FILE``, or the first byte in a tar, or the row in a Parquet file.
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
        name = str(self.files[int(self.file[row])])
        if self.offset[row] == WHOLE_FILE:
            return name
        return f"{name} ({'row' if name.endswith(PARQUET_SUFFIXES) else 'byte'} {self.offset[row]})"


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


def ids_from_keys(entries: FoundImages, root: str) -> Ids:
    """Image ids of entries whose keys are whole numbers, shape (n,).

    Raises:
        BadInput: a key is none; the message says how to make a manifest.
    """
    numeric = numeric_keys(entries)
    if not numeric.all():
        row = int(np.argmin(numeric))
        raise BadInput(
            f"{entries.where(row)} in {root} is not named after an image id: {str(entries.keys[row])!r} is no whole "
            f"number from 0 on. Rename it, or give every key an id that lasts: 'imgserver manifest {root} --out "
            f"manifest.parquet', and use the manifest as the catalogue."
        )
    return np.asarray(pc.cast(entries.keys, pa.int64()))
