"""Training through the wire is training in one process, whatever happens to servers and workers on the way.

Two servers or two workers add in another order than one process does, which is a difference of 1e-8 in each step; what
``learning_worker.py`` trains keeps it small.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import PHOTOS, ROOT, DaemonProcess, copy_store, free_addresses, ownership, run_command, shared_out
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_samples import make_samples
from safetensors.torch import load_file
from torch import Tensor, nn

from crossmedia.errors import (
    BadInput,
    CrossMediaError,
    DeadlineExceeded,
    InvalidRequest,
    NoStore,
    ServerUnavailable,
    TooManyMissingImages,
)
from crossmedia.imgserver.client import HeadServers, ImageClient, LocalTransport, MockTransport
from crossmedia.imgserver.head import Head, HeadSpec
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.trainer.evaluate import evaluate
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.open_images import load_head
from crossmedia.trainer.runs.checkpoint import HEAD, STATE

WORKER = Path(__file__).parent / "learning_worker.py"
SPEC = HeadSpec("learned", (1280, 32, 8))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 0 to 99 are stored; 100 to 104 are in nobody's catalogue, and some items have none."""
    return make_samples(tmp_path_factory.mktemp("learn"), 115, 4000, {i: i for i in range(105)})


def start(store: Path, stack: ExitStack, *options: str) -> DaemonProcess:
    daemon = DaemonProcess(store, None, "--threads=1", *options)
    stack.callback(daemon.stop)
    return daemon


def worker(samples: Path, store: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    command = [sys.executable, str(WORKER), f"--samples={samples}", f"--store={store}", f"--out={out}", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def finished(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=120)
    return process.returncode


def difference(a: Path, b: Path) -> float:
    one, other = load_file(a / "0.safetensors"), load_file(b / "0.safetensors")
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def reference(samples: Path, graph_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 steps in one process, by plain autograd."""
    out = tmp_path_factory.mktemp("reference")
    assert finished(worker(samples, graph_cache, out)) == 0
    return out


@pytest.mark.parametrize(
    ("servers", "workers"),
    [(1, 1), *(pytest.param(*both, marks=pytest.mark.slow) for both in [(2, 1), (1, 2), (2, 2)])],
)
def test_through_servers_100_steps_are_those_of_one_process(
    samples: Path, graph_cache: Path, reference: Path, tmp_path: Path, servers: int, workers: int
) -> None:
    with ExitStack() as stack:
        daemons = [start(copy_store(graph_cache, tmp_path / f"store-{n}"), stack) for n in range(servers)]
        addresses = ",".join(daemon.address for daemon in daemons)
        options = [f"--servers={addresses}", f"--world={workers}", f"--meeting={tmp_path / 'meeting'}"]
        running = [
            worker(samples, graph_cache, tmp_path / "out", *options, f"--rank={rank}") for rank in range(workers)
        ]
        assert [finished(process) for process in running] == [0] * workers
    assert difference(tmp_path / "out", reference) <= 1e-5


def test_with_posters_too(test_data: Path, tmp_path: Path) -> None:
    posters = tmp_path / "posters"
    posters.mkdir()
    archive = test_data / "movielens_posters" / "posters_128x192_q80.tar"
    names = subprocess.run(["tar", "-tf", archive], capture_output=True, text=True, check=True).stdout.split()[:600]
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path, *names], check=True)
    for number, name in enumerate(names):  # from 0 on, as the worker takes them
        (tmp_path / name).rename(posters / f"{number}.jpg")
    store = tmp_path / "store"
    run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={posters}", "--dim=16")
    samples = make_samples(tmp_path, len(names) + 5, 6000, {i: i for i in range(len(names))})
    assert finished(worker(samples, store, tmp_path / "plain", "--rows=512")) == 0
    with ExitStack() as stack:
        addresses = [start(copy_store(store, tmp_path / f"store-{n}"), stack).address for n in range(2)]
        process = worker(samples, store, tmp_path / "wire", "--rows=512", f"--servers={','.join(addresses)}")
        assert finished(process) == 0
    assert difference(tmp_path / "wire", tmp_path / "plain") <= 1e-5


@pytest.mark.slow
def test_a_server_that_is_killed_twice_changes_nothing(samples: Path, graph_cache: Path, tmp_path: Path) -> None:
    assert finished(worker(samples, graph_cache, tmp_path / "calm", "--steps=400")) == 0
    store = copy_store(graph_cache, tmp_path / "store")
    with ExitStack() as stack:
        daemon = start(store, stack)
        port = daemon.address.rpartition(":")[2]
        killed, longest, before = 0, 0.0, time.monotonic()
        with worker(samples, graph_cache, tmp_path / "killed", "--steps=400", f"--servers={daemon.address}") as process:
            assert process.stdout is not None
            for line in process.stdout:
                longest, before = max(longest, time.monotonic() - before), time.monotonic()
                if line.strip() in ("step 100", "step 250"):
                    os.kill(daemon.pid, signal.SIGKILL)
                    killed += 1
                    time.sleep(0.3)
                    daemon = DaemonProcess(store, None, "--threads=1", f"--port={port}")
        assert process.returncode == 0
        assert killed == 2
        assert longest < 30  # the deadline of a call
    assert difference(tmp_path / "killed", tmp_path / "calm") <= 1e-5


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_that_dies_between_forward_and_backward_leaves_nothing_behind(
    samples: Path, graph_cache: Path, reference: Path, tmp_path: Path, workers: int
) -> None:
    """The servers hold nothing of it; the other worker of its group ends too, with an error, and both start again."""
    with ExitStack() as stack:
        daemon = start(copy_store(graph_cache, tmp_path / "store"), stack)

        def group(name: str, die_between: int = -1) -> list[int]:
            options = [f"--servers={daemon.address}", f"--world={workers}", f"--meeting={tmp_path / name}.meeting"]
            ranks = [[f"--rank={rank}", *options] for rank in range(workers)]
            ranks[-1].append(f"--die-between={die_between}")
            running = [worker(samples, graph_cache, tmp_path / name, *rank) for rank in ranks]
            return [finished(process) for process in running]

        codes = group("dead", die_between=20)
        assert codes[-1] == 9
        assert 0 not in codes
        assert group("again") == [0] * workers
    assert difference(tmp_path / "again", reference) <= 1e-5


@pytest.fixture(scope="module")
def service(graph_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageService]:
    made = ImageService(ServiceConfig(copy_store(graph_cache, tmp_path_factory.mktemp("local") / "store")))
    yield made
    made.close()


def head_of(seed: int) -> Head:
    torch.manual_seed(seed)
    return Head(SPEC)


def both(service: ImageService, seed: int = 0, shards: int = 1) -> tuple[ImageHead, ImageHead]:
    """Local and remote, with the same weights."""
    local = ImageClient(LocalTransport(service))
    backbone = local.info().backbone
    servers = HeadServers([LocalTransport(service) for _ in range(shards)], "run", timeout_s=10)
    return ImageHead(local, head_of(seed), backbone), ImageHead(servers, head_of(seed), backbone)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.integers(-1, 120)), max_size=40), st.integers(1, 3), st.integers(0, 3))
def test_any_batch_gives_the_same_vectors_and_gradients(
    service: ImageService, numbers: list[int], shards: int, seed: int
) -> None:
    local, remote = both(service, seed, shards)
    ids = np.array(numbers, dtype=np.int64)
    factors = torch.randn(len(ids), 8)
    found = []
    for images in (local, remote):
        vectors = images(ids)
        assert vectors.values.shape == (len(ids), 8)
        (vectors.values * factors).sum().backward()
        assert images.head is not None
        found.append([vectors.values.detach(), vectors.ok, *(weight.grad for weight in images.head.parameters())])
    assert found[0][1].tolist() == [0 <= number < 100 for number in numbers]
    assert not found[0][0][~found[0][1]].any()
    for one, other in zip(*found, strict=True):
        if one is None or other is None:  # nothing at all was asked for
            assert not any(grad is not None and grad.any() for grad in (one, other))
        else:
            assert torch.allclose(one.float(), other.float(), atol=1e-5)


def test_ids_may_be_a_tensor(service: ImageService) -> None:
    local, remote = both(service)
    ids = torch.tensor([3, 3, -1, 200])
    assert torch.allclose(remote(ids).values, local(ids).values, atol=1e-6)


class Net(nn.Module):
    """A loss over an image head, as small as one can be."""

    def __init__(self, images: ImageHead):
        super().__init__()
        torch.manual_seed(1)
        self.images, self.top = images, nn.Linear(8, 1)

    def forward(self, ids: np.ndarray[Any, Any]) -> Tensor:
        loss: Tensor = self.top(self.images(ids).values).square().mean()
        return loss


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("autocast", [False, True])
def test_any_optimizer_with_clipping_with_autocast(service: ImageService, optimizer: str, autocast: bool) -> None:
    losses = []
    for images in both(service):
        net = Net(images)
        made = OPTIMIZERS[optimizer](net.parameters())
        of_steps = []
        for _ in range(10):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = net(np.arange(20))
            made.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            made.step()
            of_steps.append(loss.item())
        losses.append(of_steps)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_a_gradient_that_is_not_a_number_names_its_image(service: ImageService) -> None:
    _, remote = both(service)
    vectors = remote(np.array([4, 17, 23]))
    factors = torch.ones(3, 8)
    factors[1, 2] = torch.nan
    with pytest.raises(InvalidRequest, match="image 17 is nan"):
        (vectors.values * factors).sum().backward()


def test_under_fp16_the_gradient_scaler_sees_it(service: ImageService) -> None:
    _, remote = both(service)
    assert remote.head is not None
    with torch.autocast("cpu", dtype=torch.float16):
        vectors = remote(np.array([4, 17]))
    (vectors.values * torch.inf).sum().backward()
    assert all(weight.grad is not None and weight.grad.isnan().all() for weight in remote.head.parameters())


def test_nothing_waits_longer_than_its_deadline(graph_cache: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        daemon = start(copy_store(graph_cache, tmp_path / "store"), stack)
        servers = HeadServers([daemon.address], "run", timeout_s=2.0)
        images = ImageHead(servers, head_of(0), servers.backbone())
        vectors = images(np.array([1, 2]))
        os.kill(daemon.pid, signal.SIGKILL)
        loss = vectors.values.sum()
        for call in (loss.backward, partial(images, np.array([1, 2]))):
            started = time.monotonic()
            with pytest.raises((ServerUnavailable, DeadlineExceeded)):
                call()
            assert time.monotonic() - started < 4


def test_staleness_is_bounded_and_counted(service: ImageService) -> None:
    _, images = both(service)
    images.max_staleness = 2
    images.train()
    assert images.head is not None
    optimizer = torch.optim.SGD(images.parameters(), lr=0.1)
    ids = np.arange(10)
    assert images.fetch(ids) is None  # nobody has put a head yet
    ahead = []
    assert images.depth == 1
    for step in range(6):
        ahead.append(images.fetch(ids))  # for the next batch, as ahead does
        loss = images(ids, ahead[step - 1] if step else None).values.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert images.staleness == [0, 0, 2, 2, 2, 2]
    images(ids, ahead[-2])  # too old by now: asked for again
    assert images.staleness[-1] == 0
    images.eval()
    assert images.fetch(ids) is None


@pytest.fixture
def config(samples: Path, tmp_path: Path) -> FitConfig:
    return FitConfig(
        str(samples),
        str(tmp_path / "run"),
        head="learn",
        head_widths=(64, 12),
        epochs=2,
        patience=9,
        batch_size=256,
        width=4,
        max_missing=0.2,
        learning_rate=3e-3,
    )


@pytest.mark.parametrize("servers", [1, 2])
def test_fit_learns_a_head_and_its_version_evaluates_the_same(
    config: FitConfig, graph_cache: Path, photos: Path, tmp_path: Path, servers: int
) -> None:
    """From training to serving, by the commands a user types; with two servers each has its part of the images."""
    names = free_addresses(servers)
    parts = servers > 1
    stores = shared_out(graph_cache, tmp_path / "shared", names) if parts else [copy_store(graph_cache, tmp_path / "s")]
    with ExitStack() as stack:
        for store, name in zip(stores, names, strict=True):
            port = f"--port={name.rpartition(':')[2]}"
            start(store, stack, port, f"--catalogue={photos}", *(ownership(names, name) if parts else ()))
        server = ",".join(reversed(names))
        options = [f"--samples={config.samples}", f"--server={server}", f"--out={config.out}", "--head=learn"]
        options += ["--epochs=2", "--batch-size=256", "--width=4", "--max-missing=0.2", "--head-widths=64,12", "--json"]
        result = json.loads(run_command("trainer", "fit", *options).stdout)
        version = result["vector_version"]
        assert "+learned@" in version
        assert result["train"]["head_parameters"] == 1281 * 64 + 65 * 12 + 1
        # The servers still have the head that the run put; one that never had it refuses.
        early = json.loads(run_command("trainer", "evaluate", config.out, f"--server={server}", "--json").stdout)
        other = start(copy_store(graph_cache, tmp_path / "other"), stack)
        refused = run_command("trainer", "evaluate", config.out, f"--server={other.address}", check=False)
        assert refused.returncode == 4
        assert version in refused.stderr
        page = tmp_path / "report.html"
        run_command("trainer", "report", config.out, f"--server={server}", f"--out={page}")
        assert page.read_text().count("before, by feature") == page.read_text().count(">learned<") == 6
        for store in stores:
            run_command("imgserver", "precompute", f"--store={store}", f"--head={config.out}/{HEAD}")
            run_command("imgserver", "versions", f"--store={store}", f"--activate={version}")
        with ImageClient(server) as client:
            for _ in range(50):
                if {info.version for info in client.infos()} == {version}:
                    break
                time.sleep(0.1)
        found = json.loads(run_command("trainer", "evaluate", config.out, f"--server={server}", "--json").stdout)
        if parts:
            frozen = [*options[:2], f"--out={config.out}-frozen", "--epochs=1", "--width=4", "--max-missing=0.2"]
            again = json.loads(run_command("trainer", "fit", *frozen, "--json").stdout)
            assert again["vector_version"] == version
    for evaluated in (early, found):
        assert evaluated["all"]["auc"] == pytest.approx(result["test"]["all"]["auc"], abs=1e-4)


def test_local_and_remote_end_with_the_same_numbers(config: FitConfig, service: ImageService, store: Path) -> None:
    remote = fit(config, LocalTransport(_Unclosed(service)))
    local = fit(replace(config, store=str(store), out=config.out + "-local"))
    assert local["curve"] == remote["curve"]
    heads = [load_head(out) for out in (config.out, config.out + "-local")]
    assert heads[0] is not None
    assert heads[1] is not None
    assert heads[0].digest() == heads[1].digest()


class _Unclosed:
    """A service that other tests go on using."""

    def __init__(self, service: ImageService):
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return (lambda: None) if name == "close" else getattr(self._service, name)


def test_a_run_that_was_killed_between_forward_and_backward_goes_on(
    config: FitConfig, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = fit(replace(config, store=str(store), out=config.out + "-calm"))
    backward: Any = Tensor.backward
    calls = 0

    def dies(self: Tensor, *rest: Any, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 16:  # in the second epoch
            raise KeyboardInterrupt
        backward(self, *rest, **more)

    monkeypatch.setattr(Tensor, "backward", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(replace(config, store=str(store)))
    monkeypatch.undo()
    again = fit(replace(config, store=str(store)))
    assert again["curve"] == calm["curve"]
    assert again["vector_version"] == calm["vector_version"]


def test_a_fit_through_a_server_that_was_killed_goes_on(config: FitConfig, graph_cache: Path, tmp_path: Path) -> None:
    """Killed by the kernel in its second epoch, while its head is on the server."""
    with ExitStack() as stack:
        daemon = start(copy_store(graph_cache, tmp_path / "store"), stack)
        options = [f"--samples={config.samples}", f"--server={daemon.address}", "--head=learn", "--head-widths=64,12"]
        options += ["--epochs=3", "--patience=9", "--batch-size=64", "--width=4", "--max-missing=0.2", "--json"]
        calm = json.loads(run_command("trainer", "fit", *options, f"--out={tmp_path / 'calm'}").stdout)
        command = [sys.executable, "-m", "crossmedia.trainer", "fit", *options, f"--out={config.out}"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not (Path(config.out) / STATE).exists():
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        again = json.loads(run_command("trainer", "fit", *options, f"--out={config.out}").stdout)
    assert again["curve"] == calm["curve"]
    assert again["test"] == calm["test"]
    assert again["vector_version"] == calm["vector_version"]


def test_tomorrow_starts_from_todays_head(config: FitConfig, store: Path) -> None:
    fit(replace(config, store=str(store), epochs=1))
    trained = load_head(config.out)
    assert trained is not None
    tomorrow = replace(config, store=str(store), warm_start=config.out, out=config.out + "-2", epochs=1)
    fit(replace(tomorrow, learning_rate=0.0, head_learning_rate=1e-30))
    again = load_head(tomorrow.out)
    assert again is not None
    assert again.digest() == trained.digest()
    fit(replace(config, store=str(store), head="frozen", server="", out=config.out + "-f", images=False, epochs=1))
    with pytest.raises(BadInput, match="no head to start from"):
        fit(replace(tomorrow, warm_start=config.out + "-f"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "thaw"}, "must be frozen, learn or SPACE=learn"),
        ({"images": False}, "images off"),
        ({"model": "gbdt_lr"}, "no gradient"),
        ({"head_widths": (64, 0)}, "above 0"),
        ({"head_activation": "tanh"}, "head_activation must be one of 'prelu', 'relu'"),
        ({"head_start": "zeros"}, "head_start must be one of 'pca', 'random'"),
        ({"head_widths": (8, 12)}, "narrower"),
    ],
)
def test_settings_of_a_head_that_make_no_sense(
    config: FitConfig, store: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        fit(replace(config, store=str(store), **change))


def test_a_run_on_stored_vectors_leaves_no_head_of_an_earlier_one(config: FitConfig, store: Path) -> None:
    """Its model would be scored by the vectors of that head."""
    fit(replace(config, store=str(store), epochs=1))
    assert load_head(config.out) is not None
    fit(replace(config, store=str(store), head="frozen", epochs=1, overwrite=True))
    assert load_head(config.out) is None


def test_a_run_that_was_killed_after_its_last_epoch_only_measures(
    config: FitConfig, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, max_staleness=2)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crossmedia.trainer.fit.outcome", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(config, LocalTransport(_Unclosed(service)))
    monkeypatch.undo()
    resumed = fit(config, LocalTransport(_Unclosed(service)))
    assert resumed["train"]["staleness"] == 0.0, "no batch was trained"


def test_stored_vectors_need_no_server_either(config: FitConfig, store: Path) -> None:
    frozen = fit(replace(config, head="frozen", store=str(store), server=FitConfig.server, epochs=1))
    for place in ("", str(store)):  # where the run had them, and where they are said to be
        assert evaluate(config.out, store=place)["all"]["auc"] == frozen["test"]["all"]["auc"]
    with pytest.raises(NoStore):
        evaluate(config.out, store=f"{store}x")
    assert frozen["vector_version"].endswith("/16")
    assert frozen["train"]["head_parameters"] == 0


def test_who_trained_from_a_store_evaluates_scores_and_reports_from_it(
    config: FitConfig, store: Path, tmp_path: Path
) -> None:
    of_store = replace(config, head="frozen", store=str(store), server=FitConfig.server, epochs=1)
    with pytest.raises(BadInput, match=f"The server nobody:1 and the store {store} are both given"):
        fit(replace(of_store, server="nobody:1"))
    trained = fit(of_store)
    run, stored = config.out, (f"--store={store}",)
    both = run_command("trainer", "evaluate", run, *stored, "--server=nobody:1", check=False)
    assert (both.returncode, "--server nobody:1 and --store" in both.stderr) == (2, True)
    evaluated = json.loads(run_command("trainer", "evaluate", run, *stored, "--json").stdout)
    assert evaluated["all"]["auc"] == pytest.approx(trained["test"]["all"]["auc"], abs=1e-6)
    out = tmp_path / "scores.parquet"
    run_command("trainer", "score", run, f"--samples={config.samples}", *stored, f"--out={out}")
    scores = pq.read_table(out)["probability"]
    assert np.allclose(scores, pq.read_table(Path(run) / "predictions.parquet")["probability"], atol=1e-5)
    page = tmp_path / "report.html"
    lacking = run_command("trainer", "report", run, *stored, f"--out={page}", check=False)
    assert lacking.returncode == 2
    assert "give --catalogue, too" in lacking.stderr
    # Without --store the vectors are where the run had them, in a store that has no photos.
    run_command("trainer", "report", run, f"--out={page}")
    assert "Not drawn: where the vectors are there are no photos." in page.read_text()
    assert "no image" not in page.read_text()
    run_command("trainer", "report", run, *stored, f"--catalogue={PHOTOS}", f"--out={page}")
    assert "Not drawn" not in page.read_text()
    assert page.read_text().count("data:image/jpeg") > 10
    typo = run_command("trainer", "report", run, f"--store={store}x", "--catalogue=p", f"--out={page}", check=False)
    assert typo.returncode == 2
    assert f"Did you mean '{store}'?" in typo.stderr


def test_a_run_on_compressed_vectors_records_their_version(config: FitConfig, store: Path) -> None:
    run_command("imgserver", "compress", "--bytes=4", f"--store={store}")
    (name,) = [v["name"] for v in versions_of(store) if "#pq4@" in v["name"]]
    run_command("imgserver", "versions", f"--activate={name}", f"--store={store}")
    frozen = fit(replace(config, head="frozen", store=str(store), epochs=1))
    assert frozen["vector_version"] == name
    learned = fit(replace(config, store=str(store), out=config.out + "-learned", epochs=1))
    assert "#" not in learned["vector_version"]  # a head learns from the features, which are as they were


def versions_of(store: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run_command("imgserver", "versions", f"--store={store}", "--json").stdout)
    return found


def test_a_store_that_is_not_there_is_said_and_not_made(config: FitConfig, tmp_path: Path) -> None:
    with pytest.raises(NoStore, match="There is no store"):
        fit(replace(config, store=str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()


def test_widths_stand_in_a_list_in_the_configuration_file(
    config: FitConfig, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"samples": config.samples, "store": str(store), "out": config.out, "head": "learn", "epochs": 1}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    Path("crossmedia.toml").write_text(
        "\n".join(["[trainer.fit]", *lines, "head-widths = [32, 8]", "max-missing = 0.5"])
    )
    found = json.loads(run_command("trainer", "fit", "--json").stdout)
    assert found["vector_version"].endswith("/8")
    assert found["train"]["head_parameters"] == 1281 * 32 + 33 * 8 + 1


def test_widths_that_are_no_numbers_are_said(config: FitConfig) -> None:
    done = run_command("trainer", "fit", f"--samples={config.samples}", "--head-widths=64,x", check=False)
    assert done.returncode == 2
    assert "64,x" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_list_in_the_configuration_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crossmedia.toml").write_text('[trainer.fit]\nset = "light=lr"\n')
    done = run_command("trainer", "fit", check=False)
    assert done.returncode == 2
    assert """sets 'set' to 'light=lr'; it is a list: set = ["light=lr"].""" in done.stderr


def test_too_many_missing_images_stop_it(config: FitConfig, store: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossMediaError, match="max_missing"):
        fit(replace(config, store=str(store), max_missing=0.01))
    few = make_samples(tmp_path, 6, 200, {i: 10**6 + i for i in range(6)})
    with pytest.raises(TooManyMissingImages, match=r"Not one of the 6 vectors .*such as that of id 1000000"):
        fit(replace(config, samples=str(few), store=str(store)))


def test_a_server_of_imported_vectors_has_no_features(config: FitConfig) -> None:
    with pytest.raises(CrossMediaError, match="feature"):
        fit(config, MockTransport({1: np.zeros(8)}))


def test_a_head_of_ones_own_is_saved_as_the_page_says(store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The page's lines, run as they stand; precompute then serves the very vectors that the program had."""
    page = (ROOT / "docs" / "learning-head.md").read_text()
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "to_bytes" in text)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        daemon = start(store, stack)
        servers = stack.enter_context(HeadServers([daemon.address], run_id="mine"))
        images = ImageHead(servers, Head(HeadSpec("learned", (1280, 32, 8))), servers.backbone())
        ids = torch.arange(20)
        vectors = images(ids)
        vectors.values.square().sum().backward()
        torch.optim.SGD(images.parameters(), lr=0.01).step()
        exec(block, {"images": images})
        trained = images(ids).values.detach()
        run_command("imgserver", "precompute", f"--store={store}", f"--head={tmp_path / HEAD}")
        again = Head.from_bytes((tmp_path / HEAD).read_bytes())
        assert (again.backbone, again.digest()) == (servers.backbone(), images.head.digest() if images.head else "")
        with ImageClient(daemon.address) as client:
            client.version = images.version
            served = client.get(ids.numpy()).values.astype(np.float32)
    assert torch.allclose(torch.from_numpy(served), trained, atol=2e-2)
