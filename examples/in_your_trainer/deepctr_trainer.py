"""DeepCTR-Torch: vectors are dense features of the batch's matrix, behind the columns of ids.

python examples/in_your_trainer/deepctr_trainer.py clicks localhost:7070
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from clicks import IDS, IMAGES, LABEL, loader, read_clicks
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from crossmedia import ImageClient
from crossmedia.torch import with_vectors
from crossmedia.trainer.metrics import auc

# When it is imported the library asks a server whether it is up to date; without this line it does that here, too.
sys.modules["deepctr_torch.utils"] = ModuleType("deepctr_torch.utils")
sys.modules["deepctr_torch.utils"].check_version = lambda version: None  # type: ignore[attr-defined]

from deepctr_torch.inputs import DenseFeat, SparseFeat  # noqa: E402
from deepctr_torch.models import DeepFM  # noqa: E402


def matrix(batch: dict[str, Tensor]) -> Tensor:
    """A batch as the library's models take it, (B, F): a column for each id, and one for each number of a vector."""
    columns = [batch[name][:, None].float() for name in IDS]  # as in its fit; 32 bits hold ids below 2^24
    if "image_id.vectors" in batch:
        image, seen = batch["image_id.vectors"], batch["hist_image_id.vectors"]  # (B, D), (B, H, D)
        mean = seen.sum(1) / batch["hist_image_id.ok"].sum(1, keepdim=True).clamp(min=1)
        columns += [image, image * mean]
    return torch.cat(columns, dim=1)


def train(model: Any, batches: Any, epochs: int = 5) -> None:
    """The body of the library's fit, which takes whole arrays; here a batch is made when its vectors are there."""
    model.compile(torch.optim.Adam(model.parameters(), lr=3e-3), "binary_crossentropy")
    for _ in range(epochs):
        for batch in batches:
            predicted = model(matrix(batch)).squeeze(1)
            loss = binary_cross_entropy(predicted, batch[LABEL]) + model.get_regularization_loss()
            model.optim.zero_grad()
            loss.backward()
            model.optim.step()


if __name__ == "__main__":
    clicks = read_clicks(Path(sys.argv[1]))
    with ImageClient(sys.argv[2]) as client:
        for pictures in (False, True):
            torch.manual_seed(0)
            training: Any = loader(clicks.train, shuffle=True)
            testing: Any = loader(clicks.test)
            ids = [SparseFeat(name, clicks.sizes[name], 8) for name in IDS]
            vectors = []
            if pictures:
                training, testing = (with_vectors(batches, client, IMAGES) for batches in (training, testing))
                vectors = [DenseFeat(name, client.info().dim) for name in ("image", "taste")]
            model = DeepFM(ids, [*ids, *vectors], dnn_hidden_units=(64,), seed=0)
            train(model, training)
            with torch.no_grad():
                scores = np.concatenate([model(matrix(batch)).squeeze(1).numpy() for batch in testing])
            print(f"{'with pictures' if pictures else 'ids only'}: test AUC {auc(clicks.test[LABEL], scores):.4f}")
