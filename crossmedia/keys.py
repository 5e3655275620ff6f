"""Read keys and image ids by one rule, in logs, tables, manifests, requests and words of a command.

A key is text. A whole number is the key of its decimal digits in whatever type or spelling it comes: ``3``, ``3.0``,
``"3.0"`` and ``"3e+00"`` are the key ``3``, while ``007`` stays ``007``. A float that is too large to be one whole
number alone is refused. A null, a text of no character, NaN or ``nan`` is no key. An image id is a key that is a whole
number from 0 to 2^63 - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.words import row_said

NULL_IMAGE = -1
MAX_IMAGE_ID = 2**63 - 1
EXACT = 2**53  # whole numbers below it differ in float64; it may stand for the next one, too
NOT_A_NUMBER = ("nan", "NaN")  # what Python, numpy and pandas write where there is no number

Int64Array = npt.NDArray[np.int64]

# How programs write a whole number that they hold as a float: 3.0, 1.2e+12 and, those in Java, 1.2E12. There is a point
# or a plus in all of them, so that 12e3, which may be a hash, stays what it is.
_SPELLED = r"^-?(?:(?:0|[1-9][0-9]*)\.0+|[0-9]\.[0-9]+[eE]\+?[0-9]{1,3}|[0-9][eE]\+[0-9]{2,3})$"
_VIEWS = [make() for name in ("string_view", "binary_view") if (make := getattr(pa, name, None))]
_TEXTS = frozenset([pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), *_VIEWS])
_IMAGE_IDS = "image ids are whole numbers from 0 to 2^63 - 1"
_TAKEN = "ids are whole numbers or text"


@dataclass(frozen=True)
class Column:
    """A column that the user gave, and where it comes from.

    Attributes:
        values: any Arrow array.
        name: of the column; empty for the lines of a text file.
        where: the file, or what else it is a column of.
        first_row: how many rows stand before these.
    """

    values: pa.Array
    name: str
    where: str
    first_row: int = 0

    def row(self, bad: Any) -> int:
        """The number of the first row that is ``bad`` (a mask), counted from 1, without the header."""
        return self.first_row + int(np.argmax(np.asarray(bad))) + 1

    def row_said(self, bad: Any) -> str:
        """``row 3``, as messages name the first row that is ``bad``."""
        return row_said(self.row(bad), self.where)

    def wrong(self, bad: Any, what: str) -> BadInput:
        """An error that names the first ``bad`` cell; ``what`` says what is right."""
        cell = self.values[int(np.argmax(np.asarray(bad)))].as_py()
        if not self.name:
            return BadInput(f"Line {self.row(bad)} of {self.where} is {_short(cell)}; {what}.")
        return BadInput(
            f"The column {self.name!r} of {self.where} holds {_short(cell)} in {self.row_said(bad)}; {what}."
        )

    def of_type(self, what: str) -> BadInput:
        """An error that names the type of the column."""
        return BadInput(f"The column {self.name!r} of {self.where} is of type {self.values.type}; {what}.")

    def plain(self) -> Column:
        """The column without a dictionary, and text of any width as ``string``.

        Raises:
            BadInput: it holds bytes that are no text.
        """
        values = self.values
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if is_text(values.type) and not pa.types.is_string(values.type):
            try:
                values = pc.cast(values, pa.string())
            except pa.ArrowInvalid as error:
                raise self.of_type(f"its bytes are no UTF-8 text ({error})") from error
        return replace(self, values=values)


def _short(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < EXACT:
        return str(int(cell))  # as the file has it, where it was read as a float
    text = repr(cell) if isinstance(cell, str | bytes) else str(cell)
    return text if len(text) <= 60 else f"{text[:60]}…"


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text, or bytes that some writers of Parquet mean as text."""
    return kind in _TEXTS


def column_of(values: Any, name: str, where: str) -> Column:
    """A column made from a Python list or an array: None and NaN are empty cells.

    Raises:
        BadInput: values of several kinds of which one is no key.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return Column(values, name, where)
    try:
        return Column(pa.array(values, from_pandas=True), name, where)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # of several kinds, such as 3 and "3"
        return Column(pa.array([_one(value, name, where) for value in values], pa.string()), name, where)


def _one(value: Any, name: str, where: str) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # of any size
    if isinstance(value, list | tuple | np.ndarray):
        raise BadInput(
            f"The column {name!r} of {where} holds {_short(value)} beside values of another kind; where one cell is a "
            f"list, each must be a list of values of one kind: [7] for one value, [] for none."
        )
    try:
        one: str | None = keys(Column(pa.array([value], from_pandas=True), name, where))[0].as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"The column {name!r} of {where} holds {_short(value)}, of type {type(value).__name__}; {_TAKEN}."
        ) from error
    return one


def keys(column: Column) -> pa.Array:
    """A column as keys, ``string``; null where the cell is empty or NaN.

    Raises:
        BadInput: it is of a type that names nothing, such as lists or booleans, or holds floats that are too large.
    """
    column = column.plain()
    values, kind = column.values, column.values.type
    if pa.types.is_string(kind):
        return _of_text(column)
    if pa.types.is_integer(kind) or pa.types.is_date(kind) or pa.types.is_null(kind):
        return pc.cast(values, pa.string())
    if pa.types.is_floating(kind):
        return _of_floats(column)
    if pa.types.is_decimal(kind):
        return _of_decimals(values)
    if pa.types.is_boolean(kind):
        raise column.of_type(f"{_TAKEN}, so write yes and no, or 1 and 0")
    if pa.types.is_nested(kind):
        raise column.of_type(f"{_TAKEN}, one a cell: join several to one text, or choose one of them")
    raise column.of_type(_TAKEN)


def full_keys(column: Column) -> pa.Array:
    """A column as keys, every cell filled.

    Raises:
        BadInput: a cell is empty, or what ``keys`` raises.
    """
    found = keys(column)
    if found.null_count:
        row = column.row_said(pc.is_null(found))
        raise BadInput(f"The column {column.name!r} of {column.where} is empty in {row}, or holds NaN.")
    return found


def texts(column: Column) -> pa.Array:
    """A column of text as ``string``, spelled as it is; null where the cell is empty or NaN.

    Raises:
        BadInput: it is of a type that is no text, such as lists.
    """
    column = column.plain()
    kind = column.values.type
    if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_binary(kind):
        raise column.of_type("a text column holds one text a cell: join several to one, separated by spaces")
    return _filled(column.values) if pa.types.is_string(kind) else keys(column)


def image_ids(column: Column, hint: str = "") -> Int64Array:
    """A column as image ids, shape (n,); ``NULL_IMAGE`` where the cell is empty, NaN or -1.

    Args:
        column: keys that are whole numbers.
        hint: a sentence for callers who have something else.

    Raises:
        BadInput: a cell is no image id; the message names it.
    """
    what = f"{_IMAGE_IDS}{hint}"
    column = column.plain()
    values = column.values
    if pa.types.is_integer(values.type):
        if pa.types.is_uint64(values.type):
            beyond = pc.greater(values, pa.scalar(MAX_IMAGE_ID, pa.uint64()))
        else:
            beyond = pc.less(values, NULL_IMAGE)
        if pc.any(beyond).as_py():
            raise column.wrong(pc.fill_null(beyond, False), what)
        return np.asarray(pc.fill_null(pc.cast(values, pa.int64()), NULL_IMAGE))
    if pa.types.is_nested(values.type) or pa.types.is_boolean(values.type):
        raise column.of_type(f"{_IMAGE_IDS}, one a cell{hint}")
    words = keys(column)
    bad = np.asarray(pc.fill_null(pc.invert(pc.or_(is_number(words), pc.equal(words, str(NULL_IMAGE)))), False))
    if bad.any():
        raise column.wrong(bad, what)
    return np.asarray(pc.fill_null(pc.cast(words, pa.int64()), NULL_IMAGE))


def full_image_ids(column: Column) -> Int64Array:
    """A column as image ids, every cell filled, shape (n,).

    Raises:
        BadInput: a cell is empty, or what ``image_ids`` raises.
    """
    found = image_ids(column)
    if (none := found == NULL_IMAGE).any():
        raise BadInput(
            f"The column {column.name!r} of {column.where} is empty in {column.row_said(none)}, or holds NaN or -1; "
            f"every row needs an image id."
        )
    return found


def is_number(words: pa.Array) -> pa.Array:
    """Which keys are whole numbers from 0 to 2^63 - 1, shape (n,); null where there is no key."""
    digits = pc.match_substring_regex(words, r"^0*[0-9]{1,19}$")
    short = pc.utf8_ltrim(words, "0")
    least = pc.or_(pc.less(pc.utf8_length(short), 19), pc.less_equal(short, pa.scalar(str(MAX_IMAGE_ID), words.type)))
    return pc.and_(digits, least)


def as_image_id(word: str) -> int | None:
    """The image id that a word, such as one of a command, stands for; None if it stands for none."""
    try:
        return int(full_image_ids(Column(pa.array([word.strip()]), "", "the words"))[0])
    except BadInput:
        return None


def catalogue_keys(column: Column) -> pa.Array:
    """Keys of a catalogue: int64 when the column holds numbers, else ``large_string``.

    Raises:
        BadInput: what ``keys`` raises, or a number is beyond int64.
    """
    column = column.plain()
    if pa.types.is_string(column.values.type):
        return pc.cast(keys(column), pa.large_string())
    numbers = column.values if pa.types.is_integer(column.values.type) else keys(column)
    try:
        return pc.cast(numbers, pa.int64())
    except pa.ArrowInvalid:
        bad = pc.fill_null(pc.invert(is_number(keys(column))), False)
        raise column.wrong(bad, _IMAGE_IDS) from None


def _holds(text: pa.Array, byte: bytes, words: Sequence[bytes]) -> bool:
    """Whether any of some words is in the memory of a column; they share a byte, because one byte is found fast."""
    data = text.buffers()[2]
    block = data.to_pybytes() if data is not None else b""
    return byte in block and any(word in block for word in words)


def _filled(text: pa.Array) -> pa.Array:
    """Text with null where a cell is empty: an empty text, as in CSV, or not a number."""
    if _holds(text, b"a", [word.encode() for word in NOT_A_NUMBER]):
        return pc.if_else(pc.is_in(text, value_set=pa.array(["", *NOT_A_NUMBER])), pa.scalar(None, pa.string()), text)
    if pc.any(none := pc.equal(text, "")).as_py():
        return pc.if_else(pc.fill_null(none, True), pa.scalar(None, pa.string()), text)
    return text


def _of_text(column: Column) -> pa.Array:
    text = _filled(column.values)
    if not (_holds(text, b".", [b".0", b"E"]) or _holds(text, b"+", [b"e+", b"E+"])):
        return text
    spelled = pc.fill_null(pc.match_substring_regex(text, _SPELLED), False)
    if not pc.any(spelled).as_py():
        return text
    cells = text.filter(spelled).dictionary_encode()
    plain = []
    for word in cells.dictionary.to_pylist():
        number = _whole(word)
        if number is not None and abs(number) >= EXACT:
            raise column.wrong(pc.fill_null(pc.equal(text, word), False), _too_large("text of a float"))
        plain.append(word if number is None else str(int(number)))
    return pc.replace_with_mask(text, spelled, pa.array(plain, pa.string()).take(cells.indices))


def _whole(word: str) -> Decimal | None:
    try:
        number = Decimal(word)
    except InvalidOperation:
        return None
    return number if number == number.to_integral_value() else None


def exact_up_to(kind: pa.DataType) -> int:
    """The whole number up to which floats of a type hold all whole numbers; it may stand for the next one, too."""
    return {16: 2**11, 32: 2**24}.get(kind.bit_width, EXACT)


def _too_large(kind: str, limit: int = EXACT) -> str:
    return (
        f"whole numbers from {limit} on are not told apart in {kind}, so it may stand for several ids. Write ids as "
        f"whole numbers or text"
    )


def _of_floats(column: Column) -> pa.Array:
    kind = column.values.type
    limit = exact_up_to(kind)
    given = column.values.to_numpy(zero_copy_only=False)
    numbers = given.astype(np.float64)
    empty = np.isnan(numbers)
    if (endless := np.isinf(numbers)).any():
        raise column.wrong(endless, "an id is finite. Leave the cell empty where there is none")
    with np.errstate(invalid="ignore"):
        beyond = np.abs(numbers) >= limit
    if beyond.any():
        raise column.wrong(beyond, _too_large(str(kind), limit))
    if (empty | (numbers == np.floor(numbers))).all():
        return pc.cast(pa.array(np.where(empty, 0, numbers).astype(np.int64), mask=empty), pa.string())
    found, place = np.unique(given.astype(np.float64) if kind.bit_width == 16 else given, return_inverse=True)
    words = pa.array([None if x != x else str(int(x) if x == int(x) else x) for x in found], pa.string())
    return words.take(pa.array(place.reshape(-1)))


def _of_decimals(values: pa.Array) -> pa.Array:
    if values.type.scale <= 0:
        return pc.cast(pc.cast(values, pa.decimal256(76, 0)), pa.string())
    return pc.utf8_rtrim(pc.utf8_rtrim(pc.cast(values, pa.string()), "0"), ".")
