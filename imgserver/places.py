"""How a store is named, and where a server keeps what is its own. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from crossmedia.service.running import Program

SCHEMES = ("redis://", "rediss://")
IMAGE_SERVER = Program("image server", "imgserver", "store")


def is_url(store: str | Path) -> bool:
    """Whether a store is a cluster and no folder."""
    return str(store).startswith(SCHEMES)


def holds_store(folder: Path) -> bool:
    """Whether there is a store in a folder, or what is left of one."""
    return any((folder / part).exists() for part in ("index", "rows"))


def own_folder(store: str | Path, folder: Path | None = None) -> Path:
    """Where a server of ``store`` keeps its address, its log and the converted backbone.

    Args:
        store: a folder: there; or the URL of a cluster.
        folder: for a cluster: where; None: a folder of the user's cache, one for each URL.
    """
    if not is_url(store):
        return Path(store)
    if folder is not None:
        return folder
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "crossmedia" / f"redis-{hashlib.sha256(str(store).encode()).hexdigest()[:12]}"
