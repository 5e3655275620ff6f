"""Numbers as a model takes them: standardised, of their logarithm, or as the place of a bucket.

What is fitted is fitted on training rows, stands beside the samples, and is used for requests as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import Float32Array, Int64Array
from crossmedia.features.rules import as_numbers
from crossmedia.keys import Column

STANDARD, LOG1P, BUCKETS = "standard", "log1p", "buckets"
MOST_BUCKETS = 1000
MOST = float(np.finfo(np.float32).max)
MOST_DEVIATIONS = 20.0
Float64Array = npt.NDArray[np.float64]


def buckets(how: str) -> int:
    """How many buckets ``how`` asks for, as in ``buckets:20``; 0: it does not ask for any."""
    found = re.fullmatch(rf"{BUCKETS}:(\d{{1,9}})", how)
    return int(found[1]) if found else 0


def numbers(column: Column) -> Float64Array:
    """A column as numbers, shape (n,); nan where the cell is empty or NaN.

    Raises:
        BadInput: a cell is no number, or is infinite or nearly so; the message names it.
    """
    found = as_numbers(column, f"{column.name!r} is a column of numbers")
    values = np.asarray(pc.fill_null(pc.cast(found, pa.float64(), safe=False), np.nan))
    if (beyond := np.abs(values) > MOST).any():
        raise column.wrong(beyond, "a number is finite, and fits 32 bits. Leave the cell empty where there is none")
    return values


@dataclass(frozen=True)
class NumberScale:
    """How the numbers of one column become what a model takes.

    Attributes:
        how: ``standard``, ``log1p`` or ``buckets:N``.
        mean, deviation: of the training rows; of logarithms with ``log1p``.
        edges: the lowest value of each bucket but the first, ascending.
    """

    how: str
    mean: float = 0.0
    deviation: float = 1.0
    edges: tuple[float, ...] = ()

    @classmethod
    def fit(cls, how: str, values: Float64Array, counts: Int64Array) -> NumberScale:
        """Fit to numbers of training rows.

        Args:
            how: what to make of them.
            values: ascending, each once, shape (n,).
            counts: how many rows have each, shape (n,).
        """
        if n := buckets(how):
            if not len(values):
                return cls(how)
            upto = np.cumsum(counts)
            ranks = np.ceil(np.arange(1, n) * upto[-1] / n).astype(np.int64)
            # A bucket begins behind the number that fills the one before, however many rows that one number has.
            begins = np.unique(np.searchsorted(upto, ranks, side="left") + 1)
            return cls(how, edges=tuple(values[begins[begins < len(values)]].tolist()))
        shown, total = _scaled(how, values), max(1, int(counts.sum()))
        mean = float((shown * counts).sum() / total)
        deviation = float(np.sqrt((counts * (shown - mean) ** 2).sum() / total))
        return cls(how, mean, deviation if deviation > 1e-12 * max(1.0, abs(mean)) else 1.0)

    @property
    def in_buckets(self) -> bool:
        """Whether a model takes places of buckets, and no numbers."""
        return buckets(self.how) > 0

    @property
    def bucket_names(self) -> list[str]:
        """What lies in each bucket, in words, place 1 first."""
        edges = [f"{edge:g}" for edge in self.edges]
        if len(set(edges)) < len(edges):
            edges = [repr(edge) for edge in self.edges]
        if not edges:
            return ["any number"]
        between = [f"from {low} to below {high}" for low, high in pairwise(edges)]
        return [f"below {edges[0]}", *between, f"from {edges[-1]}"]

    def places(self, values: Float64Array) -> Int64Array:
        """The place of each number's bucket, shape (n,); 0 is missing, which no number is."""
        found = np.searchsorted(np.array(self.edges, dtype=np.float64), values, side="right") + 1
        return np.where(np.isnan(values), 0, found).astype(np.int64)

    def scale(self, values: Float64Array) -> Float32Array:
        """The numbers as a model takes them, shape (n,), nan where one is missing; not for buckets.

        They are cut off at ``MOST_DEVIATIONS``, so that a slip of the pen is a large number and no overflow.
        """
        found = (_scaled(self.how, values) - self.mean) / self.deviation
        return np.clip(found, -MOST_DEVIATIONS, MOST_DEVIATIONS).astype(np.float32)


def _scaled(how: str, values: Float64Array) -> Float64Array:
    return np.sign(values) * np.log1p(np.abs(values)) if how == LOG1P else values


def check_how(how: str) -> str:
    """What is wrong with ``how``, as half a sentence; empty: nothing."""
    n = buckets(how)
    if how in (STANDARD, LOG1P) or 2 <= n <= MOST_BUCKETS:
        return ""
    return f'it must be "{STANDARD}", "{LOG1P}" or "{BUCKETS}:N", N from 2 to {MOST_BUCKETS}'


def same_scale(name: str, old: NumberScale, how: str) -> NumberScale:
    """The scale that continued samples keep, so that weights go on meaning what they did.

    Raises:
        BadInput: the schema asks for another one.
    """
    if old.how != how:
        raise BadInput(
            f"The column {name!r} is {how!r} here and {old.how!r} in the samples that are extended. Samples that "
            f"continue others read numbers as they do: write {old.how!r}, or build without --extend."
        )
    return old
