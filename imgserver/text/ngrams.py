"""Character n-grams of many texts at once, as numbers: for any language, with or without spaces between words."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import normalize

import numpy as np
import numpy.typing as npt

LONGEST = 4
# From here on are scripts that put no spaces between words, most of them: there a single character means something.
SINGLE_FROM = 0x2E80
FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)
SPACE = 0x20
RULE = f"NFKC, casefolded, 2 to {LONGEST} characters within words, 1 from U+{SINGLE_FROM:X} on"


def ngrams(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """The n-grams of n texts, each as often as it is there.

    Words are padded with a space on either side, so that beginnings and ends count; none reaches over a space.

    Returns:
        the text of each n-gram, 0 to n - 1, ascending, shape (m,); a 64-bit hash of its characters, shape (m,).
    """
    words = [" ".join(normalize("NFKC", text).casefold().split()) for text in texts]
    padded = [f" {text} " if text else "" for text in words]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), "<u4")
    row = np.repeat(np.arange(len(texts)), [len(text) for text in padded])
    space = codes == SPACE
    rows, hashes = [row[codes >= SINGLE_FROM]], [_mixed(codes[codes >= SINGLE_FROM].astype(np.uint64), 1)]
    rolled, inside = codes.astype(np.uint64), np.ones(len(codes), dtype=np.bool_)
    for size in range(2, LONGEST + 1):
        inner = space[size - 2 : len(codes) - 1] & (size > 2)  # what becomes the last but one character
        inside = inside[:-1] & ~inner
        rolled = rolled[:-1] * FACTOR + codes[size - 1 :]
        found = inside & (row[: len(rolled)] == row[size - 1 :])
        rows.append(row[: len(rolled)][found])
        hashes.append(_mixed(rolled[found], size))
    every, values = np.concatenate(rows), np.concatenate(hashes)
    order = np.argsort(every, kind="stable")
    return every[order], values[order]


def _mixed(values: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.uint64]:
    """Spread over all bits, and other than those of another size."""
    mixed = (values + np.uint64(size)) * FACTOR
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0xBF58_476D_1CE4_E5B9)
    found: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(29))
    return found
