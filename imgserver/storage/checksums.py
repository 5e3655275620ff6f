"""Checksums of what is stored: of rows, xxh32, compiled by numba; of entries and facts in the index, xxh3.

A row's checksum is kept in its entry, and an entry's in its own last bytes, so that a bit that a disk flipped in either
is noticed before a vector is served.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

_MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
SEAL_BYTES = 4  # before a fact
SUM_BITS = 32

Rows = npt.NDArray[Any]
Sums = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
Named = npt.NDArray[np.int64]


def as_bytes(rows: Rows) -> npt.NDArray[np.uint8]:
    """The bytes of rows, shape (n, W), of any dtype."""
    rows = np.ascontiguousarray(rows)
    found = rows.view(np.uint8).reshape(len(rows), -1) if rows.size else np.zeros((len(rows), 0), dtype=np.uint8)
    found.flags.writeable = False  # one kind of array, so that it is compiled once
    return found


def row_checksums(rows: Rows) -> Sums:
    """XXH32 of each row, shape (n,), of rows as they are stored, shape (n, dim)."""
    from crossmedia.imgserver.storage.compiled.checksums import checksums

    out = np.empty(len(rows), dtype=np.uint32)
    checksums(as_bytes(rows), out)
    return out


def name_rows(rows: npt.NDArray[Any], sums: npt.NDArray[Any]) -> Named:
    """Row numbers below 2^31 and their checksums, both of shape (n,), as one number each."""
    named: Named = rows.astype(np.int64) << SUM_BITS | sums
    return named


def find_damaged(rows: Rows, named: Named, held: tuple[int, int], verified: Bits, bad: Mask) -> int:
    """Compare rows that were copied out of a file with their checksums.

    Args:
        rows: shape (n, dim), C-contiguous.
        named: which they are, as ``name_rows`` says, shape (n,).
        held: number of the file's first row, and how many rows it has; those beyond are damaged, whatever was copied.
        verified: one bit for each row of the file: whether it was compared before. Such rows are believed, and the bits
            of rows that are found right are set. Threads that set bits of one byte at once may lose some: those rows
            are compared once more.
        bad: shape (n,), all False; set where a row is damaged.

    Returns:
        how many rows are damaged.
    """
    from crossmedia.imgserver.storage.compiled.checksums import compare

    first, there = held
    return int(compare(rows.view(np.uint8), named, first, there, verified, bad))


def seals(numbers: npt.NDArray[Any], ids: npt.NDArray[Any], words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """24 bits, never 0, for entries of the index, shape (n,).

    Args:
        numbers: of the spaces, shape (n,).
        ids: of the images, shape (n,).
        words: the entries, shape (n, W), without their seals.
    """
    mixed = (np.asarray(numbers, np.uint64) << np.uint64(40)) ^ np.asarray(ids, np.uint64)
    for column in range(words.shape[1]):
        mixed = (mixed ^ (mixed >> _HALF) ^ words[:, column]) * _MIX
    mixed ^= mixed >> _HALF
    found = ((mixed * _MIX) >> np.uint64(40)).astype(np.uint32)
    return np.where(found == 0, np.uint32(1), found)


def seal_fact(key: bytes, value: bytes) -> bytes:
    """What the index keeps under a key: a checksum of key and value, then the value."""
    return xxhash.xxh3_64_digest(key + b"\0" + value)[:SEAL_BYTES] + value


def open_fact(key: bytes, sealed: bytes) -> bytes | None:
    """The value that ``seal_fact`` was given; None where these bytes are not what it wrote."""
    value = sealed[SEAL_BYTES:]
    return value if seal_fact(key, value) == sealed else None
