"""A catalogue of texts: two columns of a table, one that names the items and one that holds what is to be embedded."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.imgserver.storage.catalogue.catalogue import Catalogue
from crossmedia.imgserver.storage.catalogue.files import CSV_SUFFIXES, PARQUET_SUFFIXES, has_suffix, is_url
from crossmedia.imgserver.storage.catalogue.listing import UNKNOWN, FoundImages, Listing, place_in_words
from crossmedia.imgserver.storage.catalogue.local import check_where, local_files
from crossmedia.imgserver.storage.catalogue.remote import READ_TIMEOUT_S, files_for
from crossmedia.imgserver.storage.catalogue.scan import key_array
from crossmedia.imgserver.storage.records import Ids, content_hash
from crossmedia.keys import NOT_A_NUMBER, NULL_IMAGE, Column, image_ids, is_text
from crossmedia.names import ImageNames, texts_of
from crossmedia.words import row_said

TEXT_KEY = "item_id"


@dataclass(frozen=True)
class TextTable:
    """Where texts stand.

    Attributes:
        path: a Parquet or CSV file, or the URL of one.
        text: the column that is embedded.
        key: the column that names the items: ids, or keys of a manifest.
    """

    called: ClassVar[str] = "texts"  # in messages

    path: str
    text: str
    key: str = TEXT_KEY

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """The columns that are read, and the option that names each."""
        return ("--text", self.text), ("--key", self.key)

    def read(self, timeout_s: float = READ_TIMEOUT_S) -> tuple[Column, pa.Array]:
        """The keys, and the bytes of the texts, ``large_binary``, null as an empty one.

        Raises:
            BadInput: the table cannot be read, a column is missing, or is of another kind; or it has no rows.
        """
        table = self.columns(timeout_s)
        return Column(table[self.key], self.key, self.path).plain(), self._texts(table[self.text])

    def columns(self, timeout_s: float = READ_TIMEOUT_S) -> pa.Table:
        """The columns as they are, of CSV as bytes; raises as ``read``."""
        check_where(self.path)
        files = files_for(self.path, timeout_s, local_files(self.path))
        try:
            with closing(files.open(self.path)) as source:
                table = self._from(source)
        except (pa.ArrowException, UnicodeDecodeError, OSError, EOFError) as error:
            raise BadInput(f"{self._said} cannot be read: {error}.") from error
        if not len(table):
            raise BadInput(f"The table {self.path} has no rows.")
        return table

    def _from(self, source: BinaryIO) -> pa.Table:
        if has_suffix(self.path, PARQUET_SUFFIXES):
            with pq.ParquetFile(source) as file:
                self._check(file.schema_arrow.names)
                return file.read(columns=self._names)
        if not has_suffix(self.path, CSV_SUFFIXES):
            raise BadInput(f"{self._said} are a table: a Parquet file, or CSV ending in .csv or .csv.gz.")
        data = source.read()
        if has_suffix(self.path, ".gz"):
            data = gzip.decompress(data)
        options = pa_csv.ParseOptions(newlines_in_values=True)
        self._check_cells(data)
        self._check(pa_csv.open_csv(io.BytesIO(data), parse_options=options).schema.names)
        # As bytes, so that a text which is no UTF-8 is refused alone, and 007 stays what it is.
        columns = self._names
        convert = pa_csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.binary()))
        return pa_csv.read_csv(io.BytesIO(data), parse_options=options, convert_options=convert)

    @property
    def _said(self) -> str:
        """What messages begin with."""
        return f"The {self.called} {self.path}"

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self.asked))

    def _check_cells(self, data: bytes) -> None:
        """Check that rows have as many cells as the header; a quote that is not closed makes one cell of many rows."""
        header: list[str] = []
        number, before = 0, csv.field_size_limit(2**31 - 1)
        hint = "A cell with a comma, a quote or a line break in it stands in quotes, and a quote in it is written twice"
        try:
            for row in filter(None, csv.reader(io.StringIO(data.decode(errors="replace"), newline=""), strict=True)):
                header = header or row
                if len(row) != len(header):
                    raise BadInput(
                        f"{self._said} have {len(row)} cells in row {number} below the header, and "
                        f"{len(header)} columns in the header. {hint}."
                    )
                number += 1
        except csv.Error as error:
            raise BadInput(
                f"{self._said} have a quote in or behind row {max(number, 1)} below the header that does not "
                f"end its cell ({error}). {hint}."
            ) from error
        finally:
            csv.field_size_limit(before)

    def _check(self, names: list[str]) -> None:
        for option, name in self.asked:
            if names.count(name) > 1:
                raise BadInput(
                    f"{self._said} have {names.count(name)} columns {name!r}, which {option} names; rename one of them."
                )
            if name not in names and len(names) == 1 and (found := re.search(r"[\t;|]", names[0])):
                raise BadInput(
                    f"{self._said} separate their columns by {found[0]!r}, and commas are read. Write them "
                    f"anew: pandas.read_csv(…, sep={found[0]!r}, dtype=str).to_csv(…, index=False)."
                )
            if name not in names:
                raise BadInput(
                    f"{self._said} have no column {name!r}, which {option} names; the columns are: "
                    f"{', '.join(names)}.{did_you_mean(name, names)}"
                )

    def _texts(self, column: pa.ChunkedArray) -> pa.Array:
        values = column.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_null(values.type):
            values = pc.cast(values, pa.string())
        if not is_text(values.type):
            raise Column(values, self.text, self.path).of_type("--text names a column of text")
        # Bytes as they are: text that is no UTF-8 is refused one by one. What is written for no number is no text.
        data = pc.fill_null(pc.cast(values, pa.large_binary()), b"")
        none = pc.is_in(data, value_set=pa.array([word.encode() for word in NOT_A_NUMBER], pa.large_binary()))
        return pc.if_else(none, pa.scalar(b"", pa.large_binary()), data)


class TextCatalogue(Catalogue):
    """Texts by item id, in memory. ``open_texts`` makes one.

    Args:
        table: where they were read from.
        listing: what was found; a stamp is the hash of the text.
        keys: of all rows of the table, as it spells them.
        texts: of all rows, ``large_binary``.
        names: what items are called; None: by their ids.
        stamp: of the file, for ``changed``.
    """

    def __init__(
        self,
        table: TextTable,
        listing: Listing,
        keys: pa.Array,
        texts: pa.Array,
        names: ImageNames | None,
        stamp: int | None,
    ):
        super().__init__(table.path, listing, READ_TIMEOUT_S, local_files(table.path), stamp)
        self._keys, self._texts, self._names = keys, texts, names

    def place(self, image_id: int) -> str:
        """The row of a text, for people; empty where there is none."""
        row = self._row(image_id)
        return "" if row is None else place_in_words(os.path.basename(self.where), row)

    def key(self, image_id: int) -> str:
        """The key of a text as the table spells it, such as 007 for the id 7; empty where there is none."""
        row = self._row(image_id)
        return "" if row is None else str(self._keys[row])

    def names(self) -> ImageNames | None:
        """What a manifest calls the items; None where they are called by their ids."""
        return self._names

    def read(self, image_id: int, max_bytes: int) -> bytes | None:
        """The text's bytes, at most ``max_bytes + 1`` of them; None when there is no such item."""
        row = self._row(image_id)
        if row is None:
            return None
        data: bytes = self._texts[row].as_py()
        return data[: max_bytes + 1]

    def all_of(self, ids: Ids) -> list[bytes]:
        """The texts of items that are all there, shape (n,)."""
        rows = self._listing.offset[self._listing.places(ids)]
        found: list[bytes] = self._texts.take(pa.array(rows)).to_pylist()
        return found

    def _row(self, image_id: int) -> int | None:
        place = int(self._listing.places(np.array([image_id]))[0])
        return None if place < 0 else int(self._listing.offset[place])


def open_texts(table: TextTable, names: ImageNames | None = None, timeout_s: float = READ_TIMEOUT_S) -> TextCatalogue:
    """Read a table of texts.

    Args:
        table: where they stand.
        names: what items are called; None: by their ids.
        timeout_s: seconds for one read behind a URL, before it is tried again.

    Raises:
        BadInput: it cannot be read, a column is missing, a key is empty, none, or there twice.
    """
    stamp = None if is_url(table.path) or not os.path.isfile(table.path) else os.stat(table.path).st_mtime_ns
    keys, texts = table.read(timeout_s)
    ids, passed = ids_of_keys(keys, names)
    rows = np.flatnonzero(ids != NULL_IMAGE)
    _refuse_twice(keys, ids, rows)
    size = np.asarray(pc.binary_length(texts))
    hashes = np.array([content_hash(text.as_py()) for text in texts], dtype=np.uint64)
    name = pa.array([os.path.basename(table.path)], pa.large_string())
    entries = FoundImages(
        *(pa.array(ids[rows]), name, np.zeros(len(rows), dtype=np.int32)),
        *(rows.astype(np.int64), size[rows].astype(np.int64), hashes[rows]),
    )
    catalogue = TextCatalogue(table, Listing(entries, ids[rows]), keys.values, texts, names, stamp)
    catalogue.passed_over = passed
    return catalogue


def rows_by_key(path: str, key: str) -> FoundImages:
    """The rows of a table by their keys, of which a manifest is made.

    Raises:
        BadInput: it cannot be read, has no such column, or the column holds no keys or has empty cells.
    """
    keys = Column(TextTable(path, key, key).columns()[key], key, path).plain()
    n, name = len(keys.values), pa.array([os.path.basename(path)], pa.large_string())
    nowhere, stamp = np.full(n, UNKNOWN, dtype=np.int64), np.zeros(n, dtype=np.uint64)
    rows = np.arange(n, dtype=np.int64)
    return FoundImages(key_array(keys.values, path, key), name, np.zeros(n, dtype=np.int32), rows, nowhere, stamp)


def ids_of_keys(keys: Column, names: ImageNames | None) -> tuple[Ids, tuple[str, ...]]:
    """The id of each row, -1 where no name is known of it, and a sentence on those.

    Raises:
        BadInput: a key is empty, or none of a kind that names images; or no row is known.
    """
    if names is None:
        ids = image_ids(
            keys, "; 'imgserver manifest TABLE --key COLUMN' gives numbers to names, and --manifest takes it"
        )
        if (none := ids == NULL_IMAGE).any():
            raise BadInput(
                f"The column {keys.name!r} of {keys.where} is empty in {keys.row_said(none)}; every text needs an item."
            )
        return ids, ()
    words = texts_of(keys)
    ids = names.find(words)
    unknown = ids == NULL_IMAGE
    if not unknown.any():
        return ids, ()
    first = keys.row(unknown)
    said = (
        f"passed over {int(unknown.sum())} of {len(ids)} rows of {keys.where} whose {keys.name} is no key of the "
        f"manifest: the first is {words[first - 1].as_py()!r} in {keys.row_said(unknown)}; run 'imgserver manifest' "
        f"again"
    )
    if unknown.all():
        raise BadInput(f"No row is left: {said}.{names.meant(words[first - 1].as_py())}")
    return ids, (said,)


def _refuse_twice(keys: Column, ids: Ids, rows: npt.NDArray[np.int64]) -> None:
    order = rows[np.argsort(ids[rows], kind="stable")]
    if len(twice := np.flatnonzero(ids[order][1:] == ids[order][:-1])):
        one, other = (int(row) for row in order[twice[0] : twice[0] + 2])
        said = [row_said(row + 1, keys.where) for row in (one, other)]
        raise BadInput(
            f"The {keys.name} {keys.values[one]} of {keys.where} is there twice, in {said[0]} and in {said[1]}: an "
            f"item has one text. Remove one of the rows."
        )
