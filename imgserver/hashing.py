"""Where an id lies in a hash: the same for the table of a server and the cache of a client, compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

EMPTY = -1  # no image id is negative


@njit(nogil=True, cache=True, inline="always")
def first_slot(key: Any, size: Any) -> Any:
    """First slot of a key: Fibonacci hashing, so that runs of ids spread, and a product in the place of a division."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(((mixed >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32))
