"""What no sentence to a shopper speaks of, whatever a model has learned: what people are, and what hurts.

A concept whose name, column or value has one of these words is never a reason that is shown. It still counts in the
logit, and a merchant sees it. The list is a beginning, of English words: ``Scorer.score(…)`` takes more.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from crossmedia.concepts import Concept

_WORDS = """
    age aged baby babies boy boys child children elderly girl girls infant infants kid kids old older senior seniors
    teen teens toddler toddlers young youth
    body bodies big curvy fat fit heavy height large maternity oversize oversized petite plus pregnancy pregnant short
    size sizes skinny slim slimming small tall thin waist weight wide xl xs xxl
    ethnic ethnicity african american arab asian black-owned caucasian european hispanic indian jewish latin latino
    nationality origin race skin tan tone
    faith religion religious burkini christian cross halal hijab islamic kosher modest muslim
    female gay gender ladies ladies' lady lesbian male man men men's mens queer sex sexual sexuality sexy transgender
    unisex woman women women's womens
    diabetic disability disabled disease health illness incontinence medical medicine mental therapy
    addiction alcohol death debt divorce funeral gambling income money party politics poor rich salary union wealth
    intimate lingerie underwear nude
"""
NEVER_SAID = frozenset(_WORDS.split())
# What makes one word of two that are on the list or not: womenswear, plussized, bodyfit.
_PARTS = "care|fit|free|friendly|like|line|shape|shaped|size|sized|style|swear|wear"
_COMPOUND = re.compile(rf"^(?:over|under|full|half|mid)?(.{{3,}}?)(?:{_PARTS})s?$")
_PART, _WHOLE = re.compile(r"[^\W_]+"), re.compile(r"[^\W_]+(?:['-][^\W_]+)+")
_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")


def is_sayable(concept: Concept, also: Collection[str] = ()) -> bool:
    """Whether a concept may be named to a shopper.

    Letters in capitals or full width are the same letters, and words that are joined by hyphens, by underscores, by
    capitals (PlusSize) or to a compound (womenswear) are words.

    Args:
        concept: of a reason.
        also: more words, or several words in a row, that are never said.

    Example:
        >>> from crossmedia.concepts import Concept
        >>> from crossmedia.trainer.reasons.never_said import is_sayable
        >>> is_sayable(Concept("warm colours", "anchor")), is_sayable(Concept("Plus-size dress", "probe"))
        (True, False)
    """
    text = _plain(" ".join([concept.name, concept.source, concept.value]))
    parts = _PART.findall(text)
    in_a_row = f" {' '.join(parts)} "
    if any(f" {' '.join(_PART.findall(_plain(words)))} " in in_a_row for words in also):
        return False
    stems = {found[1] for part in parts if (found := _COMPOUND.match(part))}
    return NEVER_SAID.isdisjoint([*parts, *stems, *_WHOLE.findall(text)])


def _plain(text: str) -> str:
    """The text in small letters, with spaces where a capital begins a word."""
    wide = unicodedata.normalize("NFKC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return _CAMEL.sub(" ", wide).casefold()
