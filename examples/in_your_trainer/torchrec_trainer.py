"""TorchRec: ids of pictures are features of the KeyedJaggedTensor, and so are the vectors that come back.

python examples/in_your_trainer/torchrec_trainer.py clicks localhost:7070
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from clicks import IDS, LABEL, loader, read_clicks
from plain_pytorch import measure, train
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from crossmedia import ImageClient
from crossmedia.torch import Ids, with_vectors

KEYS = [*IDS, "image_id", "hist_image_id"]


class Batches:
    """A loader's batches, their ids as one KeyedJaggedTensor; a row has as many pictures as it has."""

    def __init__(self, batches: Iterable[dict[str, Tensor]]):
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches:
            columns = [batch[key].reshape(len(batch[key]), -1) for key in KEYS]
            there = [column >= 0 for column in columns]
            values = torch.cat([column[held] for column, held in zip(columns, there, strict=True)])
            lengths = torch.cat([held.sum(1) for held in there])
            yield {"sparse": KeyedJaggedTensor(KEYS, values, lengths=lengths), LABEL: batch[LABEL]}


class Model(nn.Module):
    """An EmbeddingBagCollection; with pictures, the mean vector of each column of a row, and the product of both."""

    def __init__(self, sizes: dict[str, int], dim: int):
        super().__init__()
        self.dim = dim
        tables = [EmbeddingBagConfig(name=n, embedding_dim=8, num_embeddings=sizes[n], feature_names=[n]) for n in IDS]
        self.bags = EmbeddingBagCollection(tables=tables)
        self.top = nn.Sequential(nn.Linear(8 * len(IDS) + 2 * dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Logits, shape (B,)."""
        parts = [self.bags(batch["sparse"]).values()]
        if self.dim:
            image, history = (self.pooled(batch, name) for name in ("image_id", "hist_image_id"))
            parts += [image, image * history]
        return self.top(torch.cat(parts, dim=1)).squeeze(1)  # type: ignore[no-any-return]

    def pooled(self, batch: dict[str, Any], name: str) -> Tensor:
        """Means of each row's vectors, (V, D) to (B, D); a row without a picture has zeros."""
        offsets = batch["sparse"][name].offsets()
        return torch.segment_reduce(batch[f"{name}.vectors"], "mean", offsets=offsets, initial=0)


if __name__ == "__main__":
    clicks = read_clicks(Path(sys.argv[1]))
    columns = {"image_id": Ids(within="sparse"), "hist_image_id": Ids(within="sparse")}
    with ImageClient(sys.argv[2]) as client:
        for pictures in (False, True):
            torch.manual_seed(0)
            training: Any = Batches(loader(clicks.train, shuffle=True))
            testing: Any = Batches(loader(clicks.test))
            if pictures:
                training, testing = (with_vectors(batches, client, columns) for batches in (training, testing))
            model = Model(clicks.sizes, client.info().dim if pictures else 0)
            train(model, training)
            print(f"{'with pictures' if pictures else 'ids only'}: test AUC {measure(model, testing):.4f}")
