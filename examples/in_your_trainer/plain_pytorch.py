"""A loop of your own: with_vectors around its loader, and the vectors are in the batch.

python examples/in_your_trainer/plain_pytorch.py clicks localhost:7070
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from clicks import IDS, IMAGES, LABEL, loader, read_clicks
from torch import Tensor, nn

from crossmedia import ImageClient
from crossmedia.torch import with_vectors
from crossmedia.trainer.metrics import auc

Batches = Iterable[dict[str, Tensor]]


class Model(nn.Module):
    """Embeddings of ids; with pictures, the item's vector, and its product with the mean of those of the history."""

    def __init__(self, sizes: dict[str, int], dim: int):
        super().__init__()
        self.dim, self.tables = dim, nn.ModuleDict({name: nn.Embedding(sizes[name], 8) for name in IDS})
        self.top = nn.Sequential(nn.Linear(8 * len(IDS) + 2 * dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits, shape (B,)."""
        parts = [table(batch[name]) for name, table in self.tables.items()]
        if self.dim:
            image, seen = batch["image_id.vectors"], batch["hist_image_id.vectors"]  # (B, D), (B, H, D)
            mean = seen.sum(1) / batch["hist_image_id.ok"].sum(1, keepdim=True).clamp(min=1)
            parts += [image, image * mean]
        return self.top(torch.cat(parts, dim=1)).squeeze(1)  # type: ignore[no-any-return]


def train(model: nn.Module, batches: Batches, epochs: int = 5) -> None:
    """Adam on the log loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in batches:
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch[LABEL])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def measure(model: nn.Module, batches: Batches) -> float:
    """AUC."""
    with torch.no_grad():
        found = [(batch[LABEL].numpy(), model(batch).numpy()) for batch in batches]
    labels, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return auc(labels, scores)


if __name__ == "__main__":
    clicks = read_clicks(Path(sys.argv[1]))
    with ImageClient(sys.argv[2]) as client:
        for pictures in (False, True):
            torch.manual_seed(0)
            training: Batches = loader(clicks.train, shuffle=True)
            testing: Batches = loader(clicks.test)
            if pictures:
                training, testing = (with_vectors(batches, client, IMAGES) for batches in (training, testing))
            model = Model(clicks.sizes, client.info().dim if pictures else 0)
            train(model, training)
            print(f"{'with pictures' if pictures else 'ids only'}: test AUC {measure(model, testing):.4f}")
