"""LMDB's file, looked at page by page before liblmdb believes it.

liblmdb takes numbers from its pages as they are: of a damaged page it may end the process, or quietly go elsewhere. So
every page that can be reached from the root is looked at first: that it is itself, that its nodes lie within it, that
its keys ascend and lie where its parent says, and that each page of the file is reached once or is free once. A pointer
that leads to a page of the past leaves another page that nothing reaches.

    page    number u8, pad u2, flags u2, lower u2, upper u2, offsets of nodes u2 …      nodes behind upper
    node    low u2, high u2, flags u2, size of the key u2, key, value                    of a leaf: size of the value
                                                                                         of a branch: page of the child
    meta    magic u4, version u4, address u8, map u8, free tree, main tree, last page u8, transaction u8
    tree    pad u4, flags u2, depth u2, branches u8, leaves u8, overflows u8, entries u8, root u8
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

HEADER, META, TREE = 16, struct.Struct("<IIQQ"), struct.Struct("<IHHQQQQQ")
TAIL = struct.Struct("<QQ")
MAGIC, DATA_VERSION = 0xBEEFC0DE, 1
NO_PAGE = 2**64 - 1
BRANCH, LEAF, OVERFLOW, META_PAGE = 1, 2, 4, 8
BIG_VALUE, SUB_TREE, DUPLICATES = 1, 2, 4
INTEGER_KEYS = 0x08
TREE_FLAGS = 0x7F
MOST_DEPTH = 32
TRIES = 10

Bytes = npt.NDArray[np.uint8]


class _Tree(NamedTuple):
    """What LMDB says of one of its trees."""

    pad: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


class _Meta(NamedTuple):
    """The root of all, as of one transaction."""

    page_bytes: int
    free: _Tree
    main: _Tree
    last_page: int
    transaction: int


def check_pages(file: Path, transaction: int) -> str:
    """What is wrong with LMDB's file, as of a transaction that is being read meanwhile; empty when all is well.

    Args:
        file: ``data.mdb``.
        transaction: its number; while it is read, nobody writes into its pages.
    """
    for _ in range(TRIES):  # others may commit between the two
        data = np.memmap(file, dtype=np.uint8, mode="r")
        metas = [meta for meta in (_meta(data, 0), _meta(data, 1)) if meta is not None]
        found = [meta for meta in metas if meta.transaction == transaction]
        if found:
            return _Check(data, found[-1]).trouble
    return f"none of its two roots is that of transaction {transaction}"


def _meta(data: Bytes, number: int) -> _Meta | None:
    for size in (4096, 8192, 16384, 32768, 65536):
        at = number * size
        block = bytes(data[at : at + HEADER + META.size + 2 * TREE.size + TAIL.size])
        if len(block) < HEADER + META.size + 2 * TREE.size + TAIL.size:
            return None
        magic, version, _, _ = META.unpack_from(block, HEADER)
        free = _Tree(*TREE.unpack_from(block, HEADER + META.size))
        main = _Tree(*TREE.unpack_from(block, HEADER + META.size + TREE.size))
        last, transaction = TAIL.unpack_from(block, HEADER + META.size + 2 * TREE.size)
        if (magic, version, free.pad) == (MAGIC, DATA_VERSION, size):
            return _Meta(size, free, main, last, transaction)
    return None


class _Check:
    def __init__(self, data: Bytes, meta: _Meta):
        self._data, self._size = data, meta.page_bytes
        self._pages = meta.last_page + 1
        self._halves = data[: len(data) // 2 * 2].view(np.uint16)
        if self._pages * self._size > len(data):
            self.trouble = f"it is cut: it should have {self._pages} pages, and has {len(data) // self._size}"
            return
        self._seen = np.zeros(self._pages, dtype=np.uint8)
        self._seen[:2] = 1
        self.trouble = (
            self._tree(meta.free, "the list of free pages")
            or self._tree(meta.main, "the list of databases")
            or self._named(meta.main)
            or self._free(meta.free)
            or ("" if self._seen.all() else f"{int((self._seen == 0).sum())} of its pages are neither used nor free")
        )

    def _tree(self, tree: _Tree, name: str) -> str:
        """Look at all pages of a tree; what is wrong with them."""
        if tree.root == NO_PAGE:
            return "" if tree.entries == 0 else f"{name} has no root"
        if tree.flags & ~TREE_FLAGS or tree.depth > MOST_DEPTH or tree.root >= self._pages:
            return f"the root of {name} is damaged"
        counts = np.zeros(4, dtype=np.int64)
        integers = bool(tree.flags & INTEGER_KEYS)
        code, page = _walk(
            *(self._data, self._halves, self._size, tree.root, tree.depth, integers), self._seen, counts
        )
        if code:
            return f"page {page} of {name} {_TROUBLES[code]}"
        if counts.tolist() != [tree.branches, tree.leaves, tree.overflows, tree.entries]:
            return f"{name} does not have the pages and entries that its root says"
        return ""

    def _leaves(self, tree: _Tree) -> list[tuple[bytes, bytes, int]]:
        """Key, value and flags of all nodes of a tree that was looked at; for the few of small trees."""
        found, todo = [], [tree.root] if tree.root != NO_PAGE else []
        while todo:
            page = bytes(self._data[(at := todo.pop() * self._size) : at + self._size])
            flags, lower = struct.unpack_from("<HH", page, 10)
            for place in struct.unpack_from(f"<{(lower - HEADER) // 2}H", page, HEADER):
                low, high, node_flags, key_size = struct.unpack_from("<HHHH", page, place)
                if flags & BRANCH:
                    todo.append(low | high << 16 | node_flags << 32)
                    continue
                key, start, size = page[place + 8 : place + 8 + key_size], place + 8 + key_size, low | high << 16
                value = page[start : start + (8 if node_flags & BIG_VALUE else size)]
                if node_flags & BIG_VALUE:
                    begin = struct.unpack("<Q", value)[0] * self._size + HEADER
                    value = bytes(self._data[begin : begin + size])
                found.append((key, value, node_flags))
        return found

    def _named(self, main: _Tree) -> str:
        for key, value, flags in self._leaves(main):
            if not flags & SUB_TREE or len(value) != TREE.size:
                return f"{key!r} is no database"
            if trouble := self._tree(_Tree(*TREE.unpack(value)), f"the database {key.decode(errors='replace')!r}"):
                return trouble
        return ""

    def _free(self, tree: _Tree) -> str:
        for _, value, _ in self._leaves(tree):
            numbers = np.frombuffer(value[: len(value) // 8 * 8], dtype="<u8")
            if not len(numbers) or int(numbers[0]) != len(numbers) - 1 and int(numbers[0]) > len(numbers) - 1:
                return "a list of free pages is damaged"
            free = numbers[1 : 1 + int(numbers[0])]
            if (free >= self._pages).any() or self._seen[free.astype(np.int64)].any() or len(np.unique(free)) < len(free):
                return "a page is free and used at once"
            self._seen[free.astype(np.int64)] = 1
        return ""


_TROUBLES = {
    1: "lies outside of the file",
    2: "is reached twice",
    3: "is not the page that it should be",
    4: "has nodes that lie outside of it",
    5: "has keys out of order",
}


@njit(cache=True, inline="always")
def _u2(halves: Any, at: Any) -> Any:
    return np.int64(halves[at >> 1])


@njit(cache=True, inline="always")
def _u4(halves: Any, at: Any) -> Any:
    return _u2(halves, at) | _u2(halves, at + 2) << 16


@njit(cache=True)
def _less(data: Any, a: Any, a_size: Any, b: Any, b_size: Any, integers: Any) -> Any:
    """Whether the key at ``a`` comes before that at ``b``."""
    if integers:
        for i in range(7, -1, -1):
            if data[a + i] != data[b + i]:
                return data[a + i] < data[b + i]
        return False
    for i in range(min(a_size, b_size)):
        if data[a + i] != data[b + i]:
            return data[a + i] < data[b + i]
    return a_size < b_size


@njit(nogil=True, cache=True)
def _walk(data: Any, halves: Any, size: Any, root: Any, depth: Any, integers: Any, seen: Any, counts: Any) -> Any:
    """Look at a tree from its root; return what is wrong (see ``_TROUBLES``), and in which page.

    ``counts`` gets the numbers of branches, leaves, overflow pages and entries. The keys of a page lie at or above the
    one that leads to it (``low``), and below the next one of its parent (``high``); -1 where there is none.
    """
    pages = len(seen)
    room = 1024
    stack = np.empty((room, 6), dtype=np.int64)  # page, level, low, size of low, high, size of high
    stack[0] = np.array([root, 1, -1, 0, -1, 0])
    used = 1
    while used:
        used -= 1
        page, level, low, low_size, high, high_size = stack[used]
        if page < 2 or page >= pages:
            return 1, page
        if seen[page]:
            return 2, page
        seen[page] = 1
        at = page * size
        flags, lower, upper = _u2(halves, at + 10), _u2(halves, at + 12), _u2(halves, at + 14)
        leaf = level == depth
        number = _u4(halves, at) | _u4(halves, at + 4) << 32
        if number != page or flags != (2 if leaf else 1) or level > depth:
            return 3, page
        nodes = (lower - 16) // 2
        if lower < 16 or lower % 2 or upper < lower or upper > size or nodes < (1 if leaf else 2):
            return 4, page
        before, before_size = np.int64(-1), np.int64(0)
        for i in range(nodes):
            place = _u2(halves, at + 16 + 2 * i)
            if place < upper or place + 8 > size or place & 1:
                return 4, page
            node = at + place
            key, key_size, node_flags = node + 8, _u2(halves, node + 6), _u2(halves, node + 4)
            value_size = _u4(halves, node)
            end = place + 8 + key_size
            if leaf:
                if node_flags & ~3:
                    return 4, page
                end += 8 if node_flags & 1 else value_size
            if end > size or (key_size == 0 and (leaf or i > 0)) or (integers and key_size not in (0, 8)):
                return 4, page
            if key_size and not (i == 0 and not leaf):
                if before >= 0:
                    if not _less(data, before, before_size, key, key_size, integers):
                        return 5, page
                elif low >= 0 and _less(data, key, key_size, low, low_size, integers):
                    return 5, page
                before, before_size = key, key_size
            if leaf and node_flags & 1:
                value = node + 8 + key_size  # at any address
                first = np.int64(0)
                for j in range(8):
                    first |= np.int64(data[value + j]) << 8 * j
                many = (value_size + 15) // size + 1
                if first < 2 or many > pages or first > pages - many:
                    return 1, page
                begin = first * size
                if _u4(halves, begin) | _u4(halves, begin + 4) << 32 != first or _u2(halves, begin + 10) != 4:
                    return 3, first
                if _u4(halves, begin + 12) != many:
                    return 3, first
                for other in range(first, first + many):
                    if seen[other]:
                        return 2, other
                    seen[other] = 1
                counts[2] += many
        if high >= 0 and before >= 0 and not _less(data, before, before_size, high, high_size, integers):
            return 5, page
        counts[1 if leaf else 0] += 1
        if leaf:
            counts[3] += nodes
            continue
        if used + nodes > room:
            grown = np.empty((2 * room + nodes, 6), dtype=np.int64)
            grown[:used] = stack[:used]
            stack, room = grown, len(grown)
        for i in range(nodes):
            node = at + _u2(halves, at + 16 + 2 * i)
            child = _u4(halves, node) | _u2(halves, node + 4) << 32
            stack[used, 0], stack[used, 1] = child, level + 1
            stack[used, 2], stack[used, 3] = (low, low_size) if i == 0 else (node + 8, _u2(halves, node + 6))
            if i + 1 < nodes:
                following = at + _u2(halves, at + 16 + 2 * (i + 1))
                stack[used, 4], stack[used, 5] = following + 8, _u2(halves, following + 6)
            else:
                stack[used, 4], stack[used, 5] = high, high_size
            used += 1
    return 0, 0
