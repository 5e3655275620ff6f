"""What no sentence to a shopper speaks of, whatever a model has learned: what people are, and what hurts.

A concept whose name, column or value has one of these words is never a reason that is shown. It still counts in the
logit, and a merchant sees it. The list is a beginning: ``Scorer.score(…)`` takes more words.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from crossmedia.concepts import Concept

_WORDS = """
    age aged baby child children elderly kid kids old older senior seniors teen teens young youth
    body bodies big curvy fat fit heavy height large maternity oversize oversized petite plus pregnancy pregnant short
    size sizes skinny slim slimming small tall thin waist weight wide xl xs xxl
    ethnic ethnicity african american arab asian black-owned caucasian european hispanic indian jewish latin latino
    nationality origin race skin tan tone
    faith religion religious burkini christian cross halal hijab islamic kosher modest muslim
    female gay gender lesbian male man men men's queer sex sexual sexuality sexy transgender unisex woman women women's
    diabetic disability disabled disease health illness incontinence medical medicine mental therapy
    addiction alcohol death debt divorce funeral gambling income money party politics poor rich salary union wealth
    intimate lingerie underwear nude
"""
NEVER_SAID = frozenset(_WORDS.split())


def is_sayable(concept: Concept, also: Collection[str] = ()) -> bool:
    """Whether a concept may be named to a shopper.

    Args:
        concept: of a reason.
        also: more words that are never said, in any case.

    Example:
        >>> from crossmedia.concepts import Concept
        >>> from crossmedia.trainer.reasons.never_said import is_sayable
        >>> is_sayable(Concept("warm colours", "anchor")), is_sayable(Concept("Plus-size dress", "probe"))
        (True, False)
    """
    never = NEVER_SAID | {word.casefold() for word in also}
    text = " ".join([concept.name, concept.source, concept.value]).casefold()
    words = {*re.findall(r"[\w'-]+", text), *re.findall(r"[^\W_]+", text)}
    return not words & never
