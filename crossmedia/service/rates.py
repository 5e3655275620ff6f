"""Limit the ids per second of each client by a token bucket; a client is a token's name or a host."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from functools import lru_cache
from urllib.parse import unquote

from crossmedia.errors import Overloaded

MOST_CLIENTS = 10_000


class RateLimit:
    """A bucket for each client, which is filled with ``ids_per_second`` and holds at most one second of them.

    A call is taken while its client's bucket is not empty, and may leave a debt: so a call of any size goes through
    now and then, and the rate holds on the average.

    Args:
        ids_per_second: of one client.
    """

    def __init__(self, ids_per_second: int):
        self._rate = float(ids_per_second)
        self._lock = threading.Lock()
        # What is left, and when that was; the client that called last comes last.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, ids: int) -> None:
        """Admit a call.

        Args:
            client: name or host.
            ids: how many it asks for.

        Raises:
            Overloaded: the client's bucket is empty; with the time after which it will not be.
        """
        now = time.monotonic()
        with self._lock:
            left, then = self._buckets.get(client, (self._rate, now))
            left = min(self._rate, left + (now - then) * self._rate)
            refused = left <= 0
            self._buckets[client] = (left if refused else left - ids, now)
            self._buckets.move_to_end(client)
            if len(self._buckets) > MOST_CLIENTS:
                self._buckets.popitem(last=False)
        if refused:
            pause = max(0.05, (1 - left) / self._rate)
            raise Overloaded(
                f"{client} has asked for more than {self._rate:,.0f} ids a second, which is the limit of one "
                f"client. Try again in {pause:.2f} s.",
                retry_after_s=pause,
            )


@lru_cache(MOST_CLIENTS)  # asked for in each call
def host_of(peer: str) -> str:
    """The host of ``ipv4:10.0.0.1:5000`` or ``ipv6:%5B::1%5D:5000``, without the port, which differs each time."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0] if kind in ("ipv4", "ipv6") else peer
