"""Notes of a build: what it found on the way, how often, and the first one of each kind."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass
class Notes:
    """Counts by kind.

    Attributes:
        counts: kind, in words joined by _, -> how many.
        first: kind -> the first one, where one is worth a look.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, count: int, first: str | None = None) -> None:
        """Count some more of a kind; a count of 0 is not noted."""
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            if first is not None:
                self.first.setdefault(kind, first)


def first_of(keys: pa.Array) -> str | None:
    """The first of some keys; None without any."""
    return str(keys[0].as_py()) if len(keys) else None


def in_another_form(word: str | None, rows: Callable[[pa.Array], npt.NDArray[np.int64]]) -> bool:
    """Whether a missing key is there if its accents are written in the other Unicode form.

    Args:
        word: the key.
        rows: finds the row of each key, -1 where there is none.
    """
    if word is None or word.isascii():
        return False
    forms = pa.array([unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)])
    return bool((rows(forms) >= 0).any())


OTHER_FORM = "_but_for_its_Unicode_form_NFC_or_NFD"
FORMS = (
    "It is there in another Unicode form (NFC or NFD, in which accents stand alone): write both alike, such as with "
    "unicodedata.normalize('NFC', name)."
)
