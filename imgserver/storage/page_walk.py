"""A walk over a tree of LMDB's pages: every page and node is looked at before anything is believed.

Plain Python walks over a few pages. For more, numba compiles the walk, and takes half a second to be imported.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

FEW_PAGES = 64  # that take Python 0.1 s
OUTSIDE, TWICE, OTHER_PAGE, NODES_OUTSIDE, KEYS_OUT_OF_ORDER = 1, 2, 3, 4, 5
TROUBLES = {
    OUTSIDE: "lies outside of the file",
    TWICE: "is reached twice",
    OTHER_PAGE: "is not the page that it should be",
    NODES_OUTSIDE: "has nodes that lie outside of it",
    KEYS_OUT_OF_ORDER: "has keys out of order",
}


def _u2(halves: Any, at: Any) -> Any:
    return np.int64(halves[at >> 1])


def _u4(halves: Any, at: Any) -> Any:
    return _u2(halves, at) | _u2(halves, at + 2) << 16


def _less(data: Any, a: Any, b: Any, integers: Any) -> Any:
    """Whether a key comes before another; each by where it lies and its size."""
    if integers:
        for i in range(7, -1, -1):
            if data[a[0] + i] != data[b[0] + i]:
                return data[a[0] + i] < data[b[0] + i]
        return False
    for i in range(min(a[1], b[1])):
        if data[a[0] + i] != data[b[0] + i]:
            return data[a[0] + i] < data[b[0] + i]
    return a[1] < b[1]


def walk(data: Any, halves: Any, tree: Any, seen: Any, counts: Any) -> Any:
    """Look at a tree from its root, in the way that is faster for a file of that size.

    Args:
        data: bytes of the file.
        halves: the same as 16-bit numbers.
        tree: bytes of a page, the tree's root, its depth, and whether its keys are whole numbers.
        seen: of each page, whether it was reached; written.
        counts: branches, leaves, overflow pages and entries; written.

    Returns:
        what is wrong (see ``TROUBLES``; 0: nothing), and in which page.
    """
    look = walk_pages if len(seen) <= FEW_PAGES else compiled()
    return look(data, halves, tree, seen, counts)


@cache
def compiled() -> Any:
    """``walk_pages``, compiled."""
    from numba import njit
    from numba.extending import register_jitable

    for function in (_u2, _u4, _less, _wrong_page, _wrong_value, _with_children):
        register_jitable(function)
    return njit(nogil=True, cache=True)(walk_pages)


def walk_pages(data: Any, halves: Any, tree: Any, seen: Any, counts: Any) -> Any:
    """Do what ``walk`` says, in code that both numba and Python run."""
    size, root, depth, integers = tree
    # Page, level, and where keys lie, with their size, that those of the page must not be below (``low``), and must be
    # below (``high``); -1 where there is none.
    stack = np.empty((1024, 6), dtype=np.int64)
    stack[0] = np.array([root, 1, -1, 0, -1, 0])
    used = 1
    while used:
        used -= 1
        page, level, low, low_size, high, high_size = stack[used]
        code = _wrong_page(halves, tree, seen, page, level)
        if code:
            return code, page
        at, leaf = page * size, level == depth
        upper, nodes = _u2(halves, at + 14), (_u2(halves, at + 12) - 16) // 2
        before = (np.int64(-1), np.int64(0))
        for i in range(nodes):
            place = _u2(halves, at + 16 + 2 * i)
            if place < upper or place + 8 > size or place & 1:
                return NODES_OUTSIDE, page
            node = at + place
            key, flags, value_size = (node + 8, _u2(halves, node + 6)), _u2(halves, node + 4), _u4(halves, node)
            end = place + 8 + key[1] + (0 if not leaf else 8 if flags & 1 else value_size)
            if end > size or (leaf and flags & ~3):
                return NODES_OUTSIDE, page
            if (key[1] == 0 and (leaf or i > 0)) or (integers and key[1] not in (0, 8)):
                return NODES_OUTSIDE, page
            if key[1] and (leaf or i > 0):
                if before[0] >= 0:
                    if not _less(data, before, key, integers):
                        return KEYS_OUT_OF_ORDER, page
                elif low >= 0 and _less(data, key, (low, low_size), integers):
                    return KEYS_OUT_OF_ORDER, page
                before = key
            if leaf and flags & 1:
                code, many, wrong = _wrong_value(data, halves, size, seen, (key[0] + key[1], value_size))
                if code:
                    return code, page if code == OUTSIDE else wrong
                counts[2] += many
        if high >= 0 and before[0] >= 0 and not _less(data, before, (high, high_size), integers):
            return KEYS_OUT_OF_ORDER, page
        counts[1 if leaf else 0] += 1
        if leaf:
            counts[3] += nodes
        else:
            stack, used = _with_children(halves, size, stack, used)
    return 0, 0


def _wrong_page(halves: Any, tree: Any, seen: Any, page: Any, level: Any) -> Any:
    """What is wrong with the head of a page."""
    size, depth = tree[0], tree[2]
    if page < 2 or page >= len(seen):
        return OUTSIDE
    if seen[page]:
        return TWICE
    seen[page] = 1
    at, leaf = page * size, level == depth
    flags, lower, upper = _u2(halves, at + 10), _u2(halves, at + 12), _u2(halves, at + 14)
    number = _u4(halves, at) | _u4(halves, at + 4) << 32
    if number != page or flags != (2 if leaf else 1) or level > depth:
        return OTHER_PAGE
    nodes = (lower - 16) // 2
    if lower < 16 or lower % 2 or upper < lower or upper > size or nodes < (1 if leaf else 2):
        return NODES_OUTSIDE
    return 0


def _wrong_value(data: Any, halves: Any, size: Any, seen: Any, value: Any) -> Any:
    """What is wrong with the pages of a large value, how many there are, and in which it is wrong.

    ``value`` says where the number of the first is written, at any address, and how many bytes it has.
    """
    first = np.int64(0)
    for j in range(8):
        first |= np.int64(data[value[0] + j]) << 8 * j
    many = (value[1] + 15) // size + 1
    if first < 2 or many > len(seen) or first > len(seen) - many:
        return OUTSIDE, many, first
    begin = first * size
    if _u4(halves, begin) | _u4(halves, begin + 4) << 32 != first or _u2(halves, begin + 10) != 4:
        return OTHER_PAGE, many, first
    if _u4(halves, begin + 12) != many:
        return OTHER_PAGE, many, first
    for other in range(first, first + many):
        if seen[other]:
            return TWICE, many, other
        seen[other] = 1
    return 0, many, first


def _with_children(halves: Any, size: Any, stack: Any, used: Any) -> Any:
    """Put the children of the page that was taken off the stack onto it; return it, and how many pages it holds."""
    page, level, low, low_size, high, high_size = stack[used]
    at = page * size
    nodes = (_u2(halves, at + 12) - 16) // 2
    if used + nodes > len(stack):
        grown = np.empty((2 * len(stack) + nodes, 6), dtype=np.int64)
        grown[:used] = stack[:used]
        stack = grown
    for i in range(nodes):
        node = at + _u2(halves, at + 16 + 2 * i)
        stack[used, 0], stack[used, 1] = _u4(halves, node) | _u2(halves, node + 4) << 32, level + 1
        stack[used, 2], stack[used, 3] = (low, low_size) if i == 0 else (node + 8, _u2(halves, node + 6))
        if i + 1 < nodes:
            following = at + _u2(halves, at + 16 + 2 * (i + 1))
            stack[used, 4], stack[used, 5] = following + 8, _u2(halves, following + 6)
        else:
            stack[used, 4], stack[used, 5] = high, high_size
        used += 1
    return stack, used
