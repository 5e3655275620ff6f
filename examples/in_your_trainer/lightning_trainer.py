"""Lightning: what with_vectors makes is a loader like any other, so Trainer.fit takes it.

python examples/in_your_trainer/lightning_trainer.py clicks localhost:7070
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from clicks import IMAGES, LABEL, loader, read_clicks
from plain_pytorch import Model
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from crossmedia import ImageClient
from crossmedia.torch import with_vectors
from crossmedia.trainer.metrics import auc


class Clicking(lightning.LightningModule):  # type: ignore[misc]
    """The model of the plain loop, in Lightning's words."""

    def __init__(self, sizes: dict[str, int], dim: int):
        super().__init__()
        self.model = Model(sizes, dim)
        self.found: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """The loss of a batch."""
        return binary_cross_entropy_with_logits(self.model(batch), batch[LABEL])

    def test_step(self, batch: dict[str, Tensor], number: int) -> None:
        """Keep what is measured at the end."""
        self.found.append((batch[LABEL], self.model(batch)))

    def on_test_epoch_end(self) -> None:
        """AUC."""
        labels, scores = (torch.cat(column).cpu().numpy() for column in zip(*self.found, strict=True))
        self.log("auc", auc(labels, scores))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    clicks = read_clicks(Path(sys.argv[1]))
    with ImageClient(sys.argv[2]) as client:
        for pictures in (False, True):
            lightning.seed_everything(0, verbose=False)
            training: Any = loader(clicks.train, shuffle=True)
            testing: Any = loader(clicks.test)
            if pictures:
                training, testing = (with_vectors(batches, client, IMAGES) for batches in (training, testing))
            module = Clicking(clicks.sizes, client.info().dim if pictures else 0)
            quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
            trainer = lightning.Trainer(max_epochs=5, enable_checkpointing=False, **quiet)
            trainer.fit(module, training)
            found = trainer.test(module, testing, verbose=False)[0]["auc"]
            print(f"{'with pictures' if pictures else 'ids only'}: test AUC {found:.4f}")
