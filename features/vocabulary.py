"""Vocabularies: raw values to places 1, 2, 3, …; place 0 is unknown or null. A value keeps its place for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgserver.errors import BadInput

FILE = "vocabulary.parquet"
Places = npt.NDArray[np.int64]


class Vocabularies:
    """One vocabulary a column name.

    Attributes:
        values: column name -> raw values as strings, place 1 first.
        counts: column name -> how often each occurs in the training rows, shape (values + 1,), place 0 first.
    """

    def __init__(self, values: dict[str, pa.Array], counts: dict[str, Places]):
        self.values, self.counts = values, counts

    def size(self, name: str) -> int:
        """Places of a column, place 0 included."""
        return len(self.values[name]) + 1

    def encode(self, name: str, raw: pa.Array) -> Places:
        """Places of raw values, shape (n,)."""
        found = pc.index_in(raw, value_set=self.values[name])
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64) + 1

    @property
    def hash(self) -> str:
        """12 hex of sha256 over all columns and values."""
        sha = hashlib.sha256()
        for name in sorted(self.values):
            sha.update(name.encode() + b"\0")
            sha.update("\n".join(self.values[name].to_pylist()).encode())
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
        pq.write_table(pa.concat_tables(parts), folder / FILE, compression="zstd")

    @classmethod
    def load(cls, folder: Path) -> Vocabularies:
        """Read what ``save`` wrote.

        Raises:
            BadInput: there is none in the folder.
        """
        try:
            table = pq.read_table(folder / FILE)
        except (OSError, pa.ArrowInvalid) as error:
            raise BadInput(
                f"{folder} is no samples folder: {FILE} cannot be read. Make it with 'features build'."
            ) from error
        values, counts = {}, {}
        for name in pc.unique(table["column"]).to_pylist():
            part = table.filter(pc.equal(table["column"], name)).sort_by("place").combine_chunks()
            values[name] = part["value"].combine_chunks()[1:]
            counts[name] = np.asarray(part["count"]).astype(np.int64)
        return cls(values, counts)


def build_vocabulary(occurring: list[pa.Array]) -> pa.Array:
    """The distinct raw values, in the order of their first occurrence, nulls left out."""
    chunked = pa.chunked_array([part.cast(pa.string()) for part in occurring], type=pa.string())
    return pc.drop_null(pc.unique(chunked))


def tokenize(texts: pa.Array) -> pa.ListArray:
    """Lower-cased words of letters and digits, a list a text; an empty or null text has none."""
    lowered = pc.utf8_lower(pc.fill_null(texts.cast(pa.string()), ""))
    words = pc.split_pattern_regex(pc.utf8_trim(pc.replace_substring_regex(lowered, r"[^\p{L}\p{N}]+", " "), " "), " ")
    # Splitting an empty text gives one empty word; keep only real ones.
    parents, flat = pc.list_parent_indices(words), pc.list_flatten(words)
    real = pc.greater(pc.utf8_length(flat), 0)
    parents, flat = np.asarray(parents.filter(real)), flat.filter(real)
    offsets = np.searchsorted(parents, np.arange(len(texts) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)
