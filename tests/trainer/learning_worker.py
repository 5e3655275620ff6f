"""A worker that trains a DIN with a head on servers, for tests: started once for each rank, as torchrun would.

    python learning_worker.py --samples S --servers a:1,b:2 --rank 0 --world 2 --meeting FILE --out DIR

It says ``step N`` on standard output after each step. Without ``--servers`` features come from ``--store`` and plain
autograd does the rest: no part of the fetch path is used, so this is what the others are compared with.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crossmedia import imgserver
from crossmedia.features.batch import Batch, concatenate
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import HeadServers, ImageClient
from crossmedia.imgserver.head import Head, HeadSpec, new_head
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models import make
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.tensors import ImageVectors, to_tensors

CPU = torch.device("cpu")


class Learner(nn.Module):
    """Loss of a batch; the model and the head below one module, as DDP wants it."""

    def __init__(self, model: Model, images: ImageHead):
        super().__init__()
        self.model, self.images = model, images

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss."""
        return self.model.loss(to_tensors(batch, CPU), {"image": self.images(batch.items.vectors["image"].unique)})


class Plain(nn.Module):
    """The same with all features in memory and no code of ours between them and the loss."""

    def __init__(self, model: Model, head: Head, features: dict[int, Tensor]):
        super().__init__()
        self.model, self.head, self.features = model, head, features

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss."""
        unique = batch.items.vectors["image"].unique.tolist()
        ok = torch.tensor([i in self.features for i in unique])
        values = self.head(torch.stack([self.features.get(i, torch.zeros(1280)) for i in unique]))
        vectors = ImageVectors(torch.where(ok[:, None], values, 0.0), ok)
        return self.model.loss(to_tensors(batch, CPU), {"image": vectors})


def batches(samples: Samples, rows: int, rank: int, world: int) -> Iterator[Batch]:
    """Each rank's part of batches of ``rows`` rows; all of it for one process, in the same order."""
    epoch = 0
    while True:
        parts = []
        for batch in samples.batches("train", rows // 2, shuffle_seed=0, epoch=epoch):
            parts.append(batch)
            if len(parts) == 2:
                if all(len(part) == rows // 2 for part in parts):
                    yield concatenate(parts) if world == 1 else parts[rank]
                parts = []
        epoch += 1


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", required=True)
    parser.add_argument("--servers", default="")
    parser.add_argument("--store", default="")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--meeting", default="")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--out", required=True)
    parser.add_argument("--die-between", type=int, default=-1, help="end by force in this step, before backward")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.world > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        meeting = f"file://{arguments.meeting}"
        torch.distributed.init_process_group(
            "gloo", init_method=meeting, rank=arguments.rank, world_size=arguments.world
        )
    samples = Samples(arguments.samples)
    local = ImageClient(imgserver.open_local(arguments.store))
    backbone = local.info().backbone
    found = local.get(np.arange(local.info().contents.images_stored), version=backbone)
    features = {i: torch.from_numpy(found.values[i]).float() for i in range(len(found)) if found.ok[i]}
    torch.manual_seed(7)
    first = np.stack([feature.numpy() for feature in features.values()])
    widths = (256, 64, 12) if len(first) > 256 else (64, 32, 12)
    head = new_head(HeadSpec("learned", (1280, *widths)), first, "pca", backbone)
    # prelu: Dice takes the mean over a batch, which is another one when the batch is split over workers.
    model = make("din", InputSpec.of(samples, {"image": 12}), 8, {"activation": "prelu"})
    # At its kink the gradient of a PReLU jumps. In 100 steps some number lies so near to it that the order of a sum
    # decides on its side, which then shows in every weight, in one process too. With slopes of 1 there is no kink yet.
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    learner: nn.Module
    if arguments.servers:
        servers = HeadServers(arguments.servers.split(","), f"run-{arguments.rank}", timeout_s=30)
        learner = Learner(model, ImageHead(servers, head, backbone))
    else:
        learner = Plain(model, head, features)
    local.close()
    learner.train()
    trained = DistributedDataParallel(learner) if arguments.world > 1 else learner
    optimizer = torch.optim.Adam(learner.parameters(), lr=arguments.learning_rate)
    stream = batches(samples, arguments.rows, arguments.rank, arguments.world)
    for step, batch in zip(range(arguments.steps), stream, strict=False):
        loss = trained(batch)
        if step == arguments.die_between:
            os._exit(9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}", flush=True)
    weights = {f"head.{name}": value for name, value in head.state_dict().items()}
    weights |= {f"model.{name}": value for name, value in model.state_dict().items()}
    save_file(weights, Path(arguments.out) / f"{arguments.rank}.safetensors")
    if arguments.world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
