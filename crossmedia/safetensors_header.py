"""What a safetensors block says of itself, before it is read."""

from __future__ import annotations

import json
from typing import Any


def header_of(data: bytes, most: int) -> dict[str, Any]:
    """Names, shapes and metadata of a block, each name once; nothing is read on the word of a length that lies.

    Args:
        data: the block.
        most: bytes that its header may take.

    Raises:
        ValueError: it claims a longer header, or one that is no JSON, or a name is there twice.
    """
    size = int.from_bytes(data[:8], "little")
    if size > min(most, len(data) - 8):
        raise ValueError(
            f"it claims {size} bytes of header; there are {max(0, len(data) - 8)}, and the limit is {most}"
        )
    header: dict[str, Any] = json.loads(data[8 : 8 + size], object_pairs_hook=_each_once)
    return header


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found
