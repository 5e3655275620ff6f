"""What takes longer than a page may: it is made in a thread, once, while the page says so and looks again."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from starlette.responses import Response

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")
log = logging.getLogger(__name__)


class Prepared(Generic[Key, Made]):
    """Things by key, made one at a time.

    Args:
        make: a key to what it stands for.
        kept: how many are kept.
    """

    def __init__(self, make: Callable[[Key], Made], kept: int):
        self._make, self._kept = make, kept
        self._made: OrderedDict[Key, Made] = OrderedDict()
        self._failed: dict[Key, Exception] = {}
        self._under_way: set[Key] = set()
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()

    def get(self, key: Key) -> Made | None:
        """What the key stands for; None while it is made, which begins with the first call.

        Raises:
            Exception: what making it raised; the next call tries again.
        """
        with self._lock:
            if (error := self._failed.pop(key, None)) is not None:
                raise error
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            if key not in self._under_way:
                self._under_way.add(key)
                threading.Thread(target=self._work, args=(key,), name="prepare", daemon=True).start()
        return None

    def answer(self, key: Key) -> Response:
        """Tells a page that waits for a key to load itself again once that is there, or has failed."""
        with self._lock:
            waits = key in self._under_way
        return Response("", headers={} if waits else {"X-Whole-Page": "1"}, media_type="text/html")

    def _work(self, key: Key) -> None:
        try:
            with self._one_at_a_time:
                made = self._make(key)
            with self._lock:
                self._made[key] = made
                while len(self._made) > self._kept:
                    self._made.popitem(last=False)
        except Exception as error:  # whoever waits for it is told
            log.debug("could not be prepared", exc_info=True)
            with self._lock:
                self._failed[key] = error
        finally:
            with self._lock:
                self._under_way.discard(key)
