"""What each term adds to the logit of each row, with names that people understand.

Legend: B rows, N behaviours of the batch, T terms, S terms that are of behaviours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from crossmedia.concepts import Concept, ConceptCard
from crossmedia.errors import BadInput
from crossmedia.trainer.layers.additive import BIAS, MATCH, MISSING, PREFERENCE, SAME, TASTE, ConceptTerms, Term
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.models.concepts import Concepts
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contributions:
    """What adds up to the logits of some rows.

    Attributes:
        names: T names, such as ``warmth``, ``warmth x user_id``, ``warmth x behaviours``, ``shop_id``.
        terms: what each of them is of.
        concepts: what is known of the concept of each term; None where it is of none.
        values: shape (B, T): ``values.sum(1)`` are the logits.
        amounts: shape (B, T), how much of its concept the ad's photo has, in standard deviations; nan where there is
            no concept.
        by_behaviour: shape (N, S), what each behaviour adds to the terms that are of behaviours.
        seen: shape (N, S), as ``amounts``, of the behaviours' photos.
        of_behaviours: shape (S,), which of the T terms these are.
        segments: shape (N,), the row of each behaviour, ascending.
        length_power: p of the model: each of n behaviours counts 1 / n^p.
    """

    names: tuple[str, ...]
    terms: tuple[Term, ...]
    concepts: tuple[Concept | None, ...]
    values: Floats
    amounts: Floats
    by_behaviour: Floats
    seen: Floats
    of_behaviours: Places
    segments: Places
    length_power: float

    @property
    def logits(self) -> Floats:
        """Shape (B,)."""
        found: Floats = self.values.sum(axis=1)
        return found

    def behaviours(self, row: int) -> Floats:
        """What each behaviour of a row adds to the terms of behaviours, shape (n, S), oldest first."""
        first, last = np.searchsorted(self.segments, [row, row + 1])
        return self.by_behaviour[first:last]

    def strongest(self, row: int, count: int) -> list[int]:
        """Terms of a row that count most, whichever way, but for the bias, which is every row's."""
        size = np.where([term.kind == BIAS for term in self.terms], 0, np.abs(self.values[row]))
        return [place for place in np.argsort(-size, kind="stable")[:count].tolist() if size[place] > 0]

    @cached_property
    def behaviour(self) -> Places:
        """Shape (B, T): which behaviour of its row, the oldest being 0, a term comes from most; -1: from none."""
        found = np.full(self.values.shape, -1, dtype=np.int64)
        if not len(self.segments) or not len(self.of_behaviours):
            return found
        rows, starts, lengths = np.unique(self.segments, return_index=True, return_counts=True)
        signed = self.by_behaviour * np.sign(self.values[:, self.of_behaviours])[self.segments]
        most = np.maximum.reduceat(signed, starts, axis=0)
        number = np.arange(len(self.segments)) - np.repeat(starts, lengths)
        is_most = (signed == np.repeat(most, lengths, axis=0)) & (signed > 0)
        first = np.minimum.reduceat(np.where(is_most, number[:, None], len(number)), starts, axis=0)
        found[rows[:, None], self.of_behaviours] = np.where(first < len(number), first, -1)
        return found


def contributions(
    model: Model, batch: TensorBatch, vectors: SpaceVectors, cards: Mapping[str, ConceptCard], label: int = 0
) -> Contributions:
    """What each term adds to the logits of a batch.

    Args:
        model: ``concepts``, or the light net of Rocket that is one, in evaluation mode.
        batch: rows.
        vectors: of their items.
        cards: what the numbers of vectors mean, by space.
        label: which of the model's labels.

    Raises:
        BadInput: the model is no sum of terms, or the names of a space are missing.
    """
    model = additive(model)
    with torch.inference_mode():
        values = model.contributions(batch, vectors)[:, :, label]
        by_behaviour, of_behaviours = model.by_behaviour(batch, vectors)
        terms = model.terms()
        values[:, 0] += model.sampling_log_odds  # the bias is the first term
        amounts = {name: _amounts(layer, batch, vectors) for name, layer in model.of_spaces.items()}
        target, history = batch.target.cpu().numpy(), batch.history.cpu().numpy()
    place = {term: number for number, term in enumerate(terms)}
    concepts = tuple(_concept(term, cards) for term in terms)
    return Contributions(
        tuple(_name(term, concept, len(model.spec.spaces)) for term, concept in zip(terms, concepts, strict=True)),
        tuple(terms),
        concepts,
        values.cpu().numpy(),
        _columns(terms, amounts, target),
        by_behaviour[:, :, label].cpu().numpy(),
        _columns(of_behaviours, amounts, history),
        np.array([place[term] for term in of_behaviours], dtype=np.int64),
        batch.segments.cpu().numpy(),
        model.weights.power if model.weights is not None else 0.0,
    )


def is_additive(model: Model) -> bool:
    """Whether a model, or what is served of it, is a sum of terms."""
    return isinstance(model.served(), Concepts)


def additive(model: Model) -> Concepts:
    """The sum of terms that a model is, or serves.

    Raises:
        BadInput: it is none.
    """
    found = model.served()
    if not isinstance(found, Concepts):
        raise BadInput(
            "The model is no sum of terms, so that it has no exact reasons. Those of 'concepts' has, and of 'rocket' "
            "with --set light=concepts; 'trainer explain' approximates the others' by integrated gradients."
        )
    return found


def _amounts(layer: torch.nn.Module, batch: TensorBatch, vectors: SpaceVectors) -> Floats:
    """How much each item has of each concept of a space, shape (U, K)."""
    assert isinstance(layer, ConceptTerms)
    of_items, _ = layer.concepts(batch, vectors[layer.space])
    found: Floats = (of_items / layer.scale).cpu().numpy()
    return found


def _columns(terms: Sequence[Term], amounts: Mapping[str, Floats], items: Places) -> Floats:
    """How much some items have of the concept of each term, shape (n, terms); nan where a term is of none."""
    found = np.full((len(items), len(terms)), np.nan, dtype=np.float32)
    for number, term in enumerate(terms):
        if term.place >= 0:
            found[:, number] = amounts[term.space][items, term.place]
    return found


def _concept(term: Term, cards: Mapping[str, ConceptCard]) -> Concept | None:
    if term.place < 0:
        return None
    if term.space not in cards or term.place >= len(cards[term.space]):
        raise BadInput(
            f"What the numbers of the space {term.space!r} mean is not known: the run's concepts.json lacks it. Copy "
            f"the folder of the run again, with that file."
        )
    return cards[term.space].concepts[term.place]


def _name(term: Term, concept: Concept | None, spaces: int) -> str:
    """A name that no other term of the model has."""
    name = concept.name if concept is not None else term.column or term.kind
    if term.kind == MISSING:
        return f"no vector of {term.space}"
    if term.kind in (MATCH, SAME):
        name = f"{name} x behaviours"
    elif term.kind == TASTE:
        name = f"{name} x {term.column}"
    return f"{term.space}: {name}" if term.space and spaces > 1 else name


def with_preferences(found: Contributions, wanted: Mapping[str, Floats], concepts: Sequence[Concept]) -> Contributions:
    """Contributions with what the user asked for beside them.

    Args:
        found: what the model says.
        wanted: what each preference adds, shape (B,), by the name of its concept.
        concepts: of each of ``wanted``.
    """
    if not wanted:
        return found
    added = np.stack(list(wanted.values()), axis=1)
    amounts = found.amounts[:, [found.concepts.index(concept) for concept in concepts]]
    return Contributions(
        (*found.names, *(f"{name} as you asked" for name in wanted)),
        (*found.terms, *(Term(PREFERENCE) for _ in wanted)),
        (*found.concepts, *concepts),
        np.concatenate([found.values, added], axis=1),
        np.concatenate([found.amounts, amounts], axis=1),
        found.by_behaviour,
        found.seen,
        found.of_behaviours,
        found.segments,
        found.length_power,
    )


__all__ = ["Contributions", "additive", "contributions", "is_additive", "with_preferences"]
