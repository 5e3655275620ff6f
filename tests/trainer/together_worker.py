"""A process of several that train together, for tests: started by torchrun, or alone.

    torchrun --standalone --nproc-per-node 3 together_worker.py --folder F --models lr,din --out OUT

``F`` holds ``samples`` and ``vectors.npy``. Before it trains it writes what layers gave here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from concept_cards import card_of, version_of
from safetensors.torch import save_file

from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import MockTransport
from crossmedia.trainer import processes
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.layers.batch_norm import BatchNorm
from crossmedia.trainer.layers.inputs import InputSpec, ModelInputs
from crossmedia.trainer.layers.sharded import ShardedEmbedding, held_rows, shard_tables
from crossmedia.trainer.metrics.gather import gather_rows


def normalised(parts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a layer does to the part of this process, and to itself: outputs, gradients, averages."""
    layer = BatchNorm(3)
    own = parts[processes.rank()].clone().requires_grad_()
    out = layer(own)
    # A loss that is no sum of equal parts; its gradient reaches every row through mean and variance.
    (out * torch.arange(1.0, 4.0) * (1 + own.detach())).pow(2).sum().backward()
    assert own.grad is not None
    assert layer.weight.grad is not None
    weight_gradient = processes.summed(layer.weight.grad)
    rows, gradients = gather_rows(out.detach().numpy(), own.grad.numpy())
    found = {"out": torch.from_numpy(rows), "gradient": torch.from_numpy(gradients), "gamma": weight_gradient}
    return found | {"mean": layer.running_mean, "var": layer.running_var}


def looked_up() -> dict[str, torch.Tensor]:
    """What lookups in a table of 10 rows, spread over three processes, give, and the gradients of its rows."""
    table = torch.nn.Embedding(10, 2, _weight=torch.arange(20.0).view(10, 2))
    model = torch.nn.Module()
    model.inputs = ModelInputs(InputSpec({"item_id": 10}, {}, {}, 0, 0), 2)
    model.inputs.tables["item_id"] = table
    names = shard_tables(model, 9, torch.device("cpu"))
    assert names == ["inputs.tables.item_id.weight"]
    spread = model.inputs.tables["item_id"]
    assert isinstance(spread, ShardedEmbedding)
    ids = [torch.tensor([9, 0, 4, 4]), torch.tensor([], dtype=torch.int64), torch.tensor([4, 3])][processes.rank()]
    out = spread(ids)
    (out * (1 + processes.rank())).sum().backward()
    weight, gradient, first = held_rows(spread.weight)
    assert gradient.shape == weight.shape
    held = torch.full((10,), -1.0)
    held[first : first + len(weight)] = processes.rank()
    rows = gather_rows(out.detach().numpy(), weight.new_full((len(out),), processes.rank()).numpy())[0]
    gradients = gather_rows(gradient.numpy())[0]
    return {
        "rows": torch.from_numpy(rows),
        "gradients": torch.from_numpy(gradients),
        "holder": torch.from_numpy(gather_rows(held.numpy()[held.numpy() >= 0])[0]),
        "whole": spread.whole().weight.detach(),
    }


def main() -> None:
    """Train each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--others-samples", type=Path, help="what all processes but the first train on")
    parser.add_argument("--shard-tables", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with processes.joined("cpu"):
        rows = torch.randn(11, 3, generator=torch.Generator().manual_seed(1)) * 3 + 50
        # Uneven parts, one of them empty.
        found = looked_up() if arguments.shard_tables else {}
        found |= normalised([rows[:4], rows[4:4], rows[4:]] if processes.world() == 3 else [rows, rows[:0]])
        samples = arguments.folder / "samples"
        if arguments.others_samples and processes.rank():
            samples = arguments.others_samples
        vectors = dict(enumerate(np.load(arguments.folder / "vectors.npy")))
        transport = MockTransport(vectors, version=version_of(8), card=card_of(8))
        arguments.out.mkdir(exist_ok=True)
        if processes.rank() == 0:
            save_file(found, arguments.out / "layers.safetensors")
        # The last batch of an epoch has fewer rows than there are processes.
        batch_size = next(size for size in range(60, 200) if 0 < Samples(samples).rows("train") % size < 3)
        for model in arguments.models.split(","):
            config = FitConfig(
                str(samples),
                str(arguments.out / model),
                model=model,
                options={"auxiliary": 0.0} if model == "dien" else {},  # it draws from the rows of a process
                epochs=2,
                patience=9,
                batch_size=batch_size,
                width=4,
                embedding_l2=0.1 if model == "din" else 0.0,
                negative_rate=0.7 if model == "embedding_mlp" else 1.0,
                shard_tables=arguments.shard_tables,
            )
            fit(config, transport)


if __name__ == "__main__":
    main()
