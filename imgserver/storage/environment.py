"""LMDB as the index uses it: opened once a process, its errors in words, its facts behind checksums.

A fact is a value of the databases ``meta`` and ``spaces``, and of the log of changes. The format of the store alone is
kept plain, so that every release can read it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakSet

import lmdb

from crossmedia.disk import unwritable
from crossmedia.errors import BadInput, DamagedIndex, NoStore, StoreError
from crossmedia.forks import check_not_forked
from crossmedia.imgserver.storage.checksums import open_fact, seal_fact
from crossmedia.imgserver.storage.copied import examine_copy, note_file
from crossmedia.imgserver.storage.pages import check_pages

# To be raised by whatever a release that reads the present one would not understand. 1 and 2 came before any release.
FORMAT = 3
MAP_BYTES = 1 << 40  # sparse: address space, not disk
LOCK_BYTES = 256 << 10  # more than LMDB's lock and an empty index take
_opened: WeakSet[Environment] = WeakSet()  # of this process, or of the one that it was forked from


class Environment:
    """The LMDB environment in ``folder``.

    Args:
        folder: holds ``data.mdb``.
        create: make it if it is not there.
        unlocked: read only, without LMDB's lock; for callers who know that nobody writes (see ``storage.exclusive``).

    Raises:
        BadInput: nothing can be made at that place, its disk is full, or its name is no UTF-8 text.
        StoreError: the folder holds no store, or a damaged one, or one of another format, or cannot be opened.
    """

    def __init__(self, folder: Path, *, create: bool, unlocked: bool):
        self.folder, self._pid = folder, os.getpid()
        for other in list(_opened):
            other.close_if_inherited()
        create = create and not unlocked
        _check_name(folder)
        if create:
            _make(folder)
        if not unlocked:
            _check_room(folder)
        try:
            if not unlocked:
                examine_copy(folder)
            self._lmdb = lmdb.open(
                str(folder),
                map_size=MAP_BYTES,
                max_dbs=8,
                max_readers=512,
                create=create,
                readahead=False,
                readonly=unlocked,
                lock=not unlocked,
            )
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            raise self.damaged(str(error)) from error
        except (lmdb.Error, OSError) as error:
            _refuse(folder, error, create=create)
        try:
            if not unlocked:
                self._lmdb.reader_check()
                note_file(folder)
            with self._lmdb.begin() as txn:
                trouble = check_pages(folder / "data.mdb", txn.id())
            if trouble:
                raise self.damaged(trouble)
            self.meta, self.spaces, self.entries, self.changes = (
                self._lmdb.open_db(name, create=create) for name in (b"meta", b"spaces", b"entries", b"changes")
            )
            self._check_format(create=create)
        except (lmdb.Error, OSError) as error:
            self._lmdb.close()
            raise self.damaged(str(error)) from error
        except StoreError:
            self._lmdb.close()
            raise
        _opened.add(self)

    def _check_format(self, *, create: bool) -> None:
        with self._lmdb.begin(db=self.meta) as txn:
            found = txn.get(b"format")
        if found is None:
            if not create:
                raise self.damaged("its format is not in it")
            with self.write() as txn:
                txn.put(b"format", str(FORMAT).encode(), db=self.meta)
        elif not found.isdigit():
            raise self.damaged(f"its format is {found!r}")
        elif (number := int(found)) != FORMAT:
            newer = "A newer release made it: install that release of CrossMedia, or restore a backup from before."
            older = "It is from before the first release: embed the photos into a new one, with 'imgserver precompute'."
            raise StoreError(
                f"The store {self.folder.parent} has format {number}, and this release reads format {FORMAT}. "
                f"{older if number < FORMAT else newer}"
            )

    def damaged(self, what: str) -> DamagedIndex:
        """The error for an index that is not what was written."""
        return DamagedIndex(
            f"The index {self.folder} is damaged: {what}. Run 'imgserver mend --store {self.folder.parent}', which "
            f"keeps what is whole, if anything is; else restore a backup, or precompute into a new store."
        )

    def close(self) -> None:
        """Close it."""
        self._lmdb.close()

    def close_if_inherited(self) -> None:
        """Close what a fork copied, which LMDB counts as open here; the process that opened it notices nothing."""
        if os.getpid() != self._pid:
            self._lmdb.close()

    def _check_process(self) -> None:
        check_not_forked(self._pid, f"The store {self.folder.parent}")

    @contextmanager
    def read(self, db: Any = None) -> Iterator[Any]:
        """A transaction that reads.

        Raises:
            StoreError: LMDB meets damage.
        """
        self._check_process()
        try:
            with self._lmdb.begin(db=db) as txn:
                yield txn
        except lmdb.Error as error:
            raise self.damaged(str(error)) from error

    @contextmanager
    def write(self) -> Iterator[Any]:
        """The transaction that writes; one at a time, of all processes.

        Raises:
            StoreError: it cannot be committed; nothing of it was.
        """
        self._check_process()
        try:
            with self._lmdb.begin(write=True) as txn:
                yield txn
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError) as error:
            raise self.damaged(str(error)) from error
        except lmdb.Error as error:
            raise StoreError(f"The index {self.folder} cannot be written: {error}. Is the disk full?") from error

    def fact(self, txn: Any, db: Any, key: bytes) -> bytes | None:
        """A fact, or None.

        Raises:
            StoreError: it is not what was written.
        """
        value = txn.get(key, db=db)
        return None if value is None else self.opened(key, value)

    def opened(self, key: bytes, value: bytes) -> bytes:
        """A fact as it was given to ``put_fact``, of what LMDB has under its key.

        Raises:
            StoreError: it is not what was written.
        """
        found = open_fact(key, value)
        if found is None:
            raise self.damaged(f"what it says of {key.decode(errors='replace')!r} does not match its checksum")
        return found

    def put_fact(self, txn: Any, db: Any, key: bytes, value: bytes) -> None:
        """Keep a fact, in a transaction that writes."""
        txn.put(key, seal_fact(key, value), db=db)

    def copy(self, folder: Path) -> None:
        """Write the index as it is now into an empty folder, while others may go on writing here.

        Raises:
            StoreError: the copy cannot be written.
        """
        self._check_process()
        try:
            self._lmdb.copy(str(folder), compact=True)
        except lmdb.Error as error:
            raise StoreError(f"The index cannot be copied to {folder}: {error}. Is the disk full?") from error

    def map_use(self) -> tuple[int, int]:
        """Bytes of LMDB's map that are taken, and its size."""
        info = self._lmdb.info()
        return (info["last_pgno"] + 1) * self._lmdb.stat()["psize"], info["map_size"]


def _check_name(folder: Path) -> None:
    try:
        str(folder).encode()  # LMDB takes text alone
    except UnicodeEncodeError as error:
        raise BadInput(
            f"The name of the store, {str(folder.parent)!a}, is no UTF-8 text. Rename it, or the folder above it whose "
            f"name is none; what is in it stays as it is."
        ) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"The store {folder.parent} cannot be made: {unwritable(folder, error)}") from error


def _check_room(folder: Path) -> None:
    """There is room for LMDB's lock, which is written as memory: on a full disk that ends the process (SIGBUS)."""
    with suppress(FileNotFoundError, NotADirectoryError):
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        if free < LOCK_BYTES and not (folder / "lock.mdb").exists():
            full = unwritable(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            raise BadInput(f"The store {folder.parent} cannot be opened: {full}")


def _refuse(folder: Path, error: Exception, *, create: bool) -> NoReturn:
    """Say in words why LMDB did not open a folder."""
    if any(path.exists() and not os.access(path, os.W_OK) for path in (folder, folder / "lock.mdb")):
        raise StoreError(
            f"The store {folder.parent} cannot be written: {error}. Who opens a store, if only to read, says in "
            f"{folder / 'lock.mdb'} what must not be overwritten. Make it writable, or copy it to a place that is."
        ) from PermissionError(errno.EACCES, str(error))  # a person's to mend
    if not create and not (folder / "data.mdb").exists():
        raise NoStore(folder.parent) from error
    if "already open in this process" in str(error):
        raise StoreError(
            f"The store {folder.parent} is open in this process already. Close what has it open (a client of "
            f"open_store has close()), or go on with that."
        ) from error
    raise StoreError(f"There is no readable store in {folder}: {error}. 'imgserver precompute' makes one.") from error
