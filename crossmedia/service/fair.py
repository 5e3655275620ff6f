"""A queue that is fair between callers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Callers take turns, by name; the items of one caller keep their order. Hold a lock while you use it.

    What several callers wait for stands in the queue of each, so that none of them waits for another's turns, and
    leaves all of them at once.
    """

    def __init__(self) -> None:
        # Both are ordered dicts for their ends: the first key of a dict is slow to find once many before it have gone.
        self._queues: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._names: dict[T, list[str]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, item: T) -> bool:
        return item in self._names

    def append(self, name: str, item: T) -> None:
        """Add an item behind the caller's other items."""
        queue = self._queues.setdefault(name, OrderedDict())
        if item not in queue:
            queue[item] = None
            self._names.setdefault(item, []).append(name)

    def push(self, name: str, item: T) -> None:
        """Add an item before all others."""
        self.append(name, item)
        self._queues[name].move_to_end(item, last=False)
        self._queues.move_to_end(name, last=False)

    def pop(self) -> T:
        """Take the next item; its caller's next turn comes after those of all others."""
        name, queue = next(iter(self._queues.items()))
        item = next(iter(queue))
        self._queues.move_to_end(name)
        self.remove(item)
        return item

    def remove(self, item: T) -> None:
        """Take an item out, no matter where it stands."""
        for name in self._names.pop(item):
            queue = self._queues[name]
            del queue[item]
            if not queue:
                del self._queues[name]
