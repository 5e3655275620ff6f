"""Logistic regression on large-scale sparse features (where Alimama's ladder starts)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmedia.trainer.layers.batch_norm import BatchNorm
from crossmedia.trainer.layers.dense import dense_feature_count, dense_features
from crossmedia.trainer.layers.inputs import InputSpec, check_spaces
from crossmedia.trainer.layers.sparse import SparseFeatures, SparseLinear
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch
from crossmedia.trainer.training.ftrl import FTRL


class LR(Model):
    """Logistic regression over ids, bags of behaviours, lists and words, and declared crosses, trained by FTRL.

    Numbers, and with images on target vector and mean history vector of each space, come in as dense features,
    standardised; of an item with several vectors it takes their mean.

    Args:
        spec: columns and sizes; ``spaces`` turn images on.
        width: unused: a linear model has no embeddings.
        crosses: fields to cross, such as ``hist_item_id*item_id user_id*cate_id``.
        cross_bits: a cross has 2 to the power of it weights, by hash.
        hash_bits: 0: a weight a place of each vocabulary; above: all are hashed into 2 to the power of it weights.
        bag_power: p; each of n behaviours counts 1 / n^p: 1 is their mean, 0 their sum, .5 gives bags one length.
        alpha: step size of FTRL; ``learning_rate`` steps the dense weights only.
        l1, l2, l21: penalties of FTRL; l21 counts a feature's weights as one group.
    """

    paper = "McMahan et al., KDD 2013 (FTRL-Proximal)"
    averages = False  # an average of zeros and others is no zero, and FTRL leads by all steps already
    outputs_per_label = 1
    initial_std = 0.0

    def __init__(
        self,
        spec: InputSpec,
        width: int = 0,
        *,
        crosses: str = "",
        cross_bits: int = 18,
        hash_bits: int = 0,
        bag_power: float = 1.0,
        alpha: float = 0.1,
        l1: float = 1e-4,
        l2: float = 0.0,
        l21: float = 0.0,
    ):
        super().__init__(spec)
        self.penalties = {"alpha": alpha, "l1": l1, "l2": l2, "l21": l21}
        outputs = len(spec.labels) * self.outputs_per_label
        features = SparseFeatures(spec, crosses, cross_bits, hash_bits, bag_power)
        self.sparse = SparseLinear(features, outputs, self.initial_std)
        count = dense_feature_count(spec)
        self.scale = BatchNorm(count, affine=False) if count else None
        self.dense = nn.Linear(count, outputs, bias=False) if count else None
        if self.dense is not None:
            nn.init.zeros_(self.dense.weight)

    def sums(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Weighted sums of the features, shape (B, L times ``outputs_per_label``).

        Raises:
            ValueError: the model was made for other spaces than those of the vectors.
        """
        check_spaces(self.spec, vectors)
        found: Tensor = self.sparse(batch)
        if self.dense is not None and self.scale is not None:
            found = found + self.dense(self.scale(dense_features(self.spec, batch, vectors)))
        return found

    def score(self, batch: TensorBatch, vectors: SpaceVectors) -> Tensor:
        """Logits, shape (B, L)."""
        return self.sums(batch, vectors)

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """FTRL for the sparse weights, Adam for the others."""
        others = [parameter for parameter in self.parameters() if parameter is not self.sparse.weight]
        return [FTRL([self.sparse.weight], **self.penalties), torch.optim.Adam(others, lr=learning_rate, fused=True)]

    def id_rows(self) -> dict[str, dict[str, tuple[int, int]]]:
        """As ``Model.id_rows``: the sparse weights, by field; when all are hashed, as one."""
        features = self.sparse.features
        fields = {name: (features.offsets[name], size) for name, size in features.sizes.items()}
        return {"sparse.table.weight": {"": (0, features.rows)} if features.hash_bits else fields}

    def notes(self) -> dict[str, float]:
        """How sparse the weights are: features there are, features with a weight, weights that are not zero."""
        weight = self.sparse.weight
        return {
            "features": len(weight),
            "features_kept": int((weight != 0).any(dim=1).sum()),
            "weights": weight.numel(),
            "weights_not_zero": int((weight != 0).sum()),
        }
