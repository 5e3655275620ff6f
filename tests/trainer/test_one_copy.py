"""A batch goes to a device that trains in one copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmedia.features.batch import Batch, BatchImages, Jagged
from crossmedia.trainer import one_copy
from crossmedia.trainer.tensors import to_tensors

CPU = torch.device("cpu")


class FakeDevice:
    """Counts what is copied to a device that this machine lacks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.device, self.copies, self.bytes = torch.device("cuda:7"), 0, 0
        monkeypatch.setattr(one_copy, "_pinned", lambda size, device: torch.full((size,), 255, dtype=torch.uint8))
        monkeypatch.setattr(one_copy, "_moved", self._moved)

    def _moved(self, packed: Tensor, device: torch.device) -> Tensor:
        assert device == self.device
        self.copies, self.bytes = self.copies + 1, self.bytes + packed.numel()
        return packed.clone()


def a_batch(rows: int = 5) -> Batch:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, rows))])
    n = int(offsets[-1])
    images = BatchImages(
        np.arange(7), rng.integers(0, 9, 7), rng.integers(-1, 7, rows), Jagged(np.zeros(n, int), offsets)
    )
    return Batch(
        {"click": rng.random(rows).astype(np.float32)},
        np.arange(rows),
        {"item_id": rng.integers(0, 9, rows), "user_id": rng.integers(0, 9, rows)},
        {"item_id": Jagged(rng.integers(0, 9, n), offsets), "action": Jagged(rng.integers(0, 3, n), offsets)},
        rng.integers(1, 1 << 30, n),
        {"title": Jagged(rng.integers(0, 9, n), offsets), "brand": Jagged(np.zeros(0, int), np.zeros(rows + 1, int))},
        images,
    )


def flat(of: object) -> dict[str, Tensor]:
    """All tensors below an object, by where they stand."""
    found: dict[str, Tensor] = {}

    def look(name: str, value: object) -> None:
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, one in value.items():
                look(f"{name}.{key}", one)
        elif isinstance(value, tuple):
            for place, one in enumerate(value):
                look(f"{name}.{place}", one)
        elif hasattr(value, "__dict__"):
            look(name, vars(value))

    look("", of)
    return found


def test_a_batch_is_one_copy_and_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = a_batch()
    here, fake = flat(to_tensors(batch, CPU)), FakeDevice(monkeypatch)
    there = flat(to_tensors(batch, fake.device))
    assert fake.copies == 1
    assert here.keys() == there.keys()
    assert {".labels.click", ".text.title.1", ".text.brand.0", ".images.history", ".history_age"} < here.keys()
    for name, tensor in here.items():
        assert torch.equal(tensor, there[name]), name
        assert tensor.dtype == there[name].dtype
    np.testing.assert_array_equal(here[".text.title.1"], np.repeat(np.arange(5), batch.text["title"].lengths))


def test_fetched_vectors_are_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDevice(monkeypatch)
    values, ok = np.random.default_rng(0).random((3, 4)).astype(np.float32), np.array([True, False, True])
    values.flags.writeable = False  # as the bytes of a reply are
    moved, known = one_copy.copied([values, ok], fake.device)
    assert fake.copies == 1
    assert torch.equal(moved, torch.from_numpy(values.copy()))
    assert known.tolist() == ok.tolist()


def test_nothing_is_copied_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDevice(monkeypatch)
    (empty,) = one_copy.copied([np.zeros((0, 4), dtype=np.float16)], fake.device)
    assert (empty.shape, empty.dtype) == ((0, 4), torch.float16)


def test_on_a_cpu_memory_is_shared_where_it_may_be_written() -> None:
    array = np.zeros(3)
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    shared, own = one_copy.copied([array, fixed], CPU)
    array[0] = 1
    own[0] = 1
    assert (shared[0].item(), fixed[0]) == (1, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gets_the_same_numbers_while_it_computes() -> None:
    device, batch = torch.device("cuda"), a_batch(500)
    here, busy = flat(to_tensors(batch, CPU)), torch.randn(4096, 4096, device=device)
    for _ in range(20):
        busy = busy @ busy / 64
        there = flat(to_tensors(batch, device))
        assert all(torch.equal(tensor, there[name].cpu()) for name, tensor in here.items())
