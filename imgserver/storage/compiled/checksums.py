"""XXH32 of rows, and the comparison of rows with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_P1, _P2, _P3, _P4, _P5 = map(np.uint32, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1))


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
def checksums(rows: Any, out: Any) -> None:
    """XXH32 of each row of bytes, shape (n, W), into ``out``, shape (n,)."""
    for i in range(len(rows)):
        out[i] = _xxh32(rows[i])


@njit(nogil=True, cache=True)
def compare(rows: Any, named: Any, first: Any, there: Any, verified: Any, bad: Any) -> Any:
    """As ``find_damaged`` of ``crossmedia.imgserver.storage.checksums`` says, of rows of bytes, shape (n, W)."""
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
