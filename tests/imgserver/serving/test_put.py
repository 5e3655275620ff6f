from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import DaemonProcess, run_command

from crossmedia.errors import InvalidRequest, NotReady
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, Status
from crossmedia.imgserver.storage.store import Store


@pytest.fixture
def client(store: Path) -> Iterator[ImageClient]:
    """Over a store of images 0 to 99, without a catalogue."""
    with ImageClient(open_local(store)) as client:
        yield client


def photo(photos: Path, number: int) -> bytes:
    return (photos / f"{number:03d}.jpg").read_bytes()


def test_a_new_image_is_served_by_the_next_call(client: ImageClient, photos: Path, daemon: DaemonProcess) -> None:
    assert client.get([150]).status.tolist() == [Status.NOT_FOUND]
    assert client.put({150: photo(photos, 150), 151: photo(photos, 151)}) == {150: Status.OK, 151: Status.OK}
    found = client.get([150, 151])
    assert found.ok.all()
    with ImageClient(daemon.address) as other:  # which computed them from its catalogue
        np.testing.assert_array_equal(found.values, other.get([150, 151]).values)
    assert found.generation == 1, "nothing was replaced"


def test_a_replaced_image_raises_the_generation_and_the_same_bytes_cost_nothing(
    client: ImageClient, photos: Path
) -> None:
    before, other = client.get([7]), client.get([8])
    client.put({7: photo(photos, 8)})
    after = client.get([7])
    np.testing.assert_array_equal(after.values, other.values)
    assert not np.array_equal(after.values, before.values)
    assert after.generation > before.generation
    passes = client.info().counters.cnn_passes_on_demand
    assert client.put({7: photo(photos, 8)}) == {7: Status.OK}
    assert client.info().counters.cnn_passes_on_demand == passes
    assert client.get([7]).generation == after.generation


def test_a_bad_image_fails_alone(client: ImageClient, photos: Path) -> None:
    most = client.info().limits.max_image_bytes
    found = client.put({150: photo(photos, 150), 160: b"no picture", 161: b"", 162: b"x" * (most + 1)})
    assert found == {150: Status.OK, 160: Status.CORRUPT, 161: Status.CORRUPT, 162: Status.TOO_LARGE}
    assert client.put({160: photo(photos, 160)}) == {160: Status.OK}, "a good photo takes the place of a bad one"
    assert client.get([160]).ok.all()


def test_a_refused_photo_leaves_what_is_stored(client: ImageClient, photos: Path) -> None:
    before, passes = client.get([7]), client.info().counters.cnn_passes_on_demand
    most = client.info().limits.max_image_bytes
    cut = photo(photos, 7)[:300]
    assert client.put({7: b"no picture"}) == {7: Status.CORRUPT}
    assert client.put({7: b"x" * (most + 1)}) == {7: Status.TOO_LARGE}
    assert client.put({7: cut}) == {7: Status.CORRUPT}
    after = client.get([7])
    assert after.status.tolist() == [Status.OK]
    np.testing.assert_array_equal(after.values, before.values)
    assert after.generation == before.generation
    assert client.info().counters.cnn_passes_on_demand == passes, "nothing was to be made again"


def test_what_cannot_be_put_is_said(client: ImageClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="id -5 is negative"):
        client.put({-5: b"x"})
    Store(tmp_path / "new").close()
    with ImageClient(open_local(tmp_path / "new")) as empty, pytest.raises(NotReady, match="precompute"):
        empty.put({1: b"x"})


def test_more_photos_than_one_call_takes(client: ImageClient, photos: Path) -> None:
    brought = {1000 + n: photo(photos, n % 243) for n in range(300)}
    assert set(client.put(brought, timeout_s=120).values()) == {Status.OK}
    assert client.get(list(brought)).ok.all()


def test_many_callers_put_the_same_image(client: ImageClient, photos: Path) -> None:
    """Two contents of one id at once: one of them wins, and nobody fails."""
    results: list[dict[int, Status]] = []
    work = [photo(photos, 200), photo(photos, 201)] * 4
    threads = [threading.Thread(target=lambda d=data: results.append(client.put({500: d}))) for data in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{500: Status.OK}] * 8
    client.put({600: photo(photos, 200), 601: photo(photos, 201)})
    values = client.get([500, 600, 601]).values
    assert any(np.array_equal(values[0], values[n]) for n in (1, 2))


def test_add_over_the_wire(store: Path, photos: Path, tmp_path: Path) -> None:
    daemon = DaemonProcess(store, None)
    try:
        for number in (180, 181):
            shutil.copy(photos / f"{number}.jpg", tmp_path / f"{number}.jpg")
        (tmp_path / "182.jpg").write_bytes(b"no picture")
        files = [str(tmp_path / f"{number}.jpg") for number in (180, 181, 182)]
        done = run_command("imgserver", "add", *files, f"--store={store}", "--json", check=False)
        assert done.returncode == 5
        assert json.loads(done.stdout.splitlines()[0]) == {"added": 2, "refused": {"182": "CORRUPT"}}
        run_command("imgserver", "add", files[0], "--id=900", f"--server={daemon.address}")
        with ImageClient(daemon.address) as client:
            values = client.get([180, 900]).values
            np.testing.assert_array_equal(values[0], values[1])
        done = run_command("imgserver", "add", __file__, f"--store={store}", check=False)
        assert done.returncode == 2
        assert "not named after an image id" in done.stderr
    finally:
        daemon.stop()


def test_a_photo_that_comes_to_the_catalogue_later_is_not_embedded_again(
    store: Path, photos: Path, tmp_path: Path
) -> None:
    with ImageClient(open_local(store)) as client:
        client.put({300: photo(photos, 200)})
    folder = tmp_path / "catalogue"
    folder.mkdir()
    shutil.copy(photos / "200.jpg", folder / "300.jpg")
    arguments = [f"--store={store}", f"--catalogue={folder}", "--dim=16", "--json"]
    found = json.loads(run_command("imgserver", "precompute", *arguments).stdout)
    assert (found["embedded"], found["skipped"]) == (0, 1)
