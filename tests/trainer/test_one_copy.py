"""A batch goes to a device that trains in one copy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from shop_samples import make_shop
from torch import Tensor

from crossmedia.features.batch import Batch, Jagged
from crossmedia.features.columns import IMAGE
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer import one_copy
from crossmedia.trainer.tensors import Bag, to_tensors

CPU = torch.device("cpu")


class FakeDevice:
    """Counts what is copied to a device that this machine lacks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.device, self.copies, self.bytes = torch.device("cuda:7"), 0, 0
        monkeypatch.setattr(one_copy, "_pinned", lambda size, device: torch.full((size,), 255, dtype=torch.uint8))
        monkeypatch.setattr(one_copy, "_copying", self._copying)

    def _copying(self, packed: Tensor, device: torch.device) -> tuple[Tensor, None]:
        assert device == self.device
        self.copies, self.bytes = self.copies + 1, self.bytes + packed.numel()
        return packed.clone(), None


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Samples(make_shop(tmp_path_factory.mktemp("shop")))


def a_batch(samples: Samples, rows: int = 50) -> Batch:
    return next(samples.batches("train", rows))


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


def test_a_batch_is_one_copy_and_the_same_numbers(monkeypatch: pytest.MonkeyPatch, samples: Samples) -> None:
    batch = a_batch(samples)
    here, fake = flat(to_tensors(batch, CPU)), FakeDevice(monkeypatch)
    there = flat(to_tensors(batch, fake.device))
    assert fake.copies == 1
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        assert torch.equal(tensor.nan_to_num(7), there[name].nan_to_num(7)), name  # a number that is missing is nan
        assert tensor.dtype == there[name].dtype


def test_each_array_of_a_batch_is_where_it_belongs(monkeypatch: pytest.MonkeyPatch, samples: Samples) -> None:
    batch, fake = a_batch(samples), FakeDevice(monkeypatch)
    found, items = to_tensors(batch, fake.device), batch.items
    own: dict[str, tuple[Mapping[str, Tensor], Mapping[str, np.ndarray]]] = {
        "labels": (found.labels, batch.labels),
        "ids": (found.ids, batch.ids),
        "numbers": (found.numbers, batch.numbers),
        "ids of items": (found.items.ids, items.ids),
        "numbers of items": (found.items.numbers, items.numbers),
    }
    for name, (tensors, arrays) in own.items():
        assert arrays, name
        assert tensors.keys() == arrays.keys(), name
        for column, array in arrays.items():
            np.testing.assert_array_equal(tensors[column].numpy(), array, column)
    lists: dict[str, tuple[Mapping[str, Bag], Mapping[str, Jagged]]] = {
        "of rows": (found.lists, batch.lists),
        "of items": (found.items.lists, items.lists),
        "text": (found.text, {name: tokens.take(batch.target) for name, tokens in items.text.items()}),
        "vectors": (found.items.vectors, {name: keys.of_items for name, keys in items.vectors.items()}),
    }
    for name, (bags, jagged) in lists.items():
        assert jagged, name
        assert bags.keys() - jagged.keys() == ({IMAGE} if name == "of items" else set())
        for column, values in jagged.items():
            np.testing.assert_array_equal(bags[column].values.numpy(), values.values, column)
            np.testing.assert_array_equal(
                bags[column].owners.numpy(), np.repeat(np.arange(len(values)), values.lengths)
            )
    np.testing.assert_array_equal(found.target.numpy(), batch.target)
    np.testing.assert_array_equal(found.history.numpy(), batch.history.values)
    np.testing.assert_array_equal(found.action.numpy(), batch.action)
    np.testing.assert_array_equal(found.lengths.numpy(), batch.history.lengths)
    np.testing.assert_array_equal(found.segments.numpy(), np.repeat(np.arange(50), batch.history.lengths))


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
def test_a_gpu_gets_the_same_numbers_while_it_computes(samples: Samples) -> None:
    device, batch = torch.device("cuda"), a_batch(samples, 500)
    here, busy = flat(to_tensors(batch, CPU)), torch.randn(4096, 4096, device=device)
    for _ in range(20):
        busy = busy @ busy / 64
        there = flat(to_tensors(batch, device))
        assert all(torch.equal(tensor.nan_to_num(7), there[name].cpu().nan_to_num(7)) for name, tensor in here.items())
