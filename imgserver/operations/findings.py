"""What a check says: one line of what was found, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossmedia.imgserver.storage.store import Store

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ``ok``, ``warning`` (it works, and will not always), or ``problem`` (something does not work).
        found: what was found.
        advice: what to do; empty where there is nothing.
    """

    level: Level
    found: str
    advice: str = ""


class NotExamined(Exception):
    """A check has nothing to look at: the store cannot be opened, or no server runs."""


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        folder: of the store.
        opened: the store; None when it cannot be opened.
        trouble: why it cannot.
        server: address to be asked; None: that of the daemon that serves the store here, if one does.
        full: compare every row, and run the weights.
    """

    folder: Path
    opened: Store | None
    trouble: str
    server: str | None
    full: bool

    @property
    def store(self) -> Store:
        """The store.

        Raises:
            NotExamined: it cannot be opened, which one check says already.
        """
        if self.opened is None:
            raise NotExamined
        return self.opened


def ok(found: str) -> Finding:
    """All is well."""
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    """It works, and will not always."""
    return Finding("warning", found, advice)


def problem(found: str, advice: str) -> Finding:
    """Something does not work."""
    return Finding("problem", found, advice)
