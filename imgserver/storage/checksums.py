"""Checksums of what is stored: of rows, xxh32, compiled by numba; of entries and facts in the index, xxh3.

A row's checksum is kept in its entry, and an entry's in its own last bytes, so that a bit that a disk flipped in either
is noticed before a vector is served.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from numba import njit

_P1, _P2, _P3, _P4, _P5 = map(np.uint32, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1))
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
    out = np.empty(len(rows), dtype=np.uint32)
    _checksums(as_bytes(rows), out)
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
        verified: a bit a row of the file: was it compared before? Those are believed, and those that are right now join
            them. Threads that set bits of one byte at once may lose some: these rows are compared once more.
        bad: shape (n,), all False; set where a row is damaged.

    Returns:
        how many are.
    """
    return int(_compare(rows.view(np.uint8), named, held, verified, bad))


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
    """A value as the index keeps it under a key: behind a checksum of both."""
    return xxhash.xxh3_64_digest(key + b"\0" + value)[:SEAL_BYTES] + value


def open_fact(key: bytes, sealed: bytes) -> bytes | None:
    """What ``seal_fact`` was given; None where that is not what is there."""
    value = sealed[SEAL_BYTES:]
    return value if seal_fact(key, value) == sealed else None


@njit(cache=True)
def _word(row: Any, at: Any) -> Any:
    low = np.uint32(row[at]) | (np.uint32(row[at + 1]) << np.uint32(8))
    return low | (np.uint32(row[at + 2]) << np.uint32(16)) | (np.uint32(row[at + 3]) << np.uint32(24))


@njit(cache=True)
def _turned(x: Any, by: Any) -> Any:
    return np.uint32((x << np.uint32(by)) | (x >> np.uint32(32 - by)))


@njit(cache=True)
def _round(lane: Any, word: Any) -> Any:
    return np.uint32(_turned(np.uint32(lane + np.uint32(word * _P2)), 13) * _P1)


@njit(nogil=True, cache=True)
def _xxh32(row: Any) -> Any:
    """XXH32 with seed 0; see https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md."""
    n, at = len(row), 0
    if n >= 16:
        a, b, c, d = np.uint32(_P1 + _P2), _P2, np.uint32(0), np.uint32(np.uint32(0) - _P1)
        while at + 16 <= n:
            a, b = _round(a, _word(row, at)), _round(b, _word(row, at + 4))
            c, d = _round(c, _word(row, at + 8)), _round(d, _word(row, at + 12))
            at += 16
        found = np.uint32(_turned(a, 1) + _turned(b, 7) + _turned(c, 12) + _turned(d, 18))
    else:
        found = _P5
    found = np.uint32(found + np.uint32(n))
    while at + 4 <= n:
        found = np.uint32(_turned(np.uint32(found + np.uint32(_word(row, at) * _P3)), 17) * _P4)
        at += 4
    while at < n:
        found = np.uint32(_turned(np.uint32(found + np.uint32(np.uint32(row[at]) * _P5)), 11) * _P1)
        at += 1
    found = np.uint32((found ^ (found >> np.uint32(15))) * _P2)
    found = np.uint32((found ^ (found >> np.uint32(13))) * _P3)
    return np.uint32(found ^ (found >> np.uint32(16)))


@njit(nogil=True, cache=True)
def _checksums(rows: Any, out: Any) -> None:
    for i in range(len(rows)):
        out[i] = _xxh32(rows[i])


@njit(nogil=True, cache=True)
def _compare(rows: Any, named: Any, held: Any, verified: Any, bad: Any) -> Any:
    first, there = held
    known = np.uint8(1)
    for i in range(len(named)):  # mostly all were compared before: without a branch that takes a third of the time
        row = min((named[i] >> 32) - first, there)
        known &= verified[row >> 3] >> np.uint8(row & 7)
    if known:
        return 0
    found = 0
    for i in range(len(named)):
        row = (named[i] >> 32) - first
        if row < there:
            byte, bit = row >> 3, np.uint8(1) << np.uint8(row & 7)
            if verified[byte] & bit:
                continue
            if _xxh32(rows[i]) == np.uint32(named[i]):
                verified[byte] |= bit
                continue
        bad[i] = True
        found += 1
    return found
