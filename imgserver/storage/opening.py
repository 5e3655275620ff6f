"""Which store a name means: a folder, or a cluster."""

from __future__ import annotations

from pathlib import Path

from crossmedia.imgserver.places import is_url, own_folder
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.stores import ServedStore


def open_store(store: str | Path, folder: Path | None = None) -> ServedStore:
    """Open a store to serve it: a folder, made if it is not there, or ``redis://host:port,…``.

    Args:
        store: which.
        folder: see ``own_folder``.

    Raises:
        BadInput: the URL is none, or its client is not installed.
        StoreError: it cannot be opened, or nobody answers there.
    """
    own = own_folder(store, folder)
    if is_url(store):
        from crossmedia.imgserver.storage.cluster.store import RedisStore

        return RedisStore(str(store), own)
    return Store(own)
