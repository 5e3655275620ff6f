"""Notice numbers that are not seconds: dates written in digits only, and days as spreadsheets count them."""

from __future__ import annotations

import re

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


def of_pattern(pattern: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which numbers are dates in the digits of a pattern, such as YYYYMMDD; shape (n,)."""
    rest = numbers
    fits = np.ones(len(numbers), dtype=np.bool_)
    for field in reversed(re.findall("|".join(_FIELDS), pattern)):
        (low, high), size = _FIELDS[field], 10 ** len(field)
        part = rest % size
        fits &= (part >= low) & (part <= high)
        rest = rest // size
    fits &= rest == 0
    return fits


def pattern_of(number: int) -> str | None:
    """The first pattern that a number fits; None if there is none."""
    return next((pattern for pattern in PATTERNS if of_pattern(pattern, np.array([number])).all()), None)


class Suspicion:
    """What all numbers of a column may be; it is shown some rows at a time."""

    def __init__(self) -> None:
        self._patterns: list[str] = list(PATTERNS)
        self._serials, self._fractions = True, False

    def dismiss(self) -> None:
        """Note that some values are not numbers."""
        self._patterns, self._serials = [], False

    def add(self, values: pa.Array, numbers: npt.NDArray[np.int64]) -> None:
        """Take one or more rows: as they were given, and as whole numbers."""
        for some in (numbers[:8], numbers):  # most are ruled out by the first few
            self._patterns = [pattern for pattern in self._patterns if of_pattern(pattern, some).all()]
        self._serials &= bool(SERIALS[0] <= numbers.min() and numbers.max() < SERIALS[1])
        may_be = bool(self._patterns or self._serials) and not pa.types.is_integer(values.type)
        if may_be and (np.asarray(pc.cast(values, pa.float64(), safe=False)) % 1).any():
            self._patterns, self._fractions = [], True

    def __str__(self) -> str:
        """What the numbers seem to be; empty if nothing is wrong with them."""
        if self._patterns:
            return f"that looks like a date without dashes, {self._patterns[0]}, as all rows do"
        if self._serials and self._fractions:
            return "that looks like days as spreadsheets count them, as all rows do: seconds are (days - 25569) * 86400"
        return ""
