"""What a build found on the way: how often, and the first one of each kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa


@dataclass
class Notes:
    """Counts by kind.

    Attributes:
        counts: kind, in words joined by _, -> how many.
        first: kind -> the first one, where one is worth a look.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, count: int, first: str | None = None) -> None:
        """Count some more of a kind; none is not noted."""
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            if first is not None:
                self.first.setdefault(kind, first)


def first_of(keys: pa.Array) -> str | None:
    """The first of some keys; None without any."""
    return str(keys[0].as_py()) if len(keys) else None
