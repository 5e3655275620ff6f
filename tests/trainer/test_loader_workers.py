"""Clients in the workers of a ``DataLoader``, however those are started, and loaders whose batches get vectors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DaemonProcess
from torch import Tensor, distributed, multiprocessing, nn
from torch.utils.data import DataLoader, Dataset

import crossmedia
from crossmedia.errors import BadInput, CrossMediaError
from crossmedia.imgserver.client import HeadServers, ImageClient, MockTransport
from crossmedia.imgserver.head import Head, HeadSpec
from crossmedia.torch import with_vectors
from crossmedia.trainer.images.image_head import LocalHead

CONTEXTS = ("fork", "spawn", "forkserver")
ROWS = 12


class Fetching(Dataset[Any]):
    """Its workers ask for vectors by a client that it holds, and by one of a store that each opens when first asked."""

    def __init__(self, held: ImageClient, store: Path | None = None):
        self.held, self.store = held, store
        self.own: ImageClient | None = None

    def __len__(self) -> int:
        return ROWS

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        if self.own is None and self.store is not None:
            self.own = crossmedia.open_store(self.store)
        try:
            return vectors(self.held, rows), vectors(self.own or self.held, rows)
        except CrossMediaError as error:  # a worker's error is a text in the process that asks
            raise RuntimeError(f"{type(error).__name__}: {error}") from None


class Reading(Dataset[Any]):
    """Its workers read ids alone."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"image_id": row, "history": torch.tensor([row, -1])}


def as_it_is(batch: Any) -> Any:
    return batch


def loader(rows: Dataset[Any], context: str, **more: Any) -> DataLoader[Any]:
    return DataLoader(rows, batch_size=4, num_workers=2, multiprocessing_context=context, **more)


def vectors(client: ImageClient, rows: list[int]) -> Tensor:
    return torch.tensor(client.get(rows).values.astype(np.float32))


@pytest.mark.parametrize("context", CONTEXTS)
def test_clients_work_in_workers(daemon: DaemonProcess, store: Path, photos: Path, context: str) -> None:
    """One of a daemon that was used before; and one of a store that is open here, which each worker opens anew."""
    with ImageClient(daemon.address) as client, crossmedia.open_store(store, catalogue=photos) as local:
        here = vectors(client, list(range(ROWS)))
        assert torch.equal(vectors(local, list(range(ROWS))), here)
        of = loader(Fetching(client, store), context, collate_fn=as_it_is, persistent_workers=True)
        for _ in range(2):
            held, own = (torch.cat(parts) for parts in zip(*of, strict=True))
            assert torch.equal(held, here)
            assert torch.equal(own, here)
        assert client.get([1]).ok.all(), "it still works here"
        local.put({4711: (photos / "001.jpg").read_bytes()})
        assert local.get([1, 4711]).ok.all(), "so does the store, which still takes photos"


def test_a_client_of_a_store_says_what_happened(store: Path) -> None:
    with crossmedia.open_store(store) as client:
        client.get([1])
        with pytest.raises(RuntimeError, match=r"StoreError: .*opened before this process was forked.*Open it again"):
            list(loader(Fetching(client), "fork", collate_fn=as_it_is))
        for context in ("spawn", "forkserver"):
            with pytest.raises(BadInput, match=r"Open the store there, in the worker, with crossmedia\.open_store"):
                list(loader(Fetching(client), context, collate_fn=as_it_is))


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_loader_with_workers_gets_vectors(daemon: DaemonProcess, context: str) -> None:
    """Also where another loader forks its workers while the thread of the first one fetches."""
    with ImageClient(daemon.address) as client:
        here = vectors(client, list(range(ROWS)))
        train = with_vectors(loader(Reading(), context, persistent_workers=True), client, ["image_id", "history"])
        validation = with_vectors(loader(Reading(), "fork"), client, "image_id")
        for _ in range(2):
            for number, batch in enumerate(train):
                assert torch.equal(batch["image_id.vectors"], here[batch["image_id"]])
                assert torch.equal(batch["history.vectors"][:, 0], batch["image_id.vectors"])
                assert batch["history.ok"].tolist() == [[True, False]] * 4
                if number == 1:
                    assert torch.equal(torch.cat([other["image_id.vectors"] for other in validation]), here)


def test_servers_of_a_head_connect_anew(daemon: DaemonProcess) -> None:
    with HeadServers([daemon.address], run_id="mine") as servers:
        backbone = servers.backbone()
        with pickle.loads(pickle.dumps(servers)) as again:
            assert (again.backbone(), again.run_id) == (backbone, "mine")


VECTORS = {image_id: np.arange(4, dtype=np.float32) + image_id for image_id in range(ROWS)}


class OverAMock(LocalHead):
    """A head over what a mock serves, which has no features by name."""

    def fetch(self, image_ids: Any) -> Any:
        return self.source.get(image_ids)


class Trained(nn.Module):
    """A model with the head that makes its vectors, as ``DistributedDataParallel`` wraps it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.images = OverAMock(ImageClient(MockTransport(VECTORS)), Head(HeadSpec("mine", (4, 3))))
        self.last = nn.Linear(3, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, a mean."""
        logits: Tensor = self.last(batch["image_id.vectors"].tanh())
        return logits.square().mean()


def gradients(ids: Tensor, model: Trained, wrapped: nn.Module) -> dict[str, Tensor]:
    (batch,) = with_vectors([{"image_id": ids}], model.images, "image_id")
    wrapped(batch).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def one_of_two(rank: int, address: str, ids: Tensor, out: str) -> None:
    """A process that trains on its half of the rows."""
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = Trained()
    own = gradients(ids.view(2, -1)[rank], model, nn.parallel.DistributedDataParallel(model))
    torch.save(own, f"{out}/{rank}.pt")
    distributed.destroy_process_group()


def test_processes_that_train_one_head_get_one_gradient(tmp_path: Path) -> None:
    ids, alone = torch.arange(ROWS), Trained()
    multiprocessing.spawn(one_of_two, (f"file://{tmp_path}/meet", ids, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call, attr-defined]
    wanted = gradients(ids, alone, alone)
    assert any(name.startswith("images.head") for name in wanted)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient)
