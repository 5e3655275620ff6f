"""Hashes of whole columns: the same on every machine and in every run, unlike Python's own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]


def mix(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every input bit changes every output bit."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_strings(column: pa.Array) -> Hashes:
    """The hash of each string, shape (n,): the sum of its bytes, each mixed with its position in the string."""
    column = column.cast(pa.large_string())
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    if not offsets[-1] - offsets[0]:
        return mix(np.zeros(len(column), dtype=np.uint64))
    data = np.frombuffer(column.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    starts = offsets[:-1] - offsets[0]
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    terms = mix(data.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(8)))
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms)])  # wraps around, and so do differences
    return mix(sums[starts + lengths] - sums[starts] + lengths.astype(np.uint64))


def draw(seed: int, *counters: npt.NDArray[np.int64] | int) -> Hashes:
    """Random numbers by counter: each depends only on the seed and its own counters, not on earlier draws."""
    state = mix(np.array([seed], dtype=np.uint64))
    for counter in counters:
        state = mix(state ^ mix(np.atleast_1d(np.asarray(counter)).astype(np.uint64)))
    return state
