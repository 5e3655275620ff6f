"""Count how often each value occurs, over parts that are seen one after the other; the parts change nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.hashing import mix
from crossmedia.features.numbers import Float64Array

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


class NumberCounts:
    """Counts of numbers; of more than ``MERGE_AT`` different ones, of a part that a hash of the number chooses."""

    def __init__(self) -> None:
        self.values, self.counts = np.zeros(0), np.zeros(0, dtype=np.int64)
        self._halved = 0

    def add(self, values: Float64Array, weights: Counts | None = None) -> None:
        """Count numbers, nan left out.

        Args:
            values: shape (n,).
            weights: what each counts, shape (n,); 1 when it is not given.
        """
        real = ~np.isnan(values)
        more = np.ones(int(real.sum()), dtype=np.int64) if weights is None else weights[real]
        every, inverse = np.unique(np.concatenate([self.values, values[real] + 0.0]), return_inverse=True)
        self.values = every  # -0.0 + 0.0 is 0.0
        self.counts = np.bincount(inverse.reshape(-1), np.concatenate([self.counts, more])).astype(np.int64)
        self._keep()
        while len(self.values) > MERGE_AT:
            self._halved += 1
            self._keep()

    def _keep(self) -> None:
        if self._halved:
            stays = mix(self.values.view(np.uint64)) < np.uint64(2 ** (64 - self._halved))
            self.values, self.counts = self.values[stays], self.counts[stays]
