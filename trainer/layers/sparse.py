"""Large-scale sparse features for the linear models: ids, bags of behaviours and words, and crosses of them.

Legend: B rows, N history entries of the batch, M features of the batch together, F features there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.features.columns import ACTION, HISTORY, IMAGE
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.jagged import segment_sum
from crossmedia.trainer.tensors import TensorBatch

DENSE_WEIGHTS = 200_000
Entries = tuple[Tensor, Tensor | None]  # places and the rows they belong to; None: one a row, in order


@dataclass(frozen=True)
class Cross:
    """A cross of fields, which share ``2 ** bits`` rows by hash."""

    fields: tuple[str, ...]
    bits: int


class SparseFeatures(nn.Module):
    """What is on in a row: places in one table of all fields.

    A field is a column of ids, ``hist_<column>`` (the bag of the behaviours' ids), a text column (a bag of words, each
    counting one over their number), or a cross. A field has the rows of its vocabulary; with ``hash_bits`` all share a
    table.

    Args:
        spec: columns and sizes.
        crosses: such as ``user_id*cate_id`` and ``hist_item_id*item_id``, separated by spaces; a cross with behaviours
            is over each behaviour.
        cross_bits: a cross has 2 to the power of it rows.
        hash_bits: 0: vocabularies; above: all fields are hashed into 2 to the power of it rows.
        bag_power: p; each of n behaviours counts 1 / n^p: 1 is their mean, 0 their sum, .5 gives bags one length.

    Raises:
        BadInput: a cross names a field that is not there.
    """

    def __init__(self, spec: InputSpec, crosses: str, cross_bits: int, hash_bits: int, bag_power: float = 1.0):
        super().__init__()
        self.spec, self.hash_bits, self.bag_power = spec, hash_bits, bag_power
        item = dict(spec.item_columns)
        if spec.image_vocabulary_size:
            item["image_id"] = spec.image_vocabulary_size
        sizes = {**item, **spec.user_columns}
        if spec.actions:
            sizes |= {HISTORY + name: size for name, size in item.items()} | {HISTORY + ACTION: spec.actions}
        self.crosses = [Cross(tuple(text.split("*")), cross_bits) for text in crosses.split()]
        for cross in self.crosses:
            for name in cross.fields:
                if name not in sizes or len(cross.fields) < 2:
                    raise BadInput(
                        f"The cross {'*'.join(cross.fields)!r} is no cross of fields; the fields are: "
                        f"{', '.join(sizes)}."
                    )
        self.sizes = {**sizes, **spec.text_columns} | {"*".join(c.fields): 1 << c.bits for c in self.crosses}
        self.offsets: dict[str, int] = {}
        rows = 0
        for name, size in self.sizes.items():
            self.offsets[name] = rows
            rows += size
        self.rows = 1 << hash_bits if hash_bits else rows

    def forward(self, batch: TensorBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Places in the table, their rows of the batch, and their values; each of shape (M,)."""
        fields = self._fields(batch)
        places, rows, values = [], [], []
        every = torch.arange(batch.rows, device=batch.lengths.device)
        share = batch.lengths.clamp(min=1).float() ** -self.bag_power

        def add(name: str, found: Tensor, owners: Tensor | None, weights: Tensor | None) -> None:
            offset = self.offsets[name]
            places.append(_hash([found], offset) & (self.rows - 1) if self.hash_bits else found + offset)
            rows.append(every if owners is None else owners)
            values.append(share.new_ones(found.shape[0]) if weights is None else weights)

        for name, (found, owners) in fields.items():
            add(name, found, owners, None if owners is None else share.index_select(0, owners))
        for cross in self.crosses:
            owners = next((fields[name][1] for name in cross.fields if fields[name][1] is not None), None)
            parts = [
                found if of is not None or owners is None else found.index_select(0, owners)
                for found, of in (fields[name] for name in cross.fields)
            ]
            crossed = _hash(parts, len(parts)) & ((1 << cross.bits) - 1)
            add("*".join(cross.fields), crossed, owners, None if owners is None else share.index_select(0, owners))
        for name, (tokens, owners) in batch.text.items():
            count = segment_sum(torch.ones_like(tokens, dtype=share.dtype), owners, batch.rows)
            add(name, tokens, owners, (1.0 / count).index_select(0, owners))
        return torch.cat(places), torch.cat(rows), torch.cat(values)

    def _fields(self, batch: TensorBatch) -> dict[str, Entries]:
        fields: dict[str, Entries] = {name: (ids, None) for name, ids in batch.ids.items()}
        if self.spec.actions:
            fields |= {HISTORY + name: (ids, batch.segments) for name, ids in batch.history.items()}
        if batch.images is not None:
            index = torch.cat([batch.images.unique_index, batch.images.unique_index.new_zeros(1)])
            fields["image_id"] = (index[batch.images.target], None)
            if self.spec.actions:
                fields[HISTORY + IMAGE] = (index[batch.images.history], batch.segments)
        return fields


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
        places, rows, values = self.features(batch)
        found = self.table(places) * values[:, None]
        return segment_sum(found, rows, batch.rows) + self.bias
