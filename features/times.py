"""Read times as whole seconds since 1970, from any type; another unit is refused and not guessed."""

from __future__ import annotations

import datetime
import re
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.date_digits import Suspicion, pattern_of
from crossmedia.keys import NOT_A_NUMBER, Column, exact_up_to
from crossmedia.words import row_said

READ = (
    "times are whole seconds since 1970 such as 1700000000, or timestamps such as 2023-11-14 22:13:20, "
    "2023-11-14T22:13:20Z, 2023-11-14 22:13:20+08:00 or 2023-11-14, in UTC where they name no zone"
)
LEAST_OTHER = 10**11  # seconds of the year 5138, milliseconds of 1973
_UNITS = ((10**14, "milliseconds", "1000"), (10**17, "microseconds", "1000000"), (2**63, "nanoseconds", "1000000000"))
CALENDAR = 10**8  # seconds from here on (1973) are dates; below they may count from a beginning of their own
OLD, NEW, FAR = 631_152_000, 946_684_800, 3_155_760_000  # the first seconds of 1990, 2000 and 2070
DAY, YEARS = 86_400, 253_402_300_800  # the first second of the year 10000
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?$"
_NUMBER = r"^-?[0-9]+(?:\.[0-9]+)?$"
# Numbers as programs write those that they hold as floats: 1.700000123E9 is whole, and 1.70E+09 has lost its seconds.
_SCIENTIFIC = r"^-?[0-9](?:\.[0-9]+)?[eE]\+?[0-9]{1,3}$"
_SHORT = "|".join(rf"(?:\.[0-9]{{0,{power - 1}}})?[eE]\+0{power}" for power in range(1, 10))
_ROUNDED = f"^-?[0-9](?:{_SHORT})$"
ROUNDED = (
    "that is a number as spreadsheets show it, rounded, and its last digits are lost: format the column as a number "
    "without decimals before it is saved, or write it with another program"
)
_ZONE = r"(?:Z|[+-]\d{2}:?\d{2})$"


def seconds(column: Column) -> Int64Array:
    """A whole time column as whole seconds, shape (rows,); fractions of a second are cut off.

    Raises:
        BadInput: a cell is empty, is no time, or is of another unit than seconds; the message names it.
    """
    span = Span()
    found = span.read(column)
    span.check_dates()
    return found


def _read(column: Column) -> Int64Array:
    """Some rows of a time column, plain."""
    values, kind = column.values, column.values.type
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    elif pa.types.is_string(kind):
        values = pc.utf8_trim_whitespace(values)
        values = pc.if_else(pc.is_in(values, value_set=pa.array(["", *NOT_A_NUMBER])), pa.scalar(None, kind), values)
    if values.null_count:
        row = column.row_said(pc.is_null(values))
        raise BadInput(f"The column {column.name!r} of {column.where} is empty in {row}; every row needs a time.")
    if pa.types.is_null(kind):  # and no row
        return np.zeros(0, dtype=np.int64)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _of_stamps(values)
    if pa.types.is_string(kind):
        return _of_text(column, values)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _of_numbers(column, values)
    raise column.of_type(READ)


def _of_stamps(values: pa.Array) -> Int64Array:
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("s"))
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[values.type.unit]
    return np.asarray(pc.cast(values, pa.int64())) // per_second


def _of_text(column: Column, values: pa.Array) -> Int64Array:
    """Read numbers, or timestamps of ISO 8601, all with a zone or all without."""
    number = np.asarray(pc.match_substring_regex(values, _NUMBER))
    if not number.all():
        number |= np.asarray(pc.match_substring_regex(values, _SCIENTIFIC))
        if (rounded := np.asarray(pc.match_substring_regex(values, _ROUNDED))).any():
            raise column.wrong(rounded, f"{ROUNDED}; {READ}")
    zone = np.asarray(pc.match_substring_regex(values, _ZONE)) & ~number
    bad = ~(number | np.asarray(pc.match_substring_regex(values, _ISO)))
    if bad.any():
        raise column.wrong(bad, READ)
    for mask in (number, zone):
        if (other := mask != mask[0]).any():
            raise column.wrong(other, f"the rows before it are written in another way; {READ}")
    if number.all():
        return _of_numbers(column, pc.cast(values, pa.float64()))
    unit = "ns" if pc.any(pc.match_substring_regex(values, r"\.[0-9]{7,}")).as_py() else "us"
    try:
        return _of_stamps(pc.cast(values, pa.timestamp(unit, "UTC" if zone.any() else None)))
    except pa.ArrowInvalid as error:  # the 31st of February
        raise BadInput(f"The column {column.name!r} of {column.where} cannot be read: {error}; {READ}.") from error


def _of_numbers(column: Column, values: pa.Array) -> Int64Array:
    if pa.types.is_decimal(values.type):
        values = pc.cast(values, pa.float64(), safe=False)
    numbers: npt.NDArray[np.integer | np.floating] = values.to_numpy(zero_copy_only=False)
    beyond = ~(np.abs(numbers.astype(np.float64)) < LEAST_OTHER) if len(numbers) else np.zeros(0, dtype=np.bool_)
    if beyond.any():
        raise column.wrong(beyond, f"{_unit(abs(float(numbers[beyond][0])))}; {READ}")
    if pa.types.is_floating(values.type) and exact_up_to(values.type) < LEAST_OTHER:
        rounded = np.abs(numbers) >= exact_up_to(values.type)
        if rounded.any():
            raise column.wrong(
                rounded, f"{values.type} does not tell seconds of this size apart. Write times as int64 or float64"
            )
    return numbers.astype(np.int64) if numbers.dtype.kind in "iu" else np.floor(numbers).astype(np.int64)


def is_rounded(word: str) -> bool:
    """Whether a text is a number that a spreadsheet rounded: 1.70E+09."""
    return bool(re.match(_ROUNDED, word.strip()))


def _unit(number: float) -> str:
    """The unit that a number seems to have which is too large for seconds."""
    if (pattern := pattern_of(int(number)) if number < 2**63 else None) is not None:
        return f"that looks like a date and time without dashes, {pattern}"
    for below, name, divisor in _UNITS:
        if number < below:
            return f"that looks like {name}: divide by {divisor}"
    return "that is no time"


def _are_numbers(values: pa.Array) -> bool:
    if pa.types.is_string(values.type):
        return bool(len(values)) and bool(re.match(f"{_NUMBER}|{_SCIENTIFIC}", values[0].as_py().strip()))
    return not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type))


@dataclass(frozen=True)
class At:
    """A time, and the cell that it stands in."""

    time: int
    cell: str = ""

    def __str__(self) -> str:
        return f"{_said(self.time)} in {self.cell}"


class Span:
    """The span of the times of a log; it is read some rows at a time, and then checked as a whole."""

    def __init__(self) -> None:
        self.first, self.last = At(2**62), At(-(2**62))
        self.rows = 0
        self._suspicion, self._start, self._name = Suspicion(), "", ""

    def read(self, column: Column) -> Int64Array:
        """The next rows of the time column as whole seconds, shape (rows,).

        Raises:
            BadInput: a cell is empty, is no time, or is of another unit than seconds; the message names it.
        """
        column = column.plain()
        times = _read(column)
        if not len(times):
            return times
        if _are_numbers(column.values):
            self._suspicion.add(column.values, times)
        else:
            self._suspicion.dismiss()
        self._name = column.name
        low, high = int(times.min()), int(times.max())
        self._start = self._start or (
            f"The column {column.name!r} of {column.where} holds {_plain(column.values[0].as_py())} "
            f"in {row_said(column.first_row + 1, column.where)}"
        )
        if low < self.first.time:
            self.first = At(low, f"{column.row_said(times == low)} of {column.where}")
        if high > self.last.time:
            self.last = At(high, f"{column.row_said(times == high)} of {column.where}")
        self.rows += len(times)
        return times

    def check(self) -> None:
        """Check that all times are seconds since one beginning.

        Raises:
            BadInput: they are dates in digits, or of two units, or some are stand-ins for no time such as 0.
        """
        self.check_dates()
        if self.two_units():
            raise BadInput(
                f"The times in the column {self._name!r} are from {self.first} to {self.last}: one of them is in "
                f"another unit, or stands for no time. Bring all to seconds since 1970, and leave rows without a time "
                f"out."
            )

    def check_dates(self) -> None:
        """Check that the numbers are not all dates in digits, or days.

        Raises:
            BadInput: they are.
        """
        what, known = self._suspicion.said(self._name), self.first.time >= OLD and self.last.time <= time.time() + DAY
        if what and not (known and (self.rows < 20 or self.last.time - self.first.time < DAY)):
            raise BadInput(f"{self._start}; {what}; {READ}.")

    def __str__(self) -> str:
        return f"{_said(self.first.time)} to {_said(self.last.time)}"

    def __or__(self, other: Span) -> Span:
        """The span of both."""
        both = Span()
        both.first = min(self.first, other.first, key=lambda at: at.time)
        both.last = max(self.last, other.last, key=lambda at: at.time)
        return both

    def two_units(self) -> bool:
        """Whether some times are of recent years, and others long before or long after."""
        first, last = self.first.time, self.last.time
        return (first < OLD and last >= NEW) or (first < FAR <= last)


def _said(seconds_: int) -> str:
    if 0 < seconds_ < CALENDAR or not -YEARS // 5 <= seconds_ < YEARS:
        return str(seconds_)
    return f"{seconds_} ({datetime.datetime.fromtimestamp(seconds_, datetime.UTC):%Y-%m-%d})"


def _plain(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
