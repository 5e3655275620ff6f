"""FuxiCTR: vectors are features of its type ``embedding``, and its own train_step and predict take the batches.

python examples/in_your_trainer/fuxictr_trainer.py clicks localhost:7070
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from clicks import IDS, IMAGES, LABEL, loader, read_clicks
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import Tensor

from crossmedia import ImageClient
from crossmedia.torch import with_vectors
from crossmedia.trainer.metrics import auc


class Model(BaseModel):  # type: ignore[misc]
    """Embeddings of all features, and an MLP."""

    def __init__(self, features: FeatureMap):
        super().__init__(features, metrics=["AUC"], model_root="", verbose=0, gpu=-1)
        self.embedding = FeatureEmbedding(features, 8)
        self.top = MLP_Block(features.num_fields * 8, [64], "ReLU", output_dim=1, output_activation="sigmoid")
        self.compile("adam", "binary_crossentropy", 3e-3)
        self.reset_parameters()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities, shape (B, 1)."""
        return {"y_pred": self.top(self.embedding(self.get_inputs(batch), flatten_emb=True))}


def features(batches: Any) -> Iterator[dict[str, Tensor]]:
    """What the model takes of batches: ids, the item's vector, and its product with the mean of the history."""
    for batch in batches:
        found = {name: batch[name] for name in (*IDS, LABEL)}
        if "image_id.vectors" in batch:
            image, seen = batch["image_id.vectors"], batch["hist_image_id.vectors"]  # (B, D), (B, H, D)
            mean = seen.sum(1) / batch["hist_image_id.ok"].sum(1, keepdim=True).clamp(min=1)
            found |= {"image": image, "taste": image * mean}
        yield found


def feature_map(sizes: dict[str, int], dim: int) -> FeatureMap:
    """Ids are categorical; a vector of ``dim`` numbers is an embedding that somebody else has made."""
    ids = [(name, {"source": "", "type": "categorical", "vocab_size": size}) for name, size in sizes.items()]
    vectors = [(name, {"source": "", "type": "embedding", "pretrain_dim": dim}) for name in ("image", "taste") if dim]
    made = FeatureMap("clicks", "")
    made.features, made.labels, made.num_fields = OrderedDict(ids + vectors), [LABEL], len(ids) + len(vectors)
    return made


if __name__ == "__main__":
    clicks = read_clicks(Path(sys.argv[1]))
    with ImageClient(sys.argv[2]) as client:
        for pictures in (False, True):
            torch.manual_seed(0)
            training: Any = loader(clicks.train, shuffle=True)
            testing: Any = loader(clicks.test)
            if pictures:
                training, testing = (with_vectors(batches, client, IMAGES) for batches in (training, testing))
            model = Model(feature_map(clicks.sizes, client.info().dim if pictures else 0))
            model._max_gradient_norm = 10.0  # what its fit sets, which wants a validation part as well
            for _ in range(5):
                for batch in features(training):
                    model.train_step(batch)
            found = auc(clicks.test[LABEL], model.predict(features(testing)))
            print(f"{'with pictures' if pictures else 'ids only'}: test AUC {found:.4f}")
