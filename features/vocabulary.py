"""Vocabularies turn raw values into places 1, 2, 3, …; 0 is unknown or null. A value keeps its place for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia.errors import BadInput
from crossmedia.features.encoding import Encoding

FILE = "vocabulary.parquet"
ENCODING = "encoding"
IDS, NUMBERS, LISTS, TEXT = "ids", "numbers", "lists", "text"  # kinds of columns, by their keys in a schema
HASHED_AT_ONCE = 1 << 20
Places = npt.NDArray[np.int64]


class Vocabularies:
    """One vocabulary per column name.

    Attributes:
        values: column name -> raw values as strings, place 1 first.
        counts: column name -> how often each occurs in the training rows, shape (values + 1,), place 0 first.
        encoding: how numbers, lists and texts become what has a place, or what a model takes.
    """

    def __init__(self, values: dict[str, pa.Array], counts: dict[str, Places], encoding: Encoding | None = None):
        self.values, self.counts, self.encoding = values, counts, encoding or Encoding()

    def size(self, name: str) -> int:
        """Number of places of a column, 0 included."""
        return len(self.values[name]) + 1

    def kind(self, name: str) -> str:
        """What a column of the samples is: one of the four kinds; empty: there is none of that name."""
        how = self.encoding
        of = {NUMBERS: [*how.numbers], LISTS: [*how.lists], TEXT: [*how.tokens], IDS: [*self.values]}
        return next((kind for kind, names in of.items() if name in names), "")

    def encode(self, name: str, raw: pa.Array) -> Places:
        """Places of raw values, shape (n,). Each call hashes the whole vocabulary: call it for many values at once."""
        found = pc.index_in(raw, value_set=self.values[name])
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64) + 1

    @property
    def hash(self) -> str:
        """12 hex digits of sha256 over all columns and values, and over how others are read."""
        sha = hashlib.sha256()
        for name in sorted(self.values):
            sha.update(name.encode() + b"\0")
            values = self.values[name]
            for start in range(0, len(values), HASHED_AT_ONCE):
                sha.update("\n".join(values.slice(start, HASHED_AT_ONCE).to_pylist()).encode() + b"\n")
        if self.encoding != Encoding():
            sha.update(self.encoding.json().encode())
        return sha.hexdigest()[:12]

    def save(self, folder: Path) -> None:
        """Write ``vocabulary.parquet``: column, place, value, count."""
        parts = []
        for name, values in self.values.items():
            n = len(values)
            parts.append(
                pa.table(
                    {
                        "column": pa.array([name]).take(pa.array(np.zeros(n, dtype=np.int64))),
                        "place": pa.array(np.arange(1, n + 1, dtype=np.int64)),
                        "value": values,
                        "count": pa.array(self.counts[name][1:]),
                    }
                )
            )
            unknown = {"column": [name], "place": [0], "value": [""], "count": [int(self.counts[name][0])]}
            parts.append(pa.table(unknown, schema=parts[-1].schema))
        table = pa.concat_tables(parts).replace_schema_metadata({ENCODING: self.encoding.json()})
        pq.write_table(table, folder / FILE, compression="zstd", write_page_checksum=True)

    @classmethod
    def load(cls, folder: Path) -> Vocabularies:
        """Read what ``save`` wrote.

        Raises:
            BadInput: there is none in the folder.
        """
        try:
            return cls._of(pq.read_table(folder / FILE, page_checksum_verification=True))
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise BadInput(
                f"{folder} is no samples folder: {FILE} cannot be read ({error}). Make it with 'features build'."
            ) from error

    @classmethod
    def read(cls, data: bytes) -> Vocabularies:
        """The same from the bytes of the file.

        Raises:
            BadInput: they are no such file.
        """
        try:
            return cls._of(pq.read_table(pa.BufferReader(data)))
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise BadInput(f"The vocabulary of {len(data)} bytes cannot be read: {error}.") from error

    @classmethod
    def _of(cls, table: pa.Table) -> Vocabularies:
        values, counts = {}, {}
        for name in pc.unique(table["column"]).to_pylist():
            part = table.filter(pc.equal(table["column"], name)).sort_by("place").combine_chunks()
            values[name] = part["value"].combine_chunks()[1:]
            counts[name] = np.asarray(part["count"]).astype(np.int64)
        return cls(values, counts, Encoding.of_json((table.schema.metadata or {}).get(ENCODING.encode(), b"{}")))


def extend(old: pa.Array, values: pa.Array, counts: Places) -> tuple[pa.Array, Places]:
    """Append the new ones of ``values`` to ``old``, in their order; counts by place, shape (values + 1,)."""
    new = pc.invert(pc.is_in(values, value_set=old))
    every = pa.concat_arrays([old, values.filter(new)])
    by_place = np.zeros(len(every) + 1, dtype=np.int64)
    by_place[np.asarray(pc.index_in(values, value_set=every)) + 1] = counts
    return every, by_place
