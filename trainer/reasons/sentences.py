"""One sentence to a shopper: one concept that speaks for the item, and the behaviours that have it, too."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from crossmedia.concepts import Concept
from crossmedia.trainer.layers.additive import BIAS, MATCH, PREFERENCE, SELLS, TASTE
from crossmedia.trainer.reasons.contributions import Contributions
from crossmedia.trainer.reasons.never_said import is_sayable
from crossmedia.trainer.reasons.wording import phrase, shows

LEAST_SHARE = 0.1  # of what speaks for the item, below which a reason is none
STABLE = 0.7  # correlation at which other seeds must have found a free concept
ALIKE = 0.5  # of the largest contribution, from which on a behaviour is named with it
_UP_TO_TWELVE = "one two three four five six seven eight nine ten eleven twelve"
NUMBERS = ("", *(f"the {number}" for number in _UP_TO_TWELVE.split()))
DONE = {
    **dict.fromkeys(("click", "clicked", "view", "viewed"), "looked at"),
    **dict.fromkeys(("fav", "favourite", "like", "liked"), "liked"),
    **dict.fromkeys(("cart", "carted"), "put into the cart"),
    **dict.fromkeys(("buy", "bought", "purchase", "purchased", "order", "ordered"), "bought"),
}
DAY_S, WEEK = 86_400, 6  # after which a day of the week is no day any more


@dataclass(frozen=True)
class Done:
    """What a user did.

    Attributes:
        action: as the log calls it; empty: it is not known.
        time_s: seconds, UTC; None: it is not known.
    """

    action: str = ""
    time_s: float | None = None


def sentence(
    found: Contributions, row: int, done: Sequence[Done] = (), now_s: float = 0.0, never: Collection[str] = ()
) -> str:
    """Why an item is shown, from the largest term that may be said; empty: there is none.

    What may be said is a concept that the photo shows (``wording.shows``) and has more of than most, that speaks for
    the item with at least a tenth of all that does, that has a name, that is no accident of one seed, and that is not
    on the list of what is never said. Of users' columns only the user itself is spoken of.

    Args:
        found: contributions.
        row: which row.
        done: the behaviours that the model saw of it, oldest first.
        now_s: seconds, the time of the impression.
        never: more words that are not said.
    """
    values = found.values[row]
    positive = float(sum(v for v, term in zip(values, found.terms, strict=True) if v > 0 and term.kind != BIAS))
    for place in np.argsort(-values, kind="stable").tolist():
        if values[place] <= 0 or values[place] < LEAST_SHARE * positive:
            return ""
        concept, term = found.concepts[place], found.terms[place]
        if concept is None or not _may_be_said(concept, never) or not (called := phrase(concept)):
            continue
        if not shows(concept, float(found.amounts[row, place])):
            continue
        if term.kind == PREFERENCE:
            return _begun(f"{called}, as you asked")
        if term.kind == SELLS:
            return f"Popular here: {called}."
        if term.kind == TASTE and term.column == "user_id":
            return _begun(f"{called}, which you like")
        if term.kind == MATCH and (like := _like(found, row, place, done, now_s)):
            return _begun(f"{called}, like {like}")
    return ""


def _may_be_said(concept: Concept, never: Collection[str]) -> bool:
    stable = concept.kind != "free" or (concept.stability or 0) >= STABLE
    return concept.named and stable and is_sayable(concept, never)


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _like(found: Contributions, row: int, place: int, done: Sequence[Done], now_s: float) -> str:
    """The behaviours that a match comes from, such as 'the two you bought on Tuesday'."""
    (column,) = np.nonzero(found.of_behaviours == place)
    first, last = np.searchsorted(found.segments, [row, row + 1])
    concept, seen = found.concepts[place], found.seen[first:last, column[0]]
    assert concept is not None
    added = np.where([shows(concept, amount) for amount in seen.tolist()], found.by_behaviour[first:last, column[0]], 0)
    most = added.max(initial=0)
    if most <= 0:
        return ""
    named = np.flatnonzero(added >= ALIKE * most).tolist()
    those = [done[n] for n in named] if len(done) == len(added) else []
    actions = {one.action for one in those}
    verb = DONE.get(actions.pop().casefold(), "chose") if len(actions) == 1 else "chose"
    number = NUMBERS[len(named)] if len(named) < len(NUMBERS) else f"the {len(named)}"
    return f"{number} you {verb}{_when(those, now_s)}"


def _when(those: Sequence[Done], now_s: float) -> str:
    """'on Tuesday', 'today', or nothing where they were on several days or long ago."""
    if not those or any(one.time_s is None for one in those):
        return ""
    days = {int((one.time_s or 0) // DAY_S) for one in those}
    back = int(now_s // DAY_S) - min(days)
    if len(days) > 1 or not 0 <= back <= WEEK:
        return ""
    if back < 2:
        return (" today", " yesterday")[back]
    return f" on {datetime.fromtimestamp(min(days) * DAY_S, UTC):%A}"
