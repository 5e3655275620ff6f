"""What a time is: whole seconds since 1970, in whatever type it comes; another unit is refused and not guessed."""

from __future__ import annotations

import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Int64Array
from imgserver.errors import BadInput
from imgserver.keys import NOT_A_NUMBER, Column

READ = (
    "times are whole seconds since 1970 such as 1700000000, or timestamps such as 2023-11-14 22:13:20, "
    "2023-11-14T22:13:20Z, 2023-11-14 22:13:20+08:00 or 2023-11-14, in UTC where they name no zone"
)
LEAST_OTHER = 10**11  # seconds of the year 5138, milliseconds of 1973
_UNITS = ((10**14, "milliseconds", "1000"), (10**17, "microseconds", "1000000"), (2**63, "nanoseconds", "1000000000"))
CALENDAR = 10**8  # seconds from here on (1973) are dates; below they count from a beginning of their own
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?$"
_ZONE = r"(?:Z|[+-]\d{2}:?\d{2})$"


def seconds(column: Column) -> Int64Array:
    """A time column as whole seconds, shape (rows,); fractions of a second are cut off.

    Raises:
        BadInput: a cell is empty, is no time, or is of another unit than seconds; the message names it.
    """
    column = column.plain()
    values, kind = column.values, column.values.type
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    elif pa.types.is_string(kind):
        values = pc.if_else(pc.is_in(values, value_set=pa.array(["", *NOT_A_NUMBER])), pa.scalar(None, kind), values)
    if values.null_count:
        row = column.row(pc.is_null(values))
        raise BadInput(f"The column {column.name!r} of {column.where} is empty in row {row}; every row needs a time.")
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
    """Numbers, or timestamps of ISO 8601, all with a zone or all without."""
    number = np.asarray(pc.match_substring_regex(values, r"^-?[0-9]+(?:\.[0-9]+)?$"))
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
    if _are_dates(numbers):
        raise column.wrong(np.ones(len(numbers), dtype=np.bool_), f"that looks like a date without dashes; {READ}")
    return numbers.astype(np.int64) if numbers.dtype.kind in "iu" else np.floor(numbers).astype(np.int64)


def _unit(number: float) -> str:
    """What a number that is too large for seconds seems to be."""
    if 19000101000000 <= number < 22000000000000:
        return "that looks like a date and time without dashes"
    for below, name, divisor in _UNITS:
        if number < below:
            return f"that looks like {name}: divide by {divisor}"
    return "that is no time"


def _are_dates(numbers: npt.NDArray[np.integer | np.floating]) -> bool:
    """Whether all numbers are days written like 20231114, which as seconds would be the August of 1970."""
    if not len(numbers) or numbers.min() < 19000101 or numbers.max() > 21991231:
        return False
    whole = numbers.astype(np.int64)
    month, day = whole // 100 % 100, whole % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


class Span:
    """From when to when the times of a table are."""

    def __init__(self) -> None:
        self.first, self.last = 2**62, -(2**62)

    def add(self, times: Int64Array) -> None:
        """Some rows, one or more."""
        self.first, self.last = min(self.first, int(times.min())), max(self.last, int(times.max()))

    def __str__(self) -> str:
        return f"{_said(self.first)} to {_said(self.last)}"

    def other_unit(self, other: Span) -> bool:
        """Whether one counts from 1970 and the other does not, or in another unit."""
        low, high = sorted((self, other), key=lambda span: span.last)
        return low.last < CALENDAR <= high.first


def _said(seconds_: int) -> str:
    if not CALENDAR <= seconds_ < LEAST_OTHER:
        return str(seconds_)
    return f"{seconds_} ({datetime.datetime.fromtimestamp(seconds_, datetime.UTC):%Y-%m-%d})"
