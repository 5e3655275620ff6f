"""Heads that trainers put: the latest few of each run, in memory only."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from crossmedia.errors import InvalidRequest, Overloaded
from crossmedia.imgserver.head import Head
from crossmedia.service.admission import SHARE

KEPT_PER_RUN = 4  # the trainer's present one, and those that slower workers of the run still ask for
IDLE_S = 600.0
MAX_HEAD_BYTES = 32 << 20
MAX_BYTES = 1 << 30
MAX_RUNS = 256
LAYER_BYTES = 4 << 10  # of a module of torch, beside its weights
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class _Run:
    caller: str
    heads: OrderedDict[str, Head] = field(default_factory=OrderedDict)
    used_at: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of its heads."""
        return sum(_bytes(head) for head in self.heads.values())


class Heads:
    """Version -> head. A run that asks for nothing for ten minutes is forgotten; its trainer puts its head again.

    The runs of one caller hold at most three quarters of it all.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(len(run.heads) for run in self._runs.values())

    def put(self, run_id: str, version: str, head: Head, caller: str = "") -> list[str]:
        """Hold a head; return the versions of this run that are held now.

        Raises:
            InvalidRequest: the run has no proper name.
            Overloaded: there would be too many runs, or their heads would be too large together.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise InvalidRequest(f"A run cannot be named {run_id!r}; use 1 to 64 letters, digits, '.', '_' or '-'.")
        with self._lock:
            run = self._runs.get(run_id) or _Run(caller)
            others = [other for other in self._runs.values() if other is not run]
            self._check(others, 1.0, KEPT_PER_RUN * _bytes(head))
            if caller:
                self._check([other for other in others if other.caller == caller], SHARE, KEPT_PER_RUN * _bytes(head))
            self._runs[run_id] = run
            run.used_at = time.monotonic()
            run.heads[version] = run.heads.pop(version, head)
            while len(run.heads) > KEPT_PER_RUN:
                run.heads.popitem(last=False)
            return list(run.heads)

    def _check(self, others: list[_Run], share: float, more: int) -> None:
        size, whose = sum(run.size for run in others), "" if share == 1.0 else " of yours"
        if len(others) >= int(share * MAX_RUNS) or size + more > share * MAX_BYTES:
            raise Overloaded(
                f"Heads of {len(others)} other runs{whose} take {size >> 20} MiB here; one more would exceed "
                f"{int(share * MAX_RUNS)} runs or {int(share * MAX_BYTES) >> 20} MiB. Try again when a run has ended.",
                retry_after_s=5.0,
            )

    def forget(self) -> None:
        """Give up the runs that asked for nothing for long."""
        with self._lock:
            now = time.monotonic()
            for name in [name for name, run in self._runs.items() if now - run.used_at > IDLE_S]:
                del self._runs[name]

    def get(self, version: str) -> Head | None:
        """The head of a version, if a run holds it."""
        with self._lock:
            for run in self._runs.values():
                if head := run.heads.get(version):
                    run.used_at = time.monotonic()
                    return head
        return None


def _bytes(head: Head) -> int:
    return 4 * head.spec.parameters + LAYER_BYTES * len(head.layers)
