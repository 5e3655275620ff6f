"""Names for free concepts: words and values that its photos have more often than others, tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, hypergeom

from crossmedia.concepts import Token
from crossmedia.imgserver.concepts.items import Items
from crossmedia.imgserver.concepts.linear import Floats, Places

TOP_SHARE = 0.01  # of the photos name a code: those that have the most of it
LEAST_LIFT = 2.0
FALSE_DISCOVERIES = 0.01
LEAST_NAMING = 0.5  # of these photos have a word that names a code: a rarer one is not what they have in common
SHOWN = 8  # words of a code


@dataclass(frozen=True)
class Words:
    """Words and values of photos, as they are counted.

    Attributes:
        names: of V words or values.
        there: which photos have them, shape (n, V).
    """

    names: tuple[str, ...]
    there: csr_array

    @classmethod
    def of(cls, items: Items, least: int, without: Sequence[int] = ()) -> Words:
        """Those that at least so many photos have, but for some traits, and selling points, of which there are few."""
        left_out = set(without)
        chosen = [
            place
            for place, (trait, rows) in enumerate(zip(items.traits, items.rows, strict=True))
            if trait.kind == "probe" and len(rows) >= least and place not in left_out
        ]
        rows = [items.rows[place] for place in chosen]
        columns = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        places = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        shape = (len(items.ids), len(rows))
        there = csr_array((np.ones(len(places), dtype=np.int64), (places, columns)), shape=shape)
        return cls(tuple(items.traits[place].name for place in chosen), there)


def naming_photos(code: Floats) -> Places:
    """The photos that have the most of a code, shape (k,), the first one most: one in a hundred, at least 9."""
    active = int((code > code.min()).sum())
    wanted = max(9, round(TOP_SHARE * len(code)))
    found: Places = np.argsort(-code, kind="stable")[: min(wanted, active)]
    return found


def names_of_photos(words: Words, photos: Places) -> tuple[Token, ...]:
    """Words that name a group of photos, the least likely by chance first.

    A word's share of the group against that of all others: Fisher's exact test, one-sided, and Benjamini and Hochberg's
    correction over all words that were looked at. Half of the group has a word, and twice as often as all photos.

    Args:
        words: of n photos.
        photos: the group, shape (k,).
    """
    n, k = words.there.shape[0], len(photos)
    if not k or not words.names:
        return ()
    everywhere = np.asarray(words.there.sum(axis=0)).ravel()
    here = np.asarray(words.there[photos].sum(axis=0)).ravel()
    chance = hypergeom.sf(here - 1, n, everywhere, k)
    rate = false_discovery_control(np.clip(chance, 1e-300, 1.0))
    lift = (here / k) / np.maximum(everywhere / n, 1e-12)
    good = (rate <= FALSE_DISCOVERIES) & (here >= LEAST_NAMING * k) & (lift >= LEAST_LIFT)
    order = sorted(np.flatnonzero(good).tolist(), key=lambda place: (chance[place], -lift[place], words.names[place]))
    return tuple(
        Token(words.names[place], int(here[place]), round(float(lift[place]), 2), float(rate[place]))
        for place in order[:SHOWN]
    )
