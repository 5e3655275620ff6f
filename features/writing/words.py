"""Lists of words by row, with each word once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.batch import Int64Array, Jagged
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.features.writing.counting import Counts, ValueCounts


@dataclass(frozen=True)
class WordLists:
    """Lists of words, such as tags, tokens of a title, or images.

    Attributes:
        codes: rows of indices into ``words``.
        words: strings, each once.
    """

    codes: Jagged
    words: pa.Array

    @classmethod
    def of(cls, chunks: Iterable[pa.ListArray]) -> WordLists:
        """From lists of strings, chunk after chunk."""
        lengths = [np.zeros(0, dtype=np.int64)]
        codes, words = [np.zeros(0, dtype=np.int64)], pa.array([], pa.string())
        for chunk in chunks:
            lengths.append(np.asarray(pc.list_value_length(chunk)).astype(np.int64))
            encoded = pc.list_flatten(chunk).dictionary_encode()
            words = pc.unique(pa.concat_arrays([words, encoded.dictionary]))
            place = np.asarray(pc.index_in(encoded.dictionary, value_set=words)).astype(np.int64)
            codes.append(place[np.asarray(encoded.indices)])
        return cls(Jagged.of_lengths(np.concatenate(codes), np.concatenate(lengths)), words)

    def count(self, rows: Int64Array, weights: Counts) -> ValueCounts:
        """How often each word occurs.

        Args:
            rows: which rows count, shape (n,).
            weights: how often each of these does, shape (n,).
        """
        chosen = self.codes.take(rows)
        times = np.repeat(weights, chosen.lengths)
        counts = ValueCounts()
        met = np.bincount(chosen.values, minlength=len(self.words)) > 0  # with weight 0, too
        totals = np.bincount(chosen.values, times, minlength=len(self.words)).astype(np.int64)
        counts.add(self.words.filter(pa.array(met)), totals[met])
        return counts

    def places(self, name: str, vocabulary: Vocabularies) -> Jagged:
        """The lists as places in a vocabulary."""
        places = vocabulary.encode(name, self.words)
        return Jagged(places[self.codes.values], self.codes.offsets)
