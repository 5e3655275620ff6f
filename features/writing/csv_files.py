"""Read one CSV file as Arrow batches: RFC 4180 in UTF-8, with errors that say what else a file may be."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from crossmedia.errors import BadInput
from crossmedia.features.times import ROUNDED, is_rounded
from crossmedia.features.writing.data_files import DataFile
from crossmedia.keys import NOT_A_NUMBER, Column

BLOCK_BYTES = 4 << 20
HEAD_BYTES = 1 << 16
_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16
_OTHERS = {
    b"PAR1": "is no CSV file but a Parquet file: end its name with .parquet",
    b"PK\x03\x04": "is no CSV file but a zip file or a workbook: unpack it, or save the sheet as CSV in UTF-8",
    b"\x1f\x8b": "is compressed by gzip: end its name with .csv.gz",
    b"BZh": "is compressed by bzip2: end its name with .csv.bz2",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: end its name with .csv.zst",
    b"\xfd7zXZ\x00": "is compressed by xz: unpack it, with xz -d",
}
_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars"}


class CsvFile:
    """An open CSV file, which may be compressed.

    Args:
        path: of the file.
        texts: columns that are read as text, so that 007 stays 007.
        times: columns of whole seconds or timestamps.
        numbers: columns in which a fraction may come late in the file.

    Attributes:
        empty: whether it has not even a header.

    Raises:
        BadInput: it is no CSV file in UTF-8, or a column is missing.
    """

    def __init__(self, path: DataFile, texts: Sequence[str], times: Sequence[str], numbers: Sequence[str]):
        self.path = path
        self._times = times
        self._wanted = list(dict.fromkeys([*texts, *times, *numbers]))
        try:
            with path.stream() as stream:
                head = stream.read(HEAD_BYTES)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"The file {path} cannot be read: {error}.") from error
        self.empty = not head.removeprefix(b"\xef\xbb\xbf").strip()
        if self.empty:
            return
        _check_encoding(path, head)
        _check_separator(path, self._wanted, head)
        try:
            with pyarrow.csv.open_csv(path.stream(), parse_options=_parse(), convert_options=_convert()) as reader:
                names, types = list(reader.schema.names), list(reader.schema.types)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error
        check_columns(path, self._wanted, names)
        guessed = dict(zip(names, types, strict=True))
        self._types: dict[str, pa.DataType] = {name: _number(guessed[name]) for name in numbers}
        self._types |= {name: _time(guessed[name]) for name in times}
        self._types |= {name: pa.string() for name in texts}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, as batches.

        Raises:
            BadInput: a row has too many or too few cells, a cell is not of the column's type, a quote is not closed.
        """
        counted, rows = _Counted(self.path), 0
        try:
            with pyarrow.csv.open_csv(
                pa.PythonFile(counted, mode="r"),
                read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
                parse_options=_parse(),
                convert_options=_convert(column_types=self._types, include_columns=self._wanted),
            ) as reader:
                for batch in reader:
                    rows += len(batch)
                    yield batch
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error
        # What comes behind a quote that is not closed is one cell, to the end of the file or to the next such quote.
        if counted.quotes % 2 or (counted.quotes and counted.lines > rows + 1):
            self._check_quotes()

    def _unreadable(self, error: Exception) -> BadInput:
        """The error that says what is wrong in the file, with row and column if they can be found."""
        text = str(error)
        if "straddling" in text:
            self._check_quotes()
            return BadInput(f"The file {self.path} has a row of more than {BLOCK_BYTES >> 20} MB. Shorten its cells.")
        if "UTF8" in text or isinstance(error, UnicodeDecodeError):
            return _no_utf8(self.path)
        if "conversion error" in text and (found := self._misfit()) is not None:
            return found
        if "Expected" in text and "columns" in text:
            self._check_cells()
        return BadInput(f"The file {self.path} cannot be read: {text[:500]}.")

    def _misfit(self) -> BadInput | None:
        """The first cell that is not of its column's type, found by reading everything again as text."""
        as_text = _convert(column_types=dict.fromkeys(self._wanted, pa.string()), include_columns=self._wanted)
        first = 0
        with pyarrow.csv.open_csv(self.path.stream(), parse_options=_parse(), convert_options=as_text) as reader:
            for batch in reader:
                for name in self._wanted:
                    column = Column(batch[name], name, str(self.path), first)
                    if self._types[name] != pa.string() and (bad := _misfits(column, self._types[name])) is not None:
                        cell = str(batch[name][bad.index(True)].as_py())
                        begins = f"the file begins with {_said(self._types[name])} in this column"
                        return column.wrong(bad, ROUNDED if name in self._times and is_rounded(cell) else begins)
                first += len(batch)
        return None

    def _check_cells(self) -> None:
        """Check that each row has a cell for each column of the header."""
        with suppress(csv.Error), _plain_rows(self.path) as rows:
            header = next(rows, [])
            for number, row in enumerate(filter(None, rows), 1):
                if len(row) != len(header):
                    raise BadInput(
                        f"The file {self.path} has {len(row)} cells in row {number} below the header, and "
                        f"{len(header)} columns in its header. A cell with a comma or a line break in it stands in "
                        f"quotes."
                    )

    def _check_quotes(self) -> None:
        """Check that each cell that begins with a quote ends with one."""
        number = 0
        with _plain_rows(self.path) as rows:
            try:
                for _ in rows:
                    number += 1
            except csv.Error as error:
                raise BadInput(
                    f"The file {self.path} has a quote in or behind row {max(number, 1)} below the header that does "
                    f"not end its cell ({error}). A cell that begins with a quote ends with one, and a quote in it is "
                    f"written twice."
                ) from error


@contextmanager
def _plain_rows(path: DataFile) -> Iterator[Iterator[list[str]]]:
    """Rows as Python reads them, which is slow; used to find out what is wrong with one."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with path.stream() as stream, io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="") as lines:
            yield csv.reader(lines, strict=True)
    finally:
        csv.field_size_limit(limit)


class _Counted(io.RawIOBase):
    """A file whose quotes and lines are counted while it is read."""

    def __init__(self, path: DataFile):
        self._stream = path.stream()
        self.quotes, self.lines, self._last = 0, 1, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._stream.read(size)
        self.quotes += block.count(b'"')
        if block:  # what the file ends with begins no line
            self.lines += self._last.count(b"\n") + block.count(b"\n", 0, -1)
            self._last = block[-1:]
        return block

    def close(self) -> None:
        self._stream.close()
        super().close()


def check_columns(path: DataFile, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Check that all columns are there, each once.

    Raises:
        BadInput: one is not; the message says which there are.
    """
    for name in wanted:
        if name not in names:
            shown = ", ".join(n if n == n.strip() else repr(n) for n in names)
            raise BadInput(f"The file {path} has no column {name!r}; its columns are: {shown}.")
        if names.count(name) > 1:
            raise BadInput(f"The file {path} has {names.count(name)} columns {name!r}; rename one of them.")


def _check_separator(path: DataFile, wanted: Sequence[str], head: bytes) -> None:
    """Raise if another separator than the comma would give the columns."""
    header = head.decode("utf-8-sig", "replace").lstrip().partition("\n")[0]

    def found(separator: str) -> bool:
        names = {name.strip().strip('"') for name in header.split(separator)}
        return names.issuperset(wanted)

    for separator, what in _SEPARATORS.items():
        if not found(",") and found(separator):
            raise BadInput(
                f"The file {path} separates its columns by {what}, and commas are read. Write it anew, for example: "
                f"pandas.read_csv(…, sep={separator!r}, dtype=str).to_csv(…, index=False)."
            )


def _check_encoding(path: DataFile, head: bytes) -> None:
    for mark, what in _OTHERS.items():
        if head.startswith(mark) and not (mark == b"BZh" and b"," in head.partition(b"\n")[0]):
            raise BadInput(f"The file {path} {what}.")
    if b"\0" in head or head.startswith(_MARKS):
        raise _no_utf8(path, "UTF-16")


def _likely(path: DataFile) -> str:
    """In Chinese text bytes beyond ASCII stand side by side; in that of Western Europe one stands among letters."""
    head = path.stream().read(HEAD_BYTES)
    alone = re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", head)
    return "ISO-8859-1" if 2 * len(alone) > len(re.findall(rb"[\x80-\xff]", head)) else "GB18030"


def _no_utf8(path: DataFile, encoding: str = "") -> BadInput:
    from_ = encoding or _likely(path)
    advice = f"Convert it: iconv -f {from_} -t UTF-8 {path.name} > utf8.csv"
    if encoding:
        return BadInput(f"The file {path} looks like {encoding} and not like text in UTF-8. {advice}")
    return BadInput(
        f"The file {path} is no text in UTF-8. {advice} (or from what it is in, such as ISO-8859-1, GB18030, UTF-16)."
    )


def _parse() -> pyarrow.csv.ParseOptions:
    return pyarrow.csv.ParseOptions(newlines_in_values=True)


def _convert(**options: Any) -> pyarrow.csv.ConvertOptions:
    # Only an empty cell is null, and what is written for no number: NA is a country, and null may be a name.
    return pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=["", *NOT_A_NUMBER], **options)


def _number(guessed: pa.DataType) -> pa.DataType:
    return pa.float64() if pa.types.is_integer(guessed) or pa.types.is_null(guessed) else guessed


def _time(guessed: pa.DataType) -> pa.DataType:
    """The type that also holds what may come later in the file: days among times, fractions among whole seconds."""
    if pa.types.is_null(guessed):
        return pa.int64()
    if pa.types.is_floating(guessed):  # as text it says whether a spreadsheet rounded it
        return pa.string()
    if pa.types.is_date(guessed):
        return pa.timestamp("us")
    if pa.types.is_timestamp(guessed) and guessed.unit == "s":
        return pa.timestamp("us", guessed.tz)
    return guessed


def _said(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamps " + ("with a zone" if kind.tz else "without a zone")
    return "true and false" if pa.types.is_boolean(kind) else "numbers"


def _misfits(column: Column, kind: pa.DataType) -> Any:
    """Which cells are not of a type, as a mask; None when all are."""
    words = pc.utf8_trim_whitespace(column.values)

    def fits(part: pa.Array) -> bool:
        try:
            pc.cast(part, kind)
        except pa.ArrowException:
            return False
        return True

    if fits(words):
        return None
    low, high = 0, len(words)  # the first misfit is in words[low:high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if not fits(words.slice(low, middle - low)) else (middle, high)
    mask = [False] * len(words)
    mask[low] = True
    return mask
