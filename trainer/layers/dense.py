"""Numbers that say something without an embedding: image vectors, and counts over the behaviours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from crossmedia.features.columns import ACTION
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.jagged import segment_max, segment_mean, segment_sum
from crossmedia.trainer.tensors import AGE_BUCKETS, ImageVectors, TensorBatch


def image_features(batch: TensorBatch, vectors: ImageVectors | None) -> Tensor:
    """Target vector, mean of the behaviours' vectors, their cosine, and whether there is a target vector.

    Shape (B, 2 D + 2); a missing vector is zeros. Without vectors shape (B, 0).
    """
    if vectors is None or batch.images is None:
        return batch.lengths.new_zeros((batch.rows, 0), dtype=torch.float32)
    rows = torch.cat([vectors.values * vectors.ok[:, None], vectors.values.new_zeros(1, vectors.values.shape[1])])
    there = torch.cat([vectors.ok, vectors.ok.new_zeros(1)])
    target = rows[batch.images.target]
    seen = batch.images.history
    total = segment_sum(rows[seen], batch.segments, batch.rows)
    mean = total / segment_sum(there[seen].float(), batch.segments, batch.rows).clamp(min=1)[:, None]
    cosine = cosine_similarity(target, mean, dim=1)
    return torch.cat([target, mean, cosine[:, None], there[batch.images.target].float()[:, None]], dim=1)


def image_feature_count(spec: InputSpec) -> int:
    """Numbers that ``image_features`` gives a row."""
    return 2 * spec.vector_dim + 2 if spec.vector_dim else 0


def behaviour_features(spec: InputSpec, batch: TensorBatch) -> Tensor:
    """Statistics of the behaviours, for trees, shape (B, S).

    How many there are; the share of each kind; how old the latest and the mean one are; and for each id column of an
    item, how many behaviours of each kind have the target's.
    """
    rows, segments = batch.rows, batch.segments
    if not spec.actions:
        return batch.lengths.new_zeros((rows, 0), dtype=torch.float32)
    kinds = torch.nn.functional.one_hot(batch.history[ACTION].long(), spec.actions).float()
    age = (AGE_BUCKETS - batch.history_age).float()
    found = [
        torch.log1p(batch.lengths.float())[:, None],
        segment_mean(kinds, segments, rows),
        segment_max(age, segments, rows)[:, None],
        segment_mean(age, segments, rows)[:, None],
    ]
    for name in spec.item_columns:
        same = batch.history[name] == batch.ids[name].index_select(0, segments)
        found.append(segment_sum(kinds * same[:, None], segments, rows))
    return torch.cat(found, dim=1)
