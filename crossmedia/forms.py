"""Keys that are not there, and are there in another form: said with what to do, and never joined without a word.

A key is what is written: ``Café`` in two Unicode forms, ``cat`` and ``Cat``, ``cat`` and ``cat `` are keys of their
own, for they may be two items, or two photos. So whoever looks keys up and misses some asks here why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unicodedata import normalize
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.errors import did_you_mean

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".avif"),
    *(".tif", ".tiff"),  # refused when they are opened: a shop's own pictures, which get an id and a reason
)
MOST_LOOKED_AT = 5000  # keys that are compared with one that is wrong, letter by letter
UNICODE = "another Unicode form, NFC or NFD"
_SEVERAL = "a form that differs in several of these ways"
_BLANKS = " \t\r\n\u00a0\u200b\ufeff"


def _decoded(words: pa.Array) -> pa.Array:
    """Each word without the escapes of addresses, such as %20."""
    escaped = pc.fill_null(pc.match_substring_regex(words, "%[0-9A-Fa-f]{2}"), False)
    if not pc.any(escaped).as_py():
        return words
    cells = words.filter(escaped).dictionary_encode()
    return pc.replace_with_mask(
        words, escaped, pa.array(map(unquote, cells.dictionary.to_pylist()), words.type).take(cells.indices)
    )


_FORMS: dict[str, tuple[Callable[[pa.Array], pa.Array], str]] = {
    UNICODE: (
        lambda words: pc.utf8_normalize(words, "NFC"),
        "write both alike, such as with unicodedata.normalize('NFC', name)",
    ),
    "another letter case": (pc.utf8_lower, "write both alike, such as with name.lower()"),
    "a form with other blanks at the ends": (
        lambda words: pc.utf8_trim(words, _BLANKS),
        "take the blanks away, with name.strip()",
    ),
    "a form with another beginning of the path": (
        lambda words: pc.utf8_ltrim(words, "./"),
        "write both alike, such as with name.lstrip('./')",
    ),
    "a form without the query of an address": (
        lambda words: pc.replace_substring_regex(words, r"[?#].*$", ""),
        "take the query away, with name.partition('?')[0]",
    ),
    "a form without the escapes of an address": (
        _decoded,
        "decode the escapes, with urllib.parse.unquote(name)",
    ),
}


@dataclass(frozen=True)
class Near:
    """Keys of one kind that are there in another form.

    Attributes:
        form: what that is, as the rest of a sentence that begins with "it is there in".
        count: how many.
        asked, there: the first one as it was asked for, and as it is there; ``ascii`` shows what differs.
        remedy: what to do.
    """

    form: str
    count: int
    asked: str
    there: str
    remedy: str

    @property
    def kind(self) -> str:
        """The form as words joined by _, for a kind of note."""
        return self.form.replace(",", "").replace(" ", "_")

    @property
    def example(self) -> str:
        """Both spellings of the first one, so that a difference can be seen that no screen shows."""
        show = ascii if self.form == UNICODE else repr
        return f"{show(self.asked)} is there as {show(self.there)}"


def nearly(absent: pa.Array, known: pa.Array, bare: Callable[[pa.Array], pa.Array] = lambda words: words) -> list[Near]:
    """Which keys that are not there are there in another form, each counted once; most often none.

    Args:
        absent: keys that were not found; nulls are none.
        known: the keys that there are.
        bare: what else a lookup takes from a key, such as the suffix of a file.
    """
    rest, found = pc.cast(absent, pa.large_string()).drop_null(), []
    known = pc.cast(known, pa.large_string())
    for name, (make, remedy) in [*_FORMS.items(), (_SEVERAL, (_plainest, "write both alike"))]:
        if not len(rest):
            break
        form_of, forms = make(rest), make(known)
        place = pc.coalesce(*(pc.index_in(asked, value_set=forms) for asked in (form_of, make(bare(form_of)))))
        if place.null_count < len(place):
            first = int(np.argmax(np.asarray(pc.is_valid(place))))
            there = known[place[first].as_py()].as_py()
            found.append(Near(name, len(place) - place.null_count, rest[first].as_py(), there, remedy))
            rest = rest.filter(pc.is_null(place))
    return found


def alike(keys: pa.Array) -> list[str]:
    """Sentences on keys that are each there once, and are the same in another form: two images, or one by mistake.

    Args:
        keys: all different, none null.
    """
    keys, said = pc.cast(keys, pa.large_string()), []
    if pc.count_distinct(_plainest(_plain_number(keys))).as_py() == len(keys):
        return []
    forms = {**_FORMS, "a form with zeros before, or behind the point": (_plain_number, "write both alike")}
    for name, (make, remedy) in forms.items():
        made = make(keys)
        counts = pc.value_counts(made)
        several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(several):
            one, other = keys.filter(pc.equal(made, several[0]))[:2].to_pylist()
            show = ascii if name == UNICODE else repr
            said.append(
                f"{len(several):,} of the keys {'is' if len(several) == 1 else 'are'} there in {name}, too, such as "
                f"{show(one)} and {show(other)}. Each is an image of its own; where both are one, {remedy}."
            )
    return said


def _plain_number(words: pa.Array) -> pa.Array:
    """A word that is a whole number without what does not change it: ``007`` and ``7.0`` are ``7``."""
    return pc.replace_substring_regex(words, r"^0*([0-9]+)(?:\.0*)?$", r"\1")


def near_in_words(near: list[Near], of: int) -> str:
    """A sentence for each kind, with a blank before it, to follow one that says how many are not there.

    Args:
        near: of ``nearly``.
        of: how many are not there.
    """
    return "".join(
        f" {'It' if of == one.count == 1 else f'{one.count:,} of them'} {'is' if one.count == 1 else 'are'} there in "
        f"{one.form}: {one.example}; {one.remedy}."
        for one in near
    )


def _plainest(words: pa.Array) -> pa.Array:
    for make, _ in reversed(_FORMS.values()):
        words = make(words)
    return words


def other_spellings(word: str) -> list[str]:
    """A word in the forms that can be tried one by one, where all keys cannot be looked at for one that is alike."""
    forms = (normalize("NFC", word), normalize("NFD", word), word.strip(_BLANKS), word.lower(), word.upper())
    return [form for form in dict.fromkeys(forms) if form != word]


def bare(names: pa.Array) -> pa.Array:
    """Names as ``imgserver manifest`` takes them from files and addresses: without folder, suffix and query."""
    suffixes = "|".join(suffix[1:] for suffix in PHOTO_SUFFIXES)
    short = pc.replace_substring_regex(names, r"^(https?://[^?#]*)[?#].*$", r"\1")
    short = pc.replace_substring_regex(short, r"^.*/", "")
    return pc.replace_substring_regex(short, rf"(?i)\.({suffixes})$", "")


def meant(name: str, keys: pa.Array) -> str:
    """`` Did you mean 'cat'?`` behind a name that is no key; empty where no key is near it.

    Of many keys only those are looked at that begin or end as it does, for a slip of the pen is in one place.
    """
    if len(keys) > MOST_LOOKED_AT:
        ends, lower = pc.utf8_lower(keys), name.lower()
        alike = pc.or_(pc.starts_with(ends, lower[: len(lower) // 2]), pc.ends_with(ends, lower[len(lower) // 2 :]))
        keys = keys.filter(alike)[:MOST_LOOKED_AT]
    return did_you_mean(name, keys.to_pylist())
