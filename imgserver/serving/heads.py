"""Heads that trainers put: the latest few of each run, in memory only."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from imgserver.errors import InvalidRequest, Overloaded
from imgserver.head import Head

KEPT_PER_RUN = 4  # the trainer's present one, and those that slower workers of the run still ask for
IDLE_S = 600.0
MAX_HEAD_BYTES = 32 << 20
MAX_BYTES = 1 << 30
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class _Run:
    heads: OrderedDict[str, Head] = field(default_factory=OrderedDict)
    used_at: float = 0.0


class Heads:
    """Version -> head. A run that asks for nothing for ten minutes is forgotten; its trainer puts its head again."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(len(run.heads) for run in self._runs.values())

    def put(self, run_id: str, version: str, head: Head) -> list[str]:
        """Hold a head; return the versions of this run that are held now.

        Raises:
            InvalidRequest: the run has no proper name.
            Overloaded: the heads of all runs would be too large together.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise InvalidRequest(f"A run cannot be named {run_id!r}; use 1 to 64 letters, digits, '.', '_' or '-'.")
        with self._lock:
            now = time.monotonic()
            for name in [name for name, run in self._runs.items() if now - run.used_at > IDLE_S]:
                del self._runs[name]
            run = self._runs.get(run_id) or _Run()
            others = sum(_bytes(h) for r in self._runs.values() if r is not run for h in r.heads.values())
            if others + KEPT_PER_RUN * _bytes(head) > MAX_BYTES:
                raise Overloaded(
                    f"Heads of {len(self._runs)} runs take {others >> 20} MiB here; one more would exceed "
                    f"{MAX_BYTES >> 20} MiB. Try again when a run has ended.",
                    retry_after_s=5.0,
                )
            self._runs[run_id] = run
            run.used_at = now
            run.heads[version] = run.heads.pop(version, head)
            while len(run.heads) > KEPT_PER_RUN:
                run.heads.popitem(last=False)
            return list(run.heads)

    def get(self, version: str) -> Head | None:
        """The head of a version, if a run holds it."""
        with self._lock:
            for run in self._runs.values():
                if head := run.heads.get(version):
                    run.used_at = time.monotonic()
                    return head
        return None


def _bytes(head: Head) -> int:
    return 4 * head.spec.parameters
