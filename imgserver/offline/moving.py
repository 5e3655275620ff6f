"""Move images to their new owners when servers join or leave: into files, then other stores; then drop them here.

    moved/features/<backbone>/shard=0017/….parquet   rows, as 'precompute --part' writes them; vectors/ likewise
    moved/heads/<head>.safetensors                   what made the vectors
    moved/written/<server>.json                      by its former owner: all of a server's rows are in the files
    moved/held/<server>.json                         by a new owner: count and digest of each shard in its store

Rows are dropped only where the new owner's digest is that of the rows to be dropped. Each step does what is left to do,
so after a kill it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import xxhash

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, NotReady, StoreError
from crossmedia.imgserver.head_files import copy_heads
from crossmedia.imgserver.offline.rejects import write_rejects
from crossmedia.imgserver.offline.shard_files import FEATURES, VECTORS, ShardFiles, names_below
from crossmedia.imgserver.shards import SHARDS, Ownership, shards_of
from crossmedia.imgserver.storage.records import NO_ROW, Entries, Ids, Space, places_in, same_photo
from crossmedia.imgserver.storage.store import Store
from crossmedia.names import ImageNames
from crossmedia.notes import note, read_note
from crossmedia.version import Version

WRITTEN, HELD = "written", "held"
BLOCK_ROWS = 8192
COMMIT_ROWS = 4096
Shards = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MoveReport:
    """What a store has that other servers own.

    Attributes:
        to: virtual shards with images in them, by new owner.
        images: in these shards, those that failed for good included.
        rows: of features and vectors that were written, or dropped, now.
        seconds: of it all.
    """

    to: dict[str, int]
    images: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class _Part:
    """Rows of a space that other servers own, by virtual shard."""

    space: Space
    ids: Ids
    entries: Entries
    shards: Shards

    def of(self, shard: int, end: int | None = None) -> tuple[Ids, Entries]:
        """Those of one shard, ids ascending; or of all shards before ``end``, one after the other."""
        first, last = np.searchsorted(self.shards, [shard, shard + 1 if end is None else end])
        return self.ids[first:last], self.entries[first:last]


def write_moved(store: Store, folder: Path, ownership: Ownership) -> MoveReport:
    """Write what other servers own into files, features and vectors of all versions; the store stays as it is.

    Args:
        store: of ``ownership.me``.
        folder: where the files go, the same for all servers.
        ownership: from now on.

    Raises:
        BadInput: the folder is of another list of servers, a file in it is damaged, or a version is compressed.
        NotReady: the store has no vectors.
        StoreError: a row is damaged, or the folder cannot be written.
    """
    started, written = time.monotonic(), 0
    if not store.index.active:
        raise NotReady(f"The store {store.folder} serves no version, so there is nothing to move.")
    if coded := [space.name for space in store.index.spaces("vector") if space.codebook]:
        raise BadInput(
            f"{coded[0]} is compressed by a codebook that only {store.folder} has, so its vectors cannot move. "
            f"Delete it first with 'imgserver versions --delete'; another version must be active then."
        )
    _notes(folder, WRITTEN, ownership)  # of another list, they are refused
    try:
        (folder / WRITTEN).mkdir(parents=True, exist_ok=True)
        _path(folder, WRITTEN, ownership.me).unlink(missing_ok=True)  # until all is there
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error}. Is the disk full?") from error
    parts = _others_own(store, ownership)
    for part in parts:
        files = _files(folder, part.space)
        for shard in np.unique(part.shards).tolist():
            ids, entries = part.of(shard)
            new = _unlike(ids, entries, files.known([shard]))
            for start in range(0, len(ids), BLOCK_ROWS):
                rows = np.flatnonzero(new[start : start + BLOCK_ROWS]) + start
                if len(rows):
                    files.write(files.new_place(shard), store.rows_of(part.space, ids[rows], entries[rows]))
            written += int(new.sum())
    copy_heads(store.folder, folder)
    if (names := ImageNames.of_store(store.folder)) is not None:
        names.keep(folder)
    _write(_path(folder, WRITTEN, ownership.me), ownership, {"active": store.index.active})
    return _report(parts, ownership, written, started)


def drop_moved(store: Store, folder: Path, ownership: Ownership) -> MoveReport:
    """Take what other servers own out of the store, once their stores were seen to hold all of it.

    Args:
        store: of ``ownership.me``.
        folder: of ``write_moved``, with what the new owners' merges noted there.
        ownership: as given to ``write_moved``.

    Raises:
        BadInput: a new owner does not hold what would be dropped; nothing was.
        StoreError: the store was written to meanwhile; run it again.
    """
    started = time.monotonic()
    parts = _others_own(store, ownership)
    held = _notes(folder, HELD, ownership)
    for part in parts:
        for shard in np.unique(part.shards).tolist():
            owner = ownership.servers[ownership.owner[shard]]
            there = held.get(owner, {}).get("held", {}).get(part.space.name, {}).get(str(shard))
            if there != (here := _digest(*part.of(shard))):
                raise BadInput(
                    f"Virtual shard {shard} of {part.space.name} has {here[0]} images here, and {owner} "
                    f"{f'took {there[0]}, not the same' if there else 'did not take it'}. Nothing was dropped. Run "
                    f"'imgserver reshard' without --drop, 'imgserver merge {folder}' with --me {owner} on its store, "
                    f"and this again."
                )
    for first, end in _whole_shards(parts):
        store.index.remove([(part.space.name, *part.of(first, end)) for part in parts])
    features = store.index.space(Version.parse(store.index.active).backbone) if store.index.active else None
    if features is not None:
        write_rejects(store, features, {})
    return _report(parts, ownership, sum(len(part.ids) for part in parts), started)


def active_among(folder: Path, ownership: Ownership | None) -> str | None:
    """The version that was active in the stores whose rows are in ``folder``; None: they are no moved shards.

    Raises:
        BadInput: they were moved to another list of servers, different versions were active, or not all is there yet.
    """
    found = {told["active"] for told in _notes(folder, WRITTEN, ownership).values()}
    if not found and (folder / WRITTEN).exists():
        raise BadInput(
            f"No 'imgserver reshard' into {folder} has come to its end yet. Run it, again if it was stopped."
        )
    if len(found) > 1:
        raise BadInput(
            f"The rows in {folder} come from stores that serve different versions: {', '.join(sorted(found))}. "
            f"Activate one on all of them, and run 'imgserver reshard' again."
        )
    return found.pop() if found else None


def note_held(store: Store, folder: Path, ownership: Ownership) -> None:
    """Note for former owners what this store holds of the images in ``folder`` that it owns; every row is read for it.

    Images that came to the store by another way are theirs alone, and no reason to refuse a drop.

    Raises:
        StoreError: a row is damaged.
    """
    held: dict[str, dict[str, list[Any]]] = {}
    for kind in (FEATURES, VECTORS):
        for name in names_below(folder, kind):
            files, space = ShardFiles(folder, kind, name), store.index.space(name)
            moved = {int(place.partition("/")[0].partition("=")[2]) for place in files.places(_mine(ownership))}
            if space is None or not moved:
                continue
            part = _sorted_by_shard(space, *store.index.load(name)[:2])
            for shard in sorted(moved):
                ids, entries = part.of(shard)
                came = places_in(files.known([shard])["image_id"], ids)[1]
                ids, entries = ids[came], entries[came]
                for start in range(0, len(ids), BLOCK_ROWS):
                    rows = entries[start : start + BLOCK_ROWS]
                    store.read(space, rows[rows["row"] != NO_ROW])
                held.setdefault(name, {})[str(shard)] = _digest(ids, entries)
    _write(_path(folder, HELD, ownership.me), ownership, {"held": held})


def _mine(ownership: Ownership) -> list[int]:
    mine: list[int] = np.flatnonzero(ownership.mine).tolist()
    return mine


def _others_own(store: Store, ownership: Ownership) -> list[_Part]:
    parts = []
    for space in store.index.spaces():
        ids, entries, _ = store.index.load(space.name)
        others = ~ownership.mine[shards_of(ids)]
        parts.append(_sorted_by_shard(space, ids[others], entries[others]))
    return parts


def _sorted_by_shard(space: Space, ids: Ids, entries: Entries) -> _Part:
    shards = shards_of(ids)
    order = np.argsort(shards, kind="stable")
    return _Part(space, ids[order], entries[order], shards[order])


def _whole_shards(parts: list[_Part]) -> Iterator[tuple[int, int]]:
    """Ranges of shards, from the first to before the last, of some thousand rows: a commit waits for the disk."""
    rows = np.sum([np.bincount(part.shards, minlength=SHARDS) for part in parts], axis=0)
    first = 0
    for end in range(1, SHARDS + 1):
        if (found := rows[first:end].sum()) >= COMMIT_ROWS or (end == SHARDS and found):
            yield first, end
            first = end


def _files(folder: Path, space: Space) -> ShardFiles:
    return ShardFiles(folder, FEATURES if space.kind == "feature" else VECTORS, space.name)


def _unlike(ids: Ids, entries: Entries, known: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which entries, shape (n,), the files lack, or hold with another content."""
    place, same = places_in(known["image_id"], ids)
    same[same] = same_photo(known[place[same]], entries[same])
    return ~same


def _digest(ids: Ids, entries: Entries) -> list[Any]:
    """Count, and a hash of ids, status and content; not of rows, for two machines may have computed one photo."""
    columns = (ids, entries["status"], entries["content"])
    return [len(ids), xxhash.xxh3_128_hexdigest(b"".join(np.ascontiguousarray(column).tobytes() for column in columns))]


def _report(parts: list[_Part], ownership: Ownership, rows: int, started: float) -> MoveReport:
    shards = np.unique(np.concatenate([np.zeros(0, np.int64), *(part.shards for part in parts)]))
    owner, counts = np.unique(ownership.owner[shards], return_counts=True)
    to = {ownership.servers[place]: count for place, count in zip(owner.tolist(), counts.tolist(), strict=True)}
    return MoveReport(to, max((len(part.ids) for part in parts), default=0), rows, time.monotonic() - started)


def _path(folder: Path, kind: str, server: str) -> Path:
    return folder / kind / f"{quote(server, safe='')}.json"


def _write(path: Path, ownership: Ownership, found: dict[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(note({"server": ownership.me, "servers": ownership.servers, **found}))


def _notes(folder: Path, kind: str, ownership: Ownership | None) -> dict[str, Any]:
    """What servers noted in a folder, by server.

    Raises:
        BadInput: a note is damaged, or of another list of servers than that of ``ownership``, if there is one.
    """
    found = {}
    for path in sorted((folder / kind).glob("*.json")):
        try:
            told = read_note(path.read_bytes())
            servers = told["servers"]
            found[told["server"]] = told
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} cannot be read: {error}. Remove it, and run what wrote it again.") from error
        if ownership is not None and servers != ownership.servers:
            raise BadInput(
                f"{folder} moves images to {', '.join(servers)}, and --servers names {', '.join(ownership.servers)}. "
                f"Take another folder for another list."
            )
    return found
