"""Batches as tensors, on the device that trains.

Legend: B rows, N history entries of the batch together, U items of the batch, each once, K vectors of a space, D
numbers in a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from crossmedia.features.batch import Batch, Jagged, VectorKeys
from crossmedia.features.columns import IMAGE, ITEM
from crossmedia.imgserver.client import Vectors
from crossmedia.trainer.one_copy import Array, copied_together

AGE_BUCKETS = 32


@dataclass(frozen=True)
class Bag:
    """Lists of uneven length: ``values`` (n,) int64, and ``owners`` (n,) int64, ascending, the list that each is in."""

    values: Tensor
    owners: Tensor

    def of(self, lists: Tensor, count: int) -> Bag:
        """The lists of some, in the order of ``lists``, shape (n,), of ``count`` there are; not to be traced."""
        lengths = torch.bincount(self.owners, minlength=count)
        chosen = lengths.index_select(0, lists)
        owners = torch.repeat_interleave(torch.arange(len(lists), device=lists.device), chosen)
        first = (torch.cumsum(lengths, 0) - lengths).index_select(0, lists) - (torch.cumsum(chosen, 0) - chosen)
        place = first.index_select(0, owners) + torch.arange(len(owners), device=owners.device)
        return Bag(self.values.index_select(0, place), owners)


@dataclass(frozen=True)
class ImageVectors:
    """Vectors of a batch's unique keys: ``values`` (K, D) fp32, zeros where missing, and ``ok`` (K,) bool."""

    values: Tensor
    ok: Tensor

    @classmethod
    def of(cls, fetched: Vectors, device: torch.device) -> ImageVectors:
        """What was fetched, on a device, in its own dtype; what was sent there before is not copied again."""
        there = copied_together(fetched, device)
        return cls(cast(Tensor, there.values), cast(Tensor, there.ok))  # tensors by now, in the place of arrays

    def placed(self, place: Tensor) -> ImageVectors:
        """Rows by their numbers, of any shape; -1 is a row without an image."""
        last = len(self.ok)
        flat = place.reshape(-1) % (last + 1)  # -1 finds the last of one more row
        values = torch.cat([self.values, self.values.new_zeros(1, self.values.shape[1])]).index_select(0, flat)
        ok = torch.cat([self.ok, self.ok.new_zeros(1)])[flat]
        return ImageVectors(values.view(*place.shape, values.shape[1]), ok.view(place.shape))


SpaceVectors = Mapping[str, ImageVectors]  # by the name of the space; empty: images are off


@dataclass(frozen=True)
class TensorItems:
    """``BatchItems`` as tensors, without the text, which models see of the target only.

    Attributes:
        ids: column, ``item_id`` first -> (U,) int64.
        numbers: column -> (U,) fp32, nan where missing.
        lists: column -> U lists of places; the images' own ids are one of them, ``image_id``, place 0 alone where an
            item has no image.
        vectors: space -> U lists of indices of the vectors of that space.
    """

    ids: dict[str, Tensor]
    numbers: dict[str, Tensor]
    lists: dict[str, Bag]
    vectors: dict[str, Bag]

    @property
    def count(self) -> int:
        """U."""
        return self.ids[ITEM].shape[0]


@dataclass(frozen=True)
class TensorBatch:
    """``Batch`` as tensors. What an item has stands once; rows and behaviours point at items.

    Attributes:
        labels: name -> (B,) fp32.
        ids: column of user and impression -> (B,) int64.
        numbers: column of these -> (B,) fp32, nan where missing.
        lists: column of these -> B lists of places.
        text: column of the target -> B lists of tokens.
        items: what the batch shows.
        target: (B,) int64, index into the items.
        history: (N,) int64, index into the items, of each behaviour.
        action: (N,) int64, its kind.
        history_age: (N,) int64, 1 + floor(log2(age in seconds)), below ``AGE_BUCKETS``.
        segments: (N,) int64, the row that each behaviour belongs to.
        lengths: (B,) int64, behaviours of each row.
        expanded: what ``shown`` gives, where it cannot be computed: in a program that is traced.
    """

    labels: dict[str, Tensor]
    ids: dict[str, Tensor]
    numbers: dict[str, Tensor]
    lists: dict[str, Bag]
    text: dict[str, Bag]
    items: TensorItems
    target: Tensor
    history: Tensor
    action: Tensor
    history_age: Tensor
    segments: Tensor
    lengths: Tensor
    expanded: dict[str, tuple[Bag, Bag]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """B; of a traced batch a symbol, which ``len`` could not give."""
        return self.lengths.shape[0]

    def target_ids(self, column: str) -> Tensor:
        """An id column of the targets, shape (B,)."""
        return self.items.ids[column].index_select(0, self.target)

    def history_ids(self, column: str) -> Tensor:
        """An id column of the behaviours' items, shape (N,)."""
        return self.items.ids[column].index_select(0, self.history)

    def shown(self, space: str) -> tuple[Bag, Bag]:
        """Which vectors of a space each target, and each behaviour, shows: B lists and N lists of their indices."""
        if space in self.expanded:
            return self.expanded[space]
        of_items = self.items.vectors[space]
        return of_items.of(self.target, self.items.count), of_items.of(self.history, self.items.count)


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    """Copy a batch to ``device``, all of it at once."""
    return copied_together(as_arrays(batch), device)


def as_arrays(batch: Batch) -> TensorBatch:
    """A batch as a model sees it, of arrays that are still to be copied to where the model is."""

    def tensor(values: Array) -> Tensor:
        return cast(Tensor, values)  # an array still: none is copied before all are there

    def bag(lists: Jagged) -> Bag:
        return Bag(tensor(lists.values), tensor(np.repeat(np.arange(len(lists)), lists.lengths)))

    items, lengths = batch.items, batch.history.lengths
    age = np.log2(np.maximum(batch.history_age_s, 1)).astype(np.int64) + 1
    lists = {name: bag(values) for name, values in items.lists.items()}
    if (image_ids := _image_ids(items.vectors)) is not None:
        lists[IMAGE] = bag(image_ids)
    return TensorBatch(
        labels={name: tensor(values) for name, values in batch.labels.items()},
        ids={name: tensor(values) for name, values in batch.ids.items()},
        numbers={name: tensor(values) for name, values in batch.numbers.items()},
        lists={name: bag(values) for name, values in batch.lists.items()},
        text={name: bag(tokens.take(batch.target)) for name, tokens in items.text.items()},
        items=TensorItems(
            {name: tensor(values) for name, values in items.ids.items()},
            {name: tensor(values) for name, values in items.numbers.items()},
            lists,
            {name: bag(keys.of_items) for name, keys in items.vectors.items()},
        ),
        target=tensor(batch.target),
        history=tensor(batch.history.values),
        action=tensor(batch.action),
        history_age=tensor(np.minimum(age, AGE_BUCKETS - 1)),
        segments=tensor(np.repeat(np.arange(len(batch)), lengths)),
        lengths=tensor(lengths),
    )


def _image_ids(spaces: Mapping[str, VectorKeys]) -> Jagged | None:
    """Places of each item's images in the vocabulary, 0 alone where it has none; None: no space is keyed by image.

    Spaces that are keyed by image have the same images; one of a batch without any has no keys at all.
    """
    by_image = [keys for keys in spaces.values() if len(keys.unique_index) or not len(keys.unique)]
    if not by_image:
        return None
    keys = max(by_image, key=lambda found: len(found.unique_index))
    lengths, places = keys.of_items.lengths, keys.unique_index[keys.of_items.values]
    if lengths.all():
        return Jagged(places, keys.of_items.offsets)
    return Jagged.of_lengths(np.insert(places, keys.of_items.offsets[:-1][lengths == 0], 0), np.maximum(lengths, 1))
