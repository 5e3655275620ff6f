"""What a disk does to a file."""

from __future__ import annotations

import numpy as np

KINDS = ("a bit", "noise", "cut", "emptied")


def damaged(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Which damage, and the file with it, at a place that ``rng`` draws; never what it was before."""
    kind = KINDS[rng.choice(len(KINDS), p=[0.6, 0.2, 0.19, 0.01])]
    at = int(rng.integers(len(data)))
    found = bytearray(data)
    if kind == "a bit":
        found[at] ^= 1 << int(rng.integers(8))
    elif kind == "noise":
        page = rng.bytes(min(4096, len(data) - at))
        found[at : at + len(page)] = page
    else:
        found = found[: at if kind == "cut" else 0]
    return f"{kind} at {at}", bytes(found) if found != data else b""
