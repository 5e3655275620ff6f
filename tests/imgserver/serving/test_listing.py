"""What a server tells of its images and versions, and who may activate one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS as PHOTOS_FOLDER
from conftest import DaemonProcess, copy_store, run_command

from crossmedia import ImageClient
from crossmedia.errors import InvalidRequest, PermissionDenied, VersionMismatch
from crossmedia.imgserver.client import ClientSecurity, ListedImages, Status
from crossmedia.imgserver.client.listing import NEVER
from crossmedia.imgserver.client.transports import LocalTransport
from crossmedia.imgserver.serving.service import ImageService
from crossmedia.imgserver.wire import GET_INFO, LIST_IMAGES, LIST_VERSIONS
from crossmedia.v1 import image_server_pb2 as pb

EMBEDDED, PHOTOS = 100, 243
TOKENS = {"reader": ("read", "r" * 24), "chief": ("admin", "a" * 24)}


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[ImageClient]:
    with ImageClient(daemon.address) as client:
        yield client


def in_pages(client: ImageClient, limit: int, **asked: Any) -> ListedImages:
    """All images of a list, a page at a time."""
    ids: list[Any] = []
    status: list[Any] = []
    start = 0
    while True:
        page = client.images(start, limit, **asked)
        if not len(page):
            return ListedImages(
                np.concatenate(ids), np.concatenate(status), (), (), page.total, page.counts, page.version
            )
        ids.append(page.image_ids)
        status.append(page.status)
        start += limit


def test_pages_hold_every_image_once(client: ImageClient, photos: Path) -> None:
    there = sorted(int(file.stem) for file in photos.glob("*.jpg"))
    every = in_pages(client, 60)
    assert every.image_ids.tolist() == there
    assert every.total == len(there) == PHOTOS
    embedded = set(client.images(0, PHOTOS, statuses=[Status.OK]).image_ids.tolist())
    assert len(embedded) >= EMBEDDED  # other tests ask this server for more
    assert every.counts == {Status.OK: len(embedded), NEVER: PHOTOS - len(embedded)}
    assert [status == Status.OK for status in every.status] == [i in embedded for i in there]
    never = client.images(0, 5, statuses=[NEVER])
    assert never.total == PHOTOS - len(embedded)
    assert not embedded & set(never.image_ids.tolist())


def test_a_page_beyond_the_end_is_empty(client: ImageClient) -> None:
    page = client.images(2**40, 10)
    assert (len(page), page.total) == (0, PHOTOS)


def test_images_that_are_called_by_their_ids_are_found_by_them(client: ImageClient) -> None:
    found = client.images(0, PHOTOS, name="17")
    assert found.image_ids.tolist() == [i for i in range(PHOTOS) if "17" in str(i)]
    assert found.names == tuple(map(str, found.image_ids.tolist()))
    assert client.images(0, 10, name="cat").total == 0


def test_what_is_known_of_some_images(client: ImageClient) -> None:
    known = client.images_of([7, 10**12, 3])
    assert known.image_ids.tolist() == [7, 10**12, 3]
    assert known.status.tolist() == [Status.OK, Status.NOT_FOUND, Status.OK]
    assert known.names == ("7", str(10**12), "3")
    assert len(client.images_of([])) == 0


def test_the_features_of_a_backbone_are_listed_like_a_version(client: ImageClient) -> None:
    held = client.versions()
    features, vectors = held.held
    assert (features.features, features.dim, features.row_bytes, features.size) == (
        True,
        1280,
        2560,
        2560 * features.rows,
    )
    assert (vectors.features, vectors.dim, vectors.row_bytes) == (False, 16, 32)
    assert features.rows >= EMBEDDED
    assert held.active == vectors.name == client.info().version
    assert client.images(0, 1, version=features.name).version == features.name
    with pytest.raises(VersionMismatch, match="no@1"):
        client.images(version="no@1+h@2/8")


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (pb.ListImagesRequest(image_ids=b"\1" * 8, limit=1), "either image_ids"),
        (pb.ListImagesRequest(image_ids=b"\1" * 9), "8 bytes each"),
        (pb.ListImagesRequest(limit=100_001), "the limit is"),
        (pb.ListImagesRequest(statuses=[pb.VectorStatus.ValueType(77)]), "77"),
    ],
)
def test_a_wrong_request_is_refused(service: ImageService, request_: pb.ListImagesRequest, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        service.answer(LIST_IMAGES, request_, 1e12)


def test_the_list_follows_the_store(service: ImageService, photos: Path) -> None:
    with ImageClient(LocalTransport(service)) as client:
        assert client.images_of([200]).status.tolist() == [NEVER]
        client.get([200])
        assert client.put({777_777: b"no photo"}) == {777_777: Status.CORRUPT}
        service.served.refresh()
        assert client.images_of([200, 777_777]).status.tolist() == [Status.OK, Status.CORRUPT]
        assert client.images(0, 10, statuses=[Status.CORRUPT]).image_ids.tolist() == [777_777]


def test_names_and_reasons_are_told(graph_cache: Path, photos: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "photos", tmp_path / "store"
    folder.mkdir()
    for place, name in enumerate(("red apple", "green Apple", "pear")):
        (folder / f"{name}.jpg").write_bytes((photos / f"{place:03}.jpg").read_bytes())
    (folder / "broken apple.jpg").write_bytes((photos / "003.jpg").read_bytes()[:300])
    store.mkdir()
    copy_store(graph_cache / "engine", store / "engine")
    manifest = tmp_path / "manifest.parquet"
    run_command("imgserver", "manifest", str(folder), f"--out={manifest}")
    arguments = [f"--store={store}", f"--catalogue={manifest}", f"--photo-root={folder}"]
    run_command("imgserver", "precompute", *arguments, "--dim=2")
    from crossmedia.imgserver import open_local

    with ImageClient(open_local(store)) as client:
        apples = client.images(0, 10, name="apple")
        assert sorted(apples.names) == ["broken apple", "green Apple", "red apple"]
        broken = client.images(0, 10, statuses=[Status.CORRUPT])
        assert broken.names == ("broken apple",)
        assert broken.reasons[0]
        assert not any(client.images(0, 10, statuses=[Status.OK]).reasons)


class Part:
    """A server that owns a part of the images, of which there are a few."""

    def __init__(self, ids: list[int], address: str):
        self.ids, self.address = ids, address

    def call(self, method: Any, request: Any, timeout_s: float) -> Any:
        if method == GET_INFO:
            limits = pb.Limits(
                max_ids_per_call=100,
                max_thumbnails_per_call=1,
                max_put_per_call=1,
                max_message_bytes=1 << 20,
                max_image_bytes=1,
                max_image_pixels=1,
            )
            return pb.GetInfoResponse(version="n@0+h@1/8", dim=8, limits=limits)
        if method == LIST_VERSIONS:
            held = [pb.HeldVersion(name="n@0+h@1/8", dim=8, row_bytes=16, rows=len(self.ids))]
            return pb.ListVersionsResponse(held=held, active="n@0+h@1/8")
        assert method == LIST_IMAGES
        ids = self.ids[request.start : request.start + request.limit]
        if request.image_ids:
            ids = np.frombuffer(request.image_ids, "<i8").tolist()
        return pb.ListImagesResponse(
            version="n@0+h@1/8",
            total=len(ids) if request.image_ids else len(self.ids),
            image_ids=np.array(ids, "<i8").tobytes(),
            status=bytes([Status.OK]) * len(ids),
            counts=[0, len(self.ids)],
        )

    def get_vectors(self, request: Any, timeout_s: float) -> Any:
        raise AssertionError("nobody asks for vectors")

    def close(self) -> None:
        pass


def test_servers_that_share_the_images_are_listed_as_one() -> None:
    parts = [Part([1, 4, 9], "one"), Part([2, 3, 5, 8], "two"), Part([], "three")]
    with ImageClient(parts) as client:
        pages = [client.images(start, 2) for start in range(0, 8, 2)]
        assert [page.image_ids.tolist() for page in pages] == [[1, 4], [9, 2], [3, 5], [8]]
        assert {page.total for page in pages} == {7}
        assert pages[0].counts == {Status.OK: 7}
        assert client.images_of(list(range(40))).image_ids.tolist() == list(range(40))
        assert client.versions().held[0].rows == 7


@pytest.fixture(scope="module")
def guarded(graph_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with tokens over two versions."""
    folder = tmp_path_factory.mktemp("guarded")
    store, tokens = copy_store(graph_cache, folder / "store"), folder / "tokens"
    tokens.write_text("".join(f"{name} {scope} {token}\n" for name, (scope, token) in TOKENS.items()))
    tokens.chmod(0o600)
    for name, (_, token) in TOKENS.items():
        (folder / name).write_text(token)
        (folder / name).chmod(0o600)
    ids = folder / "ids"
    ids.write_text("\n".join(map(str, range(100))))
    arguments = [f"--store={store}", f"--catalogue={PHOTOS_FOLDER}", f"--ids={ids}", "--dim=8"]
    run_command("imgserver", "precompute", *arguments)
    process = DaemonProcess(store, PHOTOS_FOLDER, f"--tokens={tokens}")
    yield process
    process.stop()


def of(daemon: DaemonProcess, name: str) -> ImageClient:
    return ImageClient(daemon.address, security=ClientSecurity(token_file=str(daemon.store.parent / name)))


def test_an_admin_activates_a_version_and_others_do_not(guarded: DaemonProcess) -> None:
    with of(guarded, "chief") as chief, of(guarded, "reader") as reader:
        held = reader.versions()
        first, second = (version.name for version in held.held if not version.features)
        assert held.active == second
        with pytest.raises(PermissionDenied, match="reader"):
            reader.activate(first)
        assert reader.info().version == second
        with pytest.raises(InvalidRequest, match="does not hold"):
            chief.activate("other@1+pca@2/8")
        chief.activate(first)
        assert reader.info().version == reader.versions().active == first


def test_without_tokens_nobody_activates_from_afar(client: ImageClient) -> None:
    with pytest.raises(PermissionDenied, match="imgserver versions --activate"):
        client.activate(client.info().version)


def test_info_tells_how_long_lookups_took(graph_cache: Path, tmp_path: Path) -> None:
    process = DaemonProcess(copy_store(graph_cache, tmp_path / "store"), None)
    try:
        with ImageClient(process.address) as client:
            assert sum(client.info().durations.lookup_calls) == 0
            client.get([1])
            client.get([2])
            told = client.info().durations
        assert sum(told.lookup_calls) == 2
        assert len(told.lookup_calls) == len(told.lookup_seconds) + 1
        assert list(told.lookup_seconds) == sorted(told.lookup_seconds)
    finally:
        process.stop()
