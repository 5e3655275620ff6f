"""What a row's logit would be if the ad's photo had more of a concept, and all else of the row were as it is.

The sum of terms is computed anew for each change, so that the answer is the model's own, whatever a term's shape is.

Legend: B rows, T terms, K vectors of a space, D numbers of a vector, C concepts of all spaces together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from crossmedia.trainer.layers.additive import MATCH, SELLS, TASTE, Term
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.models.concepts import Concepts
from crossmedia.trainer.tensors import Bag, ImageVectors, SpaceVectors, TensorBatch

OF_CONCEPTS = (SELLS, TASTE, MATCH)  # kinds of terms that a concept of the ad has, in the order of ``Effects``
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Effects:
    """What concepts of the ads add to the logits of some rows, and what one standard deviation more would.

    Attributes:
        contributions: shape (B, T), of every term of the model, and with the correction for sampled negatives.
        there: shape (B, C), whether the ad has a vector in the concept's space.
        amounts: shape (B, C), how much the ad has of each concept, in standard deviations; 0 without a vector.
        seen: shape (B, C), the mean of what the behaviours' items have of each; nan without any behaviour.
        values: shape (B, C), what each concept adds, by all of its terms.
        more: shape (B, 3, C), what one standard deviation more adds: what sells, to whom, and matches.
    """

    contributions: Floats
    there: npt.NDArray[np.bool_]
    amounts: Floats
    seen: Floats
    values: Floats
    more: Floats

    @property
    def slopes(self) -> Floats:
        """Shape (B, C): what one standard deviation more adds, by all terms of the concept."""
        found: Floats = self.more.sum(axis=1)
        return found


def with_vectors(
    batch: TensorBatch, vectors: SpaceVectors, space: str, values: Tensor
) -> tuple[TensorBatch, dict[str, ImageVectors]]:
    """The rows with an ad of its own each, which has another vector in a space; what behaviours' items have stays.

    Args:
        batch: rows.
        vectors: of their items.
        space: in which ads change.
        values: shape (B, D), the vector of each row's ad.

    Returns:
        the rows and the vectors of their items, for a model that takes these.
    """
    items, target, count = batch.items, batch.target, batch.items.count
    own = torch.arange(batch.rows, device=target.device)

    def longer(values: Tensor) -> Tensor:
        return torch.cat([values, values.index_select(0, target)])

    def more(lists: Bag) -> Bag:
        ads = lists.of(target, count)
        return Bag(torch.cat([lists.values, ads.values]), torch.cat([lists.owners, ads.owners + count]))

    of_spaces = {name: more(lists) for name, lists in items.vectors.items() if name != space}
    changed, known = items.vectors[space], vectors[space]
    of_spaces[space] = Bag(
        torch.cat([changed.values, own + len(known.values)]), torch.cat([changed.owners, own + count])
    )
    grown = replace(
        items,
        ids={name: longer(values) for name, values in items.ids.items()},
        numbers={name: longer(values) for name, values in items.numbers.items()},
        lists={name: more(lists) for name, lists in items.lists.items()},
        vectors=of_spaces,
    )
    ok = torch.ones(batch.rows, dtype=known.ok.dtype, device=known.ok.device)
    found = ImageVectors(torch.cat([known.values, values.to(known.values)]), torch.cat([known.ok, ok]))
    return replace(batch, items=grown, target=own + count, expanded={}), {**vectors, space: found}


@torch.inference_mode()
def effects(model: Concepts, batch: TensorBatch, vectors: SpaceVectors, label: int = 0) -> Effects:
    """What concepts of the ads add, and what one standard deviation more of each would: the difference of two sums.

    Args:
        model: in evaluation mode.
        batch: rows.
        vectors: of their items.
        label: which of the model's labels.
    """
    terms, whole = model.terms(), model.contributions(batch, vectors)[:, :, label]
    there, amounts, seen, values, more = [], [], [], [], []
    for name in model.of_spaces:
        mean, known = mean_vectors(vectors[name], batch.items.vectors[name], batch.items.count)
        own, has = mean.index_select(0, batch.target), known.index_select(0, batch.target)
        changed = model.contributions(*with_vectors(batch, vectors, name, own + 1.0))[:, :, label]
        before, after = (_by_concept(one, terms, name, own.shape[1]) for one in (whole, changed))
        there.append(has[:, None].expand(-1, own.shape[1]).numpy())
        amounts.append(own.numpy())
        seen.append(_seen(batch, mean.numpy()))
        values.append(before.sum(dim=1).numpy())
        more.append((after - before).numpy())
    whole[:, 0] += model.sampling_log_odds  # the bias is the first term
    parts = (np.concatenate(part, axis=-1) for part in (there, amounts, seen, values, more))
    return Effects(whole.numpy(), *parts)


def _seen(batch: TensorBatch, of_items: Floats) -> Floats:
    """The mean of what the behaviours of each row have, shape (B, D); nan without any."""
    segments, history = batch.segments.numpy(), batch.history.numpy()
    counts = sparse.csr_array((np.ones(len(history)), (segments, history)), (batch.rows, len(of_items)))
    lengths = batch.lengths.numpy()[:, None].astype(np.float64)
    return np.where(lengths > 0, counts @ of_items / np.maximum(lengths, 1), np.nan).astype(np.float32)


def _by_concept(contributions: Tensor, terms: list[Term], space: str, dim: int) -> Tensor:
    """Contributions, shape (B, T), of the concepts of a space: shape (B, 3, D), by the kinds of terms."""
    found = contributions.new_zeros(len(contributions), len(OF_CONCEPTS), dim)
    for number, kind in enumerate(OF_CONCEPTS):
        own = [place for place, term in enumerate(terms) if (term.kind, term.space) == (kind, space)]
        places = torch.tensor([terms[place].place for place in own], dtype=torch.int64)
        found[:, number].index_add_(1, places, contributions[:, own])
    return found
