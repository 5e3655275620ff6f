"""Small JSON files with a checksum, so that damage is noticed.

{…, "check": "<16 hex of xxh3_64 over the rest>"}
"""

from __future__ import annotations

import json
from typing import Any

import xxhash


def note(told: dict[str, Any]) -> str:
    """The text of a file that tells ``told``."""
    return json.dumps({**told, "check": _check(told)}, indent=1) + "\n"


def read_note(text: str | bytes) -> dict[str, Any]:
    """What ``note`` was given.

    Raises:
        ValueError: this is not what it wrote.
    """
    told = json.loads(text)
    if not isinstance(told, dict) or told.pop("check", None) != _check(told):
        raise ValueError("it does not match its checksum")
    return told


def _check(told: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(told, sort_keys=True).encode())
