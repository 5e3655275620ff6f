"""A catalogue embedded by many processes: shards into files, Ray's actors, a merge; killed, repeated, mixed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import PHOTOS, ownership, run_command
from hypothesis import given
from hypothesis import strategies as st

from crossmedia.errors import BadInput
from crossmedia.imgserver.cli import imgserver
from crossmedia.imgserver.commands import catalogue
from crossmedia.imgserver.head import Head, HeadSpec
from crossmedia.imgserver.offline import merge
from crossmedia.imgserver.offline.merge import latest_rows
from crossmedia.imgserver.offline.shard_files import FEATURES, VECTORS, ShardFiles, names_below
from crossmedia.imgserver.offline.shards import JobPart, apply_head_to_files
from crossmedia.imgserver.storage.records import SOURCE, Rows, Space
from crossmedia.imgserver.storage.store import Store

Vectors = dict[int, bytes]


def embed(*more: str, out: Path, catalogue: Path = PHOTOS, check: bool = True) -> dict[str, object]:
    """Run 'precompute' into files, and return what it reports."""
    done = run_command(
        *("imgserver", "precompute", f"--catalogue={catalogue}", f"--out={out}", "--json", *more), check=check
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def photo_of(image_id: int) -> Path:
    """The file of one of the photos that ship with the project."""
    return PHOTOS / f"{image_id:03d}.jpg"


def vectors(store: Path) -> tuple[str, Vectors]:
    """The active version, and its vectors by image id."""
    with closing(Store(store, create=False)) as opened:
        version = opened.index.active or ""
        space = opened.index.space(version)
        assert space is not None
        ids, entries, _ = opened.index.load(version)
        values = opened.read(space, entries)
        return version, {int(i): row.tobytes() for i, row in zip(ids, values, strict=True)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Vectors]:
    """What one process makes of the catalogue."""
    store = tmp_path_factory.mktemp("plain") / "store"
    run_command("imgserver", "precompute", f"--catalogue={PHOTOS}", f"--store={store}")
    return vectors(store)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue as files, by three processes at once."""
    out = tmp_path_factory.mktemp("shards") / "embedded"
    command = [sys.executable, "-m", "crossmedia.imgserver", "precompute", f"--catalogue={PHOTOS}", f"--out={out}"]
    workers = [subprocess.Popen([*command, f"--part={i}/3"], stderr=subprocess.DEVNULL) for i in (1, 2, 3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    return out


@given(of=st.integers(1, 1024), data=st.data())
def test_every_image_is_in_one_shard(of: int, data: st.DataObject) -> None:
    numbers = [JobPart(number, of).virtual for number in range(1, of + 1)]
    assert sorted(virtual for shard in numbers for virtual in shard) == list(range(1024))
    number = data.draw(st.integers(1, of))
    assert JobPart.parse(f"{number}/{of}") == JobPart(number, of)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/2000", "1", "a/b", "-1/3", "1/", "²/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="must be i/n"):
        JobPart.parse(text)


def test_shards_merged_are_what_one_process_makes(embedded: Path, plain: tuple[str, Vectors], tmp_path: Path) -> None:
    store = tmp_path / "store"
    report = json.loads(run_command("imgserver", "merge", str(embedded), f"--store={store}", "--json").stdout)
    assert (report["images"], report["added"], report["rejected"]) == (243, 243, 0)
    assert vectors(store) == plain
    again = json.loads(run_command("imgserver", "merge", str(embedded), f"--store={store}", "--json").stdout)
    assert (again["images"], again["added"], again["version"]) == (243, 0, plain[0])


def test_a_merge_of_many_commits_makes_the_same(
    embedded: Path, plain: tuple[str, Vectors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "COMMIT_ROWS", 7)
    store = tmp_path / "store"
    done = CliRunner().invoke(imgserver, ["merge", str(embedded), f"--store={store}", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["added"] == 243
    assert vectors(store) == plain


def test_files_are_parquet_that_others_read(embedded: Path) -> None:
    (name,) = names_below(embedded, FEATURES)
    table = pq.read_table(embedded / "features" / name)
    assert len(table) == 243
    assert str(table.schema.field("values").type) == "fixed_size_list<element: halffloat>[1280]"
    assert set(table.column_names) >= {"image_id", "status", "values", "shard"}


def test_a_shard_is_not_embedded_twice_and_a_changed_photo_is(tmp_path: Path) -> None:
    catalogue, out = tmp_path / "photos", tmp_path / "embedded"
    catalogue.mkdir()
    for image_id in range(12):
        shutil.copy2(photo_of(image_id), catalogue)
    (catalogue / "012.jpg").write_bytes(b"no photo")
    first = embed("--part=1/1", out=out, catalogue=catalogue)
    assert (first["found"], first["embedded"], first["skipped"]) == (13, 12, 0)
    assert list(first["rejected"]) == ["12"]  # type: ignore[call-overload]
    shutil.copy(photo_of(100), catalogue / photo_of(3).name)
    os.utime(catalogue / photo_of(3).name, (1, 1))
    second = embed("--part=1/1", out=out, catalogue=catalogue)
    assert (second["embedded"], second["skipped"], second["rejected"]) == (1, 12, {})
    merge = ("imgserver", "merge", str(out), f"--store={tmp_path / 'store'}", "--dim=4", "--json")
    counts = [json.loads(run_command(*merge).stdout) for _ in range(2)]
    assert [(report["images"], report["added"]) for report in counts] == [(13, 13), (13, 0)]
    with closing(Store(tmp_path / "store", create=False)) as store:
        (space,) = store.index.spaces("feature")
        entries, known = store.index.get(space.name, np.array([3, 5]))
        assert known.all()
        changed, same = store.read(space, entries)
    run_command("imgserver", "precompute", f"--catalogue={PHOTOS}", f"--store={tmp_path / 'all'}", "--dim=4")
    with closing(Store(tmp_path / "all", create=False)) as store:
        entries, _ = store.index.get(space.name, np.array([100, 5]))
        assert (np.stack([changed, same]) == store.read(space, entries)).all()
    assert "image_id,key,file,reason\n12,,,CORRUPT: " in (tmp_path / "store" / "rejects.csv").read_text()


def test_the_later_file_counts_though_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, space = ShardFiles(tmp_path, FEATURES, "net@1"), Space(0, "net@1", "feature", 2, "float16")
    for content, now in enumerate((10**18, 10**15, 10**17), start=1):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        source = np.array([(1, 1, content)], dtype=SOURCE)
        values = np.full((1, 2), content, np.float16)
        files.write(files.new_place(7), Rows(space, np.array([3]), np.array([1], np.uint8), source, values))
    assert files.known([7])["content"].tolist() == [3]
    (block,) = latest_rows(files, [7])
    assert block.values.tolist() == [[3, 3]]


def test_a_killed_shard_goes_on(plain: tuple[str, Vectors], tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    small = "from crossmedia.imgserver.offline import shards; shards.BLOCK_PHOTOS = 16"
    run = f"{small}; from crossmedia.imgserver.cli import imgserver; imgserver()"
    command = [sys.executable, "-c", run, "precompute", f"--catalogue={PHOTOS}", f"--out={out}", "--part=1/1"]
    kills = 0
    while True:
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(list(out.glob("features/*/*/*.parquet")))
        while worker.poll() is None and (kills == 3 or len(list(out.glob("features/*/*/*.parquet"))) < before + 20):
            time.sleep(0.01)
        if worker.poll() is not None:
            break
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        kills += 1
    assert worker.returncode == 0
    assert kills == 3
    run_command("imgserver", "merge", str(out), f"--store={tmp_path / 'store'}")
    assert vectors(tmp_path / "store") == plain


def test_vectors_of_a_head_beside_the_features(embedded: Path, plain: tuple[str, Vectors], tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    shutil.copytree(embedded, out)
    run_command("imgserver", "merge", str(out), f"--store={tmp_path / 'store'}")
    (head,) = (tmp_path / "store" / "heads").glob("*.safetensors")
    assert Head.from_bytes(head.read_bytes()).spec.dim == 64
    made = [embed(f"--part={i}/2", f"--head={head}", out=out)["vectors"] for i in (1, 2)]
    assert sum(int(str(count)) for count in made) == 243
    assert embed("--part=1/2", f"--head={head}", out=out)["vectors"] == 0
    with pytest.raises(BadInput, match=r"takes 8 numbers; features of .* have 1280"):
        apply_head_to_files(out, Head(HeadSpec("learned", (8, 4))), plain[0].partition("+")[0], JobPart())
    (version,) = names_below(out, VECTORS)
    assert version == plain[0]
    files = ShardFiles(out, VECTORS, version)
    found: dict[int, npt.NDArray[np.float16]] = {}
    for place in files.places():
        block = files.read(place)
        found |= dict(zip(block.ids.tolist(), block.values, strict=True))
    for image_id, row in plain[1].items():
        stored = np.frombuffer(row, dtype=np.float16)
        np.testing.assert_allclose(
            stored, found[image_id], rtol=2e-3, atol=1e-4
        )  # a sum rounds by the size of its batch


def test_a_damaged_file_is_named(embedded: Path, tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    shutil.copytree(embedded, out)
    file = next(out.glob("features/*/*/*.parquet"))
    file.write_bytes(file.read_bytes()[:50])
    done = run_command("imgserver", "merge", str(out), f"--store={tmp_path / 'store'}", check=False)
    assert done.returncode == 2
    assert file.name in done.stderr
    assert "Remove it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_merge_of_nothing_says_so(tmp_path: Path) -> None:
    done = run_command("imgserver", "merge", str(tmp_path), f"--store={tmp_path / 'store'}", check=False)
    assert done.returncode == 2
    assert "must hold files of embedded shards" in done.stderr


@pytest.fixture
def ray_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may be started on this machine; its workers are not nicer than this test."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.mark.usefixtures("ray_here")
def test_ray_and_shards_mixed_with_killed_actors(plain: tuple[str, Vectors], tmp_path: Path) -> None:
    out, store = tmp_path / "embedded", tmp_path / "store"
    embed("--part=2/3", out=out)
    command = [sys.executable, "-m", "crossmedia.imgserver", "precompute", f"--catalogue={PHOTOS}", f"--out={out}"]
    job = subprocess.Popen(
        [*command, f"--store={store}", "--engine=ray", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    killed = 0
    while job.poll() is None and not killed:
        for process in subprocess.run(["pgrep", "-f", "ray::.*Actor"], capture_output=True, text=True).stdout.split():
            os.kill(int(process), signal.SIGKILL)
            killed += 1
        time.sleep(0.05)
    told, errors = job.communicate(timeout=180)
    assert job.returncode == 0, errors.decode()
    assert killed
    report = json.loads(told)
    assert (report["found"], report["merged"]["images"]) == (243, 243)
    assert report["skipped"] >= 70
    assert vectors(store) == plain


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_node_that_is_lost_loses_nothing(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    photos, out = tmp_path / "photos", tmp_path / "embedded"
    photos.mkdir()
    for number, photo in enumerate([*sorted(PHOTOS.iterdir())] * 4):  # several blocks, so that both nodes have work
        (photos / f"{number}.jpg").symlink_to(photo)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        command = [sys.executable, "-m", "crossmedia.imgserver", "precompute", f"--catalogue={photos}", f"--out={out}"]
        job = subprocess.Popen(
            [*command, f"--photo-root={PHOTOS}", "--engine=ray", f"--ray-address={cluster.address}", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while job.poll() is None and not [*out.glob("features/*/*/*.parquet")]:
            time.sleep(0.05)
        assert job.poll() is None, job.communicate()
        cluster.remove_node(node, allow_graceful=False)
        told, errors = job.communicate(timeout=240)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    assert job.returncode == 0, errors.decode()
    assert json.loads(told)["found"] == 972
    (backbone,) = names_below(out, FEATURES)
    files = ShardFiles(out, FEATURES, backbone)
    ids = np.concatenate([files.read(place).ids for place in files.places()])
    assert set(ids.tolist()) == set(range(972))


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('no ray', name='ray')")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "crossmedia.imgserver",
            "precompute",
            f"--catalogue={PHOTOS}",
            "--engine=ray",
            f"--out={tmp_path}",
        ],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'pip install "crossmedia[ray]"' in done.stderr


def test_a_server_that_embeds_by_ray_takes_its_own_images_alone(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The files are there already; that Ray makes the same is tested above.
    monkeypatch.setattr(catalogue, "embed_files", lambda *_, **__: {"folder": str(embedded)})
    servers = ["a:7070", "b:7070"]
    common = ["precompute", f"--catalogue={PHOTOS}", f"--out={embedded}", "--engine=ray", "--json"]
    taken = []
    for me in servers:
        arguments = [*common, f"--store={tmp_path / me[0]}", *ownership(servers, me)]
        done = CliRunner().invoke(imgserver, arguments)
        assert done.exit_code == 0, done.output
        taken.append(set(vectors(tmp_path / me[0])[1]))
    assert not taken[0] & taken[1]
    assert taken[0] | taken[1] == set(range(243))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part=1/2", "--head={head}"], "Give --catalogue"),
        (["--engine=ray", "--head={head}"], "Give --catalogue"),
        (["--part=1/2", f"--catalogue={PHOTOS}", "--servers=a:1,b:1", "--me=a:1"], "give them to 'merge'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    head = tmp_path / "head.safetensors"
    head.write_bytes(Head(HeadSpec("learned", (1280, 4))).to_bytes())
    given_options = [option.format(head=head) for option in options]
    done = CliRunner().invoke(imgserver, ["precompute", f"--store={tmp_path / 'store'}", *given_options])
    assert done.exit_code == 2
    assert message in done.output
