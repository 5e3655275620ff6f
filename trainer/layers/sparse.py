"""Large-scale sparse features for the linear models: ids, bags of behaviours, lists and words, and crosses of them.

Legend: B rows, N history entries, U items of the batch, M features of some of them together, F features there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossmedia.arguments import must
from crossmedia.errors import BadInput
from crossmedia.features.columns import ACTION, HISTORY, IMAGE
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.jagged import segment_sum
from crossmedia.trainer.tensors import Bag, TensorBatch

DENSE_WEIGHTS = 200_000
MOST_BITS = 32  # 4 billion weights


@dataclass(frozen=True)
class Cross:
    """A cross of fields, which share ``2 ** bits`` rows by hash."""

    fields: tuple[str, ...]
    bits: int


class Features(NamedTuple):
    """Features that are on: places in the table, whose each is, and what it counts; of shape (M,) each."""

    places: Tensor
    owners: Tensor
    values: Tensor


class SparseFeatures(nn.Module):
    """What is on: places in one table of all fields.

    A field is a column of ids, ``hist_<column>`` (the bag of the behaviours' ids), a list or text column (a bag, each
    entry counting one over their number), or a cross. A field has the rows of its vocabulary; with ``hash_bits`` all
    share a table. What an item has is found once for each item of a batch, as a target and as a behaviour.

    Args:
        spec: columns and sizes.
        crosses: such as ``user_id*cate_id`` and ``hist_item_id*item_id``, separated by spaces; a cross with behaviours
            is over each behaviour. Of several images of an item the first is crossed; other lists are not.
        cross_bits: a cross has 2 to the power of it rows.
        hash_bits: 0: vocabularies; above: all fields are hashed into 2 to the power of it rows.
        bag_power: p; each of n behaviours counts 1 / n^p: 1 is their mean, 0 their sum, .5 gives bags one length.

    Raises:
        BadInput: a cross names a field that is not there.
    """

    def __init__(self, spec: InputSpec, crosses: str, cross_bits: int, hash_bits: int, bag_power: float = 1.0):
        super().__init__()
        for name, bits, least in (("hash_bits", hash_bits, 0), ("cross_bits", cross_bits, 1)):
            must(least <= bits <= MOST_BITS, name, bits, f"from {least} to {MOST_BITS}")
        self.spec, self.hash_bits, self.bag_power = spec, hash_bits, bag_power
        images = {IMAGE: spec.image_vocabulary_size} if spec.image_vocabulary_size else {}
        sizes = {**spec.item_columns, **images, **spec.user_columns}
        lists = {**spec.item_lists, **spec.user_lists}
        if spec.actions:
            sizes |= {HISTORY + name: size for name, size in (spec.item_columns | images).items()}
            sizes[HISTORY + ACTION] = spec.actions
            lists |= {HISTORY + name: size for name, size in spec.item_lists.items()}
        self.crosses = [Cross(tuple(text.split("*")), cross_bits) for text in crosses.split()]
        for cross in self.crosses:
            for name in cross.fields:
                if name not in sizes or len(cross.fields) < 2:
                    raise BadInput(
                        f"The cross {'*'.join(cross.fields)!r} is no cross of fields; the fields are: "
                        f"{', '.join(sizes)}."
                    )
        of_crosses = {"*".join(c.fields): 1 << c.bits for c in self.crosses}
        self.sizes = {**sizes, **lists, **spec.text_columns, **of_crosses}
        self.offsets: dict[str, int] = {}
        rows = 0
        for name, size in self.sizes.items():
            self.offsets[name] = rows
            rows += size
        self.rows = 1 << hash_bits if hash_bits else rows

    def of_rows(self, batch: TensorBatch) -> Features:
        """Features of rows: users, impressions, the target's words, kinds of behaviours, and crosses."""
        every = torch.arange(batch.rows, device=batch.lengths.device)
        ones, share = every.new_ones(batch.rows, dtype=torch.float32), self.shares(batch)
        found = [Features(self._at(name, batch.ids[name]), every, ones) for name in self.spec.user_columns]
        found += [self._bag(name, batch.text[name], batch.rows) for name in self.spec.text_columns]
        found += [self._bag(name, batch.lists[name], batch.rows) for name in self.spec.user_lists]
        if self.spec.actions:
            found.append(Features(self._at(HISTORY + ACTION, batch.action), batch.segments, share))
        for cross in self.crosses:
            of_behaviours = any(name.startswith(HISTORY) for name in cross.fields)
            parts = [self._crossed(batch, name, of_behaviours) for name in cross.fields]
            places = self._at("*".join(cross.fields), _hash(parts, len(parts)) & ((1 << cross.bits) - 1))
            found.append(Features(places, *((batch.segments, share) if of_behaviours else (every, ones))))
        return _joined(found)

    def of_items(self, batch: TensorBatch, prefix: str = "") -> Features:
        """Features of items: as targets, or with the prefix ``hist_`` as behaviours."""
        items = batch.items
        every = torch.arange(items.count, device=batch.lengths.device)
        ones = every.new_ones(items.count, dtype=torch.float32)
        found = [Features(self._at(prefix + name, items.ids[name]), every, ones) for name in self.spec.item_columns]
        found += [self._bag(name, items.lists[name], items.count, prefix) for name in self.spec.item_bags]
        return _joined(found)

    def shares(self, batch: TensorBatch) -> Tensor:
        """What each behaviour counts, shape (N,)."""
        return (batch.lengths.clamp(min=1).float() ** -self.bag_power).index_select(0, batch.segments)

    def _at(self, name: str, found: Tensor) -> Tensor:
        """Places of a field in the table."""
        offset = self.offsets[name]
        return _hash([found], offset) & (self.rows - 1) if self.hash_bits else found + offset

    def _bag(self, name: str, lists: Bag, count: int, prefix: str = "") -> Features:
        size = segment_sum(torch.ones_like(lists.values, dtype=torch.float32), lists.owners, count)
        return Features(self._at(prefix + name, lists.values), lists.owners, (1.0 / size).index_select(0, lists.owners))

    def _crossed(self, batch: TensorBatch, field: str, of_behaviours: bool) -> Tensor:
        """Ids of a field, a row each, or in a cross of behaviours a behaviour each."""
        if field == HISTORY + ACTION:
            return batch.action
        if field in self.spec.user_columns:
            ids = batch.ids[field]
            return ids.index_select(0, batch.segments) if of_behaviours else ids
        name = field.removeprefix(HISTORY)
        ids = _first(batch.items.lists[IMAGE], batch.items.count) if name == IMAGE else batch.items.ids[name]
        if field.startswith(HISTORY):
            return ids.index_select(0, batch.history)
        ids = ids.index_select(0, batch.target)
        return ids.index_select(0, batch.segments) if of_behaviours else ids


def _joined(found: list[Features]) -> Features:
    return Features(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _first(lists: Bag, count: int) -> Tensor:
    """The first entry of each list, none of which is empty, shape (count,)."""
    lengths = segment_sum(torch.ones_like(lists.owners), lists.owners, count)
    return lists.values.index_select(0, torch.cumsum(lengths, 0) - lengths)


def _hash(parts: list[Tensor], seed: int) -> Tensor:
    """Mix whole numbers of shape (n,) each into one; multiplication wraps around."""
    state = torch.full_like(parts[0], seed + 1)
    for part in parts:
        state = (state ^ part) * -7046029254386353131  # 2 ** 64 / golden ratio, as a signed number
        state = state ^ ((state >> 29) & ((1 << 35) - 1))
    return state


class SparseLinear(nn.Module):
    """Sums of weight rows of the features that are on, and a bias.

    Args:
        features: what is on.
        outputs: R, numbers a row.
        std: of the initial weights and of the bias.
    """

    def __init__(self, features: SparseFeatures, outputs: int, std: float = 0.0):
        super().__init__()
        self.features = features
        # Sorting out which rows were on costs more than to step over all of them, while they are few.
        zeros, sparse = torch.zeros(features.rows, outputs), features.rows * outputs > DENSE_WEIGHTS
        self.table = nn.Embedding(features.rows, outputs, sparse=sparse, _weight=zeros)
        self.bias = nn.Parameter(torch.randn(outputs) * std)

    @property
    def weight(self) -> Tensor:
        """Of each feature, shape (F, R)."""
        return self.table.weight

    def forward(self, batch: TensorBatch) -> Tensor:
        """Sums, shape (B, R). The gradient of a large ``weight`` is sparse: rows of features that were on."""
        features = self.features
        parts = [(features.of_rows(batch), batch.rows), (features.of_items(batch), batch.items.count)]
        if features.spec.actions:
            parts.append((features.of_items(batch, HISTORY), batch.items.count))
        rows = self.table(torch.cat([found.places for found, _ in parts]))  # one look-up, and so one gradient
        sums, start = [], 0
        for found, count in parts:
            end = start + found.places.shape[0]
            sums.append(segment_sum(rows[start:end] * found.values[:, None], found.owners, count))
            start = end
        total = sums[0] + sums[1].index_select(0, batch.target) + self.bias
        if features.spec.actions:
            seen = sums[2].index_select(0, batch.history) * features.shares(batch)[:, None]
            total = total + segment_sum(seen, batch.segments, batch.rows)
        return total
