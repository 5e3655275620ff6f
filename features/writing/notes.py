"""Notes of a build: what it found on the way, how often, and the first one of each kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from crossmedia.forms import Near
from crossmedia.words import counted


@dataclass
class Notes:
    """Counts by kind.

    Attributes:
        counts: kind, in words joined by _, -> how many.
        first: kind -> the first one, where one is worth a look.
        remedy: kind -> what to do, where that is known; ``first`` is half a sentence then.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    remedy: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, count: int, first: str | None = None) -> None:
        """Count some more of a kind; a count of 0 is not noted."""
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            if first is not None:
                self.first.setdefault(kind, first)

    def add_near(self, what: str, near: Iterable[Near]) -> None:
        """Count keys that are there in another form; ``what`` they are and where, in words joined by _."""
        for one in near:
            kind = f"{what}_in_{one.kind}"
            self.add(kind, one.count, one.example)
            self.remedy[kind] = one.remedy

    def lines(self) -> list[str]:
        """A line for each kind, for people."""
        return [f"{_kind_in_words(kind, count)}{self._more(kind)}" for kind, count in self.counts.items()]

    def _more(self, kind: str) -> str:
        first, remedy = self.first.get(kind), self.remedy.get(kind)
        if remedy:
            return f": {first}; {remedy}"
        return "" if first is None else f"; the first is {first!r}"


def first_of(keys: pa.Array) -> str | None:
    """The first of some keys; None without any."""
    return str(keys[0].as_py()) if len(keys) else None


def _kind_in_words(kind: str, count: int) -> str:
    what, *rest = kind.split("_")
    return " ".join([counted(count, what.removesuffix("s")), *rest])
