"""Numbers that say something without an embedding: vectors, number columns, and counts over the behaviours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.jagged import segment_max, segment_mean, segment_sum
from crossmedia.trainer.layers.numbers import stacked
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.tensors import AGE_BUCKETS, Bag, ImageVectors, SpaceVectors, TensorBatch


def dense_features(spec: InputSpec, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
    """What the vectors of each space say, and the number columns, shape (B, ``dense_feature_count``)."""
    found = [image_features(batch, vectors[name], name) for name in spec.spaces]
    found.append(number_features(spec, batch))
    return torch.cat(found, dim=1)


def dense_feature_count(spec: InputSpec) -> int:
    """Numbers that ``dense_features`` gives a row."""
    behaviours = len(spec.item_numbers) if spec.actions else 0
    numbers = 2 * (len(spec.item_numbers) + len(spec.user_numbers)) + behaviours
    return sum(2 * dim + 2 for dim in spec.spaces.values()) + numbers


def image_features(batch: TensorBatch, vectors: ImageVectors, space: str) -> Tensor:
    """Target vector, mean of the behaviours' vectors, their cosine, and whether there is a target vector.

    Of an item with several vectors their mean is taken. Shape (B, 2 D + 2); a missing vector is zeros.

    Args:
        batch: whose items show the vectors.
        vectors: of the space.
        space: its name.
    """
    rows, there = mean_vectors(vectors, batch.items.vectors[space], batch.items.count)
    has, seen = there.float(), batch.history
    target = rows.index_select(0, batch.target)
    total = segment_sum(rows.index_select(0, seen), batch.segments, batch.rows)
    mean = total / segment_sum(has.index_select(0, seen), batch.segments, batch.rows).clamp(min=1)[:, None]
    cosine = cosine_similarity(target, mean, dim=1)
    return torch.cat([target, mean, cosine[:, None], has.index_select(0, batch.target)[:, None]], dim=1)


def number_features(spec: InputSpec, batch: TensorBatch) -> Tensor:
    """The number columns, zeros where missing, and whether each is there; and the mean over the behaviours' items."""
    found = []
    if spec.user_numbers:
        values, there = stacked(batch.numbers, spec.user_numbers)
        found += [values, there.float()]
    if spec.item_numbers:
        values, there = stacked(batch.items.numbers, spec.item_numbers)
        found += [values.index_select(0, batch.target), there.float().index_select(0, batch.target)]
        if spec.actions:
            total = segment_sum(values.index_select(0, batch.history), batch.segments, batch.rows)
            count = segment_sum(there.float().index_select(0, batch.history), batch.segments, batch.rows)
            found.append(total / count.clamp(min=1))
    return torch.cat(found, dim=1) if found else batch.lengths.new_zeros((batch.rows, 0), dtype=torch.float32)


def behaviour_features(spec: InputSpec, batch: TensorBatch) -> Tensor:
    """Statistics of the behaviours, for trees, shape (B, S).

    How many there are; the share of each kind; how old the latest and the mean one are; and for each id column of an
    item, how many behaviours of each kind have the target's.
    """
    rows, segments = batch.rows, batch.segments
    if not spec.actions:
        return batch.lengths.new_zeros((rows, 0), dtype=torch.float32)
    kinds = torch.nn.functional.one_hot(batch.action, spec.actions).float()
    age = (AGE_BUCKETS - batch.history_age).float()
    found = [
        torch.log1p(batch.lengths.float())[:, None],
        segment_mean(kinds, segments, rows),
        segment_max(age, segments, rows)[:, None],
        segment_mean(age, segments, rows)[:, None],
    ]
    for name in spec.item_columns:
        same = batch.history_ids(name) == batch.target_ids(name).index_select(0, segments)
        found.append(segment_sum(kinds * same[:, None], segments, rows))
    return torch.cat(found, dim=1)


def list_features(spec: InputSpec, batch: TensorBatch) -> Tensor:
    """Of each list column, for trees: how many entries, and the lowest place, that of its most frequent, (B, S)."""
    of_items = [_of_lists(batch.items.lists[name], batch.items.count) for name in spec.item_lists]
    found = [values.index_select(0, batch.target) for values in of_items]
    found += [_of_lists(batch.lists[name], batch.rows) for name in spec.user_lists]
    return torch.cat(found, dim=1) if found else batch.lengths.new_zeros((batch.rows, 0), dtype=torch.float32)


def _of_lists(lists: Bag, count: int) -> Tensor:
    size = segment_sum(torch.ones_like(lists.values, dtype=torch.float32), lists.owners, count)
    lowest = -segment_max(-lists.values.float(), lists.owners, count)
    return torch.stack([size, lowest], dim=1)
