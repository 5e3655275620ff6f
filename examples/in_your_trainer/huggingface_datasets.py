"""Hugging Face datasets: ids go into the data set, pictures stay where they are.

python examples/in_your_trainer/huggingface_datasets.py clicks localhost:7070
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from clicks import BATCH, IMAGES, read_clicks
from datasets import Dataset
from plain_pytorch import Model, measure, train
from torch import Tensor

from crossmedia import ImageClient
from crossmedia.torch import with_vectors


class Batches:
    """A data set's batches, in another order each time."""

    def __init__(self, rows: Dataset, shuffle: bool = False):
        self.rows, self.shuffle, self.epoch = rows.with_format("torch"), shuffle, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.epoch += 1
        rows = self.rows.shuffle(seed=self.epoch) if self.shuffle else self.rows
        return rows.iter(batch_size=BATCH)  # type: ignore[no-any-return]


if __name__ == "__main__":
    clicks = read_clicks(Path(sys.argv[1]))
    with ImageClient(sys.argv[2]) as client:
        for pictures in (False, True):
            torch.manual_seed(0)
            training: Any = Batches(Dataset.from_dict(clicks.train), shuffle=True)
            testing: Any = Batches(Dataset.from_dict(clicks.test))
            if pictures:
                training, testing = (with_vectors(batches, client, IMAGES) for batches in (training, testing))
            model = Model(clicks.sizes, client.info().dim if pictures else 0)
            train(model, training)
            print(f"{'with pictures' if pictures else 'ids only'}: test AUC {measure(model, testing):.4f}")
