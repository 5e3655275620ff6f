"""Guard the folder that samples are built in: one build at a time, and never over samples that may be wanted."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.errors import BadInput
from crossmedia.features.layout import META_FILE, sample_files
from crossmedia.features.vocabulary import FILE as VOCABULARY_FILE
from crossmedia.interrupts import undone_if_interrupted

WORK_FOLDER = ".building"
EVERY_FILE = sample_files(histories=True)


@contextmanager
def claimed(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to work in, below ``folder``, which no other build gets meanwhile; it is removed at the end.

    Raises:
        BadInput: another build is at work there, or there are samples and ``overwrite`` was not said.
    """
    work = folder / WORK_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"Another 'features build' is writing to {folder}. Wait for it, or give another --out."
            ) from None
        except OSError:  # a disk without locks
            pass
        _check_free(folder, overwrite=overwrite)
        shutil.rmtree(work, ignore_errors=True)  # what a killed build left
        work.mkdir()
        try:
            with undone_if_interrupted(lambda: shutil.rmtree(work, ignore_errors=True)):
                yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(descriptor)


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if (folder / META_FILE).exists():
        if not overwrite:
            raise BadInput(f"{folder} holds samples already. Give another --out, or --overwrite to replace them.")
        return
    for path in (folder / name for name in EVERY_FILE):
        if not _is_ours(path):
            raise BadInput(f"{path} is no file of samples, and would be written over. Give another --out, or move it.")


def _is_ours(path: Path) -> bool:
    """Whether a file is one of samples, or not there; a build that was killed may have left some."""
    if not path.exists():
        return True
    try:
        return b"vocabulary_hash" in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def put_in_place(work: Path, folder: Path, *, histories: bool) -> None:
    """Put the finished samples in ``work``, with or without histories, in the place of those in ``folder``."""
    names = sample_files(histories=histories)
    # Whoever is killed from here on leaves a folder that says that it holds no samples, and not some of both.
    (folder / META_FILE).unlink(missing_ok=True)
    for name in (*names, VOCABULARY_FILE, META_FILE):
        os.replace(work / name, folder / name)
    for name in set(EVERY_FILE) - set(names):  # of samples with histories that were there before
        with suppress(FileNotFoundError):
            (folder / name).unlink()
