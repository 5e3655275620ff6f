"""Notice numbers that are not seconds: dates written in digits only, and days as spreadsheets count them."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PATTERNS = (
    *("YYYYMM", "YYMMDD", "YYYYMMDD", "YYMMDDHH", "DDMMYYYY", "MMDDYYYY", "YYYYMMDDHH", "YYMMDDHHmm"),
    *("YYYYMMDDHHmm", "YYMMDDHHmmSS", "YYYYMMDDHHmmSS", "YYYYMMDDHHmmSSfff"),
)
_FIELDS = {
    "YYYY": (1950, 2049),
    "YY": (10, 49),  # below, a number has a digit less
    "MM": (1, 12),
    "DD": (1, 31),
    "HH": (0, 23),
    "mm": (0, 59),
    "SS": (0, 59),
    "fff": (0, 999),
}
SERIALS = (20_000, 80_000)  # days since 1899-12-30, of the years 1954 to 2119
# Whole days may be seconds of a beginning of their own, so only those of 2000 to 2049 are told, in logs of some rows.
WHOLE_SERIALS = (36_526, 54_789)
DAYS = (10_957, 29_220)  # days since 1970
WHOLE_ROWS = 20


@cache
def _parts(pattern: str) -> list[tuple[int, int, int]]:
    """The fields of a pattern from its end: the least and the largest number of each, and what divides it off."""
    return [(*_FIELDS[field], 10 ** len(field)) for field in reversed(re.findall("|".join(_FIELDS), pattern))]


def _fits(pattern: str, number: int) -> bool:
    """``of_pattern`` of one number, without arrays, whose calls take longer: each request brings times."""
    for low, high, size in _parts(pattern):
        number, part = divmod(number, size)
        if not low <= part <= high:
            return False
    return number == 0


def of_pattern(pattern: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which numbers are dates in the digits of a pattern, such as YYYYMMDD; shape (n,)."""
    rest = numbers
    fits = np.ones(len(numbers), dtype=np.bool_)
    for low, high, size in _parts(pattern):
        part = rest % size
        fits &= (part >= low) & (part <= high)
        rest = rest // size
    fits &= rest == 0
    return fits


def pattern_of(number: int) -> str | None:
    """The first pattern that a number fits; None if there is none."""
    return next((pattern for pattern in PATTERNS if _fits(pattern, number)), None)


class Suspicion:
    """What all numbers of a column may be; it is shown some rows at a time."""

    def __init__(self) -> None:
        self._patterns: list[str] = list(PATTERNS)
        self._numbers, self._fractions = True, False
        self._rows, self._least, self._most = 0, 2**62, -(2**62)

    def dismiss(self) -> None:
        """Some are no numbers."""
        self._patterns, self._numbers = [], False

    def add(self, values: pa.Array, numbers: npt.NDArray[np.int64]) -> None:
        """Take one or more rows: as they were given, and as whole numbers."""
        for number in numbers[:8].tolist():  # most are ruled out by the first few
            self._patterns = [pattern for pattern in self._patterns if _fits(pattern, number)]
        self._patterns = [pattern for pattern in self._patterns if of_pattern(pattern, numbers).all()]
        self._rows += len(numbers)
        self._least, self._most = min(self._least, int(numbers.min())), max(self._most, int(numbers.max()))
        may_be = bool(self._patterns or self._within(*SERIALS) or self._within(*DAYS))
        of_floats = may_be and not pa.types.is_integer(values.type)
        if of_floats and (np.asarray(pc.cast(values, pa.float64(), safe=False)) % 1).any():
            self._patterns, self._fractions = [], True

    def _within(self, first: int, end: int) -> bool:
        return self._numbers and first <= self._least and self._most < end

    def said(self, column: str) -> str:
        """What they seem to be, and what to do; empty where nothing is wrong with them.

        Args:
            column: their name.
        """
        if self._patterns:
            return f"that looks like a date without dashes, {self._patterns[0]}, as all rows do"
        if not self._fractions and self._rows < WHOLE_ROWS:
            return ""
        days = f"{'' if self._fractions else 'whole '}days"
        if self._within(*DAYS):
            return f"that looks like {days} since 1970, as all rows do{self._remedy(column, '')}"
        if self._within(*(SERIALS if self._fractions else WHOLE_SERIALS)):
            return (
                f"that looks like {days} as spreadsheets count them, as all rows do{self._remedy(column, ' - 25569')}"
            )
        return ""

    def _remedy(self, column: str, less: str) -> str:
        cells = f"frame[{column!r}]"
        count = f"({cells}{less})" if less else cells
        others = "" if self._fractions else ". Seconds of a beginning of their own are to count from 0"
        return (
            f": seconds are {f'(days{less})' if less else 'days'} * 86400, with pandas "
            f"{cells} = ({count} * 86400).round().astype('int64'){others}"
        )
