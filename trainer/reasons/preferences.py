"""What a user asks for, more of a concept or less, as a bounded amount that the logit changes by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from crossmedia.concepts import Concept, ConceptCard
from crossmedia.errors import BadInput, did_you_mean
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch

MOST = 3.0  # standard deviations of a concept that count
WANTED, UNWANTED = "wanted", "unwanted"
Floats = npt.NDArray[np.float32]


def check_preferences(preferences: Mapping[str, float], cards: Mapping[str, ConceptCard]) -> list[tuple[str, int]]:
    """The space and the place of each concept that a user spoke of.

    Raises:
        BadInput: there is no such concept, several spaces have it, or a weight is not from -1 to 1.
    """
    found = []
    for name, weight in preferences.items():
        if not isinstance(weight, int | float) or not -1 <= weight <= 1:
            raise BadInput(f"The preference {name!r} is {weight!r}: a number from -1, less of it, to 1, more of it.")
        having = [space for space, card in cards.items() if name in card.names]
        if not having:
            every = [known for card in cards.values() for known in card.names]
            raise BadInput(
                f"There is no concept {name!r} to prefer{'' if cards else ': the vectors are no concepts'}."
                f"{did_you_mean(name, every)}"
            )
        if len(having) > 1:
            raise BadInput(f"The spaces {' and '.join(having)} both have a concept {name!r}: rename one of them.")
        found.append((having[0], cards[having[0]].place(name)))
    return found


def amount(weight: float, concept: Floats) -> Floats:
    """What a preference adds to the logits: the weight times how much there is of the concept, from 0 to ``MOST``.

    An item that has less of it than most is left as it is, so that "less of this" makes nothing come forward.

    Args:
        weight: from -1 to 1.
        concept: shape (B,), of the ads.

    Example:
        >>> import numpy as np
        >>> from crossmedia.trainer.reasons.preferences import amount
        >>> amount(-1.0, np.array([-2.0, 0.5, 9.0])).tolist()
        [0.0, -0.5, -3.0]
    """
    found: Floats = np.float32(weight) * np.clip(concept, 0, MOST).astype(np.float32) + np.float32(0)
    return found


def effects(
    preferences: Mapping[str, float], cards: Mapping[str, ConceptCard], batch: TensorBatch, vectors: SpaceVectors
) -> dict[str, Floats]:
    """What each preference adds to the logits of a batch, shape (B,).

    Raises:
        BadInput: as ``check_preferences``.
    """
    found, items = {}, batch.items
    places = check_preferences(preferences, cards)
    for (name, weight), (space, place) in zip(preferences.items(), places, strict=True):
        of_items, _ = mean_vectors(vectors[space], items.vectors[space], items.count)
        found[name] = amount(weight, of_items[batch.target, place].numpy())
    return found


def shifted(probabilities: Floats, logits: Floats) -> Floats:
    """Probabilities, shape (B, L), whose logits are changed by so much, shape (B,)."""
    odds = np.exp(logits.astype(np.float64))[:, None]
    found: Floats = (probabilities * odds / (1 - probabilities + probabilities * odds)).astype(np.float32)
    return found


def as_columns(preferences: Mapping[str, float]) -> dict[str, list[str]]:
    """What to write into the log beside the impression: two list columns of it, which the next samples can have.

    Example:
        >>> from crossmedia.trainer.reasons.preferences import as_columns
        >>> as_columns({"warmth": -1, "greenness": 0.5})
        {'wanted': ['greenness'], 'unwanted': ['warmth']}
    """
    return {
        WANTED: [name for name, weight in preferences.items() if weight > 0],
        UNWANTED: [name for name, weight in preferences.items() if weight < 0],
    }


def of_concepts(preferences: Mapping[str, float], cards: Mapping[str, ConceptCard]) -> list[Concept]:
    """What is known of each concept that a user spoke of."""
    return [cards[space].concepts[place] for space, place in check_preferences(preferences, cards)]
