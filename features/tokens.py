"""Find the words of a text: by letters and spaces, by n-grams where there are no spaces, or by a tokenizer's file.

A tokenizer is one rule for a text column, and stands beside the samples, so that a request is read as the rows were.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array, Jagged
from crossmedia.features.cells import lists_of
from crossmedia.features.spec import CHARACTERS, WORDS

Tokenizer = Callable[[pa.Array], pa.ListArray]

# Scripts that write words without spaces between: of two letters of the first a word is made, of the second three.
_PAIRS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\x{30FC}\x{3005}"
_TRIPLES = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_CODE_BITS = 21  # of a code point: three of them fit into 63 bits


def tokenizer(how: str, read: Callable[[], str] | None = None) -> Tokenizer:
    """What makes lists of words of texts; an empty or null text has none.

    Args:
        how: ``words``, ``characters``, or the path of a file that Hugging Face's tokenizers wrote.
        read: gives the content of that file, where it is not to be read from its path.

    Raises:
        BadInput: the file cannot be read, or the package is missing.
    """
    if how == WORDS:
        return lambda texts: _by_script(texts, 1)
    if how == CHARACTERS:
        return lambda texts: _by_script(texts, 3)
    return _of_file(how, read() if read else file_text(how))


def file_text(path: str) -> str:
    """The content of a tokenizer's file.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The tokenizer's file {path} cannot be read: {error}.") from error


def _of_file(path: str, content: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer as Found
    except ImportError as error:
        raise BadInput(
            f'The tokenizer {path} needs a package that is not installed: pip install "crossmedia[text]".'
        ) from error
    try:
        found = Found.from_str(content)
    except Exception as error:  # it raises nothing narrower
        raise BadInput(f"The file {path} is no tokenizer of Hugging Face's tokenizers: {error}.") from error
    found.no_truncation()
    found.no_padding()

    def tokens(texts: pa.Array) -> pa.ListArray:
        given = pc.fill_null(texts, "").to_pylist()
        lists = [one.tokens for one in found.encode_batch(given, add_special_tokens=False)]
        return pa.array(lists, pa.list_(pa.string()))

    return tokens


def _by_script(texts: pa.Array, others: int) -> pa.ListArray:
    """Lower-cased words of letters, marks and digits, in n-grams where letters have no spaces between.

    Args:
        texts: shape (n,).
        others: letters of an n-gram where there are spaces; 1: words stay whole.
    """
    parted = pc.replace_substring_regex(_letters(texts), f"([{_PAIRS}]+|[{_TRIPLES}]+)", r" \1 ")
    parents, words = _split(parted)
    size = np.full(len(words), others, dtype=np.int64)
    size[np.asarray(pc.match_substring_regex(words, f"^[{_PAIRS}]"))] = 2
    size[np.asarray(pc.match_substring_regex(words, f"^[{_TRIPLES}]"))] = 3
    return _grams(len(texts), parents, words, size)


def _letters(texts: pa.Array) -> pa.Array:
    """Lower-case letters, marks and digits, in the form in which one letter is one code; spaces between."""
    plain = pc.utf8_lower(pc.utf8_normalize(pc.fill_null(texts.cast(pa.string()), ""), "NFKC"))
    return pc.replace_substring_regex(plain, r"[^\p{L}\p{M}\p{N}]+", " ")


def _split(texts: pa.Array) -> tuple[Int64Array, pa.Array]:
    """Words between spaces, and the number of the text that each is of."""
    lists = pc.split_pattern(texts, " ")
    parents, words = pc.list_parent_indices(lists), pc.list_flatten(lists)
    real = pc.greater(pc.binary_length(words), 0)
    return np.asarray(parents.filter(real)).astype(np.int64), words.filter(real)


def _grams(n: int, parents: Int64Array, words: pa.Array, size: Int64Array) -> pa.ListArray:
    """Words with those of more than ``size`` letters in n-grams of that size, where it is 2 or 3.

    Args:
        n: how many texts there are.
        parents: the text of each word, ascending, shape (w,).
        words: shape (w,).
        size: letters of an n-gram, shape (w,); 1 leaves the word as it is.
    """
    letters = np.asarray(pc.utf8_length(words)).astype(np.int64)
    parted = (size > 1) & (letters > size)
    if not parted.any():
        return lists_of(n, parents, words)
    of, width = words.filter(pa.array(parted)), size[parted]
    codes = np.frombuffer("".join(of.to_pylist()).encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    grams = Jagged.of_lengths(codes, letters[parted])
    count = grams.lengths - width + 1
    first = np.repeat(grams.offsets[:-1] - (np.cumsum(count) - count), count) + np.arange(count.sum())
    wide = np.repeat(width, count) == 3
    packed = (codes[first] << _CODE_BITS) | codes[first + 1]
    packed[wide] = (packed[wide] << _CODE_BITS) | codes[first[wide] + 2]
    encoded = pa.array(packed).dictionary_encode()
    found = pa.array([_unpacked(code) for code in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)
    every_parent = np.concatenate([parents[~parted], np.repeat(parents[parted], count)])
    place = np.concatenate([np.flatnonzero(~parted), np.repeat(np.flatnonzero(parted), count)])
    order = np.argsort(place, kind="stable")
    every = pa.concat_arrays([words.filter(pa.array(~parted)), found])
    return lists_of(n, every_parent[order], every.take(pa.array(order)))


def _unpacked(code: int) -> str:
    """The letters of an n-gram; that there is no letter of code 0 tells two from three."""
    mask = (1 << _CODE_BITS) - 1
    three = (code >> 2 * _CODE_BITS, code >> _CODE_BITS & mask, code & mask)
    return "".join(chr(one) for one in three if one)
