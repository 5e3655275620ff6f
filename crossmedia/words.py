"""Words of messages that depend on numbers."""

from __future__ import annotations

import re
from typing import TypeVar

SIZE = r"(\d+(\.\d+)?) ?([kKMGT]?)(i?)B?|"  # of memory, as a setting says it; empty where there is none
Number = TypeVar("Number", int, float)
_CSV = re.compile(r"\.csv(\.[a-z0-9]+)?$", re.IGNORECASE)


def counted(count: int, what: str, several: str = "") -> str:
    """A number of things: ``1 group``, ``1,700 groups``.

    Args:
        count: how many.
        what: one of them.
        several: more of them, where that is not ``what`` with an s.
    """
    return f"{count:,} {what if count == 1 else several or what + 's'}"


def percent(share: float, digits: int = 0) -> str:
    """A share as people write it: ``47 %``."""
    return f"{100 * share:.{digits}f} %"


def row_said(number: int, where: str) -> str:
    """A row of a file: ``row 3``; of a CSV file, which editors show with its header as the first line, it says so.

    Args:
        number: from 1, without the header.
        where: the file, or what else it is a row of.
    """
    return f"row {number} below the header" if _CSV.search(where) else f"row {number}"


def in_ascii_digits(text: str) -> bool:
    """Whether a number is written without what Python lets pass: 1_6, and digits of other scripts."""
    return "_" not in text and text.isascii()


def number_in(text: str, kind: type[Number]) -> Number:
    """A number that is written in ASCII digits; ``1_6`` is a typing error.

    Raises:
        ValueError: it is none.
    """
    if not in_ascii_digits(text):
        raise ValueError(f"{text!r} is no number")
    return kind(text)


def bytes_in(size: str) -> int:
    """Bytes of a size that has the form ``SIZE``: 512MB are 512,000,000, 512MiB 536,870,912; 0 where it is empty."""
    found = re.fullmatch(SIZE, size)
    if found is None or not size:
        return 0
    number, _, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))
