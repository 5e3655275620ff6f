"""``crossmedia.torch.with_vectors``: every batch has the vectors that a lookup id by id would give it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import DaemonProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from test_one_copy import FakeDevice
from torch import Tensor
from torch.utils.data import DataLoader

from crossmedia.errors import BadInput, InvalidRequest, ServerUnavailable, TooManyMissingImages
from crossmedia.imgserver.client import HeadServers, ImageClient, MockTransport
from crossmedia.imgserver.head import Head, HeadSpec
from crossmedia.torch import Ids, ImageHead, with_vectors
from crossmedia.trainer import one_copy
from crossmedia.trainer.images import image_head

DIM, IMAGES = 4, 40
OF_PHOTOS = {i: np.arange(DIM, dtype=np.float32) + i + 1 for i in range(1, IMAGES)}
OF_TITLES = {i: -np.arange(3, dtype=np.float32) - i for i in range(1, IMAGES, 2)}


@pytest.fixture
def client() -> Iterator[ImageClient]:
    with ImageClient(MockTransport(OF_PHOTOS)) as made:
        yield made


def looked_up(ids: Any, vectors: dict[int, npt.NDArray[np.float32]], dim: int) -> tuple[Tensor, Tensor]:
    """One id after the other."""
    flat = [int(image_id) for image_id in np.asarray(ids).reshape(-1)]
    rows = [vectors.get(image_id, np.zeros(dim, np.float32)) for image_id in flat]
    values = torch.tensor(np.array(rows, dtype=np.float32).reshape(*np.shape(ids), dim))
    return values, torch.tensor([image_id in vectors for image_id in flat], dtype=torch.bool).view(np.shape(ids))


def check(batch: dict[str, Any], name: str, ids: Any, vectors: dict[int, Any] = OF_PHOTOS, dim: int = DIM) -> None:
    values, ok = looked_up(ids, vectors, dim)
    assert torch.equal(batch[f"{name}.vectors"], values)
    assert torch.equal(batch[f"{name}.ok"], ok)


# What may hold the same ids.
HOLDERS: dict[str, Any] = {
    "int64 tensor": torch.from_numpy,
    "int32 tensor": lambda ids: torch.from_numpy(ids.astype(np.int32)),
    "float tensor": lambda ids: torch.from_numpy(ids.astype(np.float32)).requires_grad_(),
    "array": lambda ids: ids,
    "big-endian array": lambda ids: ids.astype(">i8"),
    "turned array": lambda ids: np.asfortranarray(ids)[::1],
    "list": lambda ids: ids.tolist(),
    "texts": lambda ids: ids.astype(str).tolist(),
    "objects": lambda ids: ids.astype(object),
}


@st.composite
def columns(draw: st.DrawFn, null: int) -> npt.NDArray[np.int64]:
    shape = draw(st.sampled_from([(0,), (1,), (7,), (3, 4), (2, 0), (2, 3, 2)]))
    some = st.one_of(st.integers(1, IMAGES + 5), st.just(null), st.just(-1))
    return np.array([draw(some) for _ in range(int(np.prod(shape)))], dtype=np.int64).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_is_a_lookup_id_by_id(data: st.DataObject) -> None:
    null = data.draw(st.sampled_from([-1, 0, -100]))
    of = [
        {"target": data.draw(columns(-1)), "history": data.draw(columns(null)), "item": data.draw(columns(-1))}
        for _ in range(data.draw(st.integers(0, 4)))
    ]
    holds = {name: HOLDERS[data.draw(st.sampled_from(list(HOLDERS)))] for name in ("target", "history", "item")}
    if null == -100:  # a text of it is no id, which is refused
        holds["history"] = HOLDERS["array"]
    batches = [{**{name: holds[name](ids) for name, ids in batch.items()}, "label": [0.5]} for batch in of]
    photos, titles = MockTransport(OF_PHOTOS), MockTransport(OF_TITLES)
    spaces = {"photo": ImageClient(photos), "title": ImageClient(titles)}
    named: dict[str, str | Ids] = {"target": "photo", "history": Ids(space="photo", null=null)}
    named["title"] = Ids("item", "title")
    found = list(with_vectors(batches, spaces, named, depth=data.draw(st.integers(1, 3)), max_missing=1))
    assert len(found) == len(of)
    asked = [np.frombuffer(request.image_ids, "<i8") for request in photos.requests]
    assert all((np.diff(ids) > 0).all() and ids.min() >= 0 for ids in asked), "each id once, over both columns"
    for batch, was, ids in zip(found, batches, of, strict=True):
        assert all(batch[name] is value for name, value in was.items()), "what was there is there"
        check(batch, "target", ids["target"])
        check(batch, "history", np.where(ids["history"] == null, -1, ids["history"]))
        check(batch, "title", ids["item"], OF_TITLES, 3)


@dataclass
class Jagged:
    """As TorchRec's JaggedTensor, as far as it is asked."""

    of: Tensor
    begins: Tensor

    def values(self) -> Tensor:
        return self.of

    def offsets(self) -> Tensor:
        return self.begins


class KeyedJagged:
    """As TorchRec's KeyedJaggedTensor: no dict, but with names."""

    def __init__(self, features: dict[str, Jagged]):
        self.features = features

    def keys(self) -> list[str]:
        return list(self.features)

    def values(self) -> Tensor:
        return torch.cat([feature.of for feature in self.features.values()])

    def offsets(self) -> Tensor:
        ends = [feature.begins[1:] - feature.begins[:-1] for feature in self.features.values()]
        return torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(ends).cumsum(0)])

    def __getitem__(self, name: str) -> Jagged:
        return self.features[name]


VALUES, OFFSETS = torch.tensor([3, 1, -1, 9, 3]), torch.tensor([0, 2, 2, 5])


@pytest.mark.parametrize(
    ("held", "how"),
    [
        ({"shown": VALUES}, Ids()),
        ({"shown": VALUES, "begins": OFFSETS}, Ids(offsets="begins")),
        ({"shown": VALUES, "begins": OFFSETS[:-1]}, Ids(offsets="begins")),
        ({"shown": VALUES.tolist(), "begins": OFFSETS.numpy()}, Ids(offsets="begins")),
        ({"shown": tuple(VALUES.tolist())}, Ids()),
        ({"shown": Jagged(VALUES, OFFSETS)}, Ids()),
        ({"sparse": KeyedJagged({"shown": Jagged(VALUES, OFFSETS)})}, Ids(within="sparse")),
        ({"more": {"shown": VALUES, "begins": OFFSETS}}, Ids(within="more", offsets="begins")),
        ({"other": VALUES}, Ids("other")),
        ({"shown": torch.nested.nested_tensor_from_jagged(VALUES, OFFSETS)}, Ids()),
    ],
)
def test_lists_of_uneven_length_have_vectors_of_their_values(client: ImageClient, held: Any, how: Ids) -> None:
    (batch,) = with_vectors([held], client, {"shown": how})
    check(batch, "shown", VALUES)


def test_all_features_of_a_keyed_jagged_tensor_at_once(client: ImageClient) -> None:
    both = KeyedJagged({"a": Jagged(VALUES, OFFSETS), "b": Jagged(VALUES[:2], torch.tensor([0, 1, 1, 2]))})
    (batch,) = with_vectors([{"images": both}], client, "images")
    check(batch, "images", torch.cat([VALUES, VALUES[:2]]))


@pytest.mark.parametrize(
    ("batch", "how", "said"),
    [
        ((torch.tensor([1]), torch.tensor([0])), Ids(), r"type tuple; it must be a dict, .* collate_fn"),
        ([1, 2], Ids(), r"type list; it must be a dict"),
        ({"images": [1]}, Ids(), r"no column 'image'; there are: 'images'. Did you mean 'images'"),
        ({"image": [1], "x": {}}, Ids(within="x"), r"in 'x', has no column 'image'"),
        ({"image": [1], "x": 3}, Ids(within="x"), r"'x', is of type int, which holds no columns"),
        ({"image": [1]}, Ids(offsets="begins"), r"no column 'begins'"),
        ({"image": [1, 1.5]}, Ids(), r"'image' of the batch holds 1\.5 in row 2"),
        ({"image": [[1, 2], [-7, 2]]}, Ids(), r"of shape \(2, 2\) are counted row after row, holds -7 in row 3"),
        (
            {"image": np.array([2**24], np.float32)},
            Ids(),
            r"whole numbers from 16777216 on are not told apart in float",
        ),
        ({"image": np.array([2**63], np.uint64)}, Ids(), r"holds 9223372036854775808 in row 1"),
        ({"image": ["1", "red.jpg"]}, Ids(), r"holds 'red\.jpg' in row 2"),
        ({"image": torch.tensor([True])}, Ids(), r"is of type bool"),
        ({"image": [True, 2]}, Ids(), r"no array of ids: it holds True or False"),
        ({"image": [[2, 3], [np.True_, 2]]}, Ids(), r"no array of ids: it holds True or False"),
        ({"image": [torch.tensor(True), torch.tensor(2)]}, Ids(), r"no array of ids: it holds True or False"),
        ({"image": bytearray(b"12")}, Ids(), r"no array of ids: it is a bytearray"),
        ({"image": memoryview(b"12")}, Ids(), r"no array of ids: it is a memoryview"),
        ({"image": [bytearray(b"12")]}, Ids(), r"no array of ids: it holds bytes"),
        ({"image": torch.tensor([1j])}, Ids(), r"of type complex64"),
        ({"image": torch.tensor([1.0], dtype=torch.bfloat16)}, Ids(), r"no array of ids: .*BFloat16"),
        ({"image": torch.eye(2).to_sparse()}, Ids(), r"no array of ids: .*Sparse"),
        ({"image": [[1], [2, 3]]}, Ids(), r"no array of ids: .* Give ids of one shape, padded; or"),
        ({"image": {1, 2}}, Ids(), r"no array of ids: it is a set"),
        ({"image": {"a": 1}}, Ids(), r"no array of ids: it is a dict"),
        ({"image": None}, Ids(), r"is the one value None; give the ids of many rows"),
        ({"image": torch.tensor(3)}, Ids(), r"is the one value tensor\(3\)"),
        ({"image": [1], "image.ok": 1}, Ids(), r"has a column 'image\.ok' already"),
        (
            {"image": VALUES, "begins": torch.tensor([0, 4, 2])},
            Ids(offsets="begins"),
            r"offsets of 'image' in the batch fall from 4 to 2",
        ),
        ({"image": VALUES, "begins": torch.tensor([1, 5])}, Ids(offsets="begins"), r"do not begin with 0"),
        ({"image": VALUES, "begins": torch.tensor([0, 6])}, Ids(offsets="begins"), r"end at 6, and there are 5 values"),
        (
            {"image": VALUES, "begins": torch.tensor([0.0, 5.0])},
            Ids(offsets="begins"),
            r"are of shape \(2,\) and float32",
        ),
        (
            {"image": VALUES, "begins": torch.tensor([], dtype=torch.int64)},
            Ids(offsets="begins"),
            r"do not begin with 0",
        ),
        ({"image": (VALUES, OFFSETS)}, Ids(), r"no array of ids: it is a tuple of arrays, .* beside their offsets"),
        ({"image": ([5, 7], [0, 1])}, Ids(), r"may be values and offsets, or two columns"),
        ({"image": [[1]], "begins": [0, 1]}, Ids(offsets="begins"), r"for values of shape \(1, 1\)"),
    ],
)
def test_what_is_no_batch_of_ids_is_refused_with_its_place(
    client: ImageClient, batch: Any, how: Ids, said: str
) -> None:
    good = {"image": [1], "x": {"image": [1]}, "begins": [0]}
    batches = iter(with_vectors([good, batch], client, {"image": how}))
    next(batches)
    with pytest.raises(InvalidRequest, match=rf"(?s)^In batch 1 \(the first is 0\): .*{said}"):
        next(batches)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_whose_values_have_gaps_are_refused(client: ImageClient, layout: torch.layout) -> None:
    """And one of the jagged layout, with one list behind the other, is taken."""
    rows = torch.arange(1, 9).reshape(2, 4)
    if layout == torch.jagged:
        gaps = torch.nested.narrow(rows, 1, torch.tensor([0, 1]), torch.tensor([2, 1]), torch.jagged)
    else:
        gaps = torch.nested.nested_tensor([rows[0], rows[1, :2]])
    with pytest.raises(InvalidRequest, match=r"no array of ids: it is a nested tensor, .* or with gaps .* is taken"):
        next(iter(with_vectors([{"image": gaps}], client, "image")))
    taken = torch.nested.nested_tensor([VALUES[:2], VALUES[2:]], layout=torch.jagged)
    (batch,) = with_vectors([{"image": taken}], client, "image")
    check(batch, "image", VALUES)


def test_what_is_masked_is_no_image(client: ImageClient) -> None:
    (batch,) = with_vectors([{"image": np.ma.masked_array([1, 2, 3], [False, True, False])}], client, "image")
    check(batch, "image", [1, -1, 3])
    (batch,) = with_vectors([{"image": [None, 3, float("nan"), "5"]}], client, "image")
    check(batch, "image", [-1, 3, -1, 5])


def test_a_null_that_is_an_image_is_refused_and_not_counted(client: ImageClient) -> None:
    batches = [{"image": [[5, 3], [3, 3]]}]
    with pytest.raises(BadInput, match=r"3 stands for no image in the column 'image', and is the id of an image"):
        next(iter(with_vectors(batches, client, {"image": Ids(null=3)})))
    (batch,) = with_vectors(batches, client, {"image": Ids(null=IMAGES)})
    check(batch, "image", batches[0]["image"])
    assert (client.stats.requested, client.stats.missing) == (2, {})  # each id once


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"loader": 3}, r"loader is 3; it must be an iterable of dicts"),
        ({"images": {}}, r"images is \{\}; it must be an ImageClient, an ImageHead, or a dict"),
        ({"images": "localhost:7070"}, r"images is 'localhost:7070'"),
        ({"columns": {}}, r"columns is \{\}; it must be a column's name"),
        ({"columns": []}, r"columns is \[\]"),
        ({"columns": {"image": 3}}, r"columns\['image'\] is 3"),
        ({"columns": {"image": "title"}}, r"'image' takes vectors of the space 'title'; there are: 'image'"),
        ({"depth": 0}, r"depth is 0; it must be a whole number, at least 1"),
        ({"device": 7}, r"device is 7; it must be a device of PyTorch"),
        ({"device": "gpu"}, r"There is no device 'gpu'"),
        ({"device": "meta"}, r"On the device 'meta' tensors have a shape and no numbers"),
        ({"max_missing": 5}, r"max_missing is 5; it must be a share from 0 to 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(client: ImageClient, more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        with_vectors(**{"loader": [], "images": client, "columns": "image", **more})


def test_of_several_spaces_one_is_named(client: ImageClient) -> None:
    with pytest.raises(BadInput, match=r"there are: 'photo', 'title'\. Say which: columns=\{'image': 'photo'\}"):
        with_vectors([], {"photo": client, "title": client}, "image")
    wrong: dict[str, Any]
    for wrong in ({"null": "0"}, {"null": True}, {"null": 2**70}, {"column": 3}):
        with pytest.raises(BadInput, match="it must be"):
            Ids(**wrong)


def test_a_space_that_no_column_takes_is_not_asked(client: ImageClient) -> None:
    titles = MockTransport(OF_TITLES)
    (batch,) = with_vectors([{"image": [1]}], {"photo": client, "title": ImageClient(titles)}, {"image": "photo"})
    check(batch, "image", [1])
    assert not titles.requests


def test_a_head_that_is_elsewhere_is_refused(client: ImageClient) -> None:
    """The device is where the head is when an epoch begins: a framework may have moved it since the loader was made."""
    images = Local(client, Head(HeadSpec("mine", (DIM, 3))))
    batches = with_vectors([{"image": [1]}], images, "image")
    assert batches.device == torch.device("cpu")
    images.to("meta")
    assert batches.device == torch.device("meta")
    with pytest.raises(BadInput, match=r"The head is on meta, and vectors go to cpu: move it there, head\.to\('cpu'\)"):
        next(iter(with_vectors([{"image": [1]}], images, "image", device="cpu")))
    with pytest.raises(BadInput, match=r"no numbers.*head\.to_empty"):
        next(iter(batches))


def test_epochs_and_lengths_are_those_of_the_loader(client: ImageClient) -> None:
    rows = [{"image": i % IMAGES, "label": float(i % 2)} for i in range(50)]
    loader: DataLoader[Any] = DataLoader(rows, batch_size=8, shuffle=True)  # type: ignore[arg-type]
    batches = with_vectors(loader, client, "image")
    assert (len(batches), batches.dataset, batches.sampler) == (7, rows, loader.sampler)
    for _ in range(2):
        seen = []
        for batch in batches:
            check(batch, "image", batch["image"])
            seen += batch["image"].tolist()
        assert sorted(seen) == sorted(row["image"] for row in rows)
    endless = with_vectors(({"image": [i]} for i in range(1, 4)), client, "image")
    assert [batch["image"] for batch in endless] == [[1], [2], [3]]
    with pytest.raises(TypeError, match="no len"):
        len(endless)
    with pytest.raises(AttributeError, match="'VectorLoader' object has no attribute 'state_dict'"):
        _ = batches.state_dict


def fetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")]


def test_a_loop_that_is_left_early_ends_the_thread(client: ImageClient) -> None:
    for batch in with_vectors(({"image": [i % 9]} for i in range(10**6)), client, "image", depth=3):
        assert fetching()
        if batch["image"] == [3]:
            break
    gc.collect()
    assert not fetching()


class Failing(MockTransport):
    """Is away after some calls."""

    def get_vectors(self, request: Any, timeout_s: float) -> Any:
        if len(self.requests) == 3:
            raise ServerUnavailable("Nobody is there.")
        return super().get_vectors(request, timeout_s)


def test_an_error_comes_at_its_batch_and_ends_the_thread() -> None:
    transport = Failing(OF_PHOTOS)
    client = ImageClient(transport, timeout_s=0.3)
    batches = iter(with_vectors([{"image": [i]} for i in range(1, 9)], client, "image"))
    assert [next(batches)["image"] for _ in range(3)] == [[1], [2], [3]]
    with pytest.raises(ServerUnavailable, match=r"^In batch 3 \(the first is 0\): ") as caught:
        next(batches)
    assert "for batch 3" in caught.value.__notes__[0]
    del caught
    assert not fetching()


def test_an_error_of_the_loader_keeps_its_kind_and_has_its_place(client: ImageClient) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"image": [1]}
        raise KeyError("no such shard")

    batches = iter(with_vectors(broken(), client, "image"))
    next(batches)
    with pytest.raises(KeyError, match="no such shard") as caught:
        next(batches)
    assert "for batch 1" in caught.value.__notes__[0]


def test_too_many_missing_images_stop_the_loop(client: ImageClient) -> None:
    batches = [{"image": list(range(1, 120))}]
    with pytest.raises(TooManyMissingImages, match=r"^In batch 0 .*more than max_missing 5\.0%"):
        list(with_vectors(batches, client, "image"))
    with ImageClient(MockTransport(OF_PHOTOS)) as other:
        assert len(list(with_vectors(batches, other, "image", max_missing=1))) == 1
    with (
        ImageClient(MockTransport(OF_PHOTOS)) as other,
        pytest.raises(TooManyMissingImages, match="Not one of the 2 vectors"),
    ):
        list(with_vectors([{"image": [1000, 2000]}], other, "image"))


def test_what_is_needed_is_read_before_the_server_is_asked(client: ImageClient) -> None:
    """A batch without any id asks nobody, and has vectors of the right width all the same."""
    (batch,) = with_vectors([{"image": torch.zeros(0, 5, dtype=torch.int64)}], client, "image")
    assert batch["image.vectors"].shape == (0, 5, DIM)
    (batch,) = with_vectors([{"image": [-1, -1]}], client, "image")
    check(batch, "image", [-1, -1])


class Local(image_head.LocalHead):
    """A head over what a mock serves, which has no features by name."""

    def fetch(self, image_ids: Any) -> Any:
        return self.source.get(image_ids)


def test_a_head_that_learns_gets_its_gradient(client: ImageClient) -> None:
    torch.manual_seed(0)
    head = Head(HeadSpec("mine", (DIM, 3)))
    images = Local(client, head)
    ids = torch.tensor([[1, 5], [5, -1]])
    (batch,) = with_vectors([{"image": ids, "weight": torch.tensor([1.0, 2.0])}], images, "image")
    (batch["image.vectors"].sum((1, 2)) * batch["weight"]).sum().backward()
    found = {name: weight.grad.clone() for name, weight in head.named_parameters() if weight.grad is not None}
    assert found
    head.zero_grad()
    features, _ = looked_up([1, 5, 5], OF_PHOTOS, DIM)
    (head(features).sum(1) * torch.tensor([1.0, 1.0, 2.0])).sum().backward()
    for name, weight in head.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(found[name], weight.grad)
    with torch.no_grad():
        (batch,) = with_vectors([{"image": ids}], images, "image")
    assert not batch["image.vectors"].requires_grad


def test_a_gradient_passes_through_the_wire(daemon: DaemonProcess) -> None:
    torch.manual_seed(0)
    with HeadServers([daemon.address], run_id="wire") as servers:
        images = ImageHead(servers, Head(HeadSpec("mine", (1280, 3))), servers.backbone())
        assert images.head is not None
        ids = torch.tensor([[1, 5], [5, -1]])
        (batch,) = with_vectors([{"image": ids}], images, "image")
        batch["image.vectors"].square().sum().backward()
        found = [weight.grad.clone() for weight in images.parameters() if weight.grad is not None]
        images.head.zero_grad()
        of_each = images(torch.tensor([1, 5]))
        (of_each.values.square().sum(1) * torch.tensor([1.0, 2.0])).sum().backward()
        wanted = [weight.grad for weight in images.parameters() if weight.grad is not None]
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("ids", [torch.tensor([[1, 5], [5, -1]]), [[1, 5], [5, -1]], [1, 2], Jagged(VALUES, OFFSETS)])
def test_an_image_head_takes_the_same_shapes(client: ImageClient, ids: Any) -> None:
    found = ImageHead(client)(ids)
    values, ok = looked_up(ids.values() if isinstance(ids, Jagged) else ids, OF_PHOTOS, DIM)
    assert torch.equal(found.values, values)
    assert torch.equal(found.ok, ok)
    with pytest.raises(InvalidRequest, match="holds 'a' in row 1"):
        ImageHead(client)(["a"])


def test_a_batch_goes_to_a_gpu_in_one_copy_and_rows_are_gathered_there(
    client: ImageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeDevice(monkeypatch)
    copying = fake._copying

    def noted(packed: Tensor, device: torch.device) -> tuple[Tensor, None]:
        threads.append(threading.current_thread().name)
        return copying(packed, device)

    threads: list[str] = []
    monkeypatch.setattr(one_copy, "_copying", noted)
    monkeypatch.setattr(ImageHead, "device", property(lambda _: fake.device))
    monkeypatch.setattr(ImageHead, "to", lambda images, device: images)
    images = ImageHead(client)
    ids = torch.tensor([[1, 2, -1], [2, 2, 1]])
    batch: dict[str, Any] = {
        "image": ids,
        "target": torch.tensor([2, 90]),
        "y": torch.tensor([0.5, 1.0]),
        "who": ["a", "b"],
    }
    batches = with_vectors([batch, dict(batch)], images, ["image", "target"], max_missing=1)
    taken = list(batches)
    assert fake.copies == 2, "one a batch"
    assert all(name.startswith("fetch") for name in threads), "while the batch before is trained"
    for found in taken:
        check(found, "image", ids)
        check(found, "target", [2, 90])
        assert torch.equal(found["y"], batch["y"])
        assert found["y"].data_ptr() != batch["y"].data_ptr()
        assert found["who"] is batch["who"]
    # Two unique ids in fp16 and one that is missing, not eight rows in fp32.
    vectors = 3 * DIM * 2
    assert fake.bytes <= 2 * sum(-(-size // 256) * 256 for size in (vectors, 3, 6 * 8, 2 * 8, 6 * 8, 2 * 8, 2 * 4))
