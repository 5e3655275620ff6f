"""Versions in a store: which vectors there are, which are served, and the heads that made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, NotReady, StoreError, did_you_mean
from crossmedia.imgserver.storage.records import NO_ROW, Entries, Ids, Space
from crossmedia.imgserver.storage.store import HEADS, Store
from crossmedia.imgserver.storage.stores import ServedStore

if TYPE_CHECKING:
    from crossmedia.imgserver.head import Head

# In the place of the head: vectors that came from elsewhere. There is no feature and no photo behind them.
IMPORTED = "imported"
FEATURE_DTYPE = "float16"
VECTOR_DTYPE = "float16"


def split_version(version: str) -> tuple[str, str]:
    """``<backbone>@<hash>+<head>@<hash>[#<codebook>]/<dim>`` into backbone version and ``<head>@<hash>``."""
    backbone, _, rest = version.partition("+")
    return backbone, rest.partition("/")[0].partition("#")[0]


def compressed_version(version: str, codebook: str) -> str:
    """The version of what the codebook of that name leaves of the vectors of ``version``."""
    head, _, dim = version.rpartition("/")
    return f"{head}#{codebook}/{dim}"


def plain_version(version: str) -> str:
    """The version that a compressed one was made of; any other as it is."""
    backbone, plus, rest = version.partition("+")  # a backbone may have a # of its own
    head, slash, dim = rest.partition("/")
    return f"{backbone}{plus}{head.partition('#')[0]}{slash}{dim}"


def is_imported(version: str) -> bool:
    """Whether the vectors of a version came from elsewhere, so that no more of them can be computed here."""
    return split_version(version)[1] == IMPORTED


def save_head(store: Store, head: Head) -> None:
    """Keep ``head`` beside its vectors."""
    with replacing(store.head_path(f"{head.spec.name}@{head.digest()}")) as part:
        part.write_bytes(head.to_bytes())


def copy_heads(source: Path, target: Path) -> None:
    """Bring all heads below one folder, a store's or that of moved shards, to another.

    Raises:
        StoreError: one of them is damaged.
    """
    for file in (source / HEADS).glob("*.safetensors"):
        data = file.read_bytes()
        read_head(file.stem, data, file)
        with replacing(target / HEADS / file.name) as part:
            part.write_bytes(data)


def read_head(name: str, data: bytes, where: object) -> Head:
    """The head of that name, ``<name>@<hash>``, from its bytes.

    Raises:
        StoreError: it is another one, or none.
    """
    from crossmedia.imgserver.head import Head  # torch, which takes its time

    try:
        head = Head.from_bytes(data)
    except BadInput as error:
        raise StoreError(f"The head {name} in {where} is damaged and cannot be read.") from error
    if (found := f"{head.spec.name}@{head.digest()}") != name:
        raise StoreError(f"The head {name} in {where} is damaged: its weights are those of {found}.")
    return head


def load_head(store: ServedStore, version: str) -> Head:
    """The head of a version in this store.

    Raises:
        StoreError: it is not there, or damaged.
    """
    name = split_version(version)[1]
    data = store.read_head(name)
    try:
        if data is None:
            raise StoreError(f"The head of {version} is missing in {store}.")
        return read_head(name, data, store)
    except StoreError as error:
        raise StoreError(f"{error} Bring it back from a backup; or {other_head(store, version)}.") from error


def other_head(store: object, version: str) -> str:
    """What makes another version in the place of one whose head, or whose codebook, has gone."""
    dim = version.rpartition("/")[2]
    command = f"imgserver precompute --store {store} --catalogue FOLDER --new-head --dim {dim}"
    return f"make another version of the features that are stored: '{command}'"


@dataclass(frozen=True)
class HeldVersion:
    """A version, or the features of a backbone, in a store.

    Attributes:
        name: the version.
        kind: ``vector`` or ``feature``.
        dim: numbers in a row.
        row_bytes: that a row takes in memory and on disk.
        rows: rows that were written, replaced ones included.
        active: whether it is served to who names no version.
    """

    name: str
    kind: str
    dim: int
    row_bytes: int
    rows: int
    active: bool


def held_versions(store: Store) -> list[HeldVersion]:
    """All that a store holds: each backbone's features, then the versions."""
    active = store.index.active
    return [
        HeldVersion(space.name, space.kind, space.dim, space.row_bytes, space.next_row, space.name == active)
        for space in store.index.spaces()
    ]


def active_rows(store: Store) -> tuple[Space, Ids, Entries]:
    """The active version, with the ids and entries of all its images that have a vector, ascending.

    Raises:
        NotReady: the store has no vectors yet, or none of the active version.
    """
    space = held(store, "", "vector")
    ids, entries, _ = store.index.load(space.name)
    there = entries["row"] != NO_ROW
    if not there.any():
        raise NotReady(f"The store {store.folder} holds no vector of its active version {space.name}.")
    return space, ids[there], entries[there]


def activate(store: Store, version: str) -> None:
    """Serve ``version`` from now on; a daemon follows within a second, without a mixed batch.

    Raises:
        BadInput: the store does not hold it.
    """
    store.index.activate(held(store, version, "vector").name)


def delete(store: Store, name: str) -> int:
    """Delete a version, or a backbone's features once no version needs them; return how many images it had.

    Run it again after a kill: what the killed one left is removed, 0 images.

    Raises:
        BadInput: the store does not hold it, or it is in use.
        StoreError: the store cannot be written.
    """
    finished = store.finish_deletions()
    if name in finished and store.index.space(name) is None:
        return 0
    space = held(store, name)
    if space.name == store.index.active:
        raise BadInput(f"{space.name} is the active version; activate another one before you delete it.")
    if space.kind == "feature":
        for version in store.index.spaces("vector"):
            if split_version(version.name)[0] == space.name:
                raise BadInput(f"The features of {space.name} are needed by {version.name}; delete that version first.")
    return store.delete(space)


def held(store: Store, name: str, kind: str = "") -> Space:
    """What a store holds under a name; of the active version when it is empty.

    Raises:
        NotReady: no version is active.
        BadInput: it holds nothing of that name, or of another kind.
    """
    name = name or store.index.active
    if not name:
        raise NotReady(f"The store {store.folder} has no vectors yet. {store.fill_hint}.")
    space = store.index.space(name)
    if space is None or (kind and space.kind != kind):
        known = [s.name for wanted in ([kind] if kind else ["vector", "feature"]) for s in store.index.spaces(wanted)]
        raise BadInput(
            f"The store {store.folder} does not hold the version {name!r}. It holds: {', '.join(known) or 'none'}."
            f"{did_you_mean(name, known)}"
        )
    return space


def feature_space(store: Store, backbone_version: str, dim: int, recipe: str) -> Space:
    """Features of a backbone version, which ``recipe`` makes again; made if it is not there."""
    return store.index.ensure_space(backbone_version, "feature", dim, FEATURE_DTYPE, recipe)


def vector_space(store: Store, version: str, dim: int, codebook: str = "") -> Space:
    """Vectors of a version, as the codes of a codebook if one is named; made if it is not there."""
    return store.index.ensure_space(version, "vector", dim, codebook or VECTOR_DTYPE)
