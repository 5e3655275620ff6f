"""Raise the limit of open files, and say how many of them connections may take."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

KEPT = 192  # for the store, photos that are read, the log, libraries, pipes of processes that decode
LEAST = 32


def allowed_connections() -> int:
    """Raise the limit of open files as far as this user may, and return how many are left for connections.

    gRPC closes what is more right away, and its caller tries again: so the server itself can always open a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (ValueError, OSError):  # more than this kernel allows
        pass
    connections = max(LEAST, min(soft, 1 << 20) - KEPT)
    log.info("limit of open files: %d, of which %d are for connections", soft, connections)
    return connections
