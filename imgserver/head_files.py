"""Heads in stores: kept beside the vectors that they made, and read back."""

from __future__ import annotations

from pathlib import Path

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.storage.store import ENCODERS, HEADS, Store
from crossmedia.imgserver.storage.stores import ServedStore
from crossmedia.version import Version


def save_head(store: Store, head: Head) -> None:
    """Keep ``head`` beside its vectors."""
    with replacing(store.head_path(head.name)) as part:
        part.write_bytes(head.to_bytes())


def copy_heads(source: Path, target: Path) -> None:
    """Bring all heads below one folder, a store's or that of moved shards, to another, and the encoders of its texts.

    Raises:
        StoreError: one of them is damaged.
    """
    for file in (source / HEADS).glob("*.safetensors"):
        data = file.read_bytes()
        read_head(file.stem, data, file)
        with replacing(target / HEADS / file.name) as part:
            part.write_bytes(data)
    for file in (source / ENCODERS).glob("*.safetensors"):  # whoever reads one checks it against its name
        with replacing(target / ENCODERS / file.name) as part:
            part.write_bytes(file.read_bytes())


def read_head(name: str, data: bytes, where: object) -> Head:
    """The head of that name, ``<name>@<hash>``, from its bytes.

    Raises:
        StoreError: it is another one, or none.
    """
    try:
        head = Head.from_bytes(data)
    except BadInput as error:
        raise StoreError(f"The head {name} in {where} is damaged and cannot be read.") from error
    if head.name != name:
        raise StoreError(f"The head {name} in {where} is damaged: its weights are those of {head.name}.")
    return head


def load_head(store: ServedStore, version: str) -> Head:
    """The head of a version in this store.

    Raises:
        StoreError: it is not there, or damaged.
    """
    name = Version.parse(version).head
    data = store.read_head(name)
    try:
        if data is None:
            raise StoreError(f"The head of {version} is missing in {store}.")
        return read_head(name, data, store)
    except StoreError as error:
        raise StoreError(f"{error} Bring it back from a backup; or {other_head(store, version)}.") from error


def other_head(store: object, version: str) -> str:
    """What makes another version in the place of one whose head, or whose codebook, has gone."""
    command = f"imgserver precompute --store {store} --catalogue FOLDER --new-head --dim {Version.parse(version).dim}"
    return f"make another version of the features that are stored: '{command}'"
