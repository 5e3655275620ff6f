"""The walk over the pages of LMDB's file: Python as it is for a few, compiled by numba for more.

numba takes half a second before it does anything; ``crossmedia.imgserver.storage.pages`` says what pages look like.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

FEW_PAGES = 64  # that take Python 0.1 s


def walk(data: Any, halves: Any, size: Any, root: Any, depth: Any, integers: Any, seen: Any, counts: Any) -> Any:
    """As ``_walk``, by what is faster for a file of so many pages."""
    look = _walk if len(seen) <= FEW_PAGES else _compiled()
    return look(data, halves, size, root, depth, integers, seen, counts)


@cache
def _compiled() -> Any:
    from numba import njit

    return njit(nogil=True, cache=True)(_walk)


def _walk(data: Any, halves: Any, size: Any, root: Any, depth: Any, integers: Any, seen: Any, counts: Any) -> Any:
    """Look at a tree from its root; return what is wrong, a number of ``_TROUBLES``, and in which page.

    ``counts`` gets the numbers of branches, leaves, overflow pages and entries. The keys of a page lie at or above the
    one that leads to it (``low``), and below the next one of its parent (``high``); -1 where there is none.
    """

    def u2(at: Any) -> Any:
        return np.int64(halves[at >> 1])

    def u4(at: Any) -> Any:
        return np.int64(halves[at >> 1]) | np.int64(halves[(at >> 1) + 1]) << 16

    def less(a: Any, a_size: Any, b: Any, b_size: Any) -> Any:
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
        flags, lower, upper = u2(at + 10), u2(at + 12), u2(at + 14)
        leaf = level == depth
        number = u4(at) | u4(at + 4) << 32
        if number != page or flags != (2 if leaf else 1) or level > depth:
            return 3, page
        nodes = (lower - 16) // 2
        if lower < 16 or lower % 2 or upper < lower or upper > size or nodes < (1 if leaf else 2):
            return 4, page
        before, before_size = np.int64(-1), np.int64(0)
        for i in range(nodes):
            place = u2(at + 16 + 2 * i)
            if place < upper or place + 8 > size or place & 1:
                return 4, page
            node = at + place
            key, key_size, node_flags = node + 8, u2(node + 6), u2(node + 4)
            value_size = u4(node)
            end = place + 8 + key_size
            if leaf:
                if node_flags & ~3:
                    return 4, page
                end += 8 if node_flags & 1 else value_size
            if end > size or (key_size == 0 and (leaf or i > 0)) or (integers and key_size not in (0, 8)):
                return 4, page
            if key_size and not (i == 0 and not leaf):
                if before >= 0:
                    if not less(before, before_size, key, key_size):
                        return 5, page
                elif low >= 0 and less(key, key_size, low, low_size):
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
                if u4(begin) | u4(begin + 4) << 32 != first or u2(begin + 10) != 4:
                    return 3, first
                if u4(begin + 12) != many:
                    return 3, first
                for other in range(first, first + many):
                    if seen[other]:
                        return 2, other
                    seen[other] = 1
                counts[2] += many
        if high >= 0 and before >= 0 and not less(before, before_size, high, high_size):
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
            node = at + u2(at + 16 + 2 * i)
            child = u4(node) | u2(node + 4) << 32
            stack[used, 0], stack[used, 1] = child, level + 1
            stack[used, 2], stack[used, 3] = (low, low_size) if i == 0 else (node + 8, u2(node + 6))
            if i + 1 < nodes:
                following = at + u2(at + 16 + 2 * (i + 1))
                stack[used, 4], stack[used, 5] = following + 8, u2(following + 6)
            else:
                stack[used, 4], stack[used, 5] = high, high_size
            used += 1
    return 0, 0
