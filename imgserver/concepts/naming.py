"""Names for free concepts: words and values that its photos have more often than others, and look like.

Legend: n photos, V words or values, M codes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, hypergeom

from crossmedia.concepts import Token
from crossmedia.imgserver.concepts.items import Items
from crossmedia.imgserver.concepts.linear import Flags, Floats, Places, fit_probes, folds_of

TOP_SHARE, MOST_FLOOR = 0.01, 20  # of the photos name a code: those that have the most of it; and so many of them
LEAST_LIFT = 2.0
FALSE_DISCOVERIES = 0.01
LEAST_LOOKS = 0.6  # of these photos look more like the word than half of its own photos do
SHOWN = 8  # words of a code


@dataclass(frozen=True)
class Words:
    """Words and values of photos, as they are counted.

    Attributes:
        names: of V words or values.
        rows: of each the places of the photos that have it.
        groups: of the n photos, numbered from 0.
        there: which groups have a photo that has it, shape (groups, V).
    """

    names: tuple[str, ...]
    rows: tuple[Places, ...]
    groups: Places
    there: csr_array

    @classmethod
    def of(cls, items: Items, least: int, without: Collection[int] = ()) -> Words:
        """Those that at least so many photos have, but for some traits, and selling points, of which there are few."""
        left_out = set(without)
        chosen = [
            place
            for place, (trait, rows) in enumerate(zip(items.traits, items.rows, strict=True))
            if trait.kind == "probe" and len(rows) >= least and place not in left_out
        ]
        groups = np.unique(items.groups, return_inverse=True)[1]
        having = [np.unique(groups[items.rows[place]]) for place in chosen]
        columns = np.repeat(np.arange(len(having)), [len(some) for some in having])
        places = np.concatenate(having) if having else np.zeros(0, np.int64)
        shape = (int(groups.max(initial=-1)) + 1, len(having))
        there = csr_array((np.ones(len(places), dtype=np.int64), (places, columns)), shape=shape)
        names = tuple(items.traits[place].name for place in chosen)
        return cls(names, tuple(items.rows[place] for place in chosen), groups, there)


def naming_photos(code: Floats, least: int = MOST_FLOOR) -> Places:
    """The photos that have the most of a code, shape (k,), the first one most: one in a hundred, and a few at least.

    Args:
        code: shape (n,).
        least: photos of a value, as ``building.least_photos`` asks for; the floor is 20, and this of a small catalogue.
    """
    active = int((code > code.min()).sum())
    wanted = max(min(MOST_FLOOR, least), round(TOP_SHARE * len(code)))
    found: Places = np.argsort(-code, kind="stable")[: min(wanted, active)]
    return found


def frequent_words(words: Words, photos: Places) -> list[tuple[int, Token]]:
    """Words that a group of photos has more often than others, the least likely by chance first, and their places.

    A word's share of the products that the photos are of against that of all others: Fisher's exact test, one-sided,
    and Benjamini and Hochberg's correction over all words that were looked at. Products are counted and not photos, for
    the photos of a product share their text.

    Args:
        words: of n photos.
        photos: places of some of them, shape (k,).
    """
    groups = np.unique(words.groups[photos])
    n, k = words.there.shape[0], len(groups)
    if not k or not words.names:
        return []
    everywhere = np.asarray(words.there.sum(axis=0)).ravel()
    here = np.asarray(words.there[groups].sum(axis=0)).ravel()
    chance = hypergeom.sf(here - 1, n, everywhere, k)
    rate = false_discovery_control(np.clip(chance, 1e-300, 1.0))
    lift = (here / k) / np.maximum(everywhere / n, 1e-12)
    good = np.flatnonzero((rate <= FALSE_DISCOVERIES) & (lift >= LEAST_LIFT)).tolist()
    order = sorted(good, key=lambda place: (chance[place], -lift[place], words.names[place]))
    photos_with = [int(np.isin(photos, words.rows[place]).sum()) for place in order]
    return [
        (place, Token(words.names[place], count, round(float(lift[place]), 2), float(rate[place])))
        for place, count in zip(order, photos_with, strict=True)
    ]


def looks_like(scaled: Floats, words: Words, places: Collection[int]) -> dict[int, Flags]:
    """Which photos look like words, shape (n,) for each: by a probe that did not see them, nor their group.

    A photo looks like a word if the probe gives it more than it gives half of the photos that have the word.

    Args:
        scaled: features, shape (n, F).
        words: of the n photos.
        places: of the words that are asked for.
    """
    if not places:
        return {}
    ordered = sorted(places)
    flags = np.zeros((len(scaled), len(ordered)), dtype=np.float32)
    for column, place in enumerate(ordered):
        flags[words.rows[place], column] = 1
    found = fit_probes(scaled, flags, folds_of(words.groups)).left_out
    middle = [np.median(found[words.rows[place], column]) for column, place in enumerate(ordered)]
    return {place: found[:, column] >= middle[column] for column, place in enumerate(ordered)}


def names_of_codes(codes: Floats, scaled: Floats, words: Words, least: int = MOST_FLOOR) -> list[tuple[Token, ...]]:
    """Words that name each code: its photos have them more often than chance allows, and look like them.

    Texts leave out much of what photos show: of dresses with a pattern few are said to be patterned. So that a name is
    right for most of the photos is asked of their looks, and not of their texts.

    Args:
        codes: shape (n, M).
        scaled: features, shape (n, F).
        words: of the n photos.
        least: as for ``naming_photos``.

    Returns:
        of each code at most 8 words, the least likely by chance first; a word is the first of one code only.
    """
    photos: list[npt.NDArray[np.int64]] = [naming_photos(code, least) for code in codes.T]
    frequent = [frequent_words(words, some) for some in photos]
    looks = looks_like(scaled, words, {place for some in frequent for place, _ in some})
    found, used = list[tuple[Token, ...]](), set[str]()
    for some, tokens in zip(photos, frequent, strict=True):
        shares = [(float(looks[place][some].mean()), token) for place, token in tokens]
        good = [replace(token, looks=round(share, 2)) for share, token in shares if share >= LEAST_LOOKS]
        new = [token for token in good if token.text not in used]
        used |= {token.text for token in new[:1]}
        found.append(tuple([*new[:1], *(token for token in good if token not in new[:1])][:SHOWN]) if new else ())
    return found
