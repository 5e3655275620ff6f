"""Versions in a store: which vectors there are, which are served, and the heads that made them."""

from __future__ import annotations

import os
from pathlib import Path

from imgserver.errors import StoreError
from imgserver.head import Head
from imgserver.storage.index import Space
from imgserver.storage.store import Store

# In the place of the head: vectors that came from elsewhere. There is no feature and no photo behind them.
IMPORTED = "imported"
FEATURE_DTYPE = "float16"
VECTOR_DTYPE = "float16"


def split_version(version: str) -> tuple[str, str]:
    """``<backbone>@<hash>+<head>@<hash>/<dim>`` into backbone version and ``<head>@<hash>``."""
    backbone, _, rest = version.partition("+")
    return backbone, rest.partition("/")[0]


def is_imported(version: str) -> bool:
    """Whether the vectors of a version came from elsewhere, so that no more of them can be computed here."""
    return split_version(version)[1] == IMPORTED


def save_head(store: Store, head: Head) -> None:
    """Keep ``head`` beside its vectors."""
    path = _head_path(store, f"{head.spec.name}@{head.digest()}")
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(head.to_bytes())
    os.replace(part, path)


def load_head(store: Store, version: str) -> Head:
    """The head of a version in this store.

    Raises:
        StoreError: it is not there.
    """
    path = _head_path(store, split_version(version)[1])
    if not path.exists():
        raise StoreError(f"The head of {version} is missing: {path}. Run 'imgserver precompute' on another store.")
    return Head.from_bytes(path.read_bytes())


def feature_space(store: Store, backbone_version: str, dim: int, recipe: str) -> Space:
    """Features of a backbone version, which ``recipe`` makes again; made if it is not there."""
    return store.index.ensure_space(backbone_version, "feature", dim, FEATURE_DTYPE, recipe)


def vector_space(store: Store, version: str, dim: int) -> Space:
    """Vectors of a version; made if it is not there."""
    return store.index.ensure_space(version, "vector", dim, VECTOR_DTYPE)


def _head_path(store: Store, name: str) -> Path:
    return store.folder / "heads" / f"{name}.safetensors"
