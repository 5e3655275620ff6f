"""Words of messages that depend on numbers."""

from __future__ import annotations


def counted(count: int, what: str, several: str = "") -> str:
    """A number of things: ``1 group``, ``1,700 groups``.

    Args:
        count: how many.
        what: one of them.
        several: more of them, where that is not ``what`` with an s.
    """
    return f"{count:,} {what if count == 1 else several or what + 's'}"
