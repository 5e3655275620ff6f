"""What lies in Redis: keys that carry version and id, values that carry a row, where it came from, and a checksum.

    key    cm:{tag}:<8 bytes of the version's hash><id, 8 bytes>
    value  checksum u4, status u1, padding, size u8, stamp u8, content u8, row: as long for every id of a version

The tag, one of 64, follows from the id; all keys of a tag lie in one slot, so that one MGET brings them. Commands are
written as arrays of fixed-width records, without Python for each id.

Legend: n ids, D numbers in a row, W bytes in a value.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase, digits
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from crossmedia.imgserver.storage.records import SOURCE, SOURCE_FIELDS, Ids, Rows, Space

TAGS, SLOTS = 64, 16_384
KEY_BYTES = 24
_MIX = np.uint64(0x9E3779B97F4A7C15)

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def slot_of(tag: bytes) -> int:
    """The slot that Redis gives to keys with ``{tag}``."""
    return binascii.crc_hqx(tag, 0) % SLOTS


def _spread_tags() -> list[bytes]:
    """Two letters each, one in each 64th of the slots, so that nodes with equal ranges hold equally many tags."""
    found: dict[int, bytes] = {}
    for letters in product((ascii_lowercase + digits).encode(), repeat=2):
        found.setdefault(slot_of(bytes(letters)) * TAGS // SLOTS, bytes(letters))
    return [found[part] for part in range(TAGS)]


TAG_NAMES = _spread_tags()
_PREFIXES = [b"cm:{%s}:" % tag for tag in TAG_NAMES]
_PREFIX_ARRAY = np.array(_PREFIXES)


def tags_of(ids: Ids) -> npt.NDArray[np.uint8]:
    """The tag of each id, shape (n,), from 0 to 63."""
    return (np.asarray(ids).astype(np.uint64) * _MIX >> np.uint64(58)).astype(np.uint8)


def named_key(tag: int, name: str) -> bytes:
    """The key of something that is no row."""
    return _PREFIXES[tag] + name.encode()


def command(*words: bytes) -> bytes:
    """A command as Redis reads it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@dataclass(frozen=True)
class Grouped:
    """Ids in the order of their tags.

    Attributes:
        order: shape (n,), places of the ids.
        parts: of each tag that occurs: the tag, and where its ids begin and end in ``order``.
    """

    order: npt.NDArray[np.int64]
    parts: list[tuple[int, int, int]]


def grouped(ids: Ids) -> Grouped:
    """Group ids, shape (n,), by tag."""
    tags = tags_of(ids)
    order = np.argsort(tags, kind="stable")
    ends = np.cumsum(np.bincount(tags, minlength=TAGS)).tolist()
    starts = [0, *ends[:-1]]
    return Grouped(order, [(tag, s, e) for tag, (s, e) in enumerate(zip(starts, ends, strict=True)) if e > s])


class Codec:
    """Keys and values of one version.

    Args:
        space: the version.
    """

    def __init__(self, space: Space):
        self.dim = space.dim
        self._digest = hashlib.sha256(space.name.encode()).digest()[:8]
        self._seed = np.uint64(int.from_bytes(self._digest, "little"))
        # The padding to whole words is named, so that numpy copies it too.
        padding = -space.dim * np.dtype(space.dtype).itemsize % 8
        row = [("row", space.dtype, (space.dim,)), *([("pad2", f"V{padding}")] if padding else [])]
        self.value = np.dtype([("checksum", "<u4"), ("status", "u1"), ("pad", "V3"), *SOURCE.descr, *row])
        key = [("size", "S5"), ("prefix", "S8"), ("digest", "S8"), ("id", "<i8"), ("end", "S2")]
        self._key = np.dtype(key)
        self._value_head = b"$%d\r\n" % self.value.itemsize
        pair = [*key, ("value_size", f"S{len(self._value_head)}"), ("value", self.value), ("value_end", "S2")]
        self._pair = np.dtype(pair)

    def marker(self, tag: int) -> bytes:
        """The key that says that everything published of this version is in a tag."""
        return named_key(tag, "complete:") + self._digest

    def gets(self, ids: Ids, groups: Grouped) -> Iterator[tuple[int, bytes]]:
        """Of each tag, the MGET of its ids."""
        records = self._with_keys(self._key, ids[groups.order])
        for tag, start, end in groups.parts:
            yield tag, b"*%d\r\n$4\r\nMGET\r\n" % (end - start + 1) + records[start:end].tobytes()

    def sets(self, ids: Ids, values: Values, groups: Grouped) -> Iterator[tuple[int, bytes]]:
        """Of each tag, the MSET of its ids; ``values``, shape (n,), as ``encode`` made them."""
        records = self._with_keys(self._pair, ids[groups.order])
        records["value_size"], records["value_end"] = self._value_head, b"\r\n"
        records["value"] = values[groups.order]
        for tag, start, end in groups.parts:
            yield tag, b"*%d\r\n$4\r\nMSET\r\n" % (2 * (end - start) + 1) + records[start:end].tobytes()

    def _with_keys(self, record: np.dtype[Any], ids: Ids) -> npt.NDArray[Any]:
        records = np.empty(len(ids), dtype=record)
        records["size"], records["end"] = b"$%d\r\n" % KEY_BYTES, b"\r\n"
        records["prefix"], records["digest"], records["id"] = _PREFIX_ARRAY[tags_of(ids)], self._digest, ids
        return records

    def encode(self, rows: Rows) -> Values:
        """What is kept of rows, shape (n,)."""
        values = np.zeros(len(rows), dtype=self.value)
        values["status"], values["row"] = rows.status, rows.values
        values[SOURCE_FIELDS] = rows.sources
        values["checksum"] = self._checksums(rows.ids, values)
        return values

    def decode(self, ids: Ids, replies: list[Any]) -> tuple[Values, Mask]:
        """Read what Redis answered for ids, shape (n,).

        Args:
            ids: shape (n,).
            replies: n of bytes or None.

        Returns:
            values, shape (n,), zeros where there is none; which are there and are what was written, shape (n,).
        """
        width = self.value.itemsize
        there = np.ones(len(ids), dtype=np.bool_)
        if None in replies or set(map(len, replies)) - {width}:
            there = np.array([reply is not None and len(reply) == width for reply in replies], dtype=np.bool_)
            replies = [reply if good else bytes(width) for reply, good in zip(replies, there.tolist(), strict=True)]
        values = np.frombuffer(b"".join(replies), dtype=self.value)
        there &= self._checksums(ids, values) == values["checksum"]
        if not there.all():
            values = np.where(there, values, np.zeros(1, dtype=self.value))
        return values, there

    def _checksums(self, ids: Ids, values: Values) -> npt.NDArray[np.uint32]:
        """Checksums of version, id and value but its first word, shape (n,); none fits a value under a wrong key."""
        words = np.ascontiguousarray(values).view(np.uint64).reshape(len(ids), -1)
        words.flags.writeable = False  # one kind of array, so that it is compiled once
        sums: npt.NDArray[np.uint32] = _checksums(np.ascontiguousarray(ids, dtype=np.int64), words, self._seed)
        return sums


@njit(nogil=True, cache=True)
def _checksums(ids: Any, words: Any, seed: Any) -> Any:
    out = np.empty(len(ids), dtype=np.uint32)
    for i in range(len(ids)):
        mixed = seed ^ np.uint64(ids[i])
        for j in range(words.shape[1]):
            word = words[i, j]
            if j == 0:
                word &= np.uint64(0xFFFFFFFF00000000)  # the checksum itself
            mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        out[i] = np.uint32(mixed >> np.uint64(32))
    return out
