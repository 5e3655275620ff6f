"""Count how often each value occurs, over parts that are seen one after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Counts = npt.NDArray[np.int64]
MERGE_AT = 4_000_000


class ValueCounts:
    """Counts of strings; memory grows with the distinct strings, not with the rows."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []

    def add(self, values: pa.Array, weights: Counts | None = None) -> None:
        """Count values, nulls left out.

        Args:
            values: strings, shape (n,).
            weights: what each counts, shape (n,); 1 when it is not given.
        """
        encoded = values.cast(pa.string()).dictionary_encode()
        codes = np.asarray(pc.fill_null(encoded.indices, -1)).astype(np.int64)
        real = codes >= 0
        chosen = None if weights is None else weights[real].astype(np.float64)
        counts = np.bincount(codes[real], chosen, minlength=len(encoded.dictionary)).astype(np.int64)
        self._parts.append(pa.table({"value": encoded.dictionary, "count": counts}))
        if len(self._parts) > 1 and sum(map(len, self._parts)) > MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        if not self._parts:
            self._parts = [pa.table({"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())})]
        every = pa.concat_tables(self._parts).group_by("value").aggregate([("count", "sum")])
        self._parts = [every.rename_columns(["value", "count"])]

    def ordered(self) -> tuple[pa.Array, Counts]:
        """Values, the most frequent first and ties by value, and their counts; the parts do not change the result."""
        self._merge()
        table = self._parts[0].sort_by([("count", "descending"), ("value", "ascending")])
        return table["value"].combine_chunks(), np.asarray(table["count"]).astype(np.int64)
