"""A store for oneself: no daemon, no precompute, no trainer has it open, and none can open it meanwhile.

Whoever opens an LMDB environment holds a shared lock on the first byte of ``lock.mdb`` until it closes it. Holding that
byte exclusively therefore means that nobody else is there; a process that comes now waits in LMDB until it is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossmedia.disk import held
from crossmedia.errors import NoStore


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """Hold the store ``store`` alone. This process must not have it open either: locks of one process do not differ.

    Raises:
        NoStore: there is no store.
        BadInput: another process has it open.
    """
    if not (store / "index" / "data.mdb").exists():
        raise NoStore(store)

    def refusal(holder: str) -> str:
        return (
            f"The store {store} is open in {holder}, and this needs it alone. Stop what uses it, a server with "
            f"'imgserver stop --store {store}'; let a precompute, backup or training end."
        )

    with held(store / "index" / "lock.mdb", refusal):
        yield
