"""Vectors to codes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def encode(centres: Any, vectors: Any, out: Any) -> None:
    """Codes, shape (n, M), of vectors, shape (n, D), into ``out``.

    ``centres`` has the shape (M, D / M, 256), so that the distances to all of them are computed side by side.
    """
    parts, numbers, many = centres.shape
    distances = np.empty(many, dtype=np.float32)
    for i in range(len(vectors)):
        for m in range(parts):
            distances[:] = 0
            for s in range(numbers):
                value = vectors[i, s * parts + m]
                for k in range(many):
                    apart = value - centres[m, s, k]
                    distances[k] += apart * apart
            best = 0
            for k in range(1, many):
                if distances[k] < distances[best]:
                    best = k
            out[i, m] = best


@njit(nogil=True, cache=True)
def decode(centres: Any, codes: Any, out: Any) -> None:
    """``centres``, shape (M, 256, D / M), of the numbers in ``codes``, shape (n, M), into ``out``, shape (n, D)."""
    parts, _, numbers = centres.shape
    for i in range(len(codes)):
        for s in range(numbers):
            for m in range(parts):
                out[i, s * parts + m] = centres[m, codes[i, m], s]
