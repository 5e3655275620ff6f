"""What requests give and nothing matches: all of it is counted, and little is logged."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

SHOWN, TIMES = 3, 10
log = logging.getLogger(__name__)


class Unmatched:
    """Counts of values by kind, over all requests; logged at the first one, and when there are ten times as many."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._said_at: dict[str, int] = {}
        self._lock = threading.Lock()

    def counts(self) -> dict[str, int]:
        """Kind -> how many values so far."""
        with self._lock:
            return dict(self._counts)

    def add(self, kind: str, words: Sequence[str], of: int, why: str) -> None:
        """Count the values of one request.

        Args:
            kind: what they are, in words.
            words: the values that match nothing; most often none.
            of: how many values there are in the request.
            why: a sentence on what follows from it.
        """
        if not words:
            return
        with self._lock:
            total = self._counts[kind] = self._counts.get(kind, 0) + len(words)
            if total < TIMES * self._said_at.get(kind, 0):
                return
            self._said_at[kind] = total
        each = list(dict.fromkeys(words))
        log.warning(
            "%s: %s%s (%d of %d in this request%s). %s; logged again when there are ten times as many",
            kind,
            ", ".join(map(ascii, each[:SHOWN])),
            ", …" if len(each) > SHOWN else "",
            len(words),
            of,
            f", {total:,} so far" if total > len(words) else "",
            why,
        )
