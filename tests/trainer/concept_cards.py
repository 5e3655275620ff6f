"""Cards of concepts for the tests, and vectors whose numbers are those concepts."""

from __future__ import annotations

from crossmedia.concepts import Concept, ConceptCard

HEAD = "concepts@0123456789ab"


def version_of(dim: int, backbone: str = "mock@000000000000") -> str:
    """Of vectors of so many concepts."""
    return f"{backbone}+{HEAD}/{dim}"


def card_of(dim: int, rest: int = 1) -> ConceptCard:
    """So many concepts, the last of them rest."""
    named = [Concept(f"quality {place}", "probe", "colour", str(place)) for place in range(dim - rest)]
    others = [Concept(f"rest {place + 1}", "rest") for place in range(rest)]
    return ConceptCard(HEAD, "mock@000000000000", 9, 9, (*named, *others))
