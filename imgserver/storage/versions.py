"""Versions in a store: which vectors there are, and which are served."""

from __future__ import annotations

from dataclasses import dataclass

from crossmedia.errors import BadInput, NotReady, did_you_mean
from crossmedia.imgserver.storage.records import NO_ROW, Entries, Ids, Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.version import Version

FEATURE_DTYPE = "float16"
VECTOR_DTYPE = "float16"


@dataclass(frozen=True)
class HeldVersion:
    """A version, or the features of a backbone, in a store.

    Attributes:
        name: the version.
        kind: ``vector`` or ``feature``.
        dim: numbers in a row.
        row_bytes: that a row takes in memory and on disk.
        rows: rows that were written, replaced ones included.
        active: whether it is served to callers who name no version.
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
            if version.version.backbone == space.name:
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
        raise NotReady(f"The store {store.folder} has no vectors yet. {store.filling_advice}.")
    space = store.index.space(name)
    if space is None or (kind and space.kind != kind):
        known = [s.name for wanted in ([kind] if kind else ["vector", "feature"]) for s in store.index.spaces(wanted)]
        raise BadInput(
            f"The store {store.folder} does not hold the version {name!r}. It holds: {', '.join(known) or 'none'}."
            f"{did_you_mean(name, known)}"
        )
    return space


def own_space(store: Store, space: Space) -> Space:
    """The store's space of this name, made like this one if it is not there."""
    return store.index.ensure_space(space.name, space.kind, space.dim, space.dtype, space.recipe)


def vector_space(store: Store, version: Version) -> Space:
    """Vectors of a version, as the codes of its codebook if it has one; made if it is not there."""
    return store.index.ensure_space(str(version), "vector", version.dim, version.codebook or VECTOR_DTYPE)
