"""Words that spell a number: ``3.0`` and ``3`` are the key of one number."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.keys import Column, keys

_MAY_SPELL = r"^-?[0-9]+[.eE][0-9.eE+]+$"


def may_spell(words: pa.Array) -> pa.Array:
    """Which words may spell a number, shape (n,); none of them is a word of a language."""
    return pc.fill_null(pc.match_substring_regex(words, _MAY_SPELL), False)


def as_numbers(words: pa.Array) -> pa.Array:
    """Each word as the key of the number that it spells; one that spells none as it is."""
    spelled = may_spell(words)
    cells = words.filter(spelled).dictionary_encode()
    if not len(cells):
        return words
    plain = pa.array(map(_as_number, cells.dictionary.to_pylist()), pa.large_string())
    return pc.replace_with_mask(words, spelled, plain.take(cells.indices))


def _as_number(word: str) -> str:
    try:
        return str(keys(Column(pa.array([word]), "key", "a manifest"))[0])
    except BadInput:  # too large to be one whole number alone
        return word
