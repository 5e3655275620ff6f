"""Concepts of a photo: what each number of a vector means, whose head is one of ``imgserver concepts build``.

A **concept** is one number of a vector with a name that people understand. What is known of all of them is the **card**
of the head: a JSON file beside it, data and no part of the version, so that names can be edited. Nothing heavy is
imported: image server and trainer share it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.version import Version, name_of

CONCEPTS = "concepts"  # the name of a head whose numbers are concepts
CARD_FILE = "concepts.json"  # beside the head's file, where it was built
FORMAT = 1
KINDS_IN_WORDS = {
    "anchor": "measured in the pixels",
    "point": "a selling point of the shop",
    "probe": "a value or a word of the catalogue",
    "free": "what groups of photos have in common",
    "rest": "not named",
}
KINDS = tuple(KINDS_IN_WORDS)
MAX_CARD_BYTES = 4 << 20
MAX_NAME = 80  # characters
AGAIN = re.compile(r" \(\d+\)$")  # of the second concept that would be called so


@dataclass(frozen=True)
class Token:
    """A word that the photos of a concept have more often than others.

    Attributes:
        text: the word, or ``column=value``.
        photos: of the concept that have it.
        lift: their share, divided by that of all photos.
        q: the rate of false discoveries at which it is named (Benjamini and Hochberg, 1995).
        looks: the share of the photos of the concept that look like the word, more than half of its own photos do.
    """

    text: str
    photos: int
    lift: float
    q: float
    looks: float | None = None


@dataclass(frozen=True)
class Concept:
    """One number of a vector.

    Attributes:
        name: what people call it; may be edited, and is there once in a card.
        kind: one of ``KINDS``.
        source: the column of a ``probe``, that of the words among them; empty for other kinds.
        value: of that column, or the word; of an ``anchor`` its name in the feature, of a ``point`` that in the file.
        photos: that have the value, of those that the head was built on; of a free one, those that named it.
        auc: of a probe or a point: on photos left out.
        r2: of an anchor that a probe stands for, because the features do not hold it: on photos left out.
        stability: of a free one: the correlation at which other seeds found it too, the second best of three.
        clear: of a free one: the number that the middle one of the photos has that named it; a photo with as much of
            it clearly shows it.
        mean, deviation: the number before it was standardised is ``mean + deviation * number``: an anchor, or the
            logit of a probe, so that ``1 / (1 + exp(-logit))`` is the probability that a photo has the value. A free
            one is only scaled: its mean is 0, and 0 means that it is not there.
        most, least: image ids of the photos that have the most and the least of it, the extreme ones first.
        tokens: of a free one: the words that name its photos, the least likely by chance first.
    """

    name: str
    kind: str
    source: str = ""
    value: str = ""
    photos: int = 0
    auc: float | None = None
    r2: float | None = None
    stability: float | None = None
    clear: float | None = None
    mean: float = 0.0
    deviation: float = 1.0
    most: tuple[int, ...] = ()
    least: tuple[int, ...] = ()
    tokens: tuple[Token, ...] = ()

    @property
    def named(self) -> bool:
        """Whether its name means something to people who have not looked at its photos."""
        return self.kind != "rest" and not self.name.startswith("unnamed ")

    @property
    def given(self) -> bool:
        """Whether somebody gave it its name: such a name is data, and nothing has tested it."""
        tokens = (token.text for token in self.tokens[:1])
        built = (self.value, f"{self.source}={self.value}", f"{self.source}: {self.value}", *tokens)
        plain = AGAIN.sub("", self.name)
        room = MAX_NAME - len(self.name) + len(plain)  # beside the number of a second one
        return self.named and plain not in {
            one_line(name)[:room] for name in (*built, *(t.text for t in self.tokens[:1]))
        }

    @property
    def evidence(self) -> str:
        """How well it is founded, in a few words; empty of what is measured in the pixels."""
        said = []
        if self.auc is not None:
            said.append(f"AUC {self.auc:.2f} on photos left out")
        if self.r2 is not None:
            said.append(f"R² {self.r2:.2f} on photos left out")
        if self.stability is not None:
            said.append(f"found again by other seeds, correlation {self.stability:.2f}")
        if self.kind in ("point", "probe"):
            said.append(f"{self.photos:,} photos have it")
        if self.given:
            said.append("its name was given by hand, and nothing has tested it")
        words = ", ".join(f"{token.text} ({token.lift:.0f} times as often)" for token in self.tokens[:5])
        return "; ".join([*said, *([words] if words else [])])


@dataclass(frozen=True)
class Refused:
    """What was looked at and is no concept.

    Attributes:
        kind: what it would have been.
        name: what it would have been called.
        photos: that have it.
        why: in words.
        auc: on photos left out, where it was measured.
    """

    kind: str
    name: str
    photos: int
    why: str
    auc: float | None = None


@dataclass(frozen=True)
class ConceptCard:
    """What is known of a head of concepts.

    Attributes:
        head: ``concepts@<hash>``, whose vectors it describes.
        features: version of the backbone that the head takes.
        photos: that it was built on.
        groups: of them, such as products: photos of one group were never on both sides of a test.
        concepts: one for each number of a vector, in their order.
        refused: what is none, and why.
        rules: the limits that decided, by name.

    Example:
        >>> from crossmedia.concepts import Concept, ConceptCard
        >>> card = ConceptCard("concepts@0123456789ab", "net@0", 9, 9, (Concept("warmth", "anchor"),))
        >>> card.renamed("warmth", "warm colours").names
        ('warm colours',)
        >>> ConceptCard.from_bytes(card.to_bytes()) == card
        True
    """

    head: str
    features: str
    photos: int
    groups: int
    concepts: tuple[Concept, ...]
    refused: tuple[Refused, ...] = ()
    rules: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if twice := [name for name, times in Counter(self.names).items() if times > 1]:
            raise BadInput(f"Two concepts are called {twice[0]!r}; each has a name of its own.")
        for concept in self.concepts:
            _check_name(concept.name)
            if concept.kind not in KINDS:
                raise BadInput(f"A concept has no kind {concept.kind!r}; there are: {', '.join(KINDS)}.")

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def names(self) -> tuple[str, ...]:
        """What the numbers of a vector are called, in their order."""
        return tuple(concept.name for concept in self.concepts)

    def place(self, name: str) -> int:
        """Where a concept stands in a vector.

        Raises:
            BadInput: none is called so.
        """
        if name not in self.names:
            raise BadInput(f"There is no concept {name!r}.{did_you_mean(name, self.names)}")
        return self.names.index(name)

    def of_kind(self, *kinds: str) -> list[int]:
        """Places of the concepts of some kinds."""
        return [place for place, concept in enumerate(self.concepts) if concept.kind in kinds]

    def renamed(self, name: str, new: str) -> ConceptCard:
        """The card with another name for one concept; the version stays, for it is that of the numbers.

        Raises:
            BadInput: there is no such concept, or another one is called so, or it is no name.
        """
        place = self.place(name)
        changed = replace(self.concepts[place], name=new.strip())
        return replace(self, concepts=(*self.concepts[:place], changed, *self.concepts[place + 1 :]))

    def to_bytes(self) -> bytes:
        """As JSON, for people too; None and what is empty is left out."""
        told = {"format": FORMAT, **asdict(self)}
        told["concepts"] = [_short(concept) for concept in told["concepts"]]
        told["refused"] = [_short(refused) for refused in told["refused"]]
        told["rules"] = dict(self.rules)
        return (json.dumps(told, ensure_ascii=False, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ConceptCard:
        """Read what ``to_bytes`` wrote, or what somebody edited.

        Raises:
            BadInput: it is no such card.
        """
        try:
            if len(data) > MAX_CARD_BYTES:
                raise ValueError(f"it has {len(data)} bytes; the limit is {MAX_CARD_BYTES}")
            told: Any = json.loads(data)
            if (found := told.pop("format")) != FORMAT:
                raise ValueError(f"its format is {found}, and this release reads {FORMAT}")
            concepts = tuple(_concept(one) for one in told.pop("concepts"))
            refused = tuple(Refused(**one) for one in told.pop("refused"))
            rules = tuple((str(name), float(limit)) for name, limit in told.pop("rules").items())
            return cls(**told, concepts=concepts, refused=refused, rules=rules)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, BadInput) as error:
            raise BadInput(f"This is no card of concepts that 'imgserver concepts build' wrote: {error}.") from error


def one_line(name: str) -> str:
    """A name as concepts have them: in one line, and not longer than names are."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())[:MAX_NAME].strip() or "?"


def has_concepts(version: str) -> bool:
    """Whether the numbers of a version are concepts, by its name."""
    return name_of(Version.parse(version).head) == CONCEPTS


def _concept(told: Any) -> Concept:
    concept = Concept(**{**told, "tokens": tuple(Token(**token) for token in told.get("tokens", ()))})
    return replace(concept, most=_ids(concept.most), least=_ids(concept.least))


def _ids(told: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(image_id) for image_id in told)


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value not in ("", (), [])}


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise BadInput(f"A concept cannot be called {name!r}; a name has 1 to {MAX_NAME} letters, all in one line.")
