"""Servers that each own a part of the images: who answers for what, and how images move when servers join or leave."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS, DaemonProcess, copy_store, free_addresses, ownership, run_command, shared_out
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crossmedia import imgserver
from crossmedia.errors import BadInput, InvalidRequest, VersionMismatch, WrongShard
from crossmedia.imgserver.client import HeadServers, ImageClient, MockTransport, Status, Vectors
from crossmedia.imgserver.client.head_servers import HeadState, head_gradient
from crossmedia.imgserver.client.retries import Deadline
from crossmedia.imgserver.offline import moving
from crossmedia.imgserver.offline.merge import MergeReport
from crossmedia.imgserver.offline.merge import merge as take
from crossmedia.imgserver.shards import SHARDS, Ownership, owners, shards_of
from crossmedia.imgserver.storage.records import Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import Table

BROKEN = 500
Held = dict[tuple[str, int], tuple[int, bytes]]


def rows_of(store: Path) -> Held:
    """Status and bits of every row: version or backbone, and image id."""
    found: Held = {}
    with closing(Store(store, create=False)) as opened:
        for space in opened.index.spaces("feature") + opened.index.spaces("vector"):
            ids, entries, _ = opened.index.load(space.name)
            for image_id, entry in zip(ids.tolist(), entries, strict=True):
                row = opened.read(space, entry[None]).tobytes() if entry["row"] >= 0 else b""
                found[space.name, image_id] = int(entry["status"]), row
    return found


def ids_in(rows: Held) -> set[int]:
    return {image_id for _, image_id in rows}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos that ship with the project, and a broken one."""
    folder = tmp_path_factory.mktemp("catalogue") / "photos"
    shutil.copytree(PHOTOS, folder)
    (folder / f"{BROKEN}.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def full(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all images, and of vectors of two versions."""
    store = tmp_path_factory.mktemp("full") / "store"
    for dim in (8, 16):
        run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={catalogue}", f"--dim={dim}")
    return store


@dataclass(frozen=True)
class Pair:
    """Two servers with half the images each."""

    servers: list[str]
    stores: list[Path]

    @property
    def together(self) -> str:
        """As trainers name them, in another order than the servers were told."""
        return ", ".join(reversed(self.servers))

    def ids_of(self, place: int) -> list[int]:
        """Images of the catalogue that one of them owns."""
        ids = np.arange(243)
        mine: list[int] = ids[owners(self.servers)[shards_of(ids)] == place].tolist()
        return mine


def start(stack: ExitStack, store: Path, servers: list[str], me: str, catalogue: Path | None = None) -> DaemonProcess:
    daemon = DaemonProcess(store, catalogue, "--threads=1", f"--port={me.rpartition(':')[2]}", *ownership(servers, me))
    stack.callback(daemon.stop)
    return daemon


@pytest.fixture(scope="module")
def halves(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Their stores; copied, never changed."""
    servers = free_addresses(2)
    return Pair(servers, shared_out(full, tmp_path_factory.mktemp("halves") / "two", servers))


@pytest.fixture(scope="module")
def pair(halves: Pair, catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both are running."""
    folder = tmp_path_factory.mktemp("pair")
    stores = [copy_store(store, folder / store.name) for store in halves.stores]
    with ExitStack() as stack:
        for store, me in zip(stores, halves.servers, strict=True):
            run_command("imgserver", "index", f"--store={store}")
            start(stack, store, halves.servers, me, catalogue)
        yield Pair(halves.servers, stores)


@given(
    ids=st.lists(st.integers(-1, 300), max_size=60),
    servers=st.integers(2, 5),
    limit=st.integers(1, 20),
    in_flight=st.integers(1, 3),
)
def test_ids_go_to_their_owners_and_come_back_in_order(
    ids: list[int], servers: int, limit: int, in_flight: int
) -> None:
    vectors = {i: np.full(8, i, dtype=np.float16) for i in range(0, 300, 2)}
    owner = owners([f"transport-{n}" for n in range(servers)])[shards_of(np.arange(301))]
    parts = [
        MockTransport({i: v for i, v in vectors.items() if owner[i] == n}, max_ids_per_call=limit)
        for n in range(servers)
    ]
    client = ImageClient(parts, in_flight=in_flight, version=MockTransport({}).version)
    result = client.get(ids)
    for row, image_id in enumerate(ids):
        assert result.ok[row] == (image_id in vectors)
        assert (result.values[row] == (image_id if image_id in vectors else 0)).all()
    asked = [np.concatenate([np.zeros(0, np.int64), *_asked(part)]) for part in parts]
    assert sorted(np.concatenate(asked).tolist()) == sorted(set(ids) - {-1}), "each id is sent once, a null image never"
    assert all((owner[sent] == n).all() for n, sent in enumerate(asked))
    assert client.stats.unique == len(set(ids) - {-1})


def _asked(transport: MockTransport) -> list[np.ndarray[Any, Any]]:
    return [np.frombuffer(request.image_ids, "<i8") for request in transport.requests]


@given(st.permutations(["a:1", "b:1", "c:1", "d:1"]), st.integers(1, 4), st.data())
def test_the_order_of_a_list_does_not_matter(servers: list[str], n: int, data: st.DataObject) -> None:
    servers = servers[:n]
    me = data.draw(st.sampled_from(servers))
    assert (Ownership(servers, me).mine == Ownership(sorted(servers), me).mine).all()
    assert np.sum([Ownership(servers, server).mine for server in servers], axis=0).tolist() == [1] * SHARDS


@pytest.mark.parametrize("servers", [[], ["a:1", "a:1"], ["a:1", ""]])
def test_a_list_that_names_a_server_twice_or_not_at_all_is_refused(servers: list[str]) -> None:
    with pytest.raises(BadInput, match="each once"):
        Ownership(servers, "a:1")


def same(one: Vectors, other: Vectors) -> bool:
    return one.status.tolist() == other.status.tolist() and one.values.tobytes() == other.values.tobytes()


def test_a_fetch_through_both_is_that_of_one_store(pair: Pair, full: Path) -> None:
    ids = np.random.default_rng(3).permutation([*range(250), *range(50), -1, -1, BROKEN])
    with (
        ImageClient(pair.together) as both,
        ImageClient(imgserver.open_local(full)) as plain,
    ):
        assert same(both.get(ids), plain.get(ids))
        told = both.info()
        assert (told.version, told.contents.images_stored) == (plain.version, 243)
        assert set(told.ownership.servers) == set(pair.servers)
        for version in (*told.versions, told.backbone):
            assert same(both.get(ids, version=version), plain.get(ids, version=version))
        assert both.get([BROKEN]).status.tolist() == [Status.CORRUPT]
        for server in pair.servers:
            with ImageClient(server) as one:
                assert 0.25 < one.info().contents.images_stored / 243 < 0.75


def test_threads_that_begin_together_learn_of_the_parts_together(pair: Pair) -> None:
    ids = np.arange(100)
    for _ in range(5):
        with ImageClient(pair.together, timeout_s=20) as client, ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _, client=client: client.get(ids), range(16)))
        assert all(same(vectors, found[0]) and vectors.ok.all() for vectors in found)


def test_a_wrong_shard_is_refused_in_every_call(pair: Pair) -> None:
    mine, other = pair.ids_of(0)[0], pair.ids_of(1)[0]
    shard = int(shards_of(np.array([other]))[0])
    words = f"Image {other} is in virtual shard {shard}, which {pair.servers[1]} owns; this server is {pair.servers[0]}"
    with ImageClient(pair.servers[0]) as client:
        assert client.get([mine]).ok.all()
        before = client.info().counters.ids_requested
        with pytest.raises(WrongShard, match=f"{words}, and 1 of 2 ids"):
            client.get([mine, other])
        assert client.info().counters.ids_requested == before, "before any work"
        with pytest.raises(WrongShard, match=words):
            client.put({other: b"whatever"})
        with pytest.raises(WrongShard, match=words):
            client.thumbnails([other])
        with pytest.raises(WrongShard, match=words):
            client.search([other])
        head = HeadState(client.info().version, b"")
        with pytest.raises(WrongShard, match=words):
            head_gradient(client, head, np.array([other]), np.zeros((1, 16), np.float32), Deadline.after(10))
        assert client.search([mine], k=3).status.tolist() == [Status.OK]


def test_lists_that_differ_are_said_at_the_start(pair: Pair, halves: Pair, tmp_path: Path) -> None:
    first = pair.servers[0]
    with ImageClient([first]) as client, pytest.raises(WrongShard, match=f"was given {first}. The lists must be the"):
        client.get([1])
    with HeadServers([first], "run") as servers, pytest.raises(WrongShard, match="The lists must be the same"):
        servers.backbone()
    by_name = [server.replace("127.0.0.1", "localhost") for server in pair.servers]
    with ImageClient(",".join(by_name)) as client, pytest.raises(WrongShard, match="addresses written alike"):
        client.info()
    swapped = free_addresses(2)
    with ExitStack() as stack:
        store = copy_store(halves.stores[0], tmp_path / "store")
        start(stack, store, [swapped[0], first], swapped[0])
        with ImageClient(f"{swapped[0]},{first}") as client, pytest.raises(WrongShard, match="shares the images out"):
            client.get([1])
    with ExitStack() as stack:
        here, elsewhere = swapped
        daemon = DaemonProcess(store, None, f"--port={here.rpartition(':')[2]}", *ownership(swapped, elsewhere))
        stack.callback(daemon.stop)
        with ImageClient([here]) as client, pytest.raises(WrongShard):
            client.info()
    with ImageClient(f"ipv4:{first}") as client, pytest.raises(BadInput, match="the list must name them"):
        client.info()


def test_photos_are_put_and_shown_by_their_owners(pair: Pair, full: Path) -> None:
    brought = {number: (PHOTOS / f"{number - 9000:03d}.jpg").read_bytes() for number in range(9000, 9012)}
    with ImageClient(pair.together) as both, ImageClient(imgserver.open_local(full)) as plain:
        assert list(both.put(brought).items()) == [(number, Status.OK) for number in brought]
        found, expected = both.get(list(brought)), plain.get([number - 9000 for number in brought])
        np.testing.assert_allclose(found.values, expected.values, rtol=0.02, atol=0.01)
        for number, jpeg in zip(range(12), both.thumbnails(list(range(12)), max_side=32), strict=True):
            assert jpeg is not None, number
            assert max(Image.open(io.BytesIO(jpeg)).size) == 32
        generation = both.generation
        assert generation is not None
        both.put({9003: brought[9004]})
        both.get([9003])
        assert both.generation == generation + 1, "a photo replaced on any of them shows"


def test_a_photo_is_compared_with_the_images_of_all(pair: Pair, full: Path, tmp_path: Path) -> None:
    store = copy_store(full, tmp_path / "store")
    run_command("imgserver", "index", f"--store={store}")
    photos = [(PHOTOS / f"{number:03d}.jpg").read_bytes() for number in (3, 77, 200)]
    with ImageClient(pair.together) as both, ImageClient(imgserver.open_local(store)) as plain:
        found, expected = both.search(photos, k=7), plain.search(photos, k=7)
        assert found.image_ids[:, 0].tolist() == [3, 77, 200]
        np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-3)
        assert found.images == expected.images == 243
        with pytest.raises(InvalidRequest, match="Search with the photo"):
            both.search([3])


def test_versions_that_differ_are_said(halves: Pair, tmp_path: Path) -> None:
    servers = free_addresses(2)
    with ExitStack() as stack:
        stores = [copy_store(store, tmp_path / store.name) for store in halves.stores]
        with closing(Store(stores[1], create=False)) as opened:
            eight, sixteen = sorted(
                (space.name for space in opened.index.spaces("vector")), key=lambda v: v[-1:] != "8"
            )
            assert opened.index.active == sixteen
            opened.index.activate(eight)
        for store, me in zip(stores, servers, strict=True):
            start(stack, store, servers, me)
        with ImageClient(",".join(servers)) as client:
            with pytest.raises(VersionMismatch, match="Activate the same on all"):
                client.get(np.arange(100))
            assert client.get(np.arange(1), version=sixteen).version == sixteen  # both hold it
        with HeadServers(servers, "run") as learning:
            assert learning.backbone() == sixteen.partition("+")[0]


def test_a_server_has_to_be_in_its_list(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'[imgserver]\nservers = ["a:1", "b:1"]\nme = "c:1"\nstore = "{tmp_path / "store"}"\n')
    for command in (["serve"], ["merge", str(tmp_path)]):
        done = run_command("imgserver", f"--config={file}", *command, check=False)
        assert done.returncode == 2
        assert "--me c:1 is none of --servers a:1,b:1" in done.stderr
    done = run_command("imgserver", "serve", "--me=a:1", f"--store={tmp_path / 'store'}", check=False)
    assert (done.returncode, "says nothing without --servers" in done.stderr) == (2, True)
    done = run_command("imgserver", "reshard", f"--store={tmp_path / 'store'}", check=False)
    assert (done.returncode, "Give --servers" in done.stderr) == (2, True)


def reshard(store: Path, servers: list[str], me: str, out: Path) -> moving.MoveReport:
    """As the command, which ``shared_out`` runs, in this process."""
    with closing(Store(store, create=False)) as opened:
        return moving.write_moved(opened, out, Ownership(servers, me))


def drop(store: Path, servers: list[str], me: str, out: Path) -> moving.MoveReport:
    with closing(Store(store, create=False)) as opened:
        return moving.drop_moved(opened, out, Ownership(servers, me))


def merge(folder: Path, store: Path, servers: list[str], me: str) -> MergeReport:
    with closing(Store(store)) as opened:
        return take(opened, folder, ownership=Ownership(servers, me))


def test_a_third_server_takes_a_third_and_nothing_else_moves(halves: Pair, full: Path, tmp_path: Path) -> None:
    before = owners(halves.servers)
    servers = [*halves.servers, "c:7070"]
    after = owners(servers)
    assert 250 < (after == 2).sum() < 432  # a third, within six standard deviations
    assert (before == after)[after != 2].all()
    stores = [copy_store(store, tmp_path / store.name) for store in halves.stores]
    held = [rows_of(store) for store in stores]
    everything = rows_of(full)
    assert held[0] | held[1] == everything, "bit for bit"
    assert not ids_in(held[0]) & ids_in(held[1])
    assert BROKEN in ids_in(everything)
    moved, third = tmp_path / "moved", tmp_path / "store-2"
    written = [reshard(stores[n], servers, servers[n], moved) for n in (0, 1)]
    assert all(list(report.to) == ["c:7070"] for report in written)
    gone = {i for i in ids_in(everything) if after[shards_of(np.array([i]))[0]] == 2}
    assert sum(report.images for report in written) == len(gone) > 40
    assert [rows_of(store) for store in stores] == held, "nothing is dropped yet"
    assert [reshard(stores[n], servers, servers[n], moved).rows for n in (0, 1)] == [0, 0], "written once"
    report = merge(moved, third, servers, "c:7070")
    with closing(Store(full, create=False)) as opened:
        assert (report.version, report.images, report.rejected) == (
            opened.index.active,
            len(gone),
            int(BROKEN in gone),
        )
    assert merge(moved, third, servers, "c:7070").added == 0
    dropped = [drop(stores[n], servers, servers[n], moved).rows for n in (0, 1)]
    assert sum(dropped) == 3 * len(gone), "a feature and two vectors of each"
    assert drop(stores[0], servers, servers[0], moved).rows == 0
    now = [rows_of(store) for store in [*stores, third]]
    assert ids_in(now[2]) == gone
    assert now[0] == {key: row for key, row in held[0].items() if key[1] not in gone}
    assert now[1] == {key: row for key, row in held[1].items() if key[1] not in gone}
    assert now[0] | now[1] | now[2] == everything
    assert sum(map(len, now)) == len(everything), "every row is in one store"


def test_a_server_that_leaves_gives_all_to_the_others(halves: Pair, full: Path, tmp_path: Path) -> None:
    stores = [copy_store(store, tmp_path / store.name) for store in halves.stores]
    (stays, leaves), moved = halves.servers, tmp_path / "moved"
    reshard(stores[1], [stays], leaves, moved)
    merge(moved, stores[0], [stays], stays)
    drop(stores[1], [stays], leaves, moved)
    assert rows_of(stores[0]) == rows_of(full)
    assert rows_of(stores[1]) == {}


KILLED = "import os, signal\ndef end(*rest, **more): os.kill(os.getpid(), signal.SIGKILL)\n"
# Each dies by the kernel's hand in the middle of a step: in the tenth file, batch of rows, or commit of the drop.
DIES = """
import itertools
from {module} import {cls}
calls, real = itertools.count(), {cls}.{name}
def dying(*rest, **more):
    if next(calls) == 10: end()
    return real(*rest, **more)
{cls}.{name} = dying
from crossmedia.imgserver.offline import merge, moving
merge.COMMIT_ROWS = moving.COMMIT_ROWS = 1
from crossmedia.imgserver.cli import imgserver
imgserver()
"""


def killed(command: list[str], module: str, cls: str, name: str) -> None:
    """Run a command that is killed in the tenth call of a method."""
    code = KILLED + DIES.format(module=module, cls=cls, name=name)
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True)
    assert done.returncode == -signal.SIGKILL


def test_killed_in_every_step_and_repeated_it_loses_nothing(full: Path, tmp_path: Path) -> None:
    servers, moved = ["a:1", "b:1"], tmp_path / "moved"
    one, other = copy_store(full, tmp_path / "one"), tmp_path / "other"
    everything = rows_of(full)
    write = ["reshard", f"--store={one}", f"--out={moved}", *ownership(servers, "a:1")]
    taken = ["merge", str(moved), f"--store={other}", *ownership(servers, "b:1")]
    refused = run_command("imgserver", *write, "--drop", check=False)
    assert (refused.returncode, "b:1 did not take it" in refused.stderr) == (2, True)
    killed(write, "crossmedia.imgserver.offline.shard_files", "ShardFiles", "write")
    early = run_command("imgserver", *taken, check=False)
    assert (early.returncode, "has come to its end yet" in early.stderr) == (2, True)
    run_command("imgserver", *write)
    killed(taken, "crossmedia.imgserver.storage.store", "Store", "put")
    refused = run_command("imgserver", *write, "--drop", check=False)
    assert (refused.returncode, "did not take it. Nothing was dropped" in refused.stderr) == (2, True)
    assert rows_of(one) == everything
    run_command("imgserver", *taken)
    killed([*write, "--drop"], "crossmedia.imgserver.storage.index", "Index", "remove")
    assert 0 < len(rows_of(one)) < len(everything)
    assert rows_of(one) | rows_of(other) == everything
    run_command("imgserver", *write, "--drop")
    assert rows_of(one) | rows_of(other) == everything
    assert len(rows_of(one)) + len(rows_of(other)) == len(everything)
    with closing(Store(other, create=False)) as opened, closing(Store(full, create=False)) as source:
        assert opened.index.active == source.index.active


def test_what_changed_since_it_was_written_is_not_dropped(full: Path, catalogue: Path, tmp_path: Path) -> None:
    servers, moved = ["a:1", "b:1"], tmp_path / "moved"
    one, other = copy_store(full, tmp_path / "one"), tmp_path / "other"
    reshard(one, servers, "a:1", moved)
    merge(moved, other, servers, "b:1")
    goes = int(np.flatnonzero(owners(servers)[shards_of(np.arange(243))] == 1)[0])
    photos = tmp_path / "photos"
    shutil.copytree(catalogue, photos)
    shutil.copy(PHOTOS / f"{(goes + 1) % 243:03d}.jpg", photos / f"{goes:03d}.jpg")
    os.utime(photos / f"{goes:03d}.jpg", (1, 1))
    run_command("imgserver", "precompute", f"--store={one}", f"--catalogue={photos}")
    everything = rows_of(one)
    with pytest.raises(BadInput, match=r"not the same\. Nothing was dropped"):
        drop(one, servers, "a:1", moved)
    assert rows_of(one) == everything
    assert reshard(one, servers, "a:1", moved).rows == 2, "the feature and the vector of the active version"
    assert merge(moved, other, servers, "b:1").added == 1
    drop(one, servers, "a:1", moved)
    assert rows_of(one) | rows_of(other) == everything


def test_what_the_new_owner_has_of_its_own_does_not_keep_the_former_one_from_dropping(
    full: Path, catalogue: Path, tmp_path: Path
) -> None:
    """It serves already, and has embedded a photo that nobody had, when a merge is repeated."""
    servers, moved = ["a:1", "b:1"], tmp_path / "moved"
    one, other = copy_store(full, tmp_path / "one"), tmp_path / "other"
    reshard(one, servers, "a:1", moved)
    merge(moved, other, servers, "b:1")
    theirs = np.flatnonzero(owners(servers)[shards_of(np.arange(1000, 5000))] == 1) + 1000
    used = set(shards_of(np.arange(243)).tolist())
    new = next(i for i in theirs.tolist() if int(shards_of(np.array([i]))[0]) in used)
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(PHOTOS / "001.jpg", photos / f"{new}.jpg")
    run_command("imgserver", "precompute", f"--store={other}", f"--catalogue={photos}")
    assert merge(moved, other, servers, "b:1").added == 0
    before = rows_of(one) | rows_of(other)
    drop(one, servers, "a:1", moved)
    assert rows_of(one) | rows_of(other) == before


def test_a_file_that_was_damaged_on_its_way_is_not_taken(full: Path, tmp_path: Path) -> None:
    servers, moved = ["a:1", "b:1"], tmp_path / "moved"
    reshard(full, servers, "a:1", moved)
    file = sorted(moved.glob("features/*/*/*.parquet"))[5]
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1  # in the values, which are most of it
    file.write_bytes(data)
    with pytest.raises(BadInput, match=f"{file.name} cannot be read"):
        merge(moved, tmp_path / "other", servers, "b:1")
    file.unlink()
    assert reshard(full, servers, "a:1", moved).rows > 0, "it is written again"
    merge(moved, tmp_path / "other", servers, "b:1")


def test_a_folder_of_another_list_is_refused(full: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    with closing(Store(copy_store(full, tmp_path / "store"))) as store:
        moving.write_moved(store, moved, Ownership(["a:1", "b:1"], "a:1"))
        with pytest.raises(BadInput, match="moves images to a:1, b:1"):
            moving.write_moved(store, moved, Ownership(["a:1", "b:1", "c:1"], "a:1"))
        with pytest.raises(BadInput, match="moves images to a:1, b:1"):
            moving.active_among(moved, Ownership(["a:1", "c:1"], "c:1"))


def test_a_running_server_must_know_the_list_and_forgets_what_is_dropped(full: Path, tmp_path: Path) -> None:
    servers, moved = free_addresses(2), tmp_path / "moved"
    one, other = copy_store(full, tmp_path / "one"), tmp_path / "other"
    reshard(one, servers, servers[0], moved)
    merge(moved, other, servers, servers[1])
    with ExitStack() as stack:
        former = DaemonProcess(one, None, "--threads=1")
        stack.callback(former.stop)
        drops = ["imgserver", "reshard", f"--store={one}", f"--out={moved}", *ownership(servers, servers[0]), "--drop"]
        done = run_command(*drops, check=False)
        assert (done.returncode, "Start it again with --servers" in done.stderr) == (2, True)
        former.stop()
        start(stack, one, servers, servers[0])
        start(stack, other, servers, servers[1])
        with ImageClient(",".join(servers)) as client, ImageClient(imgserver.open_local(full)) as plain:
            ids = np.arange(243)
            expected = plain.get(ids)
            assert same(client.get(ids), expected)
            assert client.info().contents.images_stored > 243  # both hold what has moved
            run_command(*drops)
            for _ in range(100):
                assert same(client.get(ids), expected)
                if client.info().contents.images_stored == 243:
                    break
            assert client.info().contents.images_stored == 243


def test_an_image_that_comes_back_is_served_again(full: Path, tmp_path: Path) -> None:
    with closing(Store(copy_store(full, tmp_path / "store"))) as store:
        space = store.index.space(store.index.active)
        assert space is not None
        table = Table(store, space)
        table.load()
        ids = np.array([3, 4])
        entries, _ = store.index.get(space.name, ids)
        values = store.read(space, entries)
        store.index.remove([(space.name, ids, entries)])
        table.refresh()
        assert table.get(np.array([3, 4, 5]))[1].tolist() == [0, 0, 1]
        assert len(table) == 241
        sources = np.zeros(2, dtype=[("size", "<u8"), ("stamp", "<u8"), ("content", "<u8")])
        store.put(Rows(space, ids, np.array([1, 1], np.uint8), sources, values))
        table.refresh()
        assert table.get(ids)[0].tobytes() == values.tobytes()
        assert len(table) == 243


def test_a_store_gets_the_images_that_its_server_owns(full: Path, catalogue: Path, tmp_path: Path) -> None:
    servers = ["a:1", "b:1"]
    embedded = tmp_path / "embedded"
    run_command("imgserver", "precompute", f"--catalogue={catalogue}", "--part=1/1", f"--out={embedded}")
    everything = rows_of(full)
    with closing(Store(full, create=False)) as opened:
        (features,) = opened.index.spaces("feature")
    expected = {i: row for (name, i), row in everything.items() if name == features.name}
    found: list[dict[int, tuple[int, bytes]]] = []
    for me in servers:
        for store, command in (
            (tmp_path / f"merged-{me[0]}", ["merge", str(embedded)]),
            (tmp_path / f"plain-{me[0]}", ["precompute", f"--catalogue={catalogue}"]),
        ):
            run_command("imgserver", *command, f"--store={store}", "--dim=4", *ownership(servers, me))
            found.append({i: row for (name, i), row in rows_of(store).items() if name == features.name})
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[0] | found[2] == expected
    assert len(found[0]) + len(found[2]) == len(expected)
