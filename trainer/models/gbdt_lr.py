"""Boosted trees whose leaves are features of a logistic regression (He et al., ADKDD 2014)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from crossmedia.arguments import must
from crossmedia.errors import BadInput
from crossmedia.trainer.layers.dense import behaviour_features, dense_features, list_features
from crossmedia.trainer.layers.forest import Forest
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models.lr import LR
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch


class GBDTLR(LR):
    """Each tree of a LightGBM forest is a categorical feature, the leaf, of a logistic regression over ids and leaves.

    Trees see the ids as their places (the rank by frequency), numbers, statistics of lists and behaviours, and with
    images on the vectors. They are fitted once, before the first epoch; the regression is then trained like any model.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: unused.
        trees: how many.
        leaves: a tree, at most.
        shrinkage: learning rate of the trees.
        tree_rows: training rows that the trees are fitted on, at most.
        options: those of ``LR``.

    Raises:
        BadInput: more than one label.
    """

    paper = "He et al., ADKDD 2014"
    ids_are_rows = False  # trees see them as numbers, too
    teaches_head = False  # trees are fitted once, on vectors as they are

    def __init__(
        self,
        spec: InputSpec,
        width: int = 0,
        *,
        trees: int = 200,
        leaves: int = 12,
        shrinkage: float = 0.1,
        tree_rows: int = 1_000_000,
        **options: Any,
    ):
        super().__init__(spec, width, **options)
        if len(spec.labels) > 1:
            raise BadInput("gbdt_lr is trained on one label; train one model a label.")
        for name, value, least in (("trees", trees, 1), ("leaves", leaves, 2), ("tree_rows", tree_rows, 1)):
            must(value >= least, name, value, f"at least {least}")
        self.trees, self.leaves, self.shrinkage, self.tree_rows = trees, leaves, shrinkage, tree_rows
        self.leaf_weight = nn.Parameter(torch.zeros(trees * leaves, 1))
        self.forest = Forest(trees, leaves)

    def prepare(self, rows: Iterable[tuple[TensorBatch, SpaceVectors]], seed: int) -> None:
        """Fit the trees, unless they came with a checkpoint."""
        if self.forest.grown.any():
            return
        import lightgbm

        found, labels, seen = [], [], 0
        for batch, vectors in rows:
            found.append(self.dense_columns(batch, vectors).cpu().numpy())
            labels.append(batch.labels[self.spec.labels[0]].cpu().numpy())
            seen += batch.rows
            if seen >= self.tree_rows:
                break
        settings = {
            **{"objective": "binary", "num_leaves": self.leaves, "learning_rate": self.shrinkage, "seed": seed},
            **{"verbosity": -1, "deterministic": True, "force_row_wise": True, "num_threads": torch.get_num_threads()},
        }
        data = lightgbm.Dataset(np.concatenate(found), np.concatenate(labels))
        self.forest.plant(lightgbm.train(settings, data, num_boost_round=self.trees))

    def dense_columns(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """What the trees see, shape (B, C)."""
        spec = self.spec
        ids = [batch.target_ids(name) for name in spec.item_columns]
        ids += [batch.ids[name] for name in spec.user_columns]
        found = [torch.stack(ids, dim=1).float(), list_features(spec, batch), behaviour_features(spec, batch)]
        return torch.cat([*found, dense_features(spec, batch, vectors)], dim=1)

    def score(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Logits, shape (B, 1)."""
        with torch.no_grad():
            leaves = self.forest(self.dense_columns(batch, vectors))
        places = leaves + torch.arange(self.trees, device=leaves.device) * self.leaves
        of_leaves = embedding(places, self.leaf_weight)  # (B, trees, 1)
        return self.sums(batch, vectors) + (of_leaves * self.forest.grown[:, None]).sum(dim=1)
