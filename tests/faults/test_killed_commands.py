"""kill -9 and a full disk at every part of the way of every command that writes, beside a running server.

A library that is preloaded counts what a command does to files (or sockets), and breaks it at the chosen step. After
each time the server answers what it held, the doctor finds nothing, and the same command ends as if nothing had been.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from breaking import FULL, KILL, SOCKETS, Breaker, Ended, spread
from conftest import DaemonProcess, copy_store, ownership, run_command
from redis_nodes import RedisNode

from crossmedia.disk import UNFINISHED
from crossmedia.errors import StoreError
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.offline.exchange import check_vectors, import_vectors
from crossmedia.imgserver.offline.shard_files import FEATURES, VECTORS, ShardFiles, names_below
from crossmedia.imgserver.operations.doctor import examine
from crossmedia.imgserver.shards import SHARDS, Ownership, shards_of
from crossmedia.imgserver.similarity.index import SimilarityFiles
from crossmedia.imgserver.storage.cluster.store import RedisStore
from crossmedia.imgserver.storage.records import Rows, sources_in
from crossmedia.imgserver.storage.store import Store, row_folder
from crossmedia.imgserver.storage.versions import activate, delete, held

SERVERS = ["one:7070", "other:7070"]
IDS = list(range(100))
Vectors = npt.NDArray[Any]


@dataclass(frozen=True)
class Place:
    """A store, the server that runs over it, and what it answered before anything was broken."""

    root: Path
    store: Path
    photos: Path
    address: str
    base: str
    known: Vectors

    def check(self, doctor: bool = True) -> None:
        """All that was there is served as it was, and nothing needs repair."""
        with ImageClient(self.address, version=self.base, timeout_s=20) as client:
            found = client.get(IDS)
        assert found.ok.all()
        assert (found.values == self.known).all()
        if doctor:
            check_doctor(self.store)

    def opened(self) -> closing[Store]:
        return closing(Store(self.store, create=False))

    def activate(self) -> None:
        """Make the store's own version the active one again."""
        with self.opened() as store:
            activate(store, self.base)


def check_doctor(store: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        checks = examine(store)
        found = {name: finding for name, finding in checks.items() if finding.level == "problem"}
        if not found:
            return
        assert time.monotonic() < deadline, found  # a server follows its store within a second
        time.sleep(0.2)


def rows_of(store: Store, version: str) -> tuple[list[int], Vectors]:
    """Ids and vectors of a version, checksums verified."""
    space = held(store, version)
    ids, entries, _ = store.index.load(space.name)
    return ids.tolist(), store.read(space, entries)


@dataclass(frozen=True)
class Work:
    """A command that has something to do, once.

    Attributes:
        arguments: of it.
        check: that it has been done.
        clean: undo it.
        below: where its steps are counted.
        half: what must hold when it was broken.
        ended: what it says, with exit code 2, when it was killed behind its last step.
    """

    arguments: list[object]
    check: Callable[[], None]
    clean: Callable[[], None] = lambda: None
    below: Path | str = ""
    half: Callable[[], None] = lambda: None
    ended: str = "nothing of that kind"


def importing(place: Place, n: int) -> Work:
    file, name = place.root / "vectors.parquet", f"net{n}"
    values = np.random.default_rng(5).standard_normal((20_000, 8)).astype(np.float16)
    if not file.exists():
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 8)
        pq.write_table(pa.table({"image_id": range(7000, 27_000), "vector": lists}), file, row_group_size=4000)

    def check() -> None:
        with place.opened() as store:
            assert store.index.active.startswith(f"{name}@")
            ids, found = rows_of(store, "")
            assert ids == list(range(7000, 27_000))
            assert (found == values).all()

    def clean() -> None:
        place.activate()
        with place.opened() as store:
            for space in store.index.spaces("vector"):
                if space.name.startswith(f"{name}@"):
                    delete(store, space.name)

    return Work(["imgserver", "import", file, "--name", name, "--store", place.store], check, clean)


def imported(place: Place, n: int) -> tuple[str, Callable[[], None]]:
    """A version beside the active one, and what removes it."""
    work = importing(place, n)
    with place.opened() as store:
        version = import_vectors(store, check_vectors(Path(str(work.arguments[2])), f"net{n}")).version
    place.activate()
    return version, work.clean


def activating(place: Place, n: int) -> Work:
    version, clean = imported(place, n)

    def check() -> None:
        with place.opened() as store, ImageClient(place.address, timeout_s=20) as client:
            assert store.index.active == version
            deadline = time.monotonic() + 5
            while client.info().version != version:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert (client.get([7000]).values[0] == rows_of(store, version)[1][0]).all()

    return Work(["imgserver", "versions", "--activate", version, "--store", place.store], check, clean)


def deleting(place: Place, n: int) -> Work:
    version, _ = imported(place, n)
    with place.opened() as store:
        folder = place.store / "rows" / f"{held(store, version).number:04d}"

    def check() -> None:
        with place.opened() as store:
            assert version not in [space.name for space in store.index.spaces()]
            assert not store.index.deleted()
        assert not folder.exists()

    return Work(["imgserver", "versions", "--delete", version, "--store", place.store], check, ended="does not hold")


def merging(place: Place, n: int) -> Work:
    """Shards of the first 60 photos, under ids of their own."""
    of_all, folder, first = place.root / "embedded", place.root / f"embedded-{n}", 100_000 + 1000 * n
    (backbone,) = names_below(of_all, FEATURES)
    source, target = (ShardFiles(at, FEATURES, backbone) for at in (of_all, folder))
    for at in source.places():
        block = source.read(at)
        block = block[block.ids < 60]
        moved = replace(block, ids=block.ids + first)
        for shard in np.unique(shards_of(moved.ids)).tolist():
            target.write(target.new_place(shard), moved[shards_of(moved.ids) == shard])

    def check() -> None:
        with ImageClient(place.address, version=place.base, timeout_s=20) as client:
            deadline = time.monotonic() + 5
            while not (found := client.get([first + i for i in range(60)])).ok.all():
                assert time.monotonic() < deadline
            assert (found.values == place.known[:60]).all()

    return Work(["imgserver", "merge", folder, "--store", place.store], check, partial(shutil.rmtree, folder))


def compressing(place: Place, n: int) -> Work:
    first = place.root / "compressed.npy"

    def check() -> None:
        with place.opened() as store:
            (space,) = [space for space in store.index.spaces("vector") if space.codebook]
            ids, values = rows_of(store, space.name)
            assert ids == rows_of(store, place.base)[0]
            if n == 0:
                np.save(first, values)
            assert (values[: len(IDS)] == np.load(first)[: len(IDS)]).all()

    def clean() -> None:
        with place.opened() as store:
            for space in store.index.spaces("vector"):
                if space.codebook:
                    delete(store, space.name)

    return Work(["imgserver", "compress", "--bytes", 4, "--store", place.store], check, clean)


def restoring(place: Place, n: int) -> Work:
    made, target = place.root / "backup", place.root / f"restored-{n}"
    if not made.exists():
        run_command("imgserver", "backup", f"--store={place.store}", f"--to={made}")

    def check() -> None:
        with closing(Store(target, create=False)) as store:
            ids, values = rows_of(store, place.base)
            assert ids[: len(IDS)] == IDS
            assert (values[: len(IDS)] == place.known).all()
        check_doctor(target)

    def half() -> None:
        if (target / "index" / "data.mdb").exists():
            return check()  # all of it
        with pytest.raises(StoreError, match=r"restore|There is no store"):
            Store(target, create=False)

    return Work(["imgserver", "restore", made, "--store", target], check, partial(shutil.rmtree, target), half=half)


def writing_moved(place: Place, n: int) -> Work:
    out = place.root / f"moved-{n}"
    mine = Ownership(SERVERS, SERVERS[0]).mine

    def check() -> None:
        with place.opened() as store:
            for space in store.index.spaces():
                ids = store.index.load(space.name)[0]
                kind = FEATURES if space.kind == "feature" else VECTORS
                found = ShardFiles(out, kind, space.name).known(range(SHARDS))["image_id"]
                assert found.tolist() == ids[~mine[shards_of(ids)]].tolist()
        assert (out / "written").exists()

    me = ownership(SERVERS, SERVERS[0])
    return Work(["imgserver", "reshard", "--store", place.store, "--out", out, *me], check, partial(shutil.rmtree, out))


def dropping_moved(place: Place, n: int) -> Work:
    store, out, other = (place.root / name for name in (f"shared-{n}", "moved", "other"))
    copy_store(place.root / "source", store)
    me = ownership(SERVERS, SERVERS[0])
    if not out.exists():
        run_command("imgserver", "reshard", f"--store={store}", f"--out={out}", *me)
        run_command("imgserver", "merge", str(out), f"--store={other}", *ownership(SERVERS, SERVERS[1]))

    def here(of: Path) -> set[int]:
        with closing(Store(of, create=False)) as opened:
            return set(rows_of(opened, place.base)[0])

    def check() -> None:
        assert here(store) | here(other) == set(IDS)
        assert not here(store) & here(other)

    def half() -> None:
        assert here(store) | here(other) == set(IDS)
        check_doctor(store)

    arguments = ["imgserver", "reshard", "--drop", "--store", store, "--out", out, *me]
    return Work(arguments, check, partial(shutil.rmtree, store), half=half)


def semantic(place: Place, n: int) -> Work:
    out = place.root / f"semantic-{n}" / "ids.parquet"
    first = place.root / "semantic.parquet"

    def check() -> None:
        if n == 0:
            shutil.copy(out, first)
        assert pq.read_table(out).slice(0, 100).equals(pq.read_table(first).slice(0, 100))

    def clean() -> None:
        shutil.rmtree(out.parent)
        shutil.rmtree(place.store / "semantic")

    arguments = ["imgserver", "semantic-ids", "--codes", 8, "--out", out, "--store", place.store]
    return Work(arguments, check, clean)


def adding(place: Place, n: int) -> Work:
    first = 50_000 + 100 * n
    folder = place.root / f"new-{n}"
    folder.mkdir()
    for i in range(5):
        (photo,) = [path for path in place.photos.glob("*.jpg") if int(path.stem) == i]
        shutil.copy(photo, folder / f"{first + i}.jpg")

    def check() -> None:
        with ImageClient(place.address, version=place.base, timeout_s=20) as client:
            assert (client.get([first + i for i in range(5)]).values == place.known[:5]).all()

    arguments = ["imgserver", "add", *sorted(folder.iterdir()), "--server", place.address]
    return Work(arguments, check, partial(shutil.rmtree, folder), below=SOCKETS)


def indexing(place: Place, n: int) -> Work:
    def check() -> None:
        opened = SimilarityFiles(place.store).open()
        assert opened is not None
        assert opened[0].version == place.base
        assert len(list((place.store / "similarity").iterdir())) == 3, "nothing of other builds"

    return Work(["imgserver", "index", "--store", place.store], check)


def backing_up(place: Place, n: int) -> Work:
    to = place.root / f"backup-{n}"

    def check() -> None:
        assert (to / "backup.json").exists()
        assert not to.with_name(to.name + ".part").exists()

    def half() -> None:
        assert not to.exists() or (to / "backup.json").exists()

    arguments = ["imgserver", "backup", "--store", place.store, "--to", to]
    return Work(arguments, check, partial(shutil.rmtree, to), half=half, ended="complete backup")


def exporting(place: Place, n: int) -> Work:
    out = place.root / "exported" / "vectors.npy"

    def whole() -> bool:
        return out.with_suffix(".json").exists()

    def check() -> None:
        assert whole()
        assert np.load(out.with_suffix(".ids.npy"))[: len(IDS)].tolist() == IDS
        assert (np.load(out)[: len(IDS)] == place.known).all()

    def half() -> None:
        if whole():
            check()

    return Work(["imgserver", "export", "--out", out, "--store", place.store], check, half=half)


WORKS: dict[str, Callable[[Place, int], Work]] = {
    "import": importing,
    "activate": activating,
    "delete": deleting,
    "merge": merging,
    "compress": compressing,
    "restore": restoring,
    "reshard": writing_moved,
    "reshard --drop": dropping_moved,
    "semantic-ids": semantic,
    "add": adding,
    "index": indexing,
    "backup": backing_up,
    "export": exporting,
}


@pytest.fixture(scope="module")
def breaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breaker]:
    made = Breaker(tmp_path_factory.mktemp("breaker"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("place")
    store = copy_store(graph_cache, root / "store")
    copy_store(graph_cache, root / "source")
    ids = graph_cache.parent / "ids.txt"
    run_command(
        "imgserver", "precompute", "--part=1/1", f"--out={root / 'embedded'}", f"--ids={ids}", f"--catalogue={photos}"
    )
    daemon = DaemonProcess(store, photos)
    with ImageClient(daemon.address) as client:
        found = client.get(IDS)
    yield Place(root, store, photos, daemon.address, found.version, found.values)
    daemon.stop()


def left_behind(root: Path) -> list[Path]:
    """Files of commands that did not come to their end."""
    return [path for path in root.rglob("*") if path.name.endswith((UNFINISHED, ".part"))]


def done(ended: Ended, work: Work) -> None:
    assert ended.code == 0 or (ended.code == 2 and work.ended in ended.said), ended.said
    work.check()


def break_again_and_again(breaker: Breaker, place: Place, command: str, how: int, times: int) -> None:
    """Break a command at so many of its steps; each time the next run must end as an undisturbed one."""
    make = WORKS[command]
    work = make(place, 0)
    below = work.below or place.root
    whole = breaker.run(*work.arguments, below=below)
    done(whole, work)
    work.clean()
    broken = 0
    for n, step in enumerate(spread(whole.steps, times), start=1):
        work = make(place, n)
        ended = breaker.run(*work.arguments, how=how, step=step, below=below)
        if how == KILL:
            broken += ended.code == -9
        elif ended.code:
            broken += 1
            assert "Traceback" not in ended.said, ended.said
            assert "No space left" in ended.said or "Is the disk full?" in ended.said, ended.said
            assert not left_behind(place.root)
        work.half()
        place.check()
        if not ended.code:  # a full disk, and the rest took no room
            work.check()
            work.clean()
            continue
        done(breaker.run(*work.arguments), work)
        assert not left_behind(place.root)
        place.check(doctor=False)
        work.clean()
    place.check()
    with place.opened() as store:
        assert set((place.store / "rows").iterdir()) == {
            row_folder(place.store, space) for space in store.index.spaces()
        }
    print(f"\n{command}: {whole.steps} steps, broken {broken} times")
    assert broken


@pytest.mark.parametrize("command", ["import", "delete"])
def test_a_few_killed_commands(breaker: Breaker, place: Place, command: str) -> None:
    break_again_and_again(breaker, place, command, KILL, 2)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", WORKS)
def test_killed_commands(breaker: Breaker, place: Place, command: str, pytestconfig: pytest.Config) -> None:
    break_again_and_again(breaker, place, command, KILL, max(2, pytestconfig.getoption("--kills") // 9))


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", [command for command in WORKS if command != "add"])
def test_commands_on_a_disk_that_becomes_full(
    breaker: Breaker, place: Place, command: str, pytestconfig: pytest.Config
) -> None:
    break_again_and_again(breaker, place, command, FULL, max(2, pytestconfig.getoption("--kills") // 9))


def replace_photos(folder: Path, n: int) -> tuple[Vectors, Vectors]:
    """Give every image of a store's active version another content and vector; return the former and the new ones."""
    with closing(Store(folder, create=False)) as store:
        space = held(store, "")
        ids, entries, _ = store.index.load(space.name)
        before = store.read(space, entries)
        sources = sources_in(entries)
        sources["content"] += 1
        store.put(Rows(space, ids, entries["status"], sources, before + np.float16(n + 1)))
        return before, rows_of(store, "")[1]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_publishing(breaker: Breaker, place: Place, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Into Redis, beside a server of it. Who is killed after a replaced vector was sent has told that it changed."""
    node = RedisNode(tmp_path / "redis")
    url, own = f"redis://127.0.0.1:{node.port}", tmp_path / "own"
    store = copy_store(place.root / "source", tmp_path / "store")
    arguments = ["imgserver", "publish", "--store", store, "--to", url]
    assert breaker.run(*arguments).code == 0
    daemon = DaemonProcess(url, None, f"--folder={own}")  # type: ignore[arg-type]

    def published() -> tuple[int, Vectors]:
        with closing(RedisStore(url, own)) as cluster:
            space = cluster.index.space(place.base)
            assert space is not None
            return cluster.index.generation, cluster.table(space).get(np.arange(100))[0]

    try:
        replace_photos(store, 0)
        whole = breaker.run(*arguments, below=SOCKETS)
        killed = 0
        for n, step in enumerate(spread(whole.steps, max(2, pytestconfig.getoption("--kills") // 9))):
            before, now = replace_photos(store, n)
            generation, values = published()
            assert (values == before).all()
            killed += breaker.run(*arguments, how=KILL, step=step, below=SOCKETS).code == -9
            half_generation, values = published()
            changed = (values != before).any(axis=1)
            assert (values[changed] == now[changed]).all()
            assert not changed.any() or half_generation > generation
            assert (again := breaker.run(*arguments)).code == 0, again.said
            last, values = published()
            assert (values == now).all()
            assert last > generation
            with ImageClient(daemon.address, timeout_s=20) as client:
                assert (client.get(IDS).values == now).all()
        print(f"\npublish: {whole.steps} steps, broken {killed} times")
        assert killed
    finally:
        os.kill(daemon.pid, signal.SIGTERM)
        node.kill()
