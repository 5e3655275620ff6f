"""The image server: photos in, cached low-dimensional vectors out, keyed by image id.

``crossmedia.imgserver.client`` is all a trainer needs and imports no torch; everything else belongs to the server.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossmedia.imgserver.client import ImageClient, LocalTransport
    from crossmedia.imgserver.vision.photo_source import PhotoSource


def open_store(
    store: str | Path, catalogue: str | Path | PhotoSource | None = None, timeout_s: float = 30.0
) -> ImageClient:
    """A client of a store in this process, without a daemon.

    Args:
        store: folder that ``imgserver precompute`` made.
        catalogue: path or URL of photos, or a ``TextSource``, to compute what is not stored; without it such ids are
            NOT_FOUND.
        timeout_s: seconds that a call may take.

    Raises:
        StoreError: there is no store, or it cannot be opened.

    Example:
        >>> import crossmedia
        >>> with crossmedia.open_store("store", catalogue="photos") as client:
        ...     client.get([1, 200]).ok.tolist()  # 200 is embedded now
        [True, True]
    """
    from crossmedia.arguments import check_seconds
    from crossmedia.imgserver.client import ImageClient

    check_seconds(timeout_s)
    return ImageClient(open_local(store, catalogue), timeout_s=timeout_s)


def open_local(store: str | Path, catalogue: str | Path | PhotoSource | None = None) -> LocalTransport:
    """A transport over a store in this process, without a daemon: ``ImageClient(imgserver.open_local("store"))``.

    Args:
        store: folder that ``imgserver precompute`` made.
        catalogue: path or URL of photos, or a ``TextSource``, to compute what is not stored; without it such ids are
            NOT_FOUND.

    Raises:
        NoStore: there is none.
        StoreError: it cannot be opened.

    Example:
        >>> from crossmedia import ImageClient, imgserver
        >>> with ImageClient(imgserver.open_local("store")) as client:
        ...     client.get([1, 200]).ok.tolist()
        [True, False]
    """
    from crossmedia.arguments import check_places
    from crossmedia.errors import BadInput
    from crossmedia.imgserver.client import LocalTransport
    from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
    from crossmedia.imgserver.storage.store import Store
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    check_places(store=store, **({} if isinstance(catalogue, PhotoSource) else {"catalogue": catalogue or ""}))
    if not os.fspath(store):
        raise BadInput("store is empty: name the folder of a store.")
    Store(store, create=False).close()  # a daemon may begin with an empty store; who trains from one means another
    photos = catalogue if isinstance(catalogue, PhotoSource) else PhotoSource(str(catalogue or ""))
    return LocalTransport(ImageService(ServiceConfig(Path(store), photos)))
