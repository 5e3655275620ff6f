"""Values of requests as places and numbers, by the rules and scales that the samples were built with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.batch import Int64Array, Jagged
from crossmedia.features.cells import entries
from crossmedia.features.columns import ACTION
from crossmedia.features.numbers import numbers
from crossmedia.features.reading.unmatched import Unmatched
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.forms import near_in_words, other_spellings
from crossmedia.keys import NULL_IMAGE, Column, image_ids, keys, texts
from crossmedia.list_cells import is_list
from crossmedia.names import ImageNames

MOST_ACTIONS = 20  # that a message lists
UNNAMED = "names of images that the manifest lacks"


class RequestPlaces:
    """Places and numbers of raw values, a few at a time.

    Args:
        vocabulary: raw values to places; kept as dictionaries, some 100 bytes a value.
        unmatched: told what nothing matched.
    """

    def __init__(self, vocabulary: Vocabularies, unmatched: Unmatched):
        self._encoding, self._unmatched = vocabulary.encoding, unmatched
        self._tokenizers = {name: self._encoding.tokenizer(name) for name in self._encoding.tokens}
        self._places = {
            name: {value: place for place, value in enumerate(values.to_pylist(), 1)}
            for name, values in vocabulary.values.items()
        }

    def encode(self, column: str, found: pa.Array) -> Int64Array:
        """The place of each key, shape (n,)."""
        places = self._places[column]
        return np.array([places.get(key, 0) for key in found.to_pylist()], dtype=np.int64)

    def ids(self, name: str, column: Column) -> Int64Array:
        """Places of ids, of actions, or of the buckets of numbers; ids that are most likely another one are counted."""
        scale = self._encoding.numbers.get(name)
        if scale is not None:
            return scale.places(numbers(column))
        found = keys(column)
        encoded, places = self.encode(name, found), self._places[name]
        if encoded.all():
            return encoded
        unknown = [found[row].as_py() for row in np.flatnonzero(encoded == 0).tolist() if found[row].is_valid]
        if name == ACTION:
            known = ", ".join(map(ascii, sorted(places)[:MOST_ACTIONS]))
            self._unmatched.add(
                "actions that are in no training row", unknown, len(found), f"The model knows {known}, and no others"
            )
            return encoded
        other = {word: form for word in unknown for form in other_spellings(word) if form in places}
        if other:
            words, first = [word for word in unknown if word in other], next(iter(other))
            known = f"The model knows {other[first]!a}, and not {first!a}: write ids as the log did"
            self._unmatched.add(f"values of {name} in another spelling", words, len(found), known)
        return encoded

    def numbers(self, name: str, column: Column) -> npt.NDArray[np.float32]:
        """Numbers as a model takes them, shape (n,), nan where one is missing."""
        return self._encoding.numbers[name].scale(numbers(column))

    def lists(self, name: str, column: Column) -> Jagged:
        """Places of the entries of each cell."""
        return self._jagged(name, entries(column, self._encoding.lists.get(name, ""), keys))

    def text(self, name: str, column: Column) -> Jagged:
        """Places of the words of each text."""
        return self._jagged(name, self._tokenizers[name](texts(column)))

    def _jagged(self, name: str, lists: pa.ListArray) -> Jagged:
        lengths = np.asarray(pc.list_value_length(lists)).astype(np.int64)
        return Jagged.of_lengths(self.encode(name, pc.list_flatten(lists)), lengths)

    def keys(self, column: Column, names: ImageNames | None, hint: str, space: str = "") -> Jagged:
        """Keys of vectors of each cell, in order: one or a list of them, where it may give names.

        Args:
            column: of ids, or of names, or of lists of either.
            names: gives ids to names.
            hint: what to do for who gives names without ``names``, half a sentence.
            space: name of the space of items; empty for images.
        """
        kind = f"names of items that the manifest of the space {space} lacks" if space else UNNAMED
        missing = f"They have no vector in the space {space}." if space else "They count as no image."

        def read(column: Column) -> pa.Array:
            if names is None:
                found = image_ids(column, hint)
            else:
                words = keys(column)
                found = names.find(words)
                absent = words.filter(pc.and_(pc.is_valid(words), pa.array(found == NULL_IMAGE)))
                if len(absent):
                    near = near_in_words(names.near(absent), len(absent))
                    self._unmatched.add(kind, absent.to_pylist(), len(words), f"{missing}{near}".rstrip("."))
            return pa.array(found, mask=found == NULL_IMAGE)

        column = column.plain()
        if is_list(column.values.type):
            lists = entries(column, read=read)
            lengths = np.asarray(pc.list_value_length(lists)).astype(np.int64)
            return Jagged.of_lengths(np.asarray(pc.list_flatten(lists)).astype(np.int64), lengths)
        found = read(column)
        there = np.asarray(pc.is_valid(found)).astype(np.int64)
        return Jagged.of_lengths(np.asarray(found.drop_null()).astype(np.int64), there)
