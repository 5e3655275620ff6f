"""A copy of a store that is in use, checked while it is made, and a store made of it again.

A backup is laid out as the store is: ``index/data.mdb`` as LMDB copied it in one transaction, the row files up to the
last row that this index names, and the small files beside them. Rows are only ever added, so what is written meanwhile
lies behind what is copied. ``backup.json`` has the size and SHA-256 of every file. Left out is what is made again: the
converted backbone and the snapshots of tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossmedia.disk import sync
from crossmedia.errors import BadInput, CrossMediaError, StoreError
from crossmedia.imgserver.similarity.index import FOLDER as SIMILARITY
from crossmedia.imgserver.storage.checksums import row_checksums
from crossmedia.imgserver.storage.environment import FORMAT
from crossmedia.imgserver.storage.index import UNFINISHED_INDEX, Index
from crossmedia.imgserver.storage.records import NO_ROW, Space
from crossmedia.imgserver.storage.rows import rows_in_segment
from crossmedia.imgserver.storage.store import row_folder
from crossmedia.interrupts import undone_if_interrupted

MANIFEST = "backup.json"
CHUNK_BYTES = 8 << 20
SMALL_FILES = (
    *("heads/*.safetensors", "heads/*.json", "codebooks/*.safetensors", "encoders/*.safetensors"),
    *("semantic/*.faiss", "rejects.csv", "names.parquet"),
)
SIMILARITY_TRIES = 3
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        made_at: seconds since 1970.
        made_by: release of CrossMedia.
        store_format: of the index.
        active: version that is served.
        images: entries of all versions and features.
        files: path in the backup -> bytes and SHA-256.
    """

    made_at: float
    made_by: str
    store_format: int
    active: str
    images: int
    files: dict[str, tuple[int, str]]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(size for size, _ in self.files.values())


def backup(store: Path, to: Path, on_progress: OnProgress = lambda done, of: None) -> Backup:
    """Copy ``store`` to the folder ``to``, while servers and precompute may go on; each row's checksum is compared.

    Args:
        store: its folder.
        to: made here; what is not complete is called ``<to>.part``.
        on_progress: called with bytes copied, and to be copied.

    Raises:
        BadInput: ``to`` is there already, or has no room.
        StoreError: the store cannot be read, the copy cannot be written, a row is damaged, or a version was deleted
            meanwhile. There is no backup then, and no ``<to>.part``.
    """
    if to.exists():
        what = ", a complete backup" if (to / MANIFEST).exists() else ""
        raise BadInput(f"{to} is there already{what}. Give a folder that is not, such as one named after the day.")
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a backup that was killed
    try:
        undo = undone_if_interrupted(lambda: shutil.rmtree(part, ignore_errors=True))
        # Open until the end: compact then stays away.
        with undo, closing(Index(store / "index", create=False)) as live:
            (part / "index").mkdir(parents=True)
            live.copy(part / "index")
            with closing(Index(part / "index", create=False, unlocked=True)) as index:
                made = _fill(store, part, index, on_progress)
        (part / MANIFEST).write_text(json.dumps(asdict(made), indent=1) + "\n")
        sync(part / MANIFEST)
        for folder in [part, *(found for found in part.rglob("*") if found.is_dir())]:
            sync(folder)
    except (CrossMediaError, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise StoreError(f"The backup {to} cannot be made: {error}. Mend that, and run it again.") from error
        raise
    os.rename(part, to)
    sync(to.parent)
    return made


def _fill(store: Path, part: Path, index: Index, on_progress: OnProgress) -> Backup:
    spaces = index.spaces()
    others = [path for pattern in SMALL_FILES for path in store.glob(pattern) if not path.name.startswith(".")]
    to_copy = [(space, path, size) for space in spaces for path, size in _row_files(store, space)]
    total = sum(size for _, _, size in to_copy) + sum(path.stat().st_size for path in others)
    if (free := shutil.disk_usage(part).free) < total:
        raise BadInput(f"The backup takes {total / 1e9:.2f} GB, and the disk of {part} has {free / 1e9:.2f} GB free.")
    files, done = {"index/data.mdb": _copy(part / "index" / "data.mdb", None)}, 0
    for space in spaces:
        _, entries, _ = index.load(space.name)
        entries = entries[entries["row"] != NO_ROW]
        expected = np.zeros(space.next_row, dtype=np.uint32)
        named = np.zeros(space.next_row, dtype=np.bool_)
        expected[entries["row"]], named[entries["row"]] = entries["checksum"], True
        for number, (path, size) in enumerate(_row_files(store, space)):
            name = str(path.relative_to(store))
            first = number * rows_in_segment(space.row_bytes)
            rows = size // space.row_bytes
            if named[first + rows : first + rows_in_segment(space.row_bytes)].any():
                raise _damaged(space, path, "are not in it") if path.exists() else _gone(space, path)
            check = _RowCheck(path, space, expected[first : first + rows], named[first : first + rows])
            try:
                if size:
                    files[name] = _copy(path, part / name, size, space.row_bytes, check)
            except FileNotFoundError as error:
                raise _gone(space, path) from error
            done += size
            on_progress(done, total)
    for path in others:
        files[str(path.relative_to(store))] = _copy(path, part / path.relative_to(store))
        done += path.stat().st_size
        on_progress(done, total)
    files |= _copy_similarity(store, part)
    return Backup(time.time(), package_version("crossmedia"), FORMAT, index.active, len(index), files)


class _RowCheck:
    """Compares the rows of a file, as they pass, with what the index says of them."""

    def __init__(self, path: Path, space: Space, expected: npt.NDArray[np.uint32], named: npt.NDArray[np.bool_]):
        self._path, self._space, self._expected, self._named = path, space, expected, named
        self._at = 0

    def __call__(self, data: bytes) -> None:
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self._space.row_bytes)
        here = slice(self._at, self._at + len(rows))
        self._at += len(rows)
        bad = (row_checksums(rows) != self._expected[here]) & self._named[here]
        if bad.any():
            raise _damaged(self._space, self._path, "do not match their checksum")


def _gone(space: Space, path: Path) -> StoreError:
    return StoreError(
        f"{path} has gone: was {space.name} deleted while the backup was made? Then run it again. Else the store is "
        f"damaged, and 'imgserver mend' takes out what is missing."
    )


def _damaged(space: Space, path: Path, what: str) -> StoreError:
    return StoreError(
        f"Rows of {space.name} in {path} {what}, so no backup was made. 'imgserver doctor --full' names the images, "
        f"'imgserver mend' takes them out; or restore an earlier backup."
    )


def _row_files(store: Path, space: Space) -> Iterator[tuple[Path, int]]:
    """The files of a space with the bytes of each that its rows take; one that is shorter has lost the others."""
    per_file = rows_in_segment(space.row_bytes)
    for number in range(-(-space.next_row // per_file)):
        path = row_folder(store, space) / f"{number:05d}.rows"
        rows = min(per_file, space.next_row - number * per_file)
        if path.exists():
            yield path, min(rows, path.stat().st_size // space.row_bytes) * space.row_bytes
        else:
            yield path, 0


def _copy(
    source: Path,
    target: Path | None,
    size: int | None = None,
    width: int = 1,
    check: Callable[[bytes], None] = lambda data: None,
) -> tuple[int, str]:
    """Copy the first ``size`` bytes and wait until they are on disk; return how many, and their SHA-256.

    Args:
        source: a file.
        target: the copy; None: only read.
        size: None: all of it.
        width: pieces are whole multiples of so many bytes.
        check: called with each piece.
    """
    left = source.stat().st_size if size is None else size
    sha, copied = hashlib.sha256(), 0
    piece = max(1, CHUNK_BYTES // width) * width
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as read, open(target or os.devnull, "wb") as written:
        while data := read.read(min(piece, left)):
            check(data)
            sha.update(data)
            written.write(data)
            left -= len(data)
            copied += len(data)
        written.flush()
        if target is not None:
            os.fsync(written.fileno())
    if left:
        raise StoreError(f"{source} ends {left} bytes early; the file is damaged.")
    return copied, sha.hexdigest()


def _copy_similarity(store: Path, part: Path) -> dict[str, tuple[int, str]]:
    """The build of the similarity index that is in use; a new one may take its place meanwhile."""
    for _ in range(SIMILARITY_TRIES):
        shutil.rmtree(part / SIMILARITY, ignore_errors=True)
        try:
            pointer = (store / SIMILARITY / "current.json").read_bytes()
            build = json.loads(pointer)["build"]
            names = [f"{SIMILARITY}/{name}" for name in (f"{build}.faiss", f"{build}.npy", "current.json")]
            files = {name: _copy(store / name, part / name) for name in names}
        except FileNotFoundError:
            continue
        if (part / SIMILARITY / "current.json").read_bytes() == pointer:
            return files
    shutil.rmtree(part / SIMILARITY, ignore_errors=True)
    return {}


def read_manifest(folder: Path) -> Backup:
    """What the backup in ``folder`` holds.

    Raises:
        BadInput: there is no complete backup.
    """
    try:
        told = json.loads((folder / MANIFEST).read_text())
        files = {str(name): (int(size), str(sha)) for name, (size, sha) in told.pop("files").items()}
        if outside := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise ValueError(f"it names {outside[0]!r}, which lies outside")
        return Backup(**told, files=files)
    except FileNotFoundError as error:
        raise BadInput(f"{folder} is no backup: there is no {MANIFEST} in it. 'imgserver backup' makes one.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{folder / MANIFEST} is damaged: {error}. Restore another backup.") from error


def restore(folder: Path, store: Path, on_progress: OnProgress = lambda done, of: None) -> Backup:
    """Make the store ``store`` of a backup. Every file is compared with its SHA-256; the index comes last.

    Args:
        folder: the backup.
        store: not there, empty, or with what a killed restore left; nothing is done where it was restored already.
        on_progress: called with bytes copied, and to be copied.

    Raises:
        BadInput: there is no backup, or the store is not empty, or has no room.
        StoreError: a file of the backup is damaged, or one of the store cannot be written; there is no store then.
    """
    made = read_manifest(folder)
    unfinished, index = store / "index" / UNFINISHED_INDEX, store / "index" / "data.mdb"
    if unfinished.exists() and not index.exists():  # of a restore that was killed
        _empty(store)
    if index.exists() and _copy(index, None) == made.files["index/data.mdb"]:
        return made  # the index came last: it was restored already
    if store.exists() and not _is_empty(store):
        raise BadInput(f"The folder {store} is not empty, and restore overwrites nothing. Move it away first.")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    if (free := shutil.disk_usage(store).free) < made.total_bytes:
        _empty(store)
        raise BadInput(
            f"The store takes {made.total_bytes / 1e9:.2f} GB, and the disk of {store} has {free / 1e9:.2f} free."
        )
    done = 0
    try:
        with undone_if_interrupted(lambda: _empty(store)):
            for name, (size, sha) in made.files.items():
                found = _copied_back(folder / name, unfinished if name == "index/data.mdb" else store / name)
                if found != (size, sha):
                    raise StoreError(
                        f"The file {folder / name} of the backup is damaged: it has {found[0]} bytes with SHA-256 "
                        f"{found[1][:12]}…, and was made with {size} and {sha[:12]}…. Restore another backup."
                    )
                done += size
                on_progress(done, made.total_bytes)
            if made.store_format == FORMAT:
                _fill_up(folder / "index", store)
        for path in {store / folder for name in made.files for folder in Path(name).parents}:
            sync(path)
    except (CrossMediaError, OSError) as error:
        _empty(store)
        if isinstance(error, OSError):
            raise StoreError(f"The store {store} cannot be made: {error}. Mend that, and run it again.") from error
        raise
    os.replace(unfinished, index)
    sync(index.parent)
    return made


def _copied_back(source: Path, target: Path) -> tuple[int, str]:
    try:
        return _copy(source, target)
    except FileNotFoundError as error:
        raise StoreError(f"The file {source} of the backup is missing. Restore another backup.") from error


def _fill_up(index: Path, store: Path) -> None:
    """Make row files as long as they were: a backup has of the last one what is in use."""
    with closing(Index(index, create=False, unlocked=True)) as found:
        for space in found.spaces():
            for path in row_folder(store, space).glob("*.rows"):
                os.truncate(path, rows_in_segment(space.row_bytes) * space.row_bytes)


def _is_empty(store: Path) -> bool:
    """Whether nothing is there but an empty folder of an index, which a restore makes first and removes last."""
    there = [path for path in store.iterdir() if path.name != "lost+found"]
    return not there or (there == [store / "index"] and there[0].is_dir() and not any(there[0].iterdir()))


def _empty(store: Path) -> None:
    """Remove what a restore made, last the file that says that it is not complete."""
    for path in sorted(store.iterdir(), key=lambda path: path.name == "index"):
        if path.name == "lost+found":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
