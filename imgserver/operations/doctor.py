"""The doctor: every check by name, in the order in which one would look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.operations import machine_checks, server_checks, store_checks
from crossmedia.imgserver.operations.findings import Finding, NotExamined, Subject, problem
from crossmedia.imgserver.storage.store import Store

Check = Callable[[Subject], Finding]

CHECKS: dict[str, Check] = {
    "packages": machine_checks.packages,
    "store": store_checks.store_opens,
    "active version": store_checks.active_version,
    "heads": store_checks.heads,
    "codebooks": store_checks.codebooks,
    "features": store_checks.features,
    "rows": store_checks.rows,
    "dropped rows": store_checks.dropped_rows,
    "weights": store_checks.weights,
    "engine": store_checks.engine,
    "similarity": store_checks.similarity,
    "index map": store_checks.index_map,
    "disk": machine_checks.disk,
    "limits": machine_checks.limits,
    "memory": machine_checks.memory,
    "clock": store_checks.clock,
    "daemon": server_checks.daemon,
    "health": server_checks.health,
    "served": server_checks.serves_the_store,
}


def examine(folder: Path, server: str | None = None, *, full: bool = False) -> dict[str, Finding]:
    """Run every check that applies.

    Args:
        folder: of the store.
        server: address to be asked; None: that of the daemon that serves the store here, if one does.
        full: compare every row with its checksum, and look at weights that may have to be fetched.
    """
    store, trouble = None, ""
    try:
        store = Store(folder, create=False)
    except CrossMediaError as error:
        trouble = str(error)
    subject = Subject(folder, store, trouble, server, full)
    found = {}
    try:
        for name, check in CHECKS.items():
            try:
                found[name] = check(subject)
            except NotExamined:
                continue
            except CrossMediaError as error:
                found[name] = problem(str(error), "")
            except Exception as error:  # a damaged store may fail in any way, and the other checks still say something
                found[name] = problem(f"the check failed: {type(error).__name__}: {error}", "")
    finally:
        if store is not None:
            store.close()
    return found
