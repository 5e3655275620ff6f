"""What a store holds, for people who look: its images by status, page by page, and its versions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossmedia.errors import BadInput, InvalidRequest, Overloaded, PermissionDenied
from crossmedia.imgserver.serving.open_versions import OpenVersions
from crossmedia.imgserver.serving.photo_reader import PhotoReader
from crossmedia.imgserver.serving.requests import ids_of
from crossmedia.imgserver.shards import Ownership, shards_of
from crossmedia.imgserver.storage import versions as work
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.storage.rejects import REJECTS_FILE, Reject, read_rejects
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table
from crossmedia.names import ImageNames, changed_at
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller
from crossmedia.status import DAMAGED, Status, is_ok
from crossmedia.v1 import image_server_pb2 as pb

NEVER = 0  # the status of an image that nobody has embedded yet
KEPT_LISTS = 2  # versions whose images are listed: two are looked at side by side
LISTING_BYTES = 64  # of an image, while it is listed
NAME_BYTES = 512  # of an image in a reply: its name, and why it has no vector
LOADING_S = 0.5

Statuses = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ListedImages:
    """The images of a version and of the catalogue.

    Attributes:
        made_of: what it was listed from, by identity: another table, change or catalogue makes another list.
        ids: shape (n,), ascending.
        status: shape (n,); ``NEVER`` where nobody has embedded the image yet.
    """

    made_of: tuple[Table, int, Catalogue | None]
    ids: Ids
    status: Statuses

    def of(self, ids: Ids) -> Statuses:
        """The status of images, shape (n,); NOT_FOUND of one that neither store nor catalogue has."""
        if not len(self.ids):
            return np.full(len(ids), Status.NOT_FOUND, dtype=np.uint8)
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[place] == ids, self.status[place], Status.NOT_FOUND).astype(np.uint8)


class Listing:
    """Answers ``ListImages``, ``ListVersions`` and ``ActivateVersion``.

    Args:
        served: the versions that are open, of the store that is listed.
        photos: has the catalogue.
        admission: counts what is under way.
        ownership: whose images are listed; None: all.
        guarded: whether callers need tokens.
    """

    def __init__(
        self,
        served: OpenVersions,
        photos: PhotoReader,
        admission: Admission,
        ownership: Ownership | None,
        *,
        guarded: bool,
    ):
        self._served, self._photos, self._admission = served, photos, admission
        self._ownership, self._guarded = ownership, guarded
        self._lists: OrderedDict[str, ListedImages] = OrderedDict()
        self._notes = _Notes()
        self._lock = threading.Lock()

    def images(self, request: pb.ListImagesRequest, caller: Caller, most: int) -> pb.ListImagesResponse:
        """A page of images, or what is known of some.

        Args:
            request: what is asked for.
            caller: who waits.
            most: images of a reply.

        Raises:
            InvalidRequest: a broken id block, too many images, ids beside a filter, an unknown status, or a store that
                cannot be listed.
            NotReady: nothing was precomputed yet.
            VersionMismatch: a version was asked for that the store does not hold.
            WrongShard: another server owns one of the images.
            Overloaded: the table is being loaded, or too much is under way.
            StoreError: the names of the store are damaged.
        """
        if request.image_ids and (request.statuses or request.name or request.start or request.limit):
            raise InvalidRequest("Give either image_ids, or what is to be listed.")
        if request.limit > most:
            raise InvalidRequest(f"{request.limit} images were asked for in one call; the limit is {most} (GetInfo).")
        if wrong := set(request.statuses) - {NEVER, *map(int, Status)}:
            raise InvalidRequest(f"statuses has {sorted(wrong)}; see VectorStatus for those that there are.")
        ids = ids_of(request.image_ids, most, self._ownership)
        serving = self._served.of(request.version)
        table, shown = serving.table, len(ids) or request.limit
        if not isinstance(table, Table):
            raise InvalidRequest(f"{self._served.store} keeps no list of its images: look for them by id.")
        if not table.loaded:
            self._served.load()
            raise Overloaded(f"The table of {serving.version} is being loaded. Try again.", LOADING_S)
        catalogue = self._photos.catalogue
        size = LISTING_BYTES * (len(table) + len(catalogue or ())) + NAME_BYTES * shown
        with self._admission.held_until_sent(Cost(size=size), caller), self._admission.held(Cost(slow=1), caller):
            listed = self._listed(serving.version, table, catalogue)
            total, page = len(ids), ids
            if not len(ids):
                total, page = self._page(listed, request)
            return self._reply(serving.version, listed, total, page)

    def _listed(self, version: str, table: Table, catalogue: Catalogue | None) -> ListedImages:
        """The images of a version; listed once, and again when one of them, or the catalogue, is another."""
        made_of = (table, table.sequence, catalogue)
        with self._lock:
            known = self._lists.get(version)
            if known is None or known.made_of != made_of:
                ids, status = table.known()
                status[status == DAMAGED] = Status.FAILED
                if catalogue is not None:
                    new = np.setdiff1d(self._owned(catalogue.ids()), ids, assume_unique=True)
                    ids = np.concatenate([ids, new])
                    order = np.argsort(ids, kind="stable")
                    ids, status = ids[order], np.append(status, np.full(len(new), NEVER, np.uint8))[order]
                known = self._lists[version] = ListedImages(made_of, ids, status)
            self._lists.move_to_end(version)
            while len(self._lists) > KEPT_LISTS:
                self._lists.popitem(last=False)
            return known

    def _owned(self, ids: Ids) -> Ids:
        return ids if self._ownership is None else ids[self._ownership.mine[shards_of(ids)]]

    def _page(self, listed: ListedImages, request: pb.ListImagesRequest) -> tuple[int, Ids]:
        """How many images a filter leaves, and those of the page."""
        ids = listed.ids
        if request.statuses:
            ids = ids[np.isin(listed.status, list(request.statuses))]
        if request.name:
            names = self._notes.names(self._served.store.folder, self._photos.catalogue)
            ids = ids[np.isin(ids, names.with_text(request.name))] if names is not None else _spelled(ids, request.name)
        start = min(request.start, len(ids))
        return len(ids), ids[start : start + request.limit]

    def _reply(self, version: str, listed: ListedImages, total: int, ids: Ids) -> pb.ListImagesResponse:
        status, folder = listed.of(ids), self._served.store.folder
        names = self._notes.names(folder, self._photos.catalogue) if len(ids) else None
        reasons: list[str] = []
        if not is_ok(status).all():
            rejects = self._notes.rejects(folder)
            reasons = [_reason(rejects.get(i), state) for i, state in zip(ids.tolist(), status.tolist(), strict=True)]
        return pb.ListImagesResponse(
            version=version,
            total=total,
            image_ids=ids.astype("<i8").tobytes(),
            status=status.tobytes(),
            names=names.keys(ids.tolist()) if names is not None else (),
            reasons=reasons,
            counts=np.bincount(listed.status, minlength=max(Status) + 1).tolist(),
        )

    def versions(self, request: pb.ListVersionsRequest, caller: Caller) -> pb.ListVersionsResponse:
        """All that the store holds, with its rows."""
        index = self._served.store.index
        held = [
            pb.HeldVersion(
                name=space.name,
                dim=space.dim,
                row_bytes=space.row_bytes,
                rows=space.next_row,
                features=space.kind == "feature",
            )
            for space in index.spaces()
        ]
        return pb.ListVersionsResponse(held=held, active=index.active)

    def activate(self, request: pb.ActivateVersionRequest, caller: Caller) -> pb.ActivateVersionResponse:
        """Serve another version from now on.

        Raises:
            PermissionDenied: callers need no tokens here, so that anybody could.
            InvalidRequest: the store does not hold it.
            StoreError: the index cannot be written.
        """
        store = self._served.store
        if not self._guarded or not isinstance(store, Store):
            raise PermissionDenied(
                "A version is activated from afar by a token of the scope 'admin' alone, and this server asks for no "
                "tokens. Start it with --tokens, or use 'imgserver versions --activate' on its machine."
            )
        if not request.version:
            raise InvalidRequest("version is empty: which one is to be served?")
        try:
            work.activate(store, request.version)
        except BadInput as error:
            raise InvalidRequest(str(error)) from None
        self._served.refresh()
        return pb.ActivateVersionResponse(version=request.version)


def _spelled(ids: Ids, text: str) -> Ids:
    """Images that are called by their ids, and whose id has a text in it."""
    return ids[[text in str(i) for i in ids.tolist()]] if text.isdigit() else ids[:0]


def _reason(reject: Reject | None, status: int) -> str:
    """Why an image has no vector; empty where it has one, or precompute has noted nothing, or another failure."""
    if reject is None or status == Status.OK:
        return ""
    name, _, why = reject.reason.partition(": ")
    if status == NEVER:  # such as a photo that could not be read just then
        return reject.reason
    return why if name == Status(status).name else ""


class _Notes:
    """Names and rejects of a store, read again when their files change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: tuple[int, Catalogue | None, ImageNames | None] = 0, None, None
        self._rejects: tuple[int, dict[int, Reject]] = 0, {}

    def names(self, folder: Path, catalogue: Catalogue | None) -> ImageNames | None:
        """What the photos of a store, and those of a catalogue that are not in it yet, are called; None: by their ids.

        Raises:
            StoreError: the file of the store is damaged.
            BadInput: the manifest cannot be read any more.
        """
        with self._lock:
            if (changed := changed_at(folder)) != self._names[0] or catalogue is not self._names[1]:
                found = ImageNames.of_store(folder)
                if catalogue is not None and (others := catalogue.names()) is not None:
                    found = others.over(found)
                self._names = changed, catalogue, found
            return self._names[2]

    def rejects(self, folder: Path) -> dict[int, Reject]:
        """What precompute noted of the photos that it could not embed, by image id."""
        try:
            changed = (folder / REJECTS_FILE).stat().st_mtime_ns
        except OSError:
            changed = 0
        with self._lock:
            if changed != self._rejects[0]:
                self._rejects = changed, read_rejects(folder)
            return self._rejects[1]
