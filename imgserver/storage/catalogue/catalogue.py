"""The catalogue: which image ids there are, and where their bytes come from."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.files import (
    PARQUET_SUFFIXES,
    SHARD_SUFFIXES,
    Files,
    has_suffix,
    is_url,
    join,
    root_of,
)
from crossmedia.imgserver.storage.catalogue.listing import WHOLE_FILE, Listing, concat, ids_from_keys
from crossmedia.imgserver.storage.catalogue.local import LocalFiles, check_where, local_files
from crossmedia.imgserver.storage.catalogue.manifest import is_manifest, read_manifest, read_names
from crossmedia.imgserver.storage.catalogue.parquet_rows import ParquetRows
from crossmedia.imgserver.storage.catalogue.passed_over import PassedOver
from crossmedia.imgserver.storage.catalogue.remote import READ_TIMEOUT_S, files_for
from crossmedia.imgserver.storage.catalogue.scan import scan
from crossmedia.imgserver.storage.records import Ids
from crossmedia.names import ImageNames

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprints:
    """What tells cheaply that photos may have been replaced, shape (n,) each.

    Attributes:
        size: bytes, 0 where they are not known.
        stamp: time of the last change in ns, or a hash of what changes with the photo.
        there: whether there is such a photo.
    """

    size: npt.NDArray[np.uint64]
    stamp: npt.NDArray[np.uint64]
    there: npt.NDArray[np.bool_]


class Catalogue:
    """Photos by image id. ``open_catalogue`` makes one.

    Args:
        where: path or URL, as the user wrote it.
        listing: what was found there.
        timeout_s: seconds for one read behind a URL.
        local: reads files of this machine.
        stamp: of the file that was listed, for ``changed``; None for folders and URLs.

    Attributes:
        where: as above.
        readers: how many reads at once make sense.
        passed_over: sentences about files that are no photos of it.
    """

    def __init__(self, where: str, listing: Listing, timeout_s: float, local: LocalFiles, stamp: int | None = None):
        self.where, self._listing, self._timeout_s, self._stamp = where, listing, timeout_s, stamp
        self._local = local
        self.passed_over: tuple[str, ...] = ()
        self._root = root_of(where)
        # Only a folder of this machine is asked for photos that came after it was listed.
        self._late_folder = None if self._root != where or is_url(where) else where
        self._rows = ParquetRows(self._files)
        first = str(listing.files[0]) if len(listing.files) else ""
        self.readers = self._files(join(self._root, first)).readers

    def _files(self, path: str) -> Files:
        return files_for(path, self._timeout_s, self._local)

    def __len__(self) -> int:
        return len(self._listing)

    def changed(self) -> bool:
        """Whether the manifest, tar or Parquet file was written again since it was listed; False for all others."""
        if self._stamp is None:
            return False
        file = self._files(self.where).stat(self.where)
        return file is not None and file.stamp != self._stamp

    def ids(self) -> Ids:
        """All image ids, ascending, shape (n,)."""
        return self._listing.ids

    def reading_order(self, ids: Ids) -> Ids:
        """``ids`` in the order in which their bytes lie in files, so that shards are read once, from the start."""
        listing, places = self._listing, self._listing.places(ids)
        return ids[np.lexsort((places, listing.offset[places], listing.file[places]))] if len(listing) else ids

    def lacks(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which ids have no photo, shape (n,): by the listing and, in a folder, by name; no URL is asked."""
        lacking = self._listing.places(ids) < 0
        if self._late_folder is not None:
            lacking[lacking] = [self._late(image_id) is None for image_id in ids[lacking].tolist()]
        return lacking

    def place(self, image_id: int) -> str:
        """The file of a photo, for people: its path below the catalogue, or its URL; empty where it has none."""
        return self._listing.where(image_id) or os.path.basename(self._late(image_id) or "")

    def names(self) -> ImageNames | None:
        """What a manifest calls the photos; None where they are called by their ids.

        Raises:
            BadInput: the manifest cannot be read any more.
        """
        return read_names(self.where, self._timeout_s, self._local)

    def fingerprints(self, ids: Ids) -> Fingerprints:
        """Size and stamp of photos, now."""
        listing, places = self._listing, self._listing.places(ids)
        there = places >= 0
        if not len(listing):
            none = np.zeros(len(ids), dtype=np.uint64)
            return self._look(ids, np.ones(len(ids), dtype=np.bool_), Fingerprints(none, none.copy(), there))
        size = np.maximum(listing.size[places], 0).astype(np.uint64)
        found = Fingerprints(size, listing.stamp[places].copy(), there)
        # Files of this machine were listed without a look at each.
        whole = listing.offset[places] == WHOLE_FILE
        return self._look(ids, ~there | (whole & (found.stamp == 0)), found)

    def unchanged(self, ids: Ids, sources: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which photos, shape (n,), still have the size and stamp of ``sources``, shape (n,): ``SOURCE``."""
        now = self.fingerprints(ids)
        same: npt.NDArray[np.bool_] = now.there & (now.size == sources["size"]) & (now.stamp == sources["stamp"])
        return same

    def _look(self, ids: Ids, unknown: npt.NDArray[np.bool_], found: Fingerprints) -> Fingerprints:
        places = self._listing.places(ids)
        for row in np.flatnonzero(unknown).tolist():
            path = self._path(int(ids[row]), int(places[row]))
            if path is None:
                found.there[row] = False
            elif is_url(path):
                # Nothing is known but the address: another address is another photo.
                found.stamp[row] = xxhash.xxh3_64_intdigest(path.encode())
            else:
                file = self._files(path).stat(path)
                found.there[row] = file is not None
                if file is not None:
                    found.size[row], found.stamp[row] = file.size, file.stamp
        return found

    def read(self, image_id: int, max_bytes: int) -> bytes | None:
        """The photo's bytes, at most ``max_bytes + 1`` of them; None when there is no such photo.

        Raises:
            OSError: the photo is there and cannot be read.
        """
        place = int(self._listing.places(np.array([image_id]))[0])
        path = self._path(image_id, place)
        if path is None:
            return None
        offset = WHOLE_FILE if place < 0 else int(self._listing.offset[place])
        if offset != WHOLE_FILE and has_suffix(path, PARQUET_SUFFIXES):
            data = self._rows.read(path, offset)
            return None if data is None else data[: max_bytes + 1]
        files = self._files(path)
        if offset == WHOLE_FILE:
            return files.read(path, 0, max_bytes + 1)
        size = int(self._listing.size[place])
        return files.read(path, offset, min(size, max_bytes + 1) if size >= 0 else max_bytes + 1)

    def _path(self, image_id: int, place: int) -> str | None:
        """The file that holds an image, or None; ``place``: where the image stands in the listing, -1: nowhere."""
        if place >= 0:
            return join(self._root, self._listing.files[int(self._listing.file[place])].as_py())
        return self._late(image_id)

    def _late(self, image_id: int) -> str | None:
        """The file of an image that came into the folder after it was listed, or None."""
        if self._late_folder is not None:
            for suffix in (".jpg", ".jpeg", ".png"):
                path = os.path.join(self._late_folder, f"{image_id}{suffix}")
                if os.path.isfile(path):
                    return path
        return None


def names_in(where: str, timeout_s: float = READ_TIMEOUT_S, photo_roots: Sequence[str] = ()) -> ImageNames | None:
    """What a manifest calls its photos, without listing them; None for a catalogue of photos called by their ids.

    Raises:
        BadInput: the manifest cannot be read.
    """
    check_where(where)
    return read_names(where, timeout_s, local_files(where, photo_roots))


def open_catalogue(
    where: str | os.PathLike[str], timeout_s: float = READ_TIMEOUT_S, photo_roots: Sequence[str] = ()
) -> Catalogue:
    """List the catalogue at ``where``.

    Args:
        where: a folder or URL with photos, tars or Parquet files of photos below it; one tar; one Parquet file, with
            photos or a manifest. Photos and tar members are named ``<image id>.<jpg, png, …>``: ``007.jpg`` is image 7.
        timeout_s: seconds for one read behind a URL, before it is tried again.
        photo_roots: folders of this machine that links and manifests may lead to, beside the catalogue's own.

    Raises:
        BadInput: there is nothing at ``where``, an image's name is no number, an id is there twice, or a manifest
            leads out of its folder.
    """
    path = os.fspath(where)
    check_where(path)
    local = local_files(path, photo_roots)
    files = files_for(path, timeout_s, local)
    stamp = None if is_url(path) or not os.path.isfile(path) else os.stat(path).st_mtime_ns
    passed = PassedOver()
    try:
        if has_suffix(path, PARQUET_SUFFIXES):
            with files.open(path) as source:
                names = pq.read_schema(source).names
            if is_manifest(names):
                return Catalogue(path, read_manifest(path, timeout_s, local), timeout_s, local, stamp)
        elif not is_url(path) and os.path.isfile(path) and not has_suffix(path, SHARD_SUFFIXES):
            raise BadInput(
                f"The catalogue {path} is a file, and neither a tar nor a Parquet file. An archive of another kind is "
                f"to be unpacked, or packed as plain .tar."
            )
        entries = concat(scan(files, path, passed))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise BadInput(f"The catalogue {path} cannot be listed: {error}.") from error
    catalogue = Catalogue(path, Listing(entries, ids_from_keys(entries, path)), timeout_s, local, stamp)
    catalogue.passed_over = passed.said()
    for sentence in catalogue.passed_over:
        log.info("%s: %s", path, sentence)
    return catalogue
