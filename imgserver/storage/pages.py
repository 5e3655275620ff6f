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
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.page_walk import TROUBLES, walk

HEADER, META, TREE = 16, struct.Struct("<IIQQ"), struct.Struct("<IHHQQQQQ")
TAIL, PAGE, NODE = struct.Struct("<QQ"), struct.Struct("<QHHHH"), struct.Struct("<HHHH")
META_BYTES = HEADER + META.size + 2 * TREE.size + TAIL.size
MAGIC, DATA_VERSION = 0xBEEFC0DE, 1
NO_PAGE = 2**64 - 1
BRANCH, LEAF = 1, 2
BIG_VALUE, SUB_TREE = 1, 2
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


class _Node(NamedTuple):
    """One of the nodes of a page: of a leaf the value, or the page where it lies; of a branch the child."""

    key: bytes
    value: bytes
    size: int
    flags: int
    child: int


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
        if found := [meta for meta in _metas(data) if meta.transaction == transaction]:
            return _Pages(data, found[0]).trouble()
    return f"none of its two roots is that of transaction {transaction}"


def readable(file: Path) -> dict[bytes, dict[bytes, bytes]]:
    """What can be read of a damaged file that nobody writes: of each database the values by key, in their order.

    Pages that are not what they should be are passed over, and what only they lead to with them.
    """
    data = np.memmap(file, dtype=np.uint8, mode="r") if file.stat().st_size else np.zeros(0, dtype=np.uint8)
    metas = sorted(_metas(data), key=lambda meta: meta.transaction)
    return _Pages(data, metas[-1]).databases() if metas else {}


def _metas(data: Bytes) -> list[_Meta]:
    return [meta for meta in (_meta(data, 0), _meta(data, 1)) if meta is not None]


def _meta(data: Bytes, number: int) -> _Meta | None:
    for size in (4096, 8192, 16384, 32768, 65536):
        block = bytes(data[number * size : number * size + META_BYTES])
        if len(block) < META_BYTES:
            return None
        magic, version, _, _ = META.unpack_from(block, HEADER)
        free = _Tree(*TREE.unpack_from(block, HEADER + META.size))
        main = _Tree(*TREE.unpack_from(block, HEADER + META.size + TREE.size))
        last, transaction = TAIL.unpack_from(block, HEADER + META.size + 2 * TREE.size)
        if (magic, version, free.pad) == (MAGIC, DATA_VERSION, size):
            return _Meta(size, free, main, last, transaction)
    return None


class _Pages:
    """The pages of a file, as of one transaction.

    Args:
        data: the file.
        meta: the transaction's.
    """

    def __init__(self, data: Bytes, meta: _Meta):
        self._size, self._meta = meta.page_bytes, meta
        self._there = min(meta.last_page + 1, len(data) // self._size)
        self._data = data[: self._there * self._size]  # where the file was cut, the rest of a page is no page
        self._seen = np.zeros(self._there, dtype=np.uint8)

    def trouble(self) -> str:
        """What is wrong with the pages; empty when nothing is."""
        # Pages that one transaction took and gave back are not written: at the end of the file they may be missing.
        missing = self._meta.last_page + 1 - self._there
        if missing and sum(int((free >= self._there).sum()) for free in self._free()) != missing:
            return f"it is cut: it should have {self._meta.last_page + 1:,} pages, and has {self._there:,}"
        self._seen[:2] = 1
        return (
            self._walked(self._meta.free, "the list of free pages")
            or self._walked(self._meta.main, "the list of databases")
            or self._walked_all()
            or self._marked_free()
            or ("" if self._seen.all() else f"{int((self._seen == 0).sum()):,} of its pages are neither used nor free")
        )

    def _walked(self, tree: _Tree, name: str) -> str:
        if tree.root == NO_PAGE:
            return "" if tree.entries == 0 else f"{name} has no root"
        if tree.flags & ~TREE_FLAGS or tree.depth > MOST_DEPTH or tree.root >= self._there:
            return f"the root of {name} is damaged"
        counts, integers = np.zeros(4, dtype=np.int64), int(bool(tree.flags & INTEGER_KEYS))
        shape = (self._size, tree.root, tree.depth, integers)
        code, page = walk(self._data, self._data.view(np.uint16), shape, self._seen, counts)
        if code:
            return f"page {page:,} of {name} {TROUBLES[code]}"
        if counts.tolist() != [tree.branches, tree.leaves, tree.overflows, tree.entries]:
            return f"{name} does not have the pages and entries that its root says"
        return ""

    def _walked_all(self) -> str:
        for key, value, flags in self._nodes(self._meta.main):
            if not flags & SUB_TREE or len(value) != TREE.size:
                return f"{key!r} is no database"
            if said := self._walked(_Tree(*TREE.unpack(value)), f"the database {key.decode(errors='replace')!r}"):
                return said
        return ""

    def _free(self) -> Iterator[npt.NDArray[np.uint64]]:
        """Numbers of free pages, list by list; an empty list is a damaged one."""
        for _, value, _ in self._nodes(self._meta.free):
            free = np.frombuffer(value[: len(value) // 8 * 8], dtype="<u8")
            yield free[1 : 1 + int(free[0])] if len(free) and int(free[0]) < len(free) else free[:0]

    def _marked_free(self) -> str:
        for free in self._free():
            if not len(free) or (free > self._meta.last_page).any():
                return "a list of free pages is damaged"
            here = free[free < self._there]
            if self._seen[here].any() or len(np.unique(free)) < len(free):
                return "a page is free and used at once"
            self._seen[here] = 1
        return ""

    def databases(self) -> dict[bytes, dict[bytes, bytes]]:
        """As ``readable``."""
        self._marked_free()  # a pointer into the past leads to a page that is free
        seen = set(np.flatnonzero(self._seen).tolist())
        found = {}
        for name, value, flags in self._nodes(self._meta.main, seen):
            if flags & SUB_TREE and len(value) == TREE.size:
                tree = _Tree(*TREE.unpack(value))
                found[name] = {key: value for key, value, _ in self._nodes(tree, seen)}
        return found

    def _nodes(self, tree: _Tree, seen: set[int] | None = None) -> Iterator[tuple[bytes, bytes, int]]:
        """Key, value and flags of the nodes of a tree, in their order, from pages that are what they should be."""
        seen = set() if seen is None else seen
        todo = [(tree.root, 1, b"", b"")]
        while todo:
            page, level, low, high = todo.pop()
            if not 2 <= page < self._there or page in seen or level > min(tree.depth, MOST_DEPTH):
                continue
            nodes = _nodes_of(bytes(self._data[page * self._size : (page + 1) * self._size]), page, level == tree.depth)
            keys = [node.key for node in nodes[level < tree.depth :]]  # the first key of a branch counts for nothing
            order = [key[::-1] for key in keys] if tree.flags & INTEGER_KEYS else keys
            ascend = all(one < other for one, other in pairwise(order))
            within = tree.flags & INTEGER_KEYS or all(low <= key and (not high or key < high) for key in keys)
            if not (nodes and ascend and within):
                continue
            seen.add(page)
            if level == tree.depth:
                for node in nodes:
                    yield node.key, self._value(node), node.flags
                continue
            bounds = [low, *keys, high]
            children = [(node.child, level + 1, *pair) for node, pair in zip(nodes, pairwise(bounds), strict=True)]
            todo += reversed(children)

    def _value(self, node: _Node) -> bytes:
        if not node.flags & BIG_VALUE:
            return node.value
        at = int.from_bytes(node.value, "little") * self._size + HEADER
        return bytes(self._data[at : at + node.size])


def _nodes_of(page: bytes, number: int, leaf: bool) -> list[_Node]:
    """The nodes of a page; none where it is not the page that it should be."""
    found, _, flags, lower, upper = PAGE.unpack_from(page)
    if found != number or flags != (LEAF if leaf else BRANCH) or not HEADER <= lower <= upper <= len(page):
        return []
    nodes = []
    for place in struct.unpack_from(f"<{(lower - HEADER) // 2}H", page, HEADER):
        if not upper <= place <= len(page) - NODE.size:
            return []
        low, high, node_flags, key_size = NODE.unpack_from(page, place)
        start, size = place + NODE.size + key_size, low | high << 16
        stored = 0 if not leaf else 8 if node_flags & BIG_VALUE else size
        if start + stored > len(page):
            return []
        key, value = page[place + NODE.size : start], page[start : start + stored]
        nodes.append(_Node(key, value, size, node_flags, size | node_flags << 32))
    return nodes
