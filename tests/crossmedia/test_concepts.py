"""Cards of concepts: what the numbers of a vector mean, as data that people edit."""

from __future__ import annotations

import json

import pytest

from crossmedia.concepts import Concept, ConceptCard, Refused, Token, has_concepts
from crossmedia.errors import BadInput

CARD = ConceptCard(
    "concepts@0123456789ab",
    "net@000000000001#photometry",
    243,
    200,
    (
        Concept("warmth", "anchor", value="warmth", mean=0.3, deviation=0.1, most=(3, 1), least=(2,)),
        Concept("colour=black", "probe", "colour", "black", 50, auc=0.97),
        Concept("unnamed 4", "free", photos=12, stability=0.8, tokens=(Token("lace", 9, 12.5, 0.001),)),
        Concept("rest 1", "rest"),
    ),
    (Refused("probe", "shop=7", 30, "AUC .52 on photos left out, .85 is asked for", 0.52),),
    (("least_auc", 0.85),),
)


def test_a_card_is_read_as_it_was_written() -> None:
    assert ConceptCard.from_bytes(CARD.to_bytes()) == CARD
    assert len(CARD) == 4
    assert CARD.of_kind("anchor", "free") == [0, 2]
    assert [concept.named for concept in CARD.concepts] == [True, True, False, False]


def test_names_are_edited_and_stay_different() -> None:
    renamed = CARD.renamed("unnamed 4", " lace ")
    assert renamed.names == ("warmth", "colour=black", "lace", "rest 1")
    assert renamed.concepts[2].named
    assert renamed.place("lace") == 2
    with pytest.raises(BadInput, match=r"no concept 'warmt'.* 'warmth'"):
        CARD.renamed("warmt", "x")
    with pytest.raises(BadInput, match="Two concepts are called 'warmth'"):
        CARD.renamed("rest 1", "warmth")
    for name in ("", " ", "a\nb", "x" * 81):
        with pytest.raises(BadInput, match="cannot be called"):
            CARD.renamed("rest 1", name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "its format is 2"),
        ({"concepts": [{"name": "a", "kind": "topic"}]}, "no kind 'topic'"),
        ({"concepts": [{"name": "a", "kind": "free"}, {"name": "a", "kind": "rest"}]}, "Two concepts are called 'a'"),
        ({"concepts": [{"name": "a", "kind": "free", "size": 1}]}, "size"),
        ({"concepts": [{"name": 3, "kind": "free"}]}, "cannot be called 3"),
        ({"concepts": [{"name": "a", "kind": "free", "most": ["x"]}]}, "invalid literal"),
        ({"rules": {"least_auc": "much"}}, "could not convert"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_card_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ConceptCard.from_bytes(json.dumps(json.loads(CARD.to_bytes()) | change).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_card(data: bytes) -> None:
    with pytest.raises(BadInput, match="no card of concepts"):
        ConceptCard.from_bytes(data)


def test_a_version_says_whether_its_numbers_are_concepts() -> None:
    assert has_concepts("net@000000000001#photometry+concepts@0123456789ab/64")
    assert has_concepts("net@000000000001+concepts@0123456789ab#pq@000000000002/64")
    assert not has_concepts("net@000000000001+pca@0123456789ab/64")
    assert not has_concepts("net@000000000001")
